use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;
use terroir_agent_api::{BlobFormat, BlobRef, ControlPlane};
use terroir_types::HostId;

use super::disks::{run, sync};
use super::overlay::{check_self_contained, check_vmdk};
use super::{DiskFiles, StorageError};
use crate::AgentOptions;
use crate::observed::Space;

/// Largest disk that an image may claim, bytes.
const MAX_DISK_BYTES: u64 = 16 << 40;
const BLOCK: usize = 4096;

/// Blobs by SHA-256. A file's modification time is when it was used last.
#[derive(Debug, Clone)]
pub(super) struct ImageCache {
    files: Arc<DiskFiles>,
    qemu_img: PathBuf,
    limit_bytes: u64,
    reserve_bytes: u64,
    converter_uid: u32,
}

impl ImageCache {
    pub(super) fn new(options: &AgentOptions, files: Arc<DiskFiles>) -> Self {
        Self {
            files,
            qemu_img: options.qemu_img.clone(),
            limit_bytes: options.image_cache_bytes,
            reserve_bytes: options.volume_reserve_bytes,
            // Number 0 is never an instance's.
            converter_uid: options.instance_uid_base,
        }
    }

    pub(super) fn has(&self, sha256: &str) -> bool {
        self.files.image(sha256).is_ok_and(|path| path.exists())
    }

    pub(super) fn touch(&self, sha256: &str) {
        let touched = self.files.image(sha256).ok().and_then(|path| File::open(path).ok());
        #[allow(clippy::disallowed_methods)] // compared with other files' times only
        let now = SystemTime::now();
        if let Some(Err(error)) = touched.map(|file| file.set_modified(now)) {
            tracing::debug!(sha256, %error, "cannot note the use of an image");
        }
    }

    pub(super) async fn fetch(
        &self,
        blob: &BlobRef,
        host: HostId,
        from: &dyn ControlPlane,
    ) -> Result<(), StorageError> {
        let place = self.files.image(&blob.sha256)?;
        if place.exists() {
            return Ok(());
        }
        let temporary = self.files.images_dir().join(format!(".new-{}", blob.sha256));
        let mut sink = SparseSink::create(&temporary, blob.size_bytes, self.reserve_bytes)?;
        let fetched = from.fetch_blob(host, &blob.name, &mut sink).await;
        let this = self.clone();
        let blob = blob.clone();
        let finish = move || {
            let result = fetched.map_err(|error| sink.failure().unwrap_or_else(|| error.into())).and_then(|()| {
                sink.finish(&blob)?;
                this.make_raw(&blob, &temporary)?;
                fs::set_permissions(&temporary, fs::Permissions::from_mode(0o444))
                    .map_err(StorageError::io("protect the image"))?;
                sync(&temporary)?;
                fs::rename(&temporary, &place).map_err(StorageError::io(format!("create {}", place.display())))?;
                sync(this.files.images_dir())
            });
            result.inspect_err(|_| drop(fs::remove_file(&temporary)))
        };
        let joined = tokio::task::spawn_blocking(finish).await;
        joined.unwrap_or_else(|e| Err(StorageError::io("fetch")(io::Error::other(e))))
    }

    /// Converts in place. The image is a stranger's: its header is checked, and the tool that reads
    /// it runs without privileges and sees two open files.
    fn make_raw(&self, blob: &BlobRef, path: &Path) -> Result<(), StorageError> {
        let source = File::open(path).map_err(StorageError::io(format!("open {}", path.display())))?;
        let (driver, checked) = match blob.format {
            BlobFormat::Raw => return Ok(()),
            BlobFormat::Qcow2 => ("qcow2", check_self_contained(&source).map(|h| h.virtual_size)),
            BlobFormat::Vmdk => ("vmdk", check_vmdk(&source)),
        };
        let size = checked.map_err(|why| StorageError::Refused(format!("{}: {why}", blob.name)))?;
        if size > MAX_DISK_BYTES {
            return Err(StorageError::Refused(format!("{}: a disk of {size} bytes is too large", blob.name)));
        }
        let converted = path.with_extension("raw");
        let target = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&converted);
        let target = target.map_err(StorageError::io(format!("create {}", converted.display())))?;
        target.set_len(size).map_err(StorageError::io("set the image's size"))?;
        let result = self.convert(driver, &source, &target);
        let renamed = result.and_then(|()| {
            fs::rename(&converted, path).map_err(StorageError::io(format!("replace {}", path.display())))
        });
        renamed.inspect_err(|_| drop(fs::remove_file(&converted)))
    }

    fn convert(&self, driver: &str, source: &File, target: &File) -> Result<(), StorageError> {
        let (from, to) = (source.as_raw_fd(), target.as_raw_fd());
        let uid = self.converter_uid;
        for file in [source, target] {
            std::os::unix::fs::fchown(file, Some(uid), Some(uid)).map_err(StorageError::io("hand over the image"))?;
        }
        let file =
            serde_json::json!({ "driver": "file", "filename": format!("/proc/self/fd/{from}"), "locking": "off" });
        let image = serde_json::json!({ "driver": driver, "backing": null, "file": file });
        let mut command = Command::new(&self.qemu_img);
        command.args(["convert", "-q", "-n", "--target-is-zero", "-O", "raw", &format!("json:{image}")]);
        command.arg(format!("/proc/self/fd/{to}")).current_dir("/").uid(uid).gid(uid);
        let inherit = move || {
            for fd in [from, to] {
                // SAFETY: clears a flag of a descriptor that the parent holds open during the call.
                if unsafe { nix::libc::fcntl(fd, nix::libc::F_SETFD, 0) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec `inherit` only makes system calls.
        unsafe { command.pre_exec(inherit) };
        run(command)?;
        std::os::unix::fs::fchown(target, Some(0), Some(0)).map_err(StorageError::io("take the image back"))
    }

    fn entries(&self) -> Vec<(PathBuf, String, fs::Metadata)> {
        let entries = fs::read_dir(self.files.images_dir()).into_iter().flatten().flatten();
        let image = |e: fs::DirEntry| {
            let name = e.file_name().to_str()?.to_owned();
            self.files.image(&name).ok()?;
            Some((e.path(), name, e.metadata().ok()?))
        };
        entries.filter_map(image).collect()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.entries().iter().map(|(_, _, metadata)| metadata.blocks() * 512).sum()
    }

    pub(super) fn evict(&self, in_use: &BTreeSet<String>, space: Space) -> Result<(), StorageError> {
        let mut entries = self.entries();
        entries.sort_by_key(|(_, _, metadata)| (metadata.mtime(), metadata.mtime_nsec()));
        let mut used: u64 = entries.iter().map(|(_, _, metadata)| metadata.blocks() * 512).sum();
        let mut available = space.available;
        for (path, name, metadata) in entries {
            if used <= self.limit_bytes && available > self.reserve_bytes {
                break;
            }
            if in_use.contains(&name) {
                continue;
            }
            fs::remove_file(&path).map_err(StorageError::io(format!("remove {}", path.display())))?;
            tracing::info!(image = name, "dropped from the cache");
            used = used.saturating_sub(metadata.blocks() * 512);
            available = available.saturating_add(metadata.blocks() * 512);
        }
        Ok(())
    }
}

/// Writes a file, leaves blocks of zeros out, counts and hashes.
struct SparseSink {
    // Locked: a second fetch of the same blob by mistake must not write into the first's file.
    file: Flock<File>,
    pending: Vec<u8>,
    written: u64,
    limit: u64,
    reserve_bytes: u64,
    hasher: Sha256,
    failure: Option<StorageError>,
}

impl SparseSink {
    fn create(path: &Path, limit: u64, reserve_bytes: u64) -> Result<Self, StorageError> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(StorageError::io(format!("create {}", path.display())))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let file = locked.map_err(|(_, errno)| StorageError::io("lock the image")(errno.into()))?;
        file.set_len(0).map_err(StorageError::io("begin the image"))?;
        let pending = Vec::with_capacity(64 * BLOCK);
        Ok(Self { file, pending, written: 0, limit, reserve_bytes, hasher: Sha256::new(), failure: None })
    }

    fn flush_blocks(&mut self, all: bool) -> io::Result<()> {
        let whole = if all { self.pending.len() } else { self.pending.len() / BLOCK * BLOCK };
        for block in self.pending[..whole].chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(block, self.written)?;
            }
            self.written += block.len() as u64;
        }
        self.pending.drain(..whole);
        Ok(())
    }

    fn check_room(&self) -> Result<(), StorageError> {
        let Ok(stat) = nix::sys::statvfs::fstatvfs(&*self.file) else { return Ok(()) };
        let available = stat.blocks_available().saturating_mul(stat.fragment_size());
        if available > self.reserve_bytes {
            return Ok(());
        }
        let full = io::Error::new(io::ErrorKind::StorageFull, "only the reserve is left");
        Err(StorageError::io("the host's disk is full")(full))
    }

    fn accept(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if self.written + (self.pending.len() + bytes.len()) as u64 > self.limit {
            return Err(StorageError::Refused(format!("more than the {} bytes that were announced", self.limit)));
        }
        self.hasher.update(bytes);
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= 64 * BLOCK {
            self.check_room()?;
            self.flush_blocks(false).map_err(StorageError::io("write the image"))?;
        }
        Ok(())
    }

    fn failure(&mut self) -> Option<StorageError> {
        self.failure.take()
    }

    fn finish(&mut self, blob: &BlobRef) -> Result<(), StorageError> {
        self.flush_blocks(true).map_err(StorageError::io("write the image"))?;
        self.file.set_len(self.written).map_err(StorageError::io("write the image"))?;
        let digest = hex::encode(std::mem::take(&mut self.hasher).finalize());
        if self.written != blob.size_bytes {
            let told = format!("{}: {} bytes instead of {}", blob.name, self.written, blob.size_bytes);
            return Err(StorageError::Refused(told));
        }
        if digest != blob.sha256 {
            return Err(StorageError::Refused(format!("{}: SHA-256 is {digest}, not {}", blob.name, blob.sha256)));
        }
        Ok(())
    }
}

impl Write for SparseSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.accept(bytes).map_err(|failure| {
            let error = io::Error::other(failure.to_string());
            self.failure = Some(failure);
            error
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
