//! A signing client and closed-loop load: each connection sends its next request when the last is answered.

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, encode, payload_hash, string_to_sign};
use terroir_types::{Clock, SystemClock};
use tokio::net::TcpStream;

use crate::say;

pub type Call = Request<Full<Bytes>>;

/// Where a cloud answers, and as whom we call it.
#[derive(Clone)]
pub struct Endpoint {
    pub address: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// What a request carries; its hash is taken once, however often it is sent.
#[derive(Clone)]
pub struct Payload {
    bytes: Bytes,
    hash: String,
}

impl Payload {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let hash = payload_hash(&bytes);
        Self { bytes, hash }
    }
}

impl Endpoint {
    pub fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Call, String> {
        let mut body = format!("Action={action}&Version=2016-11-15");
        for (name, value) in parameters {
            body.push_str(&format!("&{name}={}", encode(value.as_bytes())));
        }
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        self.signed(Method::POST, "/", "ec2", form, &Payload::new(body))
    }

    pub fn s3(&self, method: Method, path: &str, payload: &Payload) -> Result<Call, String> {
        self.signed(method, path, "s3", ("x-amz-content-sha256", &payload.hash), payload)
    }

    /// A read with parameters, in alphabetical order.
    pub fn s3_query(&self, path: &str, query: &[(&str, &str)], payload: &Payload) -> Result<Call, String> {
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", encode(value.as_bytes()));
        let query: Vec<String> = query.iter().map(pair).collect();
        self.s3(Method::GET, &format!("{path}?{}", query.join("&")), payload)
    }

    fn signed(
        &self,
        method: Method,
        path: &str,
        service: &str,
        header: (&str, &str),
        payload: &Payload,
    ) -> Result<Call, String> {
        let now = SystemClock.now();
        let stamp = now.to_amz_date();
        let scope = Scope { date: stamp[..8].to_owned(), region: self.region.clone(), service: service.to_owned() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header.0, header.1)
            .header("host", &self.address)
            .header("x-amz-date", &stamp)
            .body(())
            .map_err(say)?;
        let (mut parts, ()) = request.into_parts();
        let mut names = [header.0, "host", "x-amz-date"].map(str::to_owned);
        names.sort();
        let rule = if service == "s3" { PathRule::Single } else { PathRule::Double };
        let canonical = canonical_request(&parts, &names, &payload.hash, rule).map_err(say)?;
        let key = SigningKey::derive(&self.secret_access_key, &scope);
        let signature = key.sign(&string_to_sign(now, &scope, &canonical));
        let text = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            self.access_key_id,
            names.join(";")
        );
        parts.headers.insert("authorization", HeaderValue::from_str(&text).map_err(say)?);
        Ok(Request::from_parts(parts, Full::new(payload.bytes.clone())))
    }

    /// One call on a connection of its own; the answer's text.
    pub async fn call(&self, call: Call) -> Result<String, String> {
        let mut sender = self.connect().await?;
        let answer = sender.send_request(call).await.map_err(say)?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(say)?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(say)?;
        stream.set_nodelay(true).map_err(say)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The text of the first element of that name.
pub fn text_of<'a>(xml: &'a str, element: &str) -> Result<&'a str, String> {
    let open = format!("<{element}>");
    let absent = || format!("no <{element}> in {xml}");
    let start = xml.find(&open).ok_or_else(absent)? + open.len();
    let end = xml[start..].find("</").ok_or_else(absent)? + start;
    Ok(&xml[start..end])
}

/// What a load took.
pub struct Measured {
    /// Ascending.
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Measured {
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds; `share` from 0 to 1.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        quantile(&self.latencies, share).as_secs_f64() * 1e3
    }
}

/// The nearest rank of an ascending list; zero for an empty one.
pub fn quantile(ascending: &[Duration], share: f64) -> Duration {
    let rank = (ascending.len() as f64 * share).ceil() as usize;
    ascending.get(rank.saturating_sub(1).min(ascending.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// At most `count` calls over `connections`, no new one after `limit`. A refused call ends the load.
pub async fn load(
    endpoint: &Endpoint,
    connections: usize,
    count: usize,
    limit: Duration,
    call: impl Fn(&Endpoint, usize) -> Result<Call, String> + Send + Sync + 'static,
) -> Result<Measured, String> {
    let next = Arc::new(AtomicUsize::new(0));
    let call = Arc::new(call);
    let mut senders = Vec::new();
    for _ in 0..connections {
        senders.push(endpoint.connect().await?);
    }
    let start = Instant::now();
    let mut tasks = Vec::new();
    for mut sender in senders {
        let (next, call, endpoint) = (Arc::clone(&next), Arc::clone(&call), endpoint.clone());
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < limit {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let request = call(&endpoint, number)?;
                let sent = Instant::now();
                sender.ready().await.map_err(say)?;
                let answer = sender.send_request(request).await.map_err(say)?;
                if !answer.status().is_success() {
                    let status = answer.status();
                    let body = answer.into_body().collect().await.map_err(say)?.to_bytes();
                    return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
                }
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    frame.map_err(say)?;
                }
                latencies.push(sent.elapsed());
            }
            Ok::<_, String>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.map_err(say)??);
    }
    let elapsed = start.elapsed();
    latencies.sort();
    Ok(Measured { latencies, elapsed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let list: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (share, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&list, share), Duration::from_millis(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
