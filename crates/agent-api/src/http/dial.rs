use async_trait::async_trait;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::client::unreachable;
use crate::CrossingError;

/// For one address. An agent must get to the last of a few before its call's own deadline.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A connection to the control plane.
pub trait Link: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Link for T {}

/// How the control plane is reached.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// # Errors
    /// `Unreachable`.
    async fn dial(&self) -> Result<Box<dyn Link>, CrossingError>;
}

/// On the same machine.
#[derive(Debug, Clone)]
pub struct UnixDial(PathBuf);

impl UnixDial {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self(socket.into())
    }
}

#[async_trait]
impl Dial for UnixDial {
    async fn dial(&self) -> Result<Box<dyn Link>, CrossingError> {
        let connected = tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(&self.0)).await;
        let connected = connected.map_err(|_| unreachable("no connection in time"))?;
        Ok(Box::new(connected.map_err(|error| unreachable(format!("{}: {error}", self.0.display())))?))
    }
}

struct Way {
    servers: Vec<String>,
    config: Arc<ClientConfig>,
}

/// Over TLS: the server that answered last, and if it does not, the next one.
pub struct TlsDial(Mutex<Way>);

impl TlsDial {
    /// `servers`: `ADDRESS:PORT`, or a name in place of the address.
    pub fn new(servers: Vec<String>, config: Arc<ClientConfig>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Way { servers, config })))
    }

    /// From the next connection on.
    pub fn replace(&self, servers: Vec<String>, config: Arc<ClientConfig>) {
        *self.lock() = Way { servers, config };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Dial for TlsDial {
    async fn dial(&self) -> Result<Box<dyn Link>, CrossingError> {
        let (servers, config) = {
            let way = self.lock();
            (way.servers.clone(), Arc::clone(&way.config))
        };
        let mut failures = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let connected = tokio::time::timeout(CONNECT_DEADLINE, connect(server, Arc::clone(&config))).await;
            match connected {
                Ok(Ok(link)) => {
                    let mut way = self.lock();
                    if index > 0 && way.servers == servers {
                        way.servers.rotate_left(index);
                    }
                    return Ok(link);
                }
                Ok(Err(error)) => failures.push(format!("{server}: {error}")),
                Err(_) => failures.push(format!("{server}: no connection in time")),
            }
        }
        Err(unreachable(if failures.is_empty() { "no server is known".to_owned() } else { failures.join("; ") }))
    }
}

async fn connect(server: &str, config: Arc<ClientConfig>) -> std::io::Result<Box<dyn Link>> {
    let stream = TcpStream::connect(server).await?;
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(terroir_pki::SERVER_NAME).map_err(std::io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}
