//! Guests that change state and run nothing, disks that have a size and no bytes: for tests of the
//! API and of scale. Nothing but the ledger touches the disk. A simulated guest outlives the agent
//! as a real one would: what the ledger calls started is running.

use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use terroir_agent_api::{BlobRef, ControlPlane, HypervisorKind};
use terroir_types::{HostId, InstanceId, InterfaceId, VolumeId};

use crate::bell::Bell;
use crate::host_storage::{Capacity, Storage, StorageError};
use crate::hypervisor::{Applied, Hypervisor, HypervisorError};
use crate::observed::{
    GuestObservation, GuestProcess, GuestStatus, MonitorState, ObjectKey, Space, VolumeFile, VolumeFormat,
};
use crate::plan::Op;
use crate::record::{InstanceRecord, ProcessId, RunPhase};

/// What a simulated host claims to have.
pub const VCPUS: u32 = 1 << 20;
pub const MEMORY_BYTES: u64 = 1 << 50;
pub const VOLUME_BYTES: u64 = 1 << 60;

#[derive(Debug, Default)]
struct Guest {
    powered_off: bool,
    gone: bool,
    volumes: BTreeMap<VolumeId, u64>,
    interfaces: BTreeSet<InterfaceId>,
}

/// Simulated guests.
#[derive(Debug)]
pub struct SimulatedHypervisor {
    bell: Arc<Bell>,
    guests: Mutex<BTreeMap<InstanceId, Guest>>,
}

const PROCESS: ProcessId = ProcessId { pid: 0, start_ticks: 0 };

impl SimulatedHypervisor {
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { bell, guests: Mutex::default() }
    }

    /// As if somebody inside the guest had powered it off.
    pub fn power_off(&self, instance: InstanceId) {
        self.with(instance, |guest| guest.powered_off = true);
        self.bell.ring_now(ObjectKey::Instance(instance));
    }

    fn with<R>(&self, instance: InstanceId, change: impl FnOnce(&mut Guest) -> R) -> R {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        change(guests.entry(instance).or_default())
    }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Simulated
    }

    fn default_machine(&self) -> Option<String> {
        None
    }

    async fn survey(&self) -> Result<BTreeSet<InstanceId>, HypervisorError> {
        Ok(BTreeSet::new())
    }

    async fn observe(&self, instance: InstanceId, record: Option<&InstanceRecord>) -> GuestObservation {
        let run = record.and_then(|r| r.run.as_ref());
        let Some(run) = run.filter(|run| matches!(run.phase, RunPhase::Started { .. })) else {
            return GuestObservation::default();
        };
        self.with(instance, |guest| {
            if guest.gone {
                return GuestObservation::default();
            }
            let status = if guest.powered_off { GuestStatus::PoweredOff } else { GuestStatus::Running };
            let monitor = MonitorState {
                status,
                volumes: guest.volumes.keys().copied().collect(),
                open_disks: guest.volumes.clone(),
                interfaces: guest.interfaces.clone(),
            };
            let process = GuestProcess { id: PROCESS, run_id: run.run_id };
            GuestObservation { processes: vec![process], monitor: Some(monitor), exit_detail: None }
        })
    }

    async fn apply(&self, op: &Op, _uid_index: u32) -> Result<Applied, HypervisorError> {
        match op {
            Op::Start(order) => {
                let id = order.section.id;
                self.with(id, |guest| {
                    *guest = Guest::default();
                    guest.volumes = order.volumes.iter().map(|(a, file)| (a.volume, file.size_bytes)).collect();
                    guest.interfaces = order.interfaces.iter().map(|i| i.section.id).collect();
                });
                let process = GuestProcess { id: PROCESS, run_id: order.section.run_id };
                return Ok(Applied::Started { process, machine: order.machine.clone() });
            }
            Op::PowerDown { instance } => self.with(*instance, |guest| guest.powered_off = true),
            Op::EndProcess { instance, .. } => self.with(*instance, |guest| guest.gone = true),
            Op::Reset { instance, .. } => self.with(*instance, |guest| guest.powered_off = false),
            Op::AttachVolume { instance, attachment, file } => self.with(*instance, |guest| {
                guest.volumes.insert(attachment.volume, file.size_bytes);
            }),
            Op::DetachVolume { instance, volume } => self.with(*instance, |guest| {
                guest.volumes.remove(volume);
            }),
            Op::ResizeVolume { instance, volume, size_bytes } => self.with(*instance, |guest| {
                guest.volumes.insert(*volume, *size_bytes);
            }),
            Op::AttachInterface { instance, order } => self.with(*instance, |guest| {
                guest.interfaces.insert(order.section.id);
            }),
            Op::DetachInterface { instance, interface } => self.with(*instance, |guest| {
                guest.interfaces.remove(interface);
            }),
            Op::Purge { instance } => {
                self.guests.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
            }
            Op::Resume { .. } | Op::Pause { .. } => {}
            Op::Record { .. }
            | Op::FetchBlob(_)
            | Op::CreateVolume { .. }
            | Op::GrowVolume { .. }
            | Op::DeleteVolume { .. } => {
                return Err(HypervisorError::Unfit(format!("not an operation on a guest: {op:?}")));
            }
        }
        Ok(Applied::Done)
    }

    async fn console(&self, _instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        Ok(None)
    }

    async fn screenshot(&self, _instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        Ok(None)
    }

    async fn tidy(&self) {}
}

/// Simulated disks. A new agent makes them anew from the spec.
#[derive(Debug, Default)]
pub struct SimulatedStorage {
    volumes: Mutex<BTreeMap<VolumeId, VolumeFile>>,
}

#[async_trait]
impl Storage for SimulatedStorage {
    fn survey(&self) -> Result<BTreeSet<VolumeId>, StorageError> {
        Ok(self.volumes.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect())
    }

    fn observe(&self, volume: VolumeId) -> Result<Option<VolumeFile>, StorageError> {
        Ok(self.volumes.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).cloned())
    }

    fn allocated_bytes(&self, _volume: VolumeId) -> u64 {
        0
    }

    fn has_blob(&self, _blob: &BlobRef) -> bool {
        true
    }

    fn space(&self) -> Space {
        Space { available: VOLUME_BYTES, reserve: 0 }
    }

    fn capacity(&self) -> Capacity {
        Capacity { total: VOLUME_BYTES, free: VOLUME_BYTES }
    }

    async fn apply(&self, op: &Op) -> Result<(), StorageError> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        match op {
            Op::CreateVolume { volume, size_bytes, .. } | Op::GrowVolume { volume, size_bytes } => {
                let file = VolumeFile { format: VolumeFormat::Raw, size_bytes: *size_bytes, backing: None };
                volumes.insert(*volume, file);
            }
            Op::DeleteVolume { volume } => {
                volumes.remove(volume);
            }
            other => return Err(StorageError::Refused(format!("not an operation on a volume: {other:?}"))),
        }
        Ok(())
    }

    async fn fetch(&self, _blob: &BlobRef, _host: HostId, _from: &dyn ControlPlane) -> Result<(), StorageError> {
        Ok(())
    }

    fn read_blob(&self, _blob: &BlobRef) -> Result<Vec<u8>, StorageError> {
        Ok(Vec::new())
    }

    fn evict(&self, _in_use: &BTreeSet<String>) -> Result<(), StorageError> {
        Ok(())
    }
}
