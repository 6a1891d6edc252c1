//! `terroir demo`: a first instance, and how to reach it. Again: the same instance.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::account::read_environment;
use crate::admin_api::ServerStatus;
use crate::admin_client::AdminClient;
use crate::cli::DemoArgs;
use crate::ec2_client::{CallError, Ec2Client, text_of};
use crate::layout::Layout;

const NAME: &str = "first";
const GROUP: &str = "first-ssh";
const RUNNING_DEADLINE: Duration = Duration::from_secs(120);
const SSH_DEADLINE: Duration = Duration::from_secs(120);

pub async fn run(layout: &Layout, args: DemoArgs) -> Result<(), String> {
    let environment = read_environment(layout).await?;
    let status: ServerStatus =
        AdminClient::new(&layout.admin_socket()).get("/status").await.map_err(|error| error.to_string())?;
    let client = Ec2Client::new(environment);
    let instance = match find(&client).await.map_err(say)? {
        Some(instance) => instance,
        None => launch(layout, &client, &args).await?,
    };
    let address = wait_until_running(&client, &instance).await?;
    if status.hypervisor == "simulated" {
        println!("{instance} is running, simulated: there is nothing to log in to");
        return Ok(());
    }
    wait_for_ssh(&address).await?;
    let key = key_file(layout);
    if key.exists() {
        give_to_caller(&key).map_err(|error| format!("{}: {error}", key.display()))?;
    }
    println!("\n{instance} is running. Log in:\n");
    println!("  ssh -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@{address}\n", key.display());
    println!("Then try:\n");
    println!("  eval \"$({} env)\"", layout.command_line());
    println!(
        "  aws ec2 describe-instances --query 'Reservations[].Instances[].[InstanceId,State.Name,PublicIpAddress]'"
    );
    println!("  aws ec2 get-console-output --instance-id {instance} --latest --output text | tail");
    println!("  aws s3 mb s3://first-bucket && aws s3 cp README.md s3://first-bucket/");
    Ok(())
}

fn say(error: CallError) -> String {
    error.to_string()
}

fn key_file(layout: &Layout) -> PathBuf {
    layout.root().join("first-key.pem")
}

async fn find(client: &Ec2Client) -> Result<Option<String>, CallError> {
    let filters = [
        ("Filter.1.Name", "tag:Name"),
        ("Filter.1.Value.1", NAME),
        ("Filter.2.Name", "instance-state-name"),
        ("Filter.2.Value.1", "pending"),
        ("Filter.2.Value.2", "running"),
    ];
    let answer = client.call("DescribeInstances", &filters).await?;
    Ok(text_of(&answer, "instanceId").map(str::to_owned))
}

async fn launch(layout: &Layout, client: &Ec2Client, args: &DemoArgs) -> Result<String, String> {
    let images = [("Owner.1", "terroir"), ("Filter.1.Name", "name"), ("Filter.1.Value.1", "tiny")];
    let answer = client.call("DescribeImages", &images).await.map_err(say)?;
    let image = text_of(&answer, "imageId").ok_or("there is no image called tiny: run `terroir image build tiny`")?;
    let key_name = make_key(layout, client).await?;
    let group = make_group(client).await.map_err(say)?;
    let parameters = [
        ("ImageId", image),
        ("InstanceType", &args.instance_type),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("KeyName", &key_name),
        ("SecurityGroupId.1", &group),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "Name"),
        ("TagSpecification.1.Tag.1.Value", NAME),
    ];
    let answer = client.call("RunInstances", &parameters).await.map_err(say)?;
    text_of(&answer, "instanceId").map(str::to_owned).ok_or_else(|| "the answer names no instance".to_owned())
}

/// The key pair that goes with the key file; a new one if either of them is lost.
async fn make_key(layout: &Layout, client: &Ec2Client) -> Result<String, String> {
    let file = key_file(layout);
    let is_known = client.call("DescribeKeyPairs", &[("KeyName.1", NAME)]).await.is_ok();
    if is_known && file.exists() {
        return Ok(NAME.to_owned());
    }
    client.call("DeleteKeyPair", &[("KeyName", NAME)]).await.map_err(say)?;
    let answer = client.call("CreateKeyPair", &[("KeyName", NAME), ("KeyType", "ed25519")]).await.map_err(say)?;
    let material = text_of(&answer, "keyMaterial").ok_or("the answer holds no key")?;
    write_key(&file, &material.replace("&#xA;", "\n")).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(NAME.to_owned())
}

fn write_key(file: &Path, material: &str) -> std::io::Result<()> {
    if file.exists() {
        fs::remove_file(file)?;
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(material.trim().as_bytes())?;
    out.write_all(b"\n")?;
    out.sync_all()
}

/// To whoever called `sudo`: SSH reads a key only for its owner.
fn give_to_caller(file: &Path) -> std::io::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if let (Some(uid), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID")) {
        std::os::unix::fs::chown(file, Some(uid), Some(gid))?;
    }
    Ok(())
}

async fn make_group(client: &Ec2Client) -> Result<String, CallError> {
    let create = [("GroupName", GROUP), ("GroupDescription", "SSH to the first instance")];
    let group = match client.call("CreateSecurityGroup", &create).await {
        Ok(answer) => text_of(&answer, "groupId").unwrap_or_default().to_owned(),
        Err(error) if error.code == "InvalidGroup.Duplicate" => {
            let filter = [("Filter.1.Name", "group-name"), ("Filter.1.Value.1", GROUP)];
            let answer = client.call("DescribeSecurityGroups", &filter).await?;
            text_of(&answer, "groupId").unwrap_or_default().to_owned()
        }
        Err(error) => return Err(error),
    };
    let allow = [
        ("GroupId", group.as_str()),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
    ];
    match client.call("AuthorizeSecurityGroupIngress", &allow).await {
        Ok(_) => Ok(group),
        Err(error) if error.code == "InvalidPermission.Duplicate" => Ok(group),
        Err(error) => Err(error),
    }
}

/// The instance's public address.
async fn wait_until_running(client: &Ec2Client, instance: &str) -> Result<String, String> {
    let start = Instant::now();
    loop {
        let answer = client.call("DescribeInstances", &[("InstanceId.1", instance)]).await.map_err(say)?;
        let state = answer.find("<instanceState>").and_then(|at| text_of(&answer[at..], "name")).unwrap_or_default();
        match state {
            "running" => {
                return text_of(&answer, "ipAddress")
                    .map(str::to_owned)
                    .ok_or_else(|| format!("{instance} runs but has no public address"));
            }
            "pending" if start.elapsed() < RUNNING_DEADLINE => tokio::time::sleep(Duration::from_millis(200)).await,
            "pending" => return Err(format!("{instance} is still pending after {} s", RUNNING_DEADLINE.as_secs())),
            other => {
                let reason = answer.find("<stateReason>").and_then(|at| text_of(&answer[at..], "message"));
                return Err(format!("{instance} is {other}: {}", reason.unwrap_or("no reason given")));
            }
        }
    }
}

async fn wait_for_ssh(address: &str) -> Result<(), String> {
    let start = Instant::now();
    while start.elapsed() < SSH_DEADLINE {
        let attempt = async {
            let mut stream = TcpStream::connect((address, 22)).await?;
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).await?;
            Ok::<_, std::io::Error>(&banner == b"SSH-")
        };
        if matches!(tokio::time::timeout(Duration::from_secs(3), attempt).await, Ok(Ok(true))) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("nobody answers SSH at {address} after {} s: see the console output", SSH_DEADLINE.as_secs()))
}
