use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::{
    ControlPlane, CrossingError, GuestSnapshot, HostQuery, HypervisorKind, QueryAnswer, QueryKind, RoleCredentials,
};
use terroir_types::{Clock, HostId, InstanceId, SystemClock};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::bell::Bell;
use crate::guest_link::{GuestLink, GuestLinkOptions};
use crate::host_storage::{DiskFiles, Disks, Storage};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::qemu::Qemu;
use crate::ledger::Ledger;
use crate::network::{HostNetwork, NetworkOptions};
use crate::own_place::OwnPlaceFile;
use crate::reconciler::{Event, Parts, Reconciler};
use crate::simulated::{SimulatedHypervisor, SimulatedStorage};
use crate::{AgentError, AgentOptions, facts, network_round};

const EVENTS: usize = 1024;
const QUERIES_AT_ONCE: usize = 4;
const QUERY_DEADLINE: Duration = Duration::from_secs(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs the agent until `shutdown`. Guests go on running without it, and the next one adopts them.
///
/// # Errors
/// `AlreadyRunning` if another agent has the data folder; others if the folder cannot be used.
/// A control plane that does not answer is no error.
pub async fn run(
    options: AgentOptions,
    control: Arc<dyn ControlPlane>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let ledger = Ledger::open(&options).await?;
    let own_place = OwnPlaceFile::open(&options.data_dir, options.host).map_err(AgentError::Unfit)?;
    let boot_id = facts::boot_id().map_err(AgentError::io("read", "/proc/sys/kernel/random/boot_id".as_ref()))?;
    let options = Arc::new(options);
    let bell = Arc::new(Bell::default());
    let (events, receiver) = mpsc::channel(EVENTS);
    let mut tasks = JoinSet::new();
    let backends = Backends::open(&options, &bell, &events, &mut tasks)?;
    let credentials = match options.hypervisor {
        HypervisorKind::Qemu => earlier_credentials(&options),
        HypervisorKind::Simulated => BTreeMap::new(),
    };
    tasks.spawn(pull(Arc::clone(&options), Arc::clone(&control), events.clone()));
    tasks.spawn(answer_queries(
        options.host,
        options.poll_wait,
        Arc::clone(&control),
        Arc::clone(&backends.hypervisor),
    ));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let reconciler = Reconciler::new(Parts {
        options,
        control,
        clock,
        ledger,
        hypervisor: backends.hypervisor,
        storage: backends.storage,
        bell,
        boot_id,
        events,
        network_jobs: backends.network_jobs,
        credentials,
        own_place,
    });
    // The other tasks end with `tasks`.
    Box::pin(reconciler.run(receiver, shutdown)).await
}

struct Backends {
    hypervisor: Arc<dyn Hypervisor>,
    storage: Arc<dyn Storage>,
    network_jobs: Option<watch::Sender<Option<network_round::NetworkJob>>>,
}

impl Backends {
    fn open(
        options: &AgentOptions,
        bell: &Arc<Bell>,
        events: &mpsc::Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, AgentError> {
        if options.hypervisor == HypervisorKind::Simulated {
            let hypervisor = Arc::new(SimulatedHypervisor::new(Arc::clone(bell)));
            return Ok(Self { hypervisor, storage: Arc::new(SimulatedStorage::default()), network_jobs: None });
        }
        if !nix::unistd::geteuid().is_root() {
            let told = "running real guests needs root (networks, uids); use --hypervisor simulated without";
            return Err(AgentError::Unfit(told.to_owned()));
        }
        let unfit = |error: &dyn std::fmt::Display| AgentError::Unfit(error.to_string());
        let network = Arc::new(HostNetwork::new(network_options(options)));
        let files = Arc::new(DiskFiles::new(options));
        let storage = Arc::new(Disks::open(options, Arc::clone(&files)).map_err(|e| unfit(&e))?);
        let qemu = Qemu::new(options, files, Arc::clone(&network), Arc::clone(bell)).map_err(|e| unfit(&e))?;
        let link = GuestLinkOptions {
            socket: options.guest_services_socket.clone(),
            snapshot: options.guest_snapshot.clone(),
            guest_services_uid: options.guest_services_uid,
        };
        let (jobs, receiver) = watch::channel(None);
        let link = GuestLink::new(link, Arc::clone(&network));
        tasks.spawn(network_round::run(network, link, receiver, events.clone()));
        Ok(Self { hypervisor: Arc::new(qemu), storage, network_jobs: Some(jobs) })
    }
}

pub(crate) fn network_options(options: &AgentOptions) -> NetworkOptions {
    NetworkOptions { edge_pool: options.edge_pool, ..NetworkOptions::new(options.tag.clone()) }
}

/// Credentials that guests have now: they must not lose them only because the agent is a new one
/// and the control plane is away.
fn earlier_credentials(options: &AgentOptions) -> BTreeMap<InstanceId, RoleCredentials> {
    let bytes = std::fs::read(&options.guest_snapshot).unwrap_or_default();
    let snapshot: Option<GuestSnapshot> = serde_json::from_slice(&bytes).ok();
    let guests = snapshot.into_iter().flat_map(|snapshot| snapshot.guests);
    guests.filter_map(|guest| guest.credentials.map(|credentials| (guest.instance, credentials))).collect()
}

/// Waits between tries, longer and longer.
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(SHORTEST_PAUSE)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Pulls the spec for ever. A page's cursor counts once the page is in the ledger; a new agent asks
/// for everything.
async fn pull(options: Arc<AgentOptions>, control: Arc<dyn ControlPlane>, events: mpsc::Sender<Event>) {
    let mut cursor = 0;
    let mut backoff = Backoff::new();
    let mut away = false;
    loop {
        let asked = control.pull_spec(options.host, cursor, options.poll_wait);
        let page = match tokio::time::timeout(options.poll_wait + QUERY_DEADLINE, asked).await {
            Ok(Ok(page)) => page,
            result => {
                if !std::mem::replace(&mut away, true) {
                    let why = match result {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer in time".to_owned(),
                    };
                    tracing::warn!(why, "no spec from the control plane; guests go on running");
                }
                backoff.wait().await;
                continue;
            }
        };
        if std::mem::take(&mut away) {
            tracing::info!("the control plane answers again");
        }
        backoff = Backoff::new();
        let next = page.cursor;
        if !page.full && page.changed.is_empty() && page.removed.is_empty() {
            cursor = next;
            continue;
        }
        let (sender, accepted) = tokio::sync::oneshot::channel();
        if events.send(Event::Spec(Box::new(page), sender)).await.is_err() {
            return;
        }
        // Dropped without an answer if the ledger could not be written: the page is kept and comes later.
        let _ = accepted.await;
        cursor = next;
    }
}

async fn answer_queries(host: HostId, wait: Duration, control: Arc<dyn ControlPlane>, hypervisor: Arc<dyn Hypervisor>) {
    let permits = Arc::new(Semaphore::new(QUERIES_AT_ONCE));
    let mut backoff = Backoff::new();
    let mut answering = JoinSet::new();
    loop {
        let asked = tokio::time::timeout(wait + QUERY_DEADLINE, control.queries(host, wait)).await;
        let queries = match asked {
            Ok(Ok(queries)) => queries,
            _ => {
                backoff.wait().await;
                continue;
            }
        };
        backoff = Backoff::new();
        for query in queries {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (control, hypervisor) = (Arc::clone(&control), Arc::clone(&hypervisor));
            answering.spawn(async move {
                let id = query.id;
                let answer = tokio::time::timeout(QUERY_DEADLINE, answer(query, hypervisor.as_ref())).await;
                let answer =
                    answer.unwrap_or(QueryAnswer::Failed { detail: "the guest did not answer in time".to_owned() });
                if let Err(error) = control.answer(host, id, answer).await
                    && !matches!(error, CrossingError::NotFound(_))
                {
                    tracing::debug!(%error, "answer");
                }
                drop(permit);
            });
        }
        while answering.try_join_next().is_some() {}
    }
}

async fn answer(query: HostQuery, hypervisor: &dyn Hypervisor) -> QueryAnswer {
    let taken = match query.kind {
        QueryKind::ConsoleOutput { instance } => hypervisor.console(instance).await,
        QueryKind::ConsoleScreenshot { instance } => hypervisor.screenshot(instance).await,
    };
    match taken {
        Ok(Some(bytes)) => QueryAnswer::Bytes { base64: STANDARD.encode(bytes), taken_at: SystemClock.now() },
        Ok(None) => QueryAnswer::NotRunning,
        Err(error) => QueryAnswer::Failed { detail: error.to_string() },
    }
}
