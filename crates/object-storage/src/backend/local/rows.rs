//! Rows of the index and the rules between them. Functions that write check first and write after (see `index`).

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::ContentId;
use crate::backend::{BackendError, BucketId, ObjectHead, ObjectLock, PartOfObject};
use crate::checksum::Checksum;

pub(super) const EPOCH: &str = "epoch";
/// All files of starts below this one are named by the index.
pub(super) const SWEPT: &str = "swept";

const CLOSED: i64 = 1;
const GONE: i64 = 2;

const INLINE: i64 = 0;
const FILE: i64 = 1;
const PARTS: i64 = 2;

/// What `content` says of where bytes are.
pub(super) enum Data {
    Inline(Bytes),
    File,
    Parts(Vec<PartOfObject>),
}

pub(super) struct NewObject {
    pub content: ContentId,
    pub data: Data,
    /// Its version's name is found when it is written.
    pub head: ObjectHead,
    /// Where it wants to stand in the order of its key's versions.
    pub seq: i64,
    /// The upload that it came from.
    pub upload: Option<String>,
}

pub(super) fn meta(c: &Connection, name: &str) -> Result<Option<i64>, BackendError> {
    Ok(c.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()?)
}

pub(super) fn set_meta(c: &Connection, name: &str, value: i64) -> Result<(), BackendError> {
    c.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?.execute(params![name, value])?;
    Ok(())
}

pub(super) fn pack<T: Serialize>(value: &T) -> Result<Vec<u8>, BackendError> {
    rmp_serde::to_vec_named(value).map_err(|error| BackendError::Damaged(error.to_string()))
}

pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BackendError> {
    rmp_serde::from_slice(bytes).map_err(|error| BackendError::Damaged(error.to_string()))
}

pub(super) fn pack_checksum(checksum: Option<&Checksum>) -> Result<Option<Vec<u8>>, BackendError> {
    checksum.map(pack).transpose()
}

pub(super) fn unpack_checksum(bytes: Option<&[u8]>) -> Result<Option<Checksum>, BackendError> {
    bytes.map(unpack).transpose()
}

pub(super) fn pack_lock(lock: &ObjectLock) -> Result<Option<Vec<u8>>, BackendError> {
    Some(lock).filter(|lock| !lock.is_none()).map(pack).transpose()
}

pub(super) fn unpack_lock(bytes: Option<&[u8]>) -> Result<ObjectLock, BackendError> {
    bytes.map_or(Ok(ObjectLock::default()), unpack)
}

pub(super) fn text(bytes: Vec<u8>) -> Result<String, BackendError> {
    String::from_utf8(bytes).map_err(|error| BackendError::Damaged(error.to_string()))
}

pub(super) fn size(stored: i64) -> u64 {
    stored.cast_unsigned()
}

/// Only closed and deleted buckets have a row.
fn bucket_state(c: &Connection, bucket: BucketId) -> Result<Option<i64>, BackendError> {
    let mut query = c.prepare_cached("SELECT state FROM bucket WHERE id = ?1")?;
    Ok(query.query_row([bucket.row()], |row| row.get(0)).optional()?)
}

pub(super) fn check_writable(c: &Connection, bucket: BucketId) -> Result<(), BackendError> {
    match bucket_state(c, bucket)? {
        None => Ok(()),
        Some(_) => Err(BackendError::NoSuchBucket),
    }
}

pub(super) fn close_bucket(c: &Connection, bucket: BucketId) -> Result<(), BackendError> {
    if bucket_state(c, bucket)? == Some(GONE) {
        return Err(BackendError::NoSuchBucket);
    }
    for sql in ["SELECT 1 FROM object WHERE bucket = ?1 LIMIT 1", "SELECT 1 FROM version WHERE bucket = ?1 LIMIT 1"] {
        if c.prepare_cached(sql)?.query_row([bucket.row()], |_| Ok(())).optional()?.is_some() {
            return Err(BackendError::BucketNotEmpty);
        }
    }
    set_bucket(c, bucket, CLOSED)
}

fn set_bucket(c: &Connection, bucket: BucketId, state: i64) -> Result<(), BackendError> {
    c.prepare_cached("INSERT OR REPLACE INTO bucket (id, state) VALUES (?1, ?2)")?.execute([bucket.row(), state])?;
    Ok(())
}

/// Uploads of a deleted bucket go with it.
pub(super) fn settle_bucket(c: &Connection, bucket: BucketId, gone: bool) -> Result<(), BackendError> {
    if bucket_state(c, bucket)? != Some(CLOSED) {
        return Ok(());
    }
    if !gone {
        c.prepare_cached("DELETE FROM bucket WHERE id = ?1")?.execute([bucket.row()])?;
        return Ok(());
    }
    let uploads: Vec<String> = c
        .prepare_cached("SELECT id FROM upload WHERE bucket = ?1")?
        .query_map([bucket.row()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for upload in uploads {
        super::multipart::drop_parts(c, &upload)?;
    }
    c.prepare_cached("DELETE FROM upload WHERE bucket = ?1")?.execute([bucket.row()])?;
    c.prepare_cached("DELETE FROM usage WHERE bucket = ?1")?.execute([bucket.row()])?;
    set_bucket(c, bucket, GONE)
}

pub(super) fn closed_buckets(c: &Connection) -> Result<Vec<BucketId>, BackendError> {
    let mut query = c.prepare_cached("SELECT id FROM bucket WHERE state = ?1")?;
    let ids = query.query_map([CLOSED], |row| row.get(0))?;
    Ok(ids.map(|id| id.map(BucketId::from_row)).collect::<Result<_, _>>()?)
}

pub(super) fn put_content(c: &Connection, id: ContentId, data: &Data) -> Result<(), BackendError> {
    let mut insert = c.prepare_cached("INSERT INTO content (id, kind, data) VALUES (?1, ?2, ?3)")?;
    match data {
        Data::Inline(bytes) => insert.execute(params![id.cast_signed(), INLINE, &bytes[..]])?,
        Data::File => insert.execute(params![id.cast_signed(), FILE, None::<&[u8]>])?,
        Data::Parts(parts) => insert.execute(params![id.cast_signed(), PARTS, pack(parts)?])?,
    };
    Ok(())
}

pub(super) fn content(c: &Connection, id: ContentId) -> Result<Data, BackendError> {
    let mut query = c.prepare_cached("SELECT kind, data FROM content WHERE id = ?1")?;
    let mut rows = query.query([id.cast_signed()])?;
    let row = rows.next()?.ok_or_else(|| BackendError::Damaged(format!("content {id:016x} is not in the index")))?;
    let data: Option<Vec<u8>> = row.get(1)?;
    match row.get(0)? {
        INLINE => Ok(Data::Inline(data.unwrap_or_default().into())),
        FILE => Ok(Data::File),
        PARTS => Ok(Data::Parts(unpack(&data.unwrap_or_default())?)),
        kind => Err(BackendError::Damaged(format!("content {id:016x} is of the unknown kind {kind}"))),
    }
}

/// Whether files became garbage.
pub(super) fn drop_content(c: &Connection, id: ContentId) -> Result<bool, BackendError> {
    let mut kind = c.prepare_cached("SELECT kind FROM content WHERE id = ?1")?;
    let files = match kind.query_row([id.cast_signed()], |row| row.get(0)).optional()? {
        Some(FILE) => vec![id],
        Some(PARTS) => match content(c, id)? {
            Data::Parts(parts) => parts.iter().map(|part| part.content).collect(),
            Data::Inline(_) | Data::File => Vec::new(),
        },
        _ => Vec::new(),
    };
    let mut delete = c.prepare_cached("DELETE FROM content WHERE id = ?1")?;
    let mut discard = c.prepare_cached("INSERT OR IGNORE INTO garbage (id) VALUES (?1)")?;
    delete.execute([id.cast_signed()])?;
    for file in &files {
        delete.execute([file.cast_signed()])?;
        discard.execute([file.cast_signed()])?;
    }
    Ok(!files.is_empty())
}
