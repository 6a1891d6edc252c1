//! Quotas and sovereignty policies before writes.

use s3s::{S3Error, S3Result};

use super::error::{from_backend, from_domain};
use super::service::S3Api;
use crate::backend::{BackendError, MAX_PUT_SIZE};
use crate::model::Bucket;
use crate::quota;

impl S3Api {
    /// How many bytes, and at most [`MAX_PUT_SIZE`], a write may have. `size`: how many it has, where that is known;
    /// `more_objects`: how many it adds.
    ///
    /// # Errors
    /// `QuotaExceeded`; `AccessDenied` where the sovereignty policy of the bucket's account forbids the store.
    pub(super) async fn room(&self, bucket: &Bucket, size: Option<u64>, more_objects: u64) -> S3Result<u64> {
        // At least as new as what the access hook has read.
        let txn = self.iam().store().stale();
        quota::room(&txn, self.backend(), bucket, size, more_objects).await.map_err(from_domain)
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
