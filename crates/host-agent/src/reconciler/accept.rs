//! Spec pages, networks and credentials: what comes from outside into the state.

use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::{
    CrossingError, HostSection, InterfacePhase, PowerState, RoleCredentials, Section, SignedPlace, SpecPage,
    VolumePhase,
};
use terroir_types::{InstanceId, Timestamp};

use super::index::{object_key, object_key_of_name};
use super::{Event, Reconciler};
use crate::ledger::Entry;
use crate::network_round::NetworkReport;
use crate::observed::ObjectKey;

const CREDENTIALS_RETRY: Duration = Duration::from_secs(15);

impl Reconciler {
    /// Takes a page into memory at once and into the ledger with the next round; `accepted` is told
    /// after that, so that no cursor is ahead of the disk.
    pub(super) fn spec_arrived(&mut self, page: SpecPage, accepted: tokio::sync::oneshot::Sender<()>) {
        self.pages.push((page, accepted));
        self.everything |= self.pages.iter().any(|(page, _)| page.full);
    }

    /// The entries that bring the ledger's spec to the pages that arrived.
    pub(super) fn take_pages(&mut self) -> (Vec<Entry>, Vec<tokio::sync::oneshot::Sender<()>>) {
        let mut entries = Vec::new();
        let mut accepted = Vec::new();
        for (page, sender) in std::mem::take(&mut self.pages) {
            let mut removed = page.removed;
            if page.full {
                self.caught_up = true;
                let gone = self.ledger.contents().spec.keys().filter(|key| !page.changed.contains_key(*key));
                removed.extend(gone.cloned());
            }
            for (key, section) in page.changed {
                if self.ledger.contents().spec.get(&key) != Some(&section) {
                    entries.push(Entry::Section(key, Some(section)));
                }
            }
            entries.extend(removed.into_iter().map(|key| Entry::Section(key, None)));
            accepted.push(sender);
        }
        (entries, accepted)
    }

    /// Called before the section's change is committed: `old` is still in the ledger.
    pub(super) fn section_changes(&mut self, entry: &Entry) {
        let Entry::Section(name, new) = entry else { return };
        if let Some(Section::Host(HostSection { place: Some(place), .. })) = new {
            self.take_place(place);
        }
        if let Some(old) = self.ledger.contents().spec.get(name) {
            self.dependants.remove(old);
        }
        if let Some(section) = new {
            self.dependants.insert(section);
        }
        let key = new.as_ref().map_or_else(|| object_key_of_name(name), object_key);
        match &key {
            Some(key) => {
                self.paused.remove(key);
                self.mark(key);
                self.mark_dependants(key);
            }
            None => self.everything |= name == "host",
        }
        if !matches!(key, Some(ObjectKey::Volume(_))) {
            self.network_dirty = true;
        }
        self.credentials_due |= matches!(key, Some(ObjectKey::Instance(_)));
    }

    /// What the control plane passes on of the operator's statements about this host.
    fn take_place(&mut self, place: &SignedPlace) {
        self.place_problem = self.own_place.take(place).err().map(|error| {
            tracing::error!(error, "what is said about this host's place does not count");
            format!("what the control plane says about this host's place does not count: {error}")
        });
        self.observed.place = self.own_place.place();
    }

    pub(super) fn simulate_network_of_spec(&mut self) {
        if !self.is_simulated() {
            return;
        }
        let ids: Vec<_> = self.ledger.contents().spec.values().filter_map(object_key).collect();
        ids.iter().for_each(|key| self.simulate_network(key));
    }

    pub(super) fn simulate_network(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Interface(id) => {
                if let Some(seen) = self.simulated_interface(*id) {
                    self.observed.interfaces.insert(*id, seen);
                }
            }
            ObjectKey::Instance(id) => {
                self.observed.announced.insert(*id);
            }
            ObjectKey::Blob(_) | ObjectKey::Volume(_) => {}
        }
    }

    pub(super) fn network_reported(&mut self, report: NetworkReport) {
        for (id, seen) in report.interfaces {
            if self.observed.interfaces.get(&id) != Some(&seen) {
                self.observed.interfaces.insert(id, seen);
                let key = ObjectKey::Interface(id);
                self.mark(&key);
                self.mark_dependants(&key);
            }
        }
        for id in report.announced.symmetric_difference(&self.observed.announced) {
            self.dirty.insert(ObjectKey::Instance(*id));
        }
        self.observed.announced = report.announced;
        self.network_problems = report.problems;
    }

    /// Fetches role credentials that are missing or half-way to their end.
    pub(super) fn refresh_credentials(&mut self) {
        let now = self.observed.now;
        let mut due = Vec::new();
        if std::mem::take(&mut self.credentials_due) {
            for section in self.ledger.contents().spec.values() {
                if let Section::Instance(instance) = section
                    && instance.metadata.instance_profile.is_some()
                    && instance.desired == PowerState::Running
                    && self.credentials.get(&instance.id).is_none_or(|c| half_life(c) <= now)
                    && self.credentials_pending.get(&instance.id).is_none_or(|retry_at| *retry_at <= now)
                {
                    due.push(instance.id);
                }
            }
        }
        for instance in due {
            self.credentials_pending.insert(instance, now.plus(2 * CREDENTIALS_RETRY));
            let (control, events, host) = (Arc::clone(&self.control), self.events_sender.clone(), self.options.host);
            tokio::spawn(async move {
                let asked = tokio::time::timeout(CREDENTIALS_RETRY, control.credentials(host, instance)).await;
                let result = asked.unwrap_or_else(|_| Err(CrossingError::Unreachable("no answer in time".to_owned())));
                let _ = events.send(Event::Credentials(instance, result)).await;
            });
        }
    }

    pub(super) fn credentials_arrived(&mut self, instance: InstanceId, result: Result<RoleCredentials, CrossingError>) {
        match result {
            Ok(credentials) => {
                self.credentials_pending.remove(&instance);
                self.credentials.insert(instance, credentials);
                self.network_dirty = true;
            }
            Err(error) => {
                tracing::warn!(%instance, %error, "no role credentials");
                self.credentials_pending.insert(instance, self.clock.now().plus(CREDENTIALS_RETRY));
            }
        }
    }

    /// Drops what is known of objects that are gone here and no longer in the spec. Anything else
    /// stays: absence from a spec never means that something should go.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> Vec<Entry> {
        let contents = self.ledger.contents();
        match key {
            ObjectKey::Instance(id) => {
                let never_ran = self.observed.records.get(id).is_none_or(|r| r.run.is_none() || r.purged);
                if !never_ran || self.observed.guests.get(id).is_some_and(|g| !g.processes.is_empty()) {
                    return vec![];
                }
                if let Some(record) = self.observed.records.remove(id) {
                    self.uids.remove(&record.uid_index);
                }
                self.observed.guests.remove(id);
                self.credentials.remove(id);
                self.credentials_pending.remove(id);
                vec![Entry::Instance(*id, None), Entry::InstanceStatus(*id, None)]
            }
            ObjectKey::Volume(id) => {
                let status = contents.volume_statuses.get(id);
                let has_disk = self.observed.volumes.get(id).is_some_and(|v| v.file.is_some());
                if has_disk || status.is_none_or(|s| s.phase != VolumePhase::Deleted) {
                    return vec![];
                }
                self.observed.volumes.remove(id);
                vec![Entry::VolumeStatus(*id, None)]
            }
            ObjectKey::Interface(id) => {
                let status = contents.interface_statuses.get(id);
                if status.is_some_and(|s| s.phase != InterfacePhase::Released) {
                    return vec![];
                }
                self.observed.interfaces.remove(id);
                status.map(|_| Entry::InterfaceStatus(*id, None)).into_iter().collect()
            }
            ObjectKey::Blob(_) => vec![],
        }
    }
}

fn half_life(credentials: &RoleCredentials) -> Timestamp {
    credentials.issued_at.plus(credentials.expires_at.since(credentials.issued_at) / 2)
}
