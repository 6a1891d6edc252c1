//! Sessions: temporary credentials that need no record.
//!
//! A session token is a sealed text (AEAD under the cell's key) that says whose session it is and until when; it is
//! bound to its access key id. The secret is a MAC of the access key id. Whoever has the key ring can therefore check a
//! session, before and after a restart and on every server, and nothing is stored. See `docs/adr/0007`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use terroir_action::Session;
use terroir_store::KeyRing;
use terroir_types::{AccountId, Error, IdSource, Secret, Timestamp};

use crate::names::access_key_id;

/// What begins the id of a session's access key.
pub const SESSION_KEY_PREFIX: &str = "ASIA";

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 32 * 1024;

/// What a token says, under seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "w")]
    pub whose: Whose,
    #[serde(rename = "e")]
    pub expires_at: Timestamp,
    /// Documents that further limit the session.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    #[serde(flatten)]
    pub session: Session,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Whose {
    #[serde(rename = "root")]
    Root,
    /// By id.
    #[serde(rename = "user")]
    User(String),
    #[serde(rename = "role")]
    Role { id: String, session: String },
    /// `user` is the id of who gave the session; none: the root.
    #[serde(rename = "federated")]
    Federated { user: Option<String>, name: String },
}

/// Temporary credentials as a client gets them.
#[derive(Debug, Clone)]
pub struct SessionCredentials {
    pub access_key_id: String,
    pub secret: Secret<String>,
    pub token: Secret<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

pub(crate) fn issue(keys: &dyn KeyRing, ids: &dyn IdSource, claims: &Claims) -> Result<SessionCredentials, Error> {
    let access_key_id = access_key_id(SESSION_KEY_PREFIX, ids);
    let plain = serde_json::to_vec(claims).map_err(Error::internal)?;
    let sealed = keys.seal(None, associated_data(&access_key_id).as_bytes(), &plain)?;
    Ok(SessionCredentials {
        secret: secret(keys, &access_key_id),
        token: Secret::new(URL_SAFE_NO_PAD.encode(sealed)),
        access_key_id,
        issued_at: claims.session.issued_at,
        expires_at: claims.expires_at,
    })
}

/// The secret that belongs to a session's access key id: 40 characters.
pub(crate) fn secret(keys: &dyn KeyRing, access_key_id: &str) -> Secret<String> {
    let mac = keys.mac("session-secret", access_key_id.as_bytes());
    Secret::new(STANDARD.encode(&mac[..30]))
}

/// What the token says, if it is ours and belongs to this access key id. Expiry is the caller's to check.
pub(crate) fn open(keys: &dyn KeyRing, access_key_id: &str, token: &str) -> Option<Claims> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
    let plain = keys.open(None, associated_data(access_key_id).as_bytes(), &sealed).ok()?;
    serde_json::from_slice(&plain).ok()
}

fn associated_data(access_key_id: &str) -> String {
    format!("session-token/{access_key_id}")
}
