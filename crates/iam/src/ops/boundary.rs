use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use super::policy::{AttachablePolicy, Holder, find_policy};
use crate::model::ManagedPolicy;
use crate::names::{Entity, by_id};

/// Makes a managed policy the permissions boundary of a user or role.
///
/// Errors: `NoSuchEntity`, `ValidationError` for the ARN, `InvalidInput` for a group.
pub fn set_boundary(txn: &mut Txn, account: AccountId, holder: Holder<'_>, arn: &str) -> Result<(), Error> {
    if matches!(holder, Holder::Group(_)) {
        return Err(Error::invalid("InvalidInput", "Groups have no permissions boundary."));
    }
    let policy = find_policy(txn, account, arn)?;
    let (_, mut grants) = holder.grants(txn, account)?;
    if let Some(before) = grants.boundary.replace(policy.id()) {
        count(txn, account, &before, -1)?;
    }
    if let AttachablePolicy::Own(policy) = policy {
        count(txn, account, &policy.id, 1)?;
    }
    holder.set_grants(txn, account, grants)
}

/// Errors: `NoSuchEntity`, also if it has none.
pub fn remove_boundary(txn: &mut Txn, account: AccountId, holder: Holder<'_>) -> Result<(), Error> {
    let (_, mut grants) = holder.grants(txn, account)?;
    let Some(before) = grants.boundary.take() else {
        let message = format!("The {} with name {} has no permissions boundary.", holder.noun(), holder.name());
        return Err(Error::not_found("NoSuchEntity", message));
    };
    count(txn, account, &before, -1)?;
    holder.set_grants(txn, account, grants)
}

/// Changes how often a policy is a boundary; those that are built in do not count.
pub(super) fn count(txn: &mut Txn, account: AccountId, policy: &str, delta: i32) -> Result<(), Error> {
    let Some(policy) = by_id::<ManagedPolicy>(txn, account, policy)? else { return Ok(()) };
    let mut policy = (*policy).clone();
    policy.boundaries = policy.boundaries.saturating_add_signed(delta);
    txn.put(&policy.key(), &policy)
}
