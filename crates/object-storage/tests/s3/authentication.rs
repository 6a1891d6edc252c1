//! Who is refused, and with which words. The same cases as for the API server's other services.

use crate::harness::{Call, Client, UNSIGNED, World, send};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::time::Duration;
use terroir_iam::ops::{
    About, Holder, NewRole, add_role_to_profile, create_instance_profile, create_role, put_inline_policy,
};
use terroir_types::{Clock, OsRandom};

const EVERYTHING: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}}"#;

/// A session of a role that may do everything in S3.
async fn session(world: &World) -> Client {
    let now = world.clock.now();
    let tags = Default::default();
    let make = |txn: &mut terroir_store::Txn| {
        let about = About { name: "role", path: None, description: None, tags: &tags };
        create_role(txn, world.account, NewRole { about, trust: TRUST, max_session_secs: None }, &OsRandom, now)?;
        put_inline_policy(txn, world.account, Holder::Role("role"), "inline", EVERYTHING)?;
        let profile = create_instance_profile(txn, world.account, about, &OsRandom, now)?;
        add_role_to_profile(txn, world.account, "role", "role")?;
        Ok(profile.id)
    };
    let (profile, _) = world.store.transact(&[], make).await.unwrap();
    let made = world.iam.role_credentials(world.account, &profile, "i-1").await.unwrap().unwrap().session;
    Client {
        access_key: made.access_key_id,
        secret: made.secret.expose().clone(),
        token: Some(made.token.expose().clone()),
        ..world.root.clone()
    }
}

async fn send_plain(world: &World, request: Request<()>) -> crate::harness::Answer {
    send(&world.front, request.map(|()| Full::<Bytes>::default())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_signatures() {
    let world = World::with_bucket().await;
    let root = &world.root;
    root.put("/bucket/k").body("hello").send().await.expect(200, "written");
    let get = || root.get("/bucket/k");
    let as_client = |client: Client| client.get("/bucket/k");
    let changed = |change: fn(&mut Call)| {
        let mut call = get();
        change(&mut call);
        call
    };
    let put = |body: &'static str, claimed: &'static str| {
        let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(claimed));
        root.put("/bucket/other").body(body).payload(&hash)
    };
    let minute = Duration::from_secs(60);
    let at = |by: i64| {
        let now = world.clock.now();
        let shift = minute * u32::try_from(by.abs()).unwrap();
        let mut call = get();
        call.signed_at = if by < 0 { now.minus(shift) } else { now.plus(shift) };
        call
    };
    let rows: Vec<(&str, Call, u16, &str)> = vec![
        (
            "unknown key",
            as_client(Client { access_key: "AKIAUNKNOWN12345".into(), ..root.clone() }),
            403,
            "InvalidAccessKeyId",
        ),
        ("wrong secret", as_client(Client { secret: "wrong".into(), ..root.clone() }), 403, "SignatureDoesNotMatch"),
        ("old", at(-16), 403, "RequestTimeTooSkewed"),
        ("from the future", at(16), 403, "RequestTimeTooSkewed"),
        ("another region", changed(|call| call.region = "mars-1".into()), 400, "AuthorizationHeaderMalformed"),
        (
            "a token with a long-lived key",
            as_client(Client { token: Some("x".into()), ..root.clone() }),
            400,
            "InvalidToken",
        ),
        ("another body", put("hello", "other"), 400, "XAmzContentSHA256Mismatch"),
        ("no body where one was signed", put("", "other"), 400, "XAmzContentSHA256Mismatch"),
        ("not a hash", root.put("/bucket/other").body("x").payload("nonsense"), 400, "InvalidArgument"),
        (
            "a document that is another",
            root.post("/bucket?delete").body("<Delete/>").payload(&"0".repeat(64)),
            400,
            "XAmzContentSHA256Mismatch",
        ),
    ];
    for (why, call, status, code) in rows {
        call.send().await.refused(status, code, why);
    }
    root.get("/bucket/other").send().await.refused(404, "NoSuchKey", "nothing of these was kept");
    for near in [-14, 14] {
        at(near).send().await.expect(200, "inside the skew");
    }

    let (signed, _) = get().sign();
    let with = |change: fn(&mut Request<()>)| {
        let mut request = signed.clone();
        change(&mut request);
        request
    };
    let rows: Vec<(&str, Request<()>, u16, &str)> = vec![
        ("anonymous", with(|r| drop(r.headers_mut().remove("authorization"))), 403, "AccessDenied"),
        (
            "another key in the path",
            with(|r| *r.uri_mut() = "/bucket/k2".parse().unwrap()),
            403,
            "SignatureDoesNotMatch",
        ),
        ("another method", with(|r| *r.method_mut() = http::Method::DELETE), 403, "SignatureDoesNotMatch"),
        ("a query added", with(|r| *r.uri_mut() = "/bucket/k?acl".parse().unwrap()), 403, "SignatureDoesNotMatch"),
        (
            "another host",
            with(|r| drop(r.headers_mut().insert("host", "x".parse().unwrap()))),
            403,
            "SignatureDoesNotMatch",
        ),
        (
            "an unsigned x-amz header",
            with(|r| drop(r.headers_mut().insert("x-amz-acl", "private".parse().unwrap()))),
            403,
            "AccessDenied",
        ),
        ("no hash of the body", with(|r| drop(r.headers_mut().remove("x-amz-content-sha256"))), 400, "InvalidRequest"),
        (
            "nonsense",
            with(|r| drop(r.headers_mut().insert("authorization", "Bearer x".parse().unwrap()))),
            400,
            "AuthorizationHeaderMalformed",
        ),
        (
            "Signature Version 2",
            with(|r| drop(r.headers_mut().insert("authorization", "AWS AKIA:abc=".parse().unwrap()))),
            400,
            "InvalidRequest",
        ),
        (
            "Signature Version 2 in the URL",
            with(|r| *r.uri_mut() = "/bucket/k?AWSAccessKeyId=A&Signature=b&Expires=1".parse().unwrap()),
            400,
            "InvalidRequest",
        ),
        (
            "both forms",
            with(|r| *r.uri_mut() = "/bucket/k?X-Amz-Signature=a".parse().unwrap()),
            400,
            "AuthorizationQueryParametersError",
        ),
    ];
    for (why, request, status, code) in rows {
        send_plain(&world, request).await.refused(status, code, why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_need_their_token() {
    let world = World::with_bucket().await;
    world.root.put("/bucket/k").body("hello").send().await.expect(200, "written");
    let session = session(&world).await;
    let get = |token: Option<&str>| Client { token: token.map(str::to_owned), ..session.clone() }.get("/bucket/k");
    let token = session.token.clone().unwrap();
    assert_eq!(get(Some(&token)).send().await.expect(200, "its token").text(), "hello");
    get(None).send().await.refused(400, "InvalidToken", "no token");
    get(Some("abc")).send().await.refused(400, "InvalidToken", "another text");
    let (mut unsigned, _) = get(None).sign();
    unsigned.headers_mut().insert("x-amz-security-token", token.parse().unwrap());
    send_plain(&world, unsigned).await.refused(403, "AccessDenied", "a token that was not signed");
    let presigned = get(Some(&token)).presign(60);
    assert_eq!(send_plain(&world, presigned).await.expect(200, "in a URL").text(), "hello");
    send_plain(&world, get(None).presign(60)).await.refused(400, "InvalidToken", "a URL without it");
    world.clock.advance(Duration::from_secs(12 * 3600));
    get(Some(&token)).send().await.refused(400, "ExpiredToken", "after twelve hours");
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_urls() {
    let world = World::with_bucket().await;
    let root = &world.root;
    let put = root.put("/bucket/k%20y").body("hello");
    let body = || Full::from(Bytes::from_static(b"hello"));
    send(&world.front, put.presign(60).map(|()| body())).await.expect(200, "PUT");
    let url = root.get("/bucket/k%20y?response-content-type=x%2Fy").presign(600);
    let answer = send_plain(&world, url.clone()).await.expect(200, "GET");
    assert_eq!((answer.text().as_str(), answer.header("content-type")), ("hello", "x/y"));
    let edit = |from: &str, to: &str| {
        let mut url = url.clone();
        let text = url.uri().to_string();
        assert!(text.contains(from), "{text}");
        *url.uri_mut() = text.replace(from, to).parse().unwrap();
        url
    };
    let rows = [
        ("another object", edit("k%20y", "other"), 403, "SignatureDoesNotMatch"),
        ("another header", edit("x%2Fy", "text%2Fhtml"), 403, "SignatureDoesNotMatch"),
        ("longer", edit("Expires=600", "Expires=6000"), 403, "SignatureDoesNotMatch"),
        ("too long", root.get("/bucket/k").presign(604_801), 400, "AuthorizationQueryParametersError"),
        ("no signature", edit("X-Amz-Signature", "X-Other"), 400, "AuthorizationQueryParametersError"),
    ];
    for (why, request, status, code) in rows {
        send_plain(&world, request).await.refused(status, code, why);
    }
    let mut delete = url.clone();
    *delete.method_mut() = http::Method::DELETE;
    send_plain(&world, delete).await.refused(403, "SignatureDoesNotMatch", "for reading only");
    world.clock.advance(Duration::from_secs(601));
    let answer = send_plain(&world, url).await.refused(403, "AccessDenied", "expired");
    assert!(answer.text().contains("expired"), "{}", answer.text());
    let at_once = root.get("/bucket/k").presign(0);
    world.clock.advance(Duration::from_secs(1));
    send_plain(&world, at_once).await.refused(403, "AccessDenied", "for no time at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_per_operation_and_key() {
    let world = World::with_bucket().await;
    let root = &world.root;
    root.put("/elsewhere").send().await.expect(200, "another bucket of the account");
    root.put("/bucket/in/k").body("x").send().await.expect(200, "written");
    root.put("/bucket/out/k").body("x").send().await.expect(200, "written");
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::bucket/in/*"},
        {"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::bucket",
         "Condition":{"StringLike":{"s3:prefix":"in/*"}}},
        {"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::bucket/in/secret*"}]}"#;
    let user = world.user("limited", policy).await;
    let all = world.user("all", EVERYTHING).await;
    let reading = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;
    let limited_to_reading = world.user("reading", reading).await;
    let nothing = world
        .user("nothing", r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#)
        .await;
    let copy = |to: &str, from: &str| user.put(to).header("x-amz-copy-source", from);
    let rows = [
        ("read", user.get("/bucket/in/k"), 200),
        ("write", user.put("/bucket/in/k2").body("x"), 200),
        ("copy inside", copy("/bucket/in/k3", "/bucket/in/k"), 200),
        ("copy out of what it may not read", copy("/bucket/in/k3", "/bucket/out/k"), 403),
        ("copy to where it may not write", copy("/bucket/out/k3", "/bucket/in/k"), 403),
        ("read elsewhere", user.get("/bucket/out/k"), 403),
        ("write elsewhere", user.put("/bucket/out/k2").body("x"), 403),
        ("denied by name", user.get("/bucket/in/secret"), 403),
        ("delete", user.delete("/bucket/in/k"), 403),
        ("tags need their own permission", user.put("/bucket/in/k4").body("x").header("x-amz-tagging", "a=b"), 403),
        ("list with its prefix", user.get("/bucket?list-type=2&prefix=in%2F"), 200),
        ("list without", user.get("/bucket?list-type=2"), 403),
        ("list another prefix", user.get("/bucket?prefix=out%2F"), 403),
        ("a missing key that may be listed", user.get("/bucket/in/missing"), 404),
        ("a missing key, not telling", limited_to_reading.get("/bucket/in/missing"), 403),
        ("a missing bucket, not telling", user.get("/nothing-here"), 403),
        ("buckets", user.get("/"), 403),
        ("create", user.put("/third"), 403),
        ("upload", user.post("/bucket/in/m?uploads"), 200),
        ("upload elsewhere", user.post("/bucket/out/m?uploads"), 403),
        ("an operation that is not built", user.get("/bucket?policy"), 403),
        ("nobody", nothing.get("/bucket/in/k"), 403),
        ("everything, here", all.get("/bucket/out/k"), 200),
        ("everything, and told what is missing", all.get("/bucket/missing"), 404),
        ("not another account's", world.stranger.get("/bucket/in/k"), 403),
        (
            "not as its owner either",
            root.get("/bucket/in/k").header("x-amz-expected-bucket-owner", "111111111111"),
            403,
        ),
        ("its owner", root.get("/bucket/in/k").header("x-amz-expected-bucket-owner", world.account.to_string()), 200),
    ];
    for (why, call, status) in rows {
        let answer = call.send().await.expect(status, why);
        if status == 403 {
            assert_eq!(answer.code(), "AccessDenied", "{why}");
        }
    }
    let stolen = world.stranger.put("/mine").send().await.expect(200, "the stranger's bucket");
    assert_eq!(stolen.outcome.operation.as_deref(), Some("CreateBucket"));
    let copy = world.stranger.put("/mine/k").header("x-amz-copy-source", "/bucket/in/k");
    copy.send().await.refused(403, "AccessDenied", "a copy out of another account");
    let answer = user.get("/bucket/in/k").send().await.expect(200, "for the audit log");
    let outcome = answer.outcome;
    assert_eq!(
        (outcome.operation.as_deref(), outcome.bucket.as_deref(), outcome.key.as_deref(), outcome.error),
        (Some("GetObject"), Some("bucket"), Some("in/k"), None)
    );
    assert!(outcome.caller.is_some_and(|caller| caller.arn.as_str().ends_with(":user/limited")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reserved_place_can_be_named() {
    use terroir_object_storage::backend::{BucketId, ObjectBackend, Place, Put};
    let world = World::with_bucket().await;
    let body = futures::stream::iter([Ok(Bytes::from_static(b"image"))]);
    world.backend.put(&Place::new(BucketId::SYSTEM, "image/1"), Box::pin(body), Put::plain()).await.unwrap();
    let id = BucketId::SYSTEM.to_string();
    for target in [format!("/{id}/image/1"), format!("/bucket-{id}/image/1"), "//image/1".to_owned()] {
        let answer = world.root.get(&target).payload(UNSIGNED).send().await;
        assert!(answer.status.is_client_error(), "{target}: {}", answer.status);
    }
}
