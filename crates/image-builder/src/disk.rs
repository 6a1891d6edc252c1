//! A bootable disk with one partition: master boot record, GRUB for BIOS, and room for a file
//! system.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::command::Tool;
use crate::packages::{Catalogue, PackageCache};
use crate::{ImageError, io_error};

/// Start of the only partition. The space before it holds the boot loader.
pub(crate) const PARTITION_OFFSET_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// Code of the boot sector ends here; the disk's signature and the partition table follow.
const BOOT_CODE_BYTES: usize = 440;

/// GRUB's two parts for a BIOS disk.
pub(crate) struct BootLoader {
    boot: Vec<u8>,
    core: Vec<u8>,
}

impl BootLoader {
    /// Builds GRUB with what it needs to read `/boot/grub/grub.cfg` of the first partition.
    pub(crate) fn build(cache: &PackageCache, catalogue: &mut Catalogue) -> Result<Self, ImageError> {
        catalogue.ask(["grub-pc-bin".to_owned()])?;
        let grub = catalogue.require("grub-pc-bin")?;
        let modules = cache.unpacked(&grub)?.join("usr/lib/grub/i386-pc");
        let boot_path = modules.join("boot.img");
        let boot = fs::read(&boot_path).map_err(io_error("read", &boot_path))?;
        let core = tempfile::NamedTempFile::new().map_err(io_error("create a file in", &std::env::temp_dir()))?;
        Tool::new("grub-mkimage", "grub-common")
            .arg("-d")
            .arg(&modules)
            .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"])
            .arg(core.path())
            .args(["biosdisk", "part_msdos", "ext2", "normal", "linux", "configfile"])
            .args(["serial", "boot", "echo"])
            .run()?;
        let core = fs::read(core.path()).map_err(io_error("read", core.path()))?;
        if boot.len() < BOOT_CODE_BYTES || core.len() as u64 > PARTITION_OFFSET_BYTES - SECTOR_BYTES {
            return Err(ImageError::Unexpected(format!(
                "GRUB has {} and {} bytes, which do not fit before the partition",
                boot.len(),
                core.len()
            )));
        }
        Ok(Self { boot, core })
    }
}

/// Makes a sparse disk of `size_bytes` with the boot loader and one partition over the rest.
/// `signature` identifies the disk in its partition table.
pub(crate) fn create(path: &Path, size_bytes: u64, signature: u32, loader: &BootLoader) -> Result<(), ImageError> {
    let file = File::create(path).map_err(io_error("create", path))?;
    file.set_len(size_bytes).map_err(io_error("resize", path))?;
    let sector = boot_sector(&loader.boot, size_bytes, signature);
    file.write_all_at(&sector, 0).map_err(io_error("write", path))?;
    file.write_all_at(&loader.core, SECTOR_BYTES).map_err(io_error("write", path))
}

fn boot_sector(code: &[u8], size_bytes: u64, signature: u32) -> [u8; 512] {
    // Cylinder, head and sector are not used by anything since 1995; this says "beyond".
    const BEYOND: [u8; 3] = [0xfe, 0xff, 0xff];
    let first = (PARTITION_OFFSET_BYTES / SECTOR_BYTES) as u32;
    let sectors = (size_bytes - PARTITION_OFFSET_BYTES) / SECTOR_BYTES;
    let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
    let mut sector = [0; 512];
    sector[..BOOT_CODE_BYTES].copy_from_slice(&code[..BOOT_CODE_BYTES]);
    sector[440..444].copy_from_slice(&signature.to_le_bytes());
    sector[446] = 0x80; // bootable
    sector[447..450].copy_from_slice(&BEYOND);
    sector[450] = 0x83; // Linux
    sector[451..454].copy_from_slice(&BEYOND);
    sector[454..458].copy_from_slice(&first.to_le_bytes());
    sector[458..462].copy_from_slice(&sectors.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// SHA-256 of a file's contents in hexadecimal digits.
pub(crate) fn sha256_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(io_error("read", path))?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Writes `bytes` durably under a name that appears only when all of it is there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let staged = staged_name(path);
    let mut file = File::create(&staged).map_err(io_error("create", &staged))?;
    file.write_all(bytes).map_err(io_error("write", &staged))?;
    file.sync_all().map_err(io_error("write", &staged))?;
    fs::rename(&staged, path).map_err(io_error("rename", &staged))
}

/// Makes a finished staged file durable and gives it its name.
pub(crate) fn publish(staged: &Path, path: &Path) -> Result<(), ImageError> {
    let file = OpenOptions::new().write(true).open(staged).map_err(io_error("open", staged))?;
    file.sync_all().map_err(io_error("write", staged))?;
    fs::rename(staged, path).map_err(io_error("rename", staged))?;
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    let dir_file = File::open(dir).map_err(io_error("open", dir))?;
    dir_file.sync_all().map_err(io_error("write", dir))
}

/// `disk.raw` → `.disk.raw.PID.partial`, in the same folder.
pub(crate) fn staged_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

/// Removes a staged file when a build fails half-way.
pub(crate) struct Staged(pub PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // After `publish` there is nothing left to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Punches holes where a file has only zeros by copying it sparsely: file systems made by
/// `mke2fs -d` write zeros.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<(), ImageError> {
    let mut source = File::open(from).map_err(io_error("open", from))?;
    let mut target = File::create(to).map_err(io_error("create", to))?;
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let count = source.read(&mut buffer).map_err(io_error("read", from))?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().all(|&byte| byte == 0) {
            target.seek(SeekFrom::Current(count as i64)).map_err(io_error("write", to))?;
        } else {
            target.write_all(&buffer[..count]).map_err(io_error("write", to))?;
        }
        length += count as u64;
    }
    target.set_len(length).map_err(io_error("resize", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_covers_the_rest_of_the_disk() {
        for (size, sectors) in [
            (60_u64 << 20, (59 << 20) / 512),
            (8 << 30, ((8 << 30) - (1 << 20)) / 512),
            // A DOS table cannot say more than 2 TiB.
            (16 << 40, u64::from(u32::MAX)),
        ] {
            let sector = boot_sector(&[0x90; 512], size, 0xec2);
            assert_eq!(sector[..440], [0x90; 440]);
            assert_eq!(&sector[440..444], &[0xc2, 0x0e, 0, 0]);
            assert_eq!(&sector[454..458], &2048_u32.to_le_bytes());
            assert_eq!(&sector[458..462], &(sectors as u32).to_le_bytes(), "{size}");
            assert_eq!(&sector[510..], &[0x55, 0xaa]);
        }
    }

    #[test]
    fn a_sparse_copy_has_the_same_contents() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![0; 300_000];
        bytes[70_000] = 1;
        fs::write(&from, &bytes).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
    }
}
