//! SSH keys: making them, reading them, and the fingerprints that EC2 gives them.
//!
//! Fingerprints as in the EC2 User Guide, "Determine the fingerprint of your key pair": SHA-1 of the private key's
//! PKCS#8 DER for RSA keys made by EC2, MD5 of the public key's DER for imported ones, SHA-256 in base64 for ed25519.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use sha2::Digest;
use ssh_key::public::KeyData;
use terroir_types::{Error, ErrorClass, Secret};

use crate::model::KeyType;

const RSA_BITS: usize = 2048;
const RSA_BITS_TAKEN: std::ops::RangeInclusive<u32> = 1024..=16_384;

/// A new key pair. The private half is answered once and kept nowhere.
pub(super) struct Generated {
    pub private: Secret<String>,
    pub public: Public,
}

/// A public key with its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Public {
    pub key_type: KeyType,
    /// One line in OpenSSH's form, without a comment.
    pub openssh: String,
    pub fingerprint: String,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format_args!("a key pair could not be made: {error}"))
}

/// Makes a key pair from 32 random bytes; an RSA key takes seconds.
pub(super) fn generate(key_type: KeyType, seed: [u8; 32]) -> Result<Generated, Error> {
    let mut random = StdRng::from_seed(seed);
    match key_type {
        KeyType::Rsa => {
            let key = rsa::RsaPrivateKey::new(&mut random, RSA_BITS).map_err(failed)?;
            let pem = key.to_pkcs1_pem(rsa::pkcs8::LineEnding::LF).map_err(failed)?;
            let der = key.to_pkcs8_der().map_err(failed)?;
            let fingerprint = colons(&sha1::Sha1::digest(der.as_bytes()));
            let data = ssh_key::public::RsaPublicKey::try_from(&key.to_public_key()).map_err(failed)?;
            let openssh = ssh_key::PublicKey::from(KeyData::Rsa(data)).to_openssh().map_err(failed)?;
            Ok(Generated {
                private: Secret::new(pem.trim_end().to_owned()),
                public: Public { key_type, openssh: openssh.trim_end().to_owned(), fingerprint },
            })
        }
        KeyType::Ed25519 => {
            let key = ssh_key::PrivateKey::random(&mut random, ssh_key::Algorithm::Ed25519).map_err(failed)?;
            let private = key.to_openssh(ssh_key::LineEnding::LF).map_err(failed)?;
            Ok(Generated { private: Secret::new(private.to_string()), public: ed25519(key.public_key().key_data())? })
        }
    }
}

fn ed25519(data: &KeyData) -> Result<Public, Error> {
    let key = ssh_key::PublicKey::from(data.clone());
    let fingerprint = STANDARD.encode(sha2::Sha256::digest(key.to_bytes().map_err(failed)?));
    let openssh = key.to_openssh().map_err(failed)?.trim_end().to_owned();
    Ok(Public { key_type: KeyType::Ed25519, openssh, fingerprint })
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Reads what ImportKeyPair is given: OpenSSH's form, SSH2's (RFC 4716), or DER in base64, with or without PEM lines.
///
/// Errors: `InvalidKey.Format`.
pub(super) fn parse(material: &[u8]) -> Result<Public, Error> {
    let wrong = || Error::invalid("InvalidKey.Format", "Key is not in valid OpenSSH public key format");
    let text = std::str::from_utf8(material).map_err(|_| wrong())?.trim();
    let data = if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
        let bytes = STANDARD.decode(ssh2_body(text)).map_err(|_| wrong())?;
        ssh_key::PublicKey::from_bytes(&bytes).map_err(|_| wrong())?.key_data().clone()
    } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        let line = text.lines().next().unwrap_or_default();
        ssh_key::PublicKey::from_openssh(line).map_err(|_| wrong())?.key_data().clone()
    } else {
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = STANDARD.decode(body).map_err(|_| wrong())?;
        let key = rsa::RsaPublicKey::from_public_key_der(&der).map_err(|_| wrong())?;
        KeyData::Rsa(ssh_key::public::RsaPublicKey::try_from(&key).map_err(|_| wrong())?)
    };
    match &data {
        KeyData::Ed25519(_) => ed25519(&data),
        KeyData::Rsa(key) if RSA_BITS_TAKEN.contains(&key.key_size()) => {
            let public = rsa::RsaPublicKey::try_from(key).map_err(|_| wrong())?;
            let der = public.to_public_key_der().map_err(failed)?;
            let fingerprint = colons(&md5::Md5::digest(der.as_bytes()));
            let openssh = ssh_key::PublicKey::from(data.clone()).to_openssh().map_err(failed)?.trim_end().to_owned();
            Ok(Public { key_type: KeyType::Rsa, openssh, fingerprint })
        }
        _ => Err(wrong()),
    }
}

/// The base64 between the lines of RFC 4716; headers may go on over several lines.
fn ssh2_body(text: &str) -> String {
    let mut body = String::new();
    let mut in_header = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("----")) {
        if in_header || line.contains(':') {
            in_header = line.ends_with('\\');
        } else {
            body.push_str(line);
        }
    }
    body
}

/// Errors: `InvalidParameterValue`; `UnsupportedOperation` for PuTTY's format.
pub(super) fn key_type(name: Option<&str>, format: Option<&str>) -> Result<KeyType, Error> {
    match format.filter(|format| !format.is_empty()) {
        None | Some("pem") => {}
        Some("ppk") => {
            let message = "Keys in PuTTY's format are not available here; convert a pem key with puttygen.";
            return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
        }
        Some(other) => {
            let message = format!("Value ({other}) for parameter KeyFormat is invalid. Expected: pem.");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
    }
    match name.filter(|name| !name.is_empty()) {
        None | Some("rsa") => Ok(KeyType::Rsa),
        Some("ed25519") => Ok(KeyType::Ed25519),
        Some(other) => {
            let message = format!("Value ({other}) for parameter KeyType is invalid. Expected: rsa or ed25519.");
            Err(Error::invalid("InvalidParameterValue", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with ssh-keygen and openssl; the fingerprints are `openssl pkey -pubin -outform DER | md5sum` and
    // `ssh-keygen -l -E sha256`, with the padding that EC2 keeps.
    const RSA: &str = include_str!("testdata/rsa.pub");
    const RSA_MD5: &str = include_str!("testdata/rsa.md5");
    const RSA_PEM: &str = include_str!("testdata/rsa.pem");
    const RSA_SSH2: &str = include_str!("testdata/rsa.ssh2");
    const ED25519: &str = include_str!("testdata/ed25519.pub");
    const ED25519_SHA256: &str = include_str!("testdata/ed25519.sha256");

    #[test]
    fn keys_are_read_in_every_form_and_have_awss_fingerprints() {
        let pem_body: String = RSA_PEM.lines().filter(|line| !line.starts_with('-')).collect();
        for form in [RSA, RSA_PEM, RSA_SSH2, &pem_body] {
            let key = parse(form.as_bytes()).unwrap();
            assert_eq!((key.key_type, key.fingerprint.as_str()), (KeyType::Rsa, RSA_MD5.trim()), "{form}");
            assert_eq!(key.openssh.split(' ').nth(1), RSA.split(' ').nth(1), "{form}");
        }
        let key = parse(ED25519.as_bytes()).unwrap();
        assert_eq!((key.key_type, key.fingerprint.as_str()), (KeyType::Ed25519, ED25519_SHA256.trim()));
        assert_eq!(key.openssh.split(' ').count(), 2, "the comment is left out");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let cut = &RSA[..100];
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA==";
        for bad in ["", "ssh-rsa", "ssh-rsa AAAA", cut, "hello", "aGVsbG8=", ecdsa] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err().code(), "InvalidKey.Format", "{bad}");
        }
        assert_eq!(parse(&[0xff, 0xfe]).unwrap_err().code(), "InvalidKey.Format");
    }

    #[test]
    fn a_new_key_pair_is_one() {
        for (key_type, begin) in [
            (KeyType::Ed25519, "-----BEGIN OPENSSH PRIVATE KEY-----"),
            (KeyType::Rsa, "-----BEGIN RSA PRIVATE KEY-----"),
        ] {
            let made = generate(key_type, [7; 32]).unwrap();
            assert!(made.private.expose().starts_with(begin));
            let read = parse(made.public.openssh.as_bytes()).unwrap();
            assert_eq!(read.openssh, made.public.openssh);
            match key_type {
                KeyType::Ed25519 => {
                    let private = ssh_key::PrivateKey::from_openssh(made.private.expose()).unwrap();
                    assert_eq!(private.public_key().to_openssh().unwrap().trim_end(), read.openssh);
                    assert_eq!(read.fingerprint, made.public.fingerprint);
                }
                KeyType::Rsa => {
                    use rsa::pkcs1::DecodeRsaPrivateKey;
                    let private = rsa::RsaPrivateKey::from_pkcs1_pem(made.private.expose()).unwrap();
                    let sha1 = sha1::Sha1::digest(private.to_pkcs8_der().unwrap().as_bytes());
                    assert_eq!(colons(&sha1), made.public.fingerprint);
                    assert_eq!(made.public.fingerprint.len(), 59);
                    assert_ne!(read.fingerprint, made.public.fingerprint, "an imported one has another");
                }
            }
        }
    }
}
