//! Queues of what is to be told of writes (see [`crate::backend::Outbox`]).
//!
//! `outbox` has the entries, `queue` how many there are of each queue. The numbers are SQLite's: they rise over all
//! queues and are never given twice.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use terroir_types::Timestamp;
use tokio::sync::watch;

use super::{LocalBackend, rows};
use crate::backend::{
    BackendError, BucketId, Deleted, Entry, Note, ObjectHead, Outbox, Outcome, Place, QueueStats, VersionId,
};

/// The write that notes come with.
pub(super) struct Fact<'a> {
    pub at: &'a Place,
    pub outcome: Outcome,
    pub version: &'a VersionId,
    pub size: u64,
    pub etag: Option<&'a str>,
    pub now: Timestamp,
}

/// What a delete marker has for an ETag in notes: that of no bytes, as in AWS.
const ETAG_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

impl<'a> Fact<'a> {
    pub(super) fn written(at: &'a Place, head: &'a ObjectHead, now: Timestamp) -> Self {
        Self { at, outcome: Outcome::Written, version: &head.version, size: head.size, etag: Some(&head.etag), now }
    }

    pub(super) fn of_marker(at: &'a Place, version: &'a VersionId, now: Timestamp) -> Self {
        Self { at, outcome: Outcome::MarkerAdded, version, size: 0, etag: Some(ETAG_OF_NOTHING), now }
    }

    /// None: the deletion found nothing to delete.
    pub(super) fn deleted(
        at: &'a Place,
        named: bool,
        deleted: &'a Deleted,
        null: &'a VersionId,
        now: Timestamp,
    ) -> Option<Self> {
        let version = deleted.version.as_ref().unwrap_or(null);
        if !named && deleted.marker {
            return Some(Self::of_marker(at, version, now));
        }
        deleted.existed.then_some(Self { at, outcome: Outcome::Removed, version, size: 0, etag: None, now })
    }
}

/// Whether a copy that a new version is noted for finds its queue full.
pub(super) fn is_full(c: &Connection, notes: &[Note]) -> Result<bool, BackendError> {
    if notes.is_empty() {
        return Ok(false);
    }
    let mut count = c.prepare_cached("SELECT entries FROM queue WHERE name = ?1")?;
    for note in notes.iter().filter(|note| note.queue.starts_with(crate::replication::QUEUES)) {
        let entries: Option<i64> = count.query_row([&note.queue], |row| row.get(0)).optional()?;
        if entries.is_some_and(|entries| rows::size(entries) >= note.limit) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps those notes that are about what the write did. Whether somebody should be told that there are some.
pub(super) fn keep(c: &Connection, fact: &Fact<'_>, notes: &[Note]) -> Result<bool, BackendError> {
    let mut kept = false;
    for note in notes.iter().filter(|note| note.on == fact.outcome) {
        kept |= keep_one(c, fact, note)?;
    }
    Ok(kept)
}

fn keep_one(c: &Connection, fact: &Fact<'_>, note: &Note) -> Result<bool, BackendError> {
    let mut count = c.prepare_cached("SELECT entries FROM queue WHERE name = ?1")?;
    let entries: Option<i64> = count.query_row([&note.queue], |row| row.get(0)).optional()?;
    if entries.is_some_and(|entries| rows::size(entries) >= note.limit) {
        c.prepare_cached("UPDATE queue SET dropped = dropped + 1 WHERE name = ?1")?.execute([&note.queue])?;
        return Ok(false);
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO outbox (queue, bucket, key, version, size, etag, at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute(params![
        note.queue,
        fact.at.bucket.row(),
        fact.at.key.as_bytes(),
        fact.version.as_str(),
        fact.size.cast_signed(),
        fact.etag,
        fact.now.millis(),
        note.body
    ])?;
    let mut add = c.prepare_cached(
        "INSERT INTO queue (name, entries, dropped) VALUES (?1, 1, 0)
         ON CONFLICT (name) DO UPDATE SET entries = entries + 1",
    )?;
    add.execute([&note.queue])?;
    Ok(true)
}

fn entries(c: &Connection, queue: &str, after: u64, limit: usize) -> Result<Vec<Entry>, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT id, bucket, key, version, size, etag, at, body FROM outbox
         WHERE queue = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = query.query(params![queue, after.cast_signed(), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let version: String = row.get(3)?;
        let version = VersionId::parse(&version)
            .ok_or_else(|| BackendError::Damaged(format!("'{version}' in the outbox is no version id")))?;
        found.push(Entry {
            number: rows::size(row.get(0)?),
            place: Place::new(BucketId::from_row(row.get(1)?), rows::text(row.get(2)?)?),
            version,
            size: rows::size(row.get(4)?),
            etag: row.get(5)?,
            at: Timestamp::from_millis(row.get(6)?),
            body: row.get(7)?,
        });
    }
    Ok(found)
}

/// Gives how many of them were there.
pub(super) fn settle(c: &Connection, queue: &str, numbers: &[u64], dropped: bool) -> Result<i64, BackendError> {
    let mut delete = c.prepare_cached("DELETE FROM outbox WHERE queue = ?1 AND id = ?2")?;
    let mut removed = 0;
    for number in numbers {
        removed += i64::try_from(delete.execute(params![queue, number.cast_signed()])?).unwrap_or_default();
    }
    let mut count =
        c.prepare_cached("UPDATE queue SET entries = entries - ?2, dropped = dropped + ?3 WHERE name = ?1")?;
    count.execute(params![queue, removed, if dropped { removed } else { 0 }])?;
    Ok(removed)
}

fn remove_queue(c: &Connection, queue: &str) -> Result<u64, BackendError> {
    let removed = c.prepare_cached("DELETE FROM outbox WHERE queue = ?1")?.execute([queue])?;
    c.prepare_cached("DELETE FROM queue WHERE name = ?1")?.execute([queue])?;
    Ok(removed as u64)
}

pub(super) fn queues(c: &Connection) -> Result<Vec<QueueStats>, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT name, entries, dropped, (SELECT at FROM outbox WHERE queue = name ORDER BY id LIMIT 1)
         FROM queue ORDER BY name",
    )?;
    let stats = query.query_map([], |row| {
        Ok(QueueStats {
            name: row.get(0)?,
            entries: rows::size(row.get(1)?),
            dropped: rows::size(row.get(2)?),
            oldest: row.get(3)?,
        })
    })?;
    Ok(stats.collect::<Result<_, _>>()?)
}

#[async_trait]
impl Outbox for LocalBackend {
    async fn tell(&self, place: &Place, version: Option<&VersionId>, notes: Vec<Note>) -> Result<(), BackendError> {
        let (place, now) = (place.clone(), self.0.clock.now());
        let version = version.cloned().unwrap_or_else(VersionId::null);
        let write = move |c: &Connection| {
            let fact = Fact { at: &place, outcome: Outcome::Written, version: &version, size: 0, etag: None, now };
            keep(c, &fact, &notes)
        };
        let kept = self.0.index.write(write).await?;
        self.0.ring_outbox_if(kept);
        Ok(())
    }

    async fn entries(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<Entry>, BackendError> {
        let queue = queue.to_owned();
        self.0.index.read(move |c| entries(c, &queue, after, limit)).await
    }

    async fn settle(&self, queue: &str, numbers: Vec<u64>, dropped: bool) -> Result<(), BackendError> {
        let queue = queue.to_owned();
        self.0.index.write(move |c| settle(c, &queue, &numbers, dropped)).await.map(drop)
    }

    async fn remove_queue(&self, queue: &str) -> Result<u64, BackendError> {
        let queue = queue.to_owned();
        self.0.index.write(move |c| remove_queue(c, &queue)).await
    }

    async fn queues(&self) -> Result<Vec<QueueStats>, BackendError> {
        self.0.index.read(queues).await
    }

    fn bell(&self) -> watch::Receiver<u64> {
        self.0.outbox_bell.subscribe()
    }
}
