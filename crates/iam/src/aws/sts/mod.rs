//! STS: sessions of roles, of users themselves, and of people outside.

mod assume;
mod federation;
mod limits;
mod web_identity;

use async_trait::async_trait;
use terroir_action::{Access, Action, Context, LiveAction, LiveContext, Registry, Request, Response, Target};
use terroir_aws_model::sts;
use terroir_types::{Arn, Error, ErrorClass};

use crate::authorization_message;
use crate::model::AccessKey;
use crate::service::Iam;
use crate::session::SessionCredentials;

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add::<GetCallerIdentity>();
    registry.add::<GetAccessKeyInfo>();
    registry.add_live(DecodeAuthorizationMessage(iam.clone()));
    assume::register(registry, iam);
    federation::register(registry, iam);
    web_identity::register(registry, iam);
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

/// Tells the account of a key of the caller's own account. AWS tells it of every key; here other tenants' keys are as
/// unknown as keys that never were.
struct GetAccessKeyInfo;

impl Action for GetAccessKeyInfo {
    type Op = sts::ops::GetAccessKeyInfo;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("sts:GetAccessKeyInfo")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id = &request.access_key_id;
        let own = cx.caller.access_key_id == *id;
        let plausible = id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let known = if plausible { cx.txn.get::<AccessKey>(&AccessKey::key(id))? } else { None };
        if !own && known.is_none_or(|key| key.account != cx.account()) {
            return Err(Error::invalid(
                "ValidationError",
                format!("The access key {id} is not known in this account."),
            ));
        }
        Ok(sts::GetAccessKeyInfoResponse { account: Some(cx.account().to_string()) })
    }
}

struct DecodeAuthorizationMessage(Iam);

#[async_trait]
impl LiveAction for DecodeAuthorizationMessage {
    type Op = sts::ops::DecodeAuthorizationMessage;
    const ACCESS: Access = Access::Read;

    fn targets(
        &self,
        _cx: &Context<'_>,
        _request: &sts::DecodeAuthorizationMessageRequest,
    ) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("sts:DecodeAuthorizationMessage")])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: sts::DecodeAuthorizationMessageRequest,
    ) -> Result<sts::DecodeAuthorizationMessageResponse, Error> {
        let keys = self.0.store().keys();
        let text = authorization_message::decode(&**keys, cx.caller.account, &request.encoded_message);
        let text = text.ok_or_else(|| {
            let message = "Message is not valid";
            Error::invalid("InvalidAuthorizationMessageException", message)
        })?;
        Ok(sts::DecodeAuthorizationMessageResponse { decoded_message: Some(text) })
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

/// `DurationSeconds` within its bounds.
///
/// Errors: `ValidationError`.
fn duration(asked: Option<i32>, default: u32, least: u32, greatest: u32) -> Result<u32, Error> {
    let Some(value) = asked else { return Ok(default) };
    match u32::try_from(value) {
        Ok(secs) if (least..=greatest).contains(&secs) => Ok(secs),
        Ok(secs) if secs > greatest => Err(out_of_range(value, &format!("less than or equal to {greatest}"))),
        _ => Err(out_of_range(value, &format!("greater than or equal to {least}"))),
    }
}

fn out_of_range(value: i32, bound: &str) -> Error {
    let message = format!(
        "1 validation error detected: Value '{value}' at 'durationSeconds' failed to satisfy constraint: Member must have value {bound}"
    );
    Error::invalid("ValidationError", message)
}

/// A name of a session or the like: letters, digits and `+=,.@_-`. Errors: `ValidationError`.
fn check_length(name: &str, member: &str, least: usize, greatest: usize) -> Result<(), Error> {
    if name.len() < least {
        let message = format!(
            "1 validation error detected: Value '{name}' at '{member}' failed to satisfy constraint: Member must have length greater than or equal to {least}"
        );
        return Err(Error::invalid("ValidationError", message));
    }
    crate::names::check_name(name, member, greatest)
}

fn role_arn(text: &str) -> Result<Arn, Error> {
    let arn = Arn::parse(text).ok().filter(|arn| arn.service() == "iam" && arn.resource().starts_with("role/"));
    arn.ok_or_else(|| Error::invalid("ValidationError", format!("{text} is invalid")))
}

fn denied(message: &str) -> Error {
    Error::new(ErrorClass::Denied, "AccessDenied", message)
}
