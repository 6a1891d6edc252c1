//! Files that hold the bytes of larger objects and of parts.
//!
//! A file is named after the number of its content and stands in one of 256 folders: `files/3f/0000000c0000003f`. No
//! name of an object or bucket is in a path. A file counts only once the index names it, so it is written in place: an
//! unfinished one is removed by its [`Unfinished`] guard, or, after a crash, by the sweep.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remote::RemoteUnfinished;

const FOLDERS: u64 = 256;

/// The number of a content: the start of the process that made it (24 bits), then a counter (40 bits).
pub(super) type ContentId = u64;

pub(super) const COUNTER_BITS: u32 = 40;

pub(super) const fn epoch_of(id: ContentId) -> u64 {
    id >> COUNTER_BITS
}

#[derive(Clone)]
pub(super) struct Files(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// Held open to be synced.
    folders: Vec<File>,
}

impl Files {
    /// Makes the folders that are missing.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700).create(root)?;
        let mut folders = Vec::new();
        let mut made = false;
        for number in 0..FOLDERS {
            let path = root.join(format!("{number:02x}"));
            if !path.is_dir() {
                make.create(&path)?;
                made = true;
            }
            folders.push(File::open(&path)?);
        }
        if made {
            File::open(root)?.sync_all()?;
        }
        Ok(Self(Arc::new(Inner { root: root.to_owned(), folders })))
    }

    fn path(&self, id: ContentId) -> PathBuf {
        self.0.root.join(format!("{:02x}/{id:016x}", id % FOLDERS))
    }

    pub(super) fn create(&self, id: ContentId) -> io::Result<(File, Unfinished)> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(id))?;
        Ok((file, Unfinished { files: self.clone(), ids: vec![id], remote: Vec::new() }))
    }

    /// A second name for the same bytes; the entry is not synced.
    pub(super) fn link(&self, from: ContentId, to: ContentId) -> io::Result<Unfinished> {
        match std::fs::hard_link(self.path(from), self.path(to)) {
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                let (mut file, unfinished) = self.create(to)?;
                io::copy(&mut self.read(from)?, &mut file)?;
                file.sync_data()?;
                return Ok(unfinished);
            }
            linked => linked?,
        }
        Ok(Unfinished { files: self.clone(), ids: vec![to], remote: Vec::new() })
    }

    /// Puts the file's directory entry on disk.
    pub(super) fn sync_entry(&self, id: ContentId) -> io::Result<()> {
        self.0.folders[usize::try_from(id % FOLDERS).unwrap_or_default()].sync_all()
    }

    /// As [`Files::sync_entry`], once per folder.
    pub(super) fn sync_entries(&self, ids: &[ContentId]) -> io::Result<()> {
        let folders: std::collections::BTreeSet<_> = ids.iter().map(|id| id % FOLDERS).collect();
        folders.into_iter().try_for_each(|folder| self.sync_entry(folder))
    }

    pub(super) fn read(&self, id: ContentId) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// What is gone already is no error.
    pub(super) fn remove(&self, id: ContentId) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The ids of the files in one folder whose names are of our making; others are left alone.
    pub(super) fn in_folder(&self, folder: u64) -> io::Result<Vec<ContentId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.0.root.join(format!("{folder:02x}")))? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            ids.extend(id.filter(|id| id % FOLDERS == folder && name.to_str() == Some(&format!("{id:016x}"))));
        }
        Ok(ids)
    }

    pub(super) const fn folder_numbers() -> std::ops::Range<u64> {
        0..FOLDERS
    }
}

/// Files that nothing names yet; they are removed unless [`Unfinished::keep`] is called.
pub(super) struct Unfinished {
    files: Files,
    ids: Vec<ContentId>,
    /// The same elsewhere.
    remote: Vec<RemoteUnfinished>,
}

impl Unfinished {
    pub(super) fn keep(mut self) {
        self.ids.clear();
        self.remote.drain(..).for_each(RemoteUnfinished::keep);
    }

    pub(super) fn none(files: &Files) -> Self {
        Self { files: files.clone(), ids: Vec::new(), remote: Vec::new() }
    }

    /// Those here.
    pub(super) fn ids(&self) -> &[ContentId] {
        &self.ids
    }

    pub(super) fn add_remote(&mut self, unfinished: RemoteUnfinished) {
        self.remote.push(unfinished);
    }

    pub(super) fn add(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.remote.append(&mut other.remote);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            if let Err(error) = self.files.remove(id) {
                tracing::warn!(%error, id, "an unfinished object file was not removed; the next start does it");
            }
        }
    }
}
