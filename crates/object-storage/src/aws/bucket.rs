//! Buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use terroir_types::Error;

use super::convert::{owner, refuse_unsupported, timestamp};
use super::error::{from_backend, from_domain, invalid, invalid_argument, no_such_bucket};
use super::service::{S3Api, Scoped};
use crate::guard::Guard;
use crate::model::Bucket as BucketRecord;
use crate::{ops, settings};

const MAX_BUCKETS: usize = 10_000;

impl S3Api {
    /// Buckets whose deletion was cut off by the end of the process either are gone or open again, as their record says.
    pub(super) async fn settle_closed_buckets(&self) -> Result<(), Error> {
        for bucket in self.backend().closed_buckets().await? {
            let txn = self.iam().store().read().await?;
            let gone = !ops::bucket_exists(&txn, bucket)?;
            drop(txn);
            tracing::info!(%bucket, gone, "settled a bucket whose deletion was cut off");
            self.backend().settle_bucket(bucket, gone).await?;
        }
        Ok(())
    }

    pub(super) async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        refuse_unsupported(&request.headers, None)?;
        let configuration = request.input.create_bucket_configuration.as_ref();
        if let Some(wanted) = configuration.and_then(|c| c.location_constraint.as_ref())
            && wanted.as_str() != self.region()
        {
            let message = format!(
                "The {} location constraint is incompatible for the region specific endpoint this request was sent to.",
                wanted.as_str()
            );
            return Err(invalid("IllegalLocationConstraintException", message));
        }
        let account = request.scope()?.caller.account;
        let with_lock = request.input.object_lock_enabled_for_bucket == Some(true);
        let (name, now) = (request.input.bucket, self.clock().now());
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let guard = self.new_guard(&txn, &request.headers, request.input.object_ownership.as_ref(), account)?;
        drop(txn);
        let again_is_no_error = self.region() == "us-east-1";
        let create = |txn: &mut terroir_store::Txn| {
            let own = ops::find_bucket(txn, &name)?.filter(|bucket| bucket.account == account && again_is_no_error);
            if let Some(bucket) = own {
                return reset_lists(txn, &bucket, &guard);
            }
            let bucket = ops::create_bucket(txn, account, &name, self.ids(), now)?;
            if guard != Guard::default() {
                settings::put(txn, &bucket, &guard)?;
            }
            if with_lock { crate::lock::begin_with_lock(txn, &bucket) } else { Ok(()) }
        };
        self.iam().store().transact(&[], create).await.map_err(from_domain)?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
    }

    /// Closed in the backend, gone from the state, gone in the backend: a crash in between is settled at the next start.
    pub(super) async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = request.bucket()?;
        let (id, name) = (bucket.id, bucket.name());
        self.backend().close_bucket(id).await.map_err(from_backend)?;
        let deleted = self.iam().store().transact(&[], |txn| ops::delete_bucket(txn, name, id)).await;
        match deleted {
            Ok((deleted, _)) => {
                self.backend().settle_bucket(id, true).await.map_err(from_backend)?;
                if deleted { Ok(S3Response::new(DeleteBucketOutput::default())) } else { Err(no_such_bucket()) }
            }
            Err(error) => {
                // The commit may stand although its answer was lost: the record decides.
                let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
                let gone = !ops::bucket_exists(&txn, id).map_err(from_domain)?;
                drop(txn);
                self.backend().settle_bucket(id, gone).await.map_err(from_backend)?;
                Err(from_domain(error))
            }
        }
    }

    pub(super) async fn head_bucket(
        &self,
        _request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let output = HeadBucketOutput { bucket_region: Some(self.region().to_owned()), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(super) async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let account = request.scope()?.caller.account;
        let input = request.input;
        let limit = match input.max_buckets {
            None => MAX_BUCKETS,
            Some(max) => usize::try_from(max)
                .ok()
                .filter(|max| (1..=MAX_BUCKETS).contains(max))
                .ok_or_else(|| invalid_argument("max-buckets must be between 1 and 10000"))?,
        };
        let after = input.continuation_token.as_deref().map(super::listing::read_token).transpose()?;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let all = ops::list_buckets(&txn, account).map_err(from_domain)?;
        let mut wanted = all
            .iter()
            .filter(|bucket| bucket.name().starts_with(prefix))
            .filter(|bucket| after.as_deref().is_none_or(|after| bucket.name() > after));
        let page: Vec<_> = wanted.by_ref().take(limit).collect();
        let next = wanted.next().and(page.last()).map(|bucket| super::listing::write_token(bucket.name()));
        let buckets = page
            .into_iter()
            .map(|bucket| Bucket {
                bucket_region: Some(self.region().to_owned()),
                creation_date: Some(timestamp(bucket.created_at)),
                name: Some(bucket.name().to_owned()),
            })
            .collect();
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token: next,
            owner: Some(owner(account)),
            prefix: input.prefix,
        }))
    }

    /// The region `us-east-1` is written as nothing, as AWS does.
    pub(super) async fn get_bucket_location(
        &self,
        _request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let region = Some(self.region()).filter(|region| *region != "us-east-1");
        let location_constraint = region.map(|region| BucketLocationConstraint::from(region.to_owned()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }
}

/// What AWS does in `us-east-1` to a bucket that is made once more by its owner: only its lists are as if it were new.
fn reset_lists(txn: &mut terroir_store::Txn, bucket: &BucketRecord, new: &Guard) -> Result<(), Error> {
    crate::guard::change(txn, bucket, |_, guard| {
        guard.acl.clone_from(&new.acl);
        Ok(())
    })
}
