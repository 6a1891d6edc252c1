//! Copies: whole objects, and ranges of objects as parts.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use std::sync::Arc;

use super::access::{Found, check_expected_owner};
use super::convert::{ChecksumFields, etag, object_meta, refuse_unsupported, timestamp};
use super::encryption::{Asked, CustomerKey, Readable, Scene, Seals};
use super::error::{from_backend, from_domain, invalid, invalid_argument, precondition_failed};
use super::front::RequestScope;
use super::lock::AskedLock;
use super::object::ReadCondition;
use super::permissions::copy_source;
use super::service::{S3Api, Scoped, scope_of};
use super::versions::{asked_version, shown_version, written_version};
use crate::backend::{
    BackendError, Lookup, MAX_PUT_SIZE, NewCopy, NewPart, ObjectHead, ObjectMeta, OpenObject, Place, Put, Source,
    VersionId, Versioning, WriteCondition,
};
use crate::checksum::Algorithm;
use crate::engine;
use crate::notification::Event;

/// Attempts to copy a source that is being replaced.
const ATTEMPTS: usize = 4;

/// What a copy is made of.
struct CopyFrom {
    place: Place,
    version: Option<VersionId>,
    versioning: Versioning,
    found: Found,
    scope: Arc<RequestScope>,
}

impl CopyFrom {
    fn scene(&self) -> Scene<'_> {
        Scene { scope: &self.scope, bucket: &self.found.bucket, place: &self.place }
    }
}

impl S3Api {
    /// The source's place; the access hook has asked for the permission to read it.
    async fn source<T>(&self, request: &S3Request<T>, source: &CopySource) -> S3Result<CopyFrom> {
        let version = asked_version(source_version(source))?;
        let (_, key) = copy_source(&request.headers)?;
        let found = request.found_source()?.clone();
        check_expected_owner(&request.headers, "x-amz-source-expected-bucket-owner", &found.bucket)?;
        let (place, versioning) = (Place::new(found.bucket.id, key), self.versioning(&found.bucket)?);
        let scope = scope_of(&request.extensions)?;
        Ok(CopyFrom { place, version, versioning, found, scope })
    }

    async fn open_source(&self, from: &CopyFrom, condition: &ReadCondition) -> S3Result<OpenObject> {
        let source = match self.backend().open(&from.place, from.version.as_ref()).await.map_err(from_backend)? {
            Lookup::Found(source) => source,
            Lookup::Marker(_) if from.version.is_some() => {
                let message =
                    "The source of a copy request may not specifically refer to a delete marker by version id.";
                return Err(invalid("InvalidRequest", message));
            }
            Lookup::Missing if from.version.is_some() => return Err(from_backend(BackendError::NoSuchVersion)),
            Lookup::Marker(_) | Lookup::Missing => {
                return Err(self.missing_key_in(&from.scope, &from.found, &from.place.key).await);
            }
        };
        from.found.covers(&source.head)?;
        // On a copy, "not modified" is a failed precondition, too.
        if condition.holds(&source.head) == Some(true) { Ok(source) } else { Err(precondition_failed()) }
    }

    pub(super) async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        refuse_unsupported(&request.headers, request.input.storage_class.as_ref())?;
        let acl = self.new_object_acl(&request).await?;
        let to = request.place(&request.input.key)?;
        let from = self.source(&request, &request.input.copy_source).await?;
        let bucket = Arc::clone(request.bucket()?);
        let versioning = self.versioning(&bucket)?;
        let asked = AskedLock {
            mode: request.input.object_lock_mode.clone(),
            until: request.input.object_lock_retain_until_date.clone(),
            hold: request.input.object_lock_legal_hold_status.clone(),
        };
        let lock = self.new_lock(&bucket, asked)?;
        let asked = Asked::read(&request.headers, &from.scope.facts)?;
        let source_key = CustomerKey::of_source(&request.headers, &from.scope.facts)?;
        let replaces = directive(request.input.metadata_directive.as_ref().map(MetadataDirective::as_str))?;
        let replaces_tags = directive(request.input.tagging_directive.as_ref().map(TaggingDirective::as_str))?;
        if from.place == to && from.version.is_none() && !replaces && asked.is_nothing() {
            let message = "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.";
            return Err(invalid("InvalidRequest", message));
        }
        let algorithm = request.input.checksum_algorithm.as_ref().map(|name| {
            Algorithm::parse(name.as_str())
                .ok_or_else(|| invalid("InvalidRequest", "Checksum algorithm provided is unsupported."))
        });
        let algorithm = algorithm.transpose()?;
        let given = object_meta(&request.headers, request.input.metadata.clone())?;
        let condition = ReadCondition {
            if_match: request.input.copy_source_if_match.clone(),
            if_none_match: request.input.copy_source_if_none_match.clone(),
            if_modified_since: request.input.copy_source_if_modified_since.clone(),
            if_unmodified_since: request.input.copy_source_if_unmodified_since.clone(),
        };
        let write = write_condition_of(&request.headers)?;
        for _ in 0..ATTEMPTS {
            let source = self.open_source(&from, &condition).await?;
            let source = self.readable(from.scene(), source, source_key.as_ref()).await?;
            if source.head.size > MAX_PUT_SIZE {
                let message = "The specified copy source is larger than the maximum allowable size for a copy source";
                return Err(invalid("InvalidRequest", message));
            }
            self.room(&bucket, Some(source.head.size), 1).await?;
            let mut meta = ObjectMeta::clone(if replaces { &given } else { &source.head.meta });
            meta.acl.clone_from(&acl);
            meta.tags = if replaces_tags { given.tags.clone() } else { source.head.meta.tags.clone() };
            let copied = shown_version(from.versioning, &source.head.version);
            let scene = Scene { scope: &from.scope, bucket: &bucket, place: &to };
            let seals = match self.new_seals(scene, &asked).await? {
                // As in AWS, where nothing is stored in the clear.
                None if source.is_encrypted() => Some(self.store_seals(scene).await?),
                seals => seals,
            };
            meta.encryption = seals.as_ref().map(|seals| Box::new(seals.encryption.clone()));
            let mut notes = self.notes(&from.scope, &bucket, &to.key, &[Event::Copy])?;
            let (replication, copies) = self.replication(&bucket, versioning, &to.key, &meta)?;
            meta.replication = replication;
            notes.extend(copies);
            let keep_out = engine::forbidden(&self.iam().store().stale(), bucket.account).map_err(from_domain)?;
            let copy = NewCopy { meta, condition: write.clone(), versioning, lock, notes, keep_out };
            match self.copy_bytes(&from.place, source, &to, copy, algorithm, seals.as_ref()).await {
                Err(BackendError::SourceChanged) => {}
                head => {
                    let head = head.map_err(from_backend)?;
                    let mut response = copied_response(&head, versioning, copied);
                    response.headers.extend(seals.map(|seals| seals.headers).unwrap_or_default());
                    response.output.expiration = self.expiration(request.bucket()?, &to.key, &head)?;
                    return Ok(response);
                }
            }
        }
        Err(from_backend(BackendError::SourceChanged))
    }

    /// Bytes are read only if another checksum of them is asked for, or one of both is encrypted.
    async fn copy_bytes(
        &self,
        from: &Place,
        source: Readable,
        to: &Place,
        copy: NewCopy,
        algorithm: Option<Algorithm>,
        seals: Option<&Seals>,
    ) -> Result<ObjectHead, BackendError> {
        let has = source.head.checksum.as_ref().map(|checksum| checksum.algorithm);
        if !source.is_encrypted() && seals.is_none() && algorithm.is_none_or(|algorithm| has == Some(algorithm)) {
            let ObjectHead { version, etag, .. } = source.head;
            return self.backend().copy(&Source { place: from.clone(), version, etag }, to, copy).await;
        }
        let algorithm = algorithm.or(has).unwrap_or(Algorithm::Crc64Nvme);
        let NewCopy { meta, condition, versioning, lock, notes, .. } = copy;
        let put = Put {
            meta,
            condition,
            versioning,
            lock,
            algorithms: vec![algorithm],
            verify: Box::new(move |digests| Ok(digests.checksum(algorithm))),
            size: Some(source.head.size),
            max_size: MAX_PUT_SIZE,
            notes,
            sealing: seals.map(|seals| self.sealing(seals)),
        };
        let body = source.stream(0..source.head.size);
        self.backend().put(to, body, put).await
    }

    pub(super) async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        refuse_unsupported(&request.headers, None)?;
        let to = request.place(&request.input.key)?;
        let number = super::multipart::part_number(request.input.part_number)?;
        let from = self.source(&request, &request.input.copy_source).await?;
        let bucket = Arc::clone(request.bucket()?);
        let source_key = CustomerKey::of_source(&request.headers, &from.scope.facts)?;
        let input = request.input;
        let condition = ReadCondition {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let source = self.open_source(&from, &condition).await?;
        let source = self.readable(from.scene(), source, source_key.as_ref()).await?;
        let copied = shown_version(from.versioning, &source.head.version);
        let size = source.head.size;
        let span = match input.copy_source_range.as_deref() {
            None => 0..size,
            Some(text) => match Range::parse(text) {
                Ok(Range::Int { first, last: Some(last) }) if last < size => first..last + 1,
                Ok(Range::Int { last: Some(_), .. }) => {
                    let message = format!("Range specified is not valid for source object of size: {size}");
                    return Err(invalid("InvalidRange", message));
                }
                _ => {
                    let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy";
                    return Err(invalid_argument(message));
                }
            },
        };
        self.room(&bucket, Some(span.end - span.start), 0).await?;
        let upload = self.need_upload(&to, &input.upload_id).await?;
        let keep = upload.algorithm();
        let scene = Scene { scope: &from.scope, bucket: &bucket, place: &to };
        let seals = self.part_seals(scene, &upload, &request.headers).await?;
        let new = NewPart {
            number,
            algorithms: vec![keep],
            verify: Box::new(move |digests| Ok(digests.checksum(keep))),
            sealing: seals.as_ref().map(|seals| self.sealing(seals)),
        };
        let written = self.backend().put_part(&to, &upload.id, source.stream(span), new).await;
        let part = written.map_err(from_backend)?;
        let sums = ChecksumFields::of(part.checksum.as_ref());
        let output = UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
                e_tag: Some(etag(&part.etag)),
                last_modified: Some(timestamp(part.modified)),
            }),
            copy_source_version_id: copied,
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, seals.map(|seals| seals.headers).unwrap_or_default()))
    }
}

fn source_version(source: &CopySource) -> Option<&str> {
    match source {
        CopySource::Bucket { version_id, .. } => version_id.as_deref(),
        _ => None,
    }
}

/// Whether what the request says replaces what the source has.
fn directive(text: Option<&str>) -> S3Result<bool> {
    match text {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(invalid_argument("Unknown metadata directive.")),
    }
}

/// `If-Match` and `If-None-Match` speak of the destination; s3s does not read them for copies.
fn write_condition_of(headers: &http::HeaderMap) -> S3Result<WriteCondition> {
    let read = |name: &str| {
        let parse = |value: &http::HeaderValue| {
            ETagCondition::parse_http_header(value.as_bytes())
                .map_err(|_| invalid_argument(format!("The header {name} is not an entity tag")))
        };
        headers.get(name).map(parse).transpose()
    };
    super::convert::write_condition(read("if-match")?.as_ref(), read("if-none-match")?.as_ref())
}

fn copied_response(head: &ObjectHead, versioning: Versioning, copied: Option<String>) -> S3Response<CopyObjectOutput> {
    let sums = ChecksumFields::of(head.checksum.as_ref());
    S3Response::new(CopyObjectOutput {
        copy_object_result: Some(CopyObjectResult {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            e_tag: Some(etag(&head.etag)),
            last_modified: Some(timestamp(head.modified)),
        }),
        copy_source_version_id: copied,
        version_id: written_version(versioning, &head.version),
        ..Default::default()
    })
}
