//! What the agent says to one running QEMU.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::VolumeAttachmentSpec;
use terroir_types::{InstanceId, InterfaceId, RunId, VolumeId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::arguments::{
    block_device, device_of_interface, device_of_volume, disk_set, interface_device, netdev, volume_device,
};
use super::process::parse_name;
use super::qmp::{Qmp, QmpError, QmpEvent};
use super::{Applied, HypervisorError};
use crate::host_storage::OpenDisk;
use crate::observed::{GuestStatus, MonitorState, VolumeFile};
use crate::plan::InterfaceOrder;

const UNPLUG_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Monitor {
    qmp: Qmp,
    /// Rung by `DEVICE_DELETED`.
    unplugged: Arc<Notify>,
}

impl Monitor {
    /// `look_again` is called when something happened that the reconciler should see.
    pub(super) async fn connect(
        path: &Path,
        deadline: Duration,
        look_again: impl Fn() + Send + 'static,
    ) -> Result<Self, QmpError> {
        let unplugged = Arc::new(Notify::new());
        let ring = Arc::clone(&unplugged);
        let on_event = move |event: QmpEvent| match event.name.as_str() {
            "DEVICE_DELETED" => {
                ring.notify_waiters();
                look_again();
            }
            "SHUTDOWN" | "GUEST_PANICKED" | "CLOSED" => look_again(),
            _ => {}
        };
        let qmp = Qmp::connect(path, deadline, on_event).await?;
        Ok(Self { qmp, unplugged })
    }

    /// Whose monitor it is.
    pub(super) async fn name(&self) -> Result<Option<(InstanceId, RunId)>, QmpError> {
        let answer = self.qmp.execute("query-name", json!({})).await?;
        Ok(answer["name"].as_str().and_then(parse_name))
    }

    pub(super) async fn state(&self) -> Result<MonitorState, QmpError> {
        let status = self.qmp.execute("query-status", json!({})).await?;
        let devices = self.devices().await?;
        let nodes = self.qmp.execute("query-named-block-nodes", json!({ "flat": true })).await?;
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let open_disks = nodes.iter().filter_map(|node| {
            let volume = device_of_volume(node["node-name"].as_str()?)?;
            Some((volume, node["image"]["virtual-size"].as_u64()?))
        });
        Ok(MonitorState {
            status: status_of(status["status"].as_str().unwrap_or_default()),
            volumes: devices.iter().filter_map(|id| device_of_volume(id)).collect(),
            open_disks: open_disks.collect::<BTreeMap<_, _>>(),
            interfaces: devices.iter().filter_map(|id| device_of_interface(id)).collect(),
        })
    }

    async fn devices(&self) -> Result<BTreeSet<String>, QmpError> {
        let list = self.qmp.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
        let names = list.as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str().map(str::to_owned));
        Ok(names.collect())
    }

    pub(super) async fn simple(&self, command: &str) -> Result<(), QmpError> {
        self.qmp.execute(command, json!({})).await.map(drop)
    }

    pub(super) async fn reset(&self) -> Result<(), QmpError> {
        self.simple("system_reset").await?;
        self.simple("cont").await
    }

    pub(super) async fn attach_volume(
        &self,
        attachment: &VolumeAttachmentSpec,
        file: &VolumeFile,
        disk: OpenDisk,
    ) -> Result<(), HypervisorError> {
        let (volume, slot) = (attachment.volume, attachment.slot);
        if !self.state().await?.open_disks.contains_key(&volume) {
            let set = disk_set(slot);
            self.add_fd(set, disk.disk.as_fd(), &volume.to_string()).await?;
            if let Some(backing) = &disk.backing {
                self.add_fd(set + 1, backing.as_fd(), "backing").await?;
            }
            self.qmp.execute("blockdev-add", block_device(volume, slot, file.format)).await?;
        }
        let plugged = self.qmp.execute("device_add", volume_device(volume, slot)).await;
        if let Err(error) = plugged {
            self.close_disk(volume, Some(slot)).await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Replaces what the set holds.
    async fn add_fd(&self, set: u32, fd: BorrowedFd<'_>, opaque: &str) -> Result<(), QmpError> {
        self.remove_fds(set).await;
        self.qmp.execute_with("add-fd", json!({ "fdset-id": set, "opaque": opaque }), fd).await.map(drop)
    }

    async fn remove_fds(&self, set: u32) {
        // An absent set is as good as an emptied one.
        let _ = self.qmp.execute("remove-fd", json!({ "fdset-id": set })).await;
    }

    pub(super) async fn detach_volume(&self, volume: VolumeId) -> Result<Applied, HypervisorError> {
        if !self.unplug(&volume.to_string()).await? {
            return Ok(Applied::Pending { detail: format!("the guest has not let go of {volume}") });
        }
        self.close_disk(volume, None).await?;
        Ok(Applied::Done)
    }

    async fn close_disk(&self, volume: VolumeId, slot: Option<u8>) -> Result<(), QmpError> {
        if self.state().await?.open_disks.contains_key(&volume) {
            self.qmp.execute("blockdev-del", json!({ "node-name": volume.to_string() })).await?;
        }
        let set = match slot {
            Some(slot) => Some(disk_set(slot)),
            None => self.set_of(volume).await?,
        };
        if let Some(set) = set {
            self.remove_fds(set).await;
            self.remove_fds(set + 1).await;
        }
        Ok(())
    }

    async fn set_of(&self, volume: VolumeId) -> Result<Option<u32>, QmpError> {
        let sets = self.qmp.execute("query-fdsets", json!({})).await?;
        let name = volume.to_string();
        let holds = |set: &&Value| {
            set["fds"].as_array().into_iter().flatten().any(|fd| fd["opaque"].as_str() == Some(name.as_str()))
        };
        let set = sets.as_array().into_iter().flatten().find(holds);
        Ok(set.and_then(|set| u32::try_from(set["fdset-id"].as_u64()?).ok()))
    }

    /// Whether the device is gone; asks the guest for it and waits a little.
    async fn unplug(&self, device: &str) -> Result<bool, QmpError> {
        let deadline = Instant::now() + UNPLUG_DEADLINE;
        let mut asked = false;
        loop {
            let notified = self.unplugged.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.devices().await?.contains(device) {
                return Ok(true);
            }
            if !asked {
                // Refused while an earlier request is still with the guest.
                let _ = self.qmp.execute("device_del", json!({ "id": device })).await;
                asked = true;
            }
            if tokio::time::timeout_at(deadline, notified).await.is_err() {
                return Ok(!self.devices().await?.contains(device));
            }
        }
    }

    pub(super) async fn resize(&self, volume: VolumeId, size_bytes: u64) -> Result<(), QmpError> {
        let arguments = json!({ "node-name": volume.to_string(), "size": size_bytes });
        self.qmp.execute("block_resize", arguments).await.map(drop)
    }

    pub(super) async fn attach_interface(&self, order: &InterfaceOrder, tap: OwnedFd) -> Result<(), HypervisorError> {
        let id = netdev(order.section.id);
        // Left over from a device that went away without us.
        let _ = self.qmp.execute("netdev_del", json!({ "id": id })).await;
        self.qmp.execute_with("getfd", json!({ "fdname": id }), tap.as_fd()).await?;
        self.qmp.execute("netdev_add", json!({ "type": "tap", "id": id, "fd": id })).await?;
        if let Err(error) = self.qmp.execute("device_add", interface_device(order)).await {
            let _ = self.qmp.execute("netdev_del", json!({ "id": id })).await;
            return Err(error.into());
        }
        Ok(())
    }

    pub(super) async fn detach_interface(&self, interface: InterfaceId) -> Result<Applied, HypervisorError> {
        if !self.unplug(&interface.to_string()).await? {
            return Ok(Applied::Pending { detail: format!("the guest has not let go of {interface}") });
        }
        let _ = self.qmp.execute("netdev_del", json!({ "id": netdev(interface) })).await;
        Ok(Applied::Done)
    }

    pub(super) async fn screenshot(&self) -> Result<Vec<u8>, HypervisorError> {
        const SET: u32 = 90;
        let name = c"screenshot";
        let memory = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .map_err(HypervisorError::errno("screenshot"))?;
        // QEMU opens the picture for writing only, and a set serves only the mode it was given.
        let write_only = std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
            .map_err(HypervisorError::io("screenshot"))?;
        self.add_fd(SET, write_only.as_fd(), "screenshot").await?;
        let arguments = json!({ "filename": format!("/dev/fdset/{SET}"), "format": "png" });
        let taken = self.qmp.execute("screendump", arguments).await;
        self.remove_fds(SET).await;
        taken?;
        let mut picture = Vec::new();
        let mut file = std::fs::File::from(memory);
        std::io::Seek::rewind(&mut file).map_err(HypervisorError::io("screenshot"))?;
        std::io::Read::read_to_end(&mut file, &mut picture).map_err(HypervisorError::io("screenshot"))?;
        Ok(picture)
    }
}

fn status_of(status: &str) -> GuestStatus {
    match status {
        "running" | "suspended" => GuestStatus::Running,
        "shutdown" => GuestStatus::PoweredOff,
        "io-error" => GuestStatus::DiskFull,
        "paused" => GuestStatus::Paused,
        "internal-error" | "guest-panicked" | "watchdog" => GuestStatus::Broken,
        _ => GuestStatus::Between,
    }
}
