//! QEMU by itself: what a guest takes to answer where no cloud is around it.
//!
//! The bare guest takes the place of one that the cloud has just launched. It has the same command line to the letter
//! but for the numbers of descriptors, the same kernel, tap and network with the same answers to DHCP and metadata
//! (guest-services outlives the agent), and a new disk of the same image. The agent stands still meanwhile, so that it
//! does not take part.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open, pidfd_send_signal,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cloud::Cloud;
use crate::{say, ssh};

/// What the agent gives `qemu-img` where the file system cannot share blocks.
const OVERLAY: &str = "extended_l2=on,cluster_size=128k,lazy_refcounts=off";
const END_DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Between two measurements, for what the last one left to do.
const REST: Duration = Duration::from_secs(1);

/// From the start of QEMU to the banner. `instance` runs and answers at `address`; its QEMU is ended and its place taken.
pub async fn start_to_banner(cloud: &Cloud, instance: &str, address: &str) -> Result<Duration, String> {
    let _still = Still::hold(cloud.pid("agent")?)?;
    let original = Original::find(instance)?;
    let disk = Disk::like(&original.disk()?, cloud.folder())?;
    let (mut command, descriptors) = original.copy(&disk, cloud.folder())?;
    original.end()?;
    tokio::time::sleep(REST).await;
    let log = File::create(cloud.folder().join("bare.log")).map_err(say)?;
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(say)?).stderr(log).current_dir(cloud.folder());
    let start = Instant::now();
    let _guest = Guest(command.spawn().map_err(|error| format!("QEMU: {error}"))?);
    drop(descriptors);
    ssh::banner(address, start).await
}

/// A process that does not run until this is dropped.
struct Still(Pid);

impl Still {
    fn hold(pid: Pid) -> Result<Self, String> {
        kill_process(pid, Signal::STOP).map_err(say)?;
        Ok(Self(pid))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // Gone is as well.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The QEMU that the cloud started.
struct Original {
    folder: PathBuf,
    process: OwnedFd,
    arguments: Vec<String>,
}

impl Original {
    fn find(instance: &str) -> Result<Self, String> {
        let name = format!("{instance}/");
        for entry in std::fs::read_dir("/proc").map_err(say)?.flatten() {
            let folder = entry.path();
            let Some(pid) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
                continue;
            };
            // Processes come and go.
            let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
            let words = line.strip_suffix(b"\0").unwrap_or_default().split(|byte| *byte == 0);
            let arguments: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            if arguments.windows(2).any(|pair| pair[0] == "-name" && pair[1].starts_with(&name)) {
                let process = pidfd_open(pid, PidfdFlags::empty()).map_err(say)?;
                return Ok(Self { folder, process, arguments });
            }
        }
        Err(format!("no QEMU runs {instance}"))
    }

    /// The file of its root volume.
    fn disk(&self) -> Result<PathBuf, String> {
        let open = std::fs::read_dir(self.folder.join("fd")).map_err(say)?.flatten();
        let mut files = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let is_disk = |file: &PathBuf| matches!(file.file_stem(), Some(stem) if stem == "disk");
        files.find(is_disk).ok_or_else(|| "the guest has no disk".to_owned())
    }

    /// The same command over the same descriptors, except that the disk and the console are new. QEMU has taken what it
    /// was given in sets for itself, under other numbers: that is opened anew.
    fn copy(&self, new: &Disk, folder: &Path) -> Result<(Command, Vec<OwnedFd>), String> {
        let mut taken: BTreeMap<i32, OwnedFd> = BTreeMap::new();
        let mut arguments = Vec::new();
        for argument in &self.arguments[1..] {
            let set = argument.split(',').find_map(|word| word.strip_prefix("set="));
            arguments.push(renumber(argument, |number| {
                if let Some(known) = taken.get(&number) {
                    return Ok(known.as_raw_fd());
                }
                let file = match (set, &new.image) {
                    (None, _) => None,
                    (Some("1"), _) => Some(File::create(folder.join("bare.console"))),
                    (Some("100"), _) => Some(File::options().read(true).write(true).open(&new.file)),
                    (Some("101"), Some(image)) => Some(File::open(image)),
                    (Some(other), _) => return Err(format!("QEMU has a descriptor set {other}")),
                };
                let descriptor: OwnedFd = match file {
                    Some(file) => file.map_err(say)?.into(),
                    None => pidfd_getfd(&self.process, number, PidfdGetfdFlags::empty()).map_err(say)?,
                };
                // Nothing else is started before this command is.
                rustix::io::fcntl_setfd(&descriptor, FdFlags::empty()).map_err(say)?;
                let here = descriptor.as_raw_fd();
                taken.insert(number, descriptor);
                Ok(here)
            })?);
        }
        let mut command = Command::new(self.folder.join("exe").read_link().map_err(say)?);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        Ok((command, taken.into_values().collect()))
    }

    fn end(&self) -> Result<(), String> {
        pidfd_send_signal(&self.process, Signal::KILL).map_err(say)?;
        let mut ended = [PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN)];
        match poll(&mut ended, Some(&END_DEADLINE)).map_err(say)? {
            0 => Err("the cloud's QEMU does not end".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The root volume of a guest that never ran.
struct Disk {
    file: PathBuf,
    /// Below an overlay.
    image: Option<PathBuf>,
}

impl Disk {
    /// As the cloud made `old`: an overlay over the same image, or a clone of it.
    fn like(old: &Path, folder: &Path) -> Result<Self, String> {
        let file = folder.join("bare.disk");
        let _ = std::fs::remove_file(&file);
        let image = if old.extension().is_some_and(|extension| extension == "qcow2") {
            let told = run(Command::new("qemu-img").args(["info", "--output=json", "--force-share"]).arg(old))?;
            let told: serde_json::Value = serde_json::from_str(&told).map_err(say)?;
            let size = told["virtual-size"].as_u64().ok_or("qemu-img tells no size")?.to_string();
            let image = told["full-backing-filename"].as_str().ok_or("qemu-img tells no image")?;
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-o", OVERLAY, "-F", "raw", "-b", image]);
            run(create.arg(&file).arg(size))?;
            Some(image.into())
        } else {
            let images = old.ancestors().nth(3).ok_or("the disk lies nowhere")?.join("images");
            // The largest is the disk; the others are its kernel and its initial RAM disk.
            let files = std::fs::read_dir(&images).map_err(say)?.flatten();
            let image = files.max_by_key(|file| file.metadata().map_or(0, |known| known.len()));
            let image = image.ok_or("the host has no image")?.path();
            run(Command::new("cp").arg("--reflink=always").arg(image).arg(&file))?;
            let size = std::fs::metadata(old).map_err(say)?.len();
            File::options().write(true).open(&file).and_then(|file| file.set_len(size)).map_err(say)?;
            None
        };
        File::open(&file).and_then(|file| file.sync_all()).map_err(say)?;
        Ok(Self { file, image })
    }
}

/// `argument` with every descriptor that it names replaced: `fd=N` and `/proc/self/fd/N`.
fn renumber(argument: &str, mut new: impl FnMut(i32) -> Result<i32, String>) -> Result<String, String> {
    if let Some(number) = argument.strip_prefix("/proc/self/fd/") {
        return Ok(format!("/proc/self/fd/{}", new(number.parse().map_err(say)?)?));
    }
    let mut words = Vec::new();
    for word in argument.split(',') {
        words.push(match word.strip_prefix("fd=") {
            Some(number) => format!("fd={}", new(number.parse().map_err(say)?)?),
            None => word.to_owned(),
        });
    }
    Ok(words.join(","))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_renumbered_and_nothing_else() {
        for (argument, expected) in [
            ("fd=7,set=100,opaque=vol-1", "fd=107,set=100,opaque=vol-1"),
            ("socket,id=monitor,fd=9,server=on,wait=off", "socket,id=monitor,fd=109,server=on,wait=off"),
            ("/proc/self/fd/12", "/proc/self/fd/112"),
            (r#"{"driver":"file","filename":"/dev/fdset/101"}"#, r#"{"driver":"file","filename":"/dev/fdset/101"}"#),
            ("type=0,vendor=Amazon EC2,,x,version=1.0", "type=0,vendor=Amazon EC2,,x,version=1.0"),
        ] {
            assert_eq!(renumber(argument, |number| Ok(number + 100)).unwrap(), expected);
        }
        assert!(renumber("fd=x", Ok).is_err());
    }
}
