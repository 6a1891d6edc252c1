use std::sync::Arc;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Arn, Error, IdSource, Timestamp};

use super::check_tags;
use crate::model::{IssuerKeys, IssuerKeysTenant, OidcProvider, OidcProviderTenant, PrincipalTenant};
use crate::names::{Entity, by_id, exceeds, id_of, insert, remove, unique_id};
use crate::web_token::KeySet;

const MAX_CLIENT_IDS: usize = 100;
const MAX_THUMBPRINTS: usize = 5;
const MAX_URL: usize = 255;

/// What CreateOpenIDConnectProvider asks for.
#[derive(Debug, Clone, Copy)]
pub struct NewProvider<'a> {
    /// With `https://`.
    pub url: &'a str,
    pub client_ids: &'a [String],
    pub thumbprints: &'a [String],
    pub tags: &'a Tags,
}

/// The address of an issuer without `https://` and a last slash, which is its name in ARNs and condition keys.
///
/// Errors: `InvalidInput`.
pub fn provider_name(url: &str) -> Result<&str, Error> {
    let wrong = || Error::invalid("InvalidInput", "Invalid Open ID Connect Provider URL");
    let name = url.strip_prefix("https://").ok_or_else(wrong)?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b));
    if name.is_empty() || name.starts_with('/') || !plain || url.len() > MAX_URL {
        return Err(wrong());
    }
    Ok(name)
}

fn check_client_ids(ids: &[String]) -> Result<(), Error> {
    if ids.len() > MAX_CLIENT_IDS {
        return Err(exceeds("ClientIdsPerOpenIdConnectProvider", 100));
    }
    if ids.iter().any(|id| id.is_empty() || id.len() > 255) {
        return Err(Error::invalid("ValidationError", "A client ID must have between 1 and 255 characters."));
    }
    Ok(())
}

fn check_thumbprints(list: &[String]) -> Result<(), Error> {
    if list.len() > MAX_THUMBPRINTS {
        let message = "Thumbprint list must contain fewer than 5 entries.";
        return Err(Error::invalid("InvalidInput", message));
    }
    if list.iter().any(|print| print.len() != 40 || !print.bytes().all(|b| b.is_ascii_hexdigit())) {
        let message = "1 validation error detected: Value at 'thumbprintList' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 40, Member must have length greater than or equal to 40]";
        return Err(Error::invalid("ValidationError", message));
    }
    Ok(())
}

/// Errors: `InvalidInput`, `ValidationError`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_oidc_provider(
    txn: &mut Txn,
    account: AccountId,
    new: NewProvider<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<OidcProvider, Error> {
    let name = provider_name(new.url)?;
    check_client_ids(new.client_ids)?;
    check_thumbprints(new.thumbprints)?;
    check_tags(new.tags)?;
    if id_of::<OidcProvider>(txn, account, name)?.is_some() {
        let message = format!("Provider with url {} already exists.", new.url);
        return Err(Error::conflict("EntityAlreadyExists", message));
    }
    let about = PrincipalTenant {
        name: name.to_owned(),
        path: "/".to_owned(),
        tags: new.tags.clone(),
        ..PrincipalTenant::default()
    };
    let mut client_ids = new.client_ids.to_vec();
    client_ids.dedup();
    let provider = OidcProvider {
        account,
        id: unique_id(OidcProvider::PREFIX, ids),
        created_at: now,
        tenant: OidcProviderTenant { about, client_ids, thumbprints: new.thumbprints.to_vec() },
    };
    insert(txn, &provider)?;
    Ok(provider)
}

/// Errors: `NoSuchEntity`; `ValidationError` for what is no ARN.
pub fn find_oidc_provider(txn: &Txn, account: AccountId, arn: &str) -> Result<Arc<OidcProvider>, Error> {
    let parsed = Arn::parse(arn).map_err(|_| Error::invalid("ValidationError", format!("Invalid ARN: {arn}")))?;
    let unknown = || Error::not_found("NoSuchEntity", format!("OpenIDConnect Provider not found for arn {arn}"));
    let name = parsed.resource().strip_prefix("oidc-provider/").ok_or_else(unknown)?;
    let id = id_of::<OidcProvider>(txn, account, name)?.ok_or_else(unknown)?;
    let provider = by_id::<OidcProvider>(txn, account, &id)?.ok_or_else(unknown)?;
    if provider.arn() == parsed { Ok(provider) } else { Err(unknown()) }
}

/// Nothing happens if the provider has the client id. Errors: `NoSuchEntity`, `LimitExceeded`.
pub fn add_client_id(txn: &mut Txn, account: AccountId, arn: &str, client_id: &str) -> Result<(), Error> {
    let mut provider = (*find_oidc_provider(txn, account, arn)?).clone();
    let ids = &mut provider.tenant.client_ids;
    if !ids.iter().any(|known| known == client_id) {
        ids.push(client_id.to_owned());
    }
    check_client_ids(ids)?;
    txn.put(&provider.key(), &provider)
}

/// Nothing happens if the provider does not have the client id. Errors: `NoSuchEntity`.
pub fn remove_client_id(txn: &mut Txn, account: AccountId, arn: &str, client_id: &str) -> Result<(), Error> {
    let mut provider = (*find_oidc_provider(txn, account, arn)?).clone();
    provider.tenant.client_ids.retain(|known| known != client_id);
    txn.put(&provider.key(), &provider)
}

/// Errors: `NoSuchEntity`, `InvalidInput`.
pub fn set_thumbprints(txn: &mut Txn, account: AccountId, arn: &str, thumbprints: &[String]) -> Result<(), Error> {
    check_thumbprints(thumbprints)?;
    let mut provider = (*find_oidc_provider(txn, account, arn)?).clone();
    provider.tenant.thumbprints = thumbprints.to_vec();
    txn.put(&provider.key(), &provider)
}

/// Nothing happens if there is no such provider, as at AWS. Errors: `ValidationError`.
pub fn delete_oidc_provider(txn: &mut Txn, account: AccountId, arn: &str) -> Result<(), Error> {
    match find_oidc_provider(txn, account, arn) {
        Ok(provider) => remove(txn, &*provider),
        Err(error) if error.code() == "NoSuchEntity" => Ok(()),
        Err(error) => Err(error),
    }
}

fn issuer_key(txn: &Txn, name: &str) -> Key {
    Key::new(format!("issuer-keys/{}", txn.name_mac(None, "issuer-keys", name)))
}

/// Sets the public keys of an issuer, for all accounts of the region. The operator's command.
///
/// Errors: `InvalidInput` for the address or the keys.
pub fn set_issuer_keys(txn: &mut Txn, issuer: &str, jwks: &str, now: Timestamp) -> Result<(), Error> {
    let name = provider_name(issuer)?;
    KeySet::parse(jwks).map_err(|reason| Error::invalid("InvalidInput", format!("The keys of {issuer}: {reason}")))?;
    let tenant = IssuerKeysTenant { issuer: issuer.to_owned(), jwks: jwks.to_owned() };
    let key = issuer_key(txn, name);
    txn.put(&key, &IssuerKeys { updated_at: now, tenant })
}

/// Errors: `NoSuchEntity`.
pub fn remove_issuer_keys(txn: &mut Txn, issuer: &str) -> Result<(), Error> {
    let key = issuer_key(txn, provider_name(issuer)?);
    if txn.get::<IssuerKeys>(&key)?.is_none() {
        return Err(Error::not_found("NoSuchEntity", format!("There are no keys of {issuer}.")));
    }
    txn.delete(&key);
    Ok(())
}

/// The keys of the issuer of this name (see [`provider_name`]).
pub fn issuer_keys(txn: &Txn, name: &str) -> Result<Option<Arc<IssuerKeys>>, Error> {
    txn.get::<IssuerKeys>(&issuer_key(txn, name))
}

/// All issuers whose keys are known, by address; not tracked.
pub fn list_issuers(txn: &Txn) -> Result<Vec<Arc<IssuerKeys>>, Error> {
    let all = txn.peek_range::<IssuerKeys>(&Key::new("issuer-keys"))?;
    let mut issuers: Vec<_> = all.into_iter().map(|(_, keys)| keys).collect();
    issuers.sort_by(|a, b| a.tenant.issuer.cmp(&b.tenant.issuer));
    Ok(issuers)
}
