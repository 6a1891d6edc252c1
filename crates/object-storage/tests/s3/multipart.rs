//! Multipart uploads.

use crate::harness::{Answer, Call, World};
use bytes::Bytes;
use terroir_object_storage::backend::MIN_PART_SIZE;

const PART: usize = MIN_PART_SIZE as usize;

struct Upload<'a> {
    world: &'a World,
    target: String,
    id: String,
    parts: Vec<(u16, String)>,
}

impl<'a> Upload<'a> {
    async fn begin(world: &'a World, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut call = world.root.post(&format!("{target}?uploads"));
        for (name, value) in headers {
            call = call.header(name, value);
        }
        let id = call.send().await.expect(200, "begun").field("UploadId").unwrap();
        Self { world, target: target.to_owned(), id, parts: Vec::new() }
    }

    fn part(&self, number: u16) -> Call {
        self.world.root.put(&format!("{}?partNumber={number}&uploadId={}", self.target, self.id))
    }

    async fn put(&mut self, number: u16, body: impl Into<Bytes>) -> Answer {
        let answer = self.part(number).body(body).send().await.expect(200, "a part");
        self.parts.retain(|(n, _)| *n != number);
        self.parts.push((number, answer.header("etag").to_owned()));
        answer
    }

    fn complete_with(&self, parts: &[(u16, &str)]) -> Call {
        let parts: String = parts
            .iter()
            .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.world.root.post(&format!("{}?uploadId={}", self.target, self.id)).body(body)
    }

    fn complete(&self) -> Call {
        self.complete_with(&self.parts.iter().map(|(number, etag)| (*number, etag.as_str())).collect::<Vec<_>>())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_begin_to_end() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let mut upload = Upload::begin(&world, "/bucket/m", &[("x-amz-meta-a", "b"), ("content-type", "x/y")]).await;
    upload.put(3, vec![b'x'; 10]).await;
    upload.put(3, vec![b'c'; 100]).await;
    upload.parts.clear();
    upload.put(1, vec![b'a'; PART]).await;
    upload.put(2, vec![b'b'; PART]).await;
    upload.put(3, vec![b'c'; 100]).await;
    upload.put(9, vec![b'z'; 10]).await;
    let unused = upload.parts.pop().unwrap();
    c.get("/bucket/m").send().await.refused(404, "NoSuchKey", "not there yet");
    assert!(!c.get("/bucket").send().await.text().contains("<Key>"), "not listed");
    assert!(c.get("/bucket?uploads").send().await.text().contains(&upload.id));
    let page = c.get(&format!("/bucket/m?uploadId={}&max-parts=2", upload.id)).send().await.expect(200, "parts");
    assert_eq!(
        (page.field("NextPartNumberMarker").as_deref(), page.field("IsTruncated").as_deref()),
        (Some("2"), Some("true"))
    );
    let rest = format!("/bucket/m?uploadId={}&max-parts=2&part-number-marker=2", upload.id);
    assert_eq!(c.get(&rest).send().await.text().matches("<PartNumber>").count(), 2);

    let etag = |n: usize| upload.parts[n].1.as_str();
    let rows = [
        ("order", upload.complete_with(&[(2, etag(1)), (1, etag(0))]), 400, "InvalidPartOrder"),
        ("twice", upload.complete_with(&[(1, etag(0)), (1, etag(0))]), 400, "InvalidPartOrder"),
        ("missing", upload.complete_with(&[(1, etag(0)), (5, etag(1))]), 400, "InvalidPart"),
        ("another's ETag", upload.complete_with(&[(1, etag(1))]), 400, "InvalidPart"),
        ("small", upload.complete_with(&[(1, etag(0)), (3, etag(2)), (9, &unused.1)]), 400, "EntityTooSmall"),
        ("none", upload.complete_with(&[]), 400, "MalformedXML"),
        ("another size", upload.complete().header("x-amz-mp-object-size", "7"), 400, "InvalidRequest"),
        ("number 0", upload.part(0).body("x"), 400, "InvalidArgument"),
        ("number 10001", upload.part(10_001).body("x"), 400, "InvalidArgument"),
        ("another upload", c.put("/bucket/m?partNumber=1&uploadId=x").body("x"), 404, "NoSuchUpload"),
        (
            "another key",
            c.put(&format!("/bucket/n?partNumber=1&uploadId={}", upload.id)).body("x"),
            404,
            "NoSuchUpload",
        ),
    ];
    for (why, call, status, code) in rows {
        call.send().await.refused(status, code, why);
    }
    let done = upload.complete().send().await.expect(200, "done");
    let again = upload.complete().send().await.expect(200, "the answer was lost");
    assert_eq!(done.field("ETag"), again.field("ETag"));
    assert!(done.field("ETag").unwrap().contains("-3"), "{}", done.text());
    world.files_become(3).await;

    let whole = [vec![b'a'; PART], vec![b'b'; PART], vec![b'c'; 100]].concat();
    let read = c.get("/bucket/m").send().await.expect(200, "read");
    assert!(read.body == whole);
    assert_eq!((read.header("x-amz-meta-a"), read.header("content-type")), ("b", "x/y"));
    let range = c.get("/bucket/m").header("range", format!("bytes={}-{}", PART - 2, 2 * PART + 1));
    let range = range.send().await.expect(206, "across three parts");
    assert!(range.body == whole[PART - 2..2 * PART + 2]);
    let part = c.get("/bucket/m?partNumber=2").send().await.expect(206, "a part");
    assert!(part.body == whole[PART..2 * PART] && part.header("x-amz-mp-parts-count") == "3");
    c.get("/bucket/m?partNumber=4").send().await.refused(416, "InvalidPartNumber", "no such part");
    let attributes = c.get("/bucket/m?attributes").header("x-amz-object-attributes", "ObjectParts,ObjectSize,ETag");
    let attributes = attributes.send().await.expect(200, "attributes");
    assert_eq!(attributes.field("ObjectSize").as_deref(), Some(whole.len().to_string().as_str()));
    c.delete("/bucket/m").send().await.expect(204, "deleted");
    world.files_become(0).await;
    upload.complete().send().await.refused(404, "NoSuchUpload", "over");
}

#[tokio::test(flavor = "multi_thread")]
async fn given_up() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let mut upload = Upload::begin(&world, "/bucket/m", &[]).await;
    upload.put(1, vec![b'a'; 100]).await;
    c.delete(&format!("/bucket/m?uploadId={}", upload.id)).send().await.expect(204, "aborted");
    for call in [upload.part(2).body("x"), upload.complete(), c.delete(&format!("/bucket/m?uploadId={}", upload.id))] {
        call.send().await.refused(404, "NoSuchUpload", "aborted");
    }
    world.files_become(0).await;
    // An upload in progress does not keep a bucket, and goes with it.
    let mut upload = Upload::begin(&world, "/bucket/m", &[]).await;
    upload.put(1, vec![b'a'; 100]).await;
    c.delete("/bucket").send().await.expect(204, "deleted");
    world.files_become(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_the_whole() {
    let world = World::with_bucket().await;
    let bodies = [vec![b'a'; PART], vec![b'b'; 10]];
    let rows: [(&[(&str, &str)], &str, &str); 4] = [
        (&[], "x-amz-checksum-crc64nvme", "FULL_OBJECT"),
        (&[("x-amz-checksum-algorithm", "CRC32C")], "x-amz-checksum-crc32c", "COMPOSITE"),
        (
            &[("x-amz-checksum-algorithm", "CRC32"), ("x-amz-checksum-type", "FULL_OBJECT")],
            "x-amz-checksum-crc32",
            "FULL_OBJECT",
        ),
        (&[("x-amz-checksum-algorithm", "SHA256")], "x-amz-checksum-sha256", "COMPOSITE"),
    ];
    for (headers, name, kind) in rows {
        let mut upload = Upload::begin(&world, "/bucket/m", headers).await;
        for (number, body) in (1..).zip(&bodies) {
            upload.put(number, body.clone()).await;
        }
        let wrong = upload.complete().header(name, if kind == "COMPOSITE" { "AAAA-2" } else { "AAAA" });
        wrong.send().await.refused(400, "BadDigest", name);
        upload.complete().send().await.expect(200, name);
        let head = world.root.head("/bucket/m").header("x-amz-checksum-mode", "ENABLED").send().await;
        assert_eq!(head.header("x-amz-checksum-type"), kind, "{name}");
        assert_eq!(head.header(name).contains("-2"), kind == "COMPOSITE", "{name}: {}", head.header(name));
        if kind == "FULL_OBJECT" {
            // The same as of the same bytes in one piece.
            let put = world.root.put("/bucket/one").body(bodies.concat());
            let algorithm = name.trim_start_matches("x-amz-checksum-").to_ascii_uppercase();
            let put = put.header("x-amz-sdk-checksum-algorithm", algorithm).send().await.expect(200, name);
            assert_eq!(put.header(name), head.header(name));
        }
    }
    let bad = [("x-amz-checksum-algorithm", "SHA1"), ("x-amz-checksum-type", "FULL_OBJECT")];
    let mut call = world.root.post("/bucket/m?uploads");
    for (header, value) in bad {
        call = call.header(header, value);
    }
    call.send().await.refused(400, "InvalidRequest", "hashes of parts do not combine");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_from_copies() {
    let world = World::with_bucket().await;
    let data: Vec<u8> = (0..2 * PART).map(|n| (n % 253) as u8).collect();
    world.root.put("/bucket/source").body(data.clone()).send().await.expect(200, "the source");
    let mut upload = Upload::begin(&world, "/bucket/m", &[]).await;
    let copy = |range: &str| {
        upload.part(1).header("x-amz-copy-source", "/bucket/source").header("x-amz-copy-source-range", range)
    };
    copy("bytes=0-99999999").send().await.refused(400, "InvalidRange", "behind the end");
    copy("bytes=5-").send().await.refused(400, "InvalidArgument", "open");
    let first = copy(&format!("bytes=100-{}", 100 + PART - 1)).send().await.expect(200, "a range");
    upload.parts.push((1, first.field("ETag").unwrap()));
    let whole = upload.part(2).header("x-amz-copy-source", "/bucket/source").send().await.expect(200, "the whole");
    upload.parts.push((2, whole.field("ETag").unwrap()));
    upload.complete().send().await.expect(200, "done");
    let read = world.root.get("/bucket/m").send().await.expect(200, "read");
    assert!(read.body == [&data[100..100 + PART], &data[..]].concat());
}
