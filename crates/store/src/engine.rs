//! What an engine must do. The semantics are etcd's, so that etcd can stand behind the same trait:
//!
//! - One revision for the whole store; a committed transaction that changed something raises it by one. An empty
//!   store is at revision 1; 0 stands for "absent".
//! - Every key knows the revision that created it and the one that last wrote it.
//! - A transaction compares first and writes only if every comparison holds. Comparisons of a range see the keys that
//!   exist, so a deletion inside it is not seen.
//! - The change log is compactable. Reads and watches from before the compacted revision fail with
//!   [`StoreError::Compacted`].
//! - A lease that is not kept alive takes the keys attached to it along.

use async_trait::async_trait;
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;

use crate::{Key, KeyRange, KeyRing, StoreError};

/// Number of one committed transaction; rises by one per transaction.
pub type Revision = u64;
pub type LeaseId = u64;

/// Low bits of an outbox entry's sequence number: its place within the transaction.
pub const PLACE_BITS: u32 = 12;
const _: () = assert!(MAX_OPERATIONS < 1 << PLACE_BITS);

/// Operations in one transaction, on every engine.
pub const MAX_OPERATIONS: usize = 2048;
/// Bytes of keys, values and payloads in one transaction, on every engine.
pub const MAX_BYTES: usize = 2 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    pub key: Key,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// The key was last written at exactly this revision; 0: it does not exist.
    Unchanged { key: Key, mod_revision: Revision },
    /// No existing key in the range was written after this revision.
    RangeUnchanged { range: KeyRange, since: Revision },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Without a lease the key is detached from the one it had.
    Put { key: Key, value: Bytes, lease: Option<LeaseId> },
    /// Raises the key's mod revision, keeps value and lease. The whole transaction fails with
    /// [`StoreError::Absent`] if the key does not exist.
    Touch { key: Key },
    /// Deleting what does not exist changes nothing.
    Delete { key: Key },
    /// Appends to an outbox stream. Sequence numbers rise in the order of commits.
    Append { stream: String, payload: Bytes },
}

/// At most one operation per key.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Commit {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Commit {
    /// Size as the limits count it.
    pub fn bytes(&self) -> usize {
        let op = |op: &Op| match op {
            Op::Put { key, value, .. } => key.as_str().len() + value.len(),
            Op::Touch { key } | Op::Delete { key } => key.as_str().len(),
            Op::Append { stream, payload } => stream.len() + payload.len(),
        };
        self.ops.iter().map(op).sum()
    }
}

pub(crate) fn check_size(commit: &Commit) -> Result<(), StoreError> {
    let (operations, bytes) = (commit.ops.len().max(commit.compares.len()), commit.bytes());
    if operations > MAX_OPERATIONS || bytes > MAX_BYTES {
        return Err(StoreError::TooLarge { operations, bytes });
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Durable. A transaction that changed nothing reports the revision it found.
    Committed(Revision),
    /// A comparison failed; nothing was written.
    Conflict,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangePage {
    /// The revision that was read.
    pub revision: Revision,
    pub entries: Vec<KeyValue>,
    /// Whether the range holds more keys behind the last entry.
    pub more: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    pub key: Key,
    pub kind: EventKind,
    pub mod_revision: Revision,
    /// 0 for a deletion.
    pub create_revision: Revision,
    /// The stored form of the record; empty for a deletion.
    pub value: Bytes,
}

/// What one transaction changed, in the order of its operations. A batch without events says that nothing else happened up to its revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<WatchEvent>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxEntry {
    /// Rises in commit order; not gapless.
    pub sequence: u64,
    pub payload: Bytes,
}

/// Size of the state, for `status`, metrics and the bench.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct StoreStats {
    pub revision: Revision,
    pub compacted: Revision,
    /// Live records.
    pub records: u64,
    /// Bytes of keys and values of live records.
    pub bytes: u64,
    /// Per kind: (records, bytes).
    pub by_kind: Vec<(String, u64, u64)>,
    /// Changes kept for watchers and reads in the past.
    pub log_rows: u64,
    pub outbox_entries: u64,
    /// Bytes on disk, write-ahead log included.
    pub file_bytes: u64,
    pub leases: u64,
}

/// One watch. Dropping it ends it.
#[async_trait]
pub trait WatchSource: Send {
    /// The next batch; waits until there is one. May be cancelled without losing any.
    async fn next(&mut self) -> Result<WatchBatch, StoreError>;
}

#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Linearizable: not older than any commit that was acknowledged before the call.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// The keys' values at one revision (none: now), in the order asked for.
    async fn get(&self, keys: &[Key], at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, StoreError>;

    /// Up to `limit` entries of the range in key order, at one revision (none: now).
    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, StoreError>;

    /// Durable when it is answered. After an error that is no [`StoreError::is_refusal`] it may have been done or not.
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError>;

    /// All changes in `range` from revision `from` on, in order, none twice, none missing. [`StoreError::Compacted`]
    /// (here or from the watch) if `from` is before the compacted revision.
    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<Box<dyn WatchSource>, StoreError>;

    /// Forgets what was before `at`. Reads at `at` and later keep working.
    async fn compact(&self, at: Revision) -> Result<(), StoreError>;

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;
    /// Deletes the attached keys too.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Up to `limit` entries behind sequence number `after`.
    async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError>;
    /// Removes the entries up to and including `through`. May raise the revision, though no record changes.
    async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError>;

    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// The highest sequence number of an entry that was appended at `revision` or before.
    fn last_sequence(&self, revision: Revision) -> u64;

    /// Streams that hold entries.
    async fn outbox_streams(&self) -> Result<Vec<String>, StoreError>;

    /// Whether the state also lies with others than this machine. The outbox is sealed then, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// A consistent copy of the whole state in a new file of the embedded engine. `keys` open what is sealed only on
    /// this one.
    async fn backup_to(&self, path: &Path, keys: &dyn KeyRing) -> Result<(), StoreError>;

    /// Ends background work and releases the data; later calls answer [`StoreError::Closed`].
    async fn close(&self);
}
