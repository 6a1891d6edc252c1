//! Files that QEMU only appends to: the serial console and its own messages.

use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What a console query answers, as AWS does.
pub(super) const TAIL_BYTES: u64 = 64 << 10;
/// Disk space above which the beginning is given back.
const KEEP_BYTES: u64 = 1 << 20;

/// Opens an empty file for QEMU to append to.
pub(super) fn begin(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// The last `TAIL_BYTES`; `None` if there is no such file.
pub(super) fn tail(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Gives the space of all but the end back to the file system. The writer need not know: its next
/// byte still goes to the end.
pub(super) fn trim(path: &Path) -> std::io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if metadata.blocks() * 512 <= KEEP_BYTES + TAIL_BYTES {
        return Ok(());
    }
    let surplus = metadata.len().saturating_sub(TAIL_BYTES);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, flags, 0, i64::try_from(surplus).unwrap_or(i64::MAX)).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_flood_is_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        assert_eq!(tail(&path).unwrap(), None);
        let mut file = begin(&path).unwrap();
        for round in 0..40 {
            file.write_all(&vec![b'a' + round; 200 << 10]).unwrap();
            trim(&path).unwrap();
            let used = path.metadata().unwrap().blocks() * 512;
            assert!(used <= KEEP_BYTES + (300 << 10), "{used} bytes used in round {round}");
        }
        file.write_all(b"the end").unwrap();
        let tail = tail(&path).unwrap().unwrap();
        assert_eq!(tail.len() as u64, TAIL_BYTES);
        assert!(tail.ends_with(b"the end") && tail[0] == b'a' + 39);
        drop(begin(&path).unwrap());
        assert_eq!(super::tail(&path).unwrap(), Some(vec![]));
    }
}
