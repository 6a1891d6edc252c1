//! The index's tables, and how an older file becomes one of today. The format is described in `docs/object-format.md`.
//!
//! A migration is one transaction, so that a process that ends in the middle of it leaves the file as it was.

use rusqlite::Connection;

use super::rows;
use crate::backend::{BackendError, PartOfObject};

const VERSION: i64 = 6;

const CREATE: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE bucket (id INTEGER PRIMARY KEY, state INTEGER NOT NULL);
CREATE TABLE object (
    bucket INTEGER NOT NULL, key BLOB NOT NULL,
    content INTEGER NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL, etag TEXT NOT NULL,
    checksum BLOB, parts INTEGER, upload TEXT, meta BLOB NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0, is_null INTEGER NOT NULL DEFAULT 1, lock BLOB,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE TABLE content (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, data BLOB, sums BLOB);
CREATE TABLE garbage (id INTEGER PRIMARY KEY);
CREATE TABLE upload (
    bucket INTEGER NOT NULL, key BLOB NOT NULL, id TEXT NOT NULL,
    initiated INTEGER NOT NULL, new BLOB NOT NULL,
    PRIMARY KEY (bucket, key, id)
) WITHOUT ROWID;
CREATE TABLE part (
    upload TEXT NOT NULL, number INTEGER NOT NULL,
    content INTEGER NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL, etag TEXT NOT NULL, checksum BLOB,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;
";

/// What the second format has beside.
const VERSIONS: &str = "
CREATE TABLE version (
    bucket INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
    is_null INTEGER NOT NULL, content INTEGER, size INTEGER NOT NULL, modified INTEGER NOT NULL, etag TEXT,
    checksum BLOB, parts INTEGER, upload TEXT, meta BLOB, lock BLOB,
    PRIMARY KEY (bucket, key, seq DESC)
) WITHOUT ROWID;
CREATE UNIQUE INDEX version_null ON version (bucket, key) WHERE is_null = 1;
CREATE TABLE usage (bucket INTEGER PRIMARY KEY, versions INTEGER NOT NULL, bytes INTEGER NOT NULL);
";

const FROM_1: &str = "
ALTER TABLE object ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE object ADD COLUMN is_null INTEGER NOT NULL DEFAULT 1;
ALTER TABLE object ADD COLUMN lock BLOB;
ALTER TABLE content ADD COLUMN sums BLOB;
";

/// What the third format has beside.
const DAMAGE: &str = "
CREATE TABLE damage (content INTEGER PRIMARY KEY, found INTEGER NOT NULL, detail TEXT NOT NULL);
";

/// What the fifth format has beside.
const OUTBOX: &str = "
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL,
    bucket INTEGER NOT NULL, key BLOB NOT NULL, version TEXT NOT NULL,
    size INTEGER NOT NULL, etag TEXT, at INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX outbox_queue ON outbox (queue, id);
CREATE INDEX outbox_version ON outbox (bucket, key, version);
CREATE TABLE queue (name TEXT PRIMARY KEY, entries INTEGER NOT NULL, dropped INTEGER NOT NULL) WITHOUT ROWID;
";

/// Bytes of every version, and of parts of uploads in progress, by bucket.
pub(super) const COUNT_USAGE: &str = "
INSERT INTO usage (bucket, versions, bytes)
SELECT bucket, sum(n), sum(size) FROM (
    SELECT bucket, 1 AS n, size FROM object
    UNION ALL SELECT bucket, 1, size FROM version WHERE content IS NOT NULL
    UNION ALL SELECT upload.bucket, 0, part.size FROM upload JOIN part ON part.upload = upload.id
) GROUP BY bucket;
";

/// Makes the tables that are missing.
///
/// # Errors
/// `Index`; a newer format is refused.
pub(super) fn prepare(c: &Connection) -> Result<(), BackendError> {
    let found: i64 = c.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == VERSION {
        return Ok(());
    }
    if found > VERSION {
        let message = format!("the object index has format {found}, this version knows {VERSION}");
        return Err(BackendError::Index(message));
    }
    c.execute_batch("BEGIN IMMEDIATE")?;
    let migrated = migrate(c, found).and_then(|()| Ok(c.execute_batch("COMMIT")?));
    if migrated.is_err() && !c.is_autocommit() {
        // What is not committed is undone with the connection at the latest.
        let _ = c.execute_batch("ROLLBACK");
    }
    migrated
}

fn migrate(c: &Connection, found: i64) -> Result<(), BackendError> {
    if found == 0 {
        c.execute_batch(&[CREATE, VERSIONS, DAMAGE, OUTBOX].concat())?;
    } else {
        tracing::info!(from = found, to = VERSION, "migrating the object index");
        if found < 2 {
            c.execute_batch(&[FROM_1, VERSIONS, COUNT_USAGE].concat())?;
        }
        if found < 3 {
            c.execute_batch(DAMAGE)?;
            name_parts(c)?;
            rows::set_meta(c, rows::UNSUMMED, 1)?;
        }
        // The fourth format has the same tables. What it may say of an object is new: a version that does not know of
        // encryption would give out sealed bytes.
        if found < 5 {
            c.execute_batch(OUTBOX)?;
        }
        // Nor has the sixth other tables: contents may lie at targets, which a version that does not know of it would take
        // for damaged, and leave there.
    }
    c.pragma_update(None, "user_version", VERSION)?;
    Ok(())
}

/// Copies of objects with parts did not name their files, which a later start took for orphans.
fn name_parts(c: &Connection) -> Result<(), BackendError> {
    let mut lists = c.prepare("SELECT data FROM content WHERE kind = 2")?;
    let mut name = c.prepare("INSERT OR IGNORE INTO content (id, kind) VALUES (?1, 1)")?;
    let mut rows = lists.query([])?;
    // Rows that come in meanwhile are of another kind.
    while let Some(row) = rows.next()? {
        match rows::unpack::<Vec<PartOfObject>>(&row.get::<_, Vec<u8>>(0)?) {
            Ok(parts) => {
                for part in parts {
                    name.execute([part.content.cast_signed()])?;
                }
            }
            // One that cannot be read does not keep all others from being served.
            Err(error) => tracing::error!(%error, "a list of parts cannot be read"),
        }
    }
    Ok(())
}
