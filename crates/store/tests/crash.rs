//! Kills a process at a random moment of its concurrent transactions: everything it acknowledged must be there
//! afterwards, and of no transaction only a part.
//!
//! 20 rounds; 100 with `TERROIR_FULL=1`. `TERROIR_SEED` replays the moments of a run that failed.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use terroir_store::{Key, LocalKeyRing, Options, Store, Txn, record};
use terroir_types::{Error, IdSource, OsRandom, SeededRandom};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Half {
    number: u64,
    filler: Vec<u8>,
    #[serde(skip, default)]
    tenant: String,
}
record!(Half { kind: "half", version: 1, tenant: tenant: String });

const WRITERS: u64 = 8;
const CHILD: &str = "TERROIR_STORE_CRASH_CHILD";
const STREAM: &str = "audit";

fn writer_key(writer: u64, what: &str) -> Key {
    Key::new(format!("half/{writer}/{what}"))
}

async fn open(folder: &Path) -> Store {
    let keys = Arc::new(LocalKeyRing::open_or_create(&folder.join("master.key")).unwrap());
    Store::open(Options::new(folder.join("state.db"), keys)).await.unwrap()
}

/// Transaction `number` of a writer: two halves that are equal, an item that is new, the one before it gone, a count
/// that all writers share, an entry for the outbox.
fn change(writer: u64, number: u64, txn: &mut Txn) -> Result<(), Error> {
    let half = Half {
        number,
        filler: vec![0xab; usize::try_from(number % 50).map_or(0, |n| n * 40)],
        tenant: format!("{number}"),
    };
    txn.put(&writer_key(writer, "left"), &half)?;
    txn.put(&writer_key(writer, &format!("item/{number}")), &half)?;
    txn.delete(&writer_key(writer, &format!("item/{}", number.wrapping_sub(1))));
    txn.outbox(STREAM, format!("{writer} {number}").into_bytes());
    if number.is_multiple_of(4) {
        let key = Key::new("half/shared");
        let count = txn.get::<Half>(&key)?.map_or(0, |shared| shared.number);
        txn.put(&key, &Half { number: count + 1, filler: Vec::new(), tenant: String::new() })?;
    }
    txn.put(&writer_key(writer, "right"), &half)
}

/// What the child does until it is killed: `number` goes on where the state says that it ended.
async fn work(folder: &Path) {
    let store = open(folder).await;
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let left = store.read().await.unwrap().get::<Half>(&writer_key(writer, "left")).unwrap();
            let mut number = left.map_or(0, |half| half.number);
            loop {
                number += 1;
                let ((), revision) = store.transact(&[], |txn| change(writer, number, txn)).await.unwrap();
                // One write, so that a line is whole or missing.
                let line = format!("{writer} {number} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers.collect::<Vec<_>>()).await;
}

/// Only does something in the process that is to be killed.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        // Ends the line that the test harness began.
        std::io::stdout().lock().write_all(b"\n").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(work(Path::new(&folder)));
    }
}

/// What the child said before it died.
#[derive(Default)]
struct Acknowledged {
    /// Of each writer: the number of its last transaction.
    last: [u64; WRITERS as usize],
    revision: u64,
    transactions: usize,
}

/// Starts the child and kills it after `delay`, counted from its start or from its first acknowledgement.
fn run_and_kill(folder: &Path, delay: Duration, from_start: bool) -> Acknowledged {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (first, begun) = mpsc::channel();
    let mut said = Acknowledged::default();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if !from_start {
                begun.recv().expect("the child runs until it is killed");
            }
            std::thread::sleep(delay);
            process.kill().unwrap();
            process.wait().unwrap();
        });
        // Until the pipe ends: what was acknowledged before the end counts.
        for line in lines {
            let numbers: Vec<u64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
            if let [writer, number, revision] = numbers[..] {
                said.last[writer as usize] = number;
                said.revision = said.revision.max(revision);
                said.transactions += 1;
                // The killer listens for the first one only.
                let _ = first.send(());
            }
        }
        drop(first);
    });
    said
}

/// `before`: the numbers that the writers had reached when the child started. Returns those they have now.
async fn check(folder: &Path, before: [u64; WRITERS as usize], said: &Acknowledged) -> [u64; WRITERS as usize] {
    let store = open(folder).await;
    let txn = store.read().await.unwrap();
    assert!(
        txn.revision() >= said.revision,
        "revision {} was acknowledged, {} is there",
        said.revision,
        txn.revision()
    );
    let get = |key: &Key| txn.get::<Half>(key).unwrap();
    let mut numbers = before;
    let mut shared = 0;
    let mut expected = Vec::new();
    for writer in 0..WRITERS {
        let number = get(&writer_key(writer, "left")).map_or(0, |half| half.number);
        let acknowledged = said.last[writer as usize].max(before[writer as usize]);
        numbers[writer as usize] = number;
        assert!(number >= acknowledged, "writer {writer}: {acknowledged} was acknowledged, {number} is there");
        assert!(number <= acknowledged + 1, "writer {writer}: only its last transaction can be unacknowledged");
        let (left, right) = (get(&writer_key(writer, "left")), get(&writer_key(writer, "right")));
        assert_eq!(left, right, "writer {writer}: half a transaction");
        let items = txn.range::<Half>(&writer_key(writer, "item")).unwrap();
        let present: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
        let newest = writer_key(writer, &format!("item/{number}"));
        assert_eq!(present, if number > 0 { vec![newest] } else { Vec::new() }, "writer {writer}: half a transaction");
        shared += number / 4;
        expected.extend((1..=number).map(|n| format!("{writer} {n}")));
    }
    assert_eq!(get(&Key::new("half/shared")).map_or(0, |half| half.number), shared, "the shared count");
    let entries = store.outbox(STREAM, 0, usize::MAX).await.unwrap();
    let mut present: Vec<_> = entries.iter().map(|e| String::from_utf8(e.payload.to_vec()).unwrap()).collect();
    present.sort_unstable();
    expected.sort_unstable();
    assert_eq!(present, expected, "the outbox holds one entry of every transaction");
    store.close().await;
    numbers
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let given = std::env::var("TERROIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| OsRandom.next_u64());
    let rounds = if std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1") { 100 } else { 20 };
    eprintln!("TERROIR_SEED={seed}, {rounds} rounds");
    let random = SeededRandom::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut folder = tempfile::tempdir().unwrap();
    let mut numbers = [0; WRITERS as usize];
    let mut transactions = 0;
    for round in 0..rounds {
        // Five lives on the same data, the first of them from its very first moment.
        let new = round % 5 == 0;
        if new {
            folder = tempfile::tempdir().unwrap();
            numbers = [0; WRITERS as usize];
        }
        let said = run_and_kill(folder.path(), Duration::from_micros(random.next_u64() % 120_000), new);
        transactions += said.transactions;
        numbers = runtime.block_on(check(folder.path(), numbers, &said));
    }
    eprintln!("{transactions} acknowledged transactions");
    assert!(transactions > rounds * 10, "the writers were busy when they were killed: {transactions}");
}
