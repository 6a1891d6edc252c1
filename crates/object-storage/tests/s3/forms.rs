//! Uploads by HTML forms.

use crate::harness::{Answer, Client, REGION, World, send};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use terroir_iam::sigv4::{Scope, SigningKey};
use terroir_types::Clock;

const BOUNDARY: &str = "----a boundary";

#[derive(Clone)]
struct Form {
    client: Client,
    fields: Vec<(String, String)>,
    conditions: Vec<String>,
    expiration: String,
    file: Option<(String, Vec<u8>)>,
    target: String,
}

impl Form {
    /// A form with a policy for keys below `user/` of at most 100 bytes.
    fn new(client: &Client) -> Self {
        let form = Self {
            client: client.clone(),
            fields: Vec::new(),
            conditions: vec![
                r#"{"bucket":"bucket"}"#.to_owned(),
                r#"["starts-with","$key","user/"]"#.to_owned(),
                r#"["content-length-range",1,100]"#.to_owned(),
            ],
            expiration: "2026-11-24T06:00:00Z".to_owned(),
            file: Some(("photo.jpg".to_owned(), b"the bytes".to_vec())),
            target: "/bucket".to_owned(),
        };
        form.field("key", "user/${filename}")
    }

    fn field(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.retain(|(other, _)| other != name);
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(other, _)| other != name);
        self
    }

    fn allow(mut self, condition: &str) -> Self {
        self.conditions.push(condition.to_owned());
        self
    }

    /// A field that the policy names, too.
    fn named(self, name: &str, value: &str) -> Self {
        self.allow(&format!(r#"{{"{name}":"{value}"}}"#)).field(name, value)
    }

    fn file(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.file = Some(("photo.jpg".to_owned(), bytes.into()));
        self
    }

    fn named_file(mut self, name: String) -> Self {
        self.file = Some((name, b"the bytes".to_vec()));
        self
    }

    fn sign(self) -> Self {
        let date = self.client.clock.now().to_amz_date();
        let scope = Scope { date: date[..8].to_owned(), region: REGION.into(), service: "s3".into() };
        let credential = format!("{}/{scope}", self.client.access_key);
        let form = self
            .named("x-amz-algorithm", "AWS4-HMAC-SHA256")
            .named("x-amz-credential", &credential)
            .named("x-amz-date", &date);
        let form = match form.client.token.clone() {
            Some(token) => form.named("x-amz-security-token", &token),
            None => form,
        };
        let policy = format!(r#"{{"expiration":"{}","conditions":[{}]}}"#, form.expiration, form.conditions.join(","));
        let policy = STANDARD.encode(policy);
        let signature = SigningKey::derive(&form.client.secret, &scope).sign(&policy);
        form.field("policy", policy).field("x-amz-signature", signature)
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in &self.fields {
            body.extend(
                format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes(),
            );
        }
        if let Some((name, bytes)) = &self.file {
            body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: image/jpeg\r\n\r\n").bytes());
            body.extend(bytes);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{BOUNDARY}--\r\n").bytes());
        body
    }

    async fn send(self) -> Answer {
        let body = self.body();
        self.send_body(body).await
    }

    async fn send_body(self, body: Vec<u8>) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.target)
            .header("host", "127.0.0.1:9000")
            .header("content-type", format!("multipart/form-data; boundary=\"{BOUNDARY}\""))
            .header("content-length", body.len());
        send(&self.client.front, request.body(Full::new(Bytes::from(body))).unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_uploads_what_its_policy_allows() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let form = Form::new(c)
        .named("acl", "public-read")
        .named("Content-Type", "image/png")
        .named("Cache-Control", "no-store")
        .allow(r#"["starts-with","$x-amz-meta-tag",""]"#)
        .field("x-amz-meta-tag", "any")
        .named("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b c</Value></Tag></TagSet></Tagging>")
        .field("x-ignore-csrf", "whatever");
    let answer = form.clone().sign().send().await.expect(204, "uploaded");
    assert_eq!(answer.header("location"), "http://127.0.0.1:9000/bucket/user/photo.jpg");
    assert!(!answer.header("etag").is_empty() && answer.body.is_empty());
    assert_eq!(answer.outcome.operation.as_deref(), Some("PostObject"));
    assert_eq!(answer.outcome.key.as_deref(), Some("user/photo.jpg"));
    assert!(answer.outcome.caller.is_some(), "known for the audit log");
    let read = c.get("/bucket/user/photo.jpg").send().await.expect(200, "read");
    assert_eq!(read.text(), "the bytes");
    for (name, value) in [
        ("content-type", "image/png"),
        ("cache-control", "no-store"),
        ("x-amz-meta-tag", "any"),
        ("x-amz-tagging-count", "1"),
    ] {
        assert_eq!(read.header(name), value, "{name}");
    }
    let nobody = Client { access_key: String::new(), ..c.clone() };
    nobody.get("/bucket/user/photo.jpg").send().await.expect(200, "its list counts");
    let by_host = Form { target: "/".to_owned(), ..Form::new(c).sign() };
    let body = by_host.body();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/")
        .header("host", "bucket.s3.test")
        .header("content-type", format!("multipart/form-data; boundary=\"{BOUNDARY}\""))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = send(&world.front, request).await.expect(204, "a bucket in the host's name");
    assert_eq!(answer.header("location"), "http://bucket.s3.test/user/photo.jpg");

    let named = |status: &str| Form::new(c).named("success_action_status", status).sign().send();
    named("200").await.expect(200, "as asked");
    let created = named("201").await.expect(201, "as asked");
    assert_eq!(created.field("Key").as_deref(), Some("user/photo.jpg"));
    assert_eq!(created.field("Bucket").as_deref(), Some("bucket"));
    named("404").await.expect(204, "nothing else");
    let redirect = Form::new(c).named("success_action_redirect", "https://a.example/done?x=1").sign();
    let answer = redirect.send().await.expect(303, "redirected");
    let etag = read.header("etag").replace('"', "%22");
    assert_eq!(
        answer.header("location"),
        format!("https://a.example/done?x=1&bucket=bucket&key=user%2Fphoto%2Ejpg&etag={etag}")
    );
    let not_a_url = Form::new(c).named("success_action_redirect", "javascript:alert(1)").sign();
    not_a_url.send().await.expect(204, "no address");
    let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let wide = vec![r#"{"bucket":"bucket"}"#.into(), r#"["starts-with","$key",""]"#.into()];
    let wide = Form { conditions: wide, ..Form::new(c) };
    wide.clone().field("key", "large").file(large.clone()).sign().send().await.expect(204, "no limit");
    assert_eq!(c.get("/bucket/large").send().await.body, large);
    let sum = Form::new(c).named("x-amz-checksum-crc32", "AAAAAA==").sign().send().await;
    sum.refused(400, "BadDigest", "a checksum is compared");
    c.put("/bucket/secret").body("another object").send().await.expect(200, "another object");
    let no_copy = Form::new(c).named("x-amz-copy-source", "bucket/secret").sign();
    no_copy.send().await.expect(204, "a form is no copy");
    assert_eq!(c.get("/bucket/user/photo.jpg").send().await.text(), "the bytes");
    world.quota(Some("bucket"), Some(300_000 + 100), None).await;
    let over = wide.field("key", "over").file(large).sign().send().await;
    over.refused(403, "QuotaExceeded", "nobody knows beforehand how long the file is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_uploads_nothing_else() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let form = || Form::new(c);
    let nothing = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;
    let reader = world.user("reader", nothing).await;
    let wrong_secret = Client { secret: "x".repeat(40), ..c.clone() };
    let unknown = Client { access_key: "AKIAXXXXXXXXXXXXXXXX".to_owned(), ..c.clone() };
    let signed_then = |change: &dyn Fn(Form) -> Form| change(form().sign());
    let rows: Vec<(&str, Form, u16, &str)> = vec![
        ("another key", form().field("key", "other/x").sign(), 403, "AccessDenied"),
        ("too many bytes", form().file(vec![b'x'; 101]).sign(), 400, "EntityTooLarge"),
        ("too few", form().file("").sign(), 400, "EntityTooSmall"),
        ("an extra field", form().field("x-amz-meta-more", "1").sign(), 403, "AccessDenied"),
        ("an acl that is not named", form().field("acl", "public-read").sign(), 403, "AccessDenied"),
        ("another bucket", Form { target: "/other".into(), ..form().sign() }, 403, "AccessDenied"),
        (
            "any bucket",
            Form { conditions: vec![r#"["starts-with","$key",""]"#.into()], ..form() }.sign(),
            403,
            "AccessDenied",
        ),
        ("expired", Form { expiration: "2026-11-24T05:00:00Z".into(), ..form() }.sign(), 403, "AccessDenied"),
        ("no expiration", Form { expiration: "soon".into(), ..form() }.sign(), 400, "InvalidPolicyDocument"),
        ("a malformed condition", form().allow(r#"["eq","key"]"#).sign(), 400, "InvalidPolicyDocument"),
        (
            "another signature",
            signed_then(&|form| form.field("x-amz-signature", "0".repeat(64))),
            403,
            "SignatureDoesNotMatch",
        ),
        ("no signature", signed_then(&|form| form.without("x-amz-signature")), 400, "InvalidArgument"),
        ("no policy", signed_then(&|form| form.without("policy")), 400, "InvalidArgument"),
        (
            "no credential",
            signed_then(&|form| form.without("x-amz-credential")),
            400,
            "AuthorizationQueryParametersError",
        ),
        ("no key", signed_then(&|form| form.without("key")), 400, "InvalidArgument"),
        ("no file", Form { file: None, ..form().sign() }, 400, "InvalidArgument"),
        ("wrong secret", Form::new(&wrong_secret).sign(), 403, "SignatureDoesNotMatch"),
        ("unknown key", Form::new(&unknown).sign(), 403, "InvalidAccessKeyId"),
        ("who may not write", Form::new(&reader).sign(), 403, "AccessDenied"),
        ("a stranger", Form::new(&world.stranger).sign(), 403, "AccessDenied"),
        ("nobody", form(), 403, "AccessDenied"),
        (
            "Signature Version 2",
            form().field("AWSAccessKeyId", "x").field("signature", "x").field("policy", "x"),
            400,
            "InvalidRequest",
        ),
        (
            "fields too large",
            form().field("x-ignore-much", "x".repeat(21 << 10)).sign(),
            400,
            "MaxPostPreDataLengthExceeded",
        ),
        (
            "a long name of a file, often",
            form().field("x-ignore-much", "${filename}".repeat(10)).named_file("x".repeat(5000)).sign(),
            400,
            "MaxPostPreDataLengthExceeded",
        ),
        ("no bucket", Form { target: "/".into(), ..form().sign() }, 405, "MethodNotAllowed"),
        ("an object", Form { target: "/bucket/k".into(), ..form().sign() }, 405, "MethodNotAllowed"),
        (
            "no header can have this value",
            form().allow(r#"["starts-with","$x-amz-meta-a",""]"#).field("x-amz-meta-a", "a\nb").sign(),
            400,
            "InvalidArgument",
        ),
    ];
    for (why, form, status, code) in rows {
        form.send().await.refused(status, code, why);
    }
    let tampered = form().sign();
    let policy = tampered.fields.iter().find(|(name, _)| name == "policy").unwrap().1.clone();
    let other = STANDARD.encode(String::from_utf8(STANDARD.decode(policy).unwrap()).unwrap().replace("user/", ""));
    tampered.field("policy", other).send().await.refused(403, "SignatureDoesNotMatch", "another policy");
    let whole = form().sign();
    let body = whole.body();
    whole.clone().send_body(body[..body.len() - 20].to_vec()).await.refused(
        400,
        "IncompleteBody",
        "cut off in the file",
    );
    whole.clone().send_body(body[..100].to_vec()).await.refused(400, "MalformedPOSTRequest", "cut off before it");
    whole.send_body(b"no form".to_vec()).await.refused(400, "MalformedPOSTRequest", "not a form");
    assert!(!c.get("/bucket").send().await.text().contains("<Key>"), "nothing was written");
    world.files_become(0).await;
    // Where a bucket lets everybody write, a form needs no policy.
    c.put("/bucket?acl").header("x-amz-acl", "public-read-write").send().await.expect(200, "open");
    form().send().await.expect(204, "nobody signed");
    form().field("policy", "x").send().await.refused(400, "InvalidArgument", "a policy that nobody signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_can_ask_for_encryption() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let sealed = Form::new(c).named("x-amz-server-side-encryption", "AES256").sign();
    let answer = sealed.send().await.expect(204, "uploaded");
    assert_eq!(answer.header("x-amz-server-side-encryption"), "AES256");
    let read = c.get("/bucket/user/photo.jpg").send().await.expect(200, "read");
    assert_eq!((read.text().as_str(), read.header("x-amz-server-side-encryption")), ("the bytes", "AES256"));
    let unnamed = Form::new(c).field("x-amz-server-side-encryption", "AES256").sign();
    unnamed.send().await.refused(403, "AccessDenied", "a field that the policy does not name");
    let unknown = Form::new(c).named("x-amz-server-side-encryption", "aws:kms").sign();
    unknown.send().await.refused(400, "KMS.NotFoundException", "no key");
}
