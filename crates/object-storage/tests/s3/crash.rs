//! The process is killed while thirty-two writers write, with and without versions: what was acknowledged is whole, and
//! nothing else is there.

use crate::harness::count;
use bytes::Bytes;
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{
    BucketId, Delete, ListVersions, ListedVersion, ObjectBackend, Place, Put, VersionEntry, VersionId, Versioning,
};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{IdSource, OsRandom, SystemClock};

const FOLDER: &str = "TERROIR_CRASH_FOLDER";
const WRITERS: u64 = 32;
/// Of each writer, in each bucket.
const KEYS: u64 = 4;
/// Versions of a key that a writer lets grow.
const MOST_VERSIONS: usize = 12;

/// Keys of the second begin with `v`.
fn bucket(key: &str) -> BucketId {
    BucketId::from_random(if key.starts_with('v') { 8 } else { 7 })
}

fn versioning(key: &str) -> Versioning {
    if key.starts_with('v') { Versioning::Enabled } else { Versioning::Off }
}

async fn open(folder: &Path) -> LocalBackend {
    LocalBackend::open(folder, Arc::new(SystemClock), Arc::new(OsRandom), Arc::new(Unlimited)).await.unwrap()
}

/// The bytes that write `n` of a key has: they say which it is.
fn content(key: &str, n: u64) -> Vec<u8> {
    let size = [0, 40, 4096, 32 << 10, 33 << 10, 300_000, 600_000][usize::try_from(n % 7).unwrap()];
    let mut data = format!("{key} {n} ").into_bytes();
    data.resize(data.len() + size, u8::try_from(n % 256).unwrap());
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

fn say(when: &str, key: &str, operation: &str, n: u64) {
    let mut out = std::io::stdout().lock();
    // The parent is gone if this fails.
    writeln!(out, "\n@{when} {key} {operation} {n}").and_then(|()| out.flush()).unwrap();
}

/// All versions of a bucket's keys with this prefix, newest first.
async fn versions(backend: &LocalBackend, bucket: BucketId, prefix: &str) -> Vec<ListedVersion> {
    let mut list = ListVersions { prefix: prefix.to_owned(), limit: 1000, ..ListVersions::default() };
    let mut found = Vec::new();
    loop {
        let page = backend.list_versions(bucket, list.clone()).await.unwrap();
        found.extend(page.entries.into_iter().map(|entry| match entry {
            VersionEntry::Version(version) => version,
            VersionEntry::Prefix(prefix) => panic!("{prefix}: no delimiter was asked for"),
        }));
        let Some((after, version)) = page.next else { return found };
        (list.after, list.version) = (after, version);
    }
}

async fn write(backend: LocalBackend, writer: u64) {
    // Oldest first; only this writer changes them.
    let mut known: BTreeMap<String, Vec<VersionId>> = BTreeMap::new();
    let prefix = format!("v{writer}-");
    for version in versions(&backend, bucket("v"), &prefix).await {
        known.entry(version.key).or_default().insert(0, version.version);
    }
    loop {
        let n = OsRandom.next_u64() >> 16;
        let kind = if n.is_multiple_of(2) { "v" } else { "p" };
        let key = format!("{kind}{writer}-{}", (n >> 8) % KEYS);
        let place = Place::new(bucket(&key), key.as_str());
        let mut delete = Delete { versioning: versioning(&key), ..Delete::default() };
        let ids = known.entry(key.clone()).or_default();
        let choice = (n >> 16) % 10;
        if kind == "v" && !ids.is_empty() && (choice < 3 || ids.len() > MOST_VERSIONS) {
            let which = usize::try_from(n >> 24).unwrap() % ids.len();
            say("begin", &key, "remove", which as u64);
            delete.version = Some(ids.remove(which));
            backend.delete(&place, delete).await.unwrap();
            say("end", &key, "remove", which as u64);
        } else if choice < 4 {
            say("begin", &key, "delete", 0);
            ids.extend(backend.delete(&place, delete).await.unwrap().version);
            say("end", &key, "delete", 0);
        } else {
            say("begin", &key, "put", n);
            let data = Bytes::from(content(&key, n));
            let pieces: Vec<_> = data.chunks(60_000).map(|piece| Ok(data.slice_ref(piece))).collect();
            let put = Put { versioning: versioning(&key), ..Put::plain() };
            let head = backend.put(&place, Box::pin(futures::stream::iter(pieces)), put).await.unwrap();
            ids.push(head.version);
            say("end", &key, "put", n);
        }
    }
}

/// Versions of a key, oldest first: the number of a write, none for a delete marker.
type State = Vec<Option<u64>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operation {
    Put(u64),
    Delete,
    Remove(usize),
}

impl Operation {
    fn parse(name: &str, n: u64) -> Option<Self> {
        Some(match name {
            "put" => Self::Put(n),
            "delete" => Self::Delete,
            "remove" => Self::Remove(usize::try_from(n).ok()?),
            _ => return None,
        })
    }

    fn apply(self, key: &str, mut state: State) -> State {
        match (versioning(key), self) {
            (_, Self::Remove(which)) => drop(state.remove(which)),
            (Versioning::Enabled, Self::Put(n)) => state.push(Some(n)),
            (Versioning::Enabled, Self::Delete) => state.push(None),
            (_, Self::Put(n)) => state = vec![Some(n)],
            (_, Self::Delete) => state.clear(),
        }
        state
    }
}

/// What a key has, and what may have been done to it beside.
#[derive(Debug, Default)]
struct Expected {
    state: State,
    begun: Option<Operation>,
}

type Model = BTreeMap<String, Expected>;

fn take(line: &str, model: &mut Model) -> bool {
    let Some(rest) = line.strip_prefix('@') else { return false };
    let words: Vec<_> = rest.split(' ').collect();
    let [when, key, operation, n] = words[..] else { return false };
    let Some(operation) = n.parse().ok().and_then(|n| Operation::parse(operation, n)) else { return false };
    let expected = model.entry(key.to_owned()).or_default();
    if when == "begin" {
        assert_eq!(expected.begun, None, "{key}");
        expected.begun = Some(operation);
    } else {
        assert_eq!(expected.begun.take(), Some(operation), "{key}");
        expected.state = operation.apply(key, std::mem::take(&mut expected.state));
    }
    true
}

fn observe(folder: &Path, model: &mut Model, lines: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writer_process", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut killed = false;
    // What was said before the kill still stands in the pipe; its last line may be cut off.
    while output.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') {
            seen += usize::from(take(line.trim_end(), model));
        }
        line.clear();
        if !killed && seen >= lines {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the writer ended by itself");
    child.wait().unwrap();
}

async fn verify(folder: &Path, model: &mut Model, round: u32) {
    let backend = open(folder).await;
    let mut found: BTreeMap<String, State> = BTreeMap::new();
    let mut large = 0;
    for bucket in [bucket("p"), bucket("v")] {
        for listed in versions(&backend, bucket, "").await {
            let place = Place::new(bucket, listed.key.as_str());
            let state = found.entry(listed.key.clone()).or_default();
            if listed.object.is_none() {
                state.insert(0, None);
                continue;
            }
            let object = backend.open(&place, Some(&listed.version)).await.unwrap().found().unwrap();
            let data = object.stream_all().try_collect::<Vec<_>>().await.unwrap().concat();
            let text = String::from_utf8_lossy(&data[..data.len().min(40)]).into_owned();
            let n: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(data == content(&listed.key, n), "round {round}: {} is not whole", listed.key);
            assert_eq!(object.head.etag, hex::encode(<md5::Md5 as md5::Digest>::digest(&data)));
            large += usize::from(data.len() > 32 << 10);
            state.insert(0, Some(n));
        }
    }
    for (key, expected) in model.iter_mut() {
        let is = found.get(key).cloned().unwrap_or_default();
        let mut may_be = vec![expected.state.clone()];
        may_be.extend(expected.begun.take().map(|operation| operation.apply(key, expected.state.clone())));
        assert!(may_be.contains(&is), "round {round}: {key} is {is:?}, may be {may_be:?}");
        expected.state = is;
    }
    for key in found.keys() {
        assert!(model.contains_key(key), "round {round}: {key} was never written");
    }
    // Every file belongs to a version once the rest was swept, and nothing contradicts itself.
    backend.sweep().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while files(folder) != large {
        assert!(std::time::Instant::now() < deadline, "round {round}: {} files for {large} versions", files(folder));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = backend.verify(false, |_| {}).await.unwrap();
    assert_eq!(report.found, 0, "round {round}: {report:?}");
}

fn files(folder: &Path) -> usize {
    let folders = std::fs::read_dir(folder.join("files")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn acknowledged_objects_survive_a_kill() {
    let rounds = count(20, 200);
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..rounds {
        let lines = 100 + usize::try_from(OsRandom.next_u64() % 1500).unwrap();
        observe(dir.path(), &mut model, lines);
        runtime.block_on(verify(dir.path(), &mut model, round));
    }
    let versions: usize = model.values().map(|expected| expected.state.len()).sum();
    assert!(versions > 200, "too little was written to say anything: {versions}");
}
