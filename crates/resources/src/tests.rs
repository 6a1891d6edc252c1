use crate::{
    MAX_TAGS, Tags, add_to_count, count, find, list, register, remove_tags, set_tags, tags, unregister, validate_tags,
};
use terroir_store::Store;
use terroir_types::{AccountId, Error, Timestamp};

fn account(number: u64) -> AccountId {
    AccountId::from_number(number).unwrap()
}

fn some_tags(list: &[(&str, &str)]) -> Tags {
    list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn limits_of_tags() {
    let many = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect::<Tags>();
    let one = |key: String, value: String| Tags::from([(key, value)]);
    for (tags, code) in [
        (Tags::new(), None),
        (many(MAX_TAGS), None),
        (many(MAX_TAGS + 1), Some("TagLimitExceeded")),
        (one("é".repeat(128), "é".repeat(256)), None),
        (one("x".repeat(129), String::new()), Some("InvalidParameterValue")),
        (one("x".into(), "x".repeat(257)), Some("InvalidParameterValue")),
        (one(String::new(), "x".into()), Some("InvalidParameterValue")),
        (one("aws:name".into(), String::new()), Some("InvalidParameterValue")),
        (one("AWS:name".into(), String::new()), Some("InvalidParameterValue")),
        (one("awsome".into(), String::new()), None),
        (one("\u{e9}\u{e9}\u{e9}".into(), String::new()), None),
    ] {
        assert_eq!(validate_tags(&tags).err().map(|error| error.code().to_owned()).as_deref(), code, "{tags:?}");
    }
}

#[tokio::test]
async fn rows_and_their_tags() {
    let store = Store::in_memory_for_tests().await;
    let (alice, bob) = (account(1), account(2));
    let run = async |f: &mut dyn FnMut(&mut terroir_store::Txn) -> Result<(), Error>| store.transact(&[], f).await;
    let first = some_tags(&[("a", "1"), ("b", "2")]);
    run(&mut |txn| register(txn, alice, "i-1", "instance", first.clone(), Timestamp::EPOCH)).await.unwrap();
    run(&mut |txn| register(txn, alice, "vol-1", "volume", Tags::new(), Timestamp::EPOCH)).await.unwrap();
    assert!(run(&mut |txn| register(txn, alice, "i-1", "instance", Tags::new(), Timestamp::EPOCH)).await.is_err());
    run(&mut |txn| set_tags(txn, alice, "i-1", &some_tags(&[("b", "3"), ("c", "4")]))).await.unwrap();
    let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    for (which, left) in [
        (vec![pair("a", Some("other")), pair("nothing", None)], vec![("a", "1"), ("b", "3"), ("c", "4")]),
        (vec![pair("a", Some("1")), pair("b", None)], vec![("c", "4")]),
        (vec![], vec![]),
    ] {
        run(&mut |txn| remove_tags(txn, alice, "i-1", &which)).await.unwrap();
        assert_eq!(tags(&store.read().await.unwrap(), alice, "i-1").unwrap(), some_tags(&left), "{which:?}");
    }
    for (whose, id) in [(bob, "i-1"), (alice, "i-2")] {
        let unknown = run(&mut |txn| set_tags(txn, whose, id, &some_tags(&[("a", "")]))).await.unwrap_err();
        assert_eq!(unknown.code(), "InvalidID");
        assert!(find(&store.read().await.unwrap(), whose, id).unwrap().is_none());
    }
    run(&mut |txn| unregister(txn, alice, "i-1")).await.unwrap();
    let rows = list(&store.read().await.unwrap(), alice).unwrap();
    assert_eq!(
        rows.iter().map(|(id, row)| (id.as_str(), row.kind.as_str())).collect::<Vec<_>>(),
        [("vol-1", "volume")]
    );
}

/// Of many at once exactly as many get through as the limit lets.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_under_concurrency() {
    let store = Store::in_memory_for_tests().await;
    let add = |delta: i64, limit: i64| {
        let store = store.clone();
        async move {
            let over = || Error::limit("TooMany", "too many");
            store.transact(&[], |txn| add_to_count(txn, account(1), "things", delta, limit, over)).await
        }
    };
    let tries: Vec<_> = (0..12).map(|_| tokio::spawn(add(1, 5))).collect();
    let mut refused = 0;
    for attempt in tries {
        if let Err(error) = attempt.await.unwrap() {
            assert_eq!(error.code(), "TooMany");
            refused += 1;
        }
    }
    assert_eq!((refused, count(&store.read().await.unwrap(), account(1), "things").unwrap()), (7, 5));
    // Less is allowed above a lowered limit; nothing stays of a count of zero; below zero is a defect.
    add(-1, 2).await.unwrap();
    assert_eq!(add(1, 2).await.unwrap_err().code(), "TooMany");
    assert_eq!(add(-4, 2).await.unwrap().0, 0);
    assert_eq!(store.read().await.unwrap().count(&terroir_store::Key::new("guard")), 0);
    assert_eq!(add(-1, 2).await.unwrap_err().code(), "InternalError");
}
