//! A control plane in the test's process, and agents as processes of their own that can be killed.
#![allow(dead_code)] // each test file uses a part

pub mod guest;
pub mod plane;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_agent_api::http::{HttpControlPlane, router};
use terroir_agent_api::{HypervisorKind, InstancePhase, InstanceStatus, Section};
use terroir_host_agent::AgentOptions;
use terroir_host_agent::hypervisor::Qmp;
use terroir_types::{HostId, InstanceId, OsRandom, ResourceId};

use plane::Plane;

const AGENT_ENV: &str = "TERROIR_TEST_AGENT_DIR";
const HYPERVISOR_ENV: &str = "TERROIR_TEST_HYPERVISOR";

/// One data folder with its control plane.
pub struct World {
    pub dir: tempfile::TempDir,
    pub plane: Arc<Plane>,
    pub hypervisor: HypervisorKind,
    agent: Option<Child>,
    runtime: tokio::runtime::Runtime,
    /// Under the data folder, until the world is gone.
    pub small_disk: Option<SmallDisk>,
}

pub fn options(dir: &Path, hypervisor: HypervisorKind) -> AgentOptions {
    let host: HostId = "host-00000000000000001".parse().unwrap();
    // The tag comes from the folder, so that agents of one world agree and worlds do not.
    let name = dir.file_name().unwrap().to_string_lossy();
    let tag: String = name.bytes().rev().take(4).map(|b| format!("{b:02x}")).collect();
    let mut options = AgentOptions::new(dir.join("data"), host, hypervisor, tag);
    options.control_plane_socket = dir.join("agent.sock");
    options.resync_interval = Duration::from_secs(2);
    options.stop_deadline = Duration::from_secs(30);
    if let Ok(program) = std::fs::read_to_string(dir.join("qemu")) {
        options.qemu = program.into();
    }
    options.volume_reserve_bytes = if dir.join("no-reserve").exists() { 0 } else { 256 << 20 };
    options
}

/// The body of a test that is an agent when a [`World`] starts it, and nothing otherwise.
pub fn agent_process() {
    let Ok(dir) = std::env::var(AGENT_ENV) else { return };
    let simulated = std::env::var(HYPERVISOR_ENV).is_ok_and(|kind| kind == "simulated");
    let hypervisor = if simulated { HypervisorKind::Simulated } else { HypervisorKind::Qemu };
    let options = options(Path::new(&dir), hypervisor);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let control = Arc::new(HttpControlPlane::new(options.control_plane_socket.clone()));
    runtime.block_on(terroir_host_agent::run(options, control, std::future::pending())).unwrap();
}

impl World {
    pub fn new(hypervisor: HypervisorKind) -> Self {
        let dir = tempfile::Builder::new().prefix("ha").rand_bytes(6).tempdir().unwrap();
        let plane = Arc::new(Plane::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = Self { dir, plane, hypervisor, agent: None, runtime, small_disk: None };
        let socket = world.options().control_plane_socket;
        let plane = Arc::clone(&world.plane);
        world.runtime.spawn(async move {
            let listener = tokio::net::UnixListener::bind(socket).unwrap();
            axum::serve(listener, router(plane)).await.unwrap();
        });
        world
    }

    pub fn options(&self) -> AgentOptions {
        options(self.dir.path(), self.hypervisor)
    }

    /// Starts the agent; `agent_test` is the name of the test that calls [`agent_process`].
    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none());
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("agent.log")).unwrap();
        let kind = if self.hypervisor == HypervisorKind::Simulated { "simulated" } else { "qemu" };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--nocapture"])
            .env(AGENT_ENV, self.dir.path())
            .env(HYPERVISOR_ENV, kind)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    /// As `kill -9`.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("an agent runs");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn put(&self, section: Section) {
        self.plane.put(section);
    }

    /// Changes an instance's section.
    pub fn change(&self, id: InstanceId, change: impl FnOnce(&mut terroir_agent_api::InstanceSection)) {
        let Some(Section::Instance(mut section)) = self.plane.section(&format!("instance/{id}")) else {
            panic!("no section of {id}")
        };
        change(&mut section);
        self.put(Section::Instance(section));
    }

    /// The instance's status once it is as wished.
    pub fn wait_for(&self, id: InstanceId, what: &str, wish: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        self.until(what, || self.plane.instance(id).filter(|status| wish(status)))
    }

    pub fn wait_ended(&self, id: InstanceId, run_id: u64) -> terroir_agent_api::EndCause {
        let status = self.wait_for(id, &format!("the end of run {run_id}"), |s| {
            s.run_id == run_id && matches!(s.phase, InstancePhase::Ended { .. })
        });
        match status.phase {
            InstancePhase::Ended { cause } => cause,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_running(&self, id: InstanceId, run_id: u64) -> InstanceStatus {
        self.wait_for(id, &format!("run {run_id} to run"), |s| {
            s.run_id == run_id && matches!(s.phase, InstancePhase::Running { .. })
        })
    }

    /// Polls until there is an answer.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() >= deadline {
                let log = std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default();
                let plane: String = format!("{:#?}", self.plane).chars().take(20_000).collect();
                panic!("waited in vain for {what}\n{plane}\nagent:\n{log}\nconsoles:\n{}", self.consoles());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn console(&self, id: InstanceId) -> String {
        let path = self.options().data_dir.join(format!("instances/{id}/console.log"));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    fn consoles(&self) -> String {
        let dir = self.options().data_dir.join("instances");
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let logs = entries.flat_map(|e| [e.path().join("console.log"), e.path().join("qemu.log")]);
        logs.map(|p| format!("{}:\n{}\n", p.display(), std::fs::read_to_string(&p).unwrap_or_default())).collect()
    }

    /// The agents to come start `program` instead of QEMU, or QEMU again.
    pub fn replace_qemu(&self, program: Option<&Path>) {
        let file = self.dir.path().join("qemu");
        match program {
            Some(program) => std::fs::write(file, program.to_str().unwrap()).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
    }

    /// Process ids of the instance's QEMUs.
    pub fn qemus(&self, id: InstanceId) -> Vec<i32> {
        self.processes(id, "qemu-system")
    }

    /// Process ids in the instance's folder whose executable's name has `program` in it.
    pub fn processes(&self, id: InstanceId, program: &str) -> Vec<i32> {
        let Ok(data) = self.options().data_dir.canonicalize() else { return Vec::new() };
        let dir = data.join(format!("instances/{id}"));
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let here = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir);
            let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if here && exe.to_string_lossy().contains(program) {
                found.push(pid);
            }
        }
        found
    }

    /// What QEMU says of the guest, while no agent holds its monitor.
    pub fn monitor_status(&self, id: InstanceId) -> Option<String> {
        let path = self.options().data_dir.join(format!("instances/{id}/qmp.sock"));
        self.runtime.block_on(async {
            let qmp = Qmp::connect(&path, Duration::from_secs(5), |_| {}).await.ok()?;
            let answer = qmp.execute("query-status", serde_json::json!({})).await.ok()?;
            answer["status"].as_str().map(str::to_owned)
        })
    }

    /// Stops everything, and says what was left over.
    pub fn tear_down(&mut self) -> terroir_host_agent::TearDownReport {
        if self.agent.is_some() {
            self.kill_agent();
        }
        self.runtime.block_on(terroir_host_agent::tear_down(&self.options())).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill_agent();
        }
        if self.hypervisor == HypervisorKind::Qemu {
            let report = self.runtime.block_on(terroir_host_agent::tear_down(&self.options()));
            if let Err(error) = report {
                eprintln!("tear down: {error}");
            }
        }
    }
}

/// False, loudly, where real guests cannot be run.
pub fn can_run_guests(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if root && qemu {
        return true;
    }
    eprintln!("\n*** SKIPPED: {test} needs root and qemu-system-x86_64 ***\n");
    false
}

pub fn new_instance_id() -> InstanceId {
    InstanceId::generate(&OsRandom)
}

pub fn shared_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// A file system in memory that is soon full.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(place: &Path, size_bytes: u64) -> Self {
        std::fs::create_dir_all(place).unwrap();
        let options = format!("size={size_bytes},mode=700");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("terroir-test"), place, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Bytes left on the file system of `place`.
pub fn available(place: &Path) -> u64 {
    let stat = nix::sys::statvfs::statvfs(place).unwrap();
    stat.blocks_available() * stat.fragment_size()
}
