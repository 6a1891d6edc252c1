//! Versions of keys: the rows of `object` and `version`, and the rules between them.
//!
//! `object` has the newest version of a key, unless that is a delete marker; `version` has all others. So a key has no
//! row in `object` exactly if its newest version is a marker or it has none, and a listing of objects never meets
//! what is hidden. `seq` rises with every write of a key. At most one version of a key is called `null`.
//!
//! As everywhere in the index: functions that write check first and write after.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use std::sync::Arc;
use terroir_types::Timestamp;

use super::files::ContentId;
use super::rows::{self, NewObject};
use crate::backend::{
    BackendError, BucketId, BucketUsage, Delete, DeleteMarker, Deleted, LockChange, Lookup, ObjectHead, ObjectLock,
    ObjectMeta, Place, Stamp, VersionId, Versioning, WriteCondition,
};

/// Hidden versions that a repeated completion of an upload is looked for in.
const RECENT: u32 = 100;

/// A version with bytes.
pub(super) struct ObjectRow {
    pub seq: i64,
    pub content: ContentId,
    pub head: ObjectHead,
}

pub(super) fn version_id(seq: i64, is_null: bool) -> VersionId {
    if is_null { VersionId::null() } else { VersionId::from_number(seq.cast_unsigned()) }
}

/// The position of a version in the order of its key; none if no version of ours has this name.
pub(super) fn seq_of(version: &VersionId) -> Option<i64> {
    version.number().and_then(|number| i64::try_from(number).ok())
}

macro_rules! select {
    ($table:literal, $rest:literal) => {
        concat!(
            "SELECT seq, is_null, content, size, modified, etag, checksum, parts, meta, lock FROM ",
            $table,
            " WHERE bucket = ?1 AND key = ?2 ",
            $rest
        )
    };
}

fn read(row: &Row<'_>) -> Result<Lookup<ObjectRow>, BackendError> {
    let damaged = |error: rusqlite::types::FromSqlError| BackendError::Damaged(error.to_string());
    let seq = row.get(0)?;
    let version = version_id(seq, row.get(1)?);
    let modified = Timestamp::from_millis(row.get(4)?);
    let Some(content) = row.get::<_, Option<i64>>(2)? else {
        return Ok(Lookup::Marker(DeleteMarker { version, modified }));
    };
    let checksum = row.get_ref(6)?.as_blob_or_null().map_err(damaged)?;
    let meta = row.get_ref(8)?.as_blob().map_err(damaged)?;
    let head = ObjectHead {
        size: rows::size(row.get(3)?),
        etag: row.get(5)?,
        modified,
        checksum: rows::unpack_checksum(checksum)?,
        meta: Arc::new(rows::unpack::<ObjectMeta>(meta)?),
        version,
        lock: rows::unpack_lock(row.get_ref(9)?.as_blob_or_null().map_err(damaged)?)?,
        parts: row.get(7)?,
    };
    Ok(Lookup::Found(ObjectRow { seq, content: content.cast_unsigned(), head }))
}

fn look(c: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<Lookup<ObjectRow>, BackendError> {
    let mut query = c.prepare_cached(sql)?;
    let mut rows = query.query(values)?;
    rows.next()?.map_or(Ok(Lookup::Missing), read)
}

/// The newest version, or the one that is named.
pub(super) fn find(c: &Connection, at: &Place, version: Option<&VersionId>) -> Result<Lookup<ObjectRow>, BackendError> {
    let (bucket, key) = (at.bucket.row(), at.key.as_bytes());
    let seq = version.and_then(seq_of);
    let (shown, hidden) = match version {
        None => (select!("object", ""), select!("version", "ORDER BY seq DESC LIMIT 1")),
        Some(id) if id.is_null() => (select!("object", "AND is_null = 1"), select!("version", "AND is_null = 1")),
        Some(_) => {
            (select!("object", "AND is_null = 0 AND seq = ?3"), select!("version", "AND is_null = 0 AND seq = ?3"))
        }
    };
    let values: &[&dyn ToSql] = if seq.is_some() { &[&bucket, &key, &seq] } else { &[&bucket, &key] };
    if version.is_some_and(|id| !id.is_null()) && seq.is_none() {
        return Ok(Lookup::Missing);
    }
    match look(c, shown, values)? {
        Lookup::Missing => look(c, hidden, values),
        found => Ok(found),
    }
}

/// The version that this upload was completed to, if that is not long ago.
pub(super) fn of_upload(c: &Connection, at: &Place, upload: &str) -> Result<Option<ObjectHead>, BackendError> {
    let (bucket, key) = (at.bucket.row(), at.key.as_bytes());
    let shown = look(c, select!("object", "AND upload = ?3"), &[&bucket, &key, &upload])?;
    if let Lookup::Found(row) = shown {
        return Ok(Some(row.head));
    }
    let hidden = select!(
        "version",
        "AND upload = ?3 AND seq >= ifnull(
            (SELECT seq FROM version WHERE bucket = ?1 AND key = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?4), 0)
         ORDER BY seq DESC LIMIT 1"
    );
    Ok(look(c, hidden, &[&bucket, &key, &upload, &RECENT])?.found().map(|row| row.head))
}

/// What a write must know of a version that is there.
struct Slot {
    seq: i64,
    is_null: bool,
    /// None: a delete marker.
    content: Option<ContentId>,
    size: i64,
    etag: Option<String>,
    lock: ObjectLock,
    /// Whether it stands in `object`.
    shown: bool,
}

macro_rules! select_slot {
    ($table:literal, $rest:literal) => {
        concat!(
            "SELECT seq, is_null, content, size, etag, lock FROM ",
            $table,
            " WHERE bucket = ?1 AND key = ?2 ",
            $rest
        )
    };
}

fn slot(c: &Connection, sql: &str, values: &[&dyn ToSql], shown: bool) -> Result<Option<Slot>, BackendError> {
    let mut query = c.prepare_cached(sql)?;
    let mut rows = query.query(values)?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let lock = row.get_ref(5)?.as_blob_or_null().map_err(|error| BackendError::Damaged(error.to_string()))?;
    Ok(Some(Slot {
        seq: row.get(0)?,
        is_null: row.get(1)?,
        content: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
        size: row.get(3)?,
        etag: row.get(4)?,
        lock: rows::unpack_lock(lock)?,
        shown,
    }))
}

impl Slot {
    /// What conditions are about.
    fn there(&self) -> (Option<&str>, Stamp) {
        (self.etag.as_deref(), Stamp(self.seq))
    }

    fn check_removal(&self, now: Timestamp, bypass: bool) -> Result<(), BackendError> {
        if self.lock.permits_removal(now, bypass) { Ok(()) } else { Err(BackendError::Locked) }
    }
}

fn shown(c: &Connection, at: &Place) -> Result<Option<Slot>, BackendError> {
    slot(c, select_slot!("object", ""), &[&at.bucket.row(), &at.key.as_bytes()], true)
}

fn newest_hidden(c: &Connection, at: &Place) -> Result<Option<Slot>, BackendError> {
    let sql = select_slot!("version", "ORDER BY seq DESC LIMIT 1");
    slot(c, sql, &[&at.bucket.row(), &at.key.as_bytes()], false)
}

fn hidden_null(c: &Connection, at: &Place) -> Result<Option<Slot>, BackendError> {
    slot(c, select_slot!("version", "AND is_null = 1"), &[&at.bucket.row(), &at.key.as_bytes()], false)
}

fn named(c: &Connection, at: &Place, version: &VersionId) -> Result<Option<Slot>, BackendError> {
    if version.is_null() {
        return match shown(c, at)?.filter(|slot| slot.is_null) {
            Some(slot) => Ok(Some(slot)),
            None => hidden_null(c, at),
        };
    }
    let Some(seq) = seq_of(version) else { return Ok(None) };
    if let Some(slot) = shown(c, at)?.filter(|slot| slot.seq == seq) {
        return Ok(Some(slot).filter(|slot| !slot.is_null));
    }
    let sql = select_slot!("version", "AND is_null = 0 AND seq = ?3");
    slot(c, sql, &[&at.bucket.row(), &at.key.as_bytes(), &seq], false)
}

/// What a write changed beside the rows of its versions.
#[derive(Default)]
struct Effects {
    versions: i64,
    bytes: i64,
    /// Whether files became garbage.
    garbage: bool,
}

impl Effects {
    fn settle(self, c: &Connection, bucket: BucketId) -> Result<bool, BackendError> {
        if self.versions != 0 || self.bytes != 0 {
            add_usage(c, bucket, self.versions, self.bytes)?;
        }
        Ok(self.garbage)
    }

    /// The version's bytes go; its row is the caller's.
    fn drop_bytes(&mut self, c: &Connection, slot: &Slot) -> Result<(), BackendError> {
        if let Some(content) = slot.content {
            self.versions -= 1;
            self.bytes -= slot.size;
            self.garbage |= rows::drop_content(c, content)?;
        }
        Ok(())
    }

    fn remove(&mut self, c: &Connection, at: &Place, slot: &Slot) -> Result<(), BackendError> {
        if slot.shown {
            forget_shown(c, at)?;
        } else {
            let mut delete = c.prepare_cached("DELETE FROM version WHERE bucket = ?1 AND key = ?2 AND seq = ?3")?;
            delete.execute(params![at.bucket.row(), at.key.as_bytes(), slot.seq])?;
        }
        self.drop_bytes(c, slot)
    }
}

fn forget_shown(c: &Connection, at: &Place) -> Result<(), BackendError> {
    let mut delete = c.prepare_cached("DELETE FROM object WHERE bucket = ?1 AND key = ?2")?;
    delete.execute(params![at.bucket.row(), at.key.as_bytes()])?;
    Ok(())
}

macro_rules! move_row {
    ($from:literal, $to:literal, $which:literal) => {
        concat!(
            "INSERT INTO ",
            $to,
            " (bucket, key, seq, is_null, content, size, modified, etag, checksum, parts, upload, meta, lock)
             SELECT bucket, key, seq, is_null, content, size, modified, etag, checksum, parts, upload, meta, lock FROM ",
            $from,
            " WHERE bucket = ?1 AND key = ?2",
            $which
        )
    };
}

/// The object becomes one of the hidden versions.
fn hide_shown(c: &Connection, at: &Place) -> Result<(), BackendError> {
    c.prepare_cached(move_row!("object", "version", ""))?.execute(params![at.bucket.row(), at.key.as_bytes()])?;
    forget_shown(c, at)
}

/// The newest version becomes the object, if it has bytes. There is no object.
fn show_newest(c: &Connection, at: &Place) -> Result<(), BackendError> {
    let Some(newest) = newest_hidden(c, at)?.filter(|slot| slot.content.is_some()) else { return Ok(()) };
    let values = params![at.bucket.row(), at.key.as_bytes(), newest.seq];
    c.prepare_cached(move_row!("version", "object", " AND seq = ?3"))?.execute(values)?;
    c.prepare_cached("DELETE FROM version WHERE bucket = ?1 AND key = ?2 AND seq = ?3")?.execute(values)?;
    Ok(())
}

/// Shows the newest version where it is hidden and there is no object.
pub(super) fn mend_order(c: &Connection, at: &Place) -> Result<(), BackendError> {
    if shown(c, at)?.is_none() { show_newest(c, at) } else { Ok(()) }
}

pub(super) fn check_condition(c: &Connection, at: &Place, condition: &WriteCondition) -> Result<(), BackendError> {
    condition.check(shown(c, at)?.as_ref().map(Slot::there))
}

/// A place in the order of the key: `wanted`, or behind what is there already.
fn next_seq(wanted: i64, newest: Option<&Slot>) -> i64 {
    newest.map_or(wanted, |newest| wanted.max(newest.seq.saturating_add(1)))
}

/// What of a version is packed before anything is written.
struct Packed {
    meta: Vec<u8>,
    checksum: Option<Vec<u8>>,
    lock: Option<Vec<u8>>,
}

impl Packed {
    fn of(head: &ObjectHead) -> Result<Self, BackendError> {
        Ok(Self {
            meta: rows::pack(&*head.meta)?,
            checksum: rows::pack_checksum(head.checksum.as_ref())?,
            lock: rows::pack_lock(&head.lock)?,
        })
    }
}

macro_rules! insert_into {
    ($table:literal) => {
        concat!(
            "INSERT OR REPLACE INTO ",
            $table,
            " (bucket, key, content, size, modified, etag, checksum, parts, upload, meta, seq, is_null, lock)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
        )
    };
}

fn insert(
    c: &Connection,
    sql: &str,
    at: &Place,
    new: &NewObject,
    packed: &Packed,
    (seq, is_null): (i64, bool),
) -> Result<(), BackendError> {
    let head = &new.head;
    c.prepare_cached(sql)?.execute(params![
        at.bucket.row(),
        at.key.as_bytes(),
        new.content.cast_signed(),
        head.size.cast_signed(),
        head.modified.millis(),
        head.etag,
        packed.checksum,
        head.parts,
        new.upload,
        packed.meta,
        seq,
        is_null,
        packed.lock
    ])?;
    Ok(())
}

/// Where a copy comes to stand that keeps its version's place: whether it is the newest of its key.
///
/// # Errors
/// `PreconditionFailed` if another version stands there.
fn place_of_replica(c: &Connection, at: &Place, seq: i64) -> Result<bool, BackendError> {
    rows::check_writable(c, at.bucket)?;
    let shown = shown(c, at)?;
    let hidden = newest_hidden(c, at)?;
    let sql = select_slot!("version", "AND seq = ?3");
    let there = slot(c, sql, &[&at.bucket.row(), &at.key.as_bytes(), &seq], false)?;
    if there.is_some() || shown.as_ref().is_some_and(|slot| slot.seq == seq) {
        return Err(BackendError::PreconditionFailed("the name of the version"));
    }
    Ok(shown.iter().chain(&hidden).all(|slot| slot.seq < seq))
}

/// Puts a copy where its version stands in the order of the key.
pub(super) fn put_replica(c: &Connection, at: &Place, new: &NewObject) -> Result<(), BackendError> {
    let is_newest = place_of_replica(c, at, new.seq)?;
    let packed = Packed::of(&new.head)?;
    rows::put_content(c, new.content, &new.data)?;
    if is_newest {
        if shown(c, at)?.is_some() {
            hide_shown(c, at)?;
        }
        insert(c, insert_into!("object"), at, new, &packed, (new.seq, false))?;
    } else {
        insert(c, insert_into!("version"), at, new, &packed, (new.seq, false))?;
    }
    add_usage(c, at.bucket, 1, new.head.size.cast_signed())
}

/// The same for a delete marker. False: it is there already.
pub(super) fn put_marker_replica(
    c: &Connection,
    at: &Place,
    seq: i64,
    modified: Timestamp,
) -> Result<bool, BackendError> {
    if let Lookup::Marker(_) = find(c, at, Some(&version_id(seq, false)))? {
        return Ok(false);
    }
    let is_newest = place_of_replica(c, at, seq)?;
    if is_newest && shown(c, at)?.is_some() {
        hide_shown(c, at)?;
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO version (bucket, key, seq, is_null, size, modified) VALUES (?1, ?2, ?3, 0, 0, ?4)",
    )?;
    insert.execute(params![at.bucket.row(), at.key.as_bytes(), seq, modified.millis()])?;
    Ok(true)
}

/// What is said of a copy becomes what is said now of its version.
pub(super) fn renew_replica(
    c: &Connection,
    at: &Place,
    version: &VersionId,
    meta: ObjectMeta,
    lock: ObjectLock,
) -> Result<(), BackendError> {
    let lock = rows::pack_lock(&lock)?;
    let row = need(c, at, Some(version))?;
    change_meta(c, at, Some(version), |old| *old = meta)?;
    set_lock(c, at, row.seq, lock.as_deref())
}

/// Makes `new` the newest version. Gives its name, and whether files became garbage.
pub(super) fn put(
    c: &Connection,
    at: &Place,
    new: &NewObject,
    condition: &WriteCondition,
    versioning: Versioning,
) -> Result<(VersionId, bool), BackendError> {
    rows::check_writable(c, at.bucket)?;
    let shown = shown(c, at)?;
    condition.check(shown.as_ref().map(Slot::there))?;
    let is_null = versioning != Versioning::Enabled;
    let shown_is_replaced = is_null && shown.as_ref().is_some_and(|slot| slot.is_null);
    let newest_hidden = if shown.is_some() { None } else { newest_hidden(c, at)? };
    let seq = next_seq(new.seq, shown.as_ref().or(newest_hidden.as_ref()));
    let may_be_hidden = is_null && !shown_is_replaced && (shown.is_some() || newest_hidden.is_some());
    let hidden_null = if may_be_hidden { hidden_null(c, at)? } else { None };
    let packed = Packed::of(&new.head)?;
    for slot in shown.iter().filter(|_| shown_is_replaced).chain(&hidden_null) {
        slot.check_removal(new.head.modified, false)?;
    }

    let mut effects = Effects { versions: 1, bytes: new.head.size.cast_signed(), garbage: false };
    rows::put_content(c, new.content, &new.data)?;
    match &shown {
        Some(slot) if shown_is_replaced => effects.drop_bytes(c, slot)?,
        Some(_) => hide_shown(c, at)?,
        None => {}
    }
    if let Some(slot) = hidden_null {
        effects.remove(c, at, &slot)?;
    }
    insert(c, insert_into!("object"), at, new, &packed, (seq, is_null))?;
    Ok((version_id(seq, is_null), effects.settle(c, at.bucket)?))
}

/// `seq` and `now` are for the delete marker. The flag says whether files became garbage.
pub(super) fn delete(
    c: &Connection,
    at: &Place,
    delete: &Delete,
    seq: i64,
    now: Timestamp,
) -> Result<(Deleted, bool), BackendError> {
    match &delete.version {
        Some(version) => delete_version(c, at, version, delete, now),
        None => delete_object(c, at, delete, seq, now),
    }
}

fn delete_version(
    c: &Connection,
    at: &Place,
    version: &VersionId,
    delete: &Delete,
    now: Timestamp,
) -> Result<(Deleted, bool), BackendError> {
    let slot = named(c, at, version)?;
    delete.condition.check(slot.as_ref().map(Slot::there))?;
    let mut deleted = Deleted { existed: slot.is_some(), marker: false, version: Some(version.clone()) };
    let Some(slot) = slot else { return Ok((deleted, false)) };
    slot.check_removal(now, delete.bypass)?;
    deleted.marker = slot.content.is_none();
    let mut effects = Effects::default();
    effects.remove(c, at, &slot)?;
    if shown(c, at)?.is_none() {
        show_newest(c, at)?;
    }
    Ok((deleted, effects.settle(c, at.bucket)?))
}

fn delete_object(
    c: &Connection,
    at: &Place,
    delete: &Delete,
    seq: i64,
    now: Timestamp,
) -> Result<(Deleted, bool), BackendError> {
    let shown = shown(c, at)?;
    delete.condition.check(shown.as_ref().map(Slot::there))?;
    let hidden = newest_hidden(c, at)?;
    let mut effects = Effects::default();
    let existed = shown.is_some();
    // Whoever still thinks that there is no versioning removes no version that has a name.
    let no_versions = hidden.is_none() && shown.as_ref().is_none_or(|slot| slot.is_null);
    if delete.versioning == Versioning::Off && no_versions {
        if let Some(slot) = &shown {
            slot.check_removal(now, delete.bypass)?;
            effects.remove(c, at, slot)?;
        }
        return Ok((Deleted { existed, ..Deleted::default() }, effects.settle(c, at.bucket)?));
    }
    rows::check_writable(c, at.bucket)?;
    let is_null = delete.versioning != Versioning::Enabled;
    let seq = next_seq(seq, shown.as_ref().or(hidden.as_ref()));
    let shown_is_replaced = is_null && shown.as_ref().is_some_and(|slot| slot.is_null);
    let hidden_null = if is_null && !shown_is_replaced { hidden_null(c, at)? } else { None };
    for slot in shown.iter().filter(|_| shown_is_replaced).chain(&hidden_null) {
        slot.check_removal(now, delete.bypass)?;
    }
    match &shown {
        Some(slot) if shown_is_replaced => effects.remove(c, at, slot)?,
        Some(_) => hide_shown(c, at)?,
        None => {}
    }
    if let Some(slot) = hidden_null {
        effects.remove(c, at, &slot)?;
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO version (bucket, key, seq, is_null, size, modified) VALUES (?1, ?2, ?3, ?4, 0, ?5)",
    )?;
    // Whole seconds, as all times of versions.
    let modified = Timestamp::from_secs(now.secs()).millis();
    insert.execute(params![at.bucket.row(), at.key.as_bytes(), seq, is_null, modified])?;
    let deleted = Deleted { existed, marker: true, version: Some(version_id(seq, is_null)) };
    Ok((deleted, effects.settle(c, at.bucket)?))
}

fn need(c: &Connection, at: &Place, version: Option<&VersionId>) -> Result<ObjectRow, BackendError> {
    match find(c, at, version)? {
        Lookup::Found(row) => Ok(row),
        Lookup::Marker(marker) => Err(BackendError::IsDeleteMarker(marker)),
        Lookup::Missing if version.is_some() => Err(BackendError::NoSuchVersion),
        Lookup::Missing => Err(BackendError::NoSuchKey),
    }
}

/// Changes what keeps a version; gives its name.
pub(super) fn change_lock(
    c: &Connection,
    at: &Place,
    version: Option<&VersionId>,
    change: LockChange,
    now: Timestamp,
) -> Result<VersionId, BackendError> {
    let row = need(c, at, version)?;
    let mut lock = row.head.lock;
    match change {
        LockChange::LegalHold(hold) => lock.legal_hold = Some(hold),
        LockChange::Retention { retention, bypass } => {
            if !lock.permits_retention(retention.as_ref(), now, bypass) {
                return Err(BackendError::Locked);
            }
            lock.retention = retention;
        }
    }
    set_lock(c, at, row.seq, rows::pack_lock(&lock)?.as_deref())?;
    Ok(row.head.version)
}

fn set_lock(c: &Connection, at: &Place, seq: i64, lock: Option<&[u8]>) -> Result<(), BackendError> {
    // One of the two has it.
    for sql in [
        "UPDATE object SET lock = ?4 WHERE bucket = ?1 AND key = ?2 AND seq = ?3",
        "UPDATE version SET lock = ?4 WHERE bucket = ?1 AND key = ?2 AND seq = ?3",
    ] {
        c.prepare_cached(sql)?.execute(params![at.bucket.row(), at.key.as_bytes(), seq, lock])?;
    }
    Ok(())
}

/// Changes what the writer said of a version; gives what it was.
pub(super) fn change_meta(
    c: &Connection,
    at: &Place,
    version: Option<&VersionId>,
    change: impl FnOnce(&mut ObjectMeta),
) -> Result<ObjectHead, BackendError> {
    let row = need(c, at, version)?;
    let mut meta = ObjectMeta::clone(&row.head.meta);
    change(&mut meta);
    let meta = rows::pack(&meta)?;
    // One of the two has it.
    for sql in [
        "UPDATE object SET meta = ?4 WHERE bucket = ?1 AND key = ?2 AND seq = ?3",
        "UPDATE version SET meta = ?4 WHERE bucket = ?1 AND key = ?2 AND seq = ?3",
    ] {
        c.prepare_cached(sql)?.execute(params![at.bucket.row(), at.key.as_bytes(), row.seq, meta])?;
    }
    Ok(row.head)
}

pub(super) fn add_usage(c: &Connection, bucket: BucketId, versions: i64, bytes: i64) -> Result<(), BackendError> {
    let mut add = c.prepare_cached(
        "INSERT INTO usage (bucket, versions, bytes) VALUES (?1, ?2, ?3)
         ON CONFLICT (bucket) DO UPDATE SET versions = versions + ?2, bytes = bytes + ?3",
    )?;
    add.execute(params![bucket.row(), versions, bytes])?;
    Ok(())
}

pub(super) fn usage(c: &Connection, bucket: BucketId) -> Result<BucketUsage, BackendError> {
    let mut query = c.prepare_cached("SELECT versions, bytes FROM usage WHERE bucket = ?1")?;
    let read = |row: &Row<'_>| Ok(BucketUsage { versions: rows::size(row.get(0)?), bytes: rows::size(row.get(1)?) });
    Ok(query.query_row([bucket.row()], read).optional()?.unwrap_or_default())
}
