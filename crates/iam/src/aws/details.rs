//! Everything about who may do what in an account, in pages.

use std::sync::Arc;
use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, PageRequest, iam};
use terroir_store::Key;
use terroir_types::Error;

use super::managed::builtin_uses;
use super::page::{Page, page};
use super::{action, shapes, targets, versions};
use crate::builtin::{self, BuiltinPolicy};
use crate::model::{Grants, Group, ManagedPolicy, PolicyDocument, Role, User};
use crate::names::{self, Entity};
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<GetAccountAuthorizationDetails>();
}

enum Item {
    User(Arc<User>),
    Group(Arc<Group>),
    Role(Arc<Role>),
    Own(Arc<ManagedPolicy>),
    Builtin(&'static BuiltinPolicy),
}

const FILTERS: [&str; 5] = ["User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy"];

/// Most items of one answer, whatever the request asks for: each comes with all its documents.
const MAX_ITEMS: i32 = 100;

/// One page of items; `AWSManagedPolicy` are the built-in ones that are in use.
fn items(cx: &Context<'_>, filter: &[String], request: PageRequest<'_>) -> Result<Page<Item>, Error> {
    if let Some(unknown) = filter.iter().find(|kind| !FILTERS.contains(&kind.as_str())) {
        return Err(Error::invalid("ValidationError", format!("Value '{unknown}' at 'filter' is not a known type.")));
    }
    let wants = |kind: &str| filter.is_empty() || filter.iter().any(|wanted| wanted == kind);
    let mut keyed = Vec::new();
    fn all<T: Entity>(
        cx: &Context<'_>,
        keyed: &mut Vec<(String, Item)>,
        make: fn(Arc<T>) -> Item,
    ) -> Result<(), Error> {
        for entity in names::list::<T>(cx.txn, cx.account())? {
            keyed.push((format!("{}\0{}", T::KIND, entity.name().to_lowercase()), make(entity)));
        }
        Ok(())
    }
    if wants("Group") {
        all::<Group>(cx, &mut keyed, Item::Group)?;
    }
    if wants("LocalManagedPolicy") {
        all::<ManagedPolicy>(cx, &mut keyed, Item::Own)?;
    }
    if wants("AWSManagedPolicy") {
        let uses = builtin_uses(cx)?;
        let used = builtin::ALL.iter().filter(|policy| uses.contains_key(&policy.id()));
        keyed.extend(used.map(|policy| (format!("managed-policy-of-all\0{}", policy.name), Item::Builtin(policy))));
    }
    if wants("Role") {
        all::<Role>(cx, &mut keyed, Item::Role)?;
    }
    if wants("User") {
        all::<User>(cx, &mut keyed, Item::User)?;
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let capped = |asked: i32| if (1..=1000).contains(&asked) { asked.min(MAX_ITEMS) } else { asked };
    let request = PageRequest { max_results: request.max_results.map(capped), ..request };
    page(cx, "GetAccountAuthorizationDetails", &filter.join(","), request, keyed)
}

/// The keys of all documents that a page shows.
fn documents(cx: &Context<'_>, page: &[Item]) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    let mut inline = |id: &str, grants: &Grants| {
        keys.extend(grants.inline.values().map(|policy| PolicyDocument::key(cx.account(), id, &policy.hash)));
    };
    for item in page {
        match item {
            Item::User(user) => inline(&user.id, &user.tenant.grants),
            Item::Group(group) => inline(&group.id, &group.tenant.grants),
            Item::Role(role) => inline(&role.id, &role.tenant.about.grants),
            Item::Own(_) | Item::Builtin(_) => {}
        }
    }
    for item in page {
        match item {
            Item::Role(role) => keys.push(shapes::trust_key(role)),
            Item::Own(policy) => {
                keys.extend(policy.all_versions().iter().map(|version| versions::key_of(policy, version)));
            }
            Item::User(_) | Item::Group(_) | Item::Builtin(_) => {}
        }
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn inline(cx: &Context<'_>, id: &str, grants: &Grants) -> Result<Vec<iam::PolicyDetail>, Error> {
    let detail = |(name, policy): (&String, &crate::model::InlinePolicy)| {
        let text = ops::read_document(cx.txn, cx.account(), id, &policy.hash)?;
        Ok(iam::PolicyDetail { policy_document: Some(shapes::document(&text)), policy_name: Some(name.clone()) })
    };
    grants.inline.iter().map(detail).collect()
}

fn attached(cx: &Context<'_>, grants: &Grants) -> Result<Vec<iam::AttachedPolicy>, Error> {
    let mut list = Vec::new();
    for id in &grants.attached {
        if let Some(policy) = ops::policy_by_id(cx.txn, cx.account(), id)? {
            let (arn, name) = (policy.arn().to_string(), policy.name().to_owned());
            list.push(iam::AttachedPolicy { policy_arn: Some(arn), policy_name: Some(name) });
        }
    }
    Ok(list)
}

fn user(cx: &Context<'_>, user: &User) -> Result<iam::UserDetail, Error> {
    let shape = shapes::whole_user(cx.txn, user)?;
    let groups = ops::groups_of(cx.txn, user)?;
    Ok(iam::UserDetail {
        arn: shape.arn,
        attached_managed_policies: attached(cx, &user.tenant.grants)?,
        create_date: shape.create_date,
        group_list: groups.iter().map(|group| group.name().to_owned()).collect(),
        path: shape.path,
        permissions_boundary: shape.permissions_boundary,
        tags: shape.tags,
        user_id: shape.user_id,
        user_name: shape.user_name,
        user_policy_list: inline(cx, &user.id, &user.tenant.grants)?,
    })
}

fn group(cx: &Context<'_>, group: &Group) -> Result<iam::GroupDetail, Error> {
    let shape = shapes::group(group);
    Ok(iam::GroupDetail {
        arn: shape.arn,
        attached_managed_policies: attached(cx, &group.tenant.grants)?,
        create_date: shape.create_date,
        group_id: shape.group_id,
        group_name: shape.group_name,
        group_policy_list: inline(cx, &group.id, &group.tenant.grants)?,
        path: shape.path,
    })
}

fn role(cx: &Context<'_>, role: &Role) -> Result<iam::RoleDetail, Error> {
    let shape = shapes::whole_role(cx.txn, role)?;
    let profiles = ops::profiles_of_role(cx.txn, role)?;
    Ok(iam::RoleDetail {
        arn: shape.arn,
        assume_role_policy_document: shape.assume_role_policy_document,
        attached_managed_policies: attached(cx, &role.tenant.about.grants)?,
        create_date: shape.create_date,
        instance_profile_list: profiles.iter().map(|of| shapes::profile(cx, of)).collect::<Result<_, _>>()?,
        path: shape.path,
        permissions_boundary: shape.permissions_boundary,
        role_id: shape.role_id,
        role_last_used: None,
        role_name: shape.role_name,
        role_policy_list: inline(cx, &role.id, &role.tenant.about.grants)?,
        tags: shape.tags,
    })
}

fn policy_detail(policy: iam::Policy, versions: Vec<iam::PolicyVersion>) -> iam::ManagedPolicyDetail {
    iam::ManagedPolicyDetail {
        arn: policy.arn,
        attachment_count: policy.attachment_count,
        create_date: policy.create_date,
        default_version_id: policy.default_version_id,
        description: policy.description,
        is_attachable: policy.is_attachable,
        path: policy.path,
        permissions_boundary_usage_count: policy.permissions_boundary_usage_count,
        policy_id: policy.policy_id,
        policy_name: policy.policy_name,
        policy_version_list: versions,
        update_date: policy.update_date,
    }
}

fn own(cx: &Context<'_>, policy: &ManagedPolicy) -> Result<iam::ManagedPolicyDetail, Error> {
    let versions = policy.all_versions();
    let versions = versions.iter().map(|version| versions::shown(cx, policy, version)).collect::<Result<_, _>>()?;
    let shape = iam::Policy { description: policy.tenant.description.clone(), ..shapes::policy(policy) };
    Ok(policy_detail(shape, versions))
}

action!(
    GetAccountAuthorizationDetails,
    Read,
    |_cx, _r| targets::none(),
    |cx, r| documents(cx, &items(cx, &r.filter, r.page())?.items),
    |cx, r| {
        let page = items(cx, &r.filter, r.page())?;
        let uses = builtin_uses(cx)?;
        let mut response = iam::GetAccountAuthorizationDetailsResponse {
            is_truncated: page.is_truncated,
            marker: page.marker,
            ..iam::GetAccountAuthorizationDetailsResponse::default()
        };
        for item in &page.items {
            match item {
                Item::User(of) => response.user_detail_list.push(user(cx, of)?),
                Item::Group(of) => response.group_detail_list.push(group(cx, of)?),
                Item::Role(of) => response.role_detail_list.push(role(cx, of)?),
                Item::Own(policy) => response.policies.push(own(cx, policy)?),
                Item::Builtin(policy) => {
                    let shape = shapes::builtin(policy, uses.get(&policy.id()).copied().unwrap_or_default());
                    response.policies.push(policy_detail(shape, vec![versions::builtin(policy)]));
                }
            }
        }
        Ok(response)
    }
);
