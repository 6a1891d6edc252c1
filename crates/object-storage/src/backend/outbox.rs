//! What is to be told to others of a write: kept in queues, each entry written together with the change that it tells of.
//!
//! A writer brings [`Note`]s; the backend adds what only the write itself knows, and numbers them. Whoever tells takes
//! entries in the order of their numbers and removes them once they were told, so that everything is told at least
//! once. A queue is bounded: what finds it full is dropped, counted, and tells nobody.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use terroir_types::Timestamp;
use tokio::sync::watch;

use super::{BackendError, Place, VersionId};

/// What a write must have done for a note to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A version with bytes was written, or what is said of one was changed.
    Written,
    /// What is said of a version was changed that is copied elsewhere.
    SourceChanged,
    /// A version, or a delete marker, was removed.
    Removed,
    /// A delete marker was added.
    MarkerAdded,
}

/// A message that is kept if the write that it comes with does what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub on: Outcome,
    pub queue: String,
    /// Entries that the queue may hold; one more is dropped and counted.
    pub limit: u64,
    /// For whoever reads the queue; the backend does not look into it.
    pub body: Vec<u8>,
}

/// A note that was kept, and what the write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Rises with every entry of all queues, in the order in which writes took effect. Never used again.
    pub number: u64,
    pub place: Place,
    pub version: VersionId,
    /// Bytes of the version that was written, else 0.
    pub size: u64,
    /// Of the version that the note is about, without quotes; none where something was removed.
    pub etag: Option<String>,
    /// In ms.
    pub at: Timestamp,
    pub body: Vec<u8>,
}

/// How a queue stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    pub name: String,
    pub entries: u64,
    /// When the oldest entry was written, ms since 1970.
    pub oldest: Option<i64>,
    /// Entries that were given up since the queue was made.
    pub dropped: u64,
}

#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Adds entries that no write comes with; they are about `place`, and perhaps about one version there.
    async fn tell(&self, place: &Place, version: Option<&VersionId>, notes: Vec<Note>) -> Result<(), BackendError>;

    /// Entries with numbers above `after`, in order.
    async fn entries(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<Entry>, BackendError>;

    /// Removes entries. `dropped`: they were given up, which is counted.
    async fn settle(&self, queue: &str, numbers: Vec<u64>, dropped: bool) -> Result<(), BackendError>;

    /// Removes a queue with all that is in it; gives the number of its entries.
    async fn remove_queue(&self, queue: &str) -> Result<u64, BackendError>;

    /// All queues that ever had an entry and were not removed.
    async fn queues(&self) -> Result<Vec<QueueStats>, BackendError>;

    /// Changes whenever there are new entries.
    fn bell(&self) -> watch::Receiver<u64>;
}
