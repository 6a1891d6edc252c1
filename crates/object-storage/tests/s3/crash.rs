//! The process is killed while sixteen writers write: what was acknowledged is whole, and nothing else is there.

use crate::harness::count;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{BucketId, Delete, List, ListEntry, ObjectBackend, Place, Put};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{IdSource, OsRandom, SystemClock};

const FOLDER: &str = "TERROIR_CRASH_FOLDER";
const WRITERS: u64 = 16;
const KEYS: u64 = 8;

fn bucket() -> BucketId {
    BucketId::from_random(7)
}

async fn open(folder: &Path) -> LocalBackend {
    LocalBackend::open(folder, Arc::new(SystemClock), Arc::new(OsRandom), Arc::new(Unlimited)).await.unwrap()
}

/// The bytes that a version of an object has: they say which they are.
fn content(key: &str, version: u64) -> Vec<u8> {
    let size = [0, 40, 4096, 32 << 10, 33 << 10, 300_000, 2_000_000][usize::try_from(version % 7).unwrap()];
    let mut data = format!("{key} {version} ").into_bytes();
    data.resize(data.len() + size, u8::try_from(version % 256).unwrap());
    data
}

/// The child: says what it is about to do and what was acknowledged, one line each, until it is killed.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = open(Path::new(&folder)).await;
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(backend.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

fn say(what: &str, key: &str, version: u64) {
    let mut out = std::io::stdout().lock();
    // The parent is gone if this fails.
    writeln!(out, "\n@{what} {key} {version}").and_then(|()| out.flush()).unwrap();
}

async fn write(backend: LocalBackend, writer: u64) {
    loop {
        let version = OsRandom.next_u64() >> 16;
        let key = format!("{writer}-{}", version % KEYS);
        let place = Place::new(bucket(), key.as_str());
        if version.is_multiple_of(11) {
            say("deleting", &key, version);
            backend.delete(&place, Delete::default()).await.unwrap();
            say("deleted", &key, version);
        } else {
            say("writing", &key, version);
            let data = Bytes::from(content(&key, version));
            let pieces: Vec<_> = data.chunks(60_000).map(|piece| Ok(data.slice_ref(piece))).collect();
            backend.put(&place, Box::pin(futures::stream::iter(pieces)), Put::plain()).await.unwrap();
            say("written", &key, version);
        }
    }
}

/// For each key, what it must be or may be: none stands for "not there".
type Allowed = HashMap<String, Vec<Option<u64>>>;

fn observe(folder: &Path, allowed: &mut Allowed, lines: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writer_process", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    let mut take = |line: &str, allowed: &mut Allowed| {
        let Some(rest) = line.strip_prefix('@') else { return };
        let mut words = rest.split(' ');
        let (Some(what), Some(key), Some(version)) = (words.next(), words.next(), words.next()) else { return };
        // The last line may be cut off.
        let Ok(version) = version.parse::<u64>() else { return };
        seen += 1;
        let possible = allowed.entry(key.to_owned()).or_insert_with(|| vec![None]);
        match what {
            "writing" => possible.push(Some(version)),
            "deleting" => possible.push(None),
            "written" => *possible = vec![Some(version)],
            _ => *possible = vec![None],
        }
    };
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut killed = false;
    let mut read = 0;
    // What was said before the kill still stands in the pipe.
    while output.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') {
            take(line.trim_end(), allowed);
        }
        line.clear();
        read += 1;
        if !killed && read >= lines {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the writer ended by itself");
    child.wait().unwrap();
    assert!(seen > 0);
}

async fn verify(folder: &Path, allowed: &mut Allowed, round: u32) {
    let backend = open(folder).await;
    let listing = backend.list(bucket(), List { limit: 10_000, ..List::default() }).await.unwrap();
    let mut found = HashMap::new();
    for entry in listing.entries {
        let ListEntry::Object(listed) = entry else { panic!("no delimiter was asked for") };
        let object = backend.open(&Place::new(bucket(), listed.key.as_str()), None).await.unwrap().found().unwrap();
        let data = object.stream_all().try_collect::<Vec<_>>().await.unwrap().concat();
        let text = String::from_utf8_lossy(&data[..data.len().min(40)]).into_owned();
        let version: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(data == content(&listed.key, version), "round {round}: {} is not whole", listed.key);
        assert_eq!(object.head.etag, hex::encode(<md5::Md5 as md5::Digest>::digest(&data)));
        found.insert(listed.key, version);
    }
    for (key, possible) in allowed.iter_mut() {
        let is = found.get(key).copied();
        assert!(possible.contains(&is), "round {round}: {key} is {is:?}, may be {possible:?}");
        *possible = vec![is];
    }
    for key in found.keys() {
        assert!(allowed.contains_key(key), "round {round}: {key} was never written");
    }
    // Every file belongs to an object once the rest was swept.
    backend.sweep().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let large = futures::stream::iter(found.keys())
        .filter(|key| {
            let (backend, place) = (backend.clone(), Place::new(bucket(), key.as_str()));
            async move { backend.head(&place, None).await.unwrap().found().unwrap().size > 32 << 10 }
        })
        .count()
        .await;
    while files(folder) != large {
        assert!(std::time::Instant::now() < deadline, "round {round}: {} files for {large} objects", files(folder));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn files(folder: &Path) -> usize {
    let folders = std::fs::read_dir(folder.join("files")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn acknowledged_objects_survive_a_kill() {
    let rounds = count(20, 200);
    let dir = tempfile::tempdir().unwrap();
    let mut allowed = Allowed::new();
    for round in 0..rounds {
        let lines = 200 + usize::try_from(OsRandom.next_u64() % 1500).unwrap();
        observe(dir.path(), &mut allowed, lines);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(verify(dir.path(), &mut allowed, round));
    }
    assert!(allowed.values().flatten().flatten().count() > 50, "too little was written to say anything");
}
