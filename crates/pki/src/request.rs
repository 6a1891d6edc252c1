use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKey, PublicKeyData};
use sha2::{Digest, Sha256};
use terroir_types::Secret;

use crate::{PkiError, making};

/// A host's new key, and its request for a certificate. Both PEM.
pub struct HostKey {
    pub key_pem: Secret<String>,
    pub request_pem: String,
}

impl HostKey {
    /// # Errors
    /// `Making`.
    pub fn create() -> Result<Self, PkiError> {
        Self::with_key(Secret::new(KeyPair::generate().map_err(making)?.serialize_pem()))
    }

    /// Asks again with a key that is there already.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn with_key(key_pem: Secret<String>) -> Result<Self, PkiError> {
        let malformed = |error| PkiError::Malformed(format!("the host's key: {error}"));
        let key = KeyPair::from_pem(key_pem.expose()).map_err(malformed)?;
        let request_pem =
            CertificateParams::default().serialize_request(&key).and_then(|it| it.pem()).map_err(making)?;
        Ok(Self { key_pem, request_pem })
    }
}

/// A request whose signature is good: whoever sent it has the key. Nothing else of what it says counts.
pub struct SigningRequest {
    pub(crate) public_key: PublicKey,
}

impl SigningRequest {
    /// # Errors
    /// `Malformed`, also for a signature that is not of its key.
    pub fn open(pem: &str) -> Result<Self, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| PkiError::Malformed(format!("the request for a certificate: {error}")))?;
        Ok(Self { public_key: request.public_key })
    }

    /// SHA-256 of the public key, in hexadecimal.
    pub fn key_sha256(&self) -> String {
        hex::encode(Sha256::digest(self.public_key.subject_public_key_info()))
    }
}
