//! Bodies that lie, break off or do not fit leave nothing.

use crate::harness::{World, send};
use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::sync::atomic::Ordering;

type Piece = Result<Frame<Bytes>, std::io::Error>;

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_not_there() {
    let world = World::with_bucket().await;
    let upload = world.root.post("/bucket/m?uploads").send().await.field("UploadId").unwrap();
    let piece = || Ok(Frame::data(Bytes::from(vec![1; 50_000])));
    let broken = || Err(std::io::Error::other("connection reset"));
    for (target, keyless) in
        [("/bucket/k".to_owned(), false), (format!("/bucket/m?partNumber=1&uploadId={upload}"), true)]
    {
        let rows: [(&str, &str, Vec<Piece>); 4] = [
            ("too few", "150000", vec![piece(), piece()]),
            ("too many", "60000", vec![piece(), piece()]),
            ("a broken connection", "150000", vec![piece(), broken()]),
            ("nothing at all", "10", vec![]),
        ];
        for (why, length, pieces) in rows {
            let (mut request, _) = world.root.put(&target).payload("UNSIGNED-PAYLOAD").sign();
            request.headers_mut().insert("content-length", length.parse().unwrap());
            let request = request.map(|()| StreamBody::new(stream::iter(pieces)));
            send(&world.front, request).await.refused(400, "IncompleteBody", why);
        }
        let (mut request, _) = world.root.put(&target).payload("UNSIGNED-PAYLOAD").sign();
        request.headers_mut().remove("content-length");
        request.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
        let request = request.map(|()| StreamBody::new(stream::iter([piece()])));
        send(&world.front, request).await.refused(411, "MissingContentLength", "no length");
        if !keyless {
            world.root.get(&target).send().await.refused(404, "NoSuchKey", "nothing was kept");
        }
    }
    world.files_become(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing() {
    let world = World::with_bucket().await;
    let (mut request, _) = world.root.put("/bucket/k").payload("UNSIGNED-PAYLOAD").sign();
    request.headers_mut().insert("content-length", "10000000".parse().unwrap());
    let first = Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![1; 3 << 20])));
    let endless = futures::StreamExt::chain(stream::iter([first]), stream::pending());
    let front = world.front.clone();
    let request = request.map(|()| StreamBody::new(endless));
    let task = tokio::spawn(async move { front.call(request).await });
    world.files_become(1).await;
    task.abort();
    world.files_become(0).await;
    world.root.get("/bucket/k").send().await.refused(404, "NoSuchKey", "nothing was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_bytes_and_nothing_else() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let upload = c.post("/bucket/m?uploads").send().await.field("UploadId").unwrap();
    for (key, size) in [("small", 10), ("large", 100_000)] {
        c.put(&format!("/bucket/{key}")).body(vec![1; size]).send().await.expect(200, key);
    }
    world.full.0.store(true, Ordering::SeqCst);
    let refused = [
        c.put("/bucket/k").body("x"),
        c.put("/bucket/k").body(vec![1; 100_000]),
        c.put(&format!("/bucket/m?partNumber=1&uploadId={upload}")).body("x"),
        c.put("/bucket/k").header("x-amz-copy-source", "/bucket/small"),
    ];
    for call in refused {
        call.send().await.refused(507, "InsufficientStorage", "no space");
    }
    c.get("/bucket/large").send().await.expect(200, "what is there is read");
    c.put("/another").send().await.expect(200, "the state can be written");
    c.delete("/bucket/large").send().await.expect(204, "deleting makes space");
    world.files_become(0).await;
    world.full.0.store(false, Ordering::SeqCst);
    c.put("/bucket/k").body("x").send().await.expect(200, "space again");
}
