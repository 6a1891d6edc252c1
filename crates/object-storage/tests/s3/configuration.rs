//! What a bucket has that nobody has configured.

use crate::harness::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bucket_s_configurations() {
    let world = World::with_bucket().await;
    let absent = [
        ("policy", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("tagging", "NoSuchTagSet"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ];
    let present = [
        ("acl", "FULL_CONTROL"),
        ("logging", "BucketLoggingStatus"),
        ("requestPayment", "<Payer>BucketOwner</Payer>"),
        ("accelerate", "AccelerateConfiguration"),
        ("notification", "NotificationConfiguration"),
        ("versioning", "VersioningConfiguration"),
        ("location", REGION_ELEMENT),
    ];
    let nothing = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;
    let user = world.user("reader", nothing).await;
    for (what, code) in absent {
        let target = format!("/bucket?{what}");
        world.root.get(&target).send().await.refused(404, code, what);
        user.get(&target).send().await.refused(403, "AccessDenied", what);
        world.stranger.get(&target).send().await.refused(403, "AccessDenied", what);
        world.root.get(&format!("/absent?{what}")).send().await.refused(404, "NoSuchBucket", what);
    }
    for (what, contains) in present {
        let target = format!("/bucket?{what}");
        let answer = world.root.get(&target).send().await.expect(200, what);
        assert!(answer.text().contains(contains), "{what}: {}", answer.text());
        user.get(&target).send().await.refused(403, "AccessDenied", what);
        world.stranger.get(&target).send().await.refused(403, "AccessDenied", what);
    }
}

const REGION_ELEMENT: &str = "eu-test-1</LocationConstraint>";

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_a_bucket() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let document = |pairs: &[(&str, &str)]| {
        let tag = |(key, value): &(&str, &str)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        format!("<Tagging><TagSet>{}</TagSet></Tagging>", pairs.iter().map(tag).collect::<String>())
    };
    let put = |pairs: &[(&str, &str)]| c.put("/bucket?tagging").body(document(pairs)).send();
    put(&[("team", "a"), ("cost", "")]).await.expect(204, "tags");
    put(&[("team", "b")]).await.expect(204, "others replace them");
    let read = c.get("/bucket?tagging").send().await.expect(200, "read").text();
    assert!(read.contains("<Key>team</Key><Value>b</Value>") && !read.contains("cost"), "{read}");
    let many: Vec<_> = (0..51).map(|n| (format!("k{n}"), "v")).collect();
    let many: Vec<_> = many.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    put(&many[..50]).await.expect(204, "as many as there may be");
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    let rows: [(&[(&str, &str)], &str); 6] = [
        (&many, "BadRequest"),
        (&[("a", "1"), ("a", "2")], "InvalidTag"),
        (&[("", "1")], "InvalidTag"),
        (&[("aws:a", "1")], "InvalidTag"),
        (&[(&long_key, "1")], "InvalidTag"),
        (&[("a", &long_value)], "InvalidTag"),
    ];
    for (pairs, code) in rows {
        put(pairs).await.refused(400, code, &format!("{pairs:?}"));
    }
    c.put("/bucket?tagging").body("<Tagging/>").send().await.refused(400, "MalformedXML", "no set");
    world.stranger.put("/bucket?tagging").body(document(&[])).send().await.refused(403, "AccessDenied", "a stranger");
    c.delete("/bucket?tagging").send().await.expect(204, "deleted");
    c.get("/bucket?tagging").send().await.refused(404, "NoSuchTagSet", "gone");
    put(&[("a", "1")]).await.expect(204, "again");
    c.delete("/bucket").send().await.expect(204, "the bucket");
    c.put("/bucket").send().await.expect(200, "another one of the name");
    c.get("/bucket?tagging").send().await.refused(404, "NoSuchTagSet", "tags go with their bucket");
}

/// What has no meaning here is accepted only where it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_nothing_and_for_what_is_not_there() {
    let world = World::with_bucket().await;
    let payer = |who: &str| format!("<RequestPaymentConfiguration><Payer>{who}</Payer></RequestPaymentConfiguration>");
    let accelerate = |status: &str| format!("<AccelerateConfiguration>{status}</AccelerateConfiguration>");
    let logging = "<BucketLoggingStatus><LoggingEnabled><TargetBucket>bucket</TargetBucket><TargetPrefix/></LoggingEnabled></BucketLoggingStatus>";
    let topic = "<NotificationConfiguration><TopicConfiguration><Topic>arn:aws:sns:eu-test-1:1:t</Topic><Event>s3:ObjectCreated:*</Event></TopicConfiguration></NotificationConfiguration>";
    let rows = [
        ("requestPayment", payer("BucketOwner"), 200, ""),
        ("requestPayment", payer("Requester"), 501, "NotImplemented"),
        ("requestPayment", payer("Nobody"), 400, "MalformedXML"),
        ("accelerate", accelerate("<Status>Suspended</Status>"), 200, ""),
        ("accelerate", accelerate("<Status>Enabled</Status>"), 501, "NotImplemented"),
        ("accelerate", accelerate(""), 400, "MalformedXML"),
        ("logging", "<BucketLoggingStatus/>".to_owned(), 200, ""),
        ("logging", logging.to_owned(), 400, "InvalidTargetBucketForLogging"),
        ("notification", "<NotificationConfiguration/>".to_owned(), 200, ""),
        ("notification", topic.to_owned(), 400, "InvalidArgument"),
    ];
    for (what, body, status, code) in rows {
        let answer = world.root.put(&format!("/bucket?{what}")).body(body.clone()).send().await.expect(status, &body);
        assert_eq!(answer.code(), code, "{body}");
    }
    for what in ["analytics", "inventory", "metrics", "intelligent-tiering"] {
        let answer = world.root.get(&format!("/bucket?{what}")).send().await.expect(200, what);
        assert!(answer.text().contains("<IsTruncated>false</IsTruncated>"), "{what}: {}", answer.text());
        world.root.get(&format!("/bucket?{what}&id=1")).send().await.refused(501, "NotImplemented", what);
    }
}
