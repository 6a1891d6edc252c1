use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::{EndCause, HypervisorKind};
use terroir_types::{Clock, InstanceId, SystemClock};
use tokio::time::Instant;

use crate::agent::network_options;
use crate::bell::Bell;
use crate::host_storage::DiskFiles;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::qemu::Qemu;
use crate::ledger::{Entry, Ledger};
use crate::network::HostNetwork;
use crate::observed::{GuestProcess, GuestStatus};
use crate::plan::Op;
use crate::record::{RunPhase, RunRecord};
use crate::{AgentError, AgentOptions, facts};

const POWER_OFF_DEADLINE: Duration = Duration::from_secs(20);
const PRESS_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What `tear_down` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TearDownReport {
    /// Guests that shut themselves down when asked.
    pub powered_off: usize,
    /// Guests that did not within the deadline.
    pub forced: usize,
    /// What could not be removed, in sentences for the operator.
    pub problems: Vec<String>,
}

/// Stops every guest of the data folder and removes what its agent made in the kernel: namespaces,
/// links, nftables tables, control groups. Disks, images and the ledger stay. To the control plane
/// the guests have ended by a reboot of the host, so the next start brings them back.
///
/// # Errors
/// `AlreadyRunning` while an agent works with the data folder.
pub async fn tear_down(options: &AgentOptions) -> Result<TearDownReport, AgentError> {
    let mut ledger = Ledger::open(options).await?;
    let mut report = TearDownReport::default();
    if options.hypervisor == HypervisorKind::Simulated {
        end_runs(&mut ledger, &BTreeSet::new(), |_, _| EndCause::HostReboot).await?;
        return Ok(report);
    }
    let unfit = |error: &dyn std::fmt::Display| AgentError::Unfit(error.to_string());
    let network = Arc::new(HostNetwork::new(network_options(options)));
    let files = Arc::new(DiskFiles::new(options));
    let qemu = Qemu::new(options, files, Arc::clone(&network), Arc::new(Bell::default())).map_err(|e| unfit(&e))?;
    let boot_id = facts::boot_id().map_err(AgentError::io("read", "/proc/sys/kernel/random/boot_id".as_ref()))?;
    let first = stop_guests(&qemu, &ledger, &mut report).await;
    let left = qemu.survey().await.map_err(|e| unfit(&e))?;
    report.problems.extend(left.iter().map(|id| format!("{id} still runs")));
    end_runs(&mut ledger, &left, |id, run| first.cause(id, run, &boot_id)).await?;
    if left.is_empty() {
        if let Err(error) = network.remove_all().await {
            report.problems.push(format!("networks: {error}"));
        }
        qemu.remove_cgroups().await;
    }
    Ok(report)
}

/// Every hypervisor that runs, with what its monitor says.
async fn running(qemu: &Qemu, ledger: &Ledger) -> Vec<(InstanceId, GuestProcess, Option<GuestStatus>)> {
    let mut found = Vec::new();
    for id in qemu.survey().await.unwrap_or_default() {
        let guest = qemu.observe(id, ledger.contents().instances.get(&id)).await;
        let status = guest.monitor.map(|m| m.status);
        found.extend(guest.processes.into_iter().map(|process| (id, process, status)));
    }
    found
}

/// What was there before anything was stopped. The agent may have been dead when something ended by itself.
#[derive(Debug, Default)]
struct FirstLook {
    running: BTreeSet<InstanceId>,
    powered_off: BTreeSet<InstanceId>,
}

impl FirstLook {
    fn cause(&self, id: InstanceId, run: &RunRecord, boot_id: &str) -> EndCause {
        match run.phase {
            _ if run.boot_id != boot_id => EndCause::HostReboot,
            _ if self.powered_off.contains(&id) && run.reboot.is_none() => EndCause::GuestPowerOff,
            _ if self.running.contains(&id) => EndCause::HostReboot,
            RunPhase::Intended => EndCause::Interrupted,
            _ => EndCause::HypervisorDied { detail: "its process is gone".to_owned() },
        }
    }
}

async fn stop_guests(qemu: &Qemu, ledger: &Ledger, report: &mut TearDownReport) -> FirstLook {
    let deadline = Instant::now() + POWER_OFF_DEADLINE;
    let mut press_at = Instant::now();
    let mut guests = running(qemu, ledger).await;
    let off = guests.iter().filter(|(_, _, status)| *status == Some(GuestStatus::PoweredOff));
    let first = FirstLook {
        powered_off: off.map(|(instance, ..)| *instance).collect(),
        running: guests.iter().map(|(instance, ..)| *instance).collect(),
    };
    loop {
        if guests.is_empty() {
            return first;
        }
        let late = Instant::now() >= deadline;
        let press = Instant::now() >= press_at;
        for (instance, process, status) in std::mem::take(&mut guests) {
            let off = status == Some(GuestStatus::PoweredOff);
            let op = if off || late {
                Op::EndProcess { instance, process }
            } else if press {
                Op::PowerDown { instance }
            } else {
                continue;
            };
            match qemu.apply(&op, 0).await {
                Err(error) => report.problems.push(format!("{instance}: {error}")),
                Ok(_) if off => report.powered_off += 1,
                Ok(_) if late => report.forced += 1,
                Ok(_) => {}
            }
        }
        if late {
            return first;
        }
        if press {
            press_at += PRESS_EVERY;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        guests = running(qemu, ledger).await;
    }
}

async fn end_runs(
    ledger: &mut Ledger,
    still_running: &BTreeSet<InstanceId>,
    cause: impl Fn(InstanceId, &RunRecord) -> EndCause,
) -> Result<(), AgentError> {
    let now = SystemClock.now();
    let ended = ledger.contents().instances.iter().filter_map(|(id, record)| {
        let run = record.run.as_ref().filter(|run| run.is_active() && !still_running.contains(id))?;
        let cause = if run.stop.is_some() { EndCause::Requested } else { cause(*id, run) };
        let run = RunRecord { phase: RunPhase::Ended { at: now, cause }, reboot: None, ..run.clone() };
        let mut record = record.clone();
        record.run = Some(run);
        Some(Entry::Instance(*id, Some(record)))
    });
    let entries: Vec<_> = ended.collect();
    ledger.commit(entries).await
}
