//! `terroir agent`: wiring.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use terroir_agent_api::HypervisorKind;
use terroir_agent_api::http::HttpControlPlane;
use terroir_host_agent::AgentOptions;
use terroir_host_agent::membership::{MembershipFile, RemoteControl};
use terroir_types::{HostId, OsRandom, ResourceId, SystemClock};

use crate::layout::{GUEST_SERVICES_UID, INSTANCE_UID_BASE, Layout, describe};
use crate::server::terminated;
use crate::settings::{HypervisorSetting, Settings};
use crate::{Threads, runtime};

pub fn main(layout: Layout) -> Result<(), String> {
    let settings = Settings::read(&layout)?;
    let options = options(&layout, &settings)?;
    runtime(Threads::Many)?.block_on(async move {
        let membership = MembershipFile::new(layout.membership_file());
        if !membership.exists() {
            let control = Arc::new(HttpControlPlane::new(options.control_plane_socket.clone()));
            return terroir_host_agent::run(options, control, terminated()).await.map_err(|error| error.to_string());
        }
        let control = RemoteControl::open(membership, layout.link_file(), Arc::new(SystemClock))?;
        tokio::select! {
            ended = terroir_host_agent::run(options, Arc::clone(&control) as _, terminated()) => {
                ended.map_err(|error| error.to_string())
            }
            () = async { control.keep_fresh().await; std::future::pending().await } => Ok(()),
        }
    })
}

/// Powers the guests off and removes every kernel object of this cloud from the machine.
pub async fn tear_down(layout: &Layout, settings: &Settings) -> Result<(), String> {
    if !layout.host_id_file().exists() {
        return Ok(());
    }
    let options = options(layout, settings)?;
    let report = terroir_host_agent::tear_down(&options).await.map_err(|error| error.to_string())?;
    println!("{} instances shut down, {} of them forced", report.powered_off + report.forced, report.forced);
    if report.problems.is_empty() { Ok(()) } else { Err(report.problems.join("; ")) }
}

fn options(layout: &Layout, settings: &Settings) -> Result<AgentOptions, String> {
    let hypervisor = match settings.hypervisor {
        HypervisorSetting::Qemu => HypervisorKind::Qemu,
        HypervisorSetting::Simulated => HypervisorKind::Simulated,
    };
    let mut options = AgentOptions::new(layout.agent(), host_id(layout)?, hypervisor, layout.tag());
    options.control_plane_socket = layout.crossing_socket();
    options.guest_services_socket = layout.guest_socket();
    options.guest_snapshot = layout.guest_snapshot();
    options.guest_services_uid = GUEST_SERVICES_UID;
    options.instance_uid_base = INSTANCE_UID_BASE;
    options.volume_reserve_bytes = settings.disk_reserve_bytes * 2;
    options.vcpu_overcommit = settings.vcpu_overcommit;
    options.edge_pool = settings.edge_pool_net()?;
    Ok(options)
}

/// Who this host is; decided once, at its first start.
pub fn host_id(layout: &Layout) -> Result<HostId, String> {
    let path = layout.host_id_file();
    match fs::read_to_string(&path) {
        Ok(text) => return text.trim().parse().map_err(|_| format!("{} holds no host id", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(describe(&error, "cannot read", &path).to_string()),
    }
    let id = HostId::generate(&OsRandom);
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&fresh)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        fs::File::open(layout.agent())?.sync_all()
    };
    write().map_err(|error| describe(&error, "cannot write", &path).to_string())?;
    Ok(id)
}
