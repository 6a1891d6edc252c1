//! Documents that cross the admin socket.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terroir_object_storage::backend::local::PlaceStats;
use terroir_object_storage::target::Destination;
use terroir_policy::{Operator, Site};
use terroir_types::HostId;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The API answers and the host has reported.
    pub ready: bool,
    pub endpoint: String,
    pub region: String,
    pub hypervisor: String,
    pub accounts: usize,
    /// Instances of all accounts by state.
    pub instances: BTreeMap<String, usize>,
    pub images: usize,
    pub revision: u64,
    pub host: Option<HostSummary>,
    /// Sentences about what is wrong.
    pub problems: Vec<String>,
    pub pid: i32,
    /// A unit of systemd, which starts again what dies.
    pub is_unit: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostSummary {
    pub id: String,
    pub name: String,
    pub accelerator: String,
    pub accelerator_reason: Option<String>,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub volume_bytes_free: u64,
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// File of who signed the endpoint's certificate; none: no TLS, or somebody whom every machine knows.
    #[serde(default)]
    pub authorities: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewAccountRequest {
    pub name: String,
}

/// Field names are part of the command line's contract (`account add --json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewAccountAnswer {
    pub account_id: String,
    pub name: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountSummary {
    pub account_id: String,
    pub name: String,
    pub created_at: String,
}

/// Without a bucket: of all buckets of the account together. Without numbers: nothing is limited any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QuotaRequest {
    pub account_id: String,
    pub bucket: Option<String>,
    pub max_bytes: Option<u64>,
    pub max_objects: Option<u64>,
}

/// What a bucket, or without one a whole account, holds and may hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectUsage {
    pub account_id: String,
    pub bucket: Option<String>,
    pub bytes: u64,
    /// All versions.
    pub objects: u64,
    pub max_bytes: Option<u64>,
    pub max_objects: Option<u64>,
}

/// Without accounts: for everybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewTargetRequest {
    pub name: String,
    pub accounts: Vec<String>,
    pub max_queued: Option<u64>,
    pub place: Destination,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetRequest {
    pub name: String,
    /// Also if something waits for it.
    #[serde(default)]
    pub force: bool,
}

/// Where the bytes of larger objects go. None: to the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineChoice {
    pub target: Option<String>,
    /// Where the target is.
    pub site: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineStatus {
    pub current: EngineChoice,
    /// What is where now.
    pub places: Vec<PlaceStats>,
}

/// Without what only the server needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetSummary {
    pub name: String,
    pub kind: String,
    pub address: String,
    /// As tenants name it.
    pub arns: Vec<String>,
    /// None: for everybody.
    pub accounts: Option<Vec<String>>,
    pub created_at: String,
    pub max_queued: u64,
    pub queued: u64,
    /// When the oldest of them was written.
    pub oldest: Option<String>,
    pub dropped: u64,
    /// What keeps it from getting what waits.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IssuerKeysRequest {
    pub url: String,
    pub jwks: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveIssuerRequest {
    pub url: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IssuerSummary {
    pub url: String,
    pub updated_at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredBlob {
    pub size_bytes: u64,
    pub sha256: String,
}

/// The disk was uploaded as the blob `snapshot/SNAPSHOT`, kernel and initrd as `image-kernel/SHA256` and
/// `image-initrd/SHA256`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisterImageRequest {
    pub name: String,
    pub description: String,
    pub architecture: String,
    /// Where it comes from, for people.
    pub source: String,
    pub snapshot: String,
    pub disk: StoredBlob,
    /// Size of the disk inside the blob.
    pub virtual_size_bytes: u64,
    /// `raw`, `qcow2` or `vmdk`.
    pub format: String,
    pub kernel: Option<StoredBlob>,
    pub initrd: Option<StoredBlob>,
    pub command_line: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageSummary {
    pub image_id: String,
    pub name: String,
    pub architecture: String,
    pub snapshot_id: String,
    pub size_bytes: u64,
    pub sha256: String,
    pub source: String,
    pub created_at: String,
}

/// What another operator has signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatementRequest {
    pub statement: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatorRow {
    #[serde(flatten)]
    pub operator: Operator,
    /// Public key, `NAME+ID+KEY`.
    pub key: String,
    pub generation: u64,
    /// Whether it is this cloud's own.
    pub own: bool,
    pub signed: String,
}

/// What is not given stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatorChange {
    pub name: Option<String>,
    pub seat: Option<String>,
    pub parent: Option<String>,
    pub parent_country: Option<String>,
    pub jurisdictions: Option<Vec<String>>,
    pub certifications: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteRow {
    #[serde(flatten)]
    pub site: Site,
    pub zone_id: String,
    pub generation: u64,
    pub signed: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteChange {
    pub id: String,
    pub is_new: bool,
    pub country: Option<String>,
    pub city: Option<String>,
    pub fire_zones: Option<Vec<String>>,
    pub grid_zone: Option<String>,
    pub pue_milli: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostRow {
    pub id: HostId,
    pub name: String,
    pub site: String,
    pub fire_zone: Option<String>,
    /// `active`, `cordoned` or `lost`; `joined`: it has not said yet what it has.
    pub mode: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostModeRequest {
    pub id: HostId,
    pub cordoned: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewTokenRequest {
    /// None: the control plane's own, or that of the host.
    pub site: Option<String>,
    pub fire_zone: Option<String>,
    /// Only for this host, which has joined before.
    pub host: Option<HostId>,
    pub ttl_secs: u64,
    /// Empty: as the settings say.
    pub servers: Vec<String>,
}

/// Field names are part of the command line's contract (`host token --json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewTokenAnswer {
    pub token: String,
    pub site: String,
    pub servers: Vec<String>,
    pub expires_at: String,
}

/// What is still on a host (`host drain --json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostLeft {
    pub instances: Vec<LeftInstance>,
    pub volumes: Vec<LeftVolume>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftInstance {
    pub account_id: String,
    pub instance_id: String,
    pub state: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftVolume {
    pub account_id: String,
    pub volume_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostFireZone {
    pub id: HostId,
    pub fire_zone: String,
}

/// Without a name: the account's own policy. Without a document: the named one goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyRequest {
    pub account_id: String,
    pub name: Option<String>,
    pub document: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoliciesAnswer {
    pub account_id: String,
    pub policy: serde_json::Value,
    pub named: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiptRequest {
    pub account_id: String,
    pub resource: String,
    /// Entries of an earlier checkpoint.
    pub since: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WitnessRequest {
    /// Id of the operator that is asked.
    pub operator: String,
}

/// A request of another operator, a signature for one, or the answer to either.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WitnessText {
    pub text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WitnessSignature {
    pub operator: String,
    pub signature: String,
}
