use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::territory::{all_countries, expand, is_territory};

/// Most entries of one list, and most characters of an entry.
pub const MAX_ENTRIES: usize = 300;
const MAX_NAME: usize = 64;
/// Most distinct operators or fire zones that a policy may demand.
pub const MOST_SEPARATE: u32 = 16;

/// What an account or a resource demands of every place where its data and machines are. [`Policy::default`] demands
/// nothing.
///
/// As JSON, with every member optional:
///
/// ```json
/// {
///   "countries":     {"allow": ["EU"]},
///   "operators":     {"deny": ["hoster.example"]},
///   "seats":         {"allow": ["EU"]},
///   "parents":       {"allow": ["EU"]},
///   "jurisdictions": {"deny": ["US"]},
///   "certifications": ["SecNumCloud"],
///   "separation": {"operators": 2, "fire_zones": 2},
///   "key_custody": "customer"
/// }
/// ```
///
/// A list `allow` that is left out allows all. `EU` and `EEA` stand for themselves and their members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Countries of sites.
    #[serde(skip_serializing_if = "Allowance::is_open")]
    pub countries: Allowance,
    /// Ids of operators.
    #[serde(skip_serializing_if = "Allowance::is_open")]
    pub operators: Allowance,
    /// Countries of operators' seats.
    #[serde(skip_serializing_if = "Allowance::is_open")]
    pub seats: Allowance,
    /// Countries of operators' ultimate parents.
    #[serde(skip_serializing_if = "Allowance::is_open")]
    pub parents: Allowance,
    /// Everything whose law reaches the place: the site's country, seat, parent, and what the operator states besides.
    #[serde(skip_serializing_if = "Allowance::is_open")]
    pub jurisdictions: Allowance,
    /// The operator must hold all of them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub certifications: BTreeSet<String>,
    #[serde(skip_serializing_if = "Separation::is_default")]
    pub separation: Separation,
    #[serde(skip_serializing_if = "KeyCustody::is_operator")]
    pub key_custody: KeyCustody,
}

/// What may be, and what may not be although it is among that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allowance {
    /// `None`: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub deny: BTreeSet<String>,
}

impl Allowance {
    /// Whether it says nothing at all.
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    fn allows(&self, value: &str) -> bool {
        !self.deny.contains(value) && self.allow.as_ref().is_none_or(|allow| allow.contains(value))
    }

    fn and(&self, other: &Self) -> Self {
        let allow = match (&self.allow, &other.allow) {
            (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
            (one, None) | (None, one) => one.clone(),
        };
        Self { allow, deny: self.deny.union(&other.deny).cloned().collect() }
    }

    fn expand(&mut self) {
        self.allow = self.allow.as_ref().map(expand);
        self.deny = expand(&self.deny);
    }
}

/// How many distinct operators and fire zones the copies of something must be spread over, the original among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Separation {
    pub operators: u32,
    pub fire_zones: u32,
}

impl Default for Separation {
    fn default() -> Self {
        Self { operators: 1, fire_zones: 1 }
    }
}

impl Separation {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who holds the keys without which the bytes on disk are noise. A later one is the stronger demand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyCustody {
    #[default]
    Operator,
    Customer,
}

impl KeyCustody {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
    fn is_operator(&self) -> bool {
        *self == Self::Operator
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Customer => "customer",
        }
    }
}

/// Why a document is no usable policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("this is no sovereignty policy: {0}")]
    Json(String),
    #[error("{list}: '{code}' is no country of ISO 3166 (two capital letters), nor EU or EEA")]
    Country { list: &'static str, code: String },
    #[error("{list}: '{name}' is empty, too long or holds white space")]
    Name { list: &'static str, name: String },
    #[error("operators: there is no operator '{operator}'")]
    UnknownOperator { operator: String },
    #[error("{list} has more than {MAX_ENTRIES} entries")]
    TooMany { list: &'static str },
    #[error("{list}.allow is empty and would allow nothing; leave it out to allow all")]
    EmptyAllow { list: &'static str },
    #[error("separation: {0} is not between 1 and {MOST_SEPARATE}")]
    Separation(u32),
    #[error("{list}: nothing is left that the policy would allow")]
    NothingLeft { list: &'static str },
    #[error("separation wants {wanted} operators, and no more than {allowed} are allowed")]
    TooFewOperators { wanted: u32, allowed: u32 },
}

impl Policy {
    /// Reads and checks a document. Groups of countries are unfolded.
    ///
    /// # Errors
    /// The first thing that is wrong; also a contradiction that no place could ever fulfil.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let json = |error: serde_json::Error| Problem::Json(error.to_string());
        let document: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        check_objects(&document)?;
        let mut policy: Self = serde_json::from_value(document).map_err(json)?;
        policy.check_entries()?;
        for list in [&mut policy.countries, &mut policy.seats, &mut policy.parents, &mut policy.jurisdictions] {
            list.expand();
        }
        policy.check_satisfiable()?;
        Ok(policy)
    }

    /// As [`Policy::parse`] takes it, with groups of countries folded again.
    pub fn to_json(&self) -> String {
        let mut folded = self.clone();
        for list in [&mut folded.countries, &mut folded.seats, &mut folded.parents, &mut folded.jurisdictions] {
            list.allow = list.allow.as_ref().map(crate::collapse);
            list.deny = crate::collapse(&list.deny);
        }
        // Plain data with text for keys.
        serde_json::to_string(&folded).unwrap_or_default()
    }

    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// What both allow. It allows a place exactly if each of them does.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            countries: self.countries.and(&other.countries),
            operators: self.operators.and(&other.operators),
            seats: self.seats.and(&other.seats),
            parents: self.parents.and(&other.parents),
            jurisdictions: self.jurisdictions.and(&other.jurisdictions),
            certifications: self.certifications.union(&other.certifications).cloned().collect(),
            separation: Separation {
                operators: self.separation.operators.max(other.separation.operators),
                fire_zones: self.separation.fire_zones.max(other.separation.fire_zones),
            },
            key_custody: self.key_custody.max(other.key_custody),
        }
    }

    /// Whether every operator that it names is known.
    ///
    /// # Errors
    /// [`Problem::UnknownOperator`].
    pub fn check_operators(&self, known: impl Fn(&str) -> bool) -> Result<(), Problem> {
        let mut named = self.operators.allow.iter().flatten().chain(&self.operators.deny);
        match named.find(|id| !known(id)) {
            Some(operator) => Err(Problem::UnknownOperator { operator: operator.clone() }),
            None => Ok(()),
        }
    }

    fn territories(&self) -> [(&'static str, &Allowance); 4] {
        [
            ("countries", &self.countries),
            ("seats", &self.seats),
            ("parents", &self.parents),
            ("jurisdictions", &self.jurisdictions),
        ]
    }

    fn check_entries(&self) -> Result<(), Problem> {
        for (list, allowance) in self.territories() {
            check_list(list, allowance, |code| match is_territory(code) {
                true => Ok(()),
                false => Err(Problem::Country { list, code: code.to_owned() }),
            })?;
        }
        check_list("operators", &self.operators, |name| check_name("operators", name))?;
        let wanted = Allowance { allow: None, deny: self.certifications.clone() };
        check_list("certifications", &wanted, |name| check_name("certifications", name))?;
        for count in [self.separation.operators, self.separation.fire_zones] {
            if !(1..=MOST_SEPARATE).contains(&count) {
                return Err(Problem::Separation(count));
            }
        }
        Ok(())
    }

    /// Whether a place is thinkable that fulfils everything. Combined policies may leave none.
    ///
    /// # Errors
    /// [`Problem::NothingLeft`], [`Problem::TooFewOperators`].
    pub fn check_satisfiable(&self) -> Result<(), Problem> {
        for (list, allowance) in self.territories() {
            let left = |code: &str| allowance.allows(code) && self.jurisdictions.allows(code);
            if !all_countries().any(left) {
                return Err(Problem::NothingLeft { list });
            }
        }
        let Some(allow) = &self.operators.allow else { return Ok(()) };
        let left = u32::try_from(allow.difference(&self.operators.deny).count()).unwrap_or(u32::MAX);
        match left {
            0 => Err(Problem::NothingLeft { list: "operators" }),
            allowed if allowed < self.separation.operators => {
                Err(Problem::TooFewOperators { wanted: self.separation.operators, allowed })
            }
            _ => Ok(()),
        }
    }
}

/// An empty array would pass for an object without members, which demands nothing.
fn check_objects(document: &serde_json::Value) -> Result<(), Problem> {
    const OBJECTS: [&str; 6] = ["countries", "operators", "seats", "parents", "jurisdictions", "separation"];
    let Some(members) = document.as_object() else {
        return Err(Problem::Json("it is not an object".to_owned()));
    };
    match OBJECTS.into_iter().find(|name| members.get(*name).is_some_and(|member| !member.is_object())) {
        Some(name) => Err(Problem::Json(format!("{name} is not an object"))),
        None => Ok(()),
    }
}

fn check_list(
    list: &'static str,
    allowance: &Allowance,
    check: impl Fn(&str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let entries = allowance.allow.as_ref().map_or(0, BTreeSet::len) + allowance.deny.len();
    if entries > MAX_ENTRIES {
        return Err(Problem::TooMany { list });
    }
    if allowance.allow.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(Problem::EmptyAllow { list });
    }
    allowance.allow.iter().flatten().chain(&allowance.deny).try_for_each(|entry| check(entry))
}

fn check_name(list: &'static str, name: &str) -> Result<(), Problem> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits && name.trim() == name { Ok(()) } else { Err(Problem::Name { list, name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_checked() {
        for (text, complaint) in [
            ("{}", None),
            (r#"{"countries":{"allow":["EU","CH"]},"separation":{"operators":2}}"#, None),
            (r#"{"certifications":["ISO 27001"],"key_custody":"customer"}"#, None),
            ("[]", Some("it is not an object")),
            (r#"{"countries":[]}"#, Some("countries is not an object")),
            (r#"{"countries":{"allow":null}}"#, None),
            ("{", Some("no sovereignty policy")),
            (r#"{"country":{}}"#, Some("unknown field `country`")),
            (r#"{"countries":{"allow":["UK"]}}"#, Some("'UK' is no country")),
            (r#"{"seats":{"deny":["fr"]}}"#, Some("seats: 'fr' is no country")),
            (r#"{"parents":{"allow":[]}}"#, Some("parents.allow is empty")),
            (r#"{"operators":{"allow":[""]}}"#, Some("operators: ''")),
            (r#"{"certifications":[" C5"]}"#, Some("certifications: ' C5'")),
            (r#"{"separation":{"operators":0}}"#, Some("0 is not between")),
            (r#"{"separation":{"fire_zones":17}}"#, Some("17 is not between")),
            (r#"{"key_custody":"nobody"}"#, Some("unknown variant")),
            (r#"{"countries":{"allow":["FR"],"deny":["EU"]}}"#, Some("countries: nothing is left")),
            (r#"{"countries":{"allow":["US"]},"jurisdictions":{"deny":["US"]}}"#, Some("countries: nothing is left")),
            (r#"{"parents":{"allow":["US"]},"jurisdictions":{"allow":["EU"]}}"#, Some("parents: nothing is left")),
            (r#"{"operators":{"allow":["a"],"deny":["a"]}}"#, Some("operators: nothing is left")),
            (r#"{"operators":{"allow":["a"]},"separation":{"operators":2}}"#, Some("no more than 1")),
        ] {
            match (Policy::parse(text), complaint) {
                (Ok(policy), None) => assert_eq!(Policy::parse(&policy.to_json()), Ok(policy), "{text}"),
                (Err(problem), Some(words)) => assert!(problem.to_string().contains(words), "{problem} / {words}"),
                (got, wanted) => panic!("{text}: {got:?}, wanted {wanted:?}"),
            }
        }
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| n.to_string()).collect();
        let text = serde_json::json!({ "operators": { "deny": many } }).to_string();
        assert_eq!(Policy::parse(&text), Err(Problem::TooMany { list: "operators" }));
    }

    #[test]
    fn operators_must_be_known() {
        let policy = Policy::parse(r#"{"operators":{"allow":["a","b"],"deny":["c"]}}"#).unwrap();
        assert_eq!(policy.check_operators(|id| "abc".contains(id)), Ok(()));
        let unknown = Problem::UnknownOperator { operator: "c".to_owned() };
        assert_eq!(policy.check_operators(|id| "ab".contains(id)), Err(unknown));
    }
}
