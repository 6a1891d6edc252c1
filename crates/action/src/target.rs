use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_types::{AccountId, Arn, Error};

use crate::Context;

/// One permission that must be allowed on one resource before an action runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// For example `ec2:RunInstances`.
    pub permission: String,
    /// `None` stands for actions that AWS does not scope to a resource; policies match it with `*`.
    pub resource: Option<Arn>,
    /// For the condition keys `aws:ResourceTag/...`.
    pub resource_tags: Tags,
    /// Further condition keys with their values, for example `ec2:InstanceType` or `aws:RequestTag/team`.
    pub keys: Vec<(String, Vec<String>)>,
    /// Whose the resource is, where its ARN does not say (S3). Callers of other accounts need the resource's policy.
    pub owner: Option<AccountId>,
    /// The resource's own policy: it may allow what the caller's policies do not, and must for other accounts.
    pub policy: Option<Arc<ResourcePolicy>>,
    /// Nothing is allowed that the resource's policy does not allow, not even in its own account (keys, roles).
    pub policy_decides: bool,
    /// The policy counts only where it denies: it is that of a place, and what lies there is somebody else's (objects
    /// that another account wrote into a bucket).
    pub policy_only_denies: bool,
    /// A list of grants beside the policy (S3's ACLs) lets the caller in: as if the policy named its account, or, for
    /// who did not sign, everyone.
    pub granted: bool,
    /// A list of grants beside the policy names the caller itself, or whom it acts for (KMS).
    pub grantee: Option<Grantee>,
    /// What a refusal names instead of the resource, where that would tell what the caller did not know.
    pub shown: Option<Arn>,
}

/// As what a list of grants names the caller; allows as the policy would if it named the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grantee {
    /// The role of the caller's session, or the user behind a federated one.
    Role,
    Caller,
}

/// The policy of a resource, as it was checked when it was written (`terroir_iam::ops::resource_policy`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcePolicy {
    pub text: String,
    /// SHA-256 of the text, in hex.
    pub hash: String,
    /// Users and roles that it names, and roles of sessions: ARN → id at the moment of writing. Somebody who has the
    /// name later is not meant.
    pub principals: BTreeMap<String, String>,
}

impl Target {
    /// A permission without a resource.
    pub fn any(permission: impl Into<String>) -> Self {
        Self {
            permission: permission.into(),
            resource: None,
            resource_tags: Tags::new(),
            keys: Vec::new(),
            owner: None,
            policy: None,
            policy_decides: false,
            policy_only_denies: false,
            granted: false,
            grantee: None,
            shown: None,
        }
    }

    pub fn on(permission: impl Into<String>, resource: Arn) -> Self {
        Self { resource: Some(resource), ..Self::any(permission) }
    }

    /// A permission on an EC2 resource of the caller's account, with the tags it has. Unknown ids have none: whether
    /// the resource exists is not told here.
    pub fn ec2(cx: &Context<'_>, permission: &str, kind: &str, id: impl Display) -> Result<Self, Error> {
        let id = id.to_string();
        let mut target = Self::on(permission, cx.ec2_arn(kind, &id));
        target.resource_tags = terroir_resources::tags(cx.txn, cx.account(), &id)?;
        Ok(target)
    }

    /// Says whose the resource is, and its policy if it has one.
    #[must_use]
    pub fn owned_by(mut self, owner: AccountId, policy: Option<Arc<ResourcePolicy>>) -> Self {
        self.owner = Some(owner);
        self.policy = policy;
        self
    }

    /// The account of the resource, where it is known.
    pub fn account(&self) -> Option<AccountId> {
        self.owner.or_else(|| self.resource.as_ref().and_then(Arn::account))
    }

    #[must_use]
    pub fn key(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.keys.push((name.into(), vec![value.into()]));
        self
    }

    /// Adds `aws:RequestTag/...` and `aws:TagKeys` for tags that the request sets.
    #[must_use]
    pub fn request_tags(mut self, tags: &Tags) -> Self {
        for (key, value) in tags {
            self.keys.push((format!("aws:RequestTag/{key}"), vec![value.clone()]));
        }
        if !tags.is_empty() {
            self.keys.push(("aws:TagKeys".to_owned(), tags.keys().cloned().collect()));
        }
        self
    }
}
