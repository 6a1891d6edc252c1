//! Debian 12 with cloud-init, made by `mmdebstrap` from the machine's own package sources.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::disk::{self, BootLoader, PARTITION_OFFSET_BYTES, Staged};
use crate::packages::{Catalogue, PackageCache};
use crate::progress::Progress;
use crate::{BootHints, BuiltImage, DiskFormat, ImageError, io_error};

/// Virtual size of the disk. cloud-init grows the root file system to the volume's size.
const DISK_BYTES: u64 = 2 << 30;
const FILE_SYSTEM_UUID: &str = "7e220012-0000-4000-8000-000000000001";
const DISK_SIGNATURE: u32 = 0x7e22_0012;

const PACKAGES: [&str; 24] = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "netplan.io",
    "openssh-server",
    "python3-minimal",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
];

/// Not needed in a guest that is made anew, or never finishing at the first boot.
const MASKED_UNITS: [&str; 5] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-pcrphase.service",
];

const CLOUD_CONFIG: &str = "datasource_list: [ Ec2, None ]
datasource:
  Ec2:
    strict_id: false
    max_wait: 120
    timeout: 10
# The image has no other locale, and cloud-init's own default would fail.
locale: C.UTF-8
";

/// Builds `debian-12.raw` into `out_dir`. Takes some minutes and needs root, because a Debian
/// root file system has files of many owners.
///
/// `mirror`: URL of a Debian archive; without one the machine's own sources are used, if it is a Debian 12 itself.
pub fn build_debian_12(
    out_dir: &Path,
    mirror: Option<&str>,
    progress: &dyn Progress,
) -> Result<BuiltImage, ImageError> {
    fs::create_dir_all(out_dir).map_err(io_error("create", out_dir))?;
    let out_dir = &fs::canonicalize(out_dir).map_err(io_error("open", out_dir))?;
    let cache = PackageCache::open(out_dir)?;
    require_root()?;
    let sources = package_sources(mirror, &fs::read_to_string("/etc/os-release").unwrap_or_default())?;
    progress.step("building GRUB");
    let loader = BootLoader::build(&cache, &mut Catalogue::default())?;
    let scratch = tempfile::Builder::new()
        .prefix("debian-12-")
        .tempdir_in(out_dir)
        .map_err(io_error("create a folder in", out_dir))?;
    let root = scratch.path().join("root");

    progress.step("installing Debian 12 (some minutes)");
    install(&root, sources)?;
    progress.step("configuring");
    let release = configure(&root)?;
    progress.step("writing the disk");
    let path = out_dir.join("debian-12.raw");
    let staged = Staged(disk::staged_name(&path));
    let dense = scratch.path().join("disk");
    disk::create(&dense, DISK_BYTES, DISK_SIGNATURE, &loader)?;
    Tool::new("mke2fs", "e2fsprogs")
        .args(["-q", "-t", "ext4", "-U", FILE_SYSTEM_UUID, "-L", "root"])
        .args(["-O", "^metadata_csum_seed", "-E"])
        .arg(format!("offset={PARTITION_OFFSET_BYTES}"))
        .arg("-d")
        .arg(&root)
        .arg(&dense)
        .arg(format!("{}k", (DISK_BYTES - PARTITION_OFFSET_BYTES) >> 10))
        .run()?;
    disk::copy_sparse(&dense, &staged.0)?;
    let sha256 = disk::sha256_file(&staged.0)?;
    disk::publish(&staged.0, &path)?;
    Ok(BuiltImage {
        name: "debian-12".to_owned(),
        architecture: "x86_64".to_owned(),
        path,
        format: DiskFormat::Raw,
        size_bytes: DISK_BYTES,
        sha256,
        source: format!("Debian bookworm, mmdebstrap, kernel {release}"),
        description: "Debian 12 with cloud-init; log in as `debian`".to_owned(),
        boot: BootHints::default(),
    })
}

fn require_root() -> Result<(), ImageError> {
    let id = Tool::new("id", "coreutils").arg("-u").run()?;
    if id.trim_ascii() == b"0" {
        return Ok(());
    }
    Err(ImageError::NeedsRoot { image: "debian-12", reason: "run it with sudo".to_owned() })
}

fn install(root: &Path, sources: Vec<String>) -> Result<(), ImageError> {
    Tool::new("mmdebstrap", "mmdebstrap")
        .args(["--variant=minbase", "--mode=root", "--format=directory"])
        .arg("--architectures=amd64")
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--aptopt=Acquire::Languages \"none\"")
        .args(["man", "doc", "locale"].map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
        .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        .arg("bookworm")
        .arg(root)
        .args(sources)
        .run()?;
    Ok(())
}

/// What mmdebstrap takes packages from: a mirror that was named, or a Debian 12's own list.
fn package_sources(mirror: Option<&str>, os_release: &str) -> Result<Vec<String>, ImageError> {
    if let Some(mirror) = mirror {
        return Ok(vec![mirror.to_owned()]);
    }
    let has = |wanted: &str| os_release.lines().any(|line| line == wanted);
    let own: Vec<String> = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
        .into_iter()
        .filter(|path| has("VERSION_CODENAME=bookworm") && has("ID=debian") && Path::new(path).exists())
        .map(str::to_owned)
        .collect();
    if own.is_empty() { Err(ImageError::NeedsMirror) } else { Ok(own) }
}

/// Makes the tree an image: no identity of its own, serial console, EC2 data source. Returns the
/// kernel's release.
fn configure(root: &Path) -> Result<String, ImageError> {
    let write = |path: &str, contents: &str| {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        fs::write(&path, contents).map_err(io_error("write", &path))
    };
    let release = kernel_release(root)?;
    write("etc/fstab", &format!("UUID={FILE_SYSTEM_UUID} / ext4 defaults,discard 0 1\n"))?;
    write("etc/hostname", "debian\n")?;
    write("etc/machine-id", "")?;
    write("etc/cloud/cloud.cfg.d/90_ec2.cfg", CLOUD_CONFIG)?;
    write("boot/grub/grub.cfg", &grub_config(&release))?;
    let ssh = root.join("etc/ssh");
    for entry in fs::read_dir(&ssh).map_err(io_error("list", &ssh))?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            remove_file(&entry.path())?;
        }
    }
    let resolv = root.join("etc/resolv.conf");
    if resolv.symlink_metadata().is_ok() {
        remove_file(&resolv)?;
    }
    link("/run/systemd/resolve/stub-resolv.conf", &resolv)?;
    let units = root.join("etc/systemd/system");
    for unit in MASKED_UNITS {
        let path = units.join(unit);
        if path.symlink_metadata().is_ok() {
            remove_file(&path)?;
        }
        link("/dev/null", &path)?;
    }
    let devices = root.join("dev");
    fs::remove_dir_all(&devices).map_err(io_error("empty", &devices))?;
    fs::create_dir(&devices).map_err(io_error("create", &devices))?;
    Ok(release)
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    fs::remove_file(path).map_err(io_error("remove", path))
}

fn link(target: &str, path: &PathBuf) -> Result<(), ImageError> {
    std::os::unix::fs::symlink(target, path).map_err(io_error("create", path))
}

fn kernel_release(root: &Path) -> Result<String, ImageError> {
    let boot = root.join("boot");
    fs::read_dir(&boot)
        .map_err(io_error("list", &boot))?
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .ok_or_else(|| ImageError::Unexpected("Debian was installed without a kernel".into()))
}

fn grub_config(release: &str) -> String {
    format!(
        "set timeout=0\nserial --unit=0 --speed=115200\n\
         linux /boot/vmlinuz-{release} root=UUID={FILE_SYSTEM_UUID} ro console=tty0 \
         console=ttyS0,115200 net.ifnames=0 biosdevname=0\n\
         initrd /boot/initrd.img-{release}\nboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_from_a_named_mirror_or_from_a_debian_12() {
        let ubuntu = "ID=ubuntu\nVERSION_CODENAME=noble\n";
        assert!(matches!(package_sources(None, ubuntu), Err(ImageError::NeedsMirror)));
        assert_eq!(
            package_sources(Some("http://mirror.example/debian"), ubuntu).unwrap(),
            ["http://mirror.example/debian"]
        );
    }

    #[test]
    fn a_tree_becomes_an_image_without_identity() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["boot", "etc/ssh", "etc/systemd/system", "dev"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("boot/vmlinuz-6.1.0-1-cloud-amd64"), "").unwrap();
        fs::write(root.join("etc/ssh/ssh_host_rsa_key"), "secret").unwrap();
        fs::write(root.join("etc/ssh/sshd_config"), "").unwrap();
        fs::write(root.join("dev/stray"), "").unwrap();
        assert_eq!(configure(root).unwrap(), "6.1.0-1-cloud-amd64");
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
        assert!(root.join("etc/ssh/sshd_config").exists());
        assert!(!root.join("dev/stray").exists());
        assert_eq!(fs::read_to_string(root.join("etc/machine-id")).unwrap(), "");
        let grub = fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(grub.contains("vmlinuz-6.1.0-1-cloud-amd64 root=UUID=7e220012"));
    }
}
