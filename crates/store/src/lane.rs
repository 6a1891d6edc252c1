//! The way of transactions that met a conflict: they run one after the other on one snapshot, each seeing what those
//! before it wrote, and are committed together.
//!
//! Optimistic transactions on one hot record (a quota, a host's capacity) let only one through per commit. Here all that
//! wait run in turn while the commit before is under way, so a hot record takes as many changes as the processor can
//! make. The order is serial and the commit is one, so nothing is weaker: if it conflicts with a transaction from
//! elsewhere, all run again; nobody is answered before it is durable.
//!
//! Keys that were read and written by conflicting transactions are remembered for a moment. A transaction that touches
//! one goes this way at once, instead of conflicting with those that wait.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::engine::{Commit, Compare, MAX_BYTES, MAX_OPERATIONS, Op, Revision};
use crate::{Key, KeyRange, StoreError, Txn};

/// How long a conflict is remembered.
const MEMORY: Duration = Duration::from_millis(500);
const REMEMBERED: usize = 256;
/// Transactions that are committed together.
const PARTS: usize = 128;

/// The right to run a transaction here, with those that have run already.
pub(crate) type Turn = OwnedMutexGuard<Option<Batch>>;

#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) turn: Arc<tokio::sync::Mutex<Option<Batch>>>,
    waiting: AtomicUsize,
    hot: Mutex<HashMap<Hot, Instant>>,
}

/// What was contested: a key, or (`range`) everything below a range's start.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Hot {
    Key(Key),
    Range(KeyRange),
}

/// Transactions that have run and wait for their common commit.
pub(crate) struct Batch {
    pub(crate) txn: Txn,
    pub(crate) parts: Vec<oneshot::Sender<Verdict>>,
}

/// What became of a batch, told to each of its parts.
#[derive(Clone)]
pub(crate) enum Verdict {
    Committed(Revision),
    /// It conflicted: run again.
    Again,
    /// It was refused, perhaps because of another part: run again without others.
    Alone,
    Failed(StoreError),
}

impl Batch {
    pub(crate) fn is_large(&self) -> bool {
        self.parts.len() >= PARTS
            || self.txn.reads_and_writes() > MAX_OPERATIONS / 2
            || self.txn.written_bytes() > MAX_BYTES / 2
    }
}

/// A transaction that waits for its turn.
pub(crate) struct Ticket<'l>(&'l AtomicUsize);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lane {
    pub(crate) fn queue(&self) -> Ticket<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Ticket(&self.waiting)
    }

    pub(crate) fn nobody_waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    fn hot(&self) -> MutexGuard<'_, HashMap<Hot, Instant>> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, contested: Vec<Hot>) {
        if contested.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut hot = self.hot();
        if hot.len() + contested.len() > REMEMBERED {
            hot.retain(|_, until| *until > now);
        }
        let room = REMEMBERED.saturating_sub(hot.len());
        hot.extend(contested.into_iter().take(room).map(|what| (what, now + MEMORY)));
    }

    /// Whether transactions wait here that `commit` would make conflict.
    pub(crate) fn concerns(&self, commit: &Commit) -> bool {
        let mut hot = self.hot();
        if hot.is_empty() {
            return false;
        }
        let now = Instant::now();
        hot.retain(|_, until| *until > now);
        commit.ops.iter().filter_map(key_of).any(|key| {
            hot.keys().any(|what| match what {
                Hot::Key(hot) => hot == key,
                Hot::Range(range) => range.contains(key),
            })
        })
    }
}

fn key_of(op: &Op) -> Option<&Key> {
    match op {
        Op::Put { key, .. } | Op::Touch { key } | Op::Delete { key } => Some(key),
        Op::Append { .. } => None,
    }
}

/// What a transaction both compares and writes: where it conflicts with its like.
pub(crate) fn contested(commit: &Commit) -> Vec<Hot> {
    let written: HashSet<&Key> = commit.ops.iter().filter_map(key_of).collect();
    let hot = |compare: &Compare| match compare {
        Compare::Unchanged { key, .. } => written.contains(key).then(|| Hot::Key(key.clone())),
        Compare::RangeUnchanged { range, .. } => {
            written.iter().any(|key| range.contains(key)).then(|| Hot::Range(range.clone()))
        }
    };
    commit.compares.iter().filter_map(hot).take(REMEMBERED).collect()
}
