//! The built-in image: kernel, busybox and dropbear on a disk that boots in seconds even where
//! the processor gives no virtualisation.
//!
//! Everything comes from packages of the distribution that the building machine runs. The file
//! tree, its order and its times are fixed, so the same package versions give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::cpio::Archive;
use crate::disk::{self, BootLoader, PARTITION_OFFSET_BYTES, Staged};
use crate::ext4::{Layout, Tree};
use crate::kernel::{Kernel, META_PACKAGES};
use crate::packages::{Candidate, Catalogue, PackageCache};
use crate::progress::Progress;
use crate::{BootHints, BuiltImage, DiskFormat, ImageError, io_error};

/// Virtual size of the disk. Instances grow their root file system to their volume's size.
const DISK_BYTES: u64 = 60 << 20;
const FILE_SYSTEM_UUID: &str = "7e220001-0000-4000-8000-000000000001";
const DISK_SIGNATURE: u32 = 0x7e22_0001;
/// 2025-01-01. All times in the image; a fixed one keeps builds equal.
const BUILD_TIME: u64 = 1_735_689_600;
const CMDLINE: &str = "root=/dev/vda1 rw console=ttyS0,115200 quiet reboot=t panic=-1 net.ifnames=0";

/// Loaded in the initial RAM disk, in this order with their dependencies.
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_scsi",
    "sd_mod",
    "button",
    "evdev",
    "ext4",
];

/// Dynamically linked programs, where they come from and where they go.
const PROGRAMS: [(&str, &str); 6] = [
    ("dropbear-bin", "usr/sbin/dropbear"),
    ("dropbear-bin", "usr/bin/dropbearkey"),
    ("e2fsprogs", "sbin/resize2fs"),
    ("e2fsprogs", "sbin/mke2fs"),
    ("e2fsprogs", "sbin/e2fsck"),
    ("util-linux", "sbin/blkid"),
];

/// Packages of Debian 12 that `tiny` is made from.
const PROBABLE_PACKAGES: [&str; 17] = [
    "busybox-static",
    "dropbear-bin",
    "e2fsprogs",
    "grub-pc-bin",
    "libblkid1",
    "libc6",
    "libcom-err2",
    "libcrypt1",
    "libext2fs2",
    "libgcc-s1",
    "libgmp10",
    "libss2",
    "libtomcrypt1",
    "libtommath1",
    "libuuid1",
    "util-linux",
    "zlib1g",
];

/// busybox applets whose names are taken by the programs above.
const NOT_LINKED: [&str; 3] = ["busybox", "mke2fs", "linuxrc"];

const DIRECTORIES: [(&str, u32); 34] = [
    ("/bin", 0o755),
    ("/boot", 0o755),
    ("/boot/grub", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/etc/acpi", 0o755),
    ("/etc/acpi/PWRF", 0o755),
    ("/etc/dropbear", 0o700),
    ("/etc/init.d", 0o755),
    ("/home", 0o755),
    ("/home/ec2-user", 0o700),
    ("/home/ec2-user/.ssh", 0o700),
    ("/lib", 0o755),
    ("/lib/x86_64-linux-gnu", 0o755),
    ("/lib64", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/root/.ssh", 0o700),
    ("/run", 0o755),
    ("/sbin", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/usr/bin", 0o755),
    ("/usr/sbin", 0o755),
    ("/usr/share", 0o755),
    ("/usr/share/udhcpc", 0o755),
    ("/var", 0o755),
    ("/var/lib", 0o755),
    ("/var/lib/tiny", 0o755),
    ("/var/log", 0o755),
];

const TEXT_FILES: [(&str, u32, &str); 15] = [
    ("/etc/passwd", 0o644, include_str!("tiny/passwd")),
    ("/etc/group", 0o644, "root:x:0:\nec2-user:x:1000:\n"),
    ("/etc/shadow", 0o600, "root:*:19000:0:99999:7:::\nec2-user:*:19000:0:99999:7:::\n"),
    ("/etc/shells", 0o644, "/bin/sh\n/bin/bash\n"),
    ("/etc/hostname", 0o644, "tiny\n"),
    ("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/os-release", 0o644, include_str!("tiny/os-release")),
    ("/etc/profile", 0o644, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"),
    ("/etc/inittab", 0o644, include_str!("tiny/inittab")),
    ("/etc/acpi/PWRF/00000080", 0o755, include_str!("tiny/power-button.sh")),
    ("/etc/init.d/rcS", 0o755, include_str!("tiny/rcS.sh")),
    ("/etc/init.d/metadata", 0o755, include_str!("tiny/metadata.sh")),
    ("/etc/init.d/hotplug", 0o755, include_str!("tiny/hotplug.sh")),
    ("/usr/share/udhcpc/default.script", 0o755, include_str!("tiny/dhcp.sh")),
    ("/bin/bash", 0o755, "#!/bin/sh\n# There is no bash here; most scripts do with ash.\nexec /bin/sh \"$@\"\n"),
];

/// Builds `tiny` into `out_dir`: `tiny.raw`, and for direct boot `tiny.vmlinuz` and
/// `tiny.initrd`. Packages are kept in the
/// folder `TERROIR_PACKAGE_CACHE`, or `out_dir/packages`. Takes some seconds, no root.
pub fn build_tiny(out_dir: &Path, progress: &dyn Progress) -> Result<BuiltImage, ImageError> {
    fs::create_dir_all(out_dir).map_err(io_error("create", out_dir))?;
    let out_dir = &fs::canonicalize(out_dir).map_err(io_error("open", out_dir))?;
    let cache = PackageCache::open(out_dir)?;
    progress.step("fetching packages");
    let mut catalogue = Catalogue::default();
    // All that is probably needed in one question; what it misses is asked for later.
    let probable = META_PACKAGES.iter().chain(&PROBABLE_PACKAGES);
    catalogue.ask(probable.map(|&name| name.to_owned()))?;
    let kernel = Kernel::fetch(&cache, &mut catalogue)?;
    let packages = Userland::fetch(&cache, &mut catalogue)?;
    let loader = BootLoader::build(&cache, &mut catalogue)?;

    progress.step("building the initial RAM disk");
    let busybox = packages.file("busybox-static", "bin/busybox")?;
    let initrd = initial_ram_disk(&kernel, &busybox)?;

    progress.step("writing the disk");
    let scratch = tempfile::tempdir().map_err(io_error("create a folder in", out_dir))?;
    let mut tree = Tree::default();
    system_files(&mut tree);
    programs(&mut tree, &packages, &busybox, scratch.path())?;
    tree.copy("/boot/vmlinuz", 0o644, kernel.vmlinuz.clone());
    tree.contents("/boot/initrd", 0o644, initrd.clone());
    tree.contents("/boot/grub/grub.cfg", 0o644, grub_config());
    let path = out_dir.join("tiny.raw");
    let staged = Staged(disk::staged_name(&path));
    disk::create(&staged.0, DISK_BYTES, DISK_SIGNATURE, &loader)?;
    let layout = Layout {
        disk: &staged.0,
        offset_bytes: PARTITION_OFFSET_BYTES,
        size_kib: (DISK_BYTES - PARTITION_OFFSET_BYTES) >> 10,
        uuid: FILE_SYSTEM_UUID,
        label: "tiny",
        inodes: 4096,
        time: BUILD_TIME,
    };
    tree.write(&layout, scratch.path())?;
    let sha256 = disk::sha256_file(&staged.0)?;
    disk::publish(&staged.0, &path)?;
    let (vmlinuz, initrd_path) = (out_dir.join("tiny.vmlinuz"), out_dir.join("tiny.initrd"));
    let kernel_bytes = fs::read(&kernel.vmlinuz).map_err(io_error("read", &kernel.vmlinuz))?;
    disk::write_whole(&vmlinuz, &kernel_bytes)?;
    disk::write_whole(&initrd_path, &initrd)?;
    Ok(BuiltImage {
        name: "tiny".to_owned(),
        architecture: "x86_64".to_owned(),
        path,
        format: DiskFormat::Raw,
        size_bytes: DISK_BYTES,
        sha256,
        source: format!("{}, {}", kernel.source, packages.source()),
        description: "Linux with busybox and dropbear, for tests and small tasks".to_owned(),
        boot: BootHints { kernel: Some(vmlinuz), initrd: Some(initrd_path), cmdline: Some(CMDLINE.to_owned()) },
    })
}

/// Unpacked packages by name.
struct Userland {
    trees: BTreeMap<String, (Candidate, PathBuf)>,
}

impl Userland {
    fn fetch(cache: &PackageCache, catalogue: &mut Catalogue) -> Result<Self, ImageError> {
        let mut packages = catalogue.with_libraries(&["busybox-static", "dropbear-bin", "e2fsprogs"])?;
        // Only for `blkid`, whose library e2fsprogs has brought; the rest of util-linux' own
        // libraries is not needed.
        catalogue.ask(["util-linux".to_owned()])?;
        packages.push(catalogue.require("util-linux")?);
        cache.fetch(&packages)?;
        let mut trees = BTreeMap::new();
        for candidate in packages {
            let tree = cache.unpacked(&candidate)?;
            trees.insert(candidate.name.clone(), (candidate, tree));
        }
        Ok(Self { trees })
    }

    /// A program of a package, in `/usr` or not: distributions are moving it.
    fn file(&self, package: &str, relative: &str) -> Result<PathBuf, ImageError> {
        let missing = || ImageError::Unexpected(format!("package {package} has no file /{relative}"));
        let (_, tree) = self.trees.get(package).ok_or_else(missing)?;
        [tree.join(relative), tree.join("usr").join(relative)]
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(missing)
    }

    /// `package=version, ...` of what the image names itself.
    fn source(&self) -> String {
        let named = ["busybox-static", "dropbear-bin", "e2fsprogs"];
        let versions = named.iter().filter_map(|name| self.trees.get(*name));
        versions
            .map(|(candidate, _)| format!("{}={}", candidate.name, candidate.version))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Folders of all packages that hold shared libraries.
    fn library_path(&self) -> String {
        let mut dirs = Vec::new();
        for (_, tree) in self.trees.values() {
            for relative in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
                let dir = tree.join(relative);
                if dir.is_dir() {
                    dirs.push(dir.to_string_lossy().into_owned());
                }
            }
        }
        dirs.join(":")
    }

    /// The dynamic loader of the packages' own C library.
    fn loader(&self) -> Result<PathBuf, ImageError> {
        ["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"]
            .iter()
            .find_map(|relative| self.file("libc6", relative).ok())
            .ok_or_else(|| ImageError::Unexpected("package libc6 has no dynamic loader".into()))
    }

    /// Shared libraries that a program loads, as file name and source.
    fn libraries(&self, program: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
        let loader = self.loader()?;
        let output = std::process::Command::new(&loader)
            .args(["--library-path", &self.library_path(), "--list"])
            .arg(program)
            .output()
            .map_err(io_error("run", &loader))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = |reason: &str| {
            ImageError::Unexpected(format!(
                "libraries of {} cannot be found: {reason} {}",
                program.display(),
                String::from_utf8_lossy(&output.stderr)
            ))
        };
        if !output.status.success() || text.contains("not found") {
            return Err(failed(&text));
        }
        let mut libraries = Vec::new();
        for line in text.lines() {
            let Some((name, rest)) = line.trim().split_once(" => ") else {
                continue;
            };
            let path = rest.split(" (").next().unwrap_or(rest);
            if !name.starts_with("ld-linux") && !name.contains("/ld-linux") {
                libraries.push((name.to_owned(), PathBuf::from(path)));
            }
        }
        Ok(libraries)
    }
}

fn system_files(tree: &mut Tree) {
    for (path, mode) in DIRECTORIES {
        tree.directory(path, mode);
        if path.starts_with("/home/") {
            tree.owned_by(1000);
        }
    }
    for (path, mode, contents) in TEXT_FILES {
        tree.contents(path, mode, contents);
    }
}

fn programs(tree: &mut Tree, packages: &Userland, busybox: &Path, scratch: &Path) -> Result<(), ImageError> {
    tree.copy("/bin/busybox", 0o755, busybox.to_owned());
    let mut libraries = BTreeMap::new();
    for (package, relative) in PROGRAMS {
        let source = packages.file(package, relative)?;
        libraries.extend(packages.libraries(&source)?);
        tree.copy(&format!("/{relative}"), 0o755, source);
    }
    tree.symlink("/sbin/mkfs.ext4", "mke2fs");
    tree.symlink("/sbin/mkfs.ext3", "mke2fs");
    tree.symlink("/sbin/mkfs.ext2", "mke2fs");
    tree.symlink("/sbin/fsck.ext4", "e2fsck");
    // mkfs.ext4 makes ext4 only with this; busybox' own mke2fs would make ext2.
    tree.contents("/etc/mke2fs.conf", 0o644, crate::ext4::MKE2FS_CONF);
    for (name, source) in libraries {
        tree.copy(&format!("/lib/x86_64-linux-gnu/{name}"), 0o644, source);
    }
    tree.copy("/lib64/ld-linux-x86-64.so.2", 0o755, packages.loader()?);
    let runnable = scratch.join("busybox");
    fs::copy(busybox, &runnable).map_err(io_error("copy", busybox))?;
    let listed = Tool::new("sh", "dash").args(["-c", "exec \"$0\" --list"]).arg(&runnable).run()?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let applets: BTreeSet<&str> =
        listed.lines().filter(|name| !NOT_LINKED.contains(name) && *name != "blkid").collect();
    for applet in applets {
        tree.symlink(&format!("/bin/{applet}"), "busybox");
    }
    for applet in ["init", "poweroff", "reboot", "halt", "udhcpc", "mkfs.vfat"] {
        let target = if applet == "mkfs.vfat" { "mkdosfs" } else { applet };
        tree.symlink(&format!("/sbin/{applet}"), &format!("../bin/{target}"));
    }
    Ok(())
}

fn initial_ram_disk(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>, ImageError> {
    let busybox = fs::read(busybox).map_err(io_error("read", busybox))?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &busybox);
    archive.symlink("bin/sh", "busybox");
    let mut order = String::new();
    for module in kernel.modules(&MODULES)? {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.contents);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, include_bytes!("tiny/init.sh"));
    Ok(archive.finish())
}

fn grub_config() -> String {
    format!("set timeout=0\nlinux /boot/vmlinuz {CMDLINE}\ninitrd /boot/initrd\nboot\n")
}
