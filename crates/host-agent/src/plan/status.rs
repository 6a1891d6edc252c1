//! From what is to what is reported.

use std::collections::BTreeSet;
use terroir_agent_api::{
    Demand, Desired, EndCause, HostSpec, InstancePhase, InstanceSection, InterfacePhase, InterfaceSection, PowerState,
    VolumePhase, VolumeSection,
};
use terroir_types::{InstanceId, RunId, VolumeId};

use crate::observed::{BlobState, Observed};
use crate::record::{RunPhase, RunRecord};

/// An instance's report but for its generation, epoch and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceReport {
    pub run_id: RunId,
    pub phase: InstancePhase,
    pub machine: Option<String>,
    pub attached: BTreeSet<VolumeId>,
    pub reboot_count: u64,
}

/// `None` if there is nothing to say: the spec does not name it and it never ran here.
pub fn instance_status(spec: &HostSpec, observed: &Observed, id: InstanceId) -> Option<InstanceReport> {
    let section = super::instance_section(spec, id);
    let record = observed.records.get(&id);
    let run = record.and_then(|r| r.run.as_ref());
    let wanted_run = section.map_or(0, |s| s.run_id);
    let run_id = run.map_or(wanted_run, |r| r.run_id.max(wanted_run));
    if section.is_none() && run.is_none() {
        return None;
    }
    let machine = run.and_then(|r| r.machine.clone()).or_else(|| section.and_then(|s| s.machine.clone()));
    let reboot_count = run.map_or_else(|| section.map_or(0, |s| s.reboot_count), |r| r.reboot_count);
    if section.is_some_and(|s| s.desired == PowerState::Terminated) && record.is_some_and(|r| r.purged) {
        return Some(InstanceReport {
            run_id,
            phase: InstancePhase::Gone,
            machine,
            attached: BTreeSet::new(),
            reboot_count,
        });
    }
    let current = run.filter(|r| r.run_id == run_id);
    let phase = current.map_or(InstancePhase::Preparing, |run| run_phase(run, section));
    let attached = match &phase {
        InstancePhase::Running { .. } | InstancePhase::Stopping => attached(observed, id, section),
        _ => BTreeSet::new(),
    };
    Some(InstanceReport { run_id, phase, machine, attached, reboot_count })
}

fn run_phase(run: &RunRecord, section: Option<&InstanceSection>) -> InstancePhase {
    match &run.phase {
        RunPhase::Intended => InstancePhase::Preparing,
        RunPhase::Ended { cause, .. } => InstancePhase::Ended { cause: cause.clone() },
        RunPhase::Started { at, .. } => {
            if run.stop.is_some() || section.is_some_and(|s| s.desired != PowerState::Running) {
                InstancePhase::Stopping
            } else {
                InstancePhase::Running { started_at: *at }
            }
        }
    }
}

fn attached(observed: &Observed, id: InstanceId, section: Option<&InstanceSection>) -> BTreeSet<VolumeId> {
    match observed.guests.get(&id).and_then(|g| g.monitor.as_ref()) {
        Some(monitor) => monitor.volumes.clone(),
        // The monitor is not answering just now: what was asked for is the best guess.
        None => section.into_iter().flat_map(|s| s.volumes.iter().map(|v| v.volume)).collect(),
    }
}

/// Why this host must not carry out an order; none: it may. A host that does not know where it is fulfils no demand.
pub(super) fn refusal(demand: Option<&Demand>, observed: &Observed) -> Option<String> {
    let demand = demand?;
    match &observed.place {
        Some(place) => place.refuses(demand),
        None => Some("there is a policy, and no operator has signed where this host is".to_owned()),
    }
}

/// What keeps a wanted volume from being made, if trying again will not help by itself.
pub(super) fn volume_obstacle(section: &VolumeSection, observed: &Observed) -> Option<String> {
    let failure = observed.volumes.get(&section.id).and_then(|v| v.failure.as_ref());
    if let Some(failure) = failure.filter(|f| f.lasting) {
        return Some(failure.detail.clone());
    }
    if !observed.space.takes_more() {
        return Some(format!(
            "the host's disk is full: {} MiB are left, and {} MiB are kept for the cloud's own state",
            observed.space.available >> 20,
            observed.space.reserve >> 20
        ));
    }
    match section.source.as_ref().and_then(|blob| observed.blobs.get(&blob.sha256)) {
        Some(BlobState::Failed(failure)) if failure.lasting => Some(failure.detail.clone()),
        _ => None,
    }
}

pub fn volume_status(section: &VolumeSection, observed: &Observed) -> VolumePhase {
    let file = observed.volumes.get(&section.id).and_then(|v| v.file.as_ref());
    match (section.desired, file) {
        (Desired::Deleted, None) => VolumePhase::Deleted,
        (_, Some(_)) => VolumePhase::Ready,
        (Desired::Present, None) => match refusal(section.demand.as_deref(), observed) {
            Some(rule) => VolumePhase::Refused { rule },
            None => match volume_obstacle(section, observed) {
                Some(detail) => VolumePhase::Failed { detail },
                None => VolumePhase::Creating,
            },
        },
    }
}

/// `None` until the network has been looked at under the section's epoch.
pub fn interface_status(section: &InterfaceSection, observed: &Observed) -> Option<InterfacePhase> {
    let seen = observed.interfaces.get(&section.id)?;
    (seen.epoch == section.epoch).then(|| seen.phase.clone())
}

/// Why a start did not come to pass, for the report.
pub(super) const fn start_failed(detail: String) -> EndCause {
    EndCause::StartFailed { detail }
}
