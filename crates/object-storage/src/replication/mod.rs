//! Copies of versions elsewhere, made by rules of a bucket.
//!
//! Source: "Replicating objects within and across Regions" of the S3 user guide. A version that matches a rule is noted in
//! a queue of its destination together with the write; [`Replicator`] copies it and then says so on the version. Nothing
//! depends on how often it does: the copy of a version has the version's own name where the destination is a bucket of
//! this cloud, and says which version it is where it is not.

mod foreign_copy;
mod replicator;

pub use replicator::Replicator;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::backend::{BucketId, Note, Outcome, ReplicationStatus, StringMap};
use crate::lifecycle::{Filter, FilterForm};
use crate::settings::BucketSetting;
use crate::target;

/// What queues of versions to be copied are called, before the source's number and the destination.
pub(crate) const QUEUES: &str = "replicate/";
/// Versions of one bucket that may wait for one destination. More are `FAILED` at once.
const MAX_QUEUED: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRules {
    /// ARN of the role whose permissions count.
    #[serde(rename = "a")]
    pub role: String,
    /// The source's name, for whoever knows only its number.
    #[serde(rename = "b")]
    pub bucket: String,
    #[serde(rename = "o")]
    pub owner: AccountId,
    #[serde(rename = "r")]
    pub rules: Vec<Rule>,
}

impl BucketSetting for ReplicationRules {
    const NAME: &'static str = "replication";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    #[serde(rename = "i")]
    pub id: String,
    #[serde(rename = "e")]
    pub enabled: bool,
    /// None: a rule of the first kind, without a filter.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(rename = "f")]
    pub filter: Filter,
    /// Whether delete markers are copied; none: nothing was said.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub delete_markers: Option<bool>,
    #[serde(rename = "d")]
    pub destination: Destination,
    /// What was said of the owner of copies, to be shown again.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    #[serde(rename = "t", default)]
    pub owner_translated: bool,
    /// Whether it was said that existing objects are not copied.
    #[serde(rename = "x", default)]
    pub excludes_existing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// A bucket of this cloud, by name.
    #[serde(rename = "b")]
    Bucket(String),
    /// A foreign S3, by the target's name.
    #[serde(rename = "t")]
    Target(String),
}

impl Destination {
    fn queue(&self, source: BucketId) -> String {
        match self {
            Self::Bucket(name) => format!("{QUEUES}{source}/bucket/{name}"),
            Self::Target(name) => format!("{QUEUES}{source}/target/{name}"),
        }
    }
}

/// What is noted of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    #[serde(rename = "b")]
    pub bucket: String,
    #[serde(rename = "o")]
    pub owner: AccountId,
    #[serde(rename = "a")]
    pub role: String,
    #[serde(rename = "i")]
    pub rule: String,
    #[serde(rename = "d")]
    pub destination: Destination,
    #[serde(rename = "k")]
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[serde(rename = "v")]
    Version,
    #[serde(rename = "m")]
    Marker,
    /// What is said of a version has changed: its copy is to say the same.
    #[serde(rename = "c")]
    Change,
}

impl Order {
    fn pack(&self) -> Result<Vec<u8>, Error> {
        rmp_serde::to_vec_named(self).map_err(|error| Error::internal(format_args!("a replication: {error}")))
    }

    fn unpack(body: &[u8]) -> Result<Self, Error> {
        rmp_serde::from_slice(body).map_err(|error| Error::internal(format_args!("a replication: {error}")))
    }
}

impl Rule {
    fn copies_markers(&self) -> bool {
        // Rules of the first kind always do.
        self.delete_markers.unwrap_or(self.filter.form == FilterForm::Prefix)
    }

    fn order(&self) -> i64 {
        i64::from(self.priority.unwrap_or(0))
    }
}

impl ReplicationRules {
    /// For each destination the rule that counts: the one with the highest priority.
    fn chosen(&self, matches: impl Fn(&Rule) -> bool) -> BTreeMap<&Destination, &Rule> {
        let mut chosen: BTreeMap<&Destination, &Rule> = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| rule.enabled && matches(rule)) {
            let place = chosen.entry(&rule.destination).or_insert(rule);
            if rule.order() > place.order() {
                *place = rule;
            }
        }
        chosen
    }

    fn note(&self, source: BucketId, rule: &Rule, kind: Kind) -> Result<Note, Error> {
        let order = Order {
            bucket: self.bucket.clone(),
            owner: self.owner,
            role: self.role.clone(),
            rule: rule.id.clone(),
            destination: rule.destination.clone(),
            kind,
        };
        let on = match kind {
            Kind::Version => Outcome::Written,
            Kind::Marker => Outcome::MarkerAdded,
            Kind::Change => Outcome::SourceChanged,
        };
        Ok(Note { on, queue: rule.destination.queue(source), limit: MAX_QUEUED, body: order.pack()? })
    }

    /// What is to be written with a new version, and what that version says of its copies.
    ///
    /// # Errors
    /// `Internal`.
    pub fn of_version(
        &self,
        source: BucketId,
        key: &str,
        tags: &StringMap,
    ) -> Result<(Option<ReplicationStatus>, Vec<Note>), Error> {
        let has_tags = |rule: &Rule| rule.filter.tags.iter().all(|(name, value)| tags.get(name) == Some(value));
        let chosen = self.chosen(|rule| rule.filter.matches_key(key) && has_tags(rule));
        let notes =
            chosen.values().map(|rule| self.note(source, rule, Kind::Version)).collect::<Result<Vec<_>, _>>()?;
        Ok(((!notes.is_empty()).then_some(ReplicationStatus::Pending), notes))
    }

    /// What is to be written with a new delete marker.
    ///
    /// # Errors
    /// `Internal`.
    pub fn of_marker(&self, source: BucketId, key: &str) -> Result<Vec<Note>, Error> {
        let chosen = self.chosen(|rule| rule.filter.matches_key(key) && rule.filter.tags.is_empty());
        let copying = chosen.values().filter(|rule| rule.copies_markers());
        copying.map(|rule| self.note(source, rule, Kind::Marker)).collect()
    }

    /// What is to be written with a change of what is said of a version, if that version is copied at all.
    ///
    /// # Errors
    /// `Internal`.
    pub fn of_change(&self, source: BucketId, key: &str) -> Result<Vec<Note>, Error> {
        let chosen = self.chosen(|rule| rule.filter.matches_key(key));
        chosen.values().map(|rule| self.note(source, rule, Kind::Change)).collect()
    }
}

/// Whether versions of this account may be copied to the foreign S3 of this name. Where that is nobody has stated, so that a
/// sovereignty policy of the account forbids it.
///
/// # Errors
/// Those of the store.
pub fn may_copy_to(txn: &Txn, name: &str, account: AccountId) -> Result<bool, Error> {
    let is_open = terroir_sovereignty::ops::effective_policy(txn, account, &Tags::new())?.is_open();
    Ok(is_open && target::find(txn, name)?.is_some_and(|target| !target.is_webhook() && target.is_for(account)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, to: &str, priority: i32, prefix: &str, tags: &[(&str, &str)], markers: bool) -> Rule {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Rule {
            id: id.to_owned(),
            enabled: true,
            priority: Some(priority),
            filter: Filter { prefix: Some(prefix.to_owned()), tags, ..Filter::default() },
            delete_markers: Some(markers),
            destination: Destination::Bucket(to.to_owned()),
            account: None,
            owner_translated: false,
            excludes_existing: false,
        }
    }

    #[test]
    fn the_highest_priority_counts_for_each_destination() {
        let disabled = Rule { enabled: false, ..rule("off", "c", 9, "", &[], true) };
        let first_kind = Rule {
            priority: None,
            delete_markers: None,
            filter: Filter { form: FilterForm::Prefix, prefix: Some("old/".to_owned()), ..Filter::default() },
            ..rule("first", "d", 0, "", &[], true)
        };
        let rules = ReplicationRules {
            role: String::new(),
            bucket: "source".to_owned(),
            owner: AccountId::NOBODY,
            rules: vec![
                rule("all", "a", 1, "", &[], false),
                rule("logs", "a", 2, "logs/", &[], true),
                rule("tagged", "b", 3, "", &[("copy", "yes")], false),
                disabled,
                first_kind,
            ],
        };
        let source = BucketId::from_random(7);
        let ids = |notes: Vec<Note>| -> Vec<String> {
            notes.iter().map(|note| Order::unpack(&note.body).unwrap().rule).collect()
        };
        let (none, yes) = (StringMap::new(), StringMap::from([("copy".to_owned(), "yes".to_owned())]));
        for (key, tags, expected) in [
            ("x", &none, vec!["all"]),
            ("x", &yes, vec!["all", "tagged"]),
            ("logs/x", &yes, vec!["logs", "tagged"]),
            ("old/x", &none, vec!["all", "first"]),
        ] {
            let (status, notes) = rules.of_version(source, key, tags).unwrap();
            assert_eq!(status, Some(ReplicationStatus::Pending));
            assert_eq!(ids(notes), expected, "{key} {tags:?}");
        }
        assert_eq!(ids(rules.of_marker(source, "x").unwrap()), Vec::<String>::new());
        assert_eq!(ids(rules.of_marker(source, "logs/x").unwrap()), ["logs"]);
        assert_eq!(ids(rules.of_marker(source, "old/x").unwrap()), ["first"]);
        assert_eq!(ids(rules.of_change(source, "x").unwrap()), ["all", "tagged"]);
        let nothing = ReplicationRules { rules: Vec::new(), ..rules };
        assert_eq!(nothing.of_version(source, "x", &none).unwrap(), (None, Vec::new()));
    }
}
