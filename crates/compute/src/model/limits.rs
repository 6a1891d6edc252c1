use serde::{Deserialize, Serialize};
use terroir_store::{Key, record};
use terroir_types::AccountId;

/// How much of everything an account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Instances that are not terminated.
    pub instances: i64,
    /// Of instances that are not stopped.
    pub vcpus: i64,
    pub volumes: i64,
    pub key_pairs: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { instances: 20_000, vcpus: 100_000, volumes: 50_000, key_pairs: 5_000 }
    }
}

record!(Limits { kind: "compute-limits", version: 1 });

pub fn limits_key(account: AccountId) -> Key {
    Key::new(format!("compute-limits/{account}"))
}
