//! C2SP `signed-note`: text, an empty line, and signature lines `— NAME base64(key id ‖ signature)`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// A longer note is none of ours.
const MAX_BYTES: usize = 1 << 20;
const MAX_SIGNATURES: usize = 100;

/// Signature types of `signed-note`.
pub(crate) const ED25519_NOTE: u8 = 1;
pub(crate) const ED25519_COSIGNATURE: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("this is no signed note: {0}")]
    Malformed(&'static str),
    #[error("the signature of {0} is not valid")]
    Invalid(String),
    #[error("{0} signed it twice")]
    Twice(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("'{0}' is no public key of the form NAME+ID+KEY")]
    Malformed(String),
    #[error("the id in the public key of {0} does not belong to it")]
    WrongId(String),
    #[error("'{0}' cannot be the name of a key: it is empty or holds white space or '+'")]
    Name(String),
    #[error("the seed is no Ed25519 key")]
    Seed,
}

/// Whether a key may be called so.
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c == '+' || c.is_whitespace() || c.is_control())
}

fn key_id(name: &str, algorithm: u8, key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new().chain_update(name).chain_update([b'\n', algorithm]).chain_update(key).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A public key with its name; as text, `NAME+HEX OF ID+BASE64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl VerifierKey {
    /// # Errors
    /// [`KeyError::Name`].
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, KeyError> {
        if is_key_name(name) { Ok(Self { name: name.to_owned(), key }) } else { Err(KeyError::Name(name.to_owned())) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn public_key(&self) -> &[u8; 32] {
        &self.key
    }

    pub(crate) fn id(&self, algorithm: u8) -> [u8; 4] {
        key_id(&self.name, algorithm, &self.key)
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(message, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519_NOTE];
        key.extend_from_slice(&self.key);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id(ED25519_NOTE)), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(text.chars().take(100).collect());
        // Base64 may hold '+', names and ids may not.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let bytes = STANDARD.decode(key).map_err(|_| malformed())?;
        let Some((&ED25519_NOTE, key)) = bytes.split_first() else { return Err(malformed()) };
        let verifier = Self::new(name, key.try_into().map_err(|_| malformed())?)?;
        if hex::encode(verifier.id(ED25519_NOTE)) != id {
            return Err(KeyError::WrongId(name.to_owned()));
        }
        Ok(verifier)
    }
}

/// An Ed25519 key with its name.
pub struct SigningKey {
    verifier: VerifierKey,
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// `seed`: 32 random bytes, which are the secret.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Seed)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Seed)?;
        Ok(Self { verifier: VerifierKey::new(name, key)?, seed: Zeroizing::new(*seed), pair })
    }

    /// The same key under another name.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn named(&self, name: &str) -> Result<Self, KeyError> {
        Self::from_seed(name, &self.seed)
    }

    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn sign_raw(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// A note of `text`, which ends with a line end, signed with this key.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] for a text that cannot be one.
    pub fn sign(&self, text: &str) -> Result<Note, NoteError> {
        let mut note = Note::unsigned(text)?;
        note.add(Signature {
            name: self.verifier.name.clone(),
            key_id: self.verifier.id(ED25519_NOTE),
            bytes: self.sign_raw(text.as_bytes()),
        });
        Ok(note)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifier)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub key_id: [u8; 4],
    pub bytes: Vec<u8>,
}

/// Text with signatures that may or may not be valid. [`fmt::Display`] writes it as a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    fn unsigned(text: &str) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Malformed("its text does not end with a line end"));
        }
        if text.chars().any(|c| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::Malformed("its text holds a control character"));
        }
        Ok(Self { text: text.to_owned(), signatures: Vec::new() })
    }

    /// # Errors
    /// [`NoteError::Malformed`]. Signatures are not checked.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_BYTES {
            return Err(NoteError::Malformed("it is too long"));
        }
        // The empty line belongs to neither, the line end before it to the text.
        let cut = note.rfind("\n\n").ok_or(NoteError::Malformed("there is no empty line"))?;
        let mut parsed = Self::unsigned(&note[..=cut])?;
        let lines = note[cut + 2..].strip_suffix('\n').ok_or(NoteError::Malformed("its last line has no end"))?;
        for line in lines.split('\n') {
            if parsed.signatures.len() == MAX_SIGNATURES {
                return Err(NoteError::Malformed("it has too many signatures"));
            }
            parsed.add(parse_signature(line).ok_or(NoteError::Malformed("a line is no signature"))?);
        }
        Ok(parsed)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    pub fn add(&mut self, signature: Signature) {
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// Signature lines alone, as a witness answers.
    pub fn signature_lines(&self) -> String {
        self.signatures.iter().map(ToString::to_string).collect()
    }

    /// The one signature with this name and id.
    pub(crate) fn by(&self, name: &str, key_id: [u8; 4]) -> Result<Option<&Signature>, NoteError> {
        let mut found = self.signatures.iter().filter(|s| s.name == name && s.key_id == key_id);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(NoteError::Twice(name.to_owned())),
            (first, None) => Ok(first),
        }
    }

    /// Whether `key` signed the text; false if it did not sign at all.
    ///
    /// # Errors
    /// [`NoteError::Invalid`] for a signature that says it is of this key and is not.
    pub fn is_signed_by(&self, key: &VerifierKey) -> Result<bool, NoteError> {
        let Some(signature) = self.by(&key.name, key.id(ED25519_NOTE))? else { return Ok(false) };
        match key.verifies(self.text.as_bytes(), &signature.bytes) {
            true => Ok(true),
            false => Err(NoteError::Invalid(key.name.clone())),
        }
    }
}

fn parse_signature(line: &str) -> Option<Signature> {
    let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (key_id, signature) = bytes.split_first_chunk::<4>()?;
    let parsed = Signature { name: name.to_owned(), key_id: *key_id, bytes: signature.to_vec() };
    (is_key_name(name) && !signature.is_empty()).then_some(parsed)
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.key_id.to_vec();
        bytes.extend_from_slice(&self.bytes);
        writeln!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

impl FromStr for Signature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        parse_signature(line.strip_suffix('\n').unwrap_or(line)).ok_or(NoteError::Malformed("a line is no signature"))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.text, self.signature_lines())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of golang.org/x/mod/sumdb/note, which the specification grew from.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n\n\
                        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_known_note_is_valid_and_no_other() {
        let key: VerifierKey = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        let note = Note::parse(NOTE).unwrap();
        assert_eq!(note.to_string(), NOTE);
        assert_eq!(note.is_signed_by(&key), Ok(true));
        let forged = Note::parse(&NOTE.replace("don't", "do")).unwrap();
        assert_eq!(forged.is_signed_by(&key), Err(NoteError::Invalid("PeterNeumann".into())));
        let other = SigningKey::from_seed("PeterNeumann", &[7; 32]).unwrap();
        assert_eq!(note.is_signed_by(other.verifier()), Ok(false), "the same name with another key");
    }

    #[test]
    fn what_is_signed_is_read_again() {
        let key = SigningKey::from_seed("hoster.example", &[1; 32]).unwrap();
        let note = key.sign("text\n\nwith an empty line\n").unwrap();
        let read = Note::parse(&note.to_string()).unwrap();
        assert_eq!((read.text(), read.is_signed_by(key.verifier())), ("text\n\nwith an empty line\n", Ok(true)));
        assert!(key.sign("no line end").is_err());
        assert!(key.sign("a tab\t\n").is_err());
        assert_eq!(key.named("a b").err(), Some(KeyError::Name("a b".into())));
    }

    #[test]
    fn malformed_notes_and_keys_are_refused() {
        let good = SigningKey::from_seed("a", &[1; 32]).unwrap().sign("text\n").unwrap().to_string();
        for bad in [
            String::new(),
            "text\n".to_owned(),
            good.replace("— a", "- a"),
            good.replace("— a", "—  a"),
            good.trim_end().to_owned(),
            good.replace("text\n\n", "text\n"),
            format!("{good}\n"),
            "text\n\n— a AAAA\n".to_owned(),
        ] {
            assert!(Note::parse(&bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a", "a+b+c", &KEY.replace("c74f20a3", "c74f20a4"), &KEY.replace("+AR", "+BR"), &KEY[..40]] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad:?}");
        }
    }
}
