//! A foreign S3, as a client of it.
//!
//! Requests are signed with Signature Version 4, their bodies by their hash. Buckets stand in the path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use md5::{Digest as _, Md5};
use reqwest::Response;
use sha2::Sha256;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, encode, string_to_sign};
use terroir_types::Clock;

use crate::backend::StringMap;
use crate::outbound::{Outbound, OutboundError};
use crate::target::S3Destination;

/// For a request with all of its body, until its answer's head is there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// What is read of an error.
const MAX_ERROR: usize = 64 << 10;
/// What is read of a page of a listing.
const MAX_LISTING: usize = 4 << 20;

/// A part of an upload that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub number: u16,
    /// As it was given, with quotes.
    pub etag: String,
}

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

    /// The bytes in a range, which lies inside the object.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn get_range(&self, bucket: &str, key: &str, range: Range<u64>) -> Result<Bytes, OutboundError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut headers = HeaderMap::new();
        let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let value = HeaderValue::from_str(&value).map_err(|error| OutboundError::Impossible(error.to_string()))?;
        headers.insert(http::header::RANGE, value);
        let answer = self.send(Method::GET, bucket, key, "", headers, Bytes::new()).await?;
        let bytes = read(answer, length).await?;
        if bytes.len() == length { Ok(bytes) } else { Err(not_s3("a range of another length")) }
    }

    /// Keys that begin with `prefix` and stand behind `after`, in order, and whether there are more. Meant for keys of
    /// letters, digits and slashes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn list(&self, bucket: &str, prefix: &str, after: &str) -> Result<(Vec<String>, bool), OutboundError> {
        let [prefix, after] = [prefix, after].map(|text| encode(text.as_bytes()));
        let query = format!("list-type=2&prefix={prefix}&start-after={after}");
        let text = self.document(bucket, &query).await?;
        let keys = elements(&text, "Key").map(str::to_owned).collect();
        Ok((keys, elements(&text, "IsTruncated").next() == Some("true")))
    }

    /// Keys and ids of uploads in parts that were begun below `prefix`, at most a thousand.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn list_uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>, OutboundError> {
        let text = self.document(bucket, &format!("prefix={}&uploads=", encode(prefix.as_bytes()))).await?;
        let both = |upload: &str| {
            let element = |name| elements(upload, name).next().map(str::to_owned);
            Some((element("Key")?, element("UploadId")?))
        };
        Ok(elements(&text, "Upload").filter_map(both).collect())
    }

    async fn document(&self, bucket: &str, query: &str) -> Result<String, OutboundError> {
        let answer = self.send(Method::GET, bucket, "", query, HeaderMap::new(), Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&read(answer, MAX_LISTING).await?).into_owned())
    }

    /// Copies an object of at most 5 GiB there.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn copy(&self, bucket: &str, from: &str, to: &str) -> Result<(), OutboundError> {
        let answer = self.send(Method::PUT, bucket, to, "", copy_source(bucket, from, None)?, Bytes::new()).await?;
        self.copied(answer, "<CopyObjectResult").await.map(drop)
    }

    /// Copies a range of an object as a part of an upload; gives the part's ETag.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn copy_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        from: &str,
        range: Range<u64>,
    ) -> Result<String, OutboundError> {
        let query = format!("partNumber={number}&uploadId={}", encode(upload.as_bytes()));
        let headers = copy_source(bucket, from, Some(range))?;
        let answer = self.send(Method::PUT, bucket, key, &query, headers, Bytes::new()).await?;
        let text = self.copied(answer, "<CopyPartResult").await?;
        let etag = elements(&text, "ETag").next().map(|etag| etag.replace("&quot;", "\""));
        etag.ok_or_else(|| not_s3("a part without an ETag"))
    }

    /// An error may come with a status of success, as S3 has it.
    async fn copied(&self, answer: Response, wanted: &str) -> Result<String, OutboundError> {
        let status = answer.status();
        let text = String::from_utf8_lossy(&read(answer, MAX_ERROR).await?).into_owned();
        if text.contains(wanted) { Ok(text) } else { Err(OutboundError::Refused { status, code: code_in(&text) }) }
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

    /// What is known of an object without its bytes.
    ///
    /// # Errors
    /// As [`Self::put`]; there is no code.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<HeaderMap, OutboundError> {
        let answer = self.send(Method::HEAD, bucket, key, "", HeaderMap::new(), Bytes::new()).await?;
        Ok(answer.headers().clone())
    }

    /// Replaces the tags of an object.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_tags(&self, bucket: &str, key: &str, tags: &StringMap) -> Result<(), OutboundError> {
        let tag = |(name, value): (&String, &String)| {
            format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escape(name), escape(value))
        };
        let tags: String = tags.iter().map(tag).collect();
        let document = Bytes::from(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>"));
        self.send(Method::PUT, bucket, key, "tagging=", proven(&document), document).await.map(drop)
    }

    /// Begins an upload in parts; gives its id.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn create_upload(&self, bucket: &str, key: &str, headers: HeaderMap) -> Result<String, OutboundError> {
        let answer = self.send(Method::POST, bucket, key, "uploads=", headers, Bytes::new()).await?;
        let text = read(answer, MAX_ERROR).await?;
        let text = String::from_utf8_lossy(&text);
        let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
        let is_plain = |id: &&str| !id.is_empty() && !id.contains(['&', '<']);
        id.map(|(id, _)| id).filter(is_plain).map(str::to_owned).ok_or_else(|| not_s3("an upload without an id"))
    }

    /// Gives the part's ETag, as it was given.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        body: Bytes,
    ) -> Result<String, OutboundError> {
        let query = format!("partNumber={number}&uploadId={}", encode(upload.as_bytes()));
        let answer = self.send(Method::PUT, bucket, key, &query, HeaderMap::new(), body).await?;
        let etag = answer.headers().get(http::header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        etag.ok_or_else(|| not_s3("a part without an ETag"))
    }

    /// # Errors
    /// As [`Self::put`]. An error may come with a status of success, as S3 has it.
    pub async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[Part],
    ) -> Result<(), OutboundError> {
        let part = |part: &Part| {
            format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", part.number, escape(&part.etag))
        };
        let parts: String = parts.iter().map(part).collect();
        let document = Bytes::from(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"));
        let query = format!("uploadId={}", encode(upload.as_bytes()));
        let answer = self.send(Method::POST, bucket, key, &query, HeaderMap::new(), document).await?;
        let status = answer.status();
        let text = read(answer, MAX_ERROR).await?;
        let text = String::from_utf8_lossy(&text);
        if text.contains("<CompleteMultipartUploadResult") {
            return Ok(());
        }
        Err(OutboundError::Refused { status, code: code_in(&text) })
    }

    /// # Errors
    /// As [`Self::put`].
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<(), OutboundError> {
        let query = format!("uploadId={}", encode(upload.as_bytes()));
        self.send(Method::DELETE, bucket, key, &query, HeaderMap::new(), Bytes::new()).await.map(drop)
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
        Err(OutboundError::Refused { status, code: code_in(&text) })
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

fn copy_source(bucket: &str, from: &str, range: Option<Range<u64>>) -> Result<HeaderMap, OutboundError> {
    let impossible = |error: http::header::InvalidHeaderValue| OutboundError::Impossible(error.to_string());
    let path: Vec<_> = from.split('/').map(|segment| encode(segment.as_bytes())).collect();
    let mut headers = HeaderMap::new();
    let source = HeaderValue::from_str(&format!("/{bucket}/{}", path.join("/"))).map_err(impossible)?;
    headers.insert("x-amz-copy-source", source);
    if let Some(range) = range {
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        headers.insert("x-amz-copy-source-range", HeaderValue::from_str(&range).map_err(impossible)?);
    }
    Ok(headers)
}

/// What stands in each element of this name; nothing of it is decoded.
fn elements<'t>(text: &'t str, name: &str) -> impl Iterator<Item = &'t str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, from) = rest.split_once(open.as_str())?;
        let (inside, after) = from.split_once(close.as_str())?;
        rest = after;
        Some(inside)
    })
}

/// S3's code of an error; empty if there is none.
fn code_in(text: &str) -> String {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let is_word = |code: &&str| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    code.map(|(code, _)| code).filter(is_word).unwrap_or_default().to_owned()
}

fn not_s3(what: &str) -> OutboundError {
    OutboundError::Impossible(format!("what answers is no S3: {what}"))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Else they would be read as spaces and line ends.
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", c as u32)),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What documents need that decide what is kept.
fn proven(document: &Bytes) -> HeaderMap {
    let md5 = STANDARD.encode(Md5::digest(document));
    let value = HeaderValue::from_str(&md5).ok();
    value.map(|value| (HeaderName::from_static("content-md5"), value)).into_iter().collect()
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
