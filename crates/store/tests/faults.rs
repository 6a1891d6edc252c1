//! Engines and disks that fail: the store says so, loses nothing, and goes on when it can.

use async_trait::async_trait;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terroir_store::engine::{
    Commit, Engine, KeyValue, OutboxEntry, Outcome, RangePage, StoreStats, WatchBatch, WatchSource,
};
use terroir_store::sqlite::SqliteEngine;
use terroir_store::{
    Durability, Key, KeyRange, KeyRing, LeaseId, LocalKeyRing, Options, Revision, Store, StoreError, Txn, record,
};
use terroir_types::{Error, ErrorClass, IdSource, OsRandom};
use tokio::sync::{Notify, Semaphore};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    text: String,
}
record!(Item { kind: "item", version: 1 });

const DEADLINE: Duration = Duration::from_secs(20);

fn options(path: &Path) -> Options {
    Options {
        durability: Durability::None,
        reserve_bytes: 0,
        ..Options::new(path, Arc::new(LocalKeyRing::ephemeral()))
    }
}

async fn put(store: &Store, key: impl std::fmt::Display, bytes: usize) -> Result<Revision, Error> {
    let item = Item { text: "x".repeat(bytes) };
    store.transact(&[], |txn| txn.put(&Key::new("item").child(&key), &item)).await.map(|((), revision)| revision)
}

async fn delete(store: &Store, key: impl std::fmt::Display) -> Result<(), Error> {
    let delete = |txn: &mut Txn| {
        txn.delete(&Key::new("item").child(&key));
        Ok(())
    };
    store.transact(&[], delete).await.map(|_| ())
}

/// The embedded engine with switches.
struct Faulty {
    engine: SqliteEngine,
    /// While no permit is there, questions for the revision wait.
    gate: Semaphore,
    questions: AtomicU64,
    refuse_commits: AtomicBool,
    watches: Arc<WatchFault>,
}

#[derive(Default)]
struct WatchFault {
    /// Told by open watches, once, as soon as `ring` rings.
    error: Mutex<Option<StoreError>>,
    ring: Notify,
    started: AtomicU64,
}

struct FaultyWatch(Box<dyn WatchSource>, Arc<WatchFault>);

#[async_trait]
impl WatchSource for FaultyWatch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            let ring = self.1.ring.notified();
            if let Some(error) = self.1.error.lock().unwrap().take() {
                return Err(error);
            }
            tokio::select! {
                batch = self.0.next() => return batch,
                () = ring => {}
            }
        }
    }
}

#[async_trait]
impl Engine for Faulty {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await.map_err(|_| StoreError::Closed)?;
        self.engine.current_revision().await
    }
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        if self.refuse_commits.load(Ordering::SeqCst) {
            return Err(StoreError::Io("injected".into()));
        }
        self.engine.commit(commit).await
    }
    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<Box<dyn WatchSource>, StoreError> {
        self.watches.started.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FaultyWatch(self.engine.watch(range, from).await?, Arc::clone(&self.watches))))
    }
    async fn get(&self, keys: &[Key], at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        self.engine.get(keys, at).await
    }
    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, StoreError> {
        // Small pages, so that a listing takes several.
        self.engine.range(range, limit.min(7), at).await
    }
    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.engine.compact(at).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.engine.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.lease_revoke(lease).await
    }
    async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        self.engine.outbox(stream, after, limit).await
    }
    async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError> {
        self.engine.outbox_trim(stream, through).await
    }
    fn last_sequence(&self, revision: Revision) -> u64 {
        self.engine.last_sequence(revision)
    }
    async fn outbox_streams(&self) -> Result<Vec<String>, StoreError> {
        self.engine.outbox_streams().await
    }
    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.engine.stats().await
    }
    async fn backup_to(&self, path: &Path, keys: &dyn KeyRing) -> Result<(), StoreError> {
        self.engine.backup_to(path, keys).await
    }
    async fn close(&self) {
        self.engine.close().await;
    }
}

async fn faulty(folder: &Path) -> (Arc<Faulty>, Store) {
    let options = options(&folder.join("state.db"));
    let engine = Arc::new(Faulty {
        engine: SqliteEngine::open(options.sqlite()).await.unwrap(),
        gate: Semaphore::new(1),
        questions: AtomicU64::new(0),
        refuse_commits: AtomicBool::new(false),
        watches: Arc::default(),
    });
    let store = Store::with_engine(engine.clone(), &options).await.unwrap();
    (engine, store)
}

#[tokio::test]
async fn the_view_survives_a_broken_or_compacted_watch() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, store) = faulty(folder.path()).await;
    for n in 0..20 {
        put(&store, n, 1).await.unwrap();
    }
    let decoded = store.read().await.unwrap().get::<Item>(&Key::new("item/5")).unwrap().unwrap();
    for (error, listed) in [
        (StoreError::Io("injected".into()), false),
        (StoreError::Compacted { compacted: 3 }, true),
        (StoreError::Deadline("injected"), false),
    ] {
        let what = format!("{error}");
        let started = engine.watches.started.load(Ordering::SeqCst);
        let mut bell = store.changes();
        *engine.watches.error.lock().unwrap() = Some(error);
        engine.watches.ring.notify_waiters();
        // What happens meanwhile is neither lost nor seen twice.
        let last = put(&store, "new", started as usize).await.unwrap();
        delete(&store, 0).await.unwrap();
        let txn = tokio::time::timeout(DEADLINE, store.read()).await.expect(&what).unwrap();
        assert!(txn.revision() >= last, "{what}");
        assert_eq!(engine.watches.started.load(Ordering::SeqCst), started + 1, "{what}");
        assert_eq!(txn.count(&Key::new("item")), 20, "{what}");
        assert_eq!(txn.get::<Item>(&Key::new("item/new")).unwrap().unwrap().text.len(), started as usize, "{what}");
        let again = txn.get::<Item>(&Key::new("item/5")).unwrap().unwrap();
        assert!(Arc::ptr_eq(&decoded, &again), "{what}: what did not change stays decoded");
        let changes = tokio::time::timeout(DEADLINE, bell.next()).await.unwrap();
        assert_eq!(changes.missed, listed, "{what}: after a new listing everything has to be looked at");
    }
}

#[tokio::test]
async fn readers_share_one_question_and_get_an_answer_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, store) = faulty(folder.path()).await;
    let held = engine.gate.acquire().await.unwrap();
    let before = engine.questions.load(Ordering::SeqCst);
    let mut readers = Box::pin(tokio::task::unconstrained(join_all((0..200).map(|_| store.read()))));
    assert!(futures::poll!(&mut readers).is_pending());
    // The first question may be under way before the others come; the second is for all of them.
    drop(held);
    let answers = tokio::time::timeout(DEADLINE, readers).await.unwrap();
    let revisions: Vec<_> = answers.into_iter().map(|txn| txn.unwrap().revision()).collect();
    let asked = engine.questions.load(Ordering::SeqCst) - before;
    assert!((1..=2).contains(&asked), "{asked} questions for 200 readers");
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
}

#[tokio::test]
async fn an_engine_that_fails_is_unavailable_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, store) = faulty(folder.path()).await;
    put(&store, "a", 1).await.unwrap();
    engine.refuse_commits.store(true, Ordering::SeqCst);
    let error = put(&store, "b", 1).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(!error.to_string().contains("injected") && error.internal_detail().unwrap().contains("injected"));
    assert_eq!(store.read().await.unwrap().count(&Key::new("item")), 1);
    engine.refuse_commits.store(false, Ordering::SeqCst);
    put(&store, "b", 1).await.unwrap();
    store.close().await;
    assert_eq!(put(&store, "c", 1).await.unwrap_err().class(), ErrorClass::Unavailable);
}

#[tokio::test]
async fn a_full_data_file_refuses_writes_until_something_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { max_bytes: Some(1 << 20), ..options(&folder.path().join("state.db")) };
    let store = Store::open(options).await.unwrap();
    let mut written = 0;
    let error = loop {
        match put(&store, written, 10_000).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "the bound holds");
    };
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(error.internal_detail().unwrap().contains("no space"), "{error:?}");
    let txn = store.read().await.unwrap();
    assert_eq!(txn.count(&Key::new("item")), written, "all that was acknowledged is there, and nothing else");

    delete(&store, 0).await.expect("deleting makes room");
    // A small one beside one that is too large is not dragged along.
    let (small, large) = tokio::join!(put(&store, "small", 10), put(&store, "large", 500_000));
    assert!(small.is_ok() && large.is_err(), "{small:?} {large:?}");
    for n in 1..written {
        delete(&store, n).await.expect("deleting makes room");
    }
    put(&store, "again", 100_000).await.expect("there is room again");
}

/// A file system of its own in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(parent: &Path, bytes: u64) -> Option<Self> {
        let place = parent.join(format!("disk-{:x}", OsRandom.next_u64()));
        std::fs::create_dir(&place).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(place))
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, so that a failed test does not leave it behind.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_space_returns() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 8 << 20) else {
        eprintln!("SKIPPED: mounting a small disk needs root");
        return;
    };
    let options = options(&disk.0.join("state/state.db"));
    let store = Store::open(options.clone()).await.unwrap();
    put(&store, "first", 10_000).await.unwrap();
    let ballast = disk.0.join("ballast");
    // As full as it gets: what remains is less than a page.
    let filled = std::fs::write(&ballast, vec![0; 8 << 20]);
    assert!(filled.is_err(), "the disk is full");

    let mut acknowledged = Vec::new();
    let error = loop {
        // The write-ahead log reuses its own space first.
        match put(&store, acknowledged.len(), 100_000).await {
            Ok(_) => acknowledged.push(acknowledged.len()),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 80);
    };
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(error.internal_detail().unwrap().contains("no space"), "{error:?}");
    assert!(put(&store, "more", 100_000).await.is_err());
    let count = acknowledged.len() + 1;
    assert_eq!(store.read().await.unwrap().count(&Key::new("item")), count, "reads go on");

    std::fs::remove_file(&ballast).unwrap();
    put(&store, "after", 100_000).await.expect("space has returned");
    store.close().await;
    let store = Store::open(options).await.unwrap();
    assert_eq!(store.read().await.unwrap().count(&Key::new("item")), count + 1);
}

#[tokio::test]
async fn the_reserve_keeps_the_state_writable_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 80 << 20) else {
        eprintln!("SKIPPED: mounting a small disk needs root");
        return;
    };
    let options = Options { reserve_bytes: 12 << 20, ..options(&disk.0.join("state.db")) };
    let store = Store::open(options.clone()).await.unwrap();
    let reserve = || std::fs::metadata(disk.0.join("state.db.reserve")).unwrap().len();
    assert_eq!(reserve(), 12 << 20);
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; 80 << 20]).expect_err("the disk is full");

    let mut written = 0;
    while put(&store, written, 100_000).await.is_ok() {
        written += 1;
        assert!(written < 200, "even the reserve has an end");
    }
    assert!(written >= 40, "{written} records of 100 kB went into the reserve");
    assert_eq!(reserve(), 0);
    std::fs::remove_file(&ballast).unwrap();
    put(&store, "after", 10).await.unwrap();
    store.close().await;
    Store::open(options).await.unwrap().close().await;
    assert_eq!(reserve(), 12 << 20, "it is filled up again");
}

#[tokio::test]
async fn a_read_only_disk_is_told_from_a_full_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 8 << 20) else {
        eprintln!("SKIPPED: mounting a small disk needs root");
        return;
    };
    let options = options(&disk.0.join("state.db"));
    Store::open(options.clone()).await.unwrap().close().await;
    disk.remount("ro");
    let error = Store::open(options.clone()).await.err();
    assert!(matches!(error, Some(StoreError::ReadOnly)), "{error:?}");
    disk.remount("rw");
    Store::open(options).await.unwrap().close().await;
}
