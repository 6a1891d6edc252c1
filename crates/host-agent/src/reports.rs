//! What is reported: statuses with generations, and when the next report must name everything.

use std::collections::BTreeSet;
use std::time::Duration;
use terroir_agent_api::{HostFacts, HostReport, InstanceStatus, InterfaceStatus, ReportAck, VolumeStatus};
use terroir_types::{HostId, InstanceId, InterfaceId, Timestamp, VolumeId};

use crate::ledger::Contents;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Statuses that changed since the last report was taken. After a failure the next report is full,
/// so that nothing depends on one that may not have arrived.
#[derive(Debug)]
pub(crate) struct Outbox {
    host: HostId,
    boot_id: String,
    sequence: u64,
    full: bool,
    instances: BTreeSet<InstanceId>,
    volumes: BTreeSet<VolumeId>,
    interfaces: BTreeSet<InterfaceId>,
    facts: Option<HostFacts>,
    sent_facts: Option<HostFacts>,
    in_flight: bool,
    not_before: Timestamp,
    pause: Duration,
}

impl Outbox {
    pub(crate) fn new(host: HostId, boot_id: String) -> Self {
        Self {
            host,
            boot_id,
            sequence: 0,
            full: true,
            instances: BTreeSet::new(),
            volumes: BTreeSet::new(),
            interfaces: BTreeSet::new(),
            facts: None,
            sent_facts: None,
            in_flight: false,
            not_before: Timestamp::EPOCH,
            pause: FIRST_PAUSE,
        }
    }

    pub(crate) fn instance(&mut self, id: InstanceId) {
        self.instances.insert(id);
    }

    pub(crate) fn volume(&mut self, id: VolumeId) {
        self.volumes.insert(id);
    }

    pub(crate) fn interface(&mut self, id: InterfaceId) {
        self.interfaces.insert(id);
    }

    /// Sent with the next report if they differ from what was sent last.
    pub(crate) fn facts(&mut self, facts: HostFacts) {
        self.facts = Some(facts);
    }

    fn facts_due(&self) -> bool {
        match (&self.facts, &self.sent_facts) {
            (Some(now), Some(sent)) => differ(now, sent),
            (now, _) => now.is_some(),
        }
    }

    /// When a report may be taken; `None` if there is nothing to say or one is under way.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        let something = self.full
            || !self.instances.is_empty()
            || !self.volumes.is_empty()
            || !self.interfaces.is_empty()
            || self.facts_due();
        (something && !self.in_flight).then_some(self.not_before)
    }

    /// The next report. Must be followed by [`Outbox::answered`].
    pub(crate) fn take(&mut self, contents: &Contents) -> HostReport {
        fn pick<K: Ord, V: Clone>(all: &std::collections::BTreeMap<K, V>, some: &BTreeSet<K>, full: bool) -> Vec<V> {
            if full {
                all.values().cloned().collect()
            } else {
                some.iter().filter_map(|k| all.get(k).cloned()).collect()
            }
        }
        let full = std::mem::take(&mut self.full);
        self.sequence += 1;
        self.in_flight = true;
        let facts = if full || self.facts_due() { self.facts.clone() } else { None };
        if facts.is_some() {
            self.sent_facts.clone_from(&facts);
        }
        let instances: Vec<InstanceStatus> =
            pick(&contents.instance_statuses, &std::mem::take(&mut self.instances), full);
        let volumes: Vec<VolumeStatus> = pick(&contents.volume_statuses, &std::mem::take(&mut self.volumes), full);
        let interfaces: Vec<InterfaceStatus> =
            pick(&contents.interface_statuses, &std::mem::take(&mut self.interfaces), full);
        HostReport {
            host: self.host,
            boot_id: self.boot_id.clone(),
            sequence: self.sequence,
            full,
            facts,
            instances,
            volumes,
            interfaces,
        }
    }

    /// `None`: it did not arrive, or nobody knows.
    pub(crate) fn answered(&mut self, ack: Option<ReportAck>, now: Timestamp) {
        self.in_flight = false;
        match ack {
            Some(ack) => {
                self.full |= ack.want_full;
                self.pause = FIRST_PAUSE;
                self.not_before = if ack.want_full { now.plus(FIRST_PAUSE) } else { now };
            }
            None => {
                self.full = true;
                self.not_before = now.plus(self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Free space moves all the time; less than a hundredth of the whole is no news.
fn differ(now: &HostFacts, sent: &HostFacts) -> bool {
    let moved = now.volume_bytes_free.abs_diff(sent.volume_bytes_free) > now.volume_bytes_total / 100
        || now.volume_bytes_total.abs_diff(sent.volume_bytes_total) > now.volume_bytes_total / 100;
    let mut same = sent.clone();
    same.volume_bytes_free = now.volume_bytes_free;
    same.volume_bytes_total = now.volume_bytes_total;
    moved || same != *now
}
