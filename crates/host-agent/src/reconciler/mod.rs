//! The loop: what changed → observe → plan → write the ledger → apply → report, and again.
//!
//! One task owns all state. Operations run beside it, those on one object one after the other; an
//! object with operations under way is not looked at. When they are done, it is.

mod accept;
mod index;
mod observe;
mod outcome;
mod round;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::{ControlPlane, CrossingError, ReportAck, RoleCredentials, SpecPage};
use terroir_types::{Clock, InstanceId, InterfaceId, Timestamp, VolumeId};
use tokio::sync::{mpsc, watch};

use crate::bell::Bell;
use crate::host_storage::{Storage, StorageError};
use crate::hypervisor::{Applied, Hypervisor, HypervisorError};
use crate::ledger::{Entry, Ledger};
use crate::network_round::{NetworkJob, NetworkReport};
use crate::observed::{InterfaceObservation, ObjectKey, Observed};
use crate::own_place::OwnPlaceFile;
use crate::plan::{Deadlines, Op};
use crate::reports::Outbox;
use crate::{AgentError, AgentOptions};
use index::Dependants;

/// Operations at a time; more wait in their tasks.
const APPLY_AT_ONCE: usize = 32;
/// Rounds follow each other no faster, so that what comes in bursts is done in batches.
const ROUND_PAUSE: Duration = Duration::from_millis(2);
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// Between looks at everything while the disk is nearly full.
const TIGHT_RESYNC: Duration = Duration::from_secs(1);

pub(crate) struct Reconciler {
    options: Arc<AgentOptions>,
    control: Arc<dyn ControlPlane>,
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    hypervisor: Arc<dyn Hypervisor>,
    storage: Arc<dyn Storage>,
    bell: Arc<Bell>,
    observed: Observed,
    dependants: Dependants,
    /// To be looked at in the next round.
    dirty: BTreeSet<ObjectKey>,
    everything: bool,
    /// Found while observing: for the round after this one.
    next_dirty: BTreeSet<ObjectKey>,
    /// Disks that each guest holds, as last seen.
    held: BTreeMap<InstanceId, BTreeSet<VolumeId>>,
    /// With operations under way.
    busy: BTreeSet<ObjectKey>,
    /// After a failure: when to try again, and how often it failed.
    paused: BTreeMap<ObjectKey, Pause>,
    wake_at: Option<Timestamp>,
    next_resync: Timestamp,
    /// Facts that are not in the ledger yet.
    unwritten: Vec<Entry>,
    outbox: Outbox,
    uids: BTreeSet<u32>,
    permits: Arc<tokio::sync::Semaphore>,
    events_sender: mpsc::Sender<Event>,
    network_jobs: Option<watch::Sender<Option<NetworkJob>>>,
    network_dirty: bool,
    network_problems: Vec<String>,
    credentials: BTreeMap<InstanceId, RoleCredentials>,
    credentials_pending: BTreeMap<InstanceId, Timestamp>,
    ledger_problem: Option<String>,
    orphans: Vec<String>,
    credentials_due: bool,
    /// Arrived, and not in the ledger yet.
    pages: Vec<(SpecPage, tokio::sync::oneshot::Sender<()>)>,
    /// A full spec was accepted since the start.
    caught_up: bool,
    own_place: OwnPlaceFile,
    place_problem: Option<String>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Timestamp,
    failures: u32,
    detail: String,
}

/// What happened beside the loop.
pub(crate) enum Event {
    Spec(Box<SpecPage>, tokio::sync::oneshot::Sender<()>),
    Applied(ObjectKey, Vec<(Op, OpResult)>),
    Network(NetworkReport),
    Reported(Option<ReportAck>),
    Credentials(InstanceId, Result<RoleCredentials, CrossingError>),
}

pub(crate) enum OpResult {
    Guest(Result<Applied, HypervisorError>),
    Storage(Result<(), StorageError>),
}

/// What a reconciler works with.
pub(crate) struct Parts {
    pub(crate) options: Arc<AgentOptions>,
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ledger: Ledger,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) boot_id: String,
    pub(crate) events: mpsc::Sender<Event>,
    /// `None`: networks are simulated.
    pub(crate) network_jobs: Option<watch::Sender<Option<NetworkJob>>>,
    pub(crate) credentials: BTreeMap<InstanceId, RoleCredentials>,
    pub(crate) own_place: OwnPlaceFile,
}

impl Reconciler {
    pub(crate) fn new(parts: Parts) -> Self {
        let contents = parts.ledger.contents();
        let mut dependants = Dependants::default();
        contents.spec.values().for_each(|section| dependants.insert(section));
        let uids = contents.instances.values().map(|record| record.uid_index).collect();
        let observed = Observed {
            now: parts.clock.now(),
            boot_id: parts.boot_id.clone(),
            space: parts.storage.space(),
            records: contents.instances.clone(),
            place: parts.own_place.place(),
            ..Observed::default()
        };
        let outbox = Outbox::new(parts.options.host, parts.boot_id);
        let mut reconciler = Self {
            next_resync: observed.now,
            options: parts.options,
            control: parts.control,
            clock: parts.clock,
            ledger: parts.ledger,
            hypervisor: parts.hypervisor,
            storage: parts.storage,
            bell: parts.bell,
            observed,
            dependants,
            dirty: BTreeSet::new(),
            everything: true,
            next_dirty: BTreeSet::new(),
            held: BTreeMap::new(),
            busy: BTreeSet::new(),
            paused: BTreeMap::new(),
            wake_at: None,
            unwritten: Vec::new(),
            outbox,
            uids,
            permits: Arc::new(tokio::sync::Semaphore::new(APPLY_AT_ONCE)),
            events_sender: parts.events,
            network_jobs: parts.network_jobs,
            network_dirty: true,
            network_problems: Vec::new(),
            credentials: parts.credentials,
            credentials_pending: BTreeMap::new(),
            ledger_problem: None,
            orphans: Vec::new(),
            credentials_due: true,
            pages: Vec::new(),
            caught_up: false,
            own_place: parts.own_place,
            place_problem: None,
        };
        reconciler.simulate_network_of_spec();
        reconciler
    }

    fn is_simulated(&self) -> bool {
        self.network_jobs.is_none()
    }

    fn deadlines(&self) -> Deadlines {
        Deadlines { stop: self.options.stop_deadline, press_again: PRESS_AGAIN }
    }

    /// Runs until the sender of `events` and `shutdown` say so.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        tokio::pin!(shutdown);
        let bell = Arc::clone(&self.bell);
        loop {
            let pause = self.until_next_look();
            tokio::select! {
                biased;
                () = &mut shutdown => return self.finish(events).await,
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return Ok(()),
                },
                () = bell.rung() => {}
                () = tokio::time::sleep(pause) => {}
            }
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            self.look().await;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    fn until_next_look(&self) -> Duration {
        let now = self.clock.now();
        if self.everything || !self.dirty.is_empty() || !self.unwritten.is_empty() || !self.pages.is_empty() {
            return Duration::from_millis(if self.ledger_problem.is_some() { 1000 } else { 0 });
        }
        let due = [Some(self.next_resync), self.wake_at, self.outbox.due_at()].into_iter().flatten().min();
        due.map_or(self.options.resync_interval, |due| due.since(now)).max(Duration::from_millis(1))
    }

    async fn look(&mut self) {
        let rung = self.bell.take();
        for key in rung.news {
            self.paused.remove(&key);
        }
        self.dirty.extend(rung.keys);
        self.observed.now = self.clock.now();
        let now = self.observed.now;
        if now >= self.next_resync {
            self.everything = true;
            let tight = self.observed.space.available < 2 * self.observed.space.reserve;
            let interval =
                if tight { TIGHT_RESYNC.min(self.options.resync_interval) } else { self.options.resync_interval };
            self.next_resync = now.plus(interval);
        }
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            self.everything = true;
        }
        let due: Vec<_> = self.paused.iter().filter(|(_, p)| p.until <= now).map(|(key, _)| key.clone()).collect();
        self.dirty.extend(due);
        self.round().await;
        self.send_network_job();
        self.refresh_credentials();
        self.send_report();
    }

    /// Lets operations under way come to their end, for a moment: what they did should be known.
    async fn finish(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), AgentError> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        while !self.busy.is_empty() {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => self.take(event),
                _ => break,
            }
        }
        let entries = std::mem::take(&mut self.unwritten);
        self.ledger.commit(entries).await
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Spec(page, accepted) => self.spec_arrived(*page, accepted),
            Event::Applied(key, results) => self.applied(key, results),
            Event::Network(report) => self.network_reported(report),
            Event::Reported(ack) => self.outbox.answered(ack, self.clock.now()),
            Event::Credentials(instance, result) => self.credentials_arrived(instance, result),
        }
    }

    fn mark(&mut self, key: &ObjectKey) {
        self.dirty.insert(key.clone());
    }

    fn mark_dependants(&mut self, key: &ObjectKey) {
        self.dirty.extend(self.dependants.of(key).cloned());
    }

    fn simulated_interface(&self, id: InterfaceId) -> Option<InterfaceObservation> {
        use terroir_agent_api::{Desired, InterfacePhase, Section};
        let Some(Section::Interface(section)) = self.ledger.contents().spec.get(&format!("interface/{id}")) else {
            return None;
        };
        let phase = match section.desired {
            Desired::Present => InterfacePhase::Ready,
            Desired::Deleted => InterfacePhase::Released,
        };
        Some(InterfaceObservation { epoch: section.epoch, phase })
    }

    fn send_report(&mut self) {
        if self.outbox.due_at().is_none_or(|at| at > self.observed.now) || self.ledger_problem.is_some() {
            return;
        }
        let report = self.outbox.take(self.ledger.contents());
        let (control, events) = (Arc::clone(&self.control), self.events_sender.clone());
        tokio::spawn(async move {
            let sent = tokio::time::timeout(Duration::from_secs(30), control.report(report)).await;
            let ack = match sent {
                Ok(Ok(ack)) => Some(ack),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "report");
                    None
                }
                Err(_) => None,
            };
            let _ = events.send(Event::Reported(ack)).await;
        });
    }

    fn send_network_job(&mut self) {
        let Some(jobs) = &self.network_jobs else { return };
        if !std::mem::take(&mut self.network_dirty) {
            return;
        }
        let spec = self.ledger.contents().spec.clone();
        let storage = Arc::clone(&self.storage);
        let user_data =
            |blob: &terroir_agent_api::BlobRef| storage.has_blob(blob).then(|| storage.read_blob(blob).ok()).flatten();
        let described = crate::guest_snapshot::guest_snapshot(&spec, &self.credentials, user_data);
        let (snapshot, announced) = described.map_or((None, BTreeSet::new()), |(s, a)| (Some(s), a));
        jobs.send_replace(Some(NetworkJob { spec, snapshot, announced }));
    }
}
