//! A disk that is full, or cannot be written at a start: a real one, a file system in memory, in a mount namespace of
//! its own.

use bytes::Bytes;
use futures::TryStreamExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{BackendError, BucketId, Delete, ObjectBackend, Place, Put};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{OsRandom, SystemClock};

const FOLDER: &str = "TERROIR_DISK_FOLDER";
const MEGABYTES: u32 = 24;

async fn open(folder: &Path) -> Result<LocalBackend, BackendError> {
    LocalBackend::open(folder, Arc::new(SystemClock), Arc::new(OsRandom), Arc::new(Unlimited)).await
}

fn place(n: usize) -> Place {
    Place::new(BucketId::from_random(1), format!("{n:05}"))
}

fn content(n: usize) -> Bytes {
    // Small ones stand in the index, large ones in files.
    let size = if n.is_multiple_of(2) { 8 << 10 } else { 300 << 10 };
    vec![u8::try_from(n % 251).unwrap(); size].into()
}

async fn put(backend: &LocalBackend, n: usize) -> Result<(), BackendError> {
    let data = content(n);
    let pieces: Vec<_> = data.chunks(64 << 10).map(|piece| Ok(data.slice_ref(piece))).collect();
    backend.put(&place(n), Box::pin(futures::stream::iter(pieces)), Put::plain()).await.map(drop)
}

async fn check(backend: &LocalBackend, written: &[usize]) {
    for n in written {
        let object = backend.open(&place(*n), None).await.unwrap().found().unwrap();
        let read = object.stream_all().try_collect::<Vec<_>>().await.unwrap().concat();
        assert!(read == content(*n), "{n}");
    }
}

/// It is busy as long as the process's own files are open.
fn remount(folder: &Path, options: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mount = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(folder).output().unwrap();
        if mount.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "remount,{options}: {}", String::from_utf8_lossy(&mount.stderr));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The child, in its own namespace.
#[test]
fn disk_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = open(&folder.join("objects")).await.unwrap();
        let (mut written, mut refused) = (Vec::new(), 0);
        for n in 0..1000 {
            match put(&backend, n).await {
                Ok(()) => written.push(n),
                Err(BackendError::DiskFull) => refused += 1,
                Err(error) => panic!("{n}: {error}"),
            }
            if refused > 20 {
                break;
            }
        }
        assert!(refused > 20 && written.len() > 20, "{} written", written.len());
        check(&backend, &written).await;

        // Room again, without a restart.
        remount(&folder, &format!("size={}m", MEGABYTES * 2));
        for n in 1000..1020 {
            put(&backend, n).await.unwrap();
            written.push(n);
        }
        let gone = written.remove(1);
        backend.delete(&place(gone), Delete::default()).await.unwrap();
        check(&backend, &written).await;

        // Read-only: a start is refused, and the next one finds everything.
        drop(backend);
        remount(&folder, "ro");
        let refused = open(&folder.join("objects")).await.map(drop).unwrap_err();
        assert!(matches!(refused, BackendError::ReadOnly), "{refused}");
        remount(&folder, "rw");
        let backend = open(&folder.join("objects")).await.unwrap();
        for n in 3000..3010 {
            put(&backend, n).await.unwrap();
            written.push(n);
        }
        backend.sweep().await.unwrap();
        check(&backend, &written).await;
        let report = backend.verify(false, |_| {}).await.unwrap();
        assert_eq!((report.found, report.contents), (0, written.len() as u64), "{report:?}");
    });
    println!("@done");
}

#[test]
fn full_and_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let own = if nix::unistd::Uid::effective().is_root() { "-m" } else { "-rm" };
    let script = format!("mount -t tmpfs -o size={MEGABYTES}m tmpfs \"${FOLDER}\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args([own, "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::disk_process", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    if failed.contains("unshare failed")
        || failed.contains("Operation not permitted") && !said.contains("running 1 test")
    {
        eprintln!("skipped: no mount namespace of one's own here: {failed}");
        return;
    }
    assert!(output.status.success() && said.contains("@done"), "{said}\n{failed}");
}
