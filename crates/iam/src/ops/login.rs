use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, Secret, Timestamp};

use crate::model::{LoginProfile, LoginProfileTenant, PasswordPolicy, User};
use crate::names::{Entity, find};

/// Most earlier passwords that a policy can forbid.
const MAX_HISTORY: usize = 24;
const MAX_PASSWORD: usize = 128;
/// What counts as a symbol in IAM's documentation of password policies.
const SYMBOLS: &str = "!@#$%^&*()_+-=[]{}|'";

/// The policy that the account has set; none: it has set none.
pub fn password_policy(txn: &Txn, account: AccountId) -> Result<Option<Arc<PasswordPolicy>>, Error> {
    txn.get::<PasswordPolicy>(&PasswordPolicy::key(account))
}

pub fn set_password_policy(txn: &mut Txn, policy: &PasswordPolicy) -> Result<(), Error> {
    txn.put(&PasswordPolicy::key(policy.account), policy)
}

fn no_policy(account: AccountId) -> Error {
    let message = format!("The Password Policy with domain name {account} cannot be found.");
    Error::not_found("NoSuchEntity", message)
}

/// Errors: `NoSuchEntity` if the account has set none.
pub fn find_password_policy(txn: &Txn, account: AccountId) -> Result<Arc<PasswordPolicy>, Error> {
    password_policy(txn, account)?.ok_or_else(|| no_policy(account))
}

/// Errors: `NoSuchEntity` if the account has set none.
pub fn delete_password_policy(txn: &mut Txn, account: AccountId) -> Result<(), Error> {
    find_password_policy(txn, account)?;
    txn.delete(&PasswordPolicy::key(account));
    Ok(())
}

/// Whether a password is good enough for the account's policy. Without a policy it needs eight characters of three kinds.
///
/// Errors: `PasswordPolicyViolation`, `ValidationError` for its length and characters as such.
pub fn check_password(policy: Option<&PasswordPolicy>, user_name: &str, password: &str) -> Result<(), Error> {
    let violation = |what: &str| {
        let message = format!("Password does not conform to the account password policy: {what}.");
        Err(Error::invalid("PasswordPolicyViolation", message))
    };
    let length = password.chars().count();
    let printable = password.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}'));
    if !(1..=MAX_PASSWORD).contains(&length) || !printable {
        let message = "1 validation error detected: Value at 'password' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\u0009\\u000A\\u000D\\u0020-\\u00FF]+";
        return Err(Error::invalid("ValidationError", message));
    }
    let has = |test: fn(&char) -> bool| password.chars().any(|c| test(&c));
    let kinds = [
        (has(char::is_ascii_uppercase), "an uppercase letter"),
        (has(char::is_ascii_lowercase), "a lowercase letter"),
        (has(char::is_ascii_digit), "a number"),
        (has(|c| SYMBOLS.contains(*c)), "a symbol"),
    ];
    let (least, wanted) = match policy {
        Some(policy) => {
            (usize::from(policy.minimum_length), [policy.uppercase, policy.lowercase, policy.numbers, policy.symbols])
        }
        None => (8, [false; 4]),
    };
    if length < least {
        return violation(&format!("it must have at least {least} characters"));
    }
    if let Some(((_, kind), _)) = kinds.iter().zip(wanted).find(|((has, _), wanted)| *wanted && !has) {
        return violation(&format!("it must have {kind}"));
    }
    if policy.is_none() && kinds.iter().filter(|(has, _)| *has).count() < 3 {
        return violation("it must have three of uppercase letters, lowercase letters, numbers and symbols");
    }
    if password.eq_ignore_ascii_case(user_name) {
        return violation("it must not be the user's name");
    }
    Ok(())
}

fn unknown_profile(name: &str) -> Error {
    Error::not_found("NoSuchEntity", format!("Login Profile for User {name} cannot be found."))
}

/// Errors: `NoSuchEntity` for the user, or if it has none.
pub fn find_login_profile(txn: &Txn, account: AccountId, name: &str) -> Result<(Arc<User>, Arc<LoginProfile>), Error> {
    let user = find::<User>(txn, account, name)?;
    let profile = txn.get::<LoginProfile>(&LoginProfile::key(account, &user.id))?;
    Ok((user, profile.ok_or_else(|| unknown_profile(name))?))
}

/// `hash`: of a password that [`check_password`] accepted.
///
/// Errors: `NoSuchEntity`, `EntityAlreadyExists`.
pub fn create_login_profile(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    hash: Secret<String>,
    reset_required: bool,
    now: Timestamp,
) -> Result<LoginProfile, Error> {
    let user = find::<User>(txn, account, name)?;
    let key = LoginProfile::key(account, &user.id);
    if txn.get::<LoginProfile>(&key)?.is_some() {
        let message = format!("Login Profile for user {} already exists.", user.name());
        return Err(Error::conflict("EntityAlreadyExists", message));
    }
    let profile = LoginProfile {
        account,
        created_at: now,
        changed_at: now,
        reset_required,
        tenant: LoginProfileTenant { hashes: vec![hash] },
    };
    txn.put(&key, &profile)?;
    Ok(profile)
}

/// Sets what is given. `expected`: the hashes that a new password was compared with; if they are others by now, it has to
/// be compared again.
///
/// Errors: `NoSuchEntity`; `EntityTemporarilyUnmodifiable` if the password was changed meanwhile.
pub fn update_login_profile(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    hash: Option<(Secret<String>, &[Secret<String>])>,
    reset_required: Option<bool>,
    now: Timestamp,
) -> Result<(), Error> {
    let (user, profile) = find_login_profile(txn, account, name)?;
    let mut profile = (*profile).clone();
    if let Some((hash, expected)) = hash {
        if profile.tenant.hashes != expected {
            let message = "The password is being changed by another request. Try again later.";
            return Err(Error::conflict("EntityTemporarilyUnmodifiable", message));
        }
        profile.tenant.hashes.insert(0, hash);
        profile.tenant.hashes.truncate(MAX_HISTORY + 1);
        profile.changed_at = now;
    }
    if let Some(reset_required) = reset_required {
        profile.reset_required = reset_required;
    }
    txn.put(&LoginProfile::key(account, &user.id), &profile)
}

/// Errors: `NoSuchEntity`.
pub fn delete_login_profile(txn: &mut Txn, account: AccountId, name: &str) -> Result<(), Error> {
    let (user, _) = find_login_profile(txn, account, name)?;
    txn.delete(&LoginProfile::key(account, &user.id));
    Ok(())
}
