//! What is common to the configurations of a bucket.

use s3s::S3Result;
use terroir_store::Txn;
use terroir_types::Error;

use super::error::{from_domain, no_such_bucket};
use super::service::S3Api;
use crate::model::Bucket;
use crate::ops;
use crate::settings::{self, BucketSetting};

impl S3Api {
    /// What the bucket was told of one concern.
    pub(super) async fn setting<S: BucketSetting>(&self, bucket: &Bucket) -> S3Result<Option<S>> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        settings::peek(&txn, bucket.id).map_err(from_domain)
    }

    /// Changes what is kept of a bucket, unless it is gone by now or another one has its name.
    ///
    /// # Errors
    /// `NoSuchBucket`, and those of `change`.
    pub(super) async fn change_bucket(
        &self,
        bucket: &Bucket,
        change: impl Fn(&mut Txn, &Bucket) -> Result<(), Error>,
    ) -> S3Result<()> {
        let run = |txn: &mut Txn| {
            let found = ops::find_bucket(txn, bucket.name())?.filter(|found| found.id == bucket.id);
            found.map(|found| change(txn, &found)).transpose()
        };
        let (done, _) = self.iam().store().transact(&[], run).await.map_err(from_domain)?;
        done.ok_or_else(no_such_bucket)
    }
}
