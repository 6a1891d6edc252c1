//! How a ciphertext looks.
//!
//! ```text
//! version u8 = 1 | account u64 | key 16 bytes | material u32 | salt 32 bytes | AES-256-GCM ciphertext with its tag
//! ```
//! Integers are big-endian. Each message has a key and a nonce of its own, HKDF-SHA256 of the material and the salt, so
//! however many messages there are, no nonce comes twice under one key. What stands before the ciphertext is
//! authenticated with it, and so is the encryption context: its pairs in order of their names, each name and value with its
//! length before it. 77 bytes are added to the text.
//!
//! Where a key is held outside as well, what comes after the salt was encrypted there once more:
//! ```text
//! version u8 = 2 | account | key | material | salt | length u8, IV | tag 16 bytes | length u8, metadata | text
//! ```
//! The key manager authenticates the SHA-256 of what is authenticated here.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use terroir_types::{AccountId, Error, IdSource};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::external::{MAX_METADATA_BYTES, Sealed};
use crate::model::EncryptionContext;

const VERSION: u8 = 1;
const EXTERNAL: u8 = 2;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = 1 + 8 + 16 + 4;
const INFO: &[u8] = b"terroir kms message v1";

/// Longest blob that is looked at, as at AWS.
pub const MAX_BYTES: usize = 6144;

/// What encrypted a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub account: AccountId,
    pub key: Uuid,
    pub material: u32,
    /// A key manager outside encrypted it once more.
    pub external: bool,
}

impl Header {
    fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = if self.external { EXTERNAL } else { VERSION };
        out[1..9].copy_from_slice(&self.account.number().to_be_bytes());
        out[9..25].copy_from_slice(self.key.as_bytes());
        out[25..].copy_from_slice(&self.material.to_be_bytes());
        out
    }

    /// Errors: `InvalidCiphertextException` for what no key of ours has made.
    pub fn read(blob: &[u8]) -> Result<Self, Error> {
        let header: &[u8; HEADER_BYTES] = blob.first_chunk().ok_or_else(invalid)?;
        let number = |at: usize| header[at..].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        let account = number(1).and_then(AccountId::from_number).ok_or_else(invalid)?;
        let key = Uuid::from_slice(&header[9..25]).map_err(|_| invalid())?;
        let material = header.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(invalid)?;
        let external = match header[0] {
            VERSION => false,
            EXTERNAL => true,
            _ => return Err(invalid()),
        };
        if blob.len() > MAX_BYTES {
            return Err(invalid());
        }
        Ok(Self { account, key, material, external })
    }
}

/// Encrypts `text` under `material`.
///
/// Errors: `Internal`, which AES-GCM gives only for texts of many gigabytes.
pub fn seal(
    header: Header,
    material: &[u8; 32],
    context: &EncryptionContext,
    text: &[u8],
    ids: &dyn IdSource,
) -> Result<Vec<u8>, Error> {
    let mut salt = [0; SALT_BYTES];
    ids.fill(&mut salt);
    let mut out = Vec::with_capacity(HEADER_BYTES + SALT_BYTES + text.len() + 16);
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(&salt);
    let (cipher, nonce) = of_message(material, &salt);
    let aad = associated_data(&out, context);
    let sealed = cipher.encrypt(&nonce, Payload { msg: text, aad: &aad });
    out.extend_from_slice(&sealed.map_err(|_| Error::internal("a text is too long for AES-GCM"))?);
    Ok(out)
}

/// Decrypts what [`seal`] gave.
///
/// Errors: `InvalidCiphertextException` for another material or context, or an altered byte.
pub fn open(blob: &[u8], material: &[u8; 32], context: &EncryptionContext) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (front, sealed) = blob.split_at_checked(HEADER_BYTES + SALT_BYTES).ok_or_else(invalid)?;
    let (cipher, nonce) = of_message(material, &front[HEADER_BYTES..]);
    let aad = associated_data(front, context);
    cipher.decrypt(&nonce, Payload { msg: sealed, aad: &aad }).map(Zeroizing::new).map_err(|_| invalid())
}

/// The two parts of a blob that [`seal`] gave: what is not encrypted, and what is.
pub(crate) fn split(blob: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    blob.split_at_checked(HEADER_BYTES + SALT_BYTES).ok_or_else(invalid)
}

/// What a key manager outside authenticates.
pub(crate) fn outer_data(front: &[u8], context: &EncryptionContext) -> [u8; 32] {
    Sha256::digest(associated_data(front, context)).into()
}

/// A blob of which the encrypted part has been encrypted once more. Both lengths are below 256.
pub(crate) fn wrap(front: &[u8], outer: &Sealed) -> Vec<u8> {
    let mut out = front.to_vec();
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(length(&outer.iv));
    out.extend_from_slice(&outer.iv);
    out.extend_from_slice(&outer.tag);
    out.push(length(&outer.metadata));
    out.extend_from_slice(&outer.metadata);
    out.extend_from_slice(&outer.text);
    out
}

/// What [`wrap`] put together.
///
/// Errors: `InvalidCiphertextException`.
pub(crate) fn unwrap(blob: &[u8]) -> Result<(&[u8], Sealed), Error> {
    let (front, rest) = split(blob)?;
    let read = || {
        let (length, rest) = rest.split_first()?;
        let (iv, rest) = rest.split_at_checked(usize::from(*length))?;
        let (tag, rest) = rest.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        let (metadata, text) = rest.split_at_checked(usize::from(*length))?;
        let fits = matches!(iv.len(), 12 | 16) && metadata.len() <= MAX_METADATA_BYTES && !text.is_empty();
        fits.then(|| Sealed { iv: iv.to_vec(), tag: *tag, metadata: metadata.to_vec(), text: text.to_vec() })
    };
    Ok((front, read().ok_or_else(invalid)?))
}

fn of_message(material: &[u8; 32], salt: &[u8]) -> (Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>) {
    let mut derived = Zeroizing::new([0; 44]);
    // HKDF-SHA256 gives up to 8,160 bytes.
    Hkdf::<Sha256>::new(Some(salt), material).expand(INFO, &mut *derived).expect("44 bytes are within HKDF's limit");
    let (key, nonce) = derived.split_at(32);
    let mut own = [0; 12];
    own.copy_from_slice(nonce);
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(key);
    (Aes256Gcm::new((&*secret).into()), Nonce::from(own))
}

fn associated_data(front: &[u8], context: &EncryptionContext) -> Vec<u8> {
    let mut out = front.to_vec();
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        // Contexts have at most 8,192 bytes.
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

pub(crate) fn invalid() -> Error {
    Error::invalid("InvalidCiphertextException", "The ciphertext is not valid, or the encryption context is another.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use terroir_types::{OsRandom, SeededRandom};

    fn header() -> Header {
        Header { account: AccountId::from_number(42).unwrap(), key: Uuid::from_u128(7), material: 3, external: false }
    }

    #[test]
    fn wrapped_once_more() {
        let blob = seal(Header { external: true, ..header() }, &[9; 32], &EncryptionContext::new(), b"text", &OsRandom)
            .unwrap();
        let (front, inner) = split(&blob).unwrap();
        let outer = Sealed { iv: vec![1; 12], tag: [2; 16], metadata: vec![3; 20], text: inner.to_vec() };
        let whole = wrap(front, &outer);
        assert!(Header::read(&whole).unwrap().external);
        assert_eq!(unwrap(&whole).unwrap(), (front, outer));
        for cut in 0..front.len() + 1 + 12 + 16 + 1 + 20 + 1 {
            assert!(unwrap(&whole[..cut]).is_err(), "{cut}");
        }
    }

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn the_form_does_not_change() {
        // What is stored must open for as long as its key lives.
        let blob = seal(header(), &[9; 32], &context(&[("a", "b")]), b"text", &SeededRandom::new(1)).unwrap();
        assert_eq!(blob.len(), 77 + 4);
        assert_eq!(hex::encode(&blob[..29]), "01000000000000002a0000000000000000000000000000000700000003");
        assert_eq!(Header::read(&blob).unwrap(), header());
    }

    #[test]
    fn contexts_do_not_run_into_each_other() {
        let one = context(&[("ab", "c")]);
        let blob = seal(header(), &[9; 32], &one, b"text", &OsRandom).unwrap();
        for other in
            [context(&[("a", "bc")]), context(&[]), context(&[("ab", "c"), ("d", "")]), context(&[("c", "ab")])]
        {
            assert_eq!(open(&blob, &[9; 32], &other).unwrap_err().code(), "InvalidCiphertextException");
        }
        assert_eq!(open(&blob, &[8; 32], &one).unwrap_err().code(), "InvalidCiphertextException");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_nothing_altered_does(
            text in prop::collection::vec(any::<u8>(), 0..100),
            pairs in prop::collection::btree_map("[a-c]{0,3}", "[a-c]{0,3}", 0..4),
            place in any::<prop::sample::Index>(),
            bit in 0..8u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let blob = seal(header(), &[1; 32], &pairs, &text, &OsRandom).unwrap();
            prop_assert_eq!(&**open(&blob, &[1; 32], &pairs).unwrap(), &text);
            let mut altered = blob.clone();
            altered[place.index(blob.len())] ^= 1 << bit;
            prop_assert!(open(&altered, &[1; 32], &pairs).is_err());
            prop_assert!(open(&blob[..cut.index(blob.len())], &[1; 32], &pairs).is_err());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::read(&bytes);
            prop_assert!(open(&bytes, &[1; 32], &EncryptionContext::new()).is_err());
        }
    }
}
