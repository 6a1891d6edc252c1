//! What volumes and instances do together.

use terroir_action::Context;
use terroir_block_storage::model::{Attachment, Volume};
use terroir_block_storage::ops::{self as block, NewVolume, VolumeShape};
use terroir_resources::{Tags, add_to_count};
use terroir_sovereignty::receipt::{Event, Fact, Stay, note, policy_digest};
use terroir_store::Txn;
use terroir_types::{AccountId, Error, ErrorClass, InstanceId, Timestamp, VolumeId};

use super::power::is_root;
use super::{COUNT_VOLUMES, find_instance, limits, place_volume};
use crate::model::{Instance, instance_key};
use crate::state::{InstanceState, state_of};

/// Most volumes of one instance: the places on its bus.
const SLOTS: u8 = 16;

/// Makes a volume in a zone, on a host with room for it.
///
/// Errors: `VolumeLimitExceeded`; those of [`place_volume`].
pub fn create_volume(cx: &mut Context<'_>, zone: &str, shape: &VolumeShape, tags: Tags) -> Result<Volume, Error> {
    let account = cx.caller.account;
    let limit = limits(cx.txn, account)?.volumes;
    add_to_count(cx.txn, account, COUNT_VOLUMES, 1, limit, || super::launch::volume_limit(limit))?;
    let (host, policy) = place_volume(cx.txn, account, zone, shape.size_bytes, &tags, cx.ids)?;
    let new = NewVolume { host, zone, shape, attached: None, tags };
    let volume = block::create_volume(cx.txn, cx.ids, account, cx.now, new)?;
    let fact = Fact {
        account,
        resource: &volume.id.to_string(),
        kind: "volume",
        event: Event::Placed,
        stay: Stay { host: Some(host), site: zone },
        from: None,
        policy: &policy_digest(&policy),
    };
    note(cx.txn, &[fact], cx.now)?;
    Ok(volume)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    pub volume: VolumeId,
    pub instance: InstanceId,
    pub device: String,
}

/// Gives a volume to a running or stopped instance.
///
/// Errors: `InvalidVolume.NotFound`, `InvalidInstanceID.NotFound`; `IncorrectState`, `VolumeInUse`;
/// `InvalidVolume.ZoneMismatch`; `InvalidParameterValue` for a bad device name or one in use;
/// `AttachmentLimitExceeded`.
pub fn attach_volume(
    txn: &mut Txn,
    account: AccountId,
    request: &AttachRequest,
    now: Timestamp,
) -> Result<Volume, Error> {
    let volume = block::find_volume(txn, account, request.volume)?;
    let mut instance = Instance::clone(&*find_instance(txn, account, request.instance)?);
    let state = state_of(txn, &instance)?;
    if !matches!(state, InstanceState::Running | InstanceState::Stopped | InstanceState::Pending) {
        let message = format!("Instance '{}' is not 'running'.", instance.id);
        return Err(Error::conflict("IncorrectState", message));
    }
    check_device(&request.device)?;
    check_place(&volume, &instance)?;
    let slot = free_slot(txn, &instance, &request.device)?;
    let attachment = Attachment {
        device: request.device.clone(),
        slot,
        delete_on_termination: false,
        attached_at: now,
        hot: state != InstanceState::Stopped,
    };
    let volume = block::attach(txn, account, request.volume, instance.id, attachment)?;
    instance.volumes.push(volume.id);
    txn.put(&instance_key(account, instance.id), &instance)?;
    Ok(volume)
}

fn check_place(volume: &Volume, instance: &Instance) -> Result<(), Error> {
    if volume.zone != instance.zone {
        let message =
            format!("The volume '{}' is not in the same availability zone as instance '{}'", volume.id, instance.id);
        return Err(Error::invalid("InvalidVolume.ZoneMismatch", message));
    }
    if Some(volume.host) != instance.host() {
        let message = format!(
            "The volume '{}' is on another host than the instance '{}', and local volumes cannot move.",
            volume.id, instance.id
        );
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    Ok(())
}

/// Names as EC2 takes them for Linux: `/dev/sd[a-z]`, `/dev/xvd[a-z]`, either with a number, and `xvd[a-z]`.
///
/// Errors: `InvalidParameterValue`.
pub fn check_device(device: &str) -> Result<(), Error> {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let rest = name.strip_prefix("sd").or_else(|| name.strip_prefix("xvd")).unwrap_or_default();
    let (letters, digits) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
    let legal = (1..=2).contains(&letters.len())
        && letters.chars().all(|c| c.is_ascii_lowercase())
        && digits.len() <= 2
        && digits.chars().all(|c| c.is_ascii_digit());
    if legal {
        return Ok(());
    }
    let message = format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.");
    Err(Error::invalid("InvalidParameterValue", message))
}

fn free_slot(txn: &Txn, instance: &Instance, device: &str) -> Result<u8, Error> {
    let mut taken = [false; SLOTS as usize];
    for id in &instance.volumes {
        let volume = block::find_volume(txn, instance.account, *id)?;
        let Some(attachment) = &volume.attachment else { continue };
        if attachment.device == device {
            let message =
                format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        if let Some(slot) = taken.get_mut(usize::from(attachment.slot)) {
            *slot = true;
        }
    }
    // Place 0 is the root volume's: the firmware looks there first.
    let from = if device == instance.root_device { 0 } else { 1 };
    (from..SLOTS).find(|slot| !taken[usize::from(*slot)]).ok_or_else(|| {
        let message = format!("Instance '{}' has reached its volume attachment limit of {SLOTS}.", instance.id);
        Error::limit("AttachmentLimitExceeded", message)
    })
}

/// Takes a volume from its instance, named or not.
///
/// Errors: `InvalidVolume.NotFound`; `IncorrectState` if it is not attached; `InvalidAttachment.NotFound` if it is
/// attached elsewhere; `OperationNotPermitted` for the root volume of an instance that is not stopped.
pub fn detach_volume(
    txn: &mut Txn,
    account: AccountId,
    id: VolumeId,
    from: Option<InstanceId>,
    device: Option<&str>,
) -> Result<Volume, Error> {
    let volume = block::find_volume(txn, account, id)?;
    let Some(holder) = volume.assignment.holder() else { return block::detach(txn, account, id) };
    let other_device = |device| volume.attachment.as_ref().is_some_and(|attachment| attachment.device != device);
    if from.is_some_and(|from| from != holder) || device.is_some_and(other_device) {
        let place = from.map(|from| from.to_string()).unwrap_or_default();
        let message = format!("Volume '{id}' is not attached to instance '{place}' as the device given.");
        return Err(Error::not_found("InvalidAttachment.NotFound", message));
    }
    let instance = find_instance(txn, account, holder)?;
    let state = state_of(txn, &instance)?;
    if state != InstanceState::Stopped && is_root(txn, &instance, id)? {
        let message = format!("Unable to detach root volume '{id}' from instance '{holder}'");
        return Err(Error::conflict("OperationNotPermitted", message));
    }
    block::detach(txn, account, id)
}
