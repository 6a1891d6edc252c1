//! The crossings over HTTP/1.1, bodies in JSON, blobs as they are: on a Unix socket for the agent of the same machine,
//! over mutual TLS for all others ([`HostDoor`]).
//!
//! ```text
//! POST /v1/pull-spec     PullSpec      → SpecPage
//! POST /v1/report        HostReport    → ReportAck
//! POST /v1/queries       Queries       → [HostQuery]
//! POST /v1/answer        Answer        → {}
//! POST /v1/fetch-blob    FetchBlob     → bytes; an answer cut short is a failure
//! POST /v1/credentials   Credentials   → RoleCredentials
//! POST /v1/join          JoinRequest   → Membership; only over TLS, and without a certificate
//! POST /v1/renew         RenewRequest  → Membership; only over TLS
//! ```
//!
//! Failures: 404 `NotFound`, 403 `Refused`, 503 `Unreachable`, with the sentence as text. Who may
//! connect to the Unix socket is decided by whoever owns it (peer credentials): nothing here asks. Over TLS the host that a
//! request names must be that of the connection's certificate.

mod client;
mod dial;
mod door;
mod server;

use serde::{Deserialize, Serialize};
use terroir_types::{HostId, InstanceId};

use crate::{Cursor, QueryAnswer};

pub use client::HttpControlPlane;
pub use dial::{Dial, Link, TlsDial, UnixDial};
pub use door::{Admission, HostDoor};
pub use server::router;

/// Longest wait that a server grants, whatever is asked.
pub const MAX_WAIT_MS: u64 = 60_000;
/// Largest JSON body either way: a full report of 100,000 objects is half of it.
pub const MAX_BODY_BYTES: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct PullSpec {
    host: HostId,
    cursor: Cursor,
    wait_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Queries {
    host: HostId,
    wait_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    host: HostId,
    query: u64,
    answer: QueryAnswer,
}

#[derive(Debug, Serialize, Deserialize)]
struct FetchBlob {
    host: HostId,
    name: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Credentials {
    host: HostId,
    instance: InstanceId,
}

#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod tests;
