use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

use super::Shared;
use crate::engine::{Revision, WatchBatch, WatchSource};
use crate::{KeyRange, StoreError};

/// Transactions that a watcher may lag behind before it has to read the change log again.
const LAG: usize = 1024;

/// Hands every committed transaction to the watchers of this process, in order.
#[derive(Default)]
pub(super) struct Hub(Mutex<Subscribers>);

#[derive(Default)]
struct Subscribers {
    channels: Vec<mpsc::Sender<Arc<WatchBatch>>>,
    closed: bool,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Subscribers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher that lags or is gone loses its channel.
    pub(super) fn publish(&self, batches: Vec<WatchBatch>) {
        let mut inner = self.inner();
        for batch in batches {
            let batch = Arc::new(batch);
            inner.channels.retain(|channel| channel.try_send(Arc::clone(&batch)).is_ok());
        }
    }

    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.channels.clear();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner().closed
    }

    fn subscribe(&self) -> Result<mpsc::Receiver<Arc<WatchBatch>>, StoreError> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(StoreError::Closed);
        }
        let (sender, receiver) = mpsc::channel(LAG);
        inner.channels.push(sender);
        Ok(receiver)
    }
}

/// Reads the change log up to now, then listens; reads it again whenever it fell too far behind.
pub(super) struct SqliteWatch {
    shared: Arc<Shared>,
    range: KeyRange,
    /// The first revision that was not yet delivered.
    next: Revision,
    backlog: VecDeque<WatchBatch>,
    live: Option<mpsc::Receiver<Arc<WatchBatch>>>,
}

impl SqliteWatch {
    pub(super) async fn start(shared: Arc<Shared>, range: KeyRange, from: Revision) -> Result<Self, StoreError> {
        let mut watch = Self { shared, range, next: from, backlog: VecDeque::new(), live: None };
        watch.catch_up().await?;
        Ok(watch)
    }

    async fn catch_up(&mut self) -> Result<(), StoreError> {
        // In this order nothing is missed: what is published before the subscription is in the snapshot, and what is
        // in both is recognised by its revision.
        let live = self.shared.hub.subscribe()?;
        let (range, from) = (self.range.clone(), self.next);
        let changes = self.shared.readers.run(&self.shared, move |snapshot| snapshot.changes(&range, from)).await?;
        self.backlog = changes.into();
        self.live = Some(live);
        Ok(())
    }

    fn part_of(&self, batch: &WatchBatch) -> Option<WatchBatch> {
        if self.range.is_all() {
            return Some(batch.clone());
        }
        let events: Vec<_> = batch.events.iter().filter(|event| self.range.contains(&event.key)).cloned().collect();
        (!events.is_empty()).then_some(WatchBatch { revision: batch.revision, events })
    }
}

#[async_trait]
impl WatchSource for SqliteWatch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.backlog.pop_front() {
                self.next = batch.revision + 1;
                return Ok(batch);
            }
            let Some(live) = &mut self.live else {
                self.catch_up().await?;
                continue;
            };
            match live.recv().await {
                Some(batch) if batch.revision < self.next => {}
                Some(batch) => {
                    self.next = batch.revision + 1;
                    if let Some(batch) = self.part_of(&batch) {
                        return Ok(batch);
                    }
                }
                None => self.live = None,
            }
        }
    }
}
