use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use terroir_types::{Error, IdSource};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::engine::{
    Commit, Compare, Engine, LeaseId, Op, OutboxEntry, Outcome, Revision, StoreStats, WatchBatch, WatchSource,
};
use crate::lane::{Batch, Lane, Turn, Verdict, contested};
use crate::record::{open_entry, seal_entry};
use crate::sqlite::SqliteEngine;
use crate::view::{Changes, Entry, View};
use crate::{Durability, Key, KeyRange, KeyRing, LocalKeyRing, Options, Record, StoreError, Txn, record};

/// How long a read waits for the view, and a commit for the engine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Attempts of one `transact` before it answers `Unavailable`.
const ATTEMPTS: u32 = 24;
const LAST_JITTER_MS: u64 = 32;
/// How long a transaction that has run waits for somebody to commit its batch before it looks after that itself.
const LANE_PATIENCE: Duration = Duration::from_millis(10);
/// Readers that wait for one question to the engine.
const READERS: usize = 4096;

/// The state of a cell: a cheap handle on an engine and on the in-memory view of it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    engine: Arc<dyn Engine>,
    view: Arc<View>,
    keys: Arc<dyn KeyRing>,
    ids: Arc<dyn IdSource>,
    supported_version: u16,
    fresh: mpsc::Sender<oneshot::Sender<Result<Revision, StoreError>>>,
    /// Where transactions go that have met a conflict.
    lane: Lane,
    follower: AbortHandle,
    scratch: Option<PathBuf>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
        if let Some(folder) = &self.scratch {
            // The temporary folder of a test: what remains is the system's to clean.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct ClusterVersion {
    version: u16,
}
record!(ClusterVersion { kind: "cluster", version: 1 });

/// Lets the wrong key file be noticed before anything is sealed with it.
#[derive(Clone, Serialize, Deserialize)]
struct KeyCheck {
    mac: [u8; 32],
}
record!(KeyCheck { kind: "key-check", version: 1 });

fn version_key() -> Key {
    Key::new("cluster/version")
}

impl Store {
    /// Opens the store on the embedded engine, and makes it if it is not there.
    ///
    /// Errors: [`StoreError::Locked`], [`StoreError::WrongKey`], [`StoreError::NewerFormat`] if a newer binary has
    /// written it, and those of the disk.
    pub async fn open(options: Options) -> Result<Self, StoreError> {
        let engine: Arc<dyn Engine> = Arc::new(SqliteEngine::open(options.sqlite()).await?);
        Self::on_engine(engine, &options, None).await
    }

    /// Opens the store on any engine.
    pub async fn with_engine(engine: Arc<dyn Engine>, options: &Options) -> Result<Self, StoreError> {
        Self::on_engine(engine, options, None).await
    }

    /// A store of its own in a temporary folder, without fsync, with a key that is forgotten.
    pub async fn in_memory_for_tests() -> Self {
        let options = Options::new("", Arc::new(LocalKeyRing::ephemeral()));
        let folder = std::env::temp_dir().join(format!("terroir-store-{:032x}", options.ids.next_u128()));
        let path = folder.join("state.db");
        let options = Options { path, durability: Durability::None, reserve_bytes: 0, ..options };
        let opened = async {
            let engine: Arc<dyn Engine> = Arc::new(SqliteEngine::open(options.sqlite()).await?);
            Self::on_engine(engine, &options, Some(folder)).await
        };
        opened.await.expect("a test's store opens in the temporary folder")
    }

    async fn on_engine(
        engine: Arc<dyn Engine>,
        options: &Options,
        scratch: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        check_key(&*engine, &*options.keys).await?;
        let version = found_version(&*engine, options).await?;
        if version > options.cluster_version {
            engine.close().await;
            return Err(StoreError::NewerFormat { found: version.into(), supported: options.cluster_version.into() });
        }
        let view = Arc::new(View::new());
        let follower = {
            let (view, engine) = (Arc::clone(&view), Arc::clone(&engine));
            tokio::spawn(async move { view.follow(&*engine).await }).abort_handle()
        };
        let (fresh, questions) = mpsc::channel(READERS);
        tokio::spawn(answer_readers(Arc::clone(&engine), questions));
        let inner = Inner {
            engine,
            view,
            keys: Arc::clone(&options.keys),
            ids: Arc::clone(&options.ids),
            supported_version: options.cluster_version,
            fresh,
            lane: Lane::default(),
            follower,
            scratch,
        };
        let store = Self(Arc::new(inner));
        store.read().await?;
        Ok(store)
    }

    /// A transaction that nobody commits, over a snapshot not older than anything acknowledged before the call.
    pub async fn read(&self) -> Result<Txn, StoreError> {
        self.begin(&[], true).await
    }

    /// Like [`Self::read`], with records outside the view at hand.
    pub async fn read_with(&self, prefetch: &[Key]) -> Result<Txn, StoreError> {
        self.begin(prefetch, true).await
    }

    /// A transaction that nobody commits, over what the view shows now; it may lag.
    pub fn stale(&self) -> Txn {
        let snapshot = self.0.view.snapshot();
        Txn::new(snapshot, Arc::clone(&self.0.keys), self.0.supported_version, true)
    }

    /// Runs `f` on a fresh transaction and commits what it wrote; runs it again if another transaction interfered.
    ///
    /// `f` must have no side effects but its writes. `prefetch` names the records outside the view that it reads.
    /// Returns what `f` returned and the revision of the commit (of the snapshot, if `f` wrote nothing); transactions
    /// that contend for the same records may share one commit, each seeing those before it. Errors: those
    /// of `f`; `Unavailable` if conflicts or the engine prevent the commit; `RequestTooLarge`.
    pub async fn transact<R>(
        &self,
        prefetch: &[Key],
        mut f: impl FnMut(&mut Txn) -> Result<R, Error>,
    ) -> Result<(R, Revision), Error> {
        let mut txn = self.begin(prefetch, false).await?;
        let revision = txn.revision();
        let value = f(&mut txn)?;
        let Some(commit) = txn.into_commit()? else { return Ok((value, revision)) };
        if !self.0.lane.concerns(&commit) {
            let contested = contested(&commit);
            match self.commit(commit).await? {
                Outcome::Committed(revision) => return Ok((value, revision)),
                Outcome::Conflict => self.0.lane.remember(contested),
            }
        }
        let mut alone = false;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.jitter(attempt)).await;
            }
            match self.in_lane(prefetch, &mut f, alone).await? {
                (result, Verdict::Committed(revision)) => return result.map(|value| (value, revision)),
                (_, Verdict::Failed(error)) => return Err(error.into()),
                (_, Verdict::Again) => tracing::debug!(attempt, "a transaction conflicts"),
                (_, Verdict::Alone) => alone = true,
            }
        }
        Err(Error::unavailable("Too many concurrent changes. Try again later.")
            .with_internal(format!("{ATTEMPTS} conflicts in a row")))
    }

    /// Runs `f` as one part of a batch and waits for the common commit. What `f` returned counts only if that succeeds,
    /// an error too: it may rest on what an earlier part wrote.
    async fn in_lane<R>(
        &self,
        prefetch: &[Key],
        f: &mut impl FnMut(&mut Txn) -> Result<R, Error>,
        alone: bool,
    ) -> Result<(Result<R, Error>, Verdict), Error> {
        let lane = &self.0.lane;
        let ticket = lane.queue();
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&lane.turn).lock_owned()).await;
        let mut turn = turn.map_err(|_| StoreError::Deadline("a turn among conflicting transactions"))?;
        drop(ticket);
        if alone && turn.is_some() {
            turn = self.commit_batch(turn).await?;
        }
        let mut batch = match turn.take() {
            Some(batch) => batch,
            None => Batch { txn: self.begin(&[], false).await?, parts: Vec::new() },
        };
        self.prefetch(&mut batch.txn, prefetch).await?;
        let savepoint = batch.txn.begin_part();
        let mut result = f(&mut batch.txn);
        if let Some(error) = batch.txn.take_deferred() {
            result = Err(error.into());
        }
        if result.is_err() {
            batch.txn.roll_back(savepoint);
        }
        let crowded_out = batch.txn.overflowed() && !batch.parts.is_empty();
        let (part, verdict) = oneshot::channel();
        if !crowded_out {
            batch.parts.push(part);
        }
        let last = alone || crowded_out || lane.nobody_waits() || batch.is_large();
        *turn = Some(batch);
        if last {
            turn = self.commit_batch(turn).await?;
        }
        drop(turn);
        Ok((result, if crowded_out { Verdict::Alone } else { self.verdict(verdict).await? }))
    }

    async fn verdict(&self, mut verdict: oneshot::Receiver<Verdict>) -> Result<Verdict, StoreError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout(LANE_PATIENCE, &mut verdict).await {
                Ok(Ok(verdict)) => return Ok(verdict),
                // Whoever held the batch was cancelled before its commit; it is as if nothing had run.
                Ok(Err(_)) => return Ok(Verdict::Again),
                Err(_) if tokio::time::Instant::now() > deadline => {
                    return Err(StoreError::Deadline("the commit of conflicting transactions"));
                }
                // Whoever was to commit the batch was cancelled, or is at it.
                Err(_) => {
                    if let Ok(turn) = Arc::clone(&self.0.lane.turn).try_lock_owned()
                        && self.0.lane.nobody_waits()
                    {
                        drop(self.commit_batch(turn).await?);
                    }
                }
            }
        }
    }

    /// Commits what has run and tells its parts. The turn is held meanwhile, so that the next batch begins behind this
    /// one. In a task of its own: a caller that is cancelled shall not leave the parts without an answer.
    async fn commit_batch(&self, mut turn: Turn) -> Result<Turn, StoreError> {
        let store = self.clone();
        let task = tokio::spawn(async move {
            if let Some(Batch { txn, parts }) = turn.take() {
                let verdict = store.commit_parts(txn, parts.len()).await;
                for part in parts {
                    // One that no longer waits does not miss the answer.
                    drop(part.send(verdict.clone()));
                }
            }
            turn
        });
        // The runtime ends, or the engine panicked.
        task.await.map_err(|_| StoreError::Closed)
    }

    async fn commit_parts(&self, txn: Txn, parts: usize) -> Verdict {
        let revision = txn.revision();
        let commit = match txn.into_commit() {
            Ok(Some(commit)) => commit,
            Ok(None) => return Verdict::Committed(revision),
            Err(error) => return Verdict::Failed(error),
        };
        let contested = contested(&commit);
        let outcome = self.commit(commit).await;
        if parts > 1 || matches!(outcome, Ok(Outcome::Conflict)) {
            self.0.lane.remember(contested);
        }
        match outcome {
            Ok(Outcome::Committed(revision)) => Verdict::Committed(revision),
            Ok(Outcome::Conflict) => Verdict::Again,
            Err(error) if parts > 1 && error.is_refusal() => Verdict::Alone,
            Err(error) => Verdict::Failed(error),
        }
    }

    /// The record as the engine has it now, and the revision that last wrote it.
    pub async fn get_direct<T: Record>(&self, key: &Key) -> Result<Option<(T, Revision)>, StoreError> {
        let found = within(self.0.engine.get(std::slice::from_ref(key), None)).await?;
        let found = found.into_iter().next().flatten();
        found.map(|found| Ok((record::decode(&*self.0.keys, key, &found.value)?, found.mod_revision))).transpose()
    }

    /// Up to `limit` records below `prefix` behind the key `after`, as the engine has them now.
    pub async fn range_direct<T: Record>(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, T)>, StoreError> {
        let range = KeyRange::children(prefix);
        let range = after.map_or_else(|| range.clone(), |after| range.after(after));
        let page = within(self.0.engine.range(&range, limit, None)).await?;
        let decode = |found: crate::engine::KeyValue| {
            let record = record::decode(&*self.0.keys, &found.key, &found.value)?;
            Ok((found.key, record))
        };
        page.entries.into_iter().map(decode).collect()
    }

    /// Every change below `prefix` from revision `from` on. [`StoreError::Compacted`] if the log does not reach back
    /// that far.
    pub async fn watch(&self, prefix: &Key, from: Revision) -> Result<Watch, StoreError> {
        Ok(Watch(within(self.0.engine.watch(&KeyRange::children(prefix), from)).await?))
    }

    /// The bell: tells what changed in the view from now on.
    pub fn changes(&self) -> ChangeFeed {
        ChangeFeed { receiver: self.0.view.listen(), store: self.clone() }
    }

    /// Forgets the changes before revision `at`.
    pub async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        within(self.0.engine.compact(at)).await
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.0.engine
    }

    pub fn keys(&self) -> &Arc<dyn KeyRing> {
        &self.0.keys
    }

    /// A lease that ends `ttl` after the last sign of life and then deletes the keys attached to it.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        within(self.0.engine.lease_grant(ttl)).await
    }

    pub async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        within(self.0.engine.lease_keep_alive(lease)).await
    }

    pub async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        within(self.0.engine.lease_revoke(lease)).await
    }

    /// Up to `limit` entries of the stream behind sequence number `after`, oldest first.
    pub async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let mut entries = within(self.0.engine.outbox(stream, after, limit)).await?;
        if self.0.engine.is_shared() {
            for entry in &mut entries {
                entry.payload = open_entry(&*self.0.keys, stream, &entry.payload)?;
            }
        }
        Ok(entries)
    }

    /// Removes the entries of the stream up to and including `through`, when they are safe elsewhere.
    pub async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError> {
        within(self.0.engine.outbox_trim(stream, through)).await
    }

    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.0.engine.stats().await
    }

    /// Writes a consistent copy of the state to a new file. The key file is not part of it.
    pub async fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        self.0.engine.backup_to(path, &*self.0.keys).await
    }

    /// The version whose stored forms may be written: every member of the cell can read them.
    pub fn cluster_version(&self) -> u16 {
        cluster_version(&self.stale())
    }

    /// Lets newer stored forms be written. Only when no older member is left: they refuse the data from then on.
    pub async fn raise_cluster_version(&self, version: u16) -> Result<(), Error> {
        let supported = self.0.supported_version;
        let raise = |txn: &mut Txn| {
            let present = txn.get::<ClusterVersion>(&version_key())?.map_or(1, |found| found.version);
            if version < present || version > supported {
                return Err(Error::invalid(
                    "InvalidParameterValue",
                    format!("the cluster version can be set from {present} to {supported}"),
                ));
            }
            txn.put(&version_key(), &ClusterVersion { version })
        };
        let ((), revision) = self.transact(&[], raise).await?;
        self.0.view.wait_for(revision, PATIENCE).await?;
        Ok(())
    }

    /// Ends background work and releases the data, for all handles. What was acknowledged stays.
    pub async fn close(&self) {
        self.0.engine.close().await;
    }

    pub(crate) async fn begin(&self, prefetch: &[Key], read_only: bool) -> Result<Txn, StoreError> {
        let (question, answer) = oneshot::channel();
        self.0.fresh.send(question).await.map_err(|_| StoreError::Closed)?;
        let revision = within(async { answer.await.map_err(|_| StoreError::Closed)? }).await?;
        let snapshot = self.0.view.wait_for(revision, PATIENCE).await?;
        let mut txn = Txn::new(snapshot, Arc::clone(&self.0.keys), self.0.supported_version, read_only);
        txn.write_version(cluster_version(&txn));
        self.prefetch(&mut txn, prefetch).await?;
        Ok(txn)
    }

    async fn prefetch(&self, txn: &mut Txn, keys: &[Key]) -> Result<(), StoreError> {
        if !keys.is_empty() {
            let found = within(self.0.engine.get(keys, Some(txn.revision()))).await?;
            for (key, found) in keys.iter().zip(found) {
                txn.add_prefetched(key.clone(), found.map(|found| Arc::new(Entry::from(found))));
            }
        }
        Ok(())
    }

    pub(crate) async fn commit(&self, mut commit: Commit) -> Result<Outcome, StoreError> {
        if self.0.engine.is_shared() {
            for op in &mut commit.ops {
                if let Op::Append { stream, payload } = op {
                    *payload = seal_entry(&*self.0.keys, stream, payload)?;
                }
            }
        }
        within(self.0.engine.commit(commit)).await
    }

    fn jitter(&self, attempt: u32) -> Duration {
        let bound = (1 << attempt.min(10)).min(LAST_JITTER_MS) * 1000;
        Duration::from_micros(self.0.ids.next_u64() % bound)
    }
}

fn cluster_version(txn: &Txn) -> u16 {
    txn.peek::<ClusterVersion>(&version_key()).ok().flatten().map_or(1, |found| found.version)
}

/// Every wait for the engine has a deadline.
async fn within<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(StoreError::Deadline("an answer of the state store")))
}

/// Asks the engine for its revision once for all readers that came before the question.
async fn answer_readers(
    engine: Arc<dyn Engine>,
    mut questions: mpsc::Receiver<oneshot::Sender<Result<Revision, StoreError>>>,
) {
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, READERS).await > 0 {
        let revision = within(engine.current_revision()).await;
        for reader in waiting.drain(..) {
            // A reader that no longer waits does not miss the answer.
            let _ = reader.send(revision.clone());
        }
    }
}

/// The record at `key`, or `new` written there if there is none.
async fn get_or_put<T: Record>(engine: &dyn Engine, keys: &dyn KeyRing, key: Key, new: T) -> Result<T, StoreError> {
    loop {
        if let Some(found) = engine.get(std::slice::from_ref(&key), None).await?.pop().flatten() {
            return record::decode(keys, &key, &found.value);
        }
        let value = record::encode(keys, 1, &key, &mut new.clone())?;
        let commit = Commit {
            compares: vec![Compare::Unchanged { key: key.clone(), mod_revision: 0 }],
            ops: vec![Op::Put { key: key.clone(), value, lease: None }],
        };
        if let Outcome::Committed(_) = engine.commit(commit).await? {
            return Ok(new);
        }
    }
}

async fn check_key(engine: &dyn Engine, keys: &dyn KeyRing) -> Result<(), StoreError> {
    let mac = keys.mac("key check", b"");
    let found = get_or_put(engine, keys, Key::new("key-check/local"), KeyCheck { mac }).await?;
    if found.mac == mac {
        return Ok(());
    }
    engine.close().await;
    Err(StoreError::WrongKey)
}

/// A new store starts at this binary's version.
async fn found_version(engine: &dyn Engine, options: &Options) -> Result<u16, StoreError> {
    let new = ClusterVersion { version: options.cluster_version };
    Ok(get_or_put(engine, &*options.keys, version_key(), new).await?.version)
}

/// A watch on the keys below one prefix; dropping it ends it.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// The next changes, oldest first. May be cancelled without losing any.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        self.0.next().await
    }
}

/// Tells that something changed. Never blocks the store: a listener that lags is told that it missed something.
pub struct ChangeFeed {
    receiver: broadcast::Receiver<Arc<Changes>>,
    store: Store,
}

impl ChangeFeed {
    /// Waits for the next changes; for ever, once the store is closed.
    pub async fn next(&mut self) -> Changes {
        match self.receiver.recv().await {
            Ok(changes) => Changes::clone(&changes),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                // First the place to go on from, then the revision: nothing falls between.
                self.receiver = self.receiver.resubscribe();
                Changes { revision: self.store.stale().revision(), keys: Vec::new(), missed: true }
            }
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
