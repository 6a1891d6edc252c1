//! The door to a key service: data keys that only it can open again.

use async_trait::async_trait;
use std::collections::BTreeMap;
use terroir_action::Caller;
use terroir_types::{Arn, Error, Secret};

/// On whose behalf, through which service and bound to what a data key is asked for.
#[derive(Debug, Clone, Copy)]
pub struct KeyUse<'a> {
    /// Who sent the request; needs `kms:GenerateDataKey` or `kms:Decrypt` on the key.
    pub caller: &'a Caller,
    /// Signing name of the service that asks, for example `s3`; without a key, that service's key of the caller's account
    /// is meant.
    pub via: &'static str,
    /// Bound to the data key; the same must be given to open it.
    pub context: &'a BTreeMap<String, String>,
}

/// A fresh AES-256 key.
pub struct DataKey {
    pub plaintext: Secret<[u8; 32]>,
    /// What is kept beside the data.
    pub blob: Vec<u8>,
    /// The key that protects it; never an alias.
    pub key: Arn,
}

/// A key service. Its errors have KMS's own codes.
#[async_trait]
pub trait DataKeys: Send + Sync + 'static {
    /// `key`: id, ARN, `alias/NAME` or ARN of an alias, as the client wrote it; none: the service's own key.
    ///
    /// # Errors
    /// For example `NotFoundException`, `DisabledException`, `KMSInvalidStateException`, `AccessDeniedException`.
    async fn generate(&self, key: Option<&str>, using: KeyUse<'_>) -> Result<DataKey, Error>;

    /// The blob says which key it needs.
    ///
    /// # Errors
    /// As [`Self::generate`], and `InvalidCiphertextException`.
    async fn open(&self, blob: &[u8], using: KeyUse<'_>) -> Result<Secret<[u8; 32]>, Error>;
}
