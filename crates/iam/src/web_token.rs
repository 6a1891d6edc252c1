//! Identity tokens of OpenID Connect: JSON Web Tokens (RFC 7519) that are signed with one of an issuer's public keys
//! (RFC 7517), by RS256, RS384, RS512, ES256 or ES384 (RFC 7518).
//!
//! Signatures are checked by `ring`. The claims are read here rather than by a library for tokens, because each that is
//! missing or of another type must be an error, with STS's own code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use terroir_types::{Error, ErrorClass, Timestamp};

/// Longest token that is looked at, in bytes: STS's own bound.
const MAX_TOKEN: usize = 20_000;
const MAX_KEYS: usize = 100;

/// The public keys of an issuer.
#[derive(Debug, Clone)]
pub(crate) struct KeySet(Vec<PublicKey>);

#[derive(Debug, Clone)]
struct PublicKey {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// Modulus and exponent, big-endian.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Keys of other types and for other uses are left out. `Err` with what is wrong: not a key set, or none that serves.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let set: Jwks = serde_json::from_str(text).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let usable = set.keys.into_iter().filter(|key| key.usage.as_deref().is_none_or(|usage| usage == "sig"));
        let keys: Vec<PublicKey> = usable.filter_map(PublicKey::of).take(MAX_KEYS).collect();
        if keys.is_empty() { Err("no RSA, P-256 or P-384 key for signatures".to_owned()) } else { Ok(Self(keys)) }
    }

    fn verifies(&self, header: &Header, message: &[u8], mac: &[u8]) -> bool {
        self.0
            .iter()
            .filter(|key| header.kid.is_none() || key.id.is_none() || key.id == header.kid)
            .filter(|key| key.algorithm.as_ref().is_none_or(|algorithm| *algorithm == header.alg))
            .any(|key| key.material.verifies(&header.alg, message, mac))
    }
}

impl PublicKey {
    fn of(key: Jwk) -> Option<Self> {
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?.trim_end_matches('=')).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&key.x)?, bytes(&key.y)?);
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y].concat())
        };
        let material = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: bytes(&key.n)?, e: bytes(&key.e)? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Self { id: key.kid, algorithm: key.alg, material })
    }
}

impl Material {
    fn verifies(&self, algorithm: &str, message: &[u8], mac: &[u8]) -> bool {
        match (self, algorithm) {
            (Self::Rsa { n, e }, "RS256" | "RS384" | "RS512") => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, mac).is_ok()
            }
            (Self::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, mac).is_ok()
            }
            (Self::P384(point), "ES384") => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, mac).is_ok()
            }
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that a reader must understand (RFC 7515 §4.1.11); none are understood here.
    crit: Option<Value>,
}

/// A token in its parts, nothing of which is believed yet.
pub(crate) struct Unverified {
    header: Header,
    message: Vec<u8>,
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

/// What a token says whose signature and times were checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims {
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    /// The party that the token was issued to, if it says.
    pub authorized_party: Option<String>,
    /// All of them.
    pub all: Map<String, Value>,
}

/// All claims of a token that one of `keys` (a JSON Web Key Set) has signed and whose times hold, without regard to who
/// its issuer is.
///
/// # Errors
/// `InvalidIdentityToken`, `ExpiredTokenException`.
pub fn web_token_claims(token: &str, keys: &str, now: Timestamp) -> Result<Map<String, Value>, Error> {
    let keys = KeySet::parse(keys).map_err(invalid)?;
    Ok(Unverified::parse(token)?.verify(&keys, now)?.all)
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidIdentityToken", message)
}

impl Unverified {
    /// Errors: `InvalidIdentityToken`.
    pub(crate) fn parse(token: &str) -> Result<Self, Error> {
        let malformed = || {
            invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
        };
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else { return Err(malformed()) };
        if token.len() > MAX_TOKEN {
            return Err(malformed());
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        Ok(Self {
            header: serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?,
            message: format!("{header}.{claims}").into_bytes(),
            signature: decode(signature)?,
            claims: serde_json::from_slice(&decode(claims)?).map_err(|_| malformed())?,
        })
    }

    /// The issuer that it names.
    ///
    /// Errors: `InvalidIdentityToken`.
    pub(crate) fn issuer(&self) -> Result<&str, Error> {
        self.claims.get("iss").and_then(Value::as_str).ok_or_else(|| missing("iss"))
    }

    /// Errors: `InvalidIdentityToken`, `ExpiredTokenException`.
    pub(crate) fn verify(self, keys: &KeySet, now: Timestamp) -> Result<Claims, Error> {
        if self.header.crit.is_some() || !keys.verifies(&self.header, &self.message, &self.signature) {
            return Err(invalid("Couldn't verify the signature of the token with the keys of your identity provider."));
        }
        let issuer = self.issuer()?.to_owned();
        let text = |name: &str| self.claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let time = |name: &str| match self.claims.get(name) {
            None => Ok(None),
            // Seconds, perhaps with a fraction (RFC 7519 §2).
            Some(value) => match value.as_i64().or_else(|| value.as_f64().map(|secs| secs as i64)) {
                Some(secs) => Ok(Some(secs)),
                None => Err(missing(name)),
            },
        };
        let now_secs = now.secs();
        let expires = time("exp")?.ok_or_else(|| missing("exp"))?;
        if now_secs >= expires {
            let message = format!(
                "Token expired: current date/time {now_secs} must be before the expiration date/time {expires}"
            );
            return Err(Error::invalid("ExpiredTokenException", message));
        }
        if time("iat")?.is_none() {
            return Err(missing("iat"));
        }
        if time("nbf")?.is_some_and(|not_before| now_secs < not_before) {
            return Err(invalid("Token is not valid yet."));
        }
        let subject = text("sub").filter(|subject| !subject.is_empty()).ok_or_else(|| missing("sub"))?;
        let audiences = match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                texts.ok_or_else(|| missing("aud"))?
            }
            _ => return Err(missing("aud")),
        };
        let authorized_party = text("azp");
        Ok(Claims { issuer, subject, audiences, authorized_party, all: self.claims })
    }
}

fn missing(claim: &str) -> Error {
    invalid(format!("Missing or invalid claim in the token: {claim}"))
}

/// Errors of AssumeRoleWithWebIdentity that AWS answers with 403.
pub(crate) fn rejected(message: &str) -> Error {
    Error::new(ErrorClass::Denied, "IDPRejectedClaim", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    struct Issuer {
        pair: EcdsaKeyPair,
        keys: KeySet,
    }

    impl Issuer {
        fn new() -> Self {
            let rng = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &rng).unwrap();
            let point = pair.public_key().as_ref();
            let jwks = json!({ "keys": [
                { "kty": "oct", "k": "AAAA" },
                { "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig",
                  "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) },
            ] });
            let keys = KeySet::parse(&jwks.to_string()).unwrap();
            Self { pair, keys }
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    #[test]
    fn only_good_tokens_pass() {
        let (issuer, stranger) = (Issuer::new(), Issuer::new());
        let now = Timestamp::from_secs(1_000_000);
        let header = json!({ "alg": "ES256", "kid": "1" });
        let claims = json!({ "iss": "https://idp", "sub": "s", "aud": ["a", "b"], "exp": 1_000_001, "iat": 999_999 });
        let check = |token: &str| Unverified::parse(token)?.verify(&issuer.keys, now);
        let read = check(&issuer.token(&header, &claims)).unwrap();
        assert_eq!((read.issuer.as_str(), read.subject.as_str()), ("https://idp", "s"));
        assert_eq!(read.audiences, ["a", "b"]);
        let with = |name: &str, value: Value| {
            let mut claims = claims.clone();
            claims[name] = value;
            issuer.token(&header, &claims)
        };
        let without = |name: &str| {
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().remove(name);
            issuer.token(&header, &claims)
        };
        let good = issuer.token(&header, &claims);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), message.split('.').nth(1).unwrap());
        let rows = [
            (stranger.token(&header, &claims), "InvalidIdentityToken"),
            (issuer.token(&json!({ "alg": "ES256", "kid": "2" }), &claims), "InvalidIdentityToken"),
            (issuer.token(&json!({ "alg": "HS256", "kid": "1" }), &claims), "InvalidIdentityToken"),
            (issuer.token(&json!({ "alg": "RS256", "kid": "1" }), &claims), "InvalidIdentityToken"),
            (issuer.token(&json!({ "alg": "ES256", "kid": "1", "crit": ["x"] }), &claims), "InvalidIdentityToken"),
            (unsigned, "InvalidIdentityToken"),
            (format!("{message}x.{signature}"), "InvalidIdentityToken"),
            (with("exp", json!(1_000_000)), "ExpiredTokenException"),
            (with("exp", json!("1000001")), "InvalidIdentityToken"),
            (with("nbf", json!(1_000_001)), "InvalidIdentityToken"),
            (with("aud", json!(7)), "InvalidIdentityToken"),
            (with("sub", json!("")), "InvalidIdentityToken"),
            (without("exp"), "InvalidIdentityToken"),
            (without("iat"), "InvalidIdentityToken"),
            (without("sub"), "InvalidIdentityToken"),
            (without("aud"), "InvalidIdentityToken"),
            (without("iss"), "InvalidIdentityToken"),
            (String::new(), "InvalidIdentityToken"),
            ("a.b".to_owned(), "InvalidIdentityToken"),
            ("a.b.c".to_owned(), "InvalidIdentityToken"),
        ];
        for (token, code) in rows {
            assert_eq!(check(&token).unwrap_err().code(), code, "{token}");
        }
    }

    /// RFC 7515, appendix A.2: a token signed with RS256, and its key.
    #[test]
    fn published_rsa_signature() {
        let jwks = r#"{"keys":[{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}]}"#;
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let keys = KeySet::parse(jwks).unwrap();
        let before = Timestamp::from_secs(1_300_819_000);
        // The signature holds; the example has no `iat`.
        let error = Unverified::parse(token).unwrap().verify(&keys, before).unwrap_err();
        assert_eq!(error.message(), "Missing or invalid claim in the token: iat");
    }

    #[test]
    fn key_sets() {
        for text in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
            r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#,
        ] {
            assert!(KeySet::parse(text).is_err(), "{text}");
        }
    }
}
