//! Certificates of the region's own: who signs them, what is in them, the token by which a host joins, and TLS on both
//! sides of the hosts' door. No files and no sockets: what is read, kept and dialled is others' business.
//!
//! ```text
//! authority ──signs──▶ server   DNS control-plane.terroir.internal (or the API's names), serverAuth
//!           └─signs──▶ host     URI terroir://REGION/host/HOST-ID, clientAuth
//! ```
//! A server is known by a name that no address has to match, so it can be dialled anywhere. A host's certificate cannot
//! serve and a server's cannot report: neither stands in for the other.

mod authority;
mod certificate;
mod handshake;
mod request;
mod tls;
mod token;

pub use authority::{Authority, Issued, Validity};
pub use certificate::{CertificateFacts, Fingerprint, facts, host_of};
pub use handshake::{HandshakeError, Handshakes};
pub use request::{HostKey, SigningRequest};
pub use tls::{
    CurrentCertificate, SERVER_NAME, api_config, certified, host_config, hosts_config, joining_config, trusting_config,
};
pub use token::JoinToken;

/// Why something is not what it should be; a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    #[error("{0}")]
    Malformed(String),
    #[error("the certificate and the key do not belong together")]
    WrongKey,
    #[error("this is no token to join with: {0}")]
    Token(&'static str),
    #[error("a certificate could not be made: {0}")]
    Making(String),
}

fn making(error: impl std::fmt::Display) -> PkiError {
    PkiError::Making(error.to_string())
}

#[cfg(test)]
mod tests;
