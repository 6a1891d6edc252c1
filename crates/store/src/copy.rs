//! The whole state from one engine to another: backups, restoring them, moving.
//!
//! Records keep keys and values, not revisions; what hangs on a lease is left out, because leases do not move.

use std::path::Path;
use std::sync::Arc;
use terroir_types::{IdSource, OsRandom, SystemClock};

use crate::engine::{Commit, Engine, MAX_BYTES, MAX_OPERATIONS, Op, PLACE_BITS, Revision};
use crate::record::{open_entry, seal_entry};
use crate::sqlite::{SqliteEngine, SqliteOptions};
use crate::{Durability, KeyRange, KeyRing, OutboxLimit, Retention, StoreError};

/// Records that are read at a time.
const PAGE: usize = 1000;
/// Outbox entries that are read at a time.
const ENTRIES: usize = 1000;

/// How much was copied.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The revision of the source that the records are of.
    pub revision: Revision,
    pub records: u64,
    pub outbox_entries: u64,
}

/// Puts together what fits into one transaction.
pub struct Writer<'e> {
    to: &'e dyn Engine,
    commit: Commit,
    bytes: usize,
}

impl<'e> Writer<'e> {
    pub fn new(to: &'e dyn Engine) -> Self {
        Self { to, commit: Commit::default(), bytes: 0 }
    }

    pub async fn add(&mut self, op: Op) -> Result<(), StoreError> {
        let bytes = Commit { compares: Vec::new(), ops: vec![op.clone()] }.bytes();
        if self.commit.ops.len() >= MAX_OPERATIONS / 2 || self.bytes + bytes > MAX_BYTES / 2 {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.commit.ops.push(op);
        Ok(())
    }

    pub async fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        let commit = std::mem::take(&mut self.commit);
        if commit.ops.is_empty() { Ok(()) } else { self.to.commit(commit).await.map(drop) }
    }
}

/// Copies records as they are at one revision, and outbox streams. Records that are there already are overwritten.
pub async fn all(from: &dyn Engine, to: &dyn Engine, keys: &dyn KeyRing) -> Result<Copied, StoreError> {
    let mut copied = Copied::default();
    let mut writer = Writer::new(to);
    let (mut rest, mut at) = (KeyRange::all(), None);
    loop {
        let page = from.range(&rest, PAGE, at).await?;
        at = Some(page.revision);
        copied.revision = page.revision;
        if let Some(last) = page.entries.last() {
            rest = rest.after(&last.key);
        }
        for entry in page.entries {
            copied.records += 1;
            writer.add(Op::Put { key: entry.key, value: entry.value, lease: None }).await?;
        }
        if !page.more {
            break;
        }
    }
    for stream in from.outbox_streams().await? {
        let mut after = 0;
        loop {
            let entries = from.outbox(&stream, after, ENTRIES).await?;
            let Some(last) = entries.last() else { break };
            after = last.sequence;
            for entry in entries {
                copied.outbox_entries += 1;
                let payload = match (from.is_shared(), to.is_shared()) {
                    (true, false) => open_entry(keys, &stream, &entry.payload)?,
                    (false, true) => seal_entry(keys, &stream, &entry.payload)?,
                    _ => entry.payload,
                };
                writer.add(Op::Append { stream: stream.clone(), payload }).await?;
            }
        }
    }
    writer.flush().await?;
    Ok(copied)
}

/// Whether both hold the same records and as many outbox entries; looked at while nobody writes.
pub async fn same(one: &dyn Engine, other: &dyn Engine) -> Result<bool, StoreError> {
    let mut rest = KeyRange::all();
    loop {
        let (left, right) = (one.range(&rest, PAGE, None).await?, other.range(&rest, PAGE, None).await?);
        let pairs = left.entries.iter().zip(&right.entries);
        let equal = left.entries.len() == right.entries.len()
            && left.more == right.more
            && pairs.into_iter().all(|(left, right)| left.key == right.key && left.value == right.value);
        if !equal {
            return Ok(false);
        }
        match left.entries.last() {
            Some(last) if left.more => rest = rest.after(&last.key),
            _ => break,
        }
    }
    let streams = one.outbox_streams().await?;
    if streams != other.outbox_streams().await? {
        return Ok(false);
    }
    for stream in streams {
        if one.outbox(&stream, 0, usize::MAX).await?.len() != other.outbox(&stream, 0, usize::MAX).await?.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A new file of the embedded engine, in place of one that may be there. It appears whole or not at all.
pub(crate) async fn to_file(
    from: &dyn Engine,
    path: &Path,
    keys: &dyn KeyRing,
    ids: &dyn IdSource,
) -> Result<(), StoreError> {
    let draft = path.with_extension(format!("{:032x}.new", ids.next_u128()));
    let lock = draft.with_extension("new.lock");
    let options = SqliteOptions {
        path: draft.clone(),
        clock: Arc::new(SystemClock),
        ids: Arc::new(OsRandom),
        lease_clock: Arc::new(|| std::time::Duration::ZERO),
        durability: Durability::Full,
        max_bytes: None,
        reserve_bytes: 0,
        retention: Retention::default(),
        outbox_limit: OutboxLimit { entries: usize::MAX, bytes: usize::MAX },
        first_revision: (from.last_sequence(from.current_revision().await?) >> PLACE_BITS).max(1),
    };
    let done = async {
        let whole = SqliteEngine::open(options).await?;
        let copied = all(from, &whole, keys).await;
        let copied = match copied {
            // Into one file, without the write-ahead log.
            Ok(_) => whole.backup_to(path, keys).await,
            Err(error) => Err(error),
        };
        whole.close().await;
        copied
    };
    let done = done.await;
    for file in [draft.clone(), lock, draft.with_extension("new-wal"), draft.with_extension("new-shm")] {
        // What was never made cannot be removed.
        let _ = std::fs::remove_file(file);
    }
    done
}
