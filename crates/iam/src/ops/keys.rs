use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, IdSource, Secret, Timestamp};

use crate::model::{AccessKey, AccessKeyTenant, AccessKeyUse, Account, User};
use crate::names::{Entity, access_key_id, exceeds, find};

/// Whose access keys are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner<'a> {
    Root,
    /// By name.
    User(&'a str),
}

const KEYS_PER_OWNER: usize = 2;
const SECRET_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SECRET_LENGTH: usize = 40;

/// The record that lists the owner's keys.
enum Owner {
    Root(Account),
    User(User),
}

impl Owner {
    fn load(txn: &Txn, account: AccountId, owner: KeyOwner<'_>) -> Result<Self, Error> {
        match owner {
            KeyOwner::User(name) => find::<User>(txn, account, name).map(|user| Self::User((*user).clone())),
            KeyOwner::Root => match super::account(txn, account)? {
                Some(root) => Ok(Self::Root((*root).clone())),
                None => Err(Error::not_found("NoSuchEntity", format!("The account {account} cannot be found."))),
            },
        }
    }

    fn keys(&self) -> &[String] {
        match self {
            Self::Root(account) => &account.access_keys,
            Self::User(user) => &user.access_keys,
        }
    }

    fn keys_mut(&mut self) -> &mut Vec<String> {
        match self {
            Self::Root(account) => &mut account.access_keys,
            Self::User(user) => &mut user.access_keys,
        }
    }

    fn save(&self, txn: &mut Txn) -> Result<(), Error> {
        match self {
            Self::Root(account) => txn.put(&Account::key(account.id), account),
            Self::User(user) => txn.put(&user.key(), user),
        }
    }
}

/// Errors: `NoSuchEntity`; `LimitExceeded` above two keys.
pub fn create_access_key(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<(AccessKey, Secret<String>), Error> {
    let mut owner = Owner::load(txn, account, owner)?;
    if owner.keys().len() >= KEYS_PER_OWNER {
        return Err(exceeds("AccessKeysPerUser", 2));
    }
    let secret = Secret::new(ids.text(SECRET_ALPHABET, SECRET_LENGTH));
    let key = AccessKey {
        id: access_key_id("AKIA", ids),
        account,
        user: match &owner {
            Owner::Root(_) => None,
            Owner::User(user) => Some(user.id.clone()),
        },
        active: true,
        created_at: now,
        tenant: AccessKeyTenant { secret: secret.clone() },
    };
    txn.put(&AccessKey::key(&key.id), &key)?;
    owner.keys_mut().push(key.id.clone());
    owner.save(txn)?;
    Ok((key, secret))
}

/// Errors: `NoSuchEntity`.
pub fn list_access_keys(txn: &Txn, account: AccountId, owner: KeyOwner<'_>) -> Result<Vec<Arc<AccessKey>>, Error> {
    let owner = Owner::load(txn, account, owner)?;
    let mut keys = Vec::new();
    for id in owner.keys() {
        keys.extend(txn.get::<AccessKey>(&AccessKey::key(id))?);
    }
    Ok(keys)
}

/// The key, if it is this owner's.
fn owned(txn: &Txn, owner: &Owner, id: &str) -> Result<Arc<AccessKey>, Error> {
    let key = if owner.keys().iter().any(|own| own == id) { txn.get::<AccessKey>(&AccessKey::key(id))? } else { None };
    key.ok_or_else(|| Error::not_found("NoSuchEntity", format!("The Access Key with id {id} cannot be found.")))
}

/// Errors: `NoSuchEntity`.
pub fn set_access_key_active(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    id: &str,
    active: bool,
) -> Result<(), Error> {
    let owner = Owner::load(txn, account, owner)?;
    let mut key = (*owned(txn, &owner, id)?).clone();
    key.active = active;
    txn.put(&AccessKey::key(id), &key)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` for the last key of an account's root, without which nobody could get in.
pub fn delete_access_key(txn: &mut Txn, account: AccountId, owner: KeyOwner<'_>, id: &str) -> Result<(), Error> {
    let mut owner = Owner::load(txn, account, owner)?;
    owned(txn, &owner, id)?;
    if matches!(owner, Owner::Root(_)) && owner.keys().len() == 1 {
        return Err(super::delete_conflict("it is the last access key of the account's root."));
    }
    owner.keys_mut().retain(|own| own != id);
    owner.save(txn)?;
    txn.delete(&AccessKey::key(id));
    txn.delete(&AccessKeyUse::key(id));
    Ok(())
}
