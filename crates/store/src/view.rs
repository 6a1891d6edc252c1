//! The state in memory: an immutable ordered map per revision, kept current by one watch over the whole key space.
//!
//! Kinds outside the view (`~...`) pass through the watch, so that the view knows every revision, but are not kept.

use bytes::Bytes;
use futures::FutureExt;
use imbl::OrdMap;
use std::any::Any;
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

use crate::engine::{Engine, EventKind, KeyValue, Revision, WatchBatch};
use crate::{Key, KeyRange, Record, StoreError};

/// One stored record, decoded at most once.
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) mod_revision: Revision,
    pub(crate) decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    pub(crate) fn stored(value: Bytes, mod_revision: Revision) -> Self {
        Self { value, mod_revision, decoded: OnceLock::new() }
    }

    /// An entry that a transaction has written but not committed.
    pub(crate) fn written<T: Record>(value: Bytes, record: T) -> Self {
        let entry = Self::stored(value, 0);
        let record: Arc<dyn Any + Send + Sync> = Arc::new(record);
        entry.decoded.get_or_init(|| record);
        entry
    }
}

impl From<KeyValue> for Entry {
    fn from(found: KeyValue) -> Self {
        Self::stored(found.value, found.mod_revision)
    }
}

type Entries = OrdMap<Key, Arc<Entry>>;

/// The state at one revision. Cloning shares everything.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    entries: Entries,
}

impl Snapshot {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    pub(crate) fn range(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Arc<Entry>)> {
        // A reversed range would panic; an empty one is written as one that holds nothing.
        let end = match range.end() {
            Some(end) if end <= range.start() => Bound::Excluded(range.start()),
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.entries.range::<_, str>((Bound::Included(range.start()), end))
    }

    fn apply(&mut self, batch: WatchBatch) {
        for event in batch.events {
            if !event.key.in_view() {
                continue;
            }
            match event.kind {
                EventKind::Put => {
                    let entry = Entry::stored(event.value, event.mod_revision);
                    self.entries.insert(event.key, Arc::new(entry));
                }
                EventKind::Delete => {
                    self.entries.remove(&event.key);
                }
            }
        }
        self.revision = batch.revision;
    }
}

/// What changed, for those who look again when something did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The view shows at least this revision.
    pub revision: Revision,
    /// Written or deleted keys; none if only the revision rose.
    pub keys: Vec<Key>,
    /// Changes were lost: look at everything.
    pub missed: bool,
}

/// Changes that a listener may lag behind before it is told that it missed some.
const BELL: usize = 1024;
/// Transactions that are shown at once when the view lags.
const STRIDE: usize = 256;
const LIST_PAGE: usize = 4096;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

pub(crate) struct View {
    current: RwLock<Snapshot>,
    /// The revision shown; 0 before the first; `u64::MAX` when the store is closed.
    reached: watch::Sender<Revision>,
    bell: broadcast::Sender<Arc<Changes>>,
}

const CLOSED: Revision = Revision::MAX;

impl View {
    pub(crate) fn new() -> Self {
        Self { current: RwLock::default(), reached: watch::Sender::new(0), bell: broadcast::Sender::new(BELL) }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.bell.subscribe()
    }

    /// Waits until the view shows `revision` or a later one.
    pub(crate) async fn wait_for(&self, revision: Revision, patience: Duration) -> Result<Snapshot, StoreError> {
        let mut reached = self.reached.subscribe();
        let shown = reached.wait_for(|shown| *shown >= revision);
        let shown = match tokio::time::timeout(patience, shown).await {
            Ok(Ok(shown)) => *shown,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Deadline("a fresh view of the state")),
        };
        if shown == CLOSED { Err(StoreError::Closed) } else { Ok(self.snapshot()) }
    }

    fn show(&self, snapshot: &Snapshot, keys: Vec<Key>, missed: bool) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = snapshot.clone();
        self.reached.send_replace(snapshot.revision);
        // Also without keys: whoever waits until it has heard of a revision must hear of each. Nobody has to listen.
        drop(self.bell.send(Arc::new(Changes { revision: snapshot.revision, keys, missed })));
    }

    /// Keeps the view current until the engine is closed.
    pub(crate) async fn follow(&self, engine: &dyn Engine) {
        let mut shown = Snapshot::default();
        let mut backoff = FIRST_BACKOFF;
        let mut must_list = true;
        loop {
            let error = match self.follow_once(engine, &mut shown, must_list, &mut backoff).await {
                StoreError::Closed => {
                    self.reached.send_replace(CLOSED);
                    return;
                }
                error => error,
            };
            must_list = shown.revision == 0 || matches!(error, StoreError::Compacted { .. });
            if must_list && shown.revision > 0 {
                tracing::info!(revision = shown.revision, "the view fell behind the change log and is listed anew");
            } else {
                tracing::warn!(%error, "the view of the state stands still, trying again");
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Runs until something fails.
    async fn follow_once(
        &self,
        engine: &dyn Engine,
        shown: &mut Snapshot,
        list: bool,
        backoff: &mut Duration,
    ) -> StoreError {
        if list {
            match list_all(engine, shown).await {
                Ok(listed) => *shown = listed,
                Err(error) => return error,
            }
            self.show(shown, Vec::new(), true);
        }
        let mut watch = match engine.watch(&KeyRange::all(), shown.revision + 1).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            let mut next = watch.next().await;
            let mut keys = Vec::new();
            let mut batches = 0;
            let failed = loop {
                match next {
                    Ok(batch) => {
                        *backoff = FIRST_BACKOFF;
                        keys.extend(batch.events.iter().map(|event| event.key.clone()));
                        shown.apply(batch);
                    }
                    Err(error) => break Some(error),
                }
                batches += 1;
                if batches == STRIDE {
                    break None;
                }
                match watch.next().now_or_never() {
                    Some(more) => next = more,
                    None => break None,
                }
            };
            if batches > 0 {
                self.show(shown, keys, false);
            }
            if let Some(error) = failed {
                return error;
            }
        }
    }
}

/// Lists the whole state at one revision. Entries that `known` has too are taken from there, already decoded.
async fn list_all(engine: &dyn Engine, known: &Snapshot) -> Result<Snapshot, StoreError> {
    let mut entries = Entries::new();
    let mut rest = KeyRange::all();
    let mut at = None;
    loop {
        let page = engine.range(&rest, LIST_PAGE, at).await?;
        at = Some(page.revision);
        if let Some(last) = page.entries.last() {
            rest = rest.after(&last.key);
        }
        for found in page.entries.into_iter().filter(|found| found.key.in_view()) {
            let entry = match known.get(&found.key) {
                Some(entry) if entry.mod_revision == found.mod_revision => Arc::clone(entry),
                _ => Arc::new(Entry::stored(found.value, found.mod_revision)),
            };
            entries.insert(found.key, entry);
        }
        if !page.more {
            return Ok(Snapshot { revision: page.revision, entries });
        }
    }
}
