//! Logs of requests, delivered when a test says so.

use crate::harness::{Answer, Client, World};
use std::time::Duration;

const VERSIONED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

fn logging(target: &str, rest: &str) -> String {
    format!(
        "<BucketLoggingStatus><LoggingEnabled><TargetBucket>{target}</TargetBucket><TargetPrefix>logs/</TargetPrefix>{rest}</LoggingEnabled></BucketLoggingStatus>"
    )
}

fn policy(account: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"Service":"logging.s3.amazonaws.com"}},"Action":"s3:PutObject","Resource":"arn:aws:s3:::logs/logs/*","Condition":{{"ArnLike":{{"aws:SourceArn":"arn:aws:s3:::bucket"}},"StringEquals":{{"aws:SourceAccount":"{account}"}}}}}}}}"#
    )
}

async fn configure(client: &Client, target: &str, rest: &str) -> Answer {
    client.put("/bucket?logging").body(logging(target, rest)).send().await
}

/// All lines of all logs, each cut at its blanks; what stands in quotes or brackets is one field.
async fn lines(world: &World) -> Vec<Vec<String>> {
    let listed = world.root.get("/logs?list-type=2&prefix=logs/").send().await.expect(200, "logs").text();
    let keys = listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
    let mut lines = Vec::new();
    for key in keys {
        let answer = world.root.get(&format!("/logs/{key}")).send().await.expect(200, &key);
        assert_eq!(answer.header("content-type"), "text/plain");
        lines.extend(answer.text().lines().map(fields));
    }
    lines
}

/// Delivers until there are `count` lines: a line is written when the answer has gone out, which its reader may see sooner.
/// Requests that configure logging are left out: whether they are logged themselves depends on when the setting is seen.
async fn delivered(world: &World, count: usize) -> Vec<Vec<String>> {
    for _ in 0..200 {
        world.front.deliver_access_logs_now().await;
        let mut lines = lines(world).await;
        lines.retain(|line| !line[6].ends_with(".LOGGING_STATUS"));
        if lines.len() >= count {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} lines were not delivered: {:#?}", lines(world).await);
}

fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut end) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (end, c) {
            (None, ' ') => fields.push(std::mem::take(&mut field)),
            (None, '"') => end = Some('"'),
            (None, '[') => end = Some(']'),
            (Some(wanted), c) if c == wanted => end = None,
            (_, c) => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_logged_in_aws_s_format() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/logs").send().await.expect(200, "logs");
    c.put("/logs?policy").body(policy(&world.account.to_string())).send().await.expect(204, "policy");
    c.put("/bucket/before").body("x").send().await.expect(200, "before");
    configure(c, "logs", "").await.expect(200, "logging");
    // Waits until the setting is seen, too.
    c.get("/bucket?logging").send().await.expect(200, "logging");
    let user = world
        .user(
            "reader",
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#,
        )
        .await;
    c.put("/bucket?versioning").body(VERSIONED).send().await.expect(200, "versions");
    let put =
        c.put("/bucket/a%20b").body("12345").header("user-agent", "a \"client\"").header("referer", "http://from/");
    let version = put.send().await.expect(200, "put").header("x-amz-version-id").to_owned();
    user.get("/bucket/a%20b").header("range", "bytes=1-2").send().await.expect(206, "range");
    user.delete("/bucket/a%20b").send().await.refused(403, "AccessDenied", "may not");
    c.get("/bucket/absent").send().await.refused(404, "NoSuchKey", "absent");
    c.get("/bucket?list-type=2").send().await.expect(200, "list");
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/a%20b").send().await.expect(200, "copy");
    assert_eq!(lines(&world).await.len(), 0, "not delivered yet");
    let expected = [
        ["REST.PUT.VERSIONING", "-", "200", "-", "-", "-"],
        ["REST.PUT.OBJECT", "a%20b", "200", "-", "-", "5"],
        ["REST.GET.OBJECT", "a%20b", "206", "-", "2", "5"],
        ["REST.DELETE.OBJECT", "a%20b", "403", "AccessDenied", "*", "-"],
        ["REST.GET.OBJECT", "absent", "404", "NoSuchKey", "*", "-"],
        ["REST.GET.BUCKET", "-", "200", "-", "*", "-"],
        ["REST.COPY.OBJECT", "copy", "200", "-", "*", "*"],
    ];
    let lines = delivered(&world, expected.len()).await;
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    // In the order of the answers' ends, which need not be that of the requests.
    let line = |wanted: &[&str; 6]| {
        let same = |line: &&Vec<String>| {
            [6, 7, 9, 10, 11, 12].iter().zip(wanted).all(|(&field, &wanted)| wanted == "*" || line[field] == wanted)
        };
        lines.iter().find(same).unwrap_or_else(|| panic!("no line is {wanted:?}: {lines:#?}"))
    };
    for wanted in &expected {
        line(wanted);
    }
    assert!(lines.iter().all(|line| line.len() == 26), "{lines:#?}");
    assert!(lines.iter().all(|line| line[1] == "bucket" && line[2] == "24/Nov/2026:05:00:00 +0000"));
    let put = line(&expected[1]);
    assert_eq!(
        (put[8].as_str(), put[15].as_str(), put[16].as_str()),
        ("PUT /bucket/a%20b HTTP/1.1", "http://from/", "a %client%")
    );
    assert_eq!((put[17].as_str(), put[19].as_str(), put[21].as_str()), (version.as_str(), "SigV4", "AuthHeader"));
    let ranged = line(&expected[2]);
    assert!(ranged[4].ends_with(":user/reader"), "{ranged:?}");
    // Nothing is said twice, and nothing once it is off.
    c.put("/bucket?logging").body("<BucketLoggingStatus/>").send().await.expect(200, "off");
    c.get("/bucket?logging").send().await.expect(200, "off");
    c.get("/bucket/absent").send().await.refused(404, "NoSuchKey", "absent");
    assert_eq!(delivered(&world, expected.len()).await.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_configuration_may_say() {
    let world = World::with_bucket().await;
    let c = &world.root;
    for bucket in ["logs", "by-list"] {
        c.put(&format!("/{bucket}")).send().await.expect(200, bucket);
    }
    world.stranger.put("/theirs").send().await.expect(200, "theirs");
    let bad = "InvalidTargetBucketForLogging";
    configure(c, "absent", "").await.refused(400, bad, "absent");
    configure(c, "theirs", "").await.refused(400, bad, "another account's");
    configure(c, "logs", "").await.refused(400, bad, "not let in");
    c.put("/logs?policy").body(policy("000000000001")).send().await.expect(204, "policy");
    configure(c, "logs", "").await.refused(400, bad, "let in for another account");
    c.put("/by-list?acl").header("x-amz-acl", "log-delivery-write").send().await.expect(200, "list");
    configure(c, "by-list", "").await.expect(200, "let in by its list");
    let partitioned = |source: &str| {
        format!(
            "<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>{source}</PartitionDateSource></PartitionedPrefix></TargetObjectKeyFormat>"
        )
    };
    configure(c, "by-list", &partitioned("Never")).await.refused(400, "MalformedXML", "no such date");
    configure(c, "by-list", &partitioned("EventTime")).await.expect(200, "partitioned");
    let shown = c.get("/bucket?logging").send().await.expect(200, "shown").text();
    for part in ["<TargetBucket>by-list<", "<TargetPrefix>logs/<", "EventTime"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    world.front.deliver_access_logs_now().await;
    let listed = c.get("/by-list?list-type=2").send().await.expect(200, "listed").text();
    let partition = format!("<Key>logs/{}/eu-test-1/bucket/2026/11/24/2026-11-24-00-00-00-", world.account);
    assert!(listed.contains(&partition), "{listed}");
    // Who is no longer let in delivers nothing, and requests go on.
    c.put("/by-list?acl").header("x-amz-acl", "private").send().await.expect(200, "private");
    c.get("/bucket?list-type=2").send().await.expect(200, "goes on");
    world.front.deliver_access_logs_now().await;
    let again = c.get("/by-list?list-type=2").send().await.expect(200, "listed").text();
    assert_eq!(again.matches("<Key>").count(), 1, "{again}");
}
