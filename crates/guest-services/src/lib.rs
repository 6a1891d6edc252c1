//! DHCP, DNS and metadata for the guests of one host.
//!
//! The process opens nothing inside a guest's network itself: the agent hands it sockets that it opened in the VPC
//! namespaces, and a snapshot file to answer from. With both in hand it needs nobody: guests renew, resolve and read
//! metadata while control plane and agent are down. Restarted, it loads the file and waits for the agent's sockets.

mod dhcp;
mod dns;
mod limit;
mod link;
mod metadata;
mod offline;
#[cfg(test)]
mod sample;
mod snapshot;
mod sockets;

pub use offline::Offline;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use terroir_types::{OsRandom, SystemClock};

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
    /// Where upstream resolvers listen.
    pub upstream_port: u16,
}

impl GuestServicesOptions {
    pub fn new(socket: PathBuf, snapshot: PathBuf) -> Self {
        let token_key = snapshot.with_extension("token-key");
        Self { socket, snapshot, token_key, dhcp_lease_secs: 3600, upstream_port: 53 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GuestServicesError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// Serves until `shutdown` resolves. Must run on a tokio runtime; one thread is enough.
pub async fn run(options: GuestServicesOptions, shutdown: impl Future<Output = ()>) -> Result<(), GuestServicesError> {
    let failed = |what: &std::path::Path| {
        let what = what.display().to_string();
        move |source| GuestServicesError::Io { what, source }
    };
    let listener = link::bind(&options.socket).await.map_err(failed(&options.socket))?;
    let key = metadata::TokenKey::open_or_create(&options.token_key, &OsRandom).map_err(failed(&options.token_key))?;
    let index = snapshot::load(&options.snapshot).unwrap_or_else(|error| {
        // Nothing to answer with until the agent writes one; refusing to run would not help.
        tracing::info!(snapshot = %options.snapshot.display(), %error, "no snapshot yet");
        snapshot::Index::empty()
    });
    let current = snapshot::Current::new(index);
    let metadata = metadata::Service::new(current.clone(), key, Arc::new(SystemClock), Arc::new(OsRandom));
    let services = sockets::Services::new(current.clone(), metadata, options.upstream_port, options.dhcp_lease_secs);
    let link = link::Link { sockets: sockets::Sockets::new(services), current, snapshot: options.snapshot };
    tracing::info!(socket = %options.socket.display(), "guest services wait for the agent");
    tokio::select! {
        () = link::serve(listener, link) => {}
        () = shutdown => {}
    }
    // A successor finds it stale otherwise, which is no harm either.
    let _ = std::fs::remove_file(&options.socket);
    Ok(())
}
