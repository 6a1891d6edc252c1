use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, IdSource, Timestamp};

use super::{About, delete_conflict};
use crate::model::{Group, GroupMember, User};
use crate::names::{Entity, by_id, check_name, check_path, exceeds, find, insert, remove, rename, unique_id};

const GROUPS_PER_USER: usize = 10;

/// Errors: `ValidationError`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_group(
    txn: &mut Txn,
    account: AccountId,
    about: About<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<Group, Error> {
    let group = Group {
        account,
        id: unique_id(Group::PREFIX, ids),
        created_at: now,
        tenant: about.checked("groupName", Group::MAX_NAME)?,
    };
    insert(txn, &group)?;
    Ok(group)
}

/// Errors: `NoSuchEntity`, `EntityAlreadyExists`, `ValidationError`.
pub fn update_group(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    new_name: Option<&str>,
    new_path: Option<&str>,
) -> Result<(), Error> {
    let mut group = (*find::<Group>(txn, account, name)?).clone();
    if let Some(new_name) = new_name {
        check_name(new_name, "newGroupName", Group::MAX_NAME)?;
        rename(txn, &group, new_name)?;
        new_name.clone_into(&mut group.tenant.name);
    }
    if let Some(new_path) = new_path {
        check_path(new_path, "newPath")?;
        new_path.clone_into(&mut group.tenant.path);
    }
    txn.put(&group.key(), &group)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it has users or policies.
pub fn delete_group(txn: &mut Txn, account: AccountId, name: &str) -> Result<(), Error> {
    let group = find::<Group>(txn, account, name)?;
    if txn.exists(&GroupMember::prefix(account, &group.id)) {
        return Err(delete_conflict("must remove users from group first."));
    }
    if !group.tenant.grants.inline.is_empty() {
        return Err(delete_conflict("must delete policies first."));
    }
    if !group.tenant.grants.attached.is_empty() {
        return Err(delete_conflict("must detach all policies first."));
    }
    remove(txn, &*group)
}

/// Nothing happens if the user is in the group already. Errors: `NoSuchEntity`; `LimitExceeded` above ten groups.
pub fn add_user_to_group(txn: &mut Txn, account: AccountId, group: &str, user: &str) -> Result<(), Error> {
    let group = find::<Group>(txn, account, group)?;
    let mut user = (*find::<User>(txn, account, user)?).clone();
    if user.groups.contains(&group.id) {
        return Ok(());
    }
    if user.groups.len() >= GROUPS_PER_USER {
        return Err(exceeds("GroupsPerUser", 10));
    }
    user.groups.push(group.id.clone());
    txn.put(&GroupMember::prefix(account, &group.id).child(&user.id), &GroupMember {})?;
    txn.put(&user.key(), &user)
}

/// Nothing happens if the user is not in the group. Errors: `NoSuchEntity`.
pub fn remove_user_from_group(txn: &mut Txn, account: AccountId, group: &str, user: &str) -> Result<(), Error> {
    let group = find::<Group>(txn, account, group)?;
    let mut user = (*find::<User>(txn, account, user)?).clone();
    if !user.groups.contains(&group.id) {
        return Ok(());
    }
    user.groups.retain(|id| *id != group.id);
    txn.delete(&GroupMember::prefix(account, &group.id).child(&user.id));
    txn.put(&user.key(), &user)
}

/// The group's users in order of their names.
pub fn group_members(txn: &Txn, group: &Group) -> Result<Vec<Arc<User>>, Error> {
    let mut users = Vec::new();
    for (key, _) in txn.peek_range::<GroupMember>(&GroupMember::prefix(group.account, &group.id))? {
        users.extend(by_id::<User>(txn, group.account, key.last())?);
    }
    users.sort_by_cached_key(|user| user.name().to_lowercase());
    Ok(users)
}
