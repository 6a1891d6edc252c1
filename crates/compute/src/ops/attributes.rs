use terroir_action::Context;
use terroir_network::ops::Scope;
use terroir_resources::add_to_count;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, InstanceId, SecurityGroupId};

use super::launch::{MAX_USER_DATA_BYTES, user_data_ref};
use super::{COUNT_VCPUS, find_instance, limits};
use crate::catalogue;
use crate::model::{Instance, MetadataChoice, UserData, instance_key, user_data_key};
use crate::state::{InstanceState, state_of};

fn stopped(txn: &Txn, account: AccountId, id: InstanceId) -> Result<Instance, Error> {
    let instance = alive(txn, account, id)?;
    if state_of(txn, &instance)? == InstanceState::Stopped {
        return Ok(instance);
    }
    let message = format!("The instance '{id}' is not in the 'stopped' state.");
    Err(Error::conflict("IncorrectInstanceState", message))
}

fn alive(txn: &Txn, account: AccountId, id: InstanceId) -> Result<Instance, Error> {
    let instance = find_instance(txn, account, id)?;
    if matches!(state_of(txn, &instance)?, InstanceState::Terminated | InstanceState::ShuttingDown) {
        return Err(Error::conflict("IncorrectInstanceState", format!("The instance '{id}' is being terminated.")));
    }
    Ok(Instance::clone(&instance))
}

/// Changes the type of a stopped instance.
///
/// Errors: `IncorrectInstanceState`; `InvalidInstanceType`.
pub fn set_instance_type(txn: &mut Txn, account: AccountId, id: InstanceId, name: &str) -> Result<(), Error> {
    let mut instance = stopped(txn, account, id)?;
    let wanted = catalogue::find(txn, name)?;
    // Of a host that was just declared lost.
    if instance.holds_capacity {
        let message = format!("The instance '{id}' is not in the 'stopped' state yet.");
        return Err(Error::conflict("IncorrectInstanceState", message));
    }
    instance.instance_type.clone_from(&wanted.name);
    instance.vcpus = wanted.vcpus;
    instance.memory_bytes = wanted.memory_bytes();
    // Said now rather than at the next start, if it can never be started.
    let limit = limits(txn, account)?.vcpus;
    let vcpus = i64::from(wanted.vcpus);
    add_to_count(txn, account, COUNT_VCPUS, vcpus, limit, || super::launch::vcpu_limit(vcpus, limit))?;
    super::uncount(txn, account, COUNT_VCPUS, vcpus)?;
    txn.put(&instance_key(account, id), &instance)
}

/// Changes the user data of a stopped instance; empty removes it.
///
/// Errors: `IncorrectInstanceState`; `InvalidParameterValue` if it is too long.
pub fn change_user_data(txn: &mut Txn, account: AccountId, id: InstanceId, bytes: Vec<u8>) -> Result<(), Error> {
    let mut instance = stopped(txn, account, id)?;
    if bytes.len() > MAX_USER_DATA_BYTES {
        let message = format!("User data is limited to {MAX_USER_DATA_BYTES} bytes");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let key = user_data_key(account, id);
    if bytes.is_empty() {
        instance.user_data = None;
        txn.delete(&key);
    } else {
        instance.user_data = Some(user_data_ref(&bytes, true));
        txn.put(&key, &UserData { account, tenant: bytes })?;
    }
    txn.put(&instance_key(account, id), &instance)
}

/// What ModifyInstanceAttribute can set in any state; `None` leaves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    pub termination_protected: Option<bool>,
    pub stop_protected: Option<bool>,
    pub shutdown_terminates: Option<bool>,
    pub ebs_optimized: Option<bool>,
}

pub fn set_flags(txn: &mut Txn, account: AccountId, id: InstanceId, flags: Flags) -> Result<(), Error> {
    let mut instance = match flags.ebs_optimized {
        Some(_) => stopped(txn, account, id)?,
        None => alive(txn, account, id)?,
    };
    let set = |to: &mut bool, value: Option<bool>| *to = value.unwrap_or(*to);
    set(&mut instance.termination_protected, flags.termination_protected);
    set(&mut instance.stop_protected, flags.stop_protected);
    set(&mut instance.shutdown_terminates, flags.shutdown_terminates);
    set(&mut instance.ebs_optimized, flags.ebs_optimized);
    txn.put(&instance_key(account, id), &instance)
}

pub fn set_metadata(
    txn: &mut Txn,
    account: AccountId,
    id: InstanceId,
    change: impl FnOnce(MetadataChoice) -> Result<MetadataChoice, Error>,
) -> Result<MetadataChoice, Error> {
    let mut instance = alive(txn, account, id)?;
    instance.metadata = change(instance.metadata)?;
    txn.put(&instance_key(account, id), &instance)?;
    Ok(instance.metadata)
}

/// The groups of the instance's only interface.
///
/// Errors: `InvalidInstanceID` if it has several interfaces; those of groups.
pub fn set_groups(cx: &mut Context<'_>, id: InstanceId, groups: &[SecurityGroupId]) -> Result<(), Error> {
    let interface = only_interface(cx, id)?;
    terroir_network::ops::set_groups(&mut Scope::of(cx), interface, groups)
}

/// The source/destination check of the instance's only interface.
pub fn set_source_dest_check(cx: &mut Context<'_>, id: InstanceId, check: bool) -> Result<(), Error> {
    let interface = only_interface(cx, id)?;
    terroir_network::ops::set_source_dest_check(&mut Scope::of(cx), interface, check)
}

fn only_interface(cx: &Context<'_>, id: InstanceId) -> Result<terroir_types::InterfaceId, Error> {
    alive(cx.txn, cx.caller.account, id)?;
    match terroir_network::ops::interfaces_of(cx.txn, id)?.as_slice() {
        [only] => Ok(only.id),
        many => {
            let message = format!(
                "There are {} interfaces attached to instance '{id}'. Please specify an interface instead.",
                many.len()
            );
            Err(Error::invalid("InvalidInstanceID", message))
        }
    }
}
