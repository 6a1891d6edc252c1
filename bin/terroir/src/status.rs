//! `terroir status`.

use serde::Serialize;
use std::collections::BTreeMap;
use terroir_host_agent::membership::LinkState;

use crate::admin_api::{HostSummary, ServerStatus};
use crate::admin_client::AdminClient;
use crate::join;
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::supervisor::{ProcessRecord, SERVER, SupervisorRecord};

/// `terroir status --json`; scripts rely on `pid`, `ready`, `endpoint` and `instances`.
#[derive(Debug, Serialize)]
struct Status {
    /// Of the control plane.
    pid: Option<i32>,
    ready: bool,
    endpoint: Option<String>,
    region: Option<String>,
    /// `qemu`, or `simulated`: then instances change state but run nothing.
    hypervisor: Option<String>,
    instances: BTreeMap<String, usize>,
    accounts: Option<usize>,
    images: Option<usize>,
    host: Option<HostSummary>,
    supervisor_pid: Option<i32>,
    processes: Vec<ProcessStatus>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProcessStatus {
    name: String,
    pid: Option<i32>,
    /// `running`, `restarting`, `keeps-dying` or `stopped`.
    state: &'static str,
    restarts: u32,
    last_end: Option<String>,
    last_end_at: Option<String>,
    resident_bytes: Option<u64>,
}

impl ProcessStatus {
    fn of(record: &ProcessRecord, supervised: bool) -> Self {
        let process = record.process.filter(|process| process.is_alive());
        let state = match (process, supervised, record.keeps_dying()) {
            (_, true, true) => "keeps-dying",
            (Some(_), _, _) => "running",
            (None, true, false) => "restarting",
            (None, false, _) => "stopped",
        };
        Self {
            name: record.name.clone(),
            pid: process.map(|process| process.pid),
            state,
            restarts: record.restarts,
            last_end: record.last_end.clone(),
            last_end_at: record.last_end_at.map(terroir_types::Timestamp::to_rfc3339_seconds),
            resident_bytes: process.and_then(ProcessId::resident_bytes),
        }
    }
}

const UNSUPERVISED: &str = "nobody restarts what dies: run `terroir up --detach`";

pub async fn run(layout: &Layout, json: bool) -> Result<(), String> {
    let record = SupervisorRecord::read(layout);
    let supervised = record.supervisor_is_alive();
    if layout.membership_file().exists() {
        return of_host(&record, supervised, join::link(layout), json);
    }
    let answer = AdminClient::new(&layout.admin_socket()).get::<ServerStatus>("/status").await;
    let status = collect(&record, supervised, answer.map_err(|error| error.to_string()));
    if json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?);
    } else {
        print(&status);
    }
    if status.ready { Ok(()) } else { Err("the cloud is not ready".to_owned()) }
}

/// `terroir status --json` on a machine that is a host of a region elsewhere.
#[derive(Debug, Serialize)]
struct MemberStatus {
    /// The agent has got its spec, and the control plane answers.
    ready: bool,
    /// None before the agent's first call.
    control_plane: Option<LinkState>,
    supervisor_pid: Option<i32>,
    processes: Vec<ProcessStatus>,
    problems: Vec<String>,
}

fn of_host(record: &SupervisorRecord, supervised: bool, link: Option<LinkState>, json: bool) -> Result<(), String> {
    let (processes, mut problems) = processes(record, supervised);
    if let Some(problem) = link.as_ref().and_then(|link| link.problem.clone()) {
        problems.push(problem);
    }
    let status = MemberStatus {
        ready: supervised && link.as_ref().is_some_and(|link| link.connected),
        control_plane: link,
        supervisor_pid: record.supervisor.filter(|supervisor| supervisor.is_alive()).map(|process| process.pid),
        processes,
        problems,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?);
    } else {
        let ready = if status.ready { "ready" } else { "not ready" };
        match &status.control_plane {
            Some(link) => println!(
                "{ready}: a host of {} at {}; its certificate counts until {}",
                link.region,
                link.site,
                link.certificate_until.to_rfc3339_seconds()
            ),
            None => println!("{ready}: a host"),
        }
        print_processes(&status.processes, &status.problems);
    }
    if status.ready { Ok(()) } else { Err("the host is not ready".to_owned()) }
}

/// How the processes are, and what is wrong with that.
fn processes(record: &SupervisorRecord, supervised: bool) -> (Vec<ProcessStatus>, Vec<String>) {
    let processes: Vec<ProcessStatus> =
        record.processes.iter().map(|process| ProcessStatus::of(process, supervised)).collect();
    let mut problems: Vec<String> = processes
        .iter()
        .filter(|process| process.state != "running")
        .map(|process| {
            let end = process.last_end.as_deref().map(|end| format!(": {end}")).unwrap_or_default();
            format!("{} is {}{end}", process.name, process.state)
        })
        .collect();
    if !supervised {
        problems.push(UNSUPERVISED.to_owned());
    }
    (processes, problems)
}

fn collect(record: &SupervisorRecord, supervised: bool, answer: Result<ServerStatus, String>) -> Status {
    let is_unit = answer.as_ref().is_ok_and(|server| server.is_unit);
    // What an earlier supervisor wrote is history where systemd keeps the parts running.
    let (processes, mut problems) = if is_unit { Default::default() } else { processes(record, supervised) };
    let server = answer.map_err(|error| problems.push(error)).ok();
    let pid = processes.iter().find(|process| process.name == SERVER).and_then(|process| process.pid);
    let pid = pid.or(server.as_ref().map(|server| server.pid));
    problems.extend(server.iter().flat_map(|server| server.problems.clone()));
    Status {
        pid,
        ready: server.as_ref().is_some_and(|server| server.ready),
        endpoint: server.as_ref().map(|server| server.endpoint.clone()),
        region: server.as_ref().map(|server| server.region.clone()),
        hypervisor: server.as_ref().map(|server| server.hypervisor.clone()),
        instances: server.as_ref().map(|server| server.instances.clone()).unwrap_or_default(),
        accounts: server.as_ref().map(|server| server.accounts),
        images: server.as_ref().map(|server| server.images),
        host: server.and_then(|server| server.host),
        supervisor_pid: record.supervisor.filter(|supervisor| supervisor.is_alive()).map(|process| process.pid),
        processes,
        problems,
    }
}

fn print(status: &Status) {
    let ready = if status.ready { "ready" } else { "not ready" };
    match (&status.endpoint, &status.region) {
        (Some(endpoint), Some(region)) => println!("{ready}: {endpoint}, region {region}"),
        _ => println!("{ready}"),
    }
    match status.hypervisor.as_deref() {
        Some("simulated") => println!("SIMULATED: instances change state but run nothing"),
        Some(hypervisor) => {
            let accelerator = status.host.as_ref().map_or("", |host| host.accelerator.as_str());
            println!("hypervisor: {hypervisor} {accelerator}");
        }
        None => {}
    }
    let instances: Vec<String> = status.instances.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let instances = match instances.as_slice() {
        [] if status.region.is_none() => "not known, since the server does not answer".to_owned(),
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    println!("instances: {instances}");
    print_processes(&status.processes, &status.problems);
}

fn print_processes(processes: &[ProcessStatus], problems: &[String]) {
    for process in processes {
        let pid = process.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let memory = process.resident_bytes.map(|bytes| format!(", {} MiB", bytes >> 20)).unwrap_or_default();
        println!("{}: {}{pid}{memory}, {} restarts", process.name, process.state, process.restarts);
    }
    for problem in problems {
        println!("problem: {problem}");
    }
}
