use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use terroir_types::{HostId, Timestamp};
use x509_parser::extensions::GeneralName;

use crate::PkiError;

/// SHA-256 of a certificate, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(hex::encode(Sha256::digest(certificate)))
    }

    /// Of the first certificate in a text.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn of_pem(pem: &str) -> Result<Self, PkiError> {
        Ok(Self::of(&first_certificate(pem)?))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to be known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub from: Timestamp,
    pub until: Timestamp,
    /// Names and addresses that it counts for.
    pub names: Vec<String>,
}

impl CertificateFacts {
    /// When half of its life is over: time for the next one.
    pub fn half_life(&self) -> Timestamp {
        self.from.plus(self.until.since(self.from) / 2)
    }
}

/// Of the first certificate in a text.
///
/// # Errors
/// `Malformed`.
pub fn facts(pem: &str) -> Result<CertificateFacts, PkiError> {
    let certificate = first_certificate(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(malformed)?;
    let validity = parsed.validity();
    let names = parsed.subject_alternative_name().map_err(malformed)?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    Ok(CertificateFacts {
        from: Timestamp::from_secs(validity.not_before.timestamp()),
        until: Timestamp::from_secs(validity.not_after.timestamp()),
        names: names.collect(),
    })
}

/// The host of the region that a certificate is of. It must have been verified before.
pub fn host_of(certificate: &CertificateDer<'_>, region: &str) -> Option<HostId> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let [GeneralName::URI(name)] = names.value.general_names.as_slice() else { return None };
    name.strip_prefix("terroir://")?.strip_prefix(region)?.strip_prefix("/host/")?.parse().ok()
}

pub(crate) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Malformed(format!("no certificate can be read: {error}")))
}

/// A DNS name, perhaps with `*` for its first label; none if it is no name.
pub(crate) fn host_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 253 && bare.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        16 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        _ => None,
    }
}

fn malformed(error: impl std::fmt::Display) -> PkiError {
    PkiError::Malformed(format!("a certificate cannot be read: {error}"))
}
