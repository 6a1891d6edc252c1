//! `terroir host join`: a machine with nothing but this binary becomes a host of a region elsewhere.

use std::io::Read;
use std::time::{Duration, Instant};
use terroir_host_agent::membership::{LinkState, MembershipFile};
use terroir_pki::JoinToken;

use crate::agent::host_id;
use crate::cli::{HostSettingsArgs, JoinArgs, SettingsArgs};
use crate::layout::Layout;
use crate::settings::Settings;
use crate::supervisor::SupervisorRecord;
use crate::{doctor, up};

pub async fn join(layout: &Layout, args: &JoinArgs) -> Result<(), String> {
    let token: JoinToken = read(&args.token)?.parse().map_err(|error: terroir_pki::PkiError| error.to_string())?;
    if layout.state_file().exists() || layout.moved_state_file().exists() || layout.home_file().exists() {
        return Err(format!(
            "{} has a control plane of its own: choose another folder with --data-dir to be a host of another one",
            layout.root().display()
        ));
    }
    if SupervisorRecord::read(layout).supervisor_is_alive() {
        return Err("this host is running: `terroir down --keep-instances` first".to_owned());
    }
    let HostSettingsArgs { hypervisor, edge_pool } = args.settings.clone();
    let settings = SettingsArgs { hypervisor, edge_pool, ..SettingsArgs::default() };
    let settings = Settings::read_with(layout, &settings)?;
    up::check_privileges(&settings)?;
    doctor::check_before_start(&settings)?;
    layout.create_for_host().map_err(|error| error.to_string())?;
    up::check_reachable(layout.root())?;
    let host = host_id(layout)?;
    let file = MembershipFile::new(layout.membership_file());
    let member = terroir_host_agent::membership::join(&file, host, &token).await?;
    settings.write(layout)?;
    println!("{host} is a host of {} at {}", member.region, member.site);
    up(layout, args.detach).await
}

/// A token from the command line, or with `-` from standard input.
fn read(given: &str) -> Result<String, String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("cannot read the token: {error}"))?;
    Ok(text)
}

/// Runs what belongs to a host that has joined.
pub async fn up(layout: &Layout, detach: bool) -> Result<(), String> {
    let settings = Settings::read(layout)?;
    if SupervisorRecord::read(layout).supervisor_is_alive() {
        let link = connected(layout, up::READY_DEADLINE).await?;
        println!("already running: {} at {}", link.region, link.site);
        return Ok(());
    }
    up::check_privileges(&settings)?;
    doctor::check_before_start(&settings)?;
    layout.create_for_host().map_err(|error| error.to_string())?;
    match std::fs::remove_file(layout.link_file()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    if !detach {
        return up::supervise(layout.clone(), "a host").await;
    }
    let link = up::detach(layout, connected(layout, up::READY_DEADLINE)).await?;
    println!("ready: a host of {} at {}", link.region, link.site);
    Ok(())
}

/// What is known of the control plane; none before the agent's first call.
pub fn link(layout: &Layout) -> Option<LinkState> {
    serde_json::from_slice(&std::fs::read(layout.link_file()).ok()?).ok()
}

async fn connected(layout: &Layout, deadline: Duration) -> Result<LinkState, String> {
    let start = Instant::now();
    loop {
        let link = link(layout);
        if let Some(link) = link.as_ref().filter(|link| link.connected) {
            return Ok(link.clone());
        }
        if let Some(complaint) = SupervisorRecord::read(layout).complaint(layout) {
            return Err(complaint);
        }
        if start.elapsed() > deadline {
            let why = link.and_then(|link| link.problem).unwrap_or_else(|| "the agent has not called yet".to_owned());
            return Err(format!("not ready after {} s: {why}; see {}", deadline.as_secs(), layout.logs().display()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
