//! An append-only file of checked records.
//!
//! ```text
//! "TERROIR-LEDGER 1\n"  ( length: u32 LE | check: 8 bytes | payload )*
//! ```
//!
//! `check` is the start of the SHA-256 over length and payload. Reading stops at the first record
//! that is short or does not check: such a tail was being written when the machine or the process
//! died and was never acknowledged. It is cut off, and kept beside the file as `ledger.torn`.

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::AgentError;

const MAGIC: &[u8] = b"TERROIR-LEDGER 1\n";
const MAGIC_STEM: &[u8] = b"TERROIR-LEDGER ";
const FRAME_BYTES: usize = 12;
const MAX_PAYLOAD_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// End of the last whole record.
    length: u64,
    /// Length after the last rewrite.
    live: u64,
    _lock: Flock<File>,
}

impl Journal {
    /// Reads every whole record in order.
    pub(super) fn open(path: &Path, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<Self, AgentError> {
        let dir = parent(path);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(AgentError::io("create", dir))?;
        let lock = lock(path)?;
        let mut file = open_file(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(AgentError::io("read", path))?;
        let mut length = header(path, &bytes)?;
        while let Some(payload) = record_at(&bytes, length) {
            each(payload).map_err(|detail| AgentError::DamagedLedger { path: path.to_owned(), detail })?;
            length += FRAME_BYTES + payload.len();
        }
        let mut journal = Self { path: path.to_owned(), file, length: length as u64, live: 0, _lock: lock };
        if length == 0 {
            journal.rewrite(&[])?;
        } else if length < bytes.len() {
            journal.cut_tail(&bytes[length..])?;
        }
        journal.live = journal.length;
        Ok(journal)
    }

    pub(super) const fn live_bytes(&self) -> u64 {
        self.live
    }

    pub(super) const fn appended_bytes(&self) -> u64 {
        self.length - self.live
    }

    /// Durable when it returns. After an error the record is not there.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), AgentError> {
        let record = frame(payload)?;
        let written = self.file.write_all(&record).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            self.restore_length()?;
            return Err(AgentError::Io { action: "append to", path: self.path.clone(), source });
        }
        self.length += record.len() as u64;
        Ok(())
    }

    fn restore_length(&mut self) -> Result<(), AgentError> {
        let restored = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        restored.map(drop).map_err(AgentError::io("shorten", &self.path))
    }

    /// Replaces the file by one that holds exactly `payloads`.
    pub(super) fn rewrite(&mut self, payloads: &[Vec<u8>]) -> Result<(), AgentError> {
        let temporary = self.path.with_extension("new");
        let write = || -> Result<(File, u64), AgentError> {
            let mut bytes = MAGIC.to_vec();
            for payload in payloads {
                bytes.extend_from_slice(&frame(payload)?);
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary).map_err(AgentError::io("create", &temporary))?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(AgentError::io("write", &temporary))?;
            fs::rename(&temporary, &self.path).map_err(AgentError::io("replace", &self.path))?;
            Ok((file, bytes.len() as u64))
        };
        let (file, length) = write().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        // From here on the new file is the ledger, whether or not the folder's entry is durable yet.
        (self.file, self.length, self.live) = (file, length, length);
        sync_dir(parent(&self.path))
    }

    fn cut_tail(&mut self, tail: &[u8]) -> Result<(), AgentError> {
        tracing::warn!(path = %self.path.display(), bytes = tail.len(), "the ledger's unfinished tail is cut off");
        let torn = self.path.with_extension("torn");
        fs::write(&torn, tail).map_err(AgentError::io("write", &torn))?;
        self.restore_length()?;
        self.file.sync_all().map_err(AgentError::io("sync", &self.path))
    }
}

fn open_file(path: &Path) -> Result<File, AgentError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(AgentError::io("open", path))
}

/// A file of its own: the ledger's is replaced at times.
fn lock(path: &Path) -> Result<Flock<File>, AgentError> {
    let lock_path = path.with_extension("lock");
    let file = open_file(&lock_path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => AgentError::AlreadyRunning(path.to_owned()),
        other => AgentError::io("lock", &lock_path)(other.into()),
    })
}

/// Length of the header; 0 if the file must be begun.
fn header(path: &Path, bytes: &[u8]) -> Result<usize, AgentError> {
    if bytes.starts_with(MAGIC) {
        return Ok(MAGIC.len());
    }
    if bytes.is_empty() {
        return Ok(0);
    }
    let version = bytes.strip_prefix(MAGIC_STEM).and_then(|rest| {
        let digits = rest.split(|b| *b == b'\n').next()?;
        std::str::from_utf8(digits).ok()?.parse::<u32>().ok()
    });
    Err(match version {
        Some(found) => AgentError::NewerLedger { path: path.to_owned(), found },
        None => {
            AgentError::DamagedLedger { path: path.to_owned(), detail: "it does not begin like a ledger".to_owned() }
        }
    })
}

fn frame(payload: &[u8]) -> Result<Vec<u8>, AgentError> {
    let too_large = || AgentError::Unfit(format!("a ledger record of {} bytes is too large", payload.len()));
    let length =
        u32::try_from(payload.len()).ok().filter(|l| *l as usize <= MAX_PAYLOAD_BYTES).ok_or_else(too_large)?;
    let mut record = Vec::with_capacity(FRAME_BYTES + payload.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&check(payload));
    record.extend_from_slice(payload);
    Ok(record)
}

fn record_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    if at == 0 {
        return None;
    }
    let head = bytes.get(at..at + FRAME_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let payload = bytes.get(at + FRAME_BYTES..at.checked_add(FRAME_BYTES)?.checked_add(length)?)?;
    (check(payload)[..] == head[4..]).then_some(payload)
}

fn check(payload: &[u8]) -> [u8; 8] {
    let mut hasher = Sha256::new();
    hasher.update((payload.len() as u64).to_le_bytes());
    hasher.update(payload);
    let digest = hasher.finalize();
    let mut out = [0; 8];
    out.copy_from_slice(&digest[..8]);
    out
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn sync_dir(dir: &Path) -> Result<(), AgentError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(AgentError::io("sync", dir))
}
