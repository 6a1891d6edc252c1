//! Where things lie in the data folder, and who owns them.

use nix::unistd::{Gid, Uid};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The control plane's user when started by root.
pub const SERVER_UID: u32 = 64_701;
/// guest-services' user when started by root.
pub const GUEST_SERVICES_UID: u32 = 64_702;
/// First of the users that instances run as.
pub const INSTANCE_UID_BASE: u32 = 640_000;

#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The folder that `--data-dir` named, or the default. Relative paths become absolute; nothing is created.
    pub fn find(named: Option<&Path>) -> io::Result<Self> {
        let root = match named {
            Some(path) => std::path::absolute(path)?,
            None if Uid::effective().is_root() => PathBuf::from("/var/lib/terroir"),
            None => match std::env::var_os("HOME") {
                Some(home) => PathBuf::from(home).join(".local/share/terroir"),
                None => return Err(io::Error::other("HOME is not set: name a folder with --data-dir")),
            },
        };
        Ok(Self { root })
    }

    /// How whoever sees this output calls this binary for this cloud.
    pub fn command_line(&self) -> String {
        let binary = std::env::current_exe().map_or_else(|_| "terroir".into(), |path| path.display().to_string());
        let sudo = if std::env::var_os("SUDO_UID").is_some() { "sudo " } else { "" };
        match Self::find(None) {
            Ok(usual) if usual.root == self.root => format!("{sudo}{binary}"),
            _ => format!("{sudo}{binary} --data-dir {}", self.root.display()),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Eight hexadecimal digits that mark every kernel object of this cloud.
    pub fn tag(&self) -> String {
        let canonical = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        hex::encode(&Sha256::digest(canonical.as_os_str().as_encoded_bytes())[..4])
    }

    pub fn settings_file(&self) -> PathBuf {
        self.root.join("terroir.toml")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.run().join("lock")
    }

    /// What the supervisor knows of its processes.
    pub fn supervisor_file(&self) -> PathBuf {
        self.run().join("supervisor.json")
    }

    /// The operator's commands.
    pub fn admin_socket(&self) -> PathBuf {
        self.server_run().join("admin.sock")
    }

    /// The agent's crossings.
    pub fn crossing_socket(&self) -> PathBuf {
        self.server_run().join("agent.sock")
    }

    pub fn guest_socket(&self) -> PathBuf {
        self.guest_run().join("guest.sock")
    }

    pub fn guest_snapshot(&self) -> PathBuf {
        self.guest_run().join("guests.json")
    }

    fn server_run(&self) -> PathBuf {
        self.run().join("server")
    }

    fn guest_run(&self) -> PathBuf {
        self.run().join("guest")
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn state_file(&self) -> PathBuf {
        self.state().join("terroir.db")
    }

    /// What the state file is called once the state is in etcd; old, and kept only to be safe.
    pub fn moved_state_file(&self) -> PathBuf {
        self.state().join("terroir.db.moved")
    }

    /// Held by the one process that uses the state.
    pub fn state_lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// The number by which a cell on etcd knows this folder.
    pub fn home_file(&self) -> PathBuf {
        self.state().join("home")
    }

    pub fn metadata_key(&self) -> PathBuf {
        self.state().join("metadata.key")
    }

    /// The seed of the operator's Ed25519 key.
    pub fn operator_key(&self) -> PathBuf {
        self.state().join("operator.key")
    }

    /// The certificate of the APIs, if it is this cloud's own.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub fn host_id_file(&self) -> PathBuf {
        self.agent().join("host-id")
    }

    /// What makes this machine a host of a region whose control plane is on other machines.
    pub fn membership_file(&self) -> PathBuf {
        self.agent().join("membership.json")
    }

    /// Whether that control plane answers.
    pub fn link_file(&self) -> PathBuf {
        self.run().join("link.json")
    }

    /// Built image files before they are handed to the control plane.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn log_file(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// The log of every call.
    pub fn audit(&self) -> PathBuf {
        self.state().join("audit-log")
    }

    /// The records of changes that earlier versions wrote, without a chain.
    pub fn old_audit(&self) -> PathBuf {
        self.state().join("audit")
    }

    /// Closed usage intervals, append-only.
    pub fn usage(&self) -> PathBuf {
        self.state().join("usage")
    }

    /// The log of what was placed where.
    pub fn receipts(&self) -> PathBuf {
        self.state().join("receipts")
    }

    /// What this cloud has seen, as a witness, of other operators' logs.
    pub fn witness(&self) -> PathBuf {
        self.state().join("witness")
    }

    /// Makes the folders, each owned by the process that writes it.
    pub fn create(&self) -> io::Result<()> {
        self.create_for_host()?;
        folders(&[
            (self.server_run(), SERVER_UID, 0o711),
            (self.state(), SERVER_UID, 0o700),
            (self.objects(), SERVER_UID, 0o700),
            (self.images(), 0, 0o700),
        ])
    }

    /// Those of a machine that is a host and nothing else.
    pub fn create_for_host(&self) -> io::Result<()> {
        folders(&[
            (self.root.clone(), 0, 0o711),
            (self.run(), 0, 0o711),
            (self.guest_run(), GUEST_SERVICES_UID, 0o711),
            (self.agent(), 0, 0o711),
            (self.logs(), 0, 0o700),
        ])
    }
}

/// Path, owner if root makes it, and mode.
fn folders(folders: &[(PathBuf, u32, u32)]) -> io::Result<()> {
    let privileged = Uid::effective().is_root();
    for (path, owner, mode) in folders {
        fs::create_dir_all(path).map_err(|error| describe(&error, "cannot create", path))?;
        if privileged {
            let (uid, gid) = (Uid::from_raw(*owner), Gid::from_raw(*owner));
            nix::unistd::chown(path, Some(uid), Some(gid))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// The same error with a sentence that names the path.
pub fn describe(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
