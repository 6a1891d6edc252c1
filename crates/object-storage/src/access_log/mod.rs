//! Logs of the requests to a bucket, kept in a bucket.
//!
//! Source: "Logging requests with server access logging" of the S3 user guide. As in AWS they are best effort: lines are
//! gathered in memory and delivered every minute, or when there are many. A process that is killed takes with it what it
//! has not delivered; one that is asked to end delivers first. Lines that cannot be delivered for long are dropped.

mod deliverer;
mod line;

pub use line::{Line, Request};

pub(crate) use deliverer::AccessLogs;

use serde::{Deserialize, Serialize};
use terroir_action::{Caller, Target as Permission};
use terroir_iam::{Iam, RequestFacts};
use terroir_store::Txn;
use terroir_types::{Arn, Error, Timestamp};

use crate::acl::{Grantee, Permission as Granted};
use crate::guard;
use crate::model::Bucket;
use crate::settings::BucketSetting;

/// Who delivers, as policies of target buckets name it.
pub const SERVICE: &str = "logging.s3.amazonaws.com";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    #[serde(rename = "t")]
    pub target: String,
    #[serde(rename = "p")]
    pub prefix: String,
    /// How the names of logs go on after the prefix.
    #[serde(rename = "f", default)]
    pub format: KeyFormat,
}

impl BucketSetting for Logging {
    const NAME: &'static str = "logging";
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyFormat {
    /// Nothing was said: with the time of delivery.
    #[default]
    #[serde(rename = "d")]
    Unsaid,
    /// The same, and it was said.
    #[serde(rename = "s")]
    Simple,
    /// Account, region, bucket and day of the events stand between.
    #[serde(rename = "e")]
    ByEvent,
    /// Account, region, bucket and day of delivery stand between.
    #[serde(rename = "p")]
    ByDelivery,
}

impl Logging {
    /// The name of a log of `bucket`. `event`: when the first of its requests came; `unique`: 16 digits.
    fn key(&self, bucket: &Bucket, region: &str, event: Timestamp, now: Timestamp, unique: &str) -> String {
        let prefix = &self.prefix;
        let (date, rest) = match self.format {
            KeyFormat::Unsaid | KeyFormat::Simple => return format!("{prefix}{}-{unique}", seconds(now)),
            // As AWS: of the day of the events only the date is said.
            KeyFormat::ByEvent => (event, format!("{}-00-00-00", &seconds(event)[..10])),
            KeyFormat::ByDelivery => (now, seconds(now)),
        };
        let day = seconds(date)[..10].replace('-', "/");
        format!("{prefix}{}/{region}/{}/{day}/{rest}-{unique}", bucket.account, bucket.name())
    }
}

/// `2026-11-24-05-00-00`
fn seconds(at: Timestamp) -> String {
    at.to_rfc3339_seconds().trim_end_matches('Z').replace(['T', ':'], "-")
}

/// Whether the service may write logs of `source` to `target`, by its policy or by its list.
///
/// # Errors
/// `AccessDenied`; those of the store.
pub(crate) async fn may_deliver(
    iam: &Iam,
    txn: &Txn,
    source: &Bucket,
    target: &Bucket,
    key: &str,
    facts: &RequestFacts,
) -> Result<(), Error> {
    let guard = guard::of(txn, target)?;
    let write = guard.has_acls() && guard.acl.as_ref().is_some_and(|acl| acl.has(Grantee::LogDelivery, Granted::Write));
    if write {
        return Ok(());
    }
    let permission = Permission::on("s3:PutObject", Arn::s3(format_args!("{}/{key}", target.name())))
        .owned_by(target.account, guard.policy)
        .key("aws:SourceArn", Arn::s3(source.name()).to_string())
        .key("aws:SourceAccount", source.account.to_string());
    iam.authorize_in(txn, &Caller::service(SERVICE), &[permission], facts).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BucketId;
    use crate::model::BucketTenant;
    use terroir_types::AccountId;

    #[test]
    fn names_of_logs() {
        let bucket = Bucket {
            id: BucketId::from_random(1),
            account: AccountId::from_number(7).unwrap(),
            created_at: Timestamp::EPOCH,
            tenant: BucketTenant { name: "photos".to_owned() },
        };
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        let (event, now) = (at("2026-01-31T23:59:59Z"), at("2026-02-01T00:01:02Z"));
        for (format, expected) in [
            (KeyFormat::Unsaid, "logs/2026-02-01-00-01-02-UNIQUE"),
            (KeyFormat::ByEvent, "logs/000000000007/eu-1/photos/2026/01/31/2026-01-31-00-00-00-UNIQUE"),
            (KeyFormat::ByDelivery, "logs/000000000007/eu-1/photos/2026/02/01/2026-02-01-00-01-02-UNIQUE"),
        ] {
            let logging = Logging { target: "t".to_owned(), prefix: "logs/".to_owned(), format };
            assert_eq!(logging.key(&bucket, "eu-1", event, now, "UNIQUE"), expected);
        }
    }
}
