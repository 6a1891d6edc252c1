//! The endpoint over a real store, driven by requests that are signed by hand.

mod world;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::time::Duration;
use terroir_api_server::in_process::{Answer, Client};
use terroir_aws_model::Service::{self, Ec2, Iam, Kms, Sts};
use terroir_types::Secret;
use world::World;

fn assert_answer(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status.as_u16(), answer.code.as_str()), (status, code), "{what}: {}", answer.body);
}

/// A change to a good client or request, and what each service answers to it.
struct Refusal {
    what: &'static str,
    client: fn(&mut Client),
    request: fn(&mut Request<Body>),
    ec2: (u16, &'static str),
    query: (u16, &'static str),
}

const AUTH: (u16, &str) = (401, "AuthFailure");
const MISMATCH: (u16, &str) = (403, "SignatureDoesNotMatch");
const UNKNOWN: (u16, &str) = (403, "InvalidClientTokenId");

fn header(request: &mut Request<Body>, name: &'static str, edit: impl Fn(&str) -> String) {
    let text = edit(request.headers()[name].to_str().unwrap());
    request.headers_mut().insert(name, text.parse().unwrap());
}

fn refusals() -> Vec<Refusal> {
    let same: fn(&mut Request<Body>) = |_| {};
    let good: fn(&mut Client) = |_| {};
    let expired = (400, "RequestExpired");
    let row = |what, client, request, ec2, query| Refusal { what, client, request, ec2, query };
    vec![
        row("wrong secret", |c| c.secret = Secret::new("x".into()), same, AUTH, MISMATCH),
        row("unknown key", |c| c.access_key_id = "AKIAAAAAAAAAAAAAAAAA".into(), same, AUTH, UNKNOWN),
        row("a key that is a path", |c| c.access_key_id = "..".into(), same, AUTH, UNKNOWN),
        row("a token with a long-lived key", |c| c.token = Some("x".into()), same, AUTH, UNKNOWN),
        row("signed 6 minutes ago", |c| c.now = c.now.minus(Duration::from_secs(360)), same, expired, MISMATCH),
        row("signed in 6 minutes", |c| c.now = c.now.plus(Duration::from_secs(360)), same, expired, MISMATCH),
        row("another region", |c| c.region = "mars-1".into(), same, AUTH, MISMATCH),
        row(
            "another body",
            good,
            |r| *r.body_mut() = Body::from("Action=DeleteUser&Version=2010-05-08"),
            AUTH,
            MISMATCH,
        ),
        row("another query", good, |r| *r.uri_mut() = "/?a=b".parse().unwrap(), AUTH, MISMATCH),
        row("another path", good, |r| *r.uri_mut() = "/x".parse().unwrap(), AUTH, MISMATCH),
        row("another method", good, |r| *r.method_mut() = http::Method::GET, AUTH, MISMATCH),
        row(
            "another signed header",
            good,
            |r| header(r, "content-type", |_| "application/x-www-form-urlencoded".into()),
            AUTH,
            MISMATCH,
        ),
        row("another host", good, |r| header(r, "host", |_| "elsewhere".into()), AUTH, MISMATCH),
        row(
            "an altered signature",
            good,
            |r| {
                header(r, "authorization", |h| {
                    let last = if h.ends_with('0') { "1" } else { "0" };
                    format!("{}{last}", &h[..h.len() - 1])
                })
            },
            AUTH,
            MISMATCH,
        ),
        row(
            "a header in x-amz-* that is not signed",
            good,
            |r| {
                r.headers_mut().insert("x-amz-other", "x".parse().unwrap());
            },
            (400, "IncompleteSignature"),
            (403, "IncompleteSignature"),
        ),
        row(
            "a scope of another day",
            good,
            |r| {
                header(r, "authorization", |h| {
                    let at = h.find('/').unwrap() + 1;
                    format!("{}19991231{}", &h[..at], &h[at + 8..])
                })
            },
            AUTH,
            MISMATCH,
        ),
        row(
            "an incomplete header",
            good,
            |r| header(r, "authorization", |h| h.split(", Signature").next().unwrap().to_owned()),
            (400, "IncompleteSignature"),
            (403, "IncompleteSignature"),
        ),
        row(
            "no signature",
            good,
            |r| {
                r.headers_mut().remove("authorization");
            },
            (403, "MissingAuthenticationToken"),
            (403, "MissingAuthenticationToken"),
        ),
    ]
}

#[tokio::test]
async fn bad_signatures_are_refused_in_each_services_words() {
    let world = World::new().await;
    for service in [Ec2, Iam, Kms, Sts] {
        let action = match service {
            Ec2 => "Echo",
            Iam => "ListUsers",
            Kms => "ListKeys",
            Sts => "GetCallerIdentity",
        };
        let post = |client: &Client| {
            let body = format!("Action={action}&Version={}", service.api_version());
            match service {
                Kms => client.signed_post_to(service, Some("TrentService.ListKeys"), "{}"),
                _ => client.signed_post(service, &body),
            }
        };
        for row in refusals() {
            let mut client = world.root.clone();
            (row.client)(&mut client);
            let mut request = post(&client);
            (row.request)(&mut request);
            let (status, code) = match (service, row.query) {
                (Ec2, _) => row.ec2,
                (Kms, (_, "SignatureDoesNotMatch")) => (400, "InvalidSignatureException"),
                (Kms, (_, "InvalidClientTokenId")) => (400, "UnrecognizedClientException"),
                (Kms, (_, "IncompleteSignature")) => (400, "IncompleteSignatureException"),
                (Kms, (_, "MissingAuthenticationToken")) => (400, "MissingAuthenticationTokenException"),
                (_, expected) => expected,
            };
            let answer = client.send(&world.server, request).await;
            assert_answer(&answer, status, code, &format!("{service:?}, {}", row.what));
        }
        if service != Ec2 {
            assert_answer(&world.root.send(&world.server, post(&world.root)).await, 200, "", "good");
        }
        let elsewhere = Client { scope_service: Some("lambda".into()), ..world.root.clone() };
        let answer = elsewhere.send(&world.server, post(&elsewhere)).await;
        let (status, code) = match service {
            Ec2 => AUTH,
            Kms => (400, "InvalidSignatureException"),
            _ => MISMATCH,
        };
        assert_answer(&answer, status, code, "a scope of an unknown service");
    }
}

#[tokio::test]
async fn services_that_speak_json() {
    let world = World::with_limits(|limits| limits.body_bytes = 4096).await;
    let nobody = world.user("nobody", None).await;
    let large = format!(r#"{{"KeyId":"{}"}}"#, "x".repeat(5000));
    let deep = "[".repeat(2000);
    for (what, client, action, body, status, code) in [
        ("a good one", &world.root, "ListKeys", r#"{"Limit":5,"Unheard":[{"of":1}]}"#, 200, ""),
        ("null is absent", &world.root, "ListKeys", r#"{"Limit":null}"#, 200, ""),
        ("no such operation", &world.root, "Frobnicate", "{}", 400, "UnknownOperationException"),
        ("one that is not built", &world.root, "Sign", "{}", 400, "UnsupportedOperationException"),
        ("no JSON", &world.root, "ListKeys", "{", 400, "SerializationException"),
        ("nothing", &world.root, "ListKeys", "", 400, "SerializationException"),
        ("no object", &world.root, "ListKeys", "[]", 400, "SerializationException"),
        ("too deep", &world.root, "ListKeys", &deep, 400, "SerializationException"),
        ("another type", &world.root, "ListKeys", r#"{"Limit":"5"}"#, 400, "SerializationException"),
        ("too large a number", &world.root, "ListKeys", r#"{"Limit":5000000000}"#, 400, "SerializationException"),
        ("a member is missing", &world.root, "EnableKey", "{}", 400, "ValidationException"),
        ("too large", &world.root, "EnableKey", &large, 413, "RequestEntityTooLargeException"),
        ("no permission", &nobody, "ListKeys", "{}", 400, "AccessDeniedException"),
    ] {
        let answer = client.call_json(&world.server, Kms, action, body).await;
        assert_answer(&answer, status, code, what);
    }
    let root = &world.root;
    assert_eq!(root.call_json(&world.server, Kms, "ListKeys", "{}").await.body, r#"{"Keys":[],"Truncated":false}"#);
    assert_eq!(root.call_json(&world.server, Kms, "EnableKey", r#"{"KeyId":"k"}"#).await.body, "");
    let missing = root.call_json(&world.server, Kms, "EnableKey", "{}").await;
    assert_eq!(
        missing.body,
        "{\"__type\":\"ValidationException\",\"message\":\"1 validation error detected: Value null at 'keyId' failed \
         to satisfy constraint: Member must not be null\"}"
    );
    for target in ["ListKeys", "DynamoDB_20120810.ListKeys", "TrentService."] {
        let request = root.signed_post_to(Kms, Some(target), "{}");
        assert_answer(&root.send(&world.server, request).await, 400, "UnknownOperationException", target);
    }
    let request = root.signed_post_to(Kms, Some("TrentService.Sign"), "{}");
    let response = world.server.handle(request, root.peer).await;
    for (name, expected) in
        [("content-type", "application/x-amz-json-1.1"), ("x-amzn-errortype", "UnsupportedOperationException")]
    {
        assert_eq!(response.headers()[name], expected);
    }
    assert_eq!(response.headers()["x-amzn-requestid"].len(), 36);
    assert!(response.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
}

#[tokio::test]
async fn presigned_urls() {
    let world = World::new().await;
    let who = [("Action", "GetCallerIdentity"), ("Version", "2011-06-15")];
    let url = |client: &Client, secs| client.presigned_get(Sts, &who, secs);
    let root = &world.root;
    assert_answer(&root.send(&world.server, url(root, 60)).await, 200, "", "good");
    for (what, request, code) in [
        ("a week and a second", url(root, 604_801), "IncompleteSignature"),
        (
            "tampered",
            {
                let mut request = url(root, 60);
                *request.uri_mut() =
                    request.uri().to_string().replace("GetCallerIdentity", "GetSessionToken").parse().unwrap();
                request
            },
            "SignatureDoesNotMatch",
        ),
    ] {
        assert_answer(&root.send(&world.server, request).await, 403, code, what);
    }
    let old = Client { now: root.now.minus(Duration::from_secs(3600)), ..root.clone() };
    assert_answer(&old.send(&world.server, url(&old, 3700)).await, 200, "", "an hour old and still valid");
    assert_answer(&old.send(&world.server, url(&old, 3500)).await, 403, "SignatureDoesNotMatch", "expired");
}

#[tokio::test]
async fn sessions() {
    let world = World::new().await;
    let session = |answer: &Answer| Client {
        access_key_id: answer.element("AccessKeyId").unwrap().to_owned(),
        secret: Secret::new(answer.element("SecretAccessKey").unwrap().to_owned()),
        token: Some(answer.element("SessionToken").unwrap().to_owned()),
        ..world.root.clone()
    };
    let user = world.user("ann", None).await;
    let answer = world.ok(&user, Sts, "GetSessionToken", &[("DurationSeconds", "900")]).await;
    let good = session(&answer);
    let identity = world.ok(&good, Sts, "GetCallerIdentity", &[]).await;
    assert_eq!(identity.element("Arn").unwrap(), format!("arn:aws:iam::{}:user/ann", world.account));

    let other = session(&world.ok(&user, Sts, "GetSessionToken", &[]).await);
    let mut altered = good.token.clone().unwrap().into_bytes();
    altered[30] = if altered[30] == b'A' { b'B' } else { b'A' };
    for (what, client, ec2, query) in [
        ("no token", Client { token: None, ..good.clone() }, AUTH, UNKNOWN),
        ("another session's token", Client { token: other.token.clone(), ..good.clone() }, AUTH, UNKNOWN),
        (
            "an altered token",
            Client { token: Some(String::from_utf8(altered).unwrap()), ..good.clone() },
            AUTH,
            UNKNOWN,
        ),
        ("a token of nonsense", Client { token: Some("AAAA".into()), ..good.clone() }, AUTH, UNKNOWN),
        ("another session's secret", Client { secret: other.secret.clone(), ..good.clone() }, AUTH, MISMATCH),
        ("an invented key", Client { access_key_id: "ASIAAAAAAAAAAAAAAAAA".into(), ..good.clone() }, AUTH, MISMATCH),
    ] {
        for (service, (status, code)) in [(Ec2, ec2), (Iam, query), (Sts, query)] {
            let answer = client.call(&world.server, service, "GetCallerIdentity", &[]).await;
            assert_answer(&answer, status, code, &format!("{service:?}, {what}"));
        }
    }
    world.clock.advance(Duration::from_secs(901));
    let late = Client { now: world.now(), ..good.clone() };
    for (service, status, code) in
        [(Ec2, 400, "RequestExpired"), (Iam, 403, "ExpiredToken"), (Sts, 403, "ExpiredToken")]
    {
        let answer = late.call(&world.server, service, "GetCallerIdentity", &[]).await;
        assert_answer(&answer, status, code, &format!("{service:?}, expired"));
    }
    // A session ends with its user.
    let still = Client { now: world.now(), ..other };
    world.ok(&still, Sts, "GetCallerIdentity", &[]).await;
    let root = Client { now: world.now(), ..world.root.clone() };
    world.ok(&root, Iam, "DeleteAccessKey", &[("UserName", "ann"), ("AccessKeyId", &user.access_key_id)]).await;
    world.ok(&root, Iam, "DeleteUser", &[("UserName", "ann")]).await;
    assert_answer(&still.call(&world.server, Sts, "GetCallerIdentity", &[]).await, 403, "InvalidClientTokenId", "gone");
}

#[tokio::test]
async fn every_action_refuses_a_user_without_permissions() {
    let world = World::new().await;
    let problems = terroir_api_server::coverage::problems(&world.server).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test]
async fn unknown_and_unbuilt_actions() {
    let world = World::new().await;
    let call = |service: Service, action: &'static str| world.root.call(&world.server, service, action, &[]);
    for service in [Ec2, Iam, Sts] {
        assert_answer(&call(service, "MakeCoffee").await, 400, "InvalidAction", "unknown");
        assert_answer(&call(service, "").await, 400, "InvalidAction", "empty");
    }
    assert_answer(&call(Ec2, "CreateTransitGateway").await, 400, "UnsupportedOperation", "not built");
    assert_answer(&call(Iam, "UploadServerCertificate").await, 400, "UnsupportedOperation", "not built");
    let old = world.root.signed_post(Iam, "Action=ListUsers&Version=2009-01-01");
    assert_answer(&world.root.send(&world.server, old).await, 400, "InvalidAction", "another version");
    let nameless = world.root.call(&world.server, Iam, "DeleteUser", &[]).await;
    assert_answer(&nameless, 400, "ValidationError", "a missing parameter");
}

#[tokio::test]
async fn dry_run_and_client_tokens() {
    let world = World::new().await;
    let root = &world.root;
    let call =
        |parameters: &'static [(&'static str, &'static str)]| root.call(&world.server, Ec2, "CreateVpc", parameters);
    let count = || async { world.ok(root, Ec2, "DescribeVpcs", &[]).await.body.matches("<vpcId>").count() };

    assert_answer(&call(&[("CidrBlock", "10.0.0.0/16"), ("DryRun", "true")]).await, 412, "DryRunOperation", "allowed");
    assert_answer(&call(&[("CidrBlock", "bad"), ("DryRun", "true")]).await, 400, "InvalidVpc.Range", "checked");
    let nobody = world.user("nobody", None).await;
    let denied =
        nobody.call(&world.server, Ec2, "CreateVpc", &[("CidrBlock", "10.0.0.0/16"), ("DryRun", "true")]).await;
    assert_answer(&denied, 403, "UnauthorizedOperation", "denied");
    assert!(
        denied.body.contains("because no identity-based policy allows the ec2:CreateVpc action"),
        "{}",
        denied.body
    );
    assert_eq!(count().await, 0, "nothing was made");

    let client = |world: &World| Client { now: world.now(), ..world.root.clone() };
    let call = |action: &'static str, token: &'static str, value: &'static str| {
        let client = client(&world);
        let server = &world.server;
        async move {
            let image = [("ClientToken", token), ("ImageId", value), ("MinCount", "1"), ("MaxCount", "1")];
            let zone = [("ClientToken", token), ("AvailabilityZone", value)];
            let parameters = if action == "RunInstances" { &image[..] } else { &zone[..] };
            client.call(server, Ec2, action, parameters).await
        }
    };
    for (action, element) in [("RunInstances", "reservationId"), ("CreateVolume", "volumeId")] {
        let first = call(action, "token-1", "a").await;
        assert_answer(&first, 200, "", action);
        let again = call(action, "token-1", "a").await;
        assert_eq!(first.element(element), again.element(element), "{action}: the same answer");
        assert_ne!(first.element("requestId"), again.element("requestId"), "{action}: another request");
        assert_answer(&call(action, "token-1", "b").await, 400, "IdempotentParameterMismatch", action);
        let other = call(action, "token-2", "a").await;
        assert_ne!(other.element(element), first.element(element), "{action}: another token");

        world.clock.advance(Duration::from_secs(25 * 3600));
        let late = call(action, "token-1", "a").await;
        let lives = action == "RunInstances";
        assert_eq!(late.element(element) == first.element(element), lives, "{action}: a day later");
        let instance = first.element("requesterId").unwrap_or_default();
        let remove = |txn: &mut terroir_store::Txn| terroir_resources::unregister(txn, world.account, instance);
        world.store.transact(&[], remove).await.unwrap();
        if lives {
            let after = call(action, "token-1", "b").await;
            assert_answer(&after, 200, "", "a token whose instance is gone");
            assert_ne!(after.element(element), first.element(element));
        }
    }
}

#[tokio::test]
async fn eight_at_once_with_one_token_make_one() {
    let world = World::new().await;
    let parameters = [("ClientToken", "t"), ("AvailabilityZone", "a")];
    let calls = (0..8).map(|_| world.root.call(&world.server, Ec2, "CreateVolume", &parameters));
    let answers = futures::future::join_all(calls).await;
    for answer in &answers {
        assert_answer(answer, 200, "", "each is answered");
        assert_eq!(answer.element("volumeId"), answers[0].element("volumeId"));
    }
    let all = world.ok(&world.root, Ec2, "DescribeVpcs", &[]).await;
    assert_eq!(all.body.matches("<vpcId>").count(), 1, "{}", all.body);
}

#[tokio::test]
async fn every_call_is_audited() {
    let world = World::new().await;
    let root = &world.root;
    world.ok(root, Iam, "CreateUser", &[("UserName", "ann")]).await;
    world.ok(root, Iam, "ListUsers", &[]).await;
    let twice = root.call(&world.server, Iam, "CreateUser", &[("UserName", "ann")]).await;
    assert_answer(&twice, 409, "EntityAlreadyExists", "twice");
    let key = world.ok(root, Iam, "CreateAccessKey", &[("UserName", "ann")]).await;
    let password = [("UserName", "ann"), ("Password", "Corr3ct-horse-battery")];
    world.ok(root, Iam, "CreateLoginProfile", &password).await;
    let ann = world.user("bob", None).await;
    assert_eq!(ann.call(&world.server, Iam, "GetUser", &[]).await.code, "AccessDenied");
    let forged = Client { secret: Secret::new("wrong".to_owned()), ..root.clone() };
    assert_eq!(forged.call(&world.server, Iam, "ListUsers", &[]).await.code, "SignatureDoesNotMatch");
    let unknown = root.call(&world.server, Iam, "MakeCoffee", &[]).await;
    assert_eq!(unknown.code, "InvalidAction");

    // The changes are in the outbox, with the records of everything else waiting beside them.
    let waiting = world.store.outbox(terroir_audit::STREAM, 0, 100).await.unwrap().len();
    assert_eq!((waiting, world.audit.counts().waiting), (3, 5));
    let log = world.folder.path().join("audit");
    let mut shipper = terroir_audit::AuditLog::open(&log, "local", world.audit.clone(), world.clock.clone()).unwrap();
    terroir_store::ship::Shipper::ship(&mut shipper, &world.store).await.unwrap();
    let text = std::fs::read_to_string(log.join("audit-00000001.jsonl")).unwrap();
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].clone();
    let events: Vec<serde_json::Value> = text.lines().map(event).collect();
    let told = |event: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["eventName"]), text(&event["errorCode"]), event["readOnly"].as_bool().unwrap())
    };
    let mut told: Vec<_> = events.iter().map(told).collect();
    told.sort();
    let expected = [
        ("-", "SignatureDoesNotMatch", false),
        ("CreateAccessKey", "", false),
        ("CreateLoginProfile", "", false),
        ("CreateUser", "", false),
        ("CreateUser", "EntityAlreadyExists", false),
        ("GetUser", "AccessDenied", true),
        ("ListUsers", "", true),
        ("MakeCoffee", "InvalidAction", false),
    ];
    assert_eq!(told, expected.map(|(name, code, read)| (name.to_owned(), code.to_owned(), read)));
    let login = events.iter().find(|event| event["eventName"] == "CreateLoginProfile").unwrap();
    assert_eq!(login["requestParameters"]["userName"], "ann");
    assert_eq!(login["resources"][0]["ARN"], format!("arn:aws:iam::{}:user/ann", world.account));
    assert_eq!((&login["sourceIPAddress"], &login["userIdentity"]["type"]), (&"127.0.0.1".into(), &"Root".into()));
    let took = |event: &serde_json::Value| event["additionalEventData"]["latencyMicros"].is_u64();
    assert!(events.iter().all(|event| took(event) && event["requestID"].as_str().unwrap().len() == 36));
    let stranger = events.iter().find(|event| event["errorCode"] == "SignatureDoesNotMatch").unwrap();
    assert_eq!(stranger["userIdentity"], serde_json::json!({ "type": "Unknown", "accessKeyId": root.access_key_id }));
    for secret in [root.secret.expose().as_str(), key.element("SecretAccessKey").unwrap(), password[1].1] {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn each_class_of_actions_has_its_own_rate() {
    let rate = |burst| terroir_api_server::Rate { per_second: 1, burst };
    let world = World::with_limits(|limits| (limits.changes, limits.launches) = (rate(2), rate(1))).await;
    let root = &world.root;
    let user = async |name| root.call(&world.server, Iam, "CreateUser", &[("UserName", name)]).await;
    let launch = async || root.call(&world.server, Ec2, "RunInstances", &[("MinCount", "1"), ("MaxCount", "1")]).await;
    assert_answer(&user("a").await, 200, "", "within the burst");
    assert_answer(&user("b").await, 200, "", "within the burst");
    assert_answer(&user("c").await, 400, "Throttling", "a third change");
    assert_answer(&launch().await, 200, "", "launches have a bucket of their own");
    assert_answer(&launch().await, 503, "RequestLimitExceeded", "a second launch");
    let refused =
        world.server.handle(root.signed_post(Iam, "Action=CreateUser&Version=2010-05-08&UserName=c"), root.peer);
    let refused = refused.await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (400, "1"));
    for _ in 0..10 {
        assert_answer(&root.call(&world.server, Iam, "ListUsers", &[]).await, 200, "", "reads go on");
    }
    let (_, other) = world.other_account("other").await;
    assert_answer(
        &other.call(&world.server, Iam, "CreateUser", &[("UserName", "a")]).await,
        200,
        "",
        "another account",
    );
    world.clock.advance(Duration::from_secs(1));
    assert_answer(&user("c").await, 200, "", "a second later");
    assert_answer(&user("d").await, 400, "Throttling", "one more");
    assert_answer(&launch().await, 200, "", "a second later");
}

#[tokio::test]
async fn throttles_bodies_and_other_paths() {
    let world = World::with_limits(|limits| {
        limits.actions = terroir_api_server::Rate { per_second: 1, burst: 3 };
        limits.failures = terroir_api_server::Rate { per_second: 1, burst: 2 };
        limits.body_bytes = 4096;
    })
    .await;
    let root = &world.root;
    let big = root.signed_post(Iam, &format!("Action=ListUsers&Version=2010-05-08&X={}", "x".repeat(5000)));
    assert_answer(&root.send(&world.server, big).await, 413, "RequestEntityTooLarge", "too large");
    for _ in 0..3 {
        assert_answer(&root.call(&world.server, Iam, "ListUsers", &[]).await, 200, "", "within the burst");
    }
    assert_answer(&root.call(&world.server, Iam, "ListUsers", &[]).await, 400, "Throttling", "IAM");
    assert_answer(&root.call(&world.server, Ec2, "DescribeVpcs", &[]).await, 503, "RequestLimitExceeded", "EC2");
    let thief = Client { secret: Secret::new("x".into()), peer: ([10, 0, 0, 1], 1).into(), ..root.clone() };
    for code in ["SignatureDoesNotMatch", "SignatureDoesNotMatch", "Throttling"] {
        assert_eq!(thief.call(&world.server, Iam, "ListUsers", &[]).await.code, code, "failures from one address");
    }

    let get = |path: &'static str, headers: &'static [(&'static str, &'static str)]| {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        root.send(&world.server, request.body(Body::empty()).unwrap())
    };
    assert_eq!(get("/healthz", &[]).await.body, "ok\n");
    assert_eq!(get("/readyz", &[]).await.status, StatusCode::OK);
    assert!(get("/metrics", &[]).await.body.contains("service=\"iam\",action=\"ListUsers\",code=\"OK\"} 3"));
    for (path, headers) in [
        ("/bucket/key", &[][..]),
        ("/", &[][..]),
        ("/healthz?x", &[][..]),
        (
            "/",
            &[
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=AKIA/20261124/r/s3/aws4_request, SignedHeaders=host, Signature=0000000000000000000000000000000000000000000000000000000000000000",
                ),
                ("x-amz-date", "20261124T050000Z"),
            ][..],
        ),
    ] {
        assert_eq!(get(path, headers).await.body, "objects", "{path} is for object storage");
    }
}
