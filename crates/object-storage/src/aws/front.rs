//! The door for S3 requests: authenticates them, checks their bodies, and hands them to `s3s`, which knows the API's
//! shapes.
//!
//! Signatures are not left to `s3s`: it takes no session tokens, accepts Signature Version 2, does not ask for the
//! region or for unsigned headers, holds whole chunks in memory, and hides why a body was refused. What it gets here is
//! a request without a signature, whose caller stands in its extensions ([`RequestScope`]); its access hook then
//! authorizes that caller. `iam::sigv4` and `iam::Iam` are the ones that the API server uses.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, RANGE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::StreamBody;
use hyper::body::{Body as HttpBody, Frame};
use s3s::path::S3Path;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, S3Result};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use terroir_action::Caller;
use terroir_iam::sigv4::{PathRule, Presented, SignatureError, SigningKey};
use terroir_iam::{Iam, RequestFacts};
use terroir_types::{Clock, IdSource, Timestamp};

use super::access::Access;
use super::address::Domains;
use super::body::{BodyState, CheckedBody, Claims, Proof};
use super::chunked::ChunkSigner;
use super::cors::CrossOriginHeaders;
use super::error::{access_denied, from_authentication, from_domain, from_signature, invalid, s3};
use super::service::{AnswerStatus, ApiParts, BareETag, S3Api};
use crate::access_log::Request as LoggedRequest;
use crate::backend::{BoxError, ObjectBackend};
use crate::checksum::Algorithm;
use crate::data_keys::DataKeys;
use crate::guard::NewBuckets;
use crate::lifecycle::Day;

/// How far a client's clock may be off, as in AWS.
const SKEW: Duration = Duration::from_secs(15 * 60);
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Largest document in a request, for example the keys of DeleteObjects.
const MAX_DOCUMENT: usize = 4 << 20;

/// What S3 is served with.
pub struct S3Options {
    pub iam: Iam,
    pub backend: Arc<dyn ObjectBackend>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// The region's name; signatures must be scoped to it.
    pub region: String,
    /// Domains below which a host's first labels are a bucket: `BUCKET.DOMAIN`. Without a port.
    pub domains: Vec<String>,
    /// Domains below which a host's first labels are a bucket whose website is shown. Without a port.
    pub website_domains: Vec<String>,
    /// What buckets are told when they are made.
    pub new_buckets: NewBuckets,
    /// The day that lifecycle rules count in.
    pub lifecycle_day: Day,
    /// What SSE-KMS has its keys from. None: no key exists.
    pub data_keys: Option<Arc<dyn DataKeys>>,
}

/// The request's number, if the server in front gave it one; an extension of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3RequestId(pub String);

/// What a request turned out to be, for the audit log. In the response's extensions.
#[derive(Debug, Clone, Default)]
pub struct S3Outcome {
    /// For example `PutObject`; none if it was refused before that was known.
    pub operation: Option<String>,
    pub caller: Option<Caller>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    /// S3's code of the error.
    pub error: Option<String>,
}

/// One authenticated request, as operations see it.
pub(super) struct RequestScope {
    pub caller: Caller,
    pub facts: RequestFacts,
    /// None: nobody signed.
    pub signed: Option<Signed>,
    pub body: Arc<BodyState>,
    pub request_id: String,
    /// A form became this request.
    pub is_form: bool,
    pub operation: OnceLock<(String, Option<String>, Option<String>)>,
}

/// How a request was signed.
pub(super) struct Signed {
    pub place: SignaturePlace,
    pub at: Timestamp,
    /// `x-amz-content-sha256`, or what stands for it.
    pub payload: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SignaturePlace {
    Header,
    Query,
    /// Of a form's policy.
    Form,
}

impl SignaturePlace {
    /// As the condition key `s3:authType` has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Header => "REST-HEADER",
            Self::Query => "REST-QUERY-STRING",
            Self::Form => "POST",
        }
    }
}

/// Serves S3. A cheap handle.
#[derive(Clone)]
pub struct S3Front(Arc<Inner>);

struct Inner {
    iam: Iam,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    region: String,
    domains: Domains,
    websites: Domains,
    api: S3Api,
    service: S3Service,
}

/// Makes the service; settles first what an earlier process left half done.
///
/// # Errors
/// Those of the state store and the backend.
pub async fn s3_service(options: S3Options) -> Result<S3Front, terroir_types::Error> {
    let S3Options { iam, backend, clock, ids, region, domains, website_domains, .. } = options;
    let S3Options { new_buckets, lifecycle_day, data_keys, .. } = options;
    let api = S3Api::new(ApiParts {
        iam: iam.clone(),
        backend,
        clock: Arc::clone(&clock),
        ids: Arc::clone(&ids),
        region: region.clone(),
        new_buckets,
        lifecycle_day,
        access_logs: Arc::default(),
        data_keys,
    });
    api.settle_closed_buckets().await?;
    let mut builder = S3ServiceBuilder::new(api.clone());
    builder.set_access(Access::new(api.clone()));
    // s3s asks the access hook only where it could authenticate; it never gets anything to authenticate.
    builder.set_auth(NoKeys);
    let (domains, websites) = (Domains::new(domains), Domains::new(website_domains));
    builder.set_host(domains.clone());
    let mut config = s3s::config::S3Config::default();
    config.xml_max_body_size = MAX_DOCUMENT;
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(config))));
    Ok(S3Front(Arc::new(Inner { iam, clock, ids, region, domains, websites, api, service: builder.build() })))
}

struct NoKeys;

#[async_trait::async_trait]
impl s3s::auth::S3Auth for NoKeys {
    async fn get_secret_key(&self, _access_key: &str) -> S3Result<s3s::auth::SecretKey> {
        Err(access_denied())
    }
}

impl S3Front {
    /// Answers one request. [`S3RequestId`] and [`RequestFacts`] are taken from its extensions if they are there; the
    /// response has an [`S3Outcome`].
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let request_id = parts.extensions.remove::<S3RequestId>().map(|id| id.0);
        let request_id = request_id.unwrap_or_else(|| format!("{:016X}", self.0.ids.next_u64()));
        parts.extensions.insert(S3RequestId(request_id.clone()));
        let is_head = parts.method == Method::HEAD;
        let mut outcome = S3Outcome::default();
        let (started, facts) = (Instant::now(), self.facts(&parts));
        let mut asked = LoggedRequest::read(&parts.method, &parts.uri, parts.version, &parts.headers, facts.now);
        asked.remote_ip = facts.source_ip;
        let site = self.0.websites.bucket_of_host(&parts);
        let located = self.0.domains.locate(&parts);
        let bucket = site.clone().or_else(|| located.as_ref()?.get_bucket_name().map(str::to_owned));
        let cross_origin = CrossOriginHeaders::read(&parts, bucket.as_deref());
        let mut response = if parts.method == Method::OPTIONS {
            self.0.api.preflight(&parts, bucket.as_deref()).await.unwrap_or_else(error_response)
        } else if let Some(site) = site {
            self.website(&parts, &site, &mut outcome).await
        } else if super::account::is_about_account(&parts) {
            self.account(parts, body, &mut outcome).await
        } else if super::post::is_form(&parts) {
            self.post_form(parts, body, located, &mut outcome).await
        } else {
            match self.admit(&parts).await {
                Err(error) => error_response(error),
                Ok(admitted) => self.serve(parts, body, admitted, &mut outcome).await,
            }
        };
        finish(&mut response, &request_id, is_head, &mut outcome);
        if let Some(cross_origin) = cross_origin {
            self.0.api.say_cross_origin(&cross_origin, response.headers_mut()).await;
        }
        let mut response = self.0.api.log_access(asked, started, &request_id, &outcome, response);
        response.extensions_mut().insert(outcome);
        response
    }

    /// Delivers access logs until `stop` is ready, and once more then.
    pub async fn deliver_access_logs(&self, stop: impl Future<Output = ()>) {
        self.0.api.access_logs().run(self.0.api.parts(), stop).await;
    }

    /// Delivers the access logs that there are.
    pub async fn deliver_access_logs_now(&self) {
        self.0.api.access_logs().deliver(self.0.api.parts()).await;
    }

    pub(super) fn api(&self) -> &S3Api {
        &self.0.api
    }

    /// Who is asking, and how the body will prove itself.
    pub(super) async fn admit(&self, parts: &Parts) -> S3Result<Admitted> {
        refuse_what_is_not_served(parts)?;
        let presigned = parts
            .uri
            .query()
            .is_some_and(|query| query.contains("X-Amz-Algorithm=") || query.contains("X-Amz-Signature="));
        let wrong = |error| from_signature(error, presigned);
        let presented = match Presented::read(parts) {
            Err(SignatureError::Missing) => return self.admit_anonymous(parts),
            presented => presented.map_err(wrong)?,
        };
        let payload = payload_hash(&parts.headers, presigned)?;
        let verify = |key: &SigningKey| presented.verify(parts, &payload, PathRule::Single, key);
        let (caller, key) = self.authenticate(&presented, presigned, verify).await?;
        let place = if presigned { SignaturePlace::Query } else { SignaturePlace::Header };
        let signed = Signed { place, at: presented.signed_at, payload: payload.clone() };
        let (proof, length) = proof(parts, &payload, Some((presented, key)))?;
        let facts = self.facts(parts);
        Ok(Admitted { caller, facts, signed: Some(signed), proof, length, bounds: None, is_form: false })
    }

    /// Who has signed, if the signature is the right one, and the key that it was made with.
    pub(super) async fn authenticate(
        &self,
        presented: &Presented,
        presigned: bool,
        verify: impl FnOnce(&SigningKey) -> Result<(), SignatureError>,
    ) -> S3Result<(Caller, SigningKey)> {
        let wrong = |error| from_signature(error, presigned);
        let regions = [self.0.region.as_str()];
        presented.check_scope_and_time("s3", &regions, self.0.clock.now(), SKEW).map_err(wrong)?;
        let txn = self.0.iam.store().read().await.map_err(|error| from_domain(error.into()))?;
        let secret = self.0.iam.secret_in(&txn, &presented.access_key_id).map_err(from_authentication)?;
        let key = SigningKey::derive(secret.expose(), &presented.scope);
        verify(&key).map_err(|error| match error {
            // Headers that should have been signed and are not.
            SignatureError::Malformed(message) => s3("AccessDenied", StatusCode::FORBIDDEN, message),
            error => from_signature(error, presigned),
        })?;
        let token = presented.session_token.as_deref();
        let caller = self.0.iam.authenticate_in(&txn, &presented.access_key_id, token).map_err(from_authentication)?;
        drop(txn);
        self.0.iam.record_use(&presented.access_key_id, "s3", &self.0.region).await;
        Ok((caller, key))
    }

    /// The whole address of an object, at the host that the request came to.
    pub(super) fn url_of(&self, parts: &Parts, bucket: &str, key: &str) -> String {
        self.0.domains.url_of(parts, self.facts(parts).secure, bucket, key)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Nobody signed: only the bucket can let that in.
    pub(super) fn admit_anonymous(&self, parts: &Parts) -> S3Result<Admitted> {
        let payload = text(&parts.headers, "x-amz-content-sha256").unwrap_or(UNSIGNED);
        let (proof, length) = proof(parts, payload, None)?;
        Ok(Admitted {
            caller: Caller::anonymous(),
            facts: self.facts(parts),
            signed: None,
            proof,
            length,
            bounds: None,
            is_form: false,
        })
    }

    pub(super) fn facts(&self, parts: &Parts) -> RequestFacts {
        let header = |name| text(&parts.headers, name).map(str::to_owned);
        parts.extensions.get::<RequestFacts>().cloned().unwrap_or_else(|| RequestFacts {
            now: self.0.clock.now(),
            region: self.0.region.clone(),
            user_agent: header("user-agent"),
            referer: header("referer"),
            ..RequestFacts::default()
        })
    }

    pub(super) async fn serve<B>(
        &self,
        parts: Parts,
        body: B,
        admitted: Admitted,
        outcome: &mut S3Outcome,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Admitted { caller, facts, signed, proof, length, bounds, is_form } = admitted;
        outcome.caller = Some(caller.clone());
        let state = Arc::new(BodyState::default());
        let claims = match claims(&parts, self.0.domains.locate(&parts).as_ref()) {
            Ok(claims) => claims,
            Err(error) => return error_response(error),
        };
        let request_id = parts.extensions.get::<S3RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let (body_state, operation) = (Arc::clone(&state), OnceLock::new());
        let scope = Arc::new(RequestScope { caller, facts, signed, body: body_state, request_id, is_form, operation });
        let request = match strip(parts, length, matches!(proof, Proof::Chunks { .. })) {
            Ok(mut parts) => {
                parts.extensions.insert(Arc::clone(&scope));
                let checked = CheckedBody::new(body, proof, claims, length, Arc::clone(&state)).within(bounds);
                let frames = futures::StreamExt::map(checked, |piece| piece.map(Frame::data));
                Request::from_parts(parts, Body::http_body_unsync(StreamBody::new(frames)))
            }
            Err(error) => return error_response(error),
        };
        let mut response = match self.0.service.call(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(?error, "an S3 answer could not be written");
                error_response(s3("InternalError", StatusCode::INTERNAL_SERVER_ERROR, "An internal error occurred"))
            }
        };
        if let Some(AnswerStatus(status)) = response.extensions_mut().remove() {
            *response.status_mut() = status;
        }
        if response.extensions_mut().remove::<BareETag>().is_some() {
            let text = text_of(&response).replace("<ETag>\"", "<ETag>").replace("\"</ETag>", "</ETag>");
            *response.body_mut() = Body::from(text);
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        if let Some((operation, bucket, key)) = scope.operation.get() {
            outcome.operation = Some(operation.clone());
            outcome.bucket.clone_from(bucket);
            outcome.key.clone_from(key);
        }
        // s3s knows only that reading failed; why stands in the state.
        match state.failure() {
            Some(failure) if !response.status().is_success() => error_response(failure.to_s3()),
            _ => response,
        }
    }
}

pub(super) struct Admitted {
    pub caller: Caller,
    pub facts: RequestFacts,
    pub signed: Option<Signed>,
    pub proof: Proof,
    /// Of the decoded body.
    pub length: Option<u64>,
    /// Least and most bytes that it may have; none: as many as there are.
    pub bounds: Option<(u64, u64)>,
    pub is_form: bool,
}

fn refuse_what_is_not_served(parts: &Parts) -> S3Result<()> {
    let old = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
    let query = parts.uri.query().unwrap_or_default();
    let in_query = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let authorization = text(&parts.headers, AUTHORIZATION.as_str()).unwrap_or_default();
    if authorization.starts_with("AWS ") || (in_query("Signature") && in_query("AWSAccessKeyId")) {
        return Err(invalid("InvalidRequest", old));
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What stands for the body in the canonical request.
fn payload_hash(headers: &HeaderMap, presigned: bool) -> S3Result<String> {
    match text(headers, "x-amz-content-sha256") {
        Some(hash) => Ok(hash.to_owned()),
        None if presigned => Ok(UNSIGNED.to_owned()),
        None => Err(invalid("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")),
    }
}

/// `signature`: what the body's chunks may be signed after; none if nobody signed.
fn proof(parts: &Parts, payload: &str, signature: Option<(Presented, SigningKey)>) -> S3Result<(Proof, Option<u64>)> {
    let number = |name: &str| -> S3Result<Option<u64>> {
        let wrong = || invalid("InvalidArgument", format!("The header {name} is not a number"));
        text(&parts.headers, name).map(|text| text.parse().map_err(|_| wrong())).transpose()
    };
    let missing =
        || s3("MissingContentLength", StatusCode::LENGTH_REQUIRED, "You must provide the Content-Length HTTP header.");
    let length = number("content-length")?;
    let has_body = parts.method == Method::PUT || parts.method == Method::POST;
    if let Some(kind) = payload.strip_prefix("STREAMING-") {
        let decoded = number("x-amz-decoded-content-length")?.ok_or_else(missing)?;
        let (signed, trailers) = match kind {
            "AWS4-HMAC-SHA256-PAYLOAD" => (true, false),
            "AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => (true, true),
            "UNSIGNED-PAYLOAD-TRAILER" => (false, true),
            _ => {
                let message = format!("The payload signature STREAMING-{kind} is not implemented.");
                return Err(s3("NotImplemented", StatusCode::NOT_IMPLEMENTED, message));
            }
        };
        let signer = match (signed, signature) {
            (false, _) => None,
            (true, Some((Presented { scope, signed_at, signature, .. }, key))) => {
                Some(Box::new(ChunkSigner::new(key, scope, signed_at, signature)))
            }
            (true, None) => return Err(access_denied()),
        };
        return Ok((Proof::Chunks { signer, trailers }, Some(decoded)));
    }
    if has_body && length.is_none() && parts.headers.contains_key(TRANSFER_ENCODING) {
        return Err(missing());
    }
    if payload == UNSIGNED {
        return Ok((Proof::None, length));
    }
    let is_hash = payload.len() == 64 && payload.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash {
        let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- value, or a valid sha256 value.";
        return Err(invalid("InvalidArgument", message));
    }
    let hash = payload.to_ascii_lowercase();
    // Without a body nobody reads it, and so nobody compares.
    if length.unwrap_or(0) == 0 && hash != EMPTY_SHA256 {
        return Err(super::body::BodyFailure::Sha256Mismatch.to_s3());
    }
    Ok((Proof::Sha256(hash), length))
}

/// Documents are checked here; objects by their operations, which compute digests anyway.
fn claims(parts: &Parts, located: Option<&S3Path>) -> S3Result<Claims> {
    let at_object = located.is_some_and(|path| path.as_object().is_some());
    if parts.method == Method::PUT && at_object && !is_document(parts.uri.query().unwrap_or_default()) {
        return Ok(Claims::default());
    }
    let md5 = text(&parts.headers, "content-md5").map(super::object::parse_md5).transpose()?;
    // CompleteMultipartUpload's headers speak of the object, not of the document.
    let of_object = parts.uri.query().is_some_and(|query| query.contains("uploadId="));
    let checksum = Algorithm::ALL
        .into_iter()
        .filter(|_| !of_object)
        .find_map(|algorithm| Some((algorithm, text(&parts.headers, algorithm.header())?.to_owned())));
    Ok(Claims { md5, checksum })
}

fn is_document(query: &str) -> bool {
    let names = ["tagging", "acl", "retention", "legal-hold"];
    query.split('&').any(|pair| names.contains(&pair.split('=').next().unwrap_or_default()))
}

/// The request without its signature and its transfer encoding, as if the caller had been known all along.
fn strip(mut parts: Parts, length: Option<u64>, chunked: bool) -> S3Result<Parts> {
    parts.headers.remove(AUTHORIZATION);
    for name in ["x-amz-content-sha256", "x-amz-security-token", "x-amz-decoded-content-length"] {
        parts.headers.remove(HeaderName::from_static(name));
    }
    let kept: Vec<&str> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !is_of_signature(pair.split('=').next().unwrap_or_default()))
        .collect();
    let path = parts.uri.path();
    let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    parts.uri = target.parse::<Uri>().map_err(|_| invalid("InvalidURI", "Couldn't parse the specified URI."))?;
    if chunked {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length.unwrap_or_default()));
    }
    // Never kept with the object, also where the client says it of a body that is sent as it is.
    let encoding = text(&parts.headers, CONTENT_ENCODING.as_str()).unwrap_or_default();
    if encoding.contains("aws-chunked") {
        let rest: Vec<_> =
            encoding.split(',').map(str::trim).filter(|e| !e.is_empty() && *e != "aws-chunked").collect();
        match HeaderValue::from_str(&rest.join(",")) {
            Ok(rest) if !rest.is_empty() => drop(parts.headers.insert(CONTENT_ENCODING, rest)),
            _ => drop(parts.headers.remove(CONTENT_ENCODING)),
        }
    }
    for name in ["if-match", "if-none-match", "x-amz-copy-source-if-match", "x-amz-copy-source-if-none-match"] {
        quote(&mut parts.headers, name);
    }
    // A range that cannot be read is as if it were not there (RFC 9110, 14.2).
    if text(&parts.headers, RANGE.as_str()).is_some_and(|range| s3s::dto::Range::parse(range).is_err()) {
        parts.headers.remove(RANGE);
    }
    Ok(parts)
}

/// AWS takes ETags in conditions without their quotes, too.
fn quote(headers: &mut HeaderMap, name: &'static str) {
    let bare = |text: &&str| !text.is_empty() && *text != "*" && !text.contains('"');
    if let Some(quoted) = text(headers, name).filter(bare).and_then(|text| format!("\"{text}\"").parse().ok()) {
        headers.insert(name, quoted);
    }
}

fn is_of_signature(name: &str) -> bool {
    let names = ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature", "Security-Token"];
    name.strip_prefix("X-Amz-").is_some_and(|rest| names.contains(&rest))
}

pub(super) fn error_response(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|error| {
        tracing::error!(%error, "an S3 error could not be written");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

fn text_of(response: &Response<Body>) -> String {
    response.body().bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn code_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.to_owned())
}

/// S3's code in an answer, if it is an error's.
pub(super) fn error_code(response: &Response<Body>) -> Option<String> {
    if response.status().is_success() { None } else { code_in(&text_of(response)) }
}

/// Request ids on everything; in the text of errors, too.
fn finish(response: &mut Response<Body>, request_id: &str, is_head: bool, outcome: &mut S3Outcome) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(HeaderName::from_static("x-amz-request-id"), value.clone());
        response.headers_mut().insert(HeaderName::from_static("x-amz-id-2"), value);
    }
    response.headers_mut().insert(http::header::SERVER, HeaderValue::from_static("Terroir"));
    // s3s takes no status from HeadObject.
    if response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if response.status().is_success() {
        return;
    }
    let text = text_of(response);
    outcome.error = code_in(&text).or_else(|| outcome.error.take());
    let bodiless = is_head || response.status() == StatusCode::NOT_MODIFIED;
    if bodiless {
        *response.body_mut() = Body::empty();
    } else if let Some(at) = text.rfind("</Error>") {
        let rest = format!("<RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>");
        *response.body_mut() = Body::from(format!("{}{rest}", &text[..at]));
        response.headers_mut().remove(CONTENT_LENGTH);
    }
}
