//! Passwords of users. They are hashed outside transactions (see [`crate::password`]).

use async_trait::async_trait;
use std::sync::Arc;
use terroir_action::{Access, CallerKind, Context, LiveAction, LiveContext, Registry, ResourcePolicy, Target};
use terroir_aws_model::{Empty, iam};
use terroir_types::{Error, ErrorClass, Secret};

use super::action;
use super::user::Subject;
use crate::model::{LoginProfile, PasswordPolicy, User};
use crate::ops;
use crate::password;

pub(super) fn register(registry: &mut Registry) {
    registry.add_live(CreateLoginProfile);
    registry.add::<GetLoginProfile>();
    registry.add_live(UpdateLoginProfile);
    registry.add::<DeleteLoginProfile>();
    registry.add_live(ChangePassword);
}

fn shape(user_name: &str, profile: &LoginProfile) -> iam::LoginProfile {
    iam::LoginProfile {
        create_date: Some(profile.created_at),
        password_reset_required: Some(profile.reset_required),
        user_name: Some(user_name.to_owned()),
    }
}

/// The user that a request means. Errors: `ValidationError` for the root, which has no password here.
fn user_name(subject: &Subject) -> Result<&str, Error> {
    match subject {
        Subject::User(name) => Ok(name),
        Subject::Root => Err(Error::invalid("ValidationError", "Must specify userName: the root has no password.")),
    }
}

fn targets_of(cx: &Context<'_>, permission: &str, name: Option<&String>) -> Result<Vec<Target>, Error> {
    let targets = Subject::targets(cx, name)?;
    Ok(targets.into_iter().map(|target| Target { permission: permission.to_owned(), ..target }).collect())
}

struct CreateLoginProfile;

#[async_trait]
impl LiveAction for CreateLoginProfile {
    type Op = iam::ops::CreateLoginProfile;
    const ACCESS: Access = Access::Write;

    fn targets(&self, cx: &Context<'_>, request: &iam::CreateLoginProfileRequest) -> Result<Vec<Target>, Error> {
        targets_of(cx, "iam:CreateLoginProfile", request.user_name.as_ref())
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: iam::CreateLoginProfileRequest,
    ) -> Result<iam::CreateLoginProfileResponse, Error> {
        let account = cx.caller.account;
        let subject = Subject::of_caller(cx.caller, request.user_name.as_ref())?;
        let name = user_name(&subject)?;
        let Some(password) = request.password else {
            return Err(Error::invalid("ValidationError", "The password of the user must be given."));
        };
        let txn = cx.store.read().await?;
        crate::names::find::<User>(&txn, account, name)?;
        ops::check_password(ops::password_policy(&txn, account)?.as_deref(), name, &password)?;
        drop(txn);
        let hash = password::hash(Secret::new(password), cx.ids).await?;
        let (now, reset) = (cx.clock.now(), request.password_reset_required.unwrap_or(false));
        let create =
            |txn: &mut terroir_store::Txn| ops::create_login_profile(txn, account, name, hash.clone(), reset, now);
        let (profile, _) = cx.store.transact(&[], create).await?;
        Ok(iam::CreateLoginProfileResponse { login_profile: Some(shape(name, &profile)) })
    }
}

action!(GetLoginProfile, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    let name = user_name(&subject)?;
    let (_, profile) = ops::find_login_profile(cx.txn, cx.account(), name)?;
    Ok(iam::GetLoginProfileResponse { login_profile: Some(shape(name, &profile)) })
});

action!(DeleteLoginProfile, Write, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    ops::delete_login_profile(cx.txn, cx.caller.account, user_name(&subject)?)?;
    Ok(Empty)
});

/// The hash of a new password that satisfies the account's policy, and the hashes that it was compared with.
///
/// Errors: `NoSuchEntity`, `PasswordPolicyViolation`, `ValidationError`.
async fn new_hash(
    cx: &LiveContext<'_>,
    name: &str,
    password: String,
) -> Result<(Secret<String>, Vec<Secret<String>>), Error> {
    let txn = cx.store.read().await?;
    let policy: Option<Arc<PasswordPolicy>> = ops::password_policy(&txn, cx.caller.account)?;
    let (_, profile) = ops::find_login_profile(&txn, cx.caller.account, name)?;
    drop(txn);
    ops::check_password(policy.as_deref(), name, &password)?;
    let hashes = profile.tenant.hashes.clone();
    let forbidden = policy.as_ref().and_then(|policy| policy.reuse_prevention).map_or(0, usize::from);
    let earlier: Vec<_> = hashes.iter().take(forbidden).cloned().collect();
    let password = Secret::new(password);
    if password::is_one_of(password.clone(), earlier).await? {
        let message = "Password does not conform to the account password policy: it was used before.";
        return Err(Error::invalid("PasswordPolicyViolation", message));
    }
    Ok((password::hash(password, cx.ids).await?, hashes))
}

struct UpdateLoginProfile;

#[async_trait]
impl LiveAction for UpdateLoginProfile {
    type Op = iam::ops::UpdateLoginProfile;
    const ACCESS: Access = Access::Write;

    fn targets(&self, cx: &Context<'_>, request: &iam::UpdateLoginProfileRequest) -> Result<Vec<Target>, Error> {
        targets_of(cx, "iam:UpdateLoginProfile", Some(&request.user_name))
    }

    async fn run(&self, cx: LiveContext<'_>, request: iam::UpdateLoginProfileRequest) -> Result<Empty, Error> {
        let hash = match request.password {
            Some(password) => Some(new_hash(&cx, &request.user_name, password).await?),
            None => None,
        };
        let now = cx.clock.now();
        let update = |txn: &mut terroir_store::Txn| {
            let hash = hash.as_ref().map(|(hash, compared)| (hash.clone(), compared.as_slice()));
            let reset = request.password_reset_required;
            ops::update_login_profile(txn, cx.caller.account, &request.user_name, hash, reset, now)
        };
        cx.store.transact(&[], update).await?;
        Ok(Empty)
    }
}

/// Where the account's password policy lets its users change their passwords, this is as good as a policy of each user
/// that allows it; a deny still wins.
const OWN_PASSWORD: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"iam:ChangePassword","Resource":"*"}}"#;

struct ChangePassword;

#[async_trait]
impl LiveAction for ChangePassword {
    type Op = iam::ops::ChangePassword;
    const ACCESS: Access = Access::Write;

    fn targets(&self, cx: &Context<'_>, _request: &iam::ChangePasswordRequest) -> Result<Vec<Target>, Error> {
        let allowed = ops::password_policy(cx.txn, cx.account())?.is_some_and(|policy| policy.users_may_change);
        let policy = allowed.then(|| {
            let (text, hash) = (OWN_PASSWORD.to_owned(), ops::document_hash(OWN_PASSWORD));
            Arc::new(ResourcePolicy { text, hash, principals: Default::default() })
        });
        let targets = targets_of(cx, "iam:ChangePassword", None)?;
        Ok(targets.into_iter().map(|target| target.owned_by(cx.account(), policy.clone())).collect())
    }

    async fn run(&self, cx: LiveContext<'_>, request: iam::ChangePasswordRequest) -> Result<Empty, Error> {
        let CallerKind::User { name } = &cx.caller.kind else {
            let message = "Only IAM Users can change their own password";
            return Err(Error::invalid("InvalidUserType", message));
        };
        let account = cx.caller.account;
        let txn = cx.store.read().await?;
        let (_, profile) = ops::find_login_profile(&txn, account, name)?;
        drop(txn);
        let current = profile.tenant.hashes.iter().take(1).cloned().collect();
        if !password::is_one_of(Secret::new(request.old_password), current).await? {
            let message = "The old password was incorrect.";
            return Err(Error::new(ErrorClass::Denied, "AccessDenied", message));
        }
        let (hash, compared) = new_hash(&cx, name, request.new_password).await?;
        if compared != profile.tenant.hashes {
            let message = "The password is being changed by another request. Try again later.";
            return Err(Error::conflict("EntityTemporarilyUnmodifiable", message));
        }
        let now = cx.clock.now();
        let update = |txn: &mut terroir_store::Txn| {
            ops::update_login_profile(txn, account, name, Some((hash.clone(), &compared)), Some(false), now)
        };
        cx.store.transact(&[], update).await?;
        Ok(Empty)
    }
}
