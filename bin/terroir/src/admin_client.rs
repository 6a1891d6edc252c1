//! The operator's side of the admin socket: HTTP over a Unix socket in the data folder.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Answers are small documents; anything longer is not ours.
const MAX_ANSWER_BYTES: usize = 16 << 20;

pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

pub struct AdminClient {
    socket: PathBuf,
}

#[derive(Debug)]
pub enum AdminError {
    /// Nobody listens: the cloud is not running.
    NotRunning(String),
    /// It answered with an error; the sentence is for the operator.
    Refused(String),
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning(detail) => {
                let or = if nix::unistd::Uid::effective().is_root() { "" } else { ", or use sudo if root runs it" };
                write!(f, "the cloud is not running ({detail}); start it with `terroir up`{or}")
            }
            Self::Refused(detail) => f.write_str(detail),
        }
    }
}

impl AdminClient {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let answer = self.send(Method::GET, path, empty()).await?;
        read_json(answer).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, AdminError> {
        let bytes = serde_json::to_vec(body).map_err(|error| AdminError::Refused(error.to_string()))?;
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        let answer = self.send(Method::POST, path, body).await?;
        read_json(answer).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: Body) -> Result<T, AdminError> {
        let answer = self.send(Method::PUT, path, body).await?;
        read_json(answer).await
    }

    /// The answer's body as it comes.
    pub async fn stream(&self, path: &str) -> Result<Incoming, AdminError> {
        Ok(self.send(Method::GET, path, empty()).await?.into_body())
    }

    /// A request without a document, and the answer's body as it comes.
    pub async fn post_stream(&self, path: &str) -> Result<Incoming, AdminError> {
        Ok(self.send(Method::POST, path, empty()).await?.into_body())
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, AdminError> {
        let not_running = |detail: String| AdminError::NotRunning(detail);
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| not_running(format!("{}: {error}", self.socket.display())))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| not_running(error.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "admin")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| AdminError::Refused(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| not_running(error.to_string()))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = read_bytes(answer).await?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(AdminError::Refused(if text.is_empty() { status.to_string() } else { text }))
    }
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}

async fn read_bytes(answer: Response<Incoming>) -> Result<Bytes, AdminError> {
    http_body_util::Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| AdminError::Refused(format!("the answer could not be read: {error}")))
}

async fn read_json<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, AdminError> {
    let bytes = read_bytes(answer).await?;
    serde_json::from_slice(&bytes).map_err(|error| AdminError::Refused(format!("unexpected answer: {error}")))
}
