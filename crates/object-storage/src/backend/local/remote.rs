//! Bytes of larger contents in a foreign S3.
//!
//! ```text
//! key: terroir/<number of this store>/<number of the content>     bytes: sealed (see `encryption::body`)
//! ```
//! Index, versions and small objects stay here; the foreign store sees numbers and sealed bytes. What is sent goes in
//! pieces that are held in memory, so that each can be sent again. A content counts once the index names it: what is sent
//! and never named is removed when the write fails, or, after a crash, by the sweep of the next start.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use terroir_types::IdSource;
use tokio::runtime::Handle;

use super::files::{ContentId, epoch_of};
use super::{Inner, garbage};
use crate::backend::{BackendError, BoxError, ByteStream, Content, PartOfObject};
use crate::encryption::{DataKey, Sealer, body, sealed_size};
use crate::foreign::{ForeignS3, Part};
use crate::outbound::OutboundError;

/// What is sent in one request.
const PIECE: usize = 8 << 20;
/// The largest copy that one request may make there.
const MAX_COPY: u64 = 1 << 30;
const SALT: usize = 32;
/// Between attempts. With what a request may take, this bounds how long a client waits.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// A foreign bucket that keeps contents.
pub struct NewRemote {
    /// The target's name.
    pub name: String,
    pub foreign: ForeignS3,
    pub bucket: String,
    /// Seals what goes there.
    pub key: DataKey,
}

/// The same, in use. A cheap handle.
#[derive(Clone)]
pub(super) struct RemoteStore(Arc<Store>);

struct Store {
    remote: NewRemote,
    prefix: String,
    ids: Arc<dyn IdSource>,
    runtime: Handle,
}

/// What the index keeps of a content that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RemoteData {
    #[serde(rename = "t")]
    pub target: String,
    /// The first bytes of what is stored, so that reads need not fetch them.
    #[serde(rename = "s", with = "crate::settings::bytes_as_binary")]
    pub salt: Vec<u8>,
}

/// The foreign stores that are known, and the one that takes new contents.
#[derive(Clone, Default)]
pub(super) struct Remotes(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    by_name: BTreeMap<String, RemoteStore>,
    current: Option<String>,
}

impl Remotes {
    pub(super) fn add(&self, store: RemoteStore) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.by_name.insert(store.0.remote.name.clone(), store);
    }

    pub(super) fn set_current(&self, name: Option<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).current = name;
    }

    /// None: new contents stay here.
    ///
    /// # Errors
    /// `Away` if the one that takes them is not known.
    pub(super) fn current(&self) -> Result<Option<RemoteStore>, BackendError> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.current.as_ref().map(|name| find(&known, name)).transpose()
    }

    /// # Errors
    /// `Away` if it is not known.
    pub(super) fn get(&self, name: &str) -> Result<RemoteStore, BackendError> {
        find(&self.0.read().unwrap_or_else(PoisonError::into_inner), name)
    }
}

fn find(known: &Known, name: &str) -> Result<RemoteStore, BackendError> {
    let unknown = || BackendError::Away { slow: false, detail: format!("the target {name} is not known") };
    known.by_name.get(name).cloned().ok_or_else(unknown)
}

fn passes(error: &OutboundError) -> bool {
    match error {
        OutboundError::Unreachable(_) => true,
        OutboundError::Answered(status) | OutboundError::Refused { status, .. } => {
            status.is_server_error() || matches!(status.as_u16(), 408 | 429)
        }
        OutboundError::Impossible(_) => false,
    }
}

impl RemoteStore {
    /// `number`: of this store, so that several may share a bucket.
    pub(super) fn new(remote: NewRemote, number: u64, ids: Arc<dyn IdSource>) -> Self {
        let prefix = format!("terroir/{number:016x}/");
        Self(Arc::new(Store { remote, prefix, ids, runtime: Handle::current() }))
    }

    fn key_of(&self, id: ContentId) -> String {
        format!("{}{id:016x}", self.0.prefix)
    }

    fn id_of(&self, key: &str) -> Option<ContentId> {
        let digits = key.strip_prefix(&self.0.prefix).filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// Tries a few times.
    async fn ask<T, F: Future<Output = Result<T, OutboundError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, BackendError> {
        let mut pauses = PAUSES.iter();
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if passes(&error) => tokio::time::sleep(*pause).await,
                _ => return Err(self.away(&error)),
            }
        }
    }

    fn away(&self, error: &OutboundError) -> BackendError {
        let slow = matches!(error, OutboundError::Refused { code, .. } if code == "SlowDown");
        BackendError::Away { slow, detail: format!("{}: {error}", self.0.remote.name) }
    }

    pub(super) fn write(&self, id: ContentId) -> RemoteWriter {
        let sealer = Sealer::new(&self.0.remote.key, &*self.0.ids);
        RemoteWriter { store: self.clone(), id, sealer, buffer: Vec::new(), salt: Vec::new(), sending: None }
    }

    /// A second content with the same bytes; `size`: of the plain ones.
    pub(super) async fn copy(
        &self,
        from: ContentId,
        to: ContentId,
        size: u64,
    ) -> Result<RemoteUnfinished, BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        let (from, key, stored) = (self.key_of(from), self.key_of(to), sealed_size(size));
        let unfinished = RemoteUnfinished { store: self.clone(), id: to, kept: false };
        if stored <= MAX_COPY {
            self.ask(|| foreign.copy(bucket, &from, &key)).await?;
            return Ok(unfinished);
        }
        let mut sending = Sending::begin(self, to).await?;
        let mut start = 0;
        while start < stored {
            let (range, number) = (start..(start + MAX_COPY).min(stored), sending.next_number()?);
            let upload = sending.upload.clone();
            let copied = self.ask(|| foreign.copy_part(bucket, &key, &upload, number, &from, range.clone()));
            sending.parts.push(Part { number, etag: copied.await? });
            start = range.end;
        }
        sending.complete().await?;
        Ok(unfinished)
    }

    /// Plain bytes of a content with so many. Blocks.
    pub(super) fn read(
        &self,
        id: ContentId,
        data: &RemoteData,
        size: u64,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, BackendError> {
        let content = Arc::new(RemoteContent { store: self.clone(), id, salt: Bytes::copy_from_slice(&data.salt) });
        let opened = body::open(content, self.0.remote.key.clone(), &[size], range);
        let read = self.0.runtime.block_on(opened.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        }));
        read.map_err(|error| match error.downcast::<BackendError>() {
            Ok(error) => *error,
            Err(error) => BackendError::Damaged(error.to_string()),
        })
    }

    /// What is gone already is no error.
    pub(super) async fn remove(&self, id: ContentId) -> Result<(), BackendError> {
        let key = self.key_of(id);
        self.ask(|| self.0.remote.foreign.delete(&self.0.remote.bucket, &key)).await
    }

    /// Removes what earlier starts have sent and the index never named; gives the number of objects and uploads.
    pub(super) async fn sweep(&self, inner: &Arc<Inner>) -> Result<u64, BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        let (prefix, current) = (&self.0.prefix, inner.epoch);
        let is_suspect = |id: &ContentId| epoch_of(*id) < current;
        let (mut removed, mut after) = (0, String::new());
        loop {
            let (keys, more) = self.ask(|| foreign.list(bucket, prefix, &after)).await?;
            let suspects: Vec<_> = keys.iter().filter_map(|key| self.id_of(key)).filter(is_suspect).collect();
            for id in inner.index.read(move |c| garbage::unnamed(c, suspects)).await? {
                self.remove(id).await?;
                removed += 1;
            }
            match keys.last() {
                Some(last) if more => after.clone_from(last),
                _ => break,
            }
        }
        loop {
            let uploads = self.ask(|| foreign.list_uploads(bucket, prefix)).await?;
            let suspects: Vec<_> =
                uploads.iter().filter(|(key, _)| self.id_of(key).as_ref().is_some_and(is_suspect)).collect();
            if suspects.is_empty() {
                return Ok(removed);
            }
            for (key, upload) in suspects {
                self.ask(|| foreign.abort_upload(bucket, key, upload)).await?;
                removed += 1;
            }
        }
    }
}

/// A content that was sent and that nothing names yet; it is removed unless [`Self::keep`] is called.
pub(super) struct RemoteUnfinished {
    store: RemoteStore,
    id: ContentId,
    kept: bool,
}

impl RemoteUnfinished {
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for RemoteUnfinished {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (store, id) = (self.store.clone(), self.id);
        self.store.0.runtime.spawn(async move {
            if let Err(error) = store.remove(id).await {
                tracing::warn!(%error, id, "an unfinished content was not removed; the next start does it");
            }
        });
    }
}

/// An upload in parts.
struct Sending {
    store: RemoteStore,
    key: String,
    upload: String,
    parts: Vec<Part>,
    completed: bool,
}

impl Sending {
    async fn begin(store: &RemoteStore, id: ContentId) -> Result<Self, BackendError> {
        let NewRemote { foreign, bucket, .. } = &store.0.remote;
        let key = store.key_of(id);
        let upload = store.ask(|| foreign.create_upload(bucket, &key, http::HeaderMap::new())).await?;
        Ok(Self { store: store.clone(), key, upload, parts: Vec::new(), completed: false })
    }

    fn next_number(&self) -> Result<u16, BackendError> {
        u16::try_from(self.parts.len() + 1).ok().filter(|number| *number <= 10_000).ok_or(BackendError::TooLarge)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), BackendError> {
        let number = self.next_number()?;
        let NewRemote { foreign, bucket, .. } = &self.store.0.remote;
        let sent = self.store.ask(|| foreign.put_part(bucket, &self.key, &self.upload, number, piece.clone()));
        let etag = sent.await?;
        self.parts.push(Part { number, etag });
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.store.0.remote;
        self.store.ask(|| foreign.complete_upload(bucket, &self.key, &self.upload, &self.parts)).await?;
        self.completed = true;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let (store, key, upload) = (self.store.clone(), self.key.clone(), self.upload.clone());
        self.store.0.runtime.spawn(async move {
            let NewRemote { foreign, bucket, .. } = &store.0.remote;
            // What fails here, the sweep of the next start does.
            let _ = store.ask(|| foreign.abort_upload(bucket, &key, &upload)).await;
        });
    }
}

/// A content that is being sent.
pub(super) struct RemoteWriter {
    store: RemoteStore,
    id: ContentId,
    sealer: Sealer,
    /// Sealed and not yet sent.
    buffer: Vec<u8>,
    salt: Vec<u8>,
    sending: Option<Sending>,
}

impl RemoteWriter {
    pub(super) async fn write(&mut self, plain: &[u8]) -> Result<(), BackendError> {
        self.sealer.update(plain, &mut self.buffer)?;
        self.note_salt();
        while self.buffer.len() > PIECE {
            let piece = Bytes::copy_from_slice(&self.buffer[..PIECE]);
            self.buffer.drain(..PIECE);
            let sending = match &mut self.sending {
                Some(sending) => sending,
                none => none.insert(Sending::begin(&self.store, self.id).await?),
            };
            sending.send(piece).await?;
        }
        Ok(())
    }

    fn note_salt(&mut self) {
        if self.salt.is_empty() && self.buffer.len() >= SALT {
            self.salt = self.buffer[..SALT].to_vec();
        }
    }

    /// Returns once all of it is there.
    pub(super) async fn finish(mut self) -> Result<(RemoteData, RemoteUnfinished), BackendError> {
        let mut rest = std::mem::take(&mut self.buffer);
        let Self { store, id, sealer, mut salt, sending, .. } = self;
        sealer.finish(&mut rest)?;
        if salt.is_empty() {
            salt = rest.get(..SALT).map(<[u8]>::to_vec).unwrap_or_default();
        }
        let unfinished = RemoteUnfinished { store: store.clone(), id, kept: false };
        let rest = Bytes::from(rest);
        match sending {
            Some(mut sending) => {
                sending.send(rest).await?;
                sending.complete().await?;
            }
            None => {
                let NewRemote { foreign, bucket, .. } = &store.0.remote;
                let key = store.key_of(id);
                store.ask(|| foreign.put(bucket, &key, http::HeaderMap::new(), rest.clone())).await?;
            }
        }
        Ok((RemoteData { target: store.0.remote.name.clone(), salt }, unfinished))
    }
}

/// What is stored there, as it is.
struct RemoteContent {
    store: RemoteStore,
    id: ContentId,
    salt: Bytes,
}

impl Content for RemoteContent {
    fn stream(&self, range: Range<u64>) -> ByteStream {
        if range == (0..SALT as u64) {
            return Box::pin(stream::iter([Ok(self.salt.clone())]));
        }
        let (store, key) = (self.store.clone(), self.store.key_of(self.id));
        let fetched = async move {
            let NewRemote { foreign, bucket, .. } = &store.0.remote;
            let fetched = store.ask(|| foreign.get_range(bucket, &key, range.clone())).await;
            fetched.map_err(|error| match error {
                BackendError::Away { detail, .. } if detail.contains("NoSuchKey") => BackendError::Damaged(detail),
                error => error,
            })
        };
        Box::pin(stream::once(fetched).map(|fetched| fetched.map_err(BoxError::from)))
    }

    fn parts(&self) -> &[PartOfObject] {
        &[]
    }
}
