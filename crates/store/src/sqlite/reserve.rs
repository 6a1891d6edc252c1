//! Space kept for the state when volumes and objects have filled the disk.
//!
//! A file of allocated blocks beside the data file. When a commit finds the disk full, the file gives back one step of
//! its space and the commit is tried again; it is filled up when there is ample room. Steps, because others take what
//! is given back too.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const STEP: u64 = 4 << 20;
/// The reserve is taken only where at least this many times its size is free.
const AMPLE: u64 = 4;

pub(super) struct Reserve {
    path: PathBuf,
    target: u64,
    file: Option<File>,
}

impl Reserve {
    pub(super) fn new(data: &Path, target: u64) -> Self {
        let mut path = data.as_os_str().to_owned();
        path.push(".reserve");
        let mut reserve = Self { path: path.into(), target, file: None };
        reserve.fill();
        reserve
    }

    fn size(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len())
    }

    /// Takes what is missing, if there is ample room. Going on without a reserve is better than not going on.
    pub(super) fn fill(&mut self) {
        if self.target == 0 {
            return;
        }
        if let Err(error) = self.try_fill() {
            tracing::warn!(%error, path = %self.path.display(), "no space is reserved for the state");
        }
    }

    /// Whether it is the disk that is full, and not only the data file that has reached its bound.
    pub(super) fn disk_is_full(&self) -> bool {
        free_bytes(&self.path).is_ok_and(|free| free < STEP)
    }

    fn try_fill(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            self.file = Some(options.open(&self.path)?);
        }
        let Some(file) = &self.file else { return Ok(()) };
        let present = file.metadata()?.len();
        let missing = self.target.saturating_sub(present);
        if missing > 0 && free_bytes(&self.path)? >= missing.saturating_mul(AMPLE) {
            let length = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            fallocate(file, FallocateFlags::empty(), length(present), length(missing))?;
        }
        Ok(())
    }

    /// Gives back one step; false if there is none left.
    pub(super) fn release(&mut self) -> bool {
        let size = self.size();
        let Some(file) = self.file.as_ref().filter(|_| size > 0) else { return false };
        let left = size.saturating_sub(STEP);
        tracing::warn!(left_bytes = left, "the disk is full: the state store uses its reserve");
        file.set_len(left).is_ok()
    }
}

fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let disk = statvfs(path)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}
