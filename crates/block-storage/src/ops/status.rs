use terroir_agent_api as agent;
use terroir_metering::Open;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, HostId, InstanceId, Timestamp, VolumeId};

use crate::Hold;
use crate::model::{HostVolume, Phase, Volume, VolumeStatus, host_volume_key, volume_key, volume_status_key};

/// What a report changed beyond the volume's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeOutcome {
    /// Stale, doubled, or about something this host does not hold.
    Ignored,
    Recorded,
    /// The instance let go: it has one volume less.
    Released {
        account: AccountId,
        volume: VolumeId,
        instance: InstanceId,
    },
    /// The disk is gone and every row with it: its room is free.
    Removed {
        account: AccountId,
        volume: VolumeId,
        size_bytes: u64,
    },
}

/// Takes over what a host says of a volume.
///
/// Ignored are reports of hosts that do not hold it, of another epoch than the current one, and of a generation that
/// came before.
pub fn apply_volume_status(
    txn: &mut Txn,
    host: HostId,
    report: &agent::VolumeStatus,
    now: Timestamp,
) -> Result<VolumeOutcome, Error> {
    let Some(index) = txn.get::<HostVolume>(&host_volume_key(host, report.id))? else {
        return Ok(VolumeOutcome::Ignored);
    };
    let account = index.account;
    let key = volume_key(account, report.id);
    let Some(volume) = txn.get::<Volume>(&key)? else { return Ok(VolumeOutcome::Ignored) };
    let status_key = volume_status_key(account, report.id);
    let before = txn.get::<VolumeStatus>(&status_key)?;
    let stale = before.as_ref().is_some_and(|before| before.generation >= report.generation);
    if stale || report.epoch != volume.assignment.epoch {
        return Ok(VolumeOutcome::Ignored);
    }
    let phase = phase(&report.phase);
    if volume.deleted_at.is_some() && phase == Phase::Deleted {
        return remove(txn, &volume);
    }
    let usage = match before.as_ref().and_then(|before| before.usage) {
        None if phase == Phase::Ready && volume.deleted_at.is_none() => Some(Open { since: now }),
        usage => usage,
    };
    let seen_before = before.as_ref().is_some_and(|before| before.epoch == report.epoch && before.seen_attached);
    let holder = volume.assignment.holder();
    let status = VolumeStatus {
        generation: report.generation,
        epoch: report.epoch,
        phase,
        attached_to: report.attached_to,
        seen_attached: seen_before || holder.is_some() && report.attached_to == holder,
        usage,
    };
    txn.put(&status_key, &status)?;
    release(txn, &volume, &status)
}

fn remove(txn: &mut Txn, volume: &Volume) -> Result<VolumeOutcome, Error> {
    txn.delete(&volume_key(volume.account, volume.id));
    txn.delete(&volume_status_key(volume.account, volume.id));
    txn.delete(&host_volume_key(volume.host, volume.id));
    terroir_resources::unregister(txn, volume.account, &volume.id.to_string())?;
    Ok(VolumeOutcome::Removed { account: volume.account, volume: volume.id, size_bytes: volume.size_bytes })
}

/// Settles what a volume waited for from a host that was declared lost: its deletion or its release.
pub fn host_lost(txn: &mut Txn, host: HostId, id: VolumeId) -> Result<VolumeOutcome, Error> {
    let Some(index) = txn.get::<HostVolume>(&host_volume_key(host, id))? else { return Ok(VolumeOutcome::Ignored) };
    let key = volume_key(index.account, id);
    let Some(found) = txn.get::<Volume>(&key)? else { return Ok(VolumeOutcome::Ignored) };
    if found.deleted_at.is_some() {
        return remove(txn, &found);
    }
    let Hold::Releasing(instance) = found.assignment.hold else { return Ok(VolumeOutcome::Ignored) };
    let mut volume = Volume::clone(&found);
    volume.assignment.ended();
    volume.attachment = None;
    txn.put(&key, &volume)?;
    Ok(VolumeOutcome::Released { account: volume.account, volume: id, instance })
}

fn release(txn: &mut Txn, volume: &Volume, status: &VolumeStatus) -> Result<VolumeOutcome, Error> {
    let Some(instance) = volume.assignment.holder().filter(|_| status.attached_to.is_none()) else {
        return Ok(VolumeOutcome::Recorded);
    };
    let mut volume = volume.clone();
    if !volume.assignment.released(status.epoch) {
        return Ok(VolumeOutcome::Recorded);
    }
    volume.attachment = None;
    txn.put(&volume_key(volume.account, volume.id), &volume)?;
    Ok(VolumeOutcome::Released { account: volume.account, volume: volume.id, instance })
}

/// A sentence from a host is bounded: it is kept for every volume.
const DETAIL_CHARS: usize = 200;

fn phase(phase: &agent::VolumePhase) -> Phase {
    match phase {
        agent::VolumePhase::Creating => Phase::Creating,
        agent::VolumePhase::Ready => Phase::Ready,
        agent::VolumePhase::Failed { detail } => Phase::Failed(detail.chars().take(DETAIL_CHARS).collect()),
        agent::VolumePhase::Refused { rule } => {
            Phase::Failed(format!("its host refused it: {rule}").chars().take(DETAIL_CHARS).collect())
        }
        agent::VolumePhase::Deleted => Phase::Deleted,
    }
}
