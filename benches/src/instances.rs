//! One real guest until it answers, beside QEMU alone, and many simulated ones.

use std::time::{Duration, Instant};

use crate::client::{Endpoint, load, quantile, text_of};
use crate::cloud::Cloud;
use crate::report::{Aim, Report};
use crate::{Effort, bare, say, ssh};

const TERMINATED_DEADLINE: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(1);
const RUNNING_DEADLINE: Duration = Duration::from_secs(120);
const LAUNCH_LIMIT: Duration = Duration::from_secs(90);
const BATCH: usize = 100;

pub async fn run_to_ssh(cloud: &Cloud, effort: &Effort, report: &mut Report) -> Result<(), String> {
    cloud.run(&["image", "build", "tiny"])?;
    let endpoint = cloud.endpoint()?;
    let image = image_called(&endpoint, "tiny").await?;
    let create = endpoint.ec2("CreateSecurityGroup", &[("GroupName", "ssh"), ("GroupDescription", "SSH")])?;
    let answer = endpoint.call(create).await?;
    let group = text_of(&answer, "groupId")?;
    let allow = [
        ("GroupId", group),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
    ];
    endpoint.call(endpoint.ec2("AuthorizeSecurityGroupIngress", &allow)?).await?;
    endpoint.call(endpoint.ec2("CreateKeyPair", &[("KeyName", "bench"), ("KeyType", "ed25519")])?).await?;
    let first = one_launch(&endpoint, &image, group).await?;
    terminate(cloud, &endpoint, &first.instance).await?;
    let (mut launched, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let launch = one_launch(&endpoint, &image, group).await?;
        launched.push(launch.took);
        bare.push(bare::start_to_banner(cloud, &launch.instance, &launch.address).await?);
        terminate(cloud, &endpoint, &launch.instance).await?;
    }
    let first = first.took.as_secs_f64();
    report.figure("RunInstances to SSH banner, the host's first", first, "s", Aim::None, "fetches the image first");
    let mut median = |what: &str, mut times: Vec<Duration>| {
        times.sort();
        let [least, median, most] = [0.0, 0.5, 1.0].map(|share| quantile(&times, share).as_secs_f64());
        let note = format!("median of {}, {least:.2} to {most:.2} s", times.len());
        report.figure(what, median, "s", Aim::None, &note);
        median
    };
    let launched = median("RunInstances to SSH banner, tiny, t3.nano", launched);
    let bare = median("bare QEMU to SSH banner, same command line", bare);
    let note = format!("{:.2} s more; alternating", launched - bare);
    report.figure("… RunInstances against bare QEMU", launched / bare, "times", Aim::AtMost(1.1), &note);
    Ok(())
}

struct Launch {
    instance: String,
    /// Its public one.
    address: String,
    took: Duration,
}

/// From sending RunInstances to the banner at the instance's public address.
async fn one_launch(endpoint: &Endpoint, image: &str, group: &str) -> Result<Launch, String> {
    let parameters = [
        ("ImageId", image),
        ("InstanceType", "t3.nano"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("KeyName", "bench"),
        ("SecurityGroupId.1", group),
    ];
    let start = Instant::now();
    let answer = endpoint.call(endpoint.ec2("RunInstances", &parameters)?).await?;
    let instance = text_of(&answer, "instanceId")?.to_owned();
    // Not before it runs: until the host has a route to it, its address would be looked for outside.
    let address = loop {
        let described = endpoint.call(endpoint.ec2("DescribeInstances", &[("InstanceId.1", &instance)])?).await?;
        if described.contains("<name>running</name>") {
            break text_of(&described, "ipAddress")?.to_owned();
        }
        if start.elapsed() > RUNNING_DEADLINE {
            return Err(format!("{instance} does not run after {} s", RUNNING_DEADLINE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let took = ssh::banner(&address, start).await?;
    Ok(Launch { instance, address, took })
}

/// Returns when nothing is left to be done for it, so that the next launch finds a host at rest.
async fn terminate(cloud: &Cloud, endpoint: &Endpoint, instance: &str) -> Result<(), String> {
    endpoint.call(endpoint.ec2("TerminateInstances", &[("InstanceId.1", instance)])?).await?;
    let start = Instant::now();
    while cloud.status()?["instances"].as_object().is_none_or(|states| states.keys().any(|it| it != "terminated")) {
        if start.elapsed() > TERMINATED_DEADLINE {
            return Err(format!("{instance} is not terminated after {} s", TERMINATED_DEADLINE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(REST).await;
    Ok(())
}

async fn image_called(endpoint: &Endpoint, name: &str) -> Result<String, String> {
    let filter = [("Filter.1.Name", "name"), ("Filter.1.Value.1", name)];
    let answer = endpoint.call(endpoint.ec2("DescribeImages", &filter)?).await?;
    text_of(&answer, "imageId").map(str::to_owned)
}

/// Starts `cloud`.
pub async fn many_simulated(cloud: &Cloud, effort: &Effort, report: &mut Report) -> Result<(), String> {
    cloud.up()?;
    let disk = cloud.folder().join("empty.raw");
    std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).map_err(say)?;
    cloud.run(&["image", "import", &disk.to_string_lossy(), "--name", "empty"])?;
    let endpoint = cloud.endpoint()?;
    let image = image_called(&endpoint, "empty").await?;
    let subnet = wide_subnet(&endpoint).await?;
    let bytes_before: u64 = cloud.records()?.iter().map(|kind| kind.2).sum();

    let singles = effort.instances / 5;
    let batches = (effort.instances - singles) / BATCH;
    let launch = |count: usize| {
        let (image, subnet) = (image.clone(), subnet.clone());
        move |endpoint: &Endpoint, _: usize| {
            let count = count.to_string();
            let parameters = [
                ("ImageId", image.as_str()),
                ("InstanceType", "t3.nano"),
                ("MinCount", &count),
                ("MaxCount", &count),
                ("SubnetId", &subnet),
            ];
            endpoint.ec2("RunInstances", &parameters)
        }
    };
    let batched = load(&endpoint, 1, batches, LAUNCH_LIMIT, launch(BATCH)).await?;
    let note =
        format!("{} calls of MaxCount={BATCH}, 1 connection, p50 {:.0} ms", batched.count(), batched.quantile_ms(0.5));
    let rate = batched.per_second() * BATCH as f64;
    report.figure("RunInstances, batches, simulated", rate, "instances/s", Aim::AtLeast(500.0), &note);
    let single = load(&endpoint, 8, singles, LAUNCH_LIMIT, launch(1)).await?;
    let note = format!("{} calls, 8 connections, p50 {:.0} ms", single.count(), single.quantile_ms(0.5));
    report.figure("RunInstances, one each, simulated", single.per_second(), "instances/s", Aim::AtLeast(500.0), &note);

    let instances = batched.count() * BATCH + single.count();
    let waited = until_running(cloud, instances).await?;
    report.figure("all of them running after the last call", waited.as_secs_f64(), "s", Aim::None, "");
    for page in ["1000", "100"] {
        let describe = move |endpoint: &Endpoint, _: usize| endpoint.ec2("DescribeInstances", &[("MaxResults", page)]);
        let pages = load(&endpoint, 1, 50, Duration::from_secs(20), describe).await?;
        let what = format!("DescribeInstances, first page of {page}");
        let note = format!("p50 of {}, p99 {:.1} ms, {instances} instances", pages.count(), pages.quantile_ms(0.99));
        report.figure(&what, pages.quantile_ms(0.5), "ms", Aim::AtMost(20.0), &note);
    }
    state_per_instance(cloud, instances, bytes_before, report)
}

/// Room for 65,000 interfaces and no public addresses; a default subnet has room for 4,091.
async fn wide_subnet(endpoint: &Endpoint) -> Result<String, String> {
    let answer = endpoint.call(endpoint.ec2("CreateVpc", &[("CidrBlock", "10.0.0.0/16")])?).await?;
    let vpc = text_of(&answer, "vpcId")?;
    let parameters = [("VpcId", vpc), ("CidrBlock", "10.0.0.0/16")];
    let answer = endpoint.call(endpoint.ec2("CreateSubnet", &parameters)?).await?;
    text_of(&answer, "subnetId").map(str::to_owned)
}

async fn until_running(cloud: &Cloud, instances: usize) -> Result<Duration, String> {
    let start = Instant::now();
    loop {
        let states = cloud.status()?["instances"].clone();
        if states["running"].as_u64() == Some(instances as u64) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > RUNNING_DEADLINE {
            return Err(format!("not all of {instances} run after {} s: {states}", RUNNING_DEADLINE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn state_per_instance(cloud: &Cloud, instances: usize, before: u64, report: &mut Report) -> Result<(), String> {
    let kinds = cloud.records()?;
    let after: u64 = kinds.iter().map(|kind| kind.2).sum();
    let each = |bytes: u64| bytes as f64 / instances as f64 / 1024.0;
    let mut largest = kinds;
    largest.sort_by_key(|kind| std::cmp::Reverse(kind.2));
    let note: Vec<String> =
        largest.iter().take(6).map(|(kind, count, bytes)| format!("{kind} {:.2} ({count})", each(*bytes))).collect();
    let what = "state per instance, keys and values";
    report.figure(what, each(after.saturating_sub(before)), "KiB", Aim::AtMost(3.0), &note.join(", "));
    let file = std::fs::metadata(cloud.data().join("state/terroir.db")).map_err(say)?.len();
    report.figure("… the store's file, its log of changes included", each(file), "KiB", Aim::None, "per instance");
    Ok(())
}
