//! Network namespaces by name, as `ip netns` keeps them: a file under /run/netns with the namespace mounted on it.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::NetworkError;

const DIRECTORY: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Names under /run/netns.
pub fn list() -> Result<Vec<String>, NetworkError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(NetworkError::io(DIRECTORY)(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(NetworkError::io(DIRECTORY))
}

/// Opens the namespace called `name`; `None` if there is none, or only a file on which nothing is mounted (what a
/// half-finished creation or a foreign `umount` leaves).
pub fn open(name: &str) -> Result<Option<File>, NetworkError> {
    let path = path(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetworkError::io(path.display().to_string())(error)),
    };
    let kind = nix::sys::statfs::fstatfs(&file).map_err(NetworkError::errno(path.display().to_string()))?;
    Ok((kind.filesystem_type() == nix::sys::statfs::NSFS_MAGIC).then_some(file))
}

/// Makes a namespace and gives it a name.
pub fn create(name: &str) -> Result<File, NetworkError> {
    let what = || format!("namespace {name}");
    let made = std::thread::scope(|scope| {
        // A thread of its own: unshare moves the calling thread for good.
        let maker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(NetworkError::errno(what()))?;
            File::open("/proc/thread-self/ns/net").map_err(NetworkError::io(what()))
        });
        maker.join().map_err(|_| NetworkError::Spec(format!("the thread that makes {name} panicked")))
    })??;
    give_name(&made, name)?;
    Ok(made)
}

/// Names a namespace that has none (any more). Whatever else had the name loses it.
pub fn give_name(namespace: &File, name: &str) -> Result<(), NetworkError> {
    let what = || format!("namespace {name}");
    fs::create_dir_all(DIRECTORY).map_err(NetworkError::io(DIRECTORY))?;
    let path = path(name);
    File::options().write(true).create(true).truncate(false).open(&path).map_err(NetworkError::io(what()))?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(NetworkError::errno(what()))
}

/// Takes the name away. The namespace itself ends with its last process and descriptor.
pub fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(NetworkError::errno(format!("namespace {name}"))(errno)),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::io(path.display().to_string())(error))
        }
        _ => Ok(()),
    }
}

/// Runs `work` inside `namespace`, on a thread of its own: a thread that entered a namespace is not to be reused.
pub fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(NetworkError::errno("entering a namespace"))?;
            work()
        });
        worker.join().unwrap_or_else(|_| Err(NetworkError::Spec("a thread inside a namespace panicked".to_owned())))
    })
}
