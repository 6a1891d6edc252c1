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
const MAX_COPY: u64 = 128 << 20;
const SALT: usize = 32;
/// For one piece, a whole copy or a range, with all attempts: a client waits no longer than its own patience.
const DEADLINE: Duration = Duration::from_secs(60);
/// Rounds of listing unfinished uploads, a thousand each.
const UPLOAD_ROUNDS: usize = 1000;
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
    /// What its key there ends with.
    #[serde(rename = "n")]
    pub nonce: u64,
    /// Before it was sealed.
    #[serde(rename = "l")]
    pub size: u64,
    /// The first bytes of what is stored, so that reads need not fetch them.
    #[serde(rename = "s", with = "crate::settings::bytes_as_binary")]
    pub salt: Vec<u8>,
}

/// What a content is called there. The second half is random, so that no name is used twice, whatever became of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub id: ContentId,
    pub nonce: u64,
}

impl Name {
    pub(super) fn new(id: ContentId, data: &RemoteData) -> Self {
        Self { id, nonce: data.nonce }
    }
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

    pub(super) fn all(&self) -> Vec<RemoteStore> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_name.values().cloned().collect()
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
        // Copies and completed uploads may fail with a status of success, and a slow sender gets 400.
        OutboundError::Refused { code, .. }
            if matches!(code.as_str(), "InternalError" | "RequestTimeout" | "ServiceUnavailable" | "SlowDown") =>
        {
            true
        }
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

    pub(super) fn name(&self) -> &str {
        &self.0.remote.name
    }

    fn key_of(&self, name: Name) -> String {
        format!("{}{:016x}-{:016x}", self.0.prefix, name.id, name.nonce)
    }

    /// None: it is not of our making.
    fn name_of(&self, key: &str) -> Option<Name> {
        let (id, nonce) = key.strip_prefix(&self.0.prefix)?.split_once('-')?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let name = Name { id: number(id)?, nonce: number(nonce)? };
        (self.key_of(name) == key).then_some(name)
    }

    /// Tries a few times, until the deadline.
    async fn try_ask<T, F: Future<Output = Result<T, OutboundError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, OutboundError> {
        let attempts = async {
            let mut pauses = PAUSES.iter();
            loop {
                let error = match ask().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                match pauses.next() {
                    Some(pause) if passes(&error) => tokio::time::sleep(*pause).await,
                    _ => return Err(error),
                }
            }
        };
        let late = |_| OutboundError::Unreachable("it did not answer in time".to_owned());
        tokio::time::timeout(DEADLINE, attempts).await.map_err(late)?
    }

    async fn ask<T, F: Future<Output = Result<T, OutboundError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, BackendError> {
        self.try_ask(ask).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &OutboundError) -> BackendError {
        let detail = format!("{}: {error}", self.0.remote.name);
        if !passes(error) {
            return BackendError::Foreign(detail);
        }
        let slow = matches!(error, OutboundError::Refused { code, status }
            if code == "SlowDown" || status.as_u16() == 429);
        BackendError::Away { slow, detail }
    }

    fn new_name(&self, id: ContentId) -> Name {
        Name { id, nonce: self.0.ids.next_u64() }
    }

    pub(super) fn write(&self, id: ContentId) -> RemoteWriter {
        let sealer = Sealer::new(&self.0.remote.key, &*self.0.ids);
        let name = self.new_name(id);
        RemoteWriter { store: self.clone(), name, sealer, buffer: Vec::new(), size: 0, salt: Vec::new(), sending: None }
    }

    /// A second content with the same bytes.
    pub(super) async fn copy(
        &self,
        from: ContentId,
        data: &RemoteData,
        to: ContentId,
    ) -> Result<(RemoteData, RemoteUnfinished), BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        let name = self.new_name(to);
        let (from, key, stored) = (self.key_of(Name::new(from, data)), self.key_of(name), sealed_size(data.size));
        let unfinished = RemoteUnfinished { store: self.clone(), name, kept: false };
        let copy = RemoteData { nonce: name.nonce, ..data.clone() };
        if stored <= MAX_COPY {
            self.ask(|| foreign.copy(bucket, &from, &key)).await?;
            return Ok((copy, unfinished));
        }
        let mut sending = Sending::begin(self, name).await?;
        while sending.sent < stored {
            let (range, number) = (sending.sent..(sending.sent + MAX_COPY).min(stored), sending.next_number()?);
            let upload = sending.upload.clone();
            let copied = self.ask(|| foreign.copy_part(bucket, &key, &upload, number, &from, range.clone()));
            sending.parts.push(Part { number, etag: copied.await? });
            sending.sent = range.end;
        }
        sending.complete().await?;
        Ok((copy, unfinished))
    }

    fn content(&self, id: ContentId, data: &RemoteData) -> RemoteContent {
        let salt = Bytes::copy_from_slice(&data.salt);
        RemoteContent { store: self.clone(), name: Name::new(id, data), salt }
    }

    /// Plain bytes of a content. Blocks.
    pub(super) fn read(&self, id: ContentId, data: &RemoteData, range: &Range<u64>) -> Result<Vec<u8>, BackendError> {
        let content = Arc::new(self.content(id, data));
        let opened = body::open(content, self.0.remote.key.clone(), &[data.size], range);
        let read = self.0.runtime.block_on(opened.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        }));
        read.map_err(|error| match error.downcast::<BackendError>() {
            Ok(error) => *error,
            Err(error) => BackendError::Damaged(error.to_string()),
        })
    }

    /// Whether a content is there and as long as it was, without reading it. Blocks.
    ///
    /// # Errors
    /// `Damaged`; `Away`, `Foreign`.
    pub(super) fn check(&self, id: ContentId, data: &RemoteData) -> Result<(), BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        let key = self.key_of(Name::new(id, data));
        let found = self.0.runtime.block_on(self.try_ask(|| foreign.head(bucket, &key)));
        match found {
            Ok(headers) if length(&headers) == Some(sealed_size(data.size)) => Ok(()),
            Ok(_) => Err(BackendError::Damaged(format!("{}: content {id:016x} is of another length", self.name()))),
            Err(OutboundError::Refused { status, .. }) if status.as_u16() == 404 => Err(self.gone(id)),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn gone(&self, id: ContentId) -> BackendError {
        BackendError::Damaged(format!("{}: content {id:016x} is gone", self.name()))
    }

    /// What is gone already is no error.
    pub(super) async fn remove(&self, name: Name) -> Result<(), BackendError> {
        let key = self.key_of(name);
        self.ask(|| self.0.remote.foreign.delete(&self.0.remote.bucket, &key)).await
    }

    /// What earlier starts have sent and the index never named, a page at a time: `after` is where to go on, which is
    /// empty at the start and none at the end.
    pub(super) async fn orphans(
        &self,
        inner: &Arc<Inner>,
        after: &str,
    ) -> Result<(Vec<Name>, Option<String>), BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        let (keys, more) = self.ask(|| foreign.list(bucket, &self.0.prefix, after)).await?;
        let names: Vec<_> = keys.iter().filter_map(|key| self.name_of(key)).collect();
        let suspects: Vec<_> = names.into_iter().filter(|name| epoch_of(name.id) < inner.epoch).collect();
        let orphans = inner.index.read(move |c| garbage::unnamed_elsewhere(c, suspects)).await?;
        Ok((orphans, keys.last().filter(|last| more && last.as_str() > after).cloned()))
    }

    /// Removes what earlier starts have sent and the index never named; gives the number of objects and uploads.
    pub(super) async fn sweep(&self, inner: &Arc<Inner>) -> Result<u64, BackendError> {
        let (mut removed, mut after) = (0, Some(String::new()));
        while let Some(from) = after {
            let (orphans, next) = self.orphans(inner, &from).await?;
            for name in orphans {
                self.remove(name).await?;
                removed += 1;
            }
            after = next;
        }
        let NewRemote { foreign, bucket, .. } = &self.0.remote;
        for _ in 0..UPLOAD_ROUNDS {
            let uploads = self.ask(|| foreign.list_uploads(bucket, &self.0.prefix)).await?;
            let is_suspect = |key: &str| self.name_of(key).is_some_and(|name| epoch_of(name.id) < inner.epoch);
            let suspects: Vec<_> = uploads.iter().filter(|(key, _)| is_suspect(key)).collect();
            if suspects.is_empty() {
                break;
            }
            for (key, upload) in suspects {
                match self.try_ask(|| foreign.abort_upload(bucket, key, upload)).await {
                    Err(OutboundError::Refused { status, .. }) if status.as_u16() == 404 => {}
                    aborted => aborted.map_err(|error| self.failed(&error))?,
                }
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A content that was sent and that nothing names yet; it is removed unless [`Self::keep`] is called.
pub(super) struct RemoteUnfinished {
    store: RemoteStore,
    name: Name,
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
        let (store, name) = (self.store.clone(), self.name);
        self.store.0.runtime.spawn(async move {
            if let Err(error) = store.remove(name).await {
                tracing::warn!(%error, id = name.id, "an unfinished content was not removed; the next start does it");
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
    /// Bytes of these.
    sent: u64,
    completed: bool,
}

impl Sending {
    async fn begin(store: &RemoteStore, name: Name) -> Result<Self, BackendError> {
        let NewRemote { foreign, bucket, .. } = &store.0.remote;
        let key = store.key_of(name);
        let upload = store.ask(|| foreign.create_upload(bucket, &key, http::HeaderMap::new())).await?;
        Ok(Self { store: store.clone(), key, upload, parts: Vec::new(), sent: 0, completed: false })
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
        self.sent += piece.len() as u64;
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), BackendError> {
        let NewRemote { foreign, bucket, .. } = &self.store.0.remote;
        let completed = self.store.try_ask(|| foreign.complete_upload(bucket, &self.key, &self.upload, &self.parts));
        match completed.await {
            // The answer to an earlier attempt may have been lost on its way.
            Err(OutboundError::Refused { status, .. }) if status.as_u16() == 404 => {
                let found = self.store.ask(|| foreign.head(bucket, &self.key)).await?;
                if length(&found) != Some(self.sent) {
                    return Err(BackendError::Foreign(format!("{}: an upload is gone", self.store.name())));
                }
            }
            completed => completed.map_err(|error| self.store.failed(&error))?,
        }
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
    name: Name,
    sealer: Sealer,
    /// Sealed and not yet sent.
    buffer: Vec<u8>,
    /// Plain bytes so far.
    size: u64,
    salt: Vec<u8>,
    sending: Option<Sending>,
}

impl RemoteWriter {
    pub(super) async fn write(&mut self, plain: &[u8]) -> Result<(), BackendError> {
        self.sealer.update(plain, &mut self.buffer)?;
        self.size += plain.len() as u64;
        self.note_salt();
        while self.buffer.len() > PIECE {
            let rest = self.buffer.split_off(PIECE);
            let piece = Bytes::from(std::mem::replace(&mut self.buffer, rest));
            let sending = match &mut self.sending {
                Some(sending) => sending,
                none => none.insert(Sending::begin(&self.store, self.name).await?),
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
        let Self { store, name, sealer, size, mut salt, sending, .. } = self;
        sealer.finish(&mut rest)?;
        if salt.is_empty() {
            salt = rest.get(..SALT).map(<[u8]>::to_vec).unwrap_or_default();
        }
        let unfinished = RemoteUnfinished { store: store.clone(), name, kept: false };
        let rest = Bytes::from(rest);
        match sending {
            Some(mut sending) => {
                sending.send(rest).await?;
                sending.complete().await?;
            }
            None => {
                let NewRemote { foreign, bucket, .. } = &store.0.remote;
                let key = store.key_of(name);
                store.ask(|| foreign.put(bucket, &key, http::HeaderMap::new(), rest.clone())).await?;
            }
        }
        Ok((RemoteData { target: store.name().to_owned(), nonce: name.nonce, size, salt }, unfinished))
    }
}

/// What is stored there, as it is.
struct RemoteContent {
    store: RemoteStore,
    name: Name,
    salt: Bytes,
}

impl Content for RemoteContent {
    fn stream(&self, range: Range<u64>) -> ByteStream {
        if range == (0..SALT as u64) {
            return Box::pin(stream::iter([Ok(self.salt.clone())]));
        }
        let (store, name, key) = (self.store.clone(), self.name, self.store.key_of(self.name));
        let fetched = async move {
            let NewRemote { foreign, bucket, .. } = &store.0.remote;
            let fetched = store.try_ask(|| foreign.get_range(bucket, &key, range.clone())).await;
            fetched.map_err(|error| match &error {
                OutboundError::Refused { status, code } if status.as_u16() == 404 && code == "NoSuchKey" => {
                    store.gone(name.id)
                }
                _ => store.failed(&error),
            })
        };
        Box::pin(stream::once(fetched).map(|fetched| fetched.map_err(BoxError::from)))
    }

    fn parts(&self) -> &[PartOfObject] {
        &[]
    }
}
