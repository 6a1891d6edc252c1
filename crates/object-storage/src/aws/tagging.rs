//! Tags. Those of buckets stand in the registry of resources, as those of everything else; an object's are its own.

use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use terroir_resources::{MAX_TAGS, Tags};
use terroir_store::Txn;

use super::access::Basis;
use super::error::{from_backend, from_domain, invalid, s3};
use super::permissions::{Need, of_signature, of_tags};
use super::service::{AnswerStatus, S3Api, Scoped};
use super::versions::{asked_version, permission_on_version, shown_version};
use crate::backend::{Note, Place, StringMap, VersionId};
use crate::model::Bucket;
use crate::notification::Event;

impl S3Api {
    pub(super) async fn get_bucket_tagging(
        &self,
        request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let bucket = request.bucket()?;
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
        let bucket = request.bucket()?.clone();
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
        let bucket = request.bucket()?.clone();
        self.change_bucket(&bucket, |txn, bucket| replace(txn, bucket, &Tags::new())).await?;
        Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
    }

    pub(super) async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let found = self.backend().head(&place, version.as_ref()).await.map_err(from_backend)?;
        let head = self.need(&request, version.as_ref(), found).await?;
        let versioning = self.versioning(request.bucket()?)?;
        let tag = |(key, value): (&String, &String)| Tag { key: Some(key.clone()), value: Some(value.clone()) };
        let tag_set = head.meta.tags.iter().map(tag).collect();
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: shown_version(versioning, &head.version) }))
    }

    pub(super) async fn put_object_tagging(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let versioning = self.versioning(request.bucket()?)?;
        let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        let pairs = request.input.tagging.tag_set.iter().cloned().map(pair).collect();
        let tags = super::convert::check_tags(pairs)?;
        let basis = self.may_tag(&request, &place, request.input.version_id.clone(), &tags).await?;
        let version = decided_version(basis.as_ref(), version);
        let notes = self.notes_of_change(&request, &place.key, Event::TaggingPut)?;
        let tagged = self.backend().set_tags(&place, version.as_ref(), tags, notes).await.map_err(from_backend)?;
        Ok(S3Response::new(PutObjectTaggingOutput { version_id: shown_version(versioning, &tagged) }))
    }

    pub(super) async fn delete_object_tagging(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let versioning = self.versioning(request.bucket()?)?;
        let version = decided_version(request.found()?.basis.as_ref(), version);
        let none = Default::default();
        let notes = self.notes_of_change(&request, &place.key, Event::TaggingDelete)?;
        let untagged = self.backend().set_tags(&place, version.as_ref(), none, notes).await.map_err(from_backend)?;
        Ok(S3Response::new(DeleteObjectTaggingOutput { version_id: shown_version(versioning, &untagged) }))
    }

    fn notes_of_change<T>(&self, request: &S3Request<T>, key: &str, event: Event) -> S3Result<Vec<Note>> {
        let bucket = request.bucket()?;
        let mut notes = self.notes(request.scope()?, bucket, key, &[event])?;
        notes.extend(self.replication_of_change(bucket, key)?);
        Ok(notes)
    }

    /// Policies may look at the tags that an object is to get.
    async fn may_tag<T>(
        &self,
        request: &S3Request<T>,
        place: &Place,
        version: Option<String>,
        tags: &StringMap,
    ) -> S3Result<Option<Basis>> {
        let (scope, found) = (request.scope()?, request.found()?);
        let mut need = Need::on_object("s3:PutObjectTagging", found.bucket.name(), &place.key);
        if let Some(version) = &version {
            permission_on_version(&mut need.target, version);
        }
        need.target.keys.extend(of_tags(tags));
        need.target.keys.extend(of_signature(scope));
        self.may_to(scope, found, &[Need::new(need.target)], Some((place.clone(), version))).await
    }
}

/// The version that the decision was made for; the one that was asked for, if the decision rests on none.
pub(super) fn decided_version(basis: Option<&Basis>, asked: Option<VersionId>) -> Option<VersionId> {
    match basis {
        Some(Basis::Version(version, _)) => Some(version.clone()),
        Some(Basis::Absent) | None => asked,
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
