use serde::{Deserialize, Serialize};
use terroir_agent_api::EndCause;
use terroir_types::{RunId, Timestamp};

/// What the ledger knows of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// QEMU's uid and gid are the host's base plus this; unique among the host's instances.
    pub uid_index: u32,
    /// The run begun last. A run id never comes twice.
    pub run: Option<RunRecord>,
    /// Terminated, and its folder is gone.
    pub purged: bool,
}

/// One life of a guest.
///
/// ```text
/// Intended ──▶ Started ──▶ Ended(cause)
///     └──────────────────────▲
/// ```
///
/// `Intended` is on disk before QEMU is started, and only then may it be; an `Intended` run whose
/// process cannot be found has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run_id: RunId,
    /// The kernel's boot id at the start.
    pub boot_id: String,
    pub phase: RunPhase,
    pub machine: Option<String>,
    /// Set before the guest is asked to stop, so that its end is known as requested.
    pub stop: Option<StopRequest>,
    /// The `reboot_count` that was carried out last, or that the run began with.
    pub reboot_count: u64,
    /// A reboot under way: its count and when the guest was asked.
    pub reboot: Option<RebootRequest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum RunPhase {
    Intended,
    Started { at: Timestamp, process: ProcessId },
    Ended { at: Timestamp, cause: EndCause },
}

/// A process for sure: a pid alone may belong to another one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_ticks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    pub at: Timestamp,
    /// When the power button was pressed last.
    pub pressed_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebootRequest {
    pub count: u64,
    pub at: Timestamp,
    pub pressed_at: Timestamp,
}

impl RunRecord {
    /// Whether QEMU may still be running for it.
    pub const fn is_active(&self) -> bool {
        !matches!(self.phase, RunPhase::Ended { .. })
    }
}
