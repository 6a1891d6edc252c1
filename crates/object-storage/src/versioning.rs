//! Whether a bucket keeps what is replaced and deleted.

use serde::{Deserialize, Serialize};
use terroir_store::Txn;
use terroir_types::Error;

use crate::backend::{BucketId, Versioning};
use crate::lock::LockSetting;
use crate::model::Bucket;
use crate::settings::{self, BucketSetting};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct VersioningSetting {
    #[serde(rename = "s")]
    state: Versioning,
}

impl BucketSetting for VersioningSetting {
    const NAME: &'static str = "versioning";
}

/// [`Versioning::Off`] unless it was set; not tracked.
///
/// # Errors
/// `Internal` if the record does not decode.
pub fn versioning(txn: &Txn, bucket: BucketId) -> Result<Versioning, Error> {
    Ok(settings::peek::<VersioningSetting>(txn, bucket)?.map_or(Versioning::Off, |setting| setting.state))
}

/// As [`versioning`], but a change meanwhile fails the commit.
pub(crate) fn tracked(txn: &Txn, bucket: BucketId) -> Result<Versioning, Error> {
    Ok(settings::get::<VersioningSetting>(txn, bucket)?.map_or(Versioning::Off, |setting| setting.state))
}

/// Once it was switched on, versioning can only be suspended.
///
/// # Errors
/// `InvalidBucketState` if it were suspended under object lock.
pub fn set_versioning(txn: &mut Txn, bucket: &Bucket, suspended: bool) -> Result<(), Error> {
    if suspended && settings::get::<LockSetting>(txn, bucket.id)?.is_some() {
        let message =
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.";
        return Err(Error::conflict("InvalidBucketState", message));
    }
    let state = if suspended { Versioning::Suspended } else { Versioning::Enabled };
    settings::put(txn, bucket, &VersioningSetting { state })
}
