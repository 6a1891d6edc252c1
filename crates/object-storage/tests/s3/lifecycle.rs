//! Lifecycle rules, with a clock that moves.

use crate::harness::{Client, World};
use futures::future::join_all;
use std::time::Duration;
use terroir_object_storage::lifecycle::Pass;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn rules(rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("<Rule>{rule}</Rule>")).collect();
    format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>")
}

async fn set(c: &Client, all: &[&str]) {
    c.put("/bucket?lifecycle").proven(rules(all)).send().await.expect(200, "rules");
}

async fn put(c: &Client, key: &str, body: &str) -> String {
    let answer = c.put(&format!("/bucket/{key}")).body(body.to_owned()).send().await.expect(200, key);
    answer.header("x-amz-version-id").to_owned()
}

async fn switch(c: &Client, state: &str) {
    let document = format!("<VersioningConfiguration><Status>{state}</Status></VersioningConfiguration>");
    c.put("/bucket?versioning").body(document).send().await.expect(200, state);
}

/// What the worker did in the one bucket; nothing if nothing was due.
async fn look(world: &World) -> Option<Pass> {
    world.lifecycle().tick().await.unwrap().into_iter().map(|(_, pass)| pass).next()
}

async fn keys(c: &Client) -> Vec<String> {
    let text = c.get("/bucket").send().await.expect(200, "keys").text();
    text.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
}

async fn versions(c: &Client) -> (usize, usize) {
    let text = c.get("/bucket?versions").send().await.expect(200, "versions").text();
    (text.matches("<Version>").count(), text.matches("<DeleteMarker>").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let get = || c.get("/bucket?lifecycle").send();
    get().await.refused(404, "NoSuchLifecycleConfiguration", "none");
    let on = "<Status>Enabled</Status>";
    let expire = "<Expiration><Days>1</Days></Expiration>";
    let tag = "<Tag><Key>a</Key><Value>b</Value></Tag>";
    let abort =
        "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>";
    let all = [
        format!("<ID>one</ID><Filter><Prefix>a/</Prefix></Filter>{on}{expire}{abort}"),
        format!(
            "<ID>two</ID><Filter><And><Prefix>b/</Prefix>{tag}<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><Status>Disabled</Status><Expiration><Date>2027-01-01T00:00:00Z</Date></Expiration>"
        ),
        format!(
            "<ID>three</ID><Prefix>c/</Prefix>{on}<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
        ),
        format!(
            "<Filter></Filter>{on}<NoncurrentVersionExpiration><NoncurrentDays>4</NoncurrentDays><NewerNoncurrentVersions>3</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
        ),
    ];
    let documents: Vec<_> = all.iter().map(String::as_str).collect();
    set(c, &documents).await;
    let text = get().await.expect(200, "read").text();
    for part in [
        "<Filter><Prefix>a/</Prefix></Filter>",
        "<DaysAfterInitiation>1</DaysAfterInitiation>",
        "<And><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan><Prefix>b/</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And>",
        "<Date>2027-01-01T00:00:00.000Z</Date>",
        "<Prefix>c/</Prefix>",
        "<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>",
        "<NewerNoncurrentVersions>3</NewerNoncurrentVersions><NoncurrentDays>4</NoncurrentDays>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!((text.matches("<ID>").count(), text.matches("<Status>Disabled</Status>").count()), (4, 1), "{text}");

    let long = "x".repeat(256);
    let any = "<Filter></Filter>";
    for (rule, status, code) in [
        (format!("{on}{expire}"), 400, "MalformedXML"),
        (format!("<Prefix></Prefix>{any}{on}{expire}"), 400, "MalformedXML"),
        (format!("{any}<Status>enabled</Status>{expire}"), 400, "MalformedXML"),
        (format!("{any}{on}"), 400, "InvalidRequest"),
        (format!("{any}{on}<Expiration><Days>0</Days></Expiration>"), 400, "InvalidArgument"),
        (format!("{any}{on}<Expiration><Days>-1</Days></Expiration>"), 400, "InvalidArgument"),
        (
            format!("{any}{on}<Expiration><Days>1</Days><Date>2027-01-01T00:00:00Z</Date></Expiration>"),
            400,
            "MalformedXML",
        ),
        (format!("{any}{on}<Expiration><Date>2027-01-01T00:00:01Z</Date></Expiration>"), 400, "InvalidArgument"),
        (format!("{any}{on}<Expiration><Date>20270101</Date></Expiration>"), 400, "MalformedXML"),
        (format!("{any}{on}<Expiration></Expiration>"), 400, "MalformedXML"),
        (format!("<ID>{long}</ID>{any}{on}{expire}"), 400, "InvalidArgument"),
        (format!("<Filter><Prefix>a</Prefix>{tag}</Filter>{on}{expire}"), 400, "MalformedXML"),
        (format!("<Filter><And><Prefix>a</Prefix></And></Filter>{on}{expire}"), 400, "MalformedXML"),
        (format!("<Filter><And>{tag}{tag}</And></Filter>{on}{expire}"), 400, "InvalidRequest"),
        (format!("<Filter>{tag}</Filter>{on}{abort}"), 400, "InvalidRequest"),
        (format!("<Filter><ObjectSizeLessThan>9</ObjectSizeLessThan></Filter>{on}{abort}"), 400, "InvalidRequest"),
        (
            format!(
                "<Filter>{tag}</Filter>{on}<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
            ),
            400,
            "InvalidRequest",
        ),
        (
            format!(
                "<Filter><And><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan><ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>{on}{expire}"
            ),
            400,
            "InvalidRequest",
        ),
        (
            format!(
                "{any}{on}<NoncurrentVersionExpiration><NewerNoncurrentVersions>3</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            ),
            400,
            "MalformedXML",
        ),
        (
            format!(
                "{any}{on}<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>101</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            ),
            400,
            "InvalidArgument",
        ),
        (
            format!("{any}{on}<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"),
            501,
            "NotImplemented",
        ),
    ] {
        c.put("/bucket?lifecycle").proven(rules(&[&rule])).send().await.refused(status, code, &rule);
    }
    let twice = format!("<ID>same</ID>{any}{on}{expire}");
    c.put("/bucket?lifecycle").body(rules(&[&twice])).send().await.refused(400, "InvalidRequest", "without a digest");
    let body = rules(&[&twice, &twice]);
    c.put("/bucket?lifecycle").proven(body).send().await.refused(400, "InvalidArgument", "the same ID");
    c.put("/bucket?lifecycle").proven(rules(&[])).send().await.refused(400, "MalformedXML", "no rules");
    assert_eq!(get().await.text(), text, "what was refused changed nothing");
    c.delete("/bucket?lifecycle").send().await.expect(204, "none again");
    get().await.refused(404, "NoSuchLifecycleConfiguration", "none again");
    c.delete("/bucket?lifecycle").send().await.expect(204, "none twice");
}

/// The clock says 2026-11-24T05:00:00Z.
#[tokio::test(flavor = "multi_thread")]
async fn objects_end() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let logs = "<ID>logs, old</ID><Filter><Prefix>logs/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>2</Days></Expiration>";
    let large = "<ID>large</ID><Filter><ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></Filter><Status>Enabled</Status><Expiration><Days>3</Days></Expiration>";
    let tagged = "<ID>tagged</ID><Filter><Tag><Key>end</Key><Value>soon</Value></Tag></Filter><Status>Enabled</Status><Expiration><Date>2026-11-25T00:00:00Z</Date></Expiration>";
    let off = "<ID>off</ID><Filter></Filter><Status>Disabled</Status><Expiration><Days>1</Days></Expiration>";
    set(c, &[logs, large, tagged, off]).await;
    let written = c.put("/bucket/logs/a").body("x").send().await.expect(200, "written");
    let says = "expiry-date=\"Fri, 27 Nov 2026 00:00:00 GMT\", rule-id=\"logs%2C%20old\"";
    assert_eq!(written.header("x-amz-expiration"), says);
    for read in [c.get("/bucket/logs/a"), c.head("/bucket/logs/a")] {
        assert_eq!(read.send().await.expect(200, "read").header("x-amz-expiration"), says);
    }
    put(c, "large", "more than ten bytes").await;
    put(c, "small", "x").await;
    c.put("/bucket/tagged").body("x").header("x-amz-tagging", "end=soon").send().await.expect(200, "tagged");
    assert_eq!(c.head("/bucket/small").send().await.header("x-amz-expiration"), "");

    assert_eq!(look(&world).await, Some(Pass::default()), "nothing is due");
    assert_eq!(look(&world).await, None, "once a day");
    world.clock.advance(DAY);
    assert_eq!(look(&world).await, Some(Pass { expired: 1, ..Pass::default() }));
    assert_eq!(keys(c).await, ["large", "logs/a", "small"]);
    // Written over in time: its days begin anew.
    put(c, "logs/b", "x").await;
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { expired: 1, ..Pass::default() }));
    assert_eq!(keys(c).await, ["large", "logs/b", "small"]);
    world.clock.advance(DAY * 100);
    assert_eq!(look(&world).await, Some(Pass { expired: 2, ..Pass::default() }));
    assert_eq!(keys(c).await, ["small"]);
    // New rules hold at once.
    let all = "<Filter></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration>";
    set(c, &[all]).await;
    assert_eq!(look(&world).await, Some(Pass { expired: 1, ..Pass::default() }));
    assert_eq!(keys(c).await, [""; 0]);
    assert_eq!(versions(c).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_end() {
    let world = World::with_bucket().await;
    let c = &world.root;
    put(c, "null", "x").await;
    switch(c, "Enabled").await;
    let current = "<ID>c</ID><Filter></Filter><Status>Enabled</Status><Expiration><Days>10</Days></Expiration>";
    let noncurrent = "<ID>n</ID><Filter><Prefix>k</Prefix></Filter><Status>Enabled</Status><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays><NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionExpiration>";
    set(c, &[current, noncurrent]).await;
    for n in 0..4 {
        put(c, "k", &n.to_string()).await;
    }
    world.clock.advance(DAY);
    put(c, "k", "later").await;
    assert_eq!(look(&world).await, Some(Pass::default()));
    // Three were replaced on the first day; the fourth, a day later, is the newest noncurrent one.
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { removed: 3, ..Pass::default() }));
    assert_eq!(versions(c).await, (3, 0));
    assert_eq!(c.get("/bucket/k").send().await.text(), "later");
    // Objects expire: they are hidden, and what is hidden ends in its turn.
    world.clock.advance(DAY * 10);
    assert_eq!(look(&world).await, Some(Pass { expired: 2, ..Pass::default() }));
    assert_eq!((versions(c).await, keys(c).await.len()), ((3, 2), 0));
    world.clock.advance(DAY * 3);
    assert_eq!(look(&world).await, Some(Pass { removed: 1, ..Pass::default() }), "but the newest noncurrent one stays");
    assert_eq!(versions(c).await, (2, 2));

    // A marker that hides nothing goes by its age with the days, and at once where a rule says so.
    let noncurrent = "<ID>n</ID><Filter></Filter><Status>Enabled</Status><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
    set(c, &[noncurrent]).await;
    assert_eq!(look(&world).await, Some(Pass { removed: 2, ..Pass::default() }));
    assert_eq!(versions(c).await, (0, 2));
    let markers = "<ID>m</ID><Filter></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>";
    set(c, &[markers]).await;
    assert_eq!(look(&world).await, Some(Pass { markers: 2, ..Pass::default() }));
    assert_eq!(versions(c).await, (0, 0));

    // In one pass: the last hidden version and the marker above it.
    put(c, "both", "x").await;
    c.delete("/bucket/both").send().await.expect(204, "hidden");
    put(c, "stays", "x").await;
    c.delete("/bucket/stays").send().await.expect(204, "hidden");
    put(c, "stays", "x").await;
    set(c, &[noncurrent, markers]).await;
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { removed: 3, markers: 1, ..Pass::default() }));
    assert_eq!((versions(c).await, keys(c).await), ((1, 0), vec!["stays".to_owned()]));
    switch(c, "Suspended").await;
    put(c, "stays", "null").await;
    let all = "<Filter></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration>";
    set(c, &[all]).await;
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { expired: 1, ..Pass::default() }));
    assert_eq!(versions(c).await, (1, 1), "the null version gave way to a marker");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_respected_and_uploads_aborted() {
    let world = World::new().await;
    let c = &world.root;
    let create = c.put("/bucket").header("x-amz-bucket-object-lock-enabled", "true");
    create.send().await.expect(200, "with object lock");
    let version = put(c, "held", "x").await;
    let hold = c.put(&format!("/bucket/held?legal-hold&versionId={version}"));
    hold.proven("<LegalHold><Status>ON</Status></LegalHold>").send().await.expect(200, "held");
    c.delete("/bucket/held").send().await.expect(204, "hidden");
    let all = "<ID>a</ID><Filter></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
    let uploads = "<ID>b</ID><Filter><Prefix>up/</Prefix></Filter><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload>";
    set(c, &[all, uploads]).await;
    for key in ["up/1", "up/2", "other"] {
        let begun = c.post(&format!("/bucket/{key}?uploads")).send().await.expect(200, key);
        let upload = begun.field("UploadId").unwrap();
        let listed = c.get(&format!("/bucket/{key}?uploadId={upload}")).send().await.expect(200, key);
        let says = if key == "other" { ("", "") } else { ("Sat, 28 Nov 2026 00:00:00 GMT", "b") };
        for answer in [begun, listed] {
            assert_eq!((answer.header("x-amz-abort-date"), answer.header("x-amz-abort-rule-id")), says, "{key}");
        }
        c.put(&format!("/bucket/{key}?partNumber=1&uploadId={upload}")).body("part").send().await.expect(200, key);
    }
    world.files_become(3).await;
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { kept: 1, ..Pass::default() }));
    assert_eq!(versions(c).await, (1, 1), "the marker still hides something");
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { kept: 1, aborted_uploads: 2, ..Pass::default() }));
    world.files_become(1).await;
}

/// Several pages, and keys whose versions lie on two of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_versions() {
    let world = World::with_bucket().await;
    let c = &world.root;
    switch(c, "Enabled").await;
    let keys = 30;
    for n in 0..keys {
        let write = |_| c.put(&format!("/bucket/k{n:02}")).body("x").send();
        join_all((0..100).map(write)).await.into_iter().for_each(|answer| drop(answer.expect(200, "written")));
    }
    let rule = "<Filter></Filter><Status>Enabled</Status><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>7</NewerNoncurrentVersions></NoncurrentVersionExpiration>";
    set(c, &[rule]).await;
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { removed: keys * 92, ..Pass::default() }));
    let (left, _) = versions(c).await;
    assert_eq!(left, usize::try_from(keys).unwrap() * 8);
    let all = "<Filter></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
    set(c, &[all]).await;
    assert_eq!(look(&world).await, Some(Pass { expired: keys, removed: keys * 7, ..Pass::default() }));
    world.clock.advance(DAY * 2);
    assert_eq!(look(&world).await, Some(Pass { removed: keys, markers: keys, ..Pass::default() }));
    assert_eq!(versions(c).await, (0, 0));
    c.delete("/bucket").send().await.expect(204, "nothing is left");
}

/// What is written while the worker judges is never hit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_meanwhile_is_kept() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let rule = "<Filter></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration>";
    for round in 0..10 {
        for n in 0..20 {
            put(c, &format!("k{n}"), "old").await;
        }
        set(c, &[rule]).await;
        world.clock.advance(DAY * 2);
        let worker = world.lifecycle();
        let looking = tokio::spawn(async move { worker.tick().await });
        let rewrite = |n: usize| tokio::spawn(c.put(&format!("/bucket/k{n}")).body("old").send());
        for answer in join_all((0..20).map(rewrite)).await {
            answer.unwrap().expect(200, "rewritten with the same bytes");
        }
        looking.await.unwrap().unwrap();
        assert_eq!(keys(c).await.len(), 20, "round {round}");
    }
}
