//! Things with a name that is unique in its account, whatever its case.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use terroir_store::{Key, Record, Txn, record};
use terroir_types::{AccountId, Arn, Error, IdSource};

use crate::model::{Group, InstanceProfile, ManagedPolicy, MfaDevice, OidcProvider, PrincipalTenant, Role, User};

/// From a name to the id of what has it, at `iam-name/<account or ->/<kind>/<mac>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    pub id: String,
}

record!(NameEntry { kind: "iam-name", version: 1 });

/// The index key of a name; `account` is none for the names of accounts themselves.
pub(crate) fn name_key(txn: &Txn, account: Option<AccountId>, kind: &str, name: &str) -> Key {
    let mac = txn.name_mac(account, kind, &name.to_lowercase());
    match account {
        Some(account) => Key::new(format!("iam-name/{account}/{kind}/{mac}")),
        None => Key::new(format!("iam-name/-/{kind}/{mac}")),
    }
}

/// A user, group, role, managed policy or instance profile, or the like.
pub trait Entity: Record {
    /// What an id begins with.
    const PREFIX: &'static str;
    /// As error messages call it, for example `user`.
    const NOUN: &'static str;
    /// Before path and name in its ARN.
    const ARN_KIND: &'static str;
    const MAX_NAME: usize;
    /// How many an account may have, and AWS's name for that quota.
    const QUOTA: (i64, &'static str);

    fn id(&self) -> &str;
    fn owner(&self) -> AccountId;
    fn about(&self) -> &PrincipalTenant;
    fn about_mut(&mut self) -> &mut PrincipalTenant;

    fn key_of(account: AccountId, id: &str) -> Key {
        Key::new(format!("{}/{account}/{id}", Self::KIND))
    }

    fn key(&self) -> Key {
        Self::key_of(self.owner(), self.id())
    }

    fn name(&self) -> &str {
        &self.about().name
    }

    fn arn(&self) -> Arn {
        arn_of::<Self>(self.owner(), &self.about().path, self.name())
    }

    fn unknown(name: &str) -> Error {
        Error::not_found("NoSuchEntity", format!("The {} with name {name} cannot be found.", Self::NOUN))
    }
}

pub fn arn_of<T: Entity>(account: AccountId, path: &str, name: &str) -> Arn {
    Arn::iam(account, format_args!("{}{path}{name}", T::ARN_KIND))
}

macro_rules! entity {
    ($type:ty, $about:ident $(. $inner:ident)*, $prefix:literal, $noun:literal, $arn:literal, $max:literal, $quota:literal, $quota_name:literal) => {
        impl Entity for $type {
            const PREFIX: &'static str = $prefix;
            const NOUN: &'static str = $noun;
            const ARN_KIND: &'static str = $arn;
            const MAX_NAME: usize = $max;
            const QUOTA: (i64, &'static str) = ($quota, $quota_name);

            fn id(&self) -> &str {
                &self.id
            }

            fn owner(&self) -> AccountId {
                self.account
            }

            fn about(&self) -> &PrincipalTenant {
                &self.$about$(.$inner)*
            }

            fn about_mut(&mut self) -> &mut PrincipalTenant {
                &mut self.$about$(.$inner)*
            }
        }
    };
}

entity!(User, tenant, "AIDA", "user", "user", 64, 5000, "UsersPerAccount");
entity!(Group, tenant, "AGPA", "group", "group", 128, 300, "GroupsPerAccount");
entity!(Role, tenant.about, "AROA", "role", "role", 64, 1000, "RolesPerAccount");
entity!(ManagedPolicy, tenant, "ANPA", "policy", "policy", 128, 1500, "PoliciesPerAccount");
entity!(
    InstanceProfile,
    tenant,
    "AIPA",
    "instance profile",
    "instance-profile",
    128,
    1000,
    "InstanceProfilesPerAccount"
);
entity!(MfaDevice, tenant.about, "AMFA", "MFA device", "mfa", 226, 5001, "VirtualMFADevicesPerAccount");
entity!(
    OidcProvider,
    tenant.about,
    "AOIP",
    "OpenID Connect provider",
    "oidc-provider",
    255,
    100,
    "OpenIdConnectProvidersPerAccount"
);

/// The id that a name has in an account.
pub fn id_of<T: Entity>(txn: &Txn, account: AccountId, name: &str) -> Result<Option<String>, Error> {
    Ok(txn.get::<NameEntry>(&name_key(txn, Some(account), T::KIND, name))?.map(|entry| entry.id.clone()))
}

/// Errors: `NoSuchEntity`.
pub fn find<T: Entity>(txn: &Txn, account: AccountId, name: &str) -> Result<Arc<T>, Error> {
    match id_of::<T>(txn, account, name)? {
        Some(id) => by_id(txn, account, &id)?.ok_or_else(|| T::unknown(name)),
        None => Err(T::unknown(name)),
    }
}

pub fn by_id<T: Entity>(txn: &Txn, account: AccountId, id: &str) -> Result<Option<Arc<T>>, Error> {
    txn.get::<T>(&T::key_of(account, id))
}

/// All of an account in order of their names; not tracked.
pub fn list<T: Entity>(txn: &Txn, account: AccountId) -> Result<Vec<Arc<T>>, Error> {
    let mut all: Vec<Arc<T>> = txn
        .peek_range::<T>(&Key::new(format!("{}/{account}", T::KIND)))?
        .into_iter()
        .map(|(_, entity)| entity)
        .collect();
    all.sort_by_cached_key(|entity| entity.name().to_lowercase());
    Ok(all)
}

/// Takes the name and writes the record.
///
/// Errors: `EntityAlreadyExists`, `LimitExceeded`.
pub(crate) fn insert<T: Entity>(txn: &mut Txn, entity: &T) -> Result<(), Error> {
    let account = entity.owner();
    let key = name_key(txn, Some(account), T::KIND, entity.name());
    if txn.get::<NameEntry>(&key)?.is_some() {
        return Err(taken::<T>(entity.name()));
    }
    let (limit, quota) = T::QUOTA;
    terroir_resources::add_to_count(txn, account, &format!("iam-{}", T::KIND), 1, limit, || exceeds(quota, limit))?;
    txn.put(&key, &NameEntry { id: entity.id().to_owned() })?;
    txn.put(&entity.key(), entity)
}

/// Frees the name and deletes the record.
pub(crate) fn remove<T: Entity>(txn: &mut Txn, entity: &T) -> Result<(), Error> {
    let account = entity.owner();
    let (limit, quota) = T::QUOTA;
    terroir_resources::add_to_count(txn, account, &format!("iam-{}", T::KIND), -1, limit, || exceeds(quota, limit))?;
    let key = name_key(txn, Some(account), T::KIND, entity.name());
    txn.delete(&key);
    txn.delete(&entity.key());
    Ok(())
}

/// Moves the index entry to another name; the caller writes the record.
///
/// Errors: `EntityAlreadyExists`.
pub(crate) fn rename<T: Entity>(txn: &mut Txn, entity: &T, name: &str) -> Result<(), Error> {
    let old = name_key(txn, Some(entity.owner()), T::KIND, entity.name());
    let new = name_key(txn, Some(entity.owner()), T::KIND, name);
    if old == new {
        return Ok(());
    }
    if txn.get::<NameEntry>(&new)?.is_some() {
        return Err(taken::<T>(name));
    }
    txn.delete(&old);
    txn.put(&new, &NameEntry { id: entity.id().to_owned() })
}

fn taken<T: Entity>(name: &str) -> Error {
    let mut noun = T::NOUN.to_owned();
    noun[..1].make_ascii_uppercase();
    Error::conflict("EntityAlreadyExists", format!("{noun} with name {name} already exists."))
}

pub(crate) fn exceeds(quota: &str, limit: i64) -> Error {
    Error::limit("LimitExceeded", format!("Cannot exceed quota for {quota}: {limit}"))
}

const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// `AIDA` and the like with 17 characters, as AWS's unique ids.
pub(crate) fn unique_id(prefix: &str, ids: &dyn IdSource) -> String {
    format!("{prefix}{}", ids.text(BASE32, 17))
}

/// `AKIA` or `ASIA` with 16 characters.
pub(crate) fn access_key_id(prefix: &str, ids: &dyn IdSource) -> String {
    format!("{prefix}{}", ids.text(BASE32, 16))
}

fn refuse(value: &str, member: &str, constraint: &str) -> Error {
    let message = format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must {constraint}"
    );
    Error::invalid("ValidationError", message)
}

/// Letters, digits and `+=,.@_-`. Errors: `ValidationError`.
pub(crate) fn check_name(name: &str, member: &str, max: usize) -> Result<(), Error> {
    if name.is_empty() {
        return Err(refuse(name, member, "have length greater than or equal to 1"));
    }
    if name.len() > max {
        return Err(refuse(name, member, &format!("have length less than or equal to {max}")));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b)) {
        return Err(refuse(name, member, "satisfy regular expression pattern: [\\w+=,.@-]+"));
    }
    Ok(())
}

/// `/`, or printable ASCII between slashes, at most 512 characters. Errors: `ValidationError`.
pub(crate) fn check_path(path: &str, member: &str) -> Result<(), Error> {
    let printable = path.bytes().all(|b| (0x21..=0x7f).contains(&b));
    let slashes = path == "/" || (path.len() > 2 && path.starts_with('/') && path.ends_with('/'));
    if printable && slashes && path.len() <= 512 {
        return Ok(());
    }
    Err(refuse(path, member, "satisfy regular expression pattern: (\\u002F)|(\\u002F[\\u0021-\\u007F]+\\u002F)"))
}
