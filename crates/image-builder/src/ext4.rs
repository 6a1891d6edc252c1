//! An ext4 file system written file by file with `debugfs`, so that owners, modes, times and
//! the order of inodes are ours and neither root nor a mount is needed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::{ImageError, io_error};

/// Features are fixed, so that the image does not depend on what the building machine's
/// `mke2fs.conf` prefers, and GRUB 2.06 reads it (it knows no metadata_csum_seed, no orphan_file).
pub(crate) const MKE2FS_CONF: &str = "[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
";

/// Files of a file system to be made. Parents must be added before their children.
#[derive(Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

struct Node {
    /// Absolute, without a trailing slash.
    path: String,
    mode: u32,
    uid: u32,
    kind: NodeKind,
}

enum NodeKind {
    Directory,
    Contents(Vec<u8>),
    Copy(PathBuf),
    Symlink(String),
}

/// Where and how a file system is made.
pub(crate) struct Layout<'a> {
    pub disk: &'a Path,
    /// Start of the partition in the disk, bytes.
    pub offset_bytes: u64,
    pub size_kib: u64,
    pub uuid: &'a str,
    pub label: &'a str,
    /// Inodes of a group of blocks (128 MiB); growing adds as many per group.
    pub inodes: u32,
    /// Seconds since 1970 in all inodes and in the superblock.
    pub time: u64,
}

impl Tree {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, mode, NodeKind::Directory);
    }

    pub(crate) fn contents(&mut self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) {
        self.add(path, mode, NodeKind::Contents(contents.into()));
    }

    pub(crate) fn copy(&mut self, path: &str, mode: u32, source: PathBuf) {
        self.add(path, mode, NodeKind::Copy(source));
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, 0o777, NodeKind::Symlink(target.to_owned()));
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.iter().any(|node| node.path == path)
    }

    /// Gives the node added last to `uid` and its group.
    pub(crate) fn owned_by(&mut self, uid: u32) {
        if let Some(node) = self.nodes.last_mut() {
            node.uid = uid;
        }
    }

    fn add(&mut self, path: &str, mode: u32, kind: NodeKind) {
        debug_assert!(path.starts_with('/') && !self.contains(path), "{path}");
        self.nodes.push(Node { path: path.to_owned(), mode, uid: 0, kind });
    }

    /// Makes the file system in the partition. `scratch` is an empty folder for file contents.
    pub(crate) fn write(&self, layout: &Layout<'_>, scratch: &Path) -> Result<(), ImageError> {
        let time = layout.time.to_string();
        let config = scratch.join("mke2fs.conf");
        fs::write(&config, MKE2FS_CONF).map_err(io_error("write", &config))?;
        Tool::new("mke2fs", "e2fsprogs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0"])
            .args(["-U", layout.uuid, "-L", layout.label])
            .args(["-N", &layout.inodes.to_string()])
            .arg("-E")
            .arg(format!(
                "offset={},hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
                layout.offset_bytes, layout.uuid
            ))
            .arg(layout.disk)
            .arg(format!("{}k", layout.size_kib))
            .env("MKE2FS_CONFIG", &config.to_string_lossy())
            .env("E2FSPROGS_FAKE_TIME", &time)
            .env("SOURCE_DATE_EPOCH", &time)
            .run()?;
        let script = self.script(&time, scratch)?;
        let device = format!("{}?offset={}", layout.disk.display(), layout.offset_bytes);
        let (_, stderr) = Tool::new("debugfs", "e2fsprogs")
            .args(["-w", "-f", "-"])
            .arg(device)
            .env("E2FSPROGS_FAKE_TIME", &time)
            .input(script)
            .run_with_stderr()?;
        // debugfs exits with 0 whatever a command of its script said.
        let complaint = stderr.lines().find(|line| !line.starts_with("debugfs 1."));
        match complaint {
            None => Ok(()),
            Some(line) => Err(ImageError::Command { command: "debugfs -w".to_owned(), reason: line.to_owned() }),
        }
    }

    fn script(&self, time: &str, scratch: &Path) -> Result<String, ImageError> {
        let mut script = format!("set_current_time @{time}\n");
        for (index, node) in self.nodes.iter().enumerate() {
            let path = &node.path;
            let mut kind_bits = 0;
            match &node.kind {
                NodeKind::Directory => {
                    kind_bits = 0o040_000;
                    let _ = writeln!(script, "mkdir {path}");
                }
                NodeKind::Symlink(target) => {
                    let _ = writeln!(script, "symlink {path} {target}");
                }
                NodeKind::Contents(contents) => {
                    kind_bits = 0o100_000;
                    let source = scratch.join(index.to_string());
                    fs::write(&source, contents).map_err(io_error("write", &source))?;
                    let _ = writeln!(script, "write {} {path}", quoted(&source));
                }
                NodeKind::Copy(source) => {
                    kind_bits = 0o100_000;
                    let source = fs::canonicalize(source).map_err(io_error("open", source))?;
                    let _ = writeln!(script, "write {} {path}", quoted(&source));
                }
            }
            if kind_bits != 0 {
                let _ = writeln!(script, "sif {path} mode 0{:o}", kind_bits | node.mode);
            }
            if node.uid != 0 {
                let _ = writeln!(script, "sif {path} uid {0}\nsif {path} gid {0}", node.uid);
            }
        }
        let _ = writeln!(script, "ssv mkfs_time @{time}\nssv lastcheck @{time}");
        Ok(script)
    }
}

/// debugfs splits its lines like a shell and knows double quotes.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
