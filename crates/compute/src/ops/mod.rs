//! Commands on instances, hosts and key pairs. No commit, no I/O, no clock.

mod attributes;
mod collect;
mod enrolment;
mod host;
mod key_pair;
mod launch;
mod lost;
mod power;
mod volume;

pub use attributes::{
    Flags, change_user_data, set_flags, set_groups, set_instance_type, set_metadata, set_source_dest_check,
};
pub use collect::{Collected, TERMINATED_VISIBLE, collect};
pub use enrolment::{
    MAX_TOKEN_LIFE, NewHost, add_join_token, enrol, ensure_authority, find_enrolment, readmit, register_enrolled,
    was_removed,
};
pub use host::{Left, left_on, place_volume, register_host, remove_host, set_host_mode, update_facts};
pub(crate) use host::{cluster, cluster_of, give_back, note_end, reserve};
pub(crate) use key_pair::key_name_taken;
pub use key_pair::{NewKeyPair, create_key_pair, delete_key_pair, find_key_pair, find_key_pair_named};
pub use launch::{Launch, LaunchVolume, MAX_PER_LAUNCH, MAX_USER_DATA_BYTES, launch};
pub use lost::{Settled, settle_lost};
pub use power::{StateChange, reboot, start, stop, terminate};
pub(crate) use power::{all_exist, drop_capacity, finish_termination};
pub use volume::{AttachRequest, attach_volume, check_device, create_volume, detach_volume};

use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, InstanceId, ResourceId};

use crate::model::{Instance, Limits, instance_key, limits_key};

/// Errors: `InvalidInstanceID.NotFound`.
pub fn find_instance(txn: &Txn, account: AccountId, id: InstanceId) -> Result<Arc<Instance>, Error> {
    txn.get::<Instance>(&instance_key(account, id))?.ok_or_else(|| InstanceId::not_found(id))
}

pub fn limits(txn: &Txn, account: AccountId) -> Result<Limits, Error> {
    Ok(txn.peek::<Limits>(&limits_key(account))?.map(|limits| *limits).unwrap_or_default())
}

/// Names of guard records.
pub(crate) const COUNT_INSTANCES: &str = "instances";
pub(crate) const COUNT_VCPUS: &str = "vcpus";
pub(crate) const COUNT_VOLUMES: &str = "volumes";
pub(crate) const COUNT_KEY_PAIRS: &str = "key-pairs";

/// A count may always shrink.
pub(crate) fn uncount(txn: &mut Txn, account: AccountId, name: &str, by: i64) -> Result<(), Error> {
    terroir_resources::add_to_count(txn, account, name, -by, i64::MAX, || {
        Error::internal("a count shrank over a limit")
    })
    .map(drop)
}
