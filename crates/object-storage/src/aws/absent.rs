//! Configurations that a bucket does not have, read as AWS answers for a bucket that has none.
//!
//! Tools read all of them before they do anything. What can be set has a file of its own. What means nothing here is
//! accepted where it asks for what is so anyway, and refused otherwise.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::error::{malformed_xml, not_implemented};
use super::service::S3Api;

impl S3Api {
    pub(super) async fn get_bucket_request_payment(
        &self,
        _request: S3Request<GetBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
        let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
        Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
    }

    pub(super) async fn get_bucket_accelerate_configuration(
        &self,
        _request: S3Request<GetBucketAccelerateConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
        Ok(S3Response::new(GetBucketAccelerateConfigurationOutput::default()))
    }

    pub(super) async fn put_bucket_request_payment(
        &self,
        request: S3Request<PutBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<PutBucketRequestPaymentOutput>> {
        match request.input.request_payment_configuration.payer.as_str() {
            Payer::BUCKET_OWNER => Ok(S3Response::new(PutBucketRequestPaymentOutput::default())),
            Payer::REQUESTER => Err(not_implemented("requests that the requester pays for")),
            _ => Err(malformed_xml()),
        }
    }

    pub(super) async fn put_bucket_accelerate_configuration(
        &self,
        request: S3Request<PutBucketAccelerateConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketAccelerateConfigurationOutput>> {
        match request.input.accelerate_configuration.status.as_ref().map(BucketAccelerateStatus::as_str) {
            Some(BucketAccelerateStatus::SUSPENDED) => {
                Ok(S3Response::new(PutBucketAccelerateConfigurationOutput::default()))
            }
            Some(BucketAccelerateStatus::ENABLED) => Err(not_implemented("transfer acceleration")),
            _ => Err(malformed_xml()),
        }
    }

    pub(super) async fn list_bucket_analytics_configurations(
        &self,
        _request: S3Request<ListBucketAnalyticsConfigurationsInput>,
    ) -> S3Result<S3Response<ListBucketAnalyticsConfigurationsOutput>> {
        let output = ListBucketAnalyticsConfigurationsOutput { is_truncated: Some(false), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(super) async fn list_bucket_inventory_configurations(
        &self,
        _request: S3Request<ListBucketInventoryConfigurationsInput>,
    ) -> S3Result<S3Response<ListBucketInventoryConfigurationsOutput>> {
        let output = ListBucketInventoryConfigurationsOutput { is_truncated: Some(false), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(super) async fn list_bucket_metrics_configurations(
        &self,
        _request: S3Request<ListBucketMetricsConfigurationsInput>,
    ) -> S3Result<S3Response<ListBucketMetricsConfigurationsOutput>> {
        let output = ListBucketMetricsConfigurationsOutput { is_truncated: Some(false), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(super) async fn list_bucket_intelligent_tiering_configurations(
        &self,
        _request: S3Request<ListBucketIntelligentTieringConfigurationsInput>,
    ) -> S3Result<S3Response<ListBucketIntelligentTieringConfigurationsOutput>> {
        let output =
            ListBucketIntelligentTieringConfigurationsOutput { is_truncated: Some(false), ..Default::default() };
        Ok(S3Response::new(output))
    }
}
