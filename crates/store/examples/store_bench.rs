//! Commits per second, read latency and memory of the embedded engine on the disk of the current folder.
//!
//! `cargo run --release -p terroir-store --example store_bench [FOLDER]`

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_store::{Key, LocalKeyRing, Options, Store, record};
use terroir_types::{AccountId, IdSource, OsRandom};

#[derive(Clone, Serialize, Deserialize)]
struct Item {
    account: AccountId,
    state: String,
    numbers: Vec<u64>,
    #[serde(skip, default)]
    tenant: ItemTenant,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct ItemTenant {
    name: String,
    tags: Vec<(String, String)>,
}

record!(Item { kind: "item", version: 1, account: |r| Some(r.account), tenant: tenant: ItemTenant });

fn item(n: u64) -> Item {
    Item {
        account: AccountId::from_number(n % 1000).expect("below 10^12"),
        state: "running".into(),
        numbers: vec![n; 16],
        tenant: ItemTenant {
            name: format!("item number {n}"),
            tags: vec![("Name".into(), format!("n{n}")), ("Owner".into(), "bench".into())],
        },
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

const RUN: Duration = Duration::from_secs(3);

/// What the writers of one row do.
#[derive(Clone, Copy)]
enum Load {
    /// Each writes a new record of its own.
    Insert,
    /// All read and write the same record.
    OneRecord,
    /// Each reads the whole range of 10,000 records and inserts into another one.
    GuardedByRange,
}

async fn commits(store: &Store, writers: u64, load: Load) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut failed = 0u64;
                let mut n = 0;
                while start.elapsed() < RUN {
                    n += 1;
                    let key = match load {
                        Load::OneRecord => Key::new("item/hot/one"),
                        Load::Insert | Load::GuardedByRange => {
                            Key::new(format!("item/w/{writer}/{n}/{:x}", OsRandom.next_u64()))
                        }
                    };
                    let begun = Instant::now();
                    let result = store
                        .transact(&[], |txn| {
                            if matches!(load, Load::GuardedByRange) {
                                txn.range::<Item>(&Key::new("item/many"))?;
                            }
                            let next = txn.get::<Item>(&key)?.map_or(n, |found| found.numbers[0] + 1);
                            txn.put(&key, &item(next))
                        })
                        .await;
                    if result.is_err() {
                        failed += 1;
                    }
                    latencies.push(begun.elapsed());
                }
                (latencies, failed)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    let mut failed = 0;
    for task in tasks {
        let (some, failures) = task.await.expect("a writer does not panic");
        latencies.extend(some);
        failed += failures;
    }
    let elapsed = start.elapsed();
    latencies.sort_unstable();
    let done = latencies.len() as f64 - failed as f64;
    let name = match load {
        Load::Insert => "own records",
        Load::OneRecord => "one record",
        Load::GuardedByRange => "range of 10,000 read",
    };
    println!(
        "commits, {writers:>2} writers, {name:<20}  {:>7.0}/s   p50 {:>9.2?}  p99 {:>9.2?}  refused {failed}",
        done / elapsed.as_secs_f64(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
}

async fn fill(store: &Store, records: u64) {
    for chunk in 0..records / 1000 {
        let range = chunk * 1000..(chunk + 1) * 1000;
        let filled = store
            .transact(&[], |txn| {
                range.clone().try_for_each(|n| txn.put(&Key::new(format!("item/many/{n:08}")), &item(n)))
            })
            .await;
        filled.expect("the disk has room");
    }
}

async fn reads(store: &Store) {
    const ROUNDS: u32 = 20_000;
    let key = Key::new("item/many/00000042");
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let txn = store.read().await.expect("open");
        assert!(txn.get::<Item>(&key).expect("decodes").is_some());
    }
    println!("fresh read of one record                    {:>9.2?}", start.elapsed() / ROUNDS);
    let prefix = Key::new("item/many");
    for (what, rounds) in [("first", 1), ("later", 20)] {
        let start = Instant::now();
        for _ in 0..rounds {
            let found = store.read().await.expect("open").range::<Item>(&prefix).expect("decodes");
            assert_eq!(found.len(), 10_000);
        }
        println!("fresh read of 10,000 records, {what:<6}        {:>9.2?}", start.elapsed() / rounds);
    }
}

async fn bench(folder: &Path) {
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let path = folder.join("state.db");
    println!("memory before                               {:>6} MiB", resident_mib());
    let store = Store::open(Options::new(&path, keys.clone())).await.expect("the folder is writable");
    println!("memory, empty store                         {:>6} MiB", resident_mib());
    fill(&store, 10_000).await;
    println!("memory, 10,000 records                      {:>6} MiB", resident_mib());
    reads(&store).await;
    println!("memory, 10,000 records decoded              {:>6} MiB", resident_mib());
    for writers in [1, 8, 64] {
        commits(&store, writers, Load::Insert).await;
    }
    for (writers, load) in [(8, Load::OneRecord), (64, Load::OneRecord), (64, Load::GuardedByRange)] {
        commits(&store, writers, load).await;
    }
    let stats = store.stats().await.expect("open");
    println!(
        "{} records of {} bytes on average; {} changes kept; {} MiB on disk; memory {} MiB",
        stats.records,
        stats.bytes / stats.records.max(1),
        stats.log_rows,
        stats.file_bytes >> 20,
        resident_mib()
    );
    store.close().await;
    drop(store);
    let start = Instant::now();
    let store = Store::open(Options::new(&path, keys)).await.expect("opens again");
    println!("open with {} records                    {:>9.2?}", stats.records, start.elapsed());
    store.close().await;
}

#[tokio::main]
async fn main() {
    let parent = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(parent).expect("the folder is writable");
    bench(folder.path()).await;
}
