use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use serde_json::json;
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::{Answer, Credentials, FetchBlob, MAX_BODY_BYTES, MAX_WAIT_MS, PullSpec, Queries};
use crate::{ControlPlane, CrossingError, HostReport};

type Plane = State<Arc<dyn ControlPlane>>;

/// Serves `control` to agents.
pub fn router(control: Arc<dyn ControlPlane>) -> Router {
    Router::new()
        .route("/v1/pull-spec", post(pull_spec))
        .route("/v1/report", post(report))
        .route("/v1/queries", post(queries))
        .route("/v1/answer", post(answer))
        .route("/v1/fetch-blob", post(fetch_blob))
        .route("/v1/credentials", post(credentials))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(control)
}

pub(super) struct Failure(pub(super) CrossingError);

impl From<CrossingError> for Failure {
    fn from(error: CrossingError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self.0 {
            CrossingError::NotFound(text) => (StatusCode::NOT_FOUND, text),
            CrossingError::Refused(text) => (StatusCode::FORBIDDEN, text),
            CrossingError::Unreachable(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
        }
        .into_response()
    }
}

fn wait(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms.min(MAX_WAIT_MS))
}

async fn pull_spec(State(control): Plane, Json(ask): Json<PullSpec>) -> Result<Response, Failure> {
    Ok(Json(control.pull_spec(ask.host, ask.cursor, wait(ask.wait_ms)).await?).into_response())
}

async fn report(State(control): Plane, Json(report): Json<HostReport>) -> Result<Response, Failure> {
    Ok(Json(control.report(report).await?).into_response())
}

async fn queries(State(control): Plane, Json(ask): Json<Queries>) -> Result<Response, Failure> {
    Ok(Json(control.queries(ask.host, wait(ask.wait_ms)).await?).into_response())
}

async fn answer(State(control): Plane, Json(ask): Json<Answer>) -> Result<Response, Failure> {
    control.answer(ask.host, ask.query, ask.answer).await?;
    Ok(Json(json!({})).into_response())
}

async fn credentials(State(control): Plane, Json(ask): Json<Credentials>) -> Result<Response, Failure> {
    Ok(Json(control.credentials(ask.host, ask.instance).await?).into_response())
}

type Fetching = JoinHandle<Result<(), CrossingError>>;

/// The sink is written from a thread that may block, through a socket pair whose buffer bounds what
/// is under way. What fails before the first byte gets its own status; later, the body is cut off.
async fn fetch_blob(State(control): Plane, Json(ask): Json<FetchBlob>) -> Result<Response, Failure> {
    let broken = |error: std::io::Error| Failure(CrossingError::Unreachable(error.to_string()));
    let (mut sink, source) = BlockingStream::pair().map_err(broken)?;
    source.set_nonblocking(true).map_err(broken)?;
    let mut source = UnixStream::from_std(source).map_err(broken)?;
    let runtime = tokio::runtime::Handle::current();
    let mut fetching: Fetching =
        tokio::task::spawn_blocking(move || runtime.block_on(control.fetch_blob(ask.host, &ask.name, &mut sink)));
    let first = next_piece(&mut source).await.map_err(broken)?;
    if first.is_empty() {
        ended(&mut fetching).await?;
    }
    let pieces = stream::try_unfold((source, fetching, first), |(mut source, mut fetching, piece)| async move {
        if piece.is_empty() {
            return Ok::<_, std::io::Error>(None);
        }
        let next = next_piece(&mut source).await?;
        if next.is_empty() {
            ended(&mut fetching).await.map_err(std::io::Error::other)?;
        }
        Ok(Some((piece, (source, fetching, next))))
    });
    Ok(Body::from_stream(pieces).into_response())
}

async fn next_piece(source: &mut UnixStream) -> std::io::Result<Bytes> {
    let mut piece = Vec::with_capacity(64 << 10);
    source.read_buf(&mut piece).await?;
    Ok(piece.into())
}

async fn ended(fetching: &mut Fetching) -> Result<(), CrossingError> {
    fetching.await.unwrap_or_else(|error| Err(CrossingError::Unreachable(error.to_string())))
}
