use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::str::FromStr;
use terroir_types::{IdSource, Secret};

use crate::{Fingerprint, PkiError};

const PREFIX: &str = "terroir-join-";
const SECRET_BYTES: usize = 32;

/// What a machine needs to join: where to dial, whom to believe, and a secret that counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `ADDRESS:PORT` of servers, the first one first.
    pub servers: Vec<String>,
    /// Of the certificate of who signs the servers' certificates.
    pub authority: Fingerprint,
    /// Hexadecimal.
    pub secret: Secret<String>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    s: Vec<String>,
    a: Fingerprint,
    k: Secret<String>,
}

impl JoinToken {
    pub fn create(servers: Vec<String>, authority: Fingerprint, ids: &dyn IdSource) -> Self {
        let mut secret = [0; SECRET_BYTES];
        ids.fill(&mut secret);
        Self { servers, authority, secret: Secret::new(hex::encode(secret)) }
    }

    /// By which the token is known where it was made: SHA-256 of the secret, in hexadecimal. The secret is random, so
    /// that nothing slower is needed.
    pub fn hash(secret: &Secret<String>) -> String {
        hex::encode(Sha256::digest(secret.expose().as_bytes()))
    }

    /// As it is handed over.
    pub fn to_text(&self) -> Secret<String> {
        let written = Written { s: self.servers.clone(), a: self.authority.clone(), k: self.secret.clone() };
        // Strings only: they can always be written.
        let json = serde_json::to_vec(&written).unwrap_or_default();
        Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json)))
    }
}

impl FromStr for JoinToken {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let coded = text.trim().strip_prefix(PREFIX).ok_or(PkiError::Token("it begins with `terroir-join-`"))?;
        let json = URL_SAFE_NO_PAD.decode(coded).map_err(|_| PkiError::Token("a part of it is missing or changed"))?;
        let written: Written =
            serde_json::from_slice(&json).map_err(|_| PkiError::Token("a part of it is missing or changed"))?;
        if written.s.is_empty() || written.k.expose().len() != 2 * SECRET_BYTES {
            return Err(PkiError::Token("it names no server or no secret"));
        }
        Ok(Self { servers: written.s, authority: written.a, secret: written.k })
    }
}
