//! Quotas of buckets and accounts.

use crate::harness::World;
use terroir_object_storage::quota::{Quota, set_for_account};
use terroir_object_storage::{ops, settings};

impl World {
    pub async fn quota(&self, bucket: Option<&str>, max_bytes: Option<u64>, max_objects: Option<u64>) {
        let quota = Quota { max_bytes, max_objects };
        let set = |txn: &mut terroir_store::Txn| match bucket {
            None => set_for_account(txn, self.account, quota),
            Some(name) => {
                let bucket = ops::find_bucket(txn, name)?.unwrap();
                settings::put(txn, &bucket, &quota)
            }
        };
        self.store.transact(&[], set).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_asked_before_every_write() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/other").send().await.expect(200, "another bucket");
    world.quota(Some("bucket"), Some(1000), Some(3)).await;
    let put = |key: &str, size: usize| c.put(&format!("/{key}")).body(vec![b'x'; size]).send();
    put("bucket/a", 600).await.expect(200, "fits");
    put("bucket/b", 401).await.refused(403, "QuotaExceeded", "too many bytes");
    put("bucket/b", 400).await.expect(200, "exactly");
    put("bucket/c", 1).await.refused(403, "QuotaExceeded", "full");
    put("bucket/c", 0).await.expect(200, "no bytes");
    put("bucket/d", 0).await.refused(403, "QuotaExceeded", "too many objects");
    c.get("/bucket/a").send().await.expect(200, "reading is not limited");
    let copy = |to: &str| c.put(&format!("/{to}")).header("x-amz-copy-source", "bucket/a").send();
    copy("bucket/d").await.refused(403, "QuotaExceeded", "copies count");
    copy("other/a").await.expect(200, "another bucket is not limited");
    let upload = c.post("/bucket/m?uploads").send().await.expect(200, "upload").field("UploadId").unwrap();
    let part = c.put(&format!("/bucket/m?partNumber=1&uploadId={upload}")).body("x");
    part.clone().send().await.refused(403, "QuotaExceeded", "parts count");
    c.delete("/bucket/a").send().await.expect(204, "making room");
    let etag = part.send().await.expect(200, "now there is room").header("etag").to_owned();
    put("bucket/a", 1).await.expect(200, "the third object");
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = || c.post(&format!("/bucket/m?uploadId={upload}")).body(document.clone()).send();
    complete().await.refused(403, "QuotaExceeded", "it would be the fourth");
    world.quota(Some("bucket"), None, None).await;
    complete().await.expect(200, "nothing is limited any more");

    world.quota(None, Some(2000), None).await;
    put("other/b", 990).await.expect(200, "all buckets together hold less than 2000");
    put("bucket/e", 100).await.refused(403, "QuotaExceeded", "over");
    world.stranger.put("/theirs").send().await.expect(200, "another account");
    world.stranger.put("/theirs/k").body(vec![b'x'; 3000]).send().await.expect(200, "is not limited");
    world.quota(None, None, None).await;
    put("bucket/e", 100).await.expect(200, "nothing is limited any more");
    // Sent in chunks, so that only the bytes say how many there are.
    world.quota(Some("bucket"), Some(1), None).await;
    let chunked = c.put("/bucket/f").body(vec![b'x'; 5000]).send_chunked(1000, true, None).await;
    chunked.refused(403, "QuotaExceeded", "the announced length counts");
}
