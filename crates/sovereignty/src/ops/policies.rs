use terroir_policy::Policy;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, Timestamp};

use crate::model::{AccountPolicies, OperatorRecord, Policies, account_policies_key, operator_key};

/// The tag that names the policy of its account that a resource is under besides the account's own.
pub const POLICY_TAG: &str = "terroir:policy";
/// Named policies of an account.
pub const MAX_NAMED: usize = 50;
const MAX_NAME: usize = 64;

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidParameterValue", message)
}

/// The account's policies; the default ones demand nothing.
pub fn policies(txn: &Txn, account: AccountId) -> Result<Policies, Error> {
    let found = txn.get::<AccountPolicies>(&account_policies_key(account))?;
    Ok(found.map(|found| found.tenant.clone()).unwrap_or_default())
}

/// What holds for a resource of the account that has these tags.
///
/// Errors: `InvalidParameterValue` if the tag names a policy that the account does not have.
pub fn effective_policy(txn: &Txn, account: AccountId, tags: &Tags) -> Result<Policy, Error> {
    let found = txn.get::<AccountPolicies>(&account_policies_key(account))?;
    let Some(name) = tags.get(POLICY_TAG) else {
        return Ok(found.map(|found| found.tenant.account.clone()).unwrap_or_default());
    };
    let named = found.as_ref().and_then(|found| Some((found, found.tenant.named.get(name)?)));
    let (found, named) = named
        .ok_or_else(|| invalid(format!("The tag {POLICY_TAG} names the policy '{name}', which does not exist.")))?;
    Ok(found.tenant.account.and(named))
}

/// As [`effective_policy`], for what is placed already: a change meanwhile fails no commit, and a tag that names no
/// policy (any more) adds nothing.
pub fn policy_now(txn: &Txn, account: AccountId, tags: &Tags) -> Result<Policy, Error> {
    let found = txn.peek::<AccountPolicies>(&account_policies_key(account))?;
    let Some(found) = found else { return Ok(Policy::default()) };
    let named = tags.get(POLICY_TAG).and_then(|name| found.tenant.named.get(name));
    Ok(named.map_or_else(|| found.tenant.account.clone(), |named| found.tenant.account.and(named)))
}

fn change(
    txn: &mut Txn,
    account: AccountId,
    now: Timestamp,
    change: impl FnOnce(&mut Policies) -> Result<(), Error>,
) -> Result<Policies, Error> {
    let mut tenant = policies(txn, account)?;
    change(&mut tenant)?;
    for (name, policy) in &tenant.named {
        let both = tenant.account.and(policy);
        both.check_satisfiable().map_err(|problem| {
            invalid(format!("together with the policy '{name}' nothing would be left: {problem}"))
        })?;
    }
    let record = AccountPolicies { account, changed_at: now, tenant };
    txn.put(&account_policies_key(account), &record)?;
    Ok(record.tenant)
}

fn parse(txn: &Txn, text: &str) -> Result<Policy, Error> {
    let policy = Policy::parse(text).map_err(|problem| invalid(problem.to_string()))?;
    let operators = txn.peek_range::<OperatorRecord>(&Key::new("operator"))?;
    let known = |id: &str| operators.iter().any(|(key, _)| *key == operator_key(id));
    policy.check_operators(known).map_err(|problem| invalid(problem.to_string()))?;
    Ok(policy)
}

/// Sets what holds for everything of the account from now on; `{}` demands nothing. What is placed already stays.
///
/// Errors: `InvalidParameterValue` for a document that is no policy, or that leaves nothing with one of the named ones.
pub fn set_account_policy(
    txn: &mut Txn,
    account: AccountId,
    document: &str,
    now: Timestamp,
) -> Result<Policies, Error> {
    let policy = parse(txn, document)?;
    change(txn, account, now, |policies| {
        policies.account = policy;
        Ok(())
    })
}

/// Sets a named policy.
///
/// Errors: as [`set_account_policy`]; `LimitExceeded`.
pub fn set_named_policy(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    document: &str,
    now: Timestamp,
) -> Result<Policies, Error> {
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !fits {
        return Err(invalid(format!(
            "'{name}' is not a policy's name: up to {MAX_NAME} of A-Z, a-z, 0-9, '-', '_', '.'"
        )));
    }
    let policy = parse(txn, document)?;
    change(txn, account, now, |policies| {
        policies.named.insert(name.to_owned(), policy);
        if policies.named.len() > MAX_NAMED {
            return Err(Error::limit("LimitExceeded", format!("an account has at most {MAX_NAMED} named policies")));
        }
        Ok(())
    })
}

/// Errors: `NoSuchEntity`.
pub fn remove_named_policy(txn: &mut Txn, account: AccountId, name: &str, now: Timestamp) -> Result<Policies, Error> {
    change(txn, account, now, |policies| match policies.named.remove(name) {
        Some(_) => Ok(()),
        None => Err(Error::not_found("NoSuchEntity", format!("the account has no policy '{name}'"))),
    })
}
