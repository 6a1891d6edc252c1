//! Versions on the wire.

use crate::harness::{Answer, Client, World};
use futures::future::join_all;

const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const SUSPENDED: &str = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";

async fn switch(c: &Client, state: &str) {
    c.put("/bucket?versioning").body(state.to_owned()).send().await.expect(200, state);
}

async fn put(c: &Client, key: &str, body: &str) -> String {
    let answer = c.put(&format!("/bucket/{key}")).body(body.to_owned()).send().await.expect(200, key);
    answer.header("x-amz-version-id").to_owned()
}

#[track_caller]
fn marked(answer: &Answer, marker: &str, version: &str) {
    assert_eq!((answer.header("x-amz-delete-marker"), answer.header("x-amz-version-id")), (marker, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let state = || async { c.get("/bucket?versioning").send().await.expect(200, "state").field("Status") };
    assert_eq!(state().await, None);
    switch(c, SUSPENDED).await;
    assert_eq!(state().await.as_deref(), Some("Suspended"));
    switch(c, ENABLED).await;
    assert_eq!(state().await.as_deref(), Some("Enabled"));
    let document = |inside: &str| format!("<VersioningConfiguration>{inside}</VersioningConfiguration>");
    for (inside, status, code) in [
        ("", 400, "IllegalVersioningConfigurationException"),
        ("<Status>Off</Status>", 400, "MalformedXML"),
        ("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>", 501, "NotImplemented"),
    ] {
        c.put("/bucket?versioning").body(document(inside)).send().await.refused(status, code, inside);
    }
    c.put("/none?versioning").body(ENABLED).send().await.refused(404, "NoSuchBucket", "no bucket");
    world.stranger.put("/bucket?versioning").body(SUSPENDED).send().await.refused(403, "AccessDenied", "a stranger");
    assert_eq!(state().await.as_deref(), Some("Enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_add_and_deletions_hide() {
    let world = World::with_bucket().await;
    let c = &world.root;
    assert_eq!(put(c, "k", "zero").await, "", "nothing is said of versions before they are switched on");
    switch(c, ENABLED).await;
    let one = put(c, "k", "one").await;
    let two = put(c, "k", "two").await;
    assert!(one < two && two.len() == 16, "{one} {two}");
    let version = |id: &str| format!("/bucket/k?versionId={id}");
    for (id, body) in [("null", "zero"), (one.as_str(), "one"), (two.as_str(), "two")] {
        let answer = c.get(&version(id)).send().await.expect(200, id);
        assert_eq!((answer.text().as_str(), answer.header("x-amz-version-id")), (body, id));
        let answer = c.head(&version(id)).send().await.expect(200, id);
        assert_eq!(answer.header("x-amz-version-id"), id);
    }
    assert_eq!(c.get("/bucket/k").send().await.header("x-amz-version-id"), two);

    let marker = c.delete("/bucket/k").send().await.expect(204, "hidden");
    assert_eq!(marker.header("x-amz-delete-marker"), "true");
    let marker = marker.header("x-amz-version-id").to_owned();
    marked(&c.get("/bucket/k").send().await.refused(404, "NoSuchKey", "hidden"), "true", &marker);
    marked(&c.head("/bucket/k").send().await.expect(404, "hidden"), "true", &marker);
    let refused = c.get(&version(&marker)).send().await.refused(405, "MethodNotAllowed", "a marker by its name");
    marked(&refused, "true", &marker);
    assert_eq!((refused.header("allow"), refused.header("last-modified")), ("DELETE", "Tue, 24 Nov 2026 05:00:00 GMT"));
    c.head(&version(&marker)).send().await.expect(405, "a marker by its name");
    c.get(&format!("{}&tagging", version(&marker))).send().await.refused(405, "MethodNotAllowed", "its tags");
    assert!(!c.get("/bucket").send().await.text().contains("<Key>"), "listings show objects only");
    c.delete("/bucket").send().await.refused(409, "BucketNotEmpty", "versions are there");
    c.put("/bucket/k").header("if-match", "*").body("x").send().await.refused(404, "NoSuchKey", "no object");

    let deleted = c.delete(&version(&marker)).send().await.expect(204, "the marker goes");
    marked(&deleted, "true", &marker);
    assert_eq!(c.get("/bucket/k").send().await.text(), "two");
    marked(&c.delete(&version(&two)).send().await.expect(204, "for good"), "", &two);
    assert_eq!(c.get("/bucket/k").send().await.text(), "one");
    c.get(&version(&two)).send().await.refused(404, "NoSuchVersion", "gone");
    c.delete(&version(&two)).send().await.expect(204, "again");
    for id in ["", "one", "NULL", "00000000000000000000"] {
        c.get(&version(id)).send().await.refused(400, "InvalidArgument", id);
        c.delete(&version(id)).send().await.refused(400, "InvalidArgument", id);
    }
    c.get(&version(&"0".repeat(16))).send().await.refused(404, "NoSuchVersion", "never was");

    switch(c, SUSPENDED).await;
    assert_eq!(put(c, "k", "null again").await, "", "a write says nothing of null");
    assert_eq!(c.head("/bucket/k").send().await.header("x-amz-version-id"), "null");
    c.get(&version(&one)).send().await.expect(200, "other versions stay");
    let hidden = c.delete("/bucket/k").send().await.expect(204, "hidden");
    marked(&hidden, "true", "null");
    c.get(&version("null")).send().await.refused(405, "MethodNotAllowed", "the marker is null now");
    c.delete(&version("null")).send().await.expect(204, "the marker goes");
    assert_eq!(c.get("/bucket/k").send().await.text(), "one");
    c.delete(&version(&one)).send().await.expect(204, "the last");
    c.delete("/bucket").send().await.expect(204, "empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings() {
    let world = World::with_bucket().await;
    let c = &world.root;
    switch(c, ENABLED).await;
    let mut names = Vec::new();
    for (key, count) in [("a", 3), ("b%20b/x", 2), ("b%20b/y", 1), ("c", 1)] {
        for n in 0..count {
            names.push((key, put(c, key, &n.to_string()).await));
        }
    }
    c.delete("/bucket/c").send().await.expect(204, "hidden");
    let get = |query: String| c.get(&format!("/bucket?versions{query}")).send();
    let text = get(String::new()).await.expect(200, "all").text();
    assert_eq!((text.matches("<Version>").count(), text.matches("<DeleteMarker>").count()), (7, 1), "{text}");
    assert_eq!(text.matches("<IsLatest>true</IsLatest>").count(), 4, "{text}");
    let at = |id: &str| text.find(&format!("<VersionId>{id}</VersionId>")).unwrap();
    assert!(at(&names[2].1) < at(&names[1].1) && at(&names[1].1) < at(&names[0].1), "newest first: {text}");

    // One by one, in pages.
    let (mut seen, mut query) = (Vec::new(), String::from("&max-keys=1"));
    loop {
        let page = get(query.clone()).await.expect(200, &query);
        seen.push((page.field("Key").unwrap(), page.field("VersionId").unwrap()));
        let Some(key) = page.field("NextKeyMarker") else { break };
        let version = page.field("NextVersionIdMarker").unwrap();
        query = format!("&max-keys=1&key-marker={}&version-id-marker={version}", key.replace(' ', "%20"));
    }
    assert_eq!(seen.len(), 8);
    assert_eq!(seen.iter().filter(|(key, _)| key == "a").count(), 3);

    let page = get("&delimiter=%2F&encoding-type=url&max-keys=4".into()).await.expect(200, "rolled up");
    assert!(page.text().contains("<CommonPrefixes><Prefix>b%20b/</Prefix></CommonPrefixes>"), "{}", page.text());
    assert_eq!(page.field("NextKeyMarker").as_deref(), Some("b%20b/"));
    let rest = get("&delimiter=%2F&key-marker=b%20b%2F".into()).await.expect(200, "the rest").text();
    assert_eq!((rest.matches("<Version>").count(), rest.matches("<DeleteMarker>").count()), (1, 1), "{rest}");
    let behind = get("&key-marker=a".into()).await.expect(200, "behind a key").text();
    assert_eq!(behind.matches("<Version>").count(), 4, "{behind}");
    let prefix = get("&prefix=b%20b%2Fx".into()).await.expect(200, "a prefix").text();
    assert_eq!(prefix.matches("<Version>").count(), 2, "{prefix}");
    for (query, code) in [
        ("&version-id-marker=null", "InvalidArgument"),
        ("&key-marker=a&version-id-marker=x", "InvalidArgument"),
        ("&max-keys=-1", "InvalidArgument"),
        ("&encoding-type=x", "InvalidArgument"),
    ] {
        get(query.into()).await.refused(400, code, query);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_uploads_tags_and_attributes() {
    let world = World::with_bucket().await;
    let c = &world.root;
    switch(c, ENABLED).await;
    let (one, two) = (put(c, "k", "one").await, put(c, "k", "two").await);
    let copy = |id: &str| c.put("/bucket/copy").header("x-amz-copy-source", format!("/bucket/k?versionId={id}"));
    let answer = copy(&one).send().await.expect(200, "an old version");
    assert_eq!(answer.header("x-amz-copy-source-version-id"), one);
    let copied = answer.header("x-amz-version-id").to_owned();
    assert!(copied > two);
    assert_eq!(c.get("/bucket/copy").send().await.text(), "one");
    // An old version becomes the newest again.
    let restore = c.put("/bucket/k").header("x-amz-copy-source", format!("/bucket/k?versionId={one}"));
    restore.send().await.expect(200, "restored");
    assert_eq!(c.get("/bucket/k").send().await.text(), "one");
    let marker = c.delete("/bucket/k").send().await.header("x-amz-version-id").to_owned();
    copy(&marker).send().await.refused(400, "InvalidRequest", "a marker");
    copy(&"0".repeat(16)).send().await.refused(404, "NoSuchVersion", "never was");
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/k").send().await.refused(404, "NoSuchKey", "hidden");

    let tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    let target = format!("/bucket/k?tagging&versionId={one}");
    let tagged = c.put(&target).body(tagging).send().await.expect(200, "tagged");
    assert_eq!(tagged.header("x-amz-version-id"), one);
    assert!(c.get(&target).send().await.text().contains("<Key>a</Key>"));
    assert!(!c.get(&format!("/bucket/k?tagging&versionId={two}")).send().await.text().contains("<Key>"));
    c.put("/bucket/k?tagging").body(tagging).send().await.refused(405, "MethodNotAllowed", "the object is a marker");
    c.delete(&target).send().await.expect(204, "untagged");

    let attributes =
        c.get(&format!("/bucket/k?attributes&versionId={two}")).header("x-amz-object-attributes", "ObjectSize");
    let attributes = attributes.send().await.expect(200, "attributes");
    assert_eq!(
        (attributes.field("ObjectSize").as_deref(), attributes.header("x-amz-version-id")),
        (Some("3"), two.as_str())
    );

    // An upload makes a version; the answer to a repeat is the same, also when newer ones came.
    let upload = c.post("/bucket/k?uploads").send().await.expect(200, "begun").field("UploadId").unwrap();
    let part =
        c.put(&format!("/bucket/k?partNumber=1&uploadId={upload}")).body("part").send().await.expect(200, "part");
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag")
    );
    let complete = || c.post(&format!("/bucket/k?uploadId={upload}")).body(document.clone()).send();
    let version = complete().await.expect(200, "completed").header("x-amz-version-id").to_owned();
    put(c, "k", "newer").await;
    assert_eq!(complete().await.expect(200, "a repeat").header("x-amz-version-id"), version);
    assert_eq!(c.get(&format!("/bucket/k?versionId={version}")).send().await.text(), "part");
    let source = format!("/bucket/k?versionId={version}");
    let upload = c.post("/bucket/m?uploads").send().await.expect(200, "begun").field("UploadId").unwrap();
    let part = c.put(&format!("/bucket/m?partNumber=1&uploadId={upload}")).header("x-amz-copy-source", source);
    assert_eq!(part.send().await.expect(200, "copied").header("x-amz-copy-source-version-id"), version);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deletions() {
    let world = World::with_bucket().await;
    let c = &world.root;
    switch(c, ENABLED).await;
    let (one, two) = (put(c, "k", "one").await, put(c, "k", "two").await);
    let document = |objects: &[(&str, &str)]| {
        let object = |(key, id): &(&str, &str)| {
            let id = if id.is_empty() { String::new() } else { format!("<VersionId>{id}</VersionId>") };
            format!("<Object><Key>{key}</Key>{id}</Object>")
        };
        format!("<Delete>{}</Delete>", objects.iter().map(object).collect::<String>())
    };
    let delete = |objects: &[(&str, &str)]| c.post("/bucket?delete").body(document(objects)).send();
    let text = delete(&[("k", &one), ("new", "")]).await.expect(200, "a version and an object").text();
    assert!(text.contains(&format!("<VersionId>{one}</VersionId>")), "{text}");
    assert_eq!(text.matches("<DeleteMarker>true</DeleteMarker>").count(), 1, "{text}");
    let marker = text.split_once("<DeleteMarkerVersionId>").unwrap().1[..16].to_owned();
    let text = delete(&[("new", &marker), ("k", "bad"), ("k", &"0".repeat(16))]).await.expect(200, "a marker").text();
    assert!(text.contains(&format!("<DeleteMarkerVersionId>{marker}</DeleteMarkerVersionId>")), "{text}");
    assert!(text.contains("<Code>InvalidArgument</Code>") && text.contains("<VersionId>bad</VersionId>"), "{text}");
    assert_eq!(text.matches("<Deleted>").count(), 2, "{text}");
    assert_eq!(c.get("/bucket/k").send().await.text(), "two");

    // Who may delete objects may not delete versions.
    let policy = |actions: &str| {
        format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":[{actions}],"Resource":"*"}}}}"#)
    };
    let user = world.user("u", &policy(r#""s3:DeleteObject","s3:GetObject","s3:ListBucket""#)).await;
    let version = format!("/bucket/k?versionId={two}");
    user.get("/bucket/k").send().await.expect(200, "the object");
    user.get(&version).send().await.refused(403, "AccessDenied", "s3:GetObjectVersion");
    user.get(&version.replace("versionId", "%76ersionId")).send().await.refused(403, "AccessDenied", "encoded");
    user.delete(&version).send().await.refused(403, "AccessDenied", "s3:DeleteObjectVersion");
    user.get("/bucket?versions").send().await.refused(403, "AccessDenied", "s3:ListBucketVersions");
    user.put("/bucket/copy").header("x-amz-copy-source", &version).send().await.refused(403, "AccessDenied", "a copy");
    let body = document(&[("k", &two)]);
    let text = user.post("/bucket?delete").body(body).send().await.expect(200, "one of many").text();
    assert!(text.contains("<Code>AccessDenied</Code>"), "{text}");
    let by_id = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"s3:GetObjectVersion","Resource":"*","Condition":{{"StringEquals":{{"s3:VersionId":"{two}"}}}}}}}}"#
    );
    let user = world.user("v", &by_id).await;
    user.get(&version).send().await.expect(200, "the version that the policy names");
    user.get(&format!("/bucket/k?versionId={one}")).send().await.refused(403, "AccessDenied", "another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conditions_are_exact_and_no_version_is_lost() {
    let world = World::with_bucket().await;
    let c = &world.root;
    switch(c, ENABLED).await;
    // Each round: many replace one version that they all saw, one wins; many delete it, one wins.
    for round in 0..10 {
        let seen = c.put("/bucket/k").body(format!("start {round}")).send().await.expect(200, "start");
        let replace = |n: usize| {
            let call = c.put("/bucket/k").header("if-match", seen.header("etag")).body(format!("{round} {n}"));
            tokio::spawn(call.send())
        };
        let statuses: Vec<_> =
            join_all((0..6).map(replace)).await.into_iter().map(|answer| answer.unwrap().status.as_u16()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        let won = c.get("/bucket/k").send().await.header("etag").to_owned();
        let delete = |_| tokio::spawn(c.delete("/bucket/k").header("if-match", &won).send());
        let statuses: Vec<_> =
            join_all((0..6).map(delete)).await.into_iter().map(|answer| answer.unwrap().status.as_u16()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
        let create =
            |n: usize| tokio::spawn(c.put("/bucket/k").header("if-none-match", "*").body(n.to_string()).send());
        let statuses: Vec<_> =
            join_all((0..6).map(create)).await.into_iter().map(|answer| answer.unwrap().status.as_u16()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    }
    let text = c.get("/bucket?versions").send().await.expect(200, "all").text();
    assert_eq!((text.matches("<Version>").count(), text.matches("<DeleteMarker>").count()), (30, 10), "{text}");
    // A version by its name is deleted on condition, too.
    let version = put(c, "v", "x").await;
    let target = format!("/bucket/v?versionId={version}");
    c.delete(&target).header("if-match", "\"0\"").send().await.refused(412, "PreconditionFailed", "another ETag");
    let unknown = c.delete(&target).header("x-amz-if-match-size", "1").send().await;
    unknown.refused(501, "NotImplemented", "for directory buckets only");
    c.delete(&target).header("if-match", "\"9dd4e461268c8034f5c8564e155c67a6\"").send().await.expect(204, "its ETag");
    // A delete marker has no ETag, so that no condition on one holds.
    let marker = c.delete("/bucket/v").send().await.expect(204, "a marker").header("x-amz-version-id").to_owned();
    for condition in ["*", "\"\""] {
        let call = c.delete(&format!("/bucket/v?versionId={marker}")).header("if-match", condition);
        call.send().await.refused(404, "NoSuchKey", condition);
    }
}
