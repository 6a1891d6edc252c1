use std::collections::{BTreeMap, BTreeSet};
use terroir_agent_api::InterfacePhase;
use terroir_types::{Epoch, InstanceId, InterfaceId, RunId, Timestamp, VolumeId};

use crate::own_place::OwnPlace;
use crate::record::{InstanceRecord, ProcessId};

/// What one operation works on; operations on one object never overlap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// By SHA-256.
    Blob(String),
    Volume(VolumeId),
    Interface(InterfaceId),
    Instance(InstanceId),
}

/// What is, as far as this host can see; rebuilt from processes, monitors, files and links. Only
/// `records` comes from the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub now: Timestamp,
    pub boot_id: String,
    pub space: Space,
    /// By SHA-256; what is not in the cache and did not fail is not here.
    pub blobs: BTreeMap<String, BlobState>,
    pub volumes: BTreeMap<VolumeId, VolumeObservation>,
    pub guests: BTreeMap<InstanceId, GuestObservation>,
    /// Which guests' hypervisors have a volume's disk open.
    pub disk_holders: BTreeMap<VolumeId, BTreeSet<InstanceId>>,
    /// Disks that operations under way are handing to a guest; whether it has them, the look after them will tell.
    pub reaching: BTreeMap<VolumeId, BTreeSet<InstanceId>>,
    pub records: BTreeMap<InstanceId, InstanceRecord>,
    pub interfaces: BTreeMap<InterfaceId, InterfaceObservation>,
    /// Instances whose addresses and metadata guest-services was told.
    pub announced: BTreeSet<InstanceId>,
    /// Where this host is; none: nobody has signed that.
    pub place: Option<OwnPlace>,
}

impl Observed {
    /// The guests that have a volume's disk open, or may have in a moment.
    pub fn holders(&self, volume: VolumeId) -> impl Iterator<Item = InstanceId> + '_ {
        let of = |map: &'_ BTreeMap<VolumeId, BTreeSet<InstanceId>>| map.get(&volume).cloned().unwrap_or_default();
        of(&self.disk_holders).into_iter().chain(of(&self.reaching))
    }
}

/// Room on the file system of the data folder, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    pub available: u64,
    /// Kept free for the state of the cloud.
    pub reserve: u64,
}

impl Space {
    /// Whether something new may be put on the disk.
    pub const fn takes_more(self) -> bool {
        self.available > self.reserve
    }

    /// So little is left that what exists must stop growing.
    pub const fn is_exhausted(self) -> bool {
        self.available < self.reserve / 2
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobState {
    Present,
    Failed(Failure),
}

/// Why an attempt failed and when the next one is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub detail: String,
    /// Trying again is not expected to help: dependants are told.
    pub lasting: bool,
    pub attempts: u32,
    pub retry_at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeObservation {
    pub file: Option<VolumeFile>,
    pub failure: Option<Failure>,
    /// It takes more of the host's disk than at the look before.
    pub growing: bool,
    /// What it takes of the host's disk.
    pub allocated_bytes: u64,
}

/// A volume's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    pub format: VolumeFormat,
    /// Virtual size.
    pub size_bytes: u64,
    /// SHA-256 of the cached image under a qcow2 overlay.
    pub backing: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeFormat {
    Raw,
    Qcow2,
}

/// What the last round of the network came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceObservation {
    /// Of the section that the round worked from. What it found says nothing about a later holder's turn.
    pub epoch: Epoch,
    pub phase: InterfacePhase,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestObservation {
    /// Hypervisors of this instance; more than one only if an agent died at the wrong moment.
    pub processes: Vec<GuestProcess>,
    /// What the monitor of the record's run says; `None`: it does not answer.
    pub monitor: Option<MonitorState>,
    /// How the process ended, if this agent saw it.
    pub exit_detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestProcess {
    pub id: ProcessId,
    pub run_id: RunId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorState {
    pub status: GuestStatus,
    /// Volumes with a device on the guest's bus.
    pub volumes: BTreeSet<VolumeId>,
    /// Volumes that QEMU holds open, with their size in bytes.
    pub open_disks: BTreeMap<VolumeId, u64>,
    /// Interfaces with a device on the guest's bus.
    pub interfaces: BTreeSet<InterfaceId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestStatus {
    Running,
    /// The guest powered off; QEMU waits to be told to go.
    PoweredOff,
    /// Paused because a disk could not be written.
    DiskFull,
    /// Paused by somebody, the agent for want of disk space included.
    Paused,
    /// The virtual processor cannot go on.
    Broken,
    /// Starting up, saving or restoring.
    Between,
}
