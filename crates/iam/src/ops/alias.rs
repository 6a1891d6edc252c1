use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::model::Account;
use crate::names::{NameEntry, name_key};

const KIND: &str = "account-alias";

fn loaded(txn: &Txn, account: AccountId) -> Result<Account, Error> {
    match super::account(txn, account)? {
        Some(account) => Ok((*account).clone()),
        None => Err(Error::not_found("NoSuchEntity", format!("The account {account} cannot be found."))),
    }
}

/// Gives the account a second name, in place of the one it had.
///
/// Errors: `ValidationError`; `EntityAlreadyExists` if another account has it.
pub fn set_account_alias(txn: &mut Txn, account: AccountId, alias: &str) -> Result<(), Error> {
    let well_formed = (3..=63).contains(&alias.len())
        && alias.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !alias.starts_with('-')
        && !alias.ends_with('-')
        && !alias.contains("--");
    if !well_formed {
        let message = format!(
            "1 validation error detected: Value '{alias}' at 'accountAlias' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-z0-9]([a-z0-9]|-(?!-)){{1,61}}[a-z0-9]$"
        );
        return Err(Error::invalid("ValidationError", message));
    }
    let mut record = loaded(txn, account)?;
    let key = name_key(txn, None, KIND, alias);
    match txn.get::<NameEntry>(&key)? {
        Some(entry) if entry.id == account.to_string() => return Ok(()),
        Some(_) => {
            return Err(Error::conflict("EntityAlreadyExists", format!("The account alias {alias} already exists.")));
        }
        None => {}
    }
    if let Some(before) = record.tenant.alias.replace(alias.to_owned()) {
        let before = name_key(txn, None, KIND, &before);
        txn.delete(&before);
    }
    txn.put(&key, &NameEntry { id: account.to_string() })?;
    txn.put(&Account::key(account), &record)
}

/// Errors: `NoSuchEntity` unless the account has this alias.
pub fn delete_account_alias(txn: &mut Txn, account: AccountId, alias: &str) -> Result<(), Error> {
    let mut record = loaded(txn, account)?;
    if record.tenant.alias.as_deref() != Some(alias) {
        let message = format!("The account alias with name {alias} cannot be found.");
        return Err(Error::not_found("NoSuchEntity", message));
    }
    record.tenant.alias = None;
    let key = name_key(txn, None, KIND, alias);
    txn.delete(&key);
    txn.put(&Account::key(account), &record)
}
