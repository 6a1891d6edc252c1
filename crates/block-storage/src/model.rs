//! Records of volumes, snapshots and images. Field names in storage are short: DESIGN §5 allows 3 KiB for an instance.

use serde::{Deserialize, Serialize};
use terroir_agent_api::BlobFormat;
use terroir_metering::Open;
use terroir_store::{Key, record};
use terroir_types::{AccountId, Epoch, Generation, HostId, ImageId, InstanceId, SnapshotId, Timestamp, VolumeId};

use crate::{Assignment, Hold};

pub const GIB: u64 = 1 << 30;

/// What a volume should be, at `volume/<account>/<id>`; written by the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: VolumeId,
    #[serde(rename = "h")]
    pub host: HostId,
    #[serde(rename = "z")]
    pub zone: String,
    #[serde(rename = "b")]
    pub size_bytes: u64,
    #[serde(rename = "t")]
    pub volume_type: VolumeType,
    #[serde(rename = "io", default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// MiB/s.
    #[serde(rename = "tp", default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// What it was filled from, which may belong to [`crate::SYSTEM_ACCOUNT`].
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    #[serde(rename = "m")]
    pub assignment: Assignment<InstanceId>,
    /// There exactly while the assignment is not free.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// When its deletion was asked for; the row goes once the host has removed the disk.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
}

record!(Volume { kind: "volume", version: 1, account: |r| Some(r.account) });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    #[serde(rename = "d")]
    pub device: String,
    /// Place on the bus, 0 (root) to 15.
    #[serde(rename = "n")]
    pub slot: u8,
    #[serde(rename = "k")]
    pub delete_on_termination: bool,
    #[serde(rename = "t")]
    pub attached_at: Timestamp,
    /// Attached to a running guest, so it counts as attached once the host saw it on the guest's bus.
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub hot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeType {
    Standard,
    Gp2,
    Gp3,
    Io1,
    Io2,
    St1,
    Sc1,
}

impl VolumeType {
    pub const ALL: [Self; 7] = [Self::Standard, Self::Gp2, Self::Gp3, Self::Io1, Self::Io2, Self::St1, Self::Sc1];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Gp2 => "gp2",
            Self::Gp3 => "gp3",
            Self::Io1 => "io1",
            Self::Io2 => "io2",
            Self::St1 => "st1",
            Self::Sc1 => "sc1",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|volume_type| volume_type.name() == name)
    }
}

/// What the host says of a volume, at `volume-status/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    #[serde(rename = "g")]
    pub generation: Generation,
    #[serde(rename = "e")]
    pub epoch: Epoch,
    #[serde(rename = "p")]
    pub phase: Phase,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub attached_to: Option<InstanceId>,
    /// The holder was seen with it at this epoch.
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub seen_attached: bool,
    /// Usage since the disk was first there.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Open>,
}

record!(VolumeStatus { kind: "volume-status", version: 1 });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    #[serde(rename = "c")]
    Creating,
    #[serde(rename = "r")]
    Ready,
    #[serde(rename = "f")]
    Failed(String),
    #[serde(rename = "d")]
    Deleted,
}

/// Whose a volume on a host is, at `host-volume/<host>/<id>`: a host knows volumes by their id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVolume {
    #[serde(rename = "a")]
    pub account: AccountId,
}

record!(HostVolume { kind: "host-volume", version: 1 });

/// Immutable bytes outside the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Lower-case hexadecimal.
    #[serde(rename = "h")]
    pub sha256: String,
    #[serde(rename = "b")]
    pub size_bytes: u64,
    #[serde(rename = "f")]
    pub format: BlobFormat,
}

/// A point-in-time copy of a disk, at `snapshot/<account>/<id>`. Its bytes never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: SnapshotId,
    /// Size of the disk, a whole number of GiB.
    #[serde(rename = "v")]
    pub volume_bytes: u64,
    #[serde(rename = "o")]
    pub blob: Blob,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: SnapshotTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTenant {
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The bytes are this object's; without one they lie in the blob store under the snapshot's name.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
}

record!(Snapshot { kind: "snapshot", version: 1, account: |r| Some(r.account), tenant: tenant: SnapshotTenant });

/// An object of the account, with the bytes it had: reading checks the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    #[serde(rename = "b")]
    pub bucket: String,
    #[serde(rename = "k")]
    pub key: String,
}

/// An AMI, at `image/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: ImageId,
    /// `x86_64` or `arm64`.
    #[serde(rename = "r")]
    pub architecture: String,
    #[serde(rename = "d")]
    pub root_device: String,
    #[serde(rename = "m")]
    pub mappings: Vec<ImageMapping>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub direct_boot: Option<BootId>,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// Everybody may launch it.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    #[serde(skip, default)]
    pub tenant: ImageTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTenant {
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `OWNER/NAME` or `bucket/key`, as `imageLocation`.
    #[serde(rename = "l", default, skip_serializing_if = "String::is_empty")]
    pub location: String,
}

record!(Image { kind: "image", version: 1, account: |r| Some(r.account), tenant: tenant: ImageTenant });

/// One disk that instances of an image get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMapping {
    #[serde(rename = "d")]
    pub device: String,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    #[serde(rename = "b")]
    pub size_bytes: u64,
    #[serde(rename = "t")]
    pub volume_type: VolumeType,
    #[serde(rename = "k")]
    pub delete_on_termination: bool,
}

/// Name of an [`ImageBoot`], from its content.
pub type BootId = String;

/// Kernel and initrd that are booted without the disk's boot sector, at `image-boot/<id>`. Instances refer to it as long
/// as they live, so it outlives its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBoot {
    #[serde(rename = "k")]
    pub kernel: Blob,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Blob>,
    #[serde(rename = "c")]
    pub command_line: String,
}

record!(ImageBoot { kind: "image-boot", version: 1 });

pub fn image_boot_key(id: &str) -> Key {
    Key::new(format!("image-boot/{id}"))
}

/// Which image has a name, at `image-name/<account>/<mac of the name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageName {
    #[serde(rename = "i")]
    pub image: ImageId,
}

record!(ImageName { kind: "image-name", version: 1 });

pub fn volume_key(account: AccountId, id: VolumeId) -> Key {
    Key::new(format!("volume/{account}/{id}"))
}

pub fn volume_status_key(account: AccountId, id: VolumeId) -> Key {
    Key::new(format!("volume-status/{account}/{id}"))
}

pub fn host_volume_key(host: HostId, id: VolumeId) -> Key {
    Key::new(format!("host-volume/{host}/{id}"))
}

pub fn snapshot_key(account: AccountId, id: SnapshotId) -> Key {
    Key::new(format!("snapshot/{account}/{id}"))
}

pub fn image_key(account: AccountId, id: ImageId) -> Key {
    Key::new(format!("image/{account}/{id}"))
}

/// State of a volume in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumeState {
    Creating,
    Available,
    InUse,
    Deleting,
    Error,
}

impl VolumeState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::InUse => "in-use",
            Self::Deleting => "deleting",
            Self::Error => "error",
        }
    }
}

/// The API's state: a pure function of what should be and what is.
pub fn volume_state(volume: &Volume, status: Option<&VolumeStatus>) -> VolumeState {
    if volume.deleted_at.is_some() {
        return VolumeState::Deleting;
    }
    let phase = status.map(|status| &status.phase);
    match (phase, volume.assignment.is_free()) {
        (Some(Phase::Failed(_) | Phase::Deleted), true) => VolumeState::Error,
        (_, false) => VolumeState::InUse,
        (None | Some(Phase::Creating), true) => VolumeState::Creating,
        (Some(Phase::Ready), true) => VolumeState::Available,
    }
}

/// `attaching`, `attached` or `detaching`; none without an attachment.
pub fn attachment_state(volume: &Volume, status: Option<&VolumeStatus>) -> Option<&'static str> {
    let attachment = volume.attachment.as_ref()?;
    match volume.assignment.hold {
        Hold::Free => None,
        Hold::Releasing(_) => Some("detaching"),
        Hold::Held(_) => {
            let current = status.filter(|s| s.epoch == volume.assignment.epoch && s.phase == Phase::Ready);
            let there = current.is_some_and(|status| !attachment.hot || status.seen_attached);
            Some(if there { "attached" } else { "attaching" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::{ResourceId, SeededRandom};

    #[test]
    fn state_is_a_function_of_spec_and_status() {
        let ids = SeededRandom::new(1);
        let instance = InstanceId::generate(&ids);
        let free = Volume {
            account: AccountId::from_number(1).unwrap(),
            id: VolumeId::generate(&ids),
            host: HostId::generate(&ids),
            zone: "a".to_owned(),
            size_bytes: GIB,
            volume_type: VolumeType::Gp3,
            iops: None,
            throughput: None,
            snapshot: None,
            created_at: Timestamp::EPOCH,
            assignment: Assignment::free(),
            attachment: None,
            deleted_at: None,
        };
        let attachment = |hot| {
            Some(Attachment {
                device: "/dev/sdf".to_owned(),
                slot: 1,
                delete_on_termination: false,
                attached_at: Timestamp::EPOCH,
                hot,
            })
        };
        let hot = Volume { assignment: Assignment::held_by(instance), attachment: attachment(true), ..free.clone() };
        let cold = Volume { attachment: attachment(false), ..hot.clone() };
        let mut leaving = hot.clone();
        leaving.assignment.begin_release();
        let gone = Volume { deleted_at: Some(Timestamp::EPOCH), ..free.clone() };
        let status = |phase, epoch, seen_attached| {
            Some(VolumeStatus { generation: 1, epoch, phase, attached_to: None, seen_attached, usage: None })
        };
        let failed = || Phase::Failed("disk full".to_owned());
        let rows = [
            (&free, None, VolumeState::Creating, None),
            (&free, status(Phase::Creating, 1, false), VolumeState::Creating, None),
            (&free, status(Phase::Ready, 1, false), VolumeState::Available, None),
            (&free, status(failed(), 1, false), VolumeState::Error, None),
            (&hot, None, VolumeState::InUse, Some("attaching")),
            (&hot, status(Phase::Ready, 1, false), VolumeState::InUse, Some("attaching")),
            (&hot, status(Phase::Ready, 1, true), VolumeState::InUse, Some("attached")),
            (&hot, status(Phase::Ready, 0, true), VolumeState::InUse, Some("attaching")),
            (&cold, status(Phase::Ready, 1, false), VolumeState::InUse, Some("attached")),
            (&cold, status(Phase::Creating, 1, false), VolumeState::InUse, Some("attaching")),
            (&leaving, status(Phase::Ready, 1, true), VolumeState::InUse, Some("detaching")),
            (&gone, status(Phase::Ready, 1, false), VolumeState::Deleting, None),
        ];
        for (volume, status, state, attached) in rows {
            assert_eq!(volume_state(volume, status.as_ref()), state, "{volume:?} {status:?}");
            assert_eq!(attachment_state(volume, status.as_ref()), attached, "{volume:?} {status:?}");
        }
    }
}
