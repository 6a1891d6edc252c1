//! Lifecycle rules as clients write them, and what reads say of an object's end.

use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result};
use std::collections::BTreeSet;

use super::convert::{moment, need_digest, timestamp};
use super::error::{from_domain, invalid, invalid_argument, malformed_xml, not_implemented, s3};
use super::service::{S3Api, Scoped};
use crate::backend::{ObjectHead, StringMap, Upload, VersionId};
use crate::lifecycle::{Expiration, Facts, Filter, FilterForm, LifecycleRules, NoncurrentExpiration, Rule, set_rules};
use crate::model::Bucket as BucketRecord;
use crate::settings;

const MAX_RULES: usize = 1000;
const MAX_ID: usize = 255;
const MAX_PREFIX: usize = 1024;
const MAX_KEPT_VERSIONS: u32 = 100;
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// Nothing moves to other storage classes, so that this says nothing; clients wait for it to be what they wrote.
const MINIMUM_SIZE: &str = TransitionDefaultMinimumObjectSize::ALL_STORAGE_CLASSES_128K;

fn refused(message: &str) -> S3Error {
    invalid("InvalidRequest", message)
}

/// When an upload is aborted by itself, and by which rule.
#[derive(Default)]
pub(super) struct Abortion {
    pub date: Option<Timestamp>,
    pub rule: Option<String>,
}

impl S3Api {
    pub(super) fn abortion(&self, bucket: &BucketRecord, upload: &Upload) -> S3Result<Abortion> {
        let txn = self.iam().store().stale();
        let Some(rules) = settings::peek_shared::<LifecycleRules>(&txn, bucket.id).map_err(from_domain)? else {
            return Ok(Abortion::default());
        };
        let abortion = rules.abortion(&upload.key, upload.initiated, self.lifecycle_day());
        Ok(abortion.map_or_else(Abortion::default, |(at, id)| Abortion {
            date: Some(timestamp(at)),
            rule: Some(id.to_owned()),
        }))
    }

    /// The header that says when an object ends and by which rule.
    pub(super) fn expiration(&self, bucket: &BucketRecord, key: &str, head: &ObjectHead) -> S3Result<Option<String>> {
        let txn = self.iam().store().stale();
        let Some(rules) = settings::peek_shared::<LifecycleRules>(&txn, bucket.id).map_err(from_domain)? else {
            return Ok(None);
        };
        let facts = Facts { key, modified: head.modified, bytes: Some((head.size, &head.meta.tags)) };
        Ok(rules.expiry(facts, self.lifecycle_day()).map(|(at, id)| {
            let mut date = Vec::new();
            // Any moment can be written so.
            let _ = timestamp(at).format(TimestampFormat::HttpDate, &mut date);
            let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
            format!("expiry-date=\"{}\", rule-id=\"{id}\"", String::from_utf8_lossy(&date))
        }))
    }

    /// The same for a read, which says it of the object only and not of a version that it names.
    pub(super) fn expiration_unless<T>(
        &self,
        named: Option<&VersionId>,
        request: &S3Request<T>,
        key: &str,
        head: &ObjectHead,
    ) -> S3Result<Option<String>> {
        if named.is_some() { Ok(None) } else { self.expiration(request.bucket()?, key, head) }
    }

    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let txn = self.iam().store().stale();
        let found = settings::peek_shared::<LifecycleRules>(&txn, request.bucket()?.id).map_err(from_domain)?;
        let rules = found.ok_or_else(|| {
            let message = "The lifecycle configuration does not exist";
            s3("NoSuchLifecycleConfiguration", StatusCode::NOT_FOUND, message)
        })?;
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules: Some(rules.rules.iter().map(shown_rule).collect()),
            transition_default_minimum_object_size: Some(TransitionDefaultMinimumObjectSize::from_static(MINIMUM_SIZE)),
        }))
    }

    pub(super) async fn put_bucket_lifecycle_configuration(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        need_digest(&request.headers)?;
        let document = request.input.lifecycle_configuration.as_ref().ok_or_else(malformed_xml)?;
        let rules = read_rules(&document.rules, || format!("{:032x}", self.ids().next_u128()))?;
        self.set_lifecycle(request.bucket()?, Some(&rules)).await?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput {
            transition_default_minimum_object_size: Some(TransitionDefaultMinimumObjectSize::from_static(MINIMUM_SIZE)),
        }))
    }

    pub(super) async fn delete_bucket_lifecycle(
        &self,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        self.set_lifecycle(request.bucket()?, None).await?;
        Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
    }

    async fn set_lifecycle(&self, bucket: &BucketRecord, rules: Option<&LifecycleRules>) -> S3Result<()> {
        self.change_bucket(bucket, |txn, found| set_rules(txn, found, rules)).await
    }
}

/// Source: "PutBucketLifecycleConfiguration" of the S3 API reference, and what AWS answers.
fn read_rules(rules: &[LifecycleRule], new_id: impl Fn() -> String) -> S3Result<LifecycleRules> {
    if rules.is_empty() || rules.len() > MAX_RULES {
        return Err(malformed_xml());
    }
    let mut ids = BTreeSet::new();
    let mut read = Vec::with_capacity(rules.len());
    for rule in rules {
        let id = rule.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(&new_id);
        if id.chars().count() > MAX_ID {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        if !ids.insert(id.clone()) {
            return Err(invalid_argument("Rule ID must be unique. Found same ID for more than one rule"));
        }
        read.push(read_rule(rule, id)?);
    }
    Ok(LifecycleRules { rules: read })
}

fn read_rule(rule: &LifecycleRule, id: String) -> S3Result<Rule> {
    let enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed_xml()),
    };
    let transitions = rule.transitions.as_ref().is_some_and(|list| !list.is_empty());
    let noncurrent_transitions = rule.noncurrent_version_transitions.as_ref().is_some_and(|list| !list.is_empty());
    let dates = rule.transitions.iter().flatten().filter_map(|transition| transition.date.as_ref());
    if dates.into_iter().any(|date| !is_midnight(moment(date))) {
        return Err(not_at_midnight());
    }
    if transitions || noncurrent_transitions {
        return Err(not_implemented("transitions to other storage classes"));
    }
    let filter = read_filter(rule)?;
    let expiration = rule.expiration.as_ref().map(read_expiration).transpose()?;
    let noncurrent = rule.noncurrent_version_expiration.as_ref().map(read_noncurrent).transpose()?;
    let abort_uploads = match &rule.abort_incomplete_multipart_upload {
        None => None,
        Some(abort) => {
            let days = abort.days_after_initiation.ok_or_else(malformed_xml)?;
            let message = "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive integer";
            Some(positive(days).ok_or_else(|| invalid_argument(message))?)
        }
    };
    if expiration.is_none() && noncurrent.is_none() && abort_uploads.is_none() {
        return Err(refused("At least one action needs to be specified in a rule"));
    }
    if abort_uploads.is_some() && !filter.tags.is_empty() {
        return Err(refused("AbortIncompleteMultipartUpload cannot be specified with Tags."));
    }
    if abort_uploads.is_some() && filter.asks_for_bytes() {
        return Err(refused("AbortIncompleteMultipartUpload cannot be specified with Object Size."));
    }
    if matches!(expiration, Some(Expiration::DeleteMarkers(_))) && !filter.tags.is_empty() {
        return Err(refused("ExpiredObjectDeleteMarker cannot be specified with Tags."));
    }
    if matches!(expiration, Some(Expiration::DeleteMarkers(_))) && filter.asks_for_bytes() {
        return Err(refused("ExpiredObjectDeleteMarker cannot be specified with Object Size."));
    }
    Ok(Rule { id, enabled, filter, expiration, noncurrent, abort_uploads })
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn read_expiration(expiration: &LifecycleExpiration) -> S3Result<Expiration> {
    match (expiration.days, &expiration.date, expiration.expired_object_delete_marker) {
        (Some(days), None, None) => positive(days)
            .map(Expiration::Days)
            .ok_or_else(|| invalid_argument("'Days' for Expiration action must be a positive integer")),
        (None, Some(date), None) => {
            let date = moment(date);
            if !is_midnight(date) {
                return Err(not_at_midnight());
            }
            Ok(Expiration::Date(date))
        }
        (None, None, Some(removes)) => Ok(Expiration::DeleteMarkers(removes)),
        _ => Err(malformed_xml()),
    }
}

fn read_noncurrent(noncurrent: &NoncurrentVersionExpiration) -> S3Result<NoncurrentExpiration> {
    let days = noncurrent.noncurrent_days.ok_or_else(malformed_xml)?;
    let message = "'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer";
    let days = positive(days).ok_or_else(|| invalid_argument(message))?;
    let keep = noncurrent.newer_noncurrent_versions.map(|keep| {
        let message = "'NewerNoncurrentVersions' for NoncurrentVersionExpiration action must be between 1 and 100";
        positive(keep).filter(|keep| *keep <= MAX_KEPT_VERSIONS).ok_or_else(|| invalid_argument(message))
    });
    Ok(NoncurrentExpiration { days, keep: keep.transpose()? })
}

fn read_filter(rule: &LifecycleRule) -> S3Result<Filter> {
    let filter = match (&rule.prefix, &rule.filter) {
        (Some(_), Some(_)) | (None, None) => return Err(malformed_xml()),
        (Some(prefix), None) => Filter { form: FilterForm::Prefix, prefix: Some(prefix.clone()), ..Filter::default() },
        (None, Some(filter)) => read_filter_element(filter)?,
    };
    if filter.prefix.as_ref().is_some_and(|prefix| prefix.len() > MAX_PREFIX) {
        return Err(refused("The maximum size of a prefix is 1024."));
    }
    if let (Some(larger), Some(smaller)) = (filter.larger_than, filter.smaller_than)
        && smaller <= larger
    {
        return Err(refused("'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'."));
    }
    Ok(filter)
}

fn read_filter_element(filter: &LifecycleRuleFilter) -> S3Result<Filter> {
    let size = |bytes: Option<i64>| bytes.map(|bytes| u64::try_from(bytes).map_err(|_| malformed_xml())).transpose();
    let alone = usize::from(filter.prefix.is_some())
        + usize::from(filter.tag.is_some())
        + usize::from(filter.object_size_greater_than.is_some())
        + usize::from(filter.object_size_less_than.is_some());
    let Some(and) = &filter.and else {
        if alone > 1 {
            return Err(malformed_xml());
        }
        return Ok(Filter {
            form: FilterForm::Single,
            prefix: filter.prefix.clone(),
            tags: read_tags(filter.tag.as_slice())?,
            larger_than: size(filter.object_size_greater_than)?,
            smaller_than: size(filter.object_size_less_than)?,
        });
    };
    let tags = and.tags.as_deref().unwrap_or_default();
    let together = usize::from(and.prefix.is_some())
        + tags.len()
        + usize::from(and.object_size_greater_than.is_some())
        + usize::from(and.object_size_less_than.is_some());
    if alone > 0 || together < 2 {
        return Err(malformed_xml());
    }
    Ok(Filter {
        form: FilterForm::And,
        prefix: and.prefix.clone(),
        tags: read_tags(tags)?,
        larger_than: size(and.object_size_greater_than)?,
        smaller_than: size(and.object_size_less_than)?,
    })
}

fn read_tags(tags: &[Tag]) -> S3Result<StringMap> {
    let mut read = StringMap::new();
    for tag in tags {
        let (Some(key), Some(value)) = (tag.key.clone(), tag.value.clone()) else { return Err(malformed_xml()) };
        if key.is_empty() || key.chars().count() > 128 {
            return Err(invalid("InvalidTag", "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > 256 {
            return Err(invalid("InvalidTag", "The TagValue you have provided is invalid"));
        }
        if read.insert(key, value).is_some() {
            return Err(refused("Duplicate Tag Keys are not allowed."));
        }
    }
    Ok(read)
}

fn shown_rule(rule: &Rule) -> LifecycleRule {
    let days = |days: u32| i32::try_from(days).ok();
    let status = if rule.enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let expiration = rule.expiration.map(|expiration| match expiration {
        Expiration::Days(number) => LifecycleExpiration { days: days(number), ..Default::default() },
        Expiration::Date(date) => LifecycleExpiration { date: Some(timestamp(date)), ..Default::default() },
        Expiration::DeleteMarkers(removes) => {
            LifecycleExpiration { expired_object_delete_marker: Some(removes), ..Default::default() }
        }
    });
    let noncurrent = rule.noncurrent.map(|noncurrent| NoncurrentVersionExpiration {
        newer_noncurrent_versions: noncurrent.keep.and_then(days),
        noncurrent_days: days(noncurrent.days),
    });
    let (prefix, filter) = shown_filter(&rule.filter);
    LifecycleRule {
        abort_incomplete_multipart_upload: rule
            .abort_uploads
            .map(|number| AbortIncompleteMultipartUpload { days_after_initiation: days(number) }),
        expiration,
        filter,
        id: Some(rule.id.clone()),
        noncurrent_version_expiration: noncurrent,
        noncurrent_version_transitions: None,
        prefix,
        status: ExpirationStatus::from_static(status),
        transitions: None,
    }
}

fn shown_filter(filter: &Filter) -> (Option<String>, Option<LifecycleRuleFilter>) {
    let size = |bytes: Option<u64>| bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let (larger, smaller) = (size(filter.larger_than), size(filter.smaller_than));
    let mut tags = filter.tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) });
    match filter.form {
        FilterForm::Prefix => (filter.prefix.clone(), None),
        FilterForm::Single => {
            let shown = LifecycleRuleFilter {
                object_size_greater_than: larger,
                object_size_less_than: smaller,
                prefix: filter.prefix.clone(),
                tag: tags.next(),
                ..Default::default()
            };
            (None, Some(shown))
        }
        FilterForm::And => {
            let tags: Vec<_> = tags.collect();
            let and = LifecycleRuleAndOperator {
                object_size_greater_than: larger,
                object_size_less_than: smaller,
                prefix: filter.prefix.clone(),
                tags: Some(tags).filter(|tags| !tags.is_empty()),
            };
            (None, Some(LifecycleRuleFilter { and: Some(and), ..Default::default() }))
        }
    }
}

fn is_midnight(date: terroir_types::Timestamp) -> bool {
    date.millis().rem_euclid(DAY_MILLIS) == 0
}

fn not_at_midnight() -> S3Error {
    invalid_argument("'Date' must be at midnight GMT")
}
