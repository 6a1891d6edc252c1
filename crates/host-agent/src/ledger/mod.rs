//! What must survive the agent: the last accepted spec, the record of every instance's runs, and
//! the last status of everything with its generation.
//!
//! Changes are appended in batches, each durable and whole or absent; what is in memory changes
//! only after its batch is on disk. The file is written anew when most of it is outdated.

mod journal;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use terroir_agent_api::{HostSpec, InstanceStatus, InterfaceStatus, Section, SectionKey, VolumeStatus};
use terroir_types::{InstanceId, InterfaceId, VolumeId};
use tokio::time::Instant;

use crate::record::InstanceRecord;
use crate::{AgentError, AgentOptions};
use journal::Journal;

/// Appended bytes below which the file is never written anew.
const COMPACT_ABOVE_BYTES: u64 = 4 << 20;
const LOCK_DEADLINE: Duration = Duration::from_secs(2);

/// One change. `None` removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    Section(SectionKey, Option<Section>),
    Instance(InstanceId, Option<InstanceRecord>),
    InstanceStatus(InstanceId, Option<InstanceStatus>),
    VolumeStatus(VolumeId, Option<VolumeStatus>),
    InterfaceStatus(InterfaceId, Option<InterfaceStatus>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    pub spec: HostSpec,
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    pub instance_statuses: BTreeMap<InstanceId, InstanceStatus>,
    pub volume_statuses: BTreeMap<VolumeId, VolumeStatus>,
    pub interface_statuses: BTreeMap<InterfaceId, InterfaceStatus>,
}

impl Contents {
    pub(crate) fn apply(&mut self, entry: Entry) {
        fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        match entry {
            Entry::Section(key, value) => set(&mut self.spec, key, value),
            Entry::Instance(key, value) => set(&mut self.instances, key, value),
            Entry::InstanceStatus(key, value) => set(&mut self.instance_statuses, key, value),
            Entry::VolumeStatus(key, value) => set(&mut self.volume_statuses, key, value),
            Entry::InterfaceStatus(key, value) => set(&mut self.interface_statuses, key, value),
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let sections = self.spec.iter().map(|(k, v)| Entry::Section(k.clone(), Some(v.clone())));
        let instances = self.instances.iter().map(|(k, v)| Entry::Instance(*k, Some(v.clone())));
        let of_instances = self.instance_statuses.iter().map(|(k, v)| Entry::InstanceStatus(*k, Some(v.clone())));
        let of_volumes = self.volume_statuses.iter().map(|(k, v)| Entry::VolumeStatus(*k, Some(v.clone())));
        let of_interfaces = self.interface_statuses.iter().map(|(k, v)| Entry::InterfaceStatus(*k, Some(v.clone())));
        sections.chain(instances).chain(of_instances).chain(of_volumes).chain(of_interfaces)
    }
}

/// The open ledger; no other process can open it meanwhile.
#[derive(Debug)]
pub struct Ledger {
    contents: Contents,
    journal: Option<Journal>,
}

impl Ledger {
    /// Opens the data folder's ledger, or begins one.
    ///
    /// # Errors
    /// `AlreadyRunning` while another process has it open.
    pub async fn open(options: &AgentOptions) -> Result<Self, AgentError> {
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            match Self::open_file(&options.ledger_path()) {
                // A tool that a killed agent had just forked holds its lock until it has started.
                Err(AgentError::AlreadyRunning(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                opened => return opened,
            }
        }
    }

    /// The same for one file, without patience.
    pub fn open_file(path: &Path) -> Result<Self, AgentError> {
        let mut contents = Contents::default();
        let journal = Journal::open(path, |payload| {
            let batch: Vec<Entry> = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
            batch.into_iter().for_each(|entry| contents.apply(entry));
            Ok(())
        })?;
        Ok(Self { contents, journal: Some(journal) })
    }

    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Makes `batch` durable as a whole, then visible.
    ///
    /// # Errors
    /// Nothing of the batch holds, and the ledger stays usable (the disk may be full for a while).
    pub async fn commit(&mut self, batch: Vec<Entry>) -> Result<(), AgentError> {
        if batch.is_empty() {
            return Ok(());
        }
        let payload = serde_json::to_vec(&batch).map_err(|e| AgentError::Unfit(format!("ledger entry: {e}")))?;
        self.with_journal(move |journal| journal.append(&payload)).await?;
        batch.into_iter().for_each(|entry| self.contents.apply(entry));
        self.compact_if_due().await
    }

    async fn compact_if_due(&mut self) -> Result<(), AgentError> {
        let due =
            self.journal.as_ref().is_some_and(|j| j.appended_bytes() > COMPACT_ABOVE_BYTES.max(3 * j.live_bytes()));
        if due { self.compact().await } else { Ok(()) }
    }

    /// Writes the file anew, without what is outdated.
    pub async fn compact(&mut self) -> Result<(), AgentError> {
        let mut payloads = Vec::new();
        let entries: Vec<Entry> = self.contents.entries().collect();
        for chunk in entries.chunks(256) {
            payloads.push(serde_json::to_vec(chunk).map_err(|e| AgentError::Unfit(format!("ledger entry: {e}")))?);
        }
        self.with_journal(move |journal| journal.rewrite(&payloads)).await
    }

    async fn with_journal(
        &mut self,
        work: impl FnOnce(&mut Journal) -> Result<(), AgentError> + Send + 'static,
    ) -> Result<(), AgentError> {
        let Some(mut journal) = self.journal.take() else {
            return Err(AgentError::Unfit("the ledger was lost by an earlier failure".to_owned()));
        };
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&mut journal);
            (journal, result)
        });
        match task.await {
            Ok((journal, result)) => {
                self.journal = Some(journal);
                result
            }
            Err(error) => Err(AgentError::Unfit(format!("writing the ledger: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests;
