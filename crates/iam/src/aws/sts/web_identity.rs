use async_trait::async_trait;
use serde_json::Value;
use std::time::Duration;
use terroir_action::{Access, Caller, Context, LiveAction, LiveContext, Registry, Session, Target};
use terroir_aws_model::sts;
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, ErrorClass};

use super::assume::check_source_identity;
use super::{check_length, credentials, denied, duration, limits, role_arn};
use crate::authorize::role_by_arn;
use crate::names::Entity;
use crate::ops;
use crate::request_keys::RequestFacts;
use crate::service::{Iam, session_arn};
use crate::session::Whose;
use crate::web_token::{Claims, KeySet, Unverified, invalid, rejected};

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add_live(AssumeRoleWithWebIdentity(iam.clone()));
}

/// Claims by which a provider says what the session is to have.
const TAGS_CLAIM: &str = "https://aws.amazon.com/tags";
const SOURCE_IDENTITY_CLAIM: &str = "https://aws.amazon.com/source_identity";

/// Comes unsigned: the token is what is shown. The role's trust policy must name its provider.
struct AssumeRoleWithWebIdentity(Iam);

#[async_trait]
impl LiveAction for AssumeRoleWithWebIdentity {
    type Op = sts::ops::AssumeRoleWithWebIdentity;
    const ACCESS: Access = Access::Read;
    const UNSIGNED: bool = true;

    /// None: whoever it is that asks is known only once the token has been checked.
    fn targets(
        &self,
        _cx: &Context<'_>,
        _request: &sts::AssumeRoleWithWebIdentityRequest,
    ) -> Result<Vec<Target>, Error> {
        Ok(Vec::new())
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::AssumeRoleWithWebIdentityRequest,
    ) -> Result<sts::AssumeRoleWithWebIdentityResponse, Error> {
        check_length(&request.role_session_name, "roleSessionName", 2, 64)?;
        if request.provider_id.is_some() {
            let message = "ProviderId is for access tokens of OAuth 2.0, which are not supported.";
            return Err(Error::invalid("ValidationError", message));
        }
        let arn = role_arn(&request.role_arn)?;
        let account = arn.account().ok_or_else(|| Error::invalid("ValidationError", format!("{arn} is invalid")))?;
        let now = cx.clock.now();
        let txn = cx.store.read().await?;
        let (claims, provider) = verified(&txn, account, &request.web_identity_token, now)?;
        let session = session(&claims, &provider)?;
        let caller = Caller::web_identity(provider.as_str(), &claims.subject);
        let targets = targets(&arn, &request.role_session_name, &claims, &session)?;
        let facts = RequestFacts { now, region: cx.region.name.clone(), ..RequestFacts::default() };
        let authorized = self.0.authorize_in(&txn, &caller, &targets, &facts).await;
        authorized.map_err(|error| match error.class() {
            ErrorClass::Denied => denied("Not authorized to perform sts:AssumeRoleWithWebIdentity"),
            _ => error,
        })?;
        let role = role_by_arn(&txn, &arn)?;
        let secs = duration(request.duration_seconds, 3_600, 900, 43_200)?;
        if secs > role.max_session_secs {
            let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
            return Err(Error::invalid("ValidationError", message));
        }
        let inline = request.policy.as_ref();
        let policies = limits::policies(&self.0, &txn, account, inline, &request.policy_arns).await?;
        drop(txn);
        let packed_policy_size = limits::packed_size(&policies, &session.tags)?;
        let name = &request.role_session_name;
        let whose = Whose::Role { id: role.id.clone(), session: name.clone() };
        let source_identity = session.source_identity.clone();
        let issued = self.0.issue(account, whose, policies, session, Duration::from_secs(secs.into()))?;
        Ok(sts::AssumeRoleWithWebIdentityResponse {
            assumed_role_user: Some(sts::AssumedRoleUser {
                arn: Some(session_arn(&role, name).to_string()),
                assumed_role_id: Some(format!("{}:{name}", role.id)),
            }),
            audience: claims.authorized_party.clone().or_else(|| claims.audiences.first().cloned()),
            credentials: Some(credentials(&issued)),
            packed_policy_size,
            provider: Some(claims.issuer),
            source_identity,
            subject_from_web_identity_token: Some(claims.subject),
        })
    }
}

/// What the token says, and the provider of the role's account that vouches for it.
fn verified(txn: &Txn, account: AccountId, token: &str, now: terroir_types::Timestamp) -> Result<(Claims, Arn), Error> {
    let token = Unverified::parse(token)?;
    let issuer = token.issuer()?.to_owned();
    let unknown = || invalid(format!("No OpenIDConnect provider found in your account for {issuer}"));
    let name = ops::provider_name(&issuer).map_err(|_| unknown())?;
    let arn = Arn::iam(account, format_args!("oidc-provider/{name}"));
    let provider = ops::find_oidc_provider(txn, account, arn.as_str()).map_err(|_| unknown())?;
    let keys = ops::issuer_keys(txn, name)?.ok_or_else(|| {
        let message = format!("The keys of {issuer} are not known here. The operator has to give them.");
        Error::invalid("IDPCommunicationError", message)
    })?;
    let keys = KeySet::parse(&keys.tenant.jwks).map_err(Error::internal)?;
    let claims = token.verify(&keys, now)?;
    // A token for somebody else's application is not for us.
    let meant = |client: &String| provider.tenant.client_ids.contains(client);
    let for_us = match &claims.authorized_party {
        Some(party) => meant(party),
        None => claims.audiences.iter().any(meant),
    };
    if for_us { Ok((claims, provider.arn())) } else { Err(invalid("Incorrect token audience")) }
}

/// Errors: `IDPRejectedClaim`, `ValidationError`.
fn session(claims: &Claims, provider: &Arn) -> Result<Session, Error> {
    let wrong = || rejected("The tags of the token are not of the form that is documented.");
    let source_identity = match claims.all.get(SOURCE_IDENTITY_CLAIM) {
        None => None,
        Some(Value::String(identity)) => {
            check_source_identity(identity)?;
            Some(identity.clone())
        }
        Some(_) => return Err(rejected("The source identity of the token is not a text.")),
    };
    let (mut tags, mut transitive) = (Tags::new(), Vec::new());
    if let Some(claim) = claims.all.get(TAGS_CLAIM) {
        let given = claim.get("principal_tags").and_then(Value::as_object).ok_or_else(wrong)?;
        let mut list = Vec::new();
        for (key, value) in given {
            // One text, or a list of one.
            let value = value.as_array().map_or(Some(value), |list| list.first().filter(|_| list.len() == 1));
            let value = value.and_then(Value::as_str).ok_or_else(wrong)?;
            list.push(sts::Tag { key: Some(key.clone()), value: Some(value.to_owned()) });
        }
        tags = limits::tags_of(&list)?;
        if let Some(keys) = claim.get("transitive_tag_keys") {
            let keys = keys.as_array().ok_or_else(wrong)?.iter().map(|key| key.as_str().map(str::to_owned));
            transitive = keys.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            if !transitive.iter().all(|key| tags.contains_key(key)) {
                return Err(wrong());
            }
        }
    }
    Ok(Session { tags, transitive, source_identity, provider: Some(provider.to_string()), ..Session::default() })
}

/// With the condition keys that AWS documents for web identities: `PROVIDER:aud`, `PROVIDER:sub` and so on.
fn targets(role: &Arn, session_name: &str, claims: &Claims, session: &Session) -> Result<Vec<Target>, Error> {
    let name = ops::provider_name(&claims.issuer)?;
    let mut target = Target::on("sts:AssumeRoleWithWebIdentity", role.clone())
        .key("sts:RoleSessionName", session_name)
        .key(format!("{name}:sub"), claims.subject.as_str());
    match &claims.authorized_party {
        Some(party) => {
            target = target.key(format!("{name}:aud"), party.as_str()).key(format!("{name}:azp"), party.as_str());
            target.keys.push((format!("{name}:oaud"), claims.audiences.clone()));
        }
        None => target.keys.push((format!("{name}:aud"), claims.audiences.clone())),
    }
    if let Some(Value::Array(methods)) = claims.all.get("amr") {
        let methods = methods.iter().filter_map(|method| method.as_str().map(str::to_owned)).collect();
        target.keys.push((format!("{name}:amr"), methods));
    }
    if let Some(identity) = &session.source_identity {
        target = target.key("sts:SourceIdentity", identity.as_str());
    }
    let mut targets = vec![target];
    limits::push_tag_targets(&mut targets, &session.tags, &session.transitive);
    if session.source_identity.is_some() {
        let setting = Target { permission: "sts:SetSourceIdentity".to_owned(), ..targets[0].clone() };
        targets.push(setting);
    }
    Ok(targets)
}
