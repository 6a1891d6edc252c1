//! Buckets and single objects.

use crate::harness::{Call, World, send};
use bytes::Bytes;
use http_body_util::Full;

/// One request after the other, each with what must come back: status, code or body, headers.
struct Row {
    why: &'static str,
    call: Call,
    status: u16,
    /// The code of an error, else the body.
    says: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

async fn run(rows: Vec<Row>) {
    for Row { why, call, status, says, headers } in rows {
        let is_head = call.method == http::Method::HEAD;
        let answer = call.send().await.expect(status, why);
        if status >= 400 && !is_head {
            assert_eq!(answer.code(), says, "{why}");
        } else if status == 200 || status == 206 {
            assert!(answer.text().contains(says), "{why}: {}", answer.text());
        }
        for (name, value) in headers {
            assert_eq!(answer.header(name), *value, "{why}: {name}");
        }
    }
}

const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

#[tokio::test(flavor = "multi_thread")]
async fn writes_reads_and_conditions() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let row = |why, call, status, says| Row { why, call, status, says, headers: &[] };
    let earlier = "Mon, 23 Nov 2026 05:00:00 GMT";
    let later = "Wed, 25 Nov 2026 05:00:00 GMT";
    let k = "/bucket/a%20b/k%C3%A9+";
    run(vec![
        row("a key that is not there", c.get(k), 404, "NoSuchKey"),
        row("If-Match on nothing", c.put(k).header("if-match", HELLO).body("x"), 404, "NoSuchKey"),
        Row {
            headers: &[("etag", HELLO), ("x-amz-checksum-type", "FULL_OBJECT")],
            ..row(
                "written",
                c.put(k)
                    .body("hello")
                    .header("content-type", "text/x")
                    .header("cache-control", "no-store")
                    .header("expires", "Wed, 21 Oct 2026 07:28:00 GMT")
                    .header("x-amz-meta-Colour", "red")
                    .header("x-amz-tagging", "a=b&c=d%20e"),
                200,
                "",
            )
        },
        Row {
            headers: &[
                ("etag", HELLO),
                ("content-length", "5"),
                ("content-type", "text/x"),
                ("cache-control", "no-store"),
                ("expires", "Wed, 21 Oct 2026 07:28:00 GMT"),
                ("x-amz-meta-colour", "red"),
                ("x-amz-tagging-count", "2"),
                ("last-modified", "Tue, 24 Nov 2026 05:00:00 GMT"),
                ("accept-ranges", "bytes"),
                ("x-amz-checksum-crc64nvme", ""),
            ],
            ..row("read", c.get(k), 200, "hello")
        },
        Row { headers: &[("etag", HELLO), ("content-length", "5")], ..row("head", c.head(k), 200, "") },
        Row {
            headers: &[("content-type", "x/y"), ("content-disposition", "attachment")],
            ..row(
                "overridden",
                c.get(&format!("{k}?response-content-type=x%2Fy&response-content-disposition=attachment")),
                200,
                "hello",
            )
        },
        Row {
            headers: &[("x-amz-checksum-crc64nvme", "M3eFcAZSQlc="), ("x-amz-checksum-type", "FULL_OBJECT")],
            ..row("its checksum", c.get(k).header("x-amz-checksum-mode", "ENABLED"), 200, "hello")
        },
        Row {
            headers: &[("content-range", "bytes 1-3/5"), ("content-length", "3")],
            ..row("a range", c.get(k).header("range", "bytes=1-3"), 206, "ell")
        },
        Row {
            headers: &[("content-range", "bytes 3-4/5")],
            ..row("a suffix", c.get(k).header("range", "bytes=-2"), 206, "lo")
        },
        row("open", c.get(k).header("range", "bytes=4-"), 206, "o"),
        row("past the end", c.get(k).header("range", "bytes=2-99"), 206, "llo"),
        Row {
            headers: &[("content-range", "bytes */5")],
            ..row("behind the end", c.get(k).header("range", "bytes=5-"), 416, "InvalidRange")
        },
        row("no bytes", c.get(k).header("range", "bytes=-0"), 416, "InvalidRange"),
        row("not a range", c.get(k).header("range", "lines=1-2"), 200, "hello"),
        row("range of a head", c.head(k).header("range", "bytes=0-0"), 206, ""),
        row("If-Match", c.get(k).header("if-match", HELLO), 200, "hello"),
        row("If-Match, other", c.get(k).header("if-match", "\"x\""), 412, "PreconditionFailed"),
        row("If-None-Match", c.get(k).header("if-none-match", HELLO), 304, ""),
        row("If-None-Match, other", c.get(k).header("if-none-match", "\"x\""), 200, "hello"),
        row("modified since", c.get(k).header("if-modified-since", earlier), 200, "hello"),
        row("not modified since", c.get(k).header("if-modified-since", later), 304, ""),
        row("unmodified since", c.get(k).header("if-unmodified-since", later), 200, "hello"),
        row("modified", c.get(k).header("if-unmodified-since", earlier), 412, "PreconditionFailed"),
        row(
            "ETag before date",
            c.get(k).header("if-match", HELLO).header("if-unmodified-since", earlier),
            200,
            "hello",
        ),
        row("a head's condition", c.head(k).header("if-none-match", HELLO), 304, ""),
        row("creation", c.put(k).header("if-none-match", "*").body("x"), 412, "PreconditionFailed"),
        row("replacement, other", c.put(k).header("if-match", "\"x\"").body("x"), 412, "PreconditionFailed"),
        row("another one", c.put(k).header("if-none-match", HELLO).body("x"), 412, "PreconditionFailed"),
        row("not this one", c.put(k).header("if-none-match", "x").body("hello"), 200, ""),
        row("it stands", c.get(k), 200, "hello"),
        row("replacement", c.put(k).header("if-match", HELLO).body("world"), 200, ""),
        row("replaced", c.get(k), 200, "world"),
        row("deletion, other", c.delete(k).header("if-match", HELLO), 412, "PreconditionFailed"),
        row("deletion", c.delete(k), 204, ""),
        row("deletion again", c.delete(k), 204, ""),
        row("gone", c.head(k), 404, ""),
        row("another version", c.get(&format!("{k}?versionId=abc")), 400, "InvalidArgument"),
        row("an unknown list", c.put(k).header("x-amz-acl", "public"), 400, "InvalidArgument"),
        row("too much metadata", c.put(k).header("x-amz-meta-x", "y".repeat(3000)), 400, "MetadataTooLarge"),
        row("a key too long", c.put(&format!("/bucket/{}", "k".repeat(1025))), 400, "KeyTooLongError"),
        row("no such bucket", c.get("/nothing-here/k"), 404, "NoSuchBucket"),
        row("a write there", c.put("/nothing-here/k").body("x"), 404, "NoSuchBucket"),
        row("not built", c.get("/bucket?inventory&id=1"), 501, "NotImplemented"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets() {
    let world = World::with_bucket().await;
    let (c, other) = (&world.root, &world.stranger);
    let row = |why, call, status, says| Row { why, call, status, says, headers: &[] };
    let constraint = |region: &str| {
        format!(
            "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        )
    };
    run(vec![
        row("again", c.put("/bucket"), 409, "BucketAlreadyOwnedByYou"),
        row("another's", other.put("/bucket"), 409, "BucketAlreadyExists"),
        row("another's, read", other.get("/bucket"), 403, "AccessDenied"),
        row("another's, write", other.put("/bucket/k").body("x"), 403, "AccessDenied"),
        row("a bad name", c.put("/Bad_Name"), 400, "InvalidBucketName"),
        row("elsewhere", c.put("/second").body(constraint("mars-1")), 400, "IllegalLocationConstraintException"),
        row("here", c.put("/second").body(constraint("eu-test-1")), 200, ""),
        Row { headers: &[("x-amz-bucket-region", "eu-test-1")], ..row("head", c.head("/second"), 200, "") },
        row("location", c.get("/second?location"), 200, "eu-test-1"),
        row("never versioned", c.get("/second?versioning"), 200, "VersioningConfiguration"),
        row("owner", c.get("/second?acl"), 200, "FULL_CONTROL"),
        row("list", c.get("/"), 200, "<Name>bucket</Name>"),
        row("in it", c.put("/second/k").body("x"), 200, ""),
        row("not empty", c.delete("/second"), 409, "BucketNotEmpty"),
        row("open again", c.put("/second/k2").body("x"), 200, ""),
        row("emptied", c.delete("/second/k"), 204, ""),
        row("emptied", c.delete("/second/k2"), 204, ""),
        row("deleted", c.delete("/second"), 204, ""),
        row("deleted twice", c.delete("/second"), 404, "NoSuchBucket"),
        row("a write to it", c.put("/second/k").body("x"), 404, "NoSuchBucket"),
        row("free for others", other.put("/second"), 200, ""),
        row("and empty", other.get("/second"), 200, "<IsTruncated>false</IsTruncated>"),
    ])
    .await;
    let listed = c.get("/").send().await.text();
    assert_eq!(listed.matches("<Name>").count(), 1, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_may_stand_in_the_host() {
    let world = World::with_bucket().await;
    let virtual_host = |call: Call, host: &str| call.header("host", host);
    virtual_host(world.root.put("/k"), "bucket.s3.test:9000").body("x").send().await.expect(200, "virtual");
    for (host, target) in [("s3.test", "/bucket/k"), ("bucket.S3.test", "/k"), ("elsewhere.test", "/bucket/k")] {
        let answer = virtual_host(world.root.get(target), host).send().await.expect(200, host);
        assert_eq!(answer.text(), "x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/other").send().await.expect(200, "a second bucket");
    let large = Bytes::from(vec![7_u8; 3 << 20]);
    for (key, body) in [("small", Bytes::from("small")), ("large", large.clone())] {
        let put = c
            .put(&format!("/bucket/{key}"))
            .body(body.clone())
            .header("x-amz-meta-n", "1")
            .header("x-amz-tagging", "t=1");
        let etag = put.send().await.expect(200, key).header("etag").to_owned();
        let copy = |to: &str| c.put(to).header("x-amz-copy-source", format!("/bucket/{key}"));
        let answer = copy("/other/copy").send().await.expect(200, key);
        assert!(answer.text().contains(etag.trim_matches('"')), "{}", answer.text());
        let read = c.get("/other/copy").send().await.expect(200, key);
        assert_eq!((read.body.clone(), read.header("x-amz-meta-n")), (body.clone(), "1"));
        // Onto itself only with something new.
        let itself = format!("/bucket/{key}");
        copy(&itself).send().await.refused(400, "InvalidRequest", key);
        let replace = copy(&itself).header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-n", "2");
        replace.send().await.expect(200, key);
        let read = c.get(&itself).send().await.expect(200, key);
        assert_eq!(
            (read.body.clone(), read.header("x-amz-meta-n"), read.header("x-amz-tagging-count")),
            (body.clone(), "2", "1")
        );
        let rows = [
            (copy("/other/c2").header("x-amz-copy-source-if-none-match", &etag), 412, "PreconditionFailed"),
            (copy("/other/c2").header("x-amz-copy-source-if-match", "\"x\""), 412, "PreconditionFailed"),
            (copy("/other/copy").header("if-none-match", "*"), 412, "PreconditionFailed"),
            (copy("/nothing-here/c2"), 404, "NoSuchBucket"),
            (c.put("/other/c2").header("x-amz-copy-source", "/bucket/missing"), 404, "NoSuchKey"),
            (c.put("/other/c2").header("x-amz-copy-source", "/nothing-here/k"), 404, "NoSuchBucket"),
        ];
        for (call, status, code) in rows {
            call.send().await.refused(status, code, key);
        }
        let other_sum = copy("/other/sum").header("x-amz-checksum-algorithm", "SHA1");
        assert!(other_sum.send().await.expect(200, key).text().contains("<ChecksumSHA1>"));
        // The copy is its own: the source may go.
        c.delete(&itself).send().await.expect(204, key);
        assert_eq!(c.get("/other/copy").send().await.body, body);
    }
    for key in ["copy", "sum"] {
        c.delete(&format!("/other/{key}")).send().await.expect(204, key);
    }
    world.files_become(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deletions_and_tags() {
    let world = World::with_bucket().await;
    let c = &world.root;
    for n in 0..5 {
        c.put(&format!("/bucket/k{n}")).body("x").send().await.expect(200, "written");
    }
    let only = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::bucket","arn:aws:s3:::bucket/k[0]","arn:aws:s3:::bucket/k0","arn:aws:s3:::bucket/none"]}}"#;
    let user = world.user("deleter", only).await;
    let document = |quiet: bool, keys: &[&str]| {
        let objects: String = keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
        format!("<Delete><Quiet>{quiet}</Quiet>{objects}</Delete>")
    };
    let body = document(false, &["k0", "k1", "none"]);
    let answer = user.post("/bucket?delete").body(body).send().await.expect(200, "some are allowed");
    let text = answer.text();
    assert_eq!(
        (text.matches("<Deleted>").count(), text.matches("<Code>AccessDenied</Code>").count()),
        (2, 1),
        "{text}"
    );
    let answer = c.post("/bucket?delete").body(document(true, &["k1", "k2"])).send().await.expect(200, "quiet");
    assert!(!answer.text().contains("<Deleted>"), "{}", answer.text());
    c.post("/bucket?delete").body(document(true, &[])).send().await.refused(400, "MalformedXML", "no keys");
    let wrong =
        c.post("/bucket?delete").body(document(true, &["k3"])).header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    wrong.send().await.refused(400, "BadDigest", "another MD5");
    let listed = c.get("/bucket").send().await.text();
    assert_eq!(listed.matches("<Key>").count(), 2, "{listed}");

    let tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    c.put("/bucket/k3?tagging").body(tagging).send().await.expect(200, "tags");
    assert!(c.get("/bucket/k3?tagging").send().await.text().contains("<Key>a</Key>"));
    assert_eq!(c.get("/bucket/k3").send().await.expect(200, "still there").text(), "x");
    c.delete("/bucket/k3?tagging").send().await.expect(204, "no tags");
    assert!(!c.get("/bucket/k3?tagging").send().await.text().contains("<Key>"));
    c.put("/bucket/none?tagging").body(tagging).send().await.refused(404, "NoSuchKey", "nothing to tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_keeps_what_it_began_to_read() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let old = Bytes::from((0..4 << 20).map(|n: u32| (n >> 8) as u8).collect::<Vec<_>>());
    c.put("/bucket/k").body(old.clone()).send().await.expect(200, "written");
    let (request, _) = c.get("/bucket/k").sign();
    let response = world.front.call(request.map(|()| Full::<Bytes>::default())).await;
    c.put("/bucket/k").body("new").send().await.expect(200, "replaced");
    c.delete("/bucket/k").send().await.expect(204, "deleted");
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(body == old, "the bytes that were there when reading began");
    world.files_become(0).await;
    let (request, _) = c.get("/bucket/k").sign();
    send(&world.front, request.map(|()| Full::<Bytes>::default())).await.refused(404, "NoSuchKey", "gone");
}
