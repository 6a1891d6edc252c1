//! Volumes as sections of a host's spec.

use terroir_agent_api::{BlobRef, Demand, Desired, Section, SectionKey, VolumeSection};
use terroir_policy::Policy;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, HostId, VolumeId};

use crate::SYSTEM_ACCOUNT;
use crate::model::{Blob, HostVolume, Snapshot, Volume, host_volume_key, snapshot_key, volume_key};

/// Keys of all sections of this crate that `host` has.
pub fn sections_for_host(txn: &Txn, host: HostId) -> Result<Vec<SectionKey>, Error> {
    let rows = txn.peek_range::<HostVolume>(&Key::new(format!("host-volume/{host}")))?;
    Ok(rows.into_iter().map(|(key, _)| format!("volume/{}", key.last())).collect())
}

/// Which sections a changed record touches.
pub fn dependents(changed: &Key) -> Option<SectionKey> {
    match changed.kind() {
        "volume" | "host-volume" => Some(format!("volume/{}", changed.last())),
        _ => None,
    }
}

/// The section as it should be now; none if the host has no such volume, or the key is not of this crate.
pub fn render(txn: &Txn, section: &str, host: HostId) -> Result<Option<Section>, Error> {
    let Some(id) = section.strip_prefix("volume/").and_then(|id| id.parse::<VolumeId>().ok()) else {
        return Ok(None);
    };
    let Some(index) = txn.peek::<HostVolume>(&host_volume_key(host, id))? else { return Ok(None) };
    let Some(volume) = txn.peek::<Volume>(&volume_key(index.account, id))? else { return Ok(None) };
    if volume.host != host {
        return Ok(None);
    }
    Ok(Some(Section::Volume(VolumeSection {
        id,
        epoch: volume.assignment.epoch,
        desired: if volume.deleted_at.is_some() { Desired::Deleted } else { Desired::Present },
        size_bytes: volume.size_bytes,
        source: source(txn, &volume)?,
        demand: demand(txn, volume.account, &[&id.to_string()], &volume.zone)?,
    })))
}

/// What a host is told of the policy that something is under; none if there is nothing to obey. `resources`: those whose
/// tags count.
pub fn demand(txn: &Txn, account: AccountId, resources: &[&str], zone: &str) -> Result<Option<Box<Demand>>, Error> {
    let mut policy = Policy::default();
    for resource in resources {
        let tags = terroir_resources::tags(txn, account, resource)?;
        policy = policy.and(&terroir_sovereignty::ops::policy_now(txn, account, &tags)?);
    }
    if policy.is_open() {
        return Ok(None);
    }
    let operator = terroir_sovereignty::ops::zone_place(txn, zone)?.map(|(operator, _)| operator.operator.id.clone());
    Ok(Some(Box::new(Demand { operator: operator.unwrap_or_default(), site: zone.to_owned(), policy })))
}

fn source(txn: &Txn, volume: &Volume) -> Result<Option<BlobRef>, Error> {
    let Some(id) = volume.snapshot else { return Ok(None) };
    let own = txn.peek::<Snapshot>(&snapshot_key(volume.account, id))?;
    let snapshot = match own {
        Some(snapshot) => Some(snapshot),
        None => txn.peek::<Snapshot>(&snapshot_key(SYSTEM_ACCOUNT, id))?,
    };
    Ok(snapshot.map(|snapshot| blob_ref(format!("snapshot/{id}"), &snapshot.blob)))
}

/// A blob as a section names it.
pub fn blob_ref(name: String, blob: &Blob) -> BlobRef {
    BlobRef { name, sha256: blob.sha256.clone(), size_bytes: blob.size_bytes, format: blob.format }
}
