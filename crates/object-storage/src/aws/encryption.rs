//! Server-side encryption in requests and answers, and who gets at the bytes of what is encrypted.
//!
//! Source: "Protecting data with server-side encryption" of the S3 user guide, and the headers of the operations.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use md5::{Digest, Md5};
use s3s::{S3Error, S3Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use terroir_iam::RequestFacts;
use terroir_types::{Arn, Error, ErrorClass};
use zeroize::Zeroizing;

use super::error::{access_denied, from_domain, invalid, invalid_argument, not_implemented, s3};
use super::front::RequestScope;
use super::service::S3Api;
use crate::backend::{ByteStream, Content, ObjectHead, OpenObject, PartOfObject, Place, Sealing, Upload};
use crate::data_keys::KeyUse;
use crate::encryption::keys::{self, StoreKey};
use crate::encryption::{self, DataKey, DefaultEncryption, DefaultMethod, Encryption, KmsMethod, Method, Sealer};
use crate::model::Bucket;
use crate::settings;

const METHOD: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CONTEXT: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
pub(super) const AES256: &str = "AES256";
pub(super) const AWS_KMS: &str = "aws:kms";
pub(super) const AWS_KMS_DSSE: &str = "aws:kms:dsse";

/// The three headers of a key that the client brings.
struct CustomerHeaders {
    algorithm: &'static str,
    key: &'static str,
    md5: &'static str,
}

const OF_OBJECT: CustomerHeaders = CustomerHeaders {
    algorithm: "x-amz-server-side-encryption-customer-algorithm",
    key: "x-amz-server-side-encryption-customer-key",
    md5: "x-amz-server-side-encryption-customer-key-md5",
};
const OF_SOURCE: CustomerHeaders = CustomerHeaders {
    algorithm: "x-amz-copy-source-server-side-encryption-customer-algorithm",
    key: "x-amz-copy-source-server-side-encryption-customer-key",
    md5: "x-amz-copy-source-server-side-encryption-customer-key-md5",
};

/// A key that the client brings (SSE-C).
pub(super) struct CustomerKey {
    key: Zeroizing<[u8; 32]>,
    /// As the client wrote it.
    md5: String,
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> S3Result<Option<&'h str>> {
    let printable = |value: &'h HeaderValue| {
        value.to_str().map_err(|_| invalid_argument(format!("The header {name} is not printable")))
    };
    headers.get(name).map(printable).transpose()
}

impl CustomerKey {
    /// The key for the object that the request names.
    ///
    /// # Errors
    /// `InvalidArgument`, `InvalidEncryptionAlgorithmError`; `InvalidRequest` over plain HTTP from elsewhere.
    pub(super) fn read(headers: &HeaderMap, facts: &RequestFacts) -> S3Result<Option<Self>> {
        Self::read_from(headers, &OF_OBJECT, facts)
    }

    /// The key for the source of a copy.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn of_source(headers: &HeaderMap, facts: &RequestFacts) -> S3Result<Option<Self>> {
        Self::read_from(headers, &OF_SOURCE, facts)
    }

    fn read_from(headers: &HeaderMap, names: &CustomerHeaders, facts: &RequestFacts) -> S3Result<Option<Self>> {
        let (algorithm, key, md5) =
            (text(headers, names.algorithm)?, text(headers, names.key)?, text(headers, names.md5)?);
        if algorithm.is_none() && key.is_none() && md5.is_none() {
            return Ok(None);
        }
        let lacks = |what| {
            let message =
                format!("Requests specifying Server Side Encryption with Customer provided keys must provide {what}.");
            Err(invalid_argument(message))
        };
        if !facts.secure && !facts.source_ip.is_some_and(|address| address.to_canonical().is_loopback()) {
            let message = "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection.";
            return Err(invalid("InvalidRequest", message));
        }
        let (algorithm, key, md5) = match (algorithm, key, md5) {
            (None, ..) => return lacks("a valid encryption algorithm"),
            (_, None, _) => return lacks("an appropriate secret key"),
            (.., None) => return lacks("the client calculated MD5 of the secret key"),
            (Some(algorithm), Some(key), Some(md5)) => (algorithm, key, md5),
        };
        if algorithm != AES256 {
            let message = "The encryption request that you specified is not valid. The valid value is AES256.";
            return Err(invalid("InvalidEncryptionAlgorithmError", message));
        }
        let decoded = STANDARD.decode(key).map(Zeroizing::new).unwrap_or_default();
        let Ok(key) = <[u8; 32]>::try_from(decoded.as_slice()) else {
            return Err(invalid_argument("The secret key was invalid for the specified algorithm."));
        };
        let key = Zeroizing::new(key);
        if STANDARD.encode(Md5::digest(*key)) != md5 {
            let message = "The calculated MD5 hash of the key did not match the hash that was provided.";
            return Err(invalid_argument(message));
        }
        Ok(Some(Self { key, md5: md5.to_owned() }))
    }
}

/// What a request asks for the bytes that it writes.
pub(super) enum Asked {
    /// What the bucket says.
    Nothing,
    S3,
    Kms {
        key: Option<String>,
        context: BTreeMap<String, String>,
        bucket_key: Option<bool>,
    },
    Customer(CustomerKey),
}

impl Asked {
    /// # Errors
    /// `InvalidArgument`, `NotImplemented` for two layers, and those of [`CustomerKey::read`].
    pub(super) fn read(headers: &HeaderMap, facts: &RequestFacts) -> S3Result<Self> {
        let (method, key, context) = (text(headers, METHOD)?, text(headers, KMS_KEY)?, text(headers, CONTEXT)?);
        let customer = CustomerKey::read(headers, facts)?;
        let of_kms = key.is_some() || context.is_some();
        match (method, customer) {
            (Some(_), Some(_)) => {
                let message = "Server Side Encryption with Customer provided key is incompatible with the encryption method specified";
                Err(invalid_argument(message))
            }
            (Some(AWS_KMS_DSSE), None) => Err(not_implemented("two layers of encryption (aws:kms:dsse)")),
            (Some(AWS_KMS), None) => Ok(Self::Kms {
                key: key.filter(|key| !key.is_empty()).map(str::to_owned),
                context: context.map(parse_context).transpose()?.unwrap_or_default(),
                bucket_key: text(headers, BUCKET_KEY)?.map(parse_flag).transpose()?,
            }),
            (Some(other), None) if other != AES256 => {
                Err(invalid_argument("The encryption method specified is not supported"))
            }
            _ if of_kms => {
                let message = "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms";
                Err(invalid_argument(message))
            }
            (Some(_), None) => Ok(Self::S3),
            (None, Some(key)) => Ok(Self::Customer(key)),
            (None, None) => Ok(Self::Nothing),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn customer(&self) -> Option<&CustomerKey> {
        match self {
            Self::Customer(key) => Some(key),
            _ => None,
        }
    }
}

fn parse_flag(text: &str) -> S3Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid_argument(format!("The header {BUCKET_KEY} must be true or false"))),
    }
}

fn parse_context(text: &str) -> S3Result<BTreeMap<String, String>> {
    let json = STANDARD.decode(text).ok();
    let context = json.and_then(|json| serde_json::from_slice::<BTreeMap<String, String>>(&json).ok());
    let context = context.filter(|context| !context.keys().any(|name| name.starts_with("aws:")));
    context.ok_or_else(|| {
        let message = format!(
            "The header '{CONTEXT}' shall be Base64-encoded UTF-8 string holding JSON which represents a string-string map"
        );
        invalid_argument(message)
    })
}

/// Reads are told nothing of methods and keys of KMS: what is there decides.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn refuse_on_read(headers: &HeaderMap) -> S3Result<()> {
    match [METHOD, KMS_KEY, CONTEXT, BUCKET_KEY].into_iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(invalid_argument(format!("{name} header is not supported for this operation."))),
        None => Ok(()),
    }
}

/// What an answer says of an encryption.
pub(super) fn shown(encryption: Option<&Encryption>, given: Option<&CustomerKey>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut say = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    match encryption.map(|encryption| &encryption.method) {
        None => {}
        Some(Method::S3) => say(METHOD, AES256),
        Some(Method::Kms(method)) => {
            say(METHOD, AWS_KMS);
            say(KMS_KEY, &method.key);
            if method.bucket_key {
                say(BUCKET_KEY, "true");
            }
        }
        Some(Method::Customer) => {
            if let Some(given) = given {
                say(OF_OBJECT.algorithm, AES256);
                say(OF_OBJECT.md5, &given.md5);
            }
        }
    }
    headers
}

/// How something that is written is encrypted.
pub(super) struct Seals {
    pub encryption: Encryption,
    key: DataKey,
    /// What the answer says.
    pub headers: HeaderMap,
}

/// Who writes or reads where.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub scope: &'a RequestScope,
    pub bucket: &'a Bucket,
    pub place: &'a Place,
}

/// An object whose bytes can be had.
pub(super) struct Readable {
    pub head: ObjectHead,
    content: Arc<dyn Content>,
    key: Option<DataKey>,
}

impl Readable {
    pub(super) fn parts(&self) -> &[PartOfObject] {
        self.content.parts()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn stream(&self, range: Range<u64>) -> ByteStream {
        let Some(key) = &self.key else { return self.content.stream(range) };
        let sizes: Vec<_> = match self.parts() {
            [] => vec![self.head.size],
            parts => parts.iter().map(|part| part.size).collect(),
        };
        encryption::body::open(Arc::clone(&self.content), key.clone(), &sizes, &range)
    }
}

fn wrong_key() -> S3Error {
    access_denied()
}

/// Of a part or a completion, whose key is not the upload's.
fn other_parameters() -> S3Error {
    let message = "The provided encryption parameters did not match the ones used originally.";
    invalid("InvalidRequest", message)
}

/// Whether a key was given exactly if one is needed.
///
/// # Errors
/// `InvalidRequest`.
fn check_given(encryption: Option<&Encryption>, given: bool) -> S3Result<()> {
    let of_customer = encryption.is_some_and(|encryption| encryption.method == Method::Customer);
    let message = match (of_customer, given) {
        (true, false) => {
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
        }
        (false, true) => "The encryption parameters are not applicable to this object.",
        _ => return Ok(()),
    };
    Err(invalid("InvalidRequest", message))
}

fn from_kms(error: Error) -> S3Error {
    match error.class() {
        ErrorClass::Denied => s3("AccessDenied", StatusCode::FORBIDDEN, error.message()),
        ErrorClass::Unavailable | ErrorClass::Capacity | ErrorClass::Internal | ErrorClass::Throttled => {
            from_domain(error)
        }
        // What was stored with the object does not open: not the client's doing.
        _ if error.code() == "InvalidCiphertextException" => from_domain(Error::internal(error)),
        _ => invalid(&format!("KMS.{}", error.code()), error.message()),
    }
}

impl S3Api {
    fn no_key_service(&self, scope: &RequestScope, key: Option<&str>) -> S3Error {
        let (region, account) = (self.region(), scope.caller.account);
        let arn = match key {
            Some(arn) if arn.starts_with("arn:") => arn.to_owned(),
            Some(alias) if alias.starts_with("alias/") => format!("arn:aws:kms:{region}:{account}:{alias}"),
            Some(id) => format!("arn:aws:kms:{region}:{account}:key/{id}"),
            None => format!("arn:aws:kms:{region}:{account}:alias/aws/s3"),
        };
        invalid("KMS.NotFoundException", format!("Key '{arn}' does not exist"))
    }

    pub(super) fn default_encryption(&self, bucket: &Bucket) -> S3Result<Option<DefaultEncryption>> {
        settings::peek(&self.iam().store().stale(), bucket.id).map_err(from_domain)
    }

    /// How a new object or a new upload is encrypted: as the request says, else as the bucket does.
    ///
    /// # Errors
    /// KMS's, with S3's codes for them.
    pub(super) async fn new_seals(&self, scene: Scene<'_>, asked: &Asked) -> S3Result<Option<Seals>> {
        let standard = if asked.is_nothing() { self.default_encryption(scene.bucket)? } else { None };
        match (asked, standard) {
            (Asked::Nothing, None) => Ok(None),
            (Asked::Nothing, Some(DefaultEncryption { method: DefaultMethod::Kms(key), bucket_key })) => {
                self.kms_seals(scene, key.as_deref(), BTreeMap::new(), bucket_key == Some(true)).await.map(Some)
            }
            (Asked::S3, _) | (Asked::Nothing, Some(_)) => self.store_seals(scene).await.map(Some),
            (Asked::Kms { key, context, bucket_key }, _) => {
                // A key is named by the request or not at all; only the flag may be the bucket's.
                let flag = match bucket_key {
                    Some(flag) => *flag,
                    None => self.default_encryption(scene.bucket)?.and_then(|set| set.bucket_key) == Some(true),
                };
                self.kms_seals(scene, key.as_deref(), context.clone(), flag).await.map(Some)
            }
            (Asked::Customer(customer), _) => {
                let key = DataKey::random(self.ids());
                let wrapped = keys::wrap(&customer.key, &key, scene.place, self.ids());
                let encryption = Encryption { method: Method::Customer, wrapped };
                let headers = shown(Some(&encryption), asked.customer());
                Ok(Some(Seals { encryption, key, headers }))
            }
        }
    }

    /// With the store's key.
    pub(super) async fn store_seals(&self, scene: Scene<'_>) -> S3Result<Seals> {
        let under = self.store_key().await.map_err(from_domain)?;
        let key = DataKey::random(self.ids());
        let wrapped = keys::wrap_under_store_key(&under, &key, scene.place, self.ids());
        let encryption = Encryption { method: Method::S3, wrapped };
        let headers = shown(Some(&encryption), None);
        Ok(Seals { encryption, key, headers })
    }

    async fn store_key(&self) -> Result<Arc<StoreKey>, Error> {
        keys::for_new_objects(self.iam().store(), self.ids(), self.clock().now()).await
    }

    async fn kms_seals(
        &self,
        scene: Scene<'_>,
        key: Option<&str>,
        context: BTreeMap<String, String>,
        bucket_key: bool,
    ) -> S3Result<Seals> {
        let service = self.data_keys().ok_or_else(|| self.no_key_service(scene.scope, key))?;
        let mut method = KmsMethod { key: String::new(), context, bucket_key };
        let bound = bound_context(scene, &method);
        let using = KeyUse { caller: &scene.scope.caller, via: "s3", context: &bound };
        let made = service.generate(key, using).await.map_err(from_kms)?;
        method.key = made.key.to_string();
        let key = DataKey::new(Zeroizing::new(*made.plaintext.expose()));
        let encryption = Encryption { method: Method::Kms(method.clone()), wrapped: made.blob };
        let mut headers = shown(Some(&encryption), None);
        if !method.context.is_empty() {
            let json = serde_json::to_vec(&method.context).unwrap_or_default();
            headers.extend(STANDARD.encode(json).parse().map(|value| (HeaderName::from_static(CONTEXT), value)));
        }
        Ok(Seals { encryption, key, headers })
    }

    /// The data key of what is encrypted. `given`: there exactly if it is the client's own key that is needed.
    async fn data_key(
        &self,
        scene: Scene<'_>,
        encryption: &Encryption,
        given: Option<&CustomerKey>,
    ) -> S3Result<DataKey> {
        match &encryption.method {
            Method::S3 => {
                let txn = self.iam().store().stale();
                keys::unwrap_under_store_key(&txn, &encryption.wrapped, scene.place).map_err(from_domain)
            }
            Method::Customer => {
                let opened = given.and_then(|given| keys::unwrap(&given.key, &encryption.wrapped, scene.place));
                opened.ok_or_else(wrong_key)
            }
            Method::Kms(method) => {
                let service = self.data_keys().ok_or_else(|| self.no_key_service(scene.scope, Some(&method.key)))?;
                let context = bound_context(scene, method);
                let using = KeyUse { caller: &scene.scope.caller, via: "s3", context: &context };
                let plain = service.open(&encryption.wrapped, using).await.map_err(from_kms)?;
                Ok(DataKey::new(Zeroizing::new(*plain.expose())))
            }
        }
    }

    /// An object with what its bytes are opened with.
    ///
    /// # Errors
    /// `InvalidRequest` if a key is needed or must not be given, `AccessDenied` if it is another one, KMS's.
    pub(super) async fn readable(
        &self,
        scene: Scene<'_>,
        object: OpenObject,
        given: Option<&CustomerKey>,
    ) -> S3Result<Readable> {
        let encryption = object.head.meta.encryption.as_deref();
        check_given(encryption, given.is_some())?;
        let key = match encryption {
            Some(encryption) => Some(self.data_key(scene, encryption, given).await?),
            None => None,
        };
        Ok(Readable { head: object.head, content: object.content.into(), key })
    }

    /// Whether who asks about an object has brought the key that it needs. Other methods need none for that.
    ///
    /// # Errors
    /// As [`Self::readable`].
    pub(super) async fn check_key(
        &self,
        scene: Scene<'_>,
        head: &ObjectHead,
        given: Option<&CustomerKey>,
    ) -> S3Result<()> {
        let encryption = head.meta.encryption.as_deref();
        check_given(encryption, given.is_some())?;
        match encryption.filter(|encryption| encryption.method == Method::Customer) {
            Some(encryption) => self.data_key(scene, encryption, given).await.map(drop),
            None => Ok(()),
        }
    }

    /// How a part is encrypted: as its upload says.
    ///
    /// # Errors
    /// `InvalidRequest` without the upload's key, `InvalidArgument` for a method that the upload does not have.
    pub(super) async fn part_seals(
        &self,
        scene: Scene<'_>,
        upload: &Upload,
        headers: &HeaderMap,
    ) -> S3Result<Option<Seals>> {
        let given = CustomerKey::read(headers, &scene.scope.facts)?;
        let Some(encryption) = &upload.new.meta.encryption else {
            refuse_on_read(headers)?;
            return if given.is_some() { Err(other_parameters()) } else { Ok(None) };
        };
        let of_customer = encryption.method == Method::Customer;
        if of_customer && given.is_none() {
            let message = "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters.";
            return Err(invalid("InvalidRequest", message));
        }
        if of_customer {
            refuse_on_read(headers)?;
        } else if given.is_some() {
            return Err(other_parameters());
        }
        let key = self.data_key(scene, encryption, given.as_ref()).await;
        let key = key.map_err(|error| if of_customer { other_parameters() } else { error })?;
        let headers = shown(Some(encryption), given.as_ref());
        Ok(Some(Seals { encryption: Encryption::clone(encryption), key, headers }))
    }

    /// Whether who completes an upload has its key.
    ///
    /// # Errors
    /// `InvalidRequest`.
    pub(super) async fn check_completion(
        &self,
        scene: Scene<'_>,
        upload: Option<&Upload>,
        headers: &HeaderMap,
    ) -> S3Result<()> {
        let given = CustomerKey::read(headers, &scene.scope.facts)?;
        let Some(upload) = upload else { return Ok(()) };
        let encryption = upload.new.meta.encryption.as_deref();
        let of_customer = encryption.filter(|encryption| encryption.method == Method::Customer);
        match (of_customer, &given) {
            (Some(encryption), Some(_)) => {
                let key = self.data_key(scene, encryption, given.as_ref()).await;
                key.map(drop).map_err(|_| other_parameters())
            }
            (Some(_), None) => check_given(encryption, false),
            (None, Some(_)) => Err(other_parameters()),
            (None, None) => Ok(()),
        }
    }

    pub(super) fn sealing(&self, seals: &Seals) -> Sealing {
        let sealer = Sealer::new(&seals.key, self.ids());
        // Only what the store encrypts by itself keeps the MD5 as its ETag, as in AWS.
        let etag_key = (seals.encryption.method != Method::S3).then(|| seals.key.clone());
        Sealing { sealer, etag_key }
    }
}

/// The whole encryption context.
fn bound_context(scene: Scene<'_>, method: &KmsMethod) -> BTreeMap<String, String> {
    let arn = if method.bucket_key {
        Arn::s3(scene.bucket.name())
    } else {
        Arn::s3(format_args!("{}/{}", scene.bucket.name(), scene.place.key))
    };
    let mut context = method.context.clone();
    context.insert("aws:s3:arn".to_owned(), arn.to_string());
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const KEY_MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";

    fn facts(address: Option<&str>, secure: bool) -> RequestFacts {
        let source_ip = address.map(|address| address.parse::<IpAddr>().unwrap());
        RequestFacts { source_ip, secure, ..RequestFacts::default() }
    }

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn code(rows: &[(&'static str, &str)]) -> String {
        match Asked::read(&headers(rows), &facts(Some("127.0.0.1"), false)) {
            Ok(Asked::Nothing) => "nothing".to_owned(),
            Ok(Asked::S3) => "s3".to_owned(),
            Ok(Asked::Kms { key, .. }) => format!("kms {key:?}"),
            Ok(Asked::Customer(_)) => "customer".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn what_requests_ask_for() {
        let (algorithm, key, md5) = (OF_OBJECT.algorithm, OF_OBJECT.key, OF_OBJECT.md5);
        let short = STANDARD.encode([1; 16]);
        let short_md5 = STANDARD.encode(Md5::digest([1; 16]));
        let rows: [(&[(&'static str, &str)], &str); 19] = [
            (&[], "nothing"),
            (&[(METHOD, "AES256")], "s3"),
            (&[(METHOD, "aws:kms")], "kms None"),
            (&[(METHOD, "aws:kms"), (KMS_KEY, "k")], "kms Some(\"k\")"),
            (&[(METHOD, "aws:kms:dsse")], "NotImplemented"),
            (&[(METHOD, "AES192")], "InvalidArgument"),
            (&[(METHOD, "AES256"), (KMS_KEY, "k")], "InvalidArgument"),
            (&[(KMS_KEY, "k")], "InvalidArgument"),
            (&[(METHOD, "aws:kms"), (CONTEXT, "bm8=")], "InvalidArgument"),
            (&[(METHOD, "aws:kms"), (CONTEXT, "eyJhd3M6eCI6InkifQ==")], "InvalidArgument"),
            (&[(METHOD, "aws:kms"), (BUCKET_KEY, "perhaps")], "InvalidArgument"),
            (&[(algorithm, "AES256"), (key, KEY), (md5, KEY_MD5)], "customer"),
            (&[(algorithm, "AES256"), (key, KEY), (md5, KEY_MD5), (METHOD, "AES256")], "InvalidArgument"),
            (&[(algorithm, "AES256"), (key, KEY)], "InvalidArgument"),
            (&[(algorithm, "AES256")], "InvalidArgument"),
            (&[(key, KEY), (md5, KEY_MD5)], "InvalidArgument"),
            (&[(algorithm, "AES128"), (key, KEY), (md5, KEY_MD5)], "InvalidEncryptionAlgorithmError"),
            (&[(algorithm, "AES256"), (key, KEY), (md5, "1B2M2Y8AsgTpgAmY7PhCfg==")], "InvalidArgument"),
            (&[(algorithm, "AES256"), (key, &short), (md5, &short_md5)], "InvalidArgument"),
        ];
        for (asked, expected) in rows {
            assert_eq!(code(asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn keys_over_plain_http_only_from_this_machine() {
        let given = headers(&[(OF_OBJECT.algorithm, "AES256"), (OF_OBJECT.key, KEY), (OF_OBJECT.md5, KEY_MD5)]);
        for (address, secure, taken) in [
            (Some("127.0.0.1"), false, true),
            (Some("::1"), false, true),
            (Some("::ffff:127.0.0.1"), false, true),
            (Some("192.0.2.1"), false, false),
            (Some("192.0.2.1"), true, true),
            (None, false, false),
        ] {
            let read = CustomerKey::read(&given, &facts(address, secure));
            assert_eq!(read.is_ok(), taken, "{address:?}, secure: {secure}");
        }
    }
}
