//! The distributed engine: etcd, 3.4 or newer, for a cell that has outgrown one machine.
//!
//! The contract is etcd's own, so most of it is a translation. What is not: commits whose answers get lost
//! ([`commit`]), watches that see every revision ([`watch`]), outbox streams ([`outbox`]), a member that hangs
//! ([`members`]), and cleaning up ([`housekeeping`]). Any number of processes may use one etcd at a time.
//!
//! etcd must be started with `--max-txn-ops=4096 --max-request-bytes=4194304`, and should serve nothing else: a watch
//! sees every change that anybody makes in it.

mod commit;
mod housekeeping;
mod members;
mod outbox;
mod phase;
mod rpc;
mod space;
mod watch;

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use terroir_types::{Clock, IdSource};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::engine::{
    Commit, Engine, KeyValue, LeaseId, MAX_OPERATIONS, OutboxEntry, Outcome, RangePage, Revision, StoreStats,
    WatchSource, check_size,
};
use crate::{Key, KeyRange, KeyRing, Options, OutboxLimit, Retention, StoreError};
use commit::{Slots, revision_of};
use members::{AskError, Failure, Members, Refusal, Tries};
use outbox::Sizes;
use rpc::{
    CompactionRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, RangeRequest, Request, StatusRequest,
    TxnRequest,
};
use space::{Space, Span};
use watch::EtcdWatch;

pub use phase::Phase;

/// Of what lies in etcd.
const FORMAT: u32 = 1;
/// Entries of one answer.
const PAGE: usize = 1000;
/// What etcd has to allow in one transaction: as many operations as ours, and a slot.
const WANTED_OPERATIONS: usize = MAX_OPERATIONS * 2 - 1;
/// And in one request, as near as it can be tried out: etcd refuses messages beyond its limit and half a MiB.
const WANTED_BYTES: usize = (7 << 20) / 2;

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Addresses of members, with `https://` or `http://`; the nearest first.
    pub endpoints: Vec<String>,
    /// What the cell's keys begin with: no slash at either end.
    pub prefix: String,
    pub tls: Option<EtcdTls>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// `min_revisions` and `min_age`; how much a longer history may hold is for etcd's own quota.
    pub retention: Retention,
    /// Checked against a count that is up to a second old.
    pub outbox_limit: OutboxLimit,
    /// Of a prefix at which there is nothing yet: sequence numbers begin behind this revision of where the state comes
    /// from, so that they only rise.
    pub first_revision: Revision,
}

/// Certificates in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who may have signed the members' certificates.
    pub authorities: Vec<u8>,
    pub identity: Option<EtcdIdentity>,
}

/// What this process shows to the members.
#[derive(Clone)]
pub struct EtcdIdentity {
    pub certificate: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
}

impl EtcdOptions {
    /// With what a store's options say of clock, randomness and bounds.
    pub fn new(endpoints: Vec<String>, prefix: impl Into<String>, options: &Options) -> Self {
        Self {
            endpoints,
            prefix: prefix.into(),
            tls: None,
            clock: Arc::clone(&options.clock),
            ids: Arc::clone(&options.ids),
            retention: options.retention,
            outbox_limit: options.outbox_limit,
            first_revision: 0,
        }
    }
}

pub struct EtcdEngine {
    shared: Arc<Shared>,
    outbox_limit: OutboxLimit,
    housekeeping: AbortHandle,
}

struct Shared {
    members: Members,
    space: Space,
    ids: Arc<dyn IdSource>,
    slots: Slots,
    sizes: Sizes,
    /// The first revision that can be read and watched, as far as it is known here.
    compacted: AtomicU64,
    /// What sequence numbers are ahead of revisions.
    ahead: AtomicU64,
}

impl Drop for EtcdEngine {
    fn drop(&mut self) {
        self.housekeeping.abort();
        self.shared.members.close();
    }
}

impl EtcdEngine {
    /// Errors: [`StoreError::NewerFormat`]; [`StoreError::Io`] if no member answers in time, or etcd's limits are too
    /// low, or an endpoint or a certificate is none.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let engine = Self::reach(options).await?;
        match engine.shared.enter().await? {
            Phase::Live => Ok(engine),
            Phase::Filling | Phase::Filled => Err(StoreError::Io(
                "etcd: the state was being moved here, which did not come to its end: run `terroir store migrate` again"
                    .to_owned(),
            )),
            Phase::Moved => Err(StoreError::Io(
                "etcd: the state was moved from here to somewhere else; what lies here is old".to_owned(),
            )),
        }
    }

    /// Without a look at whose turn it is: for those who move a state, and see to [`Self::phase`] themselves.
    pub async fn reach(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.prefix.is_empty() || options.prefix.starts_with('/') || options.prefix.ends_with('/') {
            return Err(StoreError::Io("etcd: the prefix is empty, or a slash is at one of its ends".to_owned()));
        }
        let shared = Arc::new(Shared {
            members: Members::new(&options)?,
            space: Space::new(&options.prefix),
            slots: Slots::new(options.ids.next_u64()),
            ids: Arc::clone(&options.ids),
            sizes: Sizes::default(),
            compacted: AtomicU64::new(0),
            ahead: AtomicU64::new(options.first_revision),
        });
        shared.check_limits().await?;
        shared.look_for_compaction().await?;
        let housekeeping = tokio::spawn(housekeeping::run(Arc::downgrade(&shared), options.clock, options.retention));
        Ok(Self { shared, outbox_limit: options.outbox_limit, housekeeping: housekeeping.abort_handle() })
    }
}

impl Shared {
    /// Tries out, without a write, whether etcd takes transactions as large as ours.
    async fn check_limits(&self) -> Result<(), StoreError> {
        let read = |key| RangeRequest { key, serializable: true, ..RangeRequest::default() };
        let operation = rpc::RequestOp::from(Request::Range(read(self.space.nothing())));
        let many = TxnRequest { success: vec![operation; WANTED_OPERATIONS], ..TxnRequest::default() };
        let large = read(Bytes::from(vec![b'x'; WANTED_BYTES]));
        let tried = match self.members.ask(&many).await {
            Ok(_) => self.members.ask(&large).await.map(drop),
            Err(error) => Err(error),
        };
        match tried {
            Err(AskError::Refused(Refusal::TooLarge(message))) => Err(StoreError::Io(format!(
                "etcd takes smaller transactions than are needed ({message}): start its members with \
                 --max-txn-ops=4096 --max-request-bytes=4194304"
            ))),
            other => other.map_err(StoreError::from),
        }
    }

    /// Learns from where on there is history, if there is not all of it.
    async fn look_for_compaction(&self) -> Result<(), StoreError> {
        let first = RangeRequest { key: self.space.nothing(), revision: 1, ..RangeRequest::default() };
        match self.members.ask(&first).await {
            Ok(_) => Ok(()),
            Err(AskError::Refused(Refusal::Compacted)) => self.learn_compaction().await,
            Err(error) => Err(error.into()),
        }
    }

    /// etcd tells its compacted revision only to those who watch from before it.
    async fn learn_compaction(&self) -> Result<(), StoreError> {
        let mut tries = Tries::new();
        loop {
            let key = self.space.nothing();
            let create = rpc::WatchCreateRequest { key, start_revision: 1, ..rpc::WatchCreateRequest::default() };
            let (member, stream) = self.members.watch(rpc::WatchRequest { create: Some(create) }).await;
            let compacted = async {
                let mut stream = stream?;
                while let Some(response) = stream.message().await.map_err(|status| status.to_string())? {
                    if response.compact_revision > 0 {
                        return Ok(response.compact_revision);
                    }
                }
                Err("the stream ended".to_owned())
            };
            let told = tokio::time::timeout(tries.patience(), compacted).await;
            match told.unwrap_or_else(|_| Err("no answer to a watch".to_owned())) {
                Ok(compacted) => {
                    self.note_compaction(compacted.cast_unsigned());
                    return Ok(());
                }
                Err(why) => {
                    self.members.distrust(member, &why);
                    tries.again(why).await?;
                }
            }
        }
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        let key = self.space.nothing();
        let answer = self.members.ask(&RangeRequest { key, ..RangeRequest::default() }).await?;
        let revision = revision_of(answer.header);
        self.members.saw(revision);
        Ok(revision)
    }

    /// What etcd's refusal to read or compact at `at` means.
    async fn about(&self, error: AskError, at: Revision) -> StoreError {
        match error {
            AskError::Refused(Refusal::Compacted) => match self.learn_compaction().await {
                Ok(()) => StoreError::Compacted { compacted: self.compacted.load(Ordering::Relaxed) },
                Err(error) => error,
            },
            AskError::Refused(Refusal::FutureRevision) => match self.current_revision().await {
                Ok(current) => StoreError::FutureRevision { requested: at, current },
                Err(error) => error,
            },
            other => other.into(),
        }
    }

    fn check_past(&self, at: Option<Revision>) -> Result<(), StoreError> {
        let compacted = self.compacted.load(Ordering::Relaxed);
        match at {
            Some(at) if at < compacted => Err(StoreError::Compacted { compacted }),
            _ => Ok(()),
        }
    }

    async fn get(&self, keys: &[Key], mut at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        self.check_past(at)?;
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MAX_OPERATIONS) {
            let read = |key: &Key| {
                let revision = at.map_or(0, u64::cast_signed);
                Request::Range(RangeRequest { key: self.space.record(key), revision, ..RangeRequest::default() }).into()
            };
            let request = TxnRequest { success: keys.iter().map(read).collect(), ..TxnRequest::default() };
            let answer = match self.members.ask(&request).await {
                Ok(answer) => answer,
                Err(error) => return Err(self.about(error, at.unwrap_or_default()).await),
            };
            at = at.or(Some(revision_of(answer.header.clone())));
            found.extend(answer.ranges().zip(keys).map(|(range, key)| {
                let kv = range.kvs.into_iter().next()?;
                Some(entry(key.clone(), kv))
            }));
        }
        Ok(found)
    }

    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, StoreError> {
        self.check_past(at)?;
        // An empty one is asked all the same, for the revision.
        let empty = Span { start: self.space.nothing(), end: Bytes::new() };
        let span = self.space.records(range).unwrap_or(empty);
        let (mut start, mut revision) = (span.start, at);
        let mut entries = Vec::new();
        loop {
            let page = RangeRequest {
                key: start,
                range_end: span.end.clone(),
                // No limit is written as 0.
                limit: (limit - entries.len()).clamp(1, PAGE).cast_signed() as i64,
                revision: revision.map_or(0, u64::cast_signed),
                ..RangeRequest::default()
            };
            let page = match self.members.ask(&page).await {
                Ok(page) => page,
                Err(error) => return Err(self.about(error, at.unwrap_or_default()).await),
            };
            let read = *revision.get_or_insert(revision_of(page.header));
            if limit == 0 {
                return Ok(RangePage { revision: read, entries, more: !page.kvs.is_empty() });
            }
            let last = page.kvs.last().map(|kv| [&kv.key[..], b"\0"].concat());
            for kv in page.kvs {
                let key = self.space.key(&kv.key).map(Key::new);
                let key = key.ok_or_else(|| StoreError::Corrupt("a key in etcd is not UTF-8".to_owned()))?;
                entries.push(entry(key, kv));
            }
            match last {
                Some(last) if page.more && entries.len() < limit => start = last.into(),
                _ => return Ok(RangePage { revision: read, entries, more: page.more }),
            }
        }
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        let current = self.current_revision().await?;
        if at > current {
            return Err(StoreError::FutureRevision { requested: at, current });
        }
        // What etcd compacts at it can still read, but no longer watch (see `watch`); so one less.
        let Some(last) = at.checked_sub(1).filter(|last| *last > 0) else { return Ok(()) };
        match self.members.ask(&CompactionRequest { revision: last.cast_signed() }).await {
            // Refused: it is compacted already, perhaps further.
            Ok(_) | Err(AskError::Refused(Refusal::Compacted)) => {
                self.note_compaction(last);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_secs = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let is_mine = |refusal: &Refusal| matches!(refusal, Refusal::LeaseExists);
        loop {
            let lease = (self.ids.next_u64() >> 1).max(1);
            let grant = LeaseGrantRequest { ttl_secs, id: lease.cast_signed() };
            match self.members.ask_again(&grant, is_mine).await {
                Ok(_) => return Ok(lease),
                Err(AskError::Refused(Refusal::LeaseExists)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut tries = Tries::new();
        loop {
            match self.members.keep_alive(lease.cast_signed(), tries.patience()).await {
                Ok(ttl_secs) if ttl_secs > 0 => return Ok(()),
                Ok(_) | Err(Failure::Refused(Refusal::LeaseNotFound)) => return Err(StoreError::LeaseNotFound(lease)),
                Err(Failure::Refused(refusal)) => return Err(refusal.into()),
                Err(Failure::Unknown(why)) => tries.again(why).await?,
            }
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let is_done = |refusal: &Refusal| matches!(refusal, Refusal::LeaseNotFound);
        match self.members.ask_again(&LeaseRevokeRequest { id: lease.cast_signed() }, is_done).await {
            Ok((answer, _)) => {
                self.members.saw(revision_of(answer.header));
                Ok(())
            }
            Err(AskError::Refused(Refusal::LeaseNotFound)) => Err(StoreError::LeaseNotFound(lease)),
            Err(error) => Err(error.into()),
        }
    }

    async fn outbox_streams(&self) -> Result<Vec<String>, StoreError> {
        let span = self.space.streams();
        let keys = RangeRequest { key: span.start, range_end: span.end, keys_only: true, ..RangeRequest::default() };
        let keys = self.members.ask(&keys).await?.kvs;
        let streams: BTreeSet<String> = keys.iter().filter_map(|kv| self.space.stream_of(&kv.key)).collect();
        Ok(streams.into_iter().collect())
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let (mut rest, mut at) = (KeyRange::all(), None);
        loop {
            let page = self.range(&rest, PAGE, at).await?;
            at = Some(page.revision);
            if let Some(last) = page.entries.last() {
                rest = rest.after(&last.key);
            }
            for entry in page.entries {
                let (records, bytes) = kinds.entry(entry.key.kind().to_owned()).or_default();
                *records += 1;
                *bytes += (entry.key.as_str().len() + entry.value.len()) as u64;
            }
            if !page.more {
                break;
            }
        }
        let (revision, compacted) = (at.unwrap_or_default(), self.compacted.load(Ordering::Relaxed));
        Ok(StoreStats {
            revision,
            compacted,
            records: kinds.values().map(|(records, _)| records).sum(),
            bytes: kinds.values().map(|(_, bytes)| bytes).sum(),
            by_kind: kinds.into_iter().map(|(kind, (records, bytes))| (kind, records, bytes)).collect(),
            log_rows: revision.saturating_sub(compacted),
            outbox_entries: self.count(self.space.streams()).await?,
            file_bytes: self.members.ask(&StatusRequest {}).await?.db_bytes.cast_unsigned(),
            leases: self.members.ask(&LeaseLeasesRequest {}).await?.leases.len() as u64,
        })
    }
}

fn entry(key: Key, kv: rpc::KeyValue) -> KeyValue {
    KeyValue {
        key,
        value: kv.value,
        create_revision: kv.create_revision.cast_unsigned(),
        mod_revision: kv.mod_revision.cast_unsigned(),
    }
}

#[async_trait]
impl Engine for EtcdEngine {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.shared.members.unless_closed(self.shared.current_revision()).await
    }

    async fn get(&self, keys: &[Key], at: Option<Revision>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        self.shared.members.unless_closed(self.shared.get(keys, at)).await
    }

    async fn range(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<RangePage, StoreError> {
        self.shared.members.unless_closed(self.shared.range(range, limit, at)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        check_size(&commit)?;
        let committed = async {
            self.shared.check_outbox(&commit, self.outbox_limit).await?;
            self.shared.commit(&commit).await
        };
        self.shared.members.unless_closed(committed).await
    }

    async fn watch(&self, range: &KeyRange, from: Revision) -> Result<Box<dyn WatchSource>, StoreError> {
        if self.shared.members.is_closed() {
            return Err(StoreError::Closed);
        }
        let watch = EtcdWatch::start(Arc::clone(&self.shared), range.clone(), from);
        self.shared.members.unless_closed(async { Ok(Box::new(watch.await) as Box<dyn WatchSource>) }).await
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.shared.members.unless_closed(self.shared.compact(at)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.shared.members.unless_closed(self.shared.lease_grant(ttl)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.members.unless_closed(self.shared.lease_keep_alive(lease)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.members.unless_closed(self.shared.lease_revoke(lease)).await
    }

    async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        self.shared.members.unless_closed(self.shared.outbox(stream, after, limit)).await
    }

    async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError> {
        self.shared.members.unless_closed(self.shared.outbox_trim(stream, through)).await
    }

    fn last_sequence(&self, revision: Revision) -> u64 {
        self.shared.sequence(revision + 1, 0) - 1
    }

    async fn outbox_streams(&self) -> Result<Vec<String>, StoreError> {
        self.shared.members.unless_closed(self.shared.outbox_streams()).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.shared.members.unless_closed(self.shared.stats()).await
    }

    async fn backup_to(&self, path: &Path, keys: &dyn KeyRing) -> Result<(), StoreError> {
        self.shared.members.unless_closed(crate::copy::to_file(self, path, keys, &*self.shared.ids)).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn close(&self) {
        self.housekeeping.abort();
        self.shared.members.close();
    }
}
