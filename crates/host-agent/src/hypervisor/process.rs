//! Processes of guests: found by what they are, held by pidfd.
//!
//! A QEMU of this data folder is a process whose executable is a QEMU, whose working directory is
//! an instance's folder, and whose `-name` is `INSTANCE/RUN`. No pid file and no parent is needed.

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use terroir_types::{InstanceId, RunId};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::observed::GuestProcess;
use crate::record::ProcessId;

/// A process that cannot be mistaken for another one.
#[derive(Debug)]
pub(super) struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    /// Fails with `ESRCH` if the process is gone or its pid belongs to another one now.
    pub(super) fn open(id: ProcessId) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and gives a new descriptor or -1.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, id.pid, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let raw = RawFd::try_from(raw).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        if start_ticks(id.pid) != Some(id.start_ticks) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // SAFETY: the AsyncFd owns the descriptor, nothing closes it or takes it out before.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered.map(Self).map_err(Into::into)
    }

    /// Returns when the process has ended.
    pub(super) async fn ended(&self) {
        // An error here means that the runtime is going away.
        let _ = self.0.readable().await;
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is open, and a null siginfo is allowed.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Field 22 of `/proc/PID/stat`; `None` if the process is gone or a zombie.
pub(super) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

pub(super) fn name_of_run(instance: InstanceId, run_id: RunId) -> String {
    format!("{instance}/{run_id}")
}

pub(super) fn parse_name(name: &str) -> Option<(InstanceId, RunId)> {
    let (instance, run) = name.split_once('/')?;
    Some((instance.parse().ok()?, run.parse().ok()?))
}

/// Every QEMU of the data folder whose instances live in `instances_dir` (absolute, without links).
pub(super) fn scan(instances_dir: &Path) -> io::Result<Vec<(InstanceId, GuestProcess)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(guest) = pid.and_then(|pid| guest_of(pid, &entry.path(), instances_dir)) {
            found.push(guest);
        }
    }
    Ok(found)
}

fn guest_of(pid: i32, proc_dir: &Path, instances_dir: &Path) -> Option<(InstanceId, GuestProcess)> {
    let cwd = std::fs::read_link(proc_dir.join("cwd")).ok()?;
    let cwd = cwd.to_str()?;
    let folder = Path::new(cwd.strip_suffix(" (deleted)").unwrap_or(cwd)).strip_prefix(instances_dir).ok()?;
    let folder: InstanceId = folder.to_str()?.parse().ok()?;
    let executable = std::fs::read_link(proc_dir.join("exe")).ok()?;
    executable.file_name()?.to_str()?.starts_with("qemu-system-").then_some(())?;
    let command_line = std::fs::read(proc_dir.join("cmdline")).ok()?;
    let mut arguments = command_line.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name")?;
    let (instance, run_id) = parse_name(std::str::from_utf8(arguments.next()?).ok()?)?;
    let start_ticks = start_ticks(pid)?;
    (instance == folder).then_some((instance, GuestProcess { id: ProcessId { pid, start_ticks }, run_id }))
}

/// What the child does between fork and exec, besides the command itself.
pub(super) struct Descent {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Group of `/dev/kvm`, if KVM is used.
    pub(super) extra_group: Option<u32>,
    /// Descriptors that QEMU keeps, under the same numbers.
    pub(super) inherited: Vec<RawFd>,
    /// Open `cgroup.procs` files to enter.
    pub(super) cgroups: Vec<RawFd>,
}

/// Starts `command` in a session of its own, without privileges and with these descriptors only.
pub(super) fn spawn(command: &mut Command, descent: Descent) -> io::Result<Child> {
    // SAFETY: between fork and exec of a threaded process only async-signal-safe calls are allowed.
    // `descend` makes system calls only and allocates nothing; the vectors were filled before.
    unsafe { command.pre_exec(move || descend(&descent)) };
    command.spawn()
}

fn descend(descent: &Descent) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for fd in &descent.cgroups {
        // SAFETY: a one-byte constant buffer. A cgroup that cannot be entered is no reason not to start.
        let _ = unsafe { libc::write(*fd, b"0".as_ptr().cast(), 1) };
    }
    for fd in &descent.inherited {
        // SAFETY: clears the close-on-exec flag of a descriptor that the parent holds open.
        check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
    }
    // SAFETY: plain system calls on integers; the group list has as many elements as is said.
    unsafe {
        check(libc::setsid())?;
        match &descent.extra_group {
            Some(group) => check(libc::setgroups(1, group))?,
            None => check(libc::setgroups(0, std::ptr::null()))?,
        }
        check(libc::setresgid(descent.gid, descent.gid, descent.gid))?;
        check(libc::setresuid(descent.uid, descent.uid, descent.uid))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core))
    }
}
