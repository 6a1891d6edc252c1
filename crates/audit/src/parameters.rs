//! What a request asked for, as an event tells it.

use serde_json::{Map, Value};
use terroir_aws_model::{Params, Service};

/// Longest JSON of the parameters of one request; longer ones are left out.
pub const MAX_PARAMETER_BYTES: usize = 16 << 10;
/// Levels of a parameter's name that become levels of JSON; what is deeper stays one name.
const MAX_LEVELS: usize = 12;
const HIDDEN: &str = "HIDDEN_DUE_TO_SECURITY_REASONS";

/// Members that hold secrets although no model says so: scripts with passwords in them, and codes that count once.
const ALSO_SECRET: &[&str] = &[
    "AuthenticationCode1",
    "AuthenticationCode2",
    "GrantTokens",
    "SAMLAssertion",
    "TokenCode",
    "UserData",
    "WebIdentityToken",
];
/// What the models call sensitive in one place and use for anything elsewhere: EC2's `UserData.Value`, and the values of
/// filters and tags. The place is hidden by its own name.
const TOO_GENERAL: &[&str] = &["Value"];

/// The parameters as CloudTrail writes them: names begin with a small letter, lists of a form are lists. Secrets are
/// hidden by the names that the service's model calls sensitive, whatever stands below them. None if there are none, or
/// more than [`MAX_PARAMETER_BYTES`].
pub fn parameters(service: Service, params: &Params) -> Option<Value> {
    let content = params.content();
    let bytes: usize = content.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_PARAMETER_BYTES {
        return None;
    }
    let secrets = |name: &str| {
        let same = |known: &&str| known.eq_ignore_ascii_case(name);
        let is_secret = service.secret_members().iter().chain(ALSO_SECRET).any(same);
        is_secret && !TOO_GENERAL.iter().any(same)
    };
    let value = if service.speaks_json() {
        let (_, text) = content.first()?;
        hide(serde_json::from_str(text).ok()?, &secrets)
    } else {
        let mut root = Map::new();
        for (name, value) in &content {
            let mut parts: Vec<&str> = name.splitn(MAX_LEVELS, '.').collect();
            // `member` stands between a list and its numbers in the query protocol.
            parts.retain(|part| *part != "member" && !part.is_empty());
            let hidden = name.split('.').any(&secrets);
            place(&mut root, &parts, if hidden { HIDDEN } else { value });
        }
        lists(Value::Object(root))
    };
    value.as_object().is_some_and(|members| !members.is_empty()).then_some(value)
}

/// `userName` for `UserName`.
fn small(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

fn hide(value: Value, secret: &impl Fn(&str) -> bool) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let value = match name.as_str() {
                    name if secret(name) => HIDDEN.into(),
                    // Names that the caller chose.
                    name if name.contains("EncryptionContext") => value,
                    _ => hide(value, secret),
                };
                (small(&name), value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(|item| hide(item, secret)).collect(),
        other => other,
    }
}

fn place(map: &mut Map<String, Value>, parts: &[&str], value: &str) {
    match parts {
        [] => {}
        [name] => drop(map.insert(small(name), value.into())),
        [name, rest @ ..] => {
            let below = map.entry(small(name)).or_insert_with(|| Map::new().into());
            if !below.is_object() {
                // `A=1&A.B=2`: no action takes that.
                *below = Map::new().into();
            }
            if let Value::Object(below) = below {
                place(below, rest, value);
            }
        }
    }
}

/// Objects whose names are all numbers become lists, in the order of these.
fn lists(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let number = |name: &String| name.parse::<u64>().ok();
    let mut numbered: Vec<(u64, Value)> = Vec::new();
    if !members.is_empty() && members.keys().all(|name| number(name).is_some()) {
        numbered.extend(members.into_iter().filter_map(|(name, value)| Some((number(&name)?, lists(value)))));
        numbered.sort_by_key(|(number, _)| *number);
        return numbered.into_iter().map(|(_, value)| value).collect();
    }
    members.into_iter().map(|(name, value)| (name, lists(value))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(service: Service, text: &str) -> Option<Value> {
        parameters(service, &Params::parse("", text.as_bytes()).unwrap())
    }

    #[test]
    fn forms_and_json_become_cloudtrails_json() {
        let run = "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&UserData=c2VjcmV0&TagSpecification.1.Tag.2.Key=b&\
                   TagSpecification.1.Tag.1.Key=a&TagSpecification.1.Tag.10.Key=c&TagSpecification.1.Tag.1.Value=d";
        let expected = json!({
            "imageId": "ami-1",
            "userData": HIDDEN,
            "tagSpecification": [{ "tag": [{ "key": "a", "value": "d" }, { "key": "b" }, { "key": "c" }] }],
        });
        assert_eq!(form(Service::Ec2, run), Some(expected));
        let profile = "Action=CreateLoginProfile&Version=2010-05-08&UserName=ann&Password=hunter2&X.member.1=y";
        let expected = json!({ "userName": "ann", "password": HIDDEN, "x": ["y"] });
        assert_eq!(form(Service::Iam, profile), Some(expected));
        let secret = form(Service::Ec2, "UserData.Value=c2VjcmV0").unwrap();
        assert_eq!(secret, json!({ "userData": { "value": HIDDEN } }));
        let body = br#"{"KeyId":"k","Plaintext":"c2VjcmV0","EncryptionContext":{"A":"b"},"Grants":[{"Plaintext":1}]}"#;
        let json = parameters(Service::Kms, &Params::parse_json("Encrypt", body).unwrap()).unwrap();
        let expected = json!({
            "keyId": "k", "plaintext": HIDDEN, "encryptionContext": { "A": "b" }, "grants": [{ "plaintext": HIDDEN }],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_strange_costs_nothing() {
        for (text, expected) in [
            ("Action=ListUsers&Version=2010-05-08", None),
            ("A=1&A.B=2", Some(json!({ "a": { "b": "2" } }))),
            ("=1", None),
            (".=1&..x=2", Some(json!({ "x": "2" }))),
            ("1=a&2=b", None),
        ] {
            assert_eq!(form(Service::Iam, text), expected, "{text}");
        }
        assert_eq!(form(Service::Iam, &format!("A={}", "x".repeat(MAX_PARAMETER_BYTES))), None, "too long");
        let deep = form(Service::Iam, &format!("{}=1", ["a"; 200].join("."))).unwrap();
        assert!(deep.to_string().len() < 600);
    }
}
