//! The `Condition` element: operators, their variants, and what they say of a request's keys.

use super::Keys;
use super::json::Json;
use super::pattern::{ArnPattern, Pattern, Syntax};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use std::cmp::Ordering;
use std::net::IpAddr;
use terroir_types::Timestamp;

/// `ForAllValues:` and `ForAnyValue:`, for keys with several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    All,
    Any,
}

/// One key under one operator. All conditions of a statement must hold; of a condition's values, one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    quantifier: Option<Quantifier>,
    if_exists: bool,
    negated: bool,
    /// In lower case.
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Text {
        values: Vec<Pattern>,
        fold_case: bool,
    },
    Arn(Vec<ArnPattern>),
    Number(Comparison, Vec<f64>),
    Date(Comparison, Vec<Timestamp>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<IpNet>),
    /// Whether the key must be absent.
    Null(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Condition {
    /// One entry of the `Condition` object: operator, key and value or list of values.
    pub(super) fn parse(operator: &str, key: &str, values: &Json, variables: bool) -> Result<Self, String> {
        let (quantifier, rest) = match operator.split_once(':') {
            Some((name, rest)) if name.eq_ignore_ascii_case("ForAllValues") => (Some(Quantifier::All), rest),
            Some((name, rest)) if name.eq_ignore_ascii_case("ForAnyValue") => (Some(Quantifier::Any), rest),
            Some(_) => return Err(format!("Invalid Condition type : {operator}")),
            None => (None, operator),
        };
        let lower = rest.to_ascii_lowercase();
        let (name, if_exists) = match lower.strip_suffix("ifexists") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        if !key.split_once(':').is_some_and(|(vendor, rest)| !vendor.is_empty() && !rest.is_empty()) {
            return Err("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.".to_owned());
        }
        let texts = scalars(values).ok_or_else(|| format!("Invalid value of the condition key {key}"))?;
        let (test, negated) = parse_test(name, &texts, variables)
            .map_err(|detail| detail.unwrap_or_else(|| format!("Invalid Condition type : {operator}")))?;
        if matches!(test, Test::Null(_)) && (if_exists || quantifier.is_some()) {
            return Err(format!("Invalid Condition type : {operator}"));
        }
        Ok(Self { quantifier, if_exists, negated, key: key.to_ascii_lowercase(), test })
    }

    /// In lower case.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The condition keys that it looks at, in lower case.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let (texts, arns) = match &self.test {
            Test::Text { values, .. } => (values.as_slice(), &[][..]),
            Test::Arn(values) => (&[][..], values.as_slice()),
            _ => (&[][..], &[][..]),
        };
        let variables = texts.iter().flat_map(Pattern::variables).chain(arns.iter().flat_map(ArnPattern::variables));
        std::iter::once(self.key.as_str()).chain(variables)
    }

    /// Whether it holds only for requests that have the key with one of certain values.
    pub(super) fn is_fixed(&self) -> bool {
        // Without any value, ForAllValues holds too.
        let must_be_there = !self.if_exists && !self.negated && self.quantifier != Some(Quantifier::All);
        must_be_there
            && match &self.test {
                Test::Text { values, .. } => values.iter().all(Pattern::is_fixed),
                Test::Arn(values) => values.iter().all(ArnPattern::names_an_account),
                // Wider ranges are nobody in particular.
                Test::Address(nets) => nets.iter().all(|net| match net {
                    IpNet::V4(net) => net.prefix_len() >= 8,
                    IpNet::V6(net) => net.prefix_len() >= 32,
                }),
                Test::Number(Comparison::Equal, _) => true,
                Test::Number(..) | Test::Date(..) | Test::Bool(_) | Test::Binary(_) | Test::Null(_) => false,
            }
    }

    pub(super) fn holds(&self, keys: &Keys) -> bool {
        let values = keys.get_lower(&self.key).filter(|values| !values.is_empty());
        if let Test::Null(absent) = &self.test {
            return absent.contains(&values.is_none());
        }
        let Some(values) = values else {
            return match self.quantifier {
                _ if self.if_exists => true,
                Some(Quantifier::All) => true,
                Some(Quantifier::Any) => false,
                None => self.negated,
            };
        };
        let one = |value: &String| self.test.any(value, keys) != self.negated;
        match self.quantifier {
            Some(Quantifier::All) => values.iter().all(one),
            Some(Quantifier::Any) => values.iter().any(one),
            // Several values without a quantifier: none of them may match a negated operator.
            None if self.negated => values.iter().all(one),
            None => values.iter().any(one),
        }
    }
}

impl Test {
    /// Whether one value of the request matches any value of the policy.
    fn any(&self, value: &str, keys: &Keys) -> bool {
        match self {
            Self::Text { values, fold_case } => values.iter().any(|pattern| pattern.matches(value, keys, *fold_case)),
            Self::Arn(patterns) => patterns.iter().any(|pattern| pattern.matches(value, keys)),
            Self::Number(comparison, numbers) => number(value).is_some_and(|value| {
                numbers.iter().any(|number| value.partial_cmp(number).is_some_and(|o| comparison.holds(o)))
            }),
            Self::Date(comparison, dates) => {
                date(value).is_some_and(|value| dates.iter().any(|date| comparison.holds(value.cmp(date))))
            }
            Self::Bool(wanted) => boolean(value).is_some_and(|value| wanted.contains(&value)),
            Self::Binary(wanted) => binary(value).is_some_and(|value| wanted.contains(&value)),
            Self::Address(nets) => value
                .parse::<IpAddr>()
                .is_ok_and(|address| nets.iter().any(|net| net.contains(&address.to_canonical()))),
            Self::Null(_) => false,
        }
    }
}

/// The test of an operator's bare name in lower case, and whether it is negated. `Err(None)`: there is no such operator.
fn parse_test(name: &str, texts: &[String], variables: bool) -> Result<(Test, bool), Option<String>> {
    let patterns = |wildcards: bool| {
        let syntax = Syntax { wildcards, variables };
        texts.iter().map(|text| Pattern::parse(text, syntax)).collect::<Result<Vec<_>, _>>().map_err(Some)
    };
    if let Some((stem, comparison, negated)) = comparison(name) {
        let test = match stem {
            "numeric" => Test::Number(comparison, each(texts, "number", number)?),
            _ => Test::Date(comparison, each(texts, "date", date)?),
        };
        return Ok((test, negated));
    }
    Ok(match name {
        "stringequals" => (Test::Text { values: patterns(false)?, fold_case: false }, false),
        "stringnotequals" => (Test::Text { values: patterns(false)?, fold_case: false }, true),
        "stringequalsignorecase" => (Test::Text { values: patterns(false)?, fold_case: true }, false),
        "stringnotequalsignorecase" => (Test::Text { values: patterns(false)?, fold_case: true }, true),
        "stringlike" => (Test::Text { values: patterns(true)?, fold_case: false }, false),
        "stringnotlike" => (Test::Text { values: patterns(true)?, fold_case: false }, true),
        "arnequals" | "arnlike" | "arnnotequals" | "arnnotlike" => {
            let syntax = Syntax { wildcards: true, variables };
            let values = texts.iter().map(|text| ArnPattern::parse(text, syntax)).collect::<Result<_, _>>();
            (Test::Arn(values.map_err(Some)?), name.starts_with("arnnot"))
        }
        "bool" => (Test::Bool(each(texts, "boolean", boolean)?), false),
        "binaryequals" => (Test::Binary(each(texts, "base64 text", binary)?), false),
        "null" => (Test::Null(each(texts, "boolean", boolean)?), false),
        "ipaddress" => (Test::Address(each(texts, "IP range", net)?), false),
        "notipaddress" => (Test::Address(each(texts, "IP range", net)?), true),
        _ => return Err(None),
    })
}

fn comparison(name: &str) -> Option<(&str, Comparison, bool)> {
    let (stem, rest) = ["numeric", "date"].into_iter().find_map(|stem| Some((stem, name.strip_prefix(stem)?)))?;
    let (comparison, negated) = match rest {
        "equals" => (Comparison::Equal, false),
        "notequals" => (Comparison::Equal, true),
        "lessthan" => (Comparison::Less, false),
        "lessthanequals" => (Comparison::LessOrEqual, false),
        "greaterthan" => (Comparison::Greater, false),
        "greaterthanequals" => (Comparison::GreaterOrEqual, false),
        _ => return None,
    };
    Some((stem, comparison, negated))
}

fn each<T>(texts: &[String], noun: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Option<String>> {
    texts
        .iter()
        .map(|text| parse(text).ok_or_else(|| Some(format!("'{text}' in a Condition is not a {noun}"))))
        .collect()
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

fn binary(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// An ISO 8601 date (with or without time) or seconds since 1970.
fn date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(secs) = text.parse() {
        return Some(Timestamp::from_secs(secs));
    }
    let is_day = text.len() == 10 && text.is_ascii();
    if is_day { Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")) } else { Timestamp::parse_rfc3339(text) }
}

fn net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// A scalar or a list of scalars, as text.
fn scalars(json: &Json) -> Option<Vec<String>> {
    let scalar = |json: &Json| match json {
        Json::Text(text) => Some(text.clone()),
        Json::Number(number) => Some(number.clone()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::List(_) | Json::Object(_) => None,
    };
    match json {
        Json::List(list) => list.iter().map(scalar).collect(),
        one => scalar(one).map(|text| vec![text]),
    }
}
