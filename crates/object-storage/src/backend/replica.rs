//! Copies of versions in other buckets, which keep the version's name.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use super::{BackendError, DeleteMarker, Entry, Note, ObjectLock, ObjectMeta, Outbox, Place, Source};

/// What a version says of its copies, or that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationStatus {
    /// Not all copies are made, or up to date.
    #[serde(rename = "p")]
    Pending,
    #[serde(rename = "c")]
    Completed,
    /// A copy could not be made.
    #[serde(rename = "f")]
    Failed,
    #[serde(rename = "r")]
    Replica,
}

impl ReplicationStatus {
    /// As `x-amz-replication-status` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Replica => "REPLICA",
        }
    }

    /// Whether it has copies that follow it.
    pub const fn is_followed(self) -> bool {
        matches!(self, Self::Pending | Self::Completed)
    }
}

/// A copy that is to be made.
#[derive(Debug, Clone)]
pub struct NewReplica {
    pub meta: ObjectMeta,
    pub lock: ObjectLock,
    /// Kept if the copy is new.
    pub notes: Vec<Note>,
    /// Targets where the copy's bytes may not be.
    pub keep_out: BTreeSet<String>,
}

#[async_trait]
pub trait Replicas: Outbox {
    /// Makes a copy of a version under the same name, at its place in the order of the key's versions. If there is one
    /// already, what is said of it becomes what is said now. False: there was one.
    ///
    /// # Errors
    /// `SourceChanged` if the source is gone; `PreconditionFailed` if another version has its name.
    async fn replicate(&self, from: &Source, to: &Place, new: NewReplica) -> Result<bool, BackendError>;

    /// The same for a delete marker.
    ///
    /// # Errors
    /// As [`Self::replicate`].
    async fn replicate_marker(&self, to: &Place, marker: &DeleteMarker, notes: Vec<Note>)
    -> Result<bool, BackendError>;

    /// Removes an entry and says on its version what came of it. Once no other copy of the version is waited for, the
    /// version is `Completed`, unless a copy has failed.
    async fn settle_replication(&self, queue: &str, entry: &Entry, failed: bool) -> Result<(), BackendError>;
}
