//! Random histories on an engine and on a model small enough to be seen to be right.

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terroir_store::engine::{Commit, Compare, Engine, EventKind, KeyValue, Op, Outcome, Revision, WatchSource};
use terroir_store::{Key, KeyRange, LeaseId, StoreError, WatchEvent};

use crate::conformance::events;

/// Keys that a history uses; some are prefixes of others.
const KEYS: [&str; 8] = ["a/1", "a/2", "a/b/1", "a/b0", "b/1", "c", "~d/1", "~d/2"];
const PREFIXES: [&str; 5] = ["a", "a/b", "b", "c", "~d"];

/// One step of a history. Revisions are given as a distance back from the newest one.
#[derive(Clone, Debug)]
pub enum Step {
    Commit {
        unchanged: Vec<(usize, Guess)>,
        ranges: Vec<(usize, u64)>,
        writes: BTreeMap<usize, WriteKind>,
        append: bool,
    },
    Get {
        keys: Vec<usize>,
        back: Option<u64>,
    },
    Range {
        prefix: usize,
        after: Option<usize>,
        limit: usize,
        back: Option<u64>,
    },
    Watch {
        prefix: Option<usize>,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Grant,
    Revoke {
        lease: usize,
    },
    Trim,
    Reopen,
}

/// What a comparison claims of a key.
#[derive(Clone, Copy, Debug)]
pub enum Guess {
    Right,
    Absent,
    Back(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum WriteKind {
    Put { value: u8, lease: Option<usize> },
    Touch,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let guess = prop_oneof![6 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => (0u64..4).prop_map(Guess::Back)];
    let write = prop_oneof![
        6 => (any::<u8>(), proptest::option::weighted(0.2, 0usize..3)).prop_map(|(value, lease)| WriteKind::Put { value, lease }),
        1 => Just(WriteKind::Touch),
        3 => Just(WriteKind::Delete),
    ];
    let back = proptest::option::weighted(0.7, 0u64..12);
    prop_oneof![
        12 => (
            proptest::collection::vec((key.clone(), guess), 0..3),
            proptest::collection::vec((0..PREFIXES.len(), 0u64..3), 0..2),
            proptest::collection::btree_map(key.clone(), write, 0..4),
            proptest::bool::weighted(0.2),
        )
            .prop_map(|(unchanged, ranges, writes, append)| Step::Commit { unchanged, ranges, writes, append }),
        3 => (proptest::collection::vec(key.clone(), 1..4), back.clone()).prop_map(|(keys, back)| Step::Get { keys, back }),
        4 => (0..PREFIXES.len(), proptest::option::of(key), 0usize..4, back)
            .prop_map(|(prefix, after, limit, back)| Step::Range { prefix, after, limit, back }),
        3 => (proptest::option::of(0..PREFIXES.len()), 0u64..12).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0u64..8).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Grant),
        1 => (0usize..3).prop_map(|lease| Step::Revoke { lease }),
        1 => Just(Step::Trim),
        1 => Just(Step::Reopen),
    ]
}

pub fn history() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..60)
}

#[derive(Clone, PartialEq, Debug)]
struct Row {
    value: Bytes,
    created: Revision,
    modified: Revision,
    lease: Option<LeaseId>,
}

type State = BTreeMap<Key, Row>;

/// Every state there ever was, by revision.
struct Model {
    states: BTreeMap<Revision, State>,
    events: Vec<WatchEvent>,
    compacted: Revision,
    leases: Vec<LeaseId>,
    outbox: Vec<Bytes>,
}

impl Model {
    fn newest(&self) -> (Revision, &State) {
        self.states.last_key_value().map(|(revision, state)| (*revision, state)).expect("there is a first state")
    }

    fn holds(&self, compare: &Compare) -> bool {
        let (_, state) = self.newest();
        match compare {
            Compare::Unchanged { key, mod_revision } => state.get(key).map_or(0, |row| row.modified) == *mod_revision,
            Compare::RangeUnchanged { range, since } => {
                !state.iter().any(|(key, row)| range.contains(key) && row.modified > *since)
            }
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<Outcome, &'static str> {
        if !commit.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Conflict);
        }
        let (newest, state) = self.newest();
        let (revision, mut state) = (newest + 1, state.clone());
        let (mut events, mut appended) = (Vec::new(), Vec::new());
        for op in &commit.ops {
            let (key, row) = match op {
                Op::Put { lease: Some(lease), .. } if !self.leases.contains(lease) => return Err("lease"),
                Op::Put { key, value, lease } => {
                    let created = state.get(key).map_or(revision, |row| row.created);
                    (key, Some(Row { value: value.clone(), created, modified: revision, lease: *lease }))
                }
                Op::Touch { key } => {
                    let row = state.get(key).ok_or("absent")?;
                    (key, Some(Row { modified: revision, ..row.clone() }))
                }
                Op::Delete { key } if !state.contains_key(key) => continue,
                Op::Delete { key } => (key, None),
                Op::Append { payload, .. } => {
                    appended.push(payload.clone());
                    continue;
                }
            };
            events.push(WatchEvent {
                key: key.clone(),
                kind: if row.is_some() { EventKind::Put } else { EventKind::Delete },
                mod_revision: revision,
                create_revision: row.as_ref().map_or(0, |row| row.created),
                value: row.as_ref().map_or_else(Bytes::new, |row| row.value.clone()),
            });
            match row {
                Some(row) => state.insert(key.clone(), row),
                None => state.remove(key),
            };
        }
        if events.is_empty() && appended.is_empty() {
            return Ok(Outcome::Committed(newest));
        }
        self.states.insert(revision, state);
        self.events.extend(events);
        self.outbox.extend(appended);
        Ok(Outcome::Committed(revision))
    }

    fn revoke(&mut self, lease: LeaseId) {
        let attached = self.newest().1.iter().filter(|(_, row)| row.lease == Some(lease));
        let ops = attached.map(|(key, _)| Op::Delete { key: key.clone() }).collect();
        self.commit(&Commit { compares: Vec::new(), ops }).expect("deleting is never refused");
        self.leases.retain(|known| *known != lease);
    }

    /// The state at a revision; none: it is compacted.
    fn at(&self, revision: Revision) -> Option<&State> {
        if revision < self.compacted { None } else { self.states.get(&revision) }
    }

    fn events(&self, range: &KeyRange, from: Revision) -> Vec<WatchEvent> {
        self.events.iter().filter(|e| e.mod_revision >= from && range.contains(&e.key)).cloned().collect()
    }
}

fn found(state: &State, key: &Key) -> Option<KeyValue> {
    state.get(key).map(|row| KeyValue {
        key: key.clone(),
        value: row.value.clone(),
        create_revision: row.created,
        mod_revision: row.modified,
    })
}

/// An engine under test and what it should be.
struct Pair {
    engine: Arc<dyn Engine>,
    model: Model,
    start: Revision,
    watch: Box<dyn WatchSource>,
    watched: usize,
}

fn children(prefix: usize) -> KeyRange {
    KeyRange::children(&Key::new(PREFIXES[prefix]))
}

impl Pair {
    async fn new(engine: Arc<dyn Engine>) -> Self {
        let start = engine.current_revision().await.unwrap();
        let watch = engine.watch(&KeyRange::all(), start + 1).await.unwrap();
        let states = BTreeMap::from([(start, State::new())]);
        let model = Model { states, events: Vec::new(), compacted: 0, leases: Vec::new(), outbox: Vec::new() };
        Self { engine, model, start, watch, watched: 0 }
    }

    fn back(&self, back: u64) -> Revision {
        (self.model.newest().0 - back.min(self.model.newest().0)).max(self.start)
    }

    fn commit_of(
        &self,
        unchanged: &[(usize, Guess)],
        ranges: &[(usize, u64)],
        writes: &BTreeMap<usize, WriteKind>,
        append: bool,
    ) -> Commit {
        let state = self.model.newest().1;
        let keys = unchanged.iter().map(|(key, guess)| {
            let key = Key::new(KEYS[*key]);
            let right = state.get(&key).map_or(0, |row| row.modified);
            let mod_revision = match guess {
                Guess::Right => right,
                Guess::Absent => 0,
                Guess::Back(back) => self.back(*back),
            };
            Compare::Unchanged { key, mod_revision }
        });
        let ranges = ranges
            .iter()
            .map(|(prefix, back)| Compare::RangeUnchanged { range: children(*prefix), since: self.back(*back) });
        let compares = keys.chain(ranges).collect();
        let mut ops: Vec<_> = writes
            .iter()
            .map(|(key, write)| {
                let key = Key::new(KEYS[*key]);
                match write {
                    WriteKind::Put { value, lease } => {
                        let lease = lease.map(|n| self.model.leases.get(n).copied().unwrap_or(u64::MAX >> 1));
                        Op::Put { key, value: vec![*value; 3].into(), lease }
                    }
                    WriteKind::Touch => Op::Touch { key },
                    WriteKind::Delete => Op::Delete { key },
                }
            })
            .collect();
        if append {
            let payload = format!("{}", self.model.newest().0).into();
            ops.push(Op::Append { stream: "stream".into(), payload });
        }
        Commit { compares, ops }
    }

    async fn step(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Commit { unchanged, ranges, writes, append } => {
                let commit = self.commit_of(unchanged, ranges, writes, *append);
                let result = self.engine.commit(commit.clone()).await;
                match self.model.commit(&commit) {
                    Ok(outcome) => prop_assert_eq!(result.ok(), Some(outcome)),
                    Err("lease") => prop_assert!(matches!(result, Err(StoreError::LeaseNotFound(_))), "{:?}", result),
                    Err(_) => prop_assert!(matches!(result, Err(StoreError::Absent(_))), "{:?}", result),
                }
            }
            Step::Get { keys, back } => {
                let keys: Vec<_> = keys.iter().map(|key| Key::new(KEYS[*key])).collect();
                let at = back.map(|back| self.back(back));
                let result = self.engine.get(&keys, at).await;
                match self.model.at(at.unwrap_or(self.model.newest().0)) {
                    Some(state) => {
                        let expected: Vec<_> = keys.iter().map(|key| found(state, key)).collect();
                        prop_assert_eq!(result.unwrap(), expected);
                    }
                    None => prop_assert!(matches!(result, Err(StoreError::Compacted { .. })), "{:?}", result),
                }
            }
            Step::Range { prefix, after, limit, back } => {
                let mut range = children(*prefix);
                if let Some(after) = after {
                    range = range.after(&Key::new(KEYS[*after]));
                }
                self.range(&range, *limit, back.map(|back| self.back(back))).await?;
            }
            Step::Watch { prefix, back } => {
                let range = prefix.map_or_else(KeyRange::all, children);
                self.watch(&range, self.back(*back).max(self.start + 1)).await?;
            }
            Step::Compact { back } => {
                let at = self.back(*back);
                self.engine.compact(at).await.unwrap();
                self.model.compacted = self.model.compacted.max(at);
            }
            Step::Grant if self.model.leases.len() < 3 => {
                let lease = self.engine.lease_grant(Duration::from_secs(3600)).await.unwrap();
                self.model.leases.push(lease);
            }
            Step::Revoke { lease } => {
                if let Some(lease) = self.model.leases.get(*lease).copied() {
                    self.engine.lease_revoke(lease).await.unwrap();
                    self.model.revoke(lease);
                }
            }
            Step::Trim => self.outbox(true).await?,
            Step::Grant | Step::Reopen => {}
        }
        prop_assert_eq!(self.engine.current_revision().await.unwrap(), self.model.newest().0);
        Ok(())
    }

    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> TestCaseResult {
        let result = self.engine.range(range, limit, at).await;
        let revision = at.unwrap_or(self.model.newest().0);
        let Some(state) = self.model.at(revision) else {
            prop_assert!(matches!(result, Err(StoreError::Compacted { .. })), "{:?}", result);
            return Ok(());
        };
        let page = result.unwrap();
        let expected: Vec<_> =
            state.keys().filter(|key| range.contains(key)).filter_map(|key| found(state, key)).collect();
        prop_assert_eq!(page.revision, revision);
        prop_assert_eq!(page.more, expected.len() > limit);
        prop_assert_eq!(&page.entries[..], &expected[..limit.min(expected.len())]);
        Ok(())
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> TestCaseResult {
        let mut watch = match self.engine.watch(range, from).await {
            Ok(watch) => watch,
            Err(error) => {
                prop_assert!(matches!(error, StoreError::Compacted { .. }), "{:?}", error);
                prop_assert!(from < self.model.compacted);
                return Ok(());
            }
        };
        if from < self.model.compacted {
            let first = watch.next().await;
            prop_assert!(matches!(first, Err(StoreError::Compacted { .. })), "{:?}", first);
            return Ok(());
        }
        let expected = self.model.events(range, from);
        prop_assert_eq!(events(&mut *watch, expected.len()).await, expected);
        let more = watch.next().now_or_never().map(Result::unwrap);
        prop_assert!(more.as_ref().is_none_or(|batch| batch.events.is_empty()), "{:?}", more);
        Ok(())
    }

    async fn outbox(&mut self, trim: bool) -> TestCaseResult {
        let entries = self.engine.outbox("stream", 0, 1000).await.unwrap();
        prop_assert!(entries.is_sorted_by(|a, b| a.sequence < b.sequence));
        prop_assert_eq!(&entries.iter().map(|e| e.payload.clone()).collect::<Vec<_>>(), &self.model.outbox);
        if trim && !entries.is_empty() {
            let middle = entries.len() / 2;
            self.engine.outbox_trim("stream", entries[middle].sequence).await.unwrap();
            // It may cost revisions, at which the records are what they were.
            let (before, state) = self.model.newest();
            let (after, state) = (self.engine.current_revision().await.unwrap(), state.clone());
            self.model.states.extend((before + 1..=after).map(|revision| (revision, state.clone())));
            self.model.outbox.drain(..=middle);
        }
        Ok(())
    }

    /// A new engine on the same data: nothing may have changed.
    async fn reopened(&mut self, engine: Arc<dyn Engine>) {
        self.engine = engine;
        self.watched = self.model.events.len();
        self.watch = self.engine.watch(&KeyRange::all(), self.model.newest().0 + 1).await.unwrap();
    }

    async fn finish(mut self) -> TestCaseResult {
        self.range(&KeyRange::all(), 1000, None).await?;
        self.outbox(false).await?;
        let expected = self.model.events.split_off(self.watched);
        prop_assert_eq!(events(&mut *self.watch, expected.len()).await, expected);
        self.engine.close().await;
        Ok(())
    }
}

/// Plays a history. `open` gives an empty engine first, then one on the same data after the one before was closed.
pub async fn play<F: Future<Output = Arc<dyn Engine>>>(history: Vec<Step>, open: impl Fn() -> F) -> TestCaseResult {
    let mut pair = Pair::new(open().await).await;
    for step in &history {
        if let Step::Reopen = step {
            pair.engine.close().await;
            pair.reopened(open().await).await;
        }
        pair.step(step).await?;
    }
    pair.finish().await
}
