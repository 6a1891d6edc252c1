//! The bytes of larger objects in a foreign S3: another service in this process.

use crate::harness::World;
use crate::replication::{bytes, serve};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_object_storage::backend::local::NewRemote;
use terroir_object_storage::encryption::DataKey;
use terroir_object_storage::engine;
use terroir_object_storage::foreign::ForeignS3;
use terroir_object_storage::outbound::Outbound;
use terroir_object_storage::target::{self, Destination, ForeignBucket, S3Destination, TargetTenant};
use terroir_types::{Clock, Secret};
use zeroize::Zeroizing;

async fn over(far: &World, near: &World, endpoint: &str) {
    let at = S3Destination {
        endpoint: endpoint.to_owned(),
        region: "eu-test-1".to_owned(),
        access_key_id: far.root.access_key.clone(),
        secret_access_key: Secret::new(far.root.secret.clone()),
        bucket: ForeignBucket::One("far-away".to_owned()),
    };
    let clock = Arc::clone(&near.clock) as Arc<dyn Clock>;
    let remote = NewRemote {
        name: "far".to_owned(),
        foreign: ForeignS3::new(Outbound::new().unwrap(), clock, at),
        bucket: "far-away".to_owned(),
        key: DataKey::new(Zeroizing::new([7; 32])),
    };
    near.backend.add_remote(remote).await.unwrap();
    near.backend.set_current_remote(Some("far".to_owned()));
}

async fn worlds() -> (World, World) {
    let (far, near) = (World::new().await, World::with_bucket().await);
    far.root.put("/far-away").send().await.expect(200, "far");
    let endpoint = serve(&far).await;
    over(&far, &near, &endpoint).await;
    (far, near)
}

async fn keys(far: &World) -> Vec<String> {
    let listed = far.root.get("/far-away?list-type=2").send().await.expect(200, "listed").text();
    listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
}

async fn keys_become(far: &World, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let keys = keys(far).await;
        if keys.len() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{keys:?}, wanted {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_lie_there_and_all_else_here() {
    let (far, near) = worlds().await;
    let c = &near.root;
    let secret = Bytes::from("a secret that nobody there is to read ".repeat(10_000));
    let sizes = [0, 100, 32 << 10, (32 << 10) + 1, 65_536, 262_144, 1 << 20, (8 << 20) - 48, (20 << 20) + 7];
    for size in sizes {
        let body = bytes(size);
        let put = c.put(&format!("/bucket/{size}")).body(body.clone()).send().await.expect(200, "put");
        let md5 = format!("\"{}\"", hex::encode(<md5::Md5 as md5::Digest>::digest(&body)));
        assert_eq!(put.header("etag"), md5);
        let got = c.get(&format!("/bucket/{size}")).send().await.expect(200, "get");
        assert!(got.body == body, "{size}");
    }
    assert_eq!(near.files(), 0, "nothing on the disk");
    keys_become(&far, 6).await;
    let whole = bytes((20 << 20) + 7);
    for (from, to) in
        [(0, 0), (65_535, 65_536), (262_143, 262_144), (5_000_000, 15_000_000), (20 << 20, (20 << 20) + 6)]
    {
        let target = format!("/bucket/{}", (20 << 20) + 7);
        let got = c.get(&target).header("range", format!("bytes={from}-{to}")).send().await.expect(206, "range");
        assert!(got.body == whole.slice(from..=to), "{from} to {to}");
    }
    c.put("/bucket/secret").body(secret.clone()).send().await.expect(200, "secret");
    let has_secret = |bytes: &[u8]| bytes.windows(20).any(|window| window == &secret[..20]);
    for key in keys(&far).await {
        assert!(key.starts_with("terroir/") && key.len() == 8 + 16 + 1 + 16 + 1 + 16, "{key}");
        let stored = far.root.get(&format!("/far-away/{key}")).send().await.expect(200, &key).body;
        assert!(!has_secret(&stored), "{key}");
    }
    // The search finds one that is there.
    far.root.put("/far-away/planted").body(secret.slice(..100)).send().await.expect(200, "planted");
    assert!(has_secret(&far.root.get("/far-away/planted").send().await.expect(200, "planted").body));
    far.root.delete("/far-away/planted").send().await.expect(204, "planted");
    // Copies, parts, encrypted objects and deletions.
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/1048576").send().await.expect(200, "copy");
    c.delete("/bucket/1048576").send().await.expect(204, "its source");
    assert!(c.get("/bucket/copy").send().await.expect(200, "copy").body == bytes(1 << 20));
    let sealed = c.put("/bucket/sealed").header("x-amz-server-side-encryption", "AES256").body(bytes(300_000));
    sealed.send().await.expect(200, "sealed");
    assert!(c.get("/bucket/sealed").send().await.expect(200, "sealed").body == bytes(300_000));
    crate::replication::upload(c, "parts", &[bytes(9 << 20), bytes(10)]).await;
    let parts = c.get("/bucket/parts").send().await.expect(200, "parts").body;
    assert!(parts == [bytes(9 << 20), bytes(10)].concat());
    assert_eq!(near.files(), 0);
    let report = near.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.away), (0, 0), "{report:?}");
    assert!(report.bytes > 30 << 20, "{report:?}");
    let places = near.backend.stats().await.unwrap().places;
    let there = places.iter().find(|place| place.target.as_deref() == Some("far")).unwrap();
    assert_eq!(there.contents, keys(&far).await.len() as u64, "{places:?}");
    let listed = c.get("/bucket?list-type=2").send().await.expect(200, "listed").text();
    for key in listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap()) {
        c.delete(&format!("/bucket/{key}")).send().await.expect(204, key);
    }
    keys_become(&far, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_leaves_nothing() {
    let (far, near) = worlds().await;
    let c = &near.root;
    for size in [100_000, 20 << 20] {
        let put = c.put("/bucket/k").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").body(bytes(size));
        put.send().await.refused(400, "BadDigest", "another digest");
    }
    keys_become(&far, 0).await;
    let uploads = far.root.get("/far-away?uploads").send().await.expect(200, "uploads").text();
    assert!(!uploads.contains("<Upload>"), "{uploads}");
    // What an earlier start has left is removed by the next one, and what is somebody else's is not.
    c.put("/bucket/kept").body(bytes(100_000)).send().await.expect(200, "kept");
    let [kept] = keys(&far).await.try_into().unwrap();
    let (store, _) = kept.rsplit_once('/').unwrap();
    let orphans = [
        format!("{store}/0000000000000001-0000000000000001"),
        "terroir/0000000000000009/0000000000000001-0000000000000001".to_owned(),
        "other".to_owned(),
    ];
    for key in &orphans {
        far.root.put(&format!("/far-away/{key}")).body("x").send().await.expect(200, key);
    }
    far.root
        .post(&format!("/far-away/{store}/0000000000000002-0000000000000001?uploads"))
        .send()
        .await
        .expect(200, "an upload");
    let endpoint = serve(&far).await;
    let report = near.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!(report.found, 1, "{report:?}");
    over(&far, &near, &endpoint).await;
    keys_become(&far, 3).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while far.root.get("/far-away?uploads").send().await.text().contains("<Upload>") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(keys(&far).await.contains(&kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away() {
    let (far, near) = worlds().await;
    let c = &near.root;
    c.put("/bucket/there").body(bytes(100_000)).send().await.expect(200, "there");
    assert_eq!(near.backend.scrub_once(0).await.unwrap().damaged, 0);
    over(&far, &near, "http://127.0.0.1:1").await;
    let began = Instant::now();
    c.put("/bucket/new").body(bytes(100_000)).send().await.refused(503, "ServiceUnavailable", "a write");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    c.get("/bucket/new").send().await.refused(404, "NoSuchKey", "nothing was written");
    let read = c.get("/bucket/there").send().await;
    assert_eq!(read.status, 503, "{}", read.text());
    c.put("/bucket/small").body("x").send().await.expect(200, "small ones stay here");
    c.head("/bucket/there").send().await.expect(200, "and so does what is known of all");
    near.backend.scrub_once(0).await.unwrap();
    let report = near.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.away, near.backend.damaged().await.unwrap()), (0, 1, 0), "away is no damage");
    c.delete("/bucket/there").send().await.expect(204, "deleted");
    assert_eq!(keys(&far).await.len(), 1, "not yet there");
    let endpoint = serve(&far).await;
    over(&far, &near, &endpoint).await;
    keys_become(&far, 0).await;
    c.put("/bucket/new").body(bytes(100_000)).send().await.expect(200, "again");
}

/// Answers every request with this.
async fn says(answer: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (Vec::new(), [0; 65_536]);
                let length = |head: &str| -> Option<usize> {
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|n| n.parse().ok())
                };
                loop {
                    let read = socket.read(&mut buffer).await.unwrap_or(0);
                    seen.extend_from_slice(&buffer[..read]);
                    let head = String::from_utf8_lossy(&seen).to_ascii_lowercase();
                    let end = head.find("\r\n\r\n").map(|end| end + 4);
                    if read == 0 || end.is_some_and(|end| seen.len() >= end + length(&head).unwrap_or(0)) {
                        break;
                    }
                }
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_badly() {
    let (far, near) = worlds().await;
    let c = &near.root;
    c.put("/bucket/there").body(bytes(100_000)).send().await.expect(200, "there");
    let rows = [
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 32\r\n\r\n<Error><Code>Denied</Code></Error",
            (500, "InternalError"),
        ),
        ("HTTP/1.1 503 Slow Down\r\ncontent-length: 28\r\n\r\n<Code>SlowDown</Code>       ", (503, "SlowDown")),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", (503, "ServiceUnavailable")),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 25\r\n\r\n<Code>NoSuchBucket</Code> ", (500, "InternalError")),
        ("no HTTP at all", (503, "ServiceUnavailable")),
    ];
    for (answer, (status, code)) in rows {
        over(&far, &near, &says(answer).await).await;
        for size in [100_000, 9 << 20] {
            c.put("/bucket/new").body(bytes(size)).send().await.refused(status, code, answer);
        }
        c.get("/bucket/new").send().await.refused(404, "NoSuchKey", "nothing was written");
        c.get("/bucket/there").send().await.refused(status, code, answer);
    }
    // Bytes that are not those that were sent are not given out.
    let wrong: &str = "HTTP/1.1 206 Partial Content\r\ncontent-length: 5\r\n\r\nwrong";
    over(&far, &near, &says(wrong).await).await;
    c.get("/bucket/there").send().await.refused(500, "InternalError", "wrong bytes");
    over(&far, &near, &serve(&far).await).await;
    assert!(c.get("/bucket/there").send().await.expect(200, "nothing was lost").body == bytes(100_000));
    let [key] = keys(&far).await.try_into().unwrap();
    let stored = far.root.get(&format!("/far-away/{key}")).send().await.expect(200, &key).body;
    let mut spoilt = stored.to_vec();
    spoilt[50_000] ^= 1;
    far.root.put(&format!("/far-away/{key}")).body(spoilt).send().await.expect(200, "spoilt");
    c.get("/bucket/there").send().await.refused(500, "InternalError", "a flipped bit");
    let report = near.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, report.findings[0].of.as_ref().unwrap().key.as_str()), (1, "there"), "{report:?}");
    far.root.delete(&format!("/far-away/{key}")).send().await.expect(204, "gone");
    assert_eq!(near.backend.scrub_once(0).await.unwrap().damaged, 1);
    far.root.put(&format!("/far-away/{key}")).body(stored).send().await.expect(200, "back");
    let report = near.backend.verify(false, |_| {}).await.unwrap();
    assert_eq!((report.found, near.backend.damaged().await.unwrap()), (0, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_place_and_the_other() {
    let (far, near) = worlds().await;
    let c = &near.root;
    c.put("/bucket/there").body(bytes(100_000)).send().await.expect(200, "there");
    let upload = c.post("/bucket/parts?uploads").send().await.expect(200, "upload").field("UploadId").unwrap();
    let part =
        |number: u16, body: Bytes| c.put(&format!("/bucket/parts?partNumber={number}&uploadId={upload}")).body(body);
    let first = part(1, bytes(5 << 20)).send().await.expect(200, "a part there").header("etag").to_owned();
    near.backend.set_current_remote(None);
    let second = part(2, bytes(100)).send().await.expect(200, "a part here").header("etag").to_owned();
    let parts = [(1, first), (2, second)]
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .concat();
    let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    c.post(&format!("/bucket/parts?uploadId={upload}")).body(document).send().await.expect(200, "completed");
    c.put("/bucket/here").body(bytes(100_001)).send().await.expect(200, "here");
    assert_eq!((near.files(), keys(&far).await.len()), (2, 2));
    c.put("/bucket/copy").header("x-amz-copy-source", "/bucket/parts").send().await.expect(200, "copy");
    c.delete("/bucket/parts").send().await.expect(204, "its source");
    near.backend.set_current_remote(Some("far".to_owned()));
    let wanted = [bytes(5 << 20), bytes(100)].concat();
    for (key, body) in [("there", bytes(100_000)), ("here", bytes(100_001)), ("copy", wanted.into())] {
        assert!(c.get(&format!("/bucket/{key}")).send().await.expect(200, key).body == body, "{key}");
    }
    // A full disk here is no matter for what goes there.
    near.full.0.store(true, std::sync::atomic::Ordering::SeqCst);
    c.put("/bucket/large").body(bytes(1 << 20)).send().await;
    near.full.0.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(near.backend.verify(false, |_| {}).await.unwrap().found, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_has_stated_it_is_accounts_with_a_policy_are_refused() {
    let (_far, near) = worlds().await;
    let txn = |txn: &mut terroir_store::Txn| {
        let place = Destination::S3(S3Destination {
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "eu-test-1".to_owned(),
            access_key_id: "AKIA".to_owned(),
            secret_access_key: Secret::new("secret".to_owned()),
            bucket: ForeignBucket::One("far-away".to_owned()),
        });
        let tenant = TargetTenant { name: "far".to_owned(), accounts: None, max_queued: 10, place };
        target::add(txn, tenant, terroir_types::Timestamp::EPOCH)?;
        let unknown = engine::set(txn, Some("far"), Some("nowhere"), &terroir_types::OsRandom).unwrap_err();
        assert_eq!(unknown.code(), "InvalidParameterValue");
        engine::set(txn, Some("far"), None, &terroir_types::OsRandom)
    };
    near.store.transact(&[], txn).await.unwrap();
    let check = async |account| engine::check(&near.store.read().await.unwrap(), account);
    check(near.account).await.unwrap();
    crate::replication::forbid(&near, near.account).await;
    let refused = check(near.account).await.unwrap_err();
    assert_eq!(refused.code(), "AccessDenied");
    let text = refused.to_string();
    assert!(text.contains("far; nobody has stated where that is") && text.contains("country of the site"), "{text}");
    let txn = near.store.read().await.unwrap();
    assert!(engine::forbidden(&txn, near.account).unwrap().contains("far"));
    assert!(engine::forbidden(&txn, near.strange_account).unwrap().is_empty());
    near.root.put("/bucket/k").body("x").send().await.refused(403, "AccessDenied", "a write");
}
