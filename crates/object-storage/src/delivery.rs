//! Working off queues of the outbox: at least once, and for each key in the order in which its changes took effect.
//!
//! Each queue is worked off by itself, so that a place that is away keeps no other waiting. What cannot be carried is
//! tried again, ever more slowly; meanwhile later entries of the same key wait and those of other keys are tried.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use terroir_types::{Clock, Error, Timestamp};
use tokio::time::Instant;

use crate::backend::{BucketId, Entry, Outbox};

const PAGE: usize = 256;
/// Entries of one queue at once.
const AT_ONCE: usize = 16;
/// Keys that wait behind an entry that could not be carried, beyond which the queue is left alone for a while.
const MOST_BLOCKED: usize = 1000;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Between two looks at the queues if nobody rings.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long an entry is tried again.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What came of an entry.
pub(crate) enum Carried {
    /// It may go.
    Done,
    /// It may go, and is counted as dropped.
    GivenUp,
    /// It is gone already.
    Settled,
    /// To be tried again; says why.
    Later(String),
}

/// What entries of queues are brought by.
#[async_trait]
pub(crate) trait Carrier: Sync {
    /// The queues whose names begin with this are its own.
    const PREFIX: &'static str;

    async fn carry(&self, queue: &str, entry: &Entry) -> Carried;
}

/// Why what waits in a queue does not get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub since: Timestamp,
    /// What went wrong last.
    pub error: String,
}

/// The queues that do not get on, by name.
#[derive(Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, Trouble>>);

impl Troubles {
    pub(crate) fn all(&self) -> BTreeMap<String, Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, queue: &str, error: Option<&str>, clock: &dyn Clock) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if troubles.remove(queue).is_some() {
                tracing::info!(queue, "what waited gets on again");
            }
            return;
        };
        let since = troubles.get(queue).map_or_else(
            || {
                tracing::warn!(queue, error, "what waits in a queue does not get on");
                clock.now()
            },
            |trouble| trouble.since,
        );
        troubles.insert(queue.to_owned(), Trouble { since, error: error.to_owned() });
    }
}

/// When a queue may be looked at again.
struct Pause {
    length: Duration,
    until: Instant,
}

/// Works off all queues of the carrier, until `stop` is ready.
pub(crate) async fn run<C: Carrier>(
    carrier: &C,
    outbox: &dyn Outbox,
    troubles: &Troubles,
    clock: &dyn Clock,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mut bell = outbox.bell();
    let mut at_work = BTreeSet::new();
    let mut working = FuturesUnordered::new();
    let mut pauses: BTreeMap<String, Pause> = BTreeMap::new();
    loop {
        match outbox.queues().await {
            Ok(queues) => {
                for queue in queues.into_iter().filter(|queue| queue.entries > 0 && queue.name.starts_with(C::PREFIX)) {
                    let waits = pauses.get(&queue.name).is_some_and(|pause| pause.until > Instant::now());
                    if !waits && at_work.insert(queue.name.clone()) {
                        working.push(async move {
                            let drained = drain(carrier, outbox, &queue.name).await;
                            (queue.name, drained)
                        });
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the outbox cannot be read; it is tried again"),
        }
        let now = Instant::now();
        let waiting = pauses.iter().filter(|(name, pause)| pause.until > now && !at_work.contains(*name));
        let look = waiting.map(|(_, pause)| pause.until).min().unwrap_or(now + LOOK_EVERY).min(now + LOOK_EVERY);
        tokio::select! {
            () = &mut stop => return,
            // The sender lives as long as the outbox that is held here.
            _ = bell.changed() => {}
            () = tokio::time::sleep_until(look) => {}
            Some((name, drained)) = working.next() => {
                at_work.remove(&name);
                let failure = drained.err().map(|error| error.internal_detail().unwrap_or_else(|| error.message()).to_owned());
                troubles.note(&name, failure.as_deref(), clock);
                if failure.is_some() {
                    let length = pauses.get(&name).map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
                    pauses.insert(name, Pause { length, until: Instant::now() + length });
                } else {
                    pauses.remove(&name);
                }
            }
        }
    }
}

/// What came of the entries of one key.
#[derive(Default)]
struct OfKey {
    done: Vec<u64>,
    given_up: Vec<u64>,
    /// Whether anything got on.
    moved: bool,
    failure: Option<String>,
}

/// Works off what is in a queue.
///
/// # Errors
/// `Unavailable` if something is left.
async fn drain<C: Carrier>(carrier: &C, outbox: &dyn Outbox, queue: &str) -> Result<(), Error> {
    let mut blocked: HashSet<(BucketId, String)> = HashSet::new();
    let (mut after, mut failure) = (0, None);
    loop {
        let page = outbox.entries(queue, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        let mut by_key: BTreeMap<(BucketId, String), Vec<Entry>> = BTreeMap::new();
        for entry in page {
            let key = (entry.place.bucket, entry.place.key.clone());
            if !blocked.contains(&key) {
                by_key.entry(key).or_default().push(entry);
            }
        }
        let carrying =
            by_key.into_iter().map(|(key, entries)| async move { (key, in_order(carrier, queue, entries).await) });
        let mut carrying = futures::stream::iter(carrying).buffer_unordered(AT_ONCE);
        let (mut done, mut given_up, mut moved) = (Vec::new(), Vec::new(), false);
        while let Some((key, of_key)) = carrying.next().await {
            moved |= of_key.moved;
            done.extend(of_key.done);
            given_up.extend(of_key.given_up);
            if let Some(error) = of_key.failure {
                failure = Some(error);
                blocked.insert(key);
            }
        }
        drop(carrying);
        if !done.is_empty() {
            outbox.settle(queue, done, false).await?;
        }
        if !given_up.is_empty() {
            tracing::error!(queue, count = given_up.len(), "entries of a queue were given up");
            outbox.settle(queue, given_up, true).await?;
        }
        // A place that takes nothing is away; one that takes some is asked for the rest.
        if failure.is_some() && (!moved || blocked.len() > MOST_BLOCKED) {
            break;
        }
    }
    failure.map_or(Ok(()), |error| Err(Error::unavailable(error)))
}

async fn in_order<C: Carrier>(carrier: &C, queue: &str, entries: Vec<Entry>) -> OfKey {
    let mut of_key = OfKey::default();
    for entry in entries {
        match carrier.carry(queue, &entry).await {
            Carried::Done => of_key.done.push(entry.number),
            Carried::GivenUp => of_key.given_up.push(entry.number),
            Carried::Settled => {}
            Carried::Later(error) => {
                of_key.failure = Some(error);
                return of_key;
            }
        }
        of_key.moved = true;
    }
    of_key
}
