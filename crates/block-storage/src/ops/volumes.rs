use std::sync::Arc;
use terroir_metering::{Interval, Measure};
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, HostId, IdSource, InstanceId, ResourceId, Timestamp, VolumeId};

use super::VolumeShape;
use crate::Assignment;
use crate::model::{
    Attachment, HostVolume, Volume, VolumeState, VolumeStatus, host_volume_key, volume_key, volume_state,
    volume_status_key,
};

/// A volume that is being made.
#[derive(Debug, Clone)]
pub struct NewVolume<'a> {
    pub host: HostId,
    pub zone: &'a str,
    pub shape: &'a VolumeShape,
    /// Attached from its beginning; free without.
    pub attached: Option<(InstanceId, Attachment)>,
    pub tags: Tags,
}

/// Writes a new volume. The caller has reserved the room on the host and counted the account's quota.
pub fn create_volume(
    txn: &mut Txn,
    ids: &dyn IdSource,
    account: AccountId,
    now: Timestamp,
    new: NewVolume<'_>,
) -> Result<Volume, Error> {
    let (assignment, attachment) = match new.attached {
        None => (Assignment::free(), None),
        Some((instance, attachment)) => (Assignment::held_by(instance), Some(attachment)),
    };
    let volume = Volume {
        account,
        id: VolumeId::generate(ids),
        host: new.host,
        zone: new.zone.to_owned(),
        size_bytes: new.shape.size_bytes,
        volume_type: new.shape.volume_type,
        iops: new.shape.iops,
        throughput: new.shape.throughput,
        snapshot: new.shape.snapshot,
        created_at: now,
        assignment,
        attachment,
        deleted_at: None,
    };
    terroir_resources::register(txn, account, &volume.id.to_string(), "volume", new.tags, now)?;
    txn.put(&host_volume_key(new.host, volume.id), &HostVolume { account })?;
    txn.put(&volume_key(account, volume.id), &volume)?;
    Ok(volume)
}

/// Errors: `InvalidVolume.NotFound`.
pub fn find_volume(txn: &Txn, account: AccountId, id: VolumeId) -> Result<Arc<Volume>, Error> {
    txn.get::<Volume>(&volume_key(account, id))?.ok_or_else(|| not_found(id))
}

fn not_found(id: VolumeId) -> Error {
    Error::not_found(VolumeId::NOT_FOUND, format!("The volume '{id}' does not exist."))
}

/// Gives a free volume to an instance.
///
/// Errors: `VolumeInUse`; `IncorrectState` unless it is `available`.
pub fn attach(
    txn: &mut Txn,
    account: AccountId,
    id: VolumeId,
    instance: InstanceId,
    attachment: Attachment,
) -> Result<Volume, Error> {
    let mut volume = Volume::clone(&*find_volume(txn, account, id)?);
    let status = txn.get::<VolumeStatus>(&volume_status_key(account, id))?;
    match volume_state(&volume, status.as_deref()) {
        VolumeState::Available => {}
        VolumeState::InUse => {
            return Err(Error::conflict("VolumeInUse", format!("{id} is already attached to an instance")));
        }
        VolumeState::Creating | VolumeState::Deleting | VolumeState::Error => {
            return Err(Error::conflict("IncorrectState", format!("The volume '{id}' is not 'available'.")));
        }
    }
    volume.assignment.hold(instance).map_err(Error::internal)?;
    volume.attachment = Some(attachment);
    txn.put(&volume_key(account, id), &volume)?;
    Ok(volume)
}

/// Asks the host to take the volume from its instance; it is free once the host says so.
///
/// Errors: `IncorrectState` if it is not attached.
pub fn detach(txn: &mut Txn, account: AccountId, id: VolumeId) -> Result<Volume, Error> {
    let mut volume = Volume::clone(&*find_volume(txn, account, id)?);
    if volume.assignment.is_free() {
        let status = txn.get::<VolumeStatus>(&volume_status_key(account, id))?;
        let state = volume_state(&volume, status.as_deref()).name();
        return Err(Error::conflict("IncorrectState", format!("Volume '{id}' is in the '{state}' state.")));
    }
    if !volume.assignment.is_releasing() {
        volume.assignment.begin_release();
        txn.put(&volume_key(account, id), &volume)?;
    }
    Ok(volume)
}

/// The instance is gone from its host, and its bus with it: what is to go with it is deleted, the rest is free; so is
/// what somebody had taken from it before, though the host had not let go yet.
pub fn instance_gone(
    txn: &mut Txn,
    account: AccountId,
    id: VolumeId,
    instance: InstanceId,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(volume) = txn.get::<Volume>(&volume_key(account, id))? else { return Ok(()) };
    if volume.assignment.holder() != Some(instance) {
        return Ok(());
    }
    let mut volume = Volume::clone(&volume);
    let held = volume.assignment.is_held_by(instance);
    let goes = volume.attachment.take().is_some_and(|attachment| held && attachment.delete_on_termination);
    volume.assignment.ended();
    if goes {
        mark_deleted(txn, &mut volume, now)?;
    }
    txn.put(&volume_key(account, id), &volume)
}

/// Errors: `VolumeInUse`; nothing happens if it is being deleted already.
pub fn delete_volume(txn: &mut Txn, account: AccountId, id: VolumeId, now: Timestamp) -> Result<(), Error> {
    let mut volume = Volume::clone(&*find_volume(txn, account, id)?);
    if let Some(instance) = volume.assignment.holder() {
        return Err(Error::conflict("VolumeInUse", format!("Volume {id} is currently attached to {instance}")));
    }
    if volume.deleted_at.is_some() {
        return Err(not_found(id));
    }
    mark_deleted(txn, &mut volume, now)?;
    txn.put(&volume_key(account, id), &volume)
}

fn mark_deleted(txn: &mut Txn, volume: &mut Volume, now: Timestamp) -> Result<(), Error> {
    volume.deleted_at = Some(now);
    let key = volume_status_key(volume.account, volume.id);
    let Some(status) = txn.get::<VolumeStatus>(&key)? else { return Ok(()) };
    let Some(usage) = status.usage else { return Ok(()) };
    terroir_metering::close(
        txn,
        Interval {
            account: volume.account,
            resource: volume.id.to_string(),
            measure: Measure::Volume {
                volume_type: volume.volume_type.name().to_owned(),
                size_bytes: volume.size_bytes,
            },
            host: volume.host,
            zone: volume.zone.clone(),
            started_at: usage.since,
            ended_at: now,
        },
    )?;
    txn.put(&key, &VolumeStatus { usage: None, ..VolumeStatus::clone(&status) })
}

/// Errors: `InvalidInstanceAttributeValue` if the instance does not have it.
pub fn set_delete_on_termination(
    txn: &mut Txn,
    account: AccountId,
    id: VolumeId,
    instance: InstanceId,
    value: bool,
) -> Result<(), Error> {
    let mut volume = Volume::clone(&*find_volume(txn, account, id)?);
    let held = volume.assignment.is_held_by(instance);
    match volume.attachment.as_mut().filter(|_| held) {
        Some(attachment) => attachment.delete_on_termination = value,
        None => {
            let message = format!("The volume '{id}' is not attached to the instance '{instance}'");
            return Err(Error::invalid("InvalidInstanceAttributeValue", message));
        }
    }
    txn.put(&volume_key(account, id), &volume)
}
