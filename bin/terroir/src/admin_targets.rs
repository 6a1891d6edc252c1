//! The operator's commands about targets, for the admin socket.

use axum::Json;
use axum::extract::State;
use std::sync::Arc;
use terroir_object_storage::backend::Outbox;
use terroir_object_storage::engine;
use terroir_object_storage::foreign::ForeignS3;
use terroir_object_storage::target::{
    self, DEFAULT_MAX_QUEUED, Destination, ForeignBucket, S3Destination, Target, TargetTenant,
};
use terroir_store::Txn;
use terroir_types::{Error, Timestamp};

use crate::admin_api::{EngineChoice, EngineStatus, NewTargetRequest, TargetRequest, TargetSummary};
use crate::admin_server::{Admin, Answer};
use crate::server::Cloud;

pub async fn list_targets(State(admin): State<Arc<Admin>>) -> Answer<Vec<TargetSummary>> {
    let cloud = &admin.cloud;
    let queues = cloud.backend.queues().await.map_err(Error::from)?;
    let mut troubles = cloud.notifier.troubles();
    troubles.append(&mut cloud.replicator.troubles());
    let txn = cloud.store.read().await?;
    let summary = |target: &Arc<Target>| {
        let of_target: Vec<_> = queues.iter().filter(|queue| Target::has_queue(target.name(), &queue.name)).collect();
        let trouble = of_target.iter().find_map(|queue| troubles.get(&queue.name));
        let arns = target.arns(&cloud.region.get().name);
        TargetSummary {
            name: target.name().to_owned(),
            kind: target.tenant.place.kind().to_owned(),
            address: target.tenant.place.address(),
            arns: arns.iter().map(ToString::to_string).collect(),
            accounts: target.tenant.accounts.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
            created_at: target.created_at.to_rfc3339_seconds(),
            max_queued: target.tenant.max_queued,
            queued: of_target.iter().map(|queue| queue.entries).sum(),
            oldest: of_target
                .iter()
                .filter_map(|queue| queue.oldest)
                .min()
                .map(|at| Timestamp::from_millis(at).to_rfc3339_seconds()),
            dropped: of_target.iter().map(|queue| queue.dropped).sum(),
            trouble: trouble.map(|trouble| trouble.error.clone()),
        }
    };
    Ok(Json(target::all(&txn)?.iter().map(summary).collect()))
}

pub async fn add_target(State(admin): State<Arc<Admin>>, Json(request): Json<NewTargetRequest>) -> Answer<()> {
    let accounts = request.accounts.iter().map(|text| crate::admin_objects::account_id(text));
    let accounts = accounts.collect::<Result<std::collections::BTreeSet<_>, _>>()?;
    let tenant = TargetTenant {
        name: request.name,
        accounts: Some(accounts).filter(|accounts| !accounts.is_empty()),
        max_queued: request.max_queued.unwrap_or(DEFAULT_MAX_QUEUED),
        place: request.place,
    };
    let now = admin.cloud.clock.now();
    let add = |txn: &mut Txn| {
        for account in tenant.accounts.iter().flatten() {
            crate::admin_objects::known_account(txn, *account)?;
        }
        target::add(txn, tenant.clone(), now).map(drop)
    };
    admin.cloud.store.transact(&[], add).await?;
    Ok(Json(()))
}

/// Gives how many messages were dropped with it.
pub async fn remove_target(State(admin): State<Arc<Admin>>, Json(request): Json<TargetRequest>) -> Answer<u64> {
    let (cloud, queue) = (&admin.cloud, Target::event_queue(&request.name));
    let queues = cloud.backend.queues().await.map_err(Error::from)?;
    let of_target = queues.iter().filter(|queue| Target::has_queue(&request.name, &queue.name));
    let waiting: u64 = of_target.map(|queue| queue.entries).sum();
    if waiting > 0 && !request.force {
        let message = format!("{waiting} messages wait for {}; --force drops them", request.name);
        return Err(Error::conflict("DeleteConflict", message).into());
    }
    cloud.store.transact(&[], |txn| target::remove(txn, &request.name)).await?;
    Ok(Json(cloud.backend.remove_queue(&queue).await.map_err(Error::from)?))
}

/// Says what was done.
pub async fn test_target(State(admin): State<Arc<Admin>>, Json(request): Json<TargetRequest>) -> Answer<String> {
    let cloud = &admin.cloud;
    let txn = cloud.store.read().await?;
    let target = target::find(&txn, &request.name)?.ok_or_else(|| target::no_target(&request.name))?;
    let s3 = match &target.tenant.place {
        Destination::Webhook { .. } => {
            cloud.notifier.try_out(&target).await?;
            return Ok(Json("took a test event".to_owned()));
        }
        Destination::S3(s3) => s3.clone(),
    };
    try_out(cloud, &request.name, s3).await?;
    Ok(Json("wrote, read and deleted a test object".to_owned()))
}

/// Writes, reads and deletes an object.
async fn try_out(cloud: &Cloud, name: &str, s3: S3Destination) -> Result<(), Error> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::unavailable(format!("{name}: {what} a test object: {error}"))
    };
    let ForeignBucket::One(bucket) = s3.bucket.clone() else {
        let message = "its buckets are known only by what is sent to them: there is nothing to try out";
        return Err(Error::invalid("InvalidParameterValue", message));
    };
    let foreign = ForeignS3::new(cloud.outbound.clone(), Arc::clone(&cloud.clock), s3);
    let key = format!("terroir-test-{:016x}", cloud.ids.next_u64());
    let body = bytes::Bytes::from(key.clone());
    foreign.put(&bucket, &key, Default::default(), body.clone()).await.map_err(|error| failed("writing", &error))?;
    let read = foreign.get(&bucket, &key, body.len()).await.map_err(|error| failed("reading", &error));
    foreign.delete(&bucket, &key).await.map_err(|error| failed("deleting", &error))?;
    if read? == body { Ok(()) } else { Err(failed("reading", &"it came back with other bytes")) }
}

pub async fn show_engine(State(admin): State<Arc<Admin>>) -> Answer<EngineStatus> {
    let engine = engine::engine(&admin.cloud.store.read().await?)?;
    let target = engine.tenant.current.clone();
    let site = target.as_ref().and_then(|name| engine.tenant.sites.get(name).cloned());
    let places = admin.cloud.backend.stats().await.map_err(Error::from)?.places;
    Ok(Json(EngineStatus { current: EngineChoice { target, site }, places }))
}

/// A target that does not take, give back and remove an object is refused: else it would be its users who find out.
pub async fn set_engine(State(admin): State<Arc<Admin>>, Json(choice): Json<EngineChoice>) -> Answer<EngineStatus> {
    let cloud = &admin.cloud;
    let (target, site) = (choice.target.as_deref(), choice.site.as_deref());
    if let Some(name) = target {
        let found = target::find(&cloud.store.read().await?, name)?.ok_or_else(|| target::no_target(name))?;
        if let Destination::S3(s3) = &found.tenant.place {
            try_out(cloud, name, s3.clone()).await?;
        }
    }
    cloud.store.transact(&[], |txn| engine::set(txn, target, site, &*cloud.ids)).await?;
    use_engine(cloud).await?;
    show_engine(State(admin)).await
}

/// Has the store of objects know what the operator has chosen.
pub async fn use_engine(cloud: &Cloud) -> Result<(), Error> {
    let txn = cloud.store.read().await?;
    for remote in engine::remotes(&txn, &cloud.outbound, &cloud.clock)? {
        cloud.backend.add_remote(remote).await.map_err(Error::from)?;
    }
    cloud.backend.set_current_remote(engine::engine(&txn)?.tenant.current.clone());
    Ok(())
}
