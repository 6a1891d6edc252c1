//! Listings of versions: the rows of `object` and `version` of one key after the other, newest first.

use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;
use terroir_types::Timestamp;

use super::list::{after_prefix, first_key, rolled_up};
use super::{rows, versions};
use crate::backend::{
    BackendError, BucketId, ListVersions, ListedBytes, ListedVersion, ObjectMeta, Stamp, VersionEntry, VersionId,
    VersionListing,
};

macro_rules! merged {
    ($columns:literal, $which:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM object WHERE bucket = ?1 AND ",
            $which,
            " UNION ALL SELECT ",
            $columns,
            " FROM version WHERE bucket = ?1 AND ",
            $which,
            " ORDER BY ",
            $order
        )
    };
}

/// SQLite merges the two: both are in this order already.
const FROM_KEY: &str =
    merged!("key, seq, is_null, content, size, modified, etag, checksum, meta, lock", "key >= ?2", "key, seq DESC");
const OLDER: &str = merged!(
    "key, seq, is_null, content, size, modified, etag, checksum, meta, lock",
    "key = ?2 AND seq < ?3",
    "seq DESC"
);
const NEXT_NEWER: &str = merged!("seq, modified", "key = ?2 AND seq >= ?3", "seq");

enum Start {
    Key(Vec<u8>),
    /// The versions of a key below this place, then what follows the key.
    Below(String, i64),
}

fn start(c: &Connection, bucket: BucketId, list: &ListVersions) -> Result<Option<Start>, BackendError> {
    let behind = || first_key(&list.prefix, &list.after, &list.delimiter).map(Start::Key);
    let Some(version) = list.version.as_ref().filter(|_| !list.after.is_empty()) else { return Ok(behind()) };
    if !list.after.starts_with(&list.prefix) || rolled_up(&list.after, &list.prefix, &list.delimiter).is_some() {
        return Ok(behind());
    }
    let seq = match versions::seq_of(version) {
        Some(seq) => seq,
        // Where it has gone meanwhile, its key's versions come once more rather than not at all.
        None => seq_of_null(c, bucket, &list.after)?.unwrap_or(i64::MAX),
    };
    Ok(Some(Start::Below(list.after.clone(), seq)))
}

fn seq_of_null(c: &Connection, bucket: BucketId, key: &str) -> Result<Option<i64>, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT seq FROM object WHERE bucket = ?1 AND key = ?2 AND is_null = 1
         UNION ALL SELECT seq FROM version WHERE bucket = ?1 AND key = ?2 AND is_null = 1 LIMIT 1",
    )?;
    Ok(query.query_row(params![bucket.row(), key.as_bytes()], |row| row.get(0)).optional()?)
}

/// A listing as it grows.
struct Page<'a> {
    list: &'a ListVersions,
    listing: VersionListing,
    /// Key and time of the version before, which is the next newer one of the same key.
    newer: Option<(String, Timestamp)>,
    /// Where a further page begins.
    last: Option<(String, Option<VersionId>)>,
}

/// What comes after a row.
enum Step {
    Next,
    /// Behind all keys that are rolled up to this.
    Skip(String),
    End,
}

pub(super) fn list(c: &Connection, bucket: BucketId, list: &ListVersions) -> Result<VersionListing, BackendError> {
    let mut page = Page { list, listing: VersionListing::default(), newer: None, last: None };
    let mut next = start(c, bucket, list)?;
    while let Some(from) = next.take() {
        let (step, behind) = match from {
            Start::Below(key, seq) => {
                let mut newer = c.prepare_cached(NEXT_NEWER)?;
                let newer = newer.query_row(params![bucket.row(), key.as_bytes(), seq], |row| row.get(1)).optional()?;
                page.newer = newer.map(|modified| (key.clone(), Timestamp::from_millis(modified)));
                let mut behind = key.clone().into_bytes();
                behind.push(0);
                let mut query = c.prepare_cached(OLDER)?;
                (page.take(query.query(params![bucket.row(), key.as_bytes(), seq])?)?, Some(Start::Key(behind)))
            }
            Start::Key(key) => {
                let mut query = c.prepare_cached(FROM_KEY)?;
                (page.take(query.query(params![bucket.row(), key])?)?, None)
            }
        };
        next = match step {
            Step::Next => behind,
            Step::Skip(group) => after_prefix(group.as_bytes()).map(Start::Key),
            Step::End => None,
        };
    }
    Ok(page.listing)
}

impl Page<'_> {
    /// Takes rows until there are none or something else must follow.
    fn take(&mut self, mut rows: rusqlite::Rows<'_>) -> Result<Step, BackendError> {
        while let Some(row) = rows.next()? {
            match self.row(row)? {
                Step::Next => {}
                step => return Ok(step),
            }
        }
        Ok(Step::Next)
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Step, BackendError> {
        let key = row.get_ref(0)?.as_blob().map_err(|error| BackendError::Damaged(error.to_string()))?;
        if !key.starts_with(self.list.prefix.as_bytes()) {
            return Ok(Step::End);
        }
        if self.listing.entries.len() >= self.list.limit {
            self.listing.next = self.last.take();
            return Ok(Step::End);
        }
        let key = rows::text(key.to_vec())?;
        if let Some(group) = rolled_up(&key, &self.list.prefix, &self.list.delimiter) {
            self.last = Some((group.to_owned(), None));
            self.listing.entries.push(VersionEntry::Prefix(group.to_owned()));
            return Ok(Step::Skip(group.to_owned()));
        }
        let version = self.read(row, key)?;
        let seq: i64 = row.get(1)?;
        self.last = Some((version.key.clone(), Some(versions::version_id(seq, false))));
        self.newer = Some((version.key.clone(), version.modified));
        self.listing.entries.push(VersionEntry::Version(version));
        Ok(Step::Next)
    }

    fn read(&self, row: &Row<'_>, key: String) -> Result<ListedVersion, BackendError> {
        let damaged = |error: rusqlite::types::FromSqlError| BackendError::Damaged(error.to_string());
        let noncurrent_since = self.newer.as_ref().filter(|(newer, _)| *newer == key).map(|(_, modified)| *modified);
        let object = match row.get::<_, Option<i64>>(3)? {
            None => None,
            Some(_) => {
                let meta = row.get_ref(8)?.as_blob().map_err(damaged)?;
                let meta = self.list.with_meta.then(|| rows::unpack::<ObjectMeta>(meta)).transpose()?;
                Some(ListedBytes {
                    size: rows::size(row.get(4)?),
                    etag: row.get(6)?,
                    checksum: rows::unpack_checksum(row.get_ref(7)?.as_blob_or_null().map_err(damaged)?)?,
                    meta: meta.map(Arc::new),
                    lock: rows::unpack_lock(row.get_ref(9)?.as_blob_or_null().map_err(damaged)?)?,
                })
            }
        };
        Ok(ListedVersion {
            version: versions::version_id(row.get(1)?, row.get(2)?),
            stamp: Stamp(row.get(1)?),
            latest: noncurrent_since.is_none(),
            noncurrent_since,
            modified: Timestamp::from_millis(row.get(5)?),
            object,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a page would cost as much as the bucket is large.
    #[test]
    fn the_two_tables_are_merged_and_not_sorted() {
        let c = Connection::open_in_memory().unwrap();
        super::super::schema::prepare(&c).unwrap();
        for sql in [FROM_KEY, OLDER, NEXT_NEWER] {
            let mut explain = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let count = explain.parameter_count();
            let rows = explain.query_map(rusqlite::params_from_iter(vec![1_i64; count]), |row| row.get::<_, String>(3));
            let plan = rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap().join("\n");
            assert!(plan.contains("MERGE (UNION ALL)") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
    }
}
