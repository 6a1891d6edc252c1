//! Which condition keys a document speaks of, and where its statements stand in its text.

use super::document::Malformed;
use super::json::Json;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The condition keys and policy variables of a document, as they are written there: each once, whatever its case.
///
/// Errors: the text is not JSON.
pub fn context_keys(text: &str) -> Result<Vec<String>, Malformed> {
    let json = Json::parse(text).map_err(|_| Malformed("Syntax errors in policy.".to_owned()))?;
    let mut found = BTreeMap::new();
    collect(&json, &mut found);
    Ok(found.into_values().collect())
}

fn collect(json: &Json, found: &mut BTreeMap<String, String>) {
    match json {
        Json::Text(text) => variables(text, found),
        Json::List(list) => list.iter().for_each(|item| collect(item, found)),
        Json::Object(members) => {
            for (name, value) in members {
                if name == "Condition"
                    && let Json::Object(operators) = value
                {
                    let keys = operators.iter().filter_map(|(_, keys)| match keys {
                        Json::Object(keys) => Some(keys),
                        _ => None,
                    });
                    for (key, _) in keys.flatten() {
                        found.entry(key.to_lowercase()).or_insert_with(|| key.clone());
                    }
                }
                collect(value, found);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// `${aws:username}` and `${aws:username, 'default'}`, but not `${*}`.
fn variables(text: &str, found: &mut BTreeMap<String, String>) {
    for part in text.split("${").skip(1) {
        let inner = part.split('}').next().unwrap_or_default();
        let name = inner.split(',').next().unwrap_or_default().trim();
        if name.contains(':') {
            found.entry(name.to_lowercase()).or_insert_with(|| name.to_owned());
        }
    }
}

/// A place in a text: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Deserialize)]
struct Spans<'a> {
    #[serde(borrow, rename = "Statement")]
    statement: &'a RawValue,
}

/// Where each statement begins, and where it has ended. Empty for a text that is no document.
pub fn statement_spans(text: &str) -> Vec<(Position, Position)> {
    let Ok(spans) = serde_json::from_str::<Spans<'_>>(text) else { return Vec::new() };
    let statements = match serde_json::from_str::<Vec<&RawValue>>(spans.statement.get()) {
        Ok(list) => list,
        Err(_) => vec![spans.statement],
    };
    let span = |raw: &RawValue| {
        // A raw value is a part of the text that it was read from.
        let start = raw.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
        (position(text, start), position(text, start + raw.get().len()))
    };
    statements.into_iter().map(span).collect()
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_places() {
        let text = r#"{
  "Statement": {
    "Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/${aws:username}/${*}/${aws:PrincipalTag/team, 'x'}",
    "Condition": {"StringEquals": {"AWS:UserName": "${s3:prefix}", "s3:prefix": "ä"}}
  }
}"#;
        assert_eq!(context_keys(text).unwrap(), ["aws:PrincipalTag/team", "aws:username", "s3:prefix"]);
        let at = |line, column| Position { line, column };
        // As in the example of SimulatePrincipalPolicy in IAM's API reference.
        assert_eq!(statement_spans(text), [(at(2, 16), at(5, 4))]);
        let list = r#"{"Statement":[{"a":1}, {"b":2}]}"#;
        assert_eq!(statement_spans(list), [(at(1, 15), at(1, 22)), (at(1, 24), at(1, 31))]);
        assert!(context_keys("{").is_err() && statement_spans("{").is_empty());
    }
}
