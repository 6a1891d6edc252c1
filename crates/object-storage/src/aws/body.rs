//! A request's body on its way to the operation: decoded, counted, and checked against what was signed.

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use s3s::S3Error;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use super::chunked::{ChunkSigner, Decoder};
use super::error::{invalid, s3};
use crate::backend::BoxError;
use crate::checksum::{Algorithm, Hasher};

/// Why a body was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum BodyFailure {
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    Sha256Mismatch,
    #[error("The request signature we calculated does not match the signature you provided.")]
    ChunkSignature,
    #[error("You did not provide the number of bytes specified by the Content-Length HTTP header")]
    Incomplete,
    #[error("The body is not a valid aws-chunked encoding: {0}")]
    Malformed(&'static str),
    #[error("The {0} you specified did not match what we received.")]
    BadDigest(&'static str),
    #[error("Your proposed upload exceeds the maximum allowed size")]
    TooLarge,
    #[error("Your proposed upload is smaller than the minimum allowed size")]
    TooSmall,
    /// The connection broke, usually.
    #[error("The body could not be read: {0}")]
    Transport(String),
}

impl BodyFailure {
    pub(super) fn to_s3(&self) -> S3Error {
        let message = self.to_string();
        match self {
            Self::Sha256Mismatch => invalid("XAmzContentSHA256Mismatch", message),
            Self::ChunkSignature => s3("SignatureDoesNotMatch", StatusCode::FORBIDDEN, message),
            Self::Incomplete | Self::Transport(_) => invalid("IncompleteBody", message),
            Self::Malformed(_) => invalid("InvalidRequest", message),
            Self::BadDigest(_) => invalid("BadDigest", message),
            Self::TooLarge => invalid("EntityTooLarge", message),
            Self::TooSmall => invalid("EntityTooSmall", message),
        }
    }
}

/// What is known of a body once it was read; shared between the body and the operation.
#[derive(Debug, Default)]
pub(super) struct BodyState {
    failure: Mutex<Option<BodyFailure>>,
    trailers: Mutex<HeaderMap>,
}

impl BodyState {
    pub(super) fn failure(&self) -> Option<BodyFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A header that came behind the body.
    pub(super) fn trailer(&self, name: &str) -> Option<String> {
        let trailers = self.trailers.lock().unwrap_or_else(PoisonError::into_inner);
        trailers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }
}

/// How a body proves itself.
pub(super) enum Proof {
    None,
    /// SHA-256 in hex.
    Sha256(String),
    Chunks {
        signer: Option<Box<ChunkSigner>>,
        trailers: bool,
    },
}

/// Digests that a body must have beside, for requests whose operation does not look at them itself.
#[derive(Default)]
pub(super) struct Claims {
    pub md5: Option<[u8; 16]>,
    pub checksum: Option<(Algorithm, String)>,
}

type Inner = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

pub(super) struct CheckedBody {
    inner: Inner,
    decoder: Option<Decoder>,
    sha256: Option<(Sha256, String)>,
    claims: Option<(Hasher, Claims)>,
    ready: VecDeque<Bytes>,
    /// Bytes that must still come, decoded.
    left: Option<u64>,
    ended: bool,
    /// Bytes so far, and between which numbers they must be in the end.
    bounds: Option<(u64, u64, u64)>,
    state: Arc<BodyState>,
}

impl CheckedBody {
    /// `length`: how many bytes it must have, once decoded.
    pub(super) fn new<B>(body: B, proof: Proof, claims: Claims, length: Option<u64>, state: Arc<BodyState>) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (decoder, sha256) = match proof {
            Proof::None => (None, None),
            Proof::Sha256(hash) => (None, Some((Sha256::new(), hash))),
            Proof::Chunks { signer, trailers } => (Some(Decoder::new(signer.map(|signer| *signer), trailers)), None),
        };
        let claims = (claims.md5.is_some() || claims.checksum.is_some()).then(|| {
            let algorithms: Vec<_> = claims.checksum.iter().map(|(algorithm, _)| *algorithm).collect();
            (Hasher::new(&algorithms), claims)
        });
        let inner = Box::pin(body.map_err(Into::into));
        Self { inner, decoder, sha256, claims, ready: VecDeque::new(), left: length, ended: false, bounds: None, state }
    }

    /// Refuses a body with fewer or more bytes.
    pub(super) fn within(mut self, bounds: Option<(u64, u64)>) -> Self {
        self.bounds = bounds.map(|(least, most)| (0, least, most));
        self
    }

    fn take(&mut self, data: Bytes) -> Result<(), BodyFailure> {
        let mut decoded = Vec::new();
        match &mut self.decoder {
            Some(decoder) => decoder.feed(data, &mut decoded)?,
            None => decoded.push(data),
        }
        for piece in decoded.into_iter().filter(|piece| !piece.is_empty()) {
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(piece.len() as u64).ok_or(BodyFailure::Incomplete)?;
            }
            if let Some((bytes, _, most)) = &mut self.bounds {
                *bytes += piece.len() as u64;
                if *bytes > *most {
                    return Err(BodyFailure::TooLarge);
                }
            }
            if let Some((sha256, _)) = &mut self.sha256 {
                sha256.update(&piece);
            }
            if let Some((hasher, _)) = &mut self.claims {
                hasher.update(&piece);
            }
            self.ready.push_back(piece);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BodyFailure> {
        if let Some(decoder) = &mut self.decoder {
            let trailers = decoder.finish()?;
            *self.state.trailers.lock().unwrap_or_else(PoisonError::into_inner) = trailers;
        }
        if self.left.is_some_and(|left| left > 0) {
            return Err(BodyFailure::Incomplete);
        }
        if self.bounds.is_some_and(|(bytes, least, _)| bytes < least) {
            return Err(BodyFailure::TooSmall);
        }
        if let Some((sha256, expected)) = self.sha256.take()
            && hex::encode(sha256.finalize()) != expected
        {
            return Err(BodyFailure::Sha256Mismatch);
        }
        let Some((hasher, claims)) = self.claims.take() else { return Ok(()) };
        let digests = hasher.finish();
        if claims.md5.is_some_and(|md5| md5 != digests.md5) {
            return Err(BodyFailure::BadDigest("Content-MD5"));
        }
        match claims.checksum {
            Some((algorithm, text)) if digests.checksum(algorithm).is_none_or(|sum| sum.text != text) => {
                Err(BodyFailure::BadDigest(algorithm.name()))
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, failure: BodyFailure) -> BodyFailure {
        self.ended = true;
        self.ready.clear();
        *self.state.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
        failure
    }
}

impl Stream for CheckedBody {
    type Item = Result<Bytes, BodyFailure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let result = match ready!(self.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(data),
                    // Trailers of HTTP itself carry nothing here.
                    Err(_) => Ok(()),
                },
                Some(Err(error)) => Err(BodyFailure::Transport(error.to_string())),
                None => {
                    self.ended = true;
                    self.end()
                }
            };
            if let Err(failure) = result {
                return Poll::Ready(Some(Err(self.fail(failure))));
            }
        }
    }
}
