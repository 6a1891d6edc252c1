use std::sync::Arc;
use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, PageRequest, iam};
use terroir_types::{Error, ErrorClass};

use super::page::{Page, page};
use super::{action, shapes, targets};
use crate::model::Role;
use crate::names::{self, Entity};
use crate::ops::{self, About, Holder, NewRole};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateRole>();
    registry.add::<GetRole>();
    registry.add::<ListRoles>();
    registry.add::<DeleteRole>();
    registry.add::<UpdateAssumeRolePolicy>();
    registry.add::<UpdateRole>();
    registry.add::<UpdateRoleDescription>();
}

action!(
    CreateRole,
    Write,
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let boundary = r.permissions_boundary.as_ref();
        targets::new_with_boundary::<Role>(cx, r.path.as_deref(), &r.role_name, &tags, boundary)
    },
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let about =
            About { name: &r.role_name, path: r.path.as_deref(), description: r.description.as_deref(), tags: &tags };
        let new = NewRole { about, trust: &r.assume_role_policy_document, max_session_secs: r.max_session_duration };
        ops::create_role(cx.txn, cx.caller.account, new, cx.ids, cx.now)?;
        if let Some(arn) = &r.permissions_boundary {
            ops::set_boundary(cx.txn, cx.caller.account, Holder::Role(&r.role_name), arn)?;
        }
        let role = names::find::<Role>(cx.txn, cx.account(), &r.role_name)?;
        Ok(iam::CreateRoleResponse { role: Some(shapes::whole_role(cx.txn, &role)?) })
    }
);

action!(
    GetRole,
    Read,
    |cx, r| targets::one::<Role>(cx, &r.role_name),
    |cx, r| match names::find::<Role>(cx.txn, cx.account(), &r.role_name) {
        Ok(role) => Ok(vec![shapes::trust_key(&role)]),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    },
    |cx, r| {
        let role = names::find::<Role>(cx.txn, cx.account(), &r.role_name)?;
        Ok(iam::GetRoleResponse { role: Some(shapes::whole_role(cx.txn, &role)?) })
    }
);

fn roles(cx: &Context<'_>, prefix: Option<&str>, request: PageRequest<'_>) -> Result<Page<Arc<Role>>, Error> {
    let prefix = prefix.unwrap_or("/");
    let roles = names::list::<Role>(cx.txn, cx.account())?;
    let matching = roles.into_iter().filter(|role| role.tenant.about.path.starts_with(prefix));
    page(cx, "ListRoles", prefix, request, matching.map(|role| (role.name().to_lowercase(), role)))
}

action!(
    ListRoles,
    Read,
    |_cx, _r| targets::none(),
    |cx, r| Ok(roles(cx, r.path_prefix.as_deref(), r.page())?
        .items
        .iter()
        .map(|role| shapes::trust_key(role))
        .collect()),
    |cx, r| {
        let page = roles(cx, r.path_prefix.as_deref(), r.page())?;
        Ok(iam::ListRolesResponse {
            roles: page.items.iter().map(|role| shapes::role(cx.txn, role)).collect::<Result<_, _>>()?,
            is_truncated: page.is_truncated,
            marker: page.marker,
        })
    }
);

action!(DeleteRole, Write, |cx, r| targets::one::<Role>(cx, &r.role_name), |cx, r| {
    ops::delete_role(cx.txn, cx.caller.account, &r.role_name)?;
    Ok(Empty)
});

action!(UpdateAssumeRolePolicy, Write, |cx, r| targets::one::<Role>(cx, &r.role_name), |cx, r| {
    ops::set_trust_policy(cx.txn, cx.caller.account, &r.role_name, &r.policy_document)?;
    Ok(Empty)
});

action!(UpdateRole, Write, |cx, r| targets::one::<Role>(cx, &r.role_name), |cx, r| {
    let description = r.description.as_deref();
    ops::update_role(cx.txn, cx.caller.account, &r.role_name, description, r.max_session_duration)?;
    Ok(iam::UpdateRoleResponse {})
});

action!(
    UpdateRoleDescription,
    Write,
    |cx, r| targets::one::<Role>(cx, &r.role_name),
    |cx, r| match names::find::<Role>(cx.txn, cx.account(), &r.role_name) {
        Ok(role) => Ok(vec![shapes::trust_key(&role)]),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    },
    |cx, r| {
        let role = ops::update_role(cx.txn, cx.caller.account, &r.role_name, Some(&r.description), None)?;
        Ok(iam::UpdateRoleDescriptionResponse { role: Some(shapes::whole_role(cx.txn, &role)?) })
    }
);
