//! One cgroup per guest, below one per data folder: version 2 where it has the controllers,
//! version 1 otherwise. A host without either runs guests all the same, without limits.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terroir_types::InstanceId;
use tokio::time::Instant;

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const PERIOD_US: u64 = 100_000;
/// QEMU's own threads beside one per virtual processor: monitor, disk workers, RCU.
const OWN_THREADS: u64 = 160;
const REMOVE_DEADLINE: Duration = Duration::from_secs(2);

/// Limits of one guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) vcpus: u32,
    /// The guest's memory and what its QEMU needs besides.
    pub(super) memory_bytes: u64,
}

/// The cgroups of one data folder.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    group: String,
    version: Version,
}

#[derive(Debug, Clone)]
enum Version {
    One(Vec<&'static str>),
    Two,
    Absent,
}

impl Cgroups {
    pub(super) fn detect(tag: &str) -> Self {
        let group = format!("terroir-{tag}");
        let unified = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers")).unwrap_or_default();
        let version = if CONTROLLERS.iter().all(|c| unified.split_whitespace().any(|have| have == *c)) {
            Version::Two
        } else {
            let have = |c: &&str| Path::new(ROOT).join(c).join("cgroup.procs").exists();
            let found: Vec<_> = CONTROLLERS.into_iter().filter(have).collect();
            if found.is_empty() { Version::Absent } else { Version::One(found) }
        };
        Self { group, version }
    }

    /// Makes the guest's cgroups and gives their `cgroup.procs`, open for writing. What cannot be
    /// set is logged and left out.
    pub(super) fn prepare(&self, instance: InstanceId, limits: Limits) -> Vec<OwnedFd> {
        let folders = self.folders(Some(instance));
        if matches!(self.version, Version::Two) {
            let all = "+cpu +memory +pids";
            note(Path::new(ROOT), write(&Path::new(ROOT).join("cgroup.subtree_control"), all));
            note(Path::new(ROOT), fs::create_dir_all(Path::new(ROOT).join(&self.group)));
            let below = Path::new(ROOT).join(&self.group).join("cgroup.subtree_control");
            note(&below, write(&below, all));
        }
        let mut open = Vec::new();
        for (controller, folder) in folders {
            let entered = fs::create_dir_all(&folder).and_then(|()| {
                self.limit(controller, &folder, limits);
                OpenOptions::new().write(true).open(folder.join("cgroup.procs"))
            });
            match entered {
                Ok(file) => open.push(file.into()),
                Err(error) => note(&folder, Err(error)),
            }
        }
        open
    }

    fn limit(&self, controller: &str, folder: &Path, limits: Limits) {
        let quota = (u64::from(limits.vcpus) + 1) * PERIOD_US;
        let pids = OWN_THREADS + 2 * u64::from(limits.vcpus);
        let set = |file: &str, value: String| note(folder, write(&folder.join(file), &value));
        match (&self.version, controller) {
            (Version::Two, _) => {
                set("cpu.max", format!("{quota} {PERIOD_US}"));
                set("cpu.weight", (u64::from(limits.vcpus) * 100).clamp(1, 10_000).to_string());
                set("memory.max", limits.memory_bytes.to_string());
                set("pids.max", pids.to_string());
            }
            (_, "cpu") => {
                set("cpu.cfs_period_us", PERIOD_US.to_string());
                set("cpu.cfs_quota_us", quota.to_string());
                set("cpu.shares", (u64::from(limits.vcpus) * 1024).to_string());
            }
            (_, "memory") => set("memory.limit_in_bytes", limits.memory_bytes.to_string()),
            _ => set("pids.max", pids.to_string()),
        }
    }

    fn folders(&self, instance: Option<InstanceId>) -> Vec<(&'static str, PathBuf)> {
        let below = |root: PathBuf| {
            let group = root.join(&self.group);
            instance.map_or(group.clone(), |id| group.join(id.to_string()))
        };
        match &self.version {
            Version::Absent => vec![],
            Version::Two => vec![("", below(PathBuf::from(ROOT)))],
            Version::One(found) => found.iter().map(|c| (*c, below(Path::new(ROOT).join(c)))).collect(),
        }
    }

    pub(super) async fn remove(&self, instance: InstanceId) {
        for (_, folder) in self.folders(Some(instance)) {
            remove(&folder).await;
        }
    }

    /// Removes the data folder's cgroups; those with a process in it stay.
    pub(super) async fn remove_all(&self) {
        for (_, folder) in self.folders(None) {
            let children = fs::read_dir(&folder).into_iter().flatten().flatten();
            for child in children.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                remove(&child.path()).await;
            }
            remove(&folder).await;
        }
    }
}

/// The kernel keeps a cgroup busy for a moment after its last process has ended.
async fn remove(folder: &Path) {
    let deadline = Instant::now() + REMOVE_DEADLINE;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return note(folder, Err(error)),
            _ => return,
        }
    }
}

/// cgroup files are written, never created.
fn write(file: &Path, value: &str) -> std::io::Result<()> {
    std::io::Write::write_all(&mut OpenOptions::new().write(true).open(file)?, value.as_bytes())
}

fn note(place: &Path, result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(place = %place.display(), %error, "cgroup");
    }
}
