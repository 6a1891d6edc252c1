//! Versions of objects: how writes treat what is there already, and how a version is named.
//!
//! Every write of a key makes a version that is newer than all others of the key. In a bucket with versioning they
//! stay; without it, or while it is suspended, a write replaces the version `null`, and only that. A deletion without
//! a version id adds a delete marker, a version without bytes. The newest version is the object, unless it is a marker.

use serde::{Deserialize, Serialize};
use terroir_types::Timestamp;

use super::{Note, ObjectLock, ObjectMeta, WriteCondition};
use crate::checksum::Checksum;
use std::sync::Arc;

/// What a bucket's writes do with the version that was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Versioning {
    /// Never switched on: a write replaces, a deletion removes.
    #[default]
    #[serde(rename = "o")]
    Off,
    /// Writes and deletions add.
    #[serde(rename = "e")]
    Enabled,
    /// Writes and deletions replace the version `null`; other versions stay.
    #[serde(rename = "s")]
    Suspended,
}

/// The name of one version of a key: `null`, or a text that only the backend understands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(String);

impl VersionId {
    const NULL: &'static str = "null";
    const DIGITS: usize = 16;

    /// What is written without versioning, or while it is suspended.
    pub fn null() -> Self {
        Self(Self::NULL.to_owned())
    }

    pub fn is_null(&self) -> bool {
        self.0 == Self::NULL
    }

    /// None if no version can have this name.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id =
            text.len() == Self::DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (is_id || text == Self::NULL).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn from_number(number: u64) -> Self {
        Self(format!("{number:016x}"))
    }

    pub(super) fn number(&self) -> Option<u64> {
        u64::from_str_radix(&self.0, 16).ok().filter(|_| !self.is_null())
    }
}

impl std::fmt::Display for VersionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one write of a key for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(pub(super) i64);

/// A version that says that the object is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteMarker {
    pub version: VersionId,
    /// Whole seconds.
    pub modified: Timestamp,
}

/// What is found at a key, or at one of its versions.
#[derive(Debug)]
pub enum Lookup<T> {
    Found(T),
    Marker(DeleteMarker),
    Missing,
}

impl<T> Lookup<T> {
    /// For callers to whom a deleted object is one that is not there.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Marker(_) | Self::Missing => None,
        }
    }

    pub fn map<R>(self, change: impl FnOnce(T) -> R) -> Lookup<R> {
        match self {
            Self::Found(found) => Lookup::Found(change(found)),
            Self::Marker(marker) => Lookup::Marker(marker),
            Self::Missing => Lookup::Missing,
        }
    }
}

/// A deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delete {
    /// None: the object, which leaves a delete marker where there is versioning.
    pub version: Option<VersionId>,
    /// Asked of the object, or of the version that is named.
    pub condition: WriteCondition,
    pub versioning: Versioning,
    /// The caller may pass over governance, and said so.
    pub bypass: bool,
    /// Kept if the deletion does what they are about.
    pub notes: Vec<Note>,
}

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Whether a version was removed, or hidden by a new delete marker.
    pub existed: bool,
    /// Whether a delete marker was added, or removed where a version was named.
    pub marker: bool,
    /// The marker that was added, or the version that was named. None where there is no versioning.
    pub version: Option<VersionId>,
}

/// A page of versions that is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListVersions {
    pub prefix: String,
    /// Keys with this text after the prefix are rolled up to one entry. Empty: none.
    pub delimiter: String,
    /// Only keys, and rolled-up prefixes, above this one; with `version`, older versions of this key too.
    pub after: String,
    /// Only versions of `after` that are older than this one.
    pub version: Option<VersionId>,
    pub limit: usize,
    /// Whether to read what the writers said of their objects, too.
    pub with_meta: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    pub key: String,
    pub version: VersionId,
    /// Names the write that made it, also where the version is called `null`.
    pub stamp: Stamp,
    /// Whether it is the newest of its key.
    pub latest: bool,
    /// When the next newer version was written; none for the newest.
    pub noncurrent_since: Option<Timestamp>,
    pub modified: Timestamp,
    /// None: a delete marker.
    pub object: Option<ListedBytes>,
}

/// What a version has that is no delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBytes {
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    pub checksum: Option<Checksum>,
    /// Only where it was asked for.
    pub meta: Option<Arc<ObjectMeta>>,
    pub lock: ObjectLock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionEntry {
    Version(ListedVersion),
    /// Rolled up; ends with the delimiter.
    Prefix(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionListing {
    /// By key in bytewise order, newest version first.
    pub entries: Vec<VersionEntry>,
    /// Where the next page begins: what to give as `after` and `version`. None: this was the last one. The version may
    /// be one that no version of the key is called.
    pub next: Option<(String, Option<VersionId>)>,
}

/// What a bucket holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketUsage {
    /// Versions with bytes: objects, and what they replaced.
    pub versions: u64,
    /// Bytes of all versions, and of parts of uploads in progress.
    pub bytes: u64,
}
