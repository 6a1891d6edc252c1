//! What a bucket does with objects whose writer says nothing of encryption.

use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::encryption::{AES256, AWS_KMS, AWS_KMS_DSSE};
use super::error::{invalid_argument, malformed_xml, not_implemented, s3};
use super::service::{S3Api, Scoped};
use crate::encryption::{DefaultEncryption, DefaultMethod};
use crate::settings;

impl S3Api {
    /// Where a bucket was told nothing, objects are not encrypted, and this does not say `AES256` as AWS does since 2023.
    pub(super) async fn get_bucket_encryption(
        &self,
        request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let Some(default) = self.default_encryption(request.bucket()?)? else {
            let message = "The server side encryption configuration was not found";
            return Err(s3("ServerSideEncryptionConfigurationNotFoundError", StatusCode::NOT_FOUND, message));
        };
        let (algorithm, key) = match default.method {
            DefaultMethod::S3 => (AES256, None),
            DefaultMethod::Kms(key) => (AWS_KMS, key),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
                kms_master_key_id: key,
                sse_algorithm: ServerSideEncryption::from_static(algorithm),
            }),
            bucket_key_enabled: default.bucket_key,
        };
        Ok(S3Response::new(GetBucketEncryptionOutput {
            server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration { rules: vec![rule] }),
        }))
    }

    pub(super) async fn put_bucket_encryption(
        &self,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let default = checked(&request.input.server_side_encryption_configuration)?;
        self.change_bucket(request.bucket()?, |txn, bucket| settings::put(txn, bucket, &default)).await?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    /// That there is none is no error.
    pub(super) async fn delete_bucket_encryption(
        &self,
        request: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
        let remove = |txn: &mut terroir_store::Txn, bucket: &crate::model::Bucket| {
            settings::remove::<DefaultEncryption>(txn, bucket.id).map(drop)
        };
        self.change_bucket(request.bucket()?, remove).await?;
        Ok(S3Response::new(DeleteBucketEncryptionOutput::default()))
    }
}

fn checked(configuration: &ServerSideEncryptionConfiguration) -> S3Result<DefaultEncryption> {
    let [rule] = configuration.rules.as_slice() else { return Err(malformed_xml()) };
    let default = rule.apply_server_side_encryption_by_default.as_ref().ok_or_else(malformed_xml)?;
    let key = default.kms_master_key_id.clone().filter(|key| !key.is_empty());
    let method = match (default.sse_algorithm.as_str(), key) {
        (AES256, None) => DefaultMethod::S3,
        (AES256, Some(_)) => {
            let message = "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms";
            return Err(invalid_argument(message));
        }
        (AWS_KMS, key) => DefaultMethod::Kms(key),
        (AWS_KMS_DSSE, _) => return Err(not_implemented("two layers of encryption (aws:kms:dsse)")),
        _ => return Err(malformed_xml()),
    };
    Ok(DefaultEncryption { method, bucket_key: rule.bucket_key_enabled })
}
