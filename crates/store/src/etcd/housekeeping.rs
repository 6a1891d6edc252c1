//! What somebody has to do from time to time, and any process may: compacting etcd's history, and collecting the slots
//! of processes that have ended.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;
use terroir_types::{Clock, Timestamp};

use super::Shared;
use super::rpc::{self, DeleteRangeRequest, RangeRequest, Request, TxnRequest};
use crate::engine::Revision;
use crate::{Retention, StoreError};

const INTERVAL: Duration = Duration::from_secs(30);
/// Smaller steps are not worth a compaction.
const STEP: u64 = 1000;
/// Slots collected in one round.
const SLOTS: i64 = 500;

pub(super) async fn run(shared: Weak<Shared>, clock: Arc<dyn Clock>, retention: Retention) {
    let mut past = VecDeque::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(current) = shared.current_revision().await else { continue };
        let horizon = horizon(&mut past, clock.now(), current, retention);
        if let Err(error) = shared.clean_up(horizon).await {
            tracing::warn!(%error, "etcd: cleaning up failed, and is tried again");
        }
    }
}

/// The revision before which nothing needs to be kept.
fn horizon(
    past: &mut VecDeque<(Timestamp, Revision)>,
    now: Timestamp,
    current: Revision,
    retention: Retention,
) -> Revision {
    past.push_back((now, current));
    while past.get(1).is_some_and(|(time, _)| now.since(*time) >= retention.min_age) {
        past.pop_front();
    }
    let old = past.front().filter(|(time, _)| now.since(*time) >= retention.min_age);
    old.map_or(0, |(_, revision)| *revision).min(current.saturating_sub(retention.min_revisions))
}

impl Shared {
    async fn clean_up(&self, horizon: Revision) -> Result<(), StoreError> {
        let compacted = self.compacted.load(std::sync::atomic::Ordering::Relaxed);
        if horizon < compacted + STEP {
            return Ok(());
        }
        self.collect_slots(horizon).await?;
        self.compact(horizon).await
    }

    /// Slots that nobody has written since before `horizon`. Their owner, if it lives, finds out and goes on.
    pub(super) async fn collect_slots(&self, horizon: Revision) -> Result<(), StoreError> {
        let span = self.space.slots();
        let idle = RangeRequest {
            key: span.start,
            range_end: span.end,
            limit: SLOTS,
            keys_only: true,
            max_mod_revision: horizon.cast_signed(),
            ..RangeRequest::default()
        };
        for slot in self.members.ask(&idle).await?.kvs {
            let compare = rpc::Compare {
                result: rpc::EQUAL,
                target: rpc::MOD_REVISION,
                key: slot.key.clone(),
                mod_revision: Some(slot.mod_revision),
                range_end: bytes::Bytes::new(),
            };
            let success =
                vec![Request::Delete(DeleteRangeRequest { key: slot.key, range_end: bytes::Bytes::new() }).into()];
            self.members.ask(&TxnRequest { compare: vec![compare], success, failure: Vec::new() }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_its_time_and_length() {
        let retention = Retention { min_revisions: 100, min_age: Duration::from_secs(60), ..Retention::default() };
        let at = |seconds: i64| Timestamp::from_secs(seconds);
        let mut past = VecDeque::new();
        for (seconds, current, expected) in
            [(0, 1000, 0), (30, 2000, 0), (60, 3000, 1000), (90, 3050, 2000), (120, 3051, 2951), (1000, 3052, 2952)]
        {
            assert_eq!(horizon(&mut past, at(seconds), current, retention), expected, "after {seconds} s");
        }
    }
}
