use serde::{Deserialize, Serialize};
use terroir_store::{Key, record};
use terroir_types::{AccountId, KeyPairId, Timestamp};

/// The public half of an SSH key; the private one is never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPair {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: KeyPairId,
    #[serde(rename = "t")]
    pub key_type: KeyType,
    #[serde(rename = "f")]
    pub fingerprint: String,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// Deleted pairs stay while an instance has them: its metadata still serves the key.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    #[serde(skip, default)]
    pub tenant: KeyPairTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPairTenant {
    #[serde(rename = "n")]
    pub name: String,
    /// One line in OpenSSH's form.
    #[serde(rename = "k")]
    pub openssh: String,
}

record!(KeyPair { kind: "key-pair", version: 1, account: |r| Some(r.account), tenant: tenant: KeyPairTenant });

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    #[serde(rename = "r")]
    Rsa,
    #[serde(rename = "e")]
    Ed25519,
}

impl KeyType {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// Which key pair has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName {
    #[serde(rename = "i")]
    pub key_pair: KeyPairId,
}

record!(KeyName { kind: "key-name", version: 1 });

pub fn key_pair_key(account: AccountId, id: KeyPairId) -> Key {
    Key::new(format!("key-pair/{account}/{id}"))
}
