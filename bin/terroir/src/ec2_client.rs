//! The few EC2 calls that `terroir demo` makes, over the same door as everybody's.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, payload_hash, string_to_sign};
use terroir_types::{Clock, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::admin_api::Environment;
use crate::tls;

pub struct Ec2Client {
    environment: Environment,
}

/// AWS's code and message, or what went wrong on the way (without a code).
#[derive(Debug)]
pub struct CallError {
    pub code: String,
    message: String,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.code.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.code, self.message) }
    }
}

fn on_the_way(error: impl std::fmt::Display) -> CallError {
    CallError { code: String::new(), message: error.to_string() }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, CallError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(on_the_way)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(on_the_way)
}

impl Ec2Client {
    pub fn new(environment: Environment) -> Self {
        Self { environment }
    }

    /// The answer's XML.
    pub async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String, CallError> {
        let mut body = format!("Action={action}&Version=2016-11-15");
        for (name, value) in parameters {
            body.push('&');
            body.push_str(name);
            body.push('=');
            body.push_str(&terroir_iam::sigv4::encode(value.as_bytes()));
        }
        let (scheme, address) = self.environment.endpoint.split_once("://").unwrap_or_default();
        let request = self.signed(address, body)?;
        let stream = TcpStream::connect(address).await.map_err(on_the_way)?;
        let answer = if scheme == "https" {
            let config = tls::client_config(self.environment.authorities.as_deref()).map_err(on_the_way)?;
            let ip = address.parse::<SocketAddr>().map_err(on_the_way)?.ip();
            send(TlsConnector::from(config).connect(ip.into(), stream).await.map_err(on_the_way)?, request).await?
        } else {
            send(stream, request).await?
        };
        let good = answer.status().is_success();
        let bytes = answer.into_body().collect().await.map_err(on_the_way)?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if good {
            return Ok(text);
        }
        let code = text_of(&text, "Code").unwrap_or_default().to_owned();
        Err(CallError { code, message: text_of(&text, "Message").unwrap_or(&text).to_owned() })
    }

    fn signed(&self, address: &str, body: String) -> Result<Request<Full<Bytes>>, CallError> {
        let now = SystemClock.now();
        let stamp = now.to_amz_date();
        let scope =
            Scope { date: stamp[..8].to_owned(), region: self.environment.region.clone(), service: "ec2".to_owned() };
        let request = Request::post("/")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("host", address)
            .header("x-amz-date", &stamp)
            .body(())
            .map_err(on_the_way)?;
        let (mut parts, ()) = request.into_parts();
        let headers = ["content-type", "host", "x-amz-date"].map(str::to_owned);
        let hash = payload_hash(body.as_bytes());
        let canonical = canonical_request(&parts, &headers, &hash, PathRule::Double).map_err(on_the_way)?;
        let key = SigningKey::derive(&self.environment.secret_access_key, &scope);
        let signature = key.sign(&string_to_sign(now, &scope, &canonical));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            self.environment.access_key_id,
            headers.join(";")
        );
        parts.headers.insert("authorization", HeaderValue::from_str(&authorization).map_err(on_the_way)?);
        Ok(Request::from_parts(parts, Full::new(Bytes::from(body))))
    }
}

/// The text of the first element of that name; the answers we read hold no entities in these.
pub fn text_of<'a>(xml: &'a str, element: &str) -> Option<&'a str> {
    let open = format!("<{element}>");
    let start = xml.find(&open)? + open.len();
    let end = xml[start..].find("</")? + start;
    Some(&xml[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_element() {
        let xml = "<a><instanceId>i-1</instanceId><instanceId>i-2</instanceId><empty></empty></a>";
        for (element, expected) in [("instanceId", Some("i-1")), ("empty", Some("")), ("absent", None)] {
            assert_eq!(text_of(xml, element), expected);
        }
    }
}
