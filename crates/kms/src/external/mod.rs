//! Keys that their owner holds elsewhere, behind a proxy that speaks AWS's "External Key Store Proxy API" (version 1 of
//! its paths): what is asked, what the answers must be, and what becomes of each failure.
//!
//! What goes to the proxy is encrypted under material of ours first, so it never sees a data key, and what it gives back is
//! useless without it: both sides are needed to decrypt.

mod client;

pub use client::{XksClient, XksOptions};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use terroir_types::{Error, ErrorClass, Secret};
use zeroize::Zeroizing;

use crate::model::Proxy;

/// Longest metadata that a proxy may add to a ciphertext.
pub(crate) const MAX_METADATA_BYTES: usize = 20;

/// What came back: status and body.
#[derive(Debug, Clone)]
pub struct ProxyAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Sends requests to proxies.
#[async_trait]
pub trait Proxies: Send + Sync + 'static {
    /// One signed POST of JSON to a path below the proxy's own.
    ///
    /// # Errors
    /// `Unreachable`, `Tls`, `TimedOut`, `Malformed` for an answer that is too long.
    async fn post(&self, proxy: &Proxy, path: &str, body: Vec<u8>) -> Result<ProxyAnswer, Fault>;
}

/// For a server without: no proxy is reachable.
#[derive(Debug, Clone, Copy)]
pub struct NoProxies;

#[async_trait]
impl Proxies for NoProxies {
    async fn post(&self, _proxy: &Proxy, _path: &str, _body: Vec<u8>) -> Result<ProxyAnswer, Fault> {
        Err(Fault::Unreachable)
    }
}

/// Why a proxy did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Unreachable,
    Tls,
    TimedOut,
    /// An answer that is none.
    Malformed,
    // What follows the proxy says itself, by the API's `errorName`.
    Validation,
    InvalidState,
    InvalidCiphertext,
    InvalidKeyUsage,
    NotAuthenticated,
    AccessDenied,
    KeyNotFound,
    InvalidPath,
    Throttled,
    Unsupported,
    Internal,
}

impl Fault {
    fn named(name: &str) -> Self {
        match name {
            "ValidationException" => Self::Validation,
            "InvalidStateException" => Self::InvalidState,
            "InvalidCiphertextException" => Self::InvalidCiphertext,
            "InvalidKeyUsageException" => Self::InvalidKeyUsage,
            "AuthenticationFailedException" => Self::NotAuthenticated,
            "AccessDeniedException" => Self::AccessDenied,
            "KeyNotFoundException" => Self::KeyNotFound,
            "InvalidUriPathException" => Self::InvalidPath,
            "ThrottlingException" => Self::Throttled,
            "UnsupportedOperationException" => Self::Unsupported,
            "DependencyTimeoutException" => Self::TimedOut,
            "InternalException" => Self::Internal,
            _ => Self::Malformed,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "The external key store proxy cannot be reached.",
            Self::Tls => "No TLS connection to the external key store proxy can be made; check its certificate.",
            Self::TimedOut => "The external key store proxy did not answer in time.",
            Self::Malformed | Self::Validation => "The answer of the external key store proxy cannot be understood.",
            Self::InvalidState => "The external key, or its key manager, is disabled.",
            Self::InvalidCiphertext => "The external key manager says that the ciphertext or its context is not valid.",
            Self::InvalidKeyUsage => "The external key does not support this operation.",
            Self::NotAuthenticated => {
                "The external key store proxy did not accept the signature; check its authentication credential."
            }
            Self::AccessDenied => "The external key store proxy denied the operation.",
            Self::KeyNotFound => "The external key was not found in its key manager.",
            Self::InvalidPath => "The external key store proxy does not know the URI path.",
            Self::Throttled => "The external key store proxy asks for fewer requests.",
            Self::Unsupported => "The external key store proxy does not support this operation.",
            Self::Internal => "The external key store proxy cannot use its key manager.",
        }
    }

    /// As what whoever uses a key is told. It is one code for all, as at AWS.
    pub(crate) fn of_use(self) -> Error {
        Error::conflict("KMSInvalidStateException", self.message())
    }

    /// As what whoever makes a key is told.
    pub(crate) fn of_new_key(self) -> Error {
        let code = match self {
            Self::InvalidState | Self::InvalidKeyUsage => "XksKeyInvalidConfigurationException",
            Self::KeyNotFound => "XksKeyNotFoundException",
            Self::AccessDenied => "KMSInvalidStateException",
            _ => "CustomKeyStoreInvalidStateException",
        };
        Error::conflict(code, self.message())
    }

    /// As what whoever sets up a key store is told.
    pub(crate) fn of_store(self) -> Error {
        let code = match self {
            Self::NotAuthenticated => "XksProxyIncorrectAuthenticationCredentialException",
            Self::InvalidPath => "XksProxyInvalidConfigurationException",
            Self::Unreachable | Self::Tls | Self::TimedOut | Self::Throttled => "XksProxyUriUnreachableException",
            _ => "XksProxyInvalidResponseException",
        };
        Error::new(ErrorClass::Conflict, code, self.message())
    }

    /// What DescribeCustomKeyStores says of a store that could not be connected.
    pub(crate) const fn connection_error(self) -> &'static str {
        match self {
            Self::Unreachable => "XKS_PROXY_NOT_REACHABLE",
            Self::Tls => "XKS_PROXY_INVALID_TLS_CONFIGURATION",
            Self::TimedOut | Self::Throttled => "XKS_PROXY_TIMED_OUT",
            Self::NotAuthenticated | Self::AccessDenied => "XKS_PROXY_ACCESS_DENIED",
            Self::InvalidPath => "XKS_PROXY_INVALID_CONFIGURATION",
            _ => "XKS_PROXY_INVALID_RESPONSE",
        }
    }
}

/// What a proxy is told about a request, for its own log and rules.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_principal_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_arn: Option<String>,
    pub kms_operation: String,
    pub kms_request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_via_service: Option<String>,
}

/// What a key manager gave for a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub iv: Vec<u8>,
    pub tag: [u8; 16],
    pub metadata: Vec<u8>,
    pub text: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    error_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    xks_proxy_fleet_size: u32,
    xks_proxy_vendor: String,
    xks_proxy_model: String,
    ekm_vendor: String,
    ekm_fleet_details: Vec<Manager>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manager {
    health_status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyMetadata {
    key_spec: String,
    key_usage: Vec<String>,
    key_status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encrypted {
    ciphertext: String,
    #[serde(default)]
    ciphertext_metadata: String,
    initialization_vector: String,
    authentication_tag: String,
    ciphertext_data_integrity_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decrypted {
    plaintext: Secret<String>,
}

async fn ask<T: for<'d> Deserialize<'d>>(
    proxies: &dyn Proxies,
    proxy: &Proxy,
    path: &str,
    about: &About,
    mut body: Value,
) -> Result<T, Fault> {
    body["requestMetadata"] = serde_json::to_value(about).map_err(|_| Fault::Malformed)?;
    let answer = proxies.post(proxy, path, body.to_string().into_bytes()).await?;
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(|_| Fault::Malformed);
    }
    let named: ErrorBody = serde_json::from_slice(&answer.body).map_err(|_| Fault::Malformed)?;
    Err(Fault::named(&named.error_name))
}

/// Whether the proxy answers, knows us and has a key manager that works.
pub(crate) async fn check_health(proxies: &dyn Proxies, proxy: &Proxy, about: &About) -> Result<(), Fault> {
    let health: Health = ask(proxies, proxy, "/health", about, json!({})).await?;
    let named = [&health.xks_proxy_vendor, &health.xks_proxy_model, &health.ekm_vendor];
    let whole = health.xks_proxy_fleet_size > 0
        && named.iter().all(|name| !name.is_empty())
        && (1..=10).contains(&health.ekm_fleet_details.len());
    let works = |manager: &Manager| matches!(manager.health_status.as_str(), "ACTIVE" | "DEGRADED");
    match (whole, health.ekm_fleet_details.iter().any(works)) {
        (false, _) => Err(Fault::Malformed),
        (true, false) => Err(Fault::Internal),
        (true, true) => Ok(()),
    }
}

/// Whether an external key can protect a KMS key.
pub(crate) async fn check_key(proxies: &dyn Proxies, proxy: &Proxy, id: &str, about: &About) -> Result<(), Fault> {
    let key: KeyMetadata = ask(proxies, proxy, &format!("/keys/{id}/metadata"), about, json!({})).await?;
    let can = |usage: &str| key.key_usage.iter().any(|known| known == usage);
    if key.key_spec != "AES_256" || !can("ENCRYPT") || !can("DECRYPT") {
        return Err(Fault::InvalidKeyUsage);
    }
    match key.key_status.as_str() {
        "ENABLED" => Ok(()),
        "DISABLED" => Err(Fault::InvalidState),
        _ => Err(Fault::Malformed),
    }
}

/// Encrypts with an external key. The answer's own checksum is compared.
pub(crate) async fn encrypt(
    proxies: &dyn Proxies,
    proxy: &Proxy,
    id: &str,
    about: &About,
    aad: &[u8],
    text: &[u8],
) -> Result<Sealed, Fault> {
    let body = json!({
        "additionalAuthenticatedData": STANDARD.encode(aad),
        "plaintext": STANDARD.encode(text),
        "encryptionAlgorithm": "AES_GCM",
        "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
    });
    let answer: Encrypted = ask(proxies, proxy, &format!("/keys/{id}/encrypt"), about, body).await?;
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| Fault::Malformed);
    let sealed = Sealed {
        iv: bytes(&answer.initialization_vector)?,
        tag: bytes(&answer.authentication_tag)?.try_into().map_err(|_| Fault::Malformed)?,
        metadata: bytes(&answer.ciphertext_metadata)?,
        text: bytes(&answer.ciphertext)?,
    };
    let sized = matches!(sealed.iv.len(), 12 | 16)
        && sealed.metadata.len() <= MAX_METADATA_BYTES
        && sealed.text.len() == text.len();
    if !sized || bytes(&answer.ciphertext_data_integrity_value)? != integrity_value(aad, &sealed) {
        return Err(Fault::Malformed);
    }
    Ok(sealed)
}

fn integrity_value(aad: &[u8], sealed: &Sealed) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [aad, &sealed.metadata, &sealed.iv, &sealed.text, &sealed.tag] {
        hash.update(part);
    }
    hash.finalize().to_vec()
}

/// Decrypts what an external key encrypted.
pub(crate) async fn decrypt(
    proxies: &dyn Proxies,
    proxy: &Proxy,
    id: &str,
    about: &About,
    aad: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut body = json!({
        "additionalAuthenticatedData": STANDARD.encode(aad),
        "ciphertext": STANDARD.encode(&sealed.text),
        "encryptionAlgorithm": "AES_GCM",
        "initializationVector": STANDARD.encode(&sealed.iv),
        "authenticationTag": STANDARD.encode(sealed.tag),
    });
    if !sealed.metadata.is_empty() {
        body["ciphertextMetadata"] = STANDARD.encode(&sealed.metadata).into();
    }
    let answer: Decrypted = ask(proxies, proxy, &format!("/keys/{id}/decrypt"), about, body).await?;
    let text = STANDARD.decode(answer.plaintext.expose()).map(Zeroizing::new).map_err(|_| Fault::Malformed)?;
    if text.len() == sealed.text.len() { Ok(text) } else { Err(Fault::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's appendix on integrity values.
    #[test]
    fn the_published_integrity_value() {
        let bytes = |text: &str| STANDARD.decode(text).unwrap();
        let sealed = Sealed {
            iv: bytes("HMrlRw85cAJUd5Ax"),
            tag: bytes("vBxN2ncH1oEkR8WVXpmyYQ==").try_into().unwrap(),
            metadata: bytes("a2V5X3ZlcnNpb249MQ=="),
            text: bytes("ghxkK1txeDNn3q8Y"),
        };
        let value = integrity_value(b"project=nile,department=marketing", &sealed);
        assert_eq!(STANDARD.encode(value), "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
    }

    /// Answers everything with the same.
    struct Always(u16, Value);

    #[async_trait]
    impl Proxies for Always {
        async fn post(&self, _proxy: &Proxy, _path: &str, _body: Vec<u8>) -> Result<ProxyAnswer, Fault> {
            Ok(ProxyAnswer { status: self.0, body: self.1.to_string().into_bytes() })
        }
    }

    fn about() -> About {
        About {
            aws_principal_arn: None,
            kms_key_arn: None,
            kms_operation: "Encrypt".to_owned(),
            kms_request_id: "r".to_owned(),
            kms_via_service: None,
        }
    }

    #[tokio::test]
    async fn answers_that_do_not_do() {
        let (proxy, about) = (Proxy::default(), about());
        let health = |size: u32, status: &str| {
            json!({
                "xksProxyFleetSize": size, "xksProxyVendor": "v", "xksProxyModel": "m", "ekmVendor": "e",
                "ekmFleetDetails": [{"id": "1", "model": "m", "healthStatus": status}],
            })
        };
        for (status, body, expected) in [
            (200, health(1, "ACTIVE"), Ok(())),
            (200, health(1, "DEGRADED"), Ok(())),
            (200, health(1, "UNAVAILABLE"), Err(Fault::Internal)),
            (200, health(0, "ACTIVE"), Err(Fault::Malformed)),
            (200, json!({}), Err(Fault::Malformed)),
            (500, json!({}), Err(Fault::Malformed)),
            (401, json!({"errorName": "AuthenticationFailedException"}), Err(Fault::NotAuthenticated)),
            (503, json!({"errorName": "DependencyTimeoutException"}), Err(Fault::TimedOut)),
            (400, json!({"errorName": "Strange"}), Err(Fault::Malformed)),
        ] {
            assert_eq!(check_health(&Always(status, body.clone()), &proxy, &about).await, expected, "{body}");
        }
        let key =
            |spec: &str, usage: &[&str], status: &str| json!({"keySpec": spec, "keyUsage": usage, "keyStatus": status});
        for (body, expected) in [
            (key("AES_256", &["ENCRYPT", "DECRYPT", "WRAP"], "ENABLED"), Ok(())),
            (key("AES_256", &["ENCRYPT", "DECRYPT"], "DISABLED"), Err(Fault::InvalidState)),
            (key("AES_256", &["ENCRYPT"], "ENABLED"), Err(Fault::InvalidKeyUsage)),
            (key("RSA_2048", &["ENCRYPT", "DECRYPT"], "ENABLED"), Err(Fault::InvalidKeyUsage)),
            (key("AES_256", &["ENCRYPT", "DECRYPT"], "LOST"), Err(Fault::Malformed)),
        ] {
            assert_eq!(check_key(&Always(200, body.clone()), &proxy, "k", &about).await, expected, "{body}");
        }
        let sealed = |iv: usize, tag: usize, metadata: usize, text: usize, right: bool| {
            let bytes = |length: usize| vec![7u8; length];
            let whole = [&b"aad"[..], &bytes(metadata), &bytes(iv), &bytes(text), &bytes(tag)].concat();
            let value = if right { Sha256::digest(&whole).to_vec() } else { vec![0; 32] };
            json!({
                "ciphertext": STANDARD.encode(bytes(text)), "ciphertextMetadata": STANDARD.encode(bytes(metadata)),
                "initializationVector": STANDARD.encode(bytes(iv)), "authenticationTag": STANDARD.encode(bytes(tag)),
                "ciphertextDataIntegrityValue": STANDARD.encode(value),
            })
        };
        for (body, fits) in [
            (sealed(12, 16, 20, 4, true), true),
            (sealed(16, 16, 0, 4, true), true),
            (sealed(12, 16, 20, 4, false), false),
            (sealed(13, 16, 0, 4, true), false),
            (sealed(12, 15, 0, 4, true), false),
            (sealed(12, 16, 21, 4, true), false),
            (sealed(12, 16, 0, 5, true), false),
            (json!({"ciphertext": "?"}), false),
        ] {
            let answer = encrypt(&Always(200, body.clone()), &proxy, "k", &about, b"aad", b"text").await;
            assert_eq!(answer.is_ok(), fits, "{body}");
        }
        let given = Sealed { iv: vec![0; 12], tag: [0; 16], metadata: vec![], text: vec![0; 4] };
        for (text, fits) in [("abcd", true), ("abc", false)] {
            let body = json!({"plaintext": STANDARD.encode(text)});
            let answer = decrypt(&Always(200, body), &proxy, "k", &about, b"aad", &given).await;
            assert_eq!(answer.is_ok(), fits, "{text}");
        }
    }
}
