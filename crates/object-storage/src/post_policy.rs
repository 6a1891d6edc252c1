//! The policy of a form upload: until when and what a form may send. Pure.
//!
//! Source: "POST policy" of the S3 API reference.

use serde_json::Value;
use std::collections::BTreeMap;
use terroir_types::{Error, ErrorClass, Timestamp};

/// Fields that no condition has to name.
const FREE: [&str; 5] = ["policy", "x-amz-signature", "signature", "awsaccesskeyid", "file"];
/// A checksum only narrows what the file may be.
const FREE_PREFIXES: [&str; 2] = ["x-ignore-", "x-amz-checksum-"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostPolicy {
    pub expires_at: Timestamp,
    conditions: Vec<Condition>,
    /// Least and most bytes of the file.
    pub size: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    /// In lower case.
    field: String,
    prefix: bool,
    value: String,
    /// As it was written, for whoever wonders.
    text: String,
}

impl Condition {
    fn holds(&self, given: &str) -> bool {
        match (self.prefix, self.field.as_str()) {
            (false, _) => given == self.value,
            // A list of types, each of which must begin so.
            (true, "content-type") => given.split(',').all(|kind| kind.trim_start().starts_with(&self.value)),
            (true, _) => given.starts_with(&self.value),
        }
    }
}

fn invalid(text: &str) -> Error {
    Error::invalid("InvalidPolicyDocument", format!("Invalid Policy: {text}"))
}

fn denied(text: String) -> Error {
    Error::new(ErrorClass::Denied, "AccessDenied", format!("Invalid according to Policy: {text}"))
}

impl PostPolicy {
    /// # Errors
    /// `InvalidPolicyDocument`.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let Ok(Value::Object(document)) = serde_json::from_slice(json) else { return Err(invalid("Invalid JSON.")) };
        let (mut expires_at, mut conditions) = (None, None);
        for (name, value) in &document {
            match (name.as_str(), value) {
                ("expiration", Value::String(text)) => {
                    // RFC 3339 would take a blank between date and time, too.
                    let parsed = Timestamp::parse_rfc3339(text).filter(|_| text.as_bytes().get(10) == Some(&b'T'));
                    expires_at = Some(parsed.ok_or_else(|| invalid(&format!("Invalid 'expiration' value: '{text}'")))?);
                }
                ("conditions", Value::Array(list)) => conditions = Some(list),
                _ => return Err(invalid(&format!("Unexpected: '{name}'"))),
            }
        }
        let expires_at = expires_at.ok_or_else(|| invalid("Policy missing expiration."))?;
        let conditions = conditions.ok_or_else(|| invalid("Policy missing conditions."))?;
        let mut policy = Self { expires_at, conditions: Vec::new(), size: None };
        conditions.iter().try_for_each(|condition| policy.add(condition))?;
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), Error> {
        let text = condition.to_string();
        let wrong = || invalid(&format!("Invalid Condition: {text}"));
        match condition {
            Value::Object(pairs) if !pairs.is_empty() => {
                for (field, value) in pairs {
                    let Value::String(value) = value else { return Err(wrong()) };
                    let field = field.to_ascii_lowercase();
                    self.conditions.push(Condition { field, prefix: false, value: value.clone(), text: text.clone() });
                }
                Ok(())
            }
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(operator), least, most] if operator.eq_ignore_ascii_case("content-length-range") => {
                    let (least, most) = (number(least).ok_or_else(wrong)?, number(most).ok_or_else(wrong)?);
                    let (other_least, other_most) = self.size.unwrap_or((0, u64::MAX));
                    self.size = Some((least.max(other_least), most.min(other_most)));
                    Ok(())
                }
                [Value::String(operator), Value::String(field), Value::String(value)] => {
                    let prefix = match operator.to_ascii_lowercase().as_str() {
                        "eq" => false,
                        "starts-with" => true,
                        _ => return Err(wrong()),
                    };
                    let field = field.strip_prefix('$').ok_or_else(wrong)?.to_ascii_lowercase();
                    self.conditions.push(Condition { field, prefix, value: value.clone(), text });
                    Ok(())
                }
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }

    /// `fields`: what the form has before its file, by name in lower case, with the bucket that it is sent to.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub fn check(&self, fields: &BTreeMap<String, String>, now: Timestamp) -> Result<(), Error> {
        if now >= self.expires_at {
            return Err(denied("Policy expired.".to_owned()));
        }
        for condition in &self.conditions {
            let given = fields.get(&condition.field).map(String::as_str).unwrap_or_default();
            if !condition.holds(given) {
                return Err(denied(format!("Policy Condition failed: {}", condition.text)));
            }
        }
        let named = |name: &str| self.conditions.iter().any(|condition| condition.field == name);
        let is_free = |name: &str| FREE.contains(&name) || FREE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        match fields.keys().find(|name| !(is_free(name) || named(name))) {
            Some(extra) => Err(denied(format!("Extra input fields: {extra}"))),
            None => Ok(()),
        }
    }
}

/// Some clients write numbers as texts.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(conditions: &str) -> Result<PostPolicy, Error> {
        let text = format!(r#"{{"expiration":"2026-11-24T12:00:00.000Z","conditions":[{conditions}]}}"#);
        PostPolicy::parse(text.as_bytes())
    }

    #[test]
    fn what_a_form_may_send() {
        let rules = r#"{"bucket":"b"},["starts-with","$key","user/"],["eq","$ACL","private"],{"Content-Type":"text/plain"},["starts-with","$x-amz-meta-tag",""],["content-length-range",1,10]"#;
        let parsed = policy(rules).unwrap();
        assert_eq!(parsed.size, Some((1, 10)));
        let now = Timestamp::parse_rfc3339("2026-11-24T11:59:59Z").unwrap();
        let good = [
            ("bucket", "b"),
            ("key", "user/1"),
            ("acl", "private"),
            ("content-type", "text/plain"),
            ("x-amz-meta-tag", "any"),
            ("x-ignore-this", "x"),
            ("x-amz-checksum-crc32", "x"),
            ("policy", "..."),
            ("x-amz-signature", "..."),
        ];
        let with = |name: &str, value: Option<&str>, at: Timestamp| {
            let mut fields: BTreeMap<String, String> =
                good.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            match value {
                Some(value) => drop(fields.insert(name.to_owned(), value.to_owned())),
                None => drop(fields.remove(name)),
            }
            parsed.check(&fields, at).map_err(|error| error.code().to_owned())
        };
        assert_eq!(with("key", Some("user/1"), now), Ok(()));
        let denied = Err("AccessDenied".to_owned());
        assert_eq!(with("key", Some("user/1"), now.plus(std::time::Duration::from_secs(1))), denied, "expired");
        for (name, value) in [
            ("bucket", Some("c")),
            ("key", Some("other/1")),
            ("key", None),
            ("acl", Some("public-read")),
            ("acl", None),
            ("content-type", Some("text/html")),
            ("success_action_status", Some("200")),
        ] {
            assert_eq!(with(name, value, now), denied, "{name} {value:?}");
        }
        assert_eq!(with("x-amz-meta-tag", None, now), Ok(()), "anything, also nothing");
        let image = policy(r#"["starts-with","$Content-Type","image/"]"#).unwrap();
        for (kinds, holds) in [("image/png", true), ("image/png, image/gif", true), ("image/png,text/html", false)] {
            let fields = BTreeMap::from([("content-type".to_owned(), kinds.to_owned())]);
            assert_eq!(image.check(&fields, now).is_ok(), holds, "{kinds}");
        }
        let bucket = BTreeMap::from([("bucket".to_owned(), "b".to_owned())]);
        assert!(image.check(&bucket, now).is_err() && policy("").unwrap().check(&bucket, now).is_err(), "any bucket");
        let twice = policy(r#"["content-length-range",1,10],["content-length-range",0,5]"#).unwrap();
        assert_eq!(twice.size, Some((1, 5)));
    }

    #[test]
    fn what_is_no_policy() {
        for conditions in [
            "{}",
            "[]",
            r#"["sounds-like","$key","x"]"#,
            r#"["eq","key","x"]"#,
            r#"["eq","$key"]"#,
            r#"{"key":1}"#,
            r#""key""#,
            r#"["content-length-range",1]"#,
            r#"["content-length-range",-1,5]"#,
            r#"["content-length-range","a",5]"#,
        ] {
            assert_eq!(policy(conditions).unwrap_err().code(), "InvalidPolicyDocument", "{conditions}");
        }
        assert!(policy("").is_ok() && policy(r#"["content-length-range","1","5"]"#).is_ok());
        for text in [
            "",
            "[]",
            r#"{"expiration":"2026-11-24T12:00:00Z"}"#,
            r#"{"conditions":[]}"#,
            r#"{"expiration":"tomorrow","conditions":[]}"#,
            r#"{"expiration":"2026-11-24 12:00:00+00:00","conditions":[]}"#,
            r#"{"expiration":"2026-11-24T12:00:00Z","CONDITIONS":[]}"#,
            r#"{"expiration":"2026-11-24T12:00:00Z","conditions":{}}"#,
        ] {
            assert_eq!(PostPolicy::parse(text.as_bytes()).unwrap_err().code(), "InvalidPolicyDocument", "{text}");
        }
    }
}
