//! Rules by which objects, versions and uploads end by themselves.
//!
//! Source: "Managing the lifecycle of objects" of the S3 user guide. Time is counted in days of UTC: what a rule names
//! ends at the first midnight at which its days have gone by. [`Lifecycle`] does what the rules say, once a day.

mod worker;

pub use worker::{Lifecycle, Pass};

use serde::{Deserialize, Serialize};
use std::time::Duration;
use terroir_store::Txn;
use terroir_types::{Error, Timestamp};

use crate::backend::StringMap;
use crate::model::Bucket;
use crate::settings::{self, BucketSetting};

/// How long a day is: 24 hours, unless the operator tries rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day(Duration);

impl Default for Day {
    fn default() -> Self {
        Self(Duration::from_secs(24 * 60 * 60))
    }
}

impl Day {
    /// At least one second.
    pub fn of(length: Duration) -> Self {
        Self(length.max(Duration::from_secs(1)))
    }

    fn millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// The day that a moment lies in, counted from 1970.
    fn number(self, at: Timestamp) -> i64 {
        at.millis().div_euclid(self.millis())
    }

    /// The first midnight at least `days` after a moment.
    pub fn after(self, at: Timestamp, days: u32) -> Timestamp {
        let due = at.plus(self.0.saturating_mul(days)).millis();
        let beyond = due.rem_euclid(self.millis());
        Timestamp::from_millis(if beyond == 0 { due } else { due - beyond + self.millis() })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRules {
    #[serde(rename = "r")]
    pub rules: Vec<Rule>,
}

impl BucketSetting for LifecycleRules {
    const NAME: &'static str = "lifecycle";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    #[serde(rename = "i")]
    pub id: String,
    #[serde(rename = "e")]
    pub enabled: bool,
    #[serde(rename = "f")]
    pub filter: Filter,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Expiration>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub noncurrent: Option<NoncurrentExpiration>,
    /// Days after which uploads that were not completed are aborted.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub abort_uploads: Option<u32>,
}

/// All of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    #[serde(rename = "f")]
    pub form: FilterForm,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(rename = "t", default, skip_serializing_if = "StringMap::is_empty")]
    pub tags: StringMap,
    /// In bytes.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
}

/// How the filter was written, so that it is given back the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterForm {
    /// `Filter` with at most one element.
    #[default]
    #[serde(rename = "1")]
    Single,
    #[serde(rename = "a")]
    And,
    /// `Prefix` in the rule itself, as before there were filters.
    #[serde(rename = "p")]
    Prefix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    #[serde(rename = "d")]
    Days(u32),
    /// From this midnight on.
    #[serde(rename = "t")]
    Date(Timestamp),
    /// Whether delete markers go that hide nothing any more.
    #[serde(rename = "m")]
    DeleteMarkers(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentExpiration {
    /// Days since the next newer version was written.
    #[serde(rename = "d")]
    pub days: u32,
    /// So many of the newest noncurrent versions stay.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
}

/// What rules ask of a version.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub key: &'a str,
    pub modified: Timestamp,
    /// None: a delete marker.
    pub bytes: Option<(u64, &'a StringMap)>,
}

impl Filter {
    /// Tags and sizes are of bytes: a filter that asks for them matches no delete marker.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        if !self.matches_key(facts.key) {
            return false;
        }
        match facts.bytes {
            None => !self.asks_for_bytes(),
            Some((size, tags)) => {
                self.tags.iter().all(|(name, value)| tags.get(name) == Some(value))
                    && self.larger_than.is_none_or(|bound| size > bound)
                    && self.smaller_than.is_none_or(|bound| size < bound)
            }
        }
    }

    pub fn matches_key(&self, key: &str) -> bool {
        self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
    }

    pub fn asks_for_bytes(&self) -> bool {
        !self.tags.is_empty() || self.larger_than.is_some() || self.smaller_than.is_some()
    }
}

impl Expiration {
    /// When an object that was written at `modified` expires; none: by another rule only.
    fn at(self, modified: Timestamp, day: Day) -> Option<Timestamp> {
        match self {
            Self::Days(days) => Some(day.after(modified, days)),
            Self::Date(date) => Some(date),
            Self::DeleteMarkers(_) => None,
        }
    }
}

impl LifecycleRules {
    fn matching<'a>(&'a self, facts: Facts<'a>) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.enabled && rule.filter.matches(&facts))
    }

    /// When the object that is the newest version expires, and by which rule: the earliest of all that match.
    pub fn expiry(&self, facts: Facts<'_>, day: Day) -> Option<(Timestamp, &str)> {
        facts.bytes?;
        self.rules
            .iter()
            .filter(|rule| rule.enabled && rule.filter.matches(&facts))
            .filter_map(|rule| Some((rule.expiration?.at(facts.modified, day)?, rule.id.as_str())))
            .min_by_key(|(at, _)| *at)
    }

    /// Whether a version that is not the newest goes. `newer`: how many noncurrent ones of its key are newer.
    pub fn removes_noncurrent(
        &self,
        facts: Facts<'_>,
        noncurrent_since: Timestamp,
        newer: u64,
        now: Timestamp,
        day: Day,
    ) -> bool {
        self.matching(facts).filter_map(|rule| rule.noncurrent).any(|noncurrent| {
            let enough = noncurrent.keep.is_none_or(|keep| newer >= u64::from(keep));
            enough && day.after(noncurrent_since, noncurrent.days) <= now
        })
    }

    /// Whether a delete marker goes that is all that is left of its key.
    pub fn removes_marker(&self, facts: Facts<'_>, now: Timestamp, day: Day) -> bool {
        self.matching(facts).filter_map(|rule| rule.expiration).any(|expiration| match expiration {
            Expiration::DeleteMarkers(removes) => removes,
            other => other.at(facts.modified, day).is_some_and(|at| at <= now),
        })
    }

    /// When an upload that was begun at `initiated` is aborted, and by which rule: the earliest of all that match.
    pub fn abortion(&self, key: &str, initiated: Timestamp, day: Day) -> Option<(Timestamp, &str)> {
        self.rules
            .iter()
            .filter(|rule| rule.enabled && rule.filter.matches_key(key))
            .filter_map(|rule| Some((day.after(initiated, rule.abort_uploads?), rule.id.as_str())))
            .min_by_key(|(at, _)| *at)
    }

    fn has_uploads(&self) -> bool {
        self.rules.iter().any(|rule| rule.enabled && rule.abort_uploads.is_some())
    }

    fn has_versions(&self) -> bool {
        self.rules.iter().any(|rule| rule.enabled && (rule.expiration.is_some() || rule.noncurrent.is_some()))
    }
}

/// How far the worker is in a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// The day whose pass this is.
    #[serde(rename = "d")]
    day: i64,
    /// Everything up to this key is done; none: all is.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl BucketSetting for Progress {
    const NAME: &'static str = "lifecycle-progress";
}

/// New rules hold from the next look of the worker on; none: there are no rules any more.
///
/// # Errors
/// Those of the transaction.
pub fn set_rules(txn: &mut Txn, bucket: &Bucket, rules: Option<&LifecycleRules>) -> Result<(), Error> {
    settings::remove::<Progress>(txn, bucket.id)?;
    match rules {
        Some(rules) => settings::put(txn, bucket, rules),
        None => settings::remove::<LifecycleRules>(txn, bucket.id).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn rule(filter: Filter, expiration: Expiration) -> Rule {
        let id = format!("{expiration:?}");
        Rule { id, enabled: true, filter, expiration: Some(expiration), noncurrent: None, abort_uploads: None }
    }

    #[test]
    fn days_end_at_midnight() {
        let day = Day::default();
        for (from, days, to) in [
            ("2026-01-01T10:30:00Z", 1, "2026-01-03T00:00:00Z"),
            ("2026-01-01T00:00:00Z", 1, "2026-01-02T00:00:00Z"),
            ("2026-01-01T00:00:00.001Z", 1, "2026-01-03T00:00:00Z"),
            ("2025-12-31T23:59:59Z", 30, "2026-01-31T00:00:00Z"),
        ] {
            assert_eq!(day.after(at(from), days), at(to), "{from} and {days} days");
        }
        assert_eq!(Day::of(Duration::from_secs(10)).after(at("2026-01-01T00:00:01Z"), 2), at("2026-01-01T00:00:30Z"));
    }

    #[test]
    fn the_earliest_rule_that_matches() {
        let filter = |prefix: &str| Filter { prefix: Some(prefix.to_owned()), ..Filter::default() };
        let tagged = Filter { tags: [("a".to_owned(), "b".to_owned())].into(), ..Filter::default() };
        let sized = Filter { larger_than: Some(10), smaller_than: Some(20), ..Filter::default() };
        let disabled = Rule { enabled: false, ..rule(Filter::default(), Expiration::Days(1)) };
        let rules = LifecycleRules {
            rules: vec![
                disabled,
                rule(filter("logs/"), Expiration::Days(5)),
                rule(filter("logs/old/"), Expiration::Days(2)),
                rule(tagged, Expiration::Date(at("2026-02-01T00:00:00Z"))),
                rule(sized, Expiration::Days(90)),
                rule(filter("marked/"), Expiration::DeleteMarkers(true)),
            ],
        };
        let (none, tags) = (StringMap::new(), StringMap::from([("a".into(), "b".into()), ("c".into(), "d".into())]));
        let expiry = |key: &str, size: u64, tags: &StringMap| {
            let facts = Facts { key, modified: at("2026-01-01T12:00:00Z"), bytes: Some((size, tags)) };
            rules.expiry(facts, Day::default()).map(|(at, _)| at)
        };
        for (key, size, tags, wanted) in [
            ("other", 5, &none, None),
            ("marked/x", 5, &none, None),
            ("logs/x", 5, &none, Some("2026-01-07T00:00:00Z")),
            ("logs/old/x", 5, &none, Some("2026-01-04T00:00:00Z")),
            ("logs/old/x", 5, &tags, Some("2026-01-04T00:00:00Z")),
            ("other", 5, &tags, Some("2026-02-01T00:00:00Z")),
            ("other", 10, &none, None),
            ("other", 11, &none, Some("2026-04-02T00:00:00Z")),
            ("other", 20, &none, None),
        ] {
            assert_eq!(expiry(key, size, tags), wanted.map(at), "{key} of {size} bytes with {tags:?}");
        }
        let marker = |key| Facts { key, modified: at("2026-01-01T12:00:00Z"), bytes: None };
        let removes = |key, now| rules.removes_marker(marker(key), at(now), Day::default());
        assert!(removes("marked/x", "2026-01-01T12:00:00Z"), "whatever its age");
        assert!(!removes("logs/x", "2026-01-06T23:59:59Z") && removes("logs/x", "2026-01-07T00:00:00Z"));
        assert!(!removes("other", "2027-01-01T00:00:00Z"), "filters of bytes match no marker");
    }

    #[test]
    fn noncurrent_versions_are_counted_from_what_replaced_them() {
        let noncurrent = NoncurrentExpiration { days: 3, keep: Some(2) };
        let rules = LifecycleRules {
            rules: vec![Rule {
                expiration: None,
                noncurrent: Some(noncurrent),
                ..rule(Filter::default(), Expiration::Days(1))
            }],
        };
        let facts = Facts { key: "k", modified: at("2020-01-01T00:00:00Z"), bytes: None };
        let removes =
            |newer, now| rules.removes_noncurrent(facts, at("2026-01-01T12:00:00Z"), newer, at(now), Day::default());
        assert!(!removes(1, "2027-01-01T00:00:00Z"), "one of the two that stay");
        assert!(removes(2, "2026-01-05T00:00:00Z") && !removes(2, "2026-01-04T23:59:59Z"));
    }
}
