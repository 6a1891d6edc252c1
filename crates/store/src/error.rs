use std::path::PathBuf;
use terroir_types::{Error, ErrorClass};

use crate::engine::LeaseId;
use crate::{Key, Revision};

/// What can go wrong in the store. Domain code sees it as [`terroir_types::Error`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("revision is compacted: the change log begins at revision {compacted}")]
    Compacted { compacted: Revision },
    #[error("revision {requested} lies in the future, the newest is {current}")]
    FutureRevision { requested: Revision, current: Revision },
    #[error("the store is closed")]
    Closed,
    #[error("no space is left on the disk that holds the state")]
    DiskFull,
    #[error("the state is on a read-only file system or file")]
    ReadOnly,
    #[error("the state was written by a newer version (format {found}, this binary reads up to {supported})")]
    NewerFormat { found: u32, supported: u32 },
    #[error("a record of kind '{kind}' has version {found}, this binary knows up to {supported}")]
    NewerRecord { kind: &'static str, found: u16, supported: u16 },
    #[error("a record of kind '{kind}' has version {found}, from which no migration exists")]
    UnknownVersion { kind: &'static str, found: u16 },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("{path} is not a state file of this program")]
    NotAStore { path: PathBuf },
    #[error("the key file does not belong to this state")]
    WrongKey,
    #[error("the state is damaged: {0}")]
    Corrupt(String),
    #[error("a sealed part cannot be opened: {0}")]
    Seal(String),
    #[error("a record cannot be encoded or decoded: {0}")]
    Codec(String),
    #[error("lease {0:x} does not exist or has expired")]
    LeaseNotFound(LeaseId),
    #[error("the outbox '{stream}' is full")]
    OutboxFull { stream: String },
    #[error("the transaction is too large: {operations} operations, {bytes} bytes")]
    TooLarge { operations: usize, bytes: usize },
    #[error("{0} did not happen within its deadline")]
    Deadline(&'static str),
    #[error("key '{key}' is no record of kind '{kind}'")]
    WrongKind { key: Key, kind: &'static str },
    #[error("key '{0}' is outside the in-memory view and was not fetched before the transaction")]
    NotPrefetched(Key),
    #[error("key '{0}' does not exist")]
    Absent(Key),
    #[error("a transaction that nobody commits cannot write")]
    ReadOnlyTransaction,
    #[error("{0}")]
    Io(String),
}

impl StoreError {
    /// Whether a commit that failed so has certainly written nothing. After the others it may have been done.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::DiskFull
            | Self::ReadOnly
            | Self::LeaseNotFound(_)
            | Self::OutboxFull { .. }
            | Self::TooLarge { .. }
            | Self::Absent(_)
            | Self::Codec(_)
            | Self::Seal(_)
            | Self::WrongKind { .. }
            | Self::NotPrefetched(_)
            | Self::ReadOnlyTransaction => true,
            Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::Closed
            | Self::NewerFormat { .. }
            | Self::NewerRecord { .. }
            | Self::UnknownVersion { .. }
            | Self::Locked { .. }
            | Self::NotAStore { .. }
            | Self::WrongKey
            | Self::Corrupt(_)
            | Self::Deadline(_)
            | Self::Io(_) => false,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let internal = error.to_string();
        match error {
            StoreError::DiskFull
            | StoreError::ReadOnly
            | StoreError::Closed
            | StoreError::Deadline(_)
            | StoreError::OutboxFull { .. }
            | StoreError::Compacted { .. }
            | StoreError::LeaseNotFound(_)
            | StoreError::Io(_) => {
                Self::unavailable("The service cannot record the change now. Try again later.").with_internal(internal)
            }
            StoreError::TooLarge { .. } => Self::new(
                ErrorClass::Invalid,
                "RequestTooLarge",
                "The request changes too much at once. Split it into smaller requests.",
            )
            .with_internal(internal),
            StoreError::FutureRevision { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::NewerRecord { .. }
            | StoreError::UnknownVersion { .. }
            | StoreError::Locked { .. }
            | StoreError::NotAStore { .. }
            | StoreError::WrongKey
            | StoreError::Corrupt(_)
            | StoreError::Seal(_)
            | StoreError::Codec(_)
            | StoreError::WrongKind { .. }
            | StoreError::NotPrefetched(_)
            | StoreError::Absent(_)
            | StoreError::ReadOnlyTransaction => Self::internal(internal),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            std::io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io(error.to_string()),
        }
    }
}
