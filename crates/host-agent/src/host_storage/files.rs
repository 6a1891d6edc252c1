use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use terroir_agent_api::BlobRef;
use terroir_types::VolumeId;

use super::StorageError;
use crate::AgentOptions;
use crate::observed::{VolumeFile, VolumeFormat};

/// Where disks and images lie, and how they are opened for a hypervisor.
#[derive(Debug, Clone)]
pub struct DiskFiles {
    volumes_dir: PathBuf,
    images_dir: PathBuf,
}

/// Descriptors of a volume's disk: reading and writing, and reading of what lies under an overlay.
#[derive(Debug)]
pub struct OpenDisk {
    pub disk: OwnedFd,
    pub backing: Option<OwnedFd>,
}

impl DiskFiles {
    pub fn new(options: &AgentOptions) -> Self {
        Self { volumes_dir: options.volumes_dir(), images_dir: options.images_dir() }
    }

    pub(super) fn volumes_dir(&self) -> &std::path::Path {
        &self.volumes_dir
    }

    pub(super) fn images_dir(&self) -> &std::path::Path {
        &self.images_dir
    }

    pub(super) fn volume_dir(&self, volume: VolumeId) -> PathBuf {
        self.volumes_dir.join(volume.to_string())
    }

    pub(super) fn disk(&self, volume: VolumeId, format: VolumeFormat) -> PathBuf {
        self.volume_dir(volume).join(match format {
            VolumeFormat::Raw => "disk.raw",
            VolumeFormat::Qcow2 => "disk.qcow2",
        })
    }

    /// `sha256` comes from a spec: anything but its 64 digits is refused.
    pub(super) fn image(&self, sha256: &str) -> Result<PathBuf, StorageError> {
        let well_formed = sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if well_formed {
            return Ok(self.images_dir.join(sha256));
        }
        Err(StorageError::Refused(format!("{sha256:?} is not a SHA-256 in lower-case hexadecimal")))
    }

    pub fn open(&self, volume: VolumeId, file: &VolumeFile) -> Result<OpenDisk, StorageError> {
        let path = self.disk(volume, file.format);
        let disk = OpenOptions::new().read(true).write(true).open(&path);
        let disk = disk.map_err(StorageError::io(format!("open {}", path.display())))?;
        let backing = file.backing.as_ref().map(|sha256| self.open_image(sha256)).transpose()?;
        Ok(OpenDisk { disk: disk.into(), backing })
    }

    pub fn open_blob(&self, blob: &BlobRef) -> Result<OwnedFd, StorageError> {
        self.open_image(&blob.sha256)
    }

    fn open_image(&self, sha256: &str) -> Result<OwnedFd, StorageError> {
        let path = self.image(sha256)?;
        Ok(File::open(&path).map_err(StorageError::io(format!("open {}", path.display())))?.into())
    }
}
