//! The bytes of larger objects in a foreign S3: another service in this process.

use crate::harness::World;
use crate::replication::{bytes, serve};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_object_storage::backend::local::NewRemote;
use terroir_object_storage::encryption::DataKey;
use terroir_object_storage::foreign::ForeignS3;
use terroir_object_storage::outbound::Outbound;
use terroir_object_storage::target::{ForeignBucket, S3Destination};
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
    for key in keys(&far).await {
        assert!(key.starts_with("terroir/") && key.len() == 8 + 16 + 1 + 16, "{key}");
        let stored = far.root.get(&format!("/far-away/{key}")).send().await.expect(200, &key).body;
        assert!(!stored.windows(20).any(|window| window == &secret[..20]), "{key}");
    }
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
    assert_eq!(report.found, 0, "{report:?}");
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
        format!("{store}/0000000000000001"),
        "terroir/0000000000000009/0000000000000001".to_owned(),
        "other".to_owned(),
    ];
    for key in &orphans {
        far.root.put(&format!("/far-away/{key}")).body("x").send().await.expect(200, key);
    }
    far.root.post(&format!("/far-away/{store}/0000000000000002?uploads")).send().await.expect(200, "an upload");
    let endpoint = serve(&far).await;
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
    over(&far, &near, "http://127.0.0.1:1").await;
    let began = Instant::now();
    c.put("/bucket/new").body(bytes(100_000)).send().await.refused(503, "ServiceUnavailable", "a write");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    c.get("/bucket/new").send().await.refused(404, "NoSuchKey", "nothing was written");
    let read = c.get("/bucket/there").send().await;
    assert_eq!(read.status, 503, "{}", read.text());
    c.put("/bucket/small").body("x").send().await.expect(200, "small ones stay here");
    c.head("/bucket/there").send().await.expect(200, "and so does what is known of all");
    c.delete("/bucket/there").send().await.expect(204, "deleted");
    assert_eq!(keys(&far).await.len(), 1, "not yet there");
    let endpoint = serve(&far).await;
    over(&far, &near, &endpoint).await;
    keys_become(&far, 0).await;
    c.put("/bucket/new").body(bytes(100_000)).send().await.expect(200, "again");
}
