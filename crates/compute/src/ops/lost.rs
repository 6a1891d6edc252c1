//! A host that was declared lost says nothing any more: what waits for its word is settled without it.

use terroir_block_storage::model::HostVolume;
use terroir_block_storage::ops::VolumeOutcome;
use terroir_sovereignty::receipt::Event;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, HostId, InstanceId, Timestamp};

use super::finish_termination;
use crate::controller::{apply_volume_outcome, close_usage, gone, stopped};
use crate::model::{
    Desired, Host, HostInstance, HostMode, Instance, InstanceStatus, Reason, Why, instance_key, instance_status_key,
};

/// Objects that one transaction settles: an instance writes about twenty records.
const BATCH: usize = 50;

/// What one call settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    pub instances: usize,
    pub volumes: usize,
    /// A batch was full: call again.
    pub more: bool,
}

/// On every lost host: instances being terminated are, all others are stopped and pay for nothing; volumes being
/// deleted or detached are. What is settled is left alone, so repeating it changes nothing.
pub fn settle_lost(txn: &mut Txn, now: Timestamp) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    for (_, host) in txn.peek_range::<Host>(&Key::new("host"))? {
        if host.mode != HostMode::Lost {
            continue;
        }
        instances(txn, host.id, now, &mut settled)?;
        volumes(txn, host.id, now, &mut settled)?;
    }
    Ok(settled)
}

impl Settled {
    fn is_full(&mut self) -> bool {
        self.more |= self.instances + self.volumes >= BATCH;
        self.more
    }
}

fn instances(txn: &mut Txn, host: HostId, now: Timestamp, settled: &mut Settled) -> Result<(), Error> {
    for (key, index) in txn.peek_range::<HostInstance>(&Key::new(format!("host-instance/{host}")))? {
        if settled.is_full() {
            return Ok(());
        }
        if instance(txn, host, index.account, key.last().parse()?, now)? {
            settled.instances += 1;
        }
    }
    Ok(())
}

/// True if there was something to settle.
fn instance(txn: &mut Txn, host: HostId, account: AccountId, id: InstanceId, now: Timestamp) -> Result<bool, Error> {
    let key = instance_key(account, id);
    let Some(before) = txn.get::<Instance>(&key)?.filter(|instance| instance.host() == Some(host)) else {
        return Ok(false);
    };
    let status_key = instance_status_key(account, id);
    let status_before = txn.get::<InstanceStatus>(&status_key)?;
    let mut instance = Instance::clone(&before);
    let mut was_paid_for = false;
    if let Some(found) = &status_before {
        let mut status = InstanceStatus::clone(found);
        was_paid_for = close_usage(txn, &instance, host, &mut status, now)?;
        if was_paid_for {
            txn.put(&status_key, &status)?;
        }
    }
    match instance.desired {
        Desired::Terminated => {
            gone(txn, &mut instance, now)?;
            terroir_network::ops::forget_interfaces_of(txn, id)?;
            finish_termination(txn, &mut instance, Event::Lost, now)?;
        }
        Desired::Running => {
            instance.desired = Desired::Stopped;
            instance.reason = Some(Reason { why: Why::HostLost, at: now, detail: String::new() });
            stopped(txn, &mut instance)?;
        }
        Desired::Stopped => stopped(txn, &mut instance)?,
    }
    if instance != *before {
        txn.put(&key, &instance)?;
    }
    Ok(was_paid_for || instance != *before)
}

fn volumes(txn: &mut Txn, host: HostId, now: Timestamp, settled: &mut Settled) -> Result<(), Error> {
    for (key, _) in txn.peek_range::<HostVolume>(&Key::new(format!("host-volume/{host}")))? {
        if settled.is_full() {
            return Ok(());
        }
        let outcome = terroir_block_storage::ops::host_lost(txn, host, key.last().parse()?)?;
        if outcome != VolumeOutcome::Ignored {
            settled.volumes += 1;
            apply_volume_outcome(txn, host, outcome, Event::Lost, now)?;
        }
    }
    Ok(())
}
