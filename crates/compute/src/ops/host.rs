use terroir_agent_api::HostFacts;
use terroir_policy::{Operator, Policy, Site};
use terroir_scheduler::{Candidate, Request, Room, place};
use terroir_store::{Key, Txn};
use terroir_types::{Error, ErrorClass, HostId, IdSource, Timestamp};

use crate::model::{Host, HostCapacity, HostMode, HostStatus, host_capacity_key, host_key, host_status_key};

/// What an operator says of a host that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRegistration {
    pub zone: String,
    pub site: Site,
    pub operator: Operator,
}

/// Makes a host known, or known again: its place may change only while nothing runs on it.
///
/// Errors: `IncorrectState` for a host that moved with instances or volumes on it.
pub fn register_host(
    txn: &mut Txn,
    id: HostId,
    registration: HostRegistration,
    facts: HostFacts,
    now: Timestamp,
) -> Result<(), Error> {
    let key = host_key(id);
    let before = txn.get::<Host>(&key)?;
    if before.as_ref().is_some_and(|host| host.zone != registration.zone) {
        let capacity = txn.get::<HostCapacity>(&host_capacity_key(id))?;
        if capacity.is_some_and(|capacity| capacity.reserved != Room::default()) {
            let message = format!("The host {id} has instances or volumes and cannot move to another zone.");
            return Err(Error::conflict("IncorrectState", message));
        }
    }
    let host = Host {
        id,
        zone: registration.zone,
        site: registration.site,
        operator: registration.operator,
        mode: before.as_ref().map_or(HostMode::Active, |host| host.mode),
        registered_at: before.as_ref().map_or(now, |host| host.registered_at),
    };
    if before.as_deref() != Some(&host) {
        txn.put(&key, &host)?;
    }
    update_facts(txn, id, facts, None)
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
    let host = txn
        .get::<Host>(&key)?
        .ok_or_else(|| Error::not_found("InvalidHostID.NotFound", format!("The host ID '{id}' does not exist")))?;
    if host.mode == mode { Ok(()) } else { txn.put(&key, &Host { mode, ..Host::clone(&host) }) }
}

fn total(facts: &HostFacts) -> Room {
    Room { vcpus: u64::from(facts.vcpus), memory_bytes: facts.memory_bytes, volume_bytes: facts.volume_bytes_total }
}

/// All hosts as placement sees them. Not tracked: what is taken is compared by [`reserve`].
pub(crate) fn candidates(txn: &Txn) -> Result<Vec<Candidate>, Error> {
    let mut out = Vec::new();
    for (_, host) in txn.peek_range::<Host>(&Key::new("host"))? {
        let Some(status) = txn.peek::<HostStatus>(&host_status_key(host.id))? else { continue };
        let reserved = txn.peek::<HostCapacity>(&host_capacity_key(host.id))?.map(|c| c.reserved).unwrap_or_default();
        let closed = match host.mode {
            HostMode::Active => None,
            HostMode::Drained => Some("takes nothing new".to_owned()),
            HostMode::Lost => Some("is lost".to_owned()),
        };
        out.push(Candidate {
            id: host.id,
            name: status.facts.name.clone(),
            zone: host.zone.clone(),
            architecture: status.facts.architecture.clone(),
            closed,
            free: total(&status.facts).minus(reserved),
            operator: host.operator.clone(),
            site: host.site.clone(),
        });
    }
    Ok(out)
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

/// Finds and reserves the place of a volume that no instance has.
///
/// Errors: `InsufficientVolumeCapacity` with the reasons.
pub fn place_volume(txn: &mut Txn, zone: &str, size_bytes: u64, ids: &dyn IdSource) -> Result<HostId, Error> {
    let needs = Room { volume_bytes: size_bytes, ..Room::default() };
    let request = Request { needs, zone: Some(zone), host: None, architecture: None, policy: &Policy::default() };
    let host = place(&candidates(txn)?, &request, ids).map_err(|none| {
        let message = format!("There is not enough capacity to fulfil your volume request: {none}.");
        Error::new(ErrorClass::Capacity, "InsufficientVolumeCapacity", message)
    })?;
    reserve(txn, host, needs)?;
    Ok(host)
}
