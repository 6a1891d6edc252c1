//! Quotas and sovereignty policies before writes.

use s3s::{S3Error, S3Result};

use super::error::{from_backend, from_domain};
use super::service::S3Api;
use crate::backend::{BackendError, BucketUsage, MAX_PUT_SIZE};
use crate::model::Bucket;
use crate::quota::{self, Quota};
use crate::{ops, settings};

const ACCESS_DENIED: &str = "AccessDenied";

impl S3Api {
    /// How many bytes, and at most [`MAX_PUT_SIZE`], a write may have. `size`: how many it has, where that is known;
    /// `more_objects`: how many it adds.
    ///
    /// # Errors
    /// `QuotaExceeded`; `AccessDenied` where the sovereignty policy of the bucket's account forbids the store.
    pub(super) async fn room(&self, bucket: &Bucket, size: Option<u64>, more_objects: u64) -> S3Result<u64> {
        // At least as new as what the access hook has read.
        let txn = self.iam().store().stale();
        let tags = terroir_resources::Tags::new();
        terroir_sovereignty::ops::check_store(&txn, bucket.account, &tags, ACCESS_DENIED).map_err(from_domain)?;
        let of_bucket = settings::peek::<Quota>(&txn, bucket.id).map_err(from_domain)?.unwrap_or_default();
        let of_account = quota::of_account(&txn, bucket.account).map_err(from_domain)?;
        let mut room = MAX_PUT_SIZE;
        if !of_bucket.is_unlimited() {
            let used = self.backend().usage(bucket.id).await.map_err(from_backend)?;
            room = room.min(of_bucket.room(used, size, more_objects, "bucket").map_err(from_domain)?);
        }
        if !of_account.is_unlimited() {
            let mut used = BucketUsage::default();
            for bucket in ops::list_buckets(&txn, bucket.account).map_err(from_domain)? {
                let more = self.backend().usage(bucket.id).await.map_err(from_backend)?;
                used.versions += more.versions;
                used.bytes += more.bytes;
            }
            room = room.min(of_account.room(used, size, more_objects, "account").map_err(from_domain)?);
        }
        Ok(room)
    }
}

/// The failure of a write that was given `room`.
pub(super) fn from_write(error: BackendError, room: u64) -> S3Error {
    match error {
        // A form does not say beforehand how long its file is.
        BackendError::TooLarge if room < MAX_PUT_SIZE => from_domain(quota::exceeded("bucket or its account", "bytes")),
        error => from_backend(error),
    }
}
