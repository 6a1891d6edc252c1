use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_types::{Clock, IdSource, OsRandom, SystemClock};

use crate::KeyRing;
use crate::sqlite::SqliteOptions;

/// The highest cluster version that this binary can write. Raised together with a record version whose older form
/// members of the version before could not read.
pub const CLUSTER_VERSION: u16 = 1;

/// Time that only moves forward, since any moment: what leases are measured with.
pub type MonotonicClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How hard a commit is before it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// On the disk: survives the loss of power.
    Full,
    /// In the page cache: survives a crash of the process only. For tests.
    None,
}

/// How long changes are kept for watchers and for reads in the past. What is younger than `min_age` or among the last
/// `min_revisions` stays, unless that would exceed one of the upper bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    pub min_revisions: u64,
    pub min_age: Duration,
    /// Upper bound of changed keys.
    pub max_changes: usize,
    /// Upper bound of bytes of replaced values.
    pub max_bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { min_revisions: 10_000, min_age: Duration::from_secs(600), max_changes: 100_000, max_bytes: 64 << 20 }
    }
}

/// Bounds of one outbox stream; a transaction that would exceed them fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutboxLimit {
    pub entries: usize,
    pub bytes: usize,
}

impl Default for OutboxLimit {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 64 << 20 }
    }
}

/// How to open a store on the embedded engine.
#[derive(Clone)]
pub struct Options {
    /// The data file; its folder is made if missing (mode 0700).
    pub path: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub keys: Arc<dyn KeyRing>,
    pub lease_clock: MonotonicClock,
    pub durability: Durability,
    /// Upper bound of the data file in bytes; none: the disk.
    pub max_bytes: Option<u64>,
    /// Space kept beside the data file for the time when others have filled the disk; 0: none.
    pub reserve_bytes: u64,
    pub retention: Retention,
    pub outbox_limit: OutboxLimit,
    /// The highest cluster version this process supports.
    pub cluster_version: u16,
}

impl Options {
    /// Production defaults: the machine's clock and randomness, full durability.
    pub fn new(path: impl Into<PathBuf>, keys: Arc<dyn KeyRing>) -> Self {
        let start = Instant::now();
        Self {
            path: path.into(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(OsRandom),
            keys,
            lease_clock: Arc::new(move || start.elapsed()),
            durability: Durability::Full,
            max_bytes: None,
            reserve_bytes: 64 << 20,
            retention: Retention::default(),
            outbox_limit: OutboxLimit::default(),
            cluster_version: CLUSTER_VERSION,
        }
    }

    pub fn sqlite(&self) -> SqliteOptions {
        SqliteOptions {
            path: self.path.clone(),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            lease_clock: Arc::clone(&self.lease_clock),
            durability: self.durability,
            max_bytes: self.max_bytes,
            reserve_bytes: self.reserve_bytes,
            retention: self.retention,
            outbox_limit: self.outbox_limit,
            first_revision: 1,
        }
    }
}
