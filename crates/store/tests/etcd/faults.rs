//! Two API servers' stores on three members, of which some are killed, paused, cut off or slow while both write.
//!
//! Every transaction that was acknowledged must be there once, with its entry in the outbox; of one whose answer was an
//! error, all or nothing. Watches see every change once and in order, leases that are kept alive live.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use terroir_store::etcd::EtcdEngine;
use terroir_store::{Key, LocalKeyRing, Options, Store, StoreError, Txn, Watch, record};
use terroir_types::Error;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::full;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Count {
    number: u64,
}
record!(Count { kind: "count", version: 1 });

const WRITERS: u64 = 6;
/// Within which writes go on when a minority is lost; asserted at three times that.
const GAP: Duration = Duration::from_secs(5);
/// And when a majority is back.
const QUORUM_BACK: Duration = Duration::from_secs(5);

fn own(writer: u64) -> Key {
    Key::new(format!("count/own/{writer}"))
}

fn change(writer: u64, txn: &mut Txn) -> Result<u64, Error> {
    let number = txn.get::<Count>(&own(writer))?.map_or(0, |count| count.number) + 1;
    txn.put(&own(writer), &Count { number })?;
    if number.is_multiple_of(3) {
        let key = Key::new("count/shared");
        let shared = txn.get::<Count>(&key)?.map_or(0, |count| count.number);
        txn.put(&key, &Count { number: shared + 1 })?;
    }
    txn.outbox("audit", format!("{writer} {number}").into_bytes());
    Ok(number)
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    /// When commits were acknowledged last, and the longest wait for one since it was asked for last.
    times: Mutex<Option<(Instant, Duration)>>,
}

impl Progress {
    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut times = self.times.lock().unwrap();
        let now = Instant::now();
        let (last, longest) = times.unwrap_or((now, Duration::ZERO));
        *times = Some((now, longest.max(now - last)));
    }

    /// The longest wait since the last call.
    fn gap(&self) -> Duration {
        let mut times = self.times.lock().unwrap();
        let (last, longest) = times.unwrap_or((Instant::now(), Duration::ZERO));
        *times = Some((last, Duration::ZERO));
        longest.max(last.elapsed())
    }

    async fn more(&self, what: &str, count: u64, deadline: Duration) {
        let (start, target) = (Instant::now(), self.acknowledged.load(Ordering::Relaxed) + count);
        while self.acknowledged.load(Ordering::Relaxed) < target {
            assert!(start.elapsed() < deadline, "{what}: no writes within {deadline:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Returns the number of the last acknowledged change.
async fn write(store: Store, writer: u64, progress: Arc<Progress>) -> u64 {
    let mut last = 0;
    while !progress.stop.load(Ordering::Relaxed) {
        match store.transact(&[], |txn| change(writer, txn)).await {
            Ok((number, _)) => {
                assert!(number > last, "writer {writer}: {number} after {last}");
                last = number;
                progress.acknowledge();
            }
            Err(error) => {
                eprintln!("    writer {writer}: {error:?}");
                progress.unknown.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    last
}

/// What a watch tells of each writer, until it was told of all the last numbers.
async fn follow(mut watch: Watch, last: tokio::sync::oneshot::Receiver<HashMap<Key, u64>>) -> Result<(), StoreError> {
    let mut seen: HashMap<Key, u64> = HashMap::new();
    let mut wanted = None;
    let mut last = std::pin::pin!(last);
    loop {
        if wanted.as_ref().is_some_and(|wanted| *wanted == seen) {
            return Ok(());
        }
        tokio::select! {
            batch = watch.next() => for event in batch?.events {
                *seen.entry(event.key).or_default() += 1;
            },
            found = &mut last, if wanted.is_none() => wanted = found.ok(),
        }
    }
}

async fn open(cluster: &Cluster, first: usize, keys: &Arc<LocalKeyRing>) -> Store {
    let mut options = cluster.options("cell");
    options.endpoints.rotate_left(first);
    let engine = EtcdEngine::connect(options).await.unwrap();
    Store::with_engine(Arc::new(engine), &Options::new("", keys.clone())).await.unwrap()
}

async fn writes_go_on(what: &str, progress: &Progress) {
    progress.more(what, 20, GAP * 3).await;
    sleep(Duration::from_millis(300)).await;
    let gap = progress.gap();
    println!("  {what}: writes stood still for {gap:?} (stated {GAP:?})");
    assert!(gap < GAP * 3, "{what}: {gap:?}");
}

/// Each member in its turn, so that the one which a store prefers is among them.
async fn hold_up_each(cluster: &Cluster, progress: &Progress) {
    for n in 0..3 {
        progress.gap();
        cluster.signal(n, Signal::SIGSTOP);
        writes_go_on(&format!("member {n} paused"), progress).await;
        cluster.signal(n, Signal::SIGCONT);
    }
    for n in 0..3 {
        progress.gap();
        cluster.members[n].client.delay(Duration::from_secs(4));
        writes_go_on(&format!("member {n} very slow"), progress).await;
        cluster.members[n].client.delay(Duration::ZERO);
    }
}

async fn lose(cluster: &mut Cluster, what: &str, progress: &Progress) {
    let leader = cluster.leader(0).await;
    progress.more(what, 20, GAP * 3).await;
    progress.gap();
    let start = Instant::now();
    match what {
        "leader killed" => cluster.kill(leader),
        "leader paused" => cluster.signal(leader, Signal::SIGSTOP),
        "leader cut off" => cluster.isolate(&[leader]),
        "all slow" => cluster.members.iter().for_each(|m| m.client.delay(Duration::from_millis(150))),
        "majority cut off" => cluster.members.iter().for_each(|member| member.peer.cut(true)),
        other => panic!("{other}"),
    }
    if what == "majority cut off" {
        // What was under way may still be done.
        sleep(Duration::from_secs(1)).await;
        let before = progress.acknowledged.load(Ordering::Relaxed);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(progress.acknowledged.load(Ordering::Relaxed), before, "without a majority nothing is acknowledged");
    } else {
        writes_go_on(what, progress).await;
    }
    let mended = Instant::now();
    match what {
        "leader killed" => cluster.restart(leader),
        "leader paused" => cluster.signal(leader, Signal::SIGCONT),
        "leader cut off" => cluster.isolate(&[]),
        "majority cut off" => cluster.members.iter().for_each(|member| member.peer.cut(false)),
        _ => cluster.members.iter().for_each(|m| m.client.delay(Duration::ZERO)),
    }
    progress.more(what, 20, QUORUM_BACK * 3).await;
    if what == "majority cut off" {
        println!("  {what}: 20 writes {:?} after the end (stated {QUORUM_BACK:?})", mended.elapsed());
    }
    for n in 0..3 {
        cluster.leader(n).await;
    }
    progress.gap();
    eprintln!("    {what}: {:?} in all", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_members_and_nothing_else() {
    let mut cluster = Cluster::start(3).await;
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let stores = [open(&cluster, 0, &keys).await, open(&cluster, 1, &keys).await];
    let start = stores[0].read().await.unwrap().revision();
    let progress = Arc::new(Progress::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(stores[writer as usize % 2].clone(), writer, Arc::clone(&progress))))
        .collect();
    let watch = stores[1].watch(&Key::new("count/own"), start + 1).await.unwrap();
    let (numbers, told) = tokio::sync::oneshot::channel();
    let follower = tokio::spawn(follow(watch, told));
    let lease = stores[0].lease_grant(Duration::from_secs(20)).await.unwrap();
    let alive = Key::new("count/alive");
    let attach = |txn: &mut Txn| {
        txn.put(&alive, &Count { number: 1 })?;
        txn.attach_lease(&alive, lease);
        Ok(())
    };
    stores[0].transact(&[], attach).await.unwrap();
    let keeper = {
        let (store, progress) = (stores[0].clone(), Arc::clone(&progress));
        tokio::spawn(async move {
            while !progress.stop.load(Ordering::Relaxed) {
                // While there is no majority nobody can keep it alive; afterwards it has its whole time again.
                if let Err(error) = store.lease_keep_alive(lease).await {
                    assert!(!matches!(error, StoreError::LeaseNotFound(_)), "the lease is gone");
                }
                sleep(Duration::from_millis(300)).await;
            }
        })
    };

    let mut compact = start;
    for round in 0..if full() { 6 } else { 1 } {
        for what in ["leader killed", "leader paused", "leader cut off", "all slow", "majority cut off"] {
            lose(&mut cluster, what, &progress).await;
        }
        hold_up_each(&cluster, &progress).await;
        // Up to where the round before ended: a watch that a slow member holds up may be behind this one's end.
        let end = stores[0].read().await.unwrap().revision();
        stores[0].compact(std::mem::replace(&mut compact, end)).await.unwrap();
        println!("  round {round}: {} acknowledged", progress.acknowledged.load(Ordering::Relaxed));
    }

    progress.stop.store(true, Ordering::Relaxed);
    let mut last = Vec::new();
    for writer in writers {
        last.push(writer.await.unwrap());
    }
    keeper.await.unwrap();
    let (acknowledged, unknown) =
        (progress.acknowledged.load(Ordering::Relaxed), progress.unknown.load(Ordering::Relaxed));
    println!("  {acknowledged} acknowledged, {unknown} answered with an error");
    let txn = stores[0].read().await.unwrap();
    let (mut entries, mut shared) = (Vec::new(), 0);
    let mut totals = HashMap::new();
    for (writer, last) in (0..).zip(last) {
        let number = txn.get::<Count>(&own(writer)).unwrap().map_or(0, |count| count.number);
        assert!(number >= last, "writer {writer}: {last} was acknowledged, {number} is there");
        assert!(number <= last + unknown, "writer {writer}: {number} is there, {last} was acknowledged");
        totals.insert(own(writer), number);
        shared += number / 3;
        entries.extend((1..=number).map(|n| format!("{writer} {n}")));
    }
    let total: u64 = totals.values().sum();
    assert!(total >= acknowledged && total <= acknowledged + unknown, "{total} done of {acknowledged} + {unknown}");
    assert_eq!(txn.get::<Count>(&Key::new("count/shared")).unwrap().map_or(0, |count| count.number), shared);
    assert!(txn.get::<Count>(&alive).unwrap().is_some(), "a lease that is kept alive lives");
    let found = stores[1].outbox("audit", 0, usize::MAX).await.unwrap();
    let mut found: Vec<_> = found.iter().map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()).collect();
    found.sort_unstable();
    entries.sort_unstable();
    assert_eq!(found, entries, "the outbox holds one entry of every transaction");
    let other = stores[1].read().await.unwrap();
    for (key, number) in &totals {
        assert_eq!(other.get::<Count>(key).unwrap().map(|count| count.number), Some(*number), "both see the same");
    }
    numbers.send(totals).unwrap();
    let followed = tokio::time::timeout(Duration::from_secs(20), follower).await.expect("the watch sees every change");
    followed.unwrap().unwrap();
    for store in stores {
        store.close().await;
    }
}
