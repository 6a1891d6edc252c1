//! Closed intervals on disk: append-only segments, synced, each line chained to the one before by its hash.
//!
//! ```text
//! usage-00000001.jsonl    {"sequence":1,"previous":"","interval":{...}}
//!                         {"sequence":2,"previous":"<SHA-256 of the line before>","interval":{...}}
//! usage-00000002.jsonl    ...goes on with the chain
//! ```
//! `sequence` is the outbox's number. Entries are trimmed from the outbox once they are synced here; what a crash leaves
//! in both is recognised by number and content and not written twice. A state that was restored from a backup counts
//! again from where it was: a number that comes with another content is another interval.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use terroir_store::Store;

use crate::STREAM;

/// A segment that has grown to this many bytes is followed by a new one.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Entries that are written and synced together.
const BATCH: usize = 1_000;
/// How much of the log's end is read: far more than a batch.
const TAIL_BYTES: u64 = 4 << 20;
const SHIP_EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sequence: u64,
    /// SHA-256 of the line before, in hexadecimal, without its line end; empty for the first one of all.
    previous: String,
    #[serde(borrow)]
    interval: &'a RawValue,
}

/// Number and content of an entry.
type Known = (u64, [u8; 32]);

/// The folder that closed intervals end in, owned by one process.
pub struct UsageLog {
    folder: PathBuf,
    segment: Option<File>,
    /// Number of the newest segment.
    segment_number: u64,
    segment_bytes: u64,
    most_bytes: u64,
    last_hash: String,
    /// Entries at the end of the log, until the outbox was trimmed.
    known: HashSet<Known>,
}

impl UsageLog {
    /// Opens the folder, or makes it with mode 0700. A last line that a crash cut off is removed: it is in the outbox
    /// still.
    ///
    /// Errors: those of the file system; `InvalidData` if the log ends in lines that are not its own.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut log = Self {
            folder: folder.to_owned(),
            segment: None,
            segment_number: 0,
            segment_bytes: 0,
            most_bytes: SEGMENT_BYTES,
            last_hash: String::new(),
            known: HashSet::new(),
        };
        let mut segments: Vec<(u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            segments.extend(segment_number(&path).map(|number| (number, path)));
        }
        segments.sort();
        // A crash may have left a new segment without a whole line; the chain then ends in the one before. Entries of
        // one batch are in two segments at most.
        let mut lines = Vec::new();
        for (number, path) in segments.iter().rev().take(3) {
            let mut file = OpenOptions::new().read(true).append(true).open(path)?;
            let length = cut_torn_line(&mut file)?;
            let mut older = last_lines(&mut file, length)?;
            older.append(&mut lines);
            lines = older;
            if log.segment.is_none() {
                (log.segment, log.segment_number, log.segment_bytes) = (Some(file), *number, length);
            }
        }
        for line in &lines {
            log.known.insert(log.parse(line)?);
        }
        log.last_hash = lines.last().map(|line| hex::encode(hash(line))).unwrap_or_default();
        Ok(log)
    }

    fn parse(&self, line: &[u8]) -> io::Result<Known> {
        let parsed: Line<'_> = serde_json::from_slice(line).map_err(|error| {
            let folder = self.folder.display();
            let message = format!("the usage log in {folder} ends in a line that is not its own: {error}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        Ok((parsed.sequence, hash(parsed.interval.get().as_bytes())))
    }

    /// Takes over what is in the outbox; gives how many entries it wrote.
    pub async fn ship(&mut self, store: &Store) -> Result<usize, terroir_types::Error> {
        let mut shipped = 0;
        loop {
            let entries = store.outbox(STREAM, 0, BATCH).await?;
            let Some(last) = entries.last().map(|entry| entry.sequence) else { return Ok(shipped) };
            let written = self.append(entries.iter().map(|entry| (entry.sequence, &*entry.payload)));
            shipped += written.map_err(|error| {
                terroir_types::Error::unavailable("The usage log cannot be written.").with_internal(error.to_string())
            })?;
            store.outbox_trim(STREAM, last).await?;
            self.known.clear();
        }
    }

    fn append<'a>(&mut self, entries: impl Iterator<Item = (u64, &'a [u8])>) -> io::Result<usize> {
        let mut text = Vec::new();
        let mut previous = self.last_hash.clone();
        let mut written = Vec::new();
        for (sequence, payload) in entries {
            let known = (sequence, hash(payload));
            if self.known.contains(&known) {
                continue;
            }
            let line = serde_json::to_vec(&Line { sequence, previous, interval: serde_json::from_slice(payload)? })?;
            previous = hex::encode(hash(&line));
            written.push(known);
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        if written.is_empty() {
            return Ok(0);
        }
        if self.segment.is_none() || self.segment_bytes >= self.most_bytes {
            self.start_segment()?;
        }
        let file = self.segment.as_mut().ok_or_else(|| io::Error::other("no segment is open"))?;
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // How much of it stands is not known: it goes, and the same entries come again.
            file.set_len(self.segment_bytes)?;
            return Err(error);
        }
        self.segment_bytes += text.len() as u64;
        self.last_hash = previous;
        let count = written.len();
        self.known.extend(written);
        Ok(count)
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let number = self.segment_number + 1;
        let path = self.folder.join(format!("usage-{number:08}.jsonl"));
        let file = OpenOptions::new().create_new(true).read(true).append(true).mode(0o600).open(path)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        (self.segment, self.segment_number, self.segment_bytes) = (Some(file), number, 0);
        Ok(())
    }

    /// Ships again and again until `shutdown`, and once more then.
    pub async fn run(mut self, store: Store, shutdown: impl Future<Output = ()>) {
        let mut tick = tokio::time::interval(SHIP_EVERY);
        tokio::pin!(shutdown);
        loop {
            let last = tokio::select! {
                () = &mut shutdown => true,
                _ = tick.tick() => false,
            };
            if let Err(error) = self.ship(&store).await {
                tracing::error!(%error, detail = error.internal_detail(), "closed usage intervals were not shipped");
            }
            if last {
                return;
            }
        }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn segment_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("usage-")?.strip_suffix(".jsonl")?;
    (number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok())?
}

/// The file's end.
fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Cuts off what follows the last line end; gives the length that is left. A batch may have been cut off anywhere, but
/// whole lines of it stand.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let torn = tail(file, length)?.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
    if torn > 0 {
        file.set_len(length - torn)?;
        file.sync_all()?;
    }
    Ok(length - torn)
}

/// Whole lines at the file's end.
fn last_lines(file: &mut File, length: u64) -> io::Result<Vec<Vec<u8>>> {
    let tail = tail(file, length)?;
    let lines = tail.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // The first one may have been cut by the reading.
    let skipped = usize::from(length > TAIL_BYTES);
    Ok(lines.skip(skipped).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence numbers in the folder, in order; the chain is checked on the way.
    fn read(folder: &Path) -> Vec<u64> {
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let text: String = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let mut previous = String::new();
        let mut numbers = Vec::new();
        for line in text.lines() {
            let parsed: Line<'_> = serde_json::from_str(line).unwrap();
            assert_eq!(parsed.previous, previous, "the chain is broken at {}", parsed.sequence);
            assert_eq!(parsed.interval.get(), format!("{{\"n\":{}}}", parsed.sequence));
            previous = hex::encode(hash(line.as_bytes()));
            numbers.push(parsed.sequence);
        }
        numbers
    }

    fn append(log: &mut UsageLog, numbers: std::ops::RangeInclusive<u64>) {
        let entries: Vec<(u64, Vec<u8>)> = numbers.map(|n| (n, format!("{{\"n\":{n}}}").into_bytes())).collect();
        log.append(entries.iter().map(|(n, payload)| (*n, payload.as_slice()))).unwrap();
    }

    #[test]
    fn every_entry_is_there_once_whatever_the_crash_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = UsageLog::open(folder.path()).unwrap();
        append(&mut log, 1..=3);
        append(&mut log, 2..=5);
        drop(log);
        let path = folder.path().join("usage-00000001.jsonl");
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5]);
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = UsageLog::open(folder.path()).unwrap();
            append(&mut log, 1..=6);
            assert_eq!(read(folder.path()), [1, 2, 3, 4, 5, 6], "cut at {cut}");
        }
        let mut log = UsageLog::open(folder.path()).unwrap();
        let restored = log.append([(2, &b"{\"n\":2}"[..]), (3, b"{\"n\":99}")].into_iter()).unwrap();
        assert_eq!(restored, 1, "an old number with another content is another interval");
        std::fs::write(&path, b"something else\n").unwrap();
        let error = UsageLog::open(folder.path()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "a foreign file is not written on");
    }

    #[test]
    fn the_chain_goes_on_from_segment_to_segment() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = UsageLog { most_bytes: 200, ..UsageLog::open(folder.path()).unwrap() };
        for n in 1..=6 {
            append(&mut log, n..=n);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        // A new segment that was made but never written.
        std::fs::write(folder.path().join("usage-00000004.jsonl"), b"{\"seq").unwrap();
        let mut log = UsageLog::open(folder.path()).unwrap();
        append(&mut log, 5..=8);
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[tokio::test]
    async fn the_outbox_is_emptied_into_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_memory_for_tests().await;
        for n in 0..3 {
            let entry = |txn: &mut terroir_store::Txn| {
                txn.outbox(STREAM, format!("{{\"n\":{n}}}").into_bytes());
                Ok(())
            };
            store.transact(&[], entry).await.unwrap();
        }
        let mut log = UsageLog::open(folder.path()).unwrap();
        assert_eq!(log.ship(&store).await.unwrap(), 3);
        assert!(store.outbox(STREAM, 0, 10).await.unwrap().is_empty());
        assert_eq!(log.ship(&store).await.unwrap(), 0);
        let text = std::fs::read_to_string(std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path());
        assert_eq!(text.unwrap().lines().count(), 3);
    }
}
