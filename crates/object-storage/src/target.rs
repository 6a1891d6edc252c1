//! Places outside the cloud that the operator has named: endpoints that are told of events, and foreign S3.
//!
//! Tenants address a target by its ARN and never by a URL, so that nobody but the operator decides whom this process
//! talks to. Credentials are sealed with the record and leave it only for the request that they are for.

use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Arn, Error, Secret, Timestamp};

/// Entries that wait for one target unless the operator says otherwise.
pub const DEFAULT_MAX_QUEUED: u64 = 100_000;
/// More would let one target that is away fill the disk.
pub const MOST_QUEUED: u64 = 10_000_000;
const MAX_NAME: usize = 63;
/// What queues of events are called before the target's name.
pub(crate) const EVENTS: &str = "events/";

/// At `object-target/<MAC of its name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: TargetTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetTenant {
    #[serde(rename = "n")]
    pub name: String,
    /// Who may use it; none: everybody.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<BTreeSet<AccountId>>,
    /// Entries that may wait for it.
    #[serde(rename = "q")]
    pub max_queued: u64,
    #[serde(rename = "p")]
    pub place: Destination,
}

record!(Target { kind: "object-target", version: 1, account: |_r| None, tenant: tenant: TargetTenant });

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    #[serde(rename = "w")]
    Webhook {
        #[serde(rename = "u")]
        url: String,
        /// Signs what is sent; none: nothing is signed.
        #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret<String>>,
    },
    #[serde(rename = "s")]
    S3(S3Destination),
}

/// Stands for what was not read yet.
impl Default for Destination {
    fn default() -> Self {
        Self::Webhook { url: String::new(), secret: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Destination {
    /// `https://HOST[:PORT]`
    #[serde(rename = "e")]
    pub endpoint: String,
    #[serde(rename = "r")]
    pub region: String,
    #[serde(rename = "k")]
    pub access_key_id: String,
    #[serde(rename = "s")]
    pub secret_access_key: Secret<String>,
    #[serde(rename = "b")]
    pub bucket: ForeignBucket,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignBucket {
    /// All in one bucket, whose keys begin with account and bucket.
    #[serde(rename = "o")]
    One(String),
    /// For each bucket here one there, which is called so and then as it is here.
    #[serde(rename = "p")]
    Prefix(String),
}

impl Destination {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::S3(_) => "s3",
        }
    }

    /// Where it is, without credentials.
    pub fn address(&self) -> String {
        match self {
            Self::Webhook { url, .. } => url.clone(),
            Self::S3(S3Destination { endpoint, bucket: ForeignBucket::One(bucket), .. }) => {
                format!("{endpoint}/{bucket}")
            }
            Self::S3(S3Destination { endpoint, bucket: ForeignBucket::Prefix(prefix), .. }) => {
                format!("{endpoint}/{prefix}*")
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Webhook { url, secret } => {
                check_url(url)?;
                if secret.as_ref().is_some_and(|secret| secret.expose().len() < 16) {
                    return Err(invalid("the secret must have at least 16 characters".to_owned()));
                }
                Ok(())
            }
            Self::S3(s3) => {
                let url = check_url(&s3.endpoint)?;
                if url.path() != "/" || url.query().is_some() {
                    return Err(invalid(format!("'{}' must be a scheme, a host and perhaps a port", s3.endpoint)));
                }
                if s3.region.is_empty() || s3.access_key_id.is_empty() || s3.secret_access_key.expose().is_empty() {
                    return Err(invalid("give region, access key and secret".to_owned()));
                }
                match &s3.bucket {
                    ForeignBucket::One(bucket) if !crate::ops::is_bucket_name(bucket) => {
                        Err(invalid(format!("'{bucket}' is no name of a bucket")))
                    }
                    ForeignBucket::Prefix(prefix) if !crate::ops::is_bucket_name(&format!("{prefix}abc")) => {
                        Err(invalid(format!("no name of a bucket can begin with '{prefix}'")))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// An address that requests may be sent to. Credentials in it would be shown with it.
fn check_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).map_err(|error| invalid(format!("'{text}' is no address: {error}")))?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
    if !is_web || url.fragment().is_some() {
        return Err(invalid(format!("'{text}' is no http or https address")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("give credentials apart from the address".to_owned()));
    }
    Ok(url)
}

fn invalid(message: String) -> Error {
    Error::invalid("InvalidParameterValue", message)
}

impl Target {
    pub fn name(&self) -> &str {
        &self.tenant.name
    }

    pub fn is_for(&self, account: AccountId) -> bool {
        self.tenant.accounts.as_ref().is_none_or(|accounts| accounts.contains(&account))
    }

    pub fn is_webhook(&self) -> bool {
        matches!(self.tenant.place, Destination::Webhook { .. })
    }

    /// The queue of the events for it.
    pub fn event_queue(name: &str) -> String {
        format!("{EVENTS}{name}")
    }

    /// Whether what is in this queue waits for the target of this name.
    pub fn has_queue(name: &str, queue: &str) -> bool {
        let of_copies = queue.strip_prefix(crate::replication::QUEUES).and_then(|rest| rest.split_once("/target/"));
        queue.strip_prefix(EVENTS) == Some(name) || of_copies.is_some_and(|(_, target)| target == name)
    }

    /// Under which ARNs tenants know it; the first is the one to show.
    pub fn arns(&self, region: &str) -> Vec<Arn> {
        let of = |service, resource: String| Arn::new(service, region, Some(AccountId::NOBODY), resource);
        match self.tenant.place {
            Destination::Webhook { .. } => {
                vec![of("sns", self.name().to_owned()), of("sqs", self.name().to_owned())]
            }
            Destination::S3(_) => vec![of("s3", format!("target/{}", self.name()))],
        }
    }
}

fn is_name(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(inside) && !name.starts_with('-')
}

/// The name of the target that is meant by the ARN of a topic or queue; none: no target has such an ARN.
pub fn name_in_arn<'a>(arn: &'a str, service: &str, region: &str) -> Option<&'a str> {
    let name = arn.strip_prefix(&format!("arn:aws:{service}:{region}:{}:", AccountId::NOBODY))?;
    is_name(name).then_some(name)
}

fn key(txn: &Txn, name: &str) -> Key {
    Key::new(format!("object-target/{}", txn.name_mac(None, "object-target", name)))
}

/// Makes a target.
///
/// # Errors
/// `InvalidParameterValue`; `EntityAlreadyExists`.
pub fn add(txn: &mut Txn, tenant: TargetTenant, now: Timestamp) -> Result<Target, Error> {
    if !is_name(&tenant.name) {
        return Err(invalid(format!("'{}' is no name of a target: use a-z, 0-9 and '-'", tenant.name)));
    }
    if tenant.max_queued == 0 || tenant.max_queued > MOST_QUEUED {
        return Err(invalid(format!("between 1 and {MOST_QUEUED} entries may wait for a target")));
    }
    tenant.place.check()?;
    let key = key(txn, &tenant.name);
    if txn.get::<Target>(&key)?.is_some() {
        return Err(Error::conflict("EntityAlreadyExists", format!("there is a target {} already", tenant.name)));
    }
    let target = Target { created_at: now, tenant };
    txn.put(&key, &target)?;
    Ok(target)
}

/// # Errors
/// `NoSuchEntity`.
pub fn remove(txn: &mut Txn, name: &str) -> Result<(), Error> {
    let key = key(txn, name);
    if txn.get::<Target>(&key)?.is_none() {
        return Err(no_target(name));
    }
    if crate::engine::uses(txn, name)? {
        return Err(Error::conflict("DeleteConflict", format!("bytes of objects may lie at {name}")));
    }
    txn.delete(&key);
    Ok(())
}

pub fn no_target(name: &str) -> Error {
    Error::not_found("NoSuchEntity", format!("there is no target {name}"))
}

/// Not tracked.
pub fn find(txn: &Txn, name: &str) -> Result<Option<Arc<Target>>, Error> {
    txn.peek::<Target>(&key(txn, name))
}

/// All, by name; not tracked.
pub fn all(txn: &Txn) -> Result<Vec<Arc<Target>>, Error> {
    let all = txn.peek_range::<Target>(&Key::new("object-target"))?;
    let mut targets: Vec<_> = all.into_iter().map(|(_, target)| target).collect();
    targets.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_store::Store;

    fn webhook(name: &str, url: &str, secret: Option<&str>) -> TargetTenant {
        let secret = secret.map(|secret| Secret::new(secret.to_owned()));
        let place = Destination::Webhook { url: url.to_owned(), secret };
        TargetTenant { name: name.to_owned(), accounts: None, max_queued: 10, place }
    }

    fn s3(endpoint: &str, bucket: ForeignBucket) -> TargetTenant {
        let place = Destination::S3(S3Destination {
            endpoint: endpoint.to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: "AKIA".to_owned(),
            secret_access_key: Secret::new("secret of s3".to_owned()),
            bucket,
        });
        TargetTenant { name: "far".to_owned(), accounts: None, max_queued: 10, place }
    }

    #[tokio::test]
    async fn what_the_operator_may_name() {
        let store = Store::in_memory_for_tests().await;
        let one = |name: &str| ForeignBucket::One(name.to_owned());
        let prefix = |name: &str| ForeignBucket::Prefix(name.to_owned());
        let rows = [
            (webhook("a", "https://hooks.example.org/x?y=1", Some("sixteen letters!")), true),
            (webhook("b", "http://127.0.0.1:8080", None), true),
            (webhook("c", "http://127.0.0.1:8080", Some("short")), false),
            (webhook("d", "ftp://example.org", None), false),
            (webhook("e", "file:///etc/passwd", None), false),
            (webhook("f", "https://user:word@example.org/", None), false),
            (webhook("g", "nothing", None), false),
            (webhook("Upper", "http://127.0.0.1", None), false),
            (webhook("", "http://127.0.0.1", None), false),
            (webhook("a", "http://127.0.0.1", None), false),
            (TargetTenant { max_queued: 0, ..webhook("h", "http://127.0.0.1", None) }, false),
            (s3("https://s3.example.org", one("Bucket")), false),
            (s3("https://s3.example.org/path", one("bucket")), false),
            (s3("https://s3.example.org", prefix("-")), false),
            (s3("https://s3.example.org:9000", prefix("terroir-")), true),
        ];
        for (tenant, good) in rows {
            let text = format!("{tenant:?}");
            let added = store.transact(&[], |txn| add(txn, tenant.clone(), Timestamp::EPOCH)).await;
            assert_eq!(added.is_ok(), good, "{text}");
            assert!(!text.contains("sixteen") && !text.contains("secret of s3"), "{text}");
        }
        let txn = store.read().await.unwrap();
        assert_eq!(all(&txn).unwrap().iter().map(|target| target.name()).collect::<Vec<_>>(), ["a", "b", "far"]);
        let arns: Vec<_> = find(&txn, "a").unwrap().unwrap().arns("eu-1").iter().map(ToString::to_string).collect();
        assert_eq!(arns, ["arn:aws:sns:eu-1:000000000000:a", "arn:aws:sqs:eu-1:000000000000:a"]);
        assert_eq!(name_in_arn(&arns[0], "sns", "eu-1"), Some("a"));
        for (arn, service, region) in [(&arns[0], "sqs", "eu-1"), (&arns[0], "sns", "eu-2")] {
            assert_eq!(name_in_arn(arn, service, region), None, "{arn}");
        }
        assert_eq!(name_in_arn("arn:aws:sns:eu-1:000000000000:http://x", "sns", "eu-1"), None);
        for (queue, is_its) in [
            ("events/a", true),
            ("events/ab", false),
            ("replicate/07/target/a", true),
            ("replicate/07/bucket/a", false),
        ] {
            assert_eq!(Target::has_queue("a", queue), is_its, "{queue}");
        }
        drop(txn);
        store.transact(&[], |txn| remove(txn, "a")).await.unwrap();
        assert_eq!(store.transact(&[], |txn| remove(txn, "a")).await.unwrap_err().code(), "NoSuchEntity");
    }
}
