//! Every algorithm, in headers and in trailers, right and wrong.

use crate::harness::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use terroir_object_storage::checksum::{Algorithm, Hasher};

fn value(algorithm: Algorithm, data: &[u8]) -> String {
    let mut hasher = Hasher::new(&[algorithm]);
    hasher.update(data);
    hasher.finish().checksum(algorithm).unwrap().text
}

#[tokio::test(flavor = "multi_thread")]
async fn of_objects() {
    let world = World::with_bucket().await;
    let c = &world.root;
    // In the index, in a file, and across many chunks.
    for size in [0, 1000, 200_000] {
        let data: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let md5 = STANDARD.encode(<md5::Md5 as md5::Digest>::digest(&data));
        let put = || c.put("/bucket/k").body(data.clone());
        for algorithm in Algorithm::ALL {
            let (name, right, wrong) = (algorithm.header(), value(algorithm, &data), value(algorithm, b"other"));
            let why = format!("{algorithm:?} of {size}");
            put().header(name, &right).send().await.expect(200, &why);
            let read = c.get("/bucket/k").header("x-amz-checksum-mode", "ENABLED").send().await.expect(200, &why);
            assert_eq!((read.header(name), read.header("x-amz-checksum-type")), (right.as_str(), "FULL_OBJECT"));
            assert!(read.body == data, "{why}");
            assert_eq!(c.get("/bucket/k").send().await.header(name), "", "{why}: only if asked for");
            c.delete("/bucket/k").send().await.expect(204, &why);

            put().header(name, &wrong).send().await.refused(400, "BadDigest", &why);
            put().header(name, "AAAA").send().await.refused(400, "BadDigest", &why);
            let two = put().header(name, &right).header(Algorithm::ALL[0].header(), value(Algorithm::ALL[0], &data));
            if algorithm != Algorithm::ALL[0] {
                two.send().await.refused(400, "InvalidRequest", "two checksums");
            }
            for signed in [true, false] {
                let why = format!("{why}, trailer, signed: {signed}");
                put().send_chunked(8192, signed, Some((name, &right))).await.expect(200, &why);
                let head = c.head("/bucket/k").header("x-amz-checksum-mode", "ENABLED").send().await.expect(200, &why);
                assert_eq!(head.header(name), right, "{why}");
                assert_eq!(head.header("content-encoding"), "", "{why}: aws-chunked is not the object's encoding");
                c.delete("/bucket/k").send().await.expect(204, &why);
                put().send_chunked(8192, signed, Some((name, &wrong))).await.refused(400, "BadDigest", &why);
                let missing = put().header("x-amz-trailer", name).send_chunked(8192, signed, None).await;
                if !signed {
                    missing.refused(400, "MalformedTrailerError", &why);
                }
            }
            let gone = c.get("/bucket/k").send().await;
            // A signed body without trailers is a form of its own; its x-amz-trailer has no meaning to AWS either.
            assert!(gone.status == 404 || gone.header(name).is_empty(), "{why}");
        }
        put().header("content-md5", &md5).send().await.expect(200, "MD5");
        put().header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfh==").send().await.refused(
            400,
            "InvalidDigest",
            "not base64",
        );
        put().header("content-md5", STANDARD.encode([7; 16])).send().await.refused(400, "BadDigest", "another MD5");
        let named = put().header("x-amz-sdk-checksum-algorithm", "SHA256").send().await.expect(200, "named only");
        assert_eq!(named.header("x-amz-checksum-sha256"), value(Algorithm::Sha256, &data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_chunks_are_checked() {
    let world = World::with_bucket().await;
    let put = || world.root.put("/bucket/k").body(vec![b'a'; 100_000]);
    put().send_chunked(30_000, true, None).await.expect(200, "signed chunks");
    world.root.delete("/bucket/k").send().await.expect(204, "gone");
    // The chunks are signed with another secret than the headers.
    let mut call = put();
    call.client.secret = "other".into();
    call.send_chunked(30_000, true, None).await.refused(403, "SignatureDoesNotMatch", "headers");
    for announced in ["99999", "100001"] {
        let call = put().header("x-amz-decoded-content-length", announced);
        call.send_chunked(30_000, true, None).await.refused(400, "IncompleteBody", announced);
    }
    world.root.get("/bucket/k").send().await.refused(404, "NoSuchKey", "nothing was kept");
    world.files_become(0).await;
}
