//! Rows of the index and the rules between them. Functions that write check first and write after (see `index`).

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::ContentId;
use super::remote::RemoteData;
use super::sums::Sums;
use crate::backend::{BackendError, BucketId, ObjectHead, ObjectLock, PartOfObject};
use crate::checksum::Checksum;

pub(super) const EPOCH: &str = "epoch";
/// All files of starts below this one are named by the index.
pub(super) const SWEPT: &str = "swept";
/// What foreign stores know this store by.
pub(super) const STORE: &str = "store";
/// Not 0: there may be contents without sums. Raised with each one that is copied.
pub(super) const UNSUMMED: &str = "unsummed";
/// The last content that the scrubber has read.
pub(super) const SCRUB_AT: &str = "scrub_at";
/// When the scrubber began its pass, and ended the last one; ms.
pub(super) const SCRUB_BEGUN: &str = "scrub_begun";
pub(super) const SCRUB_DONE: &str = "scrub_done";

const CLOSED: i64 = 1;
const GONE: i64 = 2;

pub(super) const INLINE: i64 = 0;
pub(super) const FILE: i64 = 1;
const PARTS: i64 = 2;
/// Like [`FILE`], in a foreign store.
pub(super) const REMOTE: i64 = 3;

/// What `content` says of where bytes are.
pub(super) enum Data {
    /// With their sums, which they agree with. None: they were written before there were sums.
    Inline(Bytes, Option<Sums>),
    File,
    Parts(Vec<PartOfObject>),
}

/// Bytes that nothing names yet, with the sums of what is new. None: they were written before there were sums.
pub(super) enum NewData {
    Inline(Bytes, Option<Sums>),
    File(Option<Sums>),
    Remote(RemoteData, Option<Sums>),
    /// The parts' contents are there already.
    Parts(Vec<PartOfObject>),
    /// Parts whose files have got second names, and no content yet.
    LinkedParts(Vec<(PartOfObject, Option<RemoteData>, Option<Sums>)>),
}

pub(super) struct NewObject {
    pub content: ContentId,
    pub data: NewData,
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

pub(super) fn put_content(c: &Connection, id: ContentId, data: &NewData) -> Result<(), BackendError> {
    match data {
        NewData::Inline(bytes, sums) => insert_content(c, id, INLINE, Some(bytes), sums.as_ref()),
        NewData::File(sums) => insert_content(c, id, FILE, None, sums.as_ref()),
        NewData::Remote(data, sums) => insert_content(c, id, REMOTE, Some(&pack(data)?), sums.as_ref()),
        NewData::Parts(parts) => insert_content(c, id, PARTS, Some(&pack(parts)?), None),
        NewData::LinkedParts(parts) => {
            for (part, remote, sums) in parts {
                match remote {
                    Some(data) => insert_content(c, part.content, REMOTE, Some(&pack(data)?), sums.as_ref())?,
                    None => insert_content(c, part.content, FILE, None, sums.as_ref())?,
                }
            }
            let parts: Vec<_> = parts.iter().map(|(part, ..)| part).collect();
            insert_content(c, id, PARTS, Some(&pack(&parts)?), None)
        }
    }
}

/// A copy of bytes without sums has none either; whoever makes sums comes by once more.
fn mark_unsummed(c: &Connection) -> Result<(), BackendError> {
    let before = meta(c, UNSUMMED)?.unwrap_or(0);
    set_meta(c, UNSUMMED, before.saturating_add(1))
}

fn insert_content(
    c: &Connection,
    id: ContentId,
    kind: i64,
    data: Option<&[u8]>,
    sums: Option<&Sums>,
) -> Result<(), BackendError> {
    if sums.is_none() && kind != PARTS {
        mark_unsummed(c)?;
    }
    let mut insert = c.prepare_cached("INSERT INTO content (id, kind, data, sums) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![id.cast_signed(), kind, data, sums.map(Sums::stored)])?;
    Ok(())
}

/// Whether it is known that a content is not what was written. Where there are sums they say so themselves.
pub(super) fn check_unsummed(c: &Connection, id: ContentId) -> Result<(), BackendError> {
    let mut query = c.prepare_cached("SELECT detail FROM damage WHERE content = ?1")?;
    let damage: Option<String> = query.query_row([id.cast_signed()], |row| row.get(0)).optional()?;
    damage.map_or(Ok(()), |detail| Err(BackendError::Damaged(detail)))
}

/// The sums of a content; none if it is older than they are.
///
/// # Errors
/// `Damaged` if there are none, and it is known that the content is not what was written.
pub(super) fn sums(c: &Connection, id: ContentId) -> Result<Option<Sums>, BackendError> {
    let mut query = c.prepare_cached("SELECT sums FROM content WHERE id = ?1")?;
    let stored: Option<Option<Vec<u8>>> = query.query_row([id.cast_signed()], |row| row.get(0)).optional()?;
    let stored = stored.ok_or_else(|| BackendError::Damaged(format!("content {id:016x} is not in the index")))?;
    let sums = Sums::parse(id, stored)?;
    if sums.is_none() {
        check_unsummed(c, id)?;
    }
    Ok(sums)
}

/// Where else a content lies; none: in a file here.
pub(super) fn remote(c: &Connection, id: ContentId) -> Result<Option<RemoteData>, BackendError> {
    let mut query = c.prepare_cached("SELECT data FROM content WHERE id = ?1 AND kind = ?2")?;
    let data: Option<Vec<u8>> = query.query_row(params![id.cast_signed(), REMOTE], |row| row.get(0)).optional()?;
    data.map(|data| unpack(&data)).transpose()
}

/// Where the bytes are; those in the index itself are checked.
pub(super) fn content(c: &Connection, id: ContentId) -> Result<Data, BackendError> {
    let mut query = c.prepare_cached("SELECT kind, data, sums FROM content WHERE id = ?1")?;
    let mut rows = query.query([id.cast_signed()])?;
    let row = rows.next()?.ok_or_else(|| BackendError::Damaged(format!("content {id:016x} is not in the index")))?;
    let bytes =
        |row: &Row<'_>| -> Result<Vec<u8>, BackendError> { Ok(row.get::<_, Option<Vec<u8>>>(1)?.unwrap_or_default()) };
    match row.get(0)? {
        INLINE => {
            let bytes = bytes(row)?;
            let sums = Sums::parse(id, row.get(2)?)?;
            match &sums {
                Some(sums) => sums.check(id, 0, &bytes)?,
                None => check_unsummed(c, id)?,
            }
            Ok(Data::Inline(bytes.into(), sums))
        }
        FILE | REMOTE => Ok(Data::File),
        PARTS => Ok(Data::Parts(unpack(&bytes(row)?)?)),
        kind => Err(BackendError::Damaged(format!("content {id:016x} is of the unknown kind {kind}"))),
    }
}

/// Whether files became garbage.
pub(super) fn drop_content(c: &Connection, id: ContentId) -> Result<bool, BackendError> {
    let mut kind = c.prepare_cached("SELECT kind FROM content WHERE id = ?1")?;
    let files = match kind.query_row([id.cast_signed()], |row| row.get(0)).optional()? {
        Some(FILE | REMOTE) => vec![id],
        Some(PARTS) => match content(c, id) {
            Ok(Data::Parts(parts)) => parts.iter().map(|part| part.content).collect(),
            Ok(Data::Inline(..) | Data::File) => Vec::new(),
            // It may go all the same; a verification finds what it listed.
            Err(BackendError::Damaged(detail)) => {
                tracing::error!(detail, "a list of parts that is removed cannot be read");
                Vec::new()
            }
            Err(error) => return Err(error),
        },
        _ => Vec::new(),
    };
    // Of a file the row stays with the file: whoever still reads it needs its sums.
    if !files.contains(&id) {
        c.prepare_cached("DELETE FROM content WHERE id = ?1")?.execute([id.cast_signed()])?;
    }
    let mut forget = c.prepare_cached("DELETE FROM damage WHERE content = ?1")?;
    forget.execute([id.cast_signed()])?;
    let mut discard = c.prepare_cached("INSERT OR IGNORE INTO garbage (id) VALUES (?1)")?;
    for file in &files {
        forget.execute([file.cast_signed()])?;
        discard.execute([file.cast_signed()])?;
    }
    Ok(!files.is_empty())
}
