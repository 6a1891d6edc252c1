//! From what should be and what is to what to do. Pure: no I/O, no clock, no memory of earlier
//! rounds. A round looks at a set of objects ([`Scope`]) and may look at any of them at any time.
//!
//! Two kinds of answer: [`Op::Record`] is written to the ledger before anything else of the round
//! happens; every other operation then runs, those on one object in order and one round at a time.

mod instance;
mod status;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::Duration;
use terroir_agent_api::{
    BlobRef, Desired, EndCause, HostSection, HostSpec, InstanceSection, InterfaceAttachmentSpec, InterfaceSection,
    Section, VolumeAttachmentSpec, VolumeSection,
};
use terroir_types::{InstanceId, InterfaceId, RunId, Timestamp, VolumeId};

use crate::observed::{BlobState, GuestProcess, ObjectKey, Observed, VolumeFile};

pub use status::{instance_status, interface_status, volume_status};

/// Which objects a round looks at.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    Everything,
    Objects(&'a BTreeSet<ObjectKey>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the first press of the power button to force.
    pub stop: Duration,
    /// Between two presses: a guest that was still booting did not hear the first.
    pub press_again: Duration,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// When to look again even if no bell rings.
    pub wake_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Goes to the ledger, before all other operations of the round.
    Record {
        instance: InstanceId,
        change: RecordChange,
    },
    FetchBlob(BlobRef),
    CreateVolume {
        volume: VolumeId,
        size_bytes: u64,
        source: Option<BlobRef>,
    },
    /// Only while no guest holds it.
    GrowVolume {
        volume: VolumeId,
        size_bytes: u64,
    },
    DeleteVolume {
        volume: VolumeId,
    },
    /// Writes the intent to the ledger, then starts QEMU.
    Start(Box<StartOrder>),
    /// Presses the power button.
    PowerDown {
        instance: InstanceId,
    },
    /// Makes the hypervisor quit, by its monitor or else by a signal.
    EndProcess {
        instance: InstanceId,
        process: GuestProcess,
    },
    /// Resets the guest and lets it run. `count` is recorded afterwards.
    Reset {
        instance: InstanceId,
        count: u64,
    },
    Resume {
        instance: InstanceId,
    },
    Pause {
        instance: InstanceId,
    },
    AttachVolume {
        instance: InstanceId,
        attachment: VolumeAttachmentSpec,
        file: VolumeFile,
    },
    /// Asks the guest to let go of the device, then closes the disk.
    DetachVolume {
        instance: InstanceId,
        volume: VolumeId,
    },
    /// Tells a running guest that its disk has grown.
    ResizeVolume {
        instance: InstanceId,
        volume: VolumeId,
        size_bytes: u64,
    },
    AttachInterface {
        instance: InstanceId,
        order: InterfaceOrder,
    },
    DetachInterface {
        instance: InstanceId,
        interface: InterfaceId,
    },
    /// Removes what belongs to the instance alone.
    Purge {
        instance: InstanceId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// A hypervisor was found that the ledger only intended, or never heard of.
    Adopted {
        process: GuestProcess,
    },
    Ended {
        run_id: RunId,
        cause: EndCause,
    },
    StopPressed,
    RebootPressed {
        count: u64,
    },
}

/// All that starting a guest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    pub section: InstanceSection,
    pub volumes: Vec<(VolumeAttachmentSpec, VolumeFile)>,
    pub interfaces: Vec<InterfaceOrder>,
    /// Machine type of an earlier run.
    pub machine: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOrder {
    pub attachment: InterfaceAttachmentSpec,
    pub section: InterfaceSection,
    pub mtu: u16,
}

impl Op {
    /// The object that the operation works on.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::FetchBlob(blob) => ObjectKey::Blob(blob.sha256.clone()),
            Self::CreateVolume { volume, .. } | Self::GrowVolume { volume, .. } | Self::DeleteVolume { volume } => {
                ObjectKey::Volume(*volume)
            }
            Self::Start(order) => ObjectKey::Instance(order.section.id),
            Self::Record { instance, .. }
            | Self::PowerDown { instance }
            | Self::EndProcess { instance, .. }
            | Self::Reset { instance, .. }
            | Self::Resume { instance }
            | Self::Pause { instance }
            | Self::AttachVolume { instance, .. }
            | Self::DetachVolume { instance, .. }
            | Self::ResizeVolume { instance, .. }
            | Self::AttachInterface { instance, .. }
            | Self::DetachInterface { instance, .. }
            | Self::Purge { instance } => ObjectKey::Instance(*instance),
        }
    }
}

/// What to do about the objects in `scope`.
pub fn plan(spec: &HostSpec, observed: &Observed, scope: Scope<'_>, deadlines: Deadlines) -> Plan {
    let mut planner = Planner::new(spec, observed, deadlines);
    match scope {
        Scope::Everything => {
            for section in spec.values() {
                match section {
                    Section::Volume(volume) => planner.volume(volume),
                    Section::Instance(instance) => planner.instance(instance),
                    _ => {}
                }
            }
            let unnamed = observed.guests.keys().chain(observed.records.keys()).copied().collect::<BTreeSet<_>>();
            for instance in unnamed {
                if planner.instance_section(instance).is_none() {
                    planner.instance_without_section(instance);
                }
            }
        }
        Scope::Objects(keys) => {
            for key in keys {
                match key {
                    ObjectKey::Volume(id) => {
                        if let Some(section) = planner.volume_section(*id) {
                            planner.volume(section);
                        }
                    }
                    ObjectKey::Instance(id) => match planner.instance_section(*id) {
                        Some(section) => planner.instance(section),
                        None => planner.instance_without_section(*id),
                    },
                    ObjectKey::Blob(_) | ObjectKey::Interface(_) => {}
                }
            }
        }
    }
    planner.plan
}

struct Planner<'a> {
    spec: &'a HostSpec,
    observed: &'a Observed,
    deadlines: Deadlines,
    plan: Plan,
    fetching: BTreeSet<String>,
    of_active_runs: OnceCell<BTreeSet<VolumeId>>,
}

/// Whether something that an object waits for is there.
enum Readiness {
    Ready,
    Waiting,
    /// Waiting is not expected to help.
    Hopeless(String),
}

impl<'a> Planner<'a> {
    const fn new(spec: &'a HostSpec, observed: &'a Observed, deadlines: Deadlines) -> Self {
        let plan = Plan { ops: Vec::new(), wake_at: None };
        Self { spec, observed, deadlines, plan, fetching: BTreeSet::new(), of_active_runs: OnceCell::new() }
    }

    fn push(&mut self, op: Op) {
        self.plan.ops.push(op);
    }

    fn record(&mut self, instance: InstanceId, change: RecordChange) {
        self.push(Op::Record { instance, change });
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn host_section(&self) -> Option<&'a HostSection> {
        match self.spec.get("host") {
            Some(Section::Host(section)) => Some(section),
            _ => None,
        }
    }

    fn volume_section(&self, id: VolumeId) -> Option<&'a VolumeSection> {
        volume_section(self.spec, id)
    }

    fn instance_section(&self, id: InstanceId) -> Option<&'a InstanceSection> {
        instance_section(self.spec, id)
    }

    fn interface_section(&self, id: InterfaceId) -> Option<&'a InterfaceSection> {
        match self.spec.get(&format!("interface/{id}")) {
            Some(Section::Interface(section)) => Some(section),
            _ => None,
        }
    }

    /// Asks for the blob if it is not there and may be tried.
    fn blob(&mut self, blob: &BlobRef) -> Readiness {
        match self.observed.blobs.get(&blob.sha256) {
            Some(BlobState::Present) => return Readiness::Ready,
            Some(BlobState::Failed(failure)) if failure.retry_at > self.observed.now => {
                self.wake(failure.retry_at);
                return if failure.lasting { Readiness::Hopeless(failure.detail.clone()) } else { Readiness::Waiting };
            }
            Some(BlobState::Failed(_)) | None => {}
        }
        if self.fetching.insert(blob.sha256.clone()) {
            self.push(Op::FetchBlob(blob.clone()));
        }
        Readiness::Waiting
    }

    /// Whether a guest has the volume's disk open, or is about to.
    fn is_held(&self, volume: VolumeId) -> bool {
        if self.observed.holders(volume).next().is_some() {
            return true;
        }
        let of_active_runs = self.of_active_runs.get_or_init(|| {
            let active = self.observed.records.iter().filter(|(_, r)| r.run.as_ref().is_some_and(|r| r.is_active()));
            let sections = active.filter_map(|(id, _)| self.instance_section(*id));
            sections.flat_map(|s| s.volumes.iter().map(|v| v.volume)).collect()
        });
        of_active_runs.contains(&volume)
    }
}

pub(crate) fn instance_section(spec: &HostSpec, id: InstanceId) -> Option<&InstanceSection> {
    match spec.get(&format!("instance/{id}")) {
        Some(Section::Instance(section)) => Some(section),
        _ => None,
    }
}

pub(crate) fn volume_section(spec: &HostSpec, id: VolumeId) -> Option<&VolumeSection> {
    match spec.get(&format!("volume/{id}")) {
        Some(Section::Volume(section)) => Some(section),
        _ => None,
    }
}

fn is_wanted(desired: Desired) -> bool {
    desired == Desired::Present
}
