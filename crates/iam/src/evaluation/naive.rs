//! A second evaluator, written straight from AWS's prose over plain JSON, to compare with.

use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use terroir_types::Timestamp;

use super::{Decision, Place, Reach};

/// Who asks: `own` is the ARN or name that stands for it alone, `behind` the role of a session or the user who gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub kind: &'static str,
    pub account: &'static str,
    pub own: &'static str,
    pub behind: Option<&'static str>,
}

/// Every policy that has to do with a request; `None` where there is none that could limit it.
#[derive(Debug, Clone)]
pub(super) struct Everything {
    pub identity: Vec<Value>,
    pub boundary: Option<Value>,
    pub session: Option<Vec<Value>>,
    pub resource: Option<Value>,
}

/// The flow chart of "Policy evaluation logic", with the effects of each kind of principal from "Policy evaluation for
/// requests within a single account".
pub(super) fn may(
    who: Who,
    all: &Everything,
    place: Place,
    (action, resource, keys): (&str, &str, &PlainKeys),
) -> bool {
    let says = |documents: &[Value]| decide(documents, action, resource, keys);
    let has_own_policies = !["root", "service", "web", "anonymous"].contains(&who.kind);
    let identity = if has_own_policies { says(&all.identity) } else { Decision::Allow };
    let boundary = all.boundary.as_ref().map(|document| says(std::slice::from_ref(document)));
    let sessions: Option<Vec<Decision>> =
        all.session.as_ref().map(|list| list.iter().map(|document| says(std::slice::from_ref(document))).collect());

    // 1. An explicit deny in any policy that applies.
    let mut own_decisions = vec![identity];
    own_decisions.extend(boundary);
    own_decisions.extend(sessions.iter().flatten());
    if own_decisions.contains(&Decision::ExplicitDeny) {
        return false;
    }
    let applying: Vec<Value> = match &all.resource {
        None => Vec::new(),
        Some(document) => items(&document["Statement"])
            .into_iter()
            .filter(|statement| applies(statement, action, resource, keys, document["Version"] == "2012-10-17"))
            .collect(),
    };
    let mut granted = Vec::new();
    for statement in &applying {
        let deny = statement["Effect"] == "Deny";
        let meant = meant(statement, who);
        if deny && !meant.is_empty() {
            return false;
        }
        granted.extend(meant);
    }
    if place.policy_only_denies {
        granted.clear();
    }
    // A list of grants is like a statement that names the account, and lets in whoever did not sign.
    if place.granted {
        granted.push(if who.kind == "anonymous" { "itself" } else { "account" });
    }
    match place.grantee {
        Reach::Nobody => {}
        Reach::Account => granted.push("account"),
        Reach::Role => granted.push("behind"),
        Reach::Caller => granted.push("itself"),
    }

    // 2. Who has no account has nothing but the resource's policy.
    let itself = granted.contains(&"itself");
    if ["service", "web", "anonymous"].contains(&who.kind) {
        return itself;
    }
    // 3. Boundary and session policies limit what identity policies, and grants to the role, allow.
    let within_limits = boundary != Some(Decision::ImplicitDeny)
        && sessions.is_none_or(|list| !list.is_empty() && !list.contains(&Decision::ImplicitDeny));
    let by_identity = identity == Decision::Allow && within_limits;
    if !place.same_account {
        return by_identity && !granted.is_empty();
    }
    itself
        || (granted.contains(&"behind") && within_limits)
        || (by_identity && (!place.policy_decides || !granted.is_empty()))
}

/// As what a statement of a resource's policy means this principal.
fn meant(statement: &Value, who: Who) -> Vec<&'static str> {
    let element = if statement["NotPrincipal"].is_null() { "Principal" } else { "NotPrincipal" };
    let mut listed = Vec::new();
    match &statement[element] {
        Value::String(star) => listed.push(("AWS".to_owned(), star.clone())),
        Value::Object(kinds) => {
            for (kind, values) in kinds {
                listed.extend(texts(values).into_iter().map(|value| (kind.clone(), value)));
            }
        }
        other => panic!("no principals: {other}"),
    }
    let has = |kind: &str, value: &str| listed.iter().any(|(k, v)| k == kind && v == value);
    let own_kind = match who.kind {
        "service" => "Service",
        "web" => "Federated",
        _ => "AWS",
    };
    let everyone = has("AWS", "*");
    let account = has("AWS", who.account) || has("AWS", &format!("arn:aws:iam::{}:root", who.account));
    let mut names = Vec::new();
    if has(own_kind, who.own) || (who.kind == "root" && account) || (everyone && who.kind != "web") {
        names.push("itself");
    }
    if who.behind.is_some_and(|behind| has("AWS", behind)) {
        names.push("behind");
    }
    if account && who.kind != "root" || (everyone && who.kind == "web") {
        names.push("account");
    }
    if element == "Principal" {
        return names;
    }
    // "NotPrincipal" with Deny spares those who are listed themselves; with Allow it leaves out whoever is listed at all.
    let left_out = if statement["Effect"] == "Deny" { names.contains(&"itself") } else { !names.is_empty() };
    match (left_out, who.kind) {
        (true, _) => Vec::new(),
        (false, "web") => vec!["account"],
        (false, _) => vec!["itself"],
    }
}

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
        "BinaryEquals" => {
            let bytes = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
            bytes(value).is_some_and(|value| Some(value) == bytes(wanted))
        }
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
