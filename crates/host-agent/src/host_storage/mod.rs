//! Disks and cached images, files below the data folder.
//!
//! ```text
//! volumes/VOLUME/disk.raw      sparse bytes, or a reflink clone of a cached image
//! volumes/VOLUME/disk.qcow2    an overlay over images/SHA256, which is never written to again
//! images/SHA256                a blob, checked; disk images as raw bytes
//! ```
//!
//! What a volume is stands in its file alone: format by name, size and backing image in the file.
//! Files appear whole under their names or not at all.

mod disks;
mod files;
mod images;
mod overlay;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use std::collections::BTreeSet;
use terroir_agent_api::{BlobRef, ControlPlane};
use terroir_types::{HostId, VolumeId};

use crate::observed::{Space, VolumeFile};
use crate::plan::Op;

pub use disks::Disks;
pub use files::{DiskFiles, OpenDisk};

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{action}: {source}")]
    Io { action: String, source: std::io::Error },
    #[error("{program}: {detail}")]
    Tool { program: String, detail: String },
    /// Trying again will not help.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Crossing(#[from] terroir_agent_api::CrossingError),
}

impl StorageError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether another attempt is not expected to end differently.
    pub fn is_lasting(&self) -> bool {
        use terroir_agent_api::CrossingError;
        match self {
            Self::Refused(_) | Self::Tool { .. } => true,
            Self::Crossing(CrossingError::NotFound(_) | CrossingError::Refused(_)) => true,
            Self::Crossing(CrossingError::Unreachable(_)) => false,
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        }
    }
}

/// Capacity for volumes, bytes; both without the reserve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    pub total: u64,
    pub free: u64,
}

#[async_trait]
pub trait Storage: Send + Sync {
    /// Volumes that have a disk here.
    fn survey(&self) -> Result<BTreeSet<VolumeId>, StorageError>;

    fn observe(&self, volume: VolumeId) -> Result<Option<VolumeFile>, StorageError>;

    /// What the volume takes of the host's disk, bytes.
    fn allocated_bytes(&self, volume: VolumeId) -> u64;

    fn has_blob(&self, blob: &BlobRef) -> bool;

    fn space(&self) -> Space;

    fn capacity(&self) -> Capacity;

    /// Carries out an operation on a volume.
    async fn apply(&self, op: &Op) -> Result<(), StorageError>;

    /// Copies a blob into the cache, checks it, and turns disk images into raw bytes.
    async fn fetch(&self, blob: &BlobRef, host: HostId, from: &dyn ControlPlane) -> Result<(), StorageError>;

    /// The cached bytes of a small blob.
    fn read_blob(&self, blob: &BlobRef) -> Result<Vec<u8>, StorageError>;

    /// Drops the images used least recently until the cache has its size, but none in `in_use` (by
    /// SHA-256) and none under an overlay.
    fn evict(&self, in_use: &BTreeSet<String>) -> Result<(), StorageError>;
}
