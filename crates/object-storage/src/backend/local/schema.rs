//! The index's tables, and how an older file becomes one of today. The format is described in `docs/object-format.md`.
//!
//! A migration is one transaction, so that a process that ends in the middle of it leaves the file as it was.

use rusqlite::Connection;

use crate::backend::BackendError;

const VERSION: i64 = 2;

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
    let steps = match found {
        0 => [CREATE, VERSIONS, ""],
        1 => [FROM_1, VERSIONS, COUNT_USAGE],
        VERSION => return Ok(()),
        newer => {
            let message = format!("the object index has format {newer}, this version knows {VERSION}");
            return Err(BackendError::Index(message));
        }
    };
    if found > 0 {
        tracing::info!(from = found, to = VERSION, "migrating the object index");
    }
    c.execute_batch(&format!("BEGIN IMMEDIATE; {} PRAGMA user_version = {VERSION}; COMMIT;", steps.concat()))?;
    Ok(())
}
