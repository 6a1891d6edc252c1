//! Uploads by HTML forms (POST policies): a form becomes the PUT that it stands for.
//!
//! The fields before the file are few and small and are read first; the file itself streams. What comes behind it is
//! not looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_TYPE, ETAG, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::path::S3Path;
use s3s::{Body, S3Error, S3Result};
use std::collections::BTreeMap;
use std::pin::Pin;
use terroir_action::Caller;
use terroir_iam::sigv4::{Presented, SignatureError, SigningKey};

use super::address;
use super::body::Proof;
use super::error::{access_denied, from_domain, from_signature, invalid, invalid_argument, method_not_allowed};
use super::form::{FormError, FormReader, boundary};
use super::front::{Admitted, S3Front, S3Outcome, SignaturePlace, Signed, error_code, error_response};
use crate::backend::BoxError;
use crate::post_policy::PostPolicy;

/// What the audit log calls it.
const OPERATION: &str = "PostObject";
/// Stands for the name of the file.
const FILENAME: &str = "${filename}";
/// All fields before the file together, as in AWS.
const MAX_FIELDS: usize = 20 << 10;

/// Fields that become a header of another name.
const RENAMED: [(&str, &str); 1] = [("acl", "x-amz-acl")];
/// Fields that become a header of the same name.
const HEADERS: [&str; 11] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "content-md5",
    "expires",
    "x-amz-acl",
    "x-amz-expected-bucket-owner",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];
/// What fields begin with that become headers of the same name, too. Not all of `x-amz-`: a form is no copy.
const HEADER_PREFIXES: [&str; 6] = [
    "x-amz-meta-",
    "x-amz-checksum-",
    "x-amz-sdk-checksum-",
    "x-amz-grant-",
    "x-amz-server-side-encryption",
    "x-amz-object-lock-",
];

/// What a form says before its file.
struct Form {
    /// By name in lower case.
    fields: BTreeMap<String, String>,
}

type File = Pin<Box<dyn Stream<Item = Result<Bytes, FormError>> + Send>>;

fn malformed() -> S3Error {
    invalid("MalformedPOSTRequest", "The body of your POST request is not well-formed multipart/form-data.")
}

/// Whether this is a form rather than one of the API's own POSTs.
pub(super) fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    parts.method == Method::POST && kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

impl Form {
    async fn read<B>(parts: &Parts, body: B) -> S3Result<(Self, File)>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = boundary(kind).ok_or_else(malformed)?;
        let pieces = body.into_data_stream().map_err(Into::<BoxError>::into);
        let mut form = FormReader::new(Box::pin(pieces), boundary);
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut size = 0;
        while let Some(part) = form.next_part().await.map_err(|_| malformed())? {
            let name = part.name.to_ascii_lowercase();
            if name == "file" {
                let filename = part.filename.as_deref().map(last_part).unwrap_or_default();
                let holes: usize = fields.values().map(|value| value.matches(FILENAME).count()).sum();
                if size + holes * filename.len() > MAX_FIELDS {
                    return Err(too_large());
                }
                for value in fields.values_mut().filter(|value| value.contains(FILENAME)) {
                    *value = value.replace(FILENAME, filename);
                }
                return Ok((Self { fields }, Box::pin(form.into_data())));
            }
            let mut value = Vec::new();
            size += name.len() + 1;
            loop {
                if size > MAX_FIELDS {
                    return Err(too_large());
                }
                let Some(piece) = form.data().await.map_err(|_| malformed())? else { break };
                size += piece.len();
                value.extend_from_slice(&piece);
            }
            fields.insert(name, String::from_utf8(value).map_err(|_| malformed())?);
        }
        Err(invalid_argument("POST requires exactly one file upload per request."))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// Some browsers send the whole path.
fn last_part(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}

fn too_large() -> S3Error {
    let message = "Your POST request fields preceding the upload file were too large.";
    invalid("MaxPostPreDataLengthExceeded", message)
}

impl S3Front {
    pub(super) async fn post_form<B>(
        &self,
        parts: Parts,
        body: B,
        located: Option<S3Path>,
        outcome: &mut S3Outcome,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let answer = Box::pin(self.upload_form(parts, body, located, outcome)).await;
        answer.unwrap_or_else(error_response)
    }

    async fn upload_form<B>(
        &self,
        parts: Parts,
        body: B,
        located: Option<S3Path>,
        outcome: &mut S3Outcome,
    ) -> S3Result<Response<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(S3Path::Bucket { bucket }) = located else { return Err(method_not_allowed()) };
        outcome.operation = Some(OPERATION.to_owned());
        outcome.bucket = Some(bucket.to_string());
        let (mut form, file) = Form::read(&parts, body).await?;
        let key = form.get("key").filter(|key| !key.is_empty()).map(str::to_owned);
        let key = key.ok_or_else(|| {
            let message = "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.";
            invalid_argument(message)
        })?;
        form.fields.insert("bucket".to_owned(), bucket.to_string());
        let (caller, signed) = self.sender(&form).await?;
        let bounds = self.bounds(&form, signed.is_some())?;
        let request = put_request(&form, &bucket, &key, &parts)?;
        let facts = self.facts(&parts);
        let admitted = Admitted { caller, facts, signed, proof: Proof::None, length: None, bounds, is_form: true };
        let action = Action::read(&form);
        let frames = file.map(|piece| piece.map(Frame::data));
        let response = self.serve(request, StreamBody::new(frames), admitted, outcome).await;
        outcome.operation = Some(OPERATION.to_owned());
        if !response.status().is_success() {
            outcome.error = error_code(&response);
            return Ok(response);
        }
        Ok(action.answer(response, &self.url_of(&parts, &bucket, &key), &bucket, &key))
    }

    /// Who signed the form's policy; nobody, if it has none.
    async fn sender(&self, form: &Form) -> S3Result<(Caller, Option<Signed>)> {
        let old = form.get("awsaccesskeyid").is_some() || form.get("signature").is_some();
        if old {
            let message =
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
            return Err(invalid("InvalidRequest", message));
        }
        let presented = match Presented::from_form(|name| form.get(name)) {
            Ok(presented) => presented,
            Err(SignatureError::Missing) if form.get("policy").is_none() => return Ok((Caller::anonymous(), None)),
            Err(SignatureError::Missing) => {
                return Err(invalid_argument("Bucket POST must contain a field named 'X-Amz-Signature'."));
            }
            Err(error) => return Err(from_signature(error, true)),
        };
        let policy =
            form.get("policy").ok_or_else(|| invalid_argument("Bucket POST must contain a field named 'policy'."))?;
        let verify = |key: &SigningKey| presented.verify_policy(policy, key);
        let (caller, _) = self.authenticate(&presented, true, verify).await?;
        let signed =
            Signed { place: SignaturePlace::Form, at: presented.signed_at, payload: "UNSIGNED-PAYLOAD".to_owned() };
        Ok((caller, Some(signed)))
    }

    /// Checks the form against its policy; gives the least and most bytes of its file.
    fn bounds(&self, form: &Form, signed: bool) -> S3Result<Option<(u64, u64)>> {
        let Some(policy) = form.get("policy") else { return Ok(None) };
        if !signed {
            return Err(access_denied());
        }
        let decoded = STANDARD.decode(policy.trim());
        let json = decoded.map_err(|_| invalid("InvalidPolicyDocument", "Invalid Policy: Invalid Base64."))?;
        let policy = PostPolicy::parse(&json).map_err(from_domain)?;
        policy.check(&form.fields, self.now()).map_err(from_domain)?;
        Ok(policy.size)
    }
}

/// The PUT that a form stands for.
fn put_request(form: &Form, bucket: &str, key: &str, form_parts: &Parts) -> S3Result<Parts> {
    let mut request = Request::builder().method(Method::PUT).uri(address::path_of(bucket, key));
    for (name, value) in &form.fields {
        let renamed = RENAMED.iter().find(|(field, _)| field == name).map(|(_, header)| *header);
        let same = HEADERS.contains(&name.as_str()) || HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let Some(header) = renamed.or_else(|| same.then_some(name.as_str())) else { continue };
        let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| invalid_argument(format!("The value of the field {header} is not printable")))?;
        request = request.header(name, value);
    }
    if let Some(document) = form.get("tagging") {
        request = request.header("x-amz-tagging", tags_of(document)?);
    }
    let unreadable = |_| invalid("InvalidURI", "Couldn't parse the specified URI.");
    let (mut parts, ()) = request.body(()).map_err(unreadable)?.into_parts();
    parts.extensions = form_parts.extensions.clone();
    Ok(parts)
}

/// Tags of a form stand in a document; those of a PUT in a query.
fn tags_of(document: &str) -> S3Result<String> {
    let mut reader = s3s::xml::Deserializer::new(document.as_bytes());
    let tagging = <s3s::dto::Tagging as s3s::xml::Deserialize>::deserialize(&mut reader);
    let tagging = tagging.map_err(|_| super::error::malformed_xml())?;
    let encode = |text: Option<String>| utf8_percent_encode(&text.unwrap_or_default(), NON_ALPHANUMERIC).to_string();
    let pair = |tag: s3s::dto::Tag| format!("{}={}", encode(tag.key), encode(tag.value));
    Ok(tagging.tag_set.into_iter().map(pair).collect::<Vec<_>>().join("&"))
}

/// How a form wants to be answered.
enum Action {
    Redirect(String),
    Status(StatusCode),
}

impl Action {
    fn read(form: &Form) -> Self {
        let target = form.get("success_action_redirect").or_else(|| form.get("redirect"));
        let is_url =
            |url: &&str| url.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        if let Some(url) = target.filter(is_url) {
            return Self::Redirect(url.to_owned());
        }
        match form.get("success_action_status") {
            Some("200") => Self::Status(StatusCode::OK),
            Some("201") => Self::Status(StatusCode::CREATED),
            _ => Self::Status(StatusCode::NO_CONTENT),
        }
    }

    fn answer(&self, mut response: Response<Body>, location: &str, bucket: &str, key: &str) -> Response<Body> {
        let etag = response.headers().get(ETAG).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let status = match self {
            Self::Redirect(url) => {
                let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                let joint = if url.contains('?') { '&' } else { '?' };
                let target =
                    format!("{url}{joint}bucket={}&key={}&etag={}", encode(bucket), encode(key), encode(&etag));
                put(&mut response, LOCATION, &target);
                StatusCode::SEE_OTHER
            }
            Self::Status(status) => {
                put(&mut response, LOCATION, location);
                *status
            }
        };
        *response.status_mut() = status;
        let text = if status == StatusCode::CREATED {
            put(&mut response, CONTENT_TYPE, "application/xml");
            let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location><Bucket>{bucket}</Bucket><Key>{}</Key><ETag>{}</ETag></PostResponse>",
                escape(location),
                escape(key),
                escape(&etag)
            )
        } else {
            String::new()
        };
        *response.body_mut() = Body::from(text);
        response
    }
}

fn put(response: &mut Response<Body>, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}
