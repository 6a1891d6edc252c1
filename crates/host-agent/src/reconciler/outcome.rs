//! What operations came to.

use std::time::Duration;
use terroir_types::Timestamp;

use super::round::start_failed;
use super::{OpResult, Pause, Reconciler};
use crate::host_storage::StorageError;
use crate::hypervisor::{Applied, HypervisorError};
use crate::observed::{BlobState, Failure, ObjectKey};
use crate::plan::{Op, RecordChange};
use crate::record::RunPhase;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two tries at something that depends on the guest.
const PATIENCE: Duration = Duration::from_secs(3);

impl OpResult {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Storage(Ok(())) | Self::Guest(Ok(Applied::Done | Applied::Started { .. })))
    }
}

impl Reconciler {
    pub(super) fn applied(&mut self, key: ObjectKey, results: Vec<(Op, OpResult)>) {
        self.busy.remove(&key);
        let now = self.clock.now();
        self.observed.now = now;
        let failed = results.iter().any(|(_, result)| !result.is_done());
        for (op, result) in results {
            match result {
                OpResult::Storage(result) => self.storage_applied(&op, result),
                OpResult::Guest(result) => self.guest_applied(&op, result),
            }
        }
        if !failed {
            self.paused.remove(&key);
        }
        self.mark(&key);
        self.mark_dependants(&key);
    }

    fn storage_applied(&mut self, op: &Op, result: Result<(), StorageError>) {
        let now = self.observed.now;
        if let Err(error) = &result {
            tracing::warn!(?op, %error, "failed");
        }
        match op {
            Op::FetchBlob(blob) => {
                let before = match self.observed.blobs.get(&blob.sha256) {
                    Some(BlobState::Failed(failure)) => failure.attempts,
                    _ => 0,
                };
                let state = result
                    .map_or_else(|error| BlobState::Failed(failure(&error, before, now)), |()| BlobState::Present);
                self.observed.blobs.insert(blob.sha256.clone(), state);
                self.network_dirty = true;
            }
            Op::CreateVolume { volume, .. } | Op::GrowVolume { volume, .. } | Op::DeleteVolume { volume } => {
                let seen = self.observed.volumes.entry(*volume).or_default();
                let before = seen.failure.as_ref().map_or(0, |f| f.attempts);
                seen.failure = result.err().map(|error| failure(&error, before, now));
            }
            _ => {}
        }
    }

    fn guest_applied(&mut self, op: &Op, result: Result<Applied, HypervisorError>) {
        let key = op.key();
        match (op, result) {
            (Op::Start(order), Ok(Applied::Started { process, machine })) => {
                let now = self.observed.now;
                let record = self.record_mut(order.section.id);
                if let Some(run) = record.run.as_mut().filter(|run| run.run_id == process.run_id && run.is_active()) {
                    run.phase = RunPhase::Started { at: now, process: process.id };
                    run.machine = machine;
                }
                self.save_record(order.section.id);
            }
            (Op::Start(order), Ok(_)) => {
                let change =
                    RecordChange::Ended { run_id: order.section.run_id, cause: start_failed("it did not start") };
                self.change_record(order.section.id, change);
            }
            (Op::Start(order), Err(error)) => {
                tracing::warn!(instance = %order.section.id, %error, "start failed");
                let change = RecordChange::Ended { run_id: order.section.run_id, cause: start_failed(error) };
                self.change_record(order.section.id, change);
            }
            (Op::Reset { instance, count }, Ok(_)) => {
                let record = self.record_mut(*instance);
                if let Some(run) = &mut record.run {
                    run.reboot_count = *count;
                    run.reboot = None;
                }
                self.save_record(*instance);
            }
            (Op::Purge { instance }, Ok(_)) => {
                self.record_mut(*instance).purged = true;
                self.save_record(*instance);
            }
            // The guest may well pause again at once.
            (Op::Resume { .. }, Ok(_)) => self.pause(key, PATIENCE, "waiting for disk space".to_owned()),
            (_, Ok(Applied::Pending { detail })) => self.pause(key, PATIENCE, detail),
            (_, Ok(_)) => {}
            (op, Err(error)) => {
                tracing::warn!(?op, %error, "failed");
                let failures = self.paused.get(&key).map_or(0, |pause| pause.failures);
                let length = (FIRST_PAUSE * 2u32.saturating_pow(failures.min(6))).min(LONGEST_PAUSE);
                self.pause(key, length, error.to_string());
            }
        }
    }

    fn pause(&mut self, key: ObjectKey, length: Duration, detail: String) {
        let failures = self.paused.get(&key).map_or(0, |pause| pause.failures) + 1;
        let until = self.observed.now.plus(length);
        self.wake_at = Some(self.wake_at.map_or(until, |earlier| earlier.min(until)));
        self.paused.insert(key, Pause { until, failures, detail });
    }
}

fn failure(error: &StorageError, attempts_before: u32, now: Timestamp) -> Failure {
    let lasting = error.is_lasting();
    let length = (FIRST_PAUSE * 2u32.saturating_pow(attempts_before.min(6))).min(LONGEST_PAUSE);
    Failure {
        detail: error.to_string(),
        lasting,
        attempts: attempts_before + 1,
        retry_at: now.plus(if lasting { LONGEST_PAUSE } else { length }),
    }
}
