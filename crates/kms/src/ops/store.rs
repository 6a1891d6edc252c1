use std::sync::Arc;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, Timestamp};

use super::constraint;
use crate::model::{Connection, KeyStore, KeyStoreTenant, KmsKey, Proxy, StoreKey};

/// AWS's quota "Custom key stores".
const MAX_STORES: usize = 10;

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.chars().count() > 256 {
        return Err(constraint("customKeyStoreName", "have length between 1 and 256"));
    }
    Ok(())
}

/// AWS takes no port; a key manager of one's own may need one.
fn check_proxy(proxy: &Proxy) -> Result<(), Error> {
    let host = proxy.endpoint.strip_prefix("https://").unwrap_or_default();
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        && name.bytes().any(|b| b.is_ascii_alphabetic());
    if !is_name || proxy.endpoint.len() > 128 || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        let must = "be https:// and the name of a host, with a port or without";
        return Err(constraint("xksProxyUriEndpoint", must));
    }
    let path = proxy.path.strip_suffix("/kms/xks/v1").unwrap_or("?");
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/_-".contains(&b);
    if !(path.is_empty() || path.len() > 1 && path.starts_with('/'))
        || !path.bytes().all(allowed)
        || path.contains("//")
        || proxy.path.len() > 128
    {
        return Err(constraint("xksProxyUriPath", "end with /kms/xks/v1"));
    }
    let id_fits = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    if !(20..=30).contains(&proxy.access_key_id.len()) || !proxy.access_key_id.bytes().all(id_fits) {
        return Err(constraint("accessKeyId", "satisfy regular expression pattern: ^[A-Z2-7]{20,30}$"));
    }
    let secret = proxy.secret.expose();
    if !(43..=64).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+=".contains(&b)) {
        return Err(constraint("rawSecretAccessKey", "satisfy regular expression pattern: ^[a-zA-Z0-9/+=]{43,64}$"));
    }
    Ok(())
}

/// Errors: `CustomKeyStoreNameInUseException`, `XksProxyUriInUseException`.
fn check_free(txn: &Txn, account: AccountId, itself: Option<&str>, new: &KeyStoreTenant) -> Result<usize, Error> {
    let all = txn.range::<KeyStore>(&KeyStore::all(account))?;
    for (_, other) in all.iter().filter(|(_, other)| Some(other.id.as_str()) != itself) {
        if other.tenant.name == new.name {
            let message = "A custom key store of this name exists already.";
            return Err(Error::conflict("CustomKeyStoreNameInUseException", message));
        }
        let (theirs, ours) = (&other.tenant.proxy, &new.proxy);
        if (&theirs.endpoint, &theirs.path) == (&ours.endpoint, &ours.path) {
            let message = "Another custom key store has the same proxy endpoint and path.";
            return Err(Error::conflict("XksProxyUriInUseException", message));
        }
    }
    Ok(all.len())
}

/// A new key store, not connected. That its proxy answers is for the caller to find out.
///
/// Errors: `ValidationException`, `LimitExceededException`, `CustomKeyStoreNameInUseException`,
/// `XksProxyUriInUseException`.
pub fn create_store(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    proxy: Proxy,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<KeyStore, Error> {
    let store = KeyStore {
        account,
        id: format!("cks-{}", ids.text(b"0123456789abcdef", 17)),
        created_at: now,
        connection: Connection::Disconnected,
        tenant: KeyStoreTenant { name: name.to_owned(), proxy },
    };
    check_new_store(txn, account, &store.tenant)?;
    txn.put(&store.key(), &store)?;
    Ok(store)
}

/// Errors: those of [`create_store`].
pub fn check_new_store(txn: &Txn, account: AccountId, new: &KeyStoreTenant) -> Result<(), Error> {
    check_name(&new.name)?;
    check_proxy(&new.proxy)?;
    if check_free(txn, account, None, new)? >= MAX_STORES {
        let message = format!("The account has {MAX_STORES} custom key stores already.");
        return Err(Error::limit("LimitExceededException", message));
    }
    Ok(())
}

/// Errors: `CustomKeyStoreNotFoundException`.
pub fn find_store(txn: &Txn, account: AccountId, id: &str) -> Result<Arc<KeyStore>, Error> {
    let plausible = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let found = if plausible { txn.get::<KeyStore>(&KeyStore::all(account).child(id))? } else { None };
    found.ok_or_else(|| Error::not_found("CustomKeyStoreNotFoundException", "There is no such custom key store."))
}

/// Errors: `CustomKeyStoreNotFoundException`.
pub fn set_connection(txn: &mut Txn, account: AccountId, id: &str, connection: Connection) -> Result<(), Error> {
    let store = find_store(txn, account, id)?;
    txn.put(&store.key(), &KeyStore { connection, ..(*store).clone() })
}

/// A store with another name, proxy or credential.
///
/// Errors: `CustomKeyStoreInvalidStateException` for another proxy while it is connected, those of [`create_store`].
pub fn update_store(txn: &mut Txn, store: &KeyStore, tenant: KeyStoreTenant) -> Result<(), Error> {
    check_name(&tenant.name)?;
    check_proxy(&tenant.proxy)?;
    let moved =
        (&tenant.proxy.endpoint, &tenant.proxy.path) != (&store.tenant.proxy.endpoint, &store.tenant.proxy.path);
    if moved {
        check_disconnected(store)?;
    }
    check_free(txn, store.account, Some(&store.id), &tenant)?;
    txn.put(&store.key(), &KeyStore { tenant, ..store.clone() })
}

fn check_disconnected(store: &KeyStore) -> Result<(), Error> {
    match store.connection {
        Connection::Connected => Err(Error::conflict(
            "CustomKeyStoreInvalidStateException",
            "The custom key store must be disconnected first.",
        )),
        Connection::Disconnected | Connection::Failed(_) => Ok(()),
    }
}

/// Errors: `CustomKeyStoreNotFoundException`, `CustomKeyStoreInvalidStateException`, `CustomKeyStoreHasCMKsException`.
pub fn delete_store(txn: &mut Txn, account: AccountId, id: &str) -> Result<(), Error> {
    let store = find_store(txn, account, id)?;
    check_disconnected(&store)?;
    if txn.exists(&store_keys(account, id)) {
        let message = "Keys of the custom key store must be deleted first.";
        return Err(Error::conflict("CustomKeyStoreHasCMKsException", message));
    }
    txn.delete(&store.key());
    Ok(())
}

fn store_keys(account: AccountId, id: &str) -> Key {
    Key::new(format!("kms-store-key/{account}/{id}"))
}

fn store_key(txn: &Txn, account: AccountId, store: &str, external_id: &str) -> Key {
    store_keys(account, store).child(txn.name_mac(Some(account), "kms-store-key", external_id))
}

/// Errors: `ValidationException`.
pub fn check_external_id(id: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    // One of dots alone would be another path.
    if !(1..=128).contains(&id.len()) || !id.bytes().all(allowed) || id.bytes().all(|b| b == b'.') {
        return Err(constraint("xksKeyId", "satisfy regular expression pattern: ^[a-zA-Z0-9-_.]{1,128}$"));
    }
    Ok(())
}

/// Binds a new key to the key of a store.
///
/// Errors: `XksKeyAlreadyInUseException`, `CustomKeyStoreNotFoundException`, `ValidationException`.
pub(super) fn bind(txn: &mut Txn, key: &KmsKey) -> Result<(), Error> {
    let (Some(store), Some(external_id)) = (&key.store, &key.tenant.external_id) else { return Ok(()) };
    check_external_id(external_id)?;
    let found = find_store(txn, key.account, store)?;
    // A store that goes at the same time takes no key with it.
    txn.touch(&found.key())?;
    let at = store_key(txn, key.account, store, external_id);
    if txn.get::<StoreKey>(&at)?.is_some() {
        let message = "The external key protects another KMS key already.";
        return Err(Error::conflict("XksKeyAlreadyInUseException", message));
    }
    txn.put(&at, &StoreKey { key: key.id })
}

pub(super) fn unbind(txn: &mut Txn, key: &KmsKey) {
    if let (Some(store), Some(external_id)) = (&key.store, &key.tenant.external_id) {
        let at = store_key(txn, key.account, store, external_id);
        txn.delete(&at);
    }
}

/// The proxy that has to be asked for a key; none: the key is not held elsewhere.
///
/// Errors: `KMSInvalidStateException` while the key's store is not connected.
pub fn proxy_of(txn: &Txn, key: &KmsKey) -> Result<Option<(Proxy, String)>, Error> {
    let (Some(store), Some(external_id)) = (&key.store, &key.tenant.external_id) else { return Ok(None) };
    let store = find_store(txn, key.account, store)?;
    if store.connection != Connection::Connected {
        let message = "The key is in a custom key store that is not connected to its proxy.";
        return Err(super::invalid_state(message));
    }
    Ok(Some((store.tenant.proxy.clone(), external_id.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::Secret;

    #[test]
    fn forms_of_a_proxy() {
        let good = || Proxy {
            endpoint: "https://xks.example.org".to_owned(),
            path: "/kms/xks/v1".to_owned(),
            access_key_id: "A2".repeat(10),
            secret: Secret::new("s".repeat(43)),
        };
        let with = |edit: &dyn Fn(&mut Proxy)| {
            let mut proxy = good();
            edit(&mut proxy);
            check_proxy(&proxy).is_ok()
        };
        assert!(with(&|_| {}));
        for (endpoint, fits) in [
            ("https://xks.example.org:8443", true),
            ("http://xks.example.org", false),
            ("https://127.0.0.1", false),
            ("https://2130706433", false),
            ("https://", false),
            ("https://a/b", false),
            ("https://a@b", false),
            ("https://a:b", false),
            ("https://a:99999", false),
            ("https://[::1]", false),
        ] {
            assert_eq!(with(&|proxy| proxy.endpoint = endpoint.to_owned()), fits, "{endpoint}");
        }
        for (path, fits) in [
            ("/a/b_c-d/kms/xks/v1", true),
            ("/kms/xks/v2", false),
            ("kms/xks/v1", false),
            ("/a/../kms/xks/v1", false),
            ("//kms/xks/v1", false),
            ("/a?b/kms/xks/v1", false),
        ] {
            assert_eq!(with(&|proxy| proxy.path = path.to_owned()), fits, "{path}");
        }
        assert!(!with(&|proxy| proxy.access_key_id = "A1".repeat(10)));
        assert!(!with(&|proxy| proxy.access_key_id = "A2".repeat(9)));
        assert!(!with(&|proxy| proxy.secret = Secret::new("s".repeat(42))));
        assert!(!with(&|proxy| proxy.secret = Secret::new("?".repeat(43))));
    }
}
