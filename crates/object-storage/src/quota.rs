//! How much the operator lets a bucket, or all buckets of an account together, hold.
//!
//! Quotas are asked before a write, and not together with it: writes at the same time may go over by what they carry.
//! All versions count, and parts of uploads in progress.

use serde::{Deserialize, Serialize};
use terroir_resources::Tags;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Error, ErrorClass};

use crate::backend::{BucketUsage, MAX_PUT_SIZE, ObjectBackend};
use crate::model::Bucket;
use crate::settings::BucketSetting;
use crate::{ops, settings};

/// The setting of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Versions with bytes.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub max_objects: Option<u64>,
}

impl BucketSetting for Quota {
    const NAME: &'static str = "quota";
}

/// Of an account, at `object-quota/<account>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AccountQuota {
    #[serde(rename = "q")]
    quota: Quota,
}

record!(AccountQuota { kind: "object-quota", version: 1 });

fn key(account: AccountId) -> Key {
    Key::new(format!("object-quota/{account}"))
}

/// What all buckets of the account may hold together; nothing is limited unless the operator said so.
pub fn of_account(txn: &Txn, account: AccountId) -> Result<Quota, Error> {
    Ok(txn.peek::<AccountQuota>(&key(account))?.map(|stored| stored.quota).unwrap_or_default())
}

pub fn set_for_account(txn: &mut Txn, account: AccountId, quota: Quota) -> Result<(), Error> {
    if quota == Quota::default() {
        txn.delete(&key(account));
        return Ok(());
    }
    txn.put(&key(account), &AccountQuota { quota })
}

impl Quota {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// How many bytes a write may have. `size`: how many it has, where that is known; `more_objects`: how many it adds.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub fn room(&self, used: BucketUsage, size: Option<u64>, more_objects: u64, whose: &str) -> Result<u64, Error> {
        if self.max_objects.is_some_and(|most| used.versions.saturating_add(more_objects) > most) {
            return Err(exceeded(whose, "objects"));
        }
        let room = match self.max_bytes {
            None => Some(u64::MAX),
            Some(most) => most.checked_sub(used.bytes),
        };
        room.filter(|room| size.unwrap_or(0) <= *room).ok_or_else(|| exceeded(whose, "bytes"))
    }
}

/// How many bytes, and at most [`MAX_PUT_SIZE`], a write into the bucket may have. `size`: how many it has, where that is
/// known; `more_objects`: how many it adds.
///
/// # Errors
/// `QuotaExceeded`; `AccessDenied` where the sovereignty policy of the bucket's account forbids the store; those of the
/// backend.
pub async fn room(
    txn: &Txn,
    backend: &dyn ObjectBackend,
    bucket: &Bucket,
    size: Option<u64>,
    more_objects: u64,
) -> Result<u64, Error> {
    terroir_sovereignty::ops::check_store(txn, bucket.account, &Tags::new(), "AccessDenied")?;
    crate::engine::check(txn, bucket.account)?;
    let of_bucket = settings::peek::<Quota>(txn, bucket.id)?.unwrap_or_default();
    let of_account = of_account(txn, bucket.account)?;
    let mut room = MAX_PUT_SIZE;
    if !of_bucket.is_unlimited() {
        room = room.min(of_bucket.room(backend.usage(bucket.id).await?, size, more_objects, "bucket")?);
    }
    if !of_account.is_unlimited() {
        let mut used = BucketUsage::default();
        for bucket in ops::list_buckets(txn, bucket.account)? {
            let more = backend.usage(bucket.id).await?;
            used.versions += more.versions;
            used.bytes += more.bytes;
        }
        room = room.min(of_account.room(used, size, more_objects, "account")?);
    }
    Ok(room)
}

/// `QuotaExceeded` is Ceph's code; AWS has none.
pub fn exceeded(whose: &str, what: &str) -> Error {
    let message = format!("The {whose} may hold no more {what}. Delete some, or ask the operator for more.");
    Error::new(ErrorClass::Denied, "QuotaExceeded", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_be_written() {
        let used = |versions, bytes| BucketUsage { versions, bytes };
        let quota = |max_bytes, max_objects| Quota { max_bytes, max_objects };
        let rows = [
            (quota(None, None), used(7, 700), None, 1, Some(u64::MAX)),
            (quota(Some(700), None), used(7, 700), None, 1, Some(0)),
            (quota(Some(700), None), used(7, 700), Some(0), 1, Some(0)),
            (quota(Some(700), None), used(7, 700), Some(1), 1, None),
            (quota(Some(699), None), used(7, 700), None, 1, None),
            (quota(Some(701), None), used(7, 700), Some(1), 1, Some(1)),
            (quota(Some(u64::MAX), None), used(7, 700), Some(u64::MAX), 1, None),
            (quota(None, Some(7)), used(7, 0), None, 1, None),
            (quota(None, Some(7)), used(7, 0), None, 0, Some(u64::MAX)),
            (quota(None, Some(8)), used(7, 0), None, 1, Some(u64::MAX)),
        ];
        for (quota, used, size, more, expected) in rows {
            assert_eq!(quota.room(used, size, more, "bucket").ok(), expected, "{quota:?} {used:?} {size:?} {more}");
        }
    }
}
