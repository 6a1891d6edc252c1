use serde::{Deserialize, Serialize};
use terroir_store::{Key, record};
use terroir_types::{HostId, Secret, Timestamp};

/// A token with which one machine may join. The token itself is nowhere; it is known by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenRecord {
    pub zone: String,
    pub fire_zone: Option<String>,
    /// Only this host, which may be one already: it gets a new certificate.
    pub host: Option<HostId>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

record!(JoinTokenRecord { kind: "join-token", version: 1 });

/// A host on another machine that has joined. Without this record its certificate is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub host: HostId,
    pub zone: String,
    pub fire_zone: Option<String>,
    pub enrolled_at: Timestamp,
    /// Hash of the token, until when it would have counted, and SHA-256 of the key it was used with: the same request
    /// again, whose answer was lost, gets another answer.
    pub token: String,
    pub token_expires_at: Timestamp,
    pub key_sha256: String,
}

record!(Enrolment { kind: "host-enrolment", version: 1 });

/// A host that the operator has removed: it does not come back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedHost {
    pub removed_at: Timestamp,
}

record!(RemovedHost { kind: "removed-host", version: 1 });

/// Who signs the certificates of an operator's hosts, and those that its servers show them. The key is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAuthority {
    pub certificate_pem: String,
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: HostAuthorityKey,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAuthorityKey {
    pub key_pem: Secret<String>,
}

record!(HostAuthority { kind: "host-authority", version: 1, tenant: tenant: HostAuthorityKey });

/// By the token's hash.
pub fn join_token_key(hash: &str) -> Key {
    Key::new(format!("join-token/{hash}"))
}

pub fn enrolment_key(host: HostId) -> Key {
    Key::new(format!("host-enrolment/{host}"))
}

pub fn removed_host_key(host: HostId) -> Key {
    Key::new(format!("removed-host/{host}"))
}

/// By the operator's id.
pub fn host_authority_key(operator: &str) -> Key {
    Key::new(format!("host-authority/{operator}"))
}
