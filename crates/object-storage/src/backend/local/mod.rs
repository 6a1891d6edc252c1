//! Objects on this machine's disk. The format is described in `docs/object-format.md`.

mod adopt;
mod check;
mod files;
mod garbage;
mod index;
mod list;
mod list_versions;
mod multipart;
mod outbox;
mod reader;
mod remote;
mod replica;
mod rows;
mod schema;
mod scrub;
mod sums;
mod verify;
mod versions;
mod writer;

pub use remote::NewRemote;
pub use scrub::Scrubbed;
pub use verify::{Finding, FindingKind, Owner, Phase, PlaceStats, Progress, Report, Stats};

use async_trait::async_trait;
use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use terroir_types::{Clock, IdSource, Timestamp};
use tokio::sync::watch;

use self::files::{COUNTER_BITS, ContentId, Files, Unfinished};
use self::garbage::{Pin, Pins};
use self::index::Index;
use self::outbox::Fact;
use self::reader::{FileContent, InlineContent, Piece};
use self::remote::{RemoteData, RemoteStore, Remotes};
use self::rows::{Data, NewData, NewObject};
use self::sums::Sums;
use self::writer::{ReceivedBytes, blocking};
use super::{
    BackendError, BucketId, BucketUsage, ByteStream, CompleteUpload, Content, Delete, Deleted, List, ListUploads,
    ListVersions, Listing, LockChange, Lookup, MAX_PUT_SIZE, NewCopy, NewPart, NewUpload, Note, ObjectBackend,
    ObjectHead, ObjectMeta, OpenObject, Outcome, PartHead, PartOfObject, Place, Put, ReplicationStatus, Sealing,
    Source, StringMap, Upload, UploadListing, VersionId, VersionListing, Versioning, WriteCondition,
};
use crate::acl::Acl;
use crate::budget::DiskBudget;
use crate::encryption::sealed_size;

/// The local backend. A cheap handle.
#[derive(Clone)]
pub struct LocalBackend(Arc<Inner>);

struct Inner {
    index: Index,
    files: Files,
    pins: Arc<Pins>,
    budget: Arc<dyn DiskBudget>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// Number of this start of the process.
    epoch: u64,
    counter: AtomicU64,
    /// The latest place in the order of versions that was given out.
    seq: AtomicI64,
    outbox_bell: watch::Sender<u64>,
    remotes: Remotes,
}

/// Places in the order of versions within one millisecond.
const SEQ_BITS: u32 = 20;

impl Inner {
    fn next_content(&self) -> ContentId {
        self.epoch << COUNTER_BITS | self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Everything that is in the index has a lower number.
    fn first_content_to_come(&self) -> i64 {
        (self.epoch << COUNTER_BITS | self.counter.load(Ordering::Relaxed)).cast_signed()
    }

    /// Begins with the time, so that a version that was deleted lends its name to no later one, and rises.
    fn next_seq(&self) -> i64 {
        let random = (self.ids.next_u64() & ((1 << (SEQ_BITS - 1)) - 1)).cast_signed();
        let by_time = (self.clock.now().millis().max(0) << SEQ_BITS) | random;
        let later = |last: i64| Some(by_time.max(last + 1));
        match self.seq.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later) {
            Ok(last) | Err(last) => by_time.max(last + 1),
        }
    }

    fn admit(&self, bytes: u64) -> Result<(), BackendError> {
        if self.budget.admit(bytes) { Ok(()) } else { Err(BackendError::DiskFull) }
    }

    /// Whole seconds, as HTTP's dates have them.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.clock.now().secs())
    }

    fn ring_if(&self, garbage: bool) {
        if garbage {
            self.pins.bell.notify_one();
        }
    }

    fn ring_outbox_if(&self, kept: bool) {
        if kept {
            self.outbox_bell.send_modify(|rings| *rings += 1);
        }
    }
}

impl LocalBackend {
    /// Opens or makes the store in the folder `root`, and begins to remove what a crash left behind.
    ///
    /// # Errors
    /// `Io`, `Index`; a newer format is refused, and so is a folder that another process uses.
    pub async fn open(
        root: &Path,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        budget: Arc<dyn DiskBudget>,
    ) -> Result<Self, BackendError> {
        let root = root.to_owned();
        let (files, index) = blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
            let lock = index::lock(&root.join("lock"))?;
            let files = Files::open(&root.join("files"))?;
            let index = Index::open(&root.join("index.sqlite"), lock)?;
            std::fs::File::open(&root)?.sync_all()?;
            Ok((files, index))
        })
        .await?;
        let epoch = index
            .write(|c| {
                let epoch = rows::meta(c, rows::EPOCH)?.unwrap_or(0) + 1;
                rows::set_meta(c, rows::EPOCH, epoch)?;
                Ok(epoch.cast_unsigned())
            })
            .await?;
        let pins = Arc::new(Pins::default());
        let counter = AtomicU64::new(0);
        let seq = AtomicI64::new(0);
        let outbox_bell = watch::Sender::new(0);
        let inner = Arc::new(Inner {
            index,
            files,
            pins,
            budget,
            clock,
            ids,
            epoch,
            counter,
            seq,
            outbox_bell,
            remotes: Remotes::default(),
        });
        tokio::spawn(garbage::collect(Arc::downgrade(&inner), Arc::clone(&inner.pins)));
        let sweeping = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let Some(inner) = sweeping.upgrade() else { return };
            match garbage::sweep(inner).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed object files that were never finished"),
                Err(error) => tracing::warn!(%error, "unfinished object files remain; the next start looks again"),
            }
        });
        Ok(Self(inner))
    }

    /// Makes a foreign store known, whose contents can be read from here on, and removes in the background what earlier
    /// starts have left unfinished there.
    ///
    /// # Errors
    /// Those of the index.
    pub async fn add_remote(&self, remote: NewRemote) -> Result<(), BackendError> {
        let new = self.0.ids.next_u64() >> 1;
        let number = self.0.index.write(move |c| {
            if let Some(number) = rows::meta(c, rows::STORE)? {
                return Ok(number);
            }
            rows::set_meta(c, rows::STORE, new.cast_signed())?;
            Ok(new.cast_signed())
        });
        let store = RemoteStore::new(remote, number.await?.cast_unsigned(), Arc::clone(&self.0.ids));
        self.0.remotes.add(store.clone());
        let sweeping = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            // Until it answered once.
            loop {
                let Some(inner) = sweeping.upgrade() else { return };
                let swept = store.sweep(&inner).await;
                inner.ring_if(true);
                drop(inner);
                match swept {
                    Ok(0) => return,
                    Ok(removed) => {
                        tracing::info!(removed, "removed foreign contents that were never finished");
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "unfinished foreign contents may remain; they are looked for again")
                    }
                }
                tokio::time::sleep(garbage::RETRY).await;
            }
        });
        Ok(())
    }

    /// Where new contents go that are too large for the index; none: to the disk.
    pub fn set_current_remote(&self, name: Option<String>) {
        self.0.remotes.set_current(name);
    }

    /// The cell's own blobs stay here: hosts need them when nothing else answers.
    fn store_for(&self, at: &Place) -> Result<Option<RemoteStore>, BackendError> {
        if at.bucket == BucketId::SYSTEM { Ok(None) } else { self.0.remotes.current() }
    }

    /// Removes, and waits for it, what earlier processes left unfinished; gives the number of files. `open` does the
    /// same in the background.
    pub async fn sweep(&self) -> Result<u64, BackendError> {
        garbage::sweep(Arc::clone(&self.0)).await
    }

    /// Verifies a body and makes it an object.
    async fn put_received(&self, at: &Place, body: ByteStream, put: Put) -> Result<ObjectHead, BackendError> {
        let Put { meta, condition, versioning, lock, algorithms, verify, size, max_size, notes, sealing } = put;
        check_sealing(meta.encryption.is_some(), sealing.is_some())?;
        let (sealer, etag_key) = sealing.map_or((None, None), |sealing| (Some(sealing.sealer), sealing.etag_key));
        let store = self.store_for(at)?;
        self.0.admit(if store.is_none() { size.unwrap_or(0) } else { 0 })?;
        if size.is_some_and(|size| size > max_size) {
            return Err(BackendError::TooLarge);
        }
        if condition != WriteCondition::Always {
            // Refused early where it can be; decided again with the write.
            let (place, condition) = (at.clone(), condition.clone());
            self.0.index.look_up(move |c| versions::check_condition(c, &place, &condition)).await?;
        }
        let received = self.receive(body, &algorithms, max_size, true, sealer, store).await?;
        let checksum = verify(&received.digests).map_err(BackendError::Refused)?;
        let head = ObjectHead {
            size: received.digests.length,
            etag: Sealing::etag(etag_key, &received.digests),
            modified: self.0.now(),
            checksum,
            meta: Arc::new(meta),
            version: VersionId::null(),
            lock,
            parts: None,
        };
        let (content, data, unfinished) = match received.bytes {
            ReceivedBytes::Inline(bytes) => {
                let data = NewData::Inline(bytes.into(), Some(received.sums));
                (self.0.next_content(), data, Unfinished::none(&self.0.files))
            }
            ReceivedBytes::File(id, unfinished) => (id, NewData::File(Some(received.sums)), unfinished),
            ReceivedBytes::Remote(id, data, unfinished) => (id, NewData::Remote(data, Some(received.sums)), unfinished),
        };
        let new = NewObject { content, data, head, seq: self.0.next_seq(), upload: None };
        self.commit(at, new, condition, versioning, notes, unfinished).await
    }

    async fn commit(
        &self,
        at: &Place,
        mut new: NewObject,
        condition: WriteCondition,
        versioning: Versioning,
        notes: Vec<Note>,
        unfinished: Unfinished,
    ) -> Result<ObjectHead, BackendError> {
        let (place, now) = (at.clone(), self.0.clock.now());
        let written = self
            .0
            .index
            .write_guarded(unfinished, move |c| {
                if outbox::is_full(c, &notes)? {
                    Arc::make_mut(&mut new.head.meta).replication = Some(ReplicationStatus::Failed);
                }
                let (version, garbage) = versions::put(c, &place, &new, &condition, versioning)?;
                new.head.version = version;
                let kept = outbox::keep(c, &Fact::written(&place, &new.head, now), &notes)?;
                Ok((new.head, garbage, kept))
            })
            .await;
        let (head, garbage, kept) = written?;
        self.0.ring_if(garbage);
        self.0.ring_outbox_if(kept);
        Ok(head)
    }

    async fn change_meta(
        &self,
        at: &Place,
        version: Option<&VersionId>,
        notes: Vec<Note>,
        change: impl FnOnce(&mut ObjectMeta) + Send + 'static,
    ) -> Result<VersionId, BackendError> {
        let (place, version, now) = (at.clone(), version.cloned(), self.0.clock.now());
        let write = move |c: &rusqlite::Connection| {
            let copied = notes.iter().any(|note| note.on == Outcome::SourceChanged);
            let change = |meta: &mut ObjectMeta| {
                change(meta);
                if copied && meta.replication.is_some_and(ReplicationStatus::is_followed) {
                    meta.replication = Some(ReplicationStatus::Pending);
                }
            };
            let head = versions::change_meta(c, &place, version.as_ref(), change)?;
            let mut fact = Fact::written(&place, &head, now);
            let mut kept = outbox::keep(c, &fact, &notes)?;
            if head.meta.replication.is_some_and(ReplicationStatus::is_followed) {
                fact.outcome = Outcome::SourceChanged;
                kept |= outbox::keep(c, &fact, &notes)?;
            }
            Ok((head.version, kept))
        };
        let (version, kept) = self.0.index.write(write).await?;
        self.0.ring_outbox_if(kept);
        Ok(version)
    }

    /// Finds an object and pins what it is made of.
    async fn find(&self, at: &Place, version: Option<&VersionId>) -> Result<Lookup<Found>, BackendError> {
        let (place, version, inner) = (at.clone(), version.cloned(), Arc::clone(&self.0));
        self.0
            .index
            .look_up(move |c| {
                inner.pins.while_gate_is_open(|| {
                    let row = match versions::find(c, &place, version.as_ref())? {
                        Lookup::Found(row) => row,
                        Lookup::Marker(marker) => return Ok(Lookup::Marker(marker)),
                        Lookup::Missing => return Ok(Lookup::Missing),
                    };
                    let data = rows::content(c, row.content)?;
                    let ids = match &data {
                        Data::Inline(..) => Vec::new(),
                        Data::File => vec![row.content],
                        Data::Parts(parts) => parts.iter().map(|part| part.content).collect(),
                    };
                    let pin = Arc::new(inner.pins.pin(ids));
                    Ok(Lookup::Found(Found { content: row.content, head: row.head, data, pin }))
                })
            })
            .await
    }

    /// Gives the object's bytes a second owner: files by a second name, small ones by a copy. What lies where the copy may
    /// not be is written again, where new bytes go.
    async fn duplicate(
        &self,
        to: &Place,
        source: Found,
        keep_out: &BTreeSet<String>,
    ) -> Result<(ContentId, NewData, Unfinished), BackendError> {
        let stored = |size| if source.head.meta.encryption.is_some() { sealed_size(size) } else { size };
        let mut unfinished = Unfinished::none(&self.0.files);
        let (id, data) = match source.data {
            Data::Inline(bytes, sums) => (self.0.next_content(), NewData::Inline(bytes, sums)),
            Data::File => {
                let piece = Piece { id: source.content, size: stored(source.head.size) };
                let (id, remote, sums) = self.duplicate_one(to, piece, &source.pin, keep_out, &mut unfinished).await?;
                (id, remote.map_or(NewData::File(sums.clone()), |remote| NewData::Remote(remote, sums)))
            }
            Data::Parts(parts) => {
                let mut copies = Vec::with_capacity(parts.len());
                for part in parts {
                    let piece = Piece { id: part.content, size: stored(part.size) };
                    let copied = self.duplicate_one(to, piece, &source.pin, keep_out, &mut unfinished);
                    let (content, remote, sums) = copied.await?;
                    copies.push((PartOfObject { content, ..part }, remote, sums));
                }
                (self.0.next_content(), NewData::LinkedParts(copies))
            }
        };
        let (files, here) = (self.0.files.clone(), unfinished.ids().to_vec());
        blocking(move || Ok(files.sync_entries(&here)?)).await?;
        Ok((id, data, unfinished))
    }

    /// The same for one content; `pin` keeps it.
    async fn duplicate_one(
        &self,
        at: &Place,
        from: Piece,
        pin: &Arc<Pin>,
        keep_out: &BTreeSet<String>,
        unfinished: &mut Unfinished,
    ) -> Result<(ContentId, Option<RemoteData>, Option<Sums>), BackendError> {
        let read = move |c: &rusqlite::Connection| Ok((rows::remote(c, from.id)?, rows::sums(c, from.id)?));
        let (remote, sums) = self.0.index.read(read).await?;
        match remote {
            Some(data) if keep_out.contains(&data.target) => self.rewrite(at, from, pin, unfinished).await,
            Some(data) => {
                let to = self.0.next_content();
                let (copy, sent) = self.0.remotes.get(&data.target)?.copy(from.id, &data, to).await?;
                unfinished.add_remote(sent);
                Ok((to, Some(copy), sums))
            }
            None => {
                let (files, to) = (self.0.files.clone(), self.0.next_content());
                unfinished.add(blocking(move || Ok(files.link(from.id, to)?)).await?);
                Ok((to, None, sums))
            }
        }
    }

    async fn rewrite(
        &self,
        at: &Place,
        from: Piece,
        pin: &Arc<Pin>,
        unfinished: &mut Unfinished,
    ) -> Result<(ContentId, Option<RemoteData>, Option<Sums>), BackendError> {
        let content = FileContent {
            files: self.0.files.clone(),
            readers: Arc::clone(&self.0.index.readers),
            remotes: self.0.remotes.clone(),
            pieces: [from].into(),
            parts: Vec::new(),
            pin: Arc::clone(pin),
        };
        let bytes = content.stream(0..from.size);
        let received = self.receive(bytes, &[], u64::MAX, false, None, self.store_for(at)?).await;
        let received = received.map_err(|error| match error {
            BackendError::Body(error) => {
                error.downcast::<BackendError>().map_or_else(BackendError::Body, |error| *error)
            }
            error => error,
        })?;
        match received.bytes {
            ReceivedBytes::File(id, written) => {
                unfinished.add(written);
                Ok((id, None, Some(received.sums)))
            }
            ReceivedBytes::Remote(id, data, written) => {
                unfinished.add(written);
                Ok((id, Some(data), Some(received.sums)))
            }
            ReceivedBytes::Inline(_) => Err(BackendError::Damaged("a copy was not written to a file".into())),
        }
    }
}

/// An object with where its bytes are; they stay while this is held.
struct Found {
    content: ContentId,
    head: ObjectHead,
    data: Data,
    pin: Arc<Pin>,
}

/// What says how bytes are sealed goes with bytes that are.
fn check_sealing(encrypted: bool, sealed: bool) -> Result<(), BackendError> {
    if encrypted == sealed {
        return Ok(());
    }
    Err(BackendError::Refused(terroir_types::Error::internal("what is said of an encryption is not what is done")))
}

impl Found {
    /// What a second owner of its bytes takes of the index.
    fn inline_bytes(&self) -> u64 {
        if matches!(self.data, Data::Inline(..)) { self.head.size } else { 0 }
    }

    fn open(self, inner: &Inner) -> OpenObject {
        let sealed = self.head.meta.encryption.is_some();
        let stored = |size| if sealed { sealed_size(size) } else { size };
        let pieces = match &self.data {
            Data::Inline(..) => Vec::new(),
            Data::File => vec![Piece { id: self.content, size: stored(self.head.size) }],
            Data::Parts(parts) => {
                parts.iter().map(|part| Piece { id: part.content, size: stored(part.size) }).collect()
            }
        };
        let (files, readers, remotes) = (inner.files.clone(), Arc::clone(&inner.index.readers), inner.remotes.clone());
        let content: Box<dyn Content> = match self.data {
            Data::Inline(bytes, _) => Box::new(InlineContent(bytes)),
            Data::File => Box::new(FileContent {
                files,
                readers,
                remotes,
                pieces: pieces.into(),
                parts: Vec::new(),
                pin: self.pin,
            }),
            Data::Parts(parts) => {
                Box::new(FileContent { files, readers, remotes, pieces: pieces.into(), parts, pin: self.pin })
            }
        };
        OpenObject { head: self.head, content }
    }
}

#[async_trait]
impl ObjectBackend for LocalBackend {
    async fn close_bucket(&self, bucket: BucketId) -> Result<(), BackendError> {
        self.0.index.write(move |c| rows::close_bucket(c, bucket)).await
    }

    async fn settle_bucket(&self, bucket: BucketId, gone: bool) -> Result<(), BackendError> {
        self.0.index.write(move |c| rows::settle_bucket(c, bucket, gone)).await?;
        self.0.ring_if(gone);
        Ok(())
    }

    async fn closed_buckets(&self) -> Result<Vec<BucketId>, BackendError> {
        self.0.index.read(rows::closed_buckets).await
    }

    async fn put(&self, at: &Place, body: ByteStream, put: Put) -> Result<ObjectHead, BackendError> {
        self.put_received(at, body, put).await
    }

    async fn head(&self, at: &Place, version: Option<&VersionId>) -> Result<Lookup<ObjectHead>, BackendError> {
        let (place, version) = (at.clone(), version.cloned());
        self.0.index.look_up(move |c| Ok(versions::find(c, &place, version.as_ref())?.map(|row| row.head))).await
    }

    async fn open(&self, at: &Place, version: Option<&VersionId>) -> Result<Lookup<OpenObject>, BackendError> {
        Ok(self.find(at, version).await?.map(|found| found.open(&self.0)))
    }

    async fn copy(&self, from: &Source, to: &Place, copy: NewCopy) -> Result<ObjectHead, BackendError> {
        let found = self.find(&from.place, Some(&from.version)).await?.found();
        let found = found.filter(|found| found.head.etag == from.etag).ok_or(BackendError::SourceChanged)?;
        self.0.admit(found.inline_bytes())?;
        let NewCopy { meta, condition, versioning, lock, notes, keep_out } = copy;
        check_sealing(meta.encryption.is_some() || found.head.meta.encryption.is_some(), false)?;
        let head = ObjectHead {
            modified: self.0.now(),
            meta: Arc::new(meta),
            version: VersionId::null(),
            lock,
            ..found.head.clone()
        };
        let (content, data, unfinished) = self.duplicate(to, found, &keep_out).await?;
        let new = NewObject { content, data, head, seq: self.0.next_seq(), upload: None };
        self.commit(to, new, condition, versioning, notes, unfinished).await
    }

    async fn set_tags(
        &self,
        at: &Place,
        version: Option<&VersionId>,
        tags: StringMap,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError> {
        self.change_meta(at, version, notes, |meta| meta.tags = tags).await
    }

    async fn set_acl(
        &self,
        at: &Place,
        version: &VersionId,
        acl: Option<Acl>,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError> {
        self.change_meta(at, Some(version), notes, |meta| meta.acl = acl).await
    }

    async fn change_lock(
        &self,
        at: &Place,
        version: Option<&VersionId>,
        change: LockChange,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError> {
        let (place, version, now) = (at.clone(), version.cloned(), self.0.clock.now());
        let write = move |c: &rusqlite::Connection| versions::change_lock(c, &place, version.as_ref(), change, now);
        let changed = self.0.index.write(write).await?;
        if !notes.is_empty() {
            // What is copied is how it is when it is copied: it may be noted after it was changed.
            self.change_meta(at, Some(&changed), notes, |_| ()).await?;
        }
        Ok(changed)
    }

    async fn delete(&self, at: &Place, delete: Delete) -> Result<Deleted, BackendError> {
        let (place, seq, now) = (at.clone(), self.0.next_seq(), self.0.clock.now());
        let write = move |c: &rusqlite::Connection| {
            let (deleted, garbage) = versions::delete(c, &place, &delete, seq, now)?;
            let null = VersionId::null();
            let fact = Fact::deleted(&place, delete.version.is_some(), &deleted, &null, now);
            let kept = fact.map_or(Ok(false), |fact| outbox::keep(c, &fact, &delete.notes))?;
            Ok((deleted, garbage, kept))
        };
        let (deleted, garbage, kept) = self.0.index.write(write).await?;
        self.0.ring_if(garbage);
        self.0.ring_outbox_if(kept);
        Ok(deleted)
    }

    async fn list(&self, bucket: BucketId, list: List) -> Result<Listing, BackendError> {
        self.0.index.read(move |c| list::list(c, bucket, &list)).await
    }

    async fn list_versions(&self, bucket: BucketId, list: ListVersions) -> Result<VersionListing, BackendError> {
        self.0.index.read(move |c| list_versions::list(c, bucket, &list)).await
    }

    async fn usage(&self, bucket: BucketId) -> Result<BucketUsage, BackendError> {
        self.0.index.read(move |c| versions::usage(c, bucket)).await
    }

    async fn create_upload(&self, at: &Place, new: NewUpload) -> Result<Upload, BackendError> {
        self.0.admit(0)?;
        let now = self.0.now();
        // Begins with the time, so that uploads of one key are listed in the order in which they were begun.
        let id = format!("{:011x}{:032x}", self.0.clock.now().millis(), self.0.ids.next_u128());
        let upload = Upload { id, key: at.key.clone(), initiated: now, new };
        let (place, row) = (at.clone(), upload.clone());
        self.0.index.write(move |c| multipart::create(c, &place, &row)).await?;
        Ok(upload)
    }

    async fn upload(&self, at: &Place, id: &str) -> Result<Option<Upload>, BackendError> {
        let (place, id) = (at.clone(), id.to_owned());
        self.0.index.look_up(move |c| multipart::find(c, &place, &id)).await
    }

    async fn put_part(
        &self,
        at: &Place,
        upload: &str,
        body: ByteStream,
        part: NewPart,
    ) -> Result<PartHead, BackendError> {
        self.0.admit(0)?;
        let NewPart { number, algorithms, verify, sealing } = part;
        let sealed = sealing.is_some();
        let (sealer, etag_key) = sealing.map_or((None, None), |sealing| (Some(sealing.sealer), sealing.etag_key));
        let received = self.receive(body, &algorithms, MAX_PUT_SIZE, false, sealer, self.store_for(at)?).await?;
        let (content, data, unfinished) = match received.bytes {
            ReceivedBytes::File(id, unfinished) => (id, NewData::File(Some(received.sums)), unfinished),
            ReceivedBytes::Remote(id, data, unfinished) => (id, NewData::Remote(data, Some(received.sums)), unfinished),
            ReceivedBytes::Inline(_) => {
                return Err(BackendError::Damaged("a part was not written to a file".into()));
            }
        };
        let checksum = verify(&received.digests).map_err(BackendError::Refused)?;
        let part = PartHead {
            number,
            size: received.digests.length,
            etag: Sealing::etag(etag_key, &received.digests),
            modified: self.0.now(),
            checksum,
        };
        let (place, upload, row) = (at.clone(), upload.to_owned(), part.clone());
        let write = move |c: &rusqlite::Connection| {
            if let Some(upload) = multipart::find(c, &place, &upload)? {
                check_sealing(upload.new.meta.encryption.is_some(), sealed)?;
            }
            multipart::put_part(c, &place, &upload, content, &data, &row)
        };
        let garbage = self.0.index.write_guarded(unfinished, write).await?;
        self.0.ring_if(garbage);
        Ok(part)
    }

    async fn list_parts(
        &self,
        at: &Place,
        upload: &str,
        after: u16,
        limit: usize,
    ) -> Result<(Vec<PartHead>, bool), BackendError> {
        let (place, upload) = (at.clone(), upload.to_owned());
        self.0.index.read(move |c| multipart::parts(c, &place, &upload, after, limit)).await
    }

    async fn list_uploads(&self, bucket: BucketId, list: ListUploads) -> Result<UploadListing, BackendError> {
        self.0.index.read(move |c| multipart::list(c, bucket, &list)).await
    }

    async fn complete_upload(
        &self,
        at: &Place,
        upload: &str,
        complete: CompleteUpload,
    ) -> Result<ObjectHead, BackendError> {
        let (place, upload) = (at.clone(), upload.to_owned());
        let (content, seq, now) = (self.0.next_content(), self.0.next_seq(), self.0.now());
        let told_at = self.0.clock.now();
        let write = move |c: &rusqlite::Connection| {
            let completed = multipart::complete(c, &place, &upload, &complete, content, seq, now)?;
            let fact = Fact::written(&place, &completed.head, told_at);
            let kept = completed.is_new && outbox::keep(c, &fact, &complete.notes)?;
            Ok((completed.head, completed.garbage, kept))
        };
        let (head, garbage, kept) = self.0.index.write(write).await?;
        self.0.ring_if(garbage);
        self.0.ring_outbox_if(kept);
        Ok(head)
    }

    async fn abort_upload(&self, at: &Place, upload: &str) -> Result<(), BackendError> {
        let (place, upload) = (at.clone(), upload.to_owned());
        let garbage = self.0.index.write(move |c| multipart::abort(c, &place, &upload)).await?;
        self.0.ring_if(garbage);
        Ok(())
    }
}
