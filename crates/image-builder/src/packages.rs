//! Debian packages, fetched and unpacked without installing them.
//!
//! The machine's own apt says which versions there are and where, so its mirrors, proxies and
//! signing keys are used. What was fetched stays in a cache folder; a second build of the same
//! versions needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::disk::sha256_file;
use crate::{ImageError, io_error};

/// A package version that apt would install now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub name: String,
    pub version: String,
    pub sha256: String,
    pub depends: Vec<String>,
}

/// A cache of package files (`*.deb`) and of their contents.
pub(crate) struct PackageCache {
    dir: PathBuf,
}

impl PackageCache {
    /// The folder that `TERROIR_PACKAGE_CACHE` names, else `packages` in `out_dir`.
    pub(crate) fn open(out_dir: &Path) -> Result<Self, ImageError> {
        let dir = std::env::var_os("TERROIR_PACKAGE_CACHE").map_or_else(|| out_dir.join("packages"), PathBuf::from);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let dir = fs::canonicalize(&dir).map_err(io_error("open", &dir))?;
        Ok(Self { dir })
    }

    /// Fetches what is not cached, with one call of apt.
    pub(crate) fn fetch(&self, candidates: &[Candidate]) -> Result<(), ImageError> {
        let missing: Vec<&Candidate> = candidates
            .iter()
            .filter(|candidate| !self.tree(candidate).is_dir() && !self.archive(candidate).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let failed = |reason: String| ImageError::MissingPackage {
            package: missing.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(" "),
            reason,
        };
        Tool::new("apt-get", "apt")
            // Root's apt would drop to a user who cannot write here, and warn about it.
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .args(missing.iter().map(|it| format!("{}={}", it.name, it.version)))
            .current_dir(scratch.path())
            .run()
            .map_err(|error| failed(format!("{error}; is the network there?")))?;
        let mut fetched = BTreeMap::new();
        for entry in fs::read_dir(scratch.path()).map_err(io_error("list", scratch.path()))? {
            let path = entry.map_err(io_error("list", scratch.path()))?.path();
            fetched.insert(sha256_file(&path)?, path);
        }
        for candidate in &missing {
            let path = fetched
                .get(&candidate.sha256)
                .ok_or_else(|| failed(format!("no fetched file has the checksum of {}", candidate.name)))?;
            fs::rename(path, self.archive(candidate)).map_err(io_error("rename", path))?;
        }
        Ok(())
    }

    /// Unpacks a package, fetching it if needed. The folder holds the package's file tree.
    pub(crate) fn unpacked(&self, candidate: &Candidate) -> Result<PathBuf, ImageError> {
        let unpacked = self.tree(candidate);
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        self.fetch(std::slice::from_ref(candidate))?;
        let scratch = self.scratch()?;
        let tree = scratch.path().join("tree");
        Tool::new("dpkg-deb", "dpkg").arg("-x").arg(self.archive(candidate)).arg(&tree).run()?;
        match fs::rename(&tree, &unpacked) {
            Ok(()) => Ok(unpacked),
            // Another build unpacked the same package meanwhile.
            Err(_) if unpacked.is_dir() => Ok(unpacked),
            Err(error) => Err(io_error("rename", &tree)(error)),
        }
    }

    fn tree(&self, candidate: &Candidate) -> PathBuf {
        self.dir.join(format!("{}_{}", candidate.name, candidate.version.replace([':', '/'], "_")))
    }

    fn archive(&self, candidate: &Candidate) -> PathBuf {
        let mut name = self.tree(candidate).into_os_string();
        name.push(".deb");
        name.into()
    }

    fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(&self.dir)
            .map_err(io_error("create a folder in", &self.dir))
    }
}

/// What apt would install now. Starting apt costs a second on some machines, so names are asked
/// for in batches and remembered.
#[derive(Default)]
pub(crate) struct Catalogue {
    known: BTreeMap<String, Candidate>,
    asked: BTreeSet<String>,
}

impl Catalogue {
    /// Learns about `names`; those that apt does not know are left out.
    pub(crate) fn ask(&mut self, names: impl IntoIterator<Item = String>) -> Result<(), ImageError> {
        let new: Vec<String> = names.into_iter().filter(|name| self.asked.insert(name.clone())).collect();
        if new.is_empty() {
            return Ok(());
        }
        let shown = Tool::new("apt-cache", "apt").args(["show", "--no-all-versions", "--quiet=2"]).args(&new).run();
        match shown {
            Ok(stdout) => self.known.extend(parse_show(&String::from_utf8_lossy(&stdout))),
            // apt-cache fails when it knows none of them.
            Err(ImageError::Command { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Candidate> {
        self.known.get(name)
    }

    pub(crate) fn require(&self, name: &str) -> Result<Candidate, ImageError> {
        self.get(name).cloned().ok_or_else(|| ImageError::MissingPackage {
            package: name.to_owned(),
            reason: "apt does not know it; run `apt-get update`".to_owned(),
        })
    }

    /// The packages `names`, all of which must be known, and the libraries that they depend on.
    pub(crate) fn with_libraries(&mut self, names: &[&str]) -> Result<Vec<Candidate>, ImageError> {
        self.ask(names.iter().map(|&name| name.to_owned()))?;
        let mut chosen: BTreeMap<String, Candidate> = BTreeMap::new();
        for name in names {
            chosen.insert((*name).to_owned(), self.require(name)?);
        }
        loop {
            let wanted: BTreeSet<String> = chosen
                .values()
                .flat_map(|candidate| candidate.depends.iter())
                .filter(|name| name.starts_with("lib") || name.starts_with("zlib"))
                .filter(|name| !chosen.contains_key(*name))
                .cloned()
                .collect();
            self.ask(wanted.iter().cloned())?;
            let found: Vec<Candidate> = wanted.iter().filter_map(|name| self.get(name)).cloned().collect();
            if found.is_empty() {
                return Ok(chosen.into_values().collect());
            }
            chosen.extend(found.into_iter().map(|candidate| (candidate.name.clone(), candidate)));
        }
    }
}

/// Reads the stanzas that `apt-cache show` prints (deb-control(5)).
fn parse_show(text: &str) -> BTreeMap<String, Candidate> {
    let mut found = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let field = |wanted: &str| {
            stanza.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                (name == wanted).then(|| value.trim().to_owned())
            })
        };
        let (Some(name), Some(version), Some(sha256)) = (field("Package"), field("Version"), field("SHA256")) else {
            continue;
        };
        let depends = [field("Pre-Depends"), field("Depends")];
        let depends = depends
            .iter()
            .flatten()
            .flat_map(|list| list.split(','))
            // Of alternatives, the first; without version or architecture.
            .filter_map(|entry| entry.split(['|', '(', ':']).next())
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        found.entry(name.clone()).or_insert(Candidate { name, version, sha256, depends });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_apt_cache_are_read() {
        let text = "Package: dropbear-bin\nVersion: 2022.83-1\nDepends: libc6 (>= 2.36), \
                    libtomcrypt1 | other, zlib1g:any (>= 1:1.1)\nPre-Depends: libcrypt1\n\
                    Description-en: x\n SHA256: not this\nSHA256: ab\n\n\
                    Package: virtual\nDescription-en: no version\n\n\
                    Package: b\nVersion: 1\nSHA256: cd\n";
        let found = parse_show(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found["b"].depends, Vec::<String>::new());
        let dropbear = &found["dropbear-bin"];
        assert_eq!(dropbear.sha256, "ab");
        assert_eq!(dropbear.depends, ["libcrypt1", "libc6", "libtomcrypt1", "zlib1g"]);
    }
}
