//! Lists of objects.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::convert::{etag, size, timestamp};
use super::error::{from_backend, invalid_argument};
use super::service::{S3Api, Scoped};
use crate::backend::{List, ListEntry, ListedObject, Listing};

pub(super) const PAGE: i32 = 1000;

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A name as `encoding-type=url` wants it.
pub(super) struct Encoding(bool);

impl Encoding {
    pub(super) fn read(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some(EncodingType::URL) => Ok(Self(true)),
            Some(_) => Err(invalid_argument("Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        if self.0 { utf8_percent_encode(name, KEPT).to_string() } else { name.to_owned() }
    }

    pub(super) fn optional(&self, name: Option<&str>) -> Option<String> {
        name.map(|name| self.text(name))
    }
}

/// A token that begins behind `name`. Nothing in it is secret: whoever may list may begin anywhere.
pub(super) fn write_token(name: &str) -> String {
    format!("1{}", URL_SAFE_NO_PAD.encode(name))
}

pub(super) fn read_token(token: &str) -> S3Result<String> {
    let read = || String::from_utf8(URL_SAFE_NO_PAD.decode(token.strip_prefix('1')?).ok()?).ok();
    read().ok_or_else(|| invalid_argument("The continuation token provided is incorrect"))
}

/// At most 1,000; asking for more is no error.
pub(super) fn page_size(asked: Option<i32>, name: &str) -> S3Result<usize> {
    usize::try_from(asked.unwrap_or(PAGE).min(PAGE))
        .map_err(|_| invalid_argument(format!("Argument {name} must be an integer between 0 and 2147483647")))
}

fn contents(listing: &Listing, encoding: &Encoding, owner: Option<&Owner>) -> ObjectList {
    let object = |listed: &ListedObject| Object {
        checksum_algorithm: listed
            .checksum
            .as_ref()
            .map(|checksum| vec![ChecksumAlgorithm::from(checksum.algorithm.name().to_owned())]),
        checksum_type: listed.checksum.as_ref().map(|checksum| ChecksumType::from(checksum.coverage.name().to_owned())),
        e_tag: Some(etag(&listed.etag)),
        key: Some(encoding.text(&listed.key)),
        last_modified: Some(timestamp(listed.modified)),
        owner: owner.cloned(),
        size: Some(size(listed.size)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    };
    let objects = listing.entries.iter().filter_map(|entry| match entry {
        ListEntry::Object(listed) => Some(object(listed)),
        ListEntry::Prefix(_) => None,
    });
    objects.collect()
}

fn common_prefixes(listing: &Listing, encoding: &Encoding) -> Option<CommonPrefixList> {
    let prefixes: CommonPrefixList = listing
        .entries
        .iter()
        .filter_map(|entry| match entry {
            ListEntry::Prefix(prefix) => Some(CommonPrefix { prefix: Some(encoding.text(prefix)) }),
            ListEntry::Object(_) => None,
        })
        .collect();
    Some(prefixes).filter(|prefixes| !prefixes.is_empty())
}

impl S3Api {
    pub(super) async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let bucket = request.bucket()?;
        let input = &request.input;
        let encoding = Encoding::read(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let list = List {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after: input.marker.clone().unwrap_or_default(),
            limit,
        };
        let listing = self.list_page(bucket.id, list).await?;
        let last = listing.entries.last().map(ListEntry::name);
        // Without a delimiter the last key says it already.
        let next = last.filter(|_| listing.truncated && input.delimiter.is_some());
        Ok(S3Response::new(ListObjectsOutput {
            common_prefixes: common_prefixes(&listing, &encoding),
            contents: Some(contents(&listing, &encoding, Some(&super::object::bucket_owner(bucket)))),
            delimiter: encoding.optional(input.delimiter.as_deref().filter(|text| !text.is_empty())),
            encoding_type: input.encoding_type.clone(),
            is_truncated: Some(listing.truncated),
            marker: Some(encoding.text(input.marker.as_deref().unwrap_or_default())),
            max_keys: i32::try_from(limit).ok(),
            name: Some(bucket.name().to_owned()),
            next_marker: encoding.optional(next),
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            ..Default::default()
        }))
    }

    pub(super) async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket = request.bucket()?;
        let input = &request.input;
        let encoding = Encoding::read(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let after = match input.continuation_token.as_deref().filter(|token| !token.is_empty()) {
            Some(token) => read_token(token)?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let list = List {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            limit,
        };
        let listing = self.list_page(bucket.id, list).await?;
        let next = listing.entries.last().filter(|_| listing.truncated).map(|last| write_token(last.name()));
        let owner = super::object::bucket_owner(bucket);
        Ok(S3Response::new(ListObjectsV2Output {
            common_prefixes: common_prefixes(&listing, &encoding),
            contents: Some(contents(&listing, &encoding, Some(&owner).filter(|_| input.fetch_owner == Some(true)))),
            continuation_token: input.continuation_token.clone(),
            delimiter: encoding.optional(input.delimiter.as_deref().filter(|text| !text.is_empty())),
            encoding_type: input.encoding_type.clone(),
            is_truncated: Some(listing.truncated),
            key_count: i32::try_from(listing.entries.len()).ok(),
            max_keys: i32::try_from(limit).ok(),
            name: Some(bucket.name().to_owned()),
            next_continuation_token: next,
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            start_after: encoding.optional(input.start_after.as_deref()),
            ..Default::default()
        }))
    }

    /// A page of nothing is not cut off, whatever there is.
    async fn list_page(&self, bucket: crate::backend::BucketId, list: List) -> S3Result<Listing> {
        if list.limit == 0 {
            return Ok(Listing::default());
        }
        self.backend().list(bucket, list).await.map_err(from_backend)
    }
}
