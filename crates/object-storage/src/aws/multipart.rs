//! Multipart uploads.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use std::sync::Arc;

use super::convert::{
    ChecksumFields, Claimed, etag, given_checksum, object_meta, owner, refuse_unsupported, size, timestamp,
    write_condition,
};
use super::encryption::{Asked, CustomerKey, Scene, shown};
use super::error::{from_backend, invalid, invalid_argument};
use super::listing::{Encoding, page_size};
use super::lock::{AskedLock, check_proof};
use super::object::byte_stream;
use super::service::{S3Api, Scoped, scope_of};
use crate::backend::{
    BackendError, ClaimedPart, CompleteUpload, ListUploads, MAX_PARTS, NewPart, NewUpload, ObjectLock, ObjectMeta,
    PartOfObject, Place, Upload, UploadEntry,
};
use crate::checksum::{Algorithm, Coverage};
use crate::notification::Event;

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=MAX_PARTS).contains(number))
        .ok_or_else(|| invalid_argument("Part number must be an integer between 1 and 10000, inclusive"))
}

fn part_marker(marker: Option<i32>) -> u16 {
    u16::try_from(marker.unwrap_or(0).max(0)).unwrap_or(u16::MAX)
}

/// The parts of a finished object, as GetObjectAttributes shows them.
pub(super) fn attributes_of_parts(
    parts: &[PartOfObject],
    marker: Option<i32>,
    max: Option<i32>,
) -> GetObjectAttributesParts {
    let after = part_marker(marker);
    let limit = usize::try_from(max.unwrap_or(1000).clamp(0, 1000)).unwrap_or_default();
    let numbered: Vec<_> = (1_u16..).zip(parts).filter(|(number, _)| *number > after).collect();
    let page = &numbered[..limit.min(numbered.len())];
    let shown = page.iter().map(|(number, part)| {
        let sums = ChecksumFields::of(part.checksum.as_ref());
        ObjectPart {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            part_number: Some(i32::from(*number)),
            size: Some(size(part.size)),
        }
    });
    GetObjectAttributesParts {
        is_truncated: Some(page.len() < numbered.len()),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: page.last().map(|(number, _)| i32::from(*number)),
        part_number_marker: Some(i32::from(after)),
        parts: Some(shown.collect()),
        total_parts_count: i32::try_from(parts.len()).ok(),
    }
}

impl S3Api {
    pub(super) async fn need_upload(&self, place: &Place, id: &str) -> S3Result<Upload> {
        let upload = self.backend().upload(place, id).await.map_err(from_backend)?;
        upload.ok_or_else(|| from_backend(BackendError::NoSuchUpload))
    }

    pub(super) async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        refuse_unsupported(&request.headers, request.input.storage_class.as_ref())?;
        let acl = self.new_object_acl(&request).await?;
        let place = request.place(&request.input.key)?;
        let initiator = request.scope()?.caller.arn.to_string();
        let asked = AskedLock {
            mode: request.input.object_lock_mode.clone(),
            until: request.input.object_lock_retain_until_date.clone(),
            hold: request.input.object_lock_legal_hold_status.clone(),
        };
        let bucket = std::sync::Arc::clone(request.bucket()?);
        let lock = self.asked_lock(&bucket, asked)?;
        let input = request.input;
        let (algorithm, coverage) = checksum_of_upload(&input)?;
        let scope = scope_of(&request.extensions)?;
        let asked = Asked::read(&request.headers, &scope.facts)?;
        let seals = self.new_seals(Scene { scope: &scope, bucket: &bucket, place: &place }, &asked).await?;
        let encryption = seals.as_ref().map(|seals| Box::new(seals.encryption.clone()));
        let meta = ObjectMeta { acl, encryption, ..object_meta(&request.headers, input.metadata)? };
        let new = NewUpload { meta, algorithm, coverage, initiator, lock };
        let upload = self.backend().create_upload(&place, new).await.map_err(from_backend)?;
        let abort = self.abortion(&bucket, &upload)?;
        let named = algorithm.map(|algorithm| ChecksumAlgorithm::from(algorithm.name().to_owned()));
        let output = CreateMultipartUploadOutput {
            abort_date: abort.date,
            abort_rule_id: abort.rule,
            bucket: Some(input.bucket),
            checksum_type: named.is_some().then(|| ChecksumType::from(coverage.name().to_owned())),
            checksum_algorithm: named,
            key: Some(input.key),
            upload_id: Some(upload.id),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, seals.map(|seals| seals.headers).unwrap_or_default()))
    }

    pub(super) async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        refuse_unsupported(&request.headers, None)?;
        let place = request.place(&request.input.key)?;
        let number = part_number(request.input.part_number)?;
        let body_state = request.body_state()?;
        let claimed = Claimed::read(&request.headers)?;
        let bucket = Arc::clone(request.bucket()?);
        let default_retention = self.default_retention(&bucket)?;
        let input = request.input;
        let size = input.content_length.and_then(|length| u64::try_from(length).ok());
        self.room(&bucket, size, 0).await?;
        let upload = self.need_upload(&place, &input.upload_id).await?;
        let lock = upload.new.lock;
        check_proof(&ObjectLock { retention: lock.retention.or(default_retention), ..lock }, &claimed, "Part")?;
        let keep = upload.algorithm();
        if let (Some(wanted), Some(given)) = (upload.new.algorithm, claimed.algorithm())
            && wanted != given
        {
            let message = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                wanted.name().to_ascii_lowercase(),
                given.name().to_ascii_lowercase()
            );
            return Err(invalid("InvalidRequest", message));
        }
        let scope = scope_of(&request.extensions)?;
        let scene = Scene { scope: &scope, bucket: &bucket, place: &place };
        let seals = self.part_seals(scene, &upload, &request.headers).await?;
        let algorithms = std::iter::once(keep).chain(claimed.algorithm().filter(|given| *given != keep)).collect();
        let verify = claimed.verify(keep, body_state);
        let new = NewPart { number, algorithms, verify, sealing: seals.as_ref().map(|seals| self.sealing(seals)) };
        let body = byte_stream(input.body);
        let part = self.backend().put_part(&place, &upload.id, body, new).await.map_err(from_backend)?;
        let sums = ChecksumFields::of(part.checksum.as_ref());
        let output = UploadPartOutput {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            e_tag: Some(etag(&part.etag)),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, seals.map(|seals| seals.headers).unwrap_or_default()))
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let place = request.place(&request.input.key)?;
        let versioning = self.versioning(request.bucket()?)?;
        let default_retention = self.default_retention(request.bucket()?)?;
        let (bucket, scope) = (Arc::clone(request.bucket()?), scope_of(&request.extensions)?);
        let upload = self.backend().upload(&place, &request.input.upload_id).await.map_err(from_backend)?;
        let scene = Scene { scope: request.scope()?, bucket: &bucket, place: &place };
        self.check_completion(scene, upload.as_ref(), &request.headers).await?;
        let given = CustomerKey::read(&request.headers, &request.scope()?.facts)?;
        let input = request.input;
        let parts = claimed_parts(input.multipart_upload)?;
        let checksum = given_checksum(
            input.checksum_crc32,
            input.checksum_crc32c,
            input.checksum_crc64nvme,
            input.checksum_sha1,
            input.checksum_sha256,
        );
        let coverage = input.checksum_type.map(|kind| {
            Coverage::parse(kind.as_str())
                .ok_or_else(|| invalid("InvalidRequest", "Value for x-amz-checksum-type header is invalid."))
        });
        let size = input
            .mpu_object_size
            .map(|size| u64::try_from(size).map_err(|_| invalid_argument("x-amz-mp-object-size must not be negative")));
        let mut notes = self.notes(&scope, &bucket, &place.key, &[Event::CompleteMultipartUpload])?;
        // None: a repetition, which makes nothing new.
        let meta = upload.as_ref().map(|upload| upload.new.meta.clone()).unwrap_or_default();
        let (replication, copies) = self.replication(&bucket, versioning, &place.key, &meta)?;
        notes.extend(copies);
        let complete = CompleteUpload {
            parts,
            condition: write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
            versioning,
            default_retention,
            checksum,
            coverage: coverage.transpose()?,
            size: size.transpose()?,
            replication,
            notes,
        };
        self.room(&bucket, None, 1).await?;
        let head = self.backend().complete_upload(&place, &input.upload_id, complete).await.map_err(from_backend)?;
        let sums = ChecksumFields::of(head.checksum.as_ref());
        let headers = shown(head.meta.encryption.as_deref(), given.as_ref());
        let output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            e_tag: Some(etag(&head.etag)),
            key: Some(input.key),
            expiration: self.expiration(&bucket, &place.key, &head)?,
            version_id: super::versions::written_version(versioning, &head.version),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let place = request.place(&request.input.key)?;
        self.backend().abort_upload(&place, &request.input.upload_id).await.map_err(from_backend)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let place = request.place(&request.input.key)?;
        let bucket = std::sync::Arc::clone(request.bucket()?);
        let account = bucket.account;
        let input = request.input;
        let upload = self.need_upload(&place, &input.upload_id).await?;
        let abort = self.abortion(&bucket, &upload)?;
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = part_marker(input.part_number_marker);
        let (parts, truncated) =
            self.backend().list_parts(&place, &upload.id, after, limit).await.map_err(from_backend)?;
        let next = parts.last().map(|part| i32::from(part.number));
        let shown = parts.into_iter().map(|part| {
            let sums = ChecksumFields::of(part.checksum.as_ref());
            Part {
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
                e_tag: Some(etag(&part.etag)),
                last_modified: Some(timestamp(part.modified)),
                part_number: Some(i32::from(part.number)),
                size: Some(size(part.size)),
            }
        });
        Ok(S3Response::new(ListPartsOutput {
            abort_date: abort.date,
            abort_rule_id: abort.rule,
            bucket: Some(input.bucket),
            checksum_algorithm: shown_algorithm(&upload),
            checksum_type: shown_coverage(&upload),
            initiator: Some(initiator(&upload)),
            is_truncated: Some(truncated),
            key: Some(input.key),
            max_parts: i32::try_from(limit).ok(),
            next_part_number_marker: next,
            owner: Some(owner(owner_of(&upload, account))),
            part_number_marker: Some(i32::from(after)),
            parts: Some(shown.collect()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(upload.id),
            ..Default::default()
        }))
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let bucket = request.bucket()?;
        let (bucket_id, account) = (bucket.id, bucket.account);
        let input = request.input;
        let encoding = Encoding::read(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_uploads, "max-uploads")?;
        let list = ListUploads {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            key_marker: input.key_marker.clone().unwrap_or_default(),
            id_marker: input.upload_id_marker.clone().unwrap_or_default(),
            limit,
        };
        let listing = if limit == 0 {
            crate::backend::UploadListing::default()
        } else {
            self.backend().list_uploads(bucket_id, list).await.map_err(from_backend)?
        };
        let (next_key, next_id) = match listing.entries.last().filter(|_| listing.truncated) {
            Some(UploadEntry::Upload(upload)) => (Some(encoding.text(&upload.key)), Some(upload.id.clone())),
            Some(UploadEntry::Prefix(prefix)) => (Some(encoding.text(prefix)), None),
            None => (None, None),
        };
        let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
        for entry in listing.entries {
            match entry {
                UploadEntry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.text(&prefix)) }),
                UploadEntry::Upload(upload) => uploads.push(MultipartUpload {
                    checksum_algorithm: shown_algorithm(&upload),
                    checksum_type: shown_coverage(&upload),
                    initiated: Some(timestamp(upload.initiated)),
                    initiator: Some(initiator(&upload)),
                    key: Some(encoding.text(&upload.key)),
                    owner: Some(owner(owner_of(&upload, account))),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    upload_id: Some(upload.id),
                }),
            }
        }
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(prefixes).filter(|prefixes| !prefixes.is_empty()),
            delimiter: encoding.optional(input.delimiter.as_deref()),
            encoding_type: input.encoding_type,
            is_truncated: Some(listing.truncated),
            key_marker: Some(encoding.text(input.key_marker.as_deref().unwrap_or_default())),
            max_uploads: i32::try_from(limit).ok(),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            upload_id_marker: input.upload_id_marker,
            uploads: Some(uploads),
            ..Default::default()
        }))
    }
}

/// Whose the object will be.
fn owner_of(upload: &Upload, bucket_owner: terroir_types::AccountId) -> terroir_types::AccountId {
    upload.new.meta.acl.as_ref().map_or(bucket_owner, |acl| acl.owner)
}

fn checksum_of_upload(input: &CreateMultipartUploadInput) -> S3Result<(Option<Algorithm>, Coverage)> {
    let refuse = |message: String| Err(invalid("InvalidRequest", message));
    let algorithm = match input.checksum_algorithm.as_ref() {
        None => None,
        Some(name) => match Algorithm::parse(name.as_str()) {
            Some(algorithm) => Some(algorithm),
            None => return refuse("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]".to_owned()),
        },
    };
    let coverage = match (input.checksum_type.as_ref(), algorithm) {
        (None, algorithm) => algorithm.unwrap_or(Algorithm::Crc64Nvme).default_coverage(),
        (Some(_), None) => {
            return refuse(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.".to_owned(),
            );
        }
        (Some(kind), Some(algorithm)) => match Coverage::parse(kind.as_str()) {
            Some(coverage) if algorithm.allows(coverage) => coverage,
            Some(coverage) => {
                let message = format!(
                    "The {} checksum type cannot be used with the {} checksum algorithm.",
                    coverage.name(),
                    algorithm.name().to_ascii_lowercase()
                );
                return refuse(message);
            }
            None => return refuse("Value for x-amz-checksum-type header is invalid.".to_owned()),
        },
    };
    Ok((algorithm, coverage))
}

fn claimed_parts(claimed: Option<CompletedMultipartUpload>) -> S3Result<Vec<ClaimedPart>> {
    let malformed = || {
        invalid(
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema",
        )
    };
    let parts = claimed.and_then(|claimed| claimed.parts).filter(|parts| !parts.is_empty()).ok_or_else(malformed)?;
    if parts.len() > usize::from(MAX_PARTS) {
        return Err(malformed());
    }
    let claimed = parts.into_iter().map(|part| {
        Ok(ClaimedPart {
            number: part_number(part.part_number.ok_or_else(malformed)?)?,
            etag: part.e_tag.ok_or_else(malformed)?.value().to_owned(),
            checksum: given_checksum(
                part.checksum_crc32,
                part.checksum_crc32c,
                part.checksum_crc64nvme,
                part.checksum_sha1,
                part.checksum_sha256,
            ),
        })
    });
    claimed.collect()
}

fn shown_algorithm(upload: &Upload) -> Option<ChecksumAlgorithm> {
    upload.new.algorithm.map(|algorithm| ChecksumAlgorithm::from(algorithm.name().to_owned()))
}

fn shown_coverage(upload: &Upload) -> Option<ChecksumType> {
    upload.new.algorithm.map(|_| ChecksumType::from(upload.new.coverage.name().to_owned()))
}

fn initiator(upload: &Upload) -> Initiator {
    Initiator { display_name: None, id: Some(upload.new.initiator.clone()) }
}
