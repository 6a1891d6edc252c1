//! Backups while writers write and a shipper trims the outbox, on any engine.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use terroir_store::backup::{Decoder, Importer, Item, Kind};
use terroir_store::engine::{Engine, PLACE_BITS};
use terroir_store::sqlite::SqliteEngine;
use terroir_store::{Key, Options, Store, StoreError, Txn, record};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Half {
    number: u64,
    #[serde(skip, default)]
    tenant: String,
}
record!(Half { kind: "half", version: 1, tenant: tenant: String });

const WRITERS: u64 = 4;
const STREAM: &str = "audit";

fn key(writer: u64, what: &str) -> Key {
    Key::new(format!("half/{what}/{writer}"))
}

async fn write(store: Store, writer: u64, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let half = Half { number, tenant: format!("{number}") };
        let change = |txn: &mut Txn| {
            // Far apart in the order of keys, so that they are in different pages of a listing.
            txn.put(&key(writer, "a"), &half)?;
            txn.put(&key(writer, "z"), &half)?;
            txn.outbox(STREAM, format!("{writer} {number}").into_bytes());
            Ok(())
        };
        store.transact(&[], change).await.unwrap();
    }
}

/// What was shipped: sequence numbers and payloads, in order.
type Log = Arc<Mutex<Vec<(u64, Bytes)>>>;

async fn ship(store: Store, log: Log, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let entries = store.outbox(STREAM, 0, 7).await.unwrap();
        let Some(last) = entries.last().map(|entry| entry.sequence) else {
            tokio::task::yield_now().await;
            continue;
        };
        log.lock().unwrap().extend(entries.into_iter().map(|entry| (entry.sequence, entry.payload)));
        store.outbox_trim(STREAM, last).await.unwrap();
    }
}

async fn take(store: &Store) -> Result<Vec<Item>, StoreError> {
    let (sink, mut pieces) = tokio::sync::mpsc::channel(4);
    let exporting = async {
        let mut exporter = store.export(sink, "test").await?;
        exporter.file("settings", "text").await?;
        exporter.finish().await
    };
    let reading = async {
        let (mut decoder, mut items) = (Decoder::default(), Vec::new());
        while let Some(piece) = pieces.recv().await {
            decoder.add(&piece?);
            while let Some(item) = decoder.next_item()? {
                items.push(item);
            }
        }
        decoder.finish()?;
        Ok(items)
    };
    let (exported, items) = tokio::join!(exporting, reading);
    exported?;
    items
}

async fn restore(options: &Options, items: &[Item], logged: &BTreeSet<u64>) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { path: folder.path().join("state.db"), ..options.clone() };
    let mut sqlite = options.sqlite();
    sqlite.first_revision = items[0].number >> PLACE_BITS;
    let engine = SqliteEngine::open(sqlite).await.unwrap();
    let mut importer = Importer::new(&engine);
    for item in items {
        importer.add(item.clone()).await.unwrap();
    }
    logged.iter().for_each(|sequence| importer.logged(STREAM, *sequence));
    importer.finish().await.unwrap();
    engine.close().await;
    (folder, Store::open(options).await.unwrap())
}

pub async fn check(store: Store, options: &Options) {
    let stop = Arc::new(AtomicBool::new(false));
    // So many that a listing takes several pages.
    for page in 0..3 {
        let fill = |txn: &mut Txn| {
            (0..500).try_for_each(|n| txn.put(&key(page * 1000 + n, "m"), &Half { number: n, tenant: String::new() }))
        };
        store.transact(&[], fill).await.unwrap();
    }
    let log: Log = Arc::default();
    let mut tasks: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, stop.clone()))).collect();
    tasks.push(tokio::spawn(ship(store.clone(), log.clone(), stop.clone())));
    for round in 0..5 {
        let items = take(&store).await.unwrap();
        // Read after the backup, as the log files are; entries of later changes are cut off.
        let limit = items[0].number;
        let logged: BTreeMap<u64, Bytes> =
            log.lock().unwrap().iter().filter(|(sequence, _)| *sequence <= limit).cloned().collect();
        assert_eq!((items[0].kind, items.last().unwrap().kind), (Kind::Start, Kind::End));
        assert!(
            items.iter().any(|item| item.kind == Kind::File && item.name == "settings" && &item.data[..] == b"text")
        );

        let (_folder, restored) = restore(options, &items, &logged.keys().copied().collect()).await;
        let txn = restored.read().await.unwrap();
        assert_eq!(txn.count(&Key::new("half/m")), 1500);
        let mut expected = BTreeSet::new();
        for writer in 0..WRITERS {
            let get = |what| txn.get::<Half>(&key(writer, what)).unwrap();
            let (a, z) = (get("a"), get("z"));
            assert_eq!(a, z, "round {round}: half a transaction");
            let number = a.map_or(0, |half| half.number);
            expected.extend((1..=number).map(|n| format!("{writer} {n}")));
        }
        let left = restored.outbox(STREAM, 0, usize::MAX).await.unwrap();
        assert!(left.iter().all(|entry| entry.sequence > limit), "sequence numbers only rise");
        let all = logged.into_values().chain(left.into_iter().map(|entry| entry.payload));
        let all: Vec<String> = all.map(|payload| String::from_utf8(payload.to_vec()).unwrap()).collect();
        assert_eq!(all.len(), expected.len(), "round {round}: every entry of the cut once, and no other");
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), expected, "round {round}");
        restored.close().await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(log.lock().unwrap().len() > 50, "the writers were busy");
    store.close().await;
}
