//! Commits that are done exactly once, though answers get lost.
//!
//! When a leader dies, nobody can say whether the transactions under way were done. So each commit also writes a
//! *slot*: a small key that only one commit uses at a time, compared with the revision at which it was last written.
//! After a lost answer the slot is written again, with the same comparison. If that works, the commit was not done and
//! never will be, because its comparison fails from now on; it is tried again. If it does not, the slot tells what was
//! there before. A commit that only deletes writes a slot only where it certainly changes something: what changes
//! nothing must not cost a revision.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Shared;
use super::members::{Failure, Refusal, Tries};
use super::outbox::Appends;
use super::rpc::{
    self, DeleteRangeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, Request, RequestOp, TxnRequest,
    TxnResponse,
};
use crate::engine::{Commit, Compare, LeaseId, Op, Outcome, Revision};
use crate::{Key, StoreError};

const COMMITTED: &[u8] = b"c";
const FENCED: &[u8] = b"f";

struct Slot {
    key: Bytes,
    /// Of its last write; 0: it does not exist.
    revision: Revision,
}

/// Slots that no commit uses.
pub(super) struct Slots {
    engine: u64,
    made: AtomicU64,
    free: Mutex<Vec<Slot>>,
}

impl Slots {
    /// `engine`: random, so that no other process uses the same slots.
    pub(super) fn new(engine: u64) -> Self {
        Self { engine, made: AtomicU64::new(0), free: Mutex::default() }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn revision_of(header: Option<rpc::ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision.cast_unsigned())
}

fn unchanged(key: Bytes, revision: Revision) -> rpc::Compare {
    rpc::Compare {
        result: rpc::EQUAL,
        target: rpc::MOD_REVISION,
        key,
        mod_revision: Some(revision.cast_signed()),
        range_end: Bytes::new(),
    }
}

fn read(key: Bytes) -> RequestOp {
    Request::Range(RangeRequest { key, ..RangeRequest::default() }).into()
}

fn put(key: Bytes, value: impl Into<Bytes>) -> RequestOp {
    Request::Put(PutRequest { key, value: value.into(), ..PutRequest::default() }).into()
}

impl Shared {
    pub(super) async fn commit(&self, commit: &Commit) -> Result<Outcome, StoreError> {
        let (compare, success) = (self.compares(commit), self.operations(commit));
        if success.is_empty() {
            // With a read, because etcd answers a transaction without any from what one member happens to know.
            let request = TxnRequest { compare, success: vec![read(self.space.nothing())], failure: Vec::new() };
            return self.members.ask(&request).await.map(|answer| self.outcome(answer)).map_err(StoreError::from);
        }
        let request = TxnRequest { compare, success, failure: Vec::new() };
        if certainly_changes(commit) {
            return self.commit_once(request, commit).await;
        }
        if commit.compares.is_empty() {
            // Deleting may be done twice.
            return self.members.ask(&request).await.map(|answer| self.outcome(answer)).map_err(StoreError::from);
        }
        match self.members.once(&request, Tries::new().patience()).await {
            Ok(answer) => Ok(self.outcome(answer)),
            Err(Failure::Refused(refusal)) => Err(self.explain(refusal, commit).await),
            Err(Failure::Unknown(why)) => Err(StoreError::Io(format!("etcd: {why}"))),
        }
    }

    fn outcome(&self, answer: TxnResponse) -> Outcome {
        let revision = revision_of(answer.header);
        self.members.saw(revision);
        if answer.succeeded { Outcome::Committed(revision) } else { Outcome::Conflict }
    }

    /// A caller that is cancelled leaves its slot behind, to be collected.
    async fn commit_once(&self, request: TxnRequest, commit: &Commit) -> Result<Outcome, StoreError> {
        let free = self.slots.free().pop();
        let mut slot = free.unwrap_or_else(|| {
            let number = self.slots.made.fetch_add(1, Ordering::Relaxed);
            Slot { key: self.space.slot(self.slots.engine, number), revision: 0 }
        });
        let mut tries = Tries::new();
        loop {
            let mut attempt = request.clone();
            attempt.compare.push(unchanged(slot.key.clone(), slot.revision));
            attempt.success.push(put(slot.key.clone(), COMMITTED));
            attempt.failure.push(read(slot.key.clone()));
            match self.members.once(&attempt, tries.patience()).await {
                Ok(answer) if answer.succeeded => {
                    slot.revision = revision_of(answer.header);
                    self.members.saw(slot.revision);
                    let revision = slot.revision;
                    self.slots.free().push(slot);
                    return Ok(Outcome::Committed(revision));
                }
                Ok(answer) => {
                    self.members.saw(revision_of(answer.header.clone()));
                    let found = answer.ranges().next().and_then(|range| range.kvs.into_iter().next());
                    let found = found.map_or(0, |found| found.mod_revision.cast_unsigned());
                    if found == slot.revision {
                        self.slots.free().push(slot);
                        return Ok(Outcome::Conflict);
                    }
                    // It was collected as one that nobody uses; nothing was written.
                    slot.revision = found;
                }
                Err(Failure::Refused(refusal)) => {
                    self.slots.free().push(slot);
                    return Err(self.explain(refusal, commit).await);
                }
                Err(Failure::Unknown(why)) => {
                    tries.again(why).await?;
                    if let Some(revision) = self.settle(&mut slot, &mut tries).await? {
                        self.members.saw(revision);
                        self.slots.free().push(slot);
                        return Ok(Outcome::Committed(revision));
                    }
                }
            }
        }
    }

    /// The revision of the commit that last used the slot, or none: it is not done and never will be.
    async fn settle(&self, slot: &mut Slot, tries: &mut Tries) -> Result<Option<Revision>, StoreError> {
        let fence = TxnRequest {
            compare: vec![unchanged(slot.key.clone(), slot.revision)],
            success: vec![put(slot.key.clone(), FENCED)],
            failure: vec![read(slot.key.clone())],
        };
        loop {
            match self.members.once(&fence, tries.patience()).await {
                Ok(answer) if answer.succeeded => {
                    slot.revision = revision_of(answer.header);
                    return Ok(None);
                }
                Ok(answer) => {
                    let found = answer.ranges().next().and_then(|range| range.kvs.into_iter().next());
                    slot.revision = found.as_ref().map_or(0, |found| found.mod_revision.cast_unsigned());
                    // Absent: it was collected before the commit, which then fails. Fenced: by an earlier attempt here.
                    let done = found.is_some_and(|found| *found.value == *COMMITTED);
                    return Ok(done.then_some(slot.revision));
                }
                Err(Failure::Refused(refusal)) => {
                    return Err(StoreError::Io(format!("etcd: a commit's fate is unknown: {refusal:?}")));
                }
                Err(Failure::Unknown(why)) => tries.again(why).await?,
            }
        }
    }

    /// What etcd's refusal means for this commit.
    async fn explain(&self, refusal: Refusal, commit: &Commit) -> StoreError {
        match refusal {
            Refusal::KeyNotFound => self.absent(commit).await.unwrap_or_else(|error| error),
            Refusal::LeaseNotFound => self.ended_lease(commit).await.unwrap_or_else(|error| error),
            Refusal::TooLarge(message) => {
                tracing::error!(message, "etcd: its limits are too low, see docs/operations/etcd.md");
                StoreError::TooLarge { operations: commit.ops.len(), bytes: commit.bytes() }
            }
            other => other.into(),
        }
    }

    async fn absent(&self, commit: &Commit) -> Result<StoreError, StoreError> {
        let touched = commit.ops.iter().filter_map(|op| if let Op::Touch { key } = op { Some(key) } else { None });
        let touched: Vec<Key> = touched.cloned().collect();
        let found = self.get(&touched, None).await?;
        let absent = touched.iter().zip(found).find(|(_, found)| found.is_none());
        // None: it is there again.
        let key = absent.map(|(key, _)| key).or_else(|| touched.first());
        Ok(key.map_or_else(|| StoreError::Io("etcd: key not found".to_owned()), |key| StoreError::Absent(key.clone())))
    }

    async fn ended_lease(&self, commit: &Commit) -> Result<StoreError, StoreError> {
        let leases: BTreeSet<LeaseId> =
            commit.ops.iter().filter_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None }).collect();
        for lease in leases {
            let answer = self.members.ask(&LeaseTimeToLiveRequest { id: lease.cast_signed() }).await?;
            if answer.ttl_secs <= 0 {
                return Ok(StoreError::LeaseNotFound(lease));
            }
        }
        Ok(StoreError::Io("etcd: requested lease not found".to_owned()))
    }

    fn compares(&self, commit: &Commit) -> Vec<rpc::Compare> {
        let compare = |compare: &Compare| match compare {
            Compare::Unchanged { key, mod_revision } => Some(unchanged(self.space.record(key), *mod_revision)),
            Compare::RangeUnchanged { range, since } => {
                let span = self.space.records(range)?;
                Some(rpc::Compare {
                    result: rpc::LESS,
                    target: rpc::MOD_REVISION,
                    key: span.start,
                    mod_revision: Some(since.cast_signed() + 1),
                    range_end: span.end,
                })
            }
        };
        commit.compares.iter().filter_map(compare).collect()
    }

    fn operations(&self, commit: &Commit) -> Vec<RequestOp> {
        let mut appends = Appends::default();
        let mut operations = Vec::with_capacity(commit.ops.len() + 1);
        for op in &commit.ops {
            let request = match op {
                Op::Put { key, value, lease } => Request::Put(PutRequest {
                    key: self.space.record(key),
                    value: value.clone(),
                    lease: lease.map_or(0, LeaseId::cast_signed),
                    ..PutRequest::default()
                }),
                Op::Touch { key } => Request::Put(PutRequest {
                    key: self.space.record(key),
                    ignore_value: true,
                    ignore_lease: true,
                    ..PutRequest::default()
                }),
                Op::Delete { key } => {
                    Request::Delete(DeleteRangeRequest { key: self.space.record(key), range_end: Bytes::new() })
                }
                Op::Append { stream, payload } => {
                    appends.add(stream, payload);
                    continue;
                }
            };
            operations.push(request.into());
        }
        for (stream, entries) in appends.into_values() {
            operations.push(put(self.space.entry(stream, self.ids.next_u128()), entries));
        }
        operations
    }
}

/// Whether the commit raises the revision if its comparisons hold.
fn certainly_changes(commit: &Commit) -> bool {
    let exists = |deleted: &Key| {
        commit.compares.iter().any(
            |compare| matches!(compare, Compare::Unchanged { key, mod_revision } if key == deleted && *mod_revision > 0),
        )
    };
    commit.ops.iter().any(|op| match op {
        Op::Put { .. } | Op::Touch { .. } | Op::Append { .. } => true,
        Op::Delete { key } => exists(key),
    })
}
