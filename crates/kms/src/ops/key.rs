use std::sync::Arc;
use std::time::Duration;
use terroir_action::ResourcePolicy;
use terroir_resources::{Tags, add_to_count};
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, Secret, Timestamp};
use uuid::Uuid;

use super::{alias, constraint, grant, invalid_state, rotation, store, tags};
use crate::model::{
    Alias, Due, Grant, KeyState, KmsKey, KmsKeyTenant, Material, MaterialTenant, Rotation, RotationKind,
};

/// AWS's quota "Customer managed keys".
const MAX_KEYS: i64 = 100_000;
const MAX_DESCRIPTION_CHARS: usize = 8192;
pub(crate) const MAX_POLICY_BYTES: usize = 32 * 1024;
const DELETION_DAYS: std::ops::RangeInclusive<u32> = 7..=30;
/// Grants of a key that ends which one transaction removes.
const GRANTS_AT_ONCE: usize = 400;

/// What a request says about a new key.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    pub description: &'a str,
    /// None: the default, which leaves all to the account's own policies.
    pub policy: Option<&'a str>,
    pub tags: &'a Tags,
    /// A custom key store, and the key there that has to be used as well. That it can is for the caller to find out.
    pub external: Option<(&'a str, &'a str)>,
}

/// The policy of a key for which none is given.
pub fn default_policy(account: AccountId) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}

/// Of the key that a service has in an account: whoever may use the service there may use the key through it, and
/// nobody otherwise.
fn managed_policy(account: AccountId, region: &str, service: &str) -> String {
    let via = via_of(service);
    format!(
        r#"{{"Version":"2012-10-17","Id":"auto-{service}-1","Statement":[{{"Sid":"Allow access through the service for all principals in the account","Effect":"Allow","Principal":{{"AWS":"*"}},"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:CreateGrant","kms:DescribeKey"],"Resource":"*","Condition":{{"StringEquals":{{"kms:CallerAccount":"{account}","kms:ViaService":"{via}.{region}.amazonaws.com"}}}}}},{{"Sid":"Allow direct access to key metadata to the account","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{account}:root"}},"Action":["kms:Describe*","kms:Get*","kms:List*","kms:RevokeGrant"],"Resource":"*"}}]}}"#
    )
}

/// EBS is a part of EC2.
fn via_of(service: &str) -> &str {
    if service == "ebs" { "ec2" } else { service }
}

fn check_description(text: &str) -> Result<(), Error> {
    if text.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(constraint("description", "have length less than or equal to 8192"));
    }
    Ok(())
}

fn check_policy(txn: &Txn, text: &str) -> Result<Arc<ResourcePolicy>, Error> {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}');
    if text.is_empty() || !text.chars().all(allowed) {
        return Err(constraint("policy", r"satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+"));
    }
    terroir_iam::ops::key_policy(txn, text, MAX_POLICY_BYTES).map(Arc::new)
}

/// A new key with its first material.
///
/// Errors: `MalformedPolicyDocumentException`, `TagException`, `LimitExceededException`, `ValidationException`,
/// `XksKeyAlreadyInUseException`, `CustomKeyStoreNotFoundException`.
pub fn create_key(
    txn: &mut Txn,
    account: AccountId,
    new: NewKey<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<KmsKey, Error> {
    check_description(new.description)?;
    tags::check(new.tags)?;
    let default;
    let text = match new.policy {
        Some(text) => text,
        None => {
            default = default_policy(account);
            &default
        }
    };
    let tenant = KmsKeyTenant {
        description: new.description.to_owned(),
        policy: check_policy(txn, text)?,
        tags: new.tags.clone(),
        external_id: new.external.map(|(_, id)| id.to_owned()),
    };
    let store = new.external.map(|(store, _)| store);
    insert(txn, account, Kind { managed_by: None, rotation: None, store }, tenant, ids, now)
}

struct Kind<'a> {
    managed_by: Option<&'a str>,
    rotation: Option<Rotation>,
    store: Option<&'a str>,
}

fn insert(
    txn: &mut Txn,
    account: AccountId,
    kind: Kind<'_>,
    tenant: KmsKeyTenant,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<KmsKey, Error> {
    if kind.managed_by.is_none() {
        add_to_count(txn, account, "kms-keys", 1, MAX_KEYS, || {
            Error::limit("LimitExceededException", format!("The account has {MAX_KEYS} keys already."))
        })?;
    }
    let key = KmsKey {
        account,
        id: uuid::Builder::from_random_bytes(ids.next_u128().to_le_bytes()).into_uuid(),
        created_at: now,
        state: KeyState::Enabled,
        managed_by: kind.managed_by.map(str::to_owned),
        current: 1,
        rotation: kind.rotation,
        on_demand: 0,
        store: kind.store.map(str::to_owned),
        tenant,
    };
    store::bind(txn, &key)?;
    put_material(txn, &key, 1, None, ids, now)?;
    put_key(txn, None, &key)?;
    Ok(key)
}

pub(super) fn put_material(
    txn: &mut Txn,
    key: &KmsKey,
    number: u32,
    rotated: Option<RotationKind>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<(), Error> {
    let mut secret = [0; 32];
    ids.fill(&mut secret);
    let tenant = MaterialTenant { secret: Secret::new(secret) };
    let material = Material { account: key.account, created_at: now, rotated, tenant };
    zeroize::Zeroize::zeroize(&mut secret);
    txn.put(&Material::key_of(key.account, key.id, number), &material)
}

/// The key of a service in an account, `alias/aws/SERVICE`, which is made if it is not there.
pub fn ensure_managed(
    txn: &mut Txn,
    account: AccountId,
    region: &str,
    service: &str,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<Arc<KmsKey>, Error> {
    let name = format!("alias/aws/{service}");
    let at = crate::reference::alias_key(txn, account, &name);
    if let Some(alias) = txn.get::<Alias>(&at)?
        && let Some(key) = find_key(txn, account, alias.key)?
    {
        return Ok(key);
    }
    let policy = check_policy(txn, &managed_policy(account, region, service))?;
    let description =
        format!("Default key that protects my {} data when no other key is defined", service.to_uppercase());
    let rotation = rotation::after(now, rotation::DEFAULT_DAYS);
    let tenant = KmsKeyTenant { description, policy, tags: Tags::new(), external_id: None };
    let kind = Kind { managed_by: Some(service), rotation: Some(rotation), store: None };
    let key = insert(txn, account, kind, tenant, ids, now)?;
    alias::put(txn, &key, &name, now)?;
    Ok(Arc::new(key))
}

pub fn find_key(txn: &Txn, account: AccountId, id: Uuid) -> Result<Option<Arc<KmsKey>>, Error> {
    txn.get::<KmsKey>(&KmsKey::key_of(account, id))
}

/// Writes a key, and when it is due next. `before` is what was there.
pub fn put_key(txn: &mut Txn, before: Option<&KmsKey>, key: &KmsKey) -> Result<(), Error> {
    let (old, new) = (before.and_then(Due::of), Due::of(key));
    if old != new {
        if let Some(old) = old {
            txn.delete(&old.store_key());
        }
        if let Some(new) = new {
            txn.put(&new.store_key(), &new)?;
        }
    }
    txn.put(&key.key(), key)
}

pub(super) fn change(txn: &mut Txn, key: &KmsKey, edit: impl FnOnce(&mut KmsKey)) -> Result<KmsKey, Error> {
    let mut changed = key.clone();
    edit(&mut changed);
    if changed != *key {
        put_key(txn, Some(key), &changed)?;
    }
    Ok(changed)
}

/// Errors: `KMSInvalidStateException` for a key whose deletion is scheduled.
pub fn check_not_deleted(key: &KmsKey, region: &str) -> Result<(), Error> {
    match key.state {
        KeyState::PendingDeletion { .. } => Err(invalid_state(format!("{} is pending deletion.", key.arn(region)))),
        KeyState::Enabled | KeyState::Disabled => Ok(()),
    }
}

/// Errors: `KMSInvalidStateException`, `DisabledException`.
pub fn check_usable(key: &KmsKey, region: &str) -> Result<(), Error> {
    check_not_deleted(key, region)?;
    match key.state {
        KeyState::Disabled => Err(Error::conflict("DisabledException", format!("{} is disabled.", key.arn(region)))),
        KeyState::Enabled | KeyState::PendingDeletion { .. } => Ok(()),
    }
}

/// Errors: `KMSInvalidStateException`.
pub fn set_enabled(txn: &mut Txn, key: &KmsKey, region: &str, enabled: bool) -> Result<KmsKey, Error> {
    check_not_deleted(key, region)?;
    change(txn, key, |key| key.state = if enabled { KeyState::Enabled } else { KeyState::Disabled })
}

/// Errors: `KMSInvalidStateException`, `ValidationException`.
pub fn set_description(txn: &mut Txn, key: &KmsKey, region: &str, text: &str) -> Result<KmsKey, Error> {
    check_description(text)?;
    check_not_deleted(key, region)?;
    change(txn, key, |key| text.clone_into(&mut key.tenant.description))
}

/// Errors: `MalformedPolicyDocumentException`, `LimitExceededException`.
pub fn set_policy(txn: &mut Txn, key: &KmsKey, text: &str) -> Result<KmsKey, Error> {
    let policy = check_policy(txn, text)?;
    change(txn, key, |key| key.tenant.policy = policy)
}

/// Errors: `ValidationException` for a window that is not 7 to 30 days, `KMSInvalidStateException`.
pub fn schedule_deletion(
    txn: &mut Txn,
    key: &KmsKey,
    region: &str,
    window_days: u32,
    now: Timestamp,
) -> Result<KmsKey, Error> {
    if !DELETION_DAYS.contains(&window_days) {
        return Err(constraint("pendingWindowInDays", "have value between 7 and 30"));
    }
    check_not_deleted(key, region)?;
    let at = now.plus(days(window_days));
    change(txn, key, |key| key.state = KeyState::PendingDeletion { at })
}

pub(super) fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 86_400)
}

/// The key is disabled afterwards.
///
/// Errors: `KMSInvalidStateException` unless its deletion is scheduled, and from the moment on at which it is due.
pub fn cancel_deletion(txn: &mut Txn, key: &KmsKey, region: &str, now: Timestamp) -> Result<KmsKey, Error> {
    match key.state {
        KeyState::PendingDeletion { at } if now < at => change(txn, key, |key| key.state = KeyState::Disabled),
        KeyState::PendingDeletion { .. } => Err(invalid_state(format!("{} is being deleted.", key.arn(region)))),
        KeyState::Enabled | KeyState::Disabled => {
            Err(invalid_state(format!("{} is not pending deletion.", key.arn(region))))
        }
    }
}

/// One step of the end of a key whose deletion is due: its material first, then what else there is of it. `true`: nothing
/// is left.
pub fn destroy(txn: &mut Txn, key: &KmsKey, now: Timestamp) -> Result<bool, Error> {
    let due = matches!(key.state, KeyState::PendingDeletion { at } if at <= now);
    if !due {
        return Ok(true);
    }
    delete_all::<Material>(txn, &Material::all(key.account, key.id))?;
    let grants = txn.page::<Grant>(&Grant::all(key.account, key.id), None, GRANTS_AT_ONCE)?;
    for (_, found) in &grants {
        grant::remove_grant(txn, found)?;
    }
    if grants.len() == GRANTS_AT_ONCE {
        return Ok(false);
    }
    for (at, alias) in txn.range::<Alias>(&Alias::all(key.account))? {
        if alias.key == key.id {
            alias::remove(txn, &at, &alias)?;
        }
    }
    if let Some(due) = Due::of(key) {
        txn.delete(&due.store_key());
    }
    store::unbind(txn, key);
    if key.managed_by.is_none() {
        add_to_count(txn, key.account, "kms-keys", -1, MAX_KEYS, || Error::internal("a count grew by shrinking"))?;
    }
    txn.delete(&key.key());
    Ok(true)
}

fn delete_all<T: terroir_store::Record>(txn: &mut Txn, prefix: &Key) -> Result<(), Error> {
    for (at, _) in txn.range::<T>(prefix)? {
        txn.delete(&at);
    }
    Ok(())
}
