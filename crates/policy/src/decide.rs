use std::collections::BTreeSet;
use std::fmt;

use crate::document::Allowance;
use crate::{KeyCustody, Place, Policy};

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    Operator,
    Country,
    Seat,
    Parent,
    Jurisdiction,
}

impl Attribute {
    const fn words(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Country => "country of the site",
            Self::Seat => "country of the operator's seat",
            Self::Parent => "country of the operator's parent",
            Self::Jurisdiction => "jurisdiction",
        }
    }
}

/// The rule that forbids a place, for people to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forbidden {
    /// It is not among what the policy allows.
    NotAllowed {
        about: Attribute,
        value: String,
    },
    Denied {
        about: Attribute,
        value: String,
    },
    /// There is a rule about it, and the place does not say what it is.
    NotStated {
        about: Attribute,
    },
    Certification {
        missing: String,
    },
    KeyCustody {
        wanted: KeyCustody,
        offered: KeyCustody,
    },
    /// Copies share an operator.
    Operators {
        wanted: u32,
        distinct: u32,
    },
    /// Copies share a fire zone, or do not state theirs.
    FireZones {
        wanted: u32,
        distinct: u32,
    },
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { about, value } => write!(f, "the policy does not allow the {} '{value}'", about.words()),
            Self::Denied { about, value } => write!(f, "the policy denies the {} '{value}'", about.words()),
            Self::NotStated { about } => {
                write!(f, "the policy has a rule about the {}, which is not stated", about.words())
            }
            Self::Certification { missing } => write!(f, "the policy wants the certification '{missing}'"),
            Self::KeyCustody { wanted, offered } => {
                write!(f, "the policy wants keys held by the {}, not by the {}", wanted.name(), offered.name())
            }
            Self::Operators { wanted, distinct } => {
                write!(f, "the policy wants copies at {wanted} operators, and there would be {distinct}")
            }
            Self::FireZones { wanted, distinct } => {
                write!(f, "the policy wants copies in {wanted} fire zones, and there would be {distinct}")
            }
        }
    }
}

/// Whether `policy` lets data and machines be at `place`.
///
/// # Errors
/// The first rule that forbids it.
pub fn decide(policy: &Policy, place: &Place<'_>) -> Result<(), Forbidden> {
    let operator = place.operator;
    let id = Some(operator.id.as_str()).filter(|id| !id.is_empty());
    one(&policy.operators, Attribute::Operator, id)?;
    one(&policy.countries, Attribute::Country, place.site.country.as_deref())?;
    one(&policy.seats, Attribute::Seat, operator.seat.as_deref())?;
    one(&policy.parents, Attribute::Parent, operator.parent_country.as_deref())?;
    if !policy.jurisdictions.is_open() {
        let reach = place.reach().ok_or(Forbidden::NotStated { about: Attribute::Jurisdiction })?;
        for code in reach {
            one(&policy.jurisdictions, Attribute::Jurisdiction, Some(code))?;
        }
    }
    if let Some(missing) = policy.certifications.difference(&operator.certifications).next() {
        return Err(Forbidden::Certification { missing: missing.clone() });
    }
    if place.key_custody < policy.key_custody {
        return Err(Forbidden::KeyCustody { wanted: policy.key_custody, offered: place.key_custody });
    }
    Ok(())
}

fn one(rule: &Allowance, about: Attribute, value: Option<&str>) -> Result<(), Forbidden> {
    if rule.is_open() {
        return Ok(());
    }
    let value = value.ok_or(Forbidden::NotStated { about })?;
    if rule.deny.contains(value) {
        return Err(Forbidden::Denied { about, value: value.to_owned() });
    }
    match &rule.allow {
        Some(allow) if !allow.contains(value) => Err(Forbidden::NotAllowed { about, value: value.to_owned() }),
        _ => Ok(()),
    }
}

/// Whether copies at all of `places`, the original among them, are as far apart as `policy` wants. Whether each place is
/// allowed is another question: [`decide`].
///
/// # Errors
/// [`Forbidden::Operators`] or [`Forbidden::FireZones`].
pub fn separate(policy: &Policy, places: &[Place<'_>]) -> Result<(), Forbidden> {
    let wanted = policy.separation;
    let count = |set: BTreeSet<&str>| u32::try_from(set.len()).unwrap_or(u32::MAX);
    let operators = count(places.iter().map(|place| place.operator.id.as_str()).filter(|id| !id.is_empty()).collect());
    if wanted.operators > 1 && operators < wanted.operators {
        return Err(Forbidden::Operators { wanted: wanted.operators, distinct: operators });
    }
    let zones = count(places.iter().filter_map(Place::fire_zone).collect());
    if wanted.fire_zones > 1 && zones < wanted.fire_zones {
        return Err(Forbidden::FireZones { wanted: wanted.fire_zones, distinct: zones });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Operator, Site};

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    /// A site in France of an operator seated there whose parent is American.
    fn american() -> (Operator, Site) {
        let operator = Operator {
            id: "acme".into(),
            name: "Acme SAS".into(),
            seat: Some("FR".into()),
            parent: "Acme Inc.".into(),
            parent_country: Some("US".into()),
            jurisdictions: Some(set(&["EU"])),
            certifications: set(&["C5"]),
        };
        let site = Site {
            id: "eu-1a".into(),
            operator: "acme".into(),
            country: Some("FR".into()),
            fire_zones: set(&["rbx1"]),
            ..Site::default()
        };
        (operator, site)
    }

    #[test]
    fn the_rule_that_forbids_is_named() {
        let (operator, site) = american();
        let place = Place::new(&operator, &site);
        for (policy, forbidden) in [
            ("{}", None),
            (r#"{"operators":{"allow":["other"]}}"#, Some("does not allow the operator 'acme'")),
            (r#"{"operators":{"deny":["acme"]}}"#, Some("denies the operator 'acme'")),
            (r#"{"countries":{"allow":["DE"]}}"#, Some("does not allow the country of the site 'FR'")),
            (r#"{"countries":{"deny":["EU"]}}"#, Some("denies the country of the site 'FR'")),
            (r#"{"countries":{"allow":["EU"]}}"#, None),
            (r#"{"seats":{"deny":["FR"]}}"#, Some("denies the country of the operator's seat 'FR'")),
            (r#"{"parents":{"allow":["EU"]}}"#, Some("does not allow the country of the operator's parent 'US'")),
            (r#"{"parents":{"allow":["EU","US"]}}"#, None),
            (r#"{"jurisdictions":{"deny":["US"]}}"#, Some("denies the jurisdiction 'US'")),
            (r#"{"jurisdictions":{"allow":["FR","US"]}}"#, Some("does not allow the jurisdiction 'EU'")),
            (r#"{"jurisdictions":{"allow":["EU","US"],"deny":["CN"]}}"#, None),
            (r#"{"certifications":["C5","SecNumCloud"]}"#, Some("wants the certification 'SecNumCloud'")),
            (r#"{"key_custody":"customer"}"#, Some("keys held by the customer, not by the operator")),
        ] {
            match (decide(&Policy::parse(policy).unwrap(), &place), forbidden) {
                (Ok(()), None) => {}
                (Err(rule), Some(words)) => assert!(rule.to_string().contains(words), "{rule} / {words}"),
                (got, wanted) => panic!("{policy}: {got:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn a_blank_opens_no_door() {
        let (operator, site) = (Operator::default(), Site::default());
        let place = Place::new(&operator, &site);
        for policy in [
            r#"{"operators":{"allow":["a"]}}"#,
            r#"{"operators":{"deny":["a"]}}"#,
            r#"{"countries":{"deny":["US"]}}"#,
            r#"{"seats":{"allow":["EU"]}}"#,
            r#"{"parents":{"deny":["US"]}}"#,
            r#"{"jurisdictions":{"deny":["US"]}}"#,
            r#"{"certifications":["C5"]}"#,
        ] {
            assert!(decide(&Policy::parse(policy).unwrap(), &place).is_err(), "{policy}");
        }
        // Of everything whose law reaches, the operator left out one thing.
        let (operator, site) = american();
        let silent = Operator { parent_country: Some("FR".into()), jurisdictions: None, ..operator };
        let policy = Policy::parse(r#"{"jurisdictions":{"deny":["US"]}}"#).unwrap();
        let not_stated = Forbidden::NotStated { about: Attribute::Jurisdiction };
        assert_eq!(decide(&policy, &Place::new(&silent, &site)), Err(not_stated));
    }

    #[test]
    fn copies_are_kept_apart() {
        let (acme, here) = american();
        let there = Site { id: "eu-1b".into(), fire_zones: set(&["rbx2"]), ..here.clone() };
        let two = Site { fire_zones: set(&["rbx1", "rbx2"]), ..here.clone() };
        let other = Operator { id: "other".into(), ..acme.clone() };
        let at = |operator, site| Place { host_fire_zone: None, ..Place::new(operator, site) };
        let apart = |text: &str, places: &[Place<'_>]| separate(&Policy::parse(text).unwrap(), places).is_ok();
        let operators = r#"{"separation":{"operators":2}}"#;
        let zones = r#"{"separation":{"fire_zones":2}}"#;
        assert!(apart("{}", &[at(&acme, &here), at(&acme, &here)]));
        assert!(!apart(operators, &[at(&acme, &here), at(&acme, &there)]));
        assert!(apart(operators, &[at(&acme, &here), at(&other, &here)]));
        assert!(!apart(zones, &[at(&acme, &here), at(&other, &here)]), "two operators in one building");
        assert!(apart(zones, &[at(&acme, &here), at(&acme, &there)]));
        assert!(!apart(zones, &[at(&acme, &two), at(&acme, &here)]), "which of two zones is not stated");
        let known = Place { host_fire_zone: Some("rbx2"), ..at(&acme, &two) };
        assert!(apart(zones, &[known, at(&acme, &here)]));
    }
}
