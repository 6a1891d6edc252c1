//! Versions of objects: the bucket's switch, version ids in requests and answers, and the listing.

use http::header::{ALLOW, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result};

use terroir_action::Target;

use super::access::OfObject;
use super::convert::{etag, owner, size, timestamp};
use super::error::{
    from_backend, from_domain, invalid, invalid_argument, malformed_xml, method_not_allowed, not_implemented,
};
use super::listing::{Encoding, page_size};
use super::permissions::query_pairs;
use super::service::{S3Api, Scoped};
use crate::backend::{self, BackendError, ListVersions, Lookup, VersionEntry, VersionId, VersionListing, Versioning};
use crate::model::Bucket as BucketRecord;
use crate::versioning;

const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

/// Permissions that are others where a version is named. Source: as in `access`.
const OF_VERSIONS: [(&str, &str); 8] = [
    ("s3:GetObject", "s3:GetObjectVersion"),
    ("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"),
    ("s3:DeleteObject", "s3:DeleteObjectVersion"),
    ("s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
    ("s3:PutObjectTagging", "s3:PutObjectVersionTagging"),
    ("s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
    ("s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
    ("s3:PutObjectAcl", "s3:PutObjectVersionAcl"),
];

/// What must be allowed where a version is named, and the condition key that names it.
pub(super) fn permission_on_version(target: &mut Target, version: &str) {
    if let Some((_, of_version)) = OF_VERSIONS.iter().find(|(plain, _)| *plain == target.permission) {
        target.permission = (*of_version).to_owned();
    }
    target.keys.push(("s3:VersionId".to_owned(), vec![version.to_owned()]));
}

pub(super) fn name_version(targets: &mut [Target], uri: &Uri) {
    if let Some((_, version)) = query_pairs(uri).find(|(name, _)| name == "versionId") {
        targets.iter_mut().for_each(|target| permission_on_version(target, &version));
    }
}

/// The version that a copy is made of, as the request names it.
pub(super) fn source_version_text(headers: &HeaderMap) -> Option<String> {
    let source = headers.get("x-amz-copy-source").and_then(|value| value.to_str().ok())?;
    match CopySource::parse(source) {
        Ok(CopySource::Bucket { version_id, .. }) => version_id.map(|version| version.to_string()),
        _ => None,
    }
}

pub(super) fn name_source_version(targets: &mut [Target], headers: &HeaderMap) {
    if let Some(version) = source_version_text(headers) {
        targets.iter_mut().for_each(|target| permission_on_version(target, &version));
    }
}

/// The version that a request names.
///
/// # Errors
/// `InvalidArgument` if no version can have this name.
pub(super) fn asked_version(version: Option<&str>) -> S3Result<Option<VersionId>> {
    match version {
        None => Ok(None),
        Some("") => Err(invalid_argument("Version id cannot be the empty string")),
        Some(text) => match VersionId::parse(text) {
            Some(version) => Ok(Some(version)),
            None => Err(invalid_argument("Invalid version id specified")),
        },
    }
}

/// Without versioning nothing is said of versions.
pub(super) fn shown_version(versioning: Versioning, version: &VersionId) -> Option<String> {
    (versioning != Versioning::Off || !version.is_null()).then(|| version.to_string())
}

/// The same in the answer to a write, which says nothing of a version `null` either.
pub(super) fn written_version(versioning: Versioning, version: &VersionId) -> Option<String> {
    shown_version(versioning, version).filter(|_| !version.is_null())
}

/// Where the version that was named is a delete marker.
pub(super) fn is_delete_marker(marker: &backend::DeleteMarker) -> S3Error {
    let mut error = method_not_allowed();
    let mut headers = marker_headers(marker);
    headers.insert(ALLOW, HeaderValue::from_static("DELETE"));
    let mut text = Vec::new();
    if timestamp(marker.modified).format(TimestampFormat::HttpDate, &mut text).is_ok() {
        headers.extend(HeaderValue::from_bytes(&text).map(|value| (LAST_MODIFIED, value)));
    }
    error.set_headers(headers);
    error
}

fn marker_headers(marker: &backend::DeleteMarker) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([(DELETE_MARKER, HeaderValue::from_static("true"))]);
    headers.extend(HeaderValue::from_str(marker.version.as_str()).map(|value| (VERSION_ID, value)));
    headers
}

impl S3Api {
    /// At least as new as what the access hook has read.
    pub(super) fn versioning(&self, bucket: &BucketRecord) -> S3Result<Versioning> {
        versioning::versioning(&self.iam().store().stale(), bucket.id).map_err(from_domain)
    }

    /// What was found, or the error that says what was not.
    pub(super) async fn need<T, R: OfObject>(
        &self,
        request: &S3Request<T>,
        version: Option<&VersionId>,
        found: Lookup<R>,
    ) -> S3Result<R> {
        let marker = match found {
            Lookup::Found(object) => {
                request.found()?.covers(object.head())?;
                return Ok(object);
            }
            Lookup::Marker(marker) if version.is_some() && request.found()?.basis.is_none() => {
                return Err(is_delete_marker(&marker));
            }
            Lookup::Marker(marker) => Some(marker),
            Lookup::Missing => None,
        };
        let mut error = self.missing_key(request).await;
        if error.status_code() == Some(StatusCode::NOT_FOUND) {
            match marker {
                Some(marker) => error.set_headers(marker_headers(&marker)),
                None if version.is_some() => return Err(from_backend(BackendError::NoSuchVersion)),
                None => {}
            }
        }
        Err(error)
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let status = match self.versioning(request.bucket()?)? {
            Versioning::Off => None,
            Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        };
        let status = status.map(BucketVersioningStatus::from_static);
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let wanted = &request.input.versioning_configuration;
        match wanted.mfa_delete.as_ref().map(MFADelete::as_str) {
            None | Some(MFADelete::DISABLED) => {}
            Some(MFADelete::ENABLED) => return Err(not_implemented("MFA delete")),
            Some(_) => return Err(malformed_xml()),
        }
        let suspended = match wanted.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => false,
            Some(BucketVersioningStatus::SUSPENDED) => true,
            Some(_) => return Err(malformed_xml()),
            None => {
                let message = "The Versioning element must be specified";
                return Err(invalid("IllegalVersioningConfigurationException", message));
            }
        };
        let bucket = request.bucket()?;
        self.change_bucket(bucket, |txn, found| versioning::set_versioning(txn, found, suspended)).await?;
        Ok(S3Response::new(PutBucketVersioningOutput {}))
    }

    pub(super) async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let bucket = request.bucket()?;
        let input = &request.input;
        let encoding = Encoding::read(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let after = input.key_marker.clone().unwrap_or_default();
        let version = input.version_id_marker.as_deref().filter(|text| !text.is_empty());
        if version.is_some() && after.is_empty() {
            return Err(invalid_argument("A version-id marker cannot be specified without a key marker."));
        }
        let list = ListVersions {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            version: asked_version(version)?,
            limit,
            with_meta: false,
        };
        let listing = if limit == 0 {
            VersionListing::default()
        } else {
            self.backend().list_versions(bucket.id, list).await.map_err(from_backend)?
        };
        let owner = owner(bucket.account);
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for entry in listing.entries {
            match entry {
                VersionEntry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.text(&prefix)) }),
                VersionEntry::Version(listed) => match &listed.object {
                    Some(object) => versions.push(shown_object(&listed, object, &encoding, &owner)),
                    None => markers.push(shown_marker(&listed, &encoding, &owner)),
                },
            }
        }
        let (next_key, next_version) = listing.next.clone().unzip();
        Ok(S3Response::new(ListObjectVersionsOutput {
            common_prefixes: Some(prefixes).filter(|prefixes| !prefixes.is_empty()),
            delete_markers: Some(markers),
            delimiter: encoding.optional(input.delimiter.as_deref().filter(|text| !text.is_empty())),
            encoding_type: input.encoding_type.clone(),
            is_truncated: Some(listing.next.is_some()),
            key_marker: Some(encoding.text(input.key_marker.as_deref().unwrap_or_default())),
            max_keys: i32::try_from(limit).ok(),
            name: Some(bucket.name().to_owned()),
            next_key_marker: encoding.optional(next_key.as_deref()),
            next_version_id_marker: next_version.flatten().map(|version| version.to_string()),
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            version_id_marker: Some(input.version_id_marker.clone().unwrap_or_default()),
            versions: Some(versions),
            ..Default::default()
        }))
    }
}

fn shown_object(
    listed: &backend::ListedVersion,
    object: &backend::ListedBytes,
    encoding: &Encoding,
    owner: &Owner,
) -> ObjectVersion {
    let checksum = object.checksum.as_ref();
    ObjectVersion {
        checksum_algorithm: checksum
            .map(|checksum| vec![ChecksumAlgorithm::from(checksum.algorithm.name().to_owned())]),
        checksum_type: checksum.map(|checksum| ChecksumType::from(checksum.coverage.name().to_owned())),
        e_tag: Some(etag(&object.etag)),
        is_latest: Some(listed.latest),
        key: Some(encoding.text(&listed.key)),
        last_modified: Some(timestamp(listed.modified)),
        owner: Some(owner.clone()),
        size: Some(size(object.size)),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        version_id: Some(listed.version.to_string()),
        ..Default::default()
    }
}

fn shown_marker(listed: &backend::ListedVersion, encoding: &Encoding, owner: &Owner) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(listed.latest),
        key: Some(encoding.text(&listed.key)),
        last_modified: Some(timestamp(listed.modified)),
        owner: Some(owner.clone()),
        version_id: Some(listed.version.to_string()),
    }
}
