use ipnet::Ipv4Net;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terroir_agent_api::HypervisorKind;
use terroir_types::HostId;

use crate::network::NetworkOptions;

const GIB: u64 = 1 << 30;

/// What one agent is told when it starts.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Folder for disks, image cache, ledger and what belongs to single instances. Made if absent.
    pub data_dir: PathBuf,
    pub host: HostId,
    pub hypervisor: HypervisorKind,
    /// Where the control plane answers (`agent_api::http`).
    pub control_plane_socket: PathBuf,
    /// Where guest-services takes sockets.
    pub guest_services_socket: PathBuf,
    /// The file that guest-services answers from.
    pub guest_snapshot: PathBuf,
    /// Eight hexadecimal digits of the data folder: part of the name of every kernel object.
    pub tag: String,
    pub guest_services_uid: u32,
    /// QEMU number `n` of this host runs as this plus `n`, group likewise.
    pub instance_uid_base: u32,
    /// File system space that volumes, images and logs must leave free, bytes.
    pub volume_reserve_bytes: u64,
    /// Virtual CPUs promised per hardware thread.
    pub vcpu_overcommit: u32,
    /// Size above which unused images leave the cache, bytes.
    pub image_cache_bytes: u64,
    /// Link addresses between the VPCs' namespaces and the host's.
    pub edge_pool: Ipv4Net,
    /// How long a guest may take to shut itself down before it is forced.
    pub stop_deadline: Duration,
    /// How often everything is looked at, whether or not a bell rang.
    pub resync_interval: Duration,
    /// How long one pull of the spec waits for a change.
    pub poll_wait: Duration,
    pub qemu: PathBuf,
    pub qemu_img: PathBuf,
}

impl AgentOptions {
    /// Options whose paths lie in `data_dir`. `tag` must be eight hexadecimal digits that no other
    /// data folder of the machine uses.
    pub fn new(data_dir: impl Into<PathBuf>, host: HostId, hypervisor: HypervisorKind, tag: impl Into<String>) -> Self {
        let data_dir = data_dir.into();
        Self {
            control_plane_socket: data_dir.join("run/agent.sock"),
            guest_services_socket: data_dir.join("run/guest-services.sock"),
            guest_snapshot: data_dir.join("guest-services/snapshot.json"),
            data_dir,
            host,
            hypervisor,
            tag: tag.into(),
            guest_services_uid: 0,
            instance_uid_base: 200_000,
            volume_reserve_bytes: 2 * GIB,
            vcpu_overcommit: 4,
            image_cache_bytes: 20 * GIB,
            edge_pool: NetworkOptions::DEFAULT_EDGE_POOL,
            stop_deadline: Duration::from_secs(60),
            resync_interval: Duration::from_secs(10),
            poll_wait: Duration::from_secs(25),
            qemu: "qemu-system-x86_64".into(),
            qemu_img: "qemu-img".into(),
        }
    }

    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.agent_dir().join("ledger")
    }

    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    pub(crate) fn instances_dir(&self) -> PathBuf {
        self.data_dir.join("instances")
    }
}

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another agent works with {}; stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("the ledger {} is of a newer version of Terroir ({found}); use that version", path.display())]
    NewerLedger { path: PathBuf, found: u32 },
    #[error("the ledger {} is damaged: {detail}", path.display())]
    DamagedLedger { path: PathBuf, detail: String },
    #[error("{0}")]
    Unfit(String),
}

impl AgentError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
