//! `terroir up` and `terroir down`.

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin_api::ServerStatus;
use crate::admin_client::AdminClient;
use crate::cli::{DownArgs, InitArgs, UpArgs};
use crate::layout::{Layout, describe};
use crate::settings::{HypervisorSetting, Settings};
use crate::supervisor::{AGENT, GUEST_SERVICES, SERVER, SUPERVISOR, Supervisor, SupervisorRecord};
use crate::{agent, doctor, join};

pub const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

pub async fn up(layout: Layout, args: UpArgs) -> Result<(), String> {
    if layout.membership_file().exists() {
        return join::up(&layout, args.detach).await;
    }
    let settings = Settings::read_with(&layout, &args.settings)?;
    if SupervisorRecord::read(&layout).supervisor_is_alive() {
        if Settings::read_unchecked(&layout)?.hosts_listen != settings.hosts_listen {
            return Err("this cloud is already running, and listens for hosts elsewhere or not at all: `terroir down \
                        --keep-instances` first to change that"
                .to_owned());
        }
        return already_running(&layout, &settings).await;
    }
    refuse_units(&layout).await?;
    prepare(&layout, &settings)?;
    if !SupervisorRecord::read(&layout).process(SERVER).is_some_and(|server| server.is_running()) {
        check_port(&settings)?;
    }
    settings.write(&layout)?;
    if !args.detach {
        return supervise(layout, &endpoint(&settings)).await;
    }
    let status = detach(&layout, wait_until_ready(&layout, READY_DEADLINE)).await?;
    println!("ready: {}", status.endpoint);
    Ok(())
}

/// Makes what a start needs, and starts nothing. Settings that the folder has are kept, but for those that were given.
pub fn init(layout: &Layout, args: &InitArgs) -> Result<(), String> {
    let settings = Settings::read_with(layout, &args.settings)?;
    prepare(layout, &settings)?;
    settings.write(layout)
}

fn prepare(layout: &Layout, settings: &Settings) -> Result<(), String> {
    check_privileges(settings)?;
    doctor::check_before_start(settings)?;
    layout.create().map_err(|error| error.to_string())?;
    check_reachable(layout.root())
}

/// What systemd keeps running is not ours to start or stop.
async fn refuse_units(layout: &Layout) -> Result<(), String> {
    match AdminClient::new(&layout.admin_socket()).get::<ServerStatus>("/status").await {
        Ok(status) if status.is_unit => Err(
            "systemd runs this cloud: `systemctl start terroir.target`, `systemctl stop terroir.target`; once it is \
                 stopped, `terroir down` shuts the instances down"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

async fn already_running(layout: &Layout, settings: &Settings) -> Result<(), String> {
    let status = wait_until_ready(layout, READY_DEADLINE).await?;
    let wanted = endpoint(settings);
    if status.endpoint != wanted {
        return Err(format!(
            "this cloud is already running on {}, not on {wanted}: `terroir down` first to move it",
            status.endpoint
        ));
    }
    println!("already running: {}", status.endpoint);
    Ok(())
}

pub fn endpoint(settings: &Settings) -> String {
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        // Of all addresses the one that this machine is sure to have.
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("{}://{address}", if settings.has_tls() { "https" } else { "http" })
}

pub fn check_privileges(settings: &Settings) -> Result<(), String> {
    if settings.hypervisor == HypervisorSetting::Qemu && !Uid::effective().is_root() {
        return Err("virtual machines need root for their networks: run `sudo terroir up`, or `terroir up \
                    --hypervisor simulated` to try the APIs without them"
            .to_owned());
    }
    Ok(())
}

/// The control plane runs as a user of its own and has to get to its folders.
pub fn check_reachable(root: &Path) -> Result<(), String> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    for folder in root.ancestors().skip(1) {
        let mode = folder.metadata().map_err(|error| describe(&error, "cannot look at", folder).to_string())?;
        if mode.permissions().mode() & 0o001 == 0 {
            return Err(format!(
                "other users may not pass through {}: choose a data folder elsewhere with --data-dir, or `chmod o+x` it",
                folder.display()
            ));
        }
    }
    Ok(())
}

fn check_port(settings: &Settings) -> Result<(), String> {
    std::net::TcpListener::bind(settings.listen).map(drop).map_err(|error| {
        format!("cannot listen on {}: {error}; choose another place with --listen 127.0.0.1:PORT", settings.listen)
    })
}

/// Starts the supervisor in the background and waits for what is to be ready.
pub async fn detach<T>(layout: &Layout, ready: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let log_path = layout.log_file(SUPERVISOR);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|error| describe(&error, "cannot open", &log_path).to_string())?;
    let start = || -> std::io::Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("--data-dir").arg(layout.root()).arg("up");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.current_dir("/");
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from));
        }
        command.spawn()
    };
    let mut child = start().map_err(|error| format!("cannot start the supervisor: {error}"))?;
    tokio::select! {
        ready = ready => ready,
        ended = child.wait() => {
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("the supervisor ended ({how}); see {}", log_path.display()))
        }
    }
}

async fn wait_until_ready(layout: &Layout, deadline: Duration) -> Result<ServerStatus, String> {
    let client = AdminClient::new(&layout.admin_socket());
    let start = Instant::now();
    loop {
        let last = match client.get::<ServerStatus>("/status").await {
            Ok(status) if status.ready => return Ok(status),
            Ok(status) => status.problems.join("; "),
            Err(error) => error.to_string(),
        };
        if let Some(complaint) = SupervisorRecord::read(layout).complaint(layout) {
            return Err(complaint);
        }
        if start.elapsed() > deadline {
            return Err(format!("not ready after {} s: {last}; see {}", deadline.as_secs(), layout.logs().display()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn supervise(layout: Layout, what: &str) -> Result<(), String> {
    let lock = lock(&layout)?;
    let (stop, stopped) = watch::channel(false);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // The receiver lives as long as the supervisor does.
        let _ = stop.send(true);
    });
    println!("starting {what} (data in {})", layout.root().display());
    Supervisor::new(layout).run(stopped).await;
    drop(lock);
    println!("stopped; instances keep running until `terroir down`");
    Ok(())
}

fn lock(layout: &Layout) -> Result<Flock<File>, String> {
    let path = layout.lock_file();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| describe(&error, "cannot open", &path).to_string())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| format!("another `terroir up` uses {} already", layout.root().display()))
}

pub async fn down(layout: Layout, args: DownArgs) -> Result<(), String> {
    if !layout.root().exists() {
        println!("nothing to stop: {} does not exist", layout.root().display());
        return Ok(());
    }
    let settings = Settings::read(&layout)?;
    check_privileges(&settings)?;
    refuse_units(&layout).await?;
    let record = SupervisorRecord::read(&layout);
    if let Some(supervisor) = record.supervisor {
        supervisor.stop(STOP_DEADLINE).await;
    }
    // Also what an earlier supervisor left behind when it was killed itself.
    for name in [AGENT, SERVER] {
        if let Some(process) = record.process(name).and_then(|process| process.process) {
            process.stop(STOP_DEADLINE).await;
        }
    }
    if args.keep_instances {
        println!("stopped; the instances keep running");
        return Ok(());
    }
    agent::tear_down(&layout, &settings).await?;
    if let Some(process) = SupervisorRecord::read(&layout).process(GUEST_SERVICES).and_then(|process| process.process) {
        process.stop(STOP_DEADLINE).await;
    }
    println!("stopped; everything is kept in {}", layout.root().display());
    Ok(())
}
