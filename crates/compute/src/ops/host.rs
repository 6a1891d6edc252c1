use std::collections::HashMap;
use std::sync::Arc;
use terroir_agent_api::HostFacts;
use terroir_block_storage::model::HostVolume;
use terroir_policy::{KeyCustody, Operator, Policy, Site};
use terroir_resources::Tags;
use terroir_scheduler::{Candidate, Closed, Cluster, Request, Room};
use terroir_sovereignty::ops::{HostPlace, effective_policy};
use terroir_sovereignty::receipt::{Event, Fact, Stay, note};
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, ErrorClass, HostId, IdSource, InstanceId, Timestamp, VolumeId};

use crate::model::{
    Enrolment, Host, HostCapacity, HostInstance, HostMode, HostStatus, Instance, InstanceStatus, RemovedHost,
    enrolment_key, host_capacity_key, host_key, host_status_key, instance_key, instance_status_key, removed_host_key,
};
use crate::state::{InstanceState, host_knowledge, instance_state};

/// Makes a host known, or known again: its place may change only while nothing runs on it.
///
/// Errors: `IncorrectState` for a host that moved with instances or volumes on it.
pub fn register_host(txn: &mut Txn, id: HostId, zone: &str, facts: HostFacts, now: Timestamp) -> Result<(), Error> {
    let key = host_key(id);
    let before = txn.get::<Host>(&key)?;
    if before.as_ref().is_some_and(|host| host.zone != zone) && has_something(txn, id)? {
        let message = format!("The host {id} has instances or volumes and cannot move to another zone.");
        return Err(Error::conflict("IncorrectState", message));
    }
    let host = Host {
        id,
        zone: zone.to_owned(),
        mode: before.as_ref().map_or(HostMode::Active, |host| host.mode),
        registered_at: before.as_ref().map_or(now, |host| host.registered_at),
    };
    if before.as_deref() != Some(&host) {
        txn.put(&key, &host)?;
    }
    update_facts(txn, id, facts, None)
}

/// Whether anything is promised of the host, or still there.
fn has_something(txn: &Txn, id: HostId) -> Result<bool, Error> {
    let capacity = txn.get::<HostCapacity>(&host_capacity_key(id))?;
    let promised = capacity.is_some_and(|capacity| capacity.reserved != Room::default());
    let instances = txn.range::<HostInstance>(&Key::new(format!("host-instance/{id}")))?;
    Ok(promised || !instances.is_empty() || txn.exists(&Key::new(format!("host-volume/{id}"))))
}

/// What is still on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    pub instances: Vec<(AccountId, InstanceId, InstanceState)>,
    /// Those that are no instance's root, too.
    pub volumes: Vec<(AccountId, VolumeId)>,
}

/// What is still on a host. Everything on it is on its own disks, so none of it can go on elsewhere. Not tracked.
///
/// Errors: `InvalidHostID.NotFound`.
pub fn left_on(txn: &Txn, id: HostId) -> Result<Left, Error> {
    txn.peek::<Host>(&host_key(id))?.ok_or_else(|| no_host(id))?;
    let mut left = Left::default();
    for (key, index) in txn.peek_range::<HostInstance>(&Key::new(format!("host-instance/{id}")))? {
        let instance: InstanceId = key.last().parse()?;
        if let Some(spec) = txn.peek::<Instance>(&instance_key(index.account, instance))? {
            let status = txn.peek::<InstanceStatus>(&instance_status_key(index.account, instance))?;
            let state = instance_state(&spec, status.as_deref(), host_knowledge(txn, &spec)?);
            left.instances.push((index.account, instance, state));
        }
    }
    for (key, index) in txn.peek_range::<HostVolume>(&Key::new(format!("host-volume/{id}")))? {
        left.volumes.push((index.account, key.last().parse()?));
    }
    Ok(left)
}

/// Forgets a host that takes nothing new and has nothing. Its certificate counts no more, and its agent, if it dials
/// again, is refused.
///
/// Errors: `InvalidHostID.NotFound`; `IncorrectState` for one that still takes work or has something.
pub fn remove_host(txn: &mut Txn, id: HostId, now: Timestamp) -> Result<(), Error> {
    let Some(host) = txn.get::<Host>(&host_key(id))? else {
        // One that has joined and never said what it has.
        txn.get::<Enrolment>(&enrolment_key(id))?.ok_or_else(|| no_host(id))?;
        forget(txn, id, now)?;
        return Ok(());
    };
    if host.mode == HostMode::Active {
        return Err(Error::conflict("IncorrectState", format!("The host {id} takes new work: cordon it first.")));
    }
    if has_something(txn, id)? {
        let message = match host.mode {
            HostMode::Lost => format!(
                "The host {id} is lost, and instances or volumes that were on it are not deleted yet: their owners have \
                 to. It is refused as it is."
            ),
            _ => format!(
                "The host {id} has instances or volumes, which `terroir host drain {id}` names. If it never comes back, \
                 `terroir host declare-lost {id}` does without it."
            ),
        };
        return Err(Error::conflict("IncorrectState", message));
    }
    txn.delete(&host_key(id));
    txn.delete(&host_status_key(id));
    txn.delete(&host_capacity_key(id));
    forget(txn, id, now)
}

fn forget(txn: &mut Txn, id: HostId, now: Timestamp) -> Result<(), Error> {
    terroir_sovereignty::ops::remove_host(txn, id);
    txn.delete(&enrolment_key(id));
    txn.put(&removed_host_key(id), &RemovedHost { removed_at: now })
}

pub(super) fn no_host(id: HostId) -> Error {
    Error::not_found("InvalidHostID.NotFound", format!("The host ID '{id}' does not exist"))
}

/// Free disk space is kept in steps, so that a busy host does not write with every report.
const FREE_STEP: u64 = 1 << 30;

/// Takes over what a host says of itself.
pub fn update_facts(txn: &mut Txn, id: HostId, mut facts: HostFacts, boot_id: Option<&str>) -> Result<(), Error> {
    facts.volume_bytes_free -= facts.volume_bytes_free % FREE_STEP;
    let key = host_status_key(id);
    let before = txn.get::<HostStatus>(&key)?;
    let known_boot = before.as_ref().map(|status| status.boot_id.clone()).unwrap_or_default();
    let status = HostStatus { facts, boot_id: boot_id.map_or(known_boot, str::to_owned) };
    if before.as_deref() == Some(&status) { Ok(()) } else { txn.put(&key, &status) }
}

/// Errors: `InvalidHostID.NotFound`.
pub fn set_host_mode(txn: &mut Txn, id: HostId, mode: HostMode) -> Result<(), Error> {
    let key = host_key(id);
    let host = txn.get::<Host>(&key)?.ok_or_else(|| no_host(id))?;
    if host.mode == mode { Ok(()) } else { txn.put(&key, &Host { mode, ..Host::clone(&host) }) }
}

fn total(facts: &HostFacts) -> Room {
    Room { vcpus: u64::from(facts.vcpus), memory_bytes: facts.memory_bytes, volume_bytes: facts.volume_bytes_total }
}

/// Operator and site by zone; what no operator has signed is not stated.
#[derive(Default)]
struct Places(HashMap<String, (Arc<Operator>, Arc<Site>)>);

impl Places {
    fn candidate(&mut self, txn: &Txn, host: &Host) -> Result<Option<Candidate>, Error> {
        let Some(status) = txn.peek::<HostStatus>(&host_status_key(host.id))? else { return Ok(None) };
        let reserved = txn.peek::<HostCapacity>(&host_capacity_key(host.id))?.map(|c| c.reserved).unwrap_or_default();
        let found = HostPlace::find(txn, host.id, &host.zone)?;
        let fire_zone = found.as_ref().and_then(|found| found.fire_zone.clone());
        let (operator, site) = match self.0.get(&host.zone) {
            Some(known) => known.clone(),
            None => {
                let stated = found.map(|found| (found.operator.operator.clone(), found.site.site.clone()));
                let unstated = || (Operator::default(), Site { id: host.zone.clone(), ..Site::default() });
                let (operator, site) = stated.unwrap_or_else(unstated);
                let place = (Arc::new(operator), Arc::new(site));
                self.0.insert(host.zone.clone(), place.clone());
                place
            }
        };
        let closed = match host.mode {
            HostMode::Active => None,
            HostMode::Cordoned => Some(Closed::Cordoned),
            HostMode::Lost => Some(Closed::Lost),
        };
        let (architecture, free) = (status.facts.architecture.clone(), total(&status.facts).minus(reserved));
        Ok(Some(Candidate { id: host.id, architecture, closed, free, operator, site, fire_zone }))
    }
}

/// All hosts as placement sees them. Not tracked: what is taken is compared by [`reserve`].
pub(crate) fn cluster(txn: &Txn) -> Result<Cluster, Error> {
    let mut places = Places::default();
    let mut cluster = Cluster::default();
    for (_, host) in txn.peek_range::<Host>(&Key::new("host"))? {
        if let Some(candidate) = places.candidate(txn, &host)? {
            cluster.put(candidate);
        }
    }
    Ok(cluster)
}

/// The one host, as something sees it that is there already: that it takes nothing new does not matter.
pub(crate) fn cluster_of(txn: &Txn, id: HostId) -> Result<Cluster, Error> {
    let Some(host) = txn.get::<Host>(&host_key(id))? else { return Ok(Cluster::default()) };
    let candidate = Places::default().candidate(txn, &host)?;
    let open = |candidate: Candidate| Candidate {
        closed: candidate.closed.filter(|closed| *closed != Closed::Cordoned),
        ..candidate
    };
    Ok(candidate.into_iter().map(open).collect())
}

/// Promises room of a host; the transaction fails to commit if another one did so meanwhile.
///
/// Errors: `Unavailable` if the room is not there (any more).
pub(crate) fn reserve(txn: &mut Txn, id: HostId, room: Room) -> Result<(), Error> {
    let key = host_capacity_key(id);
    let reserved = txn.get::<HostCapacity>(&key)?.map(|capacity| capacity.reserved).unwrap_or_default();
    let status = txn.get::<HostStatus>(&host_status_key(id))?;
    let total = status.map(|status| total(&status.facts)).unwrap_or_default();
    if !total.minus(reserved).holds(room) {
        return Err(Error::unavailable("The host's capacity is being used by others. Try again."));
    }
    txn.put(&key, &HostCapacity { reserved: reserved.plus(room) })
}

/// Gives promised room back.
pub(crate) fn give_back(txn: &mut Txn, id: HostId, room: Room) -> Result<(), Error> {
    let key = host_capacity_key(id);
    let reserved = txn.get::<HostCapacity>(&key)?.map(|capacity| capacity.reserved).unwrap_or_default();
    if !reserved.holds(room) {
        return Err(Error::internal(format_args!("more is given back to {id} than was reserved: {room:?}")));
    }
    txn.put(&key, &HostCapacity { reserved: reserved.minus(room) })
}

/// Tells the receipts' log that something on a host is no more.
pub(crate) fn note_end(
    txn: &mut Txn,
    account: AccountId,
    resource: &str,
    kind: &str,
    host: HostId,
    event: Event,
    now: Timestamp,
) -> Result<(), Error> {
    let zone = txn.peek::<Host>(&host_key(host))?.map(|found| found.zone.clone()).unwrap_or_default();
    let stay = Stay { host: Some(host), site: &zone };
    note(txn, &[Fact { account, resource, kind, event, stay, from: None, policy: "" }], now)
}

/// Finds and reserves the place of a volume that no instance has, where the account's policy and that of its tags let it
/// be.
///
/// Errors: `InsufficientVolumeCapacity` with the reasons; those of [`effective_policy`].
pub fn place_volume(
    txn: &mut Txn,
    account: AccountId,
    zone: &str,
    size_bytes: u64,
    tags: &Tags,
    ids: &dyn IdSource,
) -> Result<(HostId, Policy), Error> {
    let needs = Room { volume_bytes: size_bytes, ..Room::default() };
    let policy = effective_policy(txn, account, tags)?;
    let cluster = cluster(txn)?;
    let request = Request { zone: Some(zone), ..Request::of(needs) };
    let host = cluster.place(&request, &cluster.admit(&policy, KeyCustody::Operator), ids).map_err(|none| {
        let message = format!("There is not enough capacity to fulfil your volume request: {none}.");
        Error::new(ErrorClass::Capacity, "InsufficientVolumeCapacity", message)
    })?;
    reserve(txn, host, needs)?;
    Ok((host, policy))
}
