use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

use super::schema::{self, meta, row_id, sqlite_error};
use super::{Shared, blocking};
use crate::engine::{EventKind, KeyValue, OutboxEntry, RangePage, Revision, StoreStats, WatchBatch, WatchEvent};
use crate::{Key, KeyRange, StoreError};

/// Reads at a time; more wait.
const CONNECTIONS: usize = 4;
/// How long reads that are under way are waited for when the store is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), permits: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Waits until no connection is left, so that nothing touches the files any more: the last one to go removes the log
    /// beside the data file, which a reader cannot. Blocks.
    pub(super) fn close(&self) {
        self.permits.close();
        let deadline = Instant::now() + CLOSE_PATIENCE;
        while self.permits.available_permits() < CONNECTIONS && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs `read` on one consistent snapshot, not older than any acknowledged commit.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        read: impl FnOnce(&Snapshot<'_>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_outside_snapshot(shared, |connection| {
            let transaction = connection.transaction()?;
            let revision = meta(&transaction, "revision")?.unwrap_or_default();
            let compacted = meta(&transaction, "compacted")?.unwrap_or_default();
            read(&Snapshot { connection: &transaction, revision, compacted })
        })
        .await
    }

    pub(super) async fn run_outside_snapshot<T: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        read: impl FnOnce(&mut Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // Held until the connection is back or gone, also if nobody waits for the answer any more.
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let shared = Arc::clone(shared);
        blocking(move || {
            let readers = &shared.readers;
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => schema::open_reader(&readers.path)?,
            };
            let result = read(&mut connection);
            if !readers.permits.is_closed() && !matches!(result, Err(ReadError::Sqlite(_))) {
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            } else {
                drop(connection);
            }
            drop(permit);
            result.map_err(|error| match error {
                ReadError::Sqlite(error) => sqlite_error(&error),
                ReadError::Store(error) => error,
            })
        })
        .await
    }
}

pub(super) enum ReadError {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(super) struct Snapshot<'c> {
    connection: &'c Connection,
    pub(super) revision: Revision,
    compacted: Revision,
}

/// A key's value before some row of the log; none: it did not exist.
type Before = Option<KeyValue>;

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn key_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text = row.get_ref(column)?;
    Ok(Key::new(text.as_str()?))
}

fn bytes_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

/// Columns: key, create_revision, mod_revision, value.
fn entry(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: key_at(row, 0)?,
        create_revision: number(row, 1)?,
        mod_revision: number(row, 2)?,
        value: bytes_at(row, 3)?,
    })
}

/// Columns: key, old_create_revision, old_mod_revision, old_value.
fn before(row: &Row<'_>) -> rusqlite::Result<Before> {
    if row.get_ref(1)?.data_type() == rusqlite::types::Type::Null { Ok(None) } else { entry(row).map(Some) }
}

/// The condition and its parameters for the keys of a range.
fn within(range: &KeyRange) -> (&'static str, Vec<String>) {
    match range.end() {
        Some(end) => ("key >= ? AND key < ?", vec![range.start().to_owned(), end.to_owned()]),
        None => ("key >= ?", vec![range.start().to_owned()]),
    }
}

impl Snapshot<'_> {
    /// The revision to read, or why it cannot be read.
    fn check(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        let at = at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(StoreError::FutureRevision { requested: at, current: self.revision });
        }
        if at < self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        Ok(at)
    }

    pub(super) fn get(&self, keys: &[Key], at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, ReadError> {
        let at = self.check(at)?;
        let changed = if at == self.revision { BTreeMap::new() } else { self.undo(&KeyRange::all(), at)? };
        let mut query =
            self.connection.prepare_cached("SELECT key, create_revision, mod_revision, value FROM kv WHERE key = ?")?;
        keys.iter()
            .map(|key| match changed.get(key) {
                Some(before) => Ok(before.clone()),
                None => Ok(query.query_row([key.as_str()], entry).optional()?),
            })
            .collect()
    }

    /// For every key of the range that changed after `at`: what it was then.
    fn undo(&self, range: &KeyRange, at: Revision) -> rusqlite::Result<BTreeMap<Key, Before>> {
        let mut query = self.connection.prepare_cached(
            "SELECT key, old_create_revision, old_mod_revision, old_value FROM log WHERE id >= ? ORDER BY id",
        )?;
        let mut rows = query.query([row_id(at + 1, 0)])?;
        let mut changed = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key = key_at(row, 0)?;
            if range.contains(&key)
                && let Entry::Vacant(place) = changed.entry(key)
            {
                place.insert(before(row)?);
            }
        }
        Ok(changed)
    }

    pub(super) fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, ReadError> {
        let revision = self.check(at)?;
        let mut page = RangePage { revision, entries: Vec::new(), more: false };
        if range.is_empty() {
            return Ok(page);
        }
        let changed = if revision == self.revision { BTreeMap::new() } else { self.undo(range, revision)? };
        let mut changed = changed.into_iter().peekable();
        let (condition, parameters) = within(range);
        let mut query = self.connection.prepare_cached(&format!(
            "SELECT key, create_revision, mod_revision, value FROM kv WHERE {condition} ORDER BY key"
        ))?;
        let mut rows = query.query(params_from_iter(parameters))?;
        let mut row = rows.next()?;
        loop {
            let newest = row.map(|row| key_at(row, 0)).transpose()?;
            let undone = match (changed.peek(), &newest) {
                (Some((key, _)), Some(newest)) => key <= newest,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return Ok(page),
            };
            let found = if undone {
                let Some((key, before)) = changed.next() else { return Ok(page) };
                if newest.as_ref() == Some(&key) {
                    row = rows.next()?;
                }
                before
            } else {
                let found = row.map(entry).transpose()?;
                row = rows.next()?;
                found
            };
            if let Some(found) = found {
                if page.entries.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.entries.push(found);
            }
        }
    }

    /// All changes in the range from revision `from` on, ending with a batch for this snapshot's revision.
    pub(super) fn changes(&self, range: &KeyRange, from: Revision) -> Result<Vec<WatchBatch>, ReadError> {
        if from < self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted }.into());
        }
        let mut query = self.connection.prepare_cached(
            "SELECT key, old_create_revision, old_mod_revision, old_value, id, kind FROM log WHERE id >= ? ORDER BY id DESC",
        )?;
        let mut newest =
            self.connection.prepare_cached("SELECT key, create_revision, mod_revision, value FROM kv WHERE key = ?")?;
        // Backwards: what a key was before a change is what the change before that made of it.
        let mut later: BTreeMap<Key, Before> = BTreeMap::new();
        let mut batches: Vec<WatchBatch> = Vec::new();
        let mut rows = query.query([row_id(from, 0)])?;
        while let Some(row) = rows.next()? {
            let key = key_at(row, 0)?;
            if !range.contains(&key) {
                continue;
            }
            let made = match later.insert(key.clone(), before(row)?) {
                Some(made) => made,
                None => newest.query_row([key.as_str()], entry).optional()?,
            };
            let revision = schema::revision_of(row.get(4)?);
            let event = match made {
                Some(made) => WatchEvent {
                    key,
                    kind: EventKind::Put,
                    mod_revision: revision,
                    create_revision: made.create_revision,
                    value: made.value,
                },
                None => WatchEvent {
                    key,
                    kind: EventKind::Delete,
                    mod_revision: revision,
                    create_revision: 0,
                    value: Bytes::new(),
                },
            };
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(WatchBatch { revision, events: vec![event] }),
            }
        }
        batches.iter_mut().for_each(|batch| batch.events.reverse());
        batches.reverse();
        if self.revision >= from && batches.last().is_none_or(|batch| batch.revision < self.revision) {
            batches.push(WatchBatch { revision: self.revision, events: Vec::new() });
        }
        Ok(batches)
    }

    pub(super) fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, ReadError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut query = self.connection.prepare_cached(
            "SELECT sequence, payload FROM outbox WHERE stream = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        )?;
        let entries = query.query_map((stream, after, limit), |row| {
            Ok(OutboxEntry { sequence: number(row, 0)?, payload: bytes_at(row, 1)? })
        })?;
        Ok(entries.collect::<Result<_, _>>()?)
    }

    pub(super) fn outbox_streams(&self) -> Result<Vec<String>, ReadError> {
        let mut query = self.connection.prepare_cached("SELECT DISTINCT stream FROM outbox ORDER BY stream")?;
        let streams = query.query_map([], |row| row.get(0))?;
        Ok(streams.collect::<Result<_, _>>()?)
    }

    pub(super) fn stats(&self) -> Result<StoreStats, ReadError> {
        let mut stats = StoreStats { revision: self.revision, compacted: self.compacted, ..StoreStats::default() };
        let mut query = self.connection.prepare(
            "SELECT substr(key, 1, instr(key || '/', '/') - 1) AS kind, count(*),
                    sum(length(CAST(key AS BLOB)) + length(value)) FROM kv GROUP BY kind ORDER BY kind",
        )?;
        let kinds = query.query_map([], |row| Ok((row.get(0)?, number(row, 1)?, number(row, 2)?)))?;
        stats.by_kind = kinds.collect::<Result<_, _>>()?;
        stats.records = stats.by_kind.iter().map(|(_, records, _)| records).sum();
        stats.bytes = stats.by_kind.iter().map(|(_, _, bytes)| bytes).sum();
        let count =
            |table: &str| self.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| number(row, 0));
        stats.log_rows = count("log")?;
        stats.outbox_entries = count("outbox")?;
        let file = self.connection.path().map(PathBuf::from).unwrap_or_default();
        let mut wal = file.clone().into_os_string();
        wal.push("-wal");
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        stats.file_bytes = size(&file) + size(Path::new(&wal));
        Ok(stats)
    }
}

/// Writes a consistent copy next to its place and moves it there when it is durable.
pub(super) fn copy_to(connection: &mut Connection, draft: &Path, target: &Path) -> Result<(), ReadError> {
    let place = draft.to_str().ok_or_else(|| StoreError::Io(format!("{} is not UTF-8", draft.display())))?;
    {
        use std::os::unix::fs::OpenOptionsExt;
        // SQLite fills an empty file; made here so that nobody else can read it.
        let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft);
        new.map_err(StoreError::from)?;
    }
    connection.execute("VACUUM INTO ?", [place])?;
    let durable = || -> std::io::Result<()> {
        File::open(draft)?.sync_all()?;
        std::fs::rename(draft, target)?;
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    Ok(durable().map_err(StoreError::from)?)
}
