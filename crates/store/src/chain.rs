//! Logs on disk: append-only segments, synced, each line chained to the one before by its hash.
//!
//! ```text
//! usage-00000001.jsonl    {"sequence":1,"previous":"","interval":{...}}
//!                         {"sequence":2,"previous":"<SHA-256 of the line before>","interval":{...}}
//! usage-00000002.jsonl    ...goes on with the chain
//! audit-00000001.jsonl    {"sequence":null,"number":1,"previous":"","event":{...}}
//! ```
//! `sequence` is the number of the outbox entry that the line was, `null` for what came from elsewhere; `number` counts
//! the lines, where the format has it. Entries are trimmed from the outbox once they are synced here; what a crash leaves
//! in both is recognised by sequence and content and not written twice. A state that was restored from a backup counts
//! again from where it was: a sequence that comes with another content is another entry.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment that has grown to this many bytes is followed by a new one.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How much of the log's end is read when it is opened: more than what is appended at a time.
const TAIL_BYTES: u64 = 8 << 20;
/// Faults that a verification tells before it only counts.
const MOST_FAULTS: usize = 20;

/// How a log's files and lines look.
#[derive(Debug, Clone, Copy)]
pub struct ChainFormat {
    /// What the names of the segments begin with.
    pub name: &'static str,
    /// The member of a line that holds the entry.
    pub content: &'static str,
    /// Whether lines have numbers, from 1 on.
    pub numbered: bool,
}

/// A place in a log: the last line that is known to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// Lines up to here.
    pub number: u64,
    /// SHA-256 of that line without its line end, in hexadecimal.
    pub hash: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    sequence: Option<u64>,
    #[serde(default)]
    number: u64,
    previous: String,
    #[serde(borrow, alias = "interval", alias = "event")]
    content: &'a RawValue,
}

/// Sequence and content of an entry.
type Known = (u64, [u8; 32]);

/// The folder of a log, owned by one process.
#[derive(Debug)]
pub struct ChainedLog {
    folder: PathBuf,
    format: ChainFormat,
    segment: Option<File>,
    /// Number of the newest segment.
    segment_number: u64,
    segment_bytes: u64,
    most_bytes: u64,
    head: ChainHead,
    /// Entries of the outbox at the end of the log, until the outbox was trimmed.
    known: HashSet<Known>,
}

impl ChainedLog {
    /// Opens the folder, or makes it with mode 0700. A last line that a crash cut off is removed: nobody was told that it
    /// is there.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` if the log ends in lines that are not its own.
    pub fn open(folder: &Path, format: ChainFormat) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut log = Self {
            folder: folder.to_owned(),
            format,
            segment: None,
            segment_number: 0,
            segment_bytes: 0,
            most_bytes: SEGMENT_BYTES,
            head: ChainHead::default(),
            known: HashSet::new(),
        };
        // A crash may have left a new segment without a whole line; the chain then ends in the one before. What is
        // appended at a time is in two segments at most.
        let mut lines = Vec::new();
        for (number, path) in segments(folder, format)?.iter().rev().take(3) {
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
            let parsed: Line<'_> = serde_json::from_slice(line).map_err(|error| {
                let (folder, name) = (folder.display(), format.name);
                let message = format!("the {name} log in {folder} ends in a line that is not its own: {error}");
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            log.head.number = parsed.number;
            let content = hash(parsed.content.get().as_bytes());
            log.known.extend(parsed.sequence.map(|sequence| (sequence, content)));
        }
        log.head.hash = lines.last().map(|line| hex::encode(hash(line))).unwrap_or_default();
        Ok(log)
    }

    /// Where the log ends.
    pub fn head(&self) -> &ChainHead {
        &self.head
    }

    /// Goes on behind `head` if the log ends before it: what is lost stays visible as a gap.
    pub fn go_on_from(&mut self, head: &ChainHead) -> bool {
        let lost = head.number > self.head.number;
        if lost {
            self.head.clone_from(head);
        }
        lost
    }

    /// Appends the entries that are not there yet, each with its sequence number in the outbox if it comes from there, and
    /// syncs them. Gives how many it wrote.
    ///
    /// # Errors
    /// Those of the file system; then the log is as it was.
    pub fn append<'a>(&mut self, entries: impl IntoIterator<Item = (Option<u64>, &'a [u8])>) -> io::Result<usize> {
        let mut text = Vec::new();
        let mut head = self.head.clone();
        let (mut count, mut written) = (0, Vec::new());
        for (sequence, payload) in entries {
            if let Some(sequence) = sequence {
                let known = (sequence, hash(payload));
                if self.known.contains(&known) {
                    continue;
                }
                written.push(known);
            }
            // Only what is JSON can be told from the line around it.
            let content: &RawValue = serde_json::from_slice(payload)?;
            let line = self.line(sequence, &head, content.get());
            head = ChainHead { number: head.number + 1, hash: hex::encode(hash(line.as_bytes())) };
            count += 1;
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        if count == 0 {
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
        self.head = head;
        self.known.extend(written);
        Ok(count)
    }

    fn line(&self, sequence: Option<u64>, before: &ChainHead, content: &str) -> String {
        let sequence = sequence.map_or_else(|| "null".to_owned(), |sequence| sequence.to_string());
        let number = if self.format.numbered { format!("\"number\":{},", before.number + 1) } else { String::new() };
        let (previous, name) = (&before.hash, self.format.content);
        format!("{{\"sequence\":{sequence},{number}\"previous\":\"{previous}\",\"{name}\":{content}}}")
    }

    /// What was appended has left the outbox.
    pub fn trimmed(&mut self) {
        self.known.clear();
    }

    /// For tests of what happens between segments.
    #[doc(hidden)]
    pub fn with_segments_of(mut self, bytes: u64) -> Self {
        self.most_bytes = bytes;
        self
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let number = self.segment_number + 1;
        let path = self.folder.join(format!("{}-{number:08}.jsonl", self.format.name));
        let file = OpenOptions::new().create_new(true).read(true).append(true).mode(0o600).open(path)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        (self.segment, self.segment_number, self.segment_bytes) = (Some(file), number, 0);
        Ok(())
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub segments: u64,
    pub lines: u64,
    /// What is wrong, in order; at most 20.
    pub faults: Vec<String>,
    /// How many there are.
    pub fault_count: u64,
}

impl Verification {
    fn fault(&mut self, text: String) {
        self.fault_count += 1;
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(text);
        }
    }
}

/// Reads a whole log of numbered lines: each must be what the next one says that it is, and the line of `head` must be
/// there. A log that is being written meanwhile is read as far as it goes.
///
/// # Errors
/// Those of the file system.
pub fn verify(folder: &Path, format: ChainFormat, head: &ChainHead) -> io::Result<Verification> {
    let mut found = Verification::default();
    let mut last = ChainHead::default();
    let mut expected_segment = 1;
    let segments = segments(folder, format)?;
    for (at, (number, path)) in segments.iter().enumerate() {
        for missing in expected_segment..*number {
            found.fault(format!("{}-{missing:08}.jsonl is missing", format.name));
        }
        expected_segment = number + 1;
        found.segments += 1;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        for place in 1_u64.. {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.pop_if(|byte| *byte == b'\n').is_none() {
                // Nobody was told that it is there.
                if at + 1 < segments.len() {
                    found.fault(format!("{name}, line {place}: it has no end"));
                }
                break;
            }
            let here = format!("{name}, line {place}");
            check_line(&line, &here, head, &mut last, &mut found);
        }
    }
    if last.number < head.number {
        found.fault(format!("the log ends with record {}, but {} were acknowledged", last.number, head.number));
    }
    Ok(found)
}

fn check_line(line: &[u8], here: &str, head: &ChainHead, last: &mut ChainHead, found: &mut Verification) {
    found.lines += 1;
    let own_hash = hex::encode(hash(line));
    let parsed: Line<'_> = match serde_json::from_slice(line) {
        Ok(parsed) => parsed,
        Err(error) => {
            found.fault(format!("{here}: it cannot be read: {error}"));
            *last = ChainHead { number: last.number + 1, hash: own_hash };
            return;
        }
    };
    let expected = last.number + 1;
    if parsed.number > expected {
        found.fault(format!("{here}: records {expected} to {} are missing", parsed.number - 1));
    } else if parsed.number < expected {
        found.fault(format!("{here}: record {} stands where {expected} should", parsed.number));
    } else if parsed.previous != last.hash {
        found.fault(format!("{here}: record {} was changed, or does not belong before this one", last.number));
    }
    *last = ChainHead { number: parsed.number, hash: own_hash };
    if head.number == parsed.number && head.hash != last.hash {
        found.fault(format!("{here}: record {} is not the one that was acknowledged", parsed.number));
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// By number; none if there is no such folder.
fn segments(folder: &Path, format: ChainFormat) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry?.path();
        segments.extend(segment_number(&path, format).map(|number| (number, path)));
    }
    segments.sort();
    Ok(segments)
}

fn segment_number(path: &Path, format: ChainFormat) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix(format.name)?.strip_prefix('-')?.strip_suffix(".jsonl")?;
    (number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok())?
}

/// The file's end.
fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Cuts off what follows the last line end; gives the length that is left. What was appended together may have been cut
/// off anywhere, but whole lines of it stand.
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
    use std::fs;

    const FORMAT: ChainFormat = ChainFormat { name: "audit", content: "event", numbered: true };

    fn append(log: &mut ChainedLog, numbers: std::ops::RangeInclusive<u64>) {
        let entries: Vec<(u64, Vec<u8>)> = numbers.map(|n| (n, format!("{{\"n\":{n}}}").into_bytes())).collect();
        log.append(entries.iter().map(|(n, payload)| (Some(*n), payload.as_slice()))).unwrap();
    }

    /// What the events say, in order; the chain is checked on the way.
    fn read(folder: &Path) -> Vec<u64> {
        let found = verify(folder, FORMAT, &ChainHead::default()).unwrap();
        assert_eq!(found.faults, Vec::<String>::new());
        let text: String =
            segments(folder, FORMAT).unwrap().iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
        let number = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["event"]["n"].as_u64().unwrap()
        };
        text.lines().map(number).collect()
    }

    #[test]
    fn every_entry_is_there_once_whatever_the_crash_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap();
        append(&mut log, 1..=3);
        append(&mut log, 2..=5);
        drop(log);
        let path = folder.path().join("audit-00000001.jsonl");
        let whole = fs::read(&path).unwrap();
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5]);
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap();
            append(&mut log, 1..=6);
            assert_eq!(read(folder.path()), [1, 2, 3, 4, 5, 6], "cut at {cut}");
        }
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap();
        let restored = log.append([(Some(2), &b"{\"n\":2}"[..]), (Some(3), b"{\"n\":99}"), (None, b"{\"n\":2}")]);
        assert_eq!(restored.unwrap(), 2, "an old number with another content is another entry");
        assert!(log.append([(None, &b"no JSON"[..])]).is_err());
        fs::write(&path, b"something else\n").unwrap();
        let error = ChainedLog::open(folder.path(), FORMAT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "a foreign file is not written on");
    }

    #[test]
    fn the_chain_goes_on_from_segment_to_segment() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap().with_segments_of(230);
        for n in 1..=6 {
            append(&mut log, n..=n);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        // A new segment that was made but never written.
        fs::write(folder.path().join("audit-00000004.jsonl"), b"{\"seq").unwrap();
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap();
        append(&mut log, 5..=8);
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    /// Every way of changing an acknowledged log is found.
    #[test]
    fn what_was_changed_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap().with_segments_of(300);
        (1..=9).for_each(|n| append(&mut log, n..=n));
        let head = log.head().clone();
        assert_eq!(head.number, 9);
        let paths: Vec<PathBuf> = segments(folder.path(), FORMAT).unwrap().into_iter().map(|(_, path)| path).collect();
        let texts: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(texts.len() == 3, "{}", texts.len());
        let faults = || verify(folder.path(), FORMAT, &head).unwrap();
        let restore = || paths.iter().zip(&texts).for_each(|(path, text)| fs::write(path, text).unwrap());
        assert_eq!(faults(), Verification { segments: 3, lines: 9, ..Verification::default() });
        for (path, text) in paths.iter().zip(&texts) {
            for at in 0..text.len() {
                let mut changed = text.clone();
                changed[at] ^= 1;
                fs::write(path, &changed).unwrap();
                assert!(faults().fault_count > 0, "{} byte {at}", path.display());
            }
            let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            for at in 0..lines.len() {
                let mut without = lines.clone();
                without.remove(at);
                fs::write(path, without.concat()).unwrap();
                assert!(faults().fault_count > 0, "{} without line {at}", path.display());
                let mut swapped = lines.clone();
                swapped.swap(at, (at + 1) % lines.len());
                fs::write(path, swapped.concat()).unwrap();
                assert!(faults().fault_count > 0, "{} line {at} swapped", path.display());
            }
            fs::remove_file(path).unwrap();
            assert!(faults().fault_count > 0, "{} is gone", path.display());
            restore();
        }
        for cut in 0..texts[2].len() {
            fs::write(&paths[2], &texts[2][..cut]).unwrap();
            assert!(faults().fault_count > 0, "the end cut at {cut}");
        }
        // A log whose end is lost goes on, and what is lost is told for ever.
        let mut log = ChainedLog::open(folder.path(), FORMAT).unwrap();
        assert!(log.go_on_from(&head));
        append(&mut log, 20..=21);
        let found = verify(folder.path(), FORMAT, log.head()).unwrap();
        assert_eq!(found.fault_count, 1, "{:?}", found.faults);
        assert!(found.faults[0].contains("to 9 are missing"), "{:?}", found.faults);
        restore();
        // A torn line behind what was acknowledged is one that is being written.
        let longer = [texts[2].clone(), b"{\"sequence\":1".to_vec()].concat();
        fs::write(&paths[2], longer).unwrap();
        assert_eq!(faults().fault_count, 0);
        // The whole folder is gone.
        paths.iter().for_each(|path| fs::remove_file(path).unwrap());
        assert_eq!(faults().faults, ["the log ends with record 0, but 9 were acknowledged"]);
    }
}
