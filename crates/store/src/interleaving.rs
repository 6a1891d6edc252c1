//! Random interleavings of transactions, checked against what serializability allows.
//!
//! A transaction that commits must have read what it would have read at the moment of its commit, deletions inside
//! ranges aside. One that conflicts must have had a reason.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terroir_types::{IdSource, OsRandom};

use crate::engine::Outcome;
use crate::{Key, Store, Txn, record};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    value: u32,
}
record!(Item { kind: "item", version: 1 });

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Large {
    value: u32,
}
record!(Large { kind: "~large", version: 1, in_view: false });

const ITEMS: u8 = 6;
const PARENTS: u8 = 2;

fn parent(n: u8) -> Key {
    Key::new(format!("item/{}", n % PARENTS))
}

fn item(n: u8) -> Key {
    parent(n).child(n / PARENTS)
}

fn large() -> Key {
    Key::new("~large/1")
}

#[derive(Clone, Debug)]
enum Act {
    Get(u8),
    Peek(u8),
    Range(u8),
    Page { parent: u8, after: Option<u8>, limit: usize },
    Exists(u8),
    GetLarge,
    Put(u8),
    PutLarge,
    Delete(u8),
    Touch(u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// Begins transaction number n (one that was open is forgotten).
    Begin(usize),
    Act(usize, Act),
    Commit(usize),
}

const OPEN: usize = 3;

fn history() -> impl Strategy<Value = Vec<Step>> {
    let item = || 0..ITEMS;
    let parent = || 0..PARENTS;
    let act = prop_oneof![
        4 => item().prop_map(Act::Get),
        1 => item().prop_map(Act::Peek),
        2 => parent().prop_map(Act::Range),
        2 => (parent(), proptest::option::of(item()), 1usize..3)
            .prop_map(|(parent, after, limit)| Act::Page { parent, after, limit }),
        1 => parent().prop_map(Act::Exists),
        1 => Just(Act::GetLarge),
        6 => item().prop_map(Act::Put),
        1 => Just(Act::PutLarge),
        3 => item().prop_map(Act::Delete),
        1 => item().prop_map(Act::Touch),
    ];
    let step = prop_oneof![
        2 => (0..OPEN).prop_map(Step::Begin),
        6 => (0..OPEN, act).prop_map(|(n, act)| Step::Act(n, act)),
        2 => (0..OPEN).prop_map(Step::Commit),
    ];
    proptest::collection::vec(step, 1..80)
}

/// Value and number of the last write of every key.
type State = BTreeMap<Key, (u32, u64)>;

/// What a transaction read from the state, not from itself.
enum Read {
    Key(Key, Option<(u32, u64)>),
    /// Up to and including the key `through`, or to the end.
    Range {
        parent: Key,
        after: Option<Key>,
        through: Option<Key>,
        seen: State,
    },
}

impl Read {
    /// (whether it still holds, whether nothing at all happened to what was read)
    fn check(&self, now: &State) -> (bool, bool) {
        match self {
            Self::Key(key, seen) => {
                let same = now.get(key) == seen.as_ref();
                (same, same)
            }
            Self::Range { parent, after, through, seen } => {
                let present = part(now, parent, after.as_ref(), through.as_ref());
                let holds = present.iter().all(|(key, row)| seen.get(key) == Some(row));
                (holds, present == *seen)
            }
        }
    }
}

fn part(state: &State, parent: &Key, after: Option<&Key>, through: Option<&Key>) -> State {
    let prefix = format!("{parent}/");
    let inside = |key: &&Key| {
        key.as_str().starts_with(&prefix)
            && after.is_none_or(|after| *key > after)
            && through.is_none_or(|through| *key <= through)
    };
    state.keys().filter(inside).map(|key| (key.clone(), state[key])).collect()
}

struct Open {
    txn: Txn,
    /// The state when it began.
    base: State,
    reads: Vec<Read>,
    /// none: deleted; touched keys stand with their old value.
    writes: BTreeMap<Key, Option<u32>>,
}

impl Open {
    fn sees(&self, key: &Key) -> Option<u32> {
        match self.writes.get(key) {
            Some(written) => *written,
            None => self.base.get(key).map(|(value, _)| *value),
        }
    }

    fn sees_in(&self, parent: &Key, after: Option<&Key>) -> Vec<(Key, u32)> {
        let mut rows: BTreeMap<_, _> =
            part(&self.base, parent, after, None).into_iter().map(|(key, (value, _))| (key, value)).collect();
        let prefix = format!("{parent}/");
        for (key, written) in &self.writes {
            if key.as_str().starts_with(&prefix) && after.is_none_or(|after| key > after) {
                match written {
                    Some(value) => rows.insert(key.clone(), *value),
                    None => rows.remove(key),
                };
            }
        }
        rows.into_iter().collect()
    }

    fn read_key(&mut self, key: &Key) {
        if !self.writes.contains_key(key) {
            self.reads.push(Read::Key(key.clone(), self.base.get(key).copied()));
        }
    }

    fn page(&mut self, parent: &Key, after: Option<Key>, limit: usize) -> TestCaseResult {
        let found = self.txn.page::<Item>(parent, after.as_ref(), limit).unwrap();
        let found: Vec<_> = found.into_iter().map(|(key, item)| (key, item.value)).collect();
        let mut expected = self.sees_in(parent, after.as_ref());
        expected.truncate(limit);
        prop_assert_eq!(&found, &expected);
        let through = if found.len() == limit { found.last().map(|(key, _)| key.clone()) } else { None };
        let seen = part(&self.base, parent, after.as_ref(), through.as_ref());
        self.reads.push(Read::Range { parent: parent.clone(), after, through, seen });
        Ok(())
    }

    fn act(&mut self, act: &Act, fresh: u32) -> TestCaseResult {
        match act {
            Act::Get(n) => {
                let key = item(*n);
                let found = self.txn.get::<Item>(&key).unwrap();
                prop_assert_eq!(found.map(|item| item.value), self.sees(&key));
                self.read_key(&key);
            }
            Act::Peek(n) => {
                let key = item(*n);
                prop_assert_eq!(self.txn.peek::<Item>(&key).unwrap().map(|item| item.value), self.sees(&key));
            }
            Act::Range(n) => self.page(&parent(*n), None, usize::MAX)?,
            Act::Page { parent: n, after, limit } => self.page(&parent(*n), after.map(item), *limit)?,
            Act::Exists(n) => {
                let parent = parent(*n);
                let rows = self.sees_in(&parent, None);
                prop_assert_eq!(self.txn.exists(&parent), !rows.is_empty());
                prop_assert_eq!(self.txn.count(&parent), rows.len());
                match rows.first() {
                    Some((key, _)) => self.read_key(&key.clone()),
                    None => {
                        let seen = part(&self.base, &parent, None, None);
                        self.reads.push(Read::Range { parent, after: None, through: None, seen });
                    }
                }
            }
            Act::GetLarge => {
                let found = self.txn.get::<Large>(&large()).unwrap();
                prop_assert_eq!(found.map(|item| item.value), self.sees(&large()));
            }
            Act::Put(n) => {
                self.txn.put(&item(*n), &Item { value: fresh }).unwrap();
                self.writes.insert(item(*n), Some(fresh));
            }
            Act::PutLarge => {
                self.txn.put(&large(), &Large { value: fresh }).unwrap();
                self.writes.insert(large(), Some(fresh));
            }
            Act::Delete(n) => {
                self.txn.delete(&item(*n));
                self.writes.insert(item(*n), None);
            }
            Act::Touch(n) => {
                let key = item(*n);
                let seen = self.sees(&key);
                prop_assert_eq!(self.txn.touch(&key).is_ok(), seen.is_some());
                self.read_key(&key);
                if let Some(value) = seen {
                    self.writes.entry(key).or_insert(Some(value));
                }
            }
        }
        Ok(())
    }
}

async fn play(history: &[Step]) -> TestCaseResult {
    let store = Store::in_memory_for_tests().await;
    let mut state = State::new();
    let mut open: [Option<Open>; OPEN] = [None, None, None];
    for (number, step) in (1u64..).zip(history) {
        match step {
            Step::Begin(n) => {
                let txn = store.begin(&[large()], false).await.unwrap();
                let base = state.clone();
                let reads = vec![Read::Key(large(), base.get(&large()).copied())];
                open[*n] = Some(Open { txn, base, reads, writes: BTreeMap::new() });
            }
            Step::Act(n, act) => {
                if let Some(open) = &mut open[*n] {
                    open.act(act, u32::try_from(number).unwrap())?;
                }
            }
            Step::Commit(n) => {
                let Some(Open { txn, reads, writes, .. }) = open[*n].take() else { continue };
                let Some(commit) = txn.into_commit().unwrap() else {
                    prop_assert!(writes.is_empty());
                    continue;
                };
                let checks: Vec<_> = reads.iter().map(|read| read.check(&state)).collect();
                let outcome = store.commit(commit).await.unwrap();
                if outcome == Outcome::Conflict {
                    prop_assert!(checks.iter().any(|(_, untouched)| !untouched), "a conflict without a reason");
                    continue;
                }
                prop_assert!(checks.iter().all(|(holds, _)| *holds), "committed on what is no longer true");
                for (key, written) in writes {
                    match written {
                        Some(value) => state.insert(key, (value, number)),
                        None => state.remove(&key),
                    };
                }
            }
        }
    }
    let txn = store.read_with(&[large()]).await.unwrap();
    for n in 0..ITEMS {
        let found = txn.get::<Item>(&item(n)).unwrap().map(|item| item.value);
        prop_assert_eq!(found, state.get(&item(n)).map(|(value, _)| *value));
    }
    let found = txn.get::<Large>(&large()).unwrap().map(|large| large.value);
    prop_assert_eq!(found, state.get(&large()).map(|(value, _)| *value));
    store.close().await;
    Ok(())
}

/// What a transaction reads, and whether it conflicts with a change of each kind.
#[tokio::test]
async fn what_a_read_protects() {
    type Read = fn(&Txn);
    let p = || Key::new("item/p");
    let rows: [(&str, Read, &str); 13] = [
        ("a record that is there", |t| drop(t.get::<Item>(&Key::new("item/p/b"))), "put b,delete b"),
        ("a record that is not", |t| drop(t.get::<Item>(&Key::new("item/p/c"))), "put c"),
        ("a range", |t| drop(t.range::<Item>(&Key::new("item/p"))), "put b,put c,put d,put f,put h,put a"),
        ("the first page", |t| drop(t.page::<Item>(&Key::new("item/p"), None, 2)), "put a,put b,put c,put d"),
        (
            "the second page",
            |t| drop(t.page::<Item>(&Key::new("item/p"), Some(&Key::new("item/p/b")), 2)),
            "put c,put d,put f",
        ),
        ("the last page", |t| drop(t.page::<Item>(&Key::new("item/p"), Some(&Key::new("item/p/d")), 9)), "put f,put h"),
        ("that something exists", |t| assert!(t.exists(&Key::new("item/p"))), "put b,delete b"),
        ("that nothing exists", |t| assert!(!t.exists(&Key::new("item/q"))), "put q"),
        ("a record, untracked", |t| drop(t.peek::<Item>(&Key::new("item/p/b"))), ""),
        ("a range, untracked", |t| drop(t.peek_range::<Item>(&Key::new("item/p"))), ""),
        ("a count", |t| assert_eq!(t.count(&Key::new("item/p")), 3), ""),
        ("a record outside the view", |t| drop(t.get::<Large>(&large())), "put large"),
        ("nothing", |_| {}, "put large"),
    ];
    let key = |name: &str| match name {
        "q" => Key::new("item/q/a"),
        name => p().child(name),
    };
    let changes: Vec<_> = ["a", "b", "c", "d", "f", "h", "q", "large"]
        .iter()
        .flat_map(|name| [format!("put {name}"), format!("delete {name}")])
        .filter(|change| !["a", "c", "h", "q", "large"].iter().any(|n| *change == format!("delete {n}")))
        .collect();
    let store = Store::in_memory_for_tests().await;
    for (what, read, conflicts) in rows {
        for change in &changes {
            let reset = |txn: &mut Txn| {
                ["a", "c", "h", "q"].iter().for_each(|name| txn.delete(&key(name)));
                ["b", "d", "f"].iter().try_for_each(|name| txn.put(&key(name), &Item { value: 1 }))
            };
            store.transact(&[], reset).await.unwrap();
            let mut txn = store.begin(&[large()], false).await.unwrap();
            read(&txn);
            txn.put(&Key::new("item/own"), &Item { value: 1 }).unwrap();
            let apply = |txn: &mut Txn| match change.split_once(' ') {
                Some((_, "large")) => txn.put(&large(), &Large { value: 2 }),
                Some(("put", name)) => txn.put(&key(name), &Item { value: 2 }),
                Some((_, name)) => {
                    txn.delete(&key(name));
                    Ok(())
                }
                None => unreachable!("every change has two words"),
            };
            store.transact(&[], apply).await.unwrap();
            let outcome = store.commit(txn.into_commit().unwrap().unwrap()).await.unwrap();
            let expected = conflicts.split(',').chain(["put large"]).any(|conflict| conflict == change);
            assert_eq!(outcome == Outcome::Conflict, expected, "{what}, {change}");
        }
    }
}

#[test]
fn interleaved_transactions_are_serializable() {
    let given = std::env::var("TERROIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| OsRandom.next_u64());
    eprintln!("TERROIR_SEED={seed}");
    let full = std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config {
        cases: if full { 2000 } else { 100 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    TestRunner::new(config).run(&history(), |history| runtime.block_on(play(&history))).unwrap();
}
