//! The parts of qcow2's header that matter here (docs/interop/qcow2.txt of QEMU).

use std::io::{self, Read, Seek, SeekFrom};

const MAGIC: u32 = 0x5146_49fb;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const MAX_NAME_BYTES: u32 = 1023;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) virtual_size: u64,
    pub(super) backing_file: Option<String>,
    pub(super) external_data_file: bool,
}

/// # Errors
/// `InvalidData` if it is no qcow2.
pub(super) fn read_header(mut file: impl Read + Seek) -> io::Result<Header> {
    let mut head = [0; 80];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    let u32_at = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    if u32_at(0) != MAGIC {
        return Err(invalid("not a qcow2 file"));
    }
    let version = u32_at(4);
    if !matches!(version, 2 | 3) {
        return Err(invalid("unknown version of qcow2"));
    }
    let (name_at, name_bytes) = (u64_at(8), u32_at(16));
    let backing_file = if name_at == 0 {
        None
    } else {
        if name_bytes > MAX_NAME_BYTES {
            return Err(invalid("the backing file's name is too long"));
        }
        let mut name = vec![0; name_bytes as usize];
        file.seek(SeekFrom::Start(name_at))?;
        file.read_exact(&mut name)?;
        Some(String::from_utf8_lossy(&name).into_owned())
    };
    let external_data_file = version == 3 && u64_at(72) & EXTERNAL_DATA_FILE != 0;
    Ok(Header { virtual_size: u64_at(24), backing_file, external_data_file })
}

/// Like `read_header`, and refuses what would make QEMU open other files.
pub(super) fn check_self_contained(file: impl Read + Seek) -> Result<Header, String> {
    let header = read_header(file).map_err(|e| e.to_string())?;
    if let Some(name) = &header.backing_file {
        return Err(format!("the image refers to another file ({name:?})"));
    }
    if header.external_data_file {
        return Err("the image keeps its data in another file".to_owned());
    }
    Ok(header)
}

/// VMDK: only the sparse form that holds everything in itself (VMDK 1.0: magic, then capacity in
/// sectors at 12). A capacity of zero means that a description names other files.
pub(super) fn check_vmdk(mut file: impl Read + Seek) -> Result<u64, String> {
    let mut head = [0; 20];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut head)).map_err(|e| e.to_string())?;
    if &head[..4] != b"KDMV" {
        return Err("not a VMDK that holds its data in itself".to_owned());
    }
    let mut sectors = [0; 8];
    sectors.copy_from_slice(&head[12..20]);
    match u64::from_le_bytes(sectors) {
        0 => Err("the VMDK names other files".to_owned()),
        sectors => Ok(sectors.saturating_mul(512)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn header(version: u32, backing: Option<&str>, features: u64) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[24..32].copy_from_slice(&(5u64 << 30).to_be_bytes());
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        if let Some(name) = backing {
            bytes[8..16].copy_from_slice(&104u64.to_be_bytes());
            bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    #[test]
    fn images_that_reach_for_other_files_are_refused() {
        for (bytes, verdict) in [
            (header(3, None, 0), Ok(5 << 30)),
            (header(2, None, EXTERNAL_DATA_FILE), Ok(5 << 30)),
            (header(3, None, EXTERNAL_DATA_FILE), Err("another file")),
            (header(3, Some("/etc/shadow"), 0), Err("/etc/shadow")),
            (header(4, None, 0), Err("version")),
            (b"QFI\xfa".repeat(40), Err("not a qcow2")),
            (vec![], Err("fill whole buffer")),
        ] {
            let checked = check_self_contained(Cursor::new(&bytes)).map(|h| h.virtual_size);
            match (checked, verdict) {
                (Ok(size), Ok(expected)) => assert_eq!(size, expected),
                (Err(text), Err(expected)) => assert!(text.contains(expected), "{text}"),
                (got, expected) => panic!("{got:?}, expected {expected:?}"),
            }
        }
        assert!(check_vmdk(Cursor::new(b"# Disk DescriptorFile\nversion=1\n")).is_err());
        assert!(check_vmdk(Cursor::new(b"KDMV\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")).is_err());
        assert_eq!(check_vmdk(Cursor::new(b"KDMV\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0")), Ok(1024));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
            }
            let _ = check_self_contained(Cursor::new(&bytes));
            let _ = check_vmdk(Cursor::new(&bytes));
        }
    }
}
