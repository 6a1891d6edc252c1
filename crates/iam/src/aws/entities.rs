//! Which users, groups and roles have a policy, and which of their policies reach a service.

use async_trait::async_trait;
use terroir_action::{Access, Context, LiveAction, LiveContext, Registry, Target};
use terroir_aws_model::{Decode, iam};
use terroir_store::Key;
use terroir_types::Error;

use super::page::page;
use super::{action, targets};
use crate::evaluation::{Document, DocumentKind};
use crate::model::{Group, Role, User};
use crate::names::Entity;
use crate::ops;
use crate::policies_of::{NamedPolicy, holder_of_arn};
use crate::service::Iam;

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add::<ListEntitiesForPolicy>();
    registry.add_live(ListPoliciesGrantingServiceAccess(iam.clone()));
}

/// Name and id of a user, group or role.
enum Holding {
    User(String, String),
    Group(String, String),
    Role(String, String),
}

const FILTERS: [&str; 5] = ["User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy"];

action!(ListEntitiesForPolicy, Read, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    let filter = r.entity_filter.as_deref();
    let usage = r.policy_usage_filter.as_deref();
    let known = filter.is_none_or(|filter| FILTERS.contains(&filter))
        && usage.is_none_or(|usage| ["PermissionsPolicy", "PermissionsBoundary"].contains(&usage));
    if !known {
        return Err(Error::invalid("ValidationError", "Invalid value for EntityFilter or PolicyUsageFilter."));
    }
    let id = ops::find_policy(cx.txn, cx.account(), &r.policy_arn)?.id();
    let prefix = r.path_prefix.as_deref().unwrap_or("/");
    let mut keyed = Vec::new();
    {
        let mut add = |kind: &str, holding: &mut dyn FnMut() -> Result<Vec<(String, Holding)>, Error>| {
            if filter.is_none_or(|filter| filter == kind) {
                keyed.extend(holding()?);
            }
            Ok::<_, Error>(())
        };
        let cx = &*cx;
        add("Group", &mut || holders::<Group>(cx, &id, usage, prefix, Holding::Group))?;
        add("Role", &mut || holders::<Role>(cx, &id, usage, prefix, Holding::Role))?;
        add("User", &mut || holders::<User>(cx, &id, usage, prefix, Holding::User))?;
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let scope = format!("{id}\0{}\0{}\0{prefix}", filter.unwrap_or_default(), usage.unwrap_or_default());
    let page = page(cx, "ListEntitiesForPolicy", &scope, r.page(), keyed)?;
    let mut response = iam::ListEntitiesForPolicyResponse {
        is_truncated: page.is_truncated,
        marker: page.marker,
        ..iam::ListEntitiesForPolicyResponse::default()
    };
    for holding in page.items {
        match holding {
            Holding::Group(name, id) => {
                response.policy_groups.push(iam::PolicyGroup { group_id: Some(id), group_name: Some(name) });
            }
            Holding::Role(name, id) => {
                response.policy_roles.push(iam::PolicyRole { role_id: Some(id), role_name: Some(name) });
            }
            Holding::User(name, id) => {
                response.policy_users.push(iam::PolicyUser { user_id: Some(id), user_name: Some(name) });
            }
        }
    }
    Ok(response)
});

/// Those of one kind that use a policy; not tracked.
fn holders<T: Entity>(
    cx: &Context<'_>,
    policy: &str,
    usage: Option<&str>,
    prefix: &str,
    make: fn(String, String) -> Holding,
) -> Result<Vec<(String, Holding)>, Error> {
    let all = cx.txn.peek_range::<T>(&Key::new(format!("{}/{}", T::KIND, cx.account())))?;
    let uses = |entity: &T| {
        let grants = &entity.about().grants;
        let attached = usage != Some("PermissionsBoundary") && grants.attached.iter().any(|id| id == policy);
        let boundary = usage != Some("PermissionsPolicy") && grants.boundary.as_deref() == Some(policy);
        (attached || boundary) && entity.about().path.starts_with(prefix)
    };
    let using = all.into_iter().filter(|(_, entity)| uses(entity));
    Ok(using
        .map(|(_, entity)| {
            let (name, id) = (entity.name().to_owned(), entity.id().to_owned());
            (format!("{}\0{}", T::KIND, name.to_lowercase()), make(name, id))
        })
        .collect())
}

struct ListPoliciesGrantingServiceAccess(Iam);

#[async_trait]
impl LiveAction for ListPoliciesGrantingServiceAccess {
    type Op = iam::ops::ListPoliciesGrantingServiceAccess;
    const ACCESS: Access = Access::Read;

    fn targets(
        &self,
        _cx: &Context<'_>,
        request: &iam::ListPoliciesGrantingServiceAccessRequest,
    ) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("iam:ListPoliciesGrantingServiceAccess", targets::policy_arn(&request.arn)?)])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: iam::ListPoliciesGrantingServiceAccessRequest,
    ) -> Result<iam::ListPoliciesGrantingServiceAccessResponse, Error> {
        let txn = cx.store.read().await?;
        let holder = holder_of_arn(&txn, cx.caller.account, &request.arn)?;
        let policies = self.0.policies_of(&txn, cx.caller.account, holder).await?;
        let mut parsed = Vec::with_capacity(policies.len());
        for policy in &policies {
            // Documents are checked when they are written.
            parsed.push((policy, Document::parse(&policy.text, DocumentKind::Identity).map_err(Error::internal)?));
        }
        let entry = |namespace: &String| {
            let granting = parsed.iter().filter(|(_, document)| document.may_allow_service(namespace));
            iam::ListPoliciesGrantingServiceAccessEntry {
                policies: granting.map(|(policy, _)| shape(policy)).collect(),
                service_namespace: Some(namespace.clone()),
            }
        };
        Ok(iam::ListPoliciesGrantingServiceAccessResponse {
            is_truncated: Some(false),
            marker: None,
            policies_granting_service_access: request.service_namespaces.iter().map(entry).collect(),
        })
    }
}

fn shape(policy: &NamedPolicy) -> iam::PolicyGrantingServiceAccess {
    let inline = policy.arn.is_none();
    iam::PolicyGrantingServiceAccess {
        entity_name: inline.then(|| policy.holder.clone()),
        entity_type: inline.then(|| policy.holder_type.to_owned()),
        policy_arn: policy.arn.clone(),
        policy_name: Some(policy.name.clone()),
        policy_type: Some(if inline { "INLINE" } else { "MANAGED" }.to_owned()),
    }
}
