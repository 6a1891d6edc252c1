//! Tags of buckets. They stand in the registry of resources, as those of everything else.

use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use terroir_resources::{MAX_TAGS, Tags};
use terroir_store::Txn;

use super::error::{from_domain, invalid, s3};
use super::service::{AnswerStatus, S3Api, Scoped};
use crate::model::Bucket;

impl S3Api {
    pub(super) async fn get_bucket_tagging(
        &self,
        request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let bucket = request.own_bucket()?;
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let tags = terroir_resources::tags(&txn, bucket.account, &bucket.resource_id()).map_err(from_domain)?;
        if tags.is_empty() {
            return Err(s3("NoSuchTagSet", StatusCode::NOT_FOUND, "The TagSet does not exist"));
        }
        let tag_set = tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(S3Response::new(GetBucketTaggingOutput { tag_set }))
    }

    /// Replaces all tags.
    pub(super) async fn put_bucket_tagging(
        &self,
        request: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let bucket = request.own_bucket()?.clone();
        let tags = checked(request.input.tagging.tag_set)?;
        self.change_bucket(&bucket, |txn, bucket| replace(txn, bucket, &tags)).await?;
        let mut response = S3Response::new(PutBucketTaggingOutput::default());
        response.extensions.insert(AnswerStatus(StatusCode::NO_CONTENT));
        Ok(response)
    }

    pub(super) async fn delete_bucket_tagging(
        &self,
        request: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        let bucket = request.own_bucket()?.clone();
        self.change_bucket(&bucket, |txn, bucket| replace(txn, bucket, &Tags::new())).await?;
        Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
    }
}

fn replace(txn: &mut Txn, bucket: &Bucket, tags: &Tags) -> Result<(), terroir_types::Error> {
    let id = bucket.resource_id();
    terroir_resources::remove_tags(txn, bucket.account, &id, &[])?;
    terroir_resources::set_tags(txn, bucket.account, &id, tags)
}

fn checked(tag_set: TagSet) -> S3Result<Tags> {
    if tag_set.len() > MAX_TAGS {
        return Err(invalid("BadRequest", format!("Bucket tag count cannot be greater than {MAX_TAGS}")));
    }
    let count = tag_set.len();
    let mut tags = Tags::new();
    for tag in tag_set {
        let (key, value) = (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        super::convert::check_tag(&key, &value)?;
        tags.insert(key, value);
    }
    if tags.len() < count {
        return Err(invalid("InvalidTag", "Cannot provide multiple Tags with the same key"));
    }
    Ok(tags)
}
