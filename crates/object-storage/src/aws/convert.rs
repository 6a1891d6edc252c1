//! Between the API's shapes and the backend's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::S3Result;
use s3s::dto;
use std::time::{Duration, SystemTime};
use terroir_types::{AccountId, Error, Timestamp};

use super::body::BodyState;
use super::error::{invalid, invalid_argument, not_implemented};
use crate::acl::canonical_id;
use crate::backend::{ObjectMeta, StringMap, Verify, WriteCondition};
use crate::checksum::{Algorithm, Checksum, Digests};
use std::sync::Arc;

/// Headers of an object that are given back as they came.
pub(super) const KEPT_HEADERS: [&str; 7] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
];

const MAX_USER_METADATA: usize = 2048;
const MAX_TAGS: usize = 10;

pub(super) fn timestamp(at: Timestamp) -> dto::Timestamp {
    let millis = Duration::from_millis(at.millis().unsigned_abs());
    let time = if at.millis() < 0 { SystemTime::UNIX_EPOCH - millis } else { SystemTime::UNIX_EPOCH + millis };
    dto::Timestamp::from(time)
}

/// Whole milliseconds; what is more is dropped.
pub(super) fn moment(at: &dto::Timestamp) -> Timestamp {
    let nanos = time::OffsetDateTime::from(at.clone()).unix_timestamp_nanos();
    Timestamp::from_millis(i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX))
}

/// Seconds since 1970.
pub(super) fn seconds(at: &dto::Timestamp) -> i64 {
    time::OffsetDateTime::from(at.clone()).unix_timestamp()
}

pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn etag(value: &str) -> dto::ETag {
    dto::ETag::Strong(value.to_owned())
}

/// What stands for an account where S3 has canonical user ids.
pub(super) fn owner(account: AccountId) -> dto::Owner {
    dto::Owner { display_name: Some(account.to_string()), id: Some(canonical_id(account)) }
}

/// What the writer's headers say of the object. `user`: its `x-amz-meta-` headers.
pub(super) fn object_meta(headers: &HeaderMap, user: Option<dto::Metadata>) -> S3Result<ObjectMeta> {
    let mut meta = ObjectMeta::default();
    for name in KEPT_HEADERS {
        if let Some(value) = headers.get(name) {
            let text = value.to_str().map_err(|_| invalid_argument(format!("The header {name} is not printable")))?;
            if !text.is_empty() {
                meta.headers.insert(name.to_owned(), text.to_owned());
            }
        }
    }
    meta.headers.entry("content-type".to_owned()).or_insert_with(|| "binary/octet-stream".to_owned());
    meta.user = user.unwrap_or_default().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let bytes: usize = meta.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_USER_METADATA {
        let message = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(invalid("MetadataTooLarge", message));
    }
    if let Some(tags) = headers.get("x-amz-tagging") {
        let text = tags.to_str().map_err(|_| invalid_argument("The header 'x-amz-tagging' is not printable"))?;
        meta.tags = parse_tags(text)?;
    }
    Ok(meta)
}

/// `name=value&...`, percent-encoded.
pub(super) fn parse_tags(text: &str) -> S3Result<StringMap> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    let mut pairs = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Ok(name), Ok(value)) => pairs.push((name, value)),
            _ => {
                let message = "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.";
                return Err(invalid_argument(message));
            }
        }
    }
    check_tags(pairs)
}

/// # Errors
/// `InvalidTag`, `BadRequest` for too many.
pub(super) fn check_tags(pairs: Vec<(String, String)>) -> S3Result<StringMap> {
    if pairs.len() > MAX_TAGS {
        return Err(invalid("BadRequest", "Object tags cannot be greater than 10"));
    }
    let count = pairs.len();
    let mut tags = StringMap::new();
    for (name, value) in pairs {
        check_tag(&name, &value)?;
        tags.insert(name, value);
    }
    if tags.len() < count {
        return Err(invalid("InvalidTag", "Cannot provide multiple Tags with the same key"));
    }
    Ok(tags)
}

/// # Errors
/// `InvalidTag`.
pub(super) fn check_tag(name: &str, value: &str) -> S3Result<()> {
    let reserved = name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    if name.is_empty() || name.chars().count() > 128 {
        return Err(invalid("InvalidTag", "The TagKey you have provided is invalid"));
    }
    if reserved {
        return Err(invalid("InvalidTag", "System tags cannot be added/updated by requester"));
    }
    if value.chars().count() > 256 {
        return Err(invalid("InvalidTag", "The TagValue you have provided is invalid"));
    }
    Ok(())
}

/// `If-Match` and `If-None-Match` of a write.
pub(super) fn write_condition(
    if_match: Option<&dto::ETagCondition>,
    if_none_match: Option<&dto::ETagCondition>,
) -> S3Result<WriteCondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(WriteCondition::Always),
        (None, Some(dto::ETagCondition::Any)) => Ok(WriteCondition::Absent),
        (Some(dto::ETagCondition::Any), None) => Ok(WriteCondition::Present),
        (Some(dto::ETagCondition::ETag(etag)), None) => Ok(WriteCondition::Matches(etag.value().to_owned())),
        (None, Some(dto::ETagCondition::ETag(etag))) => Ok(WriteCondition::Differs(etag.value().to_owned())),
        (Some(_), Some(_)) => Err(not_implemented("If-Match together with If-None-Match")),
    }
}

/// Refuses what would otherwise be silently left undone.
pub(super) fn refuse_unsupported(headers: &HeaderMap, storage_class: Option<&dto::StorageClass>) -> S3Result<()> {
    if headers.contains_key("x-amz-write-offset-bytes") {
        return Err(not_implemented("appending to objects"));
    }
    if storage_class.is_some_and(|class| class.as_str() != dto::StorageClass::STANDARD) {
        return Err(invalid("InvalidStorageClass", "The storage class you specified is not valid: only STANDARD is"));
    }
    Ok(())
}

/// Digests that a client claims of a body of an object or part.
pub(super) struct Claimed {
    md5: Option<[u8; 16]>,
    algorithm: Option<Algorithm>,
    /// None: it comes in a trailer.
    value: Option<String>,
}

impl Claimed {
    /// # Errors
    /// `InvalidDigest`, `InvalidRequest`.
    pub(super) fn read(headers: &HeaderMap) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let md5 = text("content-md5").map(super::object::parse_md5).transpose()?;
        let in_headers: Vec<_> = Algorithm::ALL
            .into_iter()
            .filter_map(|algorithm| Some((algorithm, text(algorithm.header())?.to_owned())))
            .collect();
        let in_trailer = text("x-amz-trailer").and_then(|names| {
            Algorithm::ALL
                .into_iter()
                .find(|a| names.split(',').any(|name| name.trim().eq_ignore_ascii_case(a.header())))
        });
        if in_headers.len() + usize::from(in_trailer.is_some()) > 1 {
            let message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
            return Err(invalid("InvalidRequest", message));
        }
        if let Some((algorithm, value)) = in_headers.into_iter().next() {
            if !algorithm.is_value(&value) {
                let message = format!("Value for {} header is invalid.", algorithm.header());
                return Err(invalid("BadDigest", message));
            }
            return Ok(Self { md5, algorithm: Some(algorithm), value: Some(value) });
        }
        let named = text("x-amz-sdk-checksum-algorithm").map(|name| {
            let unknown = || invalid("InvalidRequest", "Checksum algorithm provided is unsupported.");
            Algorithm::parse(name).ok_or_else(unknown)
        });
        match in_trailer {
            Some(algorithm) => Ok(Self { md5, algorithm: Some(algorithm), value: None }),
            // Named without a value: it is computed, and nothing is compared.
            None => Ok(Self { md5, algorithm: named.transpose()?, value: Some(String::new()) }),
        }
    }

    /// Whether the client gave a digest of the bytes, here or in a trailer.
    pub(super) fn proves(&self) -> bool {
        self.md5.is_some() || (self.algorithm.is_some() && self.value.as_deref() != Some(""))
    }

    pub(super) const fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Compares what was claimed and keeps the checksum of `keep`.
    pub(super) fn verify(self, keep: Algorithm, body: Arc<BodyState>) -> Verify {
        Box::new(move |digests: &Digests| {
            if self.md5.is_some_and(|md5| md5 != digests.md5) {
                let message = "The Content-MD5 you specified did not match what we received.";
                return Err(Error::invalid("BadDigest", message));
            }
            if let Some(algorithm) = self.algorithm {
                let claimed = match self.value {
                    Some(value) => value,
                    None => body.trailer(algorithm.header()).ok_or_else(|| {
                        let message = format!("The trailing header {} is missing.", algorithm.header());
                        Error::invalid("MalformedTrailerError", message)
                    })?,
                };
                let computed = digests.checksum(algorithm);
                if !claimed.is_empty() && computed.is_none_or(|computed| computed.text != claimed) {
                    let message =
                        format!("The {} you specified did not match the calculated checksum.", algorithm.name());
                    return Err(Error::invalid("BadDigest", message));
                }
            }
            Ok(digests.checksum(keep))
        })
    }
}

/// As AWS: documents that decide what is kept must prove that they came whole. The body itself was compared already.
///
/// # Errors
/// `InvalidRequest`.
pub(super) fn need_digest(headers: &HeaderMap) -> S3Result<()> {
    if Claimed::read(headers)?.proves() {
        return Ok(());
    }
    Err(invalid("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"))
}

/// The five fields that a checksum may stand in, in several of the API's shapes.
#[derive(Default)]
pub(super) struct ChecksumFields {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub kind: Option<dto::ChecksumType>,
}

impl ChecksumFields {
    pub(super) fn of(checksum: Option<&Checksum>) -> Self {
        let mut fields = Self::default();
        let Some(checksum) = checksum else { return fields };
        let text = Some(checksum.text.clone());
        match checksum.algorithm {
            Algorithm::Crc32 => fields.crc32 = text,
            Algorithm::Crc32c => fields.crc32c = text,
            Algorithm::Crc64Nvme => fields.crc64nvme = text,
            Algorithm::Sha1 => fields.sha1 = text,
            Algorithm::Sha256 => fields.sha256 = text,
        }
        fields.kind = Some(dto::ChecksumType::from(checksum.coverage.name().to_owned()));
        fields
    }
}

/// The one that is given of the five.
pub(super) fn given_checksum(
    crc32: Option<String>,
    crc32c: Option<String>,
    crc64nvme: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
) -> Option<(Algorithm, String)> {
    [
        (Algorithm::Crc32, crc32),
        (Algorithm::Crc32c, crc32c),
        (Algorithm::Crc64Nvme, crc64nvme),
        (Algorithm::Sha1, sha1),
        (Algorithm::Sha256, sha256),
    ]
    .into_iter()
    .find_map(|(algorithm, text)| Some((algorithm, text?)))
}

/// The 16 bytes of a `Content-MD5`.
pub(super) fn md5_bytes(text: &str) -> Option<[u8; 16]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}
