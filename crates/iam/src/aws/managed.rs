//! Managed policies themselves. A policy has one version, `v1`.

use std::collections::BTreeMap;
use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_store::Key;
use terroir_types::{AccountId, Error};

use super::page::page;
use super::{action, shapes, targets};
use crate::builtin::{self, BuiltinPolicy};
use crate::model::{Group, ManagedPolicy, PolicyDocument, Role, User};
use crate::names::{self, Entity};
use crate::ops::{self, About, AttachablePolicy};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreatePolicy>();
    registry.add::<GetPolicy>();
    registry.add::<GetPolicyVersion>();
    registry.add::<ListPolicies>();
    registry.add::<DeletePolicy>();
}

/// How often each built-in policy is attached in an account, by its id; not tracked.
fn builtin_attachments(cx: &Context<'_>) -> Result<BTreeMap<String, i32>, Error> {
    fn count<T: Entity>(cx: &Context<'_>, account: AccountId, counts: &mut BTreeMap<String, i32>) -> Result<(), Error> {
        for (_, holder) in cx.txn.peek_range::<T>(&Key::new(format!("{}/{account}", T::KIND)))? {
            for id in &holder.about().grants.attached {
                *counts.entry(id.clone()).or_default() += 1;
            }
        }
        Ok(())
    }
    let mut counts = BTreeMap::new();
    count::<User>(cx, cx.account(), &mut counts)?;
    count::<Group>(cx, cx.account(), &mut counts)?;
    count::<Role>(cx, cx.account(), &mut counts)?;
    Ok(counts)
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
            let attachments = builtin_attachments(cx)?.remove(&policy.id()).unwrap_or_default();
            shapes::builtin(policy, attachments)
        }
    };
    Ok(iam::GetPolicyResponse { policy: Some(policy) })
});

action!(
    GetPolicyVersion,
    Read,
    |cx, r| targets::policy(cx, &r.policy_arn),
    |cx, r| {
        match ops::find_policy(cx.txn, cx.account(), &r.policy_arn) {
            Ok(AttachablePolicy::Own(policy)) => {
                Ok(vec![PolicyDocument::key(policy.account, &policy.id, &policy.document)])
            }
            Ok(AttachablePolicy::Builtin(_)) | Err(_) => Ok(Vec::new()),
        }
    },
    |cx, r| {
        let policy = ops::find_policy(cx.txn, cx.account(), &r.policy_arn)?;
        if r.version_id != shapes::VERSION {
            let message =
                format!("Policy {} version {} does not exist or is not attachable.", r.policy_arn, r.version_id);
            return Err(Error::not_found("NoSuchEntity", message));
        }
        let (text, created_at) = match policy {
            AttachablePolicy::Own(policy) => {
                (ops::read_document(cx.txn, policy.account, &policy.id, &policy.document)?, policy.created_at)
            }
            AttachablePolicy::Builtin(policy) => (policy.document.to_owned(), BuiltinPolicy::created_at()),
        };
        let version = iam::PolicyVersion {
            create_date: Some(created_at),
            document: Some(shapes::document(&text)),
            is_default_version: Some(true),
            version_id: Some(shapes::VERSION.to_owned()),
        };
        Ok(iam::GetPolicyVersionResponse { policy_version: Some(version) })
    }
);

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
    if usage == "PermissionsPolicy" {
        if scope != "Local" {
            let counts = builtin_attachments(cx)?;
            let shape = |policy| shapes::builtin(policy, counts.get(&policy.id()).copied().unwrap_or_default());
            keyed
                .extend(builtin::ALL.iter().map(|policy| (format!("{}\0", policy.name.to_lowercase()), shape(policy))));
        }
        if scope != "AWS" {
            let own = names::list::<ManagedPolicy>(cx.txn, cx.account())?;
            keyed.extend(own.iter().map(|policy| (policy.name().to_lowercase(), shapes::policy(policy))));
        }
    }
    let only_attached = r.only_attached.unwrap_or(false);
    keyed.retain(|(_, policy)| {
        let attached = policy.attachment_count.unwrap_or_default() > 0;
        policy.path.as_deref().is_some_and(|path| path.starts_with(prefix)) && (attached || !only_attached)
    });
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let page = page(cx, "ListPolicies", &format!("{scope}\0{usage}\0{only_attached}\0{prefix}"), r.page(), keyed)?;
    Ok(iam::ListPoliciesResponse { policies: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(DeletePolicy, Write, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    ops::delete_policy(cx.txn, cx.caller.account, &r.policy_arn)?;
    Ok(Empty)
});
