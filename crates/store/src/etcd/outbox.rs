//! Outbox streams: one key holds what one transaction appended to one stream. Its create revision is the order of
//! commits; an entry's sequence number is that revision and the place within the key.

use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::rpc::{self, DeleteRangeRequest, PutRequest, RangeRequest, Request, TxnRequest};
use super::space::Span;
use crate::engine::{Commit, MAX_OPERATIONS, Op, OutboxEntry, PLACE_BITS as INDEX_BITS, Revision};
use crate::{OutboxLimit, StoreError};

/// Keys of one answer.
const PAGE: usize = 500;
/// How long a count of what waits in a stream is believed.
const COUNT_AGE: Duration = Duration::from_secs(1);

/// What a commit appends, by stream, in the form in which it is stored: the number of the first entry, then each with
/// its length.
#[derive(Default)]
pub(super) struct Appends<'c>(BTreeMap<&'c str, Vec<u8>>);

impl<'c> Appends<'c> {
    pub(super) fn add(&mut self, stream: &'c str, payload: &[u8]) {
        let entries = self.0.entry(stream).or_insert_with(|| vec![0; 2]);
        // A payload is below 2 MiB.
        entries.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        entries.extend_from_slice(payload);
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = (&'c str, Vec<u8>)> {
        self.0.into_iter()
    }
}

/// `first`: the sequence number of a first entry.
fn entries(first: u64, mut stored: Bytes) -> Option<Vec<OutboxEntry>> {
    let first = first + u64::from(stored.try_get_u16_le().ok()?);
    let mut entries = Vec::new();
    while stored.has_remaining() {
        let length = usize::try_from(stored.try_get_u32_le().ok()?).ok()?;
        if stored.remaining() < length {
            return None;
        }
        let sequence = first + entries.len() as u64;
        entries.push(OutboxEntry { sequence, payload: stored.split_to(length) });
    }
    Some(entries)
}

/// The stored form of what is left of a key whose first entries are trimmed.
fn rest(entries: &[OutboxEntry]) -> Option<Vec<u8>> {
    let first = entries.first()?.sequence & ((1 << INDEX_BITS) - 1);
    let mut stored = u16::try_from(first).ok()?.to_le_bytes().to_vec();
    for entry in entries {
        stored.extend_from_slice(&u32::try_from(entry.payload.len()).ok()?.to_le_bytes());
        stored.extend_from_slice(&entry.payload);
    }
    Some(stored)
}

/// How much waits in each stream, as far as this process knows. The bound is checked against it, so it is approximate.
#[derive(Default)]
pub(super) struct Sizes(Mutex<HashMap<String, Size>>);

#[derive(Clone, Copy, Default)]
struct Size {
    counted: Option<Instant>,
    /// Keys when they were counted.
    keys: u64,
    /// Appended since by this process.
    new_entries: u64,
    new_bytes: u64,
    /// Ever appended by this process, to know how large a key is on the average.
    all_keys: u64,
    all_entries: u64,
    all_bytes: u64,
}

impl Size {
    fn entries(&self) -> u64 {
        self.keys * self.all_entries.div_ceil(self.all_keys.max(1)).max(1) + self.new_entries
    }

    fn bytes(&self) -> u64 {
        self.keys * self.all_bytes.div_ceil(self.all_keys.max(1)) + self.new_bytes
    }
}

impl Sizes {
    fn of(&self, stream: &str) -> Size {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(stream).copied().unwrap_or_default()
    }

    fn change(&self, stream: &str, change: impl FnOnce(&mut Size)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(stream.to_owned()).or_default());
    }
}

impl Shared {
    pub(super) fn sequence(&self, revision: Revision, place: u64) -> u64 {
        ((self.ahead.load(Ordering::Relaxed) + revision) << INDEX_BITS) + place
    }

    /// The revision that a sequence number stands for; 0 if it is older than what is here.
    fn revision_of_sequence(&self, sequence: u64) -> Revision {
        (sequence >> INDEX_BITS).saturating_sub(self.ahead.load(Ordering::Relaxed))
    }

    /// Refuses what would fill a stream beyond its bound, and counts it otherwise.
    pub(super) async fn check_outbox(&self, commit: &Commit, limit: OutboxLimit) -> Result<(), StoreError> {
        let mut appended: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for op in &commit.ops {
            if let Op::Append { stream, payload } = op {
                let (entries, bytes) = appended.entry(stream).or_default();
                *entries += 1;
                *bytes += payload.len() as u64;
            }
        }
        for (stream, (entries, bytes)) in &appended {
            let mut size = self.sizes.of(stream);
            if size.counted.is_none_or(|counted| counted.elapsed() > COUNT_AGE) {
                let keys = self.count(self.space.stream(stream)).await?;
                self.sizes.change(stream, |size| {
                    (size.counted, size.keys, size.new_entries, size.new_bytes) = (Some(Instant::now()), keys, 0, 0);
                });
                size = self.sizes.of(stream);
            }
            if size.entries() + entries > limit.entries as u64 || size.bytes() + bytes > limit.bytes as u64 {
                return Err(StoreError::OutboxFull { stream: (*stream).to_owned() });
            }
        }
        for (stream, (entries, bytes)) in appended {
            self.sizes.change(stream, |size| {
                size.new_entries += entries;
                size.new_bytes += bytes;
                size.all_keys += 1;
                size.all_entries += entries;
                size.all_bytes += bytes;
            });
        }
        Ok(())
    }

    pub(super) async fn count(&self, span: Span) -> Result<u64, StoreError> {
        let count = RangeRequest { key: span.start, range_end: span.end, count_only: true, ..RangeRequest::default() };
        Ok(self.members.ask(&count).await?.count.cast_unsigned())
    }

    pub(super) async fn outbox(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let span = self.space.stream(stream);
        let mut found = Vec::new();
        let mut from = self.revision_of_sequence(after);
        while found.len() < limit {
            let page = RangeRequest {
                key: span.start.clone(),
                range_end: span.end.clone(),
                limit: (limit - found.len()).min(PAGE).cast_signed() as i64,
                sort_order: rpc::ASCENDING,
                sort_target: rpc::SORT_BY_CREATE,
                min_create_revision: i64::try_from(from).unwrap_or(i64::MAX),
                ..RangeRequest::default()
            };
            let page = self.members.ask(&page).await?;
            for kv in page.kvs {
                let created = kv.create_revision.cast_unsigned();
                let entries = entries(self.sequence(created, 0), kv.value)
                    .ok_or_else(|| StoreError::Corrupt(format!("an entry of the outbox '{stream}' is cut off")))?;
                found.extend(entries.into_iter().filter(|entry| entry.sequence > after));
                from = created + 1;
            }
            if !page.more {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Removes whole keys first, then what is trimmed of the last one.
    pub(super) async fn outbox_trim(&self, stream: &str, through: u64) -> Result<(), StoreError> {
        let span = self.space.stream(stream);
        let last = self.revision_of_sequence(through);
        if last == 0 {
            return Ok(());
        }
        let keys = RangeRequest {
            key: span.start.clone(),
            range_end: span.end.clone(),
            keys_only: true,
            max_create_revision: i64::try_from(last.saturating_sub(1)).unwrap_or(i64::MAX),
            ..RangeRequest::default()
        };
        // No upper bound is written as 0.
        let mut gone: Vec<_> = if last > 1 {
            self.members.ask(&keys).await?.kvs.into_iter().map(|kv| kv.key).collect()
        } else {
            Vec::new()
        };
        let bound = i64::try_from(last).unwrap_or(i64::MAX);
        let partly = RangeRequest {
            key: span.start,
            range_end: span.end,
            min_create_revision: bound,
            max_create_revision: bound,
            ..RangeRequest::default()
        };
        for kv in self.members.ask(&partly).await?.kvs {
            let mut left = entries(self.sequence(last, 0), kv.value).unwrap_or_default();
            left.retain(|entry| entry.sequence > through);
            match rest(&left) {
                None => gone.push(kv.key),
                Some(value) => {
                    // Whoever trimmed further meanwhile has the last word.
                    let compare = rpc::Compare {
                        result: rpc::EQUAL,
                        target: rpc::MOD_REVISION,
                        key: kv.key.clone(),
                        mod_revision: Some(kv.mod_revision),
                        range_end: Bytes::new(),
                    };
                    let put = PutRequest { key: kv.key, value: value.into(), ..PutRequest::default() };
                    let success = vec![Request::Put(put).into()];
                    self.members.ask(&TxnRequest { compare: vec![compare], success, failure: Vec::new() }).await?;
                }
            }
        }
        for keys in gone.chunks(MAX_OPERATIONS) {
            let success = keys
                .iter()
                .map(|key| Request::Delete(DeleteRangeRequest { key: key.clone(), range_end: Bytes::new() }).into());
            let request = TxnRequest { success: success.collect(), ..TxnRequest::default() };
            self.members.ask(&request).await?;
        }
        self.sizes.change(stream, |size| size.counted = None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_numbered_also_when_some_are_gone() {
        let mut appends = Appends::default();
        for payload in ["one", "", "three"] {
            appends.add("audit", payload.as_bytes());
        }
        let (_, stored) = appends.into_values().next().unwrap();
        let all = entries(7 << INDEX_BITS, stored.clone().into()).unwrap();
        assert_eq!(all.iter().map(|e| e.sequence & 0xfff).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(all.iter().map(|e| &e.payload[..]).collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        assert_eq!(entries(7 << INDEX_BITS, rest(&all[1..]).unwrap().into()).unwrap(), all[1..]);
        assert_eq!(rest(&[]), None);
        assert!(entries(7 << INDEX_BITS, stored[..stored.len() - 1].to_vec().into()).is_none(), "cut off");
    }
}
