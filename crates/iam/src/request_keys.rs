//! The condition keys of a request: what AWS's "AWS global condition context keys" describes, as far as it exists here.

use std::net::IpAddr;
use terroir_action::{Caller, CallerKind, Target};
use terroir_resources::Tags;
use terroir_types::{Arn, Timestamp};

use crate::evaluation::Keys;

/// What a request's surroundings say to policies.
#[derive(Debug, Clone, Default)]
pub struct RequestFacts {
    pub source_ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub secure: bool,
    pub now: Timestamp,
    /// `aws:RequestedRegion`
    pub region: String,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
}

/// The keys that are the same for everything that the request asks for. `tags` are the principal's;
/// `principal_arn` is the role's for a session.
pub(crate) fn of_caller(caller: &Caller, principal_arn: &Arn, tags: &Tags, facts: &RequestFacts) -> Keys {
    let mut keys = Keys::default();
    for (tag, value) in tags {
        keys.set_one(&format!("aws:PrincipalTag/{tag}"), value);
    }
    if let Some(address) = facts.source_ip {
        keys.set_one("aws:SourceIp", address.to_canonical().to_string());
    }
    if let Some(agent) = &facts.user_agent {
        keys.set_one("aws:UserAgent", agent);
    }
    if let Some(referer) = &facts.referer {
        keys.set_one("aws:Referer", referer);
    }
    keys.set_one("aws:RequestedRegion", &facts.region);
    keys.set_one("ec2:Region", &facts.region);
    keys.set_one("aws:SecureTransport", facts.secure.to_string());
    keys.set_one("aws:ViaAWSService", "false");
    set_time(&mut keys, facts.now);
    set_principal(&mut keys, caller, principal_arn);
    set_session(&mut keys, caller, facts);
    keys
}

fn set_time(keys: &mut Keys, now: Timestamp) {
    keys.set_one("aws:CurrentTime", now.to_rfc3339_seconds());
    keys.set_one("aws:EpochTime", now.secs().to_string());
}

fn set_principal(keys: &mut Keys, caller: &Caller, principal_arn: &Arn) {
    keys.set_one("aws:userid", &caller.user_id);
    let kind = match &caller.kind {
        CallerKind::Root => "Account",
        CallerKind::User { name } => {
            keys.set_one("aws:username", name);
            "User"
        }
        CallerKind::AssumedRole { .. } => "AssumedRole",
        CallerKind::FederatedUser { .. } => "FederatedUser",
        CallerKind::Service { name } => {
            keys.set_one("aws:PrincipalIsAWSService", "true");
            keys.set_one("aws:PrincipalServiceName", name);
            keys.set_one("aws:PrincipalServiceNamesList", name);
            return;
        }
        CallerKind::WebIdentity { provider } => {
            keys.set_one("aws:FederatedProvider", provider);
            return;
        }
        CallerKind::Anonymous => {
            keys.set_one("aws:PrincipalType", "Anonymous");
            return;
        }
    };
    keys.set_one("aws:PrincipalType", kind);
    keys.set_one("aws:PrincipalIsAWSService", "false");
    keys.set_one("aws:PrincipalArn", principal_arn.as_str());
    keys.set_one("aws:PrincipalAccount", caller.account.to_string());
}

fn set_session(keys: &mut Keys, caller: &Caller, facts: &RequestFacts) {
    let Some(session) = &caller.session else { return };
    keys.set_one("aws:TokenIssueTime", session.issued_at.to_rfc3339_seconds());
    keys.set_one("aws:MultiFactorAuthPresent", session.mfa_at.is_some().to_string());
    if let Some(at) = session.mfa_at {
        keys.set_one("aws:MultiFactorAuthAge", facts.now.since(at).as_secs().to_string());
    }
    if let Some(identity) = &session.source_identity {
        keys.set_one("aws:SourceIdentity", identity);
    }
    if let Some(provider) = &session.provider {
        keys.set_one("aws:FederatedProvider", provider);
    }
    if let Some(instance) = &session.instance {
        let arn = Arn::new("ec2", &facts.region, Some(caller.account), format_args!("instance/{instance}"));
        keys.set_one("ec2:SourceInstanceARN", arn.as_str());
        keys.set_one("ec2:RoleDelivery", "2.0");
    }
}

/// Adds the keys of one target.
pub(crate) fn add_target(keys: &mut Keys, target: &Target) {
    let service = target.permission.split(':').next().unwrap_or_default();
    for (tag, value) in &target.resource_tags {
        keys.set_one(&format!("aws:ResourceTag/{tag}"), value);
        keys.set_one(&format!("{service}:ResourceTag/{tag}"), value);
    }
    if let Some(account) = target.account() {
        keys.set_one("aws:ResourceAccount", account.to_string());
    }
    for (name, values) in &target.keys {
        keys.set(name, values.iter().cloned());
    }
}
