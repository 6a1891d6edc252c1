//! Managed policies attached to users, groups and roles.

use terroir_action::{Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, PageRequest, iam};
use terroir_types::Error;

use super::page::{Page, page};
use super::{action, targets};
use crate::model::{Group, Role, User};
use crate::names::Entity;
use crate::ops::{self, AttachablePolicy, Holder};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<AttachUserPolicy>();
    registry.add::<DetachUserPolicy>();
    registry.add::<ListAttachedUserPolicies>();
    registry.add::<AttachGroupPolicy>();
    registry.add::<DetachGroupPolicy>();
    registry.add::<ListAttachedGroupPolicies>();
    registry.add::<AttachRolePolicy>();
    registry.add::<DetachRolePolicy>();
    registry.add::<ListAttachedRolePolicies>();
}

/// The holder, with the policy as the condition key `iam:PolicyARN`.
fn holder_targets<T: Entity>(cx: &Context<'_>, name: &str, arn: &str) -> Result<Vec<Target>, Error> {
    let targets = targets::with_boundary::<T>(cx, name)?.into_iter();
    Ok(targets.map(|target| target.key("iam:PolicyARN", arn)).collect())
}

fn path(policy: &AttachablePolicy) -> &str {
    match policy {
        AttachablePolicy::Own(policy) => &policy.tenant.path,
        AttachablePolicy::Builtin(_) => "/",
    }
}

fn list(
    cx: &Context<'_>,
    action: &str,
    holder: Holder<'_>,
    prefix: Option<&str>,
    request: PageRequest<'_>,
) -> Result<Page<iam::AttachedPolicy>, Error> {
    let (id, grants) = holder.grants(cx.txn, cx.account())?;
    let prefix = prefix.unwrap_or("/");
    let mut keyed = Vec::new();
    for id in &grants.attached {
        let policy = ops::policy_by_id(cx.txn, cx.account(), id)?;
        if let Some(policy) = policy.filter(|policy| path(policy).starts_with(prefix)) {
            let arn = policy.arn().to_string();
            let shape =
                iam::AttachedPolicy { policy_arn: Some(arn.clone()), policy_name: Some(policy.name().to_owned()) };
            keyed.push((format!("{}\0{arn}", policy.name().to_lowercase()), shape));
        }
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    page(cx, action, &format!("{id}\0{prefix}"), request, keyed)
}

macro_rules! attached_actions {
    ($holder:ident, $field:ident, $attach:ident, $detach:ident, $list:ident, $list_response:ident) => {
        action!($attach, Write, |cx, r| holder_targets::<$holder>(cx, &r.$field, &r.policy_arn), |cx, r| {
            ops::attach_policy(cx.txn, cx.caller.account, Holder::$holder(&r.$field), &r.policy_arn)?;
            Ok(Empty)
        });

        action!($detach, Write, |cx, r| holder_targets::<$holder>(cx, &r.$field, &r.policy_arn), |cx, r| {
            ops::detach_policy(cx.txn, cx.caller.account, Holder::$holder(&r.$field), &r.policy_arn)?;
            Ok(Empty)
        });

        action!($list, Read, |cx, r| targets::one::<$holder>(cx, &r.$field), |cx, r| {
            let holder = Holder::$holder(&r.$field);
            let page = list(cx, stringify!($list), holder, r.path_prefix.as_deref(), r.page())?;
            Ok(iam::$list_response {
                attached_policies: page.items,
                is_truncated: page.is_truncated,
                marker: page.marker,
            })
        });
    };
}

attached_actions!(
    User,
    user_name,
    AttachUserPolicy,
    DetachUserPolicy,
    ListAttachedUserPolicies,
    ListAttachedUserPoliciesResponse
);
attached_actions!(
    Group,
    group_name,
    AttachGroupPolicy,
    DetachGroupPolicy,
    ListAttachedGroupPolicies,
    ListAttachedGroupPoliciesResponse
);
attached_actions!(
    Role,
    role_name,
    AttachRolePolicy,
    DetachRolePolicy,
    ListAttachedRolePolicies,
    ListAttachedRolePoliciesResponse
);
