//! A folder of the format before becomes one of today, also if the process is killed meanwhile.

use crate::harness::count;
use futures::TryStreamExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{
    BackendError, BucketId, BucketUsage, ClaimedPart, CompleteUpload, Delete, List, ListVersions, ObjectBackend, Place,
    Put, VersionEntry, Versioning,
};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{IdSource, ManualClock, OsRandom, Timestamp};

const FOLDER: &str = "TERROIR_MIGRATION_FOLDER";

/// The folder that `index-v1.sql` is the index of.
fn old_folder(root: &Path) {
    let files: [(u64, Vec<u8>); 4] = [(2, vec![7; 100_000]), (4, vec![1; 5 << 20]), (5, vec![2; 10]), (7, vec![3; 64])];
    for (number, bytes) in files {
        let folder = root.join(format!("files/{number:02x}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{:016x}", 1_u64 << 40 | number)), bytes).unwrap();
    }
    let index = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    index.execute_batch(include_str!("../fixtures/index-v1.sql")).unwrap();
}

async fn open(root: &Path) -> Result<LocalBackend, BackendError> {
    let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-01-03T00:00:00Z").unwrap()));
    LocalBackend::open(root, clock, Arc::new(OsRandom), Arc::new(Unlimited)).await
}

async fn bytes(backend: &LocalBackend, at: &Place) -> Vec<u8> {
    let object = backend.open(at, None).await.unwrap().found().unwrap();
    object.stream_all().try_collect::<Vec<_>>().await.unwrap().concat()
}

async fn check(root: &Path) {
    let backend = open(root).await.unwrap();
    let one = BucketId::from_random(1);
    let place = |key: &str| Place::new(one, key);
    let listed = backend.list(one, List { limit: 10, ..List::default() }).await.unwrap();
    let names: Vec<_> = listed.entries.iter().map(|entry| entry.name().to_owned()).collect();
    assert_eq!(names, ["a", "dir/large", "empty", "multi"]);
    assert_eq!(bytes(&backend, &place("a")).await, b"hello");
    assert_eq!(bytes(&backend, &place("empty")).await, b"");
    assert_eq!(bytes(&backend, &place("dir/large")).await, vec![7; 100_000]);
    assert_eq!(bytes(&backend, &place("multi")).await, [vec![1; 5 << 20], vec![2; 10]].concat());
    assert_eq!(bytes(&backend, &Place::new(BucketId::SYSTEM, "blob")).await, b"blob");
    let head = backend.head(&place("a"), None).await.unwrap().found().unwrap();
    assert!(head.version.is_null());
    assert_eq!((head.meta.user["colour"].as_str(), head.meta.tags["t"].as_str()), ("red", "1"));
    assert_eq!(backend.closed_buckets().await.unwrap(), [BucketId::from_random(2)]);
    let bytes_of_one = 5 + 100_000 + (5 << 20) + 10 + 64;
    assert_eq!(backend.usage(one).await.unwrap(), BucketUsage { versions: 4, bytes: bytes_of_one });
    assert_eq!(backend.usage(BucketId::SYSTEM).await.unwrap(), BucketUsage { versions: 1, bytes: 4 });

    // What was there is the oldest version of its key.
    let put = Put { versioning: Versioning::Enabled, ..Put::plain() };
    let body = futures::stream::iter([Ok("new".into())]);
    let new = backend.put(&place("a"), Box::pin(body), put).await.unwrap();
    let list = ListVersions { prefix: "a".into(), limit: 10, ..ListVersions::default() };
    let versions = backend.list_versions(one, list).await.unwrap().entries;
    let versions: Vec<_> = versions
        .into_iter()
        .map(|entry| match entry {
            VersionEntry::Version(version) => (version.version, version.latest),
            VersionEntry::Prefix(prefix) => panic!("{prefix}"),
        })
        .collect();
    assert_eq!(versions, [(new.version.clone(), true), (head.version, false)]);
    backend.delete(&place("a"), Delete { version: Some(new.version), ..Delete::default() }).await.unwrap();
    assert_eq!(bytes(&backend, &place("a")).await, b"hello");

    // An upload that was begun goes on.
    let uploads =
        backend.list_uploads(one, terroir_object_storage::backend::ListUploads { limit: 9, ..Default::default() });
    let terroir_object_storage::backend::UploadEntry::Upload(upload) = uploads.await.unwrap().entries.remove(0) else {
        panic!("no delimiter was asked for")
    };
    let (parts, _) = backend.list_parts(&place("begun"), &upload.id, 0, 10).await.unwrap();
    let parts = parts.into_iter().map(|part| ClaimedPart { number: part.number, etag: part.etag, checksum: None });
    let complete = CompleteUpload { parts: parts.collect(), ..CompleteUpload::default() };
    backend.complete_upload(&place("begun"), &upload.id, complete).await.unwrap();
    assert_eq!(bytes(&backend, &place("begun")).await, vec![3; 64]);
    assert_eq!(backend.usage(one).await.unwrap(), BucketUsage { versions: 5, bytes: bytes_of_one });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_format() {
    let dir = tempfile::tempdir().unwrap();
    old_folder(dir.path());
    check(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await.unwrap());
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    index.execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = open(dir.path()).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("format 99"), "{refused}");
}

/// The child that is killed.
#[test]
fn migrating_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(open(Path::new(&folder))).map(drop).unwrap();
}

#[test]
fn a_kill_at_any_time_is_made_good() {
    let rounds = count(10, 200);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut before, mut after) = (0, 0);
    for _ in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        old_folder(dir.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "migration::migrating_process", "--test-threads=1"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The log is there once it has begun.
        let log = dir.path().join("index.sqlite-wal");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !log.exists() && child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "the child does not begin");
        }
        std::thread::sleep(Duration::from_micros(OsRandom.next_u64() % 12_000));
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().unwrap();
        let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
        match index.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap() {
            1 => before += 1,
            _ => after += 1,
        }
        drop(index);
        runtime.block_on(check(dir.path()));
    }
    println!("killed before it was done: {before}, after: {after}");
}
