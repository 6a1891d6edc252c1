use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::{Arc, PoisonError, RwLock};
use terroir_types::Secret;

use crate::certificate::first_certificate;
use crate::{Fingerprint, PkiError, making};

/// What every server of the region is called in its certificate for hosts.
pub const SERVER_NAME: &str = "control-plane.terroir.internal";

const HTTP: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A chain of certificates, the server's own first, and its key, both PEM.
///
/// # Errors
/// `Malformed`, and `WrongKey`.
pub fn certified(chain_pem: &str, key_pem: &Secret<String>) -> Result<CertifiedKey, PkiError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| PkiError::Malformed(format!("the certificate cannot be read: {error}")))?;
    if chain.is_empty() {
        return Err(PkiError::Malformed("there is no certificate in it (it must be PEM)".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
        .map_err(|error| PkiError::Malformed(format!("the key cannot be read (it must be PEM): {error}")))?;
    let key = ring::sign::any_supported_type(&key)
        .map_err(|error| PkiError::Malformed(format!("the key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(TlsError::InconsistentKeys(_)) => Err(PkiError::WrongKey),
        Err(error) => Err(PkiError::Malformed(format!("the certificate cannot be used: {error}"))),
    }
}

/// The certificate that new connections are shown; replaced while others go on.
#[derive(Debug)]
pub struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    pub fn new(first: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(first))))
    }

    pub fn replace(&self, next: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// For the API: clients prove themselves by their signatures, not by certificates.
///
/// # Errors
/// `Making`.
pub fn api_config(certificate: Arc<CurrentCertificate>) -> Result<Arc<ServerConfig>, PkiError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder.map_err(making)?.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(Arc::new(config))
}

/// For the hosts' door: a client shows a certificate of this authority, or none. Sessions are not resumed, since a
/// resumed one would outlive its certificate.
///
/// # Errors
/// `Malformed`, `Making`.
pub fn hosts_config(
    certificate: Arc<CurrentCertificate>,
    authority: &CertificateDer<'static>,
) -> Result<Arc<ServerConfig>, PkiError> {
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(making)?;
    let mut config = modern_server()?.with_client_cert_verifier(clients).with_cert_resolver(certificate);
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn modern_server() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, PkiError> {
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).map_err(making)
}

fn modern_client() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, PkiError> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).map_err(making)
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone())
        .map_err(|error| PkiError::Malformed(format!("the authority's certificate cannot be used: {error}")))?;
    Ok(roots)
}

/// For a host that has joined. All PEM.
///
/// # Errors
/// `Malformed`.
pub fn host_config(
    authority_pem: &str,
    certificate_pem: &str,
    key_pem: &Secret<String>,
) -> Result<Arc<ClientConfig>, PkiError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
        .map_err(|error| PkiError::Malformed(format!("the host's key cannot be read: {error}")))?;
    let mut config = modern_client()?
        .with_root_certificates(roots(&first_certificate(authority_pem)?)?)
        .with_client_auth_cert(vec![first_certificate(certificate_pem)?], key)
        .map_err(|error| PkiError::Malformed(format!("the host's certificate cannot be used: {error}")))?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// For a client of the API that trusts these authorities, PEM.
///
/// # Errors
/// `Malformed`.
pub fn trusting_config(authorities_pem: &str) -> Result<Arc<ClientConfig>, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
        let malformed = |error: &dyn std::fmt::Display| PkiError::Malformed(format!("an authority: {error}"));
        roots.add(certificate.map_err(|error| malformed(&error))?).map_err(|error| malformed(&error))?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    Ok(Arc::new(builder.map_err(making)?.with_root_certificates(roots).with_no_client_auth()))
}

/// For a machine that has nothing but a token: it believes the authority with this fingerprint.
///
/// # Errors
/// `Making`.
pub fn joining_config(authority: Fingerprint) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = modern_client()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority, provider: provider() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Looks for the authority in what the server shows, and then verifies as usual with it alone.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let found = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.authority);
        let found = found.ok_or(TlsError::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(found.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
