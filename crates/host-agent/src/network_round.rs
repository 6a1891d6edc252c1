//! Networks and guest-services, beside the loop: a round takes long, and only the newest spec counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_agent_api::{GuestSnapshot, HostSpec, Section};
use terroir_types::{InstanceId, InterfaceId};
use tokio::sync::{mpsc, watch};

use crate::guest_link::GuestLink;
use crate::network::HostNetwork;
use crate::observed::InterfaceObservation;
use crate::reconciler::Event;

#[derive(Debug, Clone)]
pub(crate) struct NetworkJob {
    pub(crate) spec: HostSpec,
    /// `None` until the spec has a host section.
    pub(crate) snapshot: Option<GuestSnapshot>,
    /// Instances that the snapshot describes completely.
    pub(crate) announced: BTreeSet<InstanceId>,
}

#[derive(Debug, Clone)]
pub(crate) struct NetworkReport {
    pub(crate) interfaces: BTreeMap<InterfaceId, InterfaceObservation>,
    pub(crate) announced: BTreeSet<InstanceId>,
    pub(crate) problems: Vec<String>,
}

/// One round per job, the newest only, until the sender is gone.
pub(crate) async fn run(
    network: Arc<HostNetwork>,
    link: GuestLink,
    mut jobs: watch::Receiver<Option<NetworkJob>>,
    events: mpsc::Sender<Event>,
) {
    while jobs.changed().await.is_ok() {
        let Some(job) = jobs.borrow_and_update().clone() else { continue };
        let outcome = network.reconcile(&job.spec).await;
        let mut problems = outcome.problems;
        if let Some(snapshot) = job.snapshot
            && let Err(error) = link.reconcile(snapshot).await
        {
            // Guests are started all the same: they ask again, and guest-services comes back.
            problems.push(format!("guest-services: {error}"));
        }
        let seen = outcome.interfaces.into_iter().filter_map(|(id, phase)| {
            let Some(Section::Interface(section)) = job.spec.get(&format!("interface/{id}")) else { return None };
            Some((id, InterfaceObservation { epoch: section.epoch, phase }))
        });
        let report = NetworkReport { interfaces: seen.collect(), announced: job.announced, problems };
        if events.send(Event::Network(report)).await.is_err() {
            return;
        }
    }
}
