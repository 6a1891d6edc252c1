//! One watch over the whole of etcd, filtered here.
//!
//! Every revision of etcd changes some key, so a watch of all keys sees every revision: the view reaches whatever
//! revision a read was told, without progress requests (which etcd before 3.4.25 answers too early). A member that
//! keeps silent although others have answered with newer revisions is left for the next one.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::commit::revision_of;
use super::rpc::{self, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::engine::{EventKind, Revision, WatchBatch, WatchEvent, WatchSource};
use crate::{Key, KeyRange, StoreError};

/// Transactions that a watcher may lag behind before its stream is given up, to be taken up again where it stands.
const LAG: usize = 1024;
/// How long a member may take to begin a watch.
const CREATION: Duration = Duration::from_secs(2);
/// How long a member may know less than others.
const STALL: Duration = Duration::from_millis(1500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct EtcdWatch {
    shared: Arc<Shared>,
    range: KeyRange,
    /// The first revision that was not yet delivered.
    next: Revision,
    live: Option<Live>,
    pause: Duration,
}

struct Live {
    batches: mpsc::Receiver<Result<WatchBatch, StoreError>>,
    reader: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl EtcdWatch {
    /// Waits until a member keeps the watch, so that a compaction that comes later does not concern one that starts now.
    pub(super) async fn start(shared: Arc<Shared>, range: KeyRange, from: Revision) -> Self {
        let mut watch = Self { shared, range, next: from, live: None, pause: Duration::ZERO };
        let (started, start) = oneshot::channel();
        watch.live = Some(watch.stream(Some(started)));
        // An error: it failed, and is tried again when somebody asks for the next batch.
        let _ = start.await;
        watch
    }

    fn stream(&self, started: Option<oneshot::Sender<()>>) -> Live {
        let (sender, batches) = mpsc::channel(LAG);
        let (shared, from, pause) = (Arc::clone(&self.shared), self.next, self.pause);
        let reader = tokio::spawn(async move {
            sleep(pause).await;
            let why = read(&shared, from, &sender, started).await;
            tracing::debug!(why, "etcd: a watch begins anew");
        });
        Live { batches, reader: reader.abort_handle() }
    }

    /// The events of the range; none: there are none, and nobody waits for the revision as such.
    fn part_of(&self, mut batch: WatchBatch) -> Option<WatchBatch> {
        if self.range.is_all() {
            return Some(batch);
        }
        batch.events.retain(|event| self.range.contains(&event.key));
        (!batch.events.is_empty()).then_some(batch)
    }
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        let shared = Arc::clone(&self.shared);
        let next = async {
            loop {
                if self.live.is_none() {
                    self.live = Some(self.stream(None));
                }
                let Some(live) = &mut self.live else { continue };
                match live.batches.recv().await {
                    Some(Ok(batch)) => {
                        self.next = batch.revision + 1;
                        self.pause = Duration::ZERO;
                        if let Some(batch) = self.part_of(batch) {
                            return Ok(batch);
                        }
                    }
                    Some(Err(error)) => return Err(error),
                    None => {
                        self.live = None;
                        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
                    }
                }
            }
        };
        shared.members.unless_closed(next).await
    }
}

/// Reads one stream until it ends, and says why it did. Always reads on: what piles up would hold up other watches on
/// the same connection.
async fn read(
    shared: &Shared,
    from: Revision,
    sender: &mpsc::Sender<Result<WatchBatch, StoreError>>,
    mut started: Option<oneshot::Sender<()>>,
) -> String {
    let members = &shared.members;
    // What has happened already is asked for from one revision earlier, and that one dropped: at the very revision of a
    // compaction etcd 3.4 has forgotten the deletions without saying so.
    let mut start = match shared.current_revision().await {
        Ok(current) if from > current => from,
        Ok(_) => from.saturating_sub(1).max(1),
        Err(error) => return error.to_string(),
    };
    let (member, mut stream) = loop {
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: start.cast_signed(),
            fragment: true,
        };
        let (member, stream) = members.watch(WatchRequest { create: Some(create) }).await;
        let created = match stream {
            Ok(mut stream) => match timeout(CREATION, stream.message()).await {
                Ok(Ok(Some(response))) => Ok((stream, response)),
                Ok(Ok(None)) => Err("the stream ended".to_owned()),
                Ok(Err(status)) => Err(status.to_string()),
                Err(_) => Err(format!("no answer within {CREATION:?}")),
            },
            Err(why) => Err(why),
        };
        match created {
            Ok((_, response)) if response.canceled => return cancelled(shared, &response, sender),
            // Something happened meanwhile.
            Ok((_, response)) if start == from && from > 1 && revision_of(response.header.clone()) >= from => {
                start = from - 1;
            }
            Ok((stream, _)) => break (member, stream),
            Err(why) => {
                members.distrust(member, &why);
                return why;
            }
        }
    };
    if let Some(started) = started.take() {
        // Nobody has to wait.
        let _ = started.send(());
    }
    let mut newest = members.newest();
    let mut seen = from.saturating_sub(1);
    let mut events = Vec::new();
    loop {
        let stall = async {
            // The sender is part of `members`.
            let _ = newest.wait_for(|newest| *newest > seen).await;
            sleep(STALL).await;
        };
        let response = tokio::select! {
            biased;
            response = stream.message() => response,
            () = stall => {
                let why = "its watch lags behind what others know";
                members.distrust(member, why);
                return why.to_owned();
            }
        };
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => return "the stream ended".to_owned(),
            Err(status) => {
                members.distrust(member, status.message());
                return status.to_string();
            }
        };
        if response.canceled {
            return cancelled(shared, &response, sender);
        }
        for batch in batches(shared, response, from, &mut events) {
            seen = batch.revision;
            members.saw(seen);
            if sender.try_send(Ok(batch)).is_err() {
                return "its receiver lags behind or is gone".to_owned();
            }
        }
    }
}

fn cancelled(
    shared: &Shared,
    response: &WatchResponse,
    sender: &mpsc::Sender<Result<WatchBatch, StoreError>>,
) -> String {
    if response.compact_revision > 0 {
        let compacted = shared.note_compaction(response.compact_revision.cast_unsigned());
        // A receiver that is gone misses nothing.
        let _ = sender.try_send(Err(StoreError::Compacted { compacted }));
    }
    response.cancel_reason.clone()
}

/// The transactions of a response, or none while only a fragment of it is there.
fn batches(shared: &Shared, response: WatchResponse, from: Revision, pending: &mut Vec<rpc::Event>) -> Vec<WatchBatch> {
    pending.extend(response.events);
    if response.fragment {
        return Vec::new();
    }
    let mut batches: Vec<WatchBatch> = Vec::new();
    for event in pending.drain(..) {
        let Some(kv) = event.kv else { continue };
        let revision = kv.mod_revision.cast_unsigned();
        if revision < from {
            continue;
        }
        match batches.last_mut() {
            // What only moved the revision on is told once.
            Some(last) if last.revision == revision || last.events.is_empty() => last.revision = revision,
            _ => batches.push(WatchBatch { revision, events: Vec::new() }),
        }
        let Some(key) = shared.space.key(&kv.key) else { continue };
        let deleted = event.kind == rpc::DELETED;
        let Some(batch) = batches.last_mut() else { continue };
        batch.events.push(WatchEvent {
            key: Key::new(key),
            kind: if deleted { EventKind::Delete } else { EventKind::Put },
            mod_revision: revision,
            create_revision: if deleted { 0 } else { kv.create_revision.cast_unsigned() },
            value: if deleted { Bytes::new() } else { kv.value },
        });
    }
    batches
}

impl Shared {
    /// Remembers that etcd has forgotten what was before `at`; gives the first revision that is whole.
    pub(super) fn note_compaction(&self, at: Revision) -> Revision {
        self.compacted.fetch_max(at + 1, Ordering::Relaxed).max(at + 1)
    }
}
