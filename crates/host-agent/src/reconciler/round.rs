use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_agent_api::{EndCause, InstanceStatus, InterfaceStatus, Section, VolumeStatus};
use terroir_types::{InstanceId, InterfaceId, VolumeId};

use super::{Event, OpResult, Reconciler};
use crate::facts::host_facts;
use crate::ledger::Entry;
use crate::observed::ObjectKey;
use crate::plan::{Op, RecordChange, Scope, instance_status, interface_status, plan, volume_status};
use crate::record::{InstanceRecord, RebootRequest, RunPhase, RunRecord, StopRequest};

impl Reconciler {
    /// Looks once at what is dirty. If the ledger cannot be written, nothing is done and all of it
    /// is looked at again.
    pub(super) async fn round(&mut self) {
        let (page_entries, accepted) = self.take_pages();
        page_entries.iter().for_each(|entry| self.section_changes(entry));
        // Pages first and alone: what follows must see them, and they must hold whatever follows.
        if !page_entries.is_empty() && !self.write(page_entries.clone()).await {
            self.unwritten_pages(page_entries);
            return;
        }
        for sender in accepted {
            let _ = sender.send(());
        }
        if !self.everything && self.dirty.is_empty() && self.unwritten.is_empty() {
            return;
        }
        let everything = std::mem::take(&mut self.everything);
        let mut looked_at = std::mem::take(&mut self.dirty);
        if everything {
            looked_at.extend(self.all_objects().await);
        }
        // What is busy or paused comes back by itself: when its operations end, or its pause does.
        let now = self.observed.now;
        looked_at.retain(|key| !self.busy.contains(key) && self.paused.get(key).is_none_or(|p| p.until <= now));
        self.observe(&looked_at).await;
        let planned = plan(&self.ledger.contents().spec, &self.observed, Scope::Objects(&looked_at), self.deadlines());
        if let Some(at) = planned.wake_at {
            self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
        }
        self.end_pauses(&looked_at, &planned.ops);
        let (work, intents) = self.record_ops(planned.ops);
        let mut entries = std::mem::take(&mut self.unwritten);
        entries.extend(self.statuses(&looked_at));
        entries.extend(self.forgotten(&looked_at));
        if !self.write(entries.clone()).await {
            self.dirty.extend(looked_at);
            self.everything |= everything;
            self.take_back(intents);
            return;
        }
        self.note_changes(&entries);
        self.carry_out(work);
        let next = std::mem::take(&mut self.next_dirty);
        self.dirty.extend(next);
        if everything {
            self.housekeeping().await;
        }
    }

    /// An object that was looked at after its pause and needs nothing any more has got over it.
    fn end_pauses(&mut self, looked_at: &BTreeSet<ObjectKey>, ops: &[Op]) {
        if self.paused.is_empty() {
            return;
        }
        let needy: BTreeSet<ObjectKey> = ops.iter().map(Op::key).collect();
        self.paused.retain(|key, _| !looked_at.contains(key) || needy.contains(key));
    }

    /// True if `entries` are durable.
    async fn write(&mut self, entries: Vec<Entry>) -> bool {
        let result = self.ledger.commit(entries).await;
        self.ledger_problem = result.err().map(|error| error.to_string());
        if let Some(problem) = &self.ledger_problem {
            tracing::error!(problem, "the ledger cannot be written: nothing is started or stopped until it can");
        }
        self.ledger_problem.is_none()
    }

    fn unwritten_pages(&mut self, entries: Vec<Entry>) {
        let (changed, removed): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|e| matches!(e, Entry::Section(_, Some(_))));
        let changed = changed.into_iter().filter_map(|e| match e {
            Entry::Section(key, Some(section)) => Some((key, section)),
            _ => None,
        });
        let removed = removed.into_iter().filter_map(|e| match e {
            Entry::Section(key, None) => Some(key),
            _ => None,
        });
        let page = terroir_agent_api::SpecPage {
            cursor: 0,
            full: false,
            changed: changed.collect(),
            removed: removed.collect(),
        };
        let (sender, _) = tokio::sync::oneshot::channel();
        self.pages.insert(0, (page, sender));
    }

    /// Puts record changes and start intents into the records and into `unwritten`. What is left is
    /// to be done once they are durable. The second are the records before their intents.
    fn record_ops(&mut self, ops: Vec<Op>) -> (Vec<Op>, Vec<(InstanceId, Option<InstanceRecord>)>) {
        let mut work = Vec::new();
        let mut intents = Vec::new();
        for op in ops {
            match op {
                Op::Record { instance, change } => self.change_record(instance, change),
                Op::Start(order) => {
                    let id = order.section.id;
                    intents.push((id, self.observed.records.get(&id).cloned()));
                    let run = RunRecord {
                        run_id: order.section.run_id,
                        boot_id: self.observed.boot_id.clone(),
                        phase: RunPhase::Intended,
                        // A guest that is adopted later keeps the machine that it was started with.
                        machine: order.machine.clone().or_else(|| self.hypervisor.default_machine()),
                        stop: None,
                        reboot_count: order.section.reboot_count,
                        reboot: None,
                    };
                    let record = self.record_mut(id);
                    (record.run, record.purged) = (Some(run), false);
                    self.save_record(id);
                    work.push(Op::Start(order));
                }
                other => work.push(other),
            }
        }
        (work, intents)
    }

    fn take_back(&mut self, intents: Vec<(InstanceId, Option<InstanceRecord>)>) {
        for (id, before) in intents {
            match before {
                Some(record) => drop(self.observed.records.insert(id, record)),
                None => {
                    if let Some(record) = self.observed.records.remove(&id) {
                        self.uids.remove(&record.uid_index);
                    }
                }
            }
        }
        // Everything else that is not in the ledger stays true, and is written with the next round.
        let differs = |(id, record): (&InstanceId, &InstanceRecord)| {
            (self.ledger.contents().instances.get(id) != Some(record))
                .then(|| Entry::Instance(*id, Some(record.clone())))
        };
        self.unwritten = self.observed.records.iter().filter_map(differs).collect();
    }

    /// The instance's record, with a uid of its own if it is new.
    pub(super) fn record_mut(&mut self, id: InstanceId) -> &mut InstanceRecord {
        let uids = &mut self.uids;
        self.observed.records.entry(id).or_insert_with(|| {
            // Number 0 is the image converter's.
            let uid_index = if uids.len() as u32 == uids.last().copied().unwrap_or(0) {
                uids.len() as u32 + 1
            } else {
                (1..).find(|n| !uids.contains(n)).unwrap_or(u32::MAX)
            };
            uids.insert(uid_index);
            InstanceRecord { uid_index, run: None, purged: false }
        })
    }

    pub(super) fn save_record(&mut self, id: InstanceId) {
        let record = self.observed.records.get(&id).cloned();
        self.unwritten.push(Entry::Instance(id, record));
    }

    pub(super) fn change_record(&mut self, id: InstanceId, change: RecordChange) {
        let now = self.observed.now;
        let boot_id = self.observed.boot_id.clone();
        let reboot_count =
            crate::plan::instance_section(&self.ledger.contents().spec, id).map_or(0, |s| s.reboot_count);
        let new_run = |run_id| RunRecord {
            run_id,
            boot_id,
            phase: RunPhase::Intended,
            machine: None,
            stop: None,
            reboot_count,
            reboot: None,
        };
        let record = self.record_mut(id);
        match change {
            RecordChange::Adopted { process } => {
                let run = match record.run.take() {
                    Some(run) if run.run_id == process.run_id => run,
                    _ => new_run(process.run_id),
                };
                tracing::info!(instance = %id, run = run.run_id, pid = process.id.pid, "adopted");
                record.run = Some(RunRecord { phase: RunPhase::Started { at: now, process: process.id }, ..run });
            }
            RecordChange::Ended { run_id, cause } => {
                tracing::info!(instance = %id, run = run_id, ?cause, "ended");
                let run = match record.run.take() {
                    Some(run) if run.run_id == run_id => run,
                    _ => new_run(run_id),
                };
                record.run = Some(RunRecord { phase: RunPhase::Ended { at: now, cause }, reboot: None, ..run });
            }
            RecordChange::StopPressed => {
                if let Some(run) = &mut record.run {
                    let at = run.stop.map_or(now, |stop| stop.at);
                    run.stop = Some(StopRequest { at, pressed_at: now });
                }
            }
            RecordChange::RebootPressed { count } => {
                if let Some(run) = &mut record.run {
                    let at = run.reboot.map_or(now, |reboot| reboot.at);
                    run.reboot = Some(RebootRequest { count, at, pressed_at: now });
                }
            }
        }
        self.save_record(id);
        self.next_dirty.insert(ObjectKey::Instance(id));
        // Disks of a run that ended may be deleted or grown now.
        let section = crate::plan::instance_section(&self.ledger.contents().spec, id);
        let volumes = section.into_iter().flat_map(|s| s.volumes.iter().map(|v| ObjectKey::Volume(v.volume)));
        self.next_dirty.extend(volumes.collect::<Vec<_>>());
    }

    /// Statuses of the objects that differ from what was said last.
    fn statuses(&self, keys: &BTreeSet<ObjectKey>) -> Vec<Entry> {
        let entry = |key: &ObjectKey| match key {
            ObjectKey::Instance(id) => self.instance_entry(*id),
            ObjectKey::Volume(id) => self.volume_entry(*id),
            ObjectKey::Interface(id) => self.interface_entry(*id),
            ObjectKey::Blob(_) => None,
        };
        keys.iter().filter_map(entry).collect()
    }

    fn instance_entry(&self, id: InstanceId) -> Option<Entry> {
        let contents = self.ledger.contents();
        let report = instance_status(&contents.spec, &self.observed, id)?;
        let last = contents.instance_statuses.get(&id);
        let epoch = crate::plan::instance_section(&contents.spec, id).map(|s| s.epoch).or(last.map(|l| l.epoch));
        let mut status = InstanceStatus {
            id,
            generation: last.map_or(0, |l| l.generation),
            epoch: epoch.unwrap_or_default(),
            run_id: report.run_id,
            phase: report.phase,
            machine: report.machine,
            attached: report.attached.into_iter().collect(),
            reboot_count: report.reboot_count,
            changed_at: last.map_or(self.observed.now, |l| l.changed_at),
        };
        if last == Some(&status) {
            return None;
        }
        status.generation += 1;
        status.changed_at = self.observed.now;
        Some(Entry::InstanceStatus(id, Some(status)))
    }

    fn volume_entry(&self, id: VolumeId) -> Option<Entry> {
        let contents = self.ledger.contents();
        let section = crate::plan::volume_section(&contents.spec, id)?;
        // Nobody knows whose it is until the guest was looked at: "nobody's" would free it.
        if self.observed.reaching.contains_key(&id) && !self.observed.disk_holders.contains_key(&id) {
            return None;
        }
        let last = contents.volume_statuses.get(&id);
        let holder = self.observed.disk_holders.get(&id).and_then(|holders| holders.first());
        let mut status = VolumeStatus {
            id,
            generation: last.map_or(0, |l| l.generation),
            epoch: section.epoch,
            phase: volume_status(section, &self.observed),
            attached_to: holder.copied(),
        };
        if last == Some(&status) {
            return None;
        }
        status.generation += 1;
        Some(Entry::VolumeStatus(id, Some(status)))
    }

    fn interface_entry(&self, id: InterfaceId) -> Option<Entry> {
        let contents = self.ledger.contents();
        let Some(Section::Interface(section)) = contents.spec.get(&format!("interface/{id}")) else { return None };
        let last = contents.interface_statuses.get(&id);
        let phase = interface_status(section, &self.observed)?;
        let mut status =
            InterfaceStatus { id, generation: last.map_or(0, |l| l.generation), epoch: section.epoch, phase };
        if last == Some(&status) {
            return None;
        }
        status.generation += 1;
        Some(Entry::InterfaceStatus(id, Some(status)))
    }

    fn forgotten(&mut self, keys: &BTreeSet<ObjectKey>) -> Vec<Entry> {
        let contents = self.ledger.contents();
        let name = |key: &ObjectKey| match key {
            ObjectKey::Instance(id) => format!("instance/{id}"),
            ObjectKey::Volume(id) => format!("volume/{id}"),
            ObjectKey::Interface(id) => format!("interface/{id}"),
            ObjectKey::Blob(sha256) => sha256.clone(),
        };
        let unnamed: Vec<_> = keys.iter().filter(|key| !contents.spec.contains_key(&name(key))).cloned().collect();
        unnamed.iter().flat_map(|key| self.forget(key)).collect()
    }

    fn note_changes(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::InstanceStatus(id, Some(_)) => self.outbox.instance(*id),
                Entry::VolumeStatus(id, Some(_)) => self.outbox.volume(*id),
                Entry::InterfaceStatus(id, Some(_)) => self.outbox.interface(*id),
                _ => {}
            }
        }
    }

    fn carry_out(&mut self, work: Vec<Op>) {
        let mut by_key: BTreeMap<ObjectKey, Vec<Op>> = BTreeMap::new();
        for op in work {
            by_key.entry(op.key()).or_default().push(op);
        }
        for (key, ops) in by_key {
            if !self.busy.insert(key.clone()) {
                continue;
            }
            for (instance, volume) in ops.iter().flat_map(handed_over) {
                self.observed.reaching.entry(volume).or_default().insert(instance);
            }
            let uid_index = match &key {
                ObjectKey::Instance(id) => self.observed.records.get(id).map_or(0, |r| r.uid_index),
                _ => 0,
            };
            let worker = Worker {
                hypervisor: Arc::clone(&self.hypervisor),
                storage: Arc::clone(&self.storage),
                control: Arc::clone(&self.control),
                host: self.options.host,
                uid_index,
            };
            let (permits, events) = (Arc::clone(&self.permits), self.events_sender.clone());
            tokio::spawn(async move {
                // Closed only when the agent goes away.
                let Ok(_permit) = permits.acquire().await else { return };
                let results = worker.carry_out(ops).await;
                let _ = events.send(Event::Applied(key, results)).await;
            });
        }
    }

    async fn housekeeping(&mut self) {
        self.credentials_due = true;
        self.network_dirty = true;
        self.hypervisor.tidy().await;
        if let Err(error) = self.storage.evict(&self.blobs_in_use()) {
            tracing::warn!(%error, "cannot clean the image cache");
        }
        let mut problems = self.network_problems.clone();
        problems.extend(self.orphans.iter().cloned());
        problems.extend(self.place_problem.iter().cloned());
        problems.extend(self.paused.values().map(|pause| pause.detail.clone()).take(20));
        if !self.observed.space.takes_more() {
            problems
                .push("the disk is full: nothing new is put on it, and guests that write more will pause".to_owned());
        }
        self.outbox.facts(host_facts(&self.options, self.storage.as_ref(), problems));
    }
}

/// Carries out the operations on one object.
struct Worker {
    hypervisor: Arc<dyn crate::hypervisor::Hypervisor>,
    storage: Arc<dyn crate::host_storage::Storage>,
    control: Arc<dyn terroir_agent_api::ControlPlane>,
    host: terroir_types::HostId,
    uid_index: u32,
}

impl Worker {
    /// In order, until one fails or has to wait.
    async fn carry_out(self, ops: Vec<Op>) -> Vec<(Op, OpResult)> {
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            let result = match &op {
                Op::FetchBlob(blob) => {
                    OpResult::Storage(self.storage.fetch(blob, self.host, self.control.as_ref()).await)
                }
                Op::CreateVolume { .. } | Op::GrowVolume { .. } | Op::DeleteVolume { .. } => {
                    OpResult::Storage(self.storage.apply(&op).await)
                }
                _ => OpResult::Guest(self.hypervisor.apply(&op, self.uid_index).await),
            };
            let stop = !result.is_done();
            results.push((op, result));
            if stop {
                break;
            }
        }
        results
    }
}

/// The disks that an operation gives to a guest.
fn handed_over(op: &Op) -> Vec<(InstanceId, VolumeId)> {
    match op {
        Op::Start(order) => order.volumes.iter().map(|(a, _)| (order.section.id, a.volume)).collect(),
        Op::AttachVolume { instance, attachment, .. } => vec![(*instance, attachment.volume)],
        _ => vec![],
    }
}

/// What is told when a start failed.
pub(super) fn start_failed(detail: impl ToString) -> EndCause {
    EndCause::StartFailed { detail: detail.to_string() }
}
