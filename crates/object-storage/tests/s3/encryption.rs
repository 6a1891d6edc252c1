//! Server-side encryption: with the client's keys, the store's and a key service's.

use crate::harness::{Call, Client, World};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terroir_object_storage::backend::MIN_PART_SIZE;
use terroir_object_storage::data_keys::{DataKey, DataKeys, KeyUse};
use terroir_types::{Arn, Error, ErrorClass, IdSource, OsRandom, Secret};

const METHOD: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CONTEXT: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
const KNOWN_KEY: &str = "arn:aws:kms:eu-test-1:000000000001:key/known";
const PART: usize = MIN_PART_SIZE as usize;

/// A key of the client's own, made of one byte.
fn with_key(call: Call, byte: u8) -> Call {
    with_key_named(call, "x-amz-server-side-encryption-customer-", byte)
}

fn with_source_key(call: Call, byte: u8) -> Call {
    with_key_named(call, "x-amz-copy-source-server-side-encryption-customer-", byte)
}

fn with_key_named(call: Call, prefix: &str, byte: u8) -> Call {
    call.header(&format!("{prefix}algorithm"), "AES256")
        .header(&format!("{prefix}key"), STANDARD.encode([byte; 32]))
        .header(&format!("{prefix}key-md5"), STANDARD.encode(Md5::digest([byte; 32])))
}

/// The root, asking from this machine.
fn near(world: &World) -> Client {
    Client { from: Some("127.0.0.1"), ..world.root.clone() }
}

fn md5_of(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(bytes)))
}

fn data(size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

/// Puts an object together of parts that `dress` gives its headers; the answer to the completion.
async fn upload(c: &Client, target: &str, parts: &[Vec<u8>], dress: impl Fn(Call) -> Call, on_parts: bool) -> Call {
    let begun = dress(c.post(&format!("{target}?uploads"))).send().await.expect(200, "begun");
    let id = begun.field("UploadId").unwrap();
    let mut listed = String::new();
    for (number, part) in (1..).zip(parts) {
        let call = c.put(&format!("{target}?partNumber={number}&uploadId={id}")).body(part.clone());
        let put = if on_parts { dress(call) } else { call };
        let put = put.send().await.expect(200, "a part");
        let etag = put.header("etag");
        listed += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let body = format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>");
    c.post(&format!("{target}?uploadId={id}")).body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_clients_key() {
    let world = World::with_bucket().await;
    let c = near(&world);
    for size in [0, 5, 100_000] {
        let (why, data) = (format!("{size} bytes"), data(size));
        let put = with_key(c.put("/bucket/k"), 1).body(data.clone()).send().await.expect(200, &why);
        assert_ne!(put.header("etag"), md5_of(&data), "{why}: the ETag says nothing of the bytes");
        assert_eq!(put.header("x-amz-server-side-encryption-customer-algorithm"), "AES256");
        assert_eq!(
            put.header("x-amz-server-side-encryption-customer-key-md5"),
            STANDARD.encode(Md5::digest([1; 32])),
            "{why}"
        );
        let read = with_key(c.get("/bucket/k"), 1).header("x-amz-checksum-mode", "ENABLED").send().await;
        let read = read.expect(200, &why);
        assert!(read.body == data && read.header("etag") == put.header("etag"), "{why}");
        assert!(!read.header("x-amz-checksum-crc64nvme").is_empty(), "{why}");
        assert_eq!(read.header("x-amz-server-side-encryption-customer-algorithm"), "AES256");
        let head = with_key(c.head("/bucket/k"), 1).send().await.expect(200, &why);
        assert_eq!(head.header("content-length"), size.to_string());

        c.get("/bucket/k").send().await.refused(400, "InvalidRequest", &why);
        c.head("/bucket/k").send().await.expect(400, &why);
        with_key(c.get("/bucket/k"), 2).send().await.refused(403, "AccessDenied", &why);
        with_key(c.head("/bucket/k"), 2).send().await.expect(403, &why);
        let attributes = || c.get("/bucket/k?attributes").header("x-amz-object-attributes", "ETag,ObjectSize");
        attributes().send().await.refused(400, "InvalidRequest", &why);
        with_key(attributes(), 2).send().await.refused(403, "AccessDenied", &why);
        let shown = with_key(attributes(), 1).send().await.expect(200, &why);
        assert_eq!(shown.field("ETag").unwrap(), put.header("etag").trim_matches('"'), "{why}");
        assert_eq!(shown.field("ObjectSize").unwrap(), size.to_string());
    }
    for (range, from, to) in [("bytes=0-0", 0, 1), ("bytes=65530-65540", 65_530, 65_541), ("bytes=-7", 99_993, 100_000)]
    {
        let part = with_key(c.get("/bucket/k"), 1).header("range", range).send().await.expect(206, range);
        assert!(part.body == data(100_000)[from..to], "{range}");
    }
    // The key is for what was encrypted with it only.
    c.put("/bucket/plain").body("x").send().await.expect(200, "plain");
    with_key(c.get("/bucket/plain"), 1).send().await.refused(400, "InvalidRequest", "a key too much");
    // From elsewhere it is not taken over plain HTTP, and not known from where is elsewhere.
    for from in [Some("192.0.2.1"), None] {
        let far = Client { from, ..world.root.clone() };
        with_key(far.put("/bucket/far"), 1).body("x").send().await.refused(400, "InvalidRequest", "plain HTTP");
        with_key(far.get("/bucket/k"), 1).send().await.refused(400, "InvalidRequest", "plain HTTP");
    }
    c.get("/bucket/far").send().await.refused(404, "NoSuchKey", "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_stores_key() {
    let world = World::with_bucket().await;
    let c = &world.root;
    for size in [0, 5, 32 << 10, 100_000, 1 << 20] {
        let (why, data) = (format!("{size} bytes"), data(size));
        let put = c.put("/bucket/k").header(METHOD, "AES256").body(data.clone()).send().await.expect(200, &why);
        assert_eq!((put.header("etag"), put.header(METHOD)), (md5_of(&data).as_str(), "AES256"), "{why}");
        let read = c.get("/bucket/k").send().await.expect(200, &why);
        assert!(read.body == data && read.header(METHOD) == "AES256", "{why}");
        let head = c.head("/bucket/k").send().await.expect(200, &why);
        assert_eq!((head.header("content-length"), head.header(METHOD)), (size.to_string().as_str(), "AES256"));
    }
    let listed = c.get("/bucket?list-type=2").send().await.expect(200, "listed");
    assert_eq!(listed.field("Size").unwrap(), (1 << 20).to_string(), "sizes are those of what came");
    c.get("/bucket/k").header(METHOD, "AES256").send().await.refused(400, "InvalidArgument", "a read says nothing");
    c.head("/bucket/k").header(METHOD, "AES256").send().await.expect(400, "nor does a head");
    with_key(near(&world).get("/bucket/k"), 1).send().await.refused(400, "InvalidRequest", "no key of the client's");
    for (name, value, code) in [
        (METHOD, "AES192", "InvalidArgument"),
        (METHOD, "aws:kms:dsse", "NotImplemented"),
        (METHOD, "aws:kms", "KMS.NotFoundException"),
        (KMS_KEY, "some", "InvalidArgument"),
    ] {
        let status = if code == "NotImplemented" { 501 } else { 400 };
        c.put("/bucket/no").header(name, value).body("x").send().await.refused(status, code, value);
        c.post("/bucket/no?uploads").header(name, value).send().await.refused(status, code, value);
    }
    c.get("/bucket/no").send().await.refused(404, "NoSuchKey", "nothing was written in the clear instead");
    // What was written before stays readable when the store's key is a new one, and tags and lists change nothing.
    world.clock.advance(Duration::from_secs(400 * 24 * 3600));
    c.put("/bucket/new").header(METHOD, "AES256").body("new").send().await.expect(200, "under a new key");
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    c.put("/bucket/k?tagging").proven(tags).send().await.expect(200, "tags");
    assert!(c.get("/bucket/k").send().await.expect(200, "under the old key").body == data(1 << 20));
    assert_eq!(c.get("/bucket/new").send().await.expect(200, "new").body, "new");
    let report = world.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.unsummed), (0, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_does_by_itself() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let rule = |inside: &str| {
        format!("<ServerSideEncryptionConfiguration><Rule>{inside}</Rule></ServerSideEncryptionConfiguration>")
    };
    let by_default = |inside: &str| {
        rule(&format!("<ApplyServerSideEncryptionByDefault>{inside}</ApplyServerSideEncryptionByDefault>"))
    };
    let none = "ServerSideEncryptionConfigurationNotFoundError";
    c.get("/bucket?encryption").send().await.refused(404, none, "nothing was said");
    for (document, code) in [
        (rule(""), "MalformedXML"),
        (by_default("<SSEAlgorithm>AES128</SSEAlgorithm>"), "MalformedXML"),
        ("<ServerSideEncryptionConfiguration></ServerSideEncryptionConfiguration>".to_owned(), "MalformedXML"),
        (by_default("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), "InvalidArgument"),
        (by_default("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), "NotImplemented"),
    ] {
        let status = if code == "NotImplemented" { 501 } else { 400 };
        c.put("/bucket?encryption").proven(document.clone()).send().await.refused(status, code, &document);
    }
    c.put("/bucket/before").body("plain").send().await.expect(200, "before");
    let document = by_default("<SSEAlgorithm>AES256</SSEAlgorithm>");
    c.put("/bucket?encryption").proven(document).send().await.expect(200, "set");
    let shown = c.get("/bucket?encryption").send().await.expect(200, "shown");
    assert_eq!(shown.field("SSEAlgorithm").as_deref(), Some("AES256"));
    for (target, expected) in [("/bucket/before", ""), ("/bucket/after", "AES256")] {
        if !expected.is_empty() {
            let put = c.put(target).body("sealed").send().await.expect(200, "after");
            assert_eq!(put.header(METHOD), expected);
        }
        assert_eq!(c.head(target).send().await.expect(200, target).header(METHOD), expected, "{target}");
    }
    // What the request says comes first.
    let own = with_key(near(&world).put("/bucket/own"), 1).body("x").send().await.expect(200, "own key");
    assert_eq!(own.header(METHOD), "");
    let parts = [data(PART), data(7)];
    let done = upload(c, "/bucket/parts", &parts, |call| call, true).await.send().await.expect(200, "parts");
    assert_eq!(done.header(METHOD), "AES256");
    assert!(c.get("/bucket/parts").send().await.expect(200, "parts").body == parts.concat());

    let document = by_default("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>gone</KMSMasterKeyID>");
    c.put("/bucket?encryption").proven(document).send().await.expect(200, "a key that is not there");
    assert_eq!(c.get("/bucket?encryption").send().await.field("KMSMasterKeyID").as_deref(), Some("gone"));
    c.put("/bucket/no").body("x").send().await.refused(400, "KMS.NotFoundException", "never in the clear");
    c.get("/bucket/no").send().await.refused(404, "NoSuchKey", "nothing was written");

    for _ in 0..2 {
        c.delete("/bucket?encryption").send().await.expect(204, "forgotten");
    }
    c.get("/bucket?encryption").send().await.refused(404, none, "nothing is said any more");
    assert_eq!(c.put("/bucket/plain").body("x").send().await.expect(200, "plain again").header(METHOD), "");
    world.stranger.get("/bucket?encryption").send().await.refused(403, "AccessDenied", "somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_in_parts() {
    let world = World::with_bucket().await;
    let c = near(&world);
    let parts = [data(PART), data(PART + 1), data(65_536)];
    let whole = parts.concat();
    let stores = |call: Call| call.header(METHOD, "AES256");
    let done = upload(&c, "/bucket/s3", &parts, stores, false).await.send().await.expect(200, "the store's");
    assert_eq!(done.header(METHOD), "AES256");
    let mut md5s = Md5::new();
    parts.iter().for_each(|part| md5s.update(Md5::digest(part)));
    assert!(done.field("ETag").unwrap().contains(&format!("{}-3", hex::encode(md5s.finalize()))), "MD5s of the parts");
    let own = |call: Call| with_key(call, 1);
    let done = upload(&c, "/bucket/own", &parts, own, true).await;
    done.clone().send().await.refused(400, "InvalidRequest", "completed without the key");
    with_key(done.clone(), 2).send().await.refused(400, "InvalidRequest", "completed with another key");
    with_key(done, 1).send().await.expect(200, "the client's");
    for (target, dress) in
        [("/bucket/s3", (|call| call) as fn(Call) -> Call), ("/bucket/own", |call| with_key(call, 1))]
    {
        assert!(dress(c.get(target)).send().await.expect(200, target).body == whole, "{target}");
        for (number, part) in (1..).zip(&parts) {
            let call = dress(c.get(&format!("{target}?partNumber={number}")));
            assert!(call.send().await.expect(206, target).body == *part, "part {number} of {target}");
        }
        let (from, to) = (PART - 10, 2 * PART + 20);
        let across = dress(c.get(target)).header("range", format!("bytes={from}-{}", to - 1)).send().await;
        assert!(across.expect(206, target).body == whole[from..to], "{target}");
    }

    let id = with_key(c.post("/bucket/m?uploads"), 1).send().await.expect(200, "begun").field("UploadId").unwrap();
    let part = || c.put(&format!("/bucket/m?partNumber=1&uploadId={id}")).body("x");
    part().send().await.refused(400, "InvalidRequest", "no key");
    with_key(part(), 2).send().await.refused(400, "InvalidRequest", "another key");
    let once = with_key(part(), 1).send().await.expect(200, "a part");
    let again = with_key(part(), 1).send().await.expect(200, "the part once more");
    assert_eq!(once.header("etag"), again.header("etag"), "whoever repeats a part may name either");
    part().header(METHOD, "AES256").send().await.refused(400, "InvalidRequest", "another method");
    let copied = || {
        let target = format!("/bucket/m?partNumber=2&uploadId={id}");
        with_key(c.put(&target).header("x-amz-copy-source", "/bucket/own"), 1)
    };
    copied().send().await.refused(400, "InvalidRequest", "no key of the source");
    with_source_key(copied(), 2).send().await.refused(403, "AccessDenied", "another key of the source");
    with_source_key(copied(), 1).send().await.expect(200, "a copied part");
    let id = c.post("/bucket/m?uploads").send().await.expect(200, "begun plain").field("UploadId").unwrap();
    let part = || c.put(&format!("/bucket/m?partNumber=1&uploadId={id}")).body("x");
    with_key(part(), 1).send().await.refused(400, "InvalidRequest", "a key for a plain upload");
    part().header(METHOD, "AES256").send().await.refused(400, "InvalidArgument", "a method for a plain upload");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_from_every_kind_to_every_kind() {
    let world = World::with_bucket().await;
    let c = near(&world);
    c.put("/other").send().await.expect(200, "another bucket");
    type Dress = fn(Call) -> Call;
    let plain: Dress = |call| call;
    let kinds: [(&str, Dress, Dress, Dress); 3] = [
        ("plain", plain, plain, plain),
        ("s3", |call| call.header(METHOD, "AES256"), plain, plain),
        ("own", |call| with_key(call, 1), |call| with_key(call, 1), |call| with_source_key(call, 1)),
    ];
    for size in [10, 200_000] {
        let data = data(size);
        for (from, write, _, source) in kinds {
            write(c.put("/bucket/from")).body(data.clone()).send().await.expect(200, from);
            for (to, write, read, _) in kinds {
                let why = format!("{size} bytes from {from} to {to}");
                let copy = |target: &str| c.put(target).header("x-amz-copy-source", "/bucket/from");
                let copied = source(write(copy("/other/to"))).send().await.expect(200, &why);
                let got = read(c.get("/other/to")).send().await.expect(200, &why);
                assert!(got.body == data, "{why}");
                // What was encrypted stays so.
                let expected = if to == "s3" || (to == "plain" && from != "plain") { "AES256" } else { "" };
                assert_eq!((copied.header(METHOD), got.header(METHOD)), (expected, expected), "{why}");
                let md5 = copied.field("ETag").unwrap().contains(md5_of(&data).trim_matches('"'));
                assert_eq!(md5, to != "own", "{why}");
            }
        }
    }
    let copy = |target: &str| c.put(target).header("x-amz-copy-source", "/bucket/from");
    copy("/other/to").send().await.refused(400, "InvalidRequest", "no key of the source");
    with_source_key(copy("/other/to"), 9).send().await.refused(403, "AccessDenied", "another key of the source");
    // Onto itself, to change how it is encrypted.
    with_source_key(copy("/bucket/from"), 1).send().await.refused(400, "InvalidRequest", "nothing would change");
    with_source_key(copy("/bucket/from").header(METHOD, "AES256"), 1).send().await.expect(200, "the store's key now");
    assert!(c.get("/bucket/from").send().await.expect(200, "without a key").body == data(200_000));
    c.put("/bucket/plain").body("x").send().await.expect(200, "plain");
    let plain = c.put("/other/to").header("x-amz-copy-source", "/bucket/plain");
    with_source_key(plain, 1).send().await.refused(400, "InvalidRequest", "a key too much");
}

/// A data key, and the context that it is bound to.
type SealedKey = ([u8; 32], BTreeMap<String, String>);

/// Keys as a service would have them: one that is known, and what it has sealed.
#[derive(Default)]
struct FakeKeys {
    sealed: Mutex<HashMap<Vec<u8>, SealedKey>>,
    denied: Mutex<bool>,
}

impl FakeKeys {
    fn check(&self, using: KeyUse<'_>) -> Result<(), Error> {
        assert_eq!(using.via, "s3");
        if *self.denied.lock().unwrap() {
            return Err(Error::new(
                ErrorClass::Denied,
                "AccessDeniedException",
                "not authorized to perform: kms:Decrypt",
            ));
        }
        Ok(())
    }

    fn contexts(&self) -> Vec<BTreeMap<String, String>> {
        self.sealed.lock().unwrap().values().map(|(_, context)| context.clone()).collect()
    }
}

#[async_trait]
impl DataKeys for FakeKeys {
    async fn generate(&self, key: Option<&str>, using: KeyUse<'_>) -> Result<DataKey, Error> {
        self.check(using)?;
        match key {
            None | Some("known") | Some(KNOWN_KEY) => {}
            Some("off") => return Err(Error::conflict("DisabledException", "it is disabled")),
            Some(other) => return Err(Error::not_found("NotFoundException", format!("Key '{other}' does not exist"))),
        }
        let (mut plain, mut blob) = ([0; 32], vec![0; 20]);
        OsRandom.fill(&mut plain);
        OsRandom.fill(&mut blob);
        self.sealed.lock().unwrap().insert(blob.clone(), (plain, using.context.clone()));
        Ok(DataKey { plaintext: Secret::new(plain), blob, key: Arn::parse(KNOWN_KEY).unwrap() })
    }

    async fn open(&self, blob: &[u8], using: KeyUse<'_>) -> Result<Secret<[u8; 32]>, Error> {
        self.check(using)?;
        let sealed = self.sealed.lock().unwrap();
        let found = sealed.get(blob).filter(|(_, context)| context == using.context);
        let wrong = || Error::invalid("InvalidCiphertextException", "it does not open");
        found.map(|(plain, _)| Secret::new(*plain)).ok_or_else(wrong)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_of_a_service() {
    let service = Arc::new(FakeKeys::default());
    let world = World::with_data_keys(Some(Arc::clone(&service) as Arc<dyn DataKeys>)).await;
    let c = near(&world);
    c.put("/bucket").send().await.expect(200, "the bucket");
    let kms = |call: Call| call.header(METHOD, "aws:kms");
    for (size, key) in [(5, None), (100_000, Some("known")), (0, Some(KNOWN_KEY))] {
        let why = format!("{size} bytes with {key:?}");
        let mut put = kms(c.put("/bucket/k")).body(data(size));
        if let Some(key) = key {
            put = put.header(KMS_KEY, key);
        }
        let put = put.send().await.expect(200, &why);
        assert_ne!(put.header("etag"), md5_of(&data(size)), "{why}");
        assert_eq!((put.header(METHOD), put.header(KMS_KEY)), ("aws:kms", KNOWN_KEY), "{why}");
        for answer in [c.get("/bucket/k").send().await, c.head("/bucket/k").send().await] {
            let answer = answer.expect(200, &why);
            assert_eq!((answer.header(METHOD), answer.header(KMS_KEY)), ("aws:kms", KNOWN_KEY), "{why}");
        }
        assert!(c.get("/bucket/k").send().await.body == data(size), "{why}");
    }
    let object = BTreeMap::from([("aws:s3:arn".to_owned(), "arn:aws:s3:::bucket/k".to_owned())]);
    assert!(service.contexts().iter().all(|context| *context == object), "{:?}", service.contexts());
    let context = STANDARD.encode(r#"{"project":"x"}"#);
    let put = kms(c.put("/bucket/c")).header(CONTEXT, &context).header(BUCKET_KEY, "true").body("x");
    let put = put.send().await.expect(200, "with a context");
    assert_eq!((put.header(CONTEXT), put.header(BUCKET_KEY)), (context.as_str(), "true"));
    let rows = [("aws:s3:arn", "arn:aws:s3:::bucket"), ("project", "x")];
    let bound = rows.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert!(service.contexts().contains(&bound), "{:?}", service.contexts());
    assert_eq!(c.get("/bucket/c").send().await.expect(200, "its context is kept").body, "x");

    let dress = |call: Call| kms(call).header(KMS_KEY, "known");
    let parts = [data(PART), data(3)];
    let done = upload(&c, "/bucket/m", &parts, dress, false).await.send().await.expect(200, "parts");
    assert_eq!((done.header(METHOD), done.header(KMS_KEY)), ("aws:kms", KNOWN_KEY));
    assert!(c.get("/bucket/m").send().await.expect(200, "parts").body == parts.concat());
    let copy = c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/m");
    dress(copy).send().await.expect(200, "copied");
    assert!(c.get("/bucket/copy").send().await.expect(200, "copied").body == parts.concat());

    let document = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>known</KMSMasterKeyID></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>";
    c.put("/bucket?encryption").proven(document).send().await.expect(200, "by default");
    let put = c.put("/bucket/d").body("x").send().await.expect(200, "by default");
    assert_eq!((put.header(METHOD), put.header(BUCKET_KEY)), ("aws:kms", "true"));
    assert_eq!(c.get("/bucket/d").send().await.expect(200, "by default").body, "x");

    for (key, code) in [("gone", "KMS.NotFoundException"), ("off", "KMS.DisabledException")] {
        let call = kms(c.put("/bucket/no")).header(KMS_KEY, key).body("x");
        call.send().await.refused(400, code, key);
    }
    *service.denied.lock().unwrap() = true;
    c.get("/bucket/k").send().await.refused(403, "AccessDenied", "without the key's permission");
    c.head("/bucket/k").send().await.expect(200, "a head opens nothing");
    kms(c.put("/bucket/no")).body("x").send().await.refused(403, "AccessDenied", "without the key's permission");
    c.get("/bucket/no").send().await.refused(404, "NoSuchKey", "nothing was written");
    *service.denied.lock().unwrap() = false;
    service.sealed.lock().unwrap().clear();
    c.get("/bucket/k").send().await.refused(500, "InternalError", "what the service sealed is lost");
}

/// Whether these bytes stand in any file below the folder.
fn stands_in(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in(&path, needle);
        }
        // A file may go while this looks.
        std::fs::read(&path).is_ok_and(|bytes| memchr::memmem::find(&bytes, needle).is_some())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_encrypted_is_on_the_disk_in_the_clear() {
    let service = Arc::new(FakeKeys::default());
    let world = World::with_data_keys(Some(service as Arc<dyn DataKeys>)).await;
    let c = near(&world);
    c.put("/bucket").send().await.expect(200, "the bucket");
    let canary = |name: &str| format!("canary of {name} objects").into_bytes();
    let filled = |name: &str, size: usize| canary(name).into_iter().cycle().take(size).collect::<Vec<_>>();
    type Dress = fn(Call) -> Call;
    let kinds: [(&str, Dress); 4] = [
        ("plain", |call| call),
        ("store", |call| call.header(METHOD, "AES256")),
        ("customer", |call| with_key(call, 1)),
        ("service", |call| call.header(METHOD, "aws:kms")),
    ];
    for (name, dress) in kinds {
        for size in [100, 20_000, 300_000] {
            let body = filled(name, size);
            dress(c.put(&format!("/bucket/{name}-{size}"))).body(body).send().await.expect(200, name);
        }
        let on_parts = name == "customer";
        let parts = [filled(name, PART), filled(name, 500)];
        let done = upload(&c, &format!("/bucket/{name}-parts"), &parts, dress, on_parts).await;
        let done = if on_parts { dress(done) } else { done };
        done.send().await.expect(200, name);
        // And one that goes on.
        upload(&c, &format!("/bucket/{name}-begun"), &parts[1..], dress, on_parts).await;
        let copy = c.put(&format!("/bucket/{name}-copy")).header("x-amz-copy-source", format!("/bucket/{name}-20000"));
        let copy = if on_parts { with_source_key(copy, 1) } else { copy };
        dress(copy).send().await.expect(200, name);
    }
    let key = [1; 32];
    for (name, _) in kinds {
        assert_eq!(stands_in(world.dir.path(), &canary(name)), name == "plain", "{name}");
    }
    assert!(!stands_in(world.dir.path(), &key) && !stands_in(world.dir.path(), STANDARD.encode(key).as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_noticed_before_and_behind_the_checksums() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/bucket/k").header(METHOD, "AES256").body(data(300_000)).send().await.expect(200, "written");
    let files = world.dir.path().join("objects/files");
    let file = std::fs::read_dir(files).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let path = file.map(|file| file.unwrap().path()).next().unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 100_000).unwrap();
    };
    flip();
    c.get("/bucket/k").send().await.refused(500, "InternalError", "the block's checksum");
    let pass = world.backend.scrub_once(0).await.unwrap();
    assert_eq!(pass.damaged, 1);
    flip();
    assert!(c.get("/bucket/k").send().await.expect(200, "as it was").body == data(300_000));
    // Somebody who can make checksums, but has no key.
    let index = rusqlite::Connection::open(world.dir.path().join("objects/index.sqlite")).unwrap();
    index.execute_batch("UPDATE content SET sums = NULL; DELETE FROM damage").unwrap();
    let start = c.get("/bucket/k").header("range", "bytes=0-9").send().await.expect(206, "unchanged");
    assert!(start.body == data(10));
    flip();
    c.get("/bucket/k").header("range", "bytes=99000-99900").send().await.refused(500, "InternalError", "the tag");
    index.execute("UPDATE object SET size = 65536", []).unwrap();
    c.get("/bucket/k").send().await.refused(500, "InternalError", "cut off at a chunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_want_encryption() {
    let world = World::with_bucket().await;
    let deny = |condition: &str| {
        format!(
            r#"{{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::bucket/*","Condition":{condition}}}"#
        )
    };
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{},{}]}}"#,
        deny(r#"{"Null":{"s3:x-amz-server-side-encryption":"true"}}"#),
        deny(r#"{"StringNotEquals":{"s3:x-amz-server-side-encryption":"AES256"}}"#),
    );
    world.root.put("/bucket?policy").body(policy).send().await.expect(204, "the policy");
    let c = world
        .user("writer", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#);
    let c = c.await;
    c.put("/bucket/k").body("x").send().await.refused(403, "AccessDenied", "in the clear");
    c.put("/bucket/k").header(METHOD, "aws:kms").body("x").send().await.refused(403, "AccessDenied", "another method");
    c.put("/bucket/k").header(METHOD, "AES256").body("x").send().await.expect(200, "as it wants");
    assert_eq!(c.get("/bucket/k").send().await.expect(200, "read").body, "x");
}
