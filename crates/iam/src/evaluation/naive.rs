//! A second evaluator, written straight from AWS's prose over plain JSON, to compare with.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use terroir_types::Timestamp;

use super::Decision;

pub(super) type PlainKeys = BTreeMap<String, Vec<String>>;

pub(super) fn decide(documents: &[Value], action: &str, resource: &str, keys: &PlainKeys) -> Decision {
    let mut effects = Vec::new();
    for document in documents {
        let variables = document["Version"] == "2012-10-17";
        for statement in items(&document["Statement"]) {
            if applies(&statement, action, resource, keys, variables) {
                effects.push(statement["Effect"].as_str().unwrap().to_owned());
            }
        }
    }
    if effects.iter().any(|effect| effect == "Deny") {
        Decision::ExplicitDeny
    } else if effects.is_empty() {
        Decision::ImplicitDeny
    } else {
        Decision::Allow
    }
}

fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    }
}

fn texts(value: &Value) -> Vec<String> {
    items(value).iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
}

fn applies(statement: &Value, action: &str, resource: &str, keys: &PlainKeys, variables: bool) -> bool {
    let act = |name: &str| texts(&statement[name]).iter().any(|p| glob(&p.to_lowercase(), &action.to_lowercase()));
    let res = |name: &str| texts(&statement[name]).iter().any(|p| arn(p, resource, keys, variables));
    let action_fits = if statement["NotAction"].is_null() { act("Action") } else { !act("NotAction") };
    let resource_fits = if statement["NotResource"].is_null() { res("Resource") } else { !res("NotResource") };
    let empty = serde_json::Map::new();
    let conditions = statement["Condition"].as_object().unwrap_or(&empty);
    let conditions_fit =
        conditions.iter().all(|(operator, by_key)| {
            by_key.as_object().unwrap().iter().all(|(key, values)| {
                condition(operator, keys.get(&key.to_lowercase()), &texts(values), keys, variables)
            })
        });
    action_fits && resource_fits && conditions_fit
}

/// Stand for a literal `*` and `?`.
const STAR: &str = "\u{e000}";
const MARK: &str = "\u{e001}";

fn literal(text: &str) -> String {
    text.replace('*', STAR).replace('?', MARK)
}

/// Fills in the variables; `None` if one has no value.
fn fill(pattern: &str, keys: &PlainKeys, variables: bool) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find("${").filter(|_| variables) {
        out.push_str(&rest[..at]);
        let end = at + rest[at..].find('}').unwrap();
        match &rest[at + 2..end] {
            "*" => out.push_str(STAR),
            "?" => out.push_str(MARK),
            "$" => out.push('$'),
            name => match keys.get(&name.to_lowercase()).map(Vec::as_slice) {
                Some([one]) => out.push_str(&literal(one)),
                _ => return None,
            },
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some(out)
}

fn glob(pattern: &str, text: &str) -> bool {
    fn go(p: &[char], t: &[char]) -> bool {
        match p.first() {
            None => t.is_empty(),
            Some('*') => (0..=t.len()).any(|n| go(&p[1..], &t[n..])),
            Some('?') => !t.is_empty() && go(&p[1..], &t[1..]),
            Some(c) => t.first() == Some(c) && go(&p[1..], &t[1..]),
        }
    }
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    go(&p, &t)
}

fn arn(pattern: &str, text: &str, keys: &PlainKeys, variables: bool) -> bool {
    let one = |p: &str, t: &str| fill(p, keys, variables).is_some_and(|p| glob(&p, &literal(t)));
    // A `:` inside a variable's name is not a separator.
    let mut parts = vec![String::new()];
    let mut inside = false;
    for c in pattern.chars() {
        match c {
            '{' => inside = variables,
            '}' => inside = false,
            _ => {}
        }
        if c == ':' && !inside && parts.len() < 6 {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    if parts.len() < 6 {
        return one(pattern, text);
    }
    let texts: Vec<&str> = text.splitn(6, ':').collect();
    texts.len() == 6 && parts.iter().zip(texts).all(|(p, t)| one(p, t))
}

fn condition(
    operator: &str,
    present: Option<&Vec<String>>,
    wanted: &[String],
    keys: &PlainKeys,
    variables: bool,
) -> bool {
    let present: &[String] = present.map_or(&[], Vec::as_slice);
    if operator == "Null" {
        return wanted.iter().any(|w| (w == "true") == present.is_empty());
    }
    let (set, rest) = operator.split_once(':').map_or(("", operator), |(set, rest)| (set, rest));
    let name = rest.strip_suffix("IfExists").unwrap_or(rest);
    let negative = name.contains("Not");
    if present.is_empty() {
        if name != rest {
            return true;
        }
        return match set {
            "ForAllValues" => true,
            "ForAnyValue" => false,
            _ => negative,
        };
    }
    let positive = name.replace("Not", "");
    let fits = |value: &String| wanted.iter().any(|w| one_value(&positive, value, w, keys, variables));
    match (set, negative) {
        ("ForAllValues", false) => present.iter().all(fits),
        ("ForAllValues", true) => !present.iter().any(fits),
        ("ForAnyValue", false) => present.iter().any(fits),
        ("ForAnyValue", true) => !present.iter().all(fits),
        (_, false) => present.iter().any(fits),
        (_, true) => !present.iter().any(fits),
    }
}

fn one_value(operator: &str, value: &str, wanted: &str, keys: &PlainKeys, variables: bool) -> bool {
    let filled = || fill(wanted, keys, variables);
    match operator {
        "StringEquals" => filled().is_some_and(|w| literal(&w) == literal(value)),
        "StringEqualsIgnoreCase" => filled().is_some_and(|w| literal(&w).eq_ignore_ascii_case(&literal(value))),
        "StringLike" => filled().is_some_and(|w| glob(&w, &literal(value))),
        "ArnEquals" | "ArnLike" => arn(wanted, value, keys, variables),
        "Bool" => value.parse::<bool>().is_ok_and(|v| v.to_string() == wanted.to_lowercase()),
        "IpAddress" => value.parse::<IpAddr>().is_ok_and(|v| in_range(v, wanted)),
        _ if operator.starts_with("Numeric") => {
            value.parse::<f64>().is_ok_and(|v| compare(&operator[7..], v, wanted.parse::<f64>().unwrap()))
        }
        _ if operator.starts_with("Date") => {
            // Seconds since 1970 are a date too.
            let epoch = |text: &str| text.parse::<i64>().ok().map(|secs| secs * 1000);
            let at = |text: &str| epoch(text).or_else(|| Timestamp::parse_rfc3339(text).map(Timestamp::millis));
            at(value).is_some_and(|v| compare(&operator[4..], v, at(wanted).unwrap()))
        }
        other => panic!("no operator {other}"),
    }
}

fn compare<T: PartialOrd>(how: &str, left: T, right: T) -> bool {
    match how {
        "Equals" => left == right,
        "LessThan" => left < right,
        "LessThanEquals" => left <= right,
        "GreaterThan" => left > right,
        "GreaterThanEquals" => left >= right,
        other => panic!("no comparison {other}"),
    }
}

fn in_range(address: IpAddr, range: &str) -> bool {
    let (net, bits) = range.split_once('/').map_or((range, None), |(net, bits)| (net, Some(bits)));
    let bits = |all: u32| bits.map_or(all, |bits| bits.parse().unwrap());
    match (address, net.parse().unwrap()) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            bits(32) == 0 || u32::from(a) >> (32 - bits(32)) == u32::from(n) >> (32 - bits(32))
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            bits(128) == 0 || u128::from(a) >> (128 - bits(128)) == u128::from(n) >> (128 - bits(128))
        }
        _ => false,
    }
}
