use std::sync::Arc;
use terroir_resources::add_to_count;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, Timestamp};

use super::{check_not_deleted, constraint};
use crate::model::{Alias, AliasTenant, KmsKey};
use crate::reference::{alias_key, not_found};

/// AWS's quota "Aliases per CMK".
const MAX_ALIASES: i64 = 50;
const MAX_NAME_BYTES: usize = 256;

/// Errors: `ValidationException`, `InvalidAliasNameException`.
fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(constraint("aliasName", "have length between 1 and 256"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b)) {
        return Err(constraint("aliasName", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"));
    }
    match name.strip_prefix("alias/") {
        None => Err(Error::invalid("ValidationException", "Alias must start with the prefix \"alias/\".")),
        Some(rest) if rest.starts_with("aws/") => {
            Err(Error::invalid("InvalidAliasNameException", "The prefix \"alias/aws/\" is reserved."))
        }
        Some(rest) if rest.is_empty() || rest.contains(':') => {
            let message = format!("{name} contains invalid characters for an alias");
            Err(Error::invalid("InvalidAliasNameException", message))
        }
        Some(_) => Ok(()),
    }
}

/// Errors: `AlreadyExistsException`, `LimitExceededException`, `KMSInvalidStateException`, those of a bad name.
pub fn create_alias(txn: &mut Txn, key: &KmsKey, region: &str, name: &str, now: Timestamp) -> Result<(), Error> {
    check_name(name)?;
    check_not_deleted(key, region)?;
    if txn.get::<Alias>(&alias_key(txn, key.account, name))?.is_some() {
        let message = format!("An alias with the name arn:aws:kms:{region}:{}:{name} already exists", key.account);
        return Err(Error::conflict("AlreadyExistsException", message));
    }
    put(txn, key, name, now)
}

/// Writes a new alias. Errors: `LimitExceededException`.
pub(super) fn put(txn: &mut Txn, key: &KmsKey, name: &str, now: Timestamp) -> Result<(), Error> {
    count(txn, key.account, key.id, 1)?;
    // A key that goes at the same time takes its aliases with it.
    txn.touch(&key.key())?;
    let tenant = AliasTenant { name: name.to_owned() };
    let alias = Alias { account: key.account, key: key.id, created_at: now, updated_at: now, tenant };
    let at = alias_key(txn, key.account, name);
    txn.put(&at, &alias)
}

fn count(txn: &mut Txn, account: AccountId, key: uuid::Uuid, delta: i64) -> Result<(), Error> {
    add_to_count(txn, account, &format!("kms-aliases/{key}"), delta, MAX_ALIASES, || {
        Error::limit("LimitExceededException", format!("The key has {MAX_ALIASES} aliases already."))
    })?;
    Ok(())
}

fn find(txn: &Txn, account: AccountId, region: &str, name: &str) -> Result<(Key, Arc<Alias>), Error> {
    let at = alias_key(txn, account, name);
    match txn.get::<Alias>(&at)? {
        Some(alias) => Ok((at, alias)),
        None => Err(not_found(format!("Alias arn:aws:kms:{region}:{account}:{name} is not found."))),
    }
}

/// Errors: `NotFoundException`, `LimitExceededException`, `KMSInvalidStateException`.
pub fn update_alias(txn: &mut Txn, key: &KmsKey, region: &str, name: &str, now: Timestamp) -> Result<(), Error> {
    check_name(name)?;
    let (at, alias) = find(txn, key.account, region, name)?;
    check_not_deleted(key, region)?;
    if alias.key != key.id {
        count(txn, key.account, alias.key, -1)?;
        count(txn, key.account, key.id, 1)?;
        txn.touch(&key.key())?;
    }
    txn.put(&at, &Alias { key: key.id, updated_at: now, ..(*alias).clone() })
}

/// Errors: `NotFoundException`, those of a bad name.
pub fn delete_alias(txn: &mut Txn, account: AccountId, region: &str, name: &str) -> Result<(), Error> {
    check_name(name)?;
    let (at, alias) = find(txn, account, region, name)?;
    remove(txn, &at, &alias)
}

pub(super) fn remove(txn: &mut Txn, at: &Key, alias: &Alias) -> Result<(), Error> {
    count(txn, alias.account, alias.key, -1)?;
    txn.delete(at);
    Ok(())
}
