//! A service of one's own, and a client that signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use terroir_iam::ops::{
    About, Holder, KeyOwner, NewAccount, create_access_key, create_account, create_user, put_inline_policy,
};
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, string_to_sign};
use terroir_iam::{Iam, RequestFacts};
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::budget::{DiskBudget, Unlimited};
use terroir_object_storage::data_keys::DataKeys;
use terroir_object_storage::lifecycle::{Day, Lifecycle};
use terroir_object_storage::{S3Front, S3Options, S3Outcome, s3_service};
use terroir_store::Store;
use terroir_types::{AccountId, Clock, IdSource, ManualClock, OsRandom, SystemClock, Timestamp};

pub const REGION: &str = "eu-test-1";
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// How often a test repeats itself: `full` times with `TERROIR_FULL=1`.
pub fn count(short: u32, full: u32) -> u32 {
    if std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1") { full } else { short }
}

/// Objects in a folder, with as much room as there is.
pub async fn backend_in(folder: &std::path::Path) -> LocalBackend {
    let clock = Arc::new(SystemClock);
    LocalBackend::open(folder, clock, Arc::new(OsRandom), Arc::new(Unlimited)).await.unwrap()
}

/// A disk that is full when a test says so.
#[derive(Default)]
pub struct Switch(pub AtomicBool);

impl DiskBudget for Switch {
    fn admit(&self, _bytes: u64) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

pub struct World {
    pub front: S3Front,
    pub iam: Iam,
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub backend: LocalBackend,
    pub full: Arc<Switch>,
    pub account: AccountId,
    pub strange_account: AccountId,
    pub root: Client,
    /// Root of another account.
    pub stranger: Client,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with_data_keys(None).await
    }

    /// `data_keys`: what SSE-KMS has its keys from.
    pub async fn with_data_keys(data_keys: Option<Arc<dyn DataKeys>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::in_memory_for_tests().await;
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-24T05:00:00Z").unwrap()));
        let ids: Arc<dyn IdSource> = Arc::new(OsRandom);
        let full = Arc::new(Switch::default());
        let backend = LocalBackend::open(
            &dir.path().join("objects"),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::clone(&ids),
            Arc::clone(&full) as Arc<dyn DiskBudget>,
        )
        .await
        .unwrap();
        let iam = Iam::new(store.clone(), Arc::clone(&clock) as Arc<dyn Clock>, Arc::clone(&ids));
        let front = s3_service(S3Options {
            iam: iam.clone(),
            backend: Arc::new(backend.clone()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ids,
            region: REGION.to_owned(),
            domains: vec!["s3.test".to_owned()],
            website_domains: vec!["website.test".to_owned()],
            new_buckets: Default::default(),
            lifecycle_day: Day::default(),
            data_keys,
        })
        .await
        .unwrap();
        let mut roots = Vec::new();
        for name in ["own", "strange"] {
            let now = clock.now();
            let made = store.transact(&[], |txn| create_account(txn, name, &OsRandom, now)).await.unwrap().0;
            roots.push(made);
        }
        let client = |made: &NewAccount| Client {
            front: front.clone(),
            clock: Arc::clone(&clock),
            access_key: made.access_key_id.clone(),
            secret: made.secret.expose().clone(),
            token: None,
            from: None,
        };
        let (root, stranger) = (client(&roots[0]), client(&roots[1]));
        let (account, strange_account) = (roots[0].account_id, roots[1].account_id);
        Self { front, iam, store, clock, backend, full, account, strange_account, root, stranger, dir }
    }

    /// A world with the bucket `bucket`.
    pub async fn with_bucket() -> Self {
        let world = Self::new().await;
        world.root.put("/bucket").send().await.expect(200, "the bucket");
        world
    }

    /// A user of the account with one inline policy.
    pub async fn user(&self, name: &str, policy: &str) -> Client {
        self.user_of(self.account, name, policy).await
    }

    /// The same of the other account.
    pub async fn stranger_user(&self, name: &str, policy: &str) -> Client {
        self.user_of(self.strange_account, name, policy).await
    }

    async fn user_of(&self, account: AccountId, name: &str, policy: &str) -> Client {
        let now = self.clock.now();
        let tags = Default::default();
        let make = |txn: &mut terroir_store::Txn| {
            let about = About { name, path: None, description: None, tags: &tags };
            create_user(txn, account, about, &OsRandom, now)?;
            put_inline_policy(txn, account, Holder::User(name), "inline", policy)?;
            create_access_key(txn, account, KeyOwner::User(name), &OsRandom, now)
        };
        let ((key, secret), _) = self.store.transact(&[], make).await.unwrap();
        Client { access_key: key.id, secret: secret.expose().clone(), ..self.root.clone() }
    }

    /// The worker of lifecycle rules, which looks when it is told.
    pub fn lifecycle(&self) -> Lifecycle {
        let (backend, clock) = (Arc::new(self.backend.clone()), Arc::clone(&self.clock));
        Lifecycle::new(self.store.clone(), backend, clock as Arc<dyn Clock>, Day::default())
    }

    /// Files that hold bytes of objects or parts.
    pub fn files(&self) -> usize {
        let folders = std::fs::read_dir(self.dir.path().join("objects/files")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }

    pub async fn files_become(&self, wanted: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.files() != wanted {
            assert!(Instant::now() < deadline, "{} files, wanted {wanted}", self.files());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[derive(Clone)]
pub struct Client {
    pub front: S3Front,
    pub clock: Arc<ManualClock>,
    pub access_key: String,
    pub secret: String,
    pub token: Option<String>,
    /// The address that requests come from, over plain HTTP; none: not known.
    pub from: Option<&'static str>,
}

macro_rules! methods {
    ($($name:ident $method:ident),*) => {
        $(pub fn $name(&self, target: &str) -> Call { Call::new(self.clone(), Method::$method, target) })*
    };
}

impl Client {
    methods!(get GET, put PUT, head HEAD, delete DELETE, post POST);
}

/// A request that is being put together. Its target's path and query are encoded already.
#[derive(Clone)]
pub struct Call {
    pub client: Client,
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `x-amz-content-sha256`; none: computed.
    pub payload: Option<String>,
    pub region: String,
    pub signed_at: Timestamp,
    pub length: bool,
}

impl Call {
    fn new(client: Client, method: Method, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("127.0.0.1:9000"))]),
            body: Bytes::new(),
            payload: None,
            region: REGION.to_owned(),
            signed_at: client.clock.now(),
            client,
            length: true,
        }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.as_ref()).unwrap());
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A body with its MD5.
    pub fn proven(self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let md5 = STANDARD.encode(<md5::Md5 as md5::Digest>::digest(&body));
        self.header("content-md5", md5).body(body)
    }

    pub fn payload(mut self, payload: &str) -> Self {
        self.payload = Some(payload.to_owned());
        self
    }

    fn scope(&self) -> Scope {
        let date = self.signed_at.to_amz_date()[..8].to_owned();
        Scope { date, region: self.region.clone(), service: "s3".into() }
    }

    fn key(&self) -> SigningKey {
        SigningKey::derive(&self.client.secret, &self.scope())
    }

    fn signature(&self, request: &Request<()>, signed: &[String], payload: &str) -> String {
        let (parts, ()) = request.clone().into_parts();
        let canonical = canonical_request(&parts, signed, payload, PathRule::Single).unwrap();
        self.key().sign(&string_to_sign(self.signed_at, &self.scope(), &canonical))
    }

    /// Signs the headers; gives the request and its signature.
    pub fn sign(&self) -> (Request<()>, String) {
        let mut request = Request::builder().method(self.method.clone()).uri(&self.target).body(()).unwrap();
        *request.headers_mut() = self.headers.clone();
        let payload = self.payload.clone().unwrap_or_else(|| hex::encode(Sha256::digest(&self.body)));
        let headers = request.headers_mut();
        headers.insert("x-amz-content-sha256", payload.parse().unwrap());
        headers.insert("x-amz-date", self.signed_at.to_amz_date().parse().unwrap());
        if let Some(token) = &self.client.token {
            headers.insert("x-amz-security-token", token.parse().unwrap());
        }
        if self.length && (!self.body.is_empty() || self.method == Method::PUT || self.method == Method::POST) {
            headers.entry("content-length").or_insert(HeaderValue::from(self.body.len()));
        }
        let mut signed: Vec<String> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        signed.retain(|name| name != "content-length");
        signed.sort();
        let signature = self.signature(&request, &signed, &payload);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.client.access_key,
            self.scope(),
            signed.join(";")
        );
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        (request, signature)
    }

    /// The same as a URL that carries the signature.
    pub fn presign(&self, seconds: u64) -> Request<()> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={}&X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
            encode(&format!("{}/{}", self.client.access_key, self.scope())),
            self.signed_at.to_amz_date(),
        );
        if let Some(token) = &self.client.token {
            query += &format!("&X-Amz-Security-Token={}", encode(token));
        }
        let joint = if self.target.contains('?') { '&' } else { '?' };
        let unsigned = format!("{}{joint}{query}", self.target);
        let mut request = Request::builder().method(self.method.clone()).uri(&unsigned).body(()).unwrap();
        *request.headers_mut() = self.headers.clone();
        let signature = self.signature(&request, &["host".to_owned()], UNSIGNED);
        *request.uri_mut() = format!("{unsigned}&X-Amz-Signature={signature}").parse().unwrap();
        if !self.body.is_empty() {
            request.headers_mut().insert("content-length", HeaderValue::from(self.body.len()));
        }
        request
    }

    /// An access key that is empty signs nothing.
    pub async fn send(self) -> Answer {
        let (mut request, _) = self.sign();
        if self.client.access_key.is_empty() {
            request.headers_mut().remove("authorization");
            request.headers_mut().remove("x-amz-date");
        }
        if let Some(address) = self.client.from {
            let facts = RequestFacts {
                source_ip: Some(address.parse().unwrap()),
                now: self.client.clock.now(),
                region: REGION.to_owned(),
                ..RequestFacts::default()
            };
            request.extensions_mut().insert(facts);
        }
        send(&self.client.front, request.map(|()| Full::new(self.body.clone()))).await
    }

    /// Sends the body as `aws-chunked`, in chunks of `size`, with one trailing header perhaps.
    pub async fn send_chunked(mut self, size: usize, signed: bool, trailer: Option<(&str, &str)>) -> Answer {
        let kind = match (signed, trailer) {
            (true, None) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (true, Some(_)) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (false, _) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        };
        let plain = std::mem::take(&mut self.body);
        self.length = false;
        if !self.headers.contains_key("x-amz-decoded-content-length") {
            self = self.header("x-amz-decoded-content-length", plain.len().to_string());
        }
        self = self.header("content-encoding", "aws-chunked").payload(kind);
        if let Some((name, _)) = trailer {
            self = self.header("x-amz-trailer", name);
        }
        let (mut request, mut previous) = self.sign();
        let sign = |kind: &str, rest: String, previous: &str| {
            let head = format!("AWS4-HMAC-SHA256-{kind}\n{}\n{}", self.signed_at.to_amz_date(), self.scope());
            self.key().sign(&format!("{head}\n{previous}\n{rest}"))
        };
        let hash = |data: &[u8]| hex::encode(Sha256::digest(data));
        let mut body = Vec::new();
        for chunk in plain.chunks(size).chain(std::iter::once(&[][..])) {
            body.extend(format!("{:x}", chunk.len()).bytes());
            if signed {
                previous = sign("PAYLOAD", format!("{}\n{}", hash(b""), hash(chunk)), &previous);
                body.extend(format!(";chunk-signature={previous}").bytes());
            }
            body.extend(b"\r\n");
            body.extend(chunk);
            if !chunk.is_empty() {
                body.extend(b"\r\n");
            }
        }
        if let Some((name, value)) = trailer {
            body.extend(format!("{name}:{value}\r\n").bytes());
            if signed {
                let signature = sign("TRAILER", hash(format!("{name}:{value}\n").as_bytes()), &previous);
                body.extend(format!("x-amz-trailer-signature:{signature}\r\n").bytes());
            }
        }
        body.extend(b"\r\n");
        request.headers_mut().insert("content-length", HeaderValue::from(body.len()));
        send(&self.client.front, request.map(|()| Full::new(Bytes::from(body)))).await
    }
}

pub async fn send<B>(front: &S3Front, request: Request<B>) -> Answer
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = front.call(request).await;
    let outcome = response.extensions().get::<S3Outcome>().cloned().unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { what, status: parts.status, headers: parts.headers, body, outcome }
}

#[derive(Debug)]
pub struct Answer {
    pub what: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub outcome: S3Outcome,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What stands between the first `<name>` and `</name>`.
    pub fn field(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn code(&self) -> String {
        self.field("Code").unwrap_or_default()
    }

    #[track_caller]
    pub fn expect(self, status: u16, why: &str) -> Self {
        assert_eq!(self.status.as_u16(), status, "{why}: {}: {}", self.what, self.text());
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str, why: &str) -> Self {
        assert_eq!(
            (self.status.as_u16(), self.code().as_str()),
            (status, code),
            "{why}: {}: {}",
            self.what,
            self.text()
        );
        assert_eq!(self.outcome.error.as_deref(), Some(code), "{why}: the outcome for the audit log");
        assert!(self.field("RequestId").is_some_and(|id| id == self.header("x-amz-request-id")), "{why}");
        self
    }
}
