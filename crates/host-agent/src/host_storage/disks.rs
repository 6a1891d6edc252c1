use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use terroir_agent_api::{BlobRef, ControlPlane};
use terroir_types::{HostId, VolumeId};

use super::images::ImageCache;
use super::overlay::read_header;
use super::{Capacity, DiskFiles, Storage, StorageError};
use crate::AgentOptions;
use crate::observed::{Space, VolumeFile, VolumeFormat};
use crate::plan::Op;

nix::ioctl_write_int!(ficlone, 0x94, 9);

/// Volumes and images on this host's file system.
#[derive(Debug, Clone)]
pub struct Disks {
    files: Arc<DiskFiles>,
    images: ImageCache,
    qemu_img: PathBuf,
    reserve_bytes: u64,
}

impl Disks {
    /// Makes the folders if need be and removes what an interrupted agent left half made.
    pub fn open(options: &AgentOptions, files: Arc<DiskFiles>) -> Result<Self, StorageError> {
        for dir in [files.volumes_dir(), files.images_dir()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(StorageError::io(format!("create {}", dir.display())))?;
            remove_half_made(dir)?;
        }
        let images = ImageCache::new(options, Arc::clone(&files));
        Ok(Self { files, images, qemu_img: options.qemu_img.clone(), reserve_bytes: options.volume_reserve_bytes })
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> &DiskFiles {
        &self.files
    }

    fn create(&self, volume: VolumeId, size_bytes: u64, source: Option<&BlobRef>) -> Result<(), StorageError> {
        let temporary = self.files.volumes_dir().join(format!(".new-{volume}"));
        remove_tree(&temporary)?;
        let made = DirBuilder::new().mode(0o700).create(&temporary);
        made.map_err(StorageError::io(format!("create {}", temporary.display())))?;
        let filled = self.fill(&temporary, size_bytes, source).and_then(|()| {
            sync(&temporary)?;
            let place = self.files.volume_dir(volume);
            fs::rename(&temporary, &place).map_err(StorageError::io(format!("create {}", place.display())))?;
            sync(self.files.volumes_dir())
        });
        filled.inspect_err(|_| drop(remove_tree(&temporary)))
    }

    fn fill(&self, dir: &Path, size_bytes: u64, source: Option<&BlobRef>) -> Result<(), StorageError> {
        let raw = dir.join("disk.raw");
        let new = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&raw);
        let file = new().map_err(StorageError::io(format!("create {}", raw.display())))?;
        if let Some(blob) = source {
            let image_path = self.files.image(&blob.sha256)?;
            let image = File::open(&image_path).map_err(StorageError::io(format!("open {}", image_path.display())))?;
            let image_bytes = image.metadata().map_err(StorageError::io("read the image's size"))?.len();
            if image_bytes > size_bytes {
                return Err(StorageError::Refused(format!(
                    "the image {} needs {image_bytes} bytes, the volume has {size_bytes}",
                    blob.name
                )));
            }
            self.images.touch(&blob.sha256);
            // SAFETY: both descriptors are open; the call copies no memory.
            let cloned = unsafe { ficlone(file.as_raw_fd(), image.as_raw_fd() as u64) };
            if cloned.is_err() {
                fs::remove_file(&raw).map_err(StorageError::io("create the overlay"))?;
                return self.overlay(dir, &blob.sha256, size_bytes);
            }
        }
        file.set_len(size_bytes).map_err(StorageError::io(format!("set the size of {}", raw.display())))?;
        file.sync_all().map_err(StorageError::io(format!("sync {}", raw.display())))
    }

    fn overlay(&self, dir: &Path, sha256: &str, size_bytes: u64) -> Result<(), StorageError> {
        let options = "extended_l2=on,cluster_size=128k,lazy_refcounts=off";
        let backing = format!("../../images/{sha256}");
        let size = size_bytes.to_string();
        let mut command = Command::new(&self.qemu_img);
        command.current_dir(dir).args(["create", "-q", "-f", "qcow2", "-o", options, "-F", "raw", "-b"]);
        command.args([backing.as_str(), "disk.qcow2", size.as_str()]);
        run(command)?;
        sync(&dir.join("disk.qcow2"))
    }

    fn grow(&self, volume: VolumeId, size_bytes: u64) -> Result<(), StorageError> {
        let Some(file) = self.observe(volume)? else {
            return Err(StorageError::Refused(format!("{volume} has no disk")));
        };
        let path = self.files.disk(volume, file.format);
        match file.format {
            VolumeFormat::Raw => {
                let file = OpenOptions::new().write(true).open(&path);
                let file = file.map_err(StorageError::io(format!("open {}", path.display())))?;
                file.set_len(size_bytes).map_err(StorageError::io(format!("grow {}", path.display())))?;
            }
            VolumeFormat::Qcow2 => {
                let mut command = Command::new(&self.qemu_img);
                command.args(["resize", "-q", "-f", "qcow2"]).arg(&path).arg(size_bytes.to_string());
                run(command)?;
            }
        }
        sync(&path)
    }

    /// Renamed first, so that a half deleted volume is never taken for one.
    fn delete(&self, volume: VolumeId) -> Result<(), StorageError> {
        let doomed = self.files.volumes_dir().join(format!(".old-{volume}"));
        remove_tree(&doomed)?;
        match fs::rename(self.files.volume_dir(volume), &doomed) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(StorageError::io(format!("delete {volume}")))?,
        }
        sync(self.files.volumes_dir())?;
        remove_tree(&doomed)
    }

    fn used_bytes(&self) -> u64 {
        let mut used = self.images.used_bytes();
        for entry in fs::read_dir(self.files.volumes_dir()).into_iter().flatten().flatten() {
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            used += files.filter_map(|f| f.metadata().ok()).map(|m| m.blocks() * 512).sum::<u64>();
        }
        used
    }

    fn available_bytes(&self) -> u64 {
        match statvfs(self.files.volumes_dir()) {
            Ok(stat) => stat.blocks_available().saturating_mul(stat.fragment_size()),
            Err(error) => {
                tracing::warn!(%error, "cannot see how full the disk is");
                0
            }
        }
    }

    async fn blocking(
        &self,
        work: impl FnOnce(&Self) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let this = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(&this)).await;
        joined.unwrap_or_else(|e| Err(StorageError::io("storage task")(std::io::Error::other(e))))
    }
}

#[async_trait]
impl Storage for Disks {
    fn survey(&self) -> Result<BTreeSet<VolumeId>, StorageError> {
        let dir = self.files.volumes_dir();
        let entries = fs::read_dir(dir).map_err(StorageError::io(format!("read {}", dir.display())))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
    }

    fn observe(&self, volume: VolumeId) -> Result<Option<VolumeFile>, StorageError> {
        for format in [VolumeFormat::Raw, VolumeFormat::Qcow2] {
            let path = self.files.disk(volume, format);
            let file = match File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(StorageError::io(format!("open {}", path.display())))?,
            };
            let failed = || StorageError::io(format!("read {}", path.display()));
            let (size_bytes, backing) = match format {
                VolumeFormat::Raw => (file.metadata().map_err(failed())?.len(), None),
                VolumeFormat::Qcow2 => {
                    let header = read_header(&file).map_err(failed())?;
                    let image = header.backing_file.as_deref().and_then(|name| name.rsplit('/').next());
                    (header.virtual_size, image.map(str::to_owned))
                }
            };
            return Ok(Some(VolumeFile { format, size_bytes, backing }));
        }
        Ok(None)
    }

    fn allocated_bytes(&self, volume: VolumeId) -> u64 {
        let files = fs::read_dir(self.files.volume_dir(volume)).into_iter().flatten().flatten();
        files.filter_map(|f| f.metadata().ok()).map(|m| m.blocks() * 512).sum()
    }

    fn has_blob(&self, blob: &BlobRef) -> bool {
        self.images.has(&blob.sha256)
    }

    fn space(&self) -> Space {
        Space { available: self.available_bytes(), reserve: self.reserve_bytes }
    }

    fn capacity(&self) -> Capacity {
        let available = self.available_bytes();
        Capacity {
            total: (available + self.used_bytes()).saturating_sub(self.reserve_bytes),
            free: available.saturating_sub(self.reserve_bytes),
        }
    }

    async fn apply(&self, op: &Op) -> Result<(), StorageError> {
        match op.clone() {
            Op::CreateVolume { volume, size_bytes, source } => {
                self.blocking(move |disks| disks.create(volume, size_bytes, source.as_ref())).await
            }
            Op::GrowVolume { volume, size_bytes } => self.blocking(move |disks| disks.grow(volume, size_bytes)).await,
            Op::DeleteVolume { volume } => self.blocking(move |disks| disks.delete(volume)).await,
            other => Err(StorageError::Refused(format!("not an operation on a volume: {other:?}"))),
        }
    }

    async fn fetch(&self, blob: &BlobRef, host: HostId, from: &dyn ControlPlane) -> Result<(), StorageError> {
        self.images.fetch(blob, host, from).await
    }

    fn read_blob(&self, blob: &BlobRef) -> Result<Vec<u8>, StorageError> {
        let path = self.files.image(&blob.sha256)?;
        fs::read(&path).map_err(StorageError::io(format!("read {}", path.display())))
    }

    fn evict(&self, in_use: &BTreeSet<String>) -> Result<(), StorageError> {
        let mut in_use = in_use.clone();
        for volume in self.survey()? {
            in_use.extend(self.observe(volume)?.and_then(|file| file.backing));
        }
        self.images.evict(&in_use, self.space())
    }
}

/// Runs a tool to its end; its last words become the error.
pub(super) fn run(mut command: Command) -> Result<(), StorageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    let output = command.output().map_err(StorageError::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let detail = errors.lines().last().unwrap_or_default().trim();
    Err(StorageError::Tool { program, detail: format!("{}: {detail}", output.status) })
}

pub(super) fn sync(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(StorageError::io(format!("sync {}", path.display())))
}

fn remove_tree(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// What begins with a dot is ours and was never finished.
fn remove_half_made(dir: &Path) -> Result<(), StorageError> {
    let entries = fs::read_dir(dir).map_err(StorageError::io(format!("read {}", dir.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| [".new-", ".old-"].iter().any(|mark| n.starts_with(mark)));
        if ours && entry.path().is_dir() {
            remove_tree(&entry.path())?;
        } else if ours {
            fs::remove_file(entry.path()).map_err(StorageError::io("remove an unfinished file"))?;
        }
    }
    Ok(())
}
