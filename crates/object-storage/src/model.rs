//! Buckets as records of the state store. Objects are the backend's.

use serde::{Deserialize, Serialize};
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Timestamp};

use crate::backend::BucketId;

/// A bucket, at `bucket/<MAC of its name>`: names are unique in the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    #[serde(rename = "i")]
    pub id: BucketId,
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: BucketTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketTenant {
    #[serde(rename = "n")]
    pub name: String,
}

record!(Bucket { kind: "bucket", version: 1, account: |r| Some(r.account), tenant: tenant: BucketTenant });

impl Bucket {
    pub fn name(&self) -> &str {
        &self.tenant.name
    }

    pub fn key(txn: &Txn, name: &str) -> Key {
        Key::new(format!("bucket/{}", txn.name_mac(None, "bucket", name)))
    }

    /// Its id in the registry of resources.
    pub fn resource_id(&self) -> String {
        format!("bucket-{}", self.id)
    }
}

/// One row per bucket of an account, at `bucket-owned/<account>/<bucket id>`, for listing them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedBucket {
    /// The last segment of the bucket's key.
    #[serde(rename = "m")]
    pub name_mac: String,
}

record!(OwnedBucket { kind: "bucket-owned", version: 1 });

impl OwnedBucket {
    pub fn key(account: AccountId, id: BucketId) -> Key {
        Key::new(format!("bucket-owned/{account}/{id}"))
    }

    pub fn all_of(account: AccountId) -> Key {
        Key::new(format!("bucket-owned/{account}"))
    }
}
