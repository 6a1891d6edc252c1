use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use terroir_action::{Access, Caller, CallerKind, Context, LiveAction, LiveContext, Registry, Session, Target};
use terroir_aws_model::sts;
use terroir_resources::Tags;
use terroir_types::Error;

use super::{check_length, credentials, denied, duration, limits, role_arn};
use crate::authorize::role_by_arn;
use crate::mfa::Code;
use crate::model::Role;
use crate::service::{Iam, session_arn};
use crate::session::Whose;

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add_live(AssumeRole(iam.clone()));
}

/// Longest session of a role that another role's session begins.
const CHAINED_SECS: u32 = 3_600;

struct AssumeRole(Iam);

#[async_trait]
impl LiveAction for AssumeRole {
    type Op = sts::ops::AssumeRole;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &sts::AssumeRoleRequest) -> Result<Vec<Target>, Error> {
        let role = role_arn(&request.role_arn)?;
        let mut target =
            Target::on("sts:AssumeRole", role).key("sts:RoleSessionName", request.role_session_name.as_str());
        if let Some(id) = &request.external_id {
            target = target.key("sts:ExternalId", id.as_str());
        }
        if let Some(identity) = &request.source_identity {
            target = target.key("sts:SourceIdentity", identity.as_str());
        }
        if let Some(code) = Code::of(request.serial_number.as_deref(), request.token_code.as_deref())? {
            self.0.check_mfa_code(cx.txn, cx.caller, code, cx.now)?;
            target = target.key("aws:MultiFactorAuthPresent", "true").key("aws:MultiFactorAuthAge", "0");
        }
        let mut targets = vec![target];
        // What a session passes on is set anew by the one that it begins, and needs the same permissions.
        let mut tags = limits::tags_of(&request.tags)?;
        tags.extend(inherited_tags(cx.caller));
        limits::push_tag_targets(&mut targets, &tags, &request.transitive_tag_keys);
        let before = cx.caller.session.as_deref();
        if request.source_identity.is_some() || before.is_some_and(|session| session.source_identity.is_some()) {
            let setting = Target { permission: "sts:SetSourceIdentity".to_owned(), ..targets[0].clone() };
            targets.push(setting);
        }
        Ok(targets)
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::AssumeRoleRequest,
    ) -> Result<sts::AssumeRoleResponse, Error> {
        check_request(&request)?;
        if matches!(cx.caller.kind, CallerKind::FederatedUser { .. }) {
            return Err(denied("Cannot call AssumeRole with federated user credentials"));
        }
        let (session, own_tags) = session(&cx, &request)?;
        let arn = role_arn(&request.role_arn)?;
        let txn = cx.store.read().await?;
        let role: Arc<Role> = role_by_arn(&txn, &arn)?;
        let inline = request.policy.as_ref();
        let policies = limits::policies(&self.0, &txn, role.account, inline, &request.policy_arns).await?;
        drop(txn);
        let packed = limits::packed_size(&policies, &session.tags)?;
        let secs = session_secs(&cx, &role, request.duration_seconds)?;
        if let Some(code) = Code::of(request.serial_number.as_deref(), request.token_code.as_deref())? {
            self.0.use_mfa_code(cx.caller, code).await?;
        }
        let name = &request.role_session_name;
        let whose = Whose::Role { id: role.id.clone(), session: name.clone() };
        let source_identity = session.source_identity.clone();
        let has_limits = !policies.is_empty() || !own_tags.is_empty();
        let issued = self.0.issue(role.account, whose, policies, session, Duration::from_secs(secs.into()))?;
        Ok(sts::AssumeRoleResponse {
            assumed_role_user: Some(sts::AssumedRoleUser {
                arn: Some(session_arn(&role, name).to_string()),
                assumed_role_id: Some(format!("{}:{name}", role.id)),
            }),
            credentials: Some(credentials(&issued)),
            packed_policy_size: packed.filter(|_| has_limits),
            source_identity,
        })
    }
}

fn check_request(request: &sts::AssumeRoleRequest) -> Result<(), Error> {
    check_length(&request.role_session_name, "roleSessionName", 2, 64)?;
    if let Some(identity) = &request.source_identity {
        check_source_identity(identity)?;
    }
    if let Some(id) = &request.external_id {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@:/_-\\".contains(&b));
        if !(2..=1_224).contains(&id.len()) || !plain {
            let message = format!(
                "1 validation error detected: Value '{id}' at 'externalId' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@:\\/-]*"
            );
            return Err(Error::invalid("ValidationError", message));
        }
    }
    // What would change the session's meaning is refused rather than dropped.
    if !request.provided_contexts.is_empty() {
        let message = "The parameter ProvidedContexts of AssumeRole is not supported.";
        return Err(Error::invalid("ValidationError", message));
    }
    Ok(())
}

/// Errors: `ValidationError`.
pub(super) fn check_source_identity(identity: &str) -> Result<(), Error> {
    check_length(identity, "sourceIdentity", 2, 64)?;
    if identity.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
        return Err(Error::invalid("ValidationError", "Source identity must not begin with aws:"));
    }
    Ok(())
}

/// The transitive tags of the session that asks.
fn inherited_tags(caller: &Caller) -> Tags {
    let Some(session) = caller.session.as_deref() else { return Tags::new() };
    let passed = |key: &String| session.transitive.iter().any(|transitive| transitive.eq_ignore_ascii_case(key));
    session.tags.iter().filter(|(key, _)| passed(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The session's own things: tags of the request, the transitive ones of the session that asks, and its source identity.
/// Beside it the tags of the request alone.
fn session(cx: &LiveContext<'_>, request: &sts::AssumeRoleRequest) -> Result<(Session, Tags), Error> {
    let invalid = |message: &str| Error::invalid("InvalidParameterValue", message);
    let own = limits::tags_of(&request.tags)?;
    let before = cx.caller.session.as_deref();
    let inherited = inherited_tags(cx.caller);
    let is_inherited = |key: &String| inherited.keys().any(|known| known.eq_ignore_ascii_case(key));
    if own.keys().any(is_inherited) {
        return Err(invalid(
            "One of the specified tag keys can't be set because it conflicts with a transitive tag key from the calling session.",
        ));
    }
    let is_own = |key: &String| own.keys().any(|known| known.eq_ignore_ascii_case(key));
    if !request.transitive_tag_keys.iter().all(is_own) {
        return Err(invalid("The specified transitive tag key must be included in the requested tags."));
    }
    let source_identity = match (before.and_then(|session| session.source_identity.clone()), &request.source_identity) {
        // It stays what it was when the person came in.
        (Some(before), Some(asked)) if before != *asked => {
            return Err(denied("The source identity of a session cannot be changed by role chaining."));
        }
        (Some(before), _) => Some(before),
        (None, asked) => asked.clone(),
    };
    let mut transitive = request.transitive_tag_keys.clone();
    transitive.extend(inherited.keys().cloned());
    let mut tags = own.clone();
    tags.extend(inherited);
    Ok((Session { tags, transitive, source_identity, ..Session::default() }, own))
}

/// How long the session may be.
///
/// Errors: `ValidationError`.
fn session_secs(cx: &LiveContext<'_>, role: &Role, asked: Option<i32>) -> Result<u32, Error> {
    let secs = duration(asked, CHAINED_SECS, 900, 43_200)?;
    let chained = matches!(cx.caller.kind, CallerKind::AssumedRole { .. });
    let longest = if chained { CHAINED_SECS.min(role.max_session_secs) } else { role.max_session_secs };
    if secs <= longest {
        return Ok(secs);
    }
    let message = if chained {
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
    } else {
        "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    };
    Err(Error::invalid("ValidationError", message))
}
