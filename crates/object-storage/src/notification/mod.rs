//! Events that a bucket tells of: which, of what keys, and to whom.
//!
//! Source: "Amazon S3 Event Notifications" of the S3 user guide. What matches a rule is written to a queue of its target
//! together with the change itself; [`Notifier`] sends it.

mod message;
mod notifier;

pub use message::{Subject, Told};
pub use notifier::Notifier;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::backend::{Note, Outcome};
use crate::settings::BucketSetting;
use crate::target::{self, Target};

/// What can be asked for, without `s3:`. Some of it never happens here: nothing is archived, restored or replicated
/// against a clock.
const KNOWN: [&str; 27] = [
    "ReducedRedundancyLostObject",
    "ObjectCreated:*",
    "ObjectCreated:Put",
    "ObjectCreated:Post",
    "ObjectCreated:Copy",
    "ObjectCreated:CompleteMultipartUpload",
    "ObjectRemoved:*",
    "ObjectRemoved:Delete",
    "ObjectRemoved:DeleteMarkerCreated",
    "ObjectRestore:*",
    "ObjectRestore:Post",
    "ObjectRestore:Completed",
    "ObjectRestore:Delete",
    "Replication:*",
    "Replication:OperationFailedReplication",
    "Replication:OperationNotTracked",
    "Replication:OperationMissedThreshold",
    "Replication:OperationReplicatedAfterThreshold",
    "LifecycleExpiration:*",
    "LifecycleExpiration:Delete",
    "LifecycleExpiration:DeleteMarkerCreated",
    "LifecycleTransition",
    "IntelligentTiering",
    "ObjectAcl:Put",
    "ObjectTagging:*",
    "ObjectTagging:Put",
    "ObjectTagging:Delete",
];

/// Whether events of this name, with `s3:`, can be asked for.
pub fn is_known(event: &str) -> bool {
    event.strip_prefix("s3:").is_some_and(|name| KNOWN.contains(&name))
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Put,
    Post,
    Copy,
    CompleteMultipartUpload,
    Delete,
    DeleteMarkerCreated,
    ExpirationDelete,
    ExpirationDeleteMarkerCreated,
    AclPut,
    TaggingPut,
    TaggingDelete,
    ReplicationFailed,
}

impl Event {
    /// Without `s3:`, as messages have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Post => "ObjectCreated:Post",
            Self::Copy => "ObjectCreated:Copy",
            Self::CompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
            Self::Delete => "ObjectRemoved:Delete",
            Self::DeleteMarkerCreated => "ObjectRemoved:DeleteMarkerCreated",
            Self::ExpirationDelete => "LifecycleExpiration:Delete",
            Self::ExpirationDeleteMarkerCreated => "LifecycleExpiration:DeleteMarkerCreated",
            Self::AclPut => "ObjectAcl:Put",
            Self::TaggingPut => "ObjectTagging:Put",
            Self::TaggingDelete => "ObjectTagging:Delete",
            Self::ReplicationFailed => "Replication:OperationFailedReplication",
        }
    }

    /// What a deletion by a request may turn out to be.
    pub const BY_REQUEST: [Self; 2] = [Self::Delete, Self::DeleteMarkerCreated];
    /// What a deletion by a lifecycle rule may turn out to be.
    pub const BY_RULE: [Self; 2] = [Self::ExpirationDelete, Self::ExpirationDeleteMarkerCreated];

    const fn outcome(self) -> Outcome {
        match self {
            Self::Delete | Self::ExpirationDelete => Outcome::Removed,
            Self::DeleteMarkerCreated | Self::ExpirationDeleteMarkerCreated => Outcome::MarkerAdded,
            _ => Outcome::Written,
        }
    }
}

/// As what the client named the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    #[serde(rename = "t")]
    Topic,
    #[serde(rename = "q")]
    Queue,
}

impl Form {
    /// The service in the ARN.
    pub const fn service(self) -> &'static str {
        match self {
            Self::Topic => "sns",
            Self::Queue => "sqs",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    #[serde(rename = "i")]
    pub id: String,
    #[serde(rename = "f")]
    pub form: Form,
    /// The target's name.
    #[serde(rename = "t")]
    pub target: String,
    /// With `s3:`.
    #[serde(rename = "e")]
    pub events: Vec<String>,
    /// None: nothing was said.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}

/// `s3:ObjectCreated:*` stands for all that begin with `s3:ObjectCreated:`.
fn includes(pattern: &str, event: &str) -> bool {
    pattern == event || pattern.strip_suffix('*').is_some_and(|start| event.starts_with(start))
}

impl Rule {
    fn matches(&self, event: &str, key: &str) -> bool {
        self.events.iter().any(|pattern| pattern.strip_prefix("s3:").is_some_and(|pattern| includes(pattern, event)))
            && self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
            && self.suffix.as_deref().is_none_or(|suffix| key.ends_with(suffix))
    }

    fn shares_events(&self, other: &Self) -> bool {
        self.events.iter().any(|a| other.events.iter().any(|b| includes(a, b) || includes(b, a)))
    }

    fn shares_keys(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(|rule| rule.prefix.as_deref().unwrap_or_default());
        let prefixes = a.starts_with(b) || b.starts_with(a);
        let [a, b] = [self, other].map(|rule| rule.suffix.as_deref().unwrap_or_default());
        prefixes && (a.ends_with(b) || b.ends_with(a))
    }

    fn is_filtered(&self) -> bool {
        self.prefix.is_some() || self.suffix.is_some()
    }
}

/// What a bucket tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRules {
    /// The bucket's name, for whoever knows only its number.
    #[serde(rename = "b")]
    pub bucket: String,
    #[serde(rename = "o")]
    pub owner: AccountId,
    #[serde(rename = "r")]
    pub rules: Vec<Rule>,
}

impl BucketSetting for NotificationRules {
    const NAME: &'static str = "notification";
}

/// Who does what is told of.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// As IAM's ids are; the service's name where the cloud itself does it.
    pub principal: &'a str,
    pub source_ip: Option<IpAddr>,
    pub request_id: &'a str,
}

impl Cause<'static> {
    /// The cloud itself.
    pub const SERVICE: Self = Self { principal: "s3.amazonaws.com", source_ip: None, request_id: "" };
}

impl NotificationRules {
    /// # Errors
    /// `InvalidArgument` if one event of one key would go to two.
    pub fn check_overlaps(&self) -> Result<(), Error> {
        for (index, rule) in self.rules.iter().enumerate() {
            for other in &self.rules[..index] {
                if rule.shares_events(other) && rule.shares_keys(other) {
                    let message = if rule.is_filtered() || other.is_filtered() {
                        "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the prefixes are overlapping for the same event type."
                    } else {
                        "Configurations overlap. Configurations on the same bucket cannot share a common event type."
                    };
                    return Err(Error::invalid("InvalidArgument", message));
                }
            }
        }
        Ok(())
    }

    /// What is to be written with a change that may turn out to be one of `events`. Targets that are gone, or that the
    /// bucket's owner may no longer use, are told nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn notes(&self, txn: &Txn, key: &str, events: &[Event], cause: Cause<'_>) -> Result<Vec<Note>, Error> {
        let mut notes = Vec::new();
        for event in events {
            let Some(rule) = self.rules.iter().find(|rule| rule.matches(event.name(), key)) else { continue };
            let Some(limit) = usable(txn, &rule.target, self.owner)? else { continue };
            let told = Told {
                event: event.name().to_owned(),
                rule: rule.id.clone(),
                bucket: self.bucket.clone(),
                owner: self.owner,
                principal: cause.principal.to_owned(),
                source: cause.source_ip.map_or_else(|| cause.principal.to_owned(), |ip| ip.to_canonical().to_string()),
                request_id: cause.request_id.to_owned(),
            };
            let body = told.pack()?;
            notes.push(Note { on: event.outcome(), queue: Target::event_queue(&rule.target), limit, body });
        }
        Ok(notes)
    }

    /// One message for each of the targets, which says that events will come.
    ///
    /// # Errors
    /// Those of the store.
    pub fn test_notes(&self, txn: &Txn, request_id: &str) -> Result<Vec<Note>, Error> {
        let names: std::collections::BTreeSet<_> = self.rules.iter().map(|rule| rule.target.as_str()).collect();
        let mut notes = Vec::new();
        for name in names {
            let Some(limit) = usable(txn, name, self.owner)? else { continue };
            let told = Told::test(&self.bucket, self.owner, request_id);
            let body = told.pack()?;
            notes.push(Note { on: Outcome::Written, queue: Target::event_queue(name), limit, body });
        }
        Ok(notes)
    }
}

/// How many entries may wait for a target that events of this account may be sent to; none: none may.
fn usable(txn: &Txn, name: &str, account: AccountId) -> Result<Option<u64>, Error> {
    let target = target::find(txn, name)?.filter(|target| target.is_webhook() && target.is_for(account));
    Ok(target.map(|target| target.tenant.max_queued))
}

/// Whether events of this account may be sent to the target.
pub fn may_tell(txn: &Txn, name: &str, account: AccountId) -> Result<bool, Error> {
    Ok(usable(txn, name, account)?.is_some())
}
