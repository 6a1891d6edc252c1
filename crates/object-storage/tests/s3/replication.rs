//! Copies of versions in other buckets of this cloud, and in a foreign S3: another service in this process.

use crate::harness::{Answer, Client, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_iam::names::Entity;
use terroir_iam::ops::{About, Holder, NewRole, create_role, put_inline_policy};
use terroir_object_storage::backend::{ObjectBackend, Outbox};
use terroir_object_storage::outbound::Outbound;
use terroir_object_storage::replication::Replicator;
use terroir_object_storage::target::{self, Destination, ForeignBucket, S3Destination, TargetTenant};
use terroir_types::{AccountId, Clock, OsRandom, Secret};

const VERSIONED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"s3.amazonaws.com"},"Action":"sts:AssumeRole"}}"#;
const ALL: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:Get*","s3:Replicate*"],"Resource":"*"}}"#;

async fn make_role(world: &World, account: AccountId, name: &str, trust: &str, policy: &str) -> String {
    let now = world.clock.now();
    let tags = Default::default();
    let make = |txn: &mut terroir_store::Txn| {
        let about = About { name, path: None, description: None, tags: &tags };
        let role = create_role(txn, account, NewRole { about, trust, max_session_secs: None }, &OsRandom, now)?;
        put_inline_policy(txn, account, Holder::Role(name), "inline", policy)?;
        Ok(role.arn().to_string())
    };
    world.store.transact(&[], make).await.unwrap().0
}

/// `bucket` and `copies`, with versions, and a worker that copies.
async fn replicating() -> (World, String) {
    let world = World::with_bucket().await;
    world.root.put("/copies").send().await.expect(200, "copies");
    for bucket in ["bucket", "copies"] {
        world.root.put(&format!("/{bucket}?versioning")).body(VERSIONED).send().await.expect(200, bucket);
    }
    let role = make_role(&world, world.account, "copier", TRUST, ALL).await;
    start(&world);
    (world, role)
}

fn start(world: &World) {
    let backend: Arc<dyn ObjectBackend> = Arc::new(world.backend.clone());
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let replicator = Replicator::new(
        world.iam.clone(),
        backend,
        Outbound::new().unwrap(),
        clock,
        Arc::new(OsRandom),
        "eu-test-1".to_owned(),
    );
    tokio::spawn(async move { replicator.run(std::future::pending()).await });
}

fn rule(id: &str, to: &str, filter: &str, priority: i32, markers: bool) -> String {
    let markers = if markers { "Enabled" } else { "Disabled" };
    format!(
        "<Rule><ID>{id}</ID><Status>Enabled</Status><Filter>{filter}</Filter><Priority>{priority}</Priority><DeleteMarkerReplication><Status>{markers}</Status></DeleteMarkerReplication><Destination><Bucket>{to}</Bucket></Destination></Rule>"
    )
}

async fn configure(world: &World, role: &str, rules: &str) -> Answer {
    let document = format!("<ReplicationConfiguration><Role>{role}</Role>{rules}</ReplicationConfiguration>");
    world.root.put("/bucket?replication").proven(document).send().await
}

async fn status(client: &Client, target: &str) -> String {
    let answer = client.head(target).send().await;
    answer.header("x-amz-replication-status").to_owned()
}

async fn becomes(client: &Client, target: &str, wanted: &str) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = client.head(target).send().await;
        if answer.status == 200 && answer.header("x-amz-replication-status") == wanted {
            return answer;
        }
        assert!(Instant::now() < deadline, "{target} is {} {:?}", answer.status, answer.headers);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Once nothing waits to be copied any more.
async fn settled(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let queues = world.backend.queues().await.unwrap();
        if queues.iter().all(|queue| queue.entries == 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{queues:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn bytes(size: usize) -> Bytes {
    (0..size).map(|n| (n * 7 % 251) as u8).collect()
}

pub async fn upload(client: &Client, key: &str, parts: &[Bytes]) -> Answer {
    let begun = client.post(&format!("/bucket/{key}?uploads")).header("x-amz-tagging", "copy=yes").send().await;
    let upload = begun.expect(200, key).field("UploadId").unwrap();
    let mut document = String::new();
    for (number, part) in (1..).zip(parts) {
        let target = format!("/bucket/{key}?partNumber={number}&uploadId={upload}");
        let answer = client.put(&target).body(part.clone()).send().await.expect(200, key);
        document += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", answer.header("etag"));
    }
    let document = format!("<CompleteMultipartUpload>{document}</CompleteMultipartUpload>");
    client.post(&format!("/bucket/{key}?uploadId={upload}")).body(document).send().await.expect(200, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_the_versions_themselves() {
    let (world, role) = replicating().await;
    let c = &world.root;
    c.put("/bucket/before").body("x").send().await.expect(200, "before there are rules");
    configure(&world, &role, &rule("all", "arn:aws:s3:::copies", "", 1, true)).await.expect(200, "rules");
    let large = bytes(300_000);
    for (key, body) in [("small", Bytes::from("small")), ("empty", Bytes::new()), ("large", large.clone())] {
        let put = c.put(&format!("/bucket/{key}")).body(body).header("x-amz-meta-colour", "red");
        let put = put
            .header("content-type", "text/x")
            .header("x-amz-tagging", "a=b")
            .header("x-amz-checksum-algorithm", "SHA256");
        put.send().await.expect(200, key);
    }
    upload(c, "parts", &[bytes(5 << 20), bytes(10)]).await;
    for key in ["small", "empty", "large", "parts"] {
        let source = becomes(c, &format!("/bucket/{key}"), "COMPLETED").await;
        let copy = becomes(c, &format!("/copies/{key}"), "REPLICA").await;
        for name in [
            "x-amz-version-id",
            "etag",
            "content-length",
            "last-modified",
            "content-type",
            "x-amz-meta-colour",
            "x-amz-tagging-count",
        ] {
            assert_eq!(source.header(name), copy.header(name), "{key}: {name}");
        }
        let bodies = [
            c.get(&format!("/bucket/{key}")).send().await.expect(200, key).body,
            c.get(&format!("/copies/{key}?versionId={}", source.header("x-amz-version-id")))
                .send()
                .await
                .expect(200, key)
                .body,
        ];
        assert!(bodies[0] == bodies[1], "{key}");
    }
    let part = c.head("/copies/parts?partNumber=2").send().await.expect(206, "parts stay parts");
    assert_eq!(part.header("content-length"), "10");
    c.head("/copies/before").send().await.expect(404, "existing objects are not copied");
    assert_eq!(status(c, "/bucket/before").await, "");

    // What is said later of a version is said of its copy.
    let tags = "<Tagging><TagSet><Tag><Key>new</Key><Value>tag</Value></Tag></TagSet></Tagging>";
    c.put("/bucket/small?tagging").body(tags).send().await.expect(200, "tags");
    c.put("/bucket/before?tagging").body(tags).send().await.expect(200, "of what is not copied");
    settled(&world).await;
    assert_eq!(status(c, "/bucket/small").await, "COMPLETED");
    assert_eq!(status(c, "/bucket/before").await, "");
    let copied = c.get("/copies/small?tagging").send().await.expect(200, "tags").text();
    assert!(copied.contains("<Key>new</Key>") && !copied.contains("<Key>a</Key>"), "{copied}");
    c.head("/copies/before").send().await.expect(404, "still not");

    // Markers are copied, removals of versions are not.
    let marker = c.delete("/bucket/small").send().await.expect(204, "marker").header("x-amz-version-id").to_owned();
    let version = c.head("/bucket/large").send().await.header("x-amz-version-id").to_owned();
    c.delete(&format!("/bucket/large?versionId={version}")).send().await.expect(204, "version");
    settled(&world).await;
    let hidden = c.get("/copies/small").send().await.expect(404, "hidden");
    assert_eq!(hidden.header("x-amz-version-id"), marker);
    assert_eq!(c.get("/copies/large").send().await.expect(200, "kept").body, large);
    let report = world.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!(report.found, 0, "{report:?}");
    c.delete("/bucket?replication").send().await.expect(204, "no rules");
    c.get("/bucket?replication").send().await.refused(404, "ReplicationConfigurationNotFoundError", "none");
    c.put("/bucket/after").body("x").send().await.expect(200, "after");
    assert_eq!(status(c, "/bucket/after").await, "");
}

/// Also where the destination has newer versions of its own, and where a copy comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn copies_stand_where_their_versions_stand() {
    let (world, role) = replicating().await;
    let c = &world.root;
    configure(&world, &role, &rule("all", "arn:aws:s3:::copies", "", 1, true)).await.expect(200, "rules");
    let mut expected = Vec::new();
    for n in 0..20 {
        let answer = if n % 5 == 4 {
            c.delete("/bucket/k").send().await.expect(204, "marker")
        } else {
            c.put("/bucket/k").body(format!("body {n}")).send().await.expect(200, "put")
        };
        expected.insert(0, answer.header("x-amz-version-id").to_owned());
        if n == 10 {
            settled(&world).await;
            let own = c.put("/copies/k").body("own").send().await.expect(200, "a version of its own");
            let own = own.header("x-amz-version-id").to_owned();
            assert!(own > expected[0], "newer than what was copied");
            c.delete(&format!("/copies/k?versionId={own}")).send().await.expect(204, "gone again");
        }
    }
    settled(&world).await;
    let ids = |text: String| -> Vec<String> {
        let mut found: Vec<String> = text.split("<VersionId>").skip(1).map(|rest| rest[..16].to_owned()).collect();
        found.sort();
        found.reverse();
        found
    };
    let [source, copies] = [
        c.get("/bucket?versions").send().await.expect(200, "versions").text(),
        c.get("/copies?versions").send().await.expect(200, "versions").text(),
    ];
    assert_eq!(ids(source), expected);
    assert_eq!(ids(copies), expected);
    let report = world.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!(report.found, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_go_with_their_versions() {
    let world = World::new().await;
    let c = &world.root;
    for bucket in ["bucket", "copies"] {
        let create = c.put(&format!("/{bucket}")).header("x-amz-bucket-object-lock-enabled", "true");
        create.send().await.expect(200, bucket);
    }
    c.put("/plain").send().await.expect(200, "plain");
    c.put("/plain?versioning").body(VERSIONED).send().await.expect(200, "plain");
    let role = make_role(&world, world.account, "copier", TRUST, ALL).await;
    start(&world);
    configure(&world, &role, &rule("a", "arn:aws:s3:::plain", "", 1, false)).await.refused(
        400,
        "InvalidRequest",
        "no lock",
    );
    configure(&world, &role, &rule("a", "arn:aws:s3:::copies", "", 1, false)).await.expect(200, "rules");
    let put = c.put("/bucket/k").proven("x").header("x-amz-object-lock-mode", "GOVERNANCE");
    let put = put.header("x-amz-object-lock-retain-until-date", "2027-01-01T00:00:00Z");
    let version = put.send().await.expect(200, "locked").header("x-amz-version-id").to_owned();
    let copy = becomes(c, "/copies/k", "REPLICA").await;
    assert_eq!(copy.header("x-amz-object-lock-mode"), "GOVERNANCE");
    assert!(copy.header("x-amz-object-lock-retain-until-date").starts_with("2027-01-01"));
    c.delete(&format!("/copies/k?versionId={version}")).send().await.refused(403, "AccessDenied", "locked there, too");
    c.put("/bucket/k?legal-hold").proven("<LegalHold><Status>ON</Status></LegalHold>").send().await.expect(200, "hold");
    settled(&world).await;
    assert_eq!(becomes(c, "/copies/k", "REPLICA").await.header("x-amz-object-lock-legal-hold"), "ON");
}

/// Under the store's key they are copied, under the client's not, and nothing comes unencrypted into a bucket that encrypts.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_versions() {
    let (world, role) = replicating().await;
    let c = &world.root;
    configure(&world, &role, &rule("all", "arn:aws:s3:::copies", "", 1, true)).await.expect(200, "rules");
    let method = "x-amz-server-side-encryption";
    let large = bytes(300_000);
    for (key, body) in [("small", Bytes::from("small")), ("large", large)] {
        c.put(&format!("/bucket/{key}")).header(method, "AES256").body(body.clone()).send().await.expect(200, key);
        let source = becomes(c, &format!("/bucket/{key}"), "COMPLETED").await;
        let copy = c.get(&format!("/copies/{key}")).send().await.expect(200, key);
        assert_eq!((copy.header(method), copy.header("etag")), ("AES256", source.header("etag")));
        assert!(copy.body == body, "{key}");
    }
    let key = [7; 32];
    let md5 = STANDARD.encode(<md5::Md5 as md5::Digest>::digest(key));
    let near = Client { from: Some("127.0.0.1"), ..c.clone() };
    let put =
        near.put("/bucket/customer").body("x").header("x-amz-server-side-encryption-customer-algorithm", "AES256");
    let put = put.header("x-amz-server-side-encryption-customer-key", STANDARD.encode(key));
    put.header("x-amz-server-side-encryption-customer-key-md5", md5).send().await.expect(200, "customer");
    settled(&world).await;
    c.head("/copies/customer").send().await.expect(404, "not copied");
    let default = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    c.put("/copies?encryption").proven(default).send().await.expect(200, "encrypts");
    c.put("/bucket/plain").body("x").send().await.expect(200, "plain");
    becomes(c, "/bucket/plain", "FAILED").await;
    c.put("/bucket?encryption").proven(default).send().await.expect(200, "encrypts, too");
    c.put("/bucket/plain").body("y").send().await.expect(200, "encrypted by default");
    becomes(c, "/bucket/plain", "COMPLETED").await;
    let report = world.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!(report.found, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_copied_has_failed() {
    let (world, role) = replicating().await;
    let c = &world.root;
    c.put("/suspended").send().await.expect(200, "suspended");
    c.put("/suspended?versioning").body(VERSIONED).send().await.expect(200, "suspended");
    let only_read = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}}"#;
    let reader = make_role(&world, world.account, "reader", TRUST, only_read).await;
    let for_ec2 = TRUST.replace("s3.amazonaws.com", "ec2.amazonaws.com");
    let stranger = make_role(&world, world.account, "stranger", &for_ec2, ALL).await;
    let gone = role.replace("copier", "gone");
    let to_copies = rule("a", "arn:aws:s3:::copies", "", 1, true);
    for (who, role) in [("reads only", &reader), ("trusts another", &stranger), ("is not there", &gone)] {
        configure(&world, role, &to_copies).await.expect(200, who);
        c.put("/bucket/k").body(who).send().await.expect(200, who);
        becomes(c, "/bucket/k", "FAILED").await;
        c.head("/copies/k").send().await.expect(404, who);
    }
    let to_suspended = rule("b", "arn:aws:s3:::suspended", "", 2, true);
    configure(&world, &role, &format!("{to_copies}{to_suspended}")).await.expect(200, "two destinations");
    let suspend = VERSIONED.replace("Enabled", "Suspended");
    c.put("/suspended?versioning").body(suspend).send().await.expect(200, "suspended");
    c.put("/bucket/two").body("x").send().await.expect(200, "two");
    becomes(c, "/bucket/two", "FAILED").await;
    becomes(c, "/copies/two", "REPLICA").await;
    // Once it may, a change of the version brings nothing that was never there; writing it again does.
    c.put("/suspended?versioning").body(VERSIONED).send().await.expect(200, "again");
    c.put("/bucket/two").body("y").send().await.expect(200, "two");
    becomes(c, "/bucket/two", "COMPLETED").await;
    becomes(c, "/suspended/two", "REPLICA").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_accounts_let_the_role_in_by_policy() {
    let (world, role) = replicating().await;
    let c = &world.root;
    world.stranger.put("/theirs").send().await.expect(200, "theirs");
    world.stranger.put("/theirs?versioning").body(VERSIONED).send().await.expect(200, "theirs");
    configure(&world, &role, &rule("a", "arn:aws:s3:::theirs", "", 1, true)).await.expect(200, "rules");
    c.put("/bucket/k").body("x").send().await.expect(200, "put");
    becomes(c, "/bucket/k", "FAILED").await;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{role}"}},"Action":["s3:ReplicateObject","s3:ReplicateDelete"],"Resource":"arn:aws:s3:::theirs/*"}}}}"#
    );
    world.stranger.put("/theirs?policy").body(policy).send().await.expect(204, "policy");
    c.put("/bucket/k").body("y").send().await.expect(200, "put");
    becomes(c, "/bucket/k", "COMPLETED").await;
    let copy = world.stranger.get("/theirs/k").send().await.expect(200, "it is theirs");
    assert_eq!((copy.text().as_str(), copy.header("x-amz-replication-status")), ("y", "REPLICA"));
    c.put("/bucket/tagged").body("y").header("x-amz-tagging", "a=b").send().await.expect(200, "put");
    becomes(c, "/bucket/tagged", "FAILED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_configuration_may_say() {
    let (world, role) = replicating().await;
    let c = &world.root;
    c.put("/plain").send().await.expect(200, "without versions");
    let to = "arn:aws:s3:::copies";
    let with = |inside: &str| {
        format!("<Rule><Status>Enabled</Status>{inside}<Destination><Bucket>{to}</Bucket></Destination></Rule>")
    };
    let second = |filter: &str, rest: &str| with(&format!("<Filter>{filter}</Filter><Priority>1</Priority>{rest}"));
    let markers = |on: &str| format!("<DeleteMarkerReplication><Status>{on}</Status></DeleteMarkerReplication>");
    let off = markers("Disabled");
    let tag = "<Tag><Key>a</Key><Value>b</Value></Tag>";
    let rows = [
        (with("<Prefix>a</Prefix>"), 200, ""),
        (second("", &off), 200, ""),
        (second(tag, &off), 200, ""),
        (second(&format!("<And><Prefix>p</Prefix>{tag}</And>"), &off), 200, ""),
        (
            second(
                "<Prefix>p</Prefix>",
                &format!(
                    "{}<ExistingObjectReplication><Status>Disabled</Status></ExistingObjectReplication>",
                    markers("Enabled")
                ),
            ),
            200,
            "",
        ),
        (second(tag, &markers("Enabled")), 400, "InvalidRequest"),
        (second("", ""), 400, "InvalidRequest"),
        (with(&format!("<Filter/>{off}")), 400, "InvalidRequest"),
        (with(&format!("<Prefix/>{off}")), 400, "InvalidRequest"),
        (with(""), 400, "MalformedXML"),
        (second(&format!("<Prefix>p</Prefix>{tag}"), &off), 400, "MalformedXML"),
        (second(&format!("<And>{tag}</And>"), &off), 400, "MalformedXML"),
        (second("", &markers("Perhaps")), 400, "MalformedXML"),
        (format!("{}{}", second("", &off), second("", &off)), 400, "InvalidRequest"),
        (format!("{}{}", second("", &off), with("<Prefix/>")), 400, "InvalidRequest"),
        (format!("{0}{0}", with("<ID>i</ID><Prefix>a</Prefix>")), 400, "InvalidArgument"),
        (
            second(
                "",
                &format!("{off}<ExistingObjectReplication><Status>Enabled</Status></ExistingObjectReplication>"),
            ),
            501,
            "NotImplemented",
        ),
        (rule("a", "arn:aws:s3:::absent", "", 1, false), 400, "InvalidRequest"),
        (rule("a", "arn:aws:s3:::plain", "", 1, false), 400, "InvalidRequest"),
        (rule("a", "arn:aws:s3:::bucket", "", 1, false), 400, "InvalidRequest"),
        (rule("a", "copies", "", 1, false), 400, "InvalidArgument"),
        (rule("a", "arn:aws:s3:eu-test-1:000000000000:target/absent", "", 1, false), 400, "InvalidRequest"),
        (rule("a", "https://s3.example.org/bucket", "", 1, false), 400, "InvalidArgument"),
        (
            rule("a", "arn:aws:s3:::copies</Bucket><StorageClass>GLACIER</StorageClass><Bucket>", "", 1, false),
            400,
            "MalformedXML",
        ),
    ];
    for (rules, status, code) in rows {
        let answer = configure(&world, &role, &rules).await;
        if code.is_empty() {
            answer.expect(status, &rules);
        } else {
            answer.refused(status, code, &rules);
        }
    }
    let good = rule("shown", to, "<Prefix>p/</Prefix>", 3, true);
    for (bad, code) in [
        ("nothing", "InvalidArgument"),
        ("arn:aws:iam::000000000001:role/x", "InvalidRequest"),
        ("arn:aws:s3:::copies", "InvalidArgument"),
    ] {
        configure(&world, bad, &good).await.refused(400, code, bad);
    }
    configure(&world, &role, &good).await.expect(200, "rules");
    let shown = c.get("/bucket?replication").send().await.expect(200, "shown").text();
    for part in [&role, "<ID>shown</ID>", "<Prefix>p/</Prefix>", "<Priority>3</Priority>", "arn:aws:s3:::copies"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let suspend = VERSIONED.replace("Enabled", "Suspended");
    c.put("/bucket?versioning").body(suspend).send().await.expect(200, "suspended");
    configure(&world, &role, &good).await.refused(400, "InvalidRequest", "without versions");
    c.put("/bucket?versioning").body(VERSIONED).send().await.expect(200, "again");
    let may_set = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:PutReplicationConfiguration","Resource":"*"}}"#;
    let user = world.user("setter", may_set).await;
    let document = format!("<ReplicationConfiguration><Role>{role}</Role>{good}</ReplicationConfiguration>");
    let refused = user.put("/bucket?replication").proven(document).send().await;
    refused.refused(403, "AccessDenied", "the role would be passed on");
}

/// In these worlds nobody has stated where the store is, so that any policy forbids it.
pub async fn forbid(world: &World, account: AccountId) {
    let now = world.clock.now();
    let set = |txn: &mut terroir_store::Txn| {
        terroir_sovereignty::ops::set_account_policy(txn, account, r#"{"countries": {"allow": ["FR"]}}"#, now)
    };
    world.store.transact(&[], set).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_obey_sovereignty_policies() {
    let (world, role) = replicating().await;
    let c = &world.root;
    world.stranger.put("/theirs").send().await.expect(200, "theirs");
    world.stranger.put("/theirs?versioning").body(VERSIONED).send().await.expect(200, "theirs");
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{role}"}},"Action":"s3:ReplicateObject","Resource":"arn:aws:s3:::theirs/*"}}}}"#
    );
    world.stranger.put("/theirs?policy").body(policy).send().await.expect(204, "policy");
    let place = Destination::S3(S3Destination {
        endpoint: "http://127.0.0.1:1".to_owned(),
        region: "eu-test-1".to_owned(),
        access_key_id: "AKIA".to_owned(),
        secret_access_key: Secret::new("secret".to_owned()),
        bucket: ForeignBucket::One("far-bucket".to_owned()),
    });
    let tenant = TargetTenant { name: "far".to_owned(), accounts: None, max_queued: 10, place };
    let now = world.clock.now();
    world.store.transact(&[], |txn| target::add(txn, tenant.clone(), now)).await.unwrap();
    let theirs = rule("a", "arn:aws:s3:::theirs", "", 1, false);
    let far = rule("b", "arn:aws:s3:eu-test-1:000000000000:target/far", "", 1, false);
    configure(&world, &role, &far).await.expect(200, "no policy yet");
    configure(&world, &role, &theirs).await.expect(200, "theirs");
    c.put("/bucket/before").body("x").send().await.expect(200, "before");
    becomes(c, "/bucket/before", "COMPLETED").await;
    forbid(&world, world.strange_account).await;
    c.put("/bucket/after").body("x").send().await.expect(200, "after");
    becomes(c, "/bucket/after", "FAILED").await;
    forbid(&world, world.account).await;
    configure(&world, &role, &far).await.refused(400, "InvalidRequest", "nobody has stated where it is");
}

/// Serves a world on a port.
pub async fn serve(world: &World) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let front = world.front.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let front = front.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let front = front.clone();
                    async move { Ok::<_, std::convert::Infallible>(front.call(request).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                // A connection that breaks is the client's business.
                let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_a_foreign_s3() {
    let (world, role) = replicating().await;
    let far = World::new().await;
    let endpoint = serve(&far).await;
    far.root.put("/far-bucket").send().await.expect(200, "far");
    for (name, bucket) in
        [("one", ForeignBucket::One("far-bucket".to_owned())), ("each", ForeignBucket::Prefix("far-".to_owned()))]
    {
        let place = Destination::S3(S3Destination {
            endpoint: endpoint.clone(),
            region: "eu-test-1".to_owned(),
            access_key_id: far.root.access_key.clone(),
            secret_access_key: Secret::new(far.root.secret.clone()),
            bucket,
        });
        let tenant = TargetTenant { name: name.to_owned(), accounts: None, max_queued: 10, place };
        let now = world.clock.now();
        world.store.transact(&[], |txn| target::add(txn, tenant.clone(), now)).await.unwrap();
    }
    let c = &world.root;
    let target = |name: &str| format!("arn:aws:s3:eu-test-1:000000000000:target/{name}");
    let rules = format!("{}{}", rule("a", &target("one"), "", 1, true), rule("b", &target("each"), "", 2, true));
    configure(&world, &role, &rules).await.expect(200, "rules");
    let large = bytes((33 << 20) + 5);
    for (key, body) in [("a%20b/%C3%BC%2B%26", Bytes::from("small")), ("empty", Bytes::new()), ("large", large)] {
        let put = c.put(&format!("/bucket/{key}")).body(body.clone()).header("x-amz-meta-colour", "red");
        let put = put.header("content-type", "text/x").header("x-amz-tagging", "a=b%26c");
        // The foreign one gets the bytes as they came, also where they are encrypted here.
        let put = if key == "large" { put.header("x-amz-server-side-encryption", "AES256") } else { put };
        let version = put.send().await.expect(200, key).header("x-amz-version-id").to_owned();
        becomes(c, &format!("/bucket/{key}"), "COMPLETED").await;
        for there in [format!("/far-bucket/{}/bucket/{key}", world.account), format!("/far-bucket/{key}")] {
            let copy = far.root.get(&there).send().await.expect(200, &there);
            assert!(copy.body == body, "{there}");
            assert_eq!(copy.header("x-amz-meta-terroir-version-id"), version, "{there}");
            assert_eq!((copy.header("x-amz-meta-colour"), copy.header("content-type")), ("red", "text/x"));
            let tags = far.root.get(&format!("{there}?tagging")).send().await.expect(200, &there).text();
            assert!(tags.contains("<Value>b&amp;c</Value>"), "{tags}");
        }
    }
    let tags = "<Tagging><TagSet><Tag><Key>n&lt;w</Key><Value>t</Value></Tag></TagSet></Tagging>";
    c.put("/bucket/empty?tagging").body(tags).send().await.expect(200, "tags");
    settled(&world).await;
    let copied = far.root.get("/far-bucket/empty?tagging").send().await.expect(200, "tags").text();
    assert!(copied.contains("<Key>n&lt;w</Key>"), "{copied}");
    c.delete("/bucket/empty").send().await.expect(204, "marker");
    settled(&world).await;
    far.root.get("/far-bucket/empty").send().await.expect(404, "gone");
    // What no URL can name, and what the other side refuses, has failed and keeps nobody waiting.
    c.put("/bucket/a/%2E%2E/b").body("x").send().await.expect(200, "dots");
    becomes(c, "/bucket/a/%2E%2E/b", "FAILED").await;
    far.root.delete(&format!("/far-bucket/{}/bucket/large", world.account)).send().await.expect(204, "gone");
    let refusing = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::far-bucket/*"}}"#;
    far.root.put("/far-bucket?policy").body(refusing).send().await.expect(204, "refuses");
    c.put("/bucket/refused").body("x").send().await.expect(200, "refused there");
    becomes(c, "/bucket/refused", "FAILED").await;
}
