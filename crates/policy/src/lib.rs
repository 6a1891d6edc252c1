//! Sovereignty policy against the attributes of an operator and its site: allowed, or the rule that forbids (DESIGN §2).
//!
//! Pure: control plane and host evaluate the same function, so that a host can refuse an order that its own attributes
//! contradict. Countries and jurisdictions are ISO 3166-1 alpha-2 codes or names such as `EU`, compared as they stand.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A legal entity that runs machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operator {
    pub name: String,
    /// Country of its seat.
    pub seat: String,
    /// Country of its ultimate parent; the same as `seat` without one.
    pub parent: String,
    /// Whose courts and authorities can compel it.
    pub jurisdictions: BTreeSet<String>,
    pub certifications: BTreeSet<String>,
}

/// A place of one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    pub name: String,
    pub country: String,
}

/// What an account or a resource demands. An empty set demands nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    pub operators: BTreeSet<String>,
    pub site_countries: BTreeSet<String>,
    /// Countries in which the operator's seat and its ultimate parent must be.
    pub operator_countries: BTreeSet<String>,
    pub forbidden_jurisdictions: BTreeSet<String>,
    /// The operator must hold all of them.
    pub certifications: BTreeSet<String>,
}

/// The rule that forbids a place, for people to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forbidden {
    Operator { operator: String },
    SiteCountry { country: String },
    SeatCountry { country: String },
    ParentCountry { country: String },
    Jurisdiction { jurisdiction: String },
    Certification { missing: String },
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { operator } => write!(f, "the policy does not allow the operator '{operator}'"),
            Self::SiteCountry { country } => write!(f, "the policy does not allow sites in '{country}'"),
            Self::SeatCountry { country } => write!(f, "the policy does not allow operators seated in '{country}'"),
            Self::ParentCountry { country } => {
                write!(f, "the policy does not allow operators with a parent in '{country}'")
            }
            Self::Jurisdiction { jurisdiction } => write!(f, "the policy excludes the jurisdiction '{jurisdiction}'"),
            Self::Certification { missing } => write!(f, "the policy wants the certification '{missing}'"),
        }
    }
}

/// Whether `policy` lets data and machines be at `site` of `operator`.
///
/// What an operator or a site does not state counts as not fulfilling a demand: a blank never opens a door.
pub fn check(policy: &Policy, operator: &Operator, site: &Site) -> Result<(), Forbidden> {
    let allows = |set: &BTreeSet<String>, value: &str| set.is_empty() || set.contains(value);
    if !allows(&policy.operators, &operator.name) {
        return Err(Forbidden::Operator { operator: operator.name.clone() });
    }
    if !allows(&policy.site_countries, &site.country) {
        return Err(Forbidden::SiteCountry { country: site.country.clone() });
    }
    if !allows(&policy.operator_countries, &operator.seat) {
        return Err(Forbidden::SeatCountry { country: operator.seat.clone() });
    }
    if !allows(&policy.operator_countries, &operator.parent) {
        return Err(Forbidden::ParentCountry { country: operator.parent.clone() });
    }
    if let Some(jurisdiction) = reaching(operator, site).find(|j| policy.forbidden_jurisdictions.contains(*j)) {
        return Err(Forbidden::Jurisdiction { jurisdiction: jurisdiction.to_owned() });
    }
    if let Some(missing) = policy.certifications.difference(&operator.certifications).next() {
        return Err(Forbidden::Certification { missing: missing.clone() });
    }
    Ok(())
}

/// Everything whose law reaches the place: the site's country, the seat, the parent, and what the operator names.
fn reaching<'a>(operator: &'a Operator, site: &'a Site) -> impl Iterator<Item = &'a str> {
    [site.country.as_str(), operator.seat.as_str(), operator.parent.as_str()]
        .into_iter()
        .chain(operator.jurisdictions.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn the_rule_that_forbids_is_named() {
        let operator = Operator {
            name: "acme".into(),
            seat: "FR".into(),
            parent: "US".into(),
            jurisdictions: set(&["EU"]),
            certifications: set(&["C5"]),
        };
        let site = Site { name: "rbx".into(), country: "FR".into() };
        let any = Policy::default();
        let rows = [
            (any.clone(), None),
            (Policy { operators: set(&["other"]), ..any.clone() }, Some("operator 'acme'")),
            (Policy { site_countries: set(&["DE"]), ..any.clone() }, Some("sites in 'FR'")),
            (Policy { operator_countries: set(&["DE"]), ..any.clone() }, Some("seated in 'FR'")),
            (Policy { operator_countries: set(&["FR"]), ..any.clone() }, Some("parent in 'US'")),
            (Policy { operator_countries: set(&["FR", "US"]), ..any.clone() }, None),
            (Policy { forbidden_jurisdictions: set(&["US"]), ..any.clone() }, Some("jurisdiction 'US'")),
            (Policy { forbidden_jurisdictions: set(&["EU"]), ..any.clone() }, Some("jurisdiction 'EU'")),
            (Policy { forbidden_jurisdictions: set(&["CN"]), ..any.clone() }, None),
            (Policy { certifications: set(&["C5", "SecNumCloud"]), ..any }, Some("'SecNumCloud'")),
        ];
        for (policy, forbidden) in rows {
            match (check(&policy, &operator, &site), forbidden) {
                (Ok(()), None) => {}
                (Err(rule), Some(words)) => assert!(rule.to_string().contains(words), "{rule} / {words}"),
                (got, wanted) => panic!("{policy:?}: {got:?}, wanted {wanted:?}"),
            }
        }
        let blank = check(
            &Policy { site_countries: set(&["FR"]), ..Policy::default() },
            &Operator::default(),
            &Site::default(),
        );
        assert!(blank.is_err(), "a site that states no country fulfils no demand");
    }
}
