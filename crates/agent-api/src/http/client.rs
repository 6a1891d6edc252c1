use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use terroir_types::{HostId, InstanceId};

use super::dial::{Dial, UnixDial};
use super::{Answer, Credentials, FetchBlob, MAX_BODY_BYTES, PullSpec, Queries};
use crate::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostQuery, HostReport, JoinRequest, Membership, QueryAnswer,
    RenewRequest, ReportAck, RoleCredentials, SpecPage,
};

const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Between two pieces of a blob.
const PIECE_DEADLINE: Duration = Duration::from_secs(60);

/// The control plane at the other end. Every call is a connection of its own.
#[derive(Clone)]
pub struct HttpControlPlane {
    dial: Arc<dyn Dial>,
}

/// Ends the connection's task with the answer.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HttpControlPlane {
    /// Behind a Unix socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_dial(Arc::new(UnixDial::new(socket)))
    }

    pub fn with_dial(dial: Arc<dyn Dial>) -> Self {
        Self { dial }
    }

    /// Asks to be let in; the connection shows no certificate.
    ///
    /// # Errors
    /// `Refused` for a token that does not count.
    pub async fn join(&self, request: &JoinRequest) -> Result<Membership, CrossingError> {
        self.ask("/v1/join", request, Duration::ZERO).await
    }

    /// Asks for the next certificate.
    ///
    /// # Errors
    /// `Refused` for a host that is no member any more.
    pub async fn renew(&self, request: &RenewRequest) -> Result<Membership, CrossingError> {
        self.ask("/v1/renew", request, Duration::ZERO).await
    }

    async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(http::Response<Incoming>, Connection), CrossingError> {
        let body = serde_json::to_vec(body).map_err(|e| CrossingError::Refused(format!("cannot be written: {e}")))?;
        let exchange = async {
            let stream = self.dial.dial().await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
            let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
            let request = Request::post(path)
                .header(http::header::HOST, "control-plane")
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))
                .map_err(unreachable)?;
            let response = sender.send_request(request).await.map_err(unreachable)?;
            Ok((response, connection))
        };
        let answered = tokio::time::timeout(deadline, exchange).await;
        let (response, connection) = answered.map_err(|_| unreachable("no answer in time"))??;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let text = tokio::time::timeout(ANSWER_DEADLINE, Limited::new(response.into_body(), 64 << 10).collect()).await;
        let text = text.ok().and_then(Result::ok).map(|text| text.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        Err(match status {
            StatusCode::NOT_FOUND => CrossingError::NotFound(text),
            status if status.is_client_error() => CrossingError::Refused(text),
            _ => CrossingError::Unreachable(format!("{status}: {text}")),
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<T, CrossingError> {
        let (response, _connection) = self.post(path, body, wait + ANSWER_DEADLINE).await?;
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
        let body = tokio::time::timeout(ANSWER_DEADLINE, body).await.map_err(|_| unreachable("no answer in time"))?;
        let body = body.map_err(unreachable)?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| unreachable(format!("an answer that cannot be read: {error}")))
    }
}

pub(super) fn unreachable(error: impl std::fmt::Display) -> CrossingError {
    CrossingError::Unreachable(error.to_string())
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl ControlPlane for HttpControlPlane {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        self.ask("/v1/pull-spec", &PullSpec { host, cursor, wait_ms: millis(wait) }, wait).await
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        self.ask("/v1/report", &report, Duration::ZERO).await
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.ask("/v1/queries", &Queries { host, wait_ms: millis(wait) }, wait).await
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        let _: serde_json::Value = self.ask("/v1/answer", &Answer { host, query, answer }, Duration::ZERO).await?;
        Ok(())
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        let request = FetchBlob { host, name: name.to_owned() };
        let (response, _connection) = self.post("/v1/fetch-blob", &request, ANSWER_DEADLINE).await?;
        let mut body = response.into_body();
        loop {
            let piece = tokio::time::timeout(PIECE_DEADLINE, body.frame()).await;
            let Some(frame) = piece.map_err(|_| unreachable("the blob stalled"))? else { return Ok(()) };
            let frame = frame.map_err(|error| unreachable(format!("the blob was cut short: {error}")))?;
            if let Some(data) = frame.data_ref() {
                sink.write_all(data).map_err(|error| CrossingError::Refused(format!("cannot be kept: {error}")))?;
            }
        }
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.ask("/v1/credentials", &Credentials { host, instance }, Duration::ZERO).await
    }
}
