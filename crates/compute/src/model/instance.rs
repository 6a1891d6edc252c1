use serde::{Deserialize, Serialize};
use terroir_agent_api::EndCause;
use terroir_block_storage::Assignment;
use terroir_metering::Open;
use terroir_store::{Key, record};
use terroir_types::{
    AccountId, Epoch, Generation, HostId, ImageId, InstanceId, KeyPairId, ReservationId, RunId, Timestamp, VolumeId,
};

pub const X86_64: &str = "x86_64";

/// What an instance should be; written by the control plane alone. The store's revision of the record is its generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: InstanceId,
    #[serde(rename = "r")]
    pub reservation: ReservationId,
    #[serde(rename = "l", default, skip_serializing_if = "is_zero")]
    pub launch_index: u32,
    #[serde(rename = "m")]
    pub image: ImageId,
    #[serde(rename = "t")]
    pub instance_type: String,
    #[serde(rename = "v")]
    pub vcpus: u32,
    #[serde(rename = "mb")]
    pub memory_bytes: u64,
    #[serde(rename = "ar", default = "x86_64", skip_serializing_if = "is_x86_64")]
    pub architecture: String,
    /// Which host runs it.
    #[serde(rename = "h")]
    pub assignment: Assignment<HostId>,
    #[serde(rename = "z")]
    pub zone: String,
    #[serde(rename = "n")]
    pub run_id: RunId,
    #[serde(rename = "d")]
    pub desired: Desired,
    #[serde(rename = "fs", default, skip_serializing_if = "is_false")]
    pub force_stop: bool,
    #[serde(rename = "rc", default, skip_serializing_if = "is_zero64")]
    pub reboot_count: u64,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// Of the last start that was asked for.
    #[serde(rename = "s")]
    pub launched_at: Timestamp,
    /// The first is the root volume, unless that was detached.
    #[serde(rename = "vo", default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeId>,
    #[serde(rename = "rd")]
    pub root_device: String,
    /// The image's kernel and initrd, which outlive the image.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub direct_boot: Option<String>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key_pair: Option<KeyPairId>,
    /// Id of its instance profile, `AIPA...`.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserDataRef>,
    #[serde(rename = "o", default, skip_serializing_if = "MetadataChoice::is_default")]
    pub metadata: MetadataChoice,
    /// A guest that powers itself off is terminated instead of stopped.
    #[serde(rename = "st", default, skip_serializing_if = "is_false")]
    pub shutdown_terminates: bool,
    #[serde(rename = "pt", default, skip_serializing_if = "is_false")]
    pub termination_protected: bool,
    #[serde(rename = "ps", default, skip_serializing_if = "is_false")]
    pub stop_protected: bool,
    #[serde(rename = "mo", default, skip_serializing_if = "is_false")]
    pub monitoring: bool,
    #[serde(rename = "eo", default, skip_serializing_if = "is_false")]
    pub ebs_optimized: bool,
    /// Processors and memory are reserved on its host.
    #[serde(rename = "hc", default = "yes", skip_serializing_if = "is_true")]
    pub holds_capacity: bool,
    /// Runs in a row that ended before they were seen running, by no fault of the guest.
    #[serde(rename = "in", default, skip_serializing_if = "is_zero")]
    pub interrupted: u32,
    #[serde(rename = "re", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What happened to it without anybody's asking, newest last; bounded.
    #[serde(rename = "ev", default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// When the last of it had left its host, its interfaces included.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
}

record!(Instance { kind: "instance", version: 1, account: |r| Some(r.account) });

fn x86_64() -> String {
    X86_64.to_owned()
}

fn is_x86_64(architecture: &str) -> bool {
    architecture == X86_64
}

const fn yes() -> bool {
    true
}

// serde hands these the field by reference.
const fn is_true(value: &bool) -> bool {
    *value
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &u32) -> bool {
    *value == 0
}

const fn is_zero64(value: &u64) -> bool {
    *value == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    #[serde(rename = "r")]
    Running,
    #[serde(rename = "s")]
    Stopped,
    #[serde(rename = "t")]
    Terminated,
}

/// Where an instance's user data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDataRef {
    /// It was changed for this instance; otherwise it is the reservation's.
    #[serde(rename = "o", default, skip_serializing_if = "is_false")]
    pub own: bool,
    #[serde(rename = "h")]
    pub sha256: String,
    #[serde(rename = "b")]
    pub size_bytes: u64,
}

/// Options of the metadata service, with AWS's defaults for an account that chose none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataChoice {
    #[serde(rename = "e")]
    pub enabled: bool,
    #[serde(rename = "t")]
    pub tokens_required: bool,
    #[serde(rename = "h")]
    pub hop_limit: u8,
    #[serde(rename = "g")]
    pub tags_enabled: bool,
}

impl Default for MetadataChoice {
    fn default() -> Self {
        Self { enabled: true, tokens_required: false, hop_limit: 1, tags_enabled: false }
    }
}

impl MetadataChoice {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Why an instance is not running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    #[serde(rename = "w")]
    pub why: Why,
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// A sentence from the host.
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    #[serde(rename = "u")]
    UserAsked,
    /// The guest powered itself off.
    #[serde(rename = "g")]
    GuestPoweredOff,
    #[serde(rename = "h")]
    HypervisorDied,
    #[serde(rename = "f")]
    StartFailed,
    #[serde(rename = "l")]
    HostLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    #[serde(rename = "k")]
    pub kind: EventKind,
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// The run that it ended.
    #[serde(rename = "n")]
    pub run_id: RunId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The host's kernel is a new one; the instance was started again from its disks.
    #[serde(rename = "r")]
    HostReboot,
    /// The host's agent was killed before the guest had started; the start was begun again.
    #[serde(rename = "i")]
    StartInterrupted,
}

const EVENTS_KEPT: usize = 4;

impl Instance {
    /// Whoever runs it; none once it has left its host.
    pub const fn host(&self) -> Option<HostId> {
        self.assignment.holder()
    }

    pub fn record_event(&mut self, kind: EventKind, at: Timestamp) {
        self.events.push(Event { kind, at, run_id: self.run_id });
        let surplus = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..surplus);
    }

    /// The key of its user data, if it has any.
    pub fn user_data_key(&self) -> Option<Key> {
        let user_data = self.user_data.as_ref()?;
        Some(if user_data.own {
            user_data_key(self.account, self.id)
        } else {
            user_data_key(self.account, self.reservation)
        })
    }
}

/// What a host says of an instance, as far as it counts for its current run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    #[serde(rename = "g")]
    pub generation: Generation,
    #[serde(rename = "e")]
    pub epoch: Epoch,
    #[serde(rename = "n")]
    pub run_id: RunId,
    #[serde(rename = "p")]
    pub phase: Phase,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(rename = "rc", default, skip_serializing_if = "is_zero64")]
    pub reboot_count: u64,
    #[serde(rename = "c")]
    pub changed_at: Timestamp,
    /// Usage of the run under way, since the control plane learnt that it runs.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Open>,
}

record!(InstanceStatus { kind: "instance-status", version: 1 });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    #[serde(rename = "p")]
    Preparing,
    #[serde(rename = "r")]
    Running(Timestamp),
    #[serde(rename = "s")]
    Stopping,
    #[serde(rename = "e")]
    Ended(EndCause),
    #[serde(rename = "g")]
    Gone,
}

/// A host knows instances by their id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInstance {
    #[serde(rename = "a")]
    pub account: AccountId,
}

record!(HostInstance { kind: "host-instance", version: 1 });

/// User data, at most 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserData {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(skip, default)]
    pub tenant: Vec<u8>,
}

record!(UserData { kind: "~user-data", version: 1, in_view: false, account: |r| Some(r.account), tenant: tenant: Vec<u8> });

pub fn instance_key(account: AccountId, id: InstanceId) -> Key {
    Key::new(format!("instance/{account}/{id}"))
}

pub fn instance_status_key(account: AccountId, id: InstanceId) -> Key {
    Key::new(format!("instance-status/{account}/{id}"))
}

pub fn host_instance_key(host: HostId, id: InstanceId) -> Key {
    Key::new(format!("host-instance/{host}/{id}"))
}

/// `holder` is a reservation's or an instance's id.
pub fn user_data_key(account: AccountId, holder: impl std::fmt::Display) -> Key {
    Key::new(format!("~user-data/{account}/{holder}"))
}
