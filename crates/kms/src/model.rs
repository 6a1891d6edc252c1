//! Records of the key service.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_action::ResourcePolicy;
use terroir_resources::Tags;
use terroir_store::{Key, record};
use terroir_types::{AccountId, Arn, Secret, Timestamp};
use uuid::Uuid;

/// Names and values that a ciphertext is bound to.
pub type EncryptionContext = BTreeMap<String, String>;

/// A KMS key, at `kms-key/<account>/<id>`. What it encrypts with is in its [`Material`] records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsKey {
    pub account: AccountId,
    pub id: Uuid,
    pub created_at: Timestamp,
    pub state: KeyState,
    /// The service that this key belongs to, for example `s3`; none: the account made it itself.
    pub managed_by: Option<String>,
    /// Number of the material that encrypts now; from 1.
    pub current: u32,
    pub rotation: Option<Rotation>,
    /// Rotations on demand so far.
    pub on_demand: u32,
    /// Id of the key store, `cks-...`, whose key has to be used as well; none: there is no such store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    #[serde(skip, default)]
    pub tenant: KmsKeyTenant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    Enabled,
    Disabled,
    /// Its material is destroyed at `at`.
    PendingDeletion {
        at: Timestamp,
    },
}

/// Automatic rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub period_days: u32,
    pub next: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsKeyTenant {
    pub description: String,
    pub policy: Arc<ResourcePolicy>,
    pub tags: Tags,
    /// As the key store outside calls its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

record!(KmsKey { kind: "kms-key", version: 1, account: |r| Some(r.account), tenant: tenant: KmsKeyTenant });

impl KmsKey {
    pub fn all(account: AccountId) -> Key {
        Key::new(format!("kms-key/{account}"))
    }

    pub fn key_of(account: AccountId, id: Uuid) -> Key {
        Self::all(account).child(id)
    }

    pub fn key(&self) -> Key {
        Self::key_of(self.account, self.id)
    }

    /// In KMS's words.
    pub const fn origin(&self) -> &'static str {
        if self.store.is_some() { "EXTERNAL_KEY_STORE" } else { "AWS_KMS" }
    }

    pub fn arn(&self, region: &str) -> Arn {
        key_arn(region, self.account, self.id)
    }
}

pub fn key_arn(region: &str, account: AccountId, id: impl std::fmt::Display) -> Arn {
    Arn::new("kms", region, Some(account), format_args!("key/{id}"))
}

/// What a key encrypts with, at `kms-material/<account>/<key>/<number>`. Rotation adds one; old ones decrypt on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    pub account: AccountId,
    pub created_at: Timestamp,
    /// What brought it about; none: the key was made with it.
    pub rotated: Option<RotationKind>,
    #[serde(skip, default)]
    pub tenant: MaterialTenant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationKind {
    Automatic,
    OnDemand,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaterialTenant {
    pub secret: Secret<[u8; 32]>,
}

record!(Material { kind: "kms-material", version: 1, account: |r| Some(r.account), tenant: tenant: MaterialTenant });

impl Material {
    pub fn all(account: AccountId, key: Uuid) -> Key {
        Key::new(format!("kms-material/{account}/{key}"))
    }

    /// Numbers have leading zeros, so that their order is that of their keys.
    pub fn key_of(account: AccountId, key: Uuid, number: u32) -> Key {
        Self::all(account, key).child(format_args!("{number:010}"))
    }
}

/// A name of a key, at `kms-alias/<account>/<MAC of the name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub account: AccountId,
    pub key: Uuid,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: AliasTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasTenant {
    /// With `alias/`.
    pub name: String,
}

record!(Alias { kind: "kms-alias", version: 1, account: |r| Some(r.account), tenant: tenant: AliasTenant });

impl Alias {
    pub fn all(account: AccountId) -> Key {
        Key::new(format!("kms-alias/{account}"))
    }
}

/// A grant, at `kms-grant/<account>/<key>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Of the key.
    pub account: AccountId,
    pub key: Uuid,
    /// 64 hex digits.
    pub id: String,
    pub created_at: Timestamp,
    /// Whose principal made it.
    pub issuer: AccountId,
    /// In KMS's words, sorted, for example `Decrypt`.
    pub operations: Vec<String>,
    #[serde(skip, default)]
    pub tenant: GrantTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTenant {
    pub name: Option<String>,
    pub grantee: GrantPrincipal,
    pub retiring: Option<GrantPrincipal>,
    pub constraint: Option<Constraint>,
}

/// A principal with its id (`AIDA...`) when the grant was made: somebody who has the name later is not meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantPrincipal {
    pub arn: String,
    pub id: Option<String>,
}

/// What the encryption context must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constraint {
    Equals(EncryptionContext),
    Contains(EncryptionContext),
}

impl Constraint {
    pub fn admits(&self, context: &EncryptionContext) -> bool {
        match self {
            Self::Equals(wanted) => wanted == context,
            Self::Contains(wanted) => wanted.iter().all(|(name, value)| context.get(name) == Some(value)),
        }
    }

    /// Whether whatever `other` admits is admitted here too.
    pub fn admits_all_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Equals(_), Self::Contains(_)) => false,
            (_, Self::Equals(context) | Self::Contains(context)) => self.admits(context),
        }
    }
}

record!(Grant { kind: "kms-grant", version: 1, account: |r| Some(r.account), tenant: tenant: GrantTenant });

impl Grant {
    pub fn all(account: AccountId, key: Uuid) -> Key {
        Key::new(format!("kms-grant/{account}/{key}"))
    }

    pub fn key(&self) -> Key {
        Self::all(self.account, self.key).child(&self.id)
    }
}

/// From a principal to a grant that names it: at `kms-grantee/<account>/<key>/<MAC of the ARN>/<grant>`, and at
/// `kms-retiring/<account of the principal>/<MAC of the ARN>/<grant>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grantee {}

record!(Grantee { kind: "kms-grantee", version: 1 });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// Of the key.
    pub account: AccountId,
    pub key: Uuid,
}

record!(Retiring { kind: "kms-retiring", version: 1 });

/// A store of keys that are held elsewhere, at `kms-store/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStore {
    pub account: AccountId,
    /// `cks-` and 17 hex digits.
    pub id: String,
    pub created_at: Timestamp,
    pub connection: Connection,
    #[serde(skip, default)]
    pub tenant: KeyStoreTenant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connection {
    Connected,
    Disconnected,
    /// To connect it failed, with this code of DescribeCustomKeyStores.
    Failed(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStoreTenant {
    pub name: String,
    pub proxy: Proxy,
}

/// Where the proxy of a key store is, and how it knows who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// `https://HOST` or `https://HOST:PORT`.
    pub endpoint: String,
    /// Ends with `/kms/xks/v1`.
    pub path: String,
    pub access_key_id: String,
    pub secret: Secret<String>,
}

record!(KeyStore { kind: "kms-store", version: 1, account: |r| Some(r.account), tenant: tenant: KeyStoreTenant });

impl KeyStore {
    pub fn all(account: AccountId) -> Key {
        Key::new(format!("kms-store/{account}"))
    }

    pub fn key(&self) -> Key {
        Self::all(self.account).child(&self.id)
    }
}

/// That a key of a key store protects a KMS key, at `kms-store-key/<account>/<store>/<MAC of its id there>`: no other may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreKey {
    pub key: Uuid,
}

record!(StoreKey { kind: "kms-store-key", version: 1 });

/// Something that falls due, at `kms-due/<milliseconds>/<account>/<key>`: a rotation, or the end of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    pub account: AccountId,
    pub key: Uuid,
    pub at: Timestamp,
}

record!(Due { kind: "kms-due", version: 1 });

impl Due {
    pub fn all() -> Key {
        Key::new("kms-due")
    }

    pub fn store_key(&self) -> Key {
        Self::all().child(format_args!("{:015}", self.at.millis().max(0))).child(self.account).child(self.key)
    }

    /// What is next for a key.
    pub fn of(key: &KmsKey) -> Option<Self> {
        let at = match (key.state, key.rotation) {
            (KeyState::PendingDeletion { at }, _) => at,
            (KeyState::Enabled, Some(rotation)) => rotation.next,
            (KeyState::Enabled | KeyState::Disabled, _) => return None,
        };
        Some(Self { account: key.account, key: key.id, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_admit_and_include_each_other() {
        let context = |text: &str| -> EncryptionContext {
            text.split_terminator(' ')
                .filter_map(|pair| pair.split_once('='))
                .map(|(a, b)| (a.into(), b.into()))
                .collect()
        };
        for (equals, wanted, given, admitted) in [
            (true, "a=1", "a=1", true),
            (true, "a=1", "a=1 b=2", false),
            (true, "", "", true),
            (false, "a=1", "a=1 b=2", true),
            (false, "a=1", "a=2", false),
            (false, "", "b=2", true),
        ] {
            let make =
                |text| if equals { Constraint::Equals(context(text)) } else { Constraint::Contains(context(text)) };
            assert_eq!(make(wanted).admits(&context(given)), admitted, "{wanted} {given}");
            assert_eq!(make(wanted).admits_all_of(&Constraint::Equals(context(given))), admitted);
            let included = make(wanted).admits_all_of(&Constraint::Contains(context(given)));
            assert_eq!(included, admitted && !equals, "{wanted} {given}");
        }
    }
}
