use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, IdSource, Timestamp};

use super::{About, delete_conflict};
use crate::model::{Group, LoginProfile, User};
use crate::names::{Entity, by_id, check_name, check_path, find, insert, remove, rename, unique_id};

/// Errors: `ValidationError`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_user(
    txn: &mut Txn,
    account: AccountId,
    about: About<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<User, Error> {
    let user = User {
        account,
        id: unique_id(User::PREFIX, ids),
        created_at: now,
        access_keys: Vec::new(),
        groups: Vec::new(),
        mfa: Vec::new(),
        tenant: about.checked("userName", User::MAX_NAME)?,
    };
    insert(txn, &user)?;
    Ok(user)
}

/// Errors: `NoSuchEntity`, `EntityAlreadyExists`, `ValidationError`.
pub fn update_user(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    new_name: Option<&str>,
    new_path: Option<&str>,
) -> Result<(), Error> {
    let mut user = (*find::<User>(txn, account, name)?).clone();
    if let Some(new_name) = new_name {
        check_name(new_name, "newUserName", User::MAX_NAME)?;
        rename(txn, &user, new_name)?;
        new_name.clone_into(&mut user.tenant.name);
    }
    if let Some(new_path) = new_path {
        check_path(new_path, "newPath")?;
        new_path.clone_into(&mut user.tenant.path);
    }
    txn.put(&user.key(), &user)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it has access keys, a password, multi-factor devices, policies or
/// groups.
pub fn delete_user(txn: &mut Txn, account: AccountId, name: &str) -> Result<(), Error> {
    let user = find::<User>(txn, account, name)?;
    if !user.access_keys.is_empty() {
        return Err(delete_conflict("must remove access keys first."));
    }
    if txn.get::<LoginProfile>(&LoginProfile::key(account, &user.id))?.is_some() {
        return Err(delete_conflict("must delete login profile first."));
    }
    super::mfa::check_no_devices(&user)?;
    if !user.tenant.grants.inline.is_empty() {
        return Err(delete_conflict("must delete policies first."));
    }
    if !user.tenant.grants.attached.is_empty() {
        return Err(delete_conflict("must detach all policies first."));
    }
    if !user.groups.is_empty() {
        return Err(delete_conflict("must remove users from group first."));
    }
    if let Some(boundary) = &user.tenant.grants.boundary {
        super::boundary::count(txn, account, boundary, -1)?;
    }
    remove(txn, &*user)
}

/// The user's groups in order of their names.
pub fn groups_of(txn: &Txn, user: &User) -> Result<Vec<Arc<Group>>, Error> {
    let mut groups = Vec::new();
    for id in &user.groups {
        groups.extend(by_id::<Group>(txn, user.account, id)?);
    }
    groups.sort_by_cached_key(|group| group.name().to_lowercase());
    Ok(groups)
}
