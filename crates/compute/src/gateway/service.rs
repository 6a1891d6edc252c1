use async_trait::async_trait;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use terroir_action::Region;
use terroir_agent_api::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostQuery, HostReport, HostSection, QueryAnswer, QueryKind,
    ReportAck, RoleCredentials, Section, SectionKey, SignedPlace, SpecPage,
};
use terroir_block_storage::model::{HostVolume, Volume, host_volume_key, volume_key};
use terroir_block_storage::ops::BlobSource;
use terroir_store::{Revision, Store, Txn};
use terroir_types::{Clock, Error, ErrorClass, HostId, IdSource, InstanceId, VolumeId};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::host_view::HostView;
use super::{BlobStore, HostQueries, QueryBroker, RoleCredentialSource};
use crate::model::{Host, HostInstance, HostMode, Instance, UserData, host_instance_key, host_key, instance_key};
use crate::{controller, ops};

#[derive(Debug, Clone)]
pub struct GatewayOptions {
    pub region: Region,
    /// MTU inside guests, bytes.
    pub guest_mtu: u16,
    pub dns_upstreams: Vec<IpAddr>,
    pub egress_deny: Vec<IpNet>,
    /// How often every section of every host is looked at again.
    pub full_look: Duration,
    /// How often what is over is collected.
    pub collect_every: Duration,
}

impl GatewayOptions {
    pub fn new(region: Region) -> Self {
        Self {
            region,
            guest_mtu: 1370,
            dns_upstreams: Vec::new(),
            egress_deny: Vec::new(),
            full_look: Duration::from_secs(60),
            collect_every: Duration::from_secs(60),
        }
    }
}

/// Longest wait of a pull or a query, whatever the agent asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

struct Shared {
    view: Mutex<HostView>,
    bell: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HostView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control plane as agents see it. Spawn [`HostGateway::run`] beside it.
pub struct HostGateway {
    store: Store,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    options: GatewayOptions,
    blobs: Arc<dyn BlobStore>,
    roles: Arc<dyn RoleCredentialSource>,
    broker: QueryBroker,
    hosts: Mutex<HashMap<HostId, Arc<Shared>>>,
    /// Every change up to this revision has marked its sections.
    marked: watch::Sender<Revision>,
}

impl HostGateway {
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        options: GatewayOptions,
        blobs: Arc<dyn BlobStore>,
        roles: Arc<dyn RoleCredentialSource>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            ids,
            options,
            blobs,
            roles,
            broker: QueryBroker::default(),
            hosts: Mutex::new(HashMap::new()),
            marked: watch::Sender::new(0),
        })
    }

    /// Hears changes, looks at everything now and then, and collects what is over, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut feed = self.store.changes();
        self.mark_everything();
        self.marked.send_replace(self.store.stale().revision());
        let mut full_look = tokio::time::interval(self.options.full_look);
        let mut collect = tokio::time::interval(self.options.collect_every);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                changes = feed.next() => {
                    if changes.missed {
                        self.mark_everything();
                    } else {
                        self.mark(&changes.keys, changes.revision);
                    }
                    self.marked.send_replace(changes.revision);
                    if changes.missed || changes.keys.iter().any(|key| key.kind() == "host") {
                        self.settle_lost().await;
                    }
                }
                _ = full_look.tick() => self.mark_everything(),
                _ = collect.tick() => {
                    self.settle_lost().await;
                    self.collect().await;
                }
            }
        }
    }

    /// Settles what waits for hosts that were declared lost.
    async fn settle_lost(&self) {
        loop {
            let now = self.clock.now();
            match self.store.transact(&[], |txn| ops::settle_lost(txn, now)).await {
                Ok((settled, _)) if settled.more => {}
                Ok(_) => return,
                // The next round looks again.
                Err(error) => {
                    return tracing::warn!(%error, detail = error.internal_detail(), "lost hosts are not settled");
                }
            }
        }
    }

    async fn collect(&self) {
        loop {
            let now = self.clock.now();
            match self.store.transact(&[], |txn| ops::collect(txn, now)).await {
                Ok((collected, _)) if collected.more => {}
                Ok(_) => return,
                // The next round looks again.
                Err(error) => {
                    return tracing::warn!(%error, detail = error.internal_detail(), "nothing could be collected");
                }
            }
        }
    }

    fn known(&self) -> Vec<(HostId, Arc<Shared>)> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().map(|(id, shared)| (*id, Arc::clone(shared))).collect()
    }

    fn host(&self, id: HostId) -> Arc<Shared> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Shared { view: Mutex::new(HostView::new(self.ids.next_u64())), bell: Notify::new() });
        Arc::clone(hosts.entry(id).or_insert_with(new))
    }

    fn mark_everything(&self) {
        for (_, shared) in self.known() {
            shared.lock().mark_all();
            shared.bell.notify_waiters();
        }
    }

    fn mark(&self, keys: &[terroir_store::Key], revision: Revision) {
        let txn = self.store.stale();
        for (id, shared) in self.known() {
            let mut sections = BTreeSet::new();
            let mut all = false;
            for key in keys {
                match dependents(&txn, key, id) {
                    Ok(touched) => sections.extend(touched),
                    Err(error) => {
                        tracing::error!(%error, detail = error.internal_detail(), %key, "looking at everything instead");
                        all = true;
                    }
                }
            }
            if sections.is_empty() && !all {
                continue;
            }
            let mut view = shared.lock();
            for section in sections {
                view.mark(section, revision);
            }
            if all {
                view.mark_all();
            }
            drop(view);
            shared.bell.notify_waiters();
        }
    }

    /// Renders what is marked from one snapshot, and gives what a host with `cursor` has to be told.
    fn refresh(&self, id: HostId, shared: &Shared, txn: &Txn, cursor: Cursor) -> Result<SpecPage, Error> {
        let mut view = shared.lock();
        let mut fresh = self.render_marked(id, &mut view, txn)?;
        view.page(cursor, |key| match fresh.remove(key) {
            Some(section) => Ok(section),
            None => self.render(txn, key, id),
        })
    }

    /// Takes over what is marked, from one snapshot; gives what is new.
    fn render_marked(
        &self,
        id: HostId,
        view: &mut HostView,
        txn: &Txn,
    ) -> Result<HashMap<SectionKey, Option<Section>>, Error> {
        let dirty = view.take_dirty(txn.revision(), || self.all_sections(txn, id))?;
        let mut fresh: HashMap<SectionKey, Option<Section>> = HashMap::new();
        for key in dirty {
            match self.render(txn, &key, id) {
                Ok(section) => {
                    if view.update(&key, section.as_ref()) {
                        fresh.insert(key, section);
                    }
                }
                // One section that cannot be rendered must not keep the host from all others.
                Err(error) => {
                    tracing::error!(%error, detail = error.internal_detail(), section = %key, "a section is left as it was");
                }
            }
        }
        Ok(fresh)
    }

    fn all_sections(&self, txn: &Txn, id: HostId) -> Result<BTreeSet<SectionKey>, Error> {
        let mut keys: BTreeSet<SectionKey> = BTreeSet::from(["host".to_owned()]);
        keys.extend(terroir_network::controller::section_keys_for_host(txn, id)?);
        keys.extend(terroir_block_storage::controller::sections_for_host(txn, id)?);
        keys.extend(controller::sections_for_host(txn, id)?);
        Ok(keys)
    }

    fn render(&self, txn: &Txn, key: &str, id: HostId) -> Result<Option<Section>, Error> {
        match key.split_once('/').map(|(kind, _)| kind) {
            None if key == "host" => self.host_section(txn, id),
            Some("instance") => controller::render(txn, &self.options.region, key, id),
            Some("volume") => terroir_block_storage::controller::render(txn, key, id),
            _ => terroir_network::controller::render(txn, key, id),
        }
    }

    fn host_section(&self, txn: &Txn, id: HostId) -> Result<Option<Section>, Error> {
        let Some(host) = txn.peek::<Host>(&host_key(id))? else { return Ok(None) };
        Ok(Some(Section::Host(HostSection {
            region: self.options.region.name.clone(),
            zone: host.zone.clone(),
            guest_mtu: self.options.guest_mtu,
            dns_upstreams: self.options.dns_upstreams.clone(),
            egress_deny: self.options.egress_deny.clone(),
            public_pools: terroir_network::ops::pools(txn, &host.zone)?,
            place: signed_place(txn, id, &host.zone)?,
        })))
    }

    /// A snapshot of which every change has marked its sections.
    async fn marked(&self, txn: Txn) -> Result<Txn, CrossingError> {
        let revision = txn.revision();
        let mut marked = self.marked.subscribe();
        let reached = marked.wait_for(|marked| *marked >= revision);
        match tokio::time::timeout(Duration::from_secs(5), reached).await {
            Ok(Ok(_)) => Ok(txn),
            _ => Err(CrossingError::Unreachable("the control plane is behind; ask again".to_owned())),
        }
    }

    async fn registered(&self, id: HostId) -> Result<(), CrossingError> {
        let mode = |txn: &Txn| txn.peek::<Host>(&host_key(id)).map(|host| host.map(|host| host.mode));
        let mut known = mode(&self.store.stale()).map_err(|error| crossing(&error))?;
        if known.is_none() {
            // It may have been registered just now.
            known = mode(&self.fresh().await?).map_err(|error| crossing(&error))?;
        }
        match known {
            Some(HostMode::Active | HostMode::Cordoned) => Ok(()),
            Some(HostMode::Lost) => Err(CrossingError::Refused(format!("{id} was declared lost"))),
            None => Err(CrossingError::Refused(format!("{id} is not registered"))),
        }
    }

    async fn fresh(&self) -> Result<Txn, CrossingError> {
        self.store.read().await.map_err(|error| crossing(&error.into()))
    }

    /// Where the bytes called `name` are; none if the host's spec does not name them.
    async fn find_blob(&self, id: HostId, name: &str) -> Result<Option<Found>, CrossingError> {
        let shared = self.host(id);
        let mut user = shared.lock().user_of_blob(name).cloned();
        if user.is_none() {
            // The first pull after a restart may be still to come.
            let txn = self.marked(self.fresh().await?).await?;
            self.render_marked(id, &mut shared.lock(), &txn).map_err(|error| crossing(&error))?;
            user = shared.lock().user_of_blob(name).cloned();
        }
        let Some(user) = user else { return Ok(None) };
        locate(&self.fresh().await?, id, name, &user).map_err(|error| crossing(&error))
    }
}

/// What the host's operator signed; none as long as a part of it is missing.
fn signed_place(txn: &Txn, id: HostId, zone: &str) -> Result<Option<SignedPlace>, Error> {
    let Some(place) = terroir_sovereignty::ops::HostPlace::find(txn, id, zone)? else { return Ok(None) };
    let signed = |operator: &str, site: &str, host: &str| SignedPlace {
        operator: operator.to_owned(),
        site: site.to_owned(),
        host: host.to_owned(),
    };
    Ok((!place.signed.is_empty()).then(|| signed(&place.operator.signed, &place.site.signed, &place.signed)))
}

enum Found {
    Blob(BlobSource),
    UserData(terroir_store::Key),
}

fn locate(txn: &Txn, host: HostId, name: &str, user: &str) -> Result<Option<Found>, Error> {
    let (kind, id) = user.split_once('/').unwrap_or_default();
    if kind == "volume" {
        let id: VolumeId = id.parse()?;
        let Some(index) = txn.peek::<HostVolume>(&host_volume_key(host, id))? else { return Ok(None) };
        let Some(volume) = txn.peek::<Volume>(&volume_key(index.account, id))? else { return Ok(None) };
        return Ok(terroir_block_storage::ops::blob_source(txn, &volume)?.map(Found::Blob));
    }
    if name.starts_with("user-data/") {
        let instance = find_on(txn, host, id.parse()?)?;
        return Ok(instance.and_then(|instance| instance.user_data_key()).map(Found::UserData));
    }
    Ok(Some(Found::Blob(BlobSource::Stored { name: name.to_owned() })))
}

fn find_on(txn: &Txn, host: HostId, id: InstanceId) -> Result<Option<Arc<Instance>>, Error> {
    match txn.peek::<HostInstance>(&host_instance_key(host, id))? {
        Some(index) => txn.peek::<Instance>(&instance_key(index.account, id)),
        None => Ok(None),
    }
}

fn dependents(txn: &Txn, key: &terroir_store::Key, host: HostId) -> Result<Vec<SectionKey>, Error> {
    let mut sections = Vec::new();
    match key.kind() {
        "host" if key.last() == host.to_string() => sections.push("host".to_owned()),
        "host-place" if key.last() == host.to_string() => sections.push("host".to_owned()),
        "address-pool" | "operator" | "site" => sections.push("host".to_owned()),
        kind => {
            sections.extend(terroir_block_storage::controller::dependents(key));
            sections.extend(controller::dependents(txn, key)?);
            if terroir_network::controller::WATCHED_KINDS.contains(&kind) {
                sections.extend(terroir_network::controller::dependents(txn, key, host)?);
            }
        }
    }
    Ok(sections)
}

/// An error as a host is told.
pub fn crossing(error: &Error) -> CrossingError {
    match error.class() {
        ErrorClass::NotFound => CrossingError::NotFound(error.message().to_owned()),
        ErrorClass::Unavailable | ErrorClass::Internal | ErrorClass::Capacity | ErrorClass::Throttled => {
            tracing::warn!(%error, detail = error.internal_detail(), "a host's request failed");
            CrossingError::Unreachable(error.to_string())
        }
        _ => CrossingError::Refused(error.to_string()),
    }
}

#[async_trait]
impl ControlPlane for HostGateway {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        self.registered(host).await?;
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        let shared = self.host(host);
        loop {
            let rung = shared.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let txn = self.marked(self.store.stale()).await?;
            let page = self.refresh(host, &shared, &txn, cursor).map_err(|error| crossing(&error))?;
            drop(txn);
            let news = page.full || !page.changed.is_empty() || !page.removed.is_empty();
            // Marks of later changes than the snapshot's ring no second time.
            let more = shared.lock().is_dirty();
            if news || !more && tokio::time::timeout_at(until, rung).await.is_err() || Instant::now() >= until {
                return Ok(page);
            }
        }
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        let host = report.host;
        self.registered(host).await?;
        let shared = self.host(host);
        let want_full = {
            let view = shared.lock();
            let follows = view.boot_id == report.boot_id
                && view.last_sequence.is_some_and(|last| report.sequence == last + 1 || report.sequence == last);
            !report.full && !follows
        };
        let (sequence, boot_id) = (report.sequence, report.boot_id.clone());
        for part in controller::parts(report) {
            let now = self.clock.now();
            let applied = self.store.transact(&[], |txn| controller::apply_report(txn, &part, now)).await;
            applied.map_err(|error| crossing(&error))?;
        }
        let mut view = shared.lock();
        view.last_sequence = Some(sequence);
        view.boot_id = boot_id;
        Ok(ReportAck { want_full })
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.registered(host).await?;
        Ok(self.broker.next(host, wait.min(LONGEST_WAIT)).await)
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        // An answer that nobody waits for any more is no mistake of the host.
        self.broker.answer(host, query, answer);
        Ok(())
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.registered(host).await?;
        let found = self.find_blob(host, name).await?;
        let refused = || CrossingError::Refused(format!("the spec of {host} does not name the blob '{name}'"));
        let io = |error: std::io::Error| CrossingError::Unreachable(format!("the blob '{name}': {error}"));
        match found.ok_or_else(refused)? {
            Found::UserData(key) => {
                let stored = self.store.get_direct::<UserData>(&key).await.map_err(|error| crossing(&error.into()))?;
                let (user_data, _) =
                    stored.ok_or_else(|| CrossingError::NotFound(format!("there is no blob '{name}'")))?;
                sink.write_all(&user_data.tenant).map_err(io)
            }
            Found::Blob(source) => {
                let mut reader = self.blobs.read(&source).await.map_err(|error| crossing(&error))?;
                let mut buffer = vec![0; 256 << 10];
                loop {
                    let n = reader.read(&mut buffer).await.map_err(io)?;
                    if n == 0 {
                        return Ok(());
                    }
                    sink.write_all(&buffer[..n]).map_err(io)?;
                }
            }
        }
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        let nothing = || CrossingError::NotFound(format!("{instance} has no role"));
        let found = find_on(&self.store.stale(), host, instance).map_err(|error| crossing(&error))?;
        let spec = found.filter(|spec| spec.host() == Some(host)).ok_or_else(nothing)?;
        let profile = spec.profile.as_deref().ok_or_else(nothing)?;
        let issued = self.roles.credentials(spec.account, profile, instance).await;
        issued.map_err(|error| crossing(&error))?.ok_or_else(nothing)
    }
}

#[async_trait]
impl HostQueries for HostGateway {
    async fn ask(&self, host: HostId, kind: QueryKind) -> Result<QueryAnswer, Error> {
        self.broker.ask(host, kind).await
    }
}
