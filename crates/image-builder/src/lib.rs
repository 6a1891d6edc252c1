//! Disk images: builds the two that Terroir makes itself and takes in those that others made.
//!
//! * [`build_tiny`]: Debian's cloud kernel, busybox and dropbear on a bootable disk of less than
//!   64 MiB. Needs no root: packages are unpacked, not installed, and the file system is written
//!   by `debugfs`. The same packages give the same bytes.
//! * [`build_debian_12`]: a Debian 12 with cloud-init, made by `mmdebstrap`.
//! * [`import`]: any raw, qcow2 or VMDK file or URL, checked and turned into a sparse raw file.
//!
//! This crate only produces files in a folder that the caller names. Registering an image and
//! keeping its snapshot is the caller's work.
//!
//! All three finish a file under a temporary name and rename it, so that a file with its final
//! name is complete; a build that fails leaves nothing but the package cache behind.

mod command;
mod cpio;
mod debian;
mod disk;
mod ext4;
mod import;
mod kernel;
mod packages;
mod probe;
mod progress;
mod tiny;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use debian::build_debian_12;
pub use import::import;
pub use probe::judge_header;
pub use progress::{Progress, Silent, TerminalProgress};
pub use tiny::build_tiny;

/// Largest virtual size that an imported image may claim, in bytes (16 TiB, AWS's limit for a
/// gp3 volume at the time of writing was the same).
pub const MAX_VIRTUAL_SIZE_BYTES: u64 = 16 << 40;

/// A finished image on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    /// Name under which it is to be registered, such as `tiny`.
    pub name: String,
    /// Linux' name of the architecture: `x86_64`.
    pub architecture: String,
    /// The disk.
    pub path: PathBuf,
    pub format: DiskFormat,
    /// Virtual size: what a guest sees.
    pub size_bytes: u64,
    /// SHA-256 of the file at `path`, 64 lower-case hexadecimal digits. Of an imported image:
    /// of the source as it was fetched, so that it can be compared with what its publisher says.
    pub sha256: String,
    /// Where it comes from: package names and versions, or the path or URL.
    pub source: String,
    /// One sentence for people.
    pub description: String,
    /// Files for booting the same system without the disk's boot loader.
    pub boot: BootHints,
}

/// Kernel and initial RAM disk beside the disk. They save the time that GRUB takes; the disk
/// boots without them too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootHints {
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub cmdline: Option<String>,
}

/// Formats that are recognised by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    Raw,
    Qcow2,
    Vmdk,
}

impl DiskFormat {
    /// The name that `qemu-img` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// What this crate can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    Tiny,
    Debian12,
    Import,
}

/// Debian packages that must be installed on the building machine, root apart.
pub fn required_packages(kind: ImageKind) -> &'static [&'static str] {
    match kind {
        ImageKind::Tiny => &["apt", "dpkg", "e2fsprogs", "fdisk", "grub-common", "gzip", "tar"],
        ImageKind::Debian12 => &["dpkg", "e2fsprogs", "fdisk", "grub-common", "grub-pc-bin", "mmdebstrap", "tar"],
        ImageKind::Import => &["qemu-utils"],
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A tool of the building machine is missing.
    #[error("`{program}` is not installed: install it with `apt-get install {package}`")]
    MissingProgram { program: String, package: String },
    #[error("Debian package `{package}` is not available: {reason}")]
    MissingPackage { package: String, reason: String },
    #[error("`{command}` failed: {reason}")]
    Command { command: String, reason: String },
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot fetch {url}: {reason}")]
    Fetch { url: String, reason: String },
    /// The source is not what the caller expected.
    #[error("checksum of {origin} is {actual}, expected {expected}: nothing was imported")]
    ChecksumMismatch { origin: String, expected: String, actual: String },
    /// The source is readable but must not be imported.
    #[error("{origin} is refused: {reason}")]
    Refused { origin: String, reason: String },
    /// The packages hold something other than this crate knows.
    #[error("{0}")]
    Unexpected(String),
    #[error("building `{image}` needs root, or a kernel that gives ordinary users namespaces: {reason}")]
    NeedsRoot { image: &'static str, reason: String },
    #[error("this machine is no Debian 12 and has no package sources for one: name an archive with --mirror URL")]
    NeedsMirror,
}

/// `map_err` helper: names the file that an I/O error is about.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { action, path, source }
}
