//! How a host comes to be one of the region's, and stays one.

use serde::{Deserialize, Serialize};
use terroir_types::{HostId, Secret};

/// What a machine sends that wants to be a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Of the token.
    pub secret: Secret<String>,
    /// As the host calls itself.
    pub host: HostId,
    /// Request for a certificate (PKCS #10), PEM.
    pub request_pem: String,
}

/// What a host sends for its next certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    pub host: HostId,
    pub request_pem: String,
}

/// What makes a host a host. All of it is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub host: HostId,
    pub region: String,
    /// The availability zone that its site is.
    pub site: String,
    pub certificate_pem: String,
    /// Who signs hosts' and servers' certificates.
    pub authority_pem: String,
    /// `ADDRESS:PORT` of the servers.
    pub servers: Vec<String>,
}
