//! HostStatus: what is, written by the host that sees it.

use serde::{Deserialize, Serialize};
use terroir_types::{Epoch, Generation, HostId, InstanceId, InterfaceId, RunId, Timestamp, VolumeId};

/// One report. Statuses are sent when they change; `full` reports name everything the host holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub host: HostId,
    /// The kernel's boot id: a new one says that every guest of the old one has ended.
    pub boot_id: String,
    /// Rises with every report of one agent process.
    pub sequence: u64,
    pub full: bool,
    pub facts: Option<HostFacts>,
    pub instances: Vec<InstanceStatus>,
    pub volumes: Vec<VolumeStatus>,
    pub interfaces: Vec<InterfaceStatus>,
}

/// What the host has and can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub name: String,
    pub hypervisor: HypervisorKind,
    /// `kvm`, `tcg` or `none`.
    pub accelerator: String,
    /// Why not KVM, if so.
    pub accelerator_reason: Option<String>,
    pub architecture: String,
    /// Virtual CPUs that may be promised (threads times overcommit).
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// For volumes; already without the reserve.
    pub volume_bytes_total: u64,
    pub volume_bytes_free: u64,
    pub agent_version: String,
    /// What keeps the host from working as it should, in sentences for the operator.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HypervisorKind {
    Qemu,
    Simulated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub generation: Generation,
    pub epoch: Epoch,
    pub run_id: RunId,
    pub phase: InstancePhase,
    /// Machine type that QEMU was started with.
    pub machine: Option<String>,
    /// Volumes that the guest's bus holds now.
    pub attached: Vec<VolumeId>,
    /// The `reboot_count` that was carried out last.
    pub reboot_count: u64,
    pub changed_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum InstancePhase {
    /// Waiting for volumes, interfaces or images.
    Preparing,
    Running {
        started_at: Timestamp,
    },
    /// Asked to shut down; forced off at the deadline.
    Stopping,
    /// This run is over. Reported once per run; the control plane decides what follows.
    Ended {
        cause: EndCause,
    },
    /// Terminated, and nothing of it is left on the host but its volumes.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum EndCause {
    /// The guest powered itself off.
    GuestPowerOff,
    /// As the spec asked.
    Requested,
    /// QEMU is gone without having been asked.
    HypervisorDied { detail: String },
    /// The run never began.
    StartFailed { detail: String },
    /// The host must not run it: what its operator signed about it contradicts the order.
    Refused { rule: String },
    /// The host's kernel is a new one.
    HostReboot,
    /// The agent was killed after it had decided to start the hypervisor and before it had: no fault of the guest.
    Interrupted,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    pub id: VolumeId,
    pub generation: Generation,
    pub epoch: Epoch,
    pub phase: VolumePhase,
    pub attached_to: Option<InstanceId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum VolumePhase {
    Creating,
    Ready,
    Failed {
        detail: String,
    },
    /// The host must not keep it: what its operator signed about it contradicts the order.
    Refused {
        rule: String,
    },
    /// The disk's file is gone.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub id: InterfaceId,
    pub generation: Generation,
    pub epoch: Epoch,
    pub phase: InterfacePhase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum InterfacePhase {
    /// Tap, addresses and rules are in place.
    Ready,
    Failed {
        detail: String,
    },
    /// Nothing of it is left on the host.
    Released,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_other_versions_are_read() {
        for (text, expected) in [
            (r#"{"cause":"host-reboot"}"#, EndCause::HostReboot),
            (r#"{"cause":"interrupted"}"#, EndCause::Interrupted),
            (r#"{"cause":"start-failed","detail":"no"}"#, EndCause::StartFailed { detail: "no".to_owned() }),
            (r#"{"cause":"eaten-by-a-grue","where":"cellar"}"#, EndCause::Unknown),
        ] {
            assert_eq!(serde_json::from_str::<EndCause>(text).unwrap(), expected, "{text}");
        }
        let written = serde_json::to_string(&EndCause::Interrupted).unwrap();
        assert_eq!(written, r#"{"cause":"interrupted"}"#);
    }
}
