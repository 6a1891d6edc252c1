use async_trait::async_trait;
use std::time::Duration;
use terroir_action::{Access, Caller, CallerKind, Context, LiveAction, LiveContext, Registry, Session, Target};
use terroir_aws_model::sts;
use terroir_types::{Arn, Error};

use super::{check_length, credentials, denied, duration, limits};
use crate::mfa::Code;
use crate::service::Iam;
use crate::session::Whose;

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add_live(GetSessionToken(iam.clone()));
    registry.add_live(GetFederationToken(iam.clone()));
}

const DEFAULT_SECS: u32 = 43_200;
const LEAST_SECS: u32 = 900;
const LONGEST_SECS: u32 = 129_600;
const LONGEST_OF_ROOT_SECS: u32 = 3_600;

/// AWS cuts a root's session to an hour without saying so.
fn own_session(caller: &Caller, asked: Option<i32>) -> Result<Duration, Error> {
    let longest = if caller.kind == CallerKind::Root { LONGEST_OF_ROOT_SECS } else { LONGEST_SECS };
    let secs = duration(asked, DEFAULT_SECS, LEAST_SECS, LONGEST_SECS)?.min(longest);
    Ok(Duration::from_secs(secs.into()))
}

/// Id of the user; none: the root. Errors: `AccessDenied` for whoever has temporary credentials.
fn user_of(caller: &Caller, action: &str) -> Result<Option<String>, Error> {
    match &caller.kind {
        CallerKind::Root if caller.session.is_none() => Ok(None),
        CallerKind::User { .. } if caller.session.is_none() => Ok(Some(caller.user_id.clone())),
        _ => Err(denied(&format!("Cannot call {action} with session credentials"))),
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
        let user = user_of(cx.caller, "GetSessionToken")?;
        let duration = own_session(cx.caller, request.duration_seconds)?;
        let mfa_at = match Code::of(request.serial_number.as_deref(), request.token_code.as_deref())? {
            Some(code) => {
                self.0.use_mfa_code(cx.caller, code).await?;
                Some(cx.clock.now())
            }
            None => None,
        };
        let whose = user.map_or(Whose::Root, Whose::User);
        let session = Session { mfa_at, ..Session::default() };
        let session = self.0.issue(cx.caller.account, whose, Vec::new(), session, duration)?;
        Ok(sts::GetSessionTokenResponse { credentials: Some(credentials(&session)) })
    }
}

struct GetFederationToken(Iam);

fn federated_arn(caller: &Caller, name: &str) -> Arn {
    Arn::new("sts", "", Some(caller.account), format_args!("federated-user/{name}"))
}

#[async_trait]
impl LiveAction for GetFederationToken {
    type Op = sts::ops::GetFederationToken;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &sts::GetFederationTokenRequest) -> Result<Vec<Target>, Error> {
        let mut targets = vec![Target::on("sts:GetFederationToken", federated_arn(cx.caller, &request.name))];
        limits::push_tag_targets(&mut targets, &limits::tags_of(&request.tags)?, &[]);
        Ok(targets)
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::GetFederationTokenRequest,
    ) -> Result<sts::GetFederationTokenResponse, Error> {
        let user = user_of(cx.caller, "GetFederationToken")?;
        check_length(&request.name, "name", 2, 32)?;
        let duration = own_session(cx.caller, request.duration_seconds)?;
        let tags = limits::tags_of(&request.tags)?;
        let account = cx.caller.account;
        let txn = cx.store.read().await?;
        let inline = request.policy.as_ref();
        let policies = limits::policies(&self.0, &txn, account, inline, &request.policy_arns).await?;
        drop(txn);
        let packed_policy_size = limits::packed_size(&policies, &tags)?;
        let whose = Whose::Federated { user, name: request.name.clone() };
        let session = Session { tags, ..Session::default() };
        let session = self.0.issue(account, whose, policies, session, duration)?;
        Ok(sts::GetFederationTokenResponse {
            credentials: Some(credentials(&session)),
            federated_user: Some(sts::FederatedUser {
                arn: Some(federated_arn(cx.caller, &request.name).to_string()),
                federated_user_id: Some(format!("{account}:{}", request.name)),
            }),
            packed_policy_size,
        })
    }
}
