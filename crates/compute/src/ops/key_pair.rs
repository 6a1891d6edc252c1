use std::sync::Arc;
use terroir_resources::{Tags, add_to_count};
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, KeyPairId, ResourceId, Timestamp};

use super::{COUNT_KEY_PAIRS, limits, uncount};
use crate::model::{KeyName, KeyPair, KeyPairTenant, KeyType, key_pair_key};

/// A key pair that is being registered.
#[derive(Debug, Clone)]
pub struct NewKeyPair {
    pub name: String,
    pub key_type: KeyType,
    /// One line in OpenSSH's form.
    pub openssh: String,
    pub fingerprint: String,
    pub tags: Tags,
}

fn name_key(txn: &Txn, account: AccountId, name: &str) -> Key {
    Key::new(format!("key-name/{account}/{}", txn.name_mac(Some(account), "key-pair", name)))
}

/// Errors: `InvalidKeyPair.Duplicate`; `InvalidParameterValue` for a name that is too long or has no printable ASCII;
/// `KeyPairLimitExceeded`.
pub fn create_key_pair(
    txn: &mut Txn,
    ids: &dyn IdSource,
    account: AccountId,
    now: Timestamp,
    new: NewKeyPair,
) -> Result<KeyPair, Error> {
    check_name(&new.name)?;
    let name_key = name_key(txn, account, &new.name);
    if txn.get::<KeyName>(&name_key)?.is_some() {
        return Err(key_name_taken(&new.name));
    }
    let limit = limits(txn, account)?.key_pairs;
    add_to_count(txn, account, COUNT_KEY_PAIRS, 1, limit, || {
        Error::limit("KeyPairLimitExceeded", format!("Maximum number of key pairs, {limit}, exceeded."))
    })?;
    let key_pair = KeyPair {
        account,
        id: KeyPairId::generate(ids),
        key_type: new.key_type,
        fingerprint: new.fingerprint,
        created_at: now,
        deleted_at: None,
        tenant: KeyPairTenant { name: new.name, openssh: new.openssh },
    };
    terroir_resources::register(txn, account, &key_pair.id.to_string(), "key-pair", new.tags, now)?;
    txn.put(&name_key, &KeyName { key_pair: key_pair.id })?;
    txn.put(&key_pair_key(account, key_pair.id), &key_pair)?;
    Ok(key_pair)
}

pub(crate) fn key_name_taken(name: &str) -> Error {
    Error::conflict("InvalidKeyPair.Duplicate", format!("The keypair '{name}' already exists."))
}

fn check_name(name: &str) -> Result<(), Error> {
    let printable = name.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if !name.trim().is_empty() && name.len() <= 255 && printable && name.trim() == name {
        return Ok(());
    }
    let message = "Invalid value for parameter keyName: expected 1 to 255 ASCII characters without leading or trailing \
                   spaces.";
    Err(Error::invalid("InvalidParameterValue", message))
}

/// Errors: `InvalidKeyPair.NotFound`.
pub fn find_key_pair(txn: &Txn, account: AccountId, id: KeyPairId) -> Result<Arc<KeyPair>, Error> {
    let found = txn.get::<KeyPair>(&key_pair_key(account, id))?.filter(|key_pair| key_pair.deleted_at.is_none());
    found.ok_or_else(|| Error::not_found("InvalidKeyPair.NotFound", format!("The key pair ID '{id}' does not exist")))
}

/// Errors: `InvalidKeyPair.NotFound`.
pub fn find_key_pair_named(txn: &Txn, account: AccountId, name: &str) -> Result<Arc<KeyPair>, Error> {
    match txn.get::<KeyName>(&name_key(txn, account, name))? {
        Some(named) => find_key_pair(txn, account, named.key_pair),
        None => Err(Error::not_found("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))),
    }
}

/// Takes the name and shows the pair no more. Instances that have it keep it.
pub fn delete_key_pair(txn: &mut Txn, key_pair: &KeyPair, now: Timestamp) -> Result<(), Error> {
    let account = key_pair.account;
    txn.delete(&name_key(txn, account, &key_pair.tenant.name));
    terroir_resources::unregister(txn, account, &key_pair.id.to_string())?;
    uncount(txn, account, COUNT_KEY_PAIRS, 1)?;
    txn.put(&key_pair_key(account, key_pair.id), &KeyPair { deleted_at: Some(now), ..key_pair.clone() })
}
