//! Configurations that a bucket does not have, read as AWS answers for a bucket that has none.
//!
//! Tools read all of them before they do anything. What can be set has a file of its own.

use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result};

use super::error::s3;
use super::service::S3Api;

fn none(code: &str, message: &str) -> S3Error {
    s3(code, StatusCode::NOT_FOUND, message)
}

impl S3Api {
    pub(super) async fn get_bucket_policy(
        &self,
        _request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        Err(none("NoSuchBucketPolicy", "The bucket policy does not exist"))
    }

    pub(super) async fn get_bucket_cors(
        &self,
        _request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        Err(none("NoSuchCORSConfiguration", "The CORS configuration does not exist"))
    }

    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        _request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        Err(none("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist"))
    }

    pub(super) async fn get_bucket_tagging(
        &self,
        _request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        Err(none("NoSuchTagSet", "The TagSet does not exist"))
    }

    /// What is stored is not encrypted by S3's rules, so this does not say `AES256` as AWS does since 2023.
    pub(super) async fn get_bucket_encryption(
        &self,
        _request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let message = "The server side encryption configuration was not found";
        Err(none("ServerSideEncryptionConfigurationNotFoundError", message))
    }

    pub(super) async fn get_public_access_block(
        &self,
        _request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let message = "The public access block configuration was not found";
        Err(none("NoSuchPublicAccessBlockConfiguration", message))
    }

    pub(super) async fn get_bucket_ownership_controls(
        &self,
        _request: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        let enforced = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
        let rules = vec![OwnershipControlsRule { object_ownership: enforced }];
        let ownership_controls = Some(OwnershipControls { rules });
        Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
    }

    pub(super) async fn get_bucket_logging(
        &self,
        _request: S3Request<GetBucketLoggingInput>,
    ) -> S3Result<S3Response<GetBucketLoggingOutput>> {
        Ok(S3Response::new(GetBucketLoggingOutput::default()))
    }

    pub(super) async fn get_bucket_request_payment(
        &self,
        _request: S3Request<GetBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
        let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
        Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
    }

    pub(super) async fn get_bucket_website(
        &self,
        _request: S3Request<GetBucketWebsiteInput>,
    ) -> S3Result<S3Response<GetBucketWebsiteOutput>> {
        let message = "The specified bucket does not have a website configuration";
        Err(none("NoSuchWebsiteConfiguration", message))
    }

    pub(super) async fn get_bucket_replication(
        &self,
        _request: S3Request<GetBucketReplicationInput>,
    ) -> S3Result<S3Response<GetBucketReplicationOutput>> {
        let message = "The replication configuration was not found";
        Err(none("ReplicationConfigurationNotFoundError", message))
    }

    pub(super) async fn get_bucket_accelerate_configuration(
        &self,
        _request: S3Request<GetBucketAccelerateConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
        Ok(S3Response::new(GetBucketAccelerateConfigurationOutput::default()))
    }

    pub(super) async fn get_object_lock_configuration(
        &self,
        _request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let message = "Object Lock configuration does not exist for this bucket";
        Err(none("ObjectLockConfigurationNotFoundError", message))
    }

    pub(super) async fn get_bucket_notification_configuration(
        &self,
        _request: S3Request<GetBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
        Ok(S3Response::new(GetBucketNotificationConfigurationOutput::default()))
    }
}
