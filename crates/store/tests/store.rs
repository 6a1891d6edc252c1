//! The store as domain code sees it.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use terroir_store::{
    Durability, EventKind, Key, LocalKeyRing, Options, OutboxLimit, Retention, Store, StoreError, Txn, record,
};
use terroir_types::{Error, ErrorClass};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    value: u32,
}
record!(Item { kind: "item", version: 1 });

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct UserData {
    text: String,
}
record!(UserData { kind: "~user-data", version: 1, in_view: false });

const DEADLINE: Duration = Duration::from_secs(20);

async fn put(store: &Store, key: &Key, value: u32) -> u64 {
    store.transact(&[], |txn| txn.put(key, &Item { value })).await.unwrap().1
}

async fn delete(store: &Store, key: &Key) -> u64 {
    let delete = |txn: &mut Txn| {
        txn.delete(key);
        Ok(())
    };
    store.transact(&[], delete).await.unwrap().1
}

async fn value(store: &Store, key: &Key) -> Option<u32> {
    store.read().await.unwrap().get::<Item>(key).unwrap().map(|item| item.value)
}

fn options(path: &Path) -> Options {
    Options {
        durability: Durability::None,
        reserve_bytes: 0,
        ..Options::new(path, Arc::new(LocalKeyRing::ephemeral()))
    }
}

#[tokio::test]
async fn a_transaction_sees_its_own_writes_and_nobody_elses() {
    let store = Store::in_memory_for_tests().await;
    let prefix = Key::new("item/1");
    let (one, two) = (prefix.child("a"), prefix.child("b"));
    let ((), first) = store
        .transact(&[], |txn| {
            assert!(txn.get::<Item>(&one)?.is_none());
            assert!(!txn.exists(&prefix));
            txn.put(&one, &Item { value: 1 })?;
            txn.put(&two, &Item { value: 2 })?;
            assert_eq!(txn.get_with_revision::<Item>(&one)?, Some((Arc::new(Item { value: 1 }), 0)));
            assert_eq!((txn.count(&prefix), txn.exists(&prefix)), (2, true));
            txn.delete(&two);
            txn.touch(&one)?;
            assert_eq!(txn.range::<Item>(&prefix)?.len(), 1);
            assert_eq!(txn.write_count(), 2, "writes are coalesced per key");
            Ok(())
        })
        .await
        .unwrap();
    let old = store.read().await.unwrap();
    assert!(old.revision() >= first && old.read_only());
    assert_eq!(old.get_with_revision::<Item>(&one).unwrap(), Some((Arc::new(Item { value: 1 }), first)));
    assert_eq!(put(&store, &two, 3).await, first + 1);
    assert!(old.get::<Item>(&two).unwrap().is_none(), "a snapshot does not move");
    assert_eq!(value(&store, &two).await, Some(3), "a fresh read does");
    assert!(Arc::ptr_eq(&old.get::<Item>(&one).unwrap().unwrap(), &old.get::<Item>(&one).unwrap().unwrap()));

    let unchanged = store.transact(&[], |txn| txn.get::<Item>(&one)).await.unwrap();
    assert_eq!(unchanged.1, first + 1, "a transaction that writes nothing has no revision of its own");
}

#[tokio::test]
async fn what_fails_leaves_nothing_behind() {
    let store = Store::in_memory_for_tests().await;
    let key = Key::new("item/1/a");
    let refused = store.transact(&[], |txn| {
        txn.put(&key, &Item { value: 1 })?;
        txn.outbox("audit", b"never".to_vec());
        Err::<(), _>(Error::conflict("InUse", "no"))
    });
    assert_eq!(refused.await.unwrap_err().code(), "InUse");
    assert_eq!(value(&store, &key).await, None);
    assert!(store.outbox("audit", 0, 10).await.unwrap().is_empty());
}

type Decision = fn(usize, &mut Txn) -> Result<(), Error>;

/// Runs two transactions of which both have read before either commits. Returns how often `decide` ran.
async fn race(store: &Store, decide: Decision) -> u32 {
    let attempts = Arc::new(AtomicU32::new(0));
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let runs = [0, 1].map(|n| {
        let (store, attempts, barrier) = (store.clone(), Arc::clone(&attempts), Arc::clone(&barrier));
        tokio::spawn(async move {
            let mut first = true;
            let run = store.transact(&[], |txn| {
                attempts.fetch_add(1, Ordering::SeqCst);
                decide(n, txn)?;
                if std::mem::take(&mut first) {
                    tokio::task::block_in_place(|| barrier.wait());
                }
                Ok(())
            });
            run.await.unwrap();
        })
    });
    for run in runs {
        run.await.unwrap();
    }
    attempts.load(Ordering::SeqCst)
}

fn leave(n: usize, txn: &mut Txn) -> Result<(), Error> {
    txn.delete(&on_call(n));
    Ok(())
}

fn on_call(n: usize) -> Key {
    Key::new(format!("item/doctor/{n}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn write_skew_is_refused() {
    for (tracked, remain, runs) in [(true, 1, 3), (false, 0, 2)] {
        let store = Store::in_memory_for_tests().await;
        put(&store, &on_call(0), 1).await;
        put(&store, &on_call(1), 1).await;
        let decide: Decision = if tracked {
            |n, txn| if txn.get::<Item>(&on_call(1 - n))?.is_some() { leave(n, txn) } else { Ok(()) }
        } else {
            |n, txn| if txn.peek::<Item>(&on_call(1 - n))?.is_some() { leave(n, txn) } else { Ok(()) }
        };
        assert_eq!(race(&store, decide).await, runs);
        assert_eq!(store.read().await.unwrap().count(&Key::new("item/doctor")), remain, "tracked: {tracked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn phantoms_are_refused() {
    let rows: [(&str, Decision, usize); 4] = [
        ("range", |n, txn| claim(txn.range::<Item>(&Key::new("item/subnet"))?.is_empty(), n, txn), 1),
        ("page", |n, txn| claim(txn.page::<Item>(&Key::new("item/subnet"), None, 5)?.is_empty(), n, txn), 1),
        ("exists", |n, txn| claim(!txn.exists(&Key::new("item/subnet")), n, txn), 1),
        ("peek_range", |n, txn| claim(txn.peek_range::<Item>(&Key::new("item/subnet"))?.is_empty(), n, txn), 2),
    ];
    for (what, decide, remain) in rows {
        let store = Store::in_memory_for_tests().await;
        race(&store, decide).await;
        assert_eq!(store.read().await.unwrap().count(&Key::new("item/subnet")), remain, "{what}");
    }
}

fn claim(free: bool, n: usize, txn: &mut Txn) -> Result<(), Error> {
    if free { txn.put(&Key::new(format!("item/subnet/{n}")), &Item { value: 1 }) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_child_outlives_its_parent() {
    let store = Store::in_memory_for_tests().await;
    put(&store, &Key::new("item/vpc"), 1).await;
    race(&store, |n, txn| {
        let (parent, children) = (Key::new("item/vpc"), Key::new("item/vpc"));
        if n == 0 {
            if txn.get::<Item>(&parent)?.is_some() {
                txn.put(&children.child("subnet"), &Item { value: 1 })?;
            }
        } else if !txn.exists(&children) {
            txn.delete(&parent);
        }
        Ok(())
    })
    .await;
    let txn = store.read().await.unwrap();
    let parent = txn.get::<Item>(&Key::new("item/vpc")).unwrap().is_some();
    assert_eq!(parent, txn.exists(&Key::new("item/vpc")), "either both or none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hot_record_takes_every_increment() {
    let store = Store::in_memory_for_tests().await;
    let key = Key::new("item/guard");
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let add = |txn: &mut Txn| {
                        let value = txn.get::<Item>(&key)?.map_or(0, |item| item.value);
                        txn.put(&key, &Item { value: value + 1 })
                    };
                    store.transact(&[], add).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&store, &key).await, Some(640));
    let revision = store.read().await.unwrap().revision();
    assert!(revision < 640, "those that wait share commits: {revision}");
}

/// One counter that all write, and a record of each transaction's own.
fn count_up(txn: &mut Txn, n: u32) -> Result<(), Error> {
    let (counter, own) = (Key::new("item/counter"), Key::new(format!("item/done/{n}")));
    let value = txn.get::<Item>(&counter)?.map_or(0, |item| item.value);
    txn.put(&counter, &Item { value: value + 1 })?;
    let times = txn.get::<Item>(&own)?.map_or(0, |item| item.value);
    txn.put(&own, &Item { value: times + 1 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contending_transactions_fail_and_succeed_each_for_itself() {
    let store = Store::in_memory_for_tests().await;
    let run = async |n: u32| {
        let mut runs = 0;
        let part = |txn: &mut Txn| {
            runs += 1;
            count_up(txn, n)?;
            assert_eq!(txn.write_count(), 2, "writes of others are not counted");
            match n % 5 {
                // Not at once, but when it runs beside others.
                0 if runs > 1 => {
                    txn.outbox("audit", b"undone".to_vec());
                    return Err(Error::conflict("InUse", "after it wrote"));
                }
                1 => txn.attach_lease(&Key::new(format!("item/done/{n}")), 77),
                2 => (0..1500).for_each(|_| txn.outbox("audit", Vec::new())),
                3 => (0..2050).for_each(|m| txn.delete(&Key::new(format!("item/none/{n}/{m}")))),
                _ => {}
            }
            Ok(())
        };
        store.transact(&[], part).await
    };
    let results = futures::future::join_all((0..60).map(run)).await;
    let mut done = Vec::new();
    for (n, result) in (0..60).zip(&results) {
        match result {
            Ok(_) => done.push(Key::new(format!("item/done/{n}"))),
            Err(error) => {
                let code = ["InUse", "Unavailable", "none", "RequestTooLarge", "none"][n % 5];
                assert_eq!(error.code(), code, "{n}: {error:?}");
            }
        }
    }
    assert!((24..=36).contains(&done.len()), "the others were refused: {}", done.len());
    let txn = store.read().await.unwrap();
    let mut found = txn.range::<Item>(&Key::new("item/done")).unwrap();
    found.sort_by_key(|(key, _)| key.last().parse::<u32>().unwrap());
    assert!(found.iter().all(|(_, item)| item.value == 1), "{found:?}");
    assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), done);
    assert_eq!(txn.get::<Item>(&Key::new("item/counter")).unwrap().unwrap().value as usize, done.len());
    let outbox = store.outbox("audit", 0, usize::MAX).await.unwrap();
    assert_eq!((outbox.len(), outbox.iter().all(|entry| entry.payload.is_empty())), (12 * 1500, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_neither_block_others_nor_count_twice() {
    let store = Store::in_memory_for_tests().await;
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let store = store.clone();
            let patience = Duration::from_micros(if n % 2 == 0 { u64::from(n) * 20 } else { 20_000_000 });
            tokio::spawn(async move {
                let run = store.transact(&[], |txn| count_up(txn, n));
                tokio::time::timeout(patience, run).await.map(Result::unwrap).is_ok()
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for (n, task) in (0..).zip(tasks) {
        if task.await.unwrap() {
            acknowledged.push(n);
        }
    }
    assert!((0..400).filter(|n| n % 2 == 1).all(|n| acknowledged.contains(&n)), "who waits gets an answer");
    let txn = store.read().await.unwrap();
    let done = txn.range::<Item>(&Key::new("item/done")).unwrap();
    assert!(done.iter().all(|(_, item)| item.value == 1), "nobody counts twice");
    assert_eq!(txn.get::<Item>(&Key::new("item/counter")).unwrap().unwrap().value as usize, done.len());
    for n in &acknowledged {
        assert!(txn.get::<Item>(&Key::new(format!("item/done/{n}"))).unwrap().is_some(), "{n} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_given_up_after_a_while() {
    let store = Store::in_memory_for_tests().await;
    let key = Key::new("item/1");
    let handle = tokio::runtime::Handle::current();
    let mut attempts = 0;
    let unlucky = store.transact(&[], |txn| {
        attempts += 1;
        txn.get::<Item>(&key)?;
        // Somebody else is always faster.
        tokio::task::block_in_place(|| handle.block_on(put(&store, &key, attempts)));
        txn.put(&Key::new("item/2"), &Item { value: 1 })
    });
    let error = unlucky.await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Unavailable, "Unavailable"));
    assert!((2..100).contains(&attempts), "{attempts}");
    assert_eq!(value(&store, &Key::new("item/2")).await, None);
}

#[tokio::test]
async fn kinds_outside_the_view_are_prefetched() {
    let store = Store::in_memory_for_tests().await;
    let (key, other) = (Key::new("~user-data/i-1"), Key::new("~user-data/i-2"));
    let data = UserData { text: "#!/bin/sh".into() };
    store.transact(&[], |txn| txn.put(&key, &data)).await.unwrap();

    let unfetched = store.transact(&[], |txn| txn.get::<UserData>(&key)).await.unwrap_err();
    assert_eq!(unfetched.class(), ErrorClass::Internal);
    let ranged = store.transact(&[], |txn| txn.range::<UserData>(&Key::new("~user-data"))).await.unwrap_err();
    assert_eq!(ranged.class(), ErrorClass::Internal);
    let prefetch = [key.clone(), other.clone()];
    let ((found, none), _) =
        store.transact(&prefetch, |txn| Ok((txn.get::<UserData>(&key)?, txn.get::<UserData>(&other)?))).await.unwrap();
    assert_eq!((found.as_deref(), none), (Some(&data), None));
    assert_eq!(store.read_with(&prefetch).await.unwrap().get::<UserData>(&key).unwrap().as_deref(), Some(&data));

    let (direct, revision) = store.get_direct::<UserData>(&key).await.unwrap().unwrap();
    assert!(direct == data && revision > 0);
    assert!(store.get_direct::<UserData>(&other).await.unwrap().is_none());
    store.transact(&[], |txn| txn.put(&other, &data)).await.unwrap();
    let all = store.range_direct::<UserData>(&Key::new("~user-data"), None, 10).await.unwrap();
    assert_eq!(all.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), prefetch);
    let behind = store.range_direct::<UserData>(&Key::new("~user-data"), Some(&key), 10).await.unwrap();
    assert_eq!(behind, [(other, data)]);
}

#[tokio::test]
async fn misuse_is_an_internal_error_and_too_much_is_the_callers() {
    let store = Store::in_memory_for_tests().await;
    let item = Item { value: 1 };
    let key = |n: usize| Key::new(format!("item/{n}"));
    type Step<'a> = Box<dyn FnMut(&mut Txn) -> Result<(), Error> + 'a>;
    let rows: Vec<(&str, ErrorClass, Step<'_>)> = vec![
        ("wrong kind", ErrorClass::Internal, Box::new(|txn| txn.put(&Key::new("vpc/1"), &item))),
        ("touch of nothing", ErrorClass::Internal, Box::new(|txn| txn.touch(&key(1)))),
        (
            "lease on nothing",
            ErrorClass::Internal,
            Box::new(|txn| {
                txn.attach_lease(&key(1), 1);
                Ok(())
            }),
        ),
        (
            "unknown lease",
            ErrorClass::Unavailable,
            Box::new(|txn| {
                txn.put(&key(1), &item)?;
                txn.attach_lease(&key(1), 1);
                Ok(())
            }),
        ),
        ("too many", ErrorClass::Invalid, Box::new(|txn| (0..2049).try_for_each(|n| txn.put(&key(n), &item)))),
        (
            "too many deletions",
            ErrorClass::Invalid,
            Box::new(|txn| {
                (0..2049).for_each(|n| txn.delete(&key(n)));
                Ok(())
            }),
        ),
        (
            "too large",
            ErrorClass::Invalid,
            Box::new(|txn| {
                txn.outbox("audit", vec![0; 3 << 20]);
                Ok(())
            }),
        ),
    ];
    for (what, class, step) in rows {
        let error = store.transact(&[], step).await.expect_err(what);
        assert_eq!(error.class(), class, "{what}: {error:?}");
    }
    let mut reader = store.read().await.unwrap();
    assert_eq!(reader.put(&key(1), &item).unwrap_err().class(), ErrorClass::Internal, "nobody would commit it");
    assert_eq!(store.read().await.unwrap().count(&Key::new("item")), 0);
    store.transact(&[], |txn| (0..2048).try_for_each(|n| txn.put(&key(n), &item))).await.unwrap();
}

#[tokio::test]
async fn the_bell_tells_what_changed_or_that_something_was_missed() {
    let store = Store::in_memory_for_tests().await;
    let (mut prompt, mut late) = (store.changes(), store.changes());
    let key = Key::new("item/1");
    for n in 0..3 {
        let revision = put(&store, &key, n).await;
        let changes = tokio::time::timeout(DEADLINE, prompt.next()).await.unwrap();
        assert_eq!((changes.revision, changes.keys, changes.missed), (revision, vec![key.clone()], false));
        assert!(store.stale().revision() >= revision, "the view is there before the bell rings");
    }
    // An entry in the outbox is a revision, too.
    let append = |txn: &mut Txn| {
        txn.outbox("audit", b"x".to_vec());
        Ok(())
    };
    let (_, revision) = store.transact(&[], append).await.unwrap();
    let changes = tokio::time::timeout(DEADLINE, prompt.next()).await.unwrap();
    assert_eq!((changes.revision, changes.keys.len(), changes.missed), (revision, 0, false));
    let mut last = 0;
    for _ in 0..1100 {
        last = put(&store, &key, 9).await;
        prompt.next().await;
    }
    let changes = late.next().await;
    assert!(changes.missed && changes.revision == last, "{changes:?}");
    let after = put(&store, &Key::new("item/2"), 1).await;
    let changes = tokio::time::timeout(DEADLINE, late.next()).await.unwrap();
    assert_eq!((changes.revision, changes.missed), (after, false));
}

#[tokio::test]
async fn a_watch_follows_one_prefix() {
    let store = Store::in_memory_for_tests().await;
    let first = put(&store, &Key::new("item/a/1"), 1).await;
    let mut watch = store.watch(&Key::new("item/a"), first).await.unwrap();
    put(&store, &Key::new("item/b/1"), 1).await;
    let third = delete(&store, &Key::new("item/a/1")).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let batch = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| (event.kind, event.mod_revision)));
    }
    assert_eq!(seen, [(EventKind::Put, first), (EventKind::Delete, third)]);
    store.compact(third).await.unwrap();
    let compacted = store.watch(&Key::new("item/a"), first).await;
    assert!(matches!(compacted.err(), Some(StoreError::Compacted { compacted }) if compacted == third));
}

#[tokio::test]
async fn a_lease_ends_with_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let clock = Arc::clone(&now);
    let options =
        Options { lease_clock: Arc::new(move || *clock.lock().unwrap()), ..options(&folder.path().join("state.db")) };
    let (key, ttl) = (Key::new("item/alive"), Duration::from_secs(10));
    let store = Store::open(options.clone()).await.unwrap();
    let lease = store.lease_grant(ttl).await.unwrap();
    let attach = |txn: &mut Txn| {
        txn.put(&key, &Item { value: 1 })?;
        txn.attach_lease(&key, lease);
        Ok(())
    };
    store.transact(&[], attach).await.unwrap();
    store.close().await;

    // After a restart it has its whole time again.
    *now.lock().unwrap() += ttl * 5;
    let store = Store::open(options).await.unwrap();
    *now.lock().unwrap() += ttl / 2;
    store.lease_keep_alive(lease).await.unwrap();
    *now.lock().unwrap() += ttl - Duration::from_millis(1);
    // Nothing to wait for: it would have been deleted with this commit.
    put(&store, &Key::new("item/other"), 1).await;
    assert_eq!(value(&store, &key).await, Some(1));
    let mut bell = store.changes();
    *now.lock().unwrap() += Duration::from_millis(1);
    let changes = tokio::time::timeout(DEADLINE, bell.next()).await.unwrap();
    assert_eq!(changes.keys, std::slice::from_ref(&key));
    assert_eq!(value(&store, &key).await, None);
    assert!(matches!(store.lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound(_))));
}

#[tokio::test]
async fn the_outbox_is_bounded_and_commits_with_the_change() {
    let folder = tempfile::tempdir().unwrap();
    let limit = OutboxLimit { entries: 3, bytes: 100 };
    let options = Options { outbox_limit: limit, ..options(&folder.path().join("state.db")) };
    let store = Store::open(options.clone()).await.unwrap();
    let key = Key::new("item/1");
    let append = async |store: &Store, bytes: usize| {
        store
            .transact(&[], |txn| {
                txn.outbox("audit", vec![b'x'; bytes]);
                txn.put(&key, &Item { value: u32::try_from(bytes).unwrap() })
            })
            .await
    };
    append(&store, 50).await.unwrap();
    let full = append(&store, 51).await.unwrap_err();
    assert_eq!(full.class(), ErrorClass::Unavailable, "{full:?}");
    assert_eq!(value(&store, &key).await, Some(50), "the change failed with its entry");
    append(&store, 1).await.unwrap();
    append(&store, 2).await.unwrap();
    append(&store, 3).await.unwrap_err();
    store.close().await;

    let store = Store::open(options).await.unwrap();
    append(&store, 4).await.expect_err("the bound outlives a restart");
    let entries = store.outbox("audit", 0, 10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.payload.len()).collect::<Vec<_>>(), [50, 1, 2]);
    store.outbox_trim("audit", entries[0].sequence).await.unwrap();
    append(&store, 5).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_handles_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder.path().join("state.db"));
    for n in 0..5 {
        let store = Store::open(options.clone()).await.unwrap();
        assert_eq!(value(&store, &Key::new("item/1")).await, (n > 0).then(|| n - 1));
        put(&store, &Key::new("item/1"), n).await;
    }
}

#[tokio::test]
async fn the_change_log_stays_within_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let retention =
        Retention { min_revisions: 20, min_age: Duration::from_secs(3600), max_changes: 100, max_bytes: 10_000 };
    let store = Store::open(Options { retention, ..options(&folder.path().join("state.db")) }).await.unwrap();
    let key = |n: u32| Key::new(format!("item/{}", n % 10));
    let mut last = 0;
    for n in 0..1000 {
        last = put(&store, &key(n), n).await;
    }
    let stats = store.stats().await.unwrap();
    assert!((20..=150).contains(&stats.log_rows), "{stats:?}");
    assert!(stats.compacted > last - 200 && stats.compacted < last - 20, "{stats:?}");
    let past = store.watch(&Key::new("item"), 1).await;
    assert!(matches!(past.err(), Some(StoreError::Compacted { .. })));
    store.watch(&Key::new("item"), last - 20).await.unwrap();
    let mut oldest = store.watch(&Key::new("item"), stats.compacted).await.unwrap();
    let first = tokio::time::timeout(DEADLINE, oldest.next()).await.unwrap().unwrap();
    assert_eq!(first.revision, stats.compacted, "what is said to be there is there");
    assert_eq!(value(&store, &key(9)).await, Some(999));

    store.compact(last).await.unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    while store.stats().await.unwrap().log_rows > 1 {
        assert!(std::time::Instant::now() < deadline, "what is compacted is removed");
    }
}
