//! Events of buckets, told to an endpoint in this process.

use crate::harness::{Call, World};
use crate::hook::Hook;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use terroir_object_storage::backend::Outbox;
use terroir_object_storage::notification::Notifier;
use terroir_object_storage::outbound::Outbound;
use terroir_object_storage::target::{self, Destination, Target, TargetTenant};
use terroir_types::{AccountId, Clock, Secret};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn name_target(world: &World, name: &str, url: &str, accounts: Option<BTreeSet<AccountId>>, max_queued: u64) {
    let place = Destination::Webhook { url: url.to_owned(), secret: Some(Secret::new(SECRET.to_owned())) };
    let tenant = TargetTenant { name: name.to_owned(), accounts, max_queued, place };
    let now = world.clock.now();
    world.store.transact(&[], |txn| target::add(txn, tenant.clone(), now)).await.unwrap();
}

fn notifier(world: &World) -> Notifier {
    let outbox: Arc<dyn Outbox> = Arc::new(world.backend.clone());
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    Notifier::new(world.store.clone(), outbox, Outbound::new().unwrap(), clock, "eu-test-1".to_owned())
}

fn start(world: &World) -> Notifier {
    let notifier = notifier(world);
    let running = notifier.clone();
    tokio::spawn(async move { running.run(std::future::pending()).await });
    notifier
}

fn arn(name: &str) -> String {
    format!("arn:aws:sns:eu-test-1:000000000000:{name}")
}

fn topic(arn: &str, events: &[&str], rest: &str) -> String {
    let events: String = events.iter().map(|event| format!("<Event>{event}</Event>")).collect();
    format!("<TopicConfiguration><Topic>{arn}</Topic>{events}{rest}</TopicConfiguration>")
}

fn filter(rules: &[(&str, &str)]) -> String {
    let rule =
        |(name, value): &(&str, &str)| format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>");
    format!("<Filter><S3Key>{}</S3Key></Filter>", rules.iter().map(rule).collect::<String>())
}

fn configure(world: &World, rules: &str) -> Call {
    let document = format!("<NotificationConfiguration>{rules}</NotificationConfiguration>");
    world.root.put("/bucket?notification").body(document)
}

/// Event, key, version and whether there are size and ETag.
fn summary(record: &Value) -> (String, String, bool, bool, bool) {
    let object = &record["s3"]["object"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let has = |name: &str| !object[name].is_null();
    (text(&record["eventName"]), text(&object["key"]), has("versionId"), has("size"), has("eTag"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change_is_told_as_aws_tells_it() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    name_target(&world, "all", &hook.url, None, 1000).await;
    start(&world);
    let all = [
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:ObjectTagging:*",
        "s3:ObjectAcl:Put",
        "s3:LifecycleExpiration:*",
    ];
    configure(&world, &topic(&arn("all"), &all, "<Id>every</Id>")).send().await.expect(200, "rules");
    let c = &world.root;
    c.put("/bucket/a%20b/%C3%BC").body("hello").send().await.expect(200, "put");
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/a%20b/%C3%BC").send().await.expect(200, "copy");
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    c.put("/bucket/copy?tagging").body(tags).send().await.expect(200, "tags");
    c.delete("/bucket/copy?tagging").send().await.expect(204, "no tags");
    c.put("/bucket/copy?acl").header("x-amz-acl", "private").send().await.expect(200, "list");
    c.delete("/bucket/copy").send().await.expect(204, "delete");
    c.delete("/bucket/never").send().await.expect(204, "nothing to delete");
    let upload = c.post("/bucket/parts?uploads").send().await.expect(200, "upload").field("UploadId").unwrap();
    let etag = c.put(&format!("/bucket/parts?partNumber=1&uploadId={upload}")).body("part").send().await;
    let etag = etag.expect(200, "part").header("etag").to_owned();
    let complete = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    for _ in 0..2 {
        // The answer to the first may have been lost: what is said twice happened once.
        let again = c.post(&format!("/bucket/parts?uploadId={upload}")).body(complete.clone()).send().await;
        again.expect(200, "complete");
    }
    let versioned = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    c.put("/bucket?versioning").body(versioned).send().await.expect(200, "versions");
    let version = c.put("/bucket/v").body("one").send().await.expect(200, "put").header("x-amz-version-id").to_owned();
    c.delete("/bucket/v").send().await.expect(204, "marker");
    c.delete(&format!("/bucket/v?versionId={version}")).send().await.expect(204, "version");
    let deleted = "<Delete><Object><Key>parts</Key></Object></Delete>";
    c.post("/bucket?delete").proven(deleted).send().await.expect(200, "many");
    c.put("/bucket/refused")
        .header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")
        .body("x")
        .send()
        .await
        .expect(400, "refused");

    let records = hook.wait_for(11).await;
    let mut summaries: Vec<_> = records.iter().map(summary).collect();
    let row = |event: &str, key: &str, version, size, etag| (event.to_owned(), key.to_owned(), version, size, etag);
    let mut expected = vec![
        row("ObjectCreated:Put", "a+b/%C3%BC", false, true, true),
        row("ObjectCreated:Copy", "copy", false, true, true),
        row("ObjectTagging:Put", "copy", false, false, true),
        row("ObjectTagging:Delete", "copy", false, false, true),
        row("ObjectAcl:Put", "copy", false, false, true),
        row("ObjectRemoved:Delete", "copy", false, false, false),
        row("ObjectCreated:CompleteMultipartUpload", "parts", false, true, true),
        row("ObjectCreated:Put", "v", true, true, true),
        row("ObjectRemoved:DeleteMarkerCreated", "v", true, false, true),
        row("ObjectRemoved:Delete", "v", true, false, false),
        row("ObjectRemoved:DeleteMarkerCreated", "parts", true, false, true),
    ];
    // The deletion of a version that was the newest but one shows nothing; all else is told once.
    summaries.sort();
    expected.sort();
    assert_eq!(summaries, expected);
    let put = records.iter().find(|record| record["eventName"] == "ObjectCreated:Put").unwrap();
    assert_eq!(put["s3"]["configurationId"], "every");
    assert_eq!((&put["awsRegion"], &put["eventSource"]), (&json!("eu-test-1"), &json!("aws:s3")));
    assert_eq!(put["userIdentity"]["principalId"], json!(world.account.to_string()));
    assert!(!put["responseElements"]["x-amz-request-id"].as_str().unwrap().is_empty());
    let got = hook.got();
    assert!(
        got.iter().all(|(headers, _)| headers.contains_key("webhook-id") && headers.contains_key("webhook-signature"))
    );
    let test: Value = serde_json::from_slice(&got[0].1).unwrap();
    assert_eq!((&test["Event"], &test["Bucket"]), (&json!("s3:TestEvent"), &json!("bucket")));
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_tells_what_ended() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    name_target(&world, "ends", &hook.url, None, 1000).await;
    start(&world);
    configure(&world, &topic(&arn("ends"), &["s3:LifecycleExpiration:*"], "")).send().await.expect(200, "rules");
    let days = "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter/><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";
    world.root.put("/bucket?lifecycle").proven(days).send().await.expect(200, "lifecycle");
    world.root.put("/bucket/old").body("x").send().await.expect(200, "put");
    world.clock.advance(Duration::from_secs(3 * 24 * 60 * 60));
    world.lifecycle().tick().await.unwrap();
    let records = hook.wait_for(1).await;
    assert_eq!(summary(&records[0]).0, "LifecycleExpiration:Delete");
    assert_eq!(records[0]["userIdentity"]["principalId"], "s3.amazonaws.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_refuses_waits_and_keeps_the_order_of_its_key() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    name_target(&world, "slow", &hook.url, None, 1000).await;
    configure(&world, &topic(&arn("slow"), &["s3:ObjectCreated:*"], "")).send().await.expect(200, "rules");
    hook.refuse(|message| message["Records"][0]["s3"]["object"]["key"] == "bad");
    for n in 0..5 {
        for key in ["good", "bad"] {
            world.root.put(&format!("/bucket/{key}")).body("x".repeat(n)).send().await.expect(200, "put");
        }
    }
    let notifier = start(&world);
    let records = hook.wait_for(5).await;
    assert!(records.iter().all(|record| record["s3"]["object"]["key"] == "good"));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while notifier.troubles().is_empty() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(notifier.troubles()["events/slow"].error.contains("503"), "{:?}", notifier.troubles());
    let waiting = world.backend.queues().await.unwrap();
    assert_eq!((waiting[0].name.as_str(), waiting[0].entries), ("events/slow", 5));
    hook.refuse(|_| false);
    let records = hook.wait_for(10).await;
    for key in ["good", "bad"] {
        let of_key = records.iter().filter(|record| record["s3"]["object"]["key"] == key);
        let order: Vec<_> = of_key.map(|record| record["s3"]["object"]["sequencer"].as_str().unwrap()).collect();
        assert_eq!(order.len(), 5, "{key}");
        assert!(order.is_sorted(), "{key}: {order:?}");
    }
    let sizes = records.iter().filter(|record| record["s3"]["object"]["key"] == "bad");
    assert!(sizes.map(|record| record["s3"]["object"]["size"].as_u64().unwrap()).eq(0..5));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_bounded_and_old_events_are_given_up() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    hook.refuse(|_| true);
    name_target(&world, "away", &hook.url, None, 3).await;
    let rules = topic(&arn("away"), &["s3:ObjectCreated:*"], "");
    configure(&world, &rules).header("x-amz-skip-destination-validation", "true").send().await.expect(200, "rules");
    for n in 0..5 {
        world.root.put(&format!("/bucket/{n}")).body("x").send().await.expect(200, "writes go on");
    }
    let queue = |world: &World| {
        let backend = world.backend.clone();
        async move { backend.queues().await.unwrap().remove(0) }
    };
    let stats = queue(&world).await;
    assert_eq!((stats.entries, stats.dropped), (3, 2));
    assert_eq!(stats.oldest, Some(world.clock.now().millis()));
    world.clock.advance(Duration::from_secs(8 * 24 * 60 * 60));
    world.root.put("/bucket/new").body("x").send().await.expect(200, "still full");
    start(&world);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while queue(&world).await.dropped < 6 {
        assert!(std::time::Instant::now() < deadline, "{:?}", queue(&world).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(queue(&world).await.entries, 0);
    assert_eq!(hook.records().len(), 0);
    assert_eq!(world.backend.remove_queue(&Target::event_queue("away")).await.unwrap(), 0);
    assert!(world.backend.queues().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_configuration_may_say() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    name_target(&world, "open", &hook.url, None, 10).await;
    name_target(&world, "other", &hook.url, Some(BTreeSet::from([world.strange_account])), 10).await;
    let (put, open) = (["s3:ObjectCreated:Put"], arn("open"));
    let with = |events: &[&str], rest: &str| topic(&open, events, rest);
    let queue = "<QueueConfiguration><Queue>arn:aws:sqs:eu-test-1:000000000000:open</Queue><Event>s3:ObjectRemoved:*</Event></QueueConfiguration>";
    let lambda = "<CloudFunctionConfiguration><CloudFunction>arn:aws:lambda:eu-test-1:1:function:f</CloudFunction><Event>s3:ObjectRemoved:*</Event></CloudFunctionConfiguration>";
    let long = "x".repeat(1025);
    let pair = |a: &str, b: &str| {
        format!("{}{}", with(&put, &filter(&[("prefix", a)])), with(&["s3:ObjectCreated:*"], &filter(&[("prefix", b)])))
    };
    let suffixes = |a: &str, b: &str| {
        format!("{}{}", with(&put, &filter(&[("suffix", a)])), with(&put, &filter(&[("suffix", b)])))
    };
    let rows = [
        (with(&put, ""), ""),
        (with(&put, &filter(&[("Prefix", "a"), ("suffix", ".jpg")])), ""),
        (format!("{}{queue}", with(&put, "")), ""),
        (pair("a/", "b/"), ""),
        (suffixes(".jpg", ".png"), ""),
        (with(&["s3:Replication:*", "s3:ObjectRestore:Post", "s3:LifecycleTransition"], ""), ""),
        (pair("a/", "a/b"), "InvalidArgument"),
        (suffixes("g", ".jpg"), "InvalidArgument"),
        (format!("{}{}", with(&put, ""), with(&["s3:ObjectCreated:*"], "")), "InvalidArgument"),
        (with(&["s3:ObjectCreated:Nothing"], ""), "InvalidArgument"),
        (with(&["ObjectCreated:Put"], ""), "InvalidArgument"),
        (with(&["s3:*"], ""), "InvalidArgument"),
        (with(&[], ""), "MalformedXML"),
        (with(&put, &filter(&[("middle", "a")])), "InvalidArgument"),
        (with(&put, &filter(&[("prefix", "a"), ("prefix", "b")])), "InvalidArgument"),
        (with(&put, &filter(&[("prefix", &long)])), "InvalidArgument"),
        (with(&put, &format!("<Id>{}</Id>", "i".repeat(256))), "InvalidArgument"),
        (format!("{}{}", with(&put, "<Id>i</Id>"), with(&["s3:ObjectRemoved:*"], "<Id>i</Id>")), "InvalidArgument"),
        (topic(&arn("other"), &put, ""), "InvalidArgument"),
        (topic(&arn("absent"), &put, ""), "InvalidArgument"),
        (topic("arn:aws:sqs:eu-test-1:000000000000:open", &put, ""), "InvalidArgument"),
        (topic("arn:aws:sns:us-east-1:000000000000:open", &put, ""), "InvalidArgument"),
        (topic(&hook.url, &put, ""), "InvalidArgument"),
        (lambda.to_owned(), "InvalidArgument"),
    ];
    for (rules, code) in rows {
        let answer = configure(&world, &rules).send().await;
        if code.is_empty() {
            answer.expect(200, &rules);
        } else {
            answer.refused(400, code, &rules);
        }
    }
    configure(&world, "<EventBridgeConfiguration/>").send().await.refused(501, "NotImplemented", "EventBridge");
    configure(&world, &format!("{}{queue}", with(&put, &filter(&[("prefix", "a"), ("suffix", "z")]))))
        .send()
        .await
        .expect(200, "both");
    let shown = world.root.get("/bucket?notification").send().await.expect(200, "shown").text();
    for part in [
        &open,
        "arn:aws:sqs:eu-test-1:000000000000:open",
        "s3:ObjectCreated:Put",
        "<Name>prefix</Name><Value>a</Value>",
        "<Id>",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let nothing =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetBucketNotification","Resource":"*"}}"#;
    let reader = world.user("reader", nothing).await;
    reader.get("/bucket?notification").send().await.expect(200, "may read");
    let document = "<NotificationConfiguration/>";
    reader.put("/bucket?notification").body(document).send().await.refused(403, "AccessDenied", "may not write");
    configure(&world, "").send().await.expect(200, "nothing");
    let shown = world.root.get("/bucket?notification").send().await.expect(200, "nothing").text();
    assert!(!shown.contains("Topic"), "{shown}");
}

/// A target that is gone, or that its operator has closed to the account, is told nothing and stops no write.
#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_gone() {
    let world = World::with_bucket().await;
    let hook = Hook::start().await;
    name_target(&world, "gone", &hook.url, None, 10).await;
    let rules = topic(&arn("gone"), &["s3:ObjectCreated:*"], "");
    configure(&world, &rules).header("x-amz-skip-destination-validation", "true").send().await.expect(200, "rules");
    world.store.transact(&[], |txn| target::remove(txn, "gone")).await.unwrap();
    world.root.put("/bucket/a").body("x").send().await.expect(200, "goes on");
    assert!(world.backend.queues().await.unwrap().is_empty());
    name_target(&world, "gone", &hook.url, Some(BTreeSet::from([world.strange_account])), 10).await;
    world.root.put("/bucket/b").body("x").send().await.expect(200, "goes on");
    assert!(world.backend.queues().await.unwrap().is_empty());
    let hooked = target::find(&world.store.stale(), "gone").unwrap().unwrap();
    notifier(&world).try_out(&hooked).await.unwrap();
    hook.refuse(|_| true);
    let error = notifier(&world).try_out(&hooked).await.unwrap_err().to_string();
    assert!(error.contains("503") && !error.contains("nobody"), "{error}");
}
