use async_trait::async_trait;
use serde_json::{Value, json};
use std::time::Duration;
use terroir_action::{
    Access, Action, CallerKind, Context, LiveAction, LiveContext, Registry, Request, Response, Session, Target,
};
use terroir_aws_model::sts;
use terroir_types::{AccountId, Arn, Error};

use crate::authorize::role_by_arn;
use crate::evaluation::{Document, DocumentKind};
use crate::model::{PolicyDocument, Role};
use crate::ops::{self, AttachablePolicy};
use crate::service::{Iam, session_arn};
use crate::session::{SessionCredentials, Whose};

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add::<GetCallerIdentity>();
    registry.add_live(AssumeRole(iam.clone()));
    registry.add_live(GetSessionToken(iam.clone()));
}

/// Needs no permission, as at AWS: whoever has credentials may ask whose they are.
struct GetCallerIdentity;

impl Action for GetCallerIdentity {
    type Op = sts::ops::GetCallerIdentity;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(Vec::new())
    }

    fn run(cx: &mut Context<'_>, _request: Request<Self>) -> Result<Response<Self>, Error> {
        Ok(sts::GetCallerIdentityResponse {
            account: Some(cx.account().to_string()),
            arn: Some(cx.caller.arn.to_string()),
            user_id: Some(cx.caller.user_id.clone()),
        })
    }
}

fn credentials(session: &SessionCredentials) -> sts::Credentials {
    sts::Credentials {
        access_key_id: Some(session.access_key_id.clone()),
        expiration: Some(session.expires_at),
        secret_access_key: Some(session.secret.expose().clone()),
        session_token: Some(session.token.expose().clone()),
    }
}

fn out_of_range(value: i32, least: u32, greatest: u32) -> Error {
    let bound = if i64::from(value) < i64::from(least) {
        format!("greater than or equal to {least}")
    } else {
        format!("less than or equal to {greatest}")
    };
    let message = format!(
        "1 validation error detected: Value '{value}' at 'durationSeconds' failed to satisfy constraint: Member must have value {bound}"
    );
    Error::invalid("ValidationError", message)
}

/// `DurationSeconds` within its bounds.
fn duration(asked: Option<i32>, default: u32, least: u32, greatest: u32) -> Result<u32, Error> {
    match asked {
        None => Ok(default),
        Some(value) => match u32::try_from(value) {
            Ok(secs) if (least..=greatest).contains(&secs) => Ok(secs),
            _ => Err(out_of_range(value, least, greatest)),
        },
    }
}

struct GetSessionToken(Iam);

#[async_trait]
impl LiveAction for GetSessionToken {
    type Op = sts::ops::GetSessionToken;
    const ACCESS: Access = Access::Read;

    /// Needs no permission, as at AWS: the session can do no more than its user.
    fn targets(&self, _cx: &Context<'_>, _request: &sts::GetSessionTokenRequest) -> Result<Vec<Target>, Error> {
        Ok(Vec::new())
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::GetSessionTokenRequest,
    ) -> Result<sts::GetSessionTokenResponse, Error> {
        refuse_mfa(request.serial_number.is_some() || request.token_code.is_some())?;
        if cx.caller.access_key_id.starts_with(crate::SESSION_KEY_PREFIX) {
            let message = "Cannot call GetSessionToken with session credentials";
            return Err(Error::new(terroir_types::ErrorClass::Denied, "AccessDenied", message));
        }
        // AWS cuts a root's session to an hour without saying so.
        let longest = if cx.caller.kind == CallerKind::Root { 3_600 } else { 129_600 };
        let secs = duration(request.duration_seconds, 43_200, 900, 129_600)?.min(longest);
        let whose = match &cx.caller.kind {
            CallerKind::User { .. } => Whose::User(cx.caller.user_id.clone()),
            _ => Whose::Root,
        };
        let duration = Duration::from_secs(secs.into());
        let session = self.0.issue(cx.caller.account, whose, Vec::new(), Session::default(), duration)?;
        Ok(sts::GetSessionTokenResponse { credentials: Some(credentials(&session)) })
    }
}

/// Multi-factor authentication does not exist here: a request that relies on it must not pass as if it did.
fn refuse_mfa(asked: bool) -> Result<(), Error> {
    if !asked {
        return Ok(());
    }
    let message = "MultiFactorAuthentication failed: multi-factor authentication is not available.";
    Err(Error::new(terroir_types::ErrorClass::Denied, "AccessDenied", message))
}

/// Longest session of a role that another role's session begins.
const CHAINED_SECS: u32 = 3_600;
const MAX_SESSION_POLICY: usize = 2_048;
const MAX_SESSION_POLICIES: usize = 10;
/// The token carries the policies, and headers have bounds.
const MAX_PACKED_POLICY: usize = 8_192;

struct AssumeRole(Iam);

#[async_trait]
impl LiveAction for AssumeRole {
    type Op = sts::ops::AssumeRole;
    const ACCESS: Access = Access::Read;

    fn targets(&self, _cx: &Context<'_>, request: &sts::AssumeRoleRequest) -> Result<Vec<Target>, Error> {
        let role = role_arn(&request.role_arn)?;
        let mut target =
            Target::on("sts:AssumeRole", role).key("sts:RoleSessionName", request.role_session_name.as_str());
        if let Some(id) = &request.external_id {
            target = target.key("sts:ExternalId", id.as_str());
        }
        Ok(vec![target])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::AssumeRoleRequest,
    ) -> Result<sts::AssumeRoleResponse, Error> {
        check_request(&request)?;
        let arn = role_arn(&request.role_arn)?;
        let (role, texts) = self.role_and_policies(&cx, &arn, &request).await?;
        let chained = matches!(cx.caller.kind, CallerKind::AssumedRole { .. });
        let secs = duration(request.duration_seconds, CHAINED_SECS, 900, 43_200)?;
        let longest = if chained { CHAINED_SECS.min(role.max_session_secs) } else { role.max_session_secs };
        if secs > longest {
            let message = if chained {
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
            } else {
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            };
            return Err(Error::invalid("ValidationError", message));
        }
        let name = &request.role_session_name;
        let whose = Whose::Role { id: role.id.clone(), session: name.clone() };
        let duration = Duration::from_secs(secs.into());
        let session = self.0.issue(role.account, whose, texts, Session::default(), duration)?;
        Ok(sts::AssumeRoleResponse {
            assumed_role_user: Some(sts::AssumedRoleUser {
                arn: Some(session_arn(&role, name).to_string()),
                assumed_role_id: Some(format!("{}:{name}", role.id)),
            }),
            credentials: Some(credentials(&session)),
            packed_policy_size: None,
            source_identity: None,
        })
    }
}

fn role_arn(text: &str) -> Result<Arn, Error> {
    let arn = Arn::parse(text).ok().filter(|arn| arn.service() == "iam" && arn.resource().starts_with("role/"));
    arn.ok_or_else(|| Error::invalid("ValidationError", format!("{text} is invalid")))
}

fn check_request(request: &sts::AssumeRoleRequest) -> Result<(), Error> {
    refuse_mfa(request.serial_number.is_some() || request.token_code.is_some())?;
    let name = &request.role_session_name;
    if name.len() < 2 {
        let message = format!(
            "1 validation error detected: Value '{name}' at 'roleSessionName' failed to satisfy constraint: Member must have length greater than or equal to 2"
        );
        return Err(Error::invalid("ValidationError", message));
    }
    crate::names::check_name(name, "roleSessionName", 64)?;
    // What would change the session's meaning is refused rather than dropped.
    let unsupported = [
        ("Tags", !request.tags.is_empty()),
        ("TransitiveTagKeys", !request.transitive_tag_keys.is_empty()),
        ("SourceIdentity", request.source_identity.is_some()),
        ("ProvidedContexts", !request.provided_contexts.is_empty()),
    ];
    match unsupported.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            Err(Error::invalid("ValidationError", format!("The parameter {name} of AssumeRole is not supported.")))
        }
        None => Ok(()),
    }
}

impl AssumeRole {
    /// The role, and the texts of the session policies of the request.
    async fn role_and_policies(
        &self,
        cx: &LiveContext<'_>,
        arn: &Arn,
        request: &sts::AssumeRoleRequest,
    ) -> Result<(std::sync::Arc<Role>, Vec<String>), Error> {
        let mut texts = Vec::new();
        if let Some(text) = &request.policy {
            if text.len() > MAX_SESSION_POLICY {
                let message = format!("The session policy exceeds {MAX_SESSION_POLICY} characters.");
                return Err(Error::invalid("PackedPolicyTooLarge", message));
            }
            Document::parse(text, DocumentKind::Identity)
                .map_err(|error| Error::invalid("MalformedPolicyDocument", error.0))?;
            texts.push(text.clone());
        }
        if request.policy_arns.len() > MAX_SESSION_POLICIES {
            let message = format!("A session may have at most {MAX_SESSION_POLICIES} managed policies.");
            return Err(Error::invalid("ValidationError", message));
        }
        let txn = cx.store.read().await?;
        let role = role_by_arn(&txn, arn)?;
        let mut managed = Vec::new();
        for descriptor in &request.policy_arns {
            let arn = descriptor.arn.as_deref().unwrap_or_default();
            managed.push(ops::find_policy(&txn, role.account, arn)?);
        }
        drop(txn);
        if !managed.is_empty() {
            for policy in &managed {
                texts.push(self.text_of(role.account, policy).await?);
            }
            texts = vec![union(&texts)?];
        }
        Ok((role, texts))
    }

    async fn text_of(&self, account: AccountId, policy: &AttachablePolicy) -> Result<String, Error> {
        match policy {
            AttachablePolicy::Builtin(policy) => Ok(policy.document.to_owned()),
            AttachablePolicy::Own(policy) => {
                let key = PolicyDocument::key(account, &policy.id, &policy.document);
                let found = self.0.store().get_direct::<PolicyDocument>(&key).await?;
                Ok(found.ok_or_else(|| Error::unavailable("A session policy is being changed."))?.0.tenant.text)
            }
        }
    }
}

/// A session's policies, inline and managed, allow what any of them allows: one document with all their statements.
///
/// Errors: `PackedPolicyTooLarge`.
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
    let text = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
    if text.len() > MAX_PACKED_POLICY {
        let message = format!("The session policies together exceed {MAX_PACKED_POLICY} characters.");
        return Err(Error::invalid("PackedPolicyTooLarge", message));
    }
    Ok(text)
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
