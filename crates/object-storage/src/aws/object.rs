//! Single objects.

use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::dto::*;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result};
use std::ops::Range as Span;
use std::sync::Arc;

use super::convert::{
    ChecksumFields, Claimed, KEPT_HEADERS, etag, md5_bytes, object_meta, owner, refuse_unsupported, seconds, size,
    timestamp, write_condition,
};
use super::encryption::{Asked, CustomerKey, Scene, refuse_on_read, shown};
use super::error::{access_denied, from_backend, invalid, precondition_failed, s3};
use super::lock::{AskedLock, check_proof, hold_status, shown_mode, shown_until};
use super::quota::from_write;
use super::replication::shown_status;
use super::service::{BareETag, S3Api, Scoped, scope_of};
use super::versions::{asked_version, shown_version, written_version};
use crate::backend::{BackendError, ByteStream, ObjectHead, ObjectMeta, PartOfObject, Put};
use crate::checksum::{Algorithm, Checksum};
use crate::model::Bucket as BucketRecord;
use crate::notification::Event;

pub(super) fn parse_md5(text: &str) -> S3Result<[u8; 16]> {
    md5_bytes(text).ok_or_else(|| invalid("InvalidDigest", "The Content-MD5 you specified is not valid."))
}

/// The body of a request as the backend takes it.
pub(super) fn byte_stream(body: Option<StreamingBlob>) -> ByteStream {
    match body {
        Some(body) => Box::pin(body),
        None => Box::pin(futures::stream::empty()),
    }
}

/// The first piece is there before anything is answered: if it cannot be read, the answer says so. What cannot be read
/// later breaks the answer off.
async fn streaming_blob(mut stream: ByteStream) -> S3Result<StreamingBlob> {
    let first = match stream.next().await {
        Some(Err(error)) => {
            let error = error.downcast::<BackendError>();
            return Err(from_backend(
                error.map_or_else(|error| BackendError::Damaged(error.to_string()), |error| *error),
            ));
        }
        first => first,
    };
    let frames = futures::stream::iter(first).chain(stream).map(|piece| {
        if let Err(error) = &piece {
            tracing::error!(%error, "reading an object failed while it was being sent");
        }
        piece.map(Frame::data)
    });
    Ok(StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames))))
}

/// `If-Match` and its relatives on a read.
#[derive(Default)]
pub(super) struct ReadCondition {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

impl ReadCondition {
    /// In the order of RFC 9110, 13.2.2. `Some(false)`: not modified.
    pub(super) fn holds(&self, head: &ObjectHead) -> Option<bool> {
        let modified = head.modified.secs();
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition, &head.etag) => return None,
            (None, Some(since)) if modified > seconds(since) => return None,
            _ => {}
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, &head.etag),
            (None, Some(since)) => modified <= seconds(since),
            (None, None) => false,
        };
        Some(!unchanged)
    }

    fn check(&self, head: &ObjectHead) -> S3Result<()> {
        match self.holds(head) {
            Some(true) => Ok(()),
            Some(false) => Err(not_modified(head)),
            None => Err(precondition_failed()),
        }
    }
}

fn not_modified(head: &ObjectHead) -> S3Error {
    let mut error = s3("NotModified", StatusCode::NOT_MODIFIED, "Not Modified");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", head.etag)) {
        headers.insert(http::header::ETAG, value);
    }
    error.set_headers(headers);
    error
}

/// Which bytes a read asks for.
struct Selection {
    span: Span<u64>,
    /// `Content-Range`, if it is not simply the whole.
    range: Option<String>,
    checksum: Option<Checksum>,
    /// Of the whole object, also where a part's checksum is shown, as in AWS.
    checksum_type: Option<ChecksumType>,
    parts_count: Option<i32>,
}

impl Selection {
    /// The checksum's fields, if they are wanted.
    fn sums(&self, mode: Option<&ChecksumMode>) -> ChecksumFields {
        let sums = ChecksumFields::of(self.checksum.as_ref().filter(|_| wants_checksum(mode)));
        ChecksumFields { kind: sums.kind.is_some().then(|| self.checksum_type.clone()).flatten(), ..sums }
    }
}

fn select(
    head: &ObjectHead,
    parts: &[PartOfObject],
    range: Option<Range>,
    part_number: Option<i32>,
) -> S3Result<Selection> {
    let content_range = |span: &Span<u64>| {
        Some(format!("bytes {}-{}/{}", span.start, span.end.saturating_sub(1), head.size)).filter(|_| head.size > 0)
    };
    let checksum_type = ChecksumFields::of(head.checksum.as_ref()).kind;
    match (range, part_number) {
        (Some(_), Some(_)) => {
            Err(invalid("InvalidRequest", "Cannot specify both Range header and partNumber query parameter"))
        }
        (None, None) => {
            let checksum = head.checksum.clone();
            Ok(Selection { span: 0..head.size, range: None, checksum, checksum_type, parts_count: None })
        }
        (Some(range), None) => {
            let span =
                range.check(head.size).ok().filter(|span| !span.is_empty()).ok_or_else(|| unsatisfiable(head))?;
            let range = content_range(&span);
            Ok(Selection { span, range, checksum: None, checksum_type, parts_count: None })
        }
        (None, Some(number)) => {
            let (span, checksum) = span_of_part(head, parts, number).ok_or_else(|| {
                let message = "The requested partnumber is not satisfiable";
                s3("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE, message)
            })?;
            let range = content_range(&span);
            Ok(Selection { span, range, checksum, checksum_type, parts_count: head.parts.map(i32::from) })
        }
    }
}

/// Part `number` counts in order, from 1; an object that was written in one piece has one.
fn span_of_part(head: &ObjectHead, parts: &[PartOfObject], number: i32) -> Option<(Span<u64>, Option<Checksum>)> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    if parts.is_empty() {
        return (index == 0).then(|| (0..head.size, head.checksum.clone()));
    }
    let part = parts.get(index)?;
    let start: u64 = parts[..index].iter().map(|part| part.size).sum();
    Some((start..start + part.size, part.checksum.clone()))
}

fn unsatisfiable(head: &ObjectHead) -> S3Error {
    let mut error = s3("InvalidRange", StatusCode::RANGE_NOT_SATISFIABLE, "The requested range is not satisfiable");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", head.size)) {
        headers.insert(http::header::CONTENT_RANGE, value);
    }
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    error.set_headers(headers);
    error
}

/// The headers that the writer gave, as they came.
fn kept_headers(head: &ObjectHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in KEPT_HEADERS {
        if let Some(value) = head.meta.headers.get(name).and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn tag_count(head: &ObjectHead) -> Option<i32> {
    i32::try_from(head.meta.tags.len()).ok().filter(|count| *count > 0)
}

fn user_metadata(head: &ObjectHead) -> Option<Metadata> {
    Some(head.meta.user.clone().into_iter().collect())
}

impl S3Api {
    /// Whoever may not list the bucket does not learn which keys are missing.
    pub(super) async fn missing_key<T>(&self, request: &S3Request<T>) -> S3Error {
        let (Ok(scope), Ok(found)) = (request.scope(), request.found()) else { return access_denied() };
        let key = scope.operation.get().and_then(|(_, _, key)| key.as_deref()).unwrap_or_default();
        self.missing_key_in(scope, found, key).await
    }

    pub(super) async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        refuse_unsupported(&request.headers, request.input.storage_class.as_ref())?;
        let acl = self.new_object_acl(&request).await?;
        let place = request.place(&request.input.key)?;
        let body_state = request.body_state()?;
        let claimed = Claimed::read(&request.headers)?;
        let (bucket, input) = (Arc::clone(request.bucket()?), &request.input);
        let versioning = self.versioning(&bucket)?;
        let asked = AskedLock {
            mode: input.object_lock_mode.clone(),
            until: input.object_lock_retain_until_date.clone(),
            hold: input.object_lock_legal_hold_status.clone(),
        };
        let lock = self.new_lock(&bucket, asked)?;
        check_proof(&lock, &claimed, "Object")?;
        let (input, scope) = (request.input, scope_of(&request.extensions)?);
        let keep = claimed.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        let size = input.content_length.and_then(|length| u64::try_from(length).ok());
        let room = self.room(&bucket, size, 1).await?;
        let asked = Asked::read(&request.headers, &scope.facts)?;
        let seals = self.new_seals(Scene { scope: &scope, bucket: &bucket, place: &place }, &asked).await?;
        let encryption = seals.as_ref().map(|seals| Box::new(seals.encryption.clone()));
        let meta = ObjectMeta { acl, encryption, ..object_meta(&request.headers, input.metadata)? };
        let created = if scope.is_form { Event::Post } else { Event::Put };
        let mut notes = self.notes(&scope, &bucket, &place.key, &[created])?;
        let (replication, copies) = self.replication(&bucket, versioning, &place.key, &meta)?;
        notes.extend(copies);
        let put = Put {
            meta: ObjectMeta { replication, ..meta },
            condition: write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
            versioning,
            lock,
            algorithms: vec![keep],
            verify: claimed.verify(keep, body_state),
            size,
            max_size: room,
            notes,
            sealing: seals.as_ref().map(|seals| self.sealing(seals)),
        };
        let written = self.backend().put(&place, byte_stream(input.body), put).await;
        let head = written.map_err(|error| from_write(error, room))?;
        let expiration = self.expiration(&bucket, &place.key, &head)?;
        let sums = ChecksumFields::of(head.checksum.as_ref());
        let output = PutObjectOutput {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            e_tag: Some(etag(&head.etag)),
            expiration,
            version_id: written_version(versioning, &head.version),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, seals.map(|seals| seals.headers).unwrap_or_default()))
    }

    pub(super) async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let found = self.backend().open(&place, version.as_ref()).await.map_err(from_backend)?;
        let object = self.need(&request, version.as_ref(), found).await?;
        let versioning = self.versioning(request.bucket()?)?;
        let lock = self.shown_lock(&request, &object.head, &request.input.key).await?;
        let expiration = self.expiration_unless(version.as_ref(), &request, &request.input.key, &object.head)?;
        refuse_on_read(&request.headers)?;
        let given = CustomerKey::read(&request.headers, &request.scope()?.facts)?;
        let scene = Scene { scope: request.scope()?, bucket: request.bucket()?, place: &place };
        let object = self.readable(scene, object, given.as_ref()).await?;
        let input = request.input;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let head = &object.head;
        condition.check(head)?;
        let selection = select(head, object.parts(), input.range, input.part_number)?;
        let sums = selection.sums(input.checksum_mode.as_ref());
        let body = streaming_blob(object.stream(selection.span.clone())).await?;
        let mut response = S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            content_length: Some(size(selection.span.end - selection.span.start)),
            content_range: selection.range,
            e_tag: Some(etag(&head.etag)),
            last_modified: Some(timestamp(head.modified)),
            metadata: user_metadata(head),
            expiration,
            object_lock_legal_hold_status: lock.legal_hold.map(hold_status),
            object_lock_mode: shown_mode(&lock),
            object_lock_retain_until_date: shown_until(&lock),
            parts_count: selection.parts_count,
            replication_status: shown_status(head),
            tag_count: tag_count(head),
            version_id: shown_version(versioning, &head.version),
            ..Default::default()
        });
        response.headers = kept_headers(head);
        response.headers.extend(shown(head.meta.encryption.as_deref(), given.as_ref()));
        // What the request overrides, s3s writes itself, unless it stands here already.
        let overridden = [
            ("content-type", input.response_content_type.is_some()),
            ("cache-control", input.response_cache_control.is_some()),
            ("content-disposition", input.response_content_disposition.is_some()),
            ("content-encoding", input.response_content_encoding.is_some()),
            ("content-language", input.response_content_language.is_some()),
            ("expires", input.response_expires.is_some()),
        ];
        for (name, _) in overridden.iter().filter(|(_, overridden)| *overridden) {
            response.headers.remove(*name);
        }
        Ok(response)
    }

    pub(super) async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        // Only a part's bounds need more than the row.
        let found = if request.input.part_number.is_some() {
            let found = self.backend().open(&place, version.as_ref()).await.map_err(from_backend)?;
            found.map(|object| (object.head, object.content.parts().to_vec()))
        } else {
            let found = self.backend().head(&place, version.as_ref()).await.map_err(from_backend)?;
            found.map(|head| (head, Vec::new()))
        };
        let (head, parts) = self.need(&request, version.as_ref(), found).await?;
        let versioning = self.versioning(request.bucket()?)?;
        let lock = self.shown_lock(&request, &head, &request.input.key).await?;
        let expiration = self.expiration_unless(version.as_ref(), &request, &request.input.key, &head)?;
        refuse_on_read(&request.headers)?;
        let given = CustomerKey::read(&request.headers, &request.scope()?.facts)?;
        let scene = Scene { scope: request.scope()?, bucket: request.bucket()?, place: &place };
        self.check_key(scene, &head, given.as_ref()).await?;
        let input = request.input;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        condition.check(&head)?;
        let selection = select(&head, &parts, input.range, input.part_number)?;
        let sums = selection.sums(input.checksum_mode.as_ref());
        let mut headers = kept_headers(&head);
        headers.extend(shown(head.meta.encryption.as_deref(), given.as_ref()));
        let overrides = [
            ("content-type", input.response_content_type),
            ("cache-control", input.response_cache_control),
            ("content-disposition", input.response_content_disposition),
            ("content-encoding", input.response_content_encoding),
            ("content-language", input.response_content_language),
        ];
        for (name, value) in overrides {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        if let Some(range) = selection.range.and_then(|range| HeaderValue::from_str(&range).ok()) {
            headers.insert(http::header::CONTENT_RANGE, range);
        }
        if let Some(count) = tag_count(&head) {
            headers.insert("x-amz-tagging-count", HeaderValue::from(count));
        }
        Ok(S3Response::with_headers(
            HeadObjectOutput {
                accept_ranges: Some("bytes".to_owned()),
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
                checksum_type: sums.kind,
                content_length: Some(size(selection.span.end - selection.span.start)),
                e_tag: Some(etag(&head.etag)),
                last_modified: Some(timestamp(head.modified)),
                metadata: user_metadata(&head),
                expiration,
                object_lock_legal_hold_status: lock.legal_hold.map(hold_status),
                object_lock_mode: shown_mode(&lock),
                object_lock_retain_until_date: shown_until(&lock),
                parts_count: selection.parts_count,
                replication_status: shown_status(&head),
                version_id: shown_version(versioning, &head.version),
                ..Default::default()
            },
            headers,
        ))
    }

    pub(super) async fn get_object_attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let found = self.backend().open(&place, version.as_ref()).await.map_err(from_backend)?;
        let object = self.need(&request, version.as_ref(), found).await?;
        let given = CustomerKey::read(&request.headers, &request.scope()?.facts)?;
        let scene = Scene { scope: request.scope()?, bucket: request.bucket()?, place: &place };
        self.check_key(scene, &object.head, given.as_ref()).await?;
        let versioning = self.versioning(request.bucket()?)?;
        let wants = |name: &str| {
            request
                .input
                .object_attributes
                .iter()
                .any(|attribute| attribute.as_str().split(',').any(|one| one.trim().eq_ignore_ascii_case(name)))
        };
        let head = &object.head;
        let sums = ChecksumFields::of(head.checksum.as_ref());
        let checksum = head.checksum.is_some().then_some(s3s::dto::Checksum {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
        });
        let parts = object.content.parts();
        let parts = (!parts.is_empty()).then(|| {
            super::multipart::attributes_of_parts(parts, request.input.part_number_marker, request.input.max_parts)
        });
        let mut response = S3Response::new(GetObjectAttributesOutput {
            checksum: checksum.filter(|_| wants("Checksum")),
            e_tag: Some(etag(&head.etag)).filter(|_| wants("ETag")),
            last_modified: Some(timestamp(head.modified)),
            object_parts: parts.filter(|_| wants("ObjectParts")),
            object_size: Some(size(head.size)).filter(|_| wants("ObjectSize")),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)).filter(|_| wants("StorageClass")),
            version_id: shown_version(versioning, &head.version),
            ..Default::default()
        });
        response.extensions.insert(BareETag);
        Ok(response)
    }
}

/// The owner as listings show it.
pub(super) fn bucket_owner(bucket: &BucketRecord) -> Owner {
    owner(bucket.account)
}
