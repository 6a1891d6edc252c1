//! What a request may put on a session: policies that limit it, and tags.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use terroir_action::Target;
use terroir_aws_model::sts;
use terroir_resources::{Tags, validate_tags};
use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::evaluation::{Document, DocumentKind};
use crate::model::PolicyDocument;
use crate::ops::{self, AttachablePolicy};
use crate::service::Iam;

const MAX_POLICY: usize = 2_048;
const MAX_POLICIES: usize = 10;
/// The token carries policies and tags, and headers have bounds.
const MAX_PACKED: usize = 8_192;

/// Errors: `PackedPolicyTooLarge`, `MalformedPolicyDocument`, `ValidationError`.
fn check_policy(text: &str) -> Result<(), Error> {
    if text.len() > MAX_POLICY {
        let message = format!("The session policy exceeds {MAX_POLICY} characters.");
        return Err(Error::invalid("PackedPolicyTooLarge", message));
    }
    Document::parse(text, DocumentKind::Identity)
        .map(drop)
        .map_err(|error| Error::invalid("MalformedPolicyDocument", error.0))
}

/// The policies that a session gets, as one document for all that the request names; none: it names none.
///
/// Errors: `PackedPolicyTooLarge`, `MalformedPolicyDocument`, `ValidationError`, `NoSuchEntity`.
pub(super) async fn policies(
    iam: &Iam,
    txn: &Txn,
    account: AccountId,
    inline: Option<&String>,
    managed: &[sts::PolicyDescriptorType],
) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    if let Some(text) = inline {
        check_policy(text)?;
        texts.push(text.clone());
    }
    if managed.len() > MAX_POLICIES {
        let message = format!("A session may have at most {MAX_POLICIES} managed policies.");
        return Err(Error::invalid("ValidationError", message));
    }
    for descriptor in managed {
        let arn = descriptor.arn.as_deref().unwrap_or_default();
        let policy = ops::find_policy(txn, account, arn)?;
        texts.push(text_of(iam, account, &policy).await?);
    }
    if managed.is_empty() { Ok(texts) } else { Ok(vec![union(&texts)?]) }
}

async fn text_of(iam: &Iam, account: AccountId, policy: &AttachablePolicy) -> Result<String, Error> {
    match policy {
        AttachablePolicy::Builtin(policy) => Ok(policy.document.to_owned()),
        AttachablePolicy::Own(policy) => {
            let key = PolicyDocument::key(account, &policy.id, &policy.document);
            let found = iam.store().get_direct::<PolicyDocument>(&key).await?;
            Ok(found.ok_or_else(|| Error::unavailable("A session policy is being changed."))?.0.tenant.text)
        }
    }
}

/// A session's policies, inline and managed, allow what any of them allows: one document with all their statements.
fn union(texts: &[String]) -> Result<String, Error> {
    let mut statements = Vec::new();
    for text in texts {
        let document: Value = serde_json::from_str(text).map_err(Error::internal)?;
        let plain_dollars = document.get("Version").and_then(Value::as_str) != Some("2012-10-17");
        let mut own = match document.get("Statement") {
            Some(Value::Array(list)) => list.clone(),
            Some(one) => vec![one.clone()],
            None => Vec::new(),
        };
        for statement in &mut own {
            if let Some(statement) = statement.as_object_mut() {
                // Unique within each document only.
                statement.remove("Sid");
            }
            if plain_dollars {
                escape_variables(statement);
            }
        }
        statements.append(&mut own);
    }
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
}

/// Before version 2012-10-17 `${` was just text.
fn escape_variables(json: &mut Value) {
    match json {
        Value::String(text) => *text = text.replace("${", "${$}{"),
        Value::Array(list) => list.iter_mut().for_each(escape_variables),
        Value::Object(members) => members.values_mut().for_each(escape_variables),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How much of what a token can carry policies and tags take, in percent.
///
/// Errors: `PackedPolicyTooLarge`.
pub(super) fn packed_size(policies: &[String], tags: &Tags) -> Result<Option<i32>, Error> {
    let of_tags: usize = tags.iter().map(|(key, value)| key.len() + value.len()).sum();
    let size = policies.iter().map(String::len).sum::<usize>() + of_tags;
    if size > MAX_PACKED {
        let percent = (size * 100).div_ceil(MAX_PACKED);
        let message = format!("Packed policy consumes {percent}% of allotted space, please use smaller policy.");
        return Err(Error::invalid("PackedPolicyTooLarge", message));
    }
    Ok(i32::try_from((size * 100).div_ceil(MAX_PACKED)).ok().filter(|percent| *percent > 0))
}

/// Tags of a request. Keys that differ only in case are the same key.
///
/// Errors: `InvalidParameterValue`, `ValidationError`.
pub(super) fn tags_of(request: &[sts::Tag]) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    let mut keys = BTreeSet::new();
    for tag in request {
        let (key, value) = (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
        if !keys.insert(key.to_lowercase()) {
            let message = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        tags.insert(key, value);
    }
    validate_tags(&tags).map_err(|error| Error::invalid("ValidationError", error.message()))?;
    Ok(tags)
}

/// Adds what tags need: permission to tag the session.
pub(super) fn push_tag_targets(targets: &mut Vec<Target>, tags: &Tags, transitive: &[String]) {
    let Some(first) = targets.first_mut() else { return };
    if tags.is_empty() {
        return;
    }
    *first = first.clone().request_tags(tags);
    if !transitive.is_empty() {
        first.keys.push(("sts:TransitiveTagKeys".to_owned(), transitive.to_vec()));
    }
    let tagging = Target { permission: "sts:TagSession".to_owned(), ..first.clone() };
    targets.push(tagging);
}
