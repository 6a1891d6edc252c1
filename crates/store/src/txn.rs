use imbl::OrdMap;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use terroir_types::{AccountId, Error};

use crate::engine::{Commit, Compare, LeaseId, MAX_BYTES, MAX_OPERATIONS, Op, Revision};
use crate::view::{Entry, Snapshot};
use crate::{Key, KeyRange, KeyRing, Record, StoreError, record};

/// One transaction over an immutable snapshot of the state.
///
/// Reads are synchronous and tracked: at the commit every key read must be unchanged, and every range read must hold
/// nothing that was inserted or changed since. A deletion inside a range is not seen (etcd cannot), so whoever depends
/// on a key's being there reads that key. Writes are buffered, one per key, and visible to later reads of the same
/// transaction.
pub struct Txn {
    snapshot: Snapshot,
    keys: Arc<dyn KeyRing>,
    cluster_version: u16,
    read_only: bool,
    prefetched: HashMap<Key, Option<Arc<Entry>>>,
    reads: Mutex<Reads>,
    writes: OrdMap<Key, Write>,
    outbox: Vec<(String, Vec<u8>)>,
    bytes: usize,
    /// Of the part that runs now: the keys it wrote, and where its outbox entries begin.
    part_keys: BTreeSet<Key>,
    part_outbox: usize,
    /// Whether a write was refused because there are too many.
    overflowed: bool,
}

/// Where the writes of one part of a transaction begin.
pub(crate) struct Savepoint {
    writes: OrdMap<Key, Write>,
    outbox: usize,
    bytes: usize,
}

#[derive(Default)]
struct Reads {
    keys: HashMap<Key, Revision>,
    ranges: Vec<KeyRange>,
    /// An error of a call that could not report it; the commit does.
    deferred: Option<StoreError>,
}

#[derive(Clone)]
enum Write {
    Put { entry: Arc<Entry>, lease: Option<LeaseId> },
    Touch,
    Delete,
}

impl Write {
    fn bytes(&self, key: &Key) -> usize {
        key.as_str().len() + if let Self::Put { entry, .. } = self { entry.value.len() } else { 0 }
    }
}

impl Txn {
    pub(crate) fn new(snapshot: Snapshot, keys: Arc<dyn KeyRing>, cluster_version: u16, read_only: bool) -> Self {
        Self {
            snapshot,
            keys,
            cluster_version,
            read_only,
            prefetched: HashMap::new(),
            reads: Mutex::default(),
            writes: OrdMap::new(),
            outbox: Vec::new(),
            bytes: 0,
            part_keys: BTreeSet::new(),
            part_outbox: 0,
            overflowed: false,
        }
    }

    /// Sets the cluster version whose stored forms are written.
    pub(crate) fn write_version(&mut self, cluster_version: u16) {
        self.cluster_version = cluster_version;
    }

    pub(crate) fn add_prefetched(&mut self, key: Key, found: Option<Arc<Entry>>) {
        self.prefetched.insert(key, found);
    }

    /// Begins another part, which sees what those before it wrote.
    pub(crate) fn begin_part(&mut self) -> Savepoint {
        self.part_keys.clear();
        self.part_outbox = self.outbox.len();
        self.overflowed = false;
        Savepoint { writes: self.writes.clone(), outbox: self.outbox.len(), bytes: self.bytes }
    }

    /// Undoes the writes of the part that began there. What it read stays tracked.
    pub(crate) fn roll_back(&mut self, savepoint: Savepoint) {
        self.writes = savepoint.writes;
        self.outbox.truncate(savepoint.outbox);
        self.bytes = savepoint.bytes;
    }

    /// The error of a call that could not report it.
    pub(crate) fn take_deferred(&self) -> Option<StoreError> {
        self.reads().deferred.take()
    }

    /// How much there is to compare and to write.
    pub(crate) fn reads_and_writes(&self) -> usize {
        let reads = self.reads();
        reads.keys.len() + reads.ranges.len() + self.writes.len() + self.outbox.len()
    }

    pub(crate) fn written_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the part that runs now did not fit.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The revision of the snapshot that is read.
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// Whether this transaction is one that nobody commits; writing to it is an error.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Keys and outbox entries written so far.
    pub fn write_count(&self) -> usize {
        self.part_keys.len() + self.outbox.len() - self.part_outbox
    }

    pub fn get<T: Record>(&self, key: &Key) -> Result<Option<Arc<T>>, Error> {
        Ok(self.get_with_revision(key)?.map(|(record, _)| record))
    }

    /// The record and the revision that last wrote it; 0 if that is not committed yet.
    pub fn get_with_revision<T: Record>(&self, key: &Key) -> Result<Option<(Arc<T>, Revision)>, Error> {
        check_kind::<T>(key)?;
        let found = self.find(key, true)?;
        found.map(|entry| Ok((self.decode(key, &entry)?, entry.mod_revision))).transpose()
    }

    /// All records below `prefix`, in key order.
    pub fn range<T: Record>(&self, prefix: &Key) -> Result<Vec<(Key, Arc<T>)>, Error> {
        self.page(prefix, None, usize::MAX)
    }

    /// Up to `limit` records below `prefix` that come after the key `after`. Tracked up to the last one returned.
    pub fn page<T: Record>(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Arc<T>)>, Error> {
        check_kind::<T>(prefix)?;
        check_in_view(prefix)?;
        let range = Self::part_of(prefix, after);
        let found = self.collect(&range, limit);
        match found.last() {
            Some((last, _)) if found.len() == limit => self.track_range(range.through(last)),
            _ => self.track_range(range),
        }
        self.decode_all(found)
    }

    /// Whether any key lies below `prefix`.
    pub fn exists(&self, prefix: &Key) -> bool {
        self.defer(check_in_view(prefix));
        let range = KeyRange::children(prefix);
        let first = self.collect(&range, 1).into_iter().next();
        match &first {
            // That the key stays is seen at the key, not at the range.
            Some((key, entry)) => {
                if !self.writes.contains_key(key) {
                    self.track_key(key, entry.mod_revision);
                }
            }
            None => self.track_range(range),
        }
        first.is_some()
    }

    /// Like [`Self::get`], but a change meanwhile does not fail the commit.
    pub fn peek<T: Record>(&self, key: &Key) -> Result<Option<Arc<T>>, Error> {
        check_kind::<T>(key)?;
        let found = self.find(key, false)?;
        found.map(|entry| Ok(self.decode(key, &entry)?)).transpose()
    }

    /// Like [`Self::range`], but a change meanwhile does not fail the commit.
    pub fn peek_range<T: Record>(&self, prefix: &Key) -> Result<Vec<(Key, Arc<T>)>, Error> {
        self.peek_page(prefix, None, usize::MAX)
    }

    /// Like [`Self::page`], but a change meanwhile does not fail the commit.
    pub fn peek_page<T: Record>(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Arc<T>)>, Error> {
        check_kind::<T>(prefix)?;
        check_in_view(prefix)?;
        self.decode_all(self.collect(&Self::part_of(prefix, after), limit))
    }

    /// Number of keys below `prefix`; not tracked. A rule about a count needs a guard record.
    pub fn count(&self, prefix: &Key) -> usize {
        self.defer(check_in_view(prefix));
        let range = KeyRange::children(prefix);
        let stored = self.snapshot.range(&range).filter(|(key, _)| !self.is_overwritten(key)).count();
        let written = self.writes_in(&range).filter(|(_, write)| matches!(write, Write::Put { .. })).count();
        stored + written
    }

    pub fn put<T: Record>(&mut self, key: &Key, record: &T) -> Result<(), Error> {
        check_kind::<T>(key)?;
        self.check_writable()?;
        let mut record = record.clone();
        let value = record::encode(&*self.keys, self.cluster_version, key, &mut record)?;
        let lease = match self.writes.get(key) {
            Some(Write::Put { lease, .. }) => *lease,
            _ => None,
        };
        let entry = Arc::new(Entry::written(value, record));
        Ok(self.write(key, Write::Put { entry, lease })?)
    }

    /// Deleting what does not exist changes nothing.
    pub fn delete(&mut self, key: &Key) {
        let result = self.check_writable().and_then(|()| self.write(key, Write::Delete));
        self.defer(result);
    }

    /// Writes the record again unchanged, so that every transaction that read it conflicts.
    pub fn touch(&mut self, key: &Key) -> Result<(), Error> {
        self.check_writable()?;
        self.find(key, true)?.ok_or_else(|| StoreError::Absent(key.clone()))?;
        if !self.writes.contains_key(key) {
            self.write(key, Write::Touch)?;
        }
        Ok(())
    }

    /// Binds the key to a lease: it is deleted when the lease ends. A later `put` in another transaction unbinds it.
    pub fn attach_lease(&mut self, key: &Key, lease: LeaseId) {
        let result = self.check_writable().and_then(|()| {
            let entry = self.find(key, true)?.ok_or_else(|| StoreError::Absent(key.clone()))?;
            self.write(key, Write::Put { entry, lease: Some(lease) })
        });
        self.defer(result);
    }

    /// Appends to an outbox stream with the commit. If the stream is full the commit fails with `Unavailable`.
    pub fn outbox(&mut self, stream: &str, payload: Vec<u8>) {
        let result = self.check_writable().and_then(|()| {
            self.bytes += stream.len() + payload.len();
            self.outbox.push((stream.to_owned(), payload));
            self.check_size()
        });
        self.defer(result);
    }

    /// What stands in a key for a name that must be unique; see [`KeyRing::name_mac`].
    pub fn name_mac(&self, account: Option<AccountId>, namespace: &str, name: &str) -> String {
        self.keys.name_mac(account, namespace, name)
    }

    /// Authenticates a page token.
    pub fn page_mac(&self, data: &[u8]) -> [u8; 32] {
        self.keys.mac("page", data)
    }

    /// What is to be committed; none: nothing was written.
    pub(crate) fn into_commit(self) -> Result<Option<Commit>, StoreError> {
        let mut reads = self.reads.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = reads.deferred {
            return Err(error);
        }
        if self.writes.is_empty() && self.outbox.is_empty() {
            return Ok(None);
        }
        let since = self.snapshot.revision;
        for (key, found) in self.prefetched {
            reads.keys.insert(key, found.map_or(0, |entry| entry.mod_revision));
        }
        let keys = reads.keys.into_iter().map(|(key, mod_revision)| Compare::Unchanged { key, mod_revision });
        let ranges = reads.ranges.into_iter().map(|range| Compare::RangeUnchanged { range, since });
        let writes = self.writes.into_iter().map(|(key, write)| match write {
            Write::Put { entry, lease } => Op::Put { key, value: entry.value.clone(), lease },
            Write::Touch => Op::Touch { key },
            Write::Delete => Op::Delete { key },
        });
        let appends = self.outbox.into_iter().map(|(stream, payload)| Op::Append { stream, payload: payload.into() });
        Ok(Some(Commit { compares: keys.chain(ranges).collect(), ops: writes.chain(appends).collect() }))
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn track_key(&self, key: &Key, mod_revision: Revision) {
        if !self.read_only {
            self.reads().keys.insert(key.clone(), mod_revision);
        }
    }

    fn track_range(&self, range: KeyRange) {
        if !self.read_only {
            let mut reads = self.reads();
            if !reads.ranges.contains(&range) {
                reads.ranges.push(range);
            }
        }
    }

    fn find(&self, key: &Key, tracked: bool) -> Result<Option<Arc<Entry>>, StoreError> {
        match self.writes.get(key) {
            Some(Write::Put { entry, .. }) => return Ok(Some(Arc::clone(entry))),
            Some(Write::Delete) => return Ok(None),
            Some(Write::Touch) | None => {}
        }
        if !key.in_view() {
            return self.prefetched.get(key).cloned().ok_or_else(|| StoreError::NotPrefetched(key.clone()));
        }
        let found = self.snapshot.get(key).cloned();
        if tracked {
            self.track_key(key, found.as_ref().map_or(0, |entry| entry.mod_revision));
        }
        Ok(found)
    }

    fn part_of(prefix: &Key, after: Option<&Key>) -> KeyRange {
        let range = KeyRange::children(prefix);
        after.map_or_else(|| range.clone(), |after| range.after(after))
    }

    fn writes_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Write)> {
        let end = match range.end() {
            Some(end) if end <= range.start() => Bound::Excluded(range.start()),
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.writes.range::<_, str>((Bound::Included(range.start()), end))
    }

    fn is_overwritten(&self, key: &Key) -> bool {
        matches!(self.writes.get(key), Some(Write::Put { .. } | Write::Delete))
    }

    /// The first `limit` entries of the range as this transaction sees them, in key order.
    fn collect(&self, range: &KeyRange, limit: usize) -> Vec<(Key, Arc<Entry>)> {
        let mut stored = self.snapshot.range(range).filter(|(key, _)| !self.is_overwritten(key)).peekable();
        let mut written = self
            .writes_in(range)
            .filter_map(|(key, write)| if let Write::Put { entry, .. } = write { Some((key, entry)) } else { None })
            .peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            let next = match (stored.peek(), written.peek()) {
                (Some((a, _)), Some((b, _))) if a < b => stored.next(),
                (_, Some(_)) => written.next(),
                (_, None) => stored.next(),
            };
            let Some((key, entry)) = next else { break };
            found.push((key.clone(), Arc::clone(entry)));
        }
        found
    }

    fn decode<T: Record>(&self, key: &Key, entry: &Entry) -> Result<Arc<T>, StoreError> {
        if let Some(record) = entry.decoded.get() {
            return Arc::clone(record)
                .downcast()
                .map_err(|_| StoreError::Codec(format!("two types are used for records of kind '{}'", T::KIND)));
        }
        let record = Arc::new(record::decode::<T>(&*self.keys, key, &entry.value)?);
        // Another reader may have been faster; its copy is as good.
        let _ = entry.decoded.set(Arc::clone(&record) as _);
        Ok(record)
    }

    fn decode_all<T: Record>(&self, found: Vec<(Key, Arc<Entry>)>) -> Result<Vec<(Key, Arc<T>)>, Error> {
        found
            .into_iter()
            .map(|(key, entry)| {
                let record = self.decode(&key, &entry)?;
                Ok((key, record))
            })
            .collect()
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only { Err(StoreError::ReadOnlyTransaction) } else { Ok(()) }
    }

    fn write(&mut self, key: &Key, write: Write) -> Result<(), StoreError> {
        self.bytes += write.bytes(key);
        self.part_keys.insert(key.clone());
        if let Some(before) = self.writes.insert(key.clone(), write) {
            self.bytes = self.bytes.saturating_sub(before.bytes(key));
        }
        self.check_size()
    }

    fn check_size(&mut self) -> Result<(), StoreError> {
        let operations = self.writes.len() + self.outbox.len();
        if operations > MAX_OPERATIONS || self.bytes > MAX_BYTES {
            self.overflowed = true;
            return Err(StoreError::TooLarge { operations, bytes: self.bytes });
        }
        Ok(())
    }

    fn defer(&self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            if self.read_only {
                tracing::error!(%error, "misuse of a transaction that nobody commits");
            }
            self.reads().deferred.get_or_insert(error);
        }
    }
}

fn check_kind<T: Record>(key: &Key) -> Result<(), StoreError> {
    if key.kind() == T::KIND { Ok(()) } else { Err(StoreError::WrongKind { key: key.clone(), kind: T::KIND }) }
}

/// Ranges outside the view cannot be read in a transaction.
fn check_in_view(prefix: &Key) -> Result<(), StoreError> {
    if prefix.in_view() { Ok(()) } else { Err(StoreError::NotPrefetched(prefix.clone())) }
}
