//! What a host's report changes. Reports may be doubled, reordered or late; applying one twice changes nothing.

use terroir_agent_api::{self as agent, EndCause, HostReport, InstancePhase, ReportAck};
use terroir_block_storage::ops::VolumeOutcome;
use terroir_metering::{Interval, Measure, Open};
use terroir_scheduler::Room;
use terroir_sovereignty::receipt::Event;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, HostId, InstanceId, RunId, Timestamp, VolumeId};

use crate::model::{
    Desired, EventKind, Host, HostInstance, HostMode, Instance, InstanceStatus, Phase, Reason, Why, host_instance_key,
    host_key, instance_key, instance_status_key,
};
use crate::ops::{self, COUNT_VOLUMES, drop_capacity, give_back, uncount};

/// Statuses that one transaction takes: an instance that is gone writes about twenty records.
const PART: usize = 60;

/// Cuts a report into parts that fit into a transaction each, in the order in which they must be applied.
pub fn parts(report: HostReport) -> Vec<HostReport> {
    let total = report.instances.len() + report.volumes.len() + report.interfaces.len();
    if total <= PART {
        return vec![report];
    }
    let head = |facts| HostReport {
        host: report.host,
        boot_id: report.boot_id.clone(),
        sequence: report.sequence,
        full: report.full,
        facts,
        instances: Vec::new(),
        volumes: Vec::new(),
        interfaces: Vec::new(),
    };
    let mut parts = vec![head(report.facts.clone())];
    parts.extend(report.instances.chunks(PART).map(|c| HostReport { instances: c.to_vec(), ..head(None) }));
    parts.extend(report.volumes.chunks(PART).map(|c| HostReport { volumes: c.to_vec(), ..head(None) }));
    parts.extend(report.interfaces.chunks(PART).map(|c| HostReport { interfaces: c.to_vec(), ..head(None) }));
    parts
}

/// Takes over a report in one transaction; use [`parts`] for a long one.
///
/// Errors: `InvalidHostID.NotFound` for a host that is not registered; `IncorrectState` for one that was declared lost,
/// whose word counts no more.
pub fn apply_report(txn: &mut Txn, report: &HostReport, now: Timestamp) -> Result<ReportAck, Error> {
    let Some(host) = txn.get::<Host>(&host_key(report.host))? else {
        let message = format!("The host ID '{}' does not exist", report.host);
        return Err(Error::not_found("InvalidHostID.NotFound", message));
    };
    if host.mode == HostMode::Lost {
        return Err(Error::conflict("IncorrectState", format!("The host '{}' was declared lost", report.host)));
    }
    if let Some(facts) = &report.facts {
        ops::update_facts(txn, report.host, facts.clone(), Some(&report.boot_id))?;
    }
    for status in &report.instances {
        apply_instance(txn, report.host, status, now)?;
    }
    for status in &report.volumes {
        apply_volume(txn, report.host, status, now)?;
    }
    for status in &report.interfaces {
        if let Some((account, instance)) = terroir_network::ops::apply_interface_status(txn, report.host, status)? {
            interface_left(txn, account, instance, now)?;
        }
    }
    Ok(ReportAck { want_full: false })
}

fn apply_volume(txn: &mut Txn, host: HostId, status: &agent::VolumeStatus, now: Timestamp) -> Result<(), Error> {
    let outcome = terroir_block_storage::ops::apply_volume_status(txn, host, status, now)?;
    apply_volume_outcome(txn, host, outcome, Event::Erased, now)
}

/// What a volume's news mean for its instance, its account and its host. `ended`: what became of one that is removed.
pub(crate) fn apply_volume_outcome(
    txn: &mut Txn,
    host: HostId,
    outcome: VolumeOutcome,
    ended: Event,
    now: Timestamp,
) -> Result<(), Error> {
    match outcome {
        VolumeOutcome::Ignored | VolumeOutcome::Recorded => Ok(()),
        VolumeOutcome::Released { account, volume, instance } => forget_volume(txn, account, instance, volume),
        VolumeOutcome::Removed { account, volume, size_bytes } => {
            ops::note_end(txn, account, &volume.to_string(), "volume", host, ended, now)?;
            uncount(txn, account, COUNT_VOLUMES, 1)?;
            give_back(txn, host, Room { volume_bytes: size_bytes, ..Room::default() })
        }
    }
}

fn forget_volume(txn: &mut Txn, account: AccountId, instance: InstanceId, volume: VolumeId) -> Result<(), Error> {
    let key = instance_key(account, instance);
    let Some(found) = txn.get::<Instance>(&key)? else { return Ok(()) };
    let mut instance = Instance::clone(&found);
    instance.volumes.retain(|id| *id != volume);
    txn.put(&key, &instance)
}

fn apply_instance(txn: &mut Txn, host: HostId, report: &agent::InstanceStatus, now: Timestamp) -> Result<(), Error> {
    let Some(index) = txn.get::<HostInstance>(&host_instance_key(host, report.id))? else { return Ok(()) };
    let key = instance_key(index.account, report.id);
    let Some(found) = txn.get::<Instance>(&key)? else { return Ok(()) };
    let status_key = instance_status_key(index.account, report.id);
    let before = txn.get::<InstanceStatus>(&status_key)?;
    if !counts(&found, before.as_deref(), host, report) {
        return Ok(());
    }
    let mut instance = Instance::clone(&found);
    let mut status = InstanceStatus {
        generation: report.generation,
        epoch: report.epoch,
        run_id: report.run_id,
        phase: phase(&report.phase),
        machine: report.machine.clone().or_else(|| before.as_ref().and_then(|before| before.machine.clone())),
        reboot_count: report.reboot_count,
        changed_at: report.changed_at,
        usage: before.as_ref().and_then(|before| before.usage),
    };
    match &status.phase {
        Phase::Preparing | Phase::Stopping => {}
        Phase::Running(_) => {
            status.usage.get_or_insert(Open { since: now });
            instance.interrupted = 0;
        }
        Phase::Ended(cause) => {
            let cause = cause.clone();
            let ran = close_usage(txn, &instance, host, &mut status, now)?;
            ended(txn, &mut instance, &cause, ran, now)?;
        }
        Phase::Gone => {
            close_usage(txn, &instance, host, &mut status, now)?;
            gone(txn, &mut instance, now)?;
            ops::finish_termination(txn, &mut instance, Event::Erased, now)?;
        }
    }
    txn.put(&status_key, &status)?;
    if instance != *found { txn.put(&key, &instance) } else { Ok(()) }
}

/// Whether a report is news about the current run, from the host that holds the instance.
fn counts(spec: &Instance, before: Option<&InstanceStatus>, host: HostId, report: &agent::InstanceStatus) -> bool {
    let fresh = before.is_none_or(|before| before.generation < report.generation);
    // A run that ended cannot run again: that is what a later run is for.
    let over = before.is_some_and(|before| {
        before.run_id == report.run_id
            && match before.phase {
                Phase::Ended(_) => !matches!(report.phase, InstancePhase::Ended { .. } | InstancePhase::Gone),
                Phase::Gone => report.phase != InstancePhase::Gone,
                Phase::Preparing | Phase::Running(_) | Phase::Stopping => false,
            }
    });
    // Nobody asked for that: the next report will say what is.
    let unasked = report.phase == InstancePhase::Gone && spec.desired != Desired::Terminated;
    spec.host() == Some(host)
        && spec.assignment.epoch == report.epoch
        && spec.run_id == report.run_id
        && spec.terminated_at.is_none()
        && fresh
        && !over
        && !unasked
}

/// A sentence from a host is bounded: it is kept for every instance.
const DETAIL_CHARS: usize = 200;

fn phase(phase: &InstancePhase) -> Phase {
    let cut = |detail: &String| detail.chars().take(DETAIL_CHARS).collect();
    match phase {
        InstancePhase::Preparing => Phase::Preparing,
        InstancePhase::Running { started_at } => Phase::Running(*started_at),
        InstancePhase::Stopping => Phase::Stopping,
        InstancePhase::Ended { cause } => Phase::Ended(match cause {
            EndCause::HypervisorDied { detail } => EndCause::HypervisorDied { detail: cut(detail) },
            EndCause::StartFailed { detail } => EndCause::StartFailed { detail: cut(detail) },
            EndCause::Refused { rule } => EndCause::Refused { rule: cut(rule) },
            EndCause::GuestPowerOff
            | EndCause::Requested
            | EndCause::HostReboot
            | EndCause::Interrupted
            | EndCause::Unknown => cause.clone(),
        }),
        InstancePhase::Gone => Phase::Gone,
    }
}

/// Ends what is paid for; whether the run was seen running at all.
pub(crate) fn close_usage(
    txn: &mut Txn,
    instance: &Instance,
    host: HostId,
    status: &mut InstanceStatus,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(open) = status.usage.take() else { return Ok(false) };
    terroir_metering::close(
        txn,
        Interval {
            account: instance.account,
            resource: instance.id.to_string(),
            measure: Measure::Instance {
                instance_type: instance.instance_type.clone(),
                vcpus: instance.vcpus,
                memory_bytes: instance.memory_bytes,
                run: status.run_id,
            },
            host,
            zone: instance.zone.clone(),
            started_at: open.since,
            ended_at: now,
        },
    )?;
    Ok(true)
}

/// So many starts in a row that never came to run, and the instance counts as one that cannot be started: something
/// about it may well be what its host dies of.
const MOST_INTERRUPTED: u32 = 5;

/// A run is over: what follows is decided here, not by the host. `ran`: it was seen running.
fn ended(txn: &mut Txn, instance: &mut Instance, cause: &EndCause, ran: bool, now: Timestamp) -> Result<(), Error> {
    match instance.desired {
        // The host goes on to remove it.
        Desired::Terminated => return Ok(()),
        Desired::Stopped => return stopped(txn, instance),
        Desired::Running => {}
    }
    let reason = |why, detail: &str| Some(Reason { why, at: now, detail: detail.to_owned() });
    // It never ran: earlier runs, if any, were interrupted.
    let first = !ran && instance.run_id == RunId::from(instance.interrupted) + 1;
    let mut start_failed = false;
    match cause {
        EndCause::GuestPowerOff => {
            instance.reason = reason(Why::GuestPoweredOff, "");
            if instance.shutdown_terminates {
                instance.desired = Desired::Terminated;
                return Ok(());
            }
        }
        EndCause::HypervisorDied { detail } => instance.reason = reason(Why::HypervisorDied, detail),
        EndCause::Requested => instance.reason = reason(Why::HypervisorDied, "It was stopped on its host."),
        EndCause::Unknown => instance.reason = reason(Why::HypervisorDied, "Its host gave a cause that is not known."),
        EndCause::StartFailed { detail } => {
            instance.reason = reason(Why::StartFailed, detail);
            start_failed = true;
        }
        EndCause::Refused { rule } => {
            instance.reason = reason(Why::StartFailed, &format!("Its host refused it: {rule}."));
            start_failed = true;
        }
        EndCause::HostReboot | EndCause::Interrupted => {
            instance.interrupted = if ran { 0 } else { instance.interrupted + 1 };
            if instance.interrupted < MOST_INTERRUPTED {
                let interrupted = *cause == EndCause::Interrupted;
                let kind = if interrupted { EventKind::StartInterrupted } else { EventKind::HostReboot };
                instance.record_event(kind, now);
                instance.run_id += 1;
                return Ok(());
            }
            let detail = format!("Its start was interrupted {MOST_INTERRUPTED} times in a row.");
            instance.reason = reason(Why::StartFailed, &detail);
            start_failed = true;
        }
    }
    if start_failed && first {
        instance.desired = Desired::Terminated;
        return Ok(());
    }
    instance.desired = Desired::Stopped;
    stopped(txn, instance)
}

/// A stopped instance keeps its disks and private addresses; processors, memory and pooled public addresses go.
pub(crate) fn stopped(txn: &mut Txn, instance: &mut Instance) -> Result<(), Error> {
    drop_capacity(txn, instance)?;
    for interface in terroir_network::ops::interfaces_of(txn, instance.id)? {
        terroir_network::ops::public_address_lost_on_stop(txn, instance.account, interface.id)?;
    }
    Ok(())
}

/// Nothing of a terminated instance is left on its host but its volumes, and its interfaces, which nobody uses any more.
pub(crate) fn gone(txn: &mut Txn, instance: &mut Instance, now: Timestamp) -> Result<(), Error> {
    drop_capacity(txn, instance)?;
    for volume in std::mem::take(&mut instance.volumes) {
        terroir_block_storage::ops::instance_gone(txn, instance.account, volume, instance.id, now)?;
    }
    terroir_network::ops::release_interfaces_of(txn, instance.id)
}

/// An instance has one interface less; it may have waited for that alone.
fn interface_left(txn: &mut Txn, account: AccountId, id: InstanceId, now: Timestamp) -> Result<(), Error> {
    let key = instance_key(account, id);
    let Some(found) = txn.get::<Instance>(&key)? else { return Ok(()) };
    let status = txn.get::<InstanceStatus>(&instance_status_key(account, id))?;
    if found.desired != Desired::Terminated || status.is_none_or(|status| status.phase != Phase::Gone) {
        return Ok(());
    }
    let mut instance = Instance::clone(&found);
    ops::finish_termination(txn, &mut instance, Event::Erased, now)?;
    if instance != *found { txn.put(&key, &instance) } else { Ok(()) }
}
