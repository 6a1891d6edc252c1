//! Inline policies of users, groups and roles.

use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, PageRequest, iam};
use terroir_store::Key;
use terroir_types::Error;

use super::page::{Page, page};
use super::{action, shapes, targets};
use crate::model::{Group, PolicyDocument, Role, User};
use crate::ops::{self, Holder};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<PutUserPolicy>();
    registry.add::<GetUserPolicy>();
    registry.add::<ListUserPolicies>();
    registry.add::<DeleteUserPolicy>();
    registry.add::<PutGroupPolicy>();
    registry.add::<GetGroupPolicy>();
    registry.add::<ListGroupPolicies>();
    registry.add::<DeleteGroupPolicy>();
    registry.add::<PutRolePolicy>();
    registry.add::<GetRolePolicy>();
    registry.add::<ListRolePolicies>();
    registry.add::<DeleteRolePolicy>();
}

/// The key of an inline policy's document, if there is such a policy.
fn document_key(cx: &Context<'_>, holder: Holder<'_>, name: &str) -> Result<Vec<Key>, Error> {
    match holder.grants(cx.txn, cx.account()) {
        Ok((id, grants)) => {
            let policy = grants.inline.get(name);
            Ok(policy.map(|policy| PolicyDocument::key(cx.account(), &id, &policy.hash)).into_iter().collect())
        }
        Err(error) if error.class() == terroir_types::ErrorClass::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Errors: `NoSuchEntity`.
fn text(cx: &Context<'_>, holder: Holder<'_>, name: &str) -> Result<String, Error> {
    let (id, grants) = holder.grants(cx.txn, cx.account())?;
    let policy = grants.inline.get(name).ok_or_else(|| ops::unknown_inline(holder, name))?;
    Ok(shapes::document(&ops::read_document(cx.txn, cx.account(), &id, &policy.hash)?))
}

fn names(cx: &Context<'_>, action: &str, holder: Holder<'_>, request: PageRequest<'_>) -> Result<Page<String>, Error> {
    let (id, grants) = holder.grants(cx.txn, cx.account())?;
    page(cx, action, &id, request, grants.inline.keys().map(|name| (name.clone(), name.clone())))
}

macro_rules! inline_actions {
    ($holder:ident, $entity:ty, $field:ident, $put:ident, $get:ident, $get_response:ident, $list:ident, $list_response:ident, $delete:ident) => {
        action!($put, Write, |cx, r| targets::with_boundary::<$entity>(cx, &r.$field), |cx, r| {
            let holder = Holder::$holder(&r.$field);
            ops::put_inline_policy(cx.txn, cx.caller.account, holder, &r.policy_name, &r.policy_document)?;
            Ok(Empty)
        });

        action!(
            $get,
            Read,
            |cx, r| targets::one::<$entity>(cx, &r.$field),
            |cx, r| document_key(cx, Holder::$holder(&r.$field), &r.policy_name),
            |cx, r| {
                Ok(iam::$get_response {
                    policy_document: Some(text(cx, Holder::$holder(&r.$field), &r.policy_name)?),
                    policy_name: Some(r.policy_name),
                    $field: Some(r.$field),
                })
            }
        );

        action!($list, Read, |cx, r| targets::one::<$entity>(cx, &r.$field), |cx, r| {
            let page = names(cx, stringify!($list), Holder::$holder(&r.$field), r.page())?;
            Ok(iam::$list_response { policy_names: page.items, is_truncated: page.is_truncated, marker: page.marker })
        });

        action!($delete, Write, |cx, r| targets::with_boundary::<$entity>(cx, &r.$field), |cx, r| {
            ops::delete_inline_policy(cx.txn, cx.caller.account, Holder::$holder(&r.$field), &r.policy_name)?;
            Ok(Empty)
        });
    };
}

inline_actions!(
    User,
    User,
    user_name,
    PutUserPolicy,
    GetUserPolicy,
    GetUserPolicyResponse,
    ListUserPolicies,
    ListUserPoliciesResponse,
    DeleteUserPolicy
);
inline_actions!(
    Group,
    Group,
    group_name,
    PutGroupPolicy,
    GetGroupPolicy,
    GetGroupPolicyResponse,
    ListGroupPolicies,
    ListGroupPoliciesResponse,
    DeleteGroupPolicy
);
inline_actions!(
    Role,
    Role,
    role_name,
    PutRolePolicy,
    GetRolePolicy,
    GetRolePolicyResponse,
    ListRolePolicies,
    ListRolePoliciesResponse,
    DeleteRolePolicy
);
