//! Listings walk the index from key to key; a rolled-up prefix is one step, whatever lies below it.

use rusqlite::{Connection, params};
use terroir_types::Timestamp;

use super::rows;
use crate::backend::{BackendError, BucketId, List, ListEntry, ListedObject, Listing};

/// The smallest key above all keys that begin with `prefix`; none if there is no such key.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < 0xff {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

/// The part of `key` that is rolled up.
pub(super) fn rolled_up<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Where a walk begins: at the prefix or behind `after`, whichever is later. None: there is nothing.
pub(super) fn first_key(prefix: &str, after: &str, delimiter: &str) -> Option<Vec<u8>> {
    if after < prefix || after.is_empty() {
        return Some(prefix.as_bytes().to_vec());
    }
    // Behind a rolled-up prefix nothing of it may come again.
    match rolled_up(after, prefix, delimiter) {
        Some(group) if after.starts_with(prefix) => after_prefix(group.as_bytes()),
        _ => {
            let mut key = after.as_bytes().to_vec();
            key.push(0);
            Some(key)
        }
    }
}

pub(super) fn list(c: &Connection, bucket: BucketId, list: &List) -> Result<Listing, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT key, size, etag, modified, checksum FROM object WHERE bucket = ?1 AND key >= ?2 ORDER BY key",
    )?;
    let mut listing = Listing::default();
    let mut start = first_key(&list.prefix, &list.after, &list.delimiter);
    'seek: while let Some(from) = start.take() {
        let mut rows = query.query(params![bucket.row(), from])?;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob().map_err(|error| BackendError::Damaged(error.to_string()))?;
            if !key.starts_with(list.prefix.as_bytes()) {
                break 'seek;
            }
            if listing.entries.len() >= list.limit {
                listing.truncated = true;
                break 'seek;
            }
            let key = rows::text(key.to_vec())?;
            if let Some(group) = rolled_up(&key, &list.prefix, &list.delimiter) {
                start = after_prefix(group.as_bytes());
                listing.entries.push(ListEntry::Prefix(group.to_owned()));
                continue 'seek;
            }
            let checksum =
                row.get_ref(4)?.as_blob_or_null().map_err(|error| BackendError::Damaged(error.to_string()))?;
            listing.entries.push(ListEntry::Object(ListedObject {
                key,
                size: rows::size(row.get(1)?),
                etag: row.get(2)?,
                modified: Timestamp::from_millis(row.get(3)?),
                checksum: rows::unpack_checksum(checksum)?,
            }));
        }
    }
    Ok(listing)
}
