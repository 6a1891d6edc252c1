//! The operator's commands, over a Unix socket in the data folder. Only root and the control plane's own user can
//! connect: the socket's mode says so.

use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use terroir_agent_api::BlobFormat;
use terroir_api_server::OperatorStatus;
use terroir_block_storage::SYSTEM_ACCOUNT;
use terroir_block_storage::model::{Blob, Image, ImageBoot, Snapshot, snapshot_key};
use terroir_block_storage::ops::{BlobSource, SystemImage};
use terroir_compute::gateway::BlobStore;
use terroir_compute::model::{HostStatus, Instance, InstanceStatus, instance_status_key};
use terroir_compute::state::{host_knowledge, instance_state};
use terroir_iam::ops::KeyOwner;
use terroir_object_storage::backend::local::{Report, Stats};
use terroir_object_storage::model::Bucket;
use terroir_store::Key;
use terroir_types::{Error, ErrorClass, HostId, ImageId, SnapshotId};
use tokio_util::io::ReaderStream;

use crate::admin_api::{
    AccountSummary, Environment, HostSummary, ImageSummary, IssuerKeysRequest, IssuerSummary, NewAccountAnswer,
    NewAccountRequest, RegisterImageRequest, RemoveIssuerRequest, ServerStatus, StoredBlob,
};
use crate::admin_objects::{set_quota, show_quotas};
use crate::admin_sovereignty;
use crate::admin_targets::{add_target, list_targets, remove_target, set_engine, show_engine, test_target};
use crate::audit;
use crate::backup;
use crate::object_store::{Line, SAY_EVERY};
use crate::server::{Cloud, FIRST_ACCOUNT};
use crate::{process, tls, up};

#[derive(Clone)]
pub struct Admin {
    pub cloud: Cloud,
}

/// An error as a sentence for the operator.
pub struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<terroir_store::StoreError> for Refusal {
    fn from(error: terroir_store::StoreError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.class() {
            ErrorClass::Internal | ErrorClass::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let detail = self.0.internal_detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        (status, format!("{}{detail}", self.0.message())).into_response()
    }
}

pub type Answer<T> = Result<Json<T>, Refusal>;

impl Admin {
    pub fn new(cloud: Cloud) -> Self {
        Self { cloud }
    }

    pub fn router(self) -> axum::Router {
        axum::Router::new()
            .route("/status", get(status))
            .route("/audit", get(audit::standing))
            .route("/environment", get(environment))
            .route("/accounts", get(list_accounts).post(add_account))
            .merge(admin_sovereignty::routes())
            .route("/issuers", get(list_issuers).post(set_issuer))
            .route("/issuers/remove", post(remove_issuer))
            .route("/blobs/{*name}", put(put_blob))
            .route("/objects/stats", get(object_stats))
            .route("/objects/verify", post(verify_objects))
            .route("/objects/repair", post(repair_objects))
            .route("/objects/quotas", post(set_quota))
            .route("/objects/quotas/{account}", get(show_quotas))
            .route("/objects/targets", get(list_targets).post(add_target))
            .route("/objects/engine", get(show_engine).post(set_engine))
            .route("/objects/targets/remove", post(remove_target))
            .route("/objects/targets/test", post(test_target))
            .route("/store/backup", post(back_up))
            .route("/images", get(list_images).post(register_image))
            .route("/images/{id}/disk", get(image_disk))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::new(self))
    }
}

impl OperatorStatus for Admin {
    fn ready(&self) -> Result<(), String> {
        if self.cloud.host_dialled.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the host's agent has not come for its spec yet".to_owned())
        }
    }
}

/// What the host of this machine said last, or where there is none the first one; and what the others complain about.
fn host(txn: &terroir_store::Txn, local: Option<HostId>) -> Result<(Option<HostSummary>, Vec<String>), Error> {
    let mut hosts = txn.peek_range::<HostStatus>(&Key::new("host-status"))?;
    let local = local.map(|id| id.to_string());
    hosts.sort_by_key(|(key, _)| Some(key.last()) != local.as_deref());
    let complaints = hosts.iter().skip(1).flat_map(|(key, status)| {
        status.facts.problems.iter().map(move |problem| format!("{} ({}): {problem}", key.last(), status.facts.name))
    });
    let complaints = complaints.collect();
    let first = hosts.into_iter().next().map(|(key, status)| {
        let facts = status.facts.clone();
        HostSummary {
            id: key.last().to_owned(),
            name: facts.name,
            accelerator: facts.accelerator,
            accelerator_reason: facts.accelerator_reason,
            vcpus: facts.vcpus,
            memory_bytes: facts.memory_bytes,
            volume_bytes_free: facts.volume_bytes_free,
            problems: facts.problems,
        }
    });
    Ok((first, complaints))
}

/// The host that this machine is; its agent has written that down.
fn local_host(cloud: &Cloud) -> Option<HostId> {
    std::fs::read_to_string(cloud.layout.host_id_file()).ok()?.trim().parse().ok()
}

/// Instances of all accounts by state.
fn instances(txn: &terroir_store::Txn) -> Result<BTreeMap<String, usize>, Error> {
    let mut counts = BTreeMap::new();
    for (_, instance) in txn.peek_range::<Instance>(&Key::new("instance"))? {
        let status = txn.peek::<InstanceStatus>(&instance_status_key(instance.account, instance.id))?;
        let state = instance_state(&instance, status.as_deref(), host_knowledge(txn, &instance)?);
        *counts.entry(state.name().to_owned()).or_default() += 1;
    }
    Ok(counts)
}

async fn status(State(admin): State<Arc<Admin>>) -> Answer<ServerStatus> {
    let cloud = &admin.cloud;
    let txn = cloud.store.read().await?;
    let ready = OperatorStatus::ready(&*admin);
    let is_ready = ready.is_ok();
    let (host, complaints) = host(&txn, local_host(cloud))?;
    let mut problems: Vec<String> = ready.err().into_iter().collect();
    problems.extend(host.iter().flat_map(|host| host.problems.clone()));
    problems.extend(complaints);
    problems.extend(cloud.certificate.iter().filter_map(|files| tls::problem(files, cloud.clock.now())));
    match cloud.backend.damaged().await {
        Ok(0) => {}
        Ok(damaged) => problems.push(format!(
            "{damaged} objects or parts of objects are damaged on disk; `terroir objects verify` names them"
        )),
        Err(error) => problems.push(format!("the object store cannot be read: {error}")),
    }
    problems.extend(audit::trouble(cloud.audit.counts()));
    let troubles = cloud.notifier.troubles().into_iter().chain(cloud.replicator.troubles());
    problems.extend(troubles.map(|(queue, trouble)| {
        let since = trouble.since.to_rfc3339_seconds();
        format!("{queue} has not got on since {since}: {}", trouble.error)
    }));
    Ok(Json(ServerStatus {
        ready: is_ready,
        endpoint: up::endpoint(&cloud.settings),
        region: cloud.settings.region.clone(),
        hypervisor: format!("{:?}", cloud.settings.hypervisor).to_lowercase(),
        accounts: terroir_iam::ops::list_accounts(&txn)?.len(),
        instances: instances(&txn)?,
        images: system_images(&txn)?.len(),
        revision: txn.revision(),
        host,
        problems,
        pid: nix::unistd::getpid().as_raw(),
        is_unit: process::is_unit(),
    }))
}

/// The first account's credentials; they are kept sealed and nowhere else.
async fn environment(State(admin): State<Arc<Admin>>) -> Answer<Environment> {
    let cloud = &admin.cloud;
    let txn = cloud.store.read().await?;
    let accounts = terroir_iam::ops::list_accounts(&txn)?;
    let first = accounts
        .iter()
        .find(|account| account.tenant.name == FIRST_ACCOUNT)
        .ok_or_else(|| Error::internal("there is no first account"))?;
    let keys = terroir_iam::ops::list_access_keys(&txn, first.id, KeyOwner::Root)?;
    let key = keys.first().ok_or_else(|| Error::internal("the first account has no access key left"))?;
    Ok(Json(Environment {
        endpoint: up::endpoint(&cloud.settings),
        region: cloud.settings.region.clone(),
        access_key_id: key.id.clone(),
        secret_access_key: key.tenant.secret.expose().clone(),
        authorities: Some(cloud.settings.tls_ca.clone()).filter(|path| cloud.settings.has_tls() && !path.is_empty()),
    }))
}

async fn add_account(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<NewAccountRequest>,
) -> Answer<NewAccountAnswer> {
    let cloud = &admin.cloud;
    let (now, region) = (cloud.clock.now(), cloud.region.get());
    let add = |txn: &mut terroir_store::Txn| {
        let account = terroir_iam::ops::create_account(txn, &request.name, &*cloud.ids, now)?;
        terroir_network::ops::ensure_default_vpc(txn, account.account_id, now, &*cloud.ids, &region)?;
        Ok(account)
    };
    let (account, _) = cloud.store.transact(&[], add).await?;
    Ok(Json(NewAccountAnswer {
        account_id: account.account_id.to_string(),
        name: request.name.clone(),
        access_key_id: account.access_key_id,
        secret_access_key: account.secret.expose().clone(),
    }))
}

async fn list_accounts(State(admin): State<Arc<Admin>>) -> Answer<Vec<AccountSummary>> {
    let txn = admin.cloud.store.read().await?;
    let accounts = terroir_iam::ops::list_accounts(&txn)?;
    let summary = |account: &Arc<terroir_iam::model::Account>| AccountSummary {
        account_id: account.id.to_string(),
        name: account.tenant.name.clone(),
        created_at: account.created_at.to_rfc3339_seconds(),
    };
    Ok(Json(accounts.iter().map(summary).collect()))
}

async fn list_issuers(State(admin): State<Arc<Admin>>) -> Answer<Vec<IssuerSummary>> {
    let txn = admin.cloud.store.read().await?;
    let issuers = terroir_iam::ops::list_issuers(&txn)?;
    let summary = |issuer: &Arc<terroir_iam::model::IssuerKeys>| IssuerSummary {
        url: issuer.tenant.issuer.clone(),
        updated_at: issuer.updated_at.to_rfc3339_seconds(),
    };
    Ok(Json(issuers.iter().map(summary).collect()))
}

async fn set_issuer(State(admin): State<Arc<Admin>>, Json(request): Json<IssuerKeysRequest>) -> Answer<()> {
    let now = admin.cloud.clock.now();
    let set = |txn: &mut terroir_store::Txn| terroir_iam::ops::set_issuer_keys(txn, &request.url, &request.jwks, now);
    admin.cloud.store.transact(&[], set).await?;
    Ok(Json(()))
}

async fn remove_issuer(State(admin): State<Arc<Admin>>, Json(request): Json<RemoveIssuerRequest>) -> Answer<()> {
    let remove = |txn: &mut terroir_store::Txn| terroir_iam::ops::remove_issuer_keys(txn, &request.url);
    admin.cloud.store.transact(&[], remove).await?;
    Ok(Json(()))
}

async fn put_blob(State(admin): State<Arc<Admin>>, Path(name): Path<String>, body: Body) -> Answer<StoredBlob> {
    Ok(Json(admin.cloud.blobs.put(&name, body.into_data_stream().map_err(Into::into)).await?))
}

async fn register_image(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<RegisterImageRequest>,
) -> Answer<ImageSummary> {
    let cloud = &admin.cloud;
    let now = cloud.clock.now();
    let snapshot: SnapshotId = request.snapshot.parse()?;
    let format = match request.format.as_str() {
        "raw" => BlobFormat::Raw,
        "qcow2" => BlobFormat::Qcow2,
        "vmdk" => BlobFormat::Vmdk,
        other => return Err(Error::invalid("InvalidParameterValue", format!("'{other}' is no disk format")).into()),
    };
    let raw =
        |blob: &StoredBlob| Blob { sha256: blob.sha256.clone(), size_bytes: blob.size_bytes, format: BlobFormat::Raw };
    let direct_boot = request.kernel.as_ref().map(|kernel| ImageBoot {
        kernel: raw(kernel),
        initrd: request.initrd.as_ref().map(raw),
        command_line: request.command_line.clone().unwrap_or_default(),
    });
    let system = SystemImage {
        name: request.name.clone(),
        description: format!("{} (from {})", request.description, request.source),
        architecture: request.architecture.clone(),
        snapshot,
        disk: Blob { sha256: request.disk.sha256.clone(), size_bytes: request.disk.size_bytes, format },
        disk_bytes: request.virtual_size_bytes,
        direct_boot,
    };
    let register = |txn: &mut terroir_store::Txn| {
        terroir_block_storage::ops::register_system_image(txn, &*cloud.ids, now, system.clone())
    };
    let ((image, freed), _) = cloud.store.transact(&[], register).await?;
    for snapshot in freed {
        cloud.blobs.remove(&format!("snapshot/{snapshot}")).await?;
    }
    let txn = cloud.store.read().await?;
    Ok(Json(summary(&txn, &image)?))
}

fn summary(txn: &terroir_store::Txn, image: &Image) -> Result<ImageSummary, Error> {
    let snapshot = image.mappings.iter().find_map(|mapping| mapping.snapshot);
    let snapshot = snapshot.ok_or_else(|| Error::internal(format_args!("{} has no snapshot", image.id)))?;
    let record = txn
        .peek::<Snapshot>(&snapshot_key(SYSTEM_ACCOUNT, snapshot))?
        .ok_or_else(|| Error::internal(format_args!("{snapshot} is gone")))?;
    Ok(ImageSummary {
        image_id: image.id.to_string(),
        name: image.tenant.name.clone(),
        architecture: image.architecture.clone(),
        snapshot_id: snapshot.to_string(),
        size_bytes: record.blob.size_bytes,
        sha256: record.blob.sha256.clone(),
        source: image.tenant.description.clone(),
        created_at: image.created_at.to_rfc3339_seconds(),
    })
}

fn system_images(txn: &terroir_store::Txn) -> Result<Vec<Arc<Image>>, Error> {
    let images = txn.peek_range::<Image>(&Key::new(format!("image/{SYSTEM_ACCOUNT}")))?;
    Ok(images.into_iter().map(|(_, image)| image).collect())
}

async fn list_images(State(admin): State<Arc<Admin>>) -> Answer<Vec<ImageSummary>> {
    let txn = admin.cloud.store.read().await?;
    let images = system_images(&txn)?;
    Ok(Json(images.iter().map(|image| summary(&txn, image)).collect::<Result<_, _>>()?))
}

async fn image_disk(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Body, Refusal> {
    let id: ImageId = id.parse()?;
    let txn = admin.cloud.store.read().await?;
    let image = terroir_block_storage::ops::find_image(&txn, SYSTEM_ACCOUNT, id)?;
    let name = format!("snapshot/{}", summary(&txn, &image)?.snapshot_id);
    let reader = admin.cloud.blobs.read(&BlobSource::Stored { name }).await?;
    Ok(Body::from_stream(ReaderStream::with_capacity(reader, 256 << 10)))
}

/// A backup, unsealed: whoever asks seals it with a key that this process does not know.
async fn back_up(State(admin): State<Arc<Admin>>) -> Body {
    let cloud = &admin.cloud;
    backup::stream(cloud.layout.clone(), (*cloud.settings).clone(), cloud.store.clone())
}

async fn object_stats(State(admin): State<Arc<Admin>>) -> Answer<Stats> {
    Ok(Json(admin.cloud.backend.stats().await.map_err(Error::from)?))
}

async fn verify_objects(State(admin): State<Arc<Admin>>) -> Body {
    stream_verification(&admin.cloud, false)
}

async fn repair_objects(State(admin): State<Arc<Admin>>) -> Body {
    stream_verification(&admin.cloud, true)
}

/// Lines of JSON: progress, and at last the report. It ends when nobody reads them any more.
fn stream_verification(cloud: &Cloud, repair: bool) -> Body {
    let (lines, reading) = tokio::sync::mpsc::channel::<Line>(16);
    let (backend, store) = (Arc::clone(&cloud.backend), cloud.store.clone());
    tokio::spawn(async move {
        let said = std::sync::Mutex::new(std::time::Instant::now());
        let progress = |progress| {
            let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if said.elapsed() >= SAY_EVERY {
                *said = std::time::Instant::now();
                // A line more or less does not matter.
                let _ = lines.try_send(Line::Progress(progress));
            }
        };
        let last = tokio::select! {
            () = lines.closed() => return,
            verified = backend.verify(repair, progress) => match verified {
                Ok(report) => Line::Report(with_names(&store, report).await),
                Err(error) => Line::Failed(error.to_string()),
            },
        };
        // Nobody waits any more if this fails.
        let _ = lines.send(last).await;
    });
    let lines = futures::stream::unfold(reading, |mut reading| async move {
        let line = reading.recv().await?;
        let text = serde_json::to_string(&line).map(|text| text + "\n").map_err(std::io::Error::other);
        Some((text, reading))
    });
    Body::from_stream(lines)
}

/// The report with the names of buckets instead of their numbers, as far as they are known.
async fn with_names(store: &terroir_store::Store, mut report: Report) -> Report {
    let Ok(txn) = store.read().await else { return report };
    let Ok(buckets) = txn.peek_range::<Bucket>(&Key::new("bucket")) else { return report };
    let names: BTreeMap<_, _> = buckets.iter().map(|(_, bucket)| (bucket.id, bucket.name().to_owned())).collect();
    for owner in report.findings.iter_mut().filter_map(|finding| finding.of.as_mut()) {
        owner.bucket_name = names.get(&owner.bucket).cloned();
    }
    report
}
