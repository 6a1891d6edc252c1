//! The operations that exist; what `s3s` knows beyond them answers `NotImplemented`.

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};
use std::sync::Arc;
use terroir_iam::Iam;
use terroir_types::{Clock, IdSource};

use super::access::{Found, FoundSource};
use super::body::BodyState;
use super::error::access_denied;
use super::front::RequestScope;
use crate::access_log::AccessLogs;
use crate::backend::{ObjectBackend, Place};
use crate::data_keys::DataKeys;
use crate::guard::{Guard, NewBuckets};
use crate::lifecycle::Day;
use crate::model::Bucket;

/// The API over a backend. A cheap handle.
#[derive(Clone)]
pub(super) struct S3Api(Arc<ApiParts>);

/// What it is made of.
pub(crate) struct ApiParts {
    pub iam: Iam,
    pub backend: Arc<dyn ObjectBackend>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub region: String,
    pub new_buckets: NewBuckets,
    pub lifecycle_day: Day,
    pub access_logs: Arc<AccessLogs>,
    pub data_keys: Option<Arc<dyn DataKeys>>,
}

impl S3Api {
    pub(super) fn new(parts: ApiParts) -> Self {
        Self(Arc::new(parts))
    }

    pub(super) fn parts(&self) -> &ApiParts {
        &self.0
    }

    pub(super) fn access_logs(&self) -> &AccessLogs {
        &self.0.access_logs
    }

    pub(super) fn iam(&self) -> &Iam {
        &self.0.iam
    }

    pub(super) fn backend(&self) -> &dyn ObjectBackend {
        &*self.0.backend
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(super) fn ids(&self) -> &dyn IdSource {
        &*self.0.ids
    }

    /// What a bucket is told that says nothing itself.
    pub(super) fn guard_of_new_buckets(&self) -> Guard {
        self.0.new_buckets.guard()
    }

    pub(super) fn lifecycle_day(&self) -> Day {
        self.0.lifecycle_day
    }

    /// None: no key service is there.
    pub(super) fn data_keys(&self) -> Option<&dyn DataKeys> {
        self.0.data_keys.as_deref()
    }

    pub(super) fn region(&self) -> &str {
        &self.0.region
    }
}

/// The status of an answer where s3s has another one; an extension of the response.
#[derive(Clone, Copy)]
pub(super) struct AnswerStatus(pub http::StatusCode);

/// The ETag in an answer's document stands without quotes, which s3s always writes; an extension of the response.
#[derive(Clone, Copy)]
pub(super) struct BareETag;

/// What stands behind a request whose input was taken out of it.
pub(super) fn scope_of(extensions: &http::Extensions) -> S3Result<Arc<RequestScope>> {
    extensions.get::<Arc<RequestScope>>().cloned().ok_or_else(access_denied)
}

/// What the access hook left with a request.
pub(super) trait Scoped {
    fn scope(&self) -> S3Result<&RequestScope>;
    /// The bucket that the request names, as it was read when the request was permitted.
    fn found(&self) -> S3Result<&Found>;
    fn found_source(&self) -> S3Result<&Found>;

    /// Not always the caller's own: policies and lists let others in.
    fn bucket(&self) -> S3Result<&Arc<Bucket>> {
        Ok(&self.found()?.bucket)
    }

    fn place(&self, key: &str) -> S3Result<Place> {
        Ok(Place::new(self.bucket()?.id, key))
    }

    fn body_state(&self) -> S3Result<Arc<BodyState>> {
        Ok(Arc::clone(&self.scope()?.body))
    }
}

impl<T> Scoped for S3Request<T> {
    fn scope(&self) -> S3Result<&RequestScope> {
        self.extensions.get::<Arc<RequestScope>>().map(|scope| &**scope).ok_or_else(access_denied)
    }

    fn found(&self) -> S3Result<&Found> {
        self.extensions.get::<Found>().ok_or_else(access_denied)
    }

    fn found_source(&self) -> S3Result<&Found> {
        self.extensions.get::<FoundSource>().map(|source| &source.0).ok_or_else(access_denied)
    }
}

/// Operations, each a method of [`S3Api`] of the same name that takes the request and gives the output.
macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for S3Api {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                Box::pin(S3Api::$name(self, request)).await
            })*
        }
    };
}

operations! {
    create_bucket: CreateBucketInput -> CreateBucketOutput,
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput,
    head_bucket: HeadBucketInput -> HeadBucketOutput,
    list_buckets: ListBucketsInput -> ListBucketsOutput,
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput,
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput,
    put_bucket_versioning: PutBucketVersioningInput -> PutBucketVersioningOutput,
    list_object_versions: ListObjectVersionsInput -> ListObjectVersionsOutput,
    get_object_lock_configuration: GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput,
    put_object_lock_configuration: PutObjectLockConfigurationInput -> PutObjectLockConfigurationOutput,
    get_object_retention: GetObjectRetentionInput -> GetObjectRetentionOutput,
    put_object_retention: PutObjectRetentionInput -> PutObjectRetentionOutput,
    get_object_legal_hold: GetObjectLegalHoldInput -> GetObjectLegalHoldOutput,
    put_object_legal_hold: PutObjectLegalHoldInput -> PutObjectLegalHoldOutput,
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput -> GetBucketLifecycleConfigurationOutput,
    put_bucket_lifecycle_configuration: PutBucketLifecycleConfigurationInput -> PutBucketLifecycleConfigurationOutput,
    delete_bucket_lifecycle: DeleteBucketLifecycleInput -> DeleteBucketLifecycleOutput,
    get_bucket_acl: GetBucketAclInput -> GetBucketAclOutput,
    get_bucket_policy: GetBucketPolicyInput -> GetBucketPolicyOutput,
    get_bucket_cors: GetBucketCorsInput -> GetBucketCorsOutput,
    get_bucket_tagging: GetBucketTaggingInput -> GetBucketTaggingOutput,
    get_bucket_encryption: GetBucketEncryptionInput -> GetBucketEncryptionOutput,
    put_bucket_encryption: PutBucketEncryptionInput -> PutBucketEncryptionOutput,
    delete_bucket_encryption: DeleteBucketEncryptionInput -> DeleteBucketEncryptionOutput,
    get_public_access_block: GetPublicAccessBlockInput -> GetPublicAccessBlockOutput,
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput -> GetBucketOwnershipControlsOutput,
    get_bucket_logging: GetBucketLoggingInput -> GetBucketLoggingOutput,
    get_bucket_request_payment: GetBucketRequestPaymentInput -> GetBucketRequestPaymentOutput,
    get_bucket_website: GetBucketWebsiteInput -> GetBucketWebsiteOutput,
    get_bucket_replication: GetBucketReplicationInput -> GetBucketReplicationOutput,
    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput -> GetBucketAccelerateConfigurationOutput,
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput -> GetBucketNotificationConfigurationOutput,
    put_bucket_cors: PutBucketCorsInput -> PutBucketCorsOutput,
    delete_bucket_cors: DeleteBucketCorsInput -> DeleteBucketCorsOutput,
    put_bucket_tagging: PutBucketTaggingInput -> PutBucketTaggingOutput,
    delete_bucket_tagging: DeleteBucketTaggingInput -> DeleteBucketTaggingOutput,
    put_bucket_request_payment: PutBucketRequestPaymentInput -> PutBucketRequestPaymentOutput,
    put_bucket_accelerate_configuration: PutBucketAccelerateConfigurationInput -> PutBucketAccelerateConfigurationOutput,
    put_bucket_logging: PutBucketLoggingInput -> PutBucketLoggingOutput,
    put_bucket_replication: PutBucketReplicationInput -> PutBucketReplicationOutput,
    delete_bucket_replication: DeleteBucketReplicationInput -> DeleteBucketReplicationOutput,
    put_bucket_notification_configuration: PutBucketNotificationConfigurationInput -> PutBucketNotificationConfigurationOutput,
    list_bucket_analytics_configurations: ListBucketAnalyticsConfigurationsInput -> ListBucketAnalyticsConfigurationsOutput,
    list_bucket_inventory_configurations: ListBucketInventoryConfigurationsInput -> ListBucketInventoryConfigurationsOutput,
    list_bucket_metrics_configurations: ListBucketMetricsConfigurationsInput -> ListBucketMetricsConfigurationsOutput,
    list_bucket_intelligent_tiering_configurations: ListBucketIntelligentTieringConfigurationsInput -> ListBucketIntelligentTieringConfigurationsOutput,
    put_bucket_policy: PutBucketPolicyInput -> PutBucketPolicyOutput,
    delete_bucket_policy: DeleteBucketPolicyInput -> DeleteBucketPolicyOutput,
    get_bucket_policy_status: GetBucketPolicyStatusInput -> GetBucketPolicyStatusOutput,
    put_public_access_block: PutPublicAccessBlockInput -> PutPublicAccessBlockOutput,
    delete_public_access_block: DeletePublicAccessBlockInput -> DeletePublicAccessBlockOutput,
    put_bucket_ownership_controls: PutBucketOwnershipControlsInput -> PutBucketOwnershipControlsOutput,
    delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput -> DeleteBucketOwnershipControlsOutput,
    put_bucket_acl: PutBucketAclInput -> PutBucketAclOutput,
    put_object_acl: PutObjectAclInput -> PutObjectAclOutput,
    put_bucket_website: PutBucketWebsiteInput -> PutBucketWebsiteOutput,
    delete_bucket_website: DeleteBucketWebsiteInput -> DeleteBucketWebsiteOutput,
    put_object: PutObjectInput -> PutObjectOutput,
    get_object: GetObjectInput -> GetObjectOutput,
    head_object: HeadObjectInput -> HeadObjectOutput,
    copy_object: CopyObjectInput -> CopyObjectOutput,
    delete_object: DeleteObjectInput -> DeleteObjectOutput,
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput,
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput,
    put_object_tagging: PutObjectTaggingInput -> PutObjectTaggingOutput,
    delete_object_tagging: DeleteObjectTaggingInput -> DeleteObjectTaggingOutput,
    get_object_attributes: GetObjectAttributesInput -> GetObjectAttributesOutput,
    get_object_acl: GetObjectAclInput -> GetObjectAclOutput,
    list_objects: ListObjectsInput -> ListObjectsOutput,
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output,
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput,
    upload_part: UploadPartInput -> UploadPartOutput,
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput,
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput,
    list_parts: ListPartsInput -> ListPartsOutput,
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput,
}
