//! A folder of the format before becomes one of today, also if the process is killed meanwhile.

use crate::harness::count;
use futures::TryStreamExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{
    BackendError, BucketId, BucketUsage, ClaimedPart, CompleteUpload, Delete, List, ListVersions, NewCopy,
    ObjectBackend, Place, Put, Source, VersionEntry, Versioning,
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

/// The same, after a version of format 2 had migrated it.
fn folder_of_format_2(root: &Path) {
    old_folder(root);
    let index = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    index.execute_batch(include_str!("../fixtures/index-v1-to-v2.sql")).unwrap();
}

/// The same, after a version of format 3 had migrated it.
fn folder_of_format_3(root: &Path) {
    folder_of_format_2(root);
    let index = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    index.execute_batch(include_str!("../fixtures/index-v2-to-v3.sql")).unwrap();
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

    // Everything gets its block checksums, after it was compared.
    let pass = backend.scrub_once(0).await.unwrap();
    assert_eq!((pass.contents, pass.damaged), (7, 0));
    let report = backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.unsummed), (0, 0), "{report:?}");

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
async fn the_second_format() {
    let dir = tempfile::tempdir().unwrap();
    folder_of_format_2(dir.path());
    check(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_format() {
    let dir = tempfile::tempdir().unwrap();
    folder_of_format_3(dir.path());
    check(dir.path()).await;
}

/// The parts of a copy had no rows of their own.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_nothing_named_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    old_folder(dir.path());
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    let unnamed = format!("DELETE FROM content WHERE id IN ({}, {})", 1_u64 << 40 | 4, 1_u64 << 40 | 5);
    assert_eq!(index.execute(&unnamed, []).unwrap(), 2);
    drop(index);
    let backend = open(dir.path()).await.unwrap();
    backend.sweep().await.unwrap();
    drop(backend);
    check(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spoilt_before_is_not_taken_for_good() {
    let dir = tempfile::tempdir().unwrap();
    old_folder(dir.path());
    std::fs::write(dir.path().join("files/02/0000010000000002"), vec![8; 100_000]).unwrap();
    std::fs::write(dir.path().join("files/05/0000010000000005"), vec![3; 10]).unwrap();
    let index = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    index.execute("UPDATE content SET data = x'48656c6c6f' WHERE data = x'68656c6c6f'", []).unwrap();
    drop(index);
    let backend = open(dir.path()).await.unwrap();
    let place = |key: &str| Place::new(BucketId::from_random(1), key);
    for pass in 0..3 {
        backend.scrub_once(0).await.unwrap();
        assert_eq!(backend.stats().await.unwrap().damaged, 3, "pass {pass}");
        let report = backend.verify(false, |_| {}).await.unwrap();
        assert_eq!((report.found, report.unsummed), (3, 0), "{report:?}");
    }
    for key in ["a", "dir/large", "multi"] {
        let read = match backend.open(&place(key), None).await {
            Ok(found) => found.found().unwrap().stream_all().try_collect::<Vec<_>>().await.map(drop).is_err(),
            Err(BackendError::Damaged(_)) => true,
            Err(error) => panic!("{error}"),
        };
        assert!(read, "{key} is not given out any more");
        let head = backend.head(&place(key), None).await.unwrap().found().unwrap();
        let source = Source { place: place(key), version: head.version, etag: head.etag };
        let copied = backend.copy(&source, &place("copy"), NewCopy::default()).await;
        assert!(matches!(copied, Err(BackendError::Damaged(_))), "{key}: {copied:?}");
    }
    // Deleted or written again, it is known to be damaged no longer.
    backend.delete(&place("a"), Delete::default()).await.unwrap();
    for key in ["dir/large", "multi"] {
        let body = futures::stream::iter([Ok("new".into())]);
        backend.put(&place(key), Box::pin(body), Put::plain()).await.unwrap();
    }
    assert_eq!(backend.stats().await.unwrap().damaged, 0);
}

/// Copies of what has no sums yet have none either, wherever the scrubber is just then.
#[tokio::test(flavor = "multi_thread")]
async fn copies_made_meanwhile_get_theirs() {
    let dir = tempfile::tempdir().unwrap();
    folder_of_format_2(dir.path());
    let backend = open(dir.path()).await.unwrap();
    let place = |key: &str| Place::new(BucketId::from_random(1), key);
    let head = backend.head(&place("multi"), None).await.unwrap().found().unwrap();
    let source = Source { place: place("multi"), version: head.version, etag: head.etag };
    // Large enough that the copies come before and behind the place where the scrubber reads.
    let scrubbing = tokio::spawn({
        let backend = backend.clone();
        async move { backend.scrub_once(0).await }
    });
    for n in 0..20 {
        backend
            .copy(&source, &place(&format!("{}{n}", if n % 2 == 0 { 'a' } else { 'z' })), NewCopy::default())
            .await
            .unwrap();
    }
    scrubbing.await.unwrap().unwrap();
    backend.scrub_once(0).await.unwrap();
    let report = backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.unsummed), (0, 0), "{report:?}");
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
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let format = 1 + i64::from(round % 3);
        [old_folder, folder_of_format_2, folder_of_format_3][round as usize % 3](dir.path());
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
            found if found == format => before += 1,
            found => {
                assert_eq!(found, 6);
                after += 1;
            }
        }
        drop(index);
        runtime.block_on(check(dir.path()));
    }
    println!("killed before it was done: {before}, after: {after}");
}
