//! The one door to data keys: how services that keep tenants' data have it protected by KMS keys.

use async_trait::async_trait;
use std::collections::BTreeMap;
use terroir_types::{Arn, Error, Secret};

use crate::Caller;

/// On whose behalf, through which service and bound to what a data key is asked for.
#[derive(Debug, Clone, Copy)]
pub struct KeyUse<'a> {
    /// Who must be allowed to use the key, by its policy, by a grant, or by policies of its own.
    pub caller: &'a Caller,
    /// Signing name of the service that asks, for example `s3`: condition key `kms:ViaService`.
    pub via: &'static str,
    /// Bound to the data key; the same must be given to open it.
    pub context: &'a BTreeMap<String, String>,
}

/// A fresh key of 256 bits.
#[derive(Debug, Clone)]
pub struct DataKey {
    pub plaintext: Secret<[u8; 32]>,
    /// What is kept beside the data: at most 6,144 bytes.
    pub blob: Vec<u8>,
    /// The key that protects it, never an alias.
    pub key: Arn,
}

/// Gives and opens data keys. Both may wait for a key store outside: no transaction is held across a call.
#[async_trait]
pub trait DataKeys: Send + Sync + 'static {
    /// `key`: id, ARN, `alias/NAME` or an alias' ARN; none: the key that the service has in the caller's account, which is
    /// made on first use.
    ///
    /// # Errors
    /// KMS's own: `AccessDenied` (`Denied`), `NotFoundException`, `DisabledException`, `KMSInvalidStateException`;
    /// `KeyUnavailableException` (`Unavailable`) while a key store outside does not answer.
    async fn generate(&self, key: Option<&str>, using: KeyUse<'_>) -> Result<DataKey, Error>;

    /// Opens a blob, which says by itself which key it needs.
    ///
    /// # Errors
    /// As [`DataKeys::generate`]; `InvalidCiphertextException` for an altered blob or another context.
    async fn open(&self, blob: &[u8], using: KeyUse<'_>) -> Result<Secret<[u8; 32]>, Error>;
}
