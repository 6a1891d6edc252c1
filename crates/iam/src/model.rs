//! The stored records. Keys hold only ids; names stand in them as MACs (see [`crate::names`]).
//!
//! ```text
//! account/<account>                              access-key/<AKIA...>      access-key-use/<AKIA...>
//! user/<account>/<AIDA...>                       group/<account>/<AGPA...> group-member/<account>/<AGPA...>/<AIDA...>
//! role/<account>/<AROA...>                       managed-policy/<account>/<ANPA...>
//! instance-profile/<account>/<AIPA...>           role-profile/<account>/<AROA...>/<AIPA...>
//! login-profile/<account>/<AIDA...>              password-policy/<account>
//! mfa-device/<account>/<AMFA...>                 oidc-provider/<account>/<AOIP...>
//! ~policy/<account>/<id of its holder>/<sha256>  iam-name/<account or ->/<kind>/<mac of the name>
//! ~credential-report/<account>                   issuer-keys/<mac of the issuer's address>
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terroir_resources::Tags;
use terroir_store::{Key, record};
use terroir_types::{AccountId, Arn, Secret, Timestamp};

/// A tenant. Its root may do everything inside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: AccountId,
    pub created_at: Timestamp,
    /// Access keys of the account's root.
    pub access_keys: Vec<String>,
    /// Ids of the multi-factor devices of the account's root.
    #[serde(default)]
    pub mfa: Vec<String>,
    #[serde(skip, default)]
    pub tenant: AccountTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountTenant {
    pub name: String,
    /// A second name, unique in the region.
    #[serde(default)]
    pub alias: Option<String>,
}

record!(Account { kind: "account", version: 1, account: |r| Some(r.id), tenant: tenant: AccountTenant });

impl Account {
    pub fn key(id: AccountId) -> Key {
        Key::new(format!("account/{id}"))
    }

    pub fn arn(&self) -> Arn {
        Arn::iam(self.id, "root")
    }
}

/// A long-lived credential of a user or of an account's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// `AKIA` and 16 characters.
    pub id: String,
    pub account: AccountId,
    /// None: the account's root.
    pub user: Option<String>,
    pub active: bool,
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: AccessKeyTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyTenant {
    pub secret: Secret<String>,
}

record!(AccessKey { kind: "access-key", version: 1, account: |r| Some(r.account), tenant: tenant: AccessKeyTenant });

impl AccessKey {
    pub fn key(id: &str) -> Key {
        Key::new(format!("access-key/{id}"))
    }
}

/// When a key was last used, to about an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyUse {
    pub at: Timestamp,
    pub service: String,
    pub region: String,
}

record!(AccessKeyUse { kind: "access-key-use", version: 1 });

impl AccessKeyUse {
    pub fn key(id: &str) -> Key {
        Key::new(format!("access-key-use/{id}"))
    }
}

/// Policies that a user, group or role has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Ids of managed policies, `ANPA...`, in the order in which they were attached.
    #[serde(default)]
    pub attached: Vec<String>,
    /// Inline policies: name → SHA-256 of the document, in hex.
    #[serde(default)]
    pub inline: BTreeMap<String, InlinePolicy>,
    /// Id of the managed policy that is its permissions boundary; groups have none.
    #[serde(default)]
    pub boundary: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinePolicy {
    pub hash: String,
    /// Characters without white space, which is what AWS's size limits count.
    pub size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub account: AccountId,
    /// `AIDA...`
    pub id: String,
    pub created_at: Timestamp,
    pub access_keys: Vec<String>,
    /// Ids of its groups, `AGPA...`.
    pub groups: Vec<String>,
    /// Ids of its multi-factor devices.
    #[serde(default)]
    pub mfa: Vec<String>,
    #[serde(skip, default)]
    pub tenant: PrincipalTenant,
}

/// What people chose about a user, group, role or the like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalTenant {
    pub name: String,
    /// `/`, or text between slashes such as `/team/a/`.
    pub path: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub tags: Tags,
    #[serde(default)]
    pub grants: Grants,
}

record!(User { kind: "user", version: 1, account: |r| Some(r.account), tenant: tenant: PrincipalTenant });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub account: AccountId,
    /// `AGPA...`
    pub id: String,
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: PrincipalTenant,
}

record!(Group { kind: "group", version: 1, account: |r| Some(r.account), tenant: tenant: PrincipalTenant });

/// That a user is in a group; the user's record says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {}

record!(GroupMember { kind: "group-member", version: 1 });

impl GroupMember {
    pub fn prefix(account: AccountId, group: &str) -> Key {
        Key::new(format!("group-member/{account}/{group}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub account: AccountId,
    /// `AROA...`
    pub id: String,
    pub created_at: Timestamp,
    /// Longest session that may be asked for: 3,600 to 43,200 seconds.
    pub max_session_secs: u32,
    /// SHA-256 of its trust policy, in hex.
    pub trust: String,
    #[serde(skip, default)]
    pub tenant: RoleTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleTenant {
    pub about: PrincipalTenant,
    /// Users, roles and sessions that the trust policy names: ARN → id (of a session, its role's) when it was written.
    #[serde(default)]
    pub trusted: BTreeMap<String, String>,
}

record!(Role { kind: "role", version: 1, account: |r| Some(r.account), tenant: tenant: RoleTenant });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedPolicy {
    pub account: AccountId,
    /// `ANPA...`
    pub id: String,
    pub created_at: Timestamp,
    /// SHA-256 of the document of its default version, in hex.
    pub document: String,
    /// How many users, groups and roles have it.
    pub attachments: u32,
    /// How many users and roles have it as their permissions boundary.
    #[serde(default)]
    pub boundaries: u32,
    /// Its versions, oldest first. None: it has had one, `v1`, and that is its default.
    #[serde(default)]
    pub versions: Vec<PolicyVersion>,
    /// Number of the default version; 0 stands for 1.
    #[serde(default)]
    pub default_version: u32,
    /// Number of the newest version there ever was; 0 stands for 1.
    #[serde(default)]
    pub last_version: u32,
    /// When its versions last changed; none: never.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    #[serde(skip, default)]
    pub tenant: PrincipalTenant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// 2 for `v2`.
    pub number: u32,
    /// SHA-256 of its document, in hex.
    pub document: String,
    pub created_at: Timestamp,
}

impl ManagedPolicy {
    pub fn default_number(&self) -> u32 {
        self.default_version.max(1)
    }

    /// All versions, oldest first.
    pub fn all_versions(&self) -> Vec<PolicyVersion> {
        if !self.versions.is_empty() {
            return self.versions.clone();
        }
        vec![PolicyVersion { number: 1, document: self.document.clone(), created_at: self.created_at }]
    }
}

record!(ManagedPolicy {
    kind: "managed-policy",
    version: 1,
    account: |r| Some(r.account),
    tenant: tenant: PrincipalTenant
});

/// What carries a role into an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceProfile {
    pub account: AccountId,
    /// `AIPA...`
    pub id: String,
    pub created_at: Timestamp,
    /// Id of its role, `AROA...`.
    pub role: Option<String>,
    #[serde(skip, default)]
    pub tenant: PrincipalTenant,
}

record!(InstanceProfile {
    kind: "instance-profile",
    version: 1,
    account: |r| Some(r.account),
    tenant: tenant: PrincipalTenant
});

/// That an instance profile has a role; the profile's record says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleProfile {}

record!(RoleProfile { kind: "role-profile", version: 1 });

impl RoleProfile {
    pub fn prefix(account: AccountId, role: &str) -> Key {
        Key::new(format!("role-profile/{account}/{role}"))
    }
}

/// The text of a policy. Its key says what it holds, so it never changes; a new text is a new record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDocument {
    pub account: AccountId,
    #[serde(skip, default)]
    pub tenant: PolicyDocumentTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDocumentTenant {
    pub text: String,
}

record!(PolicyDocument {
    kind: "~policy",
    version: 1,
    in_view: false,
    account: |r| Some(r.account),
    tenant: tenant: PolicyDocumentTenant
});

impl PolicyDocument {
    /// `holder` is the id of the user, group, role or managed policy that has it.
    pub fn key(account: AccountId, holder: &str, hash: &str) -> Key {
        Key::new(format!("~policy/{account}/{holder}/{hash}"))
    }
}

/// That a user may sign in with a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginProfile {
    pub account: AccountId,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    /// The next password is the user's own to choose.
    pub reset_required: bool,
    #[serde(skip, default)]
    pub tenant: LoginProfileTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginProfileTenant {
    /// Argon2id in PHC's text form; the present password's first, then earlier ones, newest first.
    pub hashes: Vec<Secret<String>>,
}

record!(LoginProfile { kind: "login-profile", version: 1, account: |r| Some(r.account), tenant: tenant: LoginProfileTenant });

impl LoginProfile {
    pub fn key(account: AccountId, user: &str) -> Key {
        Key::new(format!("login-profile/{account}/{user}"))
    }
}

/// What an account demands of its users' passwords. Defaults and bounds are those of UpdateAccountPasswordPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordPolicy {
    pub account: AccountId,
    pub minimum_length: u8,
    pub symbols: bool,
    pub numbers: bool,
    pub uppercase: bool,
    pub lowercase: bool,
    pub users_may_change: bool,
    pub max_age_days: Option<u16>,
    /// How many earlier passwords may not come again.
    pub reuse_prevention: Option<u8>,
    pub hard_expiry: bool,
}

record!(PasswordPolicy { kind: "password-policy", version: 1 });

impl PasswordPolicy {
    pub fn key(account: AccountId) -> Key {
        Key::new(format!("password-policy/{account}"))
    }
}

/// A virtual multi-factor device: time-based one-time passwords (RFC 6238; SHA-1, 30 seconds, 6 digits).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MfaDevice {
    pub account: AccountId,
    /// `AMFA...`; people see only its ARN, the serial number.
    pub id: String,
    pub created_at: Timestamp,
    /// Whose it is, and since when.
    pub enabled: Option<MfaAssignment>,
    #[serde(skip, default)]
    pub tenant: MfaDeviceTenant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MfaAssignment {
    /// Id of a user; none: the account's root.
    pub user: Option<String>,
    pub at: Timestamp,
    /// By how many steps of 30 s the device's clock is ahead of ours.
    pub drift: i64,
    /// The step of the last code that was taken. No code of it or an earlier step is taken again.
    pub last_step: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MfaDeviceTenant {
    pub about: PrincipalTenant,
    pub seed: Secret<Vec<u8>>,
}

record!(MfaDevice { kind: "mfa-device", version: 1, account: |r| Some(r.account), tenant: tenant: MfaDeviceTenant });

/// That an account trusts an OpenID Connect identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcProvider {
    pub account: AccountId,
    /// `AOIP...`; people see only its ARN.
    pub id: String,
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: OidcProviderTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcProviderTenant {
    /// Its name is the address without `https://`.
    pub about: PrincipalTenant,
    pub client_ids: Vec<String>,
    pub thumbprints: Vec<String>,
}

record!(OidcProvider { kind: "oidc-provider", version: 1, account: |r| Some(r.account), tenant: tenant: OidcProviderTenant });

/// The public keys of an issuer of identity tokens. The operator gives them: nothing is fetched from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKeys {
    pub updated_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: IssuerKeysTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKeysTenant {
    /// With `https://`, as tokens name it.
    pub issuer: String,
    /// A JSON Web Key Set (RFC 7517).
    pub jwks: String,
}

record!(IssuerKeys { kind: "issuer-keys", version: 1, account: |_r| None, tenant: tenant: IssuerKeysTenant });

/// The credential report that an account asked for last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialReport {
    pub account: AccountId,
    pub at: Timestamp,
    #[serde(skip, default)]
    pub tenant: CredentialReportTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialReportTenant {
    pub csv: String,
}

record!(CredentialReport {
    kind: "~credential-report",
    version: 1,
    in_view: false,
    account: |r| Some(r.account),
    tenant: tenant: CredentialReportTenant
});

impl CredentialReport {
    pub fn key(account: AccountId) -> Key {
        Key::new(format!("~credential-report/{account}"))
    }
}
