use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_types::{Error, Timestamp};

use super::{BoxError, DeleteMarker, Note, ObjectLock, ReplicationStatus, Retention, Stamp, VersionId, Versioning};
use crate::acl::Acl;
use crate::checksum::{Algorithm, Checksum, Coverage, Digests};
use crate::encryption::{DataKey, Encryption, Sealer};

pub type StringMap = BTreeMap<String, String>;

/// The smallest size of a part that is not the last one: 5 MiB.
pub const MIN_PART_SIZE: u64 = 5 << 20;
/// The largest object that one request may carry: 5 GiB.
pub const MAX_PUT_SIZE: u64 = 5 << 30;
/// The largest object: 5 TiB.
pub const MAX_OBJECT_SIZE: u64 = 5 << 40;
pub const MAX_PARTS: u16 = 10_000;

/// What stands for a bucket below the front. Random, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BucketId(u64);

impl BucketId {
    /// Holds the cell's own blobs. No bucket record leads to it, so that no S3 caller can name it.
    pub const SYSTEM: Self = Self(0);

    /// Any number but that of [`Self::SYSTEM`]; the highest bit is dropped.
    pub const fn from_random(random: u64) -> Self {
        let number = random & (i64::MAX as u64);
        Self(if number == 0 { 1 } else { number })
    }

    /// As [`std::fmt::Display`] writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(Self)
    }

    pub(crate) const fn from_row(number: i64) -> Self {
        Self(number.cast_unsigned())
    }

    pub(crate) const fn row(self) -> i64 {
        self.0.cast_signed()
    }
}

impl std::fmt::Display for BucketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub bucket: BucketId,
    pub key: String,
}

impl Place {
    pub fn new(bucket: BucketId, key: impl Into<String>) -> Self {
        Self { bucket, key: key.into() }
    }
}

/// What the writer of an object says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Content-Type and the other headers that are given back as they came, by lower-case name.
    #[serde(rename = "h", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: StringMap,
    /// `x-amz-meta-...`, without that prefix.
    #[serde(rename = "u", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user: StringMap,
    #[serde(rename = "t", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: StringMap,
    /// None: the bucket owner's, and private.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Acl>,
    /// None: it is copied nowhere, and no copy itself.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
    /// None: the bytes are stored as they came. With an upload: how the bytes of its parts are sealed.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Box<Encryption>>,
}

/// What is known of an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Of the bytes as they came, in bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Whole seconds.
    pub modified: Timestamp,
    pub checksum: Option<Checksum>,
    pub meta: Arc<ObjectMeta>,
    pub version: VersionId,
    pub lock: ObjectLock,
    /// Number of parts if it came from a multipart upload.
    pub parts: Option<u16>,
}

/// What must hold when a write happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteCondition {
    #[default]
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match` with an ETag, without quotes.
    Matches(String),
    /// `If-None-Match` with an ETag, without quotes.
    Differs(String),
    /// What is there is still what this write made.
    Unchanged(Stamp),
}

impl WriteCondition {
    /// `there`: the stamp of what is there, and its ETag, which a delete marker has not.
    ///
    /// # Errors
    /// `PreconditionFailed`; `NoSuchKey` if an object must be there and is not.
    pub fn check(&self, there: Option<(Option<&str>, Stamp)>) -> Result<(), BackendError> {
        match (self, there) {
            (Self::Always, _) | (Self::Absent, None | Some((None, _))) | (Self::Present, Some((Some(_), _))) => Ok(()),
            (Self::Matches(wanted), Some((Some(etag), _))) if wanted == etag => Ok(()),
            (Self::Differs(_), None | Some((None, _))) => Ok(()),
            (Self::Differs(unwanted), Some((Some(etag), _))) if unwanted != etag => Ok(()),
            (Self::Unchanged(wanted), Some((_, stamp))) if *wanted == stamp => Ok(()),
            (Self::Unchanged(_), None) | (Self::Matches(_) | Self::Present, None | Some((None, _))) => {
                Err(BackendError::NoSuchKey)
            }
            (Self::Absent | Self::Differs(_), Some(_)) => Err(BackendError::PreconditionFailed("If-None-Match")),
            (Self::Matches(_), Some(_)) => Err(BackendError::PreconditionFailed("If-Match")),
            (Self::Unchanged(_), Some(_)) => Err(BackendError::PreconditionFailed("the write that made it")),
        }
    }
}

/// Decides, once all bytes were seen, whether they are what the client said, and which checksum is kept.
pub type Verify = Box<dyn FnOnce(&Digests) -> Result<Option<Checksum>, Error> + Send>;

/// How a backend stores bytes sealed. Sizes, digests and checksums are those of the plain bytes.
pub struct Sealing {
    pub sealer: Sealer,
    /// What hides the MD5 of the plain bytes in the ETag; none: the ETag is the MD5.
    pub etag_key: Option<DataKey>,
}

impl Sealing {
    pub(crate) fn etag(key: Option<DataKey>, digests: &Digests) -> String {
        key.map_or_else(|| digests.etag(), |key| key.etag_of(&digests.md5))
    }
}

/// A write of a part of an upload.
pub struct NewPart {
    pub number: u16,
    /// Checksums to compute beside MD5.
    pub algorithms: Vec<Algorithm>,
    pub verify: Verify,
    /// Exactly if the upload's `meta` has an encryption.
    pub sealing: Option<Sealing>,
}

/// A write of a whole object.
pub struct Put {
    pub meta: ObjectMeta,
    pub condition: WriteCondition,
    pub versioning: Versioning,
    pub lock: ObjectLock,
    /// Checksums to compute beside MD5.
    pub algorithms: Vec<Algorithm>,
    pub verify: Verify,
    /// What the client announced, in bytes; for refusing early.
    pub size: Option<u64>,
    /// More than this many bytes are refused.
    pub max_size: u64,
    /// Kept with the write.
    pub notes: Vec<Note>,
    /// Exactly if `meta` has an encryption.
    pub sealing: Option<Sealing>,
}

impl Put {
    /// A write of any size that nothing is asked of; keeps a CRC64NVME checksum.
    pub fn plain() -> Self {
        Self {
            meta: ObjectMeta::default(),
            condition: WriteCondition::Always,
            versioning: Versioning::Off,
            lock: ObjectLock::default(),
            algorithms: vec![Algorithm::Crc64Nvme],
            verify: Box::new(|digests| Ok(digests.checksum(Algorithm::Crc64Nvme))),
            size: None,
            max_size: MAX_OBJECT_SIZE,
            notes: Vec::new(),
            sealing: None,
        }
    }
}

/// The very version that a copy is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub place: Place,
    pub version: VersionId,
    /// Without quotes.
    pub etag: String,
}

/// A copy that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewCopy {
    pub meta: ObjectMeta,
    /// Asked of the destination.
    pub condition: WriteCondition,
    /// Of the destination.
    pub versioning: Versioning,
    pub lock: ObjectLock,
    /// Kept with the write.
    pub notes: Vec<Note>,
    /// Targets where the copy's bytes may not be.
    pub keep_out: BTreeSet<String>,
}

/// A page of a listing that is asked for.
#[derive(Debug, Clone, Default)]
pub struct List {
    pub prefix: String,
    /// Keys with this text after the prefix are rolled up to one entry. Empty: none.
    pub delimiter: String,
    /// Only keys, and rolled-up prefixes, above this one.
    pub after: String,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListEntry {
    Object(ListedObject),
    /// Rolled up; ends with the delimiter.
    Prefix(String),
}

impl ListEntry {
    pub fn name(&self) -> &str {
        match self {
            Self::Object(object) => &object.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub size: u64,
    pub etag: String,
    pub modified: Timestamp,
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In bytewise order of [`ListEntry::name`].
    pub entries: Vec<ListEntry>,
    pub truncated: bool,
}

/// A multipart upload that is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUpload {
    pub meta: ObjectMeta,
    /// None: the client named none; CRC64NVME is computed.
    pub algorithm: Option<Algorithm>,
    pub coverage: Coverage,
    /// ARN of who began it.
    pub initiator: String,
    /// What the object will have.
    #[serde(default, skip_serializing_if = "ObjectLock::is_none")]
    pub lock: ObjectLock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub id: String,
    pub key: String,
    pub initiated: Timestamp,
    pub new: NewUpload,
}

impl Upload {
    /// The algorithm of its parts' checksums.
    pub fn algorithm(&self) -> Algorithm {
        self.new.algorithm.unwrap_or(Algorithm::Crc64Nvme)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    pub number: u16,
    pub size: u64,
    pub etag: String,
    pub modified: Timestamp,
    pub checksum: Option<Checksum>,
}

/// A part as a completed object remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOfObject {
    #[serde(rename = "i")]
    pub(crate) content: u64,
    #[serde(rename = "n")]
    pub number: u16,
    #[serde(rename = "s")]
    pub size: u64,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone, Default)]
pub struct ListUploads {
    pub prefix: String,
    pub delimiter: String,
    pub key_marker: String,
    /// With a key marker: uploads of that key with higher ids still follow.
    pub id_marker: String,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadEntry {
    Upload(Box<Upload>),
    Prefix(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadListing {
    pub entries: Vec<UploadEntry>,
    pub truncated: bool,
}

/// A part that the client wants in its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedPart {
    pub number: u16,
    /// Without quotes.
    pub etag: String,
    /// Base64, if the client gave one.
    pub checksum: Option<(Algorithm, String)>,
}

#[derive(Debug, Clone, Default)]
pub struct CompleteUpload {
    pub parts: Vec<ClaimedPart>,
    pub condition: WriteCondition,
    pub versioning: Versioning,
    /// What the object has unless its upload says otherwise.
    pub default_retention: Option<Retention>,
    /// What the client says the whole is: checksum text, as in the header.
    pub checksum: Option<(Algorithm, String)>,
    pub coverage: Option<Coverage>,
    pub size: Option<u64>,
    /// What the object says of its copies.
    pub replication: Option<ReplicationStatus>,
    /// Kept with the object.
    pub notes: Vec<Note>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the object does not exist")]
    NoSuchKey,
    #[error("the version does not exist")]
    NoSuchVersion,
    #[error("the version is a delete marker")]
    IsDeleteMarker(DeleteMarker),
    #[error("the version is protected by object lock")]
    Locked,
    #[error("the upload does not exist")]
    NoSuchUpload,
    /// Names the header.
    #[error("the condition {0} does not hold")]
    PreconditionFailed(&'static str),
    #[error("the source of the copy was replaced meanwhile")]
    SourceChanged,
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    #[error("part {0} is missing or has another ETag or checksum")]
    InvalidPart(u16),
    #[error("part {number} has {size} bytes, fewer than the minimum")]
    PartTooSmall { number: u16, size: u64, etag: String },
    #[error("the object would be larger than allowed")]
    TooLarge,
    /// The bytes are not what the client said; in the API's own words.
    #[error(transparent)]
    Refused(Error),
    /// Reading the client's body failed.
    #[error("the body ended early: {0}")]
    Body(BoxError),
    /// Where the bytes are, or would go, does not answer as it should. `slow`: it asks to be asked less.
    #[error("the foreign store of the bytes: {detail}")]
    Away { slow: bool, detail: String },
    /// Where the bytes are, or would go, refuses or answers what makes no sense; asking again does not help.
    #[error("the foreign store of the bytes: {0}")]
    Foreign(String),
    #[error("no disk space is left for objects")]
    DiskFull,
    #[error("the file system of the objects cannot be written")]
    ReadOnly,
    #[error("input/output: {0}")]
    Io(std::io::Error),
    #[error("object index: {0}")]
    Index(String),
    /// What is stored contradicts itself.
    #[error("damaged: {0}")]
    Damaged(String),
    #[error("the object store is shutting down")]
    Closed,
}

impl From<std::io::Error> for BackendError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            std::io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io(error),
        }
    }
}

impl From<rusqlite::Error> for BackendError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            Some(rusqlite::ErrorCode::ReadOnly) => Self::ReadOnly,
            _ => Self::Index(error.to_string()),
        }
    }
}

/// For callers that are not S3: images, snapshots, the command line.
impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        let text = error.to_string();
        match error {
            BackendError::NoSuchBucket => Self::not_found("NoSuchBucket", text),
            BackendError::NoSuchKey => Self::not_found("NoSuchKey", text),
            BackendError::NoSuchVersion | BackendError::IsDeleteMarker(_) => Self::not_found("NoSuchVersion", text),
            BackendError::Locked => Self::new(terroir_types::ErrorClass::Denied, "AccessDenied", text),
            BackendError::NoSuchUpload => Self::not_found("NoSuchUpload", text),
            BackendError::BucketNotEmpty => Self::conflict("BucketNotEmpty", text),
            BackendError::PreconditionFailed(_) => Self::conflict("PreconditionFailed", text),
            BackendError::InvalidPartOrder => Self::invalid("InvalidPartOrder", text),
            BackendError::InvalidPart(_) => Self::invalid("InvalidPart", text),
            BackendError::PartTooSmall { .. } => Self::invalid("EntityTooSmall", text),
            BackendError::TooLarge => Self::invalid("EntityTooLarge", text),
            BackendError::Refused(error) => error,
            BackendError::Body(_) => Self::invalid("IncompleteBody", text),
            BackendError::DiskFull => Self::new(terroir_types::ErrorClass::Capacity, "InsufficientStorage", text),
            BackendError::SourceChanged | BackendError::Closed | BackendError::ReadOnly | BackendError::Away { .. } => {
                Self::unavailable(text)
            }
            BackendError::Io(_) | BackendError::Index(_) | BackendError::Damaged(_) | BackendError::Foreign(_) => {
                Self::internal(text)
            }
        }
    }
}
