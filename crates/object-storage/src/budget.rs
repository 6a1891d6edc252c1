//! How much of the disk objects may use.

use std::path::PathBuf;

/// Asked before bytes of objects are written, and again while large ones grow.
pub trait DiskBudget: Send + Sync + 'static {
    /// Whether `bytes` more may be written.
    fn admit(&self, bytes: u64) -> bool;
}

/// Everything but a reserve of the file system's free space, so that the state store can still write when objects have
/// filled the rest.
#[derive(Debug, Clone)]
pub struct FreeSpaceBudget {
    path: PathBuf,
    reserve_bytes: u64,
}

impl FreeSpaceBudget {
    /// `path`: anything on the file system.
    pub fn new(path: impl Into<PathBuf>, reserve_bytes: u64) -> Self {
        Self { path: path.into(), reserve_bytes }
    }
}

impl DiskBudget for FreeSpaceBudget {
    fn admit(&self, bytes: u64) -> bool {
        match nix::sys::statvfs::statvfs(&self.path) {
            Ok(stat) => {
                let free = u128::from(stat.blocks_available()) * u128::from(stat.fragment_size());
                free >= u128::from(bytes) + u128::from(self.reserve_bytes)
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "the free disk space is unknown");
                true
            }
        }
    }
}

/// No limit but the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl DiskBudget for Unlimited {
    fn admit(&self, _bytes: u64) -> bool {
        true
    }
}
