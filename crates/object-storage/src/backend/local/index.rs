//! The index: one SQLite file with one writer and a few readers.
//!
//! Writes are closures that a thread of its own runs. What is waiting while a commit is being synced joins the next
//! transaction, so that concurrent writes share one sync. A closure checks everything before it writes anything: one
//! that fails has written nothing, and those beside it in the transaction are not disturbed. Only if SQLite itself
//! fails is the whole transaction rolled back, and everybody in it is told so.

use rusqlite::{Connection, OpenFlags};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::files::Unfinished;
use super::schema;
use crate::backend::BackendError;

const QUEUE: usize = 1024;
const GROUP: usize = 256;
const IDLE_READERS: usize = 8;

/// A look-up that took so long had to wait for the disk.
const SLOW: Duration = Duration::from_millis(2);
/// For so long after a slow one, look-ups keep off the async threads.
const SLOW_FOR: Duration = Duration::from_millis(100);

/// Called with the outcome of the transaction.
type Finish = Box<dyn FnOnce(Result<(), BackendError>) + Send>;

struct Done {
    /// SQLite failed: nothing of this transaction may stay.
    spoilt: Option<BackendError>,
    finish: Finish,
}

type Job = Box<dyn FnOnce(&Connection) -> Done + Send>;

/// A handle to the index.
pub(super) struct Index {
    jobs: mpsc::Sender<Job>,
    pub(super) readers: Arc<Readers>,
    opened: Instant,
    /// Milliseconds after `opened`.
    slow_until: AtomicU64,
}

pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Given up after the connections above.
    _lock: Arc<File>,
}

/// How long a start waits for the process before to end.
const LOCK_DEADLINE: Duration = Duration::from_secs(15);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Makes this process the only one that uses the folder, until the last of what holds the lock is dropped. A second one
/// would take the first one's unfinished files for orphans.
pub(super) fn lock(path: &Path) -> Result<Arc<File>, BackendError> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Arc::new(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process uses {}; end it first", path.display());
                return Err(BackendError::Index(message));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

impl Index {
    /// Opens or makes the file and starts its writer.
    pub(super) fn open(path: &Path, lock: Arc<File>) -> Result<Self, BackendError> {
        let writer = Connection::open(path)?;
        writer.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;")?;
        prepare(&writer)?;
        writer.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;")?;
        schema::prepare(&writer)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("object-index".into()).spawn({
            let lock = Arc::clone(&lock);
            move || {
                write_groups(&writer, queue);
                drop(writer);
                drop(lock);
            }
        })?;
        let readers = Readers { path: path.to_owned(), idle: Mutex::default(), _lock: lock };
        Ok(Self { jobs, readers: Arc::new(readers), opened: Instant::now(), slow_until: AtomicU64::new(0) })
    }

    /// Runs `work` in a write transaction and returns when that is on disk. `work` writes nothing if it fails.
    pub(super) async fn write<R, F>(&self, work: F) -> Result<R, BackendError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, BackendError> + Send + 'static,
    {
        self.run(None, work).await
    }

    /// As [`Index::write`]; `unfinished` files are kept if the write succeeds and removed if not.
    pub(super) async fn write_guarded<R, F>(&self, unfinished: Unfinished, work: F) -> Result<R, BackendError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, BackendError> + Send + 'static,
    {
        self.run(Some(unfinished), work).await
    }

    async fn run<R, F>(&self, unfinished: Option<Unfinished>, work: F) -> Result<R, BackendError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, BackendError> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = work(connection);
            let spoilt = match &result {
                Err(BackendError::DiskFull) => Some(BackendError::DiskFull),
                Err(BackendError::ReadOnly) => Some(BackendError::ReadOnly),
                Err(BackendError::Index(text)) => Some(BackendError::Index(text.clone())),
                _ => None,
            };
            let finish: Finish = Box::new(move |committed| {
                let outcome = committed.and(result);
                if let (Ok(_), Some(unfinished)) = (&outcome, unfinished) {
                    unfinished.keep();
                }
                // Nobody waits any more if the client has gone away; the write stands all the same.
                drop(answer.send(outcome));
            });
            Done { spoilt, finish }
        });
        self.jobs.send(job).await.map_err(|_| BackendError::Closed)?;
        wait.await.map_err(|_| BackendError::Closed)?
    }

    /// Runs `work` on a reader's connection, outside the async threads.
    pub(super) async fn read<R, F>(&self, work: F) -> Result<R, BackendError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, BackendError> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || readers.read(work))
            .await
            .map_err(|error| BackendError::Index(error.to_string()))?
    }

    /// As [`Index::read`], for a few rows by their key: on the caller's thread, because to hand such a read to another
    /// one and back takes several times as long as the read. While the disk is slow they are handed over all the same.
    pub(super) async fn look_up<R, F>(&self, work: F) -> Result<R, BackendError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, BackendError> + Send + 'static,
    {
        let begun = Instant::now();
        let after = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if after(begun - self.opened) < self.slow_until.load(Ordering::Relaxed) {
            return self.read(work).await;
        }
        let result = self.readers.read(work);
        if begun.elapsed() > SLOW {
            self.slow_until.store(after(self.opened.elapsed() + SLOW_FOR), Ordering::Relaxed);
        }
        result
    }
}

impl Readers {
    /// As [`Index::read`], on the caller's own thread.
    pub(super) fn read<R>(&self, work: impl FnOnce(&Connection) -> Result<R, BackendError>) -> Result<R, BackendError> {
        let connection = self.take()?;
        // One snapshot for all that `work` reads; it begins with the first of its queries.
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = work(&connection);
        connection.prepare_cached("COMMIT")?.execute([])?;
        self.give_back(connection);
        result
    }

    fn take(&self) -> Result<Connection, BackendError> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        prepare(&connection)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
    }
}

fn prepare(connection: &Connection) -> Result<(), BackendError> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;")?;
    Ok(())
}

fn write_groups(connection: &Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < GROUP
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        write_group(connection, jobs);
    }
    // The last checkpoint, so that the next start finds a short log. What it fails at, that start does.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);");
}

fn write_group(connection: &Connection, jobs: Vec<Job>) {
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    let mut failure = begun.err().map(BackendError::from);
    let mut waiting = Vec::with_capacity(jobs.len());
    if failure.is_none() {
        for job in jobs {
            let done = job(connection);
            waiting.push(done.finish);
            if done.spoilt.is_some() {
                failure = done.spoilt;
                break;
            }
        }
        if failure.is_none() {
            failure = connection.execute_batch("COMMIT").err().map(BackendError::from);
        }
        if failure.is_some() && !connection.is_autocommit() {
            // If this fails, so will the next BEGIN, and everybody is told.
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    if let Some(error) = &failure {
        tracing::error!(%error, "a transaction of the object index failed");
    }
    for finish in waiting {
        finish(failure.as_ref().map_or(Ok(()), |error| Err(same(error))));
    }
}

/// Index failures are told to several callers.
fn same(error: &BackendError) -> BackendError {
    match error {
        BackendError::DiskFull => BackendError::DiskFull,
        BackendError::ReadOnly => BackendError::ReadOnly,
        other => BackendError::Index(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;

    #[tokio::test(flavor = "multi_thread")]
    async fn one_failure_in_a_group_disturbs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let index =
            Arc::new(Index::open(&dir.path().join("index.sqlite"), lock(&dir.path().join("lock")).unwrap()).unwrap());
        let write = |n: i64| {
            let index = Arc::clone(&index);
            async move {
                index
                    .write(move |c| {
                        if n % 7 == 0 {
                            return Err(BackendError::NoSuchKey);
                        }
                        c.execute("INSERT INTO bucket (id, state) VALUES (?1, 0)", [n])?;
                        Ok(n)
                    })
                    .await
            }
        };
        let results = join_all((1..=500).map(write)).await;
        for (n, result) in (1..=500).zip(results) {
            assert_eq!(result.is_ok(), n % 7 != 0, "{n}: {result:?}");
        }
        let count: i64 =
            index.read(|c| Ok(c.query_row("SELECT count(*) FROM bucket", [], |r| r.get(0))?)).await.unwrap();
        assert_eq!(count, 500 - 71);
    }
}
