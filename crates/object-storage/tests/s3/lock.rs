//! Object lock on the wire, with a clock that moves.

use crate::harness::{Call, Client, World};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";

async fn with_lock() -> World {
    let world = World::new().await;
    let create = world.root.put("/bucket").header("x-amz-bucket-object-lock-enabled", "true");
    create.send().await.expect(200, "a bucket with object lock");
    world
}

fn configuration(inside: &str) -> String {
    format!(
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>{inside}</DefaultRetention></Rule></ObjectLockConfiguration>"
    )
}

fn retention(mode: &str, until: &str) -> String {
    format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
}

async fn put(call: Call) -> String {
    call.proven("x").send().await.expect(200, "written").header("x-amz-version-id").to_owned()
}

const BYPASS: &str = "x-amz-bypass-governance-retention";

async fn delete(c: &Client, key: &str, version: &str, bypass: bool) -> u16 {
    let mut call = c.delete(&format!("/bucket/{key}?versionId={version}"));
    if bypass {
        call = call.header(BYPASS, "true");
    }
    let answer = call.send().await;
    if answer.status != 204 {
        assert_eq!(answer.code(), "AccessDenied", "{}", answer.text());
    }
    answer.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let get = || c.get("/bucket?object-lock").send();
    get().await.refused(404, "ObjectLockConfigurationNotFoundError", "none yet");
    let set = |body: String| c.put("/bucket?object-lock").proven(body).send();
    set(LOCK.into()).await.refused(409, "InvalidBucketState", "no versioning");
    for (target, body) in [
        ("retention", retention("GOVERNANCE", "2030-01-01T00:00:00Z")),
        ("legal-hold", "<LegalHold><Status>ON</Status></LegalHold>".into()),
    ] {
        c.put("/bucket/k").body("x").send().await.expect(200, "an object");
        let target = format!("/bucket/k?{target}");
        c.put(&target).proven(body).send().await.refused(400, "InvalidRequest", &target);
        c.get(&target).send().await.refused(400, "InvalidRequest", &target);
    }
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    c.put("/bucket?versioning").body(enabled).send().await.expect(200, "versioning");
    set(LOCK.into()).await.expect(200, "also later");
    for (inside, code) in [
        ("<Mode>GOVERNANCE</Mode>", "MalformedXML"),
        ("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>", "MalformedXML"),
        ("<Mode>governance</Mode><Days>1</Days>", "MalformedXML"),
        ("<Days>1</Days>", "MalformedXML"),
        ("<Mode>GOVERNANCE</Mode><Days>0</Days>", "InvalidRetentionPeriod"),
        ("<Mode>GOVERNANCE</Mode><Years>-1</Years>", "InvalidRetentionPeriod"),
        ("<Mode>GOVERNANCE</Mode><Days>36501</Days>", "InvalidRetentionPeriod"),
        ("<Mode>GOVERNANCE</Mode><Years>101</Years>", "InvalidRetentionPeriod"),
    ] {
        set(configuration(inside)).await.refused(400, code, inside);
    }
    set(LOCK.replace(">Enabled<", ">Disabled<")).await.refused(400, "MalformedXML", "it cannot be switched off");
    set(configuration("<Mode>COMPLIANCE</Mode><Years>2</Years>")).await.expect(200, "a default");
    let text = get().await.expect(200, "read").text();
    assert!(text.contains("<ObjectLockEnabled>Enabled</ObjectLockEnabled>"), "{text}");
    assert!(text.contains("<Mode>COMPLIANCE</Mode><Years>2</Years>"), "{text}");
    let suspended = enabled.replace("Enabled", "Suspended");
    c.put("/bucket?versioning").body(suspended).send().await.refused(409, "InvalidBucketState", "not under lock");
    for (target, body) in [
        ("/bucket?object-lock", LOCK.to_owned()),
        ("/bucket/k?retention", retention("GOVERNANCE", "2030-01-01T00:00:00Z")),
        ("/bucket/k?legal-hold", "<LegalHold><Status>ON</Status></LegalHold>".to_owned()),
    ] {
        let bare = || c.put(target).body(body.clone());
        bare().send().await.refused(400, "InvalidRequest", "without a digest");
        let named = bare().header("x-amz-sdk-checksum-algorithm", "CRC32");
        named.send().await.refused(400, "InvalidRequest", "the name of a digest is none");
        let wrong = bare().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
        wrong.send().await.refused(400, "BadDigest", "another digest");
    }
    world.stranger.get("/bucket?object-lock").send().await.refused(403, "AccessDenied", "a stranger");

    let world = with_lock().await;
    let state = world.root.get("/bucket?versioning").send().await.field("Status");
    assert_eq!(state.as_deref(), Some("Enabled"), "comes with the lock");
    assert!(world.root.get("/bucket?object-lock").send().await.text().contains(">Enabled<"));
    for (missing, status) in
        [("s3:PutBucketObjectLockConfiguration", 403), ("s3:PutBucketVersioning", 403), ("s3:PutBucketCORS", 200)]
    {
        let all_but = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"s3:*","Resource":"*"}},{{"Effect":"Deny","Action":"{missing}","Resource":"*"}}]}}"#
        );
        let user = world.user(&format!("u{}", missing.len()), &all_but).await;
        let create = || user.put(&format!("/bucket-{}", missing.len()));
        let with_lock = create().header("x-amz-bucket-object-lock-enabled", "true");
        with_lock.send().await.expect(status, missing);
        if status == 403 {
            create().send().await.expect(200, "without lock it needs no more");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_locked_stays() {
    let world = with_lock().await;
    let c = &world.root;
    let locked = |mode: &str, until: &str| {
        let call = c.put("/bucket/k").header("x-amz-object-lock-mode", mode);
        call.header("x-amz-object-lock-retain-until-date", until)
    };
    // The clock says 2026-11-24T05:00:00Z.
    let governed = put(c
        .put("/bucket/k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2026-11-26T05:00:00Z"))
    .await;
    let held = put(c.put("/bucket/k").header("x-amz-object-lock-legal-hold", "ON")).await;
    let complied = put(locked("COMPLIANCE", "2026-11-27T05:00:00.500Z")).await;
    let free = put(c.put("/bucket/k")).await;
    let head = c.head(&format!("/bucket/k?versionId={complied}")).send().await.expect(200, "its lock");
    assert_eq!(head.header("x-amz-object-lock-mode"), "COMPLIANCE");
    assert_eq!(head.header("x-amz-object-lock-retain-until-date"), "2026-11-27T05:00:00.500Z");
    let read = c.get(&format!("/bucket/k?versionId={held}")).send().await.expect(200, "its hold");
    assert_eq!((read.header("x-amz-object-lock-legal-hold"), read.header("x-amz-object-lock-mode")), ("ON", ""));

    assert_eq!(delete(c, "k", &free, false).await, 204);
    for version in [&governed, &held, &complied] {
        assert_eq!(delete(c, "k", version, false).await, 403, "{version}");
    }
    assert_eq!(delete(c, "k", &held, true).await, 403);
    assert_eq!(delete(c, "k", &complied, true).await, 403);
    let body = format!("<Delete><Object><Key>k</Key><VersionId>{complied}</VersionId></Object></Delete>");
    let text = c.post("/bucket?delete").body(body).send().await.expect(200, "one of many").text();
    assert!(text.contains("<Code>AccessDenied</Code>") && text.contains(&complied), "{text}");
    let marker = c.delete("/bucket/k").send().await.expect(204, "a marker only hides");
    assert_eq!(delete(c, "k", marker.header("x-amz-version-id"), false).await, 204);

    // Only who may pass over governance does.
    let all_but = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"},{"Effect":"Deny","Action":["s3:BypassGovernanceRetention","s3:GetObjectRetention"],"Resource":"*"}]}"#;
    let user = world.user("u", all_but).await;
    assert_eq!(delete(&user, "k", &governed, true).await, 403);
    let head = user.head(&format!("/bucket/k?versionId={governed}")).send().await.expect(200, "without its lock");
    assert_eq!(head.header("x-amz-object-lock-mode"), "", "who may not read the retention does not see it");

    world.clock.advance(DAY + DAY);
    assert_eq!(delete(&user, "k", &governed, false).await, 204, "its time is over");
    assert_eq!(delete(c, "k", &complied, true).await, 403, "a day is left");
    world.clock.advance(DAY);
    assert_eq!(delete(c, "k", &complied, false).await, 403, "half a second is left");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(delete(c, "k", &complied, false).await, 204);
    let target = format!("/bucket/k?legal-hold&versionId={held}");
    assert_eq!(c.get(&target).send().await.field("Status").as_deref(), Some("ON"));
    c.put(&target).proven("<LegalHold><Status>OFF</Status></LegalHold>").send().await.expect(200, "lifted");
    assert_eq!(c.get(&target).send().await.field("Status").as_deref(), Some("OFF"));
    assert_eq!(delete(c, "k", &held, false).await, 204);
    c.delete("/bucket").send().await.expect(204, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn retentions_change_in_one_direction() {
    let world = with_lock().await;
    let c = &world.root;
    let version = put(c.put("/bucket/k")).await;
    let target = format!("/bucket/k?retention&versionId={version}");
    c.get(&target).send().await.refused(404, "NoSuchObjectLockConfiguration", "none");
    c.get("/bucket/k?legal-hold").send().await.refused(404, "NoSuchObjectLockConfiguration", "none");
    for (body, code) in [
        (retention("governance", "2030-01-01T00:00:00Z"), "MalformedXML"),
        ("<Retention><Mode>GOVERNANCE</Mode></Retention>".to_owned(), "MalformedXML"),
        (retention("GOVERNANCE", "2026-11-24T05:00:00Z"), "InvalidArgument"),
    ] {
        c.put(&target).proven(body.clone()).send().await.refused(400, code, &body);
    }
    let hold = c.put("/bucket/k?legal-hold").proven("<LegalHold><Status>on</Status></LegalHold>");
    hold.send().await.refused(400, "MalformedXML", "neither ON nor OFF");
    c.put("/bucket/none?retention").proven(retention("GOVERNANCE", "2030-01-01T00:00:00Z")).send().await.refused(
        404,
        "NoSuchKey",
        "no object",
    );
    let none = "<Retention></Retention>".to_owned();
    for (body, bypass, status) in [
        (retention("GOVERNANCE", "2026-12-01T00:00:00Z"), false, 200),
        (retention("GOVERNANCE", "2026-12-02T00:00:00Z"), false, 200),
        (retention("GOVERNANCE", "2026-12-01T00:00:00Z"), false, 403),
        (retention("COMPLIANCE", "2026-12-02T00:00:00Z"), false, 403),
        (none.clone(), false, 403),
        (none.clone(), true, 200),
        (retention("GOVERNANCE", "2026-12-02T00:00:00Z"), false, 200),
        (retention("COMPLIANCE", "2026-12-01T00:00:00Z"), true, 200),
        (retention("COMPLIANCE", "2026-11-30T00:00:00Z"), true, 403),
        (retention("GOVERNANCE", "2026-12-05T00:00:00Z"), true, 403),
        (none.clone(), true, 403),
        (retention("COMPLIANCE", "2026-12-03T00:00:00Z"), false, 200),
    ] {
        let mut call = c.put(&target).proven(body.clone());
        if bypass {
            call = call.header(BYPASS, "true");
        }
        call.send().await.expect(status, &format!("{body} {bypass}"));
    }
    let text = c.get(&target).send().await.text();
    assert!(text.contains("<Mode>COMPLIANCE</Mode>") && text.contains("2026-12-03T00:00:00.000Z"), "{text}");
    world.clock.advance(DAY * 9);
    c.put(&target).proven(none).send().await.expect(200, "its time is over");

    // Policies may limit for how long.
    let few = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"},{"Effect":"Deny","Action":"s3:PutObjectRetention","Resource":"*","Condition":{"NumericGreaterThan":{"s3:object-lock-remaining-retention-days":"10"}}}]}"#;
    let user = world.user("u", few).await;
    let long = retention("GOVERNANCE", "2026-12-20T00:00:00Z");
    user.put(&target).proven(long).send().await.refused(403, "AccessDenied", "more than ten days");
    let short = retention("GOVERNANCE", "2026-12-10T00:00:00Z");
    user.put(&target).proven(short).send().await.expect(200, "seven days");
    let headers = |until: &str| {
        let call = user.put("/bucket/limited").header("x-amz-object-lock-mode", "GOVERNANCE");
        call.header("x-amz-object-lock-retain-until-date", until).proven("x").send()
    };
    headers("2026-12-20T00:00:00Z").await.refused(403, "AccessDenied", "more than ten days, in a header");
    headers("2026-12-10T00:00:00Z").await.expect(200, "seven days, in a header");
    let only_on = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:PutObjectLegalHold","Resource":"*","Condition":{"StringEquals":{"s3:object-lock-legal-hold":"ON"}}}}"#;
    let holder = world.user("h", only_on).await;
    let hold = |says: &str| {
        let document = format!("<LegalHold><Status>{says}</Status></LegalHold>");
        holder.put(&target.replace("retention", "legal-hold")).proven(document).send()
    };
    hold("ON").await.expect(200, "may hold");
    hold("OFF").await.refused(403, "AccessDenied", "may not let go");
    let none = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:PutObject","s3:PutObjectLegalHold"],"Resource":"*"}}"#;
    let user = world.user("v", none).await;
    let held = user.put("/bucket/v").header("x-amz-object-lock-legal-hold", "ON");
    put(held).await;
    let retained = user
        .put("/bucket/v")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2030-01-01T00:00:00Z");
    retained.proven("x").send().await.refused(403, "AccessDenied", "s3:PutObjectRetention");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_versions_get_the_default() {
    let world = with_lock().await;
    let c = &world.root;
    let default = configuration("<Mode>GOVERNANCE</Mode><Days>3</Days>");
    c.put("/bucket?object-lock").proven(default).send().await.expect(200, "three days");
    let until = |key: &str| {
        let call = c.head(&format!("/bucket/{key}"));
        async move { call.send().await.expect(200, "head").header("x-amz-object-lock-retain-until-date").to_owned() }
    };
    put(c.put("/bucket/put")).await;
    assert_eq!(until("put").await, "2026-11-27T05:00:00.000Z");
    let own = c
        .put("/bucket/own")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2026-11-25T00:00:00Z");
    put(own).await;
    assert_eq!(until("own").await, "2026-11-25T00:00:00.000Z");
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/own").send().await.expect(200, "copied");
    assert_eq!(until("copy").await, "2026-11-27T05:00:00.000Z", "the source's lock is not copied");
    for (key, date, wanted) in
        [("m1", None, "2026-11-28T05:00:00.000Z"), ("m2", Some("2026-12-24T00:00:00Z"), "2026-12-24T00:00:00.000Z")]
    {
        let mut begin = c.post(&format!("/bucket/{key}?uploads"));
        if let Some(date) = date {
            begin = begin.header("x-amz-object-lock-mode", "COMPLIANCE");
            begin = begin.header("x-amz-object-lock-retain-until-date", date);
        }
        let upload = begin.send().await.expect(200, key).field("UploadId").unwrap();
        let part = c.put(&format!("/bucket/{key}?partNumber=1&uploadId={upload}")).proven("x").send().await;
        if date.is_none() {
            world.clock.advance(DAY);
        }
        let document = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
            part.expect(200, key).header("etag")
        );
        let complete = c.post(&format!("/bucket/{key}?uploadId={upload}")).body(document);
        complete.send().await.expect(200, key);
        assert_eq!(until(key).await, wanted, "counted from the completion");
    }

    // What the bucket keeps must prove that it came whole, also where the request says nothing of it.
    c.put("/bucket/bare").body("x").send().await.refused(400, "InvalidRequest", "no digest");
    let upload = c.post("/bucket/bare?uploads").send().await.expect(200, "begun").field("UploadId").unwrap();
    let part = c.put(&format!("/bucket/bare?partNumber=1&uploadId={upload}"));
    part.clone().body("x").send().await.refused(400, "InvalidRequest", "no digest of a part");
    part.proven("x").send().await.expect(200, "with a digest");

    let (mode, date) = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date");
    let proven = || c.put("/bucket/bad").proven("x");
    for (call, code) in [
        (proven().header(mode, "GOVERNANCE"), "InvalidArgument"),
        (proven().header(date, "2030-01-01T00:00:00Z"), "InvalidArgument"),
        (proven().header(mode, "never").header(date, "2030-01-01T00:00:00Z"), "InvalidArgument"),
        (proven().header(mode, "GOVERNANCE").header(date, "2020-01-01T00:00:00Z"), "InvalidArgument"),
        (proven().header("x-amz-object-lock-legal-hold", "on"), "InvalidArgument"),
        (c.put("/bucket/bad").body("x").header("x-amz-object-lock-legal-hold", "ON"), "InvalidRequest"),
    ] {
        let why = format!("{:?}", call.headers);
        call.send().await.refused(400, code, &why);
    }
    c.put("/plain").send().await.expect(200, "a bucket without lock");
    let held = c.put("/plain/k").header("x-amz-object-lock-legal-hold", "ON").proven("x");
    held.send().await.refused(400, "InvalidRequest", "the bucket has no object lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hold_and_a_deletion_never_both_succeed_in_the_wrong_order() {
    let world = with_lock().await;
    for round in 0..20 {
        let key = format!("k{round}");
        let version = put(world.root.put(&format!("/bucket/{key}"))).await;
        let target = format!("/bucket/{key}?legal-hold&versionId={version}");
        let hold = world.root.put(&target).proven("<LegalHold><Status>ON</Status></LegalHold>");
        let hold = tokio::spawn(hold.send());
        let (root, of) = (world.root.clone(), version.clone());
        let name = key.clone();
        let deletion = tokio::spawn(async move { delete(&root, &name, &of, true).await });
        let (hold, deletion) = (hold.await.unwrap(), deletion.await.unwrap());
        let there = world.root.get(&format!("/bucket/{key}?versionId={version}")).send().await.status;
        match hold.status.as_u16() {
            200 => assert_eq!((deletion, there.as_u16()), (403, 200), "{key} is held"),
            _ => {
                hold.refused(404, "NoSuchVersion", &key);
                assert_eq!((deletion, there.as_u16()), (204, 404), "{key} is gone");
            }
        }
    }
}
