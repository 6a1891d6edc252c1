//! Managed policies themselves.

use std::collections::BTreeMap;
use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_store::Key;
use terroir_types::{AccountId, Error};

use super::page::page;
use super::shapes::Uses;
use super::{action, shapes, targets};
use crate::builtin;
use crate::model::{Group, ManagedPolicy, Role, User};
use crate::names::{self, Entity};
use crate::ops::{self, About, AttachablePolicy};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreatePolicy>();
    registry.add::<GetPolicy>();
    registry.add::<ListPolicies>();
    registry.add::<DeletePolicy>();
}

/// How often each built-in policy is attached in an account, and is a permissions boundary there, by its id; not tracked.
pub(super) fn builtin_uses(cx: &Context<'_>) -> Result<BTreeMap<String, Uses>, Error> {
    fn count<T: Entity>(cx: &Context<'_>, account: AccountId, uses: &mut BTreeMap<String, Uses>) -> Result<(), Error> {
        for (_, holder) in cx.txn.peek_range::<T>(&Key::new(format!("{}/{account}", T::KIND)))? {
            let grants = &holder.about().grants;
            for id in &grants.attached {
                uses.entry(id.clone()).or_default().attached += 1;
            }
            if let Some(id) = &grants.boundary {
                uses.entry(id.clone()).or_default().boundary += 1;
            }
        }
        Ok(())
    }
    let mut uses = BTreeMap::new();
    count::<User>(cx, cx.account(), &mut uses)?;
    count::<Group>(cx, cx.account(), &mut uses)?;
    count::<Role>(cx, cx.account(), &mut uses)?;
    Ok(uses)
}

action!(
    CreatePolicy,
    Write,
    |cx, r| targets::new::<ManagedPolicy>(cx, r.path.as_deref(), &r.policy_name, &shapes::tags_of(&r.tags)?),
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let about =
            About { name: &r.policy_name, path: r.path.as_deref(), description: r.description.as_deref(), tags: &tags };
        let policy = ops::create_policy(cx.txn, cx.caller.account, about, &r.policy_document, cx.ids, cx.now)?;
        let shape = iam::Policy { tags: shapes::tags(&tags), ..shapes::policy(&policy) };
        Ok(iam::CreatePolicyResponse { policy: Some(shape) })
    }
);

action!(GetPolicy, Read, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    let policy = match ops::find_policy(cx.txn, cx.account(), &r.policy_arn)? {
        AttachablePolicy::Own(policy) => iam::Policy {
            description: policy.tenant.description.clone(),
            tags: shapes::tags(&policy.tenant.tags),
            ..shapes::policy(&policy)
        },
        AttachablePolicy::Builtin(policy) => {
            shapes::builtin(policy, builtin_uses(cx)?.remove(&policy.id()).unwrap_or_default())
        }
    };
    Ok(iam::GetPolicyResponse { policy: Some(policy) })
});

action!(ListPolicies, Read, |_cx, _r| targets::none(), |cx, r| {
    let scope = r.scope.as_deref().unwrap_or("All");
    let usage = r.policy_usage_filter.as_deref().unwrap_or("PermissionsPolicy");
    let known =
        ["All", "AWS", "Local"].contains(&scope) && ["PermissionsPolicy", "PermissionsBoundary"].contains(&usage);
    if !known {
        return Err(Error::invalid("ValidationError", "Invalid value for Scope or PolicyUsageFilter."));
    }
    let prefix = r.path_prefix.as_deref().unwrap_or("/");
    let mut keyed = Vec::new();
    if scope != "Local" {
        let uses = builtin_uses(cx)?;
        let shape = |policy| shapes::builtin(policy, uses.get(&policy.id()).copied().unwrap_or_default());
        keyed.extend(builtin::ALL.iter().map(|policy| (format!("{}\0", policy.name.to_lowercase()), shape(policy))));
    }
    if scope != "AWS" {
        let own = names::list::<ManagedPolicy>(cx.txn, cx.account())?;
        keyed.extend(own.iter().map(|policy| (policy.name().to_lowercase(), shapes::policy(policy))));
    }
    let only_attached = r.only_attached.unwrap_or(false);
    let only_boundaries = usage == "PermissionsBoundary";
    keyed.retain(|(_, policy)| {
        let attached = policy.attachment_count.unwrap_or_default() > 0;
        let is_boundary = policy.permissions_boundary_usage_count.unwrap_or_default() > 0;
        let used = if only_boundaries { is_boundary } else { attached || !only_attached };
        used && policy.path.as_deref().is_some_and(|path| path.starts_with(prefix))
    });
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let page = page(cx, "ListPolicies", &format!("{scope}\0{usage}\0{only_attached}\0{prefix}"), r.page(), keyed)?;
    Ok(iam::ListPoliciesResponse { policies: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(DeletePolicy, Write, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    ops::delete_policy(cx.txn, cx.caller.account, &r.policy_arn)?;
    Ok(Empty)
});
