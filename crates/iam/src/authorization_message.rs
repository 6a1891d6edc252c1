//! What a refusal tells only those who may know: EC2's encoded authorization failure message.
//!
//! The text is sealed under the account's key, so that it can go through logs and hands that must not read it, and
//! `DecodeAuthorizationMessage` opens it for callers of the same account. Its form is AWS's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use terroir_action::{Caller, CallerKind, Target};
use terroir_store::KeyRing;
use terroir_types::{AccountId, Arn};

use crate::evaluation::Keys;

const PURPOSE: &[u8] = b"authorization-message";
/// Longest message that is looked at, in bytes: STS's own bound.
const MAX_MESSAGE: usize = 10_240;

/// `None` if it cannot be sealed or would be too long to be decoded.
pub(crate) fn encode(
    ring: &dyn KeyRing,
    caller: &Caller,
    target: &Target,
    explicit_deny: bool,
    keys: &Keys,
) -> Option<String> {
    let name = match &caller.kind {
        CallerKind::User { name } => name.as_str(),
        _ => caller.arn.resource(),
    };
    let conditions: Vec<_> = keys
        .iter()
        .map(|(key, values)| {
            let values: Vec<_> = values.iter().map(|value| json!({ "value": value })).collect();
            json!({ "key": key, "values": { "items": values } })
        })
        .collect();
    let message = json!({
        "allowed": false,
        "explicitDeny": explicit_deny,
        "matchedStatements": { "items": [] },
        "failures": { "items": [] },
        "context": {
            "principal": { "id": caller.user_id, "name": name, "arn": caller.arn.as_str() },
            "action": target.permission,
            "resource": target.resource.as_ref().map_or("*", Arn::as_str),
            "conditions": { "items": conditions },
        },
    });
    let sealed = ring.seal(Some(caller.account), PURPOSE, message.to_string().as_bytes()).ok()?;
    Some(URL_SAFE_NO_PAD.encode(sealed)).filter(|text| text.len() <= MAX_MESSAGE)
}

/// `None`: not a message for this account.
pub(crate) fn decode(ring: &dyn KeyRing, account: AccountId, text: &str) -> Option<String> {
    if text.len() > MAX_MESSAGE {
        return None;
    }
    let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
    String::from_utf8(ring.open(Some(account), PURPOSE, &sealed).ok()?).ok()
}
