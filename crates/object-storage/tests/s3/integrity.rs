//! What the disk has spoilt is noticed and never given out; verification, repair and the scrubber.

use crate::harness::{Call, World};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use terroir_object_storage::backend::local::{FindingKind, LocalBackend, Report};
use terroir_object_storage::backend::{BucketId, Delete, NewCopy, NewPart, ObjectBackend, Place, Put, Source};

impl World {
    fn index(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("objects/index.sqlite")).unwrap()
    }

    /// The numbers of the contents of a key, the parts' if it has any, in order.
    fn contents(&self, key: &str) -> Vec<i64> {
        let index = self.index();
        let of = "SELECT content FROM object WHERE key = CAST(?1 AS BLOB)";
        let id: i64 = index.query_row(of, [key], |row| row.get(0)).unwrap();
        let kind: i64 = index.query_row("SELECT kind FROM content WHERE id = ?1", [id], |row| row.get(0)).unwrap();
        if kind < 2 {
            return vec![id];
        }
        // Written one after the other before the list.
        let mut query = index.prepare("SELECT id FROM content WHERE id < ?1 AND kind = 1 ORDER BY id DESC").unwrap();
        let ids = query.query_map([id], |row| row.get(0)).unwrap();
        let mut ids: Vec<i64> = ids.map(Result::unwrap).take(2).collect();
        ids.reverse();
        ids
    }

    fn file(&self, content: i64) -> PathBuf {
        self.dir.path().join(format!("objects/files/{:02x}/{content:016x}", content % 256))
    }

    fn flip(&self, content: i64, at: u64) {
        let path = self.file(content);
        if path.exists() {
            let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            return;
        }
        let index = self.index();
        let mut data: Vec<u8> =
            index.query_row("SELECT data FROM content WHERE id = ?1", [content], |row| row.get(0)).unwrap();
        data[usize::try_from(at).unwrap()] ^= 1;
        index.execute("UPDATE content SET data = ?2 WHERE id = ?1", rusqlite::params![content, data]).unwrap();
    }

    async fn verify(&self, repair: bool) -> Report {
        self.backend.verify(repair, |_| {}).await.unwrap()
    }
}

/// What came until the answer ended or broke off, and whether it did.
async fn read(call: Call) -> (u16, Bytes, bool) {
    let (request, _) = call.sign();
    let response = call.client.front.call(request.map(|()| Full::<Bytes>::default())).await;
    let status = response.status().as_u16();
    let (mut body, mut got, mut whole) = (response.into_body(), Vec::new(), true);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => got.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    (status, got.into(), whole)
}

fn bytes(size: usize) -> Bytes {
    (0..size).map(|n| u8::try_from(n * 31 % 253).unwrap()).collect()
}

const BLOCK: usize = 256 << 10;

async fn upload(world: &World, key: &str, parts: &[Bytes]) {
    let c = &world.root;
    let upload = c.post(&format!("/bucket/{key}?uploads")).send().await.expect(200, key).field("UploadId").unwrap();
    let mut document = String::new();
    for (number, part) in (1..).zip(parts) {
        let target = format!("/bucket/{key}?partNumber={number}&uploadId={upload}");
        let answer = c.put(&target).body(part.clone()).send().await.expect(200, key);
        let etag = answer.header("etag");
        document += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let document = format!("<CompleteMultipartUpload>{document}</CompleteMultipartUpload>");
    c.post(&format!("/bucket/{key}?uploadId={upload}")).body(document).send().await.expect(200, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_told_and_nothing_else_is_lost() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let (small, large) = (bytes(100), bytes(4 * BLOCK + 5));
    for key in ["small", "sound"] {
        c.put(&format!("/bucket/{key}")).body(small.clone()).send().await.expect(200, key);
    }
    c.put("/bucket/large").body(large.clone()).send().await.expect(200, "large");
    let parts = [bytes(5 << 20), bytes(70_000)];
    upload(&world, "parts", &parts).await;
    assert_eq!(world.backend.scrub_once(0).await.unwrap().damaged, 0);
    assert_eq!(world.verify(false).await.found, 0);

    // In the third block: what comes before it is given out, the rest is not.
    let content = world.contents("large")[0];
    let at = 2 * BLOCK + 77;
    world.flip(content, at as u64);
    let (status, got, whole) = read(c.get("/bucket/large")).await;
    assert_eq!((status, whole), (200, false), "broken off");
    assert!(got.len() <= 2 * BLOCK && large.starts_with(&got), "{} bytes", got.len());
    let range = |from: usize, to: usize| c.get("/bucket/large").header("range", format!("bytes={from}-{to}"));
    for (from, to, good) in [
        (0, 10, true),
        (BLOCK - 3, BLOCK + 3, true),
        (3 * BLOCK, 4 * BLOCK + 4, true),
        (at, at, false),
        (at + 1, at + 1, false),
        (2 * BLOCK - 1, 2 * BLOCK, false),
        (3 * BLOCK - 1, 3 * BLOCK, false),
    ] {
        let (status, got, whole) = read(range(from, to)).await;
        match good {
            true => assert_eq!((status, got, whole), (206, large.slice(from..=to), true), "{from} to {to}"),
            false => assert_eq!(status, 500, "{from} to {to}"),
        }
    }
    c.head("/bucket/large").send().await.expect(200, "the head is not damaged");
    let copy = c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/large");
    copy.header("x-amz-checksum-algorithm", "SHA256").send().await.refused(500, "InternalError", "a copy that reads");
    c.get("/bucket/copy").send().await.refused(404, "NoSuchKey", "it was not made");

    world.flip(world.contents("small")[0], 5);
    c.get("/bucket/small").send().await.refused(500, "InternalError", "in the index");
    c.head("/bucket/small").send().await.expect(200, "the head is not damaged");
    let second = world.contents("parts")[1];
    std::fs::File::options().write(true).open(world.file(second)).unwrap().set_len(69_999).unwrap();
    let (status, got, whole) = read(c.get("/bucket/parts")).await;
    assert!(status == 200 && !whole && got == parts[0], "the second part is shorter than it was");
    c.get("/bucket/parts?partNumber=2").send().await.refused(500, "InternalError", "the second part");
    assert_eq!(c.get("/bucket/sound").send().await.body, small);

    assert_eq!(world.backend.scrub_once(0).await.unwrap().damaged, 3);
    assert_eq!(world.backend.stats().await.unwrap().damaged, 3);
    let report = world.verify(true).await;
    let mut named: Vec<_> =
        report.findings.iter().map(|finding| (finding.kind, finding.of.clone().unwrap().key)).collect();
    named.sort_by(|a, b| a.1.cmp(&b.1));
    let damaged = |key: &str| (FindingKind::Damaged, key.to_owned());
    assert_eq!(named, [damaged("large"), damaged("parts"), damaged("small")]);
    assert_eq!((report.found, report.repaired), (3, 0), "what is lost is lost");
    std::fs::remove_file(world.file(second)).unwrap();
    let report = world.verify(false).await;
    assert!(report.findings.iter().any(|finding| finding.detail.contains("is gone")), "{report:?}");

    // What reads well again, or is deleted, is known to be damaged no longer.
    world.flip(content, at as u64);
    assert_eq!(c.get("/bucket/large").send().await.expect(200, "whole again").body, large);
    for key in ["small", "parts"] {
        c.delete(&format!("/bucket/{key}")).send().await.expect(204, key);
    }
    world.files_become(1).await;
    // The rows of removed files go a little later than the files.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let pass = world.backend.scrub_once(0).await.unwrap();
        assert_eq!(pass.damaged, 0);
        if pass.contents == 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{pass:?}");
    }
    assert_eq!(world.backend.stats().await.unwrap().damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrubber_that_was_cut_off_goes_on() {
    let world = World::with_bucket().await;
    let (bucket, body) = (BucketId::from_random(9), |bytes| Box::pin(futures::stream::iter([Ok(bytes)])));
    let write = |n: usize, size: usize| {
        let backend = world.backend.clone();
        async move {
            backend.put(&Place::new(bucket, format!("{n:04}")), body(bytes(size)), Put::plain()).await.unwrap();
        }
    };
    // It writes down how far it is after 1024 of them.
    futures::future::join_all((0..1024).map(|n| write(n, 1))).await;
    write(1024, 1 << 20).await;
    // The last one alone takes ten seconds at this rate.
    let backend = world.backend.clone();
    let first = tokio::spawn(async move { backend.scrub_once(100 << 10).await });
    let index = world.index();
    let noted = || -> i64 {
        let sql = "SELECT ifnull((SELECT value FROM meta WHERE name = 'scrub_at'), -1)";
        index.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    while noted() < 0 {
        assert!(!first.is_finished(), "it was to be slow");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(world.backend.scrub_once(0).await.unwrap().contents, 1);
    assert_eq!(world.backend.scrub_once(0).await.unwrap().contents, 1025, "then it begins anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_the_rest_is_mended() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    c.put("/bucket?versioning").body(enabled).send().await.expect(200, "versioning");
    for (key, size) in [("a", 10), ("a", 20), ("b", 100_000)] {
        c.put(&format!("/bucket/{key}")).body(bytes(size)).send().await.expect(200, key);
    }
    assert_eq!(world.verify(false).await.found, 0);
    let index = world.index();
    let orphan = world.file(7);
    std::fs::write(&orphan, "nobody's").unwrap();
    let nameless = 1_i64 << 40 | 0x00ff_ffff;
    std::fs::write(world.file(nameless), "nobody's").unwrap();
    index
        .execute_batch(&format!(
            "INSERT INTO content (id, kind, data) VALUES (5, 0, x'00');
             INSERT INTO content (id, kind) VALUES ({nameless}, 1);
             UPDATE usage SET bytes = bytes + 1;
             INSERT INTO version SELECT bucket, key, seq + 1, is_null, content, size, modified, etag, checksum, parts,
                 upload, meta, lock FROM object WHERE key = CAST('b' AS BLOB);
             DELETE FROM object WHERE key = CAST('b' AS BLOB);"
        ))
        .unwrap();
    let kinds = |report: &Report| {
        let mut kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind.name()).collect();
        kinds.sort_unstable();
        kinds
    };
    let wanted = ["order", "orphan file", "unreferenced", "unreferenced", "usage"];
    let report = world.verify(false).await;
    assert_eq!((kinds(&report), report.repaired), (wanted.to_vec(), 0), "{report:?}");
    let is_listed = |text: String| text.contains("<Key>b</Key>");
    assert!(!is_listed(c.get("/bucket").send().await.text()), "nothing was changed");
    let report = world.verify(true).await;
    assert_eq!((kinds(&report), report.found), (wanted.to_vec(), report.repaired), "{report:?}");
    assert_eq!(world.verify(true).await.found, 0);
    assert!(is_listed(c.get("/bucket").send().await.text()), "shown again");
    assert_eq!(c.get("/bucket/b").send().await.expect(200, "whole").body, bytes(100_000));
    assert!(!orphan.exists());
    world.files_become(1).await;

    // A list that nothing names goes only if nothing else lists what it lists.
    upload(&world, "parts", &[bytes(70_000)]).await;
    let list = "SELECT content FROM object WHERE key = CAST('parts' AS BLOB)";
    let copy = format!("INSERT INTO content (id, kind, data) SELECT 6, kind, data FROM content WHERE id = ({list})");
    assert_eq!(index.execute(&copy, []).unwrap(), 1);
    let report = world.verify(true).await;
    assert_eq!((kinds(&report), report.repaired), (vec!["shared", "unreferenced"], 0), "{report:?}");
    assert_eq!(c.get("/bucket/parts").send().await.expect(200, "whole").body, bytes(70_000));
    index.execute("DELETE FROM content WHERE id = 6", []).unwrap();
    // One that cannot be read is named, and takes nothing with it but itself.
    index.execute(&format!("UPDATE content SET data = x'c1' WHERE id = ({list})"), []).unwrap();
    let report = world.verify(true).await;
    assert_eq!((kinds(&report), report.repaired), (vec!["damaged", "unreferenced"], 0), "{report:?}");
    c.get("/bucket/parts").send().await.refused(500, "InternalError", "its list cannot be read");
    let version = c.get("/bucket?versions&prefix=parts").send().await.field("VersionId").unwrap();
    c.delete(&format!("/bucket/parts?versionId={version}")).send().await.expect(204, "it may go");
    let report = world.verify(true).await;
    assert_eq!((kinds(&report), report.repaired), (vec!["unreferenced"], 1), "{report:?}");

    // A version whose bytes are not in the index stays, and is named.
    let content = world.contents("a")[0];
    index.execute("DELETE FROM content WHERE id = ?1", [content]).unwrap();
    let report = world.verify(true).await;
    assert_eq!((kinds(&report), report.repaired), (vec!["lost"], 0), "{report:?}");
    c.get("/bucket/a").send().await.refused(500, "InternalError", "lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_objects_with_parts_survive_a_restart() {
    let World { dir, clock, full, backend, front, .. } = World::new().await;
    let bucket = BucketId::from_random(9);
    let place = |key: &str| Place::new(bucket, key);
    let new = terroir_object_storage::backend::NewUpload {
        meta: Default::default(),
        algorithm: None,
        coverage: terroir_object_storage::checksum::Coverage::FullObject,
        initiator: String::new(),
        lock: Default::default(),
    };
    let upload = backend.create_upload(&place("from"), new).await.unwrap();
    let body = || Box::pin(futures::stream::iter([Ok(bytes(300_000))]));
    let new = NewPart { number: 1, algorithms: Vec::new(), verify: Box::new(|_| Ok(None)), sealing: None };
    let part = backend.put_part(&place("from"), &upload.id, body(), new).await.unwrap();
    let claimed = terroir_object_storage::backend::ClaimedPart { number: 1, etag: part.etag, checksum: None };
    let complete = terroir_object_storage::backend::CompleteUpload { parts: vec![claimed], ..Default::default() };
    let head = backend.complete_upload(&place("from"), &upload.id, complete).await.unwrap();
    let source = Source { place: place("from"), version: head.version, etag: head.etag };
    backend.copy(&source, &place("to"), NewCopy::default()).await.unwrap();
    backend.put(&place("other"), body(), Put::plain()).await.unwrap();
    backend.delete(&place("from"), Delete::default()).await.unwrap();
    drop((backend, front));
    let root = dir.path().join("objects");
    let ids = std::sync::Arc::new(terroir_types::OsRandom);
    let backend = LocalBackend::open(&root, clock, ids, full).await.unwrap();
    backend.sweep().await.unwrap();
    for key in ["to", "other"] {
        let object = backend.open(&place(key), None).await.unwrap().found().unwrap();
        let read: Vec<Bytes> = futures::TryStreamExt::try_collect(object.stream_all()).await.unwrap();
        assert!(read.concat() == bytes(300_000), "{key}");
    }
    assert_eq!(backend.verify(false, |_| {}).await.unwrap().found, 0);
}
