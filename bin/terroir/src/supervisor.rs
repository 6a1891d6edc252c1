//! Keeps the three processes of a host running.
//!
//! ```text
//!            spawn                 exit
//! starting ────────▶ running ─────────────▶ waiting (backoff 0.2 s, doubled up to 30 s) ──▶ starting
//!                       │ lived for a minute: the backoff starts over
//! ```
//! The processes are no pipe and no process group of ours: they outlive a supervisor that dies, and the next one takes
//! them over (`ProcessId`).

use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use terroir_types::{Clock, SystemClock, Timestamp};
use tokio::process::Command;
use tokio::sync::watch;

use crate::layout::Layout;
use crate::logs;
use crate::process::ProcessId;

pub const SUPERVISOR: &str = "supervisor";
pub const SERVER: &str = "server";
pub const AGENT: &str = "agent";
pub const GUEST_SERVICES: &str = "guest-services";

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// So many ends in a row, none after a good life, are called "keeps dying".
const KEEPS_DYING: u32 = 3;
const STOP_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub name: String,
    pub process: Option<ProcessId>,
    /// Starts after the first one, over the supervisor's life.
    pub restarts: u32,
    /// Ends in a row without a good life between.
    pub failures: u32,
    pub last_end: Option<String>,
    pub last_end_at: Option<Timestamp>,
}

impl ProcessRecord {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), process: None, restarts: 0, failures: 0, last_end: None, last_end_at: None }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some_and(ProcessId::is_alive)
    }

    pub fn keeps_dying(&self) -> bool {
        self.failures >= KEEPS_DYING
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorRecord {
    pub supervisor: Option<ProcessId>,
    pub processes: Vec<ProcessRecord>,
}

impl SupervisorRecord {
    /// What the last supervisor wrote; nothing if none ever did.
    pub fn read(layout: &Layout) -> Self {
        fs::read(layout.supervisor_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Self { supervisor: None, processes: Vec::new() })
    }

    pub fn process(&self, name: &str) -> Option<&ProcessRecord> {
        self.processes.iter().find(|record| record.name == name)
    }

    pub fn supervisor_is_alive(&self) -> bool {
        self.supervisor.is_some_and(ProcessId::is_alive)
    }

    /// That a process keeps dying, as a sentence. What an earlier supervisor wrote is history.
    pub fn complaint(&self, layout: &Layout) -> Option<String> {
        let dying = self.processes.iter().find(|process| process.keeps_dying() && self.supervisor_is_alive())?;
        let end = dying.last_end.as_deref().unwrap_or_default();
        Some(format!("{} keeps dying: {end}; see {}", dying.name, layout.log_file(&dying.name).display()))
    }

    fn write(&self, layout: &Layout) -> io::Result<()> {
        let fresh = layout.supervisor_file().with_extension("new");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(fresh, layout.supervisor_file())
    }
}

/// A host of a region elsewhere has no control plane of its own.
fn parts(layout: &Layout) -> &'static [&'static str] {
    if layout.membership_file().exists() { &[GUEST_SERVICES, AGENT] } else { &[GUEST_SERVICES, SERVER, AGENT] }
}

pub struct Supervisor {
    layout: Layout,
    record: Mutex<SupervisorRecord>,
}

impl Supervisor {
    pub fn new(layout: Layout) -> Arc<Self> {
        let before = SupervisorRecord::read(&layout);
        let processes = parts(&layout)
            .iter()
            .map(|name| {
                let mut record = ProcessRecord::new(name);
                record.process = before.process(name).and_then(|old| old.process).filter(|p| p.is_alive());
                record
            })
            .collect();
        let record = SupervisorRecord { supervisor: ProcessId::of_self(), processes };
        Arc::new(Self { layout, record: Mutex::new(record) })
    }

    /// Runs until `stop` turns true; then server and agent are stopped, and guest-services is left to the guests.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<bool>) {
        self.save();
        let mut tasks = tokio::task::JoinSet::new();
        for name in parts(&self.layout) {
            let (supervisor, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move { supervisor.keep_running(name, stop).await });
        }
        let logs = logs::keep_small(self.layout.clone(), &[SUPERVISOR, SERVER, AGENT, GUEST_SERVICES], stop);
        tokio::join!(logs, async { while tasks.join_next().await.is_some() {} });
        self.change(|record| record.supervisor = None);
    }

    async fn keep_running(&self, name: &'static str, mut stop: watch::Receiver<bool>) {
        let mut backoff = FIRST_BACKOFF;
        let mut running = self.taken_over(name);
        if let Some(process) = running {
            tracing::info!(name, pid = process.pid, "took over a running process");
        }
        loop {
            let born = Instant::now();
            let end = tokio::select! {
                end = self.one_life(name, running.take()) => end,
                () = asked_to_stop(&mut stop) => {
                    if name != GUEST_SERVICES {
                        self.stop_process(name).await;
                    }
                    return;
                }
            };
            tracing::warn!(name, end, "a process ended");
            let good = born.elapsed() >= GOOD_LIFE;
            self.change_process(name, |record| {
                record.process = None;
                record.restarts += 1;
                record.failures = if good { 1 } else { record.failures + 1 };
                record.last_end = Some(end);
                record.last_end_at = Some(SystemClock.now());
            });
            backoff = if good { FIRST_BACKOFF } else { backoff };
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = asked_to_stop(&mut stop) => return,
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn taken_over(&self, name: &str) -> Option<ProcessId> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.process(name).and_then(|process| process.process)
    }

    /// Starts the process, unless it runs, and waits for its end. Says how it ended.
    async fn one_life(&self, name: &'static str, running: Option<ProcessId>) -> String {
        if let Some(process) = running {
            let good = tokio::time::timeout(GOOD_LIFE, process.wait_for_end()).await.is_err();
            if good {
                self.change_process(name, |record| record.failures = 0);
                process.wait_for_end().await;
            }
            return "ended (its exit status went to an earlier supervisor)".to_owned();
        }
        let mut child = match self.spawn(name) {
            Ok(child) => child,
            Err(error) => return format!("could not be started: {error}"),
        };
        let process = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(ProcessId::of);
        self.change_process(name, |record| record.process = process);
        let ended = match tokio::time::timeout(GOOD_LIFE, child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.change_process(name, |record| record.failures = 0);
                child.wait().await
            }
        };
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        match self.last_log_line(name) {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        }
    }

    fn spawn(&self, name: &str) -> io::Result<tokio::process::Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.layout.log_file(name))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--data-dir").arg(self.layout.root()).arg(name);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env_remove("TERROIR_LISTEN").env_remove("TERROIR_HYPERVISOR");
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        command.spawn()
    }

    fn last_log_line(&self, name: &str) -> Option<String> {
        let end = logs::tail(&self.layout.log_file(name), 2048).ok()?;
        end.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    }

    async fn stop_process(&self, name: &str) {
        let process = self.taken_over(name);
        if let Some(process) = process {
            process.stop(STOP_DEADLINE).await;
        }
        self.change_process(name, |record| record.process = None);
    }

    fn change_process(&self, name: &str, change: impl FnOnce(&mut ProcessRecord)) {
        self.change(|record| {
            if let Some(process) = record.processes.iter_mut().find(|process| process.name == name) {
                change(process);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut SupervisorRecord)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        self.save();
    }

    fn save(&self) {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = record.write(&self.layout) {
            tracing::error!(%error, "cannot write down which processes run");
        }
    }
}

async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
