//! Copies in a foreign S3.
//!
//! They cannot keep their version's name there, so they say it: in their metadata stands which version of which bucket
//! they are. What is there already, or is newer, is not written again. The foreign bucket decides whether it keeps
//! versions of its own.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::replicator::{Inner, Obstacle, Subject};
use super::{Kind, Order};
use crate::backend::{BackendError, ByteStream, Entry, ObjectHead, OpenObject, VersionId};
use crate::encryption::{Method, body, keys};
use crate::foreign::{ForeignS3, Part};
use crate::outbound::OutboundError;
use crate::target::{ForeignBucket, S3Destination};

/// Which version a copy is of.
const VERSION: &str = "x-amz-meta-terroir-version-id";
/// What is sent in one request; also what is held in memory for each copy at work.
const PIECE: usize = 16 << 20;

pub(super) async fn copy(
    inner: &Inner,
    order: &Order,
    entry: &Entry,
    subject: Subject,
    s3: S3Destination,
) -> Result<(), Obstacle> {
    let (bucket, key) = match &s3.bucket {
        ForeignBucket::One(bucket) => (bucket.clone(), format!("{}/{}/{}", order.owner, order.bucket, entry.place.key)),
        ForeignBucket::Prefix(prefix) => (format!("{prefix}{}", order.bucket), entry.place.key.clone()),
    };
    let foreign = ForeignS3::new(inner.outbound.clone(), std::sync::Arc::clone(&inner.clock), s3);
    let known = match foreign.head(&bucket, &key).await {
        Ok(headers) => version_in(&headers),
        Err(OutboundError::Refused { status, .. }) if status.as_u16() == 404 => None,
        Err(error) => return Err(error.into()),
    };
    // Text of one length, which rises with the versions of a key.
    let is_newer = known.as_ref().is_some_and(|known| *known > entry.version);
    if is_newer {
        return Ok(());
    }
    match subject {
        // Nothing of ours is there.
        Subject::Marker(_) if known.is_none() => Ok(()),
        Subject::Marker(_) => Ok(foreign.delete(&bucket, &key).await?),
        Subject::Version(_) if order.kind == Kind::Change && known.as_ref() != Some(&entry.version) => Ok(()),
        Subject::Version(head) if known.as_ref() == Some(&entry.version) => {
            Ok(foreign.put_tags(&bucket, &key, &head.meta.tags).await?)
        }
        Subject::Version(head) => send(inner, &foreign, entry, head, &bucket, &key).await,
    }
}

fn version_in(headers: &HeaderMap) -> Option<VersionId> {
    headers.get(VERSION)?.to_str().ok().and_then(VersionId::parse).filter(|version| !version.is_null())
}

fn headers_of(head: &ObjectHead, version: &VersionId) -> Result<HeaderMap, Obstacle> {
    let meta = &head.meta;
    let mut named: Vec<(String, String)> =
        meta.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    named.extend(meta.user.iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone())));
    named.push((VERSION.to_owned(), version.to_string()));
    if !meta.tags.is_empty() {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let tags: Vec<_> =
            meta.tags.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        named.push(("x-amz-tagging".to_owned(), tags.join("&")));
    }
    if let Some(retention) = head.lock.retention {
        named.push(("x-amz-object-lock-mode".to_owned(), retention.mode.name().to_owned()));
        named.push(("x-amz-object-lock-retain-until-date".to_owned(), retention.until.to_rfc3339_seconds()));
    }
    if let Some(hold) = head.lock.legal_hold {
        named.push(("x-amz-object-lock-legal-hold".to_owned(), if hold { "ON" } else { "OFF" }.to_owned()));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        let unfit = || Obstacle::Always(format!("the header {name} cannot be sent"));
        let value = HeaderValue::from_str(&value).map_err(|_| unfit())?;
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?, value);
    }
    Ok(headers)
}

async fn send(
    inner: &Inner,
    foreign: &ForeignS3,
    entry: &Entry,
    head: ObjectHead,
    bucket: &str,
    key: &str,
) -> Result<(), Obstacle> {
    let headers = headers_of(&head, &entry.version)?;
    let Some(object) = inner.backend.open(&entry.place, Some(&entry.version)).await?.found() else { return Ok(()) };
    if object.head.etag != head.etag {
        return Err(Obstacle::Now("the version has changed meanwhile".to_owned()));
    }
    let stream = plain(inner, entry, object)?;
    let mut pieces = Pieces { stream, rest: BytesMut::new() };
    if head.size <= PIECE as u64 {
        let body = pieces.next().await?.unwrap_or_default();
        return Ok(foreign.put(bucket, key, headers, body).await.map(drop)?);
    }
    let upload = foreign.create_upload(bucket, key, headers).await?;
    let sent = send_parts(foreign, &mut pieces, bucket, key, &upload).await;
    if sent.is_err() {
        // What is left behind if this fails, too, is the foreign bucket's to clean up.
        let _ = foreign.abort_upload(bucket, key, &upload).await;
    }
    sent
}

/// The bytes as they came: what is sealed here is sealed for this place.
fn plain(inner: &Inner, entry: &Entry, object: OpenObject) -> Result<ByteStream, Obstacle> {
    let Some(encryption) = &object.head.meta.encryption else { return Ok(object.stream_all()) };
    if encryption.method != Method::S3 {
        return Err(Obstacle::Always("the version is not under the store's key".to_owned()));
    }
    let key = keys::unwrap_under_store_key(&inner.iam.store().stale(), &encryption.wrapped, &entry.place)?;
    let sizes: Vec<_> = match object.content.parts() {
        [] => vec![object.head.size],
        parts => parts.iter().map(|part| part.size).collect(),
    };
    Ok(body::open(object.content.into(), key, &sizes, &(0..object.head.size)))
}

async fn send_parts(
    foreign: &ForeignS3,
    pieces: &mut Pieces,
    bucket: &str,
    key: &str,
    upload: &str,
) -> Result<(), Obstacle> {
    let mut parts = Vec::new();
    while let Some(piece) = pieces.next().await? {
        let number =
            u16::try_from(parts.len() + 1).map_err(|_| Obstacle::Always("the object has too many parts".to_owned()))?;
        let etag = foreign.put_part(bucket, key, upload, number, piece).await?;
        parts.push(Part { number, etag });
    }
    Ok(foreign.complete_upload(bucket, key, upload, &parts).await?)
}

/// A stream cut into pieces of one size.
struct Pieces {
    stream: ByteStream,
    rest: BytesMut,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, Obstacle> {
        while self.rest.len() < PIECE {
            match self.stream.next().await {
                Some(Ok(piece)) => self.rest.extend_from_slice(&piece),
                Some(Err(error)) => return Err(BackendError::Damaged(error.to_string()).into()),
                None => break,
            }
        }
        let take = self.rest.len().min(PIECE);
        Ok((take > 0).then(|| self.rest.split_to(take).freeze()))
    }
}
