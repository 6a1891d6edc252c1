//! Tables and files of the SQLite engine.
//!
//! `kv` is the newest state. `log` is an undo log: one row per changed key and transaction, with the value the key had
//! *before*; so the state at an older revision is `kv` with the younger rows undone, and compaction is nothing but
//! deleting the oldest rows. A row's id is `revision << 12 | index in the transaction`.

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};
use std::path::Path;

use super::SqliteOptions;
use crate::engine::{PLACE_BITS as INDEX_BITS, Revision};
use crate::{Durability, StoreError};

/// Of the tables below. A file with a higher one is refused.
pub(super) const FORMAT: u32 = 1;
/// "Terr", in the header of the file, where `file` and SQLite look for it.
const APPLICATION_ID: i32 = 0x5465_7272;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE kv (
    key TEXT PRIMARY KEY,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    lease INTEGER,
    value BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    kind INTEGER NOT NULL,
    old_create_revision INTEGER,
    old_mod_revision INTEGER,
    old_value BLOB
);
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
CREATE TABLE outbox (
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (stream, sequence)
) WITHOUT ROWID;
";

pub(super) const fn row_id(revision: Revision, index: usize) -> i64 {
    ((revision << INDEX_BITS) | index as u64).cast_signed()
}

pub(super) const fn revision_of(row_id: i64) -> Revision {
    row_id.cast_unsigned() >> INDEX_BITS
}

/// Opens the writer's connection; makes the tables in a new file.
pub(super) fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|error| sqlite_error(&error))?;
    prepare(&connection, path, options).map_err(|error| match error {
        Failure::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            StoreError::NotAStore { path: path.to_owned() }
        }
        Failure::Sqlite(error) => sqlite_error(&error),
        Failure::Store(error) => error,
    })?;
    Ok(connection)
}

enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(connection: &Connection, path: &Path, options: &SqliteOptions) -> Result<(), Failure> {
    connection.set_prepared_statement_cache_capacity(64);
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || found != 0 || tables != 0) {
        return Err(Failure::Store(StoreError::NotAStore { path: path.to_owned() }));
    }
    if found > FORMAT {
        return Err(Failure::Store(StoreError::NewerFormat { found, supported: FORMAT }));
    }
    // Only now may anything be written to the file.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(
        None,
        "synchronous",
        match options.durability {
            Durability::Full => "FULL",
            Durability::None => "OFF",
        },
    )?;
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if found == 0 {
        let first = options.first_revision;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} INSERT INTO meta VALUES ('revision', {first}), ('compacted', 0);
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        ))?;
    }
    if let Some(bytes) = options.max_bytes {
        limit(connection, bytes)?;
    }
    Ok(())
}

/// Bounds the data file; it cannot be bounded below its present size.
pub(super) fn limit(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    connection.pragma_update(None, "max_page_count", (bytes / page).max(1))
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| sqlite_error(&error))?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "cache_size", -1024).map_err(|error| sqlite_error(&error))?;
    Ok(connection)
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?")?
        .query_row([name], |row| row.get::<_, i64>(0))
        .optional()
        .map(|value| value.map(i64::cast_unsigned))
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value")?
        .execute((name, value.cast_signed()))?;
    Ok(())
}

/// Which of our errors an SQLite error is.
pub(super) fn sqlite_error(error: &rusqlite::Error) -> StoreError {
    if let rusqlite::Error::SqliteFailure(failure, _) = error {
        match failure.code {
            ErrorCode::DiskFull => return StoreError::DiskFull,
            ErrorCode::ReadOnly => return StoreError::ReadOnly,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => return StoreError::Corrupt(error.to_string()),
            // No room for the shared index of the write-ahead log.
            ErrorCode::SystemIoFailure if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
                return StoreError::DiskFull;
            }
            _ => {}
        }
    }
    StoreError::Io(error.to_string())
}
