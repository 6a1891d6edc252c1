//! QEMU: one process per guest, which outlives the agent. Whoever runs is found by looking, so a
//! new agent goes on where the old one stopped.

use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_agent_api::HypervisorKind;
use terroir_types::{InstanceId, RunId};

use super::accelerator::{Accelerator, detect_accelerator};
use super::arguments::{DEFAULT_MACHINE, Descriptors, DiskDescriptors, MAX_DEVICE_INDEX, MAX_VOLUME_SLOT, arguments};
use super::cgroup::{Cgroups, Limits};
use super::monitor::Monitor;
use super::process::{self, Descent, PidFd, start_ticks};
use super::{Applied, Hypervisor, HypervisorError, console};
use crate::AgentOptions;
use crate::bell::Bell;
use crate::host_storage::DiskFiles;
use crate::network::HostNetwork;
use crate::observed::{GuestObservation, GuestProcess, ObjectKey};
use crate::plan::{InterfaceOrder, Op, StartOrder};
use crate::record::{InstanceRecord, ProcessId};

/// QEMU that did not even greet by then is given up.
const START_DEADLINE: Duration = Duration::from_secs(60);
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const QUIT_DEADLINE: Duration = Duration::from_secs(5);
/// What QEMU needs besides the guest's memory: devices, translated code, disk caches.
const OVERHEAD_BYTES: u64 = 640 << 20;

pub struct Qemu {
    program: PathBuf,
    instances_dir: PathBuf,
    uid_base: u32,
    accelerator: Accelerator,
    cgroups: Cgroups,
    files: Arc<DiskFiles>,
    network: Arc<HostNetwork>,
    bell: Arc<Bell>,
    guests: Arc<Mutex<Guests>>,
}

#[derive(Default)]
struct Guests {
    running: HashMap<InstanceId, Vec<Guest>>,
    /// How the last process of an instance ended, if this agent saw it.
    exits: HashMap<InstanceId, (RunId, String)>,
}

struct Guest {
    process: GuestProcess,
    pidfd: Arc<PidFd>,
    monitor: Option<Arc<Monitor>>,
    watch: tokio::task::JoinHandle<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Qemu {
    /// Makes the folder for instances if need be; looks for nothing yet.
    pub fn new(
        options: &AgentOptions,
        files: Arc<DiskFiles>,
        network: Arc<HostNetwork>,
        bell: Arc<Bell>,
    ) -> Result<Self, HypervisorError> {
        let dir = options.instances_dir();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(HypervisorError::io(format!("create {}", dir.display())))?;
        let instances_dir = dir.canonicalize().map_err(HypervisorError::io(format!("find {}", dir.display())))?;
        Ok(Self {
            program: options.qemu.clone(),
            instances_dir,
            uid_base: options.instance_uid_base,
            accelerator: detect_accelerator(),
            cgroups: Cgroups::detect(&options.tag),
            files,
            network,
            bell,
            guests: Arc::default(),
        })
    }

    fn dir(&self, instance: InstanceId) -> PathBuf {
        self.instances_dir.join(instance.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an eye on a process; `child` if it is ours to reap.
    fn track(&self, instance: InstanceId, process: GuestProcess, pidfd: PidFd, child: Option<Child>) -> Arc<PidFd> {
        let pidfd = Arc::new(pidfd);
        let mut guests = self.lock();
        let watch = tokio::spawn(watch(
            Arc::clone(&pidfd),
            child,
            instance,
            process,
            Arc::clone(&self.guests),
            Arc::clone(&self.bell),
            self.dir(instance),
        ));
        let guest = Guest { process, pidfd: Arc::clone(&pidfd), monitor: None, watch };
        guests.running.entry(instance).or_default().push(guest);
        pidfd
    }

    /// The monitor of one process, connected if need be.
    async fn monitor(
        &self,
        instance: InstanceId,
        run_id: RunId,
        deadline: Duration,
    ) -> Result<Arc<Monitor>, HypervisorError> {
        let known = self.lock().guest(instance, run_id).map(|g| g.monitor.clone());
        match known {
            None => return Err(HypervisorError::NotRunning(instance)),
            Some(Some(monitor)) => return Ok(monitor),
            Some(None) => {}
        }
        let dir = File::open(self.dir(instance)).map_err(HypervisorError::io("open the instance's folder"))?;
        let (bell, key) = (Arc::clone(&self.bell), ObjectKey::Instance(instance));
        let monitor = Monitor::connect(&socket_path(&dir), deadline, move || bell.ring_now(key.clone())).await?;
        if monitor.name().await? != Some((instance, run_id)) {
            return Err(HypervisorError::Unfit("the monitor belongs to another run".to_owned()));
        }
        let monitor = Arc::new(monitor);
        if let Some(guest) = self.lock().guest(instance, run_id) {
            guest.monitor = Some(Arc::clone(&monitor));
        }
        Ok(monitor)
    }

    /// The monitor of the newest process.
    async fn current_monitor(&self, instance: InstanceId) -> Result<Arc<Monitor>, HypervisorError> {
        let newest = self.lock().running.get(&instance).and_then(|g| g.iter().map(|g| g.process.run_id).max());
        let run_id = newest.ok_or(HypervisorError::NotRunning(instance))?;
        self.monitor(instance, run_id, CONNECT_DEADLINE).await
    }

    fn forget_monitor(&self, instance: InstanceId, run_id: RunId) {
        if let Some(guest) = self.lock().guest(instance, run_id) {
            guest.monitor = None;
        }
    }

    async fn start(&self, order: &StartOrder, uid_index: u32) -> Result<Applied, HypervisorError> {
        let section = &order.section;
        check_places(order)?;
        let dir = self.dir(section.id);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(HypervisorError::io("create the instance's folder"))?;
        let uid = self.uid_base + uid_index;
        let (mut child, process) = self.spawn(order, &dir, uid).await?;
        let run_id = section.run_id;
        let pidfd = match PidFd::open(process.id) {
            Ok(pidfd) => self.track(section.id, process, pidfd, Some(child)),
            Err(_) => {
                let status = child.wait().map_err(HypervisorError::io("wait for QEMU"))?;
                return Err(HypervisorError::Exited(self.last_words(section.id, &status.to_string())));
            }
        };
        let connected = tokio::select! {
            connected = self.monitor(section.id, run_id, START_DEADLINE) => connected.map(drop),
            () = pidfd.ended() => Err(HypervisorError::Unfit("it exited".to_owned())),
        };
        if let Err(error) = connected {
            let ended = self.end(section.id, process).await;
            let detail = ended.err().map_or(String::new(), |e| format!(" ({e})"));
            let seen = self.exit_detail(section.id, run_id).await;
            return Err(HypervisorError::Exited(seen.unwrap_or_else(|| format!("{error}{detail}"))));
        }
        Ok(Applied::Started { process, machine: Some(order.machine.clone().unwrap_or(DEFAULT_MACHINE.to_owned())) })
    }

    async fn spawn(&self, order: &StartOrder, dir: &Path, uid: u32) -> Result<(Child, GuestProcess), HypervisorError> {
        let section = &order.section;
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut hold = |fd: OwnedFd| {
            let raw = fd.as_raw_fd();
            held.push(fd);
            raw
        };
        let monitor = listen(dir)?;
        let log = console::begin(&dir.join("qemu.log")).map_err(HypervisorError::io("open qemu.log"))?;
        let serial = console::begin(&dir.join("console.log")).map_err(HypervisorError::io("open console.log"))?;
        let mut fds =
            Descriptors { monitor: hold(monitor.into()), console: hold(serial.into()), ..Descriptors::default() };
        if let Some(boot) = &section.direct_boot {
            fds.kernel = Some(hold(self.files.open_blob(&boot.kernel)?));
            fds.initrd = boot.initrd.as_ref().map(|blob| self.files.open_blob(blob)).transpose()?.map(&mut hold);
        }
        for (attachment, file) in &order.volumes {
            let open = self.files.open(attachment.volume, file)?;
            let backing = open.backing.map(&mut hold);
            fds.disks.push(DiskDescriptors { disk: hold(open.disk), backing });
        }
        for interface in &order.interfaces {
            fds.taps.push(hold(self.open_tap(interface).await?));
        }
        let limits = Limits { vcpus: section.vcpus, memory_bytes: section.memory_bytes + OVERHEAD_BYTES };
        let cgroups = self.cgroups.prepare(section.id, limits);
        let descent = Descent {
            uid,
            gid: uid,
            extra_group: self.accelerator.is_kvm().then(kvm_group).flatten(),
            inherited: held.iter().map(AsRawFd::as_raw_fd).collect(),
            cgroups: cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
        };
        let mut command = Command::new(&self.program);
        command.args(arguments(order, &self.accelerator, &fds)).current_dir(dir).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        let errors = log.try_clone().map_err(HypervisorError::io("open qemu.log"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let what = format!("start {}", self.program.display());
        let child = process::spawn(&mut command, descent).map_err(HypervisorError::io(what))?;
        let pid = i32::try_from(child.id()).map_err(|_| HypervisorError::Unfit("pid out of range".to_owned()))?;
        // A child that died already is a zombie until it is waited for; its start time is not needed then.
        let start_ticks = start_ticks(pid).unwrap_or_default();
        Ok((child, GuestProcess { id: ProcessId { pid, start_ticks }, run_id: section.run_id }))
    }

    async fn open_tap(&self, order: &InterfaceOrder) -> Result<OwnedFd, HypervisorError> {
        let network = Arc::clone(&self.network);
        let (vpc, interface) = (order.section.vpc, order.section.id);
        let opened = tokio::task::spawn_blocking(move || network.open_tap(vpc, interface)).await;
        Ok(opened.map_err(|e| HypervisorError::Unfit(format!("open the tap: {e}")))??)
    }

    /// How the run's process ended, as soon as its watch has seen it.
    async fn exit_detail(&self, instance: InstanceId, run_id: RunId) -> Option<String> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        loop {
            let seen = self.lock().exits.get(&instance).filter(|(run, _)| *run == run_id).map(|(_, d)| d.clone());
            if seen.is_some() || tokio::time::Instant::now() >= deadline {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn last_words(&self, instance: InstanceId, otherwise: &str) -> String {
        last_words(&self.dir(instance), otherwise)
    }

    /// By the monitor if it answers, by a signal if not.
    async fn end(&self, instance: InstanceId, process: GuestProcess) -> Result<Applied, HypervisorError> {
        let Some(pidfd) = self.lock().guest(instance, process.run_id).map(|g| Arc::clone(&g.pidfd)) else {
            return Ok(Applied::Done);
        };
        if let Ok(monitor) = self.monitor(instance, process.run_id, CONNECT_DEADLINE).await
            && monitor.simple("quit").await.is_ok()
            && tokio::time::timeout(QUIT_DEADLINE, pidfd.ended()).await.is_ok()
        {
            return Ok(Applied::Done);
        }
        match pidfd.kill() {
            Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                return Err(HypervisorError::io("kill QEMU")(error));
            }
            _ => {}
        }
        match tokio::time::timeout(QUIT_DEADLINE, pidfd.ended()).await {
            Ok(()) => Ok(Applied::Done),
            Err(_) => Ok(Applied::Pending { detail: format!("process {} does not die", process.id.pid) }),
        }
    }

    async fn purge(&self, instance: InstanceId) -> Result<Applied, HypervisorError> {
        self.cgroups.remove(instance).await;
        self.lock().exits.remove(&instance);
        match fs::remove_dir_all(self.dir(instance)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HypervisorError::io("remove the instance's folder")(error))
            }
            _ => Ok(Applied::Done),
        }
    }

    /// Removes the data folder's cgroups, once its guests are gone.
    pub async fn remove_cgroups(&self) {
        self.cgroups.remove_all().await;
    }
}

impl Guests {
    fn guest(&mut self, instance: InstanceId, run_id: RunId) -> Option<&mut Guest> {
        self.running.get_mut(&instance)?.iter_mut().find(|g| g.process.run_id == run_id)
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Qemu
    }

    fn default_machine(&self) -> Option<String> {
        Some(DEFAULT_MACHINE.to_owned())
    }

    async fn survey(&self) -> Result<BTreeSet<InstanceId>, HypervisorError> {
        let found = process::scan(&self.instances_dir).map_err(HypervisorError::io("read /proc"))?;
        for (instance, process) in found {
            let known = self.lock().guest(instance, process.run_id).is_some();
            if !known && let Ok(pidfd) = PidFd::open(process.id) {
                self.track(instance, process, pidfd, None);
            }
        }
        Ok(self.lock().running.keys().copied().collect())
    }

    async fn observe(&self, instance: InstanceId, record: Option<&InstanceRecord>) -> GuestObservation {
        let run_id = record.and_then(|r| r.run.as_ref()).map(|r| r.run_id);
        let (processes, exit_detail) = {
            let guests = self.lock();
            let running = guests.running.get(&instance);
            let processes: Vec<_> = running.into_iter().flatten().map(|g| g.process).collect();
            let exit = guests.exits.get(&instance).filter(|(run, _)| Some(*run) == run_id);
            (processes, exit.map(|(_, detail)| detail.clone()))
        };
        let mut monitor = None;
        if let Some(process) = processes.iter().find(|p| Some(p.run_id) == run_id) {
            let state = async {
                Ok::<_, HypervisorError>(self.monitor(instance, process.run_id, CONNECT_DEADLINE).await?.state().await?)
            };
            match state.await {
                Ok(state) => monitor = Some(state),
                Err(error) => {
                    tracing::debug!(%instance, %error, "the monitor does not answer");
                    self.forget_monitor(instance, process.run_id);
                }
            }
        }
        GuestObservation { processes, monitor, exit_detail }
    }

    async fn apply(&self, op: &Op, uid_index: u32) -> Result<Applied, HypervisorError> {
        match op {
            Op::Start(order) => self.start(order, uid_index).await,
            Op::PowerDown { instance } => {
                self.current_monitor(*instance).await?.simple("system_powerdown").await?;
                Ok(Applied::Done)
            }
            Op::EndProcess { instance, process } => self.end(*instance, *process).await,
            Op::Reset { instance, .. } => {
                self.current_monitor(*instance).await?.reset().await?;
                Ok(Applied::Done)
            }
            Op::Resume { instance } => {
                self.current_monitor(*instance).await?.simple("cont").await?;
                Ok(Applied::Done)
            }
            Op::Pause { instance } => {
                self.current_monitor(*instance).await?.simple("stop").await?;
                Ok(Applied::Done)
            }
            Op::AttachVolume { instance, attachment, file } => {
                check_slot(attachment.slot)?;
                check_has_port(attachment.slot, "the root volume")?;
                let disk = self.files.open(attachment.volume, file)?;
                self.current_monitor(*instance).await?.attach_volume(attachment, file, disk).await?;
                Ok(Applied::Done)
            }
            Op::DetachVolume { instance, volume } => {
                self.current_monitor(*instance).await?.detach_volume(*volume).await
            }
            Op::ResizeVolume { instance, volume, size_bytes } => {
                self.current_monitor(*instance).await?.resize(*volume, *size_bytes).await?;
                Ok(Applied::Done)
            }
            Op::AttachInterface { instance, order } => {
                check_index(order.attachment.device_index)?;
                check_has_port(order.attachment.device_index, "the primary interface")?;
                let tap = self.open_tap(order).await?;
                self.current_monitor(*instance).await?.attach_interface(order, tap).await?;
                Ok(Applied::Done)
            }
            Op::DetachInterface { instance, interface } => {
                self.current_monitor(*instance).await?.detach_interface(*interface).await
            }
            Op::Purge { instance } => self.purge(*instance).await,
            Op::Record { .. }
            | Op::FetchBlob(_)
            | Op::CreateVolume { .. }
            | Op::GrowVolume { .. }
            | Op::DeleteVolume { .. } => Err(HypervisorError::Unfit(format!("not an operation on a guest: {op:?}"))),
        }
    }

    async fn console(&self, instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        console::tail(&self.dir(instance).join("console.log")).map_err(HypervisorError::io("read console.log"))
    }

    async fn screenshot(&self, instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        match self.current_monitor(instance).await {
            Ok(monitor) => monitor.screenshot().await.map(Some),
            Err(HypervisorError::NotRunning(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn tidy(&self) {
        let running: Vec<_> = self.lock().running.keys().copied().collect();
        for instance in running {
            for name in ["console.log", "qemu.log"] {
                if let Err(error) = console::trim(&self.dir(instance).join(name)) {
                    tracing::warn!(%instance, name, %error, "cannot shorten the log");
                }
            }
        }
    }
}

/// Waits for the end of one process, reaps it if it is ours, and rings.
async fn watch(
    pidfd: Arc<PidFd>,
    child: Option<Child>,
    instance: InstanceId,
    process: GuestProcess,
    guests: Arc<Mutex<Guests>>,
    bell: Arc<Bell>,
    dir: PathBuf,
) {
    pidfd.ended().await;
    let status = child.and_then(|mut child| child.wait().ok());
    let how = status.map_or_else(|| "its process is gone".to_owned(), |status| status.to_string());
    let detail = last_words(&dir, &how);
    {
        let mut guests = guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.exits.insert(instance, (process.run_id, detail));
        if let Some(running) = guests.running.get_mut(&instance) {
            running.retain(|g| g.process != process);
            if running.is_empty() {
                guests.running.remove(&instance);
            }
        }
    }
    bell.ring_now(ObjectKey::Instance(instance));
}

/// What QEMU printed last, after how it ended.
fn last_words(dir: &Path, how: &str) -> String {
    let log = console::tail(&dir.join("qemu.log")).ok().flatten().unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let mut lines = log.lines().rev().filter(|line| !line.trim().is_empty());
    // A hint about usage may follow what went wrong.
    match lines.clone().find(|line| line.starts_with("qemu-system-")).or_else(|| lines.next()) {
        Some(line) => format!("{how}: {}", line.trim().chars().take(300).collect::<String>()),
        None => how.to_owned(),
    }
}

/// A monitor socket that QEMU inherits: it exists before QEMU does, and QEMU needs no right to make one.
fn listen(dir: &Path) -> Result<UnixListener, HypervisorError> {
    let path = dir.join("qmp.sock");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(HypervisorError::io("remove the old monitor socket")(error));
        }
        _ => {}
    }
    let dir = File::open(dir).map_err(HypervisorError::io("open the instance's folder"))?;
    UnixListener::bind(socket_path(&dir)).map_err(HypervisorError::io("make the monitor socket"))
}

/// Socket addresses hold 107 bytes; this one is short wherever the data folder is.
fn socket_path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/qmp.sock", dir.as_fd().as_raw_fd()))
}

fn kvm_group() -> Option<u32> {
    fs::metadata("/dev/kvm").ok().map(|m| m.gid())
}

fn check_places(order: &StartOrder) -> Result<(), HypervisorError> {
    order.volumes.iter().try_for_each(|(attachment, _)| check_slot(attachment.slot))?;
    order.interfaces.iter().try_for_each(|interface| check_index(interface.attachment.device_index))?;
    let mut slots: Vec<_> = order.volumes.iter().map(|(a, _)| a.slot).collect();
    slots.sort_unstable();
    if slots.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(HypervisorError::Unfit("two volumes share a slot".to_owned()));
    }
    Ok(())
}

fn check_slot(slot: u8) -> Result<(), HypervisorError> {
    if slot <= MAX_VOLUME_SLOT {
        return Ok(());
    }
    Err(HypervisorError::Unfit(format!("volume slot {slot} does not exist (0 to {MAX_VOLUME_SLOT})")))
}

fn check_has_port(place: u8, what: &str) -> Result<(), HypervisorError> {
    if place > 0 {
        return Ok(());
    }
    Err(HypervisorError::Unfit(format!("{what} cannot be attached while the instance runs")))
}

fn check_index(index: u8) -> Result<(), HypervisorError> {
    if index <= MAX_DEVICE_INDEX {
        return Ok(());
    }
    Err(HypervisorError::Unfit(format!("device index {index} does not exist (0 to {MAX_DEVICE_INDEX})")))
}
