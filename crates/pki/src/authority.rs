use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use terroir_types::{HostId, IdSource, Secret, Timestamp};
use time::OffsetDateTime;

use crate::certificate::{first_certificate, host_name};
use crate::{Fingerprint, PkiError, SigningRequest, making};

/// From when to when a certificate counts, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// A certificate and its key, both PEM. Who signed it is not part of the chain.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: Secret<String>,
}

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// A new one, and its key, PEM. It signs leaves only.
    ///
    /// # Errors
    /// `Making`.
    pub fn create(name: &str, validity: Validity, ids: &dyn IdSource) -> Result<(Self, Secret<String>), PkiError> {
        let key = KeyPair::generate().map_err(making)?;
        let mut params = params(name, validity, ids)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(making)?.pem();
        let key_pem = Secret::new(key.serialize_pem());
        Ok((Self::open(&pem, &key_pem)?, key_pem))
    }

    /// # Errors
    /// `Malformed`, and `WrongKey`.
    pub fn open(certificate_pem: &str, key_pem: &Secret<String>) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem.expose())
            .map_err(|error| PkiError::Malformed(format!("the authority's key: {error}")))?;
        let certificate = first_certificate(certificate_pem)?;
        let parsed = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| PkiError::Malformed(format!("the authority's certificate: {error}")))?
            .1;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::WrongKey);
        }
        if !parsed.is_ca() {
            return Err(PkiError::Malformed("the certificate is none of an authority".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(making)?;
        Ok(Self { issuer, certificate, pem: certificate_pem.to_owned() })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// For a server that is reached by `names`: names and addresses.
    ///
    /// # Errors
    /// `Malformed` for a name that is none.
    pub fn issue_server(&self, names: &[String], validity: Validity, ids: &dyn IdSource) -> Result<Issued, PkiError> {
        let key = KeyPair::generate().map_err(making)?;
        let first = names.first().map_or("terroir", String::as_str);
        let mut leaf = leaf(first, validity, ids)?;
        for name in names {
            leaf.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    host_name(name)
                        .and_then(|name| name.try_into().ok())
                        .ok_or_else(|| PkiError::Malformed(format!("'{name}' is neither a name nor an address")))?,
                ),
            });
        }
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &self.issuer).map_err(making)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: Secret::new(key.serialize_pem()) })
    }

    /// For the host that `request` is of; nothing but the key is taken from the request. PEM.
    ///
    /// # Errors
    /// `Making`.
    pub fn issue_host(
        &self,
        request: &SigningRequest,
        region: &str,
        host: HostId,
        validity: Validity,
        ids: &dyn IdSource,
    ) -> Result<String, PkiError> {
        let mut leaf = leaf(&host.to_string(), validity, ids)?;
        let name = format!("terroir://{region}/host/{host}");
        leaf.subject_alt_names = vec![SanType::URI(name.try_into().map_err(making)?)];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(leaf.signed_by(&request.public_key, &self.issuer).map_err(making)?.pem())
    }
}

fn leaf(name: &str, validity: Validity, ids: &dyn IdSource) -> Result<CertificateParams, PkiError> {
    let mut leaf = params(name, validity, ids)?;
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.use_authority_key_identifier_extension = true;
    Ok(leaf)
}

fn params(name: &str, validity: Validity, ids: &dyn IdSource) -> Result<CertificateParams, PkiError> {
    let moment = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.secs()).map_err(making);
    let mut params = CertificateParams::default();
    params.not_before = moment(validity.from)?;
    params.not_after = moment(validity.until)?;
    params.distinguished_name = DistinguishedName::new();
    // Longer ones are not allowed in a common name, which nobody reads anyway.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    // Positive, and not zero: RFC 5280, section 4.1.2.2.
    let serial = (ids.next_u128() >> 1) | (1 << 126);
    params.serial_number = Some(SerialNumber::from_slice(&serial.to_be_bytes()));
    Ok(params)
}
