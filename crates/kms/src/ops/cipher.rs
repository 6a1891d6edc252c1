use sha2::{Digest, Sha256};
use terroir_store::Txn;
use terroir_types::{Error, IdSource};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::constraint;
use crate::ciphertext::{self, Header};
use crate::model::{EncryptionContext, KmsKey, Material};

pub const MAX_PLAINTEXT_BYTES: usize = 4096;
/// Of all names and values together.
const MAX_CONTEXT_BYTES: usize = 8192;

/// Errors: `ValidationException`.
pub fn check_context(context: &EncryptionContext) -> Result<(), Error> {
    let bytes: usize = context.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_CONTEXT_BYTES {
        return Err(constraint("encryptionContext", "have at most 8192 bytes"));
    }
    Ok(())
}

/// Of 64 hex digits; says nothing of the material itself.
pub fn material_id(key: Uuid, number: u32) -> String {
    let mut hash = Sha256::new_with_prefix(b"terroir kms material");
    hash.update(key.as_bytes());
    hash.update(number.to_be_bytes());
    hex::encode(hash.finalize())
}

/// Encrypts under the current material of a key (of one that is held elsewhere, the inner part), of which the caller has checked that it is usable.
///
/// Errors: `ValidationException` for a text that is empty or longer than 4,096 bytes.
pub fn encrypt(
    txn: &Txn,
    key: &KmsKey,
    context: &EncryptionContext,
    text: &[u8],
    ids: &dyn IdSource,
) -> Result<Vec<u8>, Error> {
    if text.is_empty() || text.len() > MAX_PLAINTEXT_BYTES {
        return Err(constraint("plaintext", "have length between 1 and 4096"));
    }
    let header = Header { account: key.account, key: key.id, material: key.current, external: key.store.is_some() };
    let material = txn
        .get::<Material>(&Material::key_of(key.account, key.id, key.current))?
        .ok_or_else(|| Error::internal(format_args!("the key {} has no material", key.id)))?;
    ciphertext::seal(header, material.tenant.secret.expose(), context, text, ids)
}

/// Decrypts a blob of this key, of which the caller has checked that it is usable.
///
/// Errors: `InvalidCiphertextException`.
pub fn decrypt(
    txn: &Txn,
    key: &KmsKey,
    context: &EncryptionContext,
    blob: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, Header), Error> {
    let header = Header::read(blob)?;
    let material = txn
        .get::<Material>(&Material::key_of(key.account, key.id, header.material))?
        .filter(|_| (header.account, header.key, header.external) == (key.account, key.id, key.store.is_some()))
        .ok_or_else(ciphertext::invalid)?;
    Ok((ciphertext::open(blob, material.tenant.secret.expose(), context)?, header))
}
