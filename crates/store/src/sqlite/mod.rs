//! The embedded engine: one SQLite file in WAL mode.
//!
//! One thread owns the only writing connection. It takes every transaction that has queued up, applies them in order
//! inside one SQLite transaction and answers all of them after one fsync ("group commit"). Reads run on a small pool
//! of connections, each on its own snapshot.

mod lease;
mod read;
mod reserve;
mod schema;
mod watch;
mod writer;

use async_trait::async_trait;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use terroir_types::{Clock, IdSource};
use tokio::sync::{Semaphore, oneshot};

use crate::engine::{
    Commit, Engine, KeyValue, LeaseId, OutboxEntry, Outcome, RangePage, Revision, StoreStats, WatchSource, check_size,
};
use crate::{Durability, Key, KeyRange, KeyRing, MonotonicClock, OutboxLimit, Retention, StoreError};
use lease::Leases;
use read::Readers;
use schema::row_id;
use watch::{Hub, SqliteWatch};
use writer::{Queued, Request, Writer};

/// How the embedded engine keeps its file.
#[derive(Clone)]
pub struct SqliteOptions {
    pub path: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub lease_clock: MonotonicClock,
    pub durability: Durability,
    /// Upper bound of the data file; beyond it writes answer [`StoreError::DiskFull`].
    pub max_bytes: Option<u64>,
    /// Space kept in `<path>.reserve` for the time when the disk is full; 0: none.
    pub reserve_bytes: u64,
    pub retention: Retention,
    pub outbox_limit: OutboxLimit,
    /// Of a file that is made: it goes on from here, so that revisions and sequence numbers only rise; 1 otherwise.
    pub first_revision: Revision,
}

/// Transactions that wait for the writer; more callers than this wait their turn.
const QUEUE: usize = 4096;
/// A process that is just ending still holds the file for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

pub struct SqliteEngine {
    shared: Arc<Shared>,
    ids: Arc<dyn IdSource>,
    requests: Mutex<Option<mpsc::Sender<Queued>>>,
    slots: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer shares with readers and watchers.
struct Shared {
    /// The newest durable revision.
    revision: AtomicU64,
    hub: Hub,
    leases: Leases,
    readers: Readers,
}

impl SqliteEngine {
    /// Opens or makes the file. Errors: [`StoreError::Locked`], [`StoreError::NewerFormat`], [`StoreError::NotAStore`].
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        blocking(move || Self::open_blocking(options)).await
    }

    fn open_blocking(options: SqliteOptions) -> Result<Self, StoreError> {
        let path = options.path.clone();
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = lock_file(&path)?;
        if !path.try_exists()? {
            // Made here and not by SQLite, so that nobody else can ever read it.
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.sync_all()?;
        }
        let connection = schema::open_writer(&path, &options)?;
        File::open(folder)?.sync_all()?;

        let shared = Arc::new(Shared {
            revision: AtomicU64::new(0),
            hub: Hub::default(),
            leases: Leases::new(Arc::clone(&options.lease_clock)),
            readers: Readers::new(path),
        });
        let (sender, receiver) = mpsc::channel();
        let ids = Arc::clone(&options.ids);
        let writer = Writer::new(connection, lock, Arc::clone(&shared), options, receiver)?;
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run())?;
        Ok(Self {
            shared,
            ids,
            requests: Mutex::new(Some(sender)),
            slots: Arc::new(Semaphore::new(QUEUE)),
            writer: Mutex::new(Some(thread)),
        })
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        sender.send(Queued { request: request(reply), _slot: slot }).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn end(&self) -> Option<JoinHandle<()>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.slots.close();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for SqliteEngine {
    fn drop(&mut self) {
        // The writer finishes what is queued and then releases the file by itself.
        drop(self.end());
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        if self.shared.hub.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(self.shared.revision.load(Ordering::Acquire))
    }

    async fn get(&self, keys: &[Key], at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        let keys = keys.to_vec();
        self.shared.readers.run(&self.shared, move |snapshot| snapshot.get(&keys, at)).await
    }

    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, StoreError> {
        let range = range.clone();
        self.shared.readers.run(&self.shared, move |snapshot| snapshot.range(&range, limit, at)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        check_size(&commit)?;
        self.request(|reply| Request::Commit { commit, reply }).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<Box<dyn WatchSource>, StoreError> {
        Ok(Box::new(SqliteWatch::start(Arc::clone(&self.shared), range.clone(), from).await?))
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.request(|reply| Request::Compact { at, reply }).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Positive in SQLite's and in etcd's signed 64 bits.
        let lease = (self.ids.next_u64() >> 1).max(1);
        self.request(|reply| Request::LeaseGrant { lease, ttl, reply }).await?;
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.leases.keep_alive(lease)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.request(|reply| Request::LeaseRevoke { lease, reply }).await
    }

    async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let stream = stream.to_owned();
        self.shared.readers.run(&self.shared, move |snapshot| snapshot.outbox(&stream, after, limit)).await
    }

    async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError> {
        let stream = stream.to_owned();
        self.request(|reply| Request::OutboxTrim { stream, through, reply }).await
    }

    fn last_sequence(&self, revision: Revision) -> u64 {
        row_id(revision + 1, 0).cast_unsigned() - 1
    }

    async fn outbox_streams(&self) -> Result<Vec<String>, StoreError> {
        self.shared.readers.run(&self.shared, |snapshot| snapshot.outbox_streams()).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = self.shared.readers.run(&self.shared, |snapshot| snapshot.stats()).await?;
        stats.leases = self.shared.leases.count() as u64;
        Ok(stats)
    }

    async fn backup_to(&self, path: &Path, _keys: &dyn KeyRing) -> Result<(), StoreError> {
        let target = path.to_owned();
        let draft = path.with_extension(format!("{:032x}.new", self.ids.next_u128()));
        let result = {
            let draft = draft.clone();
            self.shared.readers.run_outside_snapshot(&self.shared, move |c| read::copy_to(c, &draft, &target)).await
        };
        if result.is_err() {
            // Nothing to do about a draft that cannot be removed; the error says what is wrong with the place.
            let _ = std::fs::remove_file(&draft);
        }
        result
    }

    async fn close(&self) {
        if let Some(thread) = self.end() {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(CLOSE_PATIENCE, joined).await.is_err() {
                tracing::error!("the store's writer did not end within {CLOSE_PATIENCE:?}");
            }
        }
        let shared = Arc::clone(&self.shared);
        if tokio::task::spawn_blocking(move || shared.readers.close()).await.is_err() {
            tracing::error!("the store's readers did not end");
        }
    }
}

/// The lock is on a file of its own: SQLite's own locks on the data file end when any descriptor of it is closed.
fn lock_file(path: &Path) -> Result<File, StoreError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StoreError::Closed),
    }
}
