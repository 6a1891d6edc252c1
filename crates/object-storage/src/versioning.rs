//! Whether a bucket keeps what is replaced and deleted.

use serde::{Deserialize, Serialize};
use terroir_store::Txn;
use terroir_types::Error;

use crate::backend::{BucketId, Versioning};
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

/// Once it was switched on, versioning can only be suspended.
///
/// # Errors
/// Those of the transaction.
pub fn set_versioning(txn: &mut Txn, bucket: &Bucket, suspended: bool) -> Result<(), Error> {
    let state = if suspended { Versioning::Suspended } else { Versioning::Enabled };
    settings::put(txn, bucket, &VersioningSetting { state })
}
