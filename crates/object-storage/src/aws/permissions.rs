//! What each operation needs: permissions, on what, and the condition keys that say more of the request.

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use s3s::S3Result;
use s3s::access::S3AccessContext;
use s3s::path::S3Path;
use terroir_action::Target;
use terroir_types::Arn;

use super::error::invalid_argument;
use super::front::RequestScope;
use crate::acl::Permission;

/// Where an operation's permission is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Service,
    Bucket,
    Object,
    /// Asked in the operation itself, which knows what stands in the document.
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
    ("PutObjectTagging", On::Later, &["s3:PutObjectTagging"]),
    ("PutObjectRetention", On::Later, &["s3:PutObjectRetention"]),
    ("PutObjectLegalHold", On::Later, &["s3:PutObjectLegalHold"]),
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

/// Whose list grants a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListOf {
    Bucket,
    Object,
}

/// One permission that a request needs.
#[derive(Debug, Clone)]
pub(super) struct Need {
    /// Whose the resource is, and its policy, is added once the bucket is found.
    pub target: Target,
    /// What a list must grant for it; none: no list can.
    pub list: Option<(ListOf, Permission)>,
    /// Whether it is about an object that is there already, whose owner and tags count.
    pub of_object: bool,
}

/// Source: "Mapping of ACL permissions and access policy permissions" of the S3 user guide.
const LISTS: &[(&str, ListOf, Permission)] = &[
    ("s3:ListBucket", ListOf::Bucket, Permission::Read),
    ("s3:ListBucketVersions", ListOf::Bucket, Permission::Read),
    ("s3:ListBucketMultipartUploads", ListOf::Bucket, Permission::Read),
    ("s3:PutObject", ListOf::Bucket, Permission::Write),
    ("s3:DeleteObject", ListOf::Bucket, Permission::Write),
    ("s3:GetBucketAcl", ListOf::Bucket, Permission::ReadAcp),
    ("s3:PutBucketAcl", ListOf::Bucket, Permission::WriteAcp),
    ("s3:GetObject", ListOf::Object, Permission::Read),
    ("s3:GetObjectVersion", ListOf::Object, Permission::Read),
    ("s3:GetObjectAttributes", ListOf::Object, Permission::Read),
    ("s3:GetObjectVersionAttributes", ListOf::Object, Permission::Read),
    ("s3:GetObjectAcl", ListOf::Object, Permission::ReadAcp),
    ("s3:GetObjectVersionAcl", ListOf::Object, Permission::ReadAcp),
    ("s3:PutObjectAcl", ListOf::Object, Permission::WriteAcp),
    ("s3:PutObjectVersionAcl", ListOf::Object, Permission::WriteAcp),
];

/// Permissions on an object that is there already. Those that a list can grant on an object are so, too.
const OF_OBJECTS: &[&str] = &[
    "s3:GetObjectTagging",
    "s3:GetObjectVersionTagging",
    "s3:PutObjectTagging",
    "s3:PutObjectVersionTagging",
    "s3:DeleteObjectTagging",
    "s3:DeleteObjectVersionTagging",
    "s3:GetObjectRetention",
    "s3:GetObjectLegalHold",
    "s3:PutObjectRetention",
    "s3:PutObjectLegalHold",
    "s3:BypassGovernanceRetention",
];

impl Need {
    pub(super) fn new(target: Target) -> Self {
        let named = LISTS.iter().find(|(permission, ..)| *permission == target.permission);
        let list = named.map(|(_, of, permission)| (*of, *permission));
        let of_object = matches!(list, Some((ListOf::Object, _))) || OF_OBJECTS.contains(&&*target.permission);
        Self { target, list, of_object }
    }

    /// Something that comes with writing an object: whoever may write it may say this of it too, as far as lists go.
    fn of_new_object(permission: &str, resource: Option<Arn>) -> Self {
        let target = Target { resource, ..Target::any(permission) };
        Self { target, list: Some((ListOf::Bucket, Permission::Write)), of_object: false }
    }

    pub(super) fn on_object(permission: &str, bucket: &str, key: &str) -> Self {
        Self::new(Target::on(permission, Arn::s3(format_args!("{bucket}/{key}"))))
    }
}

/// What a request needs.
pub(super) struct Needs {
    /// On the bucket that it names, or on none.
    pub own: Vec<Need>,
    /// On the source of a copy.
    pub source: Vec<Need>,
}

impl Needs {
    /// # Errors
    /// `InvalidArgument` if it copies from what is no bucket and key.
    pub(super) fn read(operation: &str, scope: &RequestScope, cx: &S3AccessContext<'_>) -> S3Result<Self> {
        let mut needs = Self { own: own(operation, cx), source: Vec::new() };
        let mut keys = of_listing(operation, cx);
        keys.extend(of_request(scope, cx.headers()));
        for need in &mut needs.own {
            need.target.keys.extend(keys.iter().cloned());
        }
        if matches!(operation, "CopyObject" | "UploadPartCopy") {
            let (bucket, key) = copy_source(cx.headers())?;
            let mut need = Need::on_object("s3:GetObject", &bucket, &key);
            super::versions::name_source_version(std::slice::from_mut(&mut need.target), cx.headers());
            need.target.keys.extend(of_signature(scope));
            needs.source.push(Need::new(need.target));
        }
        Ok(needs)
    }
}

fn own(operation: &str, cx: &S3AccessContext<'_>) -> Vec<Need> {
    let own = format!("s3:{operation}");
    let fallback = [own.as_str()];
    let default_place = if cx.s3_path().as_object().is_some() { On::Object } else { On::Bucket };
    let (on, permissions) = PERMISSIONS
        .iter()
        .find(|(name, ..)| *name == operation)
        .map_or((default_place, &fallback[..]), |(_, on, permissions)| (*on, *permissions));
    let resource = match (on, cx.s3_path()) {
        (On::Later, _) => return Vec::new(),
        // As policies name it that list buckets: "User policy examples" of the S3 user guide.
        (On::Service, _) => Some(Arn::s3("*")),
        (_, S3Path::Root) => None,
        (On::Bucket, S3Path::Bucket { bucket } | S3Path::Object { bucket, .. })
        | (On::Object, S3Path::Bucket { bucket }) => Some(Arn::s3(bucket)),
        (On::Object, S3Path::Object { bucket, key }) => Some(Arn::s3(format_args!("{bucket}/{key}"))),
    };
    let target = |permission: &&str| Target { resource: resource.clone(), ..Target::any(*permission) };
    let mut targets: Vec<Target> = permissions.iter().map(target).collect();
    super::versions::name_version(&mut targets, cx.uri());
    let mut needs: Vec<_> = targets.into_iter().map(Need::new).collect();
    let has = |name: &str| cx.headers().contains_key(name);
    let has_grants = has("x-amz-acl") || Permission::ALL.iter().any(|permission| has(permission.header()));
    match operation {
        "PutObject" | "CopyObject" | "CreateMultipartUpload" => {
            if has("x-amz-tagging") {
                needs.push(Need::of_new_object("s3:PutObjectTagging", resource.clone()));
            }
            needs.extend(super::lock::needs(resource.as_ref(), cx.headers()));
            if has_grants {
                needs.push(Need::of_new_object("s3:PutObjectAcl", resource));
            }
        }
        "CreateBucket" => {
            let also = |permission: &str| Need::new(Target { resource: resource.clone(), ..Target::any(permission) });
            if has_grants {
                needs.push(also("s3:PutBucketAcl"));
            }
            if has("x-amz-object-ownership") {
                needs.push(also("s3:PutBucketOwnershipControls"));
            }
            let asks_for_lock = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"true");
            if cx.headers().get("x-amz-bucket-object-lock-enabled").is_some_and(asks_for_lock) {
                needs.extend(["s3:PutBucketObjectLockConfiguration", "s3:PutBucketVersioning"].map(also));
            }
        }
        _ => {}
    }
    needs
}

/// Names and values of condition keys.
pub(super) type ConditionKeys = Vec<(String, Vec<String>)>;

fn key(name: impl Into<String>, value: impl Into<String>) -> (String, Vec<String>) {
    (name.into(), vec![value.into()])
}

/// The condition keys that listings have.
fn of_listing(operation: &str, cx: &S3AccessContext<'_>) -> ConditionKeys {
    if !operation.starts_with("List") || cx.s3_path().as_bucket().is_none() {
        return Vec::new();
    }
    let named = query_pairs(cx.uri()).filter(|(name, _)| matches!(&**name, "prefix" | "delimiter" | "max-keys"));
    named.map(|(name, value)| key(format!("s3:{name}"), value)).collect()
}

/// Request headers that are condition keys of the same name.
const HEADER_KEYS: &[&str] = &[
    "x-amz-acl",
    "x-amz-copy-source",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-metadata-directive",
    "x-amz-object-ownership",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "if-match",
    "if-none-match",
];

/// Headers that say of an object lock what condition keys have other names for.
const LOCK_KEYS: &[(&str, &str)] = &[
    ("x-amz-object-lock-mode", "s3:object-lock-mode"),
    ("x-amz-object-lock-retain-until-date", "s3:object-lock-retain-until-date"),
    ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
];

fn of_request(scope: &RequestScope, headers: &HeaderMap) -> ConditionKeys {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut keys = of_signature(scope);
    keys.extend(HEADER_KEYS.iter().filter_map(|name| text(name).map(|value| key(format!("s3:{name}"), value))));
    keys.extend(LOCK_KEYS.iter().filter_map(|(header, name)| Some(key(*name, text(header)?))));
    keys.extend(super::lock::of_headers(headers, scope.facts.now));
    if let Some(tags) = text("x-amz-tagging").and_then(|text| super::convert::parse_tags(text).ok()) {
        keys.extend(of_tags(&tags));
    }
    keys
}

/// The condition keys of tags that a request gives to an object.
pub(super) fn of_tags(tags: &crate::backend::StringMap) -> ConditionKeys {
    let names = tags.keys().cloned().collect::<Vec<_>>();
    let one = |(name, value): (&String, &String)| key(format!("s3:RequestObjectTag/{name}"), value);
    let all = (!names.is_empty()).then(|| ("s3:RequestObjectTagKeys".to_owned(), names));
    tags.iter().map(one).chain(all).collect()
}

/// The condition keys of the way in which a request was signed.
pub(super) fn of_signature(scope: &RequestScope) -> ConditionKeys {
    let Some(signed) = &scope.signed else { return Vec::new() };
    let age = scope.facts.now.since(signed.at).as_millis();
    vec![
        key("s3:authType", signed.place.name()),
        key("s3:signatureversion", "AWS4-HMAC-SHA256"),
        key("s3:signatureAge", age.to_string()),
        key("s3:x-amz-content-sha256", &signed.payload),
    ]
}

/// Names and values of the query, decoded: an encoded name is still that name.
pub(super) fn query_pairs(uri: &Uri) -> impl Iterator<Item = (String, String)> {
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
