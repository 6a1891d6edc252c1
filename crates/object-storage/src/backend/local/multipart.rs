//! Multipart uploads: parts are files of their own, and completing one moves no bytes.

use md5::{Digest as _, Md5};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;
use terroir_types::{Error, Timestamp};

use super::files::ContentId;
use super::list::{after_prefix, rolled_up};
use super::rows::{self, NewData, NewObject};
use super::versions;
use crate::backend::{
    BackendError, BucketId, ClaimedPart, CompleteUpload, ListUploads, MAX_OBJECT_SIZE, MIN_PART_SIZE, ObjectHead,
    ObjectLock, ObjectMeta, PartHead, PartOfObject, Place, Upload, UploadEntry, UploadListing, VersionId,
};
use crate::checksum::{self, Checksum, Coverage};

pub(super) fn create(c: &Connection, at: &Place, upload: &Upload) -> Result<(), BackendError> {
    rows::check_writable(c, at.bucket)?;
    let new = rows::pack(&upload.new)?;
    let mut insert =
        c.prepare_cached("INSERT INTO upload (bucket, key, id, initiated, new) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    insert.execute(params![at.bucket.row(), at.key.as_bytes(), upload.id, upload.initiated.millis(), new])?;
    Ok(())
}

pub(super) fn find(c: &Connection, at: &Place, id: &str) -> Result<Option<Upload>, BackendError> {
    let mut query =
        c.prepare_cached("SELECT key, id, initiated, new FROM upload WHERE bucket = ?1 AND key = ?2 AND id = ?3")?;
    let mut rows = query.query(params![at.bucket.row(), at.key.as_bytes(), id])?;
    rows.next()?.map(read_upload).transpose()
}

fn need(c: &Connection, at: &Place, id: &str) -> Result<Upload, BackendError> {
    find(c, at, id)?.ok_or(BackendError::NoSuchUpload)
}

fn read_upload(row: &Row<'_>) -> Result<Upload, BackendError> {
    Ok(Upload {
        key: rows::text(row.get(0)?)?,
        id: row.get(1)?,
        initiated: Timestamp::from_millis(row.get(2)?),
        new: rows::unpack(&row.get::<_, Vec<u8>>(3)?)?,
    })
}

/// Whether files became garbage: those of a part with the same number.
pub(super) fn put_part(
    c: &Connection,
    at: &Place,
    upload: &str,
    content: ContentId,
    data: &NewData,
    part: &PartHead,
) -> Result<bool, BackendError> {
    rows::check_writable(c, at.bucket)?;
    need(c, at, upload)?;
    let checksum = rows::pack_checksum(part.checksum.as_ref())?;
    let mut before = c.prepare_cached("SELECT content, size FROM part WHERE upload = ?1 AND number = ?2")?;
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let before = before.query_row(params![upload, part.number], read).optional()?;
    rows::put_content(c, content, data)?;
    let mut insert = c.prepare_cached(
        "INSERT OR REPLACE INTO part (upload, number, content, size, modified, etag, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    insert.execute(params![
        upload,
        part.number,
        content.cast_signed(),
        part.size.cast_signed(),
        part.modified.millis(),
        part.etag,
        checksum
    ])?;
    let freed = before.map_or(0, |(_, size)| size);
    versions::add_usage(c, at.bucket, 0, part.size.cast_signed() - freed)?;
    before.map_or(Ok(false), |(id, _)| rows::drop_content(c, id.cast_unsigned()))
}

pub(super) fn parts(
    c: &Connection,
    at: &Place,
    upload: &str,
    after: u16,
    limit: usize,
) -> Result<(Vec<PartHead>, bool), BackendError> {
    need(c, at, upload)?;
    let mut query = c.prepare_cached(
        "SELECT content, number, size, etag, modified, checksum FROM part
         WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
    )?;
    let more = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut rows = query.query(params![upload, after, more])?;
    let mut parts = Vec::new();
    while let Some(row) = rows.next()? {
        parts.push(read_part(row)?.1);
    }
    let truncated = parts.len() > limit;
    parts.truncate(limit);
    Ok((parts, truncated))
}

fn read_part(row: &Row<'_>) -> Result<(ContentId, PartHead), BackendError> {
    let part = PartHead {
        number: row.get(1)?,
        size: rows::size(row.get(2)?),
        etag: row.get(3)?,
        modified: Timestamp::from_millis(row.get(4)?),
        checksum: rows::unpack_checksum(row.get::<_, Option<Vec<u8>>>(5)?.as_deref())?,
    };
    Ok((row.get::<_, i64>(0)?.cast_unsigned(), part))
}

/// Drops the parts of an upload. Whether files became garbage.
pub(super) fn drop_parts(c: &Connection, upload: &str) -> Result<bool, BackendError> {
    let contents: Vec<i64> = c
        .prepare_cached("SELECT content FROM part WHERE upload = ?1")?
        .query_map([upload], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &contents {
        rows::drop_content(c, id.cast_unsigned())?;
    }
    c.prepare_cached("DELETE FROM part WHERE upload = ?1")?.execute([upload])?;
    Ok(!contents.is_empty())
}

fn drop_upload(c: &Connection, at: &Place, id: &str) -> Result<(), BackendError> {
    let mut delete = c.prepare_cached("DELETE FROM upload WHERE bucket = ?1 AND key = ?2 AND id = ?3")?;
    delete.execute(params![at.bucket.row(), at.key.as_bytes(), id])?;
    Ok(())
}

/// Bytes of an upload's parts are no longer counted.
fn uncount_parts(c: &Connection, at: &Place, upload: &str) -> Result<(), BackendError> {
    let mut sum = c.prepare_cached("SELECT ifnull(sum(size), 0) FROM part WHERE upload = ?1")?;
    let bytes: i64 = sum.query_row([upload], |row| row.get(0))?;
    versions::add_usage(c, at.bucket, 0, -bytes)
}

pub(super) fn abort(c: &Connection, at: &Place, id: &str) -> Result<bool, BackendError> {
    need(c, at, id)?;
    uncount_parts(c, at, id)?;
    drop_upload(c, at, id)?;
    drop_parts(c, id)
}

/// An object that an upload has become.
pub(super) struct Completed {
    pub head: ObjectHead,
    /// Whether files became garbage.
    pub garbage: bool,
    /// Not what an earlier completion has made.
    pub is_new: bool,
}

/// Makes the object.
pub(super) fn complete(
    c: &Connection,
    at: &Place,
    id: &str,
    complete: &CompleteUpload,
    content: ContentId,
    seq: i64,
    now: Timestamp,
) -> Result<Completed, BackendError> {
    let Some(upload) = find(c, at, id)? else {
        // The answer to an earlier completion may have been lost on its way.
        let head = versions::of_upload(c, at, id)?.ok_or(BackendError::NoSuchUpload)?;
        return Ok(Completed { head, garbage: false, is_new: false });
    };
    let chosen = choose(c, id, &complete.parts)?;
    let head = whole(&upload, &chosen, complete, now)?;
    let manifest = chosen
        .iter()
        .map(|(content, part)| PartOfObject {
            content: *content,
            number: part.number,
            size: part.size,
            checksum: part.checksum.clone(),
        })
        .collect();
    let mut new = NewObject { content, data: NewData::Parts(manifest), head, seq, upload: Some(id.to_owned()) };
    let (version, replaced) = versions::put(c, at, &new, &complete.condition, complete.versioning)?;
    new.head.version = version;
    uncount_parts(c, at, id)?;
    let mut forget = c.prepare_cached("DELETE FROM part WHERE upload = ?1 AND number = ?2")?;
    for (_, part) in &chosen {
        forget.execute(params![id, part.number])?;
    }
    let unused = drop_parts(c, id)?;
    drop_upload(c, at, id)?;
    Ok(Completed { head: new.head, garbage: replaced || unused, is_new: true })
}

/// The stored parts that the client names, checked.
fn choose(c: &Connection, id: &str, claimed: &[ClaimedPart]) -> Result<Vec<(ContentId, PartHead)>, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT content, number, size, etag, modified, checksum FROM part WHERE upload = ?1 AND number = ?2",
    )?;
    let mut chosen: Vec<(ContentId, PartHead)> = Vec::with_capacity(claimed.len());
    for claim in claimed {
        if chosen.last().is_some_and(|(_, last)| last.number >= claim.number) {
            return Err(BackendError::InvalidPartOrder);
        }
        let mut rows = query.query(params![id, claim.number])?;
        let part = rows.next()?.map(read_part).transpose()?.ok_or(BackendError::InvalidPart(claim.number))?;
        let stored = part.1.checksum.as_ref();
        let same_checksum = claim.checksum.as_ref().is_none_or(|(algorithm, text)| {
            stored.is_some_and(|stored| stored.algorithm == *algorithm && stored.text == *text)
        });
        if part.1.etag != claim.etag || !same_checksum {
            return Err(BackendError::InvalidPart(claim.number));
        }
        chosen.push(part);
    }
    let all_but_last = chosen.len().saturating_sub(1);
    if let Some((_, small)) = chosen[..all_but_last].iter().find(|(_, part)| part.size < MIN_PART_SIZE) {
        return Err(BackendError::PartTooSmall { number: small.number, size: small.size, etag: small.etag.clone() });
    }
    Ok(chosen)
}

fn whole(
    upload: &Upload,
    chosen: &[(ContentId, PartHead)],
    complete: &CompleteUpload,
    now: Timestamp,
) -> Result<ObjectHead, BackendError> {
    let size: u64 = chosen.iter().map(|(_, part)| part.size).sum();
    if size > MAX_OBJECT_SIZE {
        return Err(BackendError::TooLarge);
    }
    if complete.size.is_some_and(|claimed| claimed != size) {
        let message = "The provided 'x-amz-mp-object-size' header value does not match what was computed";
        return Err(BackendError::Refused(Error::invalid("InvalidRequest", message)));
    }
    let checksum = whole_checksum(upload, chosen, complete)?;
    let mut md5 = Md5::new();
    for (_, part) in chosen {
        md5.update(hex::decode(&part.etag).map_err(|error| BackendError::Damaged(error.to_string()))?);
    }
    let lock = upload.new.lock;
    Ok(ObjectHead {
        size,
        etag: format!("{}-{}", hex::encode(md5.finalize()), chosen.len()),
        modified: now,
        checksum,
        meta: Arc::new(ObjectMeta { replication: complete.replication, ..upload.new.meta.clone() }),
        version: VersionId::null(),
        lock: ObjectLock { retention: lock.retention.or(complete.default_retention), ..lock },
        parts: u16::try_from(chosen.len()).ok(),
    })
}

fn whole_checksum(
    upload: &Upload,
    chosen: &[(ContentId, PartHead)],
    complete: &CompleteUpload,
) -> Result<Option<Checksum>, BackendError> {
    let coverage = upload.new.coverage;
    let refuse = |code, message: String| Err(BackendError::Refused(Error::invalid(code, message)));
    if complete.coverage.is_some_and(|claimed| claimed != coverage) {
        let message = format!(
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            coverage.name()
        );
        return refuse("InvalidRequest", message);
    }
    let of = |algorithm, coverage: Coverage| {
        let parts = chosen.iter().map(|(_, part)| (part.checksum.as_ref(), part.size));
        checksum::of_parts(algorithm, coverage, parts)
    };
    let checksum = of(upload.algorithm(), coverage);
    if let Some((algorithm, claimed)) = &complete.checksum {
        let stored = checksum.as_ref().filter(|checksum| checksum.algorithm == *algorithm);
        let same = stored
            .is_some_and(|stored| stored.text == *claimed || stored.text.split('-').next() == Some(claimed.as_str()));
        if !same {
            let message = format!(
                "The {} you specified did not match the calculated checksum.",
                algorithm.name().to_ascii_lowercase()
            );
            return refuse("BadDigest", message);
        }
    }
    Ok(checksum)
}

pub(super) fn list(c: &Connection, bucket: BucketId, list: &ListUploads) -> Result<UploadListing, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT key, id, initiated, new FROM upload
         WHERE bucket = ?1 AND (key, id) >= (?2, ?3) ORDER BY key, id",
    )?;
    let mut listing = UploadListing::default();
    let mut start = first(list);
    'seek: while let Some((key, id)) = start.take() {
        let mut rows = query.query(params![bucket.row(), key, id])?;
        while let Some(row) = rows.next()? {
            let upload = read_upload(row)?;
            if !upload.key.starts_with(&list.prefix) {
                break 'seek;
            }
            if listing.entries.len() >= list.limit {
                listing.truncated = true;
                break 'seek;
            }
            if let Some(group) = rolled_up(&upload.key, &list.prefix, &list.delimiter) {
                start = after_prefix(group.as_bytes()).map(|key| (key, String::new()));
                listing.entries.push(UploadEntry::Prefix(group.to_owned()));
                continue 'seek;
            }
            listing.entries.push(UploadEntry::Upload(Box::new(upload)));
        }
    }
    Ok(listing)
}

fn first(list: &ListUploads) -> Option<(Vec<u8>, String)> {
    if list.key_marker >= list.prefix && !list.key_marker.is_empty() && !list.id_marker.is_empty() {
        // A zero byte: behind this very id.
        return Some((list.key_marker.as_bytes().to_vec(), format!("{}\0", list.id_marker)));
    }
    super::list::first_key(&list.prefix, &list.key_marker, &list.delimiter).map(|key| (key, String::new()))
}
