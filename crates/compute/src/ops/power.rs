use terroir_action::Context;
use terroir_policy::KeyCustody;
use terroir_resources::add_to_count;
use terroir_scheduler::{Request, Room};
use terroir_sovereignty::ops::effective_policy;
use terroir_sovereignty::receipt::Event;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, ErrorClass, HostId, InstanceId, ResourceId, Timestamp};

use super::launch::vcpu_limit;
use super::{COUNT_INSTANCES, COUNT_VCPUS, cluster_of, find_instance, give_back, limits, note_end, reserve, uncount};
use crate::model::{Desired, Instance, Reason, Why, host_instance_key, instance_key};
use crate::state::{HostKnowledge, InstanceState, host_knowledge, state_of};

/// An instance's state before and after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChange {
    pub instance: InstanceId,
    pub previous: InstanceState,
    pub current: InstanceState,
}

fn wrong_state(id: InstanceId, what: &str) -> Error {
    let message = format!("The instance '{id}' is not in a state from which it can be {what}.");
    Error::conflict("IncorrectInstanceState", message)
}

/// Terminated instances are still shown but no longer there for most commands.
fn not_terminated(
    txn: &Txn,
    account: AccountId,
    id: InstanceId,
    what: &str,
) -> Result<(Instance, InstanceState), Error> {
    let instance = Instance::clone(&*find_instance(txn, account, id)?);
    match state_of(txn, &instance)? {
        InstanceState::Terminated | InstanceState::ShuttingDown => Err(wrong_state(id, what)),
        state => Ok((instance, state)),
    }
}

/// Starts a stopped instance where its disks are, as a new run.
///
/// Errors: `InvalidInstanceID.NotFound`; `IncorrectInstanceState` unless it is stopped, pending or running;
/// `InsufficientInstanceCapacity`; `VcpuLimitExceeded`.
pub fn start(cx: &mut Context<'_>, id: InstanceId) -> Result<StateChange, Error> {
    let account = cx.caller.account;
    let (mut instance, state) = not_terminated(cx.txn, account, id, "started")?;
    match state {
        InstanceState::Pending | InstanceState::Running => {
            return Ok(StateChange { instance: id, previous: state, current: state });
        }
        InstanceState::Stopped => {}
        InstanceState::Stopping | InstanceState::ShuttingDown | InstanceState::Terminated => {
            return Err(wrong_state(id, "started"));
        }
    }
    let host = instance.host().ok_or_else(|| Error::internal(format_args!("{id} is on no host")))?;
    if host_knowledge(cx.txn, &instance)? == HostKnowledge::Lost {
        let message = format!("There is not enough capacity to start {id}: its host is lost, and its disks with it.");
        return Err(Error::new(ErrorClass::Capacity, "InsufficientInstanceCapacity", message));
    }
    if !instance.volumes.iter().any(|volume| is_root(cx.txn, &instance, *volume).unwrap_or(false)) {
        let message = format!(
            "Invalid value '{id}' for instanceId. Instance does not have a volume attached at root ({})",
            instance.root_device
        );
        return Err(Error::conflict("IncorrectInstanceState", message));
    }
    take_capacity(cx, &mut instance, host)?;
    for interface in terroir_network::ops::interfaces_of(cx.txn, id)? {
        terroir_network::ops::public_address_on_start(cx, interface.id)?;
    }
    instance.run_id += 1;
    instance.interrupted = 0;
    instance.desired = Desired::Running;
    instance.force_stop = false;
    instance.launched_at = cx.now;
    instance.reason = None;
    cx.txn.put(&instance_key(account, id), &instance)?;
    Ok(StateChange { instance: id, previous: state, current: InstanceState::Pending })
}

pub(super) fn is_root(txn: &Txn, instance: &Instance, volume: terroir_types::VolumeId) -> Result<bool, Error> {
    let volume = terroir_block_storage::ops::find_volume(txn, instance.account, volume)?;
    Ok(volume.assignment.is_held_by(instance.id)
        && volume.attachment.as_ref().is_some_and(|attachment| attachment.device == instance.root_device))
}

/// Processors and memory of a running instance.
pub(crate) fn running_room(instance: &Instance) -> Room {
    Room { vcpus: u64::from(instance.vcpus), memory_bytes: instance.memory_bytes, volume_bytes: 0 }
}

fn take_capacity(cx: &mut Context<'_>, instance: &mut Instance, host: HostId) -> Result<(), Error> {
    if instance.holds_capacity {
        return Ok(());
    }
    let needs = running_room(instance);
    // Its disks are there, so no other host will do; a cordoned host still starts what it has.
    let cluster = cluster_of(cx.txn, host)?;
    let tags = terroir_resources::tags(cx.txn, instance.account, &instance.id.to_string())?;
    let policy = effective_policy(cx.txn, instance.account, &tags)?;
    let request = Request { host: Some(host), ..Request::of(needs) };
    cluster.place(&request, &cluster.admit(&policy, KeyCustody::Operator), cx.ids).map_err(|none| {
        let message = format!("There is not enough capacity to start {}: {none}.", instance.id);
        Error::new(ErrorClass::Capacity, "InsufficientInstanceCapacity", message)
    })?;
    let limits = limits(cx.txn, instance.account)?;
    let vcpus = i64::from(instance.vcpus);
    add_to_count(cx.txn, instance.account, COUNT_VCPUS, vcpus, limits.vcpus, || vcpu_limit(vcpus, limits.vcpus))?;
    reserve(cx.txn, host, needs)?;
    instance.holds_capacity = true;
    Ok(())
}

/// The run is over: others may have its processors and memory.
pub(crate) fn drop_capacity(txn: &mut Txn, instance: &mut Instance) -> Result<(), Error> {
    if !instance.holds_capacity {
        return Ok(());
    }
    instance.holds_capacity = false;
    uncount(txn, instance.account, COUNT_VCPUS, i64::from(instance.vcpus))?;
    match instance.host() {
        Some(host) => give_back(txn, host, running_room(instance)),
        None => Ok(()),
    }
}

/// Makes an instance terminated if the last of its interfaces has left; repeating it changes nothing. Its guest is gone;
/// `ended`: what became of what its host kept of it.
pub(crate) fn finish_termination(
    txn: &mut Txn,
    instance: &mut Instance,
    ended: Event,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(host) = instance.host() else { return Ok(()) };
    if terroir_network::ops::has_interfaces(txn, instance.id) {
        return Ok(());
    }
    note_end(txn, instance.account, &instance.id.to_string(), "instance", host, ended, now)?;
    uncount(txn, instance.account, COUNT_INSTANCES, 1)?;
    txn.delete(&host_instance_key(host, instance.id));
    instance.assignment.ended();
    instance.terminated_at = Some(now);
    Ok(())
}

/// Asks for a stop. `force` skips the guest's own shutdown.
///
/// Errors: `InvalidInstanceID.NotFound`; `IncorrectInstanceState` for pending and terminated ones;
/// `OperationNotPermitted` if it is protected.
pub fn stop(
    txn: &mut Txn,
    account: AccountId,
    id: InstanceId,
    force: bool,
    now: Timestamp,
) -> Result<StateChange, Error> {
    let (mut instance, state) = not_terminated(txn, account, id, "stopped")?;
    if instance.stop_protected {
        let message = format!(
            "The instance '{id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
        );
        return Err(Error::conflict("OperationNotPermitted", message));
    }
    let current = match state {
        InstanceState::Stopped => InstanceState::Stopped,
        InstanceState::Running | InstanceState::Stopping => InstanceState::Stopping,
        InstanceState::Pending | InstanceState::ShuttingDown | InstanceState::Terminated => {
            return Err(wrong_state(id, "stopped"));
        }
    };
    let asks =
        current == InstanceState::Stopping && (instance.desired != Desired::Stopped || force && !instance.force_stop);
    if asks {
        if instance.desired != Desired::Stopped {
            instance.reason = Some(Reason { why: Why::UserAsked, at: now, detail: String::new() });
        }
        instance.desired = Desired::Stopped;
        instance.force_stop |= force;
        txn.put(&instance_key(account, id), &instance)?;
    }
    Ok(StateChange { instance: id, previous: state, current })
}

/// Asks for a restart of the guest without ending the run.
///
/// Errors: `InvalidInstanceID.NotFound`; `IncorrectInstanceState` unless it is pending or running.
pub fn reboot(txn: &mut Txn, account: AccountId, id: InstanceId) -> Result<(), Error> {
    let (mut instance, state) = not_terminated(txn, account, id, "rebooted")?;
    match state {
        // It boots anyway.
        InstanceState::Pending => Ok(()),
        InstanceState::Running => {
            instance.reboot_count += 1;
            txn.put(&instance_key(account, id), &instance)
        }
        _ => Err(wrong_state(id, "rebooted")),
    }
}

/// Asks for the end of an instance. Repeating it changes nothing.
///
/// Errors: `InvalidInstanceID.NotFound`; `OperationNotPermitted` if it is protected.
pub fn terminate(txn: &mut Txn, account: AccountId, id: InstanceId, now: Timestamp) -> Result<StateChange, Error> {
    let found = find_instance(txn, account, id)?;
    let state = state_of(txn, &found)?;
    if matches!(state, InstanceState::Terminated | InstanceState::ShuttingDown) {
        return Ok(StateChange { instance: id, previous: state, current: state });
    }
    if found.termination_protected {
        let message = format!(
            "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try \
             again."
        );
        return Err(Error::conflict("OperationNotPermitted", message));
    }
    let mut instance = Instance::clone(&found);
    instance.desired = Desired::Terminated;
    instance.reason = Some(Reason { why: Why::UserAsked, at: now, detail: String::new() });
    txn.put(&instance_key(account, id), &instance)?;
    Ok(StateChange { instance: id, previous: state, current: InstanceState::ShuttingDown })
}

/// AWS names all unknown ids of a list at once.
///
/// Errors: `InvalidInstanceID.NotFound`.
pub(crate) fn all_exist(txn: &Txn, account: AccountId, ids: &[InstanceId]) -> Result<(), Error> {
    let mut unknown = Vec::new();
    for id in ids {
        if txn.get::<Instance>(&instance_key(account, *id))?.is_none() {
            unknown.push(id.to_string());
        }
    }
    match unknown.len() {
        0 => Ok(()),
        1 => Err(InstanceId::not_found(&unknown[0])),
        _ => Err(Error::not_found(
            InstanceId::NOT_FOUND,
            format!("The instance IDs '{}' do not exist", unknown.join(", ")),
        )),
    }
}
