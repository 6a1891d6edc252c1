//! Which permissions each operation needs, on what; and whose bucket it is.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::access::{S3Access, S3AccessContext};
use s3s::path::S3Path;
use s3s::{S3Error, S3Result};
use std::sync::Arc;
use terroir_action::Target;
use terroir_types::Arn;

use super::error::{access_denied, from_domain, invalid_argument, no_such_bucket};
use super::front::RequestScope;
use super::service::S3Api;
use crate::model::Bucket;

/// Where an operation's permission is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Service,
    Bucket,
    Object,
    /// Asked in the operation itself, per key.
    Later,
}

/// Operations and their permissions. Source: "Actions, resources, and condition keys for Amazon S3" of the service
/// authorization reference. Operations that are not here need `s3:` and their own name.
const PERMISSIONS: &[(&str, On, &[&str])] = &[
    ("ListBuckets", On::Service, &["s3:ListAllMyBuckets"]),
    ("CreateBucket", On::Bucket, &["s3:CreateBucket"]),
    ("DeleteBucket", On::Bucket, &["s3:DeleteBucket"]),
    ("HeadBucket", On::Bucket, &["s3:ListBucket"]),
    ("GetBucketLocation", On::Bucket, &["s3:GetBucketLocation"]),
    ("ListObjects", On::Bucket, &["s3:ListBucket"]),
    ("ListObjectsV2", On::Bucket, &["s3:ListBucket"]),
    ("ListObjectVersions", On::Bucket, &["s3:ListBucketVersions"]),
    ("ListMultipartUploads", On::Bucket, &["s3:ListBucketMultipartUploads"]),
    ("DeleteObjects", On::Later, &["s3:DeleteObject"]),
    ("GetObject", On::Object, &["s3:GetObject"]),
    ("HeadObject", On::Object, &["s3:GetObject"]),
    ("GetObjectAttributes", On::Object, &["s3:GetObject", "s3:GetObjectAttributes"]),
    ("PutObject", On::Object, &["s3:PutObject"]),
    ("CopyObject", On::Object, &["s3:PutObject"]),
    ("DeleteObject", On::Object, &["s3:DeleteObject"]),
    ("CreateMultipartUpload", On::Object, &["s3:PutObject"]),
    ("UploadPart", On::Object, &["s3:PutObject"]),
    ("UploadPartCopy", On::Object, &["s3:PutObject"]),
    ("CompleteMultipartUpload", On::Object, &["s3:PutObject"]),
    ("AbortMultipartUpload", On::Object, &["s3:AbortMultipartUpload"]),
    ("ListParts", On::Object, &["s3:ListMultipartUploadParts"]),
    ("GetBucketLifecycleConfiguration", On::Bucket, &["s3:GetLifecycleConfiguration"]),
    ("PutBucketLifecycleConfiguration", On::Bucket, &["s3:PutLifecycleConfiguration"]),
    ("DeleteBucketLifecycle", On::Bucket, &["s3:PutLifecycleConfiguration"]),
    ("GetBucketEncryption", On::Bucket, &["s3:GetEncryptionConfiguration"]),
    ("PutBucketEncryption", On::Bucket, &["s3:PutEncryptionConfiguration"]),
    ("GetBucketReplication", On::Bucket, &["s3:GetReplicationConfiguration"]),
    ("DeleteBucketEncryption", On::Bucket, &["s3:PutEncryptionConfiguration"]),
    ("PutBucketReplication", On::Bucket, &["s3:PutReplicationConfiguration"]),
    ("DeleteBucketReplication", On::Bucket, &["s3:PutReplicationConfiguration"]),
    ("GetObjectLockConfiguration", On::Bucket, &["s3:GetBucketObjectLockConfiguration"]),
    ("PutObjectLockConfiguration", On::Bucket, &["s3:PutBucketObjectLockConfiguration"]),
    ("GetPublicAccessBlock", On::Bucket, &["s3:GetBucketPublicAccessBlock"]),
    ("PutPublicAccessBlock", On::Bucket, &["s3:PutBucketPublicAccessBlock"]),
    ("DeletePublicAccessBlock", On::Bucket, &["s3:PutBucketPublicAccessBlock"]),
    ("DeleteBucketOwnershipControls", On::Bucket, &["s3:PutBucketOwnershipControls"]),
    ("GetBucketCors", On::Bucket, &["s3:GetBucketCORS"]),
    ("PutBucketCors", On::Bucket, &["s3:PutBucketCORS"]),
    ("DeleteBucketCors", On::Bucket, &["s3:PutBucketCORS"]),
    ("DeleteBucketTagging", On::Bucket, &["s3:PutBucketTagging"]),
    ("GetBucketNotificationConfiguration", On::Bucket, &["s3:GetBucketNotification"]),
    ("PutBucketNotificationConfiguration", On::Bucket, &["s3:PutBucketNotification"]),
    ("GetBucketAccelerateConfiguration", On::Bucket, &["s3:GetAccelerateConfiguration"]),
    ("PutBucketAccelerateConfiguration", On::Bucket, &["s3:PutAccelerateConfiguration"]),
    ("ListBucketAnalyticsConfigurations", On::Bucket, &["s3:GetAnalyticsConfiguration"]),
    ("ListBucketInventoryConfigurations", On::Bucket, &["s3:GetInventoryConfiguration"]),
    ("ListBucketMetricsConfigurations", On::Bucket, &["s3:GetMetricsConfiguration"]),
    ("ListBucketIntelligentTieringConfigurations", On::Bucket, &["s3:GetIntelligentTieringConfiguration"]),
];

/// A bucket that the request names, found and the caller's own.
#[derive(Clone)]
pub(super) struct OwnBucket(pub Arc<Bucket>);

pub(super) struct Access(S3Api);

impl Access {
    pub(super) fn new(api: S3Api) -> Self {
        Self(api)
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(scope) = cx.extensions_mut().get::<Arc<RequestScope>>().cloned() else {
            return Err(access_denied());
        };
        let operation = cx.s3_op().name().to_owned();
        let bucket = cx.s3_path().get_bucket_name().map(str::to_owned);
        let key = cx.s3_path().get_object_key().map(str::to_owned);
        // Set once: this is called once per request.
        let _ = scope.operation.set((operation.clone(), bucket.clone(), key));
        let targets = targets(&operation, cx)?;
        self.0.iam().authorize(&scope.caller, &targets, &scope.facts).await.map_err(from_domain)?;
        if let Some(name) = bucket.filter(|_| operation != "CreateBucket") {
            let bucket = self.0.own_bucket(&scope.caller, &name).await?;
            check_expected_owner(cx.headers(), "x-amz-expected-bucket-owner", &bucket)?;
            cx.extensions_mut().insert(OwnBucket(bucket));
        }
        Ok(())
    }
}

pub(super) fn check_expected_owner(headers: &HeaderMap, name: &str, bucket: &Bucket) -> S3Result<()> {
    match headers.get(name) {
        Some(owner) if owner.as_bytes() != bucket.account.to_string().as_bytes() => Err(access_denied()),
        _ => Ok(()),
    }
}

impl S3Api {
    /// # Errors
    /// `NoSuchBucket`; `AccessDenied` if it is another account's.
    pub(super) async fn own_bucket(&self, caller: &terroir_action::Caller, name: &str) -> S3Result<Arc<Bucket>> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let bucket = crate::ops::find_bucket(&txn, name).map_err(from_domain)?.ok_or_else(no_such_bucket)?;
        if bucket.account == caller.account { Ok(bucket) } else { Err(access_denied()) }
    }
}

fn targets(operation: &str, cx: &S3AccessContext<'_>) -> Result<Vec<Target>, S3Error> {
    let own = format!("s3:{operation}");
    let fallback = [own.as_str()];
    let default_place = if cx.s3_path().as_object().is_some() { On::Object } else { On::Bucket };
    let (on, permissions) = PERMISSIONS
        .iter()
        .find(|(name, ..)| *name == operation)
        .map_or((default_place, &fallback[..]), |(_, on, permissions)| (*on, *permissions));
    let resource = match (on, cx.s3_path()) {
        (On::Later, _) => return Ok(Vec::new()),
        (On::Service, _) | (_, S3Path::Root) => None,
        (On::Bucket, S3Path::Bucket { bucket } | S3Path::Object { bucket, .. })
        | (On::Object, S3Path::Bucket { bucket }) => Some(Arn::s3(bucket)),
        (On::Object, S3Path::Object { bucket, key }) => Some(Arn::s3(format_args!("{bucket}/{key}"))),
    };
    let target = |permission: &&str| Target { resource: resource.clone(), ..Target::any(*permission) };
    let mut targets: Vec<Target> = permissions.iter().map(target).collect();
    super::versions::name_version(&mut targets, cx.uri());
    for target in &mut targets {
        add_keys(target, operation, cx);
    }
    let headers = cx.headers();
    if headers.contains_key("x-amz-tagging") {
        targets.push(Target { resource: resource.clone(), ..Target::any("s3:PutObjectTagging") });
    }
    if matches!(operation, "CopyObject" | "UploadPartCopy") {
        let (bucket, key) = copy_source(headers)?;
        let mut source = [Target::on("s3:GetObject", Arn::s3(format_args!("{bucket}/{key}")))];
        super::versions::name_source_version(&mut source, headers);
        targets.extend(source);
    }
    Ok(targets)
}

/// The condition keys that listings have.
fn add_keys(target: &mut Target, operation: &str, cx: &S3AccessContext<'_>) {
    if !operation.starts_with("List") || cx.s3_path().as_bucket().is_none() {
        return;
    }
    for (name, value) in query_pairs(cx.uri()) {
        if matches!(&*name, "prefix" | "delimiter" | "max-keys") {
            target.keys.push((format!("s3:{name}"), vec![value]));
        }
    }
}

/// Names and values of the query, decoded: an encoded name is still that name.
pub(super) fn query_pairs(uri: &http::Uri) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    uri.query().unwrap_or_default().split('&').map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Bucket and key in `x-amz-copy-source`.
pub(super) fn copy_source(headers: &HeaderMap) -> S3Result<(String, String)> {
    let value = headers.get("x-amz-copy-source").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match s3s::dto::CopySource::parse(value) {
        Ok(s3s::dto::CopySource::Bucket { bucket, key, .. }) => Ok((bucket.into(), key.into())),
        _ => Err(invalid_argument("Copy Source must mention the source bucket and key: sourcebucket/sourcekey")),
    }
}
