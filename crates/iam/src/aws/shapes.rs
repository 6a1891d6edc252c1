//! From records to AWS's shapes.

use terroir_action::Context;
use terroir_aws_model::iam;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::Error;

use crate::builtin::BuiltinPolicy;
use crate::model::{Group, InstanceProfile, ManagedPolicy, PolicyDocument, PolicyVersion, Role, User};
use crate::names::Entity;
use crate::ops;
use crate::sigv4::encode;

/// A policy document as IAM answers it: percent-encoded.
pub(super) fn document(text: &str) -> String {
    encode(text.as_bytes())
}

/// Errors: `InvalidInput` for a key that is there twice.
pub(super) fn tags_of(request: &[iam::Tag]) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    for tag in request {
        let (key, value) = (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
        if tags.insert(key, value).is_some() {
            let message = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
            return Err(Error::invalid("InvalidInput", message));
        }
    }
    Ok(tags)
}

pub(super) fn tags(tags: &Tags) -> Vec<iam::Tag> {
    tags.iter().map(|(key, value)| iam::Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// The permissions boundary of a user or role, as it is shown.
pub(super) fn boundary<T: Entity>(txn: &Txn, entity: &T) -> Result<Option<iam::AttachedPermissionsBoundary>, Error> {
    let Some(id) = &entity.about().grants.boundary else { return Ok(None) };
    let policy = ops::policy_by_id(txn, entity.owner(), id)?;
    Ok(policy.map(|policy| iam::AttachedPermissionsBoundary {
        permissions_boundary_arn: Some(policy.arn().to_string()),
        permissions_boundary_type: Some("PermissionsBoundaryPolicy".to_owned()),
    }))
}

/// Without tags, as in lists.
pub(super) fn user(user: &User) -> iam::User {
    iam::User {
        arn: Some(user.arn().to_string()),
        create_date: Some(user.created_at),
        path: Some(user.tenant.path.clone()),
        user_id: Some(user.id.clone()),
        user_name: Some(user.tenant.name.clone()),
        ..iam::User::default()
    }
}

/// With tags and permissions boundary.
pub(super) fn whole_user(txn: &Txn, record: &User) -> Result<iam::User, Error> {
    let permissions_boundary = boundary(txn, record)?;
    Ok(iam::User { permissions_boundary, tags: tags(&record.tenant.tags), ..user(record) })
}

pub(super) fn group(group: &Group) -> iam::Group {
    iam::Group {
        arn: Some(group.arn().to_string()),
        create_date: Some(group.created_at),
        group_id: Some(group.id.clone()),
        group_name: Some(group.tenant.name.clone()),
        path: Some(group.tenant.path.clone()),
    }
}

/// The key of a role's trust policy, which its shape shows.
pub(super) fn trust_key(role: &Role) -> Key {
    PolicyDocument::key(role.account, &role.id, &role.trust)
}

/// Without tags, as in lists. The trust policy must have been fetched.
pub(super) fn role(txn: &Txn, role: &Role) -> Result<iam::Role, Error> {
    let trust = ops::read_document(txn, role.account, &role.id, &role.trust)?;
    Ok(iam::Role {
        arn: Some(role.arn().to_string()),
        assume_role_policy_document: Some(document(&trust)),
        create_date: Some(role.created_at),
        description: role.tenant.about.description.clone(),
        max_session_duration: i32::try_from(role.max_session_secs).ok(),
        path: Some(role.tenant.about.path.clone()),
        role_id: Some(role.id.clone()),
        role_name: Some(role.tenant.about.name.clone()),
        ..iam::Role::default()
    })
}

/// With tags and permissions boundary. The trust policy must have been fetched.
pub(super) fn whole_role(txn: &Txn, record: &Role) -> Result<iam::Role, Error> {
    let permissions_boundary = boundary(txn, record)?;
    Ok(iam::Role { permissions_boundary, tags: tags(&record.tenant.about.tags), ..role(txn, record)? })
}

/// Without its document.
pub(super) fn version(policy: &ManagedPolicy, version: &PolicyVersion) -> iam::PolicyVersion {
    iam::PolicyVersion {
        create_date: Some(version.created_at),
        document: None,
        is_default_version: Some(version.number == policy.default_number()),
        version_id: Some(format!("v{}", version.number)),
    }
}

/// How often a policy is used in an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub attached: i32,
    pub boundary: i32,
}

pub(super) fn policy(policy: &ManagedPolicy) -> iam::Policy {
    iam::Policy {
        arn: Some(policy.arn().to_string()),
        attachment_count: i32::try_from(policy.attachments).ok(),
        create_date: Some(policy.created_at),
        default_version_id: Some(format!("v{}", policy.default_number())),
        is_attachable: Some(true),
        path: Some(policy.tenant.path.clone()),
        permissions_boundary_usage_count: i32::try_from(policy.boundaries).ok(),
        policy_id: Some(policy.id.clone()),
        policy_name: Some(policy.tenant.name.clone()),
        update_date: Some(policy.updated_at.unwrap_or(policy.created_at)),
        ..iam::Policy::default()
    }
}

pub(super) fn builtin(policy: &BuiltinPolicy, uses: Uses) -> iam::Policy {
    iam::Policy {
        arn: Some(policy.arn().to_string()),
        attachment_count: Some(uses.attached),
        create_date: Some(BuiltinPolicy::created_at()),
        default_version_id: Some("v1".to_owned()),
        is_attachable: Some(true),
        path: Some("/".to_owned()),
        permissions_boundary_usage_count: Some(uses.boundary),
        policy_id: Some(policy.id()),
        policy_name: Some(policy.name.to_owned()),
        update_date: Some(BuiltinPolicy::created_at()),
        ..iam::Policy::default()
    }
}

/// With its role, whose trust policy must have been fetched.
pub(super) fn profile(cx: &Context<'_>, profile: &InstanceProfile) -> Result<iam::InstanceProfile, Error> {
    let of_profile = ops::role_of_profile(cx.txn, profile)?;
    Ok(iam::InstanceProfile {
        arn: Some(profile.arn().to_string()),
        create_date: Some(profile.created_at),
        instance_profile_id: Some(profile.id.clone()),
        instance_profile_name: Some(profile.tenant.name.clone()),
        path: Some(profile.tenant.path.clone()),
        roles: of_profile.iter().map(|record| role(cx.txn, record)).collect::<Result<_, _>>()?,
        tags: tags(&profile.tenant.tags),
    })
}
