//! A client in the same process: it signs requests and hands them to the server without a connection. For tests.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use std::net::SocketAddr;
use terroir_aws_model::Service;
use terroir_iam::sigv4::{self, PathRule, Scope, SigningKey};
use terroir_types::{Secret, Timestamp};

use crate::ApiServer;

/// Credentials and the moment of signing. Every field may be set wrong on purpose.
#[derive(Debug, Clone)]
pub struct Client {
    pub access_key_id: String,
    pub secret: Secret<String>,
    pub token: Option<String>,
    pub region: String,
    /// Credential scope's service; none: that of the call.
    pub scope_service: Option<String>,
    pub now: Timestamp,
    pub peer: SocketAddr,
}

/// What came back. `code` is the error's, empty for success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub code: String,
    pub body: String,
}

impl Answer {
    /// The text of the first element of this name, or of the first text member of JSON.
    pub fn element(&self, name: &str) -> Option<&str> {
        if self.body.starts_with('{') {
            // What is asked for in tests has no escapes.
            return self.body.split_once(&format!("\"{name}\":\""))?.1.split('"').next();
        }
        let rest = self.body.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    }
}

/// `application/x-www-form-urlencoded` text.
pub fn form(parameters: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| {
        format!("{}={}", sigv4::encode(name.as_bytes()), sigv4::encode(value.as_bytes()))
    };
    parameters.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// A JSON object of parameters that are named as in a form: `Tags.1.TagKey`, `EncryptionContext.a`. Values that look like
/// numbers or truth values are.
pub fn json(parameters: &[(&str, &str)]) -> String {
    let mut object = Value::Object(Map::new());
    for (name, value) in parameters {
        let mut place = &mut object;
        for part in name.split('.') {
            place = match part.parse::<usize>().ok().filter(|number| *number > 0) {
                Some(number) => {
                    if !place.is_array() {
                        *place = Value::Array(Vec::new());
                    }
                    // It has just been made one.
                    let Value::Array(list) = place else { break };
                    if list.len() < number {
                        list.resize(number, Value::Null);
                    }
                    &mut list[number - 1]
                }
                None => {
                    if !place.is_object() {
                        *place = Value::Object(Map::new());
                    }
                    &mut place[part]
                }
            };
        }
        *place = match value.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) if *value == "true" || *value == "false" => (*value == "true").into(),
            Err(_) => (*value).into(),
        };
    }
    object.to_string()
}

impl Client {
    pub fn new(access_key_id: &str, secret: &Secret<String>, region: &str, now: Timestamp) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret: secret.clone(),
            token: None,
            region: region.to_owned(),
            scope_service: None,
            now,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        }
    }

    /// Calls an action by a signed POST.
    pub async fn call(
        &self,
        server: &ApiServer,
        service: Service,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Answer {
        if service.speaks_json() {
            return self.call_json(server, service, action, &json(parameters)).await;
        }
        let envelope = [("Action", action), ("Version", service.api_version())];
        let body = form(&[&envelope, parameters].concat());
        self.send(server, self.signed_post(service, &body)).await
    }

    /// Calls an action of a service that speaks JSON, whatever the body is.
    pub async fn call_json(&self, server: &ApiServer, service: Service, action: &str, body: &str) -> Answer {
        let target = format!("{}.{action}", service.model().target_prefix);
        self.send(server, self.signed_post_to(service, Some(&target), body)).await
    }

    fn scope(&self, service: Service) -> Scope {
        Scope {
            date: self.now.to_amz_date()[..8].to_owned(),
            region: self.region.clone(),
            service: self.scope_service.clone().unwrap_or_else(|| service.signing_name().to_owned()),
        }
    }

    /// A POST of `body` with its signature in the `Authorization` header.
    pub fn signed_post(&self, service: Service, body: &str) -> Request<Body> {
        self.signed_post_to(service, None, body)
    }

    /// As [`Client::signed_post`], with an `X-Amz-Target`.
    pub fn signed_post_to(&self, service: Service, target: Option<&str>, body: &str) -> Request<Body> {
        let mut request = Request::new(Body::from(body.to_owned()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/");
        let kind = match target {
            Some(_) => "application/x-amz-json-1.1",
            None => "application/x-www-form-urlencoded; charset=utf-8",
        };
        let mut headers = vec![
            ("content-type", kind.to_owned()),
            ("host", "127.0.0.1:9000".to_owned()),
            ("x-amz-date", self.now.to_amz_date()),
        ];
        headers.extend(self.token.clone().map(|token| ("x-amz-security-token", token)));
        headers.extend(target.map(|target| ("x-amz-target", target.to_owned())));
        for (name, value) in &headers {
            // Dates, tokens and hosts are printable ASCII.
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(*name, value);
            }
        }
        let names: Vec<String> = headers.iter().map(|(name, _)| (*name).to_owned()).collect();
        let signature = self.sign(&mut request, service, &names, &sigv4::payload_hash(body.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.access_key_id,
            self.scope(service),
            names.join(";")
        );
        if let Ok(value) = authorization.parse() {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
    }

    /// A GET of a presigned URL.
    pub fn presigned_get(&self, service: Service, parameters: &[(&str, &str)], expires_secs: u32) -> Request<Body> {
        let credential = format!("{}/{}", self.access_key_id, self.scope(service));
        let date = self.now.to_amz_date();
        let expires = expires_secs.to_string();
        let mut all = parameters.to_vec();
        all.extend([
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", credential.as_str()),
            ("X-Amz-Date", date.as_str()),
            ("X-Amz-Expires", expires.as_str()),
            ("X-Amz-SignedHeaders", "host"),
        ]);
        all.extend(self.token.as_deref().map(|token| ("X-Amz-Security-Token", token)));
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert(header::HOST, http::HeaderValue::from_static("127.0.0.1:9000"));
        let query = form(&all);
        set_query(&mut request, &query);
        let signature = self.sign(&mut request, service, &["host".to_owned()], &sigv4::payload_hash(b""));
        set_query(&mut request, &format!("{query}&X-Amz-Signature={signature}"));
        request
    }

    fn sign(&self, request: &mut Request<Body>, service: Service, names: &[String], hash: &str) -> String {
        let body = std::mem::take(request.body_mut());
        let (parts, ()) = std::mem::take(request).map(|_| ()).into_parts();
        let scope = self.scope(service);
        // What this client builds is well-formed.
        let canonical = sigv4::canonical_request(&parts, names, hash, PathRule::Double).unwrap_or_default();
        let text = sigv4::string_to_sign(self.now, &scope, &canonical);
        *request = Request::from_parts(parts, body);
        SigningKey::derive(self.secret.expose(), &scope).sign(&text)
    }

    pub async fn send(&self, server: &ApiServer, request: Request<Body>) -> Answer {
        let response = server.handle(request, self.peer).await;
        let status = response.status();
        let body = match response.into_body().collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(error) => error.to_string(),
        };
        let mut answer = Answer { status, code: String::new(), body };
        answer.code = answer.element("Code").or_else(|| answer.element("__type")).unwrap_or_default().to_owned();
        answer
    }
}

fn set_query(request: &mut Request<Body>, query: &str) {
    // Escaped text is always a valid query.
    if let Ok(uri) = format!("/?{query}").parse() {
        *request.uri_mut() = uri;
    }
}
