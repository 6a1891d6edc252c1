//! The agent's end of the door to guest-services: writes the snapshot file, opens listening sockets inside the VPC
//! namespaces and hands them over. Both sides may restart at any time; a round compares what guest-services holds with
//! what it should hold and mends the difference.

use std::path::PathBuf;
use std::sync::Arc;
use terroir_agent_api::GuestSnapshot;

use crate::network::{HostNetwork, NetworkError};

#[derive(Debug, thiserror::Error)]
pub enum GuestLinkError {
    /// Not running, or not answering in time. Guests already served go on being served if it runs.
    #[error("guest-services does not answer: {0}")]
    Unreachable(std::io::Error),
    #[error("guest-services says: {0}")]
    Refused(String),
    #[error("guest snapshot {path}: {source}")]
    Snapshot { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Where guest-services is and what it may read.
#[derive(Debug, Clone)]
pub struct GuestLinkOptions {
    pub socket: PathBuf,
    pub snapshot: PathBuf,
    /// Owner of the snapshot file.
    pub guest_services_uid: u32,
}

#[derive(Debug)]
pub struct GuestLink {
    options: GuestLinkOptions,
    network: Arc<HostNetwork>,
}

impl GuestLink {
    pub fn new(options: GuestLinkOptions, network: Arc<HostNetwork>) -> Self {
        Self { options, network }
    }

    /// Makes guest-services answer from `snapshot`. Its `generation` is set here: it rises when anything else changed.
    pub async fn reconcile(&self, snapshot: GuestSnapshot) -> Result<(), GuestLinkError> {
        let _ = (snapshot, &self.network, &self.options);
        Err(GuestLinkError::Unreachable(std::io::Error::other("not connected yet")))
    }
}
