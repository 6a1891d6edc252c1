use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Why a connection did not become one.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the handshake was not over in time")]
    TooSlow,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// The server's side of handshakes: so many at once, each with a deadline. Those above wait for a place.
#[derive(Clone)]
pub struct Handshakes {
    acceptor: TlsAcceptor,
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Handshakes {
    pub fn new(config: Arc<ServerConfig>, at_once: usize, deadline: Duration) -> Self {
        Self { acceptor: config.into(), places: Arc::new(Semaphore::new(at_once)), deadline }
    }

    /// How long a client may take, from the first byte on.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// # Errors
    /// [`HandshakeError`].
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<TlsStream<S>, HandshakeError> {
        let _place = self.places.acquire().await.map_err(|error| HandshakeError::Failed(io::Error::other(error)))?;
        match tokio::time::timeout(self.deadline, self.acceptor.accept(stream)).await {
            Ok(accepted) => Ok(accepted?),
            Err(_) => Err(HandshakeError::TooSlow),
        }
    }
}
