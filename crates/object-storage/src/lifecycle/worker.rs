//! Doing what lifecycle rules say.
//!
//! Once a day the worker passes over each bucket that has rules, page by page, and writes down how far it is; a process
//! that ends in between goes on from there. Nothing depends on when it looks: what a rule names is due from a midnight
//! on. A deletion names the very write that was judged, so that what is written meanwhile is never hit; object lock
//! is not passed over.

use futures::StreamExt;
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use terroir_store::{Store, Txn};
use terroir_types::{Clock, Error, Timestamp};

use super::{Day, Facts, LifecycleRules, Progress};
use crate::backend::{
    BackendError, BucketId, Delete, ListUploads, ListVersions, ListedVersion, ObjectBackend, Place, StringMap,
    UploadEntry, VersionEntry, WriteCondition,
};
use crate::notification::{Cause, Event, NotificationRules};
use crate::{settings, versioning};

/// Between two looks whether something is due.
const PAUSE: Duration = Duration::from_secs(60);
const PAGE: usize = 1000;
/// Deletions at once; they share commits.
const AT_ONCE: usize = 64;
/// Pages after which the progress is written down.
const PAGES_PER_NOTE: usize = 32;

/// What one pass over a bucket did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Objects that ended, by removal or by a delete marker.
    pub expired: u64,
    /// Noncurrent versions that were removed.
    pub removed: u64,
    /// Delete markers that hid nothing any more.
    pub markers: u64,
    pub aborted_uploads: u64,
    /// Versions that object lock keeps.
    pub kept: u64,
}

/// The worker. A cheap handle.
#[derive(Clone)]
pub struct Lifecycle {
    store: Store,
    backend: Arc<dyn ObjectBackend>,
    clock: Arc<dyn Clock>,
    day: Day,
}

/// What is to be deleted, of which version.
struct Deletion {
    version: ListedVersion,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Expire,
    Remove,
    Marker,
}

/// The key whose versions come just now.
#[derive(Default)]
struct KeySoFar {
    key: String,
    /// Its newest version, if that is a delete marker.
    marker: Option<ListedVersion>,
    noncurrent: u64,
    /// Versions beside the newest that stay.
    others: bool,
}

impl Lifecycle {
    pub fn new(store: Store, backend: Arc<dyn ObjectBackend>, clock: Arc<dyn Clock>, day: Day) -> Self {
        Self { store, backend, clock, day }
    }

    /// Looks again and again until `stop` is ready.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(PAUSE.min(self.day.0 / 2)) => {}
            }
            tokio::select! {
                () = &mut stop => return,
                result = self.tick() => if let Err(error) = result {
                    tracing::warn!(%error, detail = error.internal_detail(), "lifecycle rules were not all followed; it is tried again");
                },
            }
        }
    }

    /// Does what is due in all buckets; says what it did where it did something.
    ///
    /// # Errors
    /// Those of the first bucket that had one; the others were done all the same.
    pub async fn tick(&self) -> Result<Vec<(BucketId, Pass)>, Error> {
        let txn = self.store.read().await?;
        let buckets = settings::all::<LifecycleRules>(&txn)?;
        drop(txn);
        let (mut done, mut failure) = (Vec::new(), None);
        for (bucket, rules) in buckets {
            match self.bucket(bucket, &rules).await {
                Ok(Some(pass)) => {
                    tracing::info!(%bucket, ?pass, "followed the lifecycle rules of a bucket");
                    done.push((bucket, pass));
                }
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(done), Err)
    }

    /// None: today's pass is done already.
    async fn bucket(&self, bucket: BucketId, rules: &LifecycleRules) -> Result<Option<Pass>, Error> {
        let now = self.clock.now();
        let today = self.day.number(now);
        let txn = self.store.read().await?;
        let progress = settings::peek::<Progress>(&txn, bucket)?.filter(|progress| progress.day == today);
        drop(txn);
        let mut after = String::new();
        if let Some(progress) = progress {
            let Some(begun) = progress.after else { return Ok(None) };
            after = begun;
        }
        let mut pass = Pass::default();
        if rules.has_versions() {
            self.versions(bucket, rules, now, after, &mut pass).await?;
        }
        if rules.has_uploads() {
            self.uploads(bucket, rules, now, &mut pass).await?;
        }
        self.note(bucket, rules, today, None).await?;
        Ok(Some(pass))
    }

    /// Unless the rules have changed meanwhile: then the next look begins anew.
    async fn note(
        &self,
        bucket: BucketId,
        rules: &LifecycleRules,
        day: i64,
        after: Option<String>,
    ) -> Result<(), Error> {
        let progress = Progress { day, after };
        let write = |txn: &mut Txn| {
            if settings::get::<LifecycleRules>(txn, bucket)?.as_ref() == Some(rules) {
                settings::put_beside::<LifecycleRules, _>(txn, bucket, &progress)?;
            }
            Ok(())
        };
        self.store.transact(&[], write).await.map(drop)
    }

    async fn versions(
        &self,
        bucket: BucketId,
        rules: &LifecycleRules,
        now: Timestamp,
        after: String,
        pass: &mut Pass,
    ) -> Result<(), Error> {
        let mut list = ListVersions { after, limit: PAGE, with_meta: true, ..ListVersions::default() };
        let mut so_far = KeySoFar::default();
        for page in 1_usize.. {
            let listing = self.backend.list_versions(bucket, list.clone()).await?;
            let versions = listing.entries.into_iter().filter_map(|entry| match entry {
                VersionEntry::Version(version) => Some(version),
                VersionEntry::Prefix(_) => None,
            });
            let (mut deletions, mut ended) = (Vec::new(), Vec::new());
            for version in versions {
                if version.key != so_far.key {
                    let next = KeySoFar { key: version.key.clone(), ..KeySoFar::default() };
                    ended.push(std::mem::replace(&mut so_far, next));
                }
                deletions.extend(self.judge(rules, version, &mut so_far, now));
            }
            let last = listing.next.is_none();
            let failed = self.delete(bucket, deletions, pass).await?;
            so_far.others |= failed.contains(&so_far.key);
            if last {
                ended.push(std::mem::take(&mut so_far));
            }
            let markers = ended.into_iter().filter(|key| !key.others && !failed.contains(&key.key));
            let markers = markers
                .filter_map(|key| key.marker)
                .filter(|marker| rules.removes_marker(facts(marker, &StringMap::new()), now, self.day));
            let markers = markers.map(|version| Deletion { version, kind: Kind::Marker }).collect();
            self.delete(bucket, markers, pass).await?;
            let Some((key, version)) = listing.next else { return Ok(()) };
            // Only whole keys are done: of the one in work, what comes before it.
            if page.is_multiple_of(PAGES_PER_NOTE) && key != list.after {
                self.note(bucket, rules, self.day.number(now), Some(list.after)).await?;
            }
            (list.after, list.version) = (key, version);
        }
        Ok(())
    }

    /// What is to be done with a version; the newest of a key comes first.
    fn judge(
        &self,
        rules: &LifecycleRules,
        version: ListedVersion,
        so_far: &mut KeySoFar,
        now: Timestamp,
    ) -> Option<Deletion> {
        let none = StringMap::new();
        let meta = version.object.as_ref().and_then(|object| object.meta.clone());
        let facts = facts(&version, meta.as_ref().map_or(&none, |meta| &meta.tags));
        let Some(since) = version.noncurrent_since else {
            if version.object.is_none() {
                so_far.marker = Some(version);
                return None;
            }
            let due = rules.expiry(facts, self.day).is_some_and(|(at, _)| at <= now);
            return due.then_some(Deletion { version, kind: Kind::Expire });
        };
        let newer = so_far.noncurrent;
        so_far.noncurrent += 1;
        if rules.removes_noncurrent(facts, since, newer, now, self.day) {
            return Some(Deletion { version, kind: Kind::Remove });
        }
        so_far.others = true;
        None
    }

    /// Gives the keys of what is still there.
    async fn delete(
        &self,
        bucket: BucketId,
        deletions: Vec<Deletion>,
        pass: &mut Pass,
    ) -> Result<HashSet<String>, Error> {
        let mut failed = HashSet::new();
        if deletions.is_empty() {
            return Ok(failed);
        }
        let txn = self.store.stale();
        let versioning = versioning::versioning(&txn, bucket)?;
        let telling = settings::peek_shared::<NotificationRules>(&txn, bucket)?;
        let (txn, telling) = (&txn, telling.as_deref());
        let mut results = futures::stream::iter(deletions)
            .map(|Deletion { version, kind }| async move {
                let notes = telling
                    .map_or(Ok(Vec::new()), |rules| rules.notes(txn, &version.key, &Event::BY_RULE, Cause::SERVICE));
                let notes = match notes {
                    Ok(notes) => notes,
                    Err(error) => return (version.key, kind, Err(BackendError::Refused(error))),
                };
                let delete = Delete {
                    version: (kind != Kind::Expire).then_some(version.version),
                    condition: WriteCondition::Unchanged(version.stamp),
                    versioning,
                    bypass: false,
                    notes,
                };
                let result = self.backend.delete(&Place::new(bucket, version.key.as_str()), delete).await;
                (version.key, kind, result)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((key, kind, result)) = results.next().await {
            match result {
                Ok(_) => {
                    *match kind {
                        Kind::Expire => &mut pass.expired,
                        Kind::Remove => &mut pass.removed,
                        Kind::Marker => &mut pass.markers,
                    } += 1;
                }
                Err(BackendError::Locked) => {
                    pass.kept += 1;
                    failed.insert(key);
                }
                // Somebody was here meanwhile.
                Err(BackendError::PreconditionFailed(_) | BackendError::NoSuchKey) => drop(failed.insert(key)),
                // One that cannot be read does not keep the others from ending.
                Err(error @ BackendError::Damaged(_)) => {
                    tracing::error!(%bucket, %error, "a version could not be removed");
                    failed.insert(key);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(failed)
    }

    async fn uploads(
        &self,
        bucket: BucketId,
        rules: &LifecycleRules,
        now: Timestamp,
        pass: &mut Pass,
    ) -> Result<(), Error> {
        let mut list = ListUploads { limit: PAGE, ..ListUploads::default() };
        loop {
            let listing = self.backend.list_uploads(bucket, list.clone()).await?;
            for entry in listing.entries {
                let UploadEntry::Upload(upload) = entry else { continue };
                if rules.abortion(&upload.key, upload.initiated, self.day).is_some_and(|(at, _)| at <= now) {
                    match self.backend.abort_upload(&Place::new(bucket, upload.key.as_str()), &upload.id).await {
                        Ok(()) => pass.aborted_uploads += 1,
                        Err(BackendError::NoSuchUpload) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                (list.key_marker, list.id_marker) = (upload.key, upload.id);
            }
            if !listing.truncated {
                return Ok(());
            }
        }
    }
}

fn facts<'a>(version: &'a ListedVersion, tags: &'a StringMap) -> Facts<'a> {
    let bytes = version.object.as_ref().map(|object| (object.size, tags));
    Facts { key: &version.key, modified: version.modified, bytes }
}
