use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terroir_policy::{Operator, Policy, Site};
use terroir_store::{Key, record};
use terroir_types::{AccountId, Generation, HostId, Timestamp};

/// An operator as it described itself last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    pub operator: Operator,
    /// Public key, `NAME+ID+KEY`.
    pub key: String,
    pub generation: Generation,
    /// Its statement, as it was signed.
    pub signed: String,
    pub added_at: Timestamp,
}

record!(OperatorRecord { kind: "operator", version: 1 });

/// A site as its operator described it last. It is an availability zone of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    pub site: Site,
    /// From 1, in the order in which sites came; part of the zone's id.
    pub number: u32,
    pub generation: Generation,
    pub signed: String,
    pub added_at: Timestamp,
}

record!(SiteRecord { kind: "site", version: 1 });

/// What a host's operator said of it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlaceRecord {
    pub host: HostId,
    pub site: String,
    pub fire_zone: Option<String>,
    pub generation: Generation,
    pub signed: String,
}

record!(HostPlaceRecord { kind: "host-place", version: 1 });

/// Where the region's object store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSite {
    pub site: String,
}

record!(StoreSite { kind: "store-site", version: 1 });

/// What an operator has signed, at any time: receipts refer to it. Never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRecord {
    pub signed: String,
}

record!(StatementRecord { kind: "statement", version: 1 });

/// The policies of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountPolicies {
    pub account: AccountId,
    pub changed_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: Policies,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policies {
    /// Holds for everything of the account.
    pub account: Policy,
    /// What a resource may be under besides, by the name that its tag `terroir:policy` gives.
    pub named: BTreeMap<String, Policy>,
}

record!(AccountPolicies { kind: "account-policies", version: 1, account: |r| Some(r.account), tenant: tenant: Policies });

pub fn operator_key(id: &str) -> Key {
    Key::new(format!("operator/{id}"))
}

pub fn site_key(id: &str) -> Key {
    Key::new(format!("site/{id}"))
}

pub fn host_place_key(host: HostId) -> Key {
    Key::new(format!("host-place/{host}"))
}

pub fn account_policies_key(account: AccountId) -> Key {
    Key::new(format!("account-policies/{account}"))
}

/// By the SHA-256 of the statement, in hexadecimal.
pub fn statement_key(sha256: &str) -> Key {
    Key::new(format!("statement/{sha256}"))
}
