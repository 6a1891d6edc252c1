//! Websites in buckets: their configuration, and answering the addresses below them.
//!
//! A website has a host of its own, `BUCKET.DOMAIN` for a website domain, and is read by people without keys: what it
//! shows is what anybody may read in the bucket. Objects are read through the same door as by everybody else.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Empty;
use percent_encoding::percent_decode_str;
use s3s::dto::{Redirect as ShownRedirect, RoutingRule as ShownRule, *};
use s3s::{Body, S3Error, S3Request, S3Response, S3Result};

use super::address;
use super::error::{from_domain, invalid, method_not_allowed, no_such_bucket, s3};
use super::front::{S3Front, S3Outcome};
use super::service::{S3Api, Scoped};
use crate::website::{Arrival, Elsewhere, Redirection, RoutingRule, Target, Website};
use crate::{ops, settings};

const REDIRECT_HEADER: HeaderName = HeaderName::from_static("x-amz-website-redirect-location");
/// What of a request says which bytes of an object are wanted.
const READING: [&str; 6] =
    ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];

/// What policies may ask for.
const FACTS: [&str; 2] = ["referer", "user-agent"];

fn no_website() -> S3Error {
    let message = "The specified bucket does not have a website configuration";
    s3("NoSuchWebsiteConfiguration", StatusCode::NOT_FOUND, message)
}

impl S3Api {
    pub(super) async fn get_bucket_website(
        &self,
        request: S3Request<GetBucketWebsiteInput>,
    ) -> S3Result<S3Response<GetBucketWebsiteOutput>> {
        let site: Website = self.setting(request.bucket()?).await?.ok_or_else(no_website)?;
        let redirect_all = site.redirect_all.map(|elsewhere| RedirectAllRequestsTo {
            host_name: elsewhere.host.unwrap_or_default(),
            protocol: elsewhere.protocol.map(Protocol::from),
        });
        let rules: Vec<_> = site.rules.into_iter().map(shown_rule).collect();
        Ok(S3Response::new(GetBucketWebsiteOutput {
            error_document: site.error.map(|key| ErrorDocument { key }),
            index_document: site.index.map(|suffix| IndexDocument { suffix }),
            redirect_all_requests_to: redirect_all,
            routing_rules: Some(rules).filter(|rules| !rules.is_empty()),
        }))
    }

    pub(super) async fn put_bucket_website(
        &self,
        request: S3Request<PutBucketWebsiteInput>,
    ) -> S3Result<S3Response<PutBucketWebsiteOutput>> {
        let bucket = request.bucket()?.clone();
        let given = request.input.website_configuration;
        let redirect_all = given.redirect_all_requests_to.map(|all| Elsewhere {
            host: Some(all.host_name),
            protocol: all.protocol.map(|protocol| protocol.as_str().to_owned()),
        });
        let site = Website {
            index: given.index_document.map(|index| index.suffix),
            error: given.error_document.map(|error| error.key),
            redirect_all,
            rules: given.routing_rules.unwrap_or_default().into_iter().map(read_rule).collect::<S3Result<_>>()?,
        };
        site.check().map_err(from_domain)?;
        self.change_bucket(&bucket, |txn, bucket| settings::put(txn, bucket, &site)).await?;
        Ok(S3Response::new(PutBucketWebsiteOutput::default()))
    }

    pub(super) async fn delete_bucket_website(
        &self,
        request: S3Request<DeleteBucketWebsiteInput>,
    ) -> S3Result<S3Response<DeleteBucketWebsiteOutput>> {
        let bucket = request.bucket()?.clone();
        self.change_bucket(&bucket, |txn, bucket| settings::remove::<Website>(txn, bucket.id).map(drop)).await?;
        Ok(S3Response::new(DeleteBucketWebsiteOutput::default()))
    }

    async fn website(&self, bucket: &str) -> S3Result<Website> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let bucket = ops::find_bucket(&txn, bucket).map_err(from_domain)?.ok_or_else(no_such_bucket)?;
        settings::peek(&txn, bucket.id).map_err(from_domain)?.ok_or_else(no_website)
    }
}

fn shown_rule(rule: RoutingRule) -> ShownRule {
    let condition = (rule.prefix.is_some() || rule.status.is_some()).then(|| Condition {
        http_error_code_returned_equals: rule.status.map(|status| status.to_string()),
        key_prefix_equals: rule.prefix,
    });
    let (key, prefix) = match rule.target {
        Target::Same => (None, None),
        Target::Key(key) => (Some(key), None),
        Target::Prefix(prefix) => (None, Some(prefix)),
    };
    let redirect = ShownRedirect {
        host_name: rule.elsewhere.host,
        http_redirect_code: rule.code.map(|code| code.to_string()),
        protocol: rule.elsewhere.protocol.map(Protocol::from),
        replace_key_prefix_with: prefix,
        replace_key_with: key,
    };
    ShownRule { condition, redirect }
}

fn read_rule(rule: ShownRule) -> S3Result<RoutingRule> {
    let code = |what: &str, text: Option<String>| {
        let wrong =
            |text: &str| invalid("InvalidRequest", format!("The provided HTTP {what} code ({text}) is not valid."));
        text.map(|text| text.parse::<u16>().map_err(|_| wrong(&text))).transpose()
    };
    let (prefix, status) = match rule.condition {
        Some(condition) => (condition.key_prefix_equals, condition.http_error_code_returned_equals),
        None => (None, None),
    };
    let target = match (rule.redirect.replace_key_with, rule.redirect.replace_key_prefix_with) {
        (None, None) => Target::Same,
        (Some(key), None) => Target::Key(key),
        (None, Some(prefix)) => Target::Prefix(prefix),
        (Some(_), Some(_)) => {
            let message = "You can only define ReplaceKeyPrefix or ReplaceKey but not both.";
            return Err(invalid("InvalidRequest", message));
        }
    };
    let protocol = rule.redirect.protocol.map(|protocol| protocol.as_str().to_owned());
    Ok(RoutingRule {
        prefix,
        status: code("error", status)?,
        elsewhere: Elsewhere { host: rule.redirect.host_name, protocol },
        target,
        code: code("redirect", rule.redirect.http_redirect_code)?,
    })
}

impl S3Front {
    /// Answers a request to the website of a bucket.
    pub(super) async fn website(&self, parts: &Parts, bucket: &str, outcome: &mut S3Outcome) -> Response<Body> {
        let answer = self.page(parts, bucket, outcome).await;
        answer.unwrap_or_else(|error| {
            outcome.error = Some(error.code().as_str().to_owned());
            error_page(&error, &[("BucketName", bucket)])
        })
    }

    async fn page(&self, parts: &Parts, bucket: &str, outcome: &mut S3Outcome) -> S3Result<Response<Body>> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(method_not_allowed());
        }
        let site = self.api().website(bucket).await?;
        let unreadable = |_| invalid("InvalidURI", "Couldn't parse the specified URI.");
        let path = percent_decode_str(parts.uri.path()).decode_utf8().map_err(unreadable)?;
        let key = path.strip_prefix('/').unwrap_or(&path);
        let secure = self.facts(parts).secure;
        let host = address::host(parts).unwrap_or_default();
        let arrival = Arrival { host, protocol: if secure { "https" } else { "http" }, key };
        if let Some(redirection) = site.redirect_first(arrival) {
            return redirected(&redirection);
        }
        let object = site.object(key);
        let found = self.read(&parts.method, parts, true, bucket, &object, outcome).await?;
        let failed = found.status();
        if !(failed.is_client_error() || failed.is_server_error()) {
            return shown_object(found);
        }
        let may_be_folder = !key.is_empty() && !key.ends_with('/');
        let is_hidden = matches!(failed, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
        if may_be_folder && is_hidden && self.is_folder(parts, &site, bucket, key).await? {
            // Relative, so that it is right behind whatever stands in front.
            let location = format!("/{}/", parts.uri.path().trim_start_matches('/'));
            return redirected(&Redirection { code: 302, location });
        }
        if let Some(redirection) = site.redirect_error(arrival, failed.as_u16()) {
            return redirected(&redirection);
        }
        let code = outcome.error.take().unwrap_or_else(|| default_code(failed).to_owned());
        outcome.error = Some(code.clone());
        let error = s3(&code, failed, message_of(&code));
        // As in AWS, the document is for errors of the class 4XX.
        if let Some(document) = site.error.as_ref().filter(|_| failed.is_client_error()) {
            let custom = self.read(&parts.method, parts, false, bucket, document, &mut S3Outcome::default()).await?;
            if custom.status().is_success() {
                return Ok(custom_error(custom, &error));
            }
        }
        Ok(error_page(&error, &[("Key", &object)]))
    }

    /// Whether a key without a slash at its end names a folder with an index that anybody may read.
    async fn is_folder(&self, asked: &Parts, site: &Website, bucket: &str, key: &str) -> S3Result<bool> {
        let index = site.index_of(&format!("{key}/"));
        let found = self.read(&Method::HEAD, asked, false, bucket, &index, &mut S3Outcome::default()).await?;
        Ok(found.status().is_success())
    }

    /// Reads an object as anybody who asks without a key, from where the visitor asks. `as_asked`: with the visitor's
    /// ranges and conditions.
    async fn read(
        &self,
        method: &Method,
        asked: &Parts,
        as_asked: bool,
        bucket: &str,
        key: &str,
        outcome: &mut S3Outcome,
    ) -> S3Result<Response<Body>> {
        let target = address::path_of(bucket, key);
        let mut request = Request::builder().method(method).uri(target);
        let conditions = if as_asked { READING.as_slice() } else { &[] };
        for name in conditions.iter().chain(&FACTS) {
            if let Some(value) = asked.headers.get(*name) {
                request = request.header(*name, value);
            }
        }
        let unreadable = |_| invalid("InvalidURI", "Couldn't parse the specified URI.");
        let (mut parts, ()) = request.body(()).map_err(unreadable)?.into_parts();
        // A policy may ask for the visitor's address, for example.
        parts.extensions = asked.extensions.clone();
        let admitted = self.admit_anonymous(&parts)?;
        let response = self.serve(parts, Empty::<Bytes>::new(), admitted, outcome).await;
        outcome.error = super::front::error_code(&response);
        Ok(response)
    }
}

/// An object may say that it is elsewhere.
fn shown_object(found: Response<Body>) -> S3Result<Response<Body>> {
    match found.headers().get(REDIRECT_HEADER).filter(|_| found.status().is_success()) {
        Some(location) => {
            let location = location.to_str().unwrap_or_default().to_owned();
            redirected(&Redirection { code: 301, location })
        }
        None => Ok(found),
    }
}

/// The owner's own document for an error.
fn custom_error(mut document: Response<Body>, error: &S3Error) -> Response<Body> {
    *document.status_mut() = error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    say_error(&mut document, error);
    document
}

fn say_error(response: &mut Response<Body>, error: &S3Error) {
    let message = error.message().unwrap_or_default();
    for (name, value) in [("x-amz-error-code", error.code().as_str()), ("x-amz-error-message", message)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

fn redirected(redirection: &Redirection) -> S3Result<Response<Body>> {
    let mut response = Response::new(Body::empty());
    let unreadable = || invalid("InvalidRequest", "The redirect leads nowhere.");
    *response.status_mut() = StatusCode::from_u16(redirection.code).map_err(|_| unreadable())?;
    let location = HeaderValue::from_str(&redirection.location).map_err(|_| unreadable())?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// The code of an error whose answer, to HEAD, has no text.
const fn default_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NoSuchKey",
        StatusCode::FORBIDDEN => "AccessDenied",
        StatusCode::PRECONDITION_FAILED => "PreconditionFailed",
        StatusCode::RANGE_NOT_SATISFIABLE => "InvalidRange",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
        _ => "InvalidRequest",
    }
}

fn message_of(code: &str) -> &'static str {
    match code {
        "NoSuchKey" => "The specified key does not exist.",
        "AccessDenied" => "Access Denied",
        "PreconditionFailed" => "At least one of the pre-conditions you specified did not hold",
        "InvalidRange" => "The requested range is not satisfiable",
        _ => "The request could not be answered.",
    }
}

/// What people see in a browser.
fn error_page(error: &S3Error, more: &[(&str, &str)]) -> Response<Body> {
    let status = error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let code = error.code().as_str();
    let message = error.message().unwrap_or_default();
    let mut items = format!("<li>Code: {}</li>\n<li>Message: {}</li>\n", escape(code), escape(message));
    for (name, value) in more {
        items.push_str(&format!("<li>{name}: {}</li>\n", escape(value)));
    }
    let text = format!(
        "<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n<ul>\n{items}</ul>\n<hr/>\n</body>\n</html>\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    say_error(&mut response, error);
    response
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
