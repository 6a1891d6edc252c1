//! A foreign S3, as a client of it.
//!
//! Requests are signed with Signature Version 4, their bodies by their hash. Buckets stand in the path.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use reqwest::Response;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, encode, string_to_sign};
use terroir_types::Clock;

use crate::outbound::{Outbound, OutboundError};
use crate::target::S3Destination;

/// For a request with all of its body, until its answer's head is there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// What is read of an error.
const MAX_ERROR: usize = 64 << 10;

/// The client. A cheap handle.
#[derive(Clone)]
pub struct ForeignS3(Arc<Inner>);

struct Inner {
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    at: S3Destination,
}

impl ForeignS3 {
    pub fn new(outbound: Outbound, clock: Arc<dyn Clock>, at: S3Destination) -> Self {
        Self(Arc::new(Inner { outbound, clock, at }))
    }

    /// # Errors
    /// `Refused` for an error of S3.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HeaderMap, OutboundError> {
        let answer = self.send(Method::PUT, bucket, key, "", headers, body).await?;
        Ok(answer.headers().clone())
    }

    /// The whole object, of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn get(&self, bucket: &str, key: &str, limit: usize) -> Result<Bytes, OutboundError> {
        let answer = self.send(Method::GET, bucket, key, "", HeaderMap::new(), Bytes::new()).await?;
        read(answer, limit).await
    }

    /// That it is gone already is no error.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<(), OutboundError> {
        match self.send(Method::DELETE, bucket, key, "", HeaderMap::new(), Bytes::new()).await {
            Err(OutboundError::Refused { status, code }) if status.as_u16() == 404 && code == "NoSuchKey" => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// `query`: encoded, and in the order in which it is signed.
    async fn send(
        &self,
        method: Method,
        bucket: &str,
        key: &str,
        query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, OutboundError> {
        let request = self.sign(method, bucket, key, query, headers, body)?;
        let answer = self.0.outbound.send(request, Some(REQUEST_TIMEOUT)).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // An answer without a document, or with another one than S3's, has no code.
        let text = read(answer, MAX_ERROR).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let is_word = |code: &&str| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
        let code = code.map(|(code, _)| code).filter(is_word).unwrap_or_default().to_owned();
        Err(OutboundError::Refused { status, code })
    }

    fn sign(
        &self,
        method: Method,
        bucket: &str,
        key: &str,
        query: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Bytes>, OutboundError> {
        let impossible = |error: &dyn std::fmt::Display| OutboundError::Impossible(error.to_string());
        let at = &self.0.at;
        let endpoint = at.endpoint.trim_end_matches('/');
        let path: Vec<_> = key.split('/').map(|segment| encode(segment.as_bytes())).collect();
        let joint = if query.is_empty() { "" } else { "?" };
        let target = format!("{endpoint}/{bucket}/{}{joint}{query}", path.join("/"));
        let now = self.0.clock.now();
        let date = now.to_amz_date();
        let hash = hex::encode(Sha256::digest(&body));
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        for (name, value) in [("host", host), ("x-amz-date", &date), ("x-amz-content-sha256", &hash)] {
            let value = HeaderValue::from_str(value).map_err(|error| impossible(&error))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let mut request =
            Request::builder().method(method).uri(target).body(body).map_err(|error| impossible(&error))?;
        *request.headers_mut() = headers;
        let mut signed: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
        signed.sort();
        let scope = Scope { date: date[..8].to_owned(), region: at.region.clone(), service: "s3".to_owned() };
        let (parts, body) = request.into_parts();
        let canonical =
            canonical_request(&parts, &signed, &hash, PathRule::Single).map_err(|error| impossible(&error))?;
        let key = SigningKey::derive(at.secret_access_key.expose(), &scope);
        let signature = key.sign(&string_to_sign(now, &scope, &canonical));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            at.access_key_id,
            signed.join(";")
        );
        let mut request = Request::from_parts(parts, body);
        let mut authorization = HeaderValue::from_str(&authorization).map_err(|error| impossible(&error))?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, authorization);
        Ok(request)
    }
}

async fn read(answer: Response, limit: usize) -> Result<Bytes, OutboundError> {
    let broken = |_| OutboundError::Unreachable("the answer broke off".to_owned());
    let mut bytes = BytesMut::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.try_next().await.map_err(broken)? {
        if bytes.len() + piece.len() > limit {
            return Err(OutboundError::Impossible("the answer is longer than expected".to_owned()));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}
