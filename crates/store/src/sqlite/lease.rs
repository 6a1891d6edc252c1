use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::LeaseId;
use crate::{MonotonicClock, StoreError};

/// Deadlines of the live leases. They are kept in memory only: keeping a lease alive costs no write, and after a
/// restart every lease has its whole time again (as in etcd after a change of leader).
pub(super) struct Leases {
    clock: MonotonicClock,
    live: Mutex<HashMap<LeaseId, Lease>>,
}

struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Leases {
    pub(super) fn new(clock: MonotonicClock) -> Self {
        Self { clock, live: Mutex::default() }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, lease: LeaseId, ttl: Duration) {
        let deadline = (self.clock)() + ttl;
        self.live().insert(lease, Lease { ttl, deadline });
    }

    pub(super) fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = (self.clock)();
        let mut live = self.live();
        let lease = live.get_mut(&lease).filter(|l| l.deadline > now).ok_or(StoreError::LeaseNotFound(lease))?;
        lease.deadline = now + lease.ttl;
        Ok(())
    }

    pub(super) fn end(&self, lease: LeaseId) {
        self.live().remove(&lease);
    }

    pub(super) fn count(&self) -> usize {
        self.live().len()
    }

    /// Leases past their deadline. They cannot be kept alive any more, and stay listed until their keys are deleted.
    pub(super) fn expired(&self) -> Vec<LeaseId> {
        let now = (self.clock)();
        let mut expired: Vec<_> = self.live().iter().filter(|(_, l)| l.deadline <= now).map(|(id, _)| *id).collect();
        expired.sort_unstable();
        expired
    }

    /// Time until the next deadline; none: there is no lease.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let now = (self.clock)();
        self.live().values().map(|l| l.deadline.saturating_sub(now)).min()
    }
}
