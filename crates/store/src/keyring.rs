//! The sealing seam: who can read the tenant parts of records.
//!
//! The local ring keeps one master key in one file of mode 0600. Every account's metadata key is derived from it with
//! HKDF-SHA256; tenant parts are sealed with AES-256-GCM under a random 96-bit nonce. The file protects the state
//! against whoever holds only the disk of the state file, a backup or another operator's replica; it does not protect
//! against root on this machine.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use terroir_types::{AccountId, IdSource, OsRandom};
use zeroize::Zeroizing;

use crate::StoreError;

pub trait KeyRing: Send + Sync {
    /// Seals `plain` under the metadata key of `account` (none: the cell's own), bound to `aad`.
    fn seal(&self, account: Option<AccountId>, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Opens what `seal` gave for the same account and `aad`.
    fn open(&self, account: Option<AccountId>, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// 32 hex digits that stand for a name inside a key, where it must be unique within `namespace`.
    fn name_mac(&self, account: Option<AccountId>, namespace: &str, name: &str) -> String;

    /// Authenticates `data`, for example a page token, for one purpose.
    fn mac(&self, purpose: &str, data: &[u8]) -> [u8; 32];
}

pub(crate) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// Derived keys kept at a time; more accounts than this in use only cost a derivation.
const CACHED_ACCOUNTS: usize = 4096;

struct AccountKeys {
    cipher: Aes256Gcm,
    names: Zeroizing<[u8; KEY_BYTES]>,
}

/// One master key in one local file.
pub struct LocalKeyRing {
    derivation: Hkdf<Sha256>,
    accounts: RwLock<HashMap<Option<AccountId>, Arc<AccountKeys>>>,
}

impl LocalKeyRing {
    /// Reads the master key, or makes one. The file appears complete, durable and with mode 0600, or not at all.
    ///
    /// Errors: [`StoreError::WrongKey`] if the file has another size, [`StoreError::Io`] if others than its owner may
    /// read it.
    pub fn open_or_create(path: &Path) -> Result<Self, StoreError> {
        if !path.try_exists()? {
            create_key_file(path)?;
        }
        Ok(Self::from_master(&*read_key_file(path)?))
    }

    /// A ring that is forgotten with the process: for tests.
    pub fn ephemeral() -> Self {
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        OsRandom.fill(&mut *master);
        Self::from_master(&master)
    }

    fn from_master(master: &[u8; KEY_BYTES]) -> Self {
        Self { derivation: Hkdf::new(Some(b"terroir local key ring v1"), master), accounts: RwLock::default() }
    }

    fn derive(&self, info: &[&[u8]]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        // HKDF-SHA256 gives up to 8,160 bytes; 32 cannot be too many.
        self.derivation.expand_multi_info(info, &mut *key).expect("32 bytes are within HKDF's limit");
        key
    }

    fn account_keys(&self, account: Option<AccountId>) -> Arc<AccountKeys> {
        if let Some(keys) = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(&account) {
            return Arc::clone(keys);
        }
        let id = account_tag(account);
        let metadata = self.derive(&[b"metadata/", &id]);
        let keys = Arc::new(AccountKeys {
            cipher: Aes256Gcm::new((&*metadata).into()),
            names: self.derive(&[b"names/", &id]),
        });
        let mut cache = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_ACCOUNTS {
            cache.clear();
        }
        cache.insert(account, Arc::clone(&keys));
        keys
    }
}

fn account_tag(account: Option<AccountId>) -> [u8; 8] {
    // No account has this number: they have twelve digits.
    account.map_or(u64::MAX, AccountId::number).to_be_bytes()
}

impl KeyRing for LocalKeyRing {
    fn seal(&self, account: Option<AccountId>, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        OsRandom.fill(&mut nonce);
        let sealed = self
            .account_keys(account)
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad })
            .map_err(|_| StoreError::Seal("the plain text is too long".into()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, account: Option<AccountId>, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (nonce, text) = sealed
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| StoreError::Seal("shorter than its nonce".into()))?;
        self.account_keys(account)
            .cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: text, aad })
            .map_err(|_| StoreError::Seal("wrong key, or moved, or altered".into()))
    }

    fn name_mac(&self, account: Option<AccountId>, namespace: &str, name: &str) -> String {
        let key = self.account_keys(account);
        let mac = hmac(&key.names, &[namespace.as_bytes(), b"\0", name.as_bytes()]);
        hex::encode(&mac[..16])
    }

    fn mac(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        hmac(&self.derive(&[b"mac/", purpose.as_bytes()]), &[data])
    }
}

fn hmac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn named(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Io(format!("{}: {error}", path.display()))
}

/// Errors: [`StoreError::WrongKey`] if the file has another size, [`StoreError::Io`] if others may read it.
pub(crate) fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, StoreError> {
    let mut file = File::open(path).map_err(|error| named(path, &error))?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        return Err(StoreError::Io(format!(
            "{} may be read by others than its owner (mode {:03o}); run: chmod 600 {}",
            path.display(),
            mode & 0o777,
            path.display()
        )));
    }
    let mut master = Zeroizing::new(Vec::new());
    Read::by_ref(&mut file).take(KEY_BYTES as u64 + 1).read_to_end(&mut master)?;
    master.as_slice().try_into().map(Zeroizing::new).map_err(|_| StoreError::WrongKey)
}

pub(crate) fn create_key_file(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut master = Zeroizing::new([0; KEY_BYTES]);
    OsRandom.fill(&mut *master);
    let draft = path.with_extension(format!("{:032x}.new", OsRandom.next_u128()));
    let written = (|| -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&*master)?;
        file.sync_all()?;
        // A link, not a rename: it never replaces a key that another process made meanwhile.
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    // A draft that cannot be removed is a key nobody uses.
    let _ = std::fs::remove_file(&draft);
    written.map_err(|error| named(path, &error))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_opens_only_where_it_belongs() {
        let ring = LocalKeyRing::ephemeral();
        let (one, two) = (AccountId::from_number(1), AccountId::from_number(2));
        let sealed = ring.seal(one, b"vpc/1", b"10.0.0.0/16").unwrap();
        assert_eq!(ring.open(one, b"vpc/1", &sealed).unwrap(), b"10.0.0.0/16");
        let mut altered = sealed.clone();
        altered[20] ^= 1;
        for (what, account, aad, text) in [
            ("another account", two, b"vpc/1", &sealed[..]),
            ("the cell", None, b"vpc/1", &sealed[..]),
            ("another key", one, b"vpc/2", &sealed[..]),
            ("an altered byte", one, b"vpc/1", &altered[..]),
            ("too short", one, b"vpc/1", &sealed[..5]),
        ] {
            assert!(matches!(ring.open(account, aad, text), Err(StoreError::Seal(_))), "{what}");
        }
        assert_ne!(sealed, ring.seal(one, b"vpc/1", b"10.0.0.0/16").unwrap(), "every nonce is fresh");
    }

    #[test]
    fn macs_depend_on_all_they_are_given() {
        let ring = LocalKeyRing::ephemeral();
        let one = AccountId::from_number(1);
        let mac = ring.name_mac(one, "key-pair", "mine");
        assert_eq!(mac.len(), 32);
        assert_eq!(mac, ring.name_mac(one, "key-pair", "mine"));
        for other in [
            ring.name_mac(None, "key-pair", "mine"),
            ring.name_mac(one, "key-pai", "rmine"),
            ring.name_mac(one, "key-pair", "yours"),
            LocalKeyRing::ephemeral().name_mac(one, "key-pair", "mine"),
        ] {
            assert_ne!(mac, other);
        }
        assert_ne!(ring.mac("page", b"x"), ring.mac("other", b"x"));
    }

    #[test]
    fn the_key_file_is_private_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let mac = LocalKeyRing::open_or_create(&path).unwrap().mac("x", b"y");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(LocalKeyRing::open_or_create(&path).unwrap().mac("x", b"y"), mac);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");

        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(LocalKeyRing::open_or_create(&path).is_err_and(|e| e.to_string().contains("chmod 600")));
        let short = folder.path().join("short.key");
        std::fs::write(&short, b"").unwrap();
        std::fs::set_permissions(&short, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(LocalKeyRing::open_or_create(&short), Err(StoreError::WrongKey)));
    }
}
