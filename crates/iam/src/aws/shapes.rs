//! From records to AWS's shapes.

use terroir_action::Context;
use terroir_aws_model::iam;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::Error;

use crate::builtin::BuiltinPolicy;
use crate::model::{Group, InstanceProfile, ManagedPolicy, PolicyDocument, Role, User};
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

/// Permissions boundaries do not exist here: a request that relies on one must not pass as if they did.
pub(super) fn refuse_boundary(boundary: Option<&String>) -> Result<(), Error> {
    match boundary {
        None => Ok(()),
        Some(_) => Err(Error::invalid("InvalidInput", "PermissionsBoundary is not supported.")),
    }
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

pub(super) fn user_with_tags(record: &User) -> iam::User {
    iam::User { tags: tags(&record.tenant.tags), ..user(record) }
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

pub(super) fn role_with_tags(txn: &Txn, record: &Role) -> Result<iam::Role, Error> {
    Ok(iam::Role { tags: tags(&record.tenant.about.tags), ..role(txn, record)? })
}

pub(super) const VERSION: &str = "v1";

pub(super) fn policy(policy: &ManagedPolicy) -> iam::Policy {
    iam::Policy {
        arn: Some(policy.arn().to_string()),
        attachment_count: i32::try_from(policy.attachments).ok(),
        create_date: Some(policy.created_at),
        default_version_id: Some(VERSION.to_owned()),
        is_attachable: Some(true),
        path: Some(policy.tenant.path.clone()),
        permissions_boundary_usage_count: Some(0),
        policy_id: Some(policy.id.clone()),
        policy_name: Some(policy.tenant.name.clone()),
        update_date: Some(policy.created_at),
        ..iam::Policy::default()
    }
}

pub(super) fn builtin(policy: &BuiltinPolicy, attachments: i32) -> iam::Policy {
    iam::Policy {
        arn: Some(policy.arn().to_string()),
        attachment_count: Some(attachments),
        create_date: Some(BuiltinPolicy::created_at()),
        default_version_id: Some(VERSION.to_owned()),
        is_attachable: Some(true),
        path: Some("/".to_owned()),
        permissions_boundary_usage_count: Some(0),
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
