use std::sync::Arc;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, Secret, Timestamp};

use super::keys::{KeyOwner, create_access_key};
use crate::model::{Account, AccountTenant};
use crate::names::{NameEntry, check_name, name_key};

/// A new tenant's credentials; the secret is shown once.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub account_id: AccountId,
    pub access_key_id: String,
    pub secret: Secret<String>,
}

/// Accounts have twelve digits; none begins with 0, so that nobody loses one in a spreadsheet.
const FIRST_ACCOUNT: u64 = 100_000_000_000;
const ACCOUNTS: u64 = 900_000_000_000;
const MAX_NAME: usize = 50;

/// Makes an account with one access key of its root. Ids and secret are random.
///
/// Errors: `ValidationError` for the name, `EntityAlreadyExists` if an account has it.
pub fn create_account(txn: &mut Txn, name: &str, ids: &dyn IdSource, now: Timestamp) -> Result<NewAccount, Error> {
    check_name(name, "accountName", MAX_NAME)?;
    let name_key = name_key(txn, None, "account", name);
    if txn.get::<NameEntry>(&name_key)?.is_some() {
        return Err(Error::conflict("EntityAlreadyExists", format!("Account with name {name} already exists.")));
    }
    let account_id = unused_id(txn, ids)?;
    txn.put(&name_key, &NameEntry { id: account_id.to_string() })?;
    let account = Account {
        id: account_id,
        created_at: now,
        access_keys: Vec::new(),
        mfa: Vec::new(),
        tenant: AccountTenant { name: name.to_owned(), alias: None },
    };
    txn.put(&Account::key(account_id), &account)?;
    let (key, secret) = create_access_key(txn, account_id, KeyOwner::Root, ids, now)?;
    Ok(NewAccount { account_id, access_key_id: key.id, secret })
}

fn unused_id(txn: &Txn, ids: &dyn IdSource) -> Result<AccountId, Error> {
    for _ in 0..16 {
        let number = FIRST_ACCOUNT + ids.next_u64() % ACCOUNTS;
        if let Some(id) = AccountId::from_number(number)
            && txn.get::<Account>(&Account::key(id))?.is_none()
        {
            return Ok(id);
        }
    }
    Err(Error::internal("sixteen random account ids in a row were taken"))
}

pub fn account(txn: &Txn, id: AccountId) -> Result<Option<Arc<Account>>, Error> {
    txn.get::<Account>(&Account::key(id))
}

/// All accounts in order of their ids; not tracked.
pub fn list_accounts(txn: &Txn) -> Result<Vec<Arc<Account>>, Error> {
    Ok(txn.peek_range::<Account>(&Key::new("account"))?.into_iter().map(|(_, account)| account).collect())
}
