//! Accepting connections: bounded in number, each with deadlines, all closed in order at the end.

use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use terroir_pki::Handshakes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::ApiServer;

/// Why the endpoint cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is already in use: another program listens there. Stop it, or choose another address with --listen")]
    InUse(SocketAddr),
    #[error("this user may not listen on {0}: ports below 1024 need root. Choose another port with --listen")]
    Forbidden(SocketAddr),
    #[error("{0} is not an address of this machine. Choose another one with --listen")]
    NotHere(SocketAddr),
    #[error("cannot listen on {0}: {1}")]
    Other(SocketAddr, io::Error),
}

/// Listens on the address; port 0 takes a free one, which `TcpListener::local_addr` tells.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::PermissionDenied => BindError::Forbidden(address),
        io::ErrorKind::AddrNotAvailable => BindError::NotHere(address),
        _ => BindError::Other(address, error),
    })
}

/// How long a client may take to send its headers.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);
const MAX_HEADER_BYTES: usize = 128 * 1024;
const MAX_HEADERS: usize = 200;
/// How long connections may go on after shutdown began.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl ApiServer {
    /// Serves connections, with `tls` only encrypted ones, until `shutdown` comes; then answers what has begun and returns.
    pub async fn serve(&self, listener: TcpListener, tls: Option<Handshakes>, shutdown: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.limits().connections));
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let connection = accepted_connection(self.clone(), stream, peer, tls.clone(), closed.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // Receivers live in the connections; none left is fine too.
        let _ = closing.send(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
            tracing::warn!("connections were still open after {} s and are cut", DRAIN_DEADLINE.as_secs());
        }
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Waits for a place before it accepts: what is above the limit waits in the kernel's queue.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, SocketAddr, Place)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

/// That a request came over TLS to this server; an extension of such requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encrypted;

async fn accepted_connection(
    server: ApiServer,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Handshakes>,
    mut closed: watch::Receiver<bool>,
) {
    // Answers are small and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection(server, stream, peer, false, closed).await };
    let opening = open(stream, &tls);
    let opened = tokio::select! {
        opened = opening => opened,
        // Nobody has asked for anything yet.
        _ = closed.wait_for(|closed| *closed) => return,
    };
    match opened {
        Ok(Some(stream)) => connection(server, stream, peer, true, closed).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%peer, %error, "no TLS connection was made"),
    }
}

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 22;
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 44\r\nConnection: close\r\n\r\nThis endpoint speaks TLS only: use https://\n";

/// Shakes hands. Whoever speaks plain HTTP is told so, and gets nothing else.
async fn open(
    mut stream: TcpStream,
    tls: &Handshakes,
) -> Result<Option<tokio_rustls::server::TlsStream<TcpStream>>, terroir_pki::HandshakeError> {
    let mut first = [0];
    let peeked = tokio::time::timeout(tls.deadline(), stream.peek(&mut first)).await;
    match peeked.map_err(|_| terroir_pki::HandshakeError::TooSlow)?? {
        0 => Ok(None),
        _ if first[0] == TLS_HANDSHAKE => tls.accept(stream).await.map(Some),
        _ => {
            let told = async {
                stream.write_all(SPEAK_TLS).await?;
                stream.shutdown().await?;
                // Closing with something unread would take the answer away from its reader.
                let mut rest = [0; 4096];
                while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await? > 0 {}
                Ok(())
            };
            tokio::time::timeout(TOLD_DEADLINE, told).await.unwrap_or(Ok::<_, io::Error>(()))?;
            Ok(None)
        }
    }
}

/// How long whoever was told to use TLS may take to close.
const TOLD_DEADLINE: Duration = Duration::from_secs(2);

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: ApiServer,
    stream: S,
    peer: SocketAddr,
    encrypted: bool,
    mut closed: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        if encrypted {
            request.extensions_mut().insert(Encrypted);
        }
        let server = server.clone();
        let waits = request.headers().contains_key(header::EXPECT);
        let was_read = Arc::new(AtomicBool::new(false));
        let (parts, inner) = request.into_parts();
        let body = AwaitedBody { inner, was_read: Arc::clone(&was_read) };
        async move {
            let mut response = server.handle(http::Request::from_parts(parts, axum::body::Body::new(body)), peer).await;
            if waits && !was_read.load(Ordering::Relaxed) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // The sender lives as long as the loop that accepts: an error means that it is over too.
    let shutdown = async move { closed.wait_for(|closed| *closed).await.map(|_| ()).unwrap_or_default() };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// The body of a client that may be waiting for `100 Continue`, which it gets when the body is first read. If it gets the
/// answer instead, nobody can tell whether that body comes next after all or the next request: the connection has to end
/// (RFC 9110, section 10.1.1), or the one would be read as a part of the other. An empty body is never read, and botocore
/// then takes the answer's status for that of the connection's next one.
struct AwaitedBody {
    inner: Incoming,
    /// Whether there was something to read, and all of it was.
    was_read: Arc<AtomicBool>,
}

impl Body for AwaitedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.inner.is_end_stream() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.was_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
