//! Cross-origin rules: reading and writing them, answering a browser that asks beforehand, and saying on every answer
//! what a page may see of it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use s3s::dto::*;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result};

use super::error::{from_domain, invalid, s3};
use super::service::{S3Api, Scoped};
use crate::cors::{Cors, CorsRule, CrossOrigin, MAX_RULES, METHODS};
use crate::{ops, settings};

const VARIES: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

fn forbidden(message: &str) -> S3Error {
    s3("AccessForbidden", StatusCode::FORBIDDEN, format!("CORSResponse: {message}"))
}

impl S3Api {
    pub(super) async fn get_bucket_cors(
        &self,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let Some(cors) = self.setting::<Cors>(request.bucket()?).await? else {
            let message = "The CORS configuration does not exist";
            return Err(s3("NoSuchCORSConfiguration", StatusCode::NOT_FOUND, message));
        };
        let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        let rule = |rule: CorsRule| CORSRule {
            allowed_headers: some(rule.headers),
            allowed_methods: rule.methods,
            allowed_origins: rule.origins,
            expose_headers: some(rule.exposed),
            id: rule.id,
            max_age_seconds: rule.max_age_seconds,
        };
        let cors_rules = Some(cors.rules.into_iter().map(rule).collect());
        Ok(S3Response::new(GetBucketCorsOutput { cors_rules }))
    }

    pub(super) async fn put_bucket_cors(
        &self,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let bucket = request.bucket()?.clone();
        let rules = request.input.cors_configuration.cors_rules;
        if rules.is_empty() || rules.len() > MAX_RULES {
            return Err(super::error::malformed_xml());
        }
        let cors = Cors { rules: rules.into_iter().map(checked_rule).collect::<S3Result<_>>()? };
        self.change_bucket(&bucket, |txn, bucket| settings::put(txn, bucket, &cors)).await?;
        Ok(S3Response::new(PutBucketCorsOutput::default()))
    }

    pub(super) async fn delete_bucket_cors(
        &self,
        request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        let bucket = request.bucket()?.clone();
        self.change_bucket(&bucket, |txn, bucket| settings::remove::<Cors>(txn, bucket.id).map(drop)).await?;
        Ok(S3Response::new(DeleteBucketCorsOutput::default()))
    }

    /// The rules of a bucket by its name, if there is such a bucket.
    async fn cors_of(&self, bucket: &str) -> S3Result<Option<Option<Cors>>> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let Some(bucket) = ops::find_bucket(&txn, bucket).map_err(from_domain)? else { return Ok(None) };
        settings::peek::<Cors>(&txn, bucket.id).map(Some).map_err(from_domain)
    }

    /// Answers a browser that asks whether it may send a request. Nobody is authenticated for this.
    pub(super) async fn preflight(&self, parts: &Parts, bucket: Option<&str>) -> S3Result<Response<Body>> {
        let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(origin) = text(ORIGIN) else {
            return Err(invalid("BadRequest", "Insufficient information. Origin request header needed."));
        };
        let method = text(ACCESS_CONTROL_REQUEST_METHOD).unwrap_or("null");
        if !METHODS.contains(&method) {
            return Err(invalid("BadRequest", format!("Invalid Access-Control-Request-Method: {method}")));
        }
        let asked = CrossOrigin { origin, method, headers: text(ACCESS_CONTROL_REQUEST_HEADERS) };
        let cors = match bucket {
            None => return Err(forbidden("CORS is not enabled for this bucket.")),
            Some(bucket) => self.cors_of(bucket).await?.ok_or_else(|| forbidden("Bucket not found"))?,
        };
        let cors = cors.ok_or_else(|| forbidden("CORS is not enabled for this bucket."))?;
        let rule = cors.find(asked).ok_or_else(|| {
            forbidden("This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.")
        })?;
        let mut response = Response::new(Body::empty());
        permit(response.headers_mut(), rule, asked);
        let names: Vec<_> = asked.header_names().collect();
        put(response.headers_mut(), ACCESS_CONTROL_ALLOW_HEADERS, &names.join(", "));
        Ok(response)
    }

    /// Says on the answer to a request that a page of another site sent what that page may see.
    pub(super) async fn say_cross_origin(&self, request: &CrossOriginHeaders, headers: &mut HeaderMap) {
        let cors = match self.cors_of(&request.bucket).await {
            Ok(cors) => cors.flatten().unwrap_or_default(),
            Err(error) => {
                tracing::warn!(?error, "the cross-origin rules of a bucket could not be read");
                return;
            }
        };
        let asked =
            CrossOrigin { origin: &request.origin, method: &request.method, headers: request.headers.as_deref() };
        if let Some(rule) = cors.find(asked) {
            permit(headers, rule, asked);
        }
    }
}

/// What a browser said with a request, kept until its answer is there.
pub(super) struct CrossOriginHeaders {
    bucket: String,
    origin: String,
    method: String,
    headers: Option<String>,
}

impl CrossOriginHeaders {
    /// None: no page of another site asks.
    pub(super) fn read(parts: &Parts, bucket: Option<&str>) -> Option<Self> {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Some(Self {
            bucket: bucket?.to_owned(),
            origin: text(ORIGIN)?,
            method: text(ACCESS_CONTROL_REQUEST_METHOD).unwrap_or_else(|| parts.method.as_str().to_owned()),
            headers: text(ACCESS_CONTROL_REQUEST_HEADERS),
        })
    }
}

fn permit(headers: &mut HeaderMap, rule: &CorsRule, asked: CrossOrigin<'_>) {
    if rule.allows_every_origin() {
        put(headers, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    } else {
        put(headers, ACCESS_CONTROL_ALLOW_ORIGIN, asked.origin);
        put(headers, ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    put(headers, ACCESS_CONTROL_ALLOW_METHODS, &rule.methods.join(", "));
    put(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &rule.exposed.join(", "));
    if let Some(seconds) = rule.max_age_seconds {
        put(headers, ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
    }
    put(headers, VARY, VARIES);
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Some(value) = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty()) {
        headers.insert(name, value);
    }
}

fn checked_rule(rule: CORSRule) -> S3Result<CorsRule> {
    let refuse = |message: String| Err(invalid("InvalidRequest", message));
    if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return refuse(format!("Found unsupported HTTP method in CORS config. Unsupported method is {method}"));
    }
    if rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
        return Err(super::error::malformed_xml());
    }
    let headers = rule.allowed_headers.unwrap_or_default();
    let exposed = rule.expose_headers.unwrap_or_default();
    for (what, texts) in [("AllowedOrigin", &rule.allowed_origins), ("AllowedHeader", &headers)] {
        if let Some(text) = texts.iter().find(|text| text.matches('*').count() > 1) {
            return refuse(format!("{what} \"{text}\" can not have more than one wildcard."));
        }
    }
    if let Some(text) = exposed.iter().find(|text| text.contains('*')) {
        let message = format!(
            "ExposeHeader \"{text}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
        );
        return refuse(message);
    }
    let printable = |text: &String| HeaderValue::from_str(text).is_ok();
    if !headers.iter().chain(&exposed).chain(&rule.allowed_origins).all(printable) {
        return Err(super::error::malformed_xml());
    }
    if rule.id.as_ref().is_some_and(|id| id.chars().count() > 255) || rule.max_age_seconds.is_some_and(|age| age < 0) {
        return Err(super::error::malformed_xml());
    }
    Ok(CorsRule {
        id: rule.id,
        origins: rule.allowed_origins,
        methods: rule.allowed_methods,
        headers,
        exposed,
        max_age_seconds: rule.max_age_seconds,
    })
}
