//! The thread that owns the writing connection: group commit, leases, the change log's upkeep.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use terroir_types::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::reserve::Reserve;
use super::schema::{self, meta, revision_of, row_id, set_meta, sqlite_error};
use super::{Shared, SqliteOptions};
use crate::engine::{
    Commit, Compare, EventKind, LeaseId, MAX_OPERATIONS, Op, Outcome, Revision, WatchBatch, WatchEvent,
};
use crate::{Key, StoreError};

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Request {
    Commit { commit: Commit, reply: Reply<Outcome> },
    Compact { at: Revision, reply: Reply<()> },
    LeaseGrant { lease: LeaseId, ttl: Duration, reply: Reply<()> },
    LeaseRevoke { lease: LeaseId, reply: Reply<()> },
    OutboxTrim { stream: String, through: u64, reply: Reply<()> },
}

pub(super) struct Queued {
    pub(super) request: Request,
    pub(super) _slot: OwnedSemaphorePermit,
}

/// Requests and bytes that share one fsync.
const GROUP_REQUESTS: usize = 256;
const GROUP_BYTES: usize = 8 << 20;
/// How often expired leases are looked for while there are any.
const LEASE_POLL: Duration = Duration::from_millis(100);
/// Rows of the change log that are removed beside a group of changes, or at once when nothing else is to do.
const TRIM_ROWS: usize = 64;
const IDLE_TRIM_ROWS: usize = 2048;
/// What deletions may use beyond the bound of a full data file: their undo rows come before the space they free.
const BEYOND_BYTES: u64 = 4 << 20;
/// How fine the age of the change log is known.
const TICK: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    options: SqliteOptions,
    requests: mpsc::Receiver<Queued>,
    state: State,
    /// Which revision was the newest at some moments of the past.
    ticks: VecDeque<(Timestamp, Revision)>,
    /// Whether rows that an explicit compaction gave up may still be there.
    compacting: bool,
    reserve: Reserve,
    /// Held as long as the file is written.
    _lock: File,
}

/// What the tables say, kept in memory. Read again after a failed transaction.
#[derive(Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    log_rows: usize,
    log_bytes: usize,
    outbox: HashMap<String, OutboxSize>,
}

#[derive(Default, Clone, Copy)]
struct OutboxSize {
    entries: usize,
    bytes: usize,
}

/// What a group did, told to the others once it is durable.
#[derive(Default)]
struct Done {
    batches: Vec<WatchBatch>,
    answers: Vec<Answer>,
    ended_leases: Vec<LeaseId>,
}

enum Answer {
    Commit(Result<Outcome, StoreError>),
    Plain(Result<(), StoreError>),
}

/// A refused request leaves the others of its group alone; an SQLite error undoes the group.
type Applied<T> = rusqlite::Result<Result<T, StoreError>>;

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: File,
        shared: Arc<Shared>,
        options: SqliteOptions,
        requests: mpsc::Receiver<Queued>,
    ) -> Result<Self, StoreError> {
        let reserve = Reserve::new(&options.path, options.reserve_bytes);
        let mut writer = Self {
            connection,
            shared,
            options,
            requests,
            state: State::default(),
            ticks: VecDeque::new(),
            compacting: true,
            reserve,
            _lock: lock,
        };
        writer.load().map_err(|error| sqlite_error(&error))?;
        writer.load_leases().map_err(|error| sqlite_error(&error))?;
        writer.shared.revision.store(writer.state.revision, Ordering::Release);
        Ok(writer)
    }

    fn load(&mut self) -> rusqlite::Result<()> {
        let connection = &self.connection;
        let (log_rows, log_bytes) =
            connection.query_row("SELECT count(*), coalesce(sum(length(old_value)), 0) FROM log", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let mut query =
            connection.prepare_cached("SELECT stream, count(*), sum(length(payload)) FROM outbox GROUP BY stream")?;
        let outbox = query
            .query_map([], |row| Ok((row.get(0)?, OutboxSize { entries: row.get(1)?, bytes: row.get(2)? })))?
            .collect::<rusqlite::Result<_>>()?;
        self.state = State {
            revision: meta(connection, "revision")?.unwrap_or_default(),
            compacted: meta(connection, "compacted")?.unwrap_or_default(),
            log_rows,
            log_bytes,
            outbox,
        };
        Ok(())
    }

    fn load_leases(&self) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare("SELECT id, ttl_ms FROM lease")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (id, ttl_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
            self.shared.leases.start(id.cast_unsigned(), Duration::from_millis(ttl_ms.cast_unsigned()));
        }
        Ok(())
    }

    /// Until every sender is gone and everything queued is done.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.wait() {
                Ok(first) => Some(first),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let expired = self.shared.leases.expired();
            let group = first.map(|first| self.group(first)).unwrap_or_default();
            let idle = group.is_empty();
            if !idle || !expired.is_empty() || self.trim_waits() {
                let rows = if idle { IDLE_TRIM_ROWS } else { TRIM_ROWS };
                self.commit_group(group, &expired, rows);
            }
        }
    }

    fn wait(&self) -> Result<Queued, mpsc::RecvTimeoutError> {
        if self.trim_waits() {
            return self.requests.recv_timeout(Duration::ZERO);
        }
        match self.shared.leases.next_deadline() {
            Some(left) => self.requests.recv_timeout(left.min(LEASE_POLL)),
            None => self.requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        }
    }

    fn group(&self, first: Queued) -> Vec<Queued> {
        let mut bytes = first.request.bytes();
        let mut group = vec![first];
        while group.len() < GROUP_REQUESTS && bytes < GROUP_BYTES {
            let Ok(next) = self.requests.try_recv() else { break };
            bytes += next.request.bytes();
            group.push(next);
        }
        group
    }

    fn commit_group(&mut self, group: Vec<Queued>, expired: &[LeaseId], trim_rows: usize) {
        let mut result = self.try_group(&group, expired, trim_rows);
        if let Err(error) = &result {
            self.roll_back();
            if sqlite_is_full(error) {
                if group.len() > 1 {
                    // One that is too big shall not fail the others, nor those that make room.
                    for queued in group {
                        self.commit_group(vec![queued], &[], 0);
                    }
                    return;
                }
                result = self.try_without_space(&group, expired);
            }
        }
        match result {
            Ok(done) => {
                for lease in done.ended_leases {
                    self.shared.leases.end(lease);
                }
                self.shared.hub.publish(done.batches);
                self.shared.revision.store(self.state.revision, Ordering::Release);
                for (queued, answer) in group.into_iter().zip(done.answers) {
                    queued.request.answer(answer, &self.shared);
                }
            }
            Err(error) => {
                let error = sqlite_error(&error);
                tracing::error!(%error, transactions = group.len(), "the state store cannot commit");
                group.into_iter().for_each(|queued| queued.request.refuse(error.clone()));
                if !expired.is_empty() {
                    // The leases stay listed and are tried again; not in a tight loop.
                    std::thread::sleep(LEASE_POLL);
                }
            }
        }
    }

    /// Tries again: with space from the reserve, then without the change log; what only frees space may go beyond the
    /// bound of the file.
    fn try_without_space(&mut self, group: &[Queued], expired: &[LeaseId]) -> rusqlite::Result<Done> {
        while self.reserve.disk_is_full() && self.reserve.release() {
            match self.try_group(group, expired, 0) {
                Err(error) if sqlite_is_full(&error) => self.roll_back(),
                Err(error) => {
                    self.roll_back();
                    return Err(error);
                }
                done => return done,
            }
        }
        self.make_room();
        let mut result = self.try_group(group, expired, 0);
        if result.is_err() {
            self.roll_back();
            if let Some(bytes) = self.options.max_bytes
                && group.iter().all(|queued| queued.request.frees())
            {
                schema::limit(&self.connection, bytes + BEYOND_BYTES)?;
                result = self.try_group(group, expired, 0);
                if result.is_err() {
                    self.roll_back();
                }
                schema::limit(&self.connection, bytes)?;
            }
        }
        result
    }

    fn roll_back(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed group of transactions cannot be rolled back");
        }
        if let Err(error) = self.load() {
            tracing::error!(%error, "the state store cannot be read");
        }
    }

    /// Gives up the change log, so that what makes room has room. Watchers that lag will have to start anew.
    fn make_room(&mut self) {
        if self.state.log_rows == 0 {
            return;
        }
        let revision = self.state.revision;
        let emptied = (|| -> rusqlite::Result<()> {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            self.connection.execute("DELETE FROM log WHERE id < ?", [row_id(revision, 0)])?;
            set_meta(&self.connection, "compacted", revision)?;
            self.connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(RESTART)")?;
            Ok(())
        })();
        self.roll_back();
        tracing::warn!(worked = emptied.is_ok(), "the disk is full: dropped the change log of the state store");
    }

    fn try_group(&mut self, group: &[Queued], expired: &[LeaseId], trim_rows: usize) -> rusqlite::Result<Done> {
        let mut done = Done::default();
        let (revision, compacted, rows) = (self.state.revision, self.state.compacted, self.state.log_rows);
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for lease in expired {
            self.revoke(*lease, &mut done)?.ok();
        }
        for queued in group {
            let answer = match &queued.request {
                Request::Commit { commit, .. } => Answer::Commit(self.apply(commit, &mut done)?),
                Request::Compact { at, .. } => Answer::Plain(self.compact(*at)),
                Request::LeaseGrant { lease, ttl, .. } => Answer::Plain(self.grant(*lease, *ttl)?),
                Request::LeaseRevoke { lease, .. } => Answer::Plain(self.revoke(*lease, &mut done)?),
                Request::OutboxTrim { stream, through, .. } => Answer::Plain(self.trim_outbox(stream, *through)?),
            };
            done.answers.push(answer);
        }
        let added = self.state.log_rows.saturating_sub(rows);
        self.trim_log(trim_rows.max(2 * added))?;
        if self.state.revision != revision {
            set_meta(&self.connection, "revision", self.state.revision)?;
        }
        if self.state.compacted != compacted {
            set_meta(&self.connection, "compacted", self.state.compacted)?;
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(done)
    }

    fn apply(&mut self, commit: &Commit, done: &mut Done) -> Applied<Outcome> {
        for compare in &commit.compares {
            if !self.holds(compare)? {
                return Ok(Ok(Outcome::Conflict));
            }
        }
        if let Some(refusal) = self.refusal(commit)? {
            return Ok(Err(refusal));
        }
        let revision = self.state.revision + 1;
        let mut events = Vec::with_capacity(commit.ops.len());
        let mut appended = false;
        for (index, op) in commit.ops.iter().enumerate() {
            match op {
                Op::Put { key, value, lease } => {
                    let value = value.clone();
                    events.extend(self.put(key, value, *lease, revision, index)?);
                }
                Op::Touch { key } => {
                    let row = self
                        .connection
                        .prepare_cached("SELECT value, lease FROM kv WHERE key = ?")?
                        .query_row([key.as_str()], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?)))
                        .optional()?;
                    if let Some((value, lease)) = row {
                        let lease = lease.map(i64::cast_unsigned);
                        events.extend(self.put(key, value.into(), lease, revision, index)?);
                    }
                }
                Op::Delete { key } => events.extend(self.delete(key, revision, index)?),
                Op::Append { stream, payload } => {
                    self.append(stream, payload, revision, index)?;
                    appended = true;
                }
            }
        }
        if events.is_empty() && !appended {
            return Ok(Ok(Outcome::Committed(self.state.revision)));
        }
        self.state.revision = revision;
        done.batches.push(WatchBatch { revision, events });
        Ok(Ok(Outcome::Committed(revision)))
    }

    fn holds(&self, compare: &Compare) -> rusqlite::Result<bool> {
        match compare {
            Compare::Unchanged { key, mod_revision } => {
                let found: Option<i64> = self
                    .connection
                    .prepare_cached("SELECT mod_revision FROM kv WHERE key = ?")?
                    .query_row([key.as_str()], |row| row.get(0))
                    .optional()?;
                Ok(found.unwrap_or(0).cast_unsigned() == *mod_revision)
            }
            Compare::RangeUnchanged { range, since } => {
                let end = range.end();
                let changed: bool = if *since + 1 >= self.state.compacted {
                    // What changed since then is in the log: few rows, however many keys the range has.
                    self.connection
                        .prepare_cached(
                            "SELECT EXISTS (SELECT 1 FROM log CROSS JOIN kv ON kv.key = log.key WHERE log.id >= ?3
                             AND log.key >= ?1 AND (?2 IS NULL OR log.key < ?2) AND kv.mod_revision > ?4)",
                        )?
                        .query_row((range.start(), end, row_id(since + 1, 0), since.cast_signed()), |row| row.get(0))?
                } else {
                    self.connection
                        .prepare_cached(
                            "SELECT EXISTS (SELECT 1 FROM kv WHERE key >= ?1 AND (?2 IS NULL OR key < ?2)
                             AND mod_revision > ?3)",
                        )?
                        .query_row((range.start(), end, since.cast_signed()), |row| row.get(0))?
                };
                Ok(!changed)
            }
        }
    }

    /// Why a transaction whose comparisons hold cannot be done; looked for before anything is written.
    fn refusal(&self, commit: &Commit) -> rusqlite::Result<Option<StoreError>> {
        let mut appended: HashMap<&str, OutboxSize> = HashMap::new();
        for op in &commit.ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.lease_exists(*lease)? => {
                    return Ok(Some(StoreError::LeaseNotFound(*lease)));
                }
                Op::Touch { key } if self.holds(&Compare::Unchanged { key: key.clone(), mod_revision: 0 })? => {
                    return Ok(Some(StoreError::Absent(key.clone())));
                }
                Op::Append { stream, payload } => {
                    let size = appended
                        .entry(stream)
                        .or_insert_with(|| self.state.outbox.get(stream).copied().unwrap_or_default());
                    size.entries += 1;
                    size.bytes += payload.len();
                    let limit = self.options.outbox_limit;
                    if size.entries > limit.entries || size.bytes > limit.bytes {
                        return Ok(Some(StoreError::OutboxFull { stream: stream.clone() }));
                    }
                }
                Op::Put { .. } | Op::Touch { .. } | Op::Delete { .. } => {}
            }
        }
        Ok(None)
    }

    fn lease_exists(&self, lease: LeaseId) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM lease WHERE id = ?)")?
            .query_row([lease.cast_signed()], |row| row.get(0))
    }

    /// Moves the key's present value into the log. Returns its create revision; none: the key does not exist.
    fn log(&mut self, key: &Key, kind: EventKind, revision: Revision, index: usize) -> rusqlite::Result<Option<u64>> {
        let mut query =
            self.connection.prepare_cached("SELECT create_revision, mod_revision, value FROM kv WHERE key = ?")?;
        let mut rows = query.query([key.as_str()])?;
        let old = rows.next()?;
        if old.is_none() && kind == EventKind::Delete {
            return Ok(None);
        }
        let (created, modified, value) = match old {
            Some(row) => (Some(row.get::<_, i64>(0)?), Some(row.get::<_, i64>(1)?), Some(row.get_ref(2)?.as_blob()?)),
            None => (None, None, None),
        };
        self.connection.prepare_cached("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)")?.execute((
            row_id(revision, index),
            key.as_str(),
            kind == EventKind::Put,
            created,
            modified,
            value,
        ))?;
        self.state.log_rows += 1;
        self.state.log_bytes += value.map_or(0, <[u8]>::len);
        Ok(created.map(i64::cast_unsigned))
    }

    fn put(
        &mut self,
        key: &Key,
        value: Bytes,
        lease: Option<LeaseId>,
        revision: Revision,
        index: usize,
    ) -> rusqlite::Result<Option<WatchEvent>> {
        let create_revision = self.log(key, EventKind::Put, revision, index)?.unwrap_or(revision);
        self.connection.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?)")?.execute((
            key.as_str(),
            create_revision.cast_signed(),
            revision.cast_signed(),
            lease.map(u64::cast_signed),
            &*value,
        ))?;
        Ok(Some(WatchEvent { key: key.clone(), kind: EventKind::Put, mod_revision: revision, create_revision, value }))
    }

    fn delete(&mut self, key: &Key, revision: Revision, index: usize) -> rusqlite::Result<Option<WatchEvent>> {
        if self.log(key, EventKind::Delete, revision, index)?.is_none() {
            return Ok(None);
        }
        self.connection.prepare_cached("DELETE FROM kv WHERE key = ?")?.execute([key.as_str()])?;
        Ok(Some(WatchEvent {
            key: key.clone(),
            kind: EventKind::Delete,
            mod_revision: revision,
            create_revision: 0,
            value: Bytes::new(),
        }))
    }

    fn append(&mut self, stream: &str, payload: &[u8], revision: Revision, index: usize) -> rusqlite::Result<()> {
        self.connection.prepare_cached("INSERT INTO outbox VALUES (?, ?, ?)")?.execute((
            stream,
            row_id(revision, index),
            payload,
        ))?;
        let size = self.state.outbox.entry(stream.to_owned()).or_default();
        size.entries += 1;
        size.bytes += payload.len();
        Ok(())
    }

    fn trim_outbox(&mut self, stream: &str, through: u64) -> Applied<()> {
        let through = i64::try_from(through).unwrap_or(i64::MAX);
        let mut delete = self
            .connection
            .prepare_cached("DELETE FROM outbox WHERE stream = ? AND sequence <= ? RETURNING length(payload)")?;
        let mut rows = delete.query((stream, through))?;
        let mut size = self.state.outbox.remove(stream).unwrap_or_default();
        while let Some(row) = rows.next()? {
            size.entries = size.entries.saturating_sub(1);
            size.bytes = size.bytes.saturating_sub(row.get(0)?);
        }
        if size.entries > 0 {
            self.state.outbox.insert(stream.to_owned(), size);
        }
        Ok(Ok(()))
    }

    fn grant(&self, lease: LeaseId, ttl: Duration) -> Applied<()> {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.connection.prepare_cached("INSERT INTO lease VALUES (?, ?)")?.execute((lease.cast_signed(), ttl_ms))?;
        Ok(Ok(()))
    }

    fn revoke(&mut self, lease: LeaseId, done: &mut Done) -> Applied<()> {
        done.ended_leases.push(lease);
        if !self.lease_exists(lease)? {
            return Ok(Err(StoreError::LeaseNotFound(lease)));
        }
        let attached: Vec<String> = self
            .connection
            .prepare_cached("SELECT key FROM kv WHERE lease = ? ORDER BY key")?
            .query_map([lease.cast_signed()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for keys in attached.chunks(MAX_OPERATIONS) {
            let ops = keys.iter().map(|key| Op::Delete { key: Key::new(key.as_str()) }).collect();
            if let Err(refused) = self.apply(&Commit { compares: Vec::new(), ops }, done)? {
                return Ok(Err(refused));
            }
        }
        self.connection.prepare_cached("DELETE FROM lease WHERE id = ?")?.execute([lease.cast_signed()])?;
        Ok(Ok(()))
    }

    fn compact(&mut self, at: Revision) -> Result<(), StoreError> {
        if at > self.state.revision {
            return Err(StoreError::FutureRevision { requested: at, current: self.state.revision });
        }
        self.state.compacted = self.state.compacted.max(at);
        self.compacting = true;
        Ok(())
    }

    /// How many rows the change log has beyond its bounds.
    fn trim_backlog(&self) -> usize {
        let retention = &self.options.retention;
        let too_many = self.state.log_rows.saturating_sub(retention.max_changes);
        if self.state.log_bytes > retention.max_bytes { too_many.max(1) } else { too_many }
    }

    /// Whether there is enough to remove to do it while nothing else is to do.
    fn trim_waits(&self) -> bool {
        self.compacting || self.trim_backlog() > IDLE_TRIM_ROWS
    }

    /// The revision before which changes are no longer kept, bounds aside.
    fn horizon(&mut self) -> Revision {
        let now = self.options.clock.now();
        if self.ticks.back().is_none_or(|(time, _)| now.since(*time) >= TICK) {
            self.ticks.push_back((now, self.state.revision));
            self.reserve.fill();
        }
        let age = self.options.retention.min_age;
        while self.ticks.get(1).is_some_and(|(time, _)| now.since(*time) >= age) {
            self.ticks.pop_front();
        }
        let old = self.ticks.front().filter(|(time, _)| now.since(*time) >= age).map_or(0, |(_, revision)| *revision);
        old.min(self.state.revision.saturating_sub(self.options.retention.min_revisions))
    }

    /// Removes up to `rows` of the oldest rows of the change log that are compacted or beyond their bounds.
    fn trim_log(&mut self, rows: usize) -> rusqlite::Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let over = self.trim_backlog();
        let horizon = self.horizon().max(self.state.compacted);
        let bound = if over > 0 { self.state.revision } else { horizon };
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE id < ? ORDER BY id LIMIT ?)
             RETURNING id, length(old_value)",
        )?;
        let mut removed = delete.query((row_id(bound, 0), i64::try_from(rows).unwrap_or(i64::MAX)))?;
        let mut left = rows;
        while let Some(row) = removed.next()? {
            left -= 1;
            self.state.compacted = self.state.compacted.max(revision_of(row.get(0)?) + 1);
            self.state.log_rows = self.state.log_rows.saturating_sub(1);
            self.state.log_bytes = self.state.log_bytes.saturating_sub(row.get::<_, Option<usize>>(1)?.unwrap_or(0));
        }
        self.compacting &= left == 0;
        Ok(())
    }
}

impl Drop for Writer {
    /// At its end, and if it panics: nobody shall wait for what cannot come.
    fn drop(&mut self) {
        self.shared.hub.close();
        self.shared.readers.close();
    }
}

fn sqlite_is_full(error: &rusqlite::Error) -> bool {
    matches!(sqlite_error(error), StoreError::DiskFull)
}

impl Request {
    fn bytes(&self) -> usize {
        if let Self::Commit { commit, .. } = self { commit.bytes() } else { 0 }
    }

    /// Whether it can only make the state smaller.
    fn frees(&self) -> bool {
        match self {
            Self::Commit { commit, .. } => commit.ops.iter().all(|op| matches!(op, Op::Delete { .. })),
            Self::Compact { .. } | Self::LeaseRevoke { .. } | Self::OutboxTrim { .. } => true,
            Self::LeaseGrant { .. } => false,
        }
    }

    /// A caller that no longer waits does not miss the answer.
    fn answer(self, answer: Answer, shared: &Shared) {
        match (self, answer) {
            (Self::Commit { reply, .. }, Answer::Commit(result)) => drop(reply.send(result)),
            (Self::LeaseGrant { lease, ttl, reply }, Answer::Plain(result)) => {
                if result.is_ok() {
                    shared.leases.start(lease, ttl);
                }
                drop(reply.send(result));
            }
            (
                Self::Compact { reply, .. } | Self::LeaseRevoke { reply, .. } | Self::OutboxTrim { reply, .. },
                Answer::Plain(result),
            ) => drop(reply.send(result)),
            (request, _) => request.refuse(StoreError::Corrupt("an answer to another question".into())),
        }
    }

    fn refuse(self, error: StoreError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(error))),
            Self::Compact { reply, .. }
            | Self::LeaseGrant { reply, .. }
            | Self::LeaseRevoke { reply, .. }
            | Self::OutboxTrim { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
