use std::collections::BTreeSet;
use std::time::Duration;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, KeyPairId, ReservationId, Timestamp};

use crate::model::{Instance, KeyPair, instance_key, instance_status_key, key_pair_key, user_data_key};

/// How long a terminated instance is still shown.
pub const TERMINATED_VISIBLE: Duration = Duration::from_secs(3600);

/// Most rows' owners that one transaction removes.
const BATCH: usize = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub instances: usize,
    pub key_pairs: usize,
    /// A batch was full: call again.
    pub more: bool,
}

/// Removes what is over: instances terminated more than an hour ago, with all their rows, and deleted key pairs that no
/// instance has any more. Looks at everything, every time; one batch a call.
pub fn collect(txn: &mut Txn, now: Timestamp) -> Result<Collected, Error> {
    let mut collected = Collected::default();
    let mut reservations: BTreeSet<(AccountId, ReservationId)> = BTreeSet::new();
    let mut keys_in_use: BTreeSet<(AccountId, KeyPairId)> = BTreeSet::new();
    let mut over = Vec::new();
    for (_, instance) in txn.peek_range::<Instance>(&Key::new("instance"))? {
        let is_over = instance.terminated_at.is_some_and(|at| now.since(at) >= TERMINATED_VISIBLE);
        let free = is_over && over.len() < BATCH && terroir_network::ops::interfaces_of(txn, instance.id)?.is_empty();
        if free {
            over.push(instance);
            continue;
        }
        collected.more |= is_over && over.len() == BATCH;
        reservations.insert((instance.account, instance.reservation));
        keys_in_use.extend(instance.key_pair.map(|key_pair| (instance.account, key_pair)));
    }
    for instance in over {
        // Tracked from here: what was looked at above may have changed.
        let key = instance_key(instance.account, instance.id);
        if txn.get::<Instance>(&key)?.as_deref() != Some(&*instance) {
            continue;
        }
        txn.delete(&key);
        txn.delete(&instance_status_key(instance.account, instance.id));
        terroir_resources::unregister(txn, instance.account, &instance.id.to_string())?;
        if instance.user_data.as_ref().is_some_and(|user_data| user_data.own) {
            txn.delete(&user_data_key(instance.account, instance.id));
        }
        // An instance that changed its user data has left the reservation's; the last one of all takes it along.
        if !reservations.contains(&(instance.account, instance.reservation)) {
            txn.delete(&user_data_key(instance.account, instance.reservation));
        }
        collected.instances += 1;
    }
    for (_, key_pair) in txn.peek_range::<KeyPair>(&Key::new("key-pair"))? {
        if collected.key_pairs == BATCH {
            collected.more = true;
            break;
        }
        let gone = key_pair.deleted_at.is_some() && !keys_in_use.contains(&(key_pair.account, key_pair.id));
        if gone {
            txn.delete(&key_pair_key(key_pair.account, key_pair.id));
            collected.key_pairs += 1;
        }
    }
    Ok(collected)
}
