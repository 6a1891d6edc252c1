use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use terroir_resources::add_to_count;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Arn, Error, IdSource, Timestamp};
use uuid::Uuid;

use super::{check_usable, constraint};
use crate::model::{Constraint, Grant, GrantPrincipal, GrantTenant, Grantee, KmsKey, Retiring};
use crate::reference::not_found;

/// What a grant on a symmetric key may allow.
pub const GRANT_OPERATIONS: &[&str] = &[
    "CreateGrant",
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "RetireGrant",
];
/// AWS's quota "Grants per CMK".
const MAX_GRANTS: i64 = 50_000;
/// Of the names and values of a constraint.
const MAX_CONSTRAINT_BYTES: usize = 384;
const MAC_BYTES: usize = 16;

/// What a request says about a new grant.
#[derive(Debug, Clone, Copy)]
pub struct NewGrant<'a> {
    pub issuer: AccountId,
    pub grantee: &'a str,
    pub retiring: Option<&'a str>,
    pub operations: &'a [String],
    pub constraint: Option<&'a Constraint>,
    pub name: Option<&'a str>,
}

/// A grant; one that has the same name and says the same is not made twice.
///
/// Errors: `ValidationException`, `InvalidArnException`, `LimitExceededException`, `DisabledException`,
/// `KMSInvalidStateException`.
pub fn create_grant(
    txn: &mut Txn,
    key: &KmsKey,
    region: &str,
    new: NewGrant<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<Grant, Error> {
    let mut operations = new.operations.to_vec();
    operations.sort();
    operations.dedup();
    if let Some(other) = operations.iter().find(|operation| !GRANT_OPERATIONS.contains(&operation.as_str())) {
        let shown: String = other.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let message = format!("The operation {shown} cannot be granted on a key of this kind.");
        return Err(Error::invalid("ValidationException", message));
    }
    check_name(new.name)?;
    check_constraint(new.constraint, &operations)?;
    check_usable(key, region)?;
    let tenant = GrantTenant {
        name: new.name.map(str::to_owned),
        grantee: principal(txn, new.issuer, new.grantee)?,
        retiring: new.retiring.map(|arn| principal(txn, new.issuer, arn)).transpose()?,
        constraint: new.constraint.cloned(),
    };
    if tenant.name.is_some() {
        let all = txn.range::<Grant>(&Grant::all(key.account, key.id))?;
        let same =
            |grant: &Grant| grant.tenant == tenant && grant.operations == operations && grant.issuer == new.issuer;
        if let Some((_, grant)) = all.into_iter().find(|(_, grant)| same(grant)) {
            return Ok((*grant).clone());
        }
    }
    count(txn, key.account, key.id, 1)?;
    txn.touch(&key.key())?;
    let mut bytes = [0; 32];
    ids.fill(&mut bytes);
    let (account, id) = (key.account, hex::encode(bytes));
    let grant = Grant { account, key: key.id, id, created_at: now, issuer: new.issuer, operations, tenant };
    txn.put(&grant.key(), &grant)?;
    let at = grantee_index(txn, account, key.id, &grant.tenant.grantee.arn).child(&grant.id);
    txn.put(&at, &Grantee {})?;
    if let Some(at) = retiring_key(txn, &grant) {
        txn.put(&at, &Retiring { account, key: key.id })?;
    }
    Ok(grant)
}

fn check_name(name: Option<&str>) -> Result<(), Error> {
    let Some(name) = name else { return Ok(()) };
    let allowed = name.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b));
    if name.is_empty() || name.len() > 256 || !allowed {
        return Err(constraint("name", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]{1,256}$"));
    }
    Ok(())
}

fn check_constraint(wanted: Option<&Constraint>, operations: &[String]) -> Result<(), Error> {
    let Some(Constraint::Equals(context) | Constraint::Contains(context)) = wanted else { return Ok(()) };
    let bytes: usize = context.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_CONSTRAINT_BYTES || context.len() > 8 {
        return Err(constraint("constraints", "have at most 8 pairs and 384 bytes"));
    }
    // Without an operation that has an encryption context the constraint would say nothing.
    let has_context = |operation: &String| !matches!(operation.as_str(), "DescribeKey" | "RetireGrant" | "CreateGrant");
    if !operations.iter().any(has_context) {
        let message = "Encryption context constraints need an operation that takes an encryption context.";
        return Err(Error::invalid("ValidationException", message));
    }
    Ok(())
}

/// A principal of the issuer's account must be there; which ones another account has is not told.
fn principal(txn: &Txn, issuer: AccountId, arn: &str) -> Result<GrantPrincipal, Error> {
    match terroir_iam::ops::find_principal(txn, arn)? {
        Some(id) => Ok(GrantPrincipal { arn: arn.to_owned(), id }),
        None if is_foreign_principal(issuer, arn) => Ok(GrantPrincipal { arn: arn.to_owned(), id: None }),
        None => {
            let shown: String = arn.chars().filter(char::is_ascii_graphic).take(256).collect();
            Err(Error::invalid("InvalidArnException", format!("ARN does not refer to a valid principal: {shown}")))
        }
    }
}

fn is_foreign_principal(own: AccountId, text: &str) -> bool {
    let Ok(arn) = Arn::parse(text) else { return false };
    let named = ["user/", "role/", "assumed-role/"].iter().any(|kind| arn.resource().starts_with(kind));
    let of_iam = matches!((arn.service(), arn.region()), ("iam" | "sts", ""));
    let foreign = arn.account().is_some_and(|account| account != own);
    foreign && of_iam && (named || arn.resource() == "root") && text.len() <= 256
}

fn count(txn: &mut Txn, account: AccountId, key: Uuid, delta: i64) -> Result<(), Error> {
    add_to_count(txn, account, &format!("kms-grants/{key}"), delta, MAX_GRANTS, || {
        Error::limit("LimitExceededException", format!("The key has {MAX_GRANTS} grants already."))
    })?;
    Ok(())
}

/// Below which the grants of a key for a principal are.
pub fn grantee_index(txn: &Txn, account: AccountId, key: Uuid, arn: &str) -> Key {
    let mac = txn.name_mac(None, "kms-grantee", arn);
    Key::new(format!("kms-grantee/{account}/{key}/{mac}"))
}

fn retiring_index(txn: &Txn, arn: &str) -> Option<Key> {
    let account = Arn::parse(arn).ok()?.account()?;
    let mac = txn.name_mac(None, "kms-retiring", arn);
    Some(Key::new(format!("kms-retiring/{account}/{mac}")))
}

fn retiring_key(txn: &Txn, grant: &Grant) -> Option<Key> {
    let retiring = grant.tenant.retiring.as_ref()?;
    Some(retiring_index(txn, &retiring.arn)?.child(&grant.id))
}

/// Errors: `NotFoundException`.
pub fn find_grant(txn: &Txn, account: AccountId, key: Uuid, id: &str) -> Result<Arc<Grant>, Error> {
    let plausible = (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let found = if plausible { txn.get::<Grant>(&Grant::all(account, key).child(id))? } else { None };
    found.ok_or_else(|| {
        let shown: String = id.chars().filter(char::is_ascii_alphanumeric).take(128).collect();
        not_found(format!("Grant ID {shown} not found"))
    })
}

pub fn remove_grant(txn: &mut Txn, grant: &Grant) -> Result<(), Error> {
    count(txn, grant.account, grant.key, -1)?;
    let at = grantee_index(txn, grant.account, grant.key, &grant.tenant.grantee.arn).child(&grant.id);
    txn.delete(&at);
    if let Some(at) = retiring_key(txn, grant) {
        txn.delete(&at);
    }
    txn.delete(&grant.key());
    Ok(())
}

/// The grants that a principal may retire, in order of their ids.
pub fn retirable_grants(txn: &Txn, arn: &str) -> Result<Vec<Arc<Grant>>, Error> {
    let Some(index) = retiring_index(txn, arn) else { return Ok(Vec::new()) };
    let mut grants = Vec::new();
    for (at, entry) in txn.peek_range::<Retiring>(&index)? {
        grants.extend(txn.peek::<Grant>(&Grant::all(entry.account, entry.key).child(at.last()))?);
    }
    Ok(grants)
}

/// Names a grant to whoever has the token. Grants count at once here, so it is needed for nothing but retiring.
pub fn grant_token(txn: &Txn, grant: &Grant) -> String {
    let text = format!("{}/{}/{}", grant.account, grant.key, grant.id);
    let mut bytes = token_mac(txn, &text);
    bytes.extend_from_slice(text.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn token_mac(txn: &Txn, text: &str) -> Vec<u8> {
    txn.page_mac(format!("kms-grant-token\0{text}").as_bytes())[..MAC_BYTES].to_vec()
}

/// The account and id of the key, and the id of the grant, that a token names.
///
/// Errors: `InvalidGrantTokenException`.
pub fn open_token(txn: &Txn, token: &str) -> Result<(AccountId, Uuid, String), Error> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (mac, text) = bytes.split_at_checked(MAC_BYTES)?;
        let text = std::str::from_utf8(text).ok()?;
        if token_mac(txn, text) != mac {
            return None;
        }
        let mut parts = text.split('/');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.to_owned()))
    };
    read().ok_or_else(|| Error::invalid("InvalidGrantTokenException", "The grant token is not valid."))
}
