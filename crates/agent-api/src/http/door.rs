//! The door for hosts on other machines: whoever has no certificate may only join, whoever has one speaks for its host
//! and for no other.

use async_trait::async_trait;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use terroir_pki::Handshakes;
use terroir_types::{HostId, InstanceId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::server::{Failure, router};
use crate::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostQuery, HostReport, JoinRequest, Membership, QueryAnswer,
    RenewRequest, ReportAck, RoleCredentials, SpecPage,
};

/// Connections at once; each host has a few. More wait in the kernel's queue.
const CONNECTIONS: usize = 65_536;
/// Of those, without a certificate; more are closed.
const STRANGERS: usize = 128;
const HEADER_DEADLINE: Duration = Duration::from_secs(15);
/// How long whoever shows no certificate may stay.
const STRANGER_DEADLINE: Duration = Duration::from_secs(30);
const STRANGER_BODY_BYTES: usize = 64 << 10;
/// How long connections may go on after shutdown began: a long poll is worth nothing then.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who becomes a host, and stays one.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// # Errors
    /// `Refused` for a token that does not count, or not any more.
    async fn join(&self, request: JoinRequest) -> Result<Membership, CrossingError>;

    /// # Errors
    /// `Refused` for a host that is no member.
    async fn renew(&self, request: RenewRequest) -> Result<Membership, CrossingError>;

    /// Asked before every crossing of a host that has a certificate.
    ///
    /// # Errors
    /// `Refused` for a host that is no member any more.
    async fn admit(&self, host: HostId) -> Result<(), CrossingError>;
}

/// What is behind the door.
pub struct HostDoor {
    pub region: String,
    pub handshakes: Handshakes,
    pub admission: Arc<dyn Admission>,
    pub control: Arc<dyn ControlPlane>,
}

impl HostDoor {
    /// Serves hosts until `shutdown`.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let door = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = async {
                    let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
                    Ok::<_, std::io::Error>((listener.accept().await?, place))
                } => accepted,
            };
            match accepted {
                Ok(((stream, peer), place)) => {
                    let (door, strangers, closed) = (Arc::clone(&door), Arc::clone(&strangers), closed.clone());
                    connections.spawn(async move {
                        door.connection(stream, peer, &strangers, closed).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a host's connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // Receivers live in the connections; none left is fine too.
        let _ = closing.send(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        // Those that are left are cut with the set.
        let _ = tokio::time::timeout(DRAIN_DEADLINE, drained).await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        strangers: &Semaphore,
        mut closed: watch::Receiver<bool>,
    ) {
        let _ = stream.set_nodelay(true);
        let stream = match self.handshakes.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%peer, %error, "a host's handshake failed"),
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        // The place is held until the end of the connection.
        let (routes, stay, _place) = match shown {
            None => {
                let Ok(place) = strangers.try_acquire() else { return };
                (self.strangers(), Some(STRANGER_DEADLINE), Some(place))
            }
            Some(certificate) => match terroir_pki::host_of(certificate, &self.region) {
                Some(host) => (self.members(host), None, None),
                None => return tracing::warn!(%peer, "a certificate of no host of this region"),
            },
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
        tokio::pin!(connection);
        let stay = async move {
            match stay {
                Some(stay) => tokio::time::sleep(stay).await,
                None => std::future::pending().await,
            }
        };
        // The sender lives as long as the loop that accepts: an error means that it is over too.
        let shutdown = async move { closed.wait_for(|closed| *closed).await.map(|_| ()).unwrap_or_default() };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stay => return,
            () = shutdown => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a host's connection ended early");
        }
    }

    fn strangers(&self) -> Router {
        Router::new()
            .route("/v1/join", post(join))
            .layer(DefaultBodyLimit::max(STRANGER_BODY_BYTES))
            .fallback(async || {
                Failure(CrossingError::Refused("without a certificate a machine may only join".to_owned()))
            })
            .with_state(Arc::clone(&self.admission))
    }

    fn members(&self, host: HostId) -> Router {
        let own = Own { host, admission: Arc::clone(&self.admission), inner: Arc::clone(&self.control) };
        let own = Arc::new(own);
        let renewal = Router::new().route("/v1/renew", post(renew)).with_state(Arc::clone(&own));
        router(own).merge(renewal)
    }
}

async fn join(
    State(admission): State<Arc<dyn Admission>>,
    Json(request): Json<JoinRequest>,
) -> Result<Response, Failure> {
    Ok(Json(admission.join(request).await?).into_response())
}

async fn renew(State(own): State<Arc<Own>>, Json(request): Json<RenewRequest>) -> Result<Response, Failure> {
    own.check(request.host).await?;
    Ok(Json(own.admission.renew(request).await?).into_response())
}

/// The control plane as one host sees it.
struct Own {
    host: HostId,
    admission: Arc<dyn Admission>,
    inner: Arc<dyn ControlPlane>,
}

impl Own {
    async fn check(&self, host: HostId) -> Result<(), CrossingError> {
        if host != self.host {
            return Err(CrossingError::Refused(format!("the certificate is of {}, not of {host}", self.host)));
        }
        self.admission.admit(host).await
    }
}

#[async_trait]
impl ControlPlane for Own {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        self.check(host).await?;
        self.inner.pull_spec(host, cursor, wait).await
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        self.check(report.host).await?;
        self.inner.report(report).await
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.check(host).await?;
        self.inner.queries(host, wait).await
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.check(host).await?;
        self.inner.answer(host, query, answer).await
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.check(host).await?;
        self.inner.fetch_blob(host, name, sink).await
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.check(host).await?;
        self.inner.credentials(host, instance).await
    }
}
