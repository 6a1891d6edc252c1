//! AWS Signature Version 4: what a request presents, and whether the signature is its secret's.
//!
//! Source: "AWS Signature Version 4 for API requests" and botocore's signers. Pure: the caller brings time, secret and
//! the body's hash.

use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use sha2::{Digest, Sha256};
use std::time::Duration;
use subtle::ConstantTimeEq;
use terroir_types::Timestamp;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
const LONGEST_PRESIGNED: Duration = Duration::from_secs(7 * 24 * 3600);
const MOST_SIGNED_HEADERS: usize = 128;

/// Why a request's signature does not stand. Each service has its own code for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No form of authentication is there.
    #[error("the request is not signed")]
    Missing,
    /// The authentication is there but cannot be read; the text says what is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The credential scope names another date, region or service.
    #[error("{0}")]
    Scope(String),
    /// Signed too long ago, or a presigned URL that has expired.
    #[error("{0}")]
    Expired(String),
    /// Signed too far in the future.
    #[error("{0}")]
    NotYet(String),
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

/// `DATE/REGION/SERVICE/aws4_request`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    pub date: String,
    pub region: String,
    pub service: String,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}

/// What a signed request claims, from its `Authorization` header or from its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub access_key_id: String,
    pub scope: Scope,
    /// In lower case, in the order given.
    pub signed_headers: Vec<String>,
    pub signature: String,
    pub signed_at: Timestamp,
    /// Set for presigned URLs.
    pub valid_for: Option<Duration>,
    pub session_token: Option<String>,
}

/// How paths are signed: S3 signs them as they are, everything else encodes them once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRule {
    Single,
    Double,
}

impl Presented {
    /// Reads the authentication of a request.
    ///
    /// # Errors
    /// `Missing` if there is none, `Malformed` if it cannot be read.
    pub fn read(parts: &Parts) -> Result<Self, SignatureError> {
        let query = query_pairs(parts.uri.query().unwrap_or_default())?;
        let in_query = query.iter().any(|(name, _)| name == "X-Amz-Algorithm" || name == "X-Amz-Signature");
        match (single_header(parts, "authorization")?, in_query) {
            (Some(_), true) => Err(malformed("Only one form of authentication may be used")),
            (Some(header), false) => Self::from_header(parts, header),
            (None, true) => Self::from_query(&query),
            (None, false) => Err(SignatureError::Missing),
        }
    }

    fn from_header(parts: &Parts, header: &str) -> Result<Self, SignatureError> {
        let fields = header
            .trim()
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with([' ', '\t']))
            .ok_or_else(|| malformed("Unsupported authorization type or algorithm; expected AWS4-HMAC-SHA256"))?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field
                .trim()
                .split_once('=')
                .ok_or_else(|| malformed("Authorization header has a component without '='"))?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(malformed(format!("Authorization header has an unknown component '{name}'"))),
            };
            if place.replace(value).is_some() {
                return Err(malformed(format!("Authorization header has '{name}' twice")));
            }
        }
        let need = |value: Option<&str>, name: &str| {
            value
                .map(str::to_owned)
                .ok_or_else(|| malformed(format!("Authorization header requires '{name}' parameter.")))
        };
        let (access_key_id, scope) = credential_scope(&need(credential, "Credential")?)?;
        Ok(Self {
            access_key_id,
            scope,
            signed_headers: signed_headers(&need(headers, "SignedHeaders")?)?,
            signature: signature_text(need(signature, "Signature")?)?,
            signed_at: header_date(parts)?,
            valid_for: None,
            session_token: single_header(parts, "x-amz-security-token")?.map(str::to_owned),
        })
    }

    fn from_query(query: &[(String, String)]) -> Result<Self, SignatureError> {
        let get = |name: &str| {
            let mut values = query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(malformed(format!("{name} is given more than once"))),
                (value, None) => Ok(value),
            }
        };
        let need = |name: &str| {
            get(name)?.ok_or_else(|| malformed(format!("AWS query-string parameters must include '{name}'.")))
        };
        if need("X-Amz-Algorithm")? != ALGORITHM {
            return Err(malformed("X-Amz-Algorithm must be AWS4-HMAC-SHA256"));
        }
        let (access_key_id, scope) = credential_scope(need("X-Amz-Credential")?)?;
        let expires = need("X-Amz-Expires")?.parse().ok().map(Duration::from_secs);
        let valid_for = expires
            .filter(|expires| *expires <= LONGEST_PRESIGNED)
            .ok_or_else(|| malformed("X-Amz-Expires must be between 0 and 604800 seconds"))?;
        let signed_at = Timestamp::parse_amz_date(need("X-Amz-Date")?)
            .ok_or_else(|| malformed("X-Amz-Date must be in the form 20261124T050000Z"))?;
        Ok(Self {
            access_key_id,
            scope,
            signed_headers: signed_headers(need("X-Amz-SignedHeaders")?)?,
            signature: signature_text(need("X-Amz-Signature")?.to_owned())?,
            signed_at,
            valid_for: Some(valid_for),
            session_token: get("X-Amz-Security-Token")?.map(str::to_owned),
        })
    }

    /// Reads the authentication of a form upload (S3's POST policies). `field`: by name, in lower case.
    ///
    /// # Errors
    /// `Malformed`; `Missing` if the form has no signature.
    pub fn from_form<'f>(field: impl Fn(&str) -> Option<&'f str>) -> Result<Self, SignatureError> {
        let signature = field("x-amz-signature").ok_or(SignatureError::Missing)?;
        let need = |name: &str| field(name).ok_or_else(|| malformed(format!("The form must have the field '{name}'.")));
        if need("x-amz-algorithm")? != ALGORITHM {
            return Err(malformed("X-Amz-Algorithm must be AWS4-HMAC-SHA256"));
        }
        let (access_key_id, scope) = credential_scope(need("x-amz-credential")?)?;
        let signed_at = Timestamp::parse_amz_date(need("x-amz-date")?)
            .ok_or_else(|| malformed("X-Amz-Date must be in the form 20261124T050000Z"))?;
        Ok(Self {
            access_key_id,
            scope,
            signed_headers: Vec::new(),
            signature: signature_text(signature.to_owned())?,
            signed_at,
            // The policy says until when the form may be sent.
            valid_for: Some(LONGEST_PRESIGNED),
            session_token: field("x-amz-security-token").map(str::to_owned),
        })
    }

    /// Whether the signature of a form is the one that `key` gives to its policy, as it was sent.
    ///
    /// # Errors
    /// `Mismatch`.
    pub fn verify_policy(&self, policy: &str, key: &SigningKey) -> Result<(), SignatureError> {
        let expected = key.sign(policy);
        if expected.as_bytes().ct_eq(self.signature.as_bytes()).into() { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    /// Whether the scope is this endpoint's and the signature is fresh. `regions`: every name that is accepted.
    ///
    /// # Errors
    /// `Scope`, `Expired`, `NotYet`.
    pub fn check_scope_and_time(
        &self,
        service: &str,
        regions: &[&str],
        now: Timestamp,
        skew: Duration,
    ) -> Result<(), SignatureError> {
        if self.scope.service != service {
            return Err(SignatureError::Scope(format!("Credential should be scoped to correct service: '{service}'.")));
        }
        if !regions.contains(&self.scope.region.as_str()) {
            let message = format!("Credential should be scoped to a valid region, not '{}'.", self.scope.region);
            return Err(SignatureError::Scope(message));
        }
        let signed_at = self.signed_at.to_amz_date();
        if self.scope.date != signed_at[..8] {
            return Err(SignatureError::Scope(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{}', from '{signed_at}'.",
                self.scope.date,
                &signed_at[..8]
            )));
        }
        let at = now.to_amz_date();
        if self.signed_at > now.plus(skew) {
            let limit = now.plus(skew).to_amz_date();
            let message = format!("Signature not yet current: {signed_at} is still later than {limit} ({at} + 5 min.)");
            return Err(SignatureError::NotYet(message));
        }
        let last = self.signed_at.plus(self.valid_for.unwrap_or(skew));
        if now > last {
            let message = format!("Signature expired: {signed_at} is now earlier than allowed; it is {at}");
            return Err(SignatureError::Expired(message));
        }
        Ok(())
    }

    /// Whether the signature is the one that `key` gives. `payload_hash` is the SHA-256 of the body in hex, or
    /// whatever stands for it in the canonical request.
    ///
    /// # Errors
    /// `Mismatch`; `Malformed` if a header that must be signed is not.
    pub fn verify(
        &self,
        parts: &Parts,
        payload_hash: &str,
        rule: PathRule,
        key: &SigningKey,
    ) -> Result<(), SignatureError> {
        let canonical = canonical_request(parts, &self.signed_headers, payload_hash, rule)?;
        let expected = key.sign(&string_to_sign(self.signed_at, &self.scope, &canonical));
        if expected.as_bytes().ct_eq(self.signature.as_bytes()).into() { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

/// The key that one secret gives for one scope, and so for one day.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey([u8; 32]);

impl SigningKey {
    pub fn derive(secret: &str, scope: &Scope) -> Self {
        let date = hmac(format!("AWS4{secret}").as_bytes(), scope.date.as_bytes());
        let region = hmac(&date, scope.region.as_bytes());
        let service = hmac(&region, scope.service.as_bytes());
        Self(hmac(&service, TERMINATOR.as_bytes()))
    }

    /// The signature of a string to sign, in hex.
    pub fn sign(&self, string_to_sign: &str) -> String {
        hex::encode(hmac(&self.0, string_to_sign.as_bytes()))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

pub fn string_to_sign(signed_at: Timestamp, scope: &Scope, canonical_request: &str) -> String {
    let hash = hex::encode(Sha256::digest(canonical_request.as_bytes()));
    format!("{ALGORITHM}\n{}\n{scope}\n{hash}", signed_at.to_amz_date())
}

/// # Errors
/// `Malformed` if a signed header is absent, or `host` or an `x-amz-*` header is there but not signed.
pub fn canonical_request(
    parts: &Parts,
    signed_headers: &[String],
    payload_hash: &str,
    rule: PathRule,
) -> Result<String, SignatureError> {
    let unsigned = parts
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .find(|name| name.starts_with("x-amz-") && !signed_headers.iter().any(|signed| signed == name));
    if let Some(name) = unsigned {
        return Err(malformed(format!("There were headers present in the request which were not signed: {name}")));
    }
    if !signed_headers.iter().any(|name| name == "host") {
        return Err(malformed("'Host' must be a 'SignedHeader' in the AWS Authorization."));
    }
    let mut text = String::with_capacity(512);
    text.push_str(parts.method.as_str());
    text.push('\n');
    text.push_str(&canonical_path(parts.uri.path(), rule)?);
    text.push('\n');
    text.push_str(&canonical_query(parts.uri.query().unwrap_or_default())?);
    text.push('\n');
    for name in signed_headers {
        text.push_str(name);
        text.push(':');
        text.push_str(&canonical_header(parts, name)?);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&signed_headers.join(";"));
    text.push('\n');
    text.push_str(payload_hash);
    Ok(text)
}

/// All values of a header: trimmed, runs of blanks made one, joined by commas.
fn canonical_header(parts: &Parts, name: &str) -> Result<String, SignatureError> {
    let mut values = Vec::new();
    for value in parts.headers.get_all(name) {
        let text = value.to_str().map_err(|_| malformed(format!("The header {name} is not printable ASCII")))?;
        values.push(text.split([' ', '\t']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
    }
    // Over HTTP/2 the host stands in the URI only.
    if values.is_empty() && name == "host" {
        values.extend(parts.uri.authority().map(ToString::to_string));
    }
    if values.is_empty() {
        return Err(malformed(format!("The signed header {name} is not in the request")));
    }
    Ok(values.join(","))
}

fn canonical_path(path: &str, rule: PathRule) -> Result<String, SignatureError> {
    let path = if path.is_empty() { "/" } else { path };
    match rule {
        PathRule::Double => Ok(path.split('/').map(|segment| encode(segment.as_bytes())).collect::<Vec<_>>().join("/")),
        PathRule::Single => {
            let segments: Result<Vec<_>, _> =
                path.split('/').map(|segment| decode(segment, false).map(|bytes| encode(&bytes))).collect();
            Ok(segments?.join("/"))
        }
    }
}

fn canonical_query(query: &str) -> Result<String, SignatureError> {
    let mut pairs: Vec<(String, String)> = raw_pairs(query)
        .map(|(name, value)| Ok((encode(&decode(name, true)?), encode(&decode(value, true)?))))
        .collect::<Result<_, SignatureError>>()?;
    pairs.retain(|(name, _)| name != "X-Amz-Signature");
    pairs.sort();
    Ok(pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"))
}

fn raw_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Names and values of a query, decoded.
fn query_pairs(query: &str) -> Result<Vec<(String, String)>, SignatureError> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| malformed("The query string is not UTF-8"));
    raw_pairs(query).map(|(name, value)| Ok((text(decode(name, true)?)?, text(decode(value, true)?)?))).collect()
}

/// Percent-decoding. In a query `+` means a blank, as it does to whoever reads the parameters afterwards.
fn decode(text: &str, plus_is_blank: bool) -> Result<Vec<u8>, SignatureError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(malformed("A percent escape in the URL is not hexadecimal"));
                };
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    Ok(out)
}

/// AWS's `UriEncode`: everything but unreserved characters.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([*byte]));
        }
    }
    out
}

fn malformed(text: impl Into<String>) -> SignatureError {
    SignatureError::Malformed(text.into())
}

fn single_header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, SignatureError> {
    let mut values = parts.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| malformed(format!("The header {name} is not printable ASCII")))
        }
        (Some(_), Some(_)) => Err(malformed(format!("The header {name} is given more than once"))),
    }
}

fn header_date(parts: &Parts) -> Result<Timestamp, SignatureError> {
    let text = match single_header(parts, "x-amz-date")? {
        Some(text) => Some(text),
        None => single_header(parts, "date")?,
    };
    let Some(text) = text else {
        return Err(malformed("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."));
    };
    // What is signed has the compact form in any case.
    let parsed = Timestamp::parse_amz_date(text).or_else(|| Timestamp::parse_http_date(text));
    parsed.ok_or_else(|| malformed(format!("Date must be in the form 20261124T050000Z. Got '{text}'.")))
}

fn credential_scope(credential: &str) -> Result<(String, Scope), SignatureError> {
    let parts: Vec<&str> = credential.split('/').collect();
    match parts.as_slice() {
        [key, date, region, service, TERMINATOR] if !key.is_empty() && date.len() == 8 && date.is_ascii() => {
            let scope =
                Scope { date: (*date).to_owned(), region: (*region).to_owned(), service: (*service).to_owned() };
            Ok(((*key).to_owned(), scope))
        }
        _ => Err(malformed(
            "Credential must have exactly 5 slash-delimited elements: key/date/region/service/aws4_request",
        )),
    }
}

fn signed_headers(text: &str) -> Result<Vec<String>, SignatureError> {
    let names: Vec<String> = text.split(';').map(str::to_owned).collect();
    let well_formed = names.len() <= MOST_SIGNED_HEADERS
        && names.iter().all(|name| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase()));
    let ascending = names.windows(2).all(|pair| pair[0] < pair[1]);
    if well_formed && ascending {
        Ok(names)
    } else {
        Err(malformed("SignedHeaders must be sorted, lower-case and unique"))
    }
}

fn signature_text(text: String) -> Result<String, SignatureError> {
    let is_hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { Ok(text) } else { Err(malformed("Signature must be 64 lower-case hexadecimal digits")) }
}

/// The SHA-256 of a body, in hex.
pub fn payload_hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const SUITE: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    const S3: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn suite(service: &str, signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, SignedHeaders={signed}, Signature={signature}"
        )
    }

    /// The example of the S3 API reference, "Example: Browser-based upload using HTTP POST".
    #[test]
    fn the_published_form() {
        let policy = "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZGl0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6ICJzaWd2NGV4YW1wbGVidWNrZXQifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbCI6ICJwdWJsaWMtcmVhZCJ9LA0KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAiaHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nlc3NmdWxfdXBsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUiLCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1aWQiOiAiMTQzNjUxMjM2NTEyNzQifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0sDQogICAgWyJzdGFydHMtd2l0aCIsICIkeC1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgICB7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkvdXMtZWFzdC0xL3MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIjogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUiOiAiMjAxNTEyMjlUMDAwMDAwWiIgfQ0KICBdDQp9";
        let fields = [
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"),
            ("x-amz-date", "20151229T000000Z"),
            ("x-amz-signature", "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"),
        ];
        let read = |without: &str| {
            Presented::from_form(|name| fields.iter().find(|(n, _)| *n == name && *n != without).map(|(_, v)| *v))
        };
        let presented = read("").unwrap();
        let key = SigningKey::derive(S3.1, &presented.scope);
        presented.verify_policy(policy, &key).unwrap();
        assert!(matches!(presented.verify_policy(&policy[1..], &key), Err(SignatureError::Mismatch)));
        assert!(matches!(read("x-amz-signature"), Err(SignatureError::Missing)));
        for (name, _) in &fields[..3] {
            assert!(matches!(read(name), Err(SignatureError::Malformed(_))), "without {name}");
        }
    }

    /// Signatures from AWS's published test suite and documentation.
    #[test]
    fn published_signatures() {
        const HOST: (&str, &str) = ("host", "example.amazonaws.com");
        const DATE: (&str, &str) = ("x-amz-date", "20150830T123600Z");
        let form = ("content-type", "application/x-www-form-urlencoded");
        let presigned = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let rows = [
            (
                "get-vanilla",
                SUITE,
                parts(
                    "GET",
                    "/",
                    &[
                        HOST,
                        DATE,
                        (
                            "authorization",
                            &suite(
                                "service",
                                "host;x-amz-date",
                                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
                            ),
                        ),
                    ],
                ),
                String::new(),
            ),
            (
                "get-vanilla-query-order-key-case",
                SUITE,
                parts(
                    "GET",
                    "/?Param2=value2&Param1=value1",
                    &[
                        HOST,
                        DATE,
                        (
                            "authorization",
                            &suite(
                                "service",
                                "host;x-amz-date",
                                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
                            ),
                        ),
                    ],
                ),
                String::new(),
            ),
            (
                "post-x-www-form-urlencoded",
                SUITE,
                parts(
                    "POST",
                    "/",
                    &[
                        form,
                        HOST,
                        DATE,
                        (
                            "authorization",
                            &suite(
                                "service",
                                "content-type;host;x-amz-date",
                                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
                            ),
                        ),
                    ],
                ),
                "Param1=value1".to_owned(),
            ),
            (
                "ListUsers",
                SUITE,
                parts(
                    "GET",
                    "/?Action=ListUsers&Version=2010-05-08",
                    &[
                        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                        ("host", "iam.amazonaws.com"),
                        DATE,
                        (
                            "authorization",
                            &suite(
                                "iam",
                                "content-type;host;x-amz-date",
                                "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
                            ),
                        ),
                    ],
                ),
                String::new(),
            ),
            (
                "presigned S3 URL",
                S3,
                parts("GET", presigned, &[("host", "examplebucket.s3.amazonaws.com")]),
                "UNSIGNED-PAYLOAD".to_owned(),
            ),
        ];
        for (name, (key_id, secret), parts, body) in rows {
            let presented = Presented::read(&parts).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(presented.access_key_id, key_id, "{name}");
            let s3 = presented.scope.service == "s3";
            let (hash, rule) =
                if s3 { (body, PathRule::Single) } else { (payload_hash(body.as_bytes()), PathRule::Double) };
            let verify = |secret: &str, hash: &str| {
                presented.verify(&parts, hash, rule, &SigningKey::derive(secret, &presented.scope))
            };
            assert_eq!(verify(secret, &hash), Ok(()), "{name}");
            assert_eq!(verify("other", &hash), Err(SignatureError::Mismatch), "{name}: wrong secret");
            assert_eq!(verify(secret, &payload_hash(b"tampered")), Err(SignatureError::Mismatch), "{name}: body");
        }
    }

    #[test]
    fn canonical_forms() {
        for (query, canonical) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1&a", "a=&a=1&a=2"),
            ("a=x+y&b=x%20y&c=x%2By", "a=x%20y&b=x%20y&c=x%2By"),
            ("a=%7e~*%2A", "a=~~%2A%2A"),
            ("A=1&a=1&%61b=%C3%a9", "A=1&a=1&ab=%C3%A9"),
            ("a==&X-Amz-Signature=gone", "a=%3D"),
        ] {
            assert_eq!(canonical_query(query).as_deref(), Ok(canonical), "{query}");
        }
        for (path, rule, canonical) in [
            ("/", PathRule::Double, "/"),
            ("/a b", PathRule::Single, "/a%20b"),
            ("/a%20b", PathRule::Double, "/a%2520b"),
            ("/a%20b/%7Ec*", PathRule::Single, "/a%20b/~c%2A"),
        ] {
            assert_eq!(canonical_path(path, rule).as_deref(), Ok(canonical), "{path}");
        }
        let folded = parts("GET", "/", &[("my-header", "  a   b "), ("my-header", "c")]);
        assert_eq!(canonical_header(&folded, "my-header").as_deref(), Ok("a b,c"));
        assert!(canonical_query("a=%zz").is_err() && canonical_query("a=%4").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        let good = suite("iam", "host;x-amz-date", &"0".repeat(64));
        let read = |header: &str| {
            Presented::read(&parts("GET", "/", &[("x-amz-date", "20150830T123600Z"), ("authorization", header)]))
        };
        assert!(read(&good).is_ok());
        for bad in [
            "",
            "Basic QWxhZGRpbg==",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential",
            &good.replace("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA512 "),
            &good.replace("Signature=0", "Signature=X"),
            &good.replace(", SignedHeaders=host;x-amz-date", ""),
            &good.replace("host;x-amz-date", "x-amz-date;host"),
            &good.replace("host;x-amz-date", "host;host"),
            &good.replace("host", "Host"),
            &good.replace("/aws4_request", ""),
            &good.replace("/20150830/", "/2015-08-30/"),
            &format!("{good}, Signature={}", "1".repeat(64)),
            &format!("{good}, Colour=red"),
        ] {
            assert!(matches!(read(bad), Err(SignatureError::Malformed(_))), "{bad}");
        }
        let malformed = |parts: Parts| matches!(Presented::read(&parts), Err(SignatureError::Malformed(_)));
        assert!(malformed(parts("GET", "/", &[("authorization", &good)])), "no date");
        assert!(malformed(parts("GET", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256", &[("authorization", &good)])), "twice");
        assert!(malformed(parts("GET", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256", &[])), "the rest is missing");
        assert_eq!(Presented::read(&parts("GET", "/?a=b", &[])), Err(SignatureError::Missing));
    }

    #[test]
    fn host_and_amz_headers_must_be_signed() {
        let key =
            SigningKey::derive("x", &Scope { date: "20150830".into(), region: "r".into(), service: "iam".into() });
        for (headers, signed) in [
            (&[("host", "h"), ("x-amz-date", "20150830T123600Z")][..], "x-amz-date"),
            (&[("host", "h"), ("x-amz-date", "20150830T123600Z"), ("x-amz-meta-a", "1")][..], "host;x-amz-date"),
            (&[("host", "h"), ("x-amz-date", "20150830T123600Z")][..], "absent;host;x-amz-date"),
        ] {
            let header = suite("iam", signed, &"0".repeat(64));
            let parts = parts("GET", "/", &[headers, &[("authorization", &header)]].concat());
            let verified = Presented::read(&parts).unwrap().verify(&parts, "", PathRule::Double, &key);
            assert!(matches!(verified, Err(SignatureError::Malformed(_))), "{signed}: {verified:?}");
        }
    }
}
