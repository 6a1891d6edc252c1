//! Listings against a model, and their shape on the wire.

use crate::harness::{World, backend_in, count};
use bytes::Bytes;
use futures::future::join_all;
use proptest::prelude::*;
use std::collections::BTreeSet;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{BucketId, Delete, List, ListEntry, ObjectBackend, Place, Put};

/// What a listing must be: every key, or rolled-up prefix, above `after`, in order.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: &str) -> Vec<(bool, String)> {
    let mut names = BTreeSet::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let rolled = (!delimiter.is_empty()).then(|| key[prefix.len()..].find(delimiter)).flatten();
        match rolled {
            Some(at) => names.insert((key[..prefix.len() + at + delimiter.len()].to_owned(), true)),
            None => names.insert((key.clone(), false)),
        };
    }
    names.into_iter().filter(|(name, _)| name.as_str() > after).map(|(name, rolled)| (rolled, name)).collect()
}

fn text(most: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![3 => Just("a"), 3 => Just("b"), 3 => Just("/"), 1 => Just("é"), 1 => Just("\u{10ffff}"), 1 => Just("-")], 0..most)
        .prop_map(|letters| letters.concat())
}

#[derive(Debug, Clone)]
struct Case {
    keys: BTreeSet<String>,
    deleted: Vec<String>,
    asked: Vec<(String, String, String, usize)>,
}

fn case() -> impl Strategy<Value = Case> {
    let key = || text(6).prop_filter("a key has letters", |key| !key.is_empty());
    let delimiter = prop_oneof![3 => Just("/".to_owned()), 2 => Just(String::new()), 1 => Just("ab".to_owned()), 1 => Just("é".to_owned())];
    let keys = proptest::collection::btree_set(key(), 0..40);
    let asked = proptest::collection::vec((text(3), delimiter, text(5), 1..8_usize), 1..8);
    (keys, proptest::collection::vec(key(), 0..4), asked).prop_map(|(keys, deleted, asked)| Case {
        keys,
        deleted,
        asked,
    })
}

async fn check(backend: &LocalBackend, bucket: BucketId, case: Case) {
    let put = |key: &String| {
        let body = futures::stream::iter([Ok(Bytes::from(key.clone()))]);
        let place = Place::new(bucket, key.as_str());
        async move { backend.put(&place, Box::pin(body), Put::plain()).await.unwrap() }
    };
    join_all(case.keys.iter().map(put)).await;
    let mut keys = case.keys;
    for key in case.deleted {
        let existed = backend.delete(&Place::new(bucket, key.as_str()), Delete::default()).await.unwrap();
        assert_eq!(existed.existed, keys.remove(&key));
    }
    for (prefix, delimiter, mut after, limit) in case.asked {
        let wanted = model(&keys, &prefix, &delimiter, &after);
        let mut got = Vec::new();
        loop {
            let list = List { prefix: prefix.clone(), delimiter: delimiter.clone(), after: after.clone(), limit };
            let page = backend.list(bucket, list).await.unwrap();
            assert!(page.entries.len() <= limit);
            assert!(!page.truncated || page.entries.len() == limit, "a page that is cut off is full");
            for entry in &page.entries {
                match entry {
                    ListEntry::Prefix(prefix) => got.push((true, prefix.clone())),
                    ListEntry::Object(object) => {
                        assert_eq!(object.size, object.key.len() as u64);
                        got.push((false, object.key.clone()));
                    }
                }
            }
            match page.entries.last() {
                Some(last) if page.truncated => after = last.name().to_owned(),
                _ => break,
            }
        }
        assert_eq!(got, wanted, "prefix {prefix:?}, delimiter {delimiter:?}, pages of {limit}");
    }
}

#[test]
fn listings_are_the_models() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = runtime.block_on(backend_in(dir.path()));
    let cases = count(100, 1000);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let mut bucket = 0;
    let bucket = std::cell::RefCell::new(&mut bucket);
    let outcome = runner.run(&case(), |case| {
        let mut number = bucket.borrow_mut();
        **number += 1;
        runtime.block_on(check(&backend, BucketId::from_random(**number), case));
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_on_the_wire() {
    let world = World::with_bucket().await;
    let c = &world.root;
    for key in ["a", "b%20%C3%A9/x", "b%20%C3%A9/y", "c/x", "d"] {
        c.put(&format!("/bucket/{key}")).body("x").send().await.expect(200, key);
    }
    let get = |query: &str| c.get(&format!("/bucket?{query}")).send();
    let page = get("list-type=2&delimiter=%2F&max-keys=2&encoding-type=url").await.expect(200, "first page");
    let text = page.text();
    assert!(text.contains("<Prefix>b%20%C3%A9/</Prefix>"), "{text}");
    assert_eq!((page.field("KeyCount").as_deref(), page.field("IsTruncated").as_deref()), (Some("2"), Some("true")));
    assert!(!text.contains("<Owner>"), "{text}");
    let token = page.field("NextContinuationToken").unwrap();
    let first = get("list-type=2&max-keys=1&continuation-token=").await;
    assert_eq!(first.expect(200, "an empty token").text().matches("<Key>").count(), 1, "is none");
    let next = get(&format!("list-type=2&delimiter=%2F&max-keys=2&fetch-owner=true&continuation-token={token}")).await;
    let text = next.expect(200, "second page").text();
    assert!(
        text.contains("<Prefix>c/</Prefix>") && text.contains("<Key>d</Key>") && text.contains("<Owner>"),
        "{text}"
    );
    assert!(text.contains("<IsTruncated>false</IsTruncated>"), "{text}");
    let first = get("delimiter=%2F&max-keys=2").await.expect(200, "version 1");
    assert_eq!(first.field("NextMarker").as_deref(), Some("b é/"));
    let text = get("delimiter=%2F&marker=b%20%C3%A9%2F").await.expect(200, "its second page").text();
    assert!(!text.contains("b é/</Prefix>") && text.contains("<Prefix>c/</Prefix>"), "{text}");
    let none = get("list-type=2&max-keys=0").await.expect(200, "nothing asked for");
    assert_eq!((none.field("KeyCount").as_deref(), none.field("IsTruncated").as_deref()), (Some("0"), Some("false")));
    for (query, code) in [
        ("list-type=2&max-keys=-1", "InvalidArgument"),
        ("list-type=2&continuation-token=nonsense", "InvalidArgument"),
        ("encoding-type=base64", "InvalidArgument"),
    ] {
        get(query).await.refused(400, code, query);
    }
}
