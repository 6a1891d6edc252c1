//! The distribution's kernel for virtual machines, and those of its modules that a guest needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::packages::{Candidate, Catalogue, PackageCache};
use crate::{ImageError, io_error};

/// Meta packages, the most fitting first: Debian's, then Ubuntu's.
pub(crate) const META_PACKAGES: [&str; 3] = ["linux-image-cloud-amd64", "linux-image-kvm", "linux-image-virtual"];

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// `package=version` of what it is made from.
    pub source: String,
    pub vmlinuz: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: String,
}

/// A module in an order in which it can be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub name: String,
    pub contents: Vec<u8>,
}

impl Kernel {
    /// Fetches the newest kernel that apt knows.
    pub(crate) fn fetch(cache: &PackageCache, catalogue: &mut Catalogue) -> Result<Self, ImageError> {
        let image = newest_image_package(catalogue)?;
        let release = image.name.trim_start_matches("linux-image-").trim_start_matches("unsigned-").to_owned();
        let mut trees = vec![cache.unpacked(&image)?];
        // Ubuntu keeps modules in a package of their own.
        let modules_package = format!("linux-modules-{release}");
        if let Some(modules) = catalogue.get(&modules_package) {
            trees.push(cache.unpacked(modules)?);
        }
        let find = |relative: String| {
            trees
                .iter()
                .map(|tree| tree.join(&relative))
                .find(|path| path.exists())
                .ok_or_else(|| ImageError::Unexpected(format!("{} has no /{relative}", image.name)))
        };
        let vmlinuz = find(format!("boot/vmlinuz-{release}"))?;
        let modules = find(format!("lib/modules/{release}/kernel"))?;
        let builtin_list = find(format!("lib/modules/{release}/modules.builtin"))?;
        let builtin = fs::read_to_string(&builtin_list).map_err(io_error("read", &builtin_list))?;
        let mut files = BTreeMap::new();
        collect_modules(&modules, &mut files)?;
        let source = format!("{}={}", image.name, image.version);
        Ok(Self { release, source, vmlinuz, files, builtin })
    }

    /// `names` and what they depend on, dependencies first. Built-in ones are left out.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<Module>, ImageError> {
        let mut ordered = Vec::new();
        for name in names {
            self.add_module(&canonical(name), &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add_module(&self, name: &str, ordered: &mut Vec<Module>) -> Result<(), ImageError> {
        if ordered.iter().any(|module| module.name == name) || self.is_builtin(name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| ImageError::Unexpected(format!("kernel {} has no module `{name}`", self.release)))?;
        let contents = read_module(path)?;
        for dependency in dependencies(&contents) {
            self.add_module(&dependency, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), contents });
        Ok(())
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin.lines().filter_map(module_name).any(|builtin| builtin == name)
    }
}

fn newest_image_package(catalogue: &mut Catalogue) -> Result<Candidate, ImageError> {
    catalogue.ask(META_PACKAGES.map(str::to_owned))?;
    let releases: Vec<String> = META_PACKAGES
        .iter()
        .filter_map(|name| catalogue.get(name))
        .flat_map(|meta| meta.depends.iter())
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    catalogue.ask(
        releases.iter().flat_map(|release| [format!("linux-image-{release}"), format!("linux-modules-{release}")]),
    )?;
    releases.iter().find_map(|release| catalogue.get(&format!("linux-image-{release}"))).cloned().ok_or_else(|| {
        ImageError::MissingPackage {
            package: META_PACKAGES[0].to_owned(),
            reason: "apt knows no kernel for virtual machines; run `apt-get update`".to_owned(),
        }
    })
}

/// File names use `-` and `_` alike; the kernel's own names have only `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/net/virtio_net.ko.xz` → `virtio_net`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, _) = file.split_once(".ko")?;
    Some(canonical(stem))
}

fn collect_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ImageError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.is_dir() {
            collect_modules(&path, files)?;
        } else if let Some(name) = module_name(&path.to_string_lossy()) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// busybox cannot load compressed modules, so they are stored plain.
fn read_module(path: &Path) -> Result<Vec<u8>, ImageError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => Tool::new("zstd", "zstd").arg("-dcq").arg(path).run(),
        Some("xz") => Tool::new("xz", "xz-utils").arg("-dc").arg(path).run(),
        _ => fs::read(path).map_err(io_error("read", path)),
    }
}

/// The `depends=` entry of a module's `.modinfo` section, found by its text: entries are
/// zero-terminated and this key occurs nowhere else.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_and_dependencies_are_read() {
        for (path, name) in [
            ("kernel/drivers/net/virtio_net.ko", Some("virtio_net")),
            ("kernel/drivers/char/hw_random/virtio-rng.ko.zst", Some("virtio_rng")),
            ("kernel/modules.order", None),
        ] {
            assert_eq!(module_name(path).as_deref(), name, "{path}");
        }
        for (bytes, expected) in [
            (&b"x\0depends=virtio,virtio-ring\0y"[..], &["virtio", "virtio_ring"][..]),
            (b"x\0depends=\0y", &[]),
            (b"nothing", &[]),
        ] {
            assert_eq!(dependencies(bytes), expected);
        }
    }
}
