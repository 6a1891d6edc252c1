//! The five crossings. `ControlPlane` is what an agent sees; the control plane implements it, an HTTP client carries it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use terroir_types::{HostId, InstanceId, Secret, Timestamp};

use crate::{HostReport, HostSpec, SectionKey};

/// Place in the stream of spec changes; 0 asks for everything.
pub type Cursor = u64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecPage {
    pub cursor: Cursor,
    /// `changed` is the whole spec; sections that it lacks are gone.
    pub full: bool,
    pub changed: HostSpec,
    pub removed: Vec<SectionKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAck {
    /// The control plane lost track (restart, gap): the next report must be full.
    pub want_full: bool,
}

/// A question that only the host can answer now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostQuery {
    pub id: u64,
    pub kind: QueryKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "query", rename_all = "kebab-case")]
pub enum QueryKind {
    /// The last 64 KiB that the serial console printed.
    ConsoleOutput { instance: InstanceId },
    /// A picture of the screen, PNG.
    ConsoleScreenshot { instance: InstanceId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum QueryAnswer {
    /// Base64 in JSON.
    Bytes {
        base64: String,
        taken_at: Timestamp,
    },
    NotRunning,
    Failed {
        detail: String,
    },
}

/// Credentials of an instance's role, as the metadata service serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCredentials {
    pub role_name: String,
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    pub session_token: Secret<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrossingError {
    /// Not reachable, or no answer within the deadline: try again later, change nothing.
    #[error("the control plane does not answer: {0}")]
    Unreachable(String),
    #[error("the control plane refused: {0}")]
    Refused(String),
    #[error("not found: {0}")]
    NotFound(String),
}

/// Where an agent writes a blob it fetches.
pub type BlobSink<'a> = &'a mut (dyn std::io::Write + Send);

#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// What changed after `cursor`; waits up to `wait` if nothing did.
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError>;

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError>;

    /// Open questions; waits up to `wait` for one.
    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError>;

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError>;

    /// Copies the blob called `name` into `sink`; refused unless the host's spec refers to it.
    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError>;

    /// `NotFound` if the instance has no profile.
    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError>;
}
