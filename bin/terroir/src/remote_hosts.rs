//! What the agents of other machines dial, wired: the hosts' door, the records of who has joined, and the authority that
//! signs their certificates.

use async_trait::async_trait;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use terroir_agent_api::http::{Admission, HostDoor};
use terroir_agent_api::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostQuery, HostReport, JoinRequest, Membership, PROTOCOL_VERSION,
    QueryAnswer, RenewRequest, ReportAck, RoleCredentials, SpecPage,
};
use terroir_compute::gateway::{HostGateway, crossing};
use terroir_compute::model::{Host, HostAuthority, HostAuthorityKey, HostMode, host_key};
use terroir_compute::ops;
use terroir_pki::{Authority, CurrentCertificate, Handshakes, JoinToken, SERVER_NAME, SigningRequest, Validity};
use terroir_store::{Store, Txn};
use terroir_types::{Clock, Error, HostId, IdSource, InstanceId};
use tokio::net::TcpListener;

use crate::server::Cloud;
use crate::settings::Settings;

const HANDSHAKES: usize = 256;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Clocks of hosts and other servers may be behind by so much.
const BEFORE: Duration = Duration::from_secs(5 * 60);
/// Of the authority's certificate: ten years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// The authority in the state, made if there is none; every server of the region has the same.
pub async fn authority(
    store: &Store,
    settings: &Settings,
    clock: &dyn Clock,
    ids: &dyn IdSource,
) -> Result<Option<Arc<Authority>>, String> {
    if settings.hosts_listen.is_none() {
        return Ok(None);
    }
    let now = clock.now();
    let life = Validity { from: now.minus(BEFORE), until: now.plus(AUTHORITY_LIFE) };
    let title = format!("Terroir hosts {} {}", settings.operator, settings.region);
    let (offered, key_pem) = Authority::create(&title, life, ids).map_err(|error| error.to_string())?;
    let offered = HostAuthority {
        certificate_pem: offered.certificate_pem().to_owned(),
        created_at: now,
        tenant: HostAuthorityKey { key_pem },
    };
    let ensure = |txn: &mut Txn| ops::ensure_authority(txn, &settings.operator, &offered);
    let (known, _) = store.transact(&[], ensure).await.map_err(|error| error.to_string())?;
    let authority =
        Authority::open(&known.certificate_pem, &known.tenant.key_pem).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(authority)))
}

/// Where hosts dial, as far as the settings say.
pub fn addresses(settings: &Settings) -> Vec<String> {
    let listen = settings.hosts_listen.filter(|address| !address.ip().is_unspecified());
    match settings.hosts_addresses.is_empty() {
        true => listen.iter().map(SocketAddr::to_string).collect(),
        false => settings.hosts_addresses.clone(),
    }
}

/// The door, listening; none if no host may join.
pub struct Listening {
    door: HostDoor,
    listener: TcpListener,
    certificate: ServerCertificate,
}

impl Listening {
    /// Errors: a sentence.
    pub async fn open(cloud: &Cloud, gateway: &Arc<HostGateway>) -> Result<Option<Self>, String> {
        let (Some(address), Some(authority)) = (cloud.settings.hosts_listen, cloud.host_authority.clone()) else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("hosts_listen: cannot listen on {address}: {error}"))?;
        let certificate = ServerCertificate::create(cloud.clone(), Arc::clone(&authority))?;
        let config = terroir_pki::hosts_config(Arc::clone(&certificate.current), authority.certificate())
            .map_err(|error| error.to_string())?;
        let hosts = Arc::new(RemoteHosts { gateway: Arc::clone(gateway), cloud: cloud.clone(), authority });
        let door = HostDoor {
            region: cloud.settings.region.clone(),
            handshakes: Handshakes::new(config, HANDSHAKES, HANDSHAKE_DEADLINE),
            admission: Arc::clone(&hosts) as _,
            control: hosts,
        };
        tracing::info!(%address, "other machines may join and report here");
        Ok(Some(Self { door, listener, certificate }))
    }

    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.door.serve(self.listener, shutdown) => {}
            () = self.certificate.keep_fresh() => {}
        }
    }
}

/// What this server shows to hosts: made at its start, kept in memory only.
struct ServerCertificate {
    cloud: Cloud,
    authority: Arc<Authority>,
    current: Arc<CurrentCertificate>,
}

impl ServerCertificate {
    fn create(cloud: Cloud, authority: Arc<Authority>) -> Result<Self, String> {
        let current = CurrentCertificate::new(issue(&cloud, &authority)?);
        Ok(Self { cloud, authority, current })
    }

    async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(self.cloud.settings.host_certificate_secs.into()) / 2).await;
            match issue(&self.cloud, &self.authority) {
                Ok(next) => self.current.replace(next),
                Err(error) => tracing::error!(error, "this server's certificate for hosts is not renewed"),
            }
        }
    }
}

fn issue(cloud: &Cloud, authority: &Authority) -> Result<rustls::sign::CertifiedKey, String> {
    let text = |error: terroir_pki::PkiError| error.to_string();
    let issued = authority.issue_server(&[SERVER_NAME.to_owned()], life(cloud), &*cloud.ids).map_err(text)?;
    let chain = format!("{}{}", issued.certificate_pem, authority.certificate_pem());
    terroir_pki::certified(&chain, &issued.key_pem).map_err(text)
}

fn life(cloud: &Cloud) -> Validity {
    let now = cloud.clock.now();
    let life = Duration::from_secs(cloud.settings.host_certificate_secs.into());
    // Half of a short life must not be over when it begins.
    Validity { from: now.minus(BEFORE.min(life / 10)), until: now.plus(life) }
}

/// The gateway, for agents that have shown a certificate of this region.
struct RemoteHosts {
    gateway: Arc<HostGateway>,
    cloud: Cloud,
    authority: Arc<Authority>,
}

fn refused(error: &terroir_pki::PkiError) -> CrossingError {
    CrossingError::Refused(error.to_string())
}

impl RemoteHosts {
    fn membership(&self, host: HostId, site: &str, request: &SigningRequest) -> Result<Membership, CrossingError> {
        let life = life(&self.cloud);
        let certificate_pem = self
            .authority
            .issue_host(request, &self.cloud.settings.region, host, life, &*self.cloud.ids)
            .map_err(|error| CrossingError::Unreachable(error.to_string()))?;
        Ok(Membership {
            host,
            region: self.cloud.settings.region.clone(),
            site: site.to_owned(),
            certificate_pem,
            authority_pem: self.authority.certificate_pem().to_owned(),
            servers: addresses(&self.cloud.settings),
        })
    }

    async fn enrolment(&self, host: HostId) -> Result<Arc<terroir_compute::model::Enrolment>, CrossingError> {
        let find = |txn: &Txn| ops::find_enrolment(txn, host).map_err(|error| crossing(&error));
        if let Some(found) = find(&self.cloud.store.stale())? {
            return Ok(found);
        }
        // It may have joined just now, through another server.
        let txn = self.cloud.store.read().await.map_err(|error| crossing(&error.into()))?;
        find(&txn)?.ok_or_else(|| CrossingError::Refused(format!("{host} has not joined, or was removed")))
    }
}

#[async_trait]
impl Admission for RemoteHosts {
    async fn join(&self, request: JoinRequest) -> Result<Membership, CrossingError> {
        if request.protocol != PROTOCOL_VERSION {
            let (theirs, ours) = (request.protocol, PROTOCOL_VERSION);
            return Err(CrossingError::Refused(format!("it speaks version {theirs}, and the control plane {ours}")));
        }
        let signing = SigningRequest::open(&request.request_pem).map_err(|error| refused(&error))?;
        let (hash, key, now) = (JoinToken::hash(&request.secret), signing.key_sha256(), self.cloud.clock.now());
        let enrol = |txn: &mut Txn| -> Result<_, Error> {
            let enrolment = ops::enrol(txn, &hash, request.host, &key, now)?;
            let (zone, fire_zone) = (&enrolment.zone, enrolment.fire_zone.clone());
            let operator = &self.cloud.operator_key;
            terroir_sovereignty::ops::sign_host(txn, request.host, zone, fire_zone, operator, now)?;
            Ok(enrolment)
        };
        let enrolled = self.cloud.store.transact(&[], enrol).await;
        let (enrolment, _) = enrolled.map_err(|error| crossing(&error)).inspect_err(|error| {
            tracing::warn!(host = %request.host, %error, "a machine was not let in");
        })?;
        let membership = self.membership(request.host, &enrolment.zone, &signing)?;
        tracing::info!(host = %request.host, site = enrolment.zone, "a host joined");
        Ok(membership)
    }

    async fn renew(&self, request: RenewRequest) -> Result<Membership, CrossingError> {
        let enrolment = self.enrolment(request.host).await?;
        let signing = SigningRequest::open(&request.request_pem).map_err(|error| refused(&error))?;
        self.membership(request.host, &enrolment.zone, &signing)
    }

    async fn admit(&self, host: HostId) -> Result<(), CrossingError> {
        self.enrolment(host).await?;
        let known = self.cloud.store.stale().peek::<Host>(&host_key(host)).map_err(|error| crossing(&error))?;
        match known {
            Some(known) if known.mode == HostMode::Lost => {
                Err(CrossingError::Refused(format!("{host} was declared lost")))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl ControlPlane for RemoteHosts {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        let page = self.gateway.pull_spec(host, cursor, wait).await?;
        self.cloud.host_dialled.store(true, Ordering::Release);
        Ok(page)
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        let (host, store) = (report.host, &self.cloud.store);
        let known = store.stale().peek::<Host>(&host_key(host)).map_err(|error| crossing(&error))?;
        if let Some(facts) = report.facts.clone().filter(|_| known.is_none()) {
            let now = self.cloud.clock.now();
            let register = |txn: &mut Txn| ops::register_enrolled(txn, host, facts.clone(), now);
            store.transact(&[], register).await.map_err(|error| crossing(&error))?;
        }
        self.gateway.report(report).await
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.gateway.queries(host, wait).await
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.gateway.answer(host, query, answer).await
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.gateway.fetch_blob(host, name, sink).await
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.gateway.credentials(host, instance).await
    }
}
