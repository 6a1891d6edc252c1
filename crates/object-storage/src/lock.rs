//! Object lock of a bucket: that its versions may be locked, and how new ones are by themselves.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use terroir_store::Txn;
use terroir_types::{Error, Timestamp};

use crate::backend::{BucketId, Retention, RetentionMode, Versioning};
use crate::model::Bucket;
use crate::settings::{self, BucketSetting};
use crate::versioning;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A year of a retention has always as many days.
const DAYS_PER_YEAR: u32 = 365;
pub const MAX_DAYS: u32 = 36_500;
pub const MAX_YEARS: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    #[serde(rename = "d")]
    Days(u32),
    #[serde(rename = "y")]
    Years(u32),
}

/// What new versions get that say nothing themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    #[serde(rename = "m")]
    pub mode: RetentionMode,
    #[serde(rename = "p")]
    pub period: Period,
}

impl DefaultRetention {
    pub fn from(&self, now: Timestamp) -> Retention {
        let days = match self.period {
            Period::Days(days) => days,
            Period::Years(years) => years.saturating_mul(DAYS_PER_YEAR),
        };
        Retention { mode: self.mode, until: now.plus(DAY * days) }
    }
}

/// There only for buckets with object lock, which they have for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSetting {
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultRetention>,
}

impl BucketSetting for LockSetting {
    const NAME: &'static str = "object-lock";
}

/// None: the bucket has no object lock. Not tracked.
///
/// # Errors
/// `Internal` if the record does not decode.
pub fn lock(txn: &Txn, bucket: BucketId) -> Result<Option<LockSetting>, Error> {
    settings::peek(txn, bucket)
}

/// A new bucket begins with object lock, and therefore with versioning.
///
/// # Errors
/// Those of the transaction.
pub fn begin_with_lock(txn: &mut Txn, bucket: &Bucket) -> Result<(), Error> {
    versioning::set_versioning(txn, bucket, false)?;
    settings::put(txn, bucket, &LockSetting::default())
}

/// # Errors
/// `InvalidBucketState` without versioning.
pub fn set_lock(txn: &mut Txn, bucket: &Bucket, setting: &LockSetting) -> Result<(), Error> {
    if versioning::tracked(txn, bucket.id)? != Versioning::Enabled {
        let message = "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration";
        return Err(Error::conflict("InvalidBucketState", message));
    }
    settings::put(txn, bucket, setting)
}
