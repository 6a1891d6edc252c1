//! What a disk image of unknown origin is, judged by its header before any tool opens it.
//!
//! An image can name other files: a qcow2 its backing and data files, a VMDK its extents and
//! parent. Opened with root's rights, such a name would read a file of the host into the image
//! of a tenant. So the header decides here, and only self-contained images pass.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{DiskFormat, ImageError, MAX_VIRTUAL_SIZE_BYTES, io_error};

/// Longest header that is looked at; a VMDK's embedded description lies within its first MiB.
const HEADER_BYTES: usize = 1 << 20;
const SECTOR_BYTES: u64 = 512;

/// Formats that are recognised in order to say why they are refused.
const REFUSED: [(usize, &[u8], &str); 11] = [
    (0, &[0x1f, 0x8b], "it is compressed with gzip: decompress it first"),
    (0, b"\xfd7zXZ\0", "it is compressed with xz: decompress it first"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "it is compressed with zstd: decompress it first"),
    (0, b"BZh", "it is compressed with bzip2: decompress it first"),
    (0, b"PK\x03\x04", "it is a zip archive: unpack it first"),
    (257, b"ustar", "it is a tar archive (an OVA is one): unpack the disk in it first"),
    (0, b"vhdxfile", "it is VHDX: convert it with `qemu-img convert -O qcow2`"),
    (0, b"conectix", "it is VHD: convert it with `qemu-img convert -f vpc -O qcow2`"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "it is VDI: convert it with `qemu-img convert -O qcow2`"),
    (0, b"LUKS\xba\xbe", "it is encrypted (LUKS)"),
    (0, b"COWD", "it is an old VMDK of a hypervisor host: convert it with `qemu-img`"),
];

/// A file that may be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    pub format: DiskFormat,
    /// As the header says; of a raw file, its length.
    pub virtual_size_bytes: u64,
}

/// Judges the file at `path`. `origin` is what errors call it.
pub(crate) fn probe(path: &Path, origin: &str) -> Result<Probed, ImageError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if !metadata.is_file() {
        return Err(refused(origin, "it is not a regular file".to_owned()));
    }
    let mut header = Vec::with_capacity(4096);
    (&file).take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(io_error("read", path))?;
    let mut probed = judge(&header, metadata.len()).map_err(|reason| refused(origin, reason))?;
    if probed.format == DiskFormat::Raw && metadata.len() >= SECTOR_BYTES {
        let mut footer = [0; 8];
        let offset = metadata.len() - SECTOR_BYTES;
        file.read_exact_at(&mut footer, offset).map_err(io_error("read", path))?;
        if footer == *b"conectix" {
            return Err(refused(origin, REFUSED[7].2.to_owned()));
        }
        probed.virtual_size_bytes = metadata.len();
    }
    Ok(probed)
}

fn refused(origin: &str, reason: String) -> ImageError {
    ImageError::Refused { origin: origin.to_owned(), reason }
}

/// The rules, over the first bytes of a file of `length` bytes.
fn judge(header: &[u8], length: u64) -> Result<Probed, String> {
    for (offset, magic, reason) in REFUSED {
        if header.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(reason.to_owned());
        }
    }
    let probed = if header.starts_with(b"QFI\xfb") {
        judge_qcow2(header)?
    } else if header.starts_with(b"KDMV") {
        judge_vmdk(header)?
    } else if header.starts_with(b"# Disk DescriptorFile") {
        return Err("it is only the description of a VMDK, its data is in other files: \
                    convert it with `qemu-img convert -O qcow2`"
            .to_owned());
    } else {
        if !length.is_multiple_of(SECTOR_BYTES) {
            return Err("it is neither qcow2 nor VMDK, and its length is not a multiple of 512 \
                        bytes, so it is no raw disk either"
                .to_owned());
        }
        Probed { format: DiskFormat::Raw, virtual_size_bytes: length }
    };
    match probed.virtual_size_bytes {
        0 => Err("it is empty".to_owned()),
        size if size > MAX_VIRTUAL_SIZE_BYTES => {
            Err(format!("it claims a size of {size} bytes, more than {MAX_VIRTUAL_SIZE_BYTES}"))
        }
        _ => Ok(probed),
    }
}

/// Format and virtual size in bytes of a file of `length` bytes that begins with `header`, or why it may not be imported.
///
/// # Errors
/// The reason, for people.
pub fn judge_header(header: &[u8], length: u64) -> Result<(DiskFormat, u64), String> {
    judge(header, length).map(|probed| (probed.format, probed.virtual_size_bytes))
}

fn be32(header: &[u8], offset: usize) -> Result<u32, String> {
    let bytes = header.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or_else(|| "its header is cut off".to_owned())
}

fn be64(header: &[u8], offset: usize) -> Result<u64, String> {
    let high = u64::from(be32(header, offset)?);
    Ok(high << 32 | u64::from(be32(header, offset + 4)?))
}

/// QEMU: `docs/interop/qcow2.txt`.
fn judge_qcow2(header: &[u8]) -> Result<Probed, String> {
    const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    const KNOWN_INCOMPATIBLE: u64 = 0b1_1111;
    let version = be32(header, 4)?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is qcow2 of version {version}; 2 and 3 are known"));
    }
    if be64(header, 8)? != 0 {
        return Err("it has a backing file: flatten it with `qemu-img convert -O qcow2`".into());
    }
    if !(9..=21).contains(&be32(header, 20)?) {
        return Err("its cluster size is out of bounds".to_owned());
    }
    if be32(header, 32)? != 0 {
        return Err("it is encrypted".to_owned());
    }
    if version == 3 {
        let incompatible = be64(header, 72)?;
        if incompatible & EXTERNAL_DATA_FILE != 0 {
            return Err("its data is in another file: flatten it with `qemu-img convert`".into());
        }
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Err(format!("it uses unknown features ({incompatible:#x})"));
        }
    }
    Ok(Probed { format: DiskFormat::Qcow2, virtual_size_bytes: be64(header, 24)? })
}

/// VMware: Virtual Disk Format 5.0, "Hosted Sparse Extents".
fn judge_vmdk(header: &[u8]) -> Result<Probed, String> {
    let le64 = |offset| be64(header, offset).map(u64::swap_bytes);
    let version = be32(header, 4)?.swap_bytes();
    if !(1..=3).contains(&version) {
        return Err(format!("it is VMDK of version {version}; 1 to 3 are known"));
    }
    let sectors = le64(12)?;
    let bytes_of = |sectors: u64| sectors.checked_mul(SECTOR_BYTES);
    let virtual_size_bytes = bytes_of(sectors).ok_or_else(|| format!("it claims {sectors} sectors"))?;
    let start = bytes_of(le64(28)?).unwrap_or(u64::MAX);
    let end = bytes_of(le64(36)?).and_then(|size| size.checked_add(start)).unwrap_or(u64::MAX);
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let description = range
        .and_then(|(start, end)| header.get(start..end))
        .filter(|_| start != 0)
        .ok_or_else(|| "it has no embedded description".to_owned())?;
    judge_vmdk_description(&String::from_utf8_lossy(description))?;
    Ok(Probed { format: DiskFormat::Vmdk, virtual_size_bytes })
}

fn judge_vmdk_description(description: &str) -> Result<(), String> {
    let mut extents = 0;
    for line in description.lines().map(|line| line.trim_matches(['\0', ' ', '\r'])) {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("createtype=") {
            if !["\"monolithicsparse\"", "\"streamoptimized\""].contains(&value) {
                return Err(format!("it is a VMDK of type {value}, whose data is in other files"));
            }
        } else if lower.starts_with("parentfilenamehint=") {
            return Err("it has a parent disk: flatten it with `qemu-img convert`".to_owned());
        } else if ["rw ", "rdonly ", "noaccess "].iter().any(|mode| lower.starts_with(mode)) {
            extents += 1;
            if !lower.contains(" sparse ") {
                return Err("its data is in another file".to_owned());
            }
        }
    }
    match extents {
        1 => Ok(()),
        count => Err(format!("it has {count} extents; one is supported")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn qcow2(version: u32, backing: u64, size: u64, crypt: u32, incompatible: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(b"QFI\xfb");
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[8..16].copy_from_slice(&backing.to_be_bytes());
        header[20..24].copy_from_slice(&16_u32.to_be_bytes());
        header[24..32].copy_from_slice(&size.to_be_bytes());
        header[32..36].copy_from_slice(&crypt.to_be_bytes());
        header[72..80].copy_from_slice(&incompatible.to_be_bytes());
        header
    }

    fn vmdk(sectors: u64, description: &str) -> Vec<u8> {
        let mut header = vec![0; 4096];
        header[..4].copy_from_slice(b"KDMV");
        header[4..8].copy_from_slice(&1_u32.to_le_bytes());
        header[12..20].copy_from_slice(&sectors.to_le_bytes());
        header[28..36].copy_from_slice(&1_u64.to_le_bytes());
        header[36..44].copy_from_slice(&2_u64.to_le_bytes());
        header[512..512 + description.len()].copy_from_slice(description.as_bytes());
        header
    }

    #[test]
    fn only_self_contained_images_of_sane_size_pass() {
        let one = "createType=\"monolithicSparse\"\nRW 8 SPARSE \"x.vmdk\"\n";
        let flat = "createType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/shadow\" 0\n";
        let sneaky = "createType=\"monolithicSparse\"\nRW 8 FLAT \"/etc/shadow\" 0\n";
        let two = format!("{one}RW 8 SPARSE \"y.vmdk\"\n");
        let child = format!("{one}parentFileNameHint=\"/etc/shadow\"\n");
        let gib = 1 << 30;
        type Row<'a> = (&'a str, Vec<u8>, u64, Result<DiskFormat, &'a str>);
        let rows: Vec<Row<'_>> = vec![
            ("raw", vec![7; 512], 512, Ok(DiskFormat::Raw)),
            ("odd raw", vec![7; 511], 511, Err("multiple of 512")),
            ("nothing", vec![], 0, Err("empty")),
            ("huge raw", vec![7; 512], 17 << 40, Err("claims a size")),
            ("qcow2", qcow2(3, 0, gib, 0, 0), 512, Ok(DiskFormat::Qcow2)),
            ("old qcow2", qcow2(2, 0, gib, 0, u64::MAX), 512, Ok(DiskFormat::Qcow2)),
            ("qcow", qcow2(1, 0, gib, 0, 0), 512, Err("version 1")),
            ("backing", qcow2(3, 104, gib, 0, 0), 512, Err("backing file")),
            ("encrypted", qcow2(3, 0, gib, 2, 0), 512, Err("encrypted")),
            ("data file", qcow2(3, 0, gib, 0, 4), 512, Err("another file")),
            ("new feature", qcow2(3, 0, gib, 0, 1 << 9), 512, Err("unknown features")),
            ("bomb", qcow2(3, 0, u64::MAX, 0, 0), 512, Err("claims a size")),
            ("cut", qcow2(3, 0, gib, 0, 0)[..30].to_vec(), 30, Err("cut off")),
            ("vmdk", vmdk(2048, one), 4096, Ok(DiskFormat::Vmdk)),
            ("flat vmdk", vmdk(2048, flat), 4096, Err("other files")),
            ("lying vmdk", vmdk(2048, sneaky), 4096, Err("another file")),
            ("split vmdk", vmdk(2048, &two), 4096, Err("2 extents")),
            ("child vmdk", vmdk(2048, &child), 4096, Err("parent disk")),
            ("vmdk bomb", vmdk(u64::MAX, one), 4096, Err("sectors")),
            ("descriptor", b"# Disk DescriptorFile\n".to_vec(), 512, Err("description")),
            ("gzip", vec![0x1f, 0x8b, 8], 512, Err("gzip")),
            ("vhdx", b"vhdxfile".to_vec(), 512, Err("VHDX")),
        ];
        for (name, header, length, expected) in rows {
            match (judge(&header, length), expected) {
                (Ok(probed), Ok(format)) => assert_eq!(probed.format, format, "{name}"),
                (Err(reason), Err(part)) => {
                    assert!(reason.contains(part), "{name}: {reason:?} lacks {part:?}");
                }
                (actual, expected) => panic!("{name}: {actual:?}, expected {expected:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            magic in prop::sample::select(vec![&b"QFI\xfb"[..], b"KDMV", b""]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
            length: u64,
        ) {
            let header = [magic, &rest].concat();
            if let Ok(probed) = judge(&header, length) {
                prop_assert!(probed.virtual_size_bytes <= MAX_VIRTUAL_SIZE_BYTES);
            }
        }
    }
}
