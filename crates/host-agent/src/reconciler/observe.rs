//! Rebuilds what is observed from processes, monitors, files and links.

use futures::StreamExt;
use std::collections::BTreeSet;
use terroir_agent_api::{BlobRef, Section};
use terroir_types::{InstanceId, VolumeId};

use super::Reconciler;
use super::index::{blobs_of_instance, object_key};
use crate::observed::{BlobState, GuestObservation, ObjectKey};

/// Monitors asked at a time.
const OBSERVE_AT_ONCE: usize = 16;

impl Reconciler {
    /// Everything that the spec, the ledger or the host itself knows of.
    pub(super) async fn all_objects(&mut self) -> BTreeSet<ObjectKey> {
        let mut keys: BTreeSet<_> = self.ledger.contents().spec.values().filter_map(object_key).collect();
        keys.extend(self.observed.records.keys().copied().map(ObjectKey::Instance));
        keys.extend(self.observed.guests.keys().copied().map(ObjectKey::Instance));
        match self.hypervisor.survey().await {
            Ok(found) => keys.extend(found.into_iter().map(ObjectKey::Instance)),
            Err(error) => tracing::warn!(%error, "cannot look for guests"),
        }
        let contents = self.ledger.contents();
        keys.extend(contents.volume_statuses.keys().copied().map(ObjectKey::Volume));
        keys.extend(contents.interface_statuses.keys().copied().map(ObjectKey::Interface));
        self.orphans.clear();
        if self.caught_up {
            let volumes = self.storage.survey().unwrap_or_default();
            let unnamed = volumes.iter().filter(|id| !keys.contains(&ObjectKey::Volume(**id))).count();
            if unnamed > 0 {
                let told =
                    format!("{unnamed} volumes are on this host's disk that its spec does not name; they are kept");
                self.orphans.push(told);
            }
            let unnamed = |id: &&InstanceId| crate::plan::instance_section(&contents.spec, **id).is_none();
            for id in
                self.observed.guests.iter().filter(|(_, g)| !g.processes.is_empty()).map(|(id, _)| id).filter(unnamed)
            {
                self.orphans.push(format!("{id} runs here but the spec does not name it; it is left alone"));
            }
        }
        keys
    }

    pub(super) async fn observe(&mut self, scope: &BTreeSet<ObjectKey>) {
        self.observed.space = self.storage.space();
        for key in scope {
            match key {
                ObjectKey::Volume(id) => self.observe_volume(*id),
                ObjectKey::Instance(id) => {
                    let section = crate::plan::instance_section(&self.ledger.contents().spec, *id);
                    let blobs: Vec<_> = section.into_iter().flat_map(blobs_of_instance).cloned().collect();
                    blobs.iter().for_each(|blob| self.observe_blob(blob));
                }
                ObjectKey::Blob(_) | ObjectKey::Interface(_) => {}
            }
            if self.is_simulated() {
                self.simulate_network(key);
            }
        }
        let instances = scope.iter().filter_map(|key| match key {
            ObjectKey::Instance(id) => Some(*id),
            _ => None,
        });
        let hypervisor = self.hypervisor.as_ref();
        let records = &self.observed.records;
        let look = |id: InstanceId| async move { (id, hypervisor.observe(id, records.get(&id)).await) };
        let seen: Vec<_> = futures::stream::iter(instances.map(look)).buffer_unordered(OBSERVE_AT_ONCE).collect().await;
        for (id, guest) in seen {
            self.guest_seen(id, guest);
        }
    }

    fn observe_volume(&mut self, id: VolumeId) {
        let section = crate::plan::volume_section(&self.ledger.contents().spec, id);
        let source = section.and_then(|section| section.source.clone());
        let seen = self.observed.volumes.entry(id).or_default();
        let allocated_bytes = self.storage.allocated_bytes(id);
        seen.growing = seen.allocated_bytes > 0 && allocated_bytes > seen.allocated_bytes;
        seen.allocated_bytes = allocated_bytes;
        match self.storage.observe(id) {
            Ok(file) => {
                if file.is_some() && seen.failure.as_ref().is_some_and(|f| f.lasting) && seen.file.is_none() {
                    seen.failure = None;
                }
                seen.file = file;
            }
            Err(error) => tracing::warn!(volume = %id, %error, "cannot look at the volume"),
        }
        if let Some(blob) = source.filter(|_| self.observed.volumes.get(&id).is_some_and(|v| v.file.is_none())) {
            self.observe_blob(&blob);
        }
    }

    fn observe_blob(&mut self, blob: &BlobRef) {
        if self.storage.has_blob(blob) {
            self.observed.blobs.insert(blob.sha256.clone(), BlobState::Present);
        } else if self.observed.blobs.get(&blob.sha256) == Some(&BlobState::Present) {
            self.observed.blobs.remove(&blob.sha256);
        }
    }

    /// Updates who holds which disk, and has the volumes looked at whose holder changed.
    fn guest_seen(&mut self, id: InstanceId, guest: GuestObservation) {
        let open: Option<BTreeSet<VolumeId>> = match (&guest.monitor, guest.processes.is_empty()) {
            (Some(monitor), _) => Some(monitor.open_disks.keys().chain(&monitor.volumes).copied().collect()),
            (None, true) => Some(BTreeSet::new()),
            // It does not answer: it holds what it held.
            (None, false) => None,
        };
        if let Some(open) = open {
            self.handed_over(id);
            let before = self.held.get(&id).cloned().unwrap_or_default();
            for volume in before.difference(&open) {
                if let Some(holders) = self.observed.disk_holders.get_mut(volume) {
                    holders.remove(&id);
                    if holders.is_empty() {
                        self.observed.disk_holders.remove(volume);
                    }
                }
                self.next_dirty.insert(ObjectKey::Volume(*volume));
                self.next_dirty.extend(self.dependants.of(&ObjectKey::Volume(*volume)).cloned());
            }
            for volume in open.difference(&before) {
                self.observed.disk_holders.entry(*volume).or_default().insert(id);
                self.next_dirty.insert(ObjectKey::Volume(*volume));
            }
            if open.is_empty() {
                self.held.remove(&id);
            } else {
                self.held.insert(id, open);
            }
        }
        if guest == GuestObservation::default() {
            self.observed.guests.remove(&id);
        } else {
            self.observed.guests.insert(id, guest);
        }
    }

    /// The guest was seen after whatever was done to it: what it holds is known again.
    fn handed_over(&mut self, id: InstanceId) {
        let next_dirty = &mut self.next_dirty;
        self.observed.reaching.retain(|volume, guests| {
            if guests.remove(&id) {
                next_dirty.insert(ObjectKey::Volume(*volume));
            }
            !guests.is_empty()
        });
    }

    /// SHA-256 of what must stay in the image cache besides what lies under overlays.
    pub(super) fn blobs_in_use(&self) -> BTreeSet<String> {
        let mut in_use = BTreeSet::new();
        for section in self.ledger.contents().spec.values() {
            match section {
                Section::Instance(instance) => in_use.extend(blobs_of_instance(instance).map(|b| b.sha256.clone())),
                Section::Volume(volume) => {
                    let made = self.observed.volumes.get(&volume.id).is_some_and(|v| v.file.is_some());
                    in_use.extend(volume.source.iter().filter(|_| !made).map(|b| b.sha256.clone()));
                }
                _ => {}
            }
        }
        in_use
    }
}
