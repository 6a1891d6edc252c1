//! Contents from before there were sums get theirs, once.
//!
//! What is known of the whole says whether their bytes are still right: the ETag of what was written in one piece, the
//! checksum of a part.

use rusqlite::{Connection, params};
use std::sync::Arc;

use super::check::{Known, Stored};
use super::scrub::Pace;
use super::{Inner, rows};
use crate::backend::{BackendError, PartOfObject};

const PAGE: i64 = 200;

/// A content without sums, and what is known of it.
type Unsummed = (Stored, Known);

pub(super) async fn adopt(inner: &Arc<Inner>, pace: &Pace) -> Result<(), BackendError> {
    let begun = inner.index.read(|c| Ok(rows::meta(c, rows::UNSUMMED)?.unwrap_or(0))).await?;
    if begun == 0 {
        return Ok(());
    }
    for table in ["object", "version"] {
        let mut after = Some((i64::MIN, Vec::new(), i64::MAX));
        while let Some(start) = after.take() {
            let (found, next) = inner.index.read(move |c| objects(c, table, &start)).await?;
            after = next;
            adopt_all(inner, found, pace).await?;
        }
    }
    let mut after = Some((String::new(), 0));
    while let Some(start) = after.take() {
        let (found, next) = inner.index.read(move |c| parts_of_uploads(c, &start)).await?;
        after = next;
        adopt_all(inner, found, pace).await?;
    }
    // Copies that were made of unsummed ones meanwhile may stand where this was already: then it comes by again.
    let end = move |c: &Connection| {
        let all = rows::meta(c, rows::UNSUMMED)? == Some(begun);
        if all {
            rows::set_meta(c, rows::UNSUMMED, 0)?;
        }
        Ok(all)
    };
    if inner.index.write(end).await? {
        tracing::info!("objects from before there were block checksums have theirs now");
    }
    Ok(())
}

/// Those in the index together, files one by one.
async fn adopt_all(inner: &Arc<Inner>, mut found: Vec<Unsummed>, pace: &Pace) -> Result<(), BackendError> {
    while let Some((first, _)) = found.first() {
        let together = if first.in_file { 1 } else { found.iter().take_while(|(stored, _)| !stored.in_file).count() };
        let later = found.split_off(together);
        inner.adopt_contents(std::mem::replace(&mut found, later), pace).await?;
    }
    Ok(())
}

type Position = (i64, Vec<u8>, i64);

/// A page of objects behind a position (bucket, key, version), and the position of the next page.
fn objects(c: &Connection, table: &str, after: &Position) -> Result<(Vec<Unsummed>, Option<Position>), BackendError> {
    let mut query = c.prepare_cached(&format!(
        "SELECT o.bucket, o.key, o.seq, o.etag, content.id, content.kind, content.data, content.sums IS NULL
         FROM {table} AS o JOIN content ON content.id = o.content
         WHERE (o.bucket, o.key) >= (?1, ?2) AND ((o.bucket, o.key) > (?1, ?2) OR o.seq < ?3)
         ORDER BY o.bucket, o.key, o.seq DESC LIMIT ?4"
    ))?;
    let mut rows = query.query(params![after.0, after.1, after.2, PAGE])?;
    let (mut found, mut next) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        next = Some((row.get(0)?, row.get(1)?, row.get(2)?));
        let (id, unsummed) = (row.get::<_, i64>(4)?.cast_unsigned(), row.get::<_, bool>(7)?);
        match row.get::<_, i64>(5)? {
            rows::INLINE | rows::FILE if unsummed => {
                let stored = Stored { id, in_file: row.get::<_, i64>(5)? == rows::FILE };
                found.push((stored, Known::Md5(row.get(3)?)));
            }
            rows::INLINE | rows::FILE | rows::REMOTE => {}
            _ => match rows::unpack::<Vec<PartOfObject>>(&row.get::<_, Vec<u8>>(6)?) {
                Ok(parts) => {
                    for part in parts {
                        found.extend(unsummed_part(c, part)?);
                    }
                }
                Err(error) => tracing::error!(%error, "the list of parts of content {id:016x} cannot be read"),
            },
        }
    }
    Ok((found, next))
}

fn unsummed_part(c: &Connection, part: PartOfObject) -> Result<Option<Unsummed>, BackendError> {
    let stored = Stored { id: part.content, in_file: true };
    // Where there is no row, a verification says so.
    let mut query = c.prepare_cached("SELECT 1 FROM content WHERE id = ?1 AND sums IS NULL")?;
    let unsummed = query.exists([part.content.cast_signed()])?;
    // Every part has a checksum of its bytes; without one, nothing can be said of them.
    Ok(part.checksum.filter(|_| unsummed).map(|checksum| (stored, Known::Checksum(checksum))))
}

fn parts_of_uploads(
    c: &Connection,
    after: &(String, i64),
) -> Result<(Vec<Unsummed>, Option<(String, i64)>), BackendError> {
    let mut query = c.prepare_cached(
        "SELECT part.upload, part.number, part.etag, content.id, content.sums IS NULL
         FROM part JOIN content ON content.id = part.content
         WHERE (part.upload, part.number) > (?1, ?2) ORDER BY part.upload, part.number LIMIT ?3",
    )?;
    let mut rows = query.query(params![after.0, after.1, PAGE])?;
    let (mut found, mut next) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        next = Some((row.get(0)?, row.get(1)?));
        if row.get::<_, bool>(4)? {
            let stored = Stored { id: row.get::<_, i64>(3)?.cast_unsigned(), in_file: true };
            found.push((stored, Known::Md5(row.get(2)?)));
        }
    }
    Ok((found, next))
}
