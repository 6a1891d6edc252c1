//! Deletions, of objects and of versions.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::convert::write_condition;
use super::error::{access_denied, from_backend, malformed_xml, not_implemented};
use super::front::RequestScope;
use super::permissions::{Need, of_signature};
use super::service::{S3Api, Scoped};
use super::versions::{asked_version, permission_on_version};
use crate::backend::{Delete, Deleted, Note, Place, Versioning, WriteCondition};
use crate::model::Bucket as BucketRecord;
use crate::notification::Event;

/// Keys of one DeleteObjects.
const MAX_KEYS: usize = 1000;

impl S3Api {
    pub(super) async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = &request.input;
        let conditions = [input.if_match_last_modified_time.is_some(), input.if_match_size.is_some()];
        refuse_directory_conditions(&conditions)?;
        let versioning = self.versioning(request.bucket()?)?;
        let delete = Delete {
            version: asked_version(input.version_id.as_deref())?,
            condition: write_condition(input.if_match.as_ref(), None)?,
            versioning,
            bypass: self
                .bypasses(&request, input.bypass_governance_retention, &input.key, input.version_id.as_deref())
                .await?,
            notes: self.notes_of_deletion(request.scope()?, request.bucket()?, versioning, &input.key)?,
        };
        let place = request.place(&input.key)?;
        let deleted = self.backend().delete(&place, delete).await.map_err(from_backend)?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: Some(true).filter(|_| deleted.marker),
            version_id: deleted.version.map(|version| version.to_string()),
            ..Default::default()
        }))
    }

    pub(super) async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let wanted = &request.input.delete.objects;
        if wanted.is_empty() || wanted.len() > MAX_KEYS {
            return Err(malformed_xml());
        }
        let (scope, found) = (request.scope()?, request.found()?);
        let bucket = &found.bucket;
        let versioning = self.versioning(bucket)?;
        let need = |object: &ObjectIdentifier| {
            let mut need = Need::on_object("s3:DeleteObject", bucket.name(), &object.key);
            if let Some(version) = &object.version_id {
                permission_on_version(&mut need.target, version);
                need = Need::new(need.target);
            }
            need.target.keys.extend(of_signature(scope));
            need
        };
        let all: Vec<_> = wanted.iter().map(need).collect();
        let all_allowed = self.may(scope, found, &all).await.is_ok();
        let bypass = request.input.bypass_governance_retention;
        let delete = |(object, need): (&ObjectIdentifier, Need)| {
            let (object, request) = (object.clone(), &request);
            async move {
                if !all_allowed && self.may(scope, found, &[need]).await.is_err() {
                    return (object, Err(access_denied()));
                }
                let bypass = match self.bypasses(request, bypass, &object.key, object.version_id.as_deref()).await {
                    Ok(bypass) => bypass,
                    Err(error) => return (object, Err(error)),
                };
                let result = self.delete_one(scope, bucket, versioning, &object, bypass).await;
                (object, result)
            }
        };
        let results = futures::future::join_all(wanted.iter().zip(all).map(delete)).await;
        let quiet = request.input.delete.quiet.unwrap_or(false);
        let mut output = DeleteObjectsOutput::default();
        for (object, result) in results {
            match result {
                Ok(_) if quiet => {}
                Ok(deleted) => output.deleted.get_or_insert_default().push(shown(object, deleted)),
                Err(error) => output.errors.get_or_insert_default().push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(S3Response::new(output))
    }

    fn notes_of_deletion(
        &self,
        scope: &RequestScope,
        bucket: &BucketRecord,
        versioning: Versioning,
        key: &str,
    ) -> S3Result<Vec<Note>> {
        let mut notes = self.notes(scope, bucket, key, &Event::BY_REQUEST)?;
        notes.extend(self.replication_of_marker(bucket, versioning, key)?);
        Ok(notes)
    }

    async fn delete_one(
        &self,
        scope: &RequestScope,
        bucket: &BucketRecord,
        versioning: Versioning,
        object: &ObjectIdentifier,
        bypass: bool,
    ) -> S3Result<Deleted> {
        refuse_directory_conditions(&[object.last_modified_time.is_some(), object.size.is_some()])?;
        let condition = match &object.e_tag {
            Some(etag) if etag.value() == "*" => WriteCondition::Present,
            Some(etag) => WriteCondition::Matches(etag.value().to_owned()),
            None => WriteCondition::Always,
        };
        let version = asked_version(object.version_id.as_deref())?;
        let notes = self.notes_of_deletion(scope, bucket, versioning, &object.key)?;
        let delete = Delete { version, condition, versioning, bypass, notes };
        self.backend().delete(&Place::new(bucket.id, &*object.key), delete).await.map_err(from_backend)
    }
}

/// Conditions on time and size exist for directory buckets only; AWS refuses them elsewhere.
fn refuse_directory_conditions(given: &[bool]) -> S3Result<()> {
    if given.contains(&true) { Err(not_implemented("deletion by last modified time or size")) } else { Ok(()) }
}

fn shown(object: ObjectIdentifier, deleted: Deleted) -> DeletedObject {
    DeletedObject {
        delete_marker: Some(true).filter(|_| deleted.marker),
        delete_marker_version_id: deleted.version.filter(|_| deleted.marker).map(|version| version.to_string()),
        key: Some(object.key),
        version_id: object.version_id,
    }
}
