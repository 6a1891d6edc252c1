//! The texts of all policies that a user, group or role has, for simulations and reports.

use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::model::{Grants, Group, PolicyDocument, Role, User};
use crate::names::{Entity, by_id};
use crate::ops::{self, AttachablePolicy, Holder};
use crate::service::Iam;

/// One policy, where it comes from, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPolicy {
    /// Name of the policy.
    pub name: String,
    /// None for an inline policy.
    pub arn: Option<String>,
    /// IAM's `PolicySourceType`: `user`, `group`, `role`, `aws-managed` or `user-managed`.
    pub source: &'static str,
    /// Name of the user, group or role.
    pub holder: String,
    /// `USER`, `GROUP` or `ROLE`.
    pub holder_type: &'static str,
    pub text: String,
}

/// Where the text of a policy is.
enum Place {
    Stored(terroir_store::Key),
    Text(&'static str),
}

type Found = (NamedPolicy, Place);

impl Iam {
    /// The policies of a user (those of its groups too), group or role.
    ///
    /// # Errors
    /// `NoSuchEntity`.
    pub(crate) async fn policies_of(
        &self,
        txn: &Txn,
        account: AccountId,
        holder: Holder<'_>,
    ) -> Result<Vec<NamedPolicy>, Error> {
        let mut found = Vec::new();
        let (id, grants) = holder.grants(txn, account)?;
        let (noun, kind) = match holder {
            Holder::User(_) => ("user", "USER"),
            Holder::Group(_) => ("group", "GROUP"),
            Holder::Role(_) => ("role", "ROLE"),
        };
        collect(txn, account, &id, holder.name(), (noun, kind), &grants, &mut found)?;
        if let Holder::User(name) = holder {
            let user = crate::names::find::<User>(txn, account, name)?;
            for id in &user.groups {
                if let Some(group) = by_id::<Group>(txn, account, id)? {
                    let grants = &group.tenant.grants;
                    collect(txn, account, &group.id, group.name(), ("group", "GROUP"), grants, &mut found)?;
                }
            }
        }
        self.texts(found).await
    }

    /// The permissions boundary of a user or role.
    ///
    /// # Errors
    /// `NoSuchEntity`.
    pub(crate) async fn boundary_of(
        &self,
        txn: &Txn,
        account: AccountId,
        holder: Holder<'_>,
    ) -> Result<Option<NamedPolicy>, Error> {
        let (_, grants) = holder.grants(txn, account)?;
        let Some(id) = grants.boundary else { return Ok(None) };
        let policy = ops::policy_by_id(txn, account, &id)?;
        let found = policy.map(|policy| managed(&policy, account, holder.name(), "NONE"));
        Ok(self.texts(found.into_iter().collect()).await?.pop())
    }

    async fn texts(&self, found: Vec<Found>) -> Result<Vec<NamedPolicy>, Error> {
        let mut policies = Vec::with_capacity(found.len());
        for (policy, place) in found {
            let text = match place {
                Place::Text(text) => text.to_owned(),
                Place::Stored(key) => match self.store().get_direct::<PolicyDocument>(&key).await? {
                    Some((document, _)) => document.tenant.text,
                    None => return Err(Error::unavailable("A policy is being changed. Try again later.")),
                },
            };
            policies.push(NamedPolicy { text, ..policy });
        }
        Ok(policies)
    }
}

fn managed(policy: &AttachablePolicy, account: AccountId, holder: &str, holder_type: &'static str) -> Found {
    let (source, place) = match policy {
        AttachablePolicy::Own(policy) => {
            ("user-managed", Place::Stored(PolicyDocument::key(account, &policy.id, &policy.document)))
        }
        AttachablePolicy::Builtin(policy) => ("aws-managed", Place::Text(policy.document)),
    };
    let named = NamedPolicy {
        name: policy.name().to_owned(),
        arn: Some(policy.arn().to_string()),
        source,
        holder: holder.to_owned(),
        holder_type,
        text: String::new(),
    };
    (named, place)
}

fn collect(
    txn: &Txn,
    account: AccountId,
    id: &str,
    holder: &str,
    (source, holder_type): (&'static str, &'static str),
    grants: &Grants,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    for (name, policy) in &grants.inline {
        let named = NamedPolicy {
            name: name.clone(),
            arn: None,
            source,
            holder: holder.to_owned(),
            holder_type,
            text: String::new(),
        };
        found.push((named, Place::Stored(PolicyDocument::key(account, id, &policy.hash))));
    }
    for id in &grants.attached {
        if let Some(policy) = ops::policy_by_id(txn, account, id)? {
            found.push(managed(&policy, account, holder, holder_type));
        }
    }
    Ok(())
}

/// The user, group or role of an ARN, in the caller's account.
///
/// Errors: `InvalidInput` for what is none, `NoSuchEntity`.
pub(crate) fn holder_of_arn<'a>(txn: &Txn, account: AccountId, arn: &'a str) -> Result<Holder<'a>, Error> {
    let invalid = || {
        Error::invalid(
            "InvalidInput",
            format!("Invalid Entity Arn: {arn} does not clearly define entity type and name."),
        )
    };
    let resource = arn.splitn(6, ':').nth(5).ok_or_else(invalid)?;
    let (kind, rest) = resource.split_once('/').ok_or_else(invalid)?;
    let name = rest.rsplit('/').next().unwrap_or_default();
    fn is<T: Entity>(txn: &Txn, account: AccountId, name: &str, arn: &str) -> Result<(), Error> {
        let entity = crate::names::find::<T>(txn, account, name)?;
        if entity.arn().as_str() == arn { Ok(()) } else { Err(T::unknown(name)) }
    }
    match kind {
        "user" => is::<User>(txn, account, name, arn).map(|()| Holder::User(name)),
        "group" => is::<Group>(txn, account, name, arn).map(|()| Holder::Group(name)),
        "role" => is::<Role>(txn, account, name, arn).map(|()| Holder::Role(name)),
        _ => Err(invalid()),
    }
}
