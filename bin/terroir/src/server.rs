//! `terroir server`: wiring of the control plane and S3.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use terroir_action::{CurrentRegion, Region, Registry, Zone};
use terroir_agent_api::ControlPlane;
use terroir_api_server::{ApiServer, CertificateFiles, Limits, Parts, Rate};
use terroir_audit::Queue;
use terroir_compute::gateway::{GatewayOptions, HostGateway};
use terroir_iam::Iam;
use terroir_kms::KeyService;
use terroir_kms::external::{XksClient, XksOptions};
use terroir_metering::UsageLog;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::budget::FreeSpaceBudget;
use terroir_object_storage::guard::NewBuckets;
use terroir_object_storage::lifecycle::{Day, Lifecycle};
use terroir_object_storage::notification::Notifier;
use terroir_object_storage::outbound::Outbound;
use terroir_object_storage::replication::Replicator;
use terroir_object_storage::{S3Options, s3_service};
use terroir_pki::Authority;
use terroir_sovereignty::ops::OwnSite;
use terroir_sovereignty::receipt::{self, ReceiptLog};
use terroir_store::ship;
use terroir_store::{Store, Txn};
use terroir_tlog::SigningKey;
use terroir_types::{Clock, Error, IdSource, OsRandom, SystemClock};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin_server::Admin;
use crate::blobs::Blobs;
use crate::hosts::{LocalHosts, Roles};
use crate::layout::{Layout, SERVER_UID, describe};
use crate::objects::Objects;
use crate::settings::Settings;
use crate::state::{self, Claim};
use crate::{Threads, audit, operator_key, privileges, remote_hosts, runtime, tls, up};

/// Name of the account that exists from the first start on.
pub const FIRST_ACCOUNT: &str = "root";

pub fn main(layout: Layout) -> Result<(), String> {
    let settings = Settings::read(&layout)?;
    privileges::become_user(SERVER_UID)?;
    runtime(Threads::Many)?.block_on(run(layout, settings))
}

/// Resolves when the process is asked to end.
pub async fn terminated() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The handles that the parts of the control plane share.
#[derive(Clone)]
pub struct Cloud {
    pub store: Store,
    pub iam: Iam,
    pub region: CurrentRegion,
    /// This cloud's operator's.
    pub operator_key: Arc<SigningKey>,
    pub layout: Layout,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub settings: Arc<Settings>,
    /// That the API is served with, if it is served over TLS.
    pub certificate: Option<Arc<CertificateFiles>>,
    pub blobs: Blobs,
    pub backend: Arc<LocalBackend>,
    /// Speaks HTTP to targets.
    pub outbound: Outbound,
    pub notifier: Notifier,
    pub replicator: Replicator,
    pub keys: KeyService,
    /// Who signs the certificates of hosts; none: no host joins.
    pub host_authority: Option<Arc<Authority>>,
    /// Where records of calls wait for the audit log.
    pub audit: Queue,
    /// A known host's agent has got its spec from this process.
    pub host_dialled: Arc<AtomicBool>,
}

async fn run(layout: Layout, settings: Settings) -> Result<(), String> {
    let _claim = Claim::take(&layout)?;
    let listener = terroir_api_server::bind(settings.listen).await.map_err(|error| error.to_string())?;
    let cloud = open(&layout, settings).await?;
    first_start(&cloud)
        .await
        .map_err(|error| error.internal_detail().map_or_else(|| error.to_string(), str::to_owned))?;
    let (stop, stopped) = watch::channel(false);
    let stopping = move || {
        let mut stopped = stopped.clone();
        async move {
            // A dropped sender means the same: the process ends.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let gateway = gateway(&cloud)?;
    let remote = remote_hosts::Listening::open(&cloud, &gateway).await?;
    let hosts: Arc<dyn ControlPlane> = Arc::new(LocalHosts { gateway: Arc::clone(&gateway), cloud: cloud.clone() });
    crate::admin_targets::use_engine(&cloud).await.map_err(|error| error.to_string())?;
    let admin = Admin::new(cloud.clone());
    let admin_socket = private_socket(&layout.admin_socket())?;
    let crossing_socket = private_socket(&layout.crossing_socket())?;
    let objects = objects(&cloud).await?;
    let front = objects.0.clone();
    let server = api_server(&cloud, &gateway, objects, Arc::new(admin.clone()));
    let audit_log = audit::open(&layout, cloud.audit.clone(), Arc::clone(&cloud.clock))?;
    let (close_audit, audit_closing) = watch::channel(false);
    let audit_shipper = tokio::spawn(ship::run(audit_log, cloud.store.clone(), {
        let mut closing = audit_closing;
        async move {
            let _ = closing.wait_for(|close| *close).await;
        }
    }));
    let usage = layout.usage();
    let usage = UsageLog::open(&usage).map_err(|error| describe(&error, "cannot open", &usage).to_string())?;
    let receipts = ReceiptLog::open(
        &layout.receipts(),
        &cloud.operator_key,
        &receipt::origin(&cloud.settings.operator, &cloud.settings.region),
    )
    .map_err(|error| format!("cannot open {}: {error}", layout.receipts().display()))?;
    let handshakes = cloud.certificate.as_ref().map(|files| files.handshakes()).transpose();
    let handshakes = handshakes.map_err(|error| error.to_string())?;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(remote) = remote {
        let stopping = stopping();
        tasks.spawn(async move {
            remote.run(stopping).await;
            Ok(())
        });
    }
    if let Some(files) = cloud.certificate.clone() {
        let stopping = stopping();
        tasks.spawn(async move {
            files.run(terroir_api_server::LOOK_EVERY, stopping).await;
            Ok(())
        });
    }
    tasks.spawn({
        let (store, stopping) = (cloud.store.clone(), stopping());
        async move {
            ship::run(receipts, store, stopping).await;
            Ok(())
        }
    });
    tasks.spawn(serve_unix(crossing_socket, terroir_agent_api::http::router(hosts), stopping()));
    tasks.spawn({
        let (store, stopping) = (cloud.store.clone(), stopping());
        async move {
            ship::run(usage, store, stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let stopping = stopping();
        async move {
            gateway.run(stopping).await;
            Ok(())
        }
    });
    tasks.spawn(serve_unix(admin_socket, admin.router(), stopping()));
    tasks.spawn({
        let backend = Arc::clone(&cloud.backend) as _;
        let lifecycle =
            Lifecycle::new(cloud.store.clone(), backend, Arc::clone(&cloud.clock), lifecycle_day(&cloud.settings));
        let stopping = stopping();
        async move {
            lifecycle.run(stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let stopping = stopping();
        async move {
            front.deliver_access_logs(stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (replicator, stopping) = (cloud.replicator.clone(), stopping());
        async move {
            replicator.run(stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (notifier, stopping) = (cloud.notifier.clone(), stopping());
        async move {
            notifier.run(stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (keys, stopping) = (cloud.keys.clone(), stopping());
        async move {
            terroir_kms::worker::run(&keys, stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (backend, rate, stopping) = (Arc::clone(&cloud.backend), cloud.settings.scrub_bytes_per_sec, stopping());
        async move {
            if rate > 0 {
                backend.scrub(rate, stopping).await
            } else {
                stopping.await
            }
            Ok(())
        }
    });
    tasks.spawn({
        let (server, stopping) = (server.clone(), stopping());
        async move {
            server.run_background(stopping).await;
            Ok(())
        }
    });
    tasks.spawn({
        let stopping = stopping();
        async move {
            server.serve(listener, handshakes, stopping).await;
            Ok(())
        }
    });
    tracing::info!(endpoint = up::endpoint(&cloud.settings), "the control plane answers");
    let failure = tokio::select! {
        () = terminated() => None,
        Some(ended) = tasks.join_next() => Some(describe_end(ended)),
    };
    // Nobody listens any more only if every task has ended, which is what is wanted.
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
    // After the last answer.
    let _ = close_audit.send(true);
    if let Err(error) = audit_shipper.await {
        tracing::error!(%error, "the audit log ended by itself");
    }
    failure.map_or(Ok(()), Err)
}

fn describe_end(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "a part of the server ended by itself".to_owned(),
        Ok(Err(message)) => message,
        Err(error) => error.to_string(),
    }
}

async fn open(layout: &Layout, settings: Settings) -> Result<Cloud, String> {
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn IdSource>) = (Arc::new(SystemClock), Arc::new(OsRandom));
    let store = state::open(layout, &settings).await?;
    let iam = Iam::new(store.clone(), Arc::clone(&clock), Arc::clone(&ids));
    let region = Region { name: settings.region.clone(), zones: Vec::new(), endpoint: up::endpoint(&settings) };
    let operator_key = operator_key::open_or_create(&layout.operator_key(), &settings.operator, &*ids)?;
    let budget = FreeSpaceBudget::new(layout.objects(), settings.disk_reserve_bytes * 2);
    let backend = LocalBackend::open(&layout.objects(), Arc::clone(&clock), Arc::clone(&ids), Arc::new(budget))
        .await
        .map_err(|error| error.to_string())?;
    let backend = Arc::new(backend);
    let proxies = XksClient::new(xks_options(&settings)?, Arc::clone(&clock))?;
    let keys = KeyService::new(iam.clone(), Arc::clone(&clock), Arc::clone(&ids), &region.name, Arc::new(proxies));
    let blobs = Blobs::new(Arc::clone(&backend) as _, store.clone());
    let outbound = Outbound::new().map_err(|error| error.to_string())?;
    let notifier = Notifier::new(
        store.clone(),
        Arc::clone(&backend) as _,
        outbound.clone(),
        Arc::clone(&clock),
        region.name.clone(),
    );
    let replicator = Replicator::new(
        iam.clone(),
        Arc::clone(&backend) as _,
        outbound.clone(),
        Arc::clone(&clock),
        Arc::clone(&ids),
        region.name.clone(),
    );
    let certificate = tls::open(&settings)?;
    let host_authority = remote_hosts::authority(&store, &settings, &*clock, &*ids).await?;
    Ok(Cloud {
        store,
        iam,
        region: region.into(),
        operator_key: Arc::new(operator_key),
        layout: layout.clone(),
        clock,
        ids,
        certificate,
        host_authority,
        settings: Arc::new(settings),
        blobs,
        backend,
        outbound,
        notifier,
        replicator,
        keys,
        audit: Queue::default(),
        host_dialled: Arc::default(),
    })
}

/// How proxies of external key stores are reached.
fn xks_options(settings: &Settings) -> Result<XksOptions, String> {
    let read = |path: &String, name: &str| match path.as_str() {
        "" => Ok(None),
        path => fs::read(path).map(Some).map_err(|error| format!("{name} = {path:?}: {error}")),
    };
    Ok(XksOptions {
        region: settings.region.clone(),
        authorities: read(&settings.xks_authorities, "xks_authorities")?,
        identity: read(&settings.xks_client_certificate, "xks_client_certificate")?,
        networks: settings.xks_nets()?,
    })
}

/// Zones as they are now: a zone is a site.
pub fn zones(txn: &Txn, region: &str) -> Result<Vec<Zone>, Error> {
    let sites = terroir_sovereignty::ops::list_sites(txn)?;
    let zone = |site: &Arc<terroir_sovereignty::model::SiteRecord>| Zone {
        name: site.site.id.clone(),
        id: terroir_sovereignty::ops::zone_id(region, site),
    };
    Ok(sites.iter().map(zone).collect())
}

/// Operator and site, the first account with its network, and the pools that the settings name.
async fn first_start(cloud: &Cloud) -> Result<(), Error> {
    let now = cloud.clock.now();
    let country = Some(cloud.settings.country.clone()).filter(|country| terroir_policy::is_country(country));
    let own_site = cloud.settings.zone();
    let own = OwnSite {
        region: &cloud.settings.region,
        operator: &cloud.settings.operator,
        site: &own_site,
        country,
        key: &cloud.operator_key,
    };
    let known = |txn: &mut Txn| {
        terroir_sovereignty::ops::ensure_own(txn, &own, now)?;
        zones(txn, &cloud.settings.region)
    };
    cloud.region.set_zones(cloud.store.transact(&[], known).await?.0);
    let region = cloud.region.get();
    let pool = ipnet::IpNet::V4(cloud.settings.public_pool_net().map_err(Error::internal)?);
    let zone = cloud.settings.zone();
    let types = terroir_compute::catalogue::parse(&catalogue(&cloud.settings)?)
        .map_err(|error| Error::internal(format_args!("{}: {error}", cloud.settings.instance_types)))?;
    let add = |txn: &mut Txn| -> Result<(), Error> {
        terroir_compute::catalogue::load(txn, &types)?;
        terroir_network::ops::add_pool(txn, &zone, pool)?;
        if terroir_iam::ops::list_accounts(txn)?.is_empty() {
            let account = terroir_iam::ops::create_account(txn, FIRST_ACCOUNT, &*cloud.ids, now)?;
            terroir_network::ops::ensure_default_vpc(txn, account.account_id, now, &*cloud.ids, &region)?;
        }
        Ok(())
    };
    cloud.store.transact(&[], add).await.map(drop)
}

/// The text of the instance types' catalogue.
fn catalogue(settings: &Settings) -> Result<String, Error> {
    if settings.instance_types.is_empty() {
        return Ok(terroir_compute::catalogue::DEFAULT_CATALOGUE.to_owned());
    }
    fs::read_to_string(&settings.instance_types)
        .map_err(|error| Error::internal(format_args!("{}: {error}", settings.instance_types)))
}

fn gateway(cloud: &Cloud) -> Result<Arc<HostGateway>, String> {
    let settings = &cloud.settings;
    let mut options = GatewayOptions::new(Region::clone(&cloud.region.get()));
    options.guest_mtu = settings.guest_mtu;
    options.dns_upstreams = settings.upstreams()?;
    options.egress_deny = settings.egress_deny_nets()?;
    Ok(HostGateway::new(
        cloud.store.clone(),
        Arc::clone(&cloud.clock),
        Arc::clone(&cloud.ids),
        options,
        Arc::new(cloud.blobs.clone()),
        Arc::new(Roles(cloud.iam.clone())),
    ))
}

fn registry(cloud: &Cloud, gateway: &Arc<HostGateway>) -> Registry {
    let mut registry = Registry::new();
    terroir_block_storage::aws::register(&mut registry, Arc::new(cloud.blobs.clone()));
    terroir_compute::aws::register(&mut registry, Arc::clone(gateway) as _);
    terroir_action::general::register(&mut registry);
    terroir_iam::register(&mut registry, &cloud.iam);
    terroir_kms::register(&mut registry, &cloud.keys);
    terroir_network::aws::register(&mut registry);
    registry
}

fn lifecycle_day(settings: &Settings) -> Day {
    Day::of(Duration::from_secs(settings.lifecycle_day_secs.into()))
}

async fn objects(cloud: &Cloud) -> Result<Objects, String> {
    let options = S3Options {
        iam: cloud.iam.clone(),
        backend: Arc::clone(&cloud.backend) as _,
        clock: Arc::clone(&cloud.clock),
        ids: Arc::clone(&cloud.ids),
        region: cloud.settings.region.clone(),
        domains: cloud.settings.s3_domains.clone(),
        website_domains: cloud.settings.s3_website_domains.clone(),
        new_buckets: if cloud.settings.s3_block_public_access { NewBuckets::Blocked } else { NewBuckets::Private },
        lifecycle_day: lifecycle_day(&cloud.settings),
        data_keys: Some(Arc::new(cloud.keys.clone())),
    };
    s3_service(options).await.map(Objects).map_err(|error| error.to_string())
}

fn api_server(cloud: &Cloud, gateway: &Arc<HostGateway>, objects: Objects, status: Arc<Admin>) -> ApiServer {
    ApiServer::new(Parts {
        store: cloud.store.clone(),
        iam: cloud.iam.clone(),
        registry: registry(cloud, gateway),
        region: cloud.region.clone(),
        clock: Arc::clone(&cloud.clock),
        ids: Arc::clone(&cloud.ids),
        objects: Arc::new(objects),
        status,
        limits: limits(&cloud.settings),
        audit: cloud.audit.clone(),
    })
}

fn limits(settings: &Settings) -> Limits {
    let rate = |per_second: u32| Rate { per_second, burst: per_second.saturating_mul(2) };
    Limits {
        actions: rate(settings.api_requests_per_second),
        changes: rate(settings.api_changes_per_second),
        launches: rate(settings.api_launches_per_second),
        objects: rate(settings.s3_requests_per_second),
        ..Limits::default()
    }
}

/// A socket in a folder of ours that only this user and root can connect to.
fn private_socket(path: &Path) -> Result<UnixListener, String> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(describe(&error, "cannot replace", path).to_string()),
    }
    let bind = || -> std::io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|error| describe(&error, "cannot listen on", path).to_string())
}

/// How long connections may go on after shutdown began.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

async fn serve_unix(
    listener: UnixListener,
    router: axum::Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let graceful = async move {
        shutdown.await;
        // The receiver may have gone with the server.
        let _ = stopping.send(());
    };
    let serve = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let serving = async move { serve.await.map_err(|error| error.to_string()) };
    let cut = async move {
        // A dropped sender means that serving ended first.
        let _ = stopped.await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        result = serving => result,
        () = cut => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_agent_api::{BlobFormat, HostFacts, HypervisorKind};
    use terroir_aws_model::Service;
    use terroir_block_storage::model::{Blob, ImageMapping, VolumeType};
    use terroir_block_storage::ops::{ImageRequest, SnapshotRequest, SystemImage};
    use terroir_types::{AccountId, HostId, ResourceId, SnapshotId};

    /// The whole registry, as it is served.
    async fn served(folder: &Path) -> (Cloud, ApiServer) {
        let layout = Layout::find(Some(folder)).unwrap();
        layout.create().unwrap();
        let cloud = open(&layout, Settings::default()).await.unwrap();
        first_start(&cloud).await.unwrap();
        let gateway = gateway(&cloud).unwrap();
        for service in Service::ALL {
            for action in service.implemented_actions() {
                assert!(registry(&cloud, &gateway).find(service, action).is_some(), "{action} is not wired");
            }
        }
        let objects = objects(&cloud).await.unwrap();
        let server = api_server(&cloud, &gateway, objects, Arc::new(Admin::new(cloud.clone())));
        (cloud, server)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_action_is_wired_and_refuses_strangers() {
        let folder = tempfile::tempdir().unwrap();
        let (_, server) = served(folder.path()).await;
        assert_eq!(terroir_api_server::coverage::problems(&server).await.unwrap(), Vec::<String>::new());
    }

    fn disk() -> Blob {
        Blob { sha256: "ab".repeat(32), size_bytes: 1 << 20, format: BlobFormat::Raw }
    }

    /// An image of the account's own, whose bytes would have to come from an object, and a key store.
    fn own_things(cloud: &Cloud, txn: &mut Txn, account: AccountId) -> Result<Vec<String>, Error> {
        let (now, id) = (cloud.clock.now(), SnapshotId::generate(&*cloud.ids));
        let snapshot = SnapshotRequest {
            id,
            blob: disk(),
            disk_bytes: 1 << 20,
            description: String::new(),
            object: None,
            tags: Default::default(),
        };
        terroir_block_storage::ops::create_snapshot(txn, account, now, snapshot)?;
        let mapping = ImageMapping {
            device: "/dev/xvda".to_owned(),
            snapshot: Some(id),
            size_bytes: 1 << 30,
            volume_type: VolumeType::Gp3,
            delete_on_termination: true,
        };
        let image = ImageRequest {
            name: "own".to_owned(),
            description: String::new(),
            location: "bucket/own".to_owned(),
            architecture: "x86_64".to_owned(),
            root_device: "/dev/xvda".to_owned(),
            mappings: vec![mapping],
            direct_boot: None,
            public: false,
            tags: Default::default(),
        };
        let image = terroir_block_storage::ops::register_image(txn, &*cloud.ids, account, now, image)?;
        // Its proxy would have to answer before the API makes it.
        let proxy = terroir_kms::model::Proxy {
            endpoint: "https://keys.example.org".to_owned(),
            path: "/kms/xks/v1".to_owned(),
            access_key_id: "A2".repeat(10),
            secret: terroir_types::Secret::new("s".repeat(43)),
        };
        let store = terroir_kms::ops::create_store(txn, account, "store", proxy, &*cloud.ids, now)?;
        Ok(vec![image.id.to_string(), id.to_string(), store.id])
    }

    /// A host that can take instances, and an image for them.
    fn stock(cloud: &Cloud, txn: &mut Txn) -> Result<(), Error> {
        let (now, zone) = (cloud.clock.now(), cloud.settings.zone());
        let facts = HostFacts {
            name: "box".to_owned(),
            hypervisor: HypervisorKind::Simulated,
            accelerator: "none".to_owned(),
            accelerator_reason: None,
            architecture: "x86_64".to_owned(),
            vcpus: 64,
            memory_bytes: 64 << 30,
            volume_bytes_total: 1 << 40,
            volume_bytes_free: 1 << 40,
            agent_version: "0".to_owned(),
            problems: Vec::new(),
        };
        terroir_compute::ops::register_host(txn, HostId::generate(&*cloud.ids), &zone, facts, now)?;
        let image = SystemImage {
            name: "empty".to_owned(),
            description: String::new(),
            architecture: "x86_64".to_owned(),
            snapshot: SnapshotId::generate(&*cloud.ids),
            disk: disk(),
            disk_bytes: 1 << 20,
            direct_boot: None,
        };
        terroir_block_storage::ops::register_system_image(txn, &*cloud.ids, now, image).map(drop)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tenants_are_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (cloud, server) = served(folder.path()).await;
        cloud.store.transact(&[], |txn| stock(&cloud, txn)).await.unwrap();
        let equip = |txn: &mut Txn, account| own_things(&cloud, txn, account);
        let problems = terroir_api_server::apart::problems(&server, equip).await.unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
