//! Policies of buckets, and what keeps the public out of them.

use http::StatusCode;
use s3s::dto::{PublicAccessBlockConfiguration, *};
use s3s::{S3Request, S3Response, S3Result};
use terroir_iam::ops::{PolicyScope, resource_policy};
use terroir_store::Txn;

use super::error::s3;
use super::service::{S3Api, Scoped};
use crate::guard::{self, Guard, PublicAccessBlock};

/// Largest policy of a bucket, as in AWS.
const MAX_POLICY: usize = 20 << 10;

pub(super) fn shown_block(block: PublicAccessBlock) -> PublicAccessBlockConfiguration {
    PublicAccessBlockConfiguration {
        block_public_acls: Some(block.block_acls),
        block_public_policy: Some(block.block_policy),
        ignore_public_acls: Some(block.ignore_acls),
        restrict_public_buckets: Some(block.restrict),
    }
}

pub(super) fn read_block(given: &PublicAccessBlockConfiguration) -> PublicAccessBlock {
    PublicAccessBlock {
        block_acls: given.block_public_acls == Some(true),
        ignore_acls: given.ignore_public_acls == Some(true),
        block_policy: given.block_public_policy == Some(true),
        restrict: given.restrict_public_buckets == Some(true),
    }
}

impl S3Api {
    pub(super) async fn get_bucket_policy(
        &self,
        request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        match &request.found()?.guard.policy {
            Some(policy) => Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy.text.clone()) })),
            None => Err(s3("NoSuchBucketPolicy", StatusCode::NOT_FOUND, "The bucket policy does not exist")),
        }
    }

    pub(super) async fn put_bucket_policy(
        &self,
        request: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<S3Response<PutBucketPolicyOutput>> {
        let bucket = request.bucket()?.clone();
        let text = request.input.policy;
        let resource = format!("arn:aws:s3:::{}", bucket.name());
        let put = |txn: &mut Txn, bucket: &crate::model::Bucket| {
            let scope = PolicyScope { service: "s3", resource: &resource, max_bytes: MAX_POLICY };
            let policy = resource_policy(txn, &text, scope)?;
            guard::put_policy(txn, bucket, policy)
        };
        self.change_bucket(&bucket, put).await?;
        Ok(S3Response::new(PutBucketPolicyOutput::default()))
    }

    pub(super) async fn delete_bucket_policy(
        &self,
        request: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
        let bucket = request.bucket()?.clone();
        let forget = |_: &Txn, guard: &mut Guard| {
            guard.policy = None;
            guard.policy_is_public = false;
            Ok(())
        };
        self.change_bucket(&bucket, |txn, bucket| guard::change(txn, bucket, forget)).await?;
        Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
    }

    pub(super) async fn get_bucket_policy_status(
        &self,
        request: S3Request<GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
        let is_public = request.found()?.guard.is_public();
        let policy_status = Some(PolicyStatus { is_public: Some(is_public) });
        Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
    }

    pub(super) async fn get_public_access_block(
        &self,
        request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let Some(block) = request.found()?.guard.public_access_block else {
            let message = "The public access block configuration was not found";
            return Err(s3("NoSuchPublicAccessBlockConfiguration", StatusCode::NOT_FOUND, message));
        };
        let public_access_block_configuration = Some(shown_block(block));
        Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration }))
    }

    pub(super) async fn put_public_access_block(
        &self,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        let bucket = request.bucket()?.clone();
        let block = read_block(&request.input.public_access_block_configuration);
        self.set_public_access_block(&bucket, Some(block)).await?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    pub(super) async fn delete_public_access_block(
        &self,
        request: S3Request<DeletePublicAccessBlockInput>,
    ) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
        let bucket = request.bucket()?.clone();
        self.set_public_access_block(&bucket, None).await?;
        Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
    }

    async fn set_public_access_block(
        &self,
        bucket: &crate::model::Bucket,
        block: Option<PublicAccessBlock>,
    ) -> S3Result<()> {
        let set = |_: &Txn, guard: &mut Guard| {
            guard.public_access_block = block;
            Ok(())
        };
        self.change_bucket(bucket, |txn, bucket| guard::change(txn, bucket, set)).await
    }
}
