//! Keeps the processes' logs small.
//!
//! A process appends to a file that it inherited and cannot replace: it may have given up its privileges, and it must go
//! on whoever else dies. So the supervisor takes the beginning out of a file that has grown, under the writer's hands.
//! `X.log` is rotated into `X.log.1`, that into `X.log.2`, and so on.

use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

use crate::layout::Layout;

/// Size at which a log is rotated. An older part has at most twice as much: what a flood wrote between two looks.
const LIMIT_BYTES: u64 = 16 << 20;
/// Older parts that are kept.
const KEPT: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Rotates the logs of these processes now and then until `stop` turns true.
pub async fn keep_small(layout: Layout, names: &[&str], mut stop: watch::Receiver<bool>) {
    loop {
        for name in names {
            let path = layout.log_file(name);
            let rotated = tokio::task::spawn_blocking(move || rotate(&path, LIMIT_BYTES)).await;
            if let Ok(Err(error)) = rotated {
                tracing::warn!(name, %error, "the log cannot be rotated");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Moves what a log of more than `limit` bytes holds into its older parts. True if there was something to do. The
/// writer, who appends, notices nothing.
///
/// Errors: those of the file system. If an older part cannot be written, as on a full disk, what it would have held is
/// lost: bounded comes before complete.
fn rotate(path: &Path, limit: u64) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if metadata.len() <= limit {
        return Ok(false);
    }
    let whole = whole_blocks(&metadata);
    let mut kept = move_on(path).and_then(|()| copy(&file, whole.saturating_sub(2 * limit), whole, &part(path, 1)));
    if !cut(&file, whole)? {
        // Where the beginning cannot be taken out, all goes; a line that is written in this moment is lost.
        kept = kept.and_then(|()| copy(&file, whole, u64::MAX, &part(path, 1)));
        file.set_len(0)?;
    }
    if kept.is_err() {
        // Half of it would only take space.
        let _ = fs::remove_file(part(path, 1));
    }
    kept.map(|()| true)
}

/// Every older part gets the next number, and the oldest goes.
fn move_on(path: &Path) -> io::Result<()> {
    for n in (1..KEPT).rev() {
        match fs::rename(part(path, n), part(path, n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `X.log.1` is the youngest.
fn part(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Length of the beginning that the file system can take out: whole blocks, and not up to the end.
fn whole_blocks(metadata: &fs::Metadata) -> u64 {
    let block = metadata.blksize().max(1);
    metadata.len().saturating_sub(1) / block * block
}

/// Appends what lies between two places to `target`.
fn copy(mut file: &File, from: u64, to: u64, target: &Path) -> io::Result<()> {
    file.seek(SeekFrom::Start(from))?;
    let mut out = OpenOptions::new().append(true).create(true).mode(0o600).open(target)?;
    io::copy(&mut file.take(to - from), &mut out).map(drop)
}

/// Takes the first `length` bytes out of the file, in one step and whatever is appended meanwhile. False where the file
/// system cannot (ext4 and XFS can).
fn cut(file: &File, length: u64) -> io::Result<bool> {
    let length = i64::try_from(length).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, length) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The end of a log, at most `bytes` of it.
pub fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    const LIMIT: u64 = 64 << 10;
    const BLOCK: u64 = 4 << 10;

    fn append_to(path: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    fn numbers(text: &str) -> Vec<u64> {
        text.split_ascii_whitespace().map(|line| line.parse().unwrap()).collect()
    }

    /// Everything that is kept, oldest first.
    fn kept(path: &Path) -> String {
        let parts = (1..=KEPT).rev().map(|n| part(path, n)).chain([path.to_owned()]);
        parts.map(|part| fs::read_to_string(part).unwrap_or_default()).collect()
    }

    /// On the disk, and on a file system that takes no beginnings out.
    fn folders() -> impl Iterator<Item = tempfile::TempDir> {
        let memory = Path::new("/dev/shm").is_dir().then(|| tempfile::tempdir_in("/dev/shm").unwrap());
        [tempfile::tempdir().unwrap()].into_iter().chain(memory)
    }

    #[test]
    fn a_log_that_is_being_written_is_bounded_and_complete() {
        for folder in folders() {
            write_and_rotate(folder.path());
        }
    }

    fn write_and_rotate(folder: &Path) {
        let path = folder.join("x.log");
        assert!(!rotate(&path, LIMIT).unwrap(), "there is none yet");
        append_to(&path).write_all(b"0000000\n").unwrap();
        let lossless = cut_works(folder);
        let (rotations, last) = (AtomicU32::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = append_to(&path);
                let room = || path.metadata().unwrap().len() < 2 * LIMIT - BLOCK;
                for n in (1..).take_while(|_| rotations.load(Ordering::Acquire) <= KEPT) {
                    writeln!(log, "{n:07}").unwrap();
                    last.store(n, Ordering::Release);
                    while n % 100 == 0 && !room() && rotations.load(Ordering::Acquire) <= KEPT {
                        std::thread::yield_now();
                    }
                }
            });
            while rotations.load(Ordering::Acquire) <= KEPT {
                rotations.fetch_add(u32::from(rotate(&path, LIMIT).unwrap()), Ordering::AcqRel);
            }
        });
        let numbers = numbers(&kept(&path));
        assert!(numbers.len() as u64 * 8 >= u64::from(KEPT) * LIMIT / 2);
        if lossless {
            let first = numbers[0];
            assert!(numbers.iter().zip(first..).all(|(seen, expected)| *seen == expected), "from {first}");
            assert_eq!(numbers.last(), Some(&last.load(Ordering::Acquire)));
            for n in 1..=KEPT {
                let size = part(&path, n).metadata().unwrap().len();
                assert!(size <= 2 * LIMIT, "part {n} has {size} bytes");
            }
        }
        assert!(!part(&path, KEPT + 1).exists());
    }

    /// Whether the file system of `folder` takes beginnings out.
    fn cut_works(folder: &Path) -> bool {
        let path = folder.join("probe");
        fs::write(&path, vec![0; 1 << 16]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        cut(&file, whole_blocks(&file.metadata().unwrap())).unwrap()
    }

    /// A flood between two looks leaves its end, and no more than the limit allows.
    #[test]
    fn of_a_flood_the_end_is_kept() {
        for folder in folders() {
            flood(folder.path());
        }
    }

    fn flood(folder: &Path) {
        let path = folder.join("x.log");
        for round in 0..2 * KEPT {
            let lines: String = (0..100_000).map(|n| format!("{round}{n:06}\n")).collect();
            append_to(&path).write_all(lines.as_bytes()).unwrap();
            assert!(rotate(&path, LIMIT).unwrap());
            assert!(!rotate(&path, LIMIT).unwrap());
            assert!(part(&path, 1).metadata().unwrap().len() <= 2 * LIMIT + BLOCK);
            let text = kept(&path);
            assert!(text.ends_with(&format!("{round}099999\n")), "{}", &text[text.len() - 20..]);
        }
        append_to(&path).write_all(b"the end\n").unwrap();
        assert!(tail(&path, 1000).unwrap().ends_with("the end\n"));
        assert_eq!(tail(&path, 5).unwrap(), " end\n");
        let total: u64 = fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= u64::from(KEPT) * (2 * LIMIT + BLOCK) + BLOCK, "{total}");
    }

    #[test]
    fn what_cannot_be_kept_is_lost_rather_than_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        append_to(&path).write_all(&vec![b'x'; 1 << 20]).unwrap();
        for n in 1..=KEPT {
            fs::create_dir_all(part(&path, n).join("in the way")).unwrap();
        }
        assert!(rotate(&path, LIMIT).is_err());
        assert!(path.metadata().unwrap().len() <= LIMIT);
    }
}
