use std::sync::Arc;
use terroir_resources::Tags;
use terroir_sovereignty::ops::{check_store, note_store};
use terroir_sovereignty::receipt::Event;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, ResourceId, SnapshotId, Timestamp};

use crate::SYSTEM_ACCOUNT;
use crate::model::{
    Blob, GIB, ObjectRef, Phase, Snapshot, SnapshotTenant, Volume, VolumeStatus, snapshot_key, volume_status_key,
};

/// A snapshot that is being registered; its bytes are durable already.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    pub id: SnapshotId,
    pub blob: Blob,
    /// Size of the disk inside the blob; rounded up to a whole GiB.
    pub disk_bytes: u64,
    pub description: String,
    /// An object that holds the bytes, instead of the blob store.
    pub object: Option<ObjectRef>,
    pub tags: Tags,
}

/// Errors: `OperationNotPermitted` where the sovereignty policy forbids the object store.
pub fn create_snapshot(
    txn: &mut Txn,
    account: AccountId,
    now: Timestamp,
    request: SnapshotRequest,
) -> Result<Snapshot, Error> {
    let snapshot = Snapshot {
        account,
        id: request.id,
        volume_bytes: request.disk_bytes.div_ceil(GIB).max(1) * GIB,
        blob: request.blob,
        created_at: now,
        tenant: SnapshotTenant { description: request.description, object: request.object },
    };
    if account != SYSTEM_ACCOUNT {
        let policy = check_store(txn, account, &request.tags, "OperationNotPermitted")?;
        note_store(txn, account, &snapshot.id.to_string(), "snapshot", Event::Placed, Some(&policy), now)?;
    }
    terroir_resources::register(txn, account, &snapshot.id.to_string(), "snapshot", request.tags, now)?;
    txn.put(&snapshot_key(account, snapshot.id), &snapshot)?;
    Ok(snapshot)
}

/// A snapshot of the account or one that is there for everybody.
///
/// Errors: `InvalidSnapshot.NotFound`.
pub fn find_snapshot(txn: &Txn, account: AccountId, id: SnapshotId) -> Result<Arc<Snapshot>, Error> {
    if let Some(snapshot) = txn.get::<Snapshot>(&snapshot_key(account, id))? {
        return Ok(snapshot);
    }
    txn.get::<Snapshot>(&snapshot_key(SYSTEM_ACCOUNT, id))?
        .ok_or_else(|| Error::not_found(SnapshotId::NOT_FOUND, format!("The snapshot '{id}' does not exist.")))
}

/// Removes a snapshot unless a volume still has to be filled from it. True if it is gone.
pub fn forget_snapshot(txn: &mut Txn, account: AccountId, id: SnapshotId, now: Timestamp) -> Result<bool, Error> {
    let users = if account == SYSTEM_ACCOUNT { Key::new("volume") } else { Key::new(format!("volume/{account}")) };
    for (_, volume) in txn.range::<Volume>(&users)? {
        let status = txn.peek::<VolumeStatus>(&volume_status_key(volume.account, volume.id))?;
        let filled = status.is_some_and(|status| matches!(status.phase, Phase::Ready | Phase::Deleted));
        if volume.snapshot == Some(id) && !filled {
            return Ok(false);
        }
    }
    if account != SYSTEM_ACCOUNT {
        note_store(txn, account, &id.to_string(), "snapshot", Event::Erased, None, now)?;
    }
    txn.delete(&snapshot_key(account, id));
    terroir_resources::unregister(txn, account, &id.to_string())?;
    Ok(true)
}

/// Where the bytes of a snapshot are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobSource {
    /// In the blob store, under this name.
    Stored {
        name: String,
    },
    Object {
        account: AccountId,
        object: ObjectRef,
    },
}

/// Where the bytes are that fill `volume`; none if it starts empty.
pub fn blob_source(txn: &Txn, volume: &Volume) -> Result<Option<BlobSource>, Error> {
    let Some(id) = volume.snapshot else { return Ok(None) };
    let snapshot = find_snapshot(txn, volume.account, id)?;
    Ok(Some(match &snapshot.tenant.object {
        Some(object) => BlobSource::Object { account: snapshot.account, object: object.clone() },
        None => BlobSource::Stored { name: snapshot_blob(id) },
    }))
}

/// The name of a snapshot's bytes in the blob store.
pub fn snapshot_blob(id: SnapshotId) -> String {
    format!("snapshot/{id}")
}
