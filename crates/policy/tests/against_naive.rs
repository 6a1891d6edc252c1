//! `decide` and `and` against a second evaluator that works on the document as it was written, without unfolding groups
//! or combining policies.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use terroir_policy::{KeyCustody, Operator, Place, Policy, Site, decide};

const EU_HERE: [&str; 2] = ["FR", "DE"];
const CODES: [&str; 6] = ["FR", "DE", "US", "CH", "EU", "EEA"];
const COUNTRIES: [&str; 4] = ["FR", "DE", "US", "CH"];

/// Whether a list that a person wrote names the code.
fn names(list: &Value, code: &str) -> bool {
    let member = EU_HERE.contains(&code) || code == "EU";
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|entry| entry == code || (entry == "EU" && EU_HERE.contains(&code)) || (entry == "EEA" && member))
}

/// Whether all of `values` pass the rule called `name`; a value that is not stated passes only where there is no rule.
fn passes(policy: &Value, name: &str, values: &[Option<String>]) -> bool {
    let Some(rule) = policy.get(name) else { return true };
    if rule.get("allow").is_none() && rule.get("deny").is_none_or(|deny| deny == &json!([])) {
        return true;
    }
    values.iter().all(|value| {
        let Some(value) = value else { return false };
        let denied = rule.get("deny").is_some_and(|deny| names(deny, value));
        let allowed = rule.get("allow").is_none_or(|allow| names(allow, value));
        allowed && !denied
    })
}

fn naive(policy: &Value, operator: &Operator, site: &Site, custody: KeyCustody) -> bool {
    let mut reach = vec![site.country.clone(), operator.seat.clone(), operator.parent_country.clone()];
    match &operator.jurisdictions {
        Some(stated) => reach.extend(stated.iter().cloned().map(Some)),
        None => reach.push(None),
    }
    let certified = policy.get("certifications").and_then(Value::as_array).into_iter().flatten();
    passes(policy, "operators", &[Some(operator.id.clone()).filter(|id| !id.is_empty())])
        && passes(policy, "countries", std::slice::from_ref(&site.country))
        && passes(policy, "seats", std::slice::from_ref(&operator.seat))
        && passes(policy, "parents", std::slice::from_ref(&operator.parent_country))
        && passes(policy, "jurisdictions", &reach)
        && certified.filter_map(Value::as_str).all(|wanted| operator.certifications.contains(wanted))
        && (policy.get("key_custody") != Some(&json!("customer")) || custody == KeyCustody::Customer)
}

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set(proptest::sample::select(of).prop_map(str::to_owned), 0..=3)
}

fn rule(of: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    let allow = proptest::option::weighted(0.4, subset(of).prop_filter("an empty allow is refused", |s| !s.is_empty()));
    proptest::option::weighted(
        0.5,
        (allow, subset(of)).prop_map(|(allow, deny)| match allow {
            Some(allow) => json!({ "allow": allow, "deny": deny }),
            None => json!({ "deny": deny }),
        }),
    )
}

fn document() -> impl Strategy<Value = Value> {
    let territories = (rule(&CODES), rule(&CODES), rule(&CODES), rule(&CODES));
    (territories, rule(&["a", "b", "c"]), subset(&["C5", "ISO"]), any::<bool>()).prop_map(
        |((countries, seats, parents, jurisdictions), operators, certifications, customer)| {
            let mut document = serde_json::Map::new();
            let rules = [
                ("countries", countries),
                ("seats", seats),
                ("parents", parents),
                ("jurisdictions", jurisdictions),
                ("operators", operators),
            ];
            for (name, rule) in rules {
                document.extend(rule.map(|rule| (name.to_owned(), rule)));
            }
            if !certifications.is_empty() {
                document.insert("certifications".to_owned(), json!(certifications));
            }
            if customer {
                document.insert("key_custody".to_owned(), json!("customer"));
            }
            Value::Object(document)
        },
    )
}

fn country() -> impl Strategy<Value = Option<String>> {
    proptest::option::weighted(0.85, proptest::sample::select(&COUNTRIES[..]).prop_map(str::to_owned))
}

fn operator() -> impl Strategy<Value = Operator> {
    let jurisdictions = proptest::option::weighted(0.85, subset(&["FR", "US", "EU"]));
    let id = proptest::sample::select(&["a", "b", ""][..]);
    (id, country(), country(), jurisdictions, subset(&["C5", "ISO"])).prop_map(
        |(id, seat, parent_country, jurisdictions, certifications)| Operator {
            id: id.to_owned(),
            seat,
            parent_country,
            jurisdictions,
            certifications,
            ..Operator::default()
        },
    )
}

proptest! {
    #[test]
    fn a_place_is_allowed_as_the_document_reads(
        first in document(),
        second in document(),
        operator in operator(),
        country in country(),
        customer: bool,
    ) {
        let site = Site { country, ..Site::default() };
        let key_custody = if customer { KeyCustody::Customer } else { KeyCustody::Operator };
        let place = Place { key_custody, ..Place::new(&operator, &site) };
        let parse = |document: &Value| Policy::parse(&document.to_string()).ok();
        // A document that contradicts itself is refused; then nothing may be allowed by it either.
        let allowed = |policy: &Option<Policy>| policy.as_ref().is_some_and(|policy| decide(policy, &place).is_ok());
        let (one, two) = (parse(&first), parse(&second));
        prop_assert_eq!(allowed(&one), naive(&first, &operator, &site, key_custody));
        prop_assert_eq!(allowed(&two), naive(&second, &operator, &site, key_custody));
        if let (Some(one), Some(two)) = (&one, &two) {
            let both = one.and(two);
            let each = decide(one, &place).is_ok() && decide(two, &place).is_ok();
            prop_assert_eq!(decide(&both, &place).is_ok(), each, "a combination allows what each allows");
            prop_assert_eq!(&both, &two.and(one));
            prop_assert_eq!(&one.and(&Policy::default()), one);
            prop_assert_eq!(&Policy::parse(&one.to_json()).unwrap(), one);
            if both.check_satisfiable().is_err() {
                prop_assert!(!each, "nothing is left, and yet a place was allowed");
            }
        }
    }
}
