//! One call, as CloudTrail writes it.
//!
//! Source: "CloudTrail record contents" and "CloudTrail userIdentity element" of the CloudTrail user guide. What has no
//! meaning here is left out; how long a call took is under `additionalEventData`.

use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use terroir_action::{Caller, CallerKind};
use terroir_iam::RequestFacts;
use terroir_types::{AccountId, Arn, IdSource};

/// The newest version whose members these are.
const VERSION: &str = "1.11";
const MAX_USER_AGENT: usize = 256;
/// Longest name of an access key that nobody has checked.
const MAX_KEY_ID: usize = 128;
const MAX_MESSAGE: usize = 1024;
/// Resources that are named.
const MAX_RESOURCES: usize = 100;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    Done,
    /// Under which code it was refused, and with which words.
    Refused {
        code: &'a str,
        message: &'a str,
    },
}

/// A call and what came of it.
pub struct Event<'a> {
    /// None: authentication did not get that far.
    pub caller: Option<&'a Caller>,
    /// The access key that was presented, if nobody has checked it.
    pub claimed_key: Option<&'a str>,
    pub facts: &'a RequestFacts,
    /// As the credential scope names the service.
    pub service: &'a str,
    /// `-`: not known.
    pub action: &'a str,
    pub request_id: &'a str,
    pub resources: Vec<&'a Arn>,
    /// Without secrets, see [`crate::parameters`].
    pub parameters: Option<&'a Value>,
    pub outcome: Outcome<'a>,
    pub read_only: bool,
    /// It is about what objects hold, not about the cloud.
    pub is_data: bool,
    /// From the request's arrival on.
    pub took: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_version: &'static str,
    user_identity: Value,
    event_time: String,
    event_source: String,
    event_name: &'a str,
    aws_region: &'a str,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: Option<String>,
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    request_parameters: Option<&'a Value>,
    response_elements: Option<Value>,
    additional_event_data: Value,
    #[serde(rename = "requestID")]
    request_id: &'a str,
    #[serde(rename = "eventID")]
    event_id: String,
    read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<Value>,
    event_type: &'static str,
    management_event: bool,
    recipient_account_id: Option<AccountId>,
    event_category: &'static str,
}

impl Event<'_> {
    /// The event as one line of JSON, under a new id.
    pub fn to_json(&self, ids: &dyn IdSource) -> Vec<u8> {
        let account = self.caller.map(|caller| caller.account).filter(|account| *account != AccountId::NOBODY);
        let (code, message) = match self.outcome {
            Outcome::Done => (None, None),
            Outcome::Refused { code, message } => (Some(code), Some(cut(message, MAX_MESSAGE))),
        };
        let resource = |arn: &&Arn| json!({ "ARN": arn.to_string(), "accountId": arn.account() });
        let micros = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        let record = Record {
            event_version: VERSION,
            user_identity: self.identity(account),
            event_time: self.facts.now.to_rfc3339_seconds(),
            event_source: format!("{}.amazonaws.com", self.service),
            event_name: self.action,
            aws_region: &self.facts.region,
            source_ip_address: self.facts.source_ip.map(|address| address.to_string()),
            user_agent: self.facts.user_agent.as_deref().map(|agent| cut(agent, MAX_USER_AGENT)),
            error_code: code,
            error_message: message,
            request_parameters: self.parameters,
            response_elements: None,
            additional_event_data: json!({ "latencyMicros": micros }),
            request_id: self.request_id,
            event_id: uuid(ids.next_u128()),
            read_only: self.read_only,
            resources: self.resources.iter().take(MAX_RESOURCES).map(resource).collect(),
            event_type: "AwsApiCall",
            management_event: !self.is_data,
            recipient_account_id: account,
            event_category: if self.is_data { "Data" } else { "Management" },
        };
        // Text, numbers and lists of them always have a JSON form.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    fn identity(&self, account: Option<AccountId>) -> Value {
        let Some(caller) = self.caller else {
            return match self.claimed_key {
                Some(key) => json!({ "type": "Unknown", "accessKeyId": cut(key, MAX_KEY_ID) }),
                None => json!({ "type": "Unknown" }),
            };
        };
        let kind = match &caller.kind {
            CallerKind::Root => "Root",
            CallerKind::User { .. } => "IAMUser",
            CallerKind::AssumedRole { .. } => "AssumedRole",
            CallerKind::FederatedUser { .. } => "FederatedUser",
            CallerKind::WebIdentity { .. } => "WebIdentityUser",
            CallerKind::Service { name } => return json!({ "type": "AWSService", "invokedBy": name }),
            CallerKind::Anonymous => {
                return json!({ "type": "AWSAccount", "principalId": "", "accountId": "ANONYMOUS_PRINCIPAL" });
            }
        };
        let mut identity = json!({
            "type": kind,
            "principalId": caller.user_id,
            "arn": caller.arn.to_string(),
            "accountId": account,
            "accessKeyId": caller.access_key_id,
        });
        match &caller.kind {
            CallerKind::User { name } => identity["userName"] = json!(name),
            CallerKind::WebIdentity { provider } => identity["identityProvider"] = json!(provider),
            _ => {}
        }
        if let Some(session) = &caller.session {
            let mut context = json!({
                "attributes": {
                    "creationDate": session.issued_at.to_rfc3339_seconds(),
                    "mfaAuthenticated": session.mfa_at.is_some().to_string(),
                }
            });
            if let CallerKind::AssumedRole { role, .. } = &caller.kind {
                let id = caller.user_id.split(':').next().unwrap_or_default();
                context["sessionIssuer"] =
                    json!({ "type": "Role", "principalId": id, "accountId": account, "userName": role });
            }
            if let Some(source) = &session.source_identity {
                context["sourceIdentity"] = json!(source);
            }
            if let Some(instance) = &session.instance {
                context["ec2RoleDelivery"] = json!("2.0");
                identity["inScopeOf"] = json!({ "issuerType": "AWS::EC2::Instance", "credentialsIssuedTo": instance });
            }
            identity["sessionContext"] = context;
        }
        identity
    }
}

/// The beginning of a text.
fn cut(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

fn uuid(bits: u128) -> String {
    // Version 4 of RFC 9562.
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::{SeededRandom, Timestamp};

    fn event(caller: Option<&Caller>, outcome: Outcome<'_>) -> Value {
        let facts = RequestFacts {
            source_ip: Some("192.0.2.1".parse().unwrap()),
            now: Timestamp::parse_rfc3339("2026-11-24T05:00:00.123Z").unwrap(),
            region: "eu-1".to_owned(),
            user_agent: Some("é".repeat(300)),
            ..RequestFacts::default()
        };
        let arn = Arn::parse("arn:aws:iam::000000000007:user/ann").unwrap();
        let parameters = json!({ "userName": "ann" });
        let event = Event {
            caller,
            claimed_key: Some("AKIAEXAMPLE"),
            facts: &facts,
            service: "iam",
            action: "CreateUser",
            request_id: "r-1",
            resources: vec![&arn],
            parameters: Some(&parameters),
            outcome,
            read_only: false,
            is_data: false,
            took: Duration::from_micros(1500),
        };
        serde_json::from_slice(&event.to_json(&SeededRandom::new(1))).unwrap()
    }

    #[test]
    fn an_event_has_what_cloudtrail_documents() {
        let caller = Caller {
            account: AccountId::from_number(7).unwrap(),
            arn: Arn::parse("arn:aws:iam::000000000007:user/bob").unwrap(),
            user_id: "AIDAEXAMPLE".to_owned(),
            access_key_id: "AKIABOB".to_owned(),
            kind: CallerKind::User { name: "bob".to_owned() },
            session: None,
        };
        let mut done = event(Some(&caller), Outcome::Done);
        let id = done["eventID"].take();
        assert_eq!(id.as_str().map(|id| (id.len(), &id[14..15])), Some((36, "4")));
        let agent = done["userAgent"].take();
        assert_eq!(agent.as_str().map(|agent| agent.chars().count()), Some(256));
        let expected = json!({
            "eventVersion": "1.11",
            "userIdentity": {
                "type": "IAMUser",
                "principalId": "AIDAEXAMPLE",
                "arn": "arn:aws:iam::000000000007:user/bob",
                "accountId": "000000000007",
                "accessKeyId": "AKIABOB",
                "userName": "bob",
            },
            "eventTime": "2026-11-24T05:00:00Z",
            "eventSource": "iam.amazonaws.com",
            "eventName": "CreateUser",
            "awsRegion": "eu-1",
            "sourceIPAddress": "192.0.2.1",
            "userAgent": null,
            "requestParameters": { "userName": "ann" },
            "responseElements": null,
            "additionalEventData": { "latencyMicros": 1500 },
            "requestID": "r-1",
            "eventID": null,
            "readOnly": false,
            "resources": [{ "ARN": "arn:aws:iam::000000000007:user/ann", "accountId": "000000000007" }],
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "recipientAccountId": "000000000007",
            "eventCategory": "Management",
        });
        assert_eq!(done, expected);
    }

    #[test]
    fn refusals_say_why_and_strangers_are_named_by_the_key_that_they_claim() {
        let outcome = Outcome::Refused { code: "InvalidClientTokenId", message: "no such key" };
        let refused = event(None, outcome);
        assert_eq!(refused["errorCode"], "InvalidClientTokenId");
        assert_eq!(refused["errorMessage"], "no such key");
        assert_eq!(refused["userIdentity"], json!({ "type": "Unknown", "accessKeyId": "AKIAEXAMPLE" }));
        assert_eq!(refused["recipientAccountId"], Value::Null);
        let nobody = event(Some(&Caller::anonymous()), Outcome::Done);
        assert_eq!(nobody["userIdentity"]["accountId"], "ANONYMOUS_PRINCIPAL");
    }
}
