//! What every engine owes, as checks over an engine factory. Semantics are etcd's: see `terroir_store::engine`.
//!
//! Every check gets an engine of its own without keys. Revisions are only compared with each other.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_store::engine::{
    Commit, Compare, Engine, EventKind, MAX_BYTES, MAX_OPERATIONS, Op, Outcome, Revision, WatchSource,
};
use terroir_store::{Key, KeyRange, StoreError, WatchEvent};

pub const DEADLINE: Duration = Duration::from_secs(20);
/// A lease that ends while one is watching.
const SHORT_LEASE: Duration = Duration::from_secs(1);
/// One that a busy machine manages to keep alive.
const LEASE: Duration = Duration::from_secs(3);

/// Runs every check on an engine of its own.
pub async fn run<F: Future<Output = Arc<dyn Engine>>>(factory: impl Fn() -> F) {
    macro_rules! checks {
        ($($check:ident),* $(,)?) => {$(
            let engine = factory().await;
            eprintln!("  {}", stringify!($check));
            $check(&*engine).await;
            engine.close().await;
        )*};
    }
    checks!(
        revisions_count_transactions,
        comparisons_decide,
        ranges_are_ordered_and_paged,
        the_past_can_be_read_until_compacted,
        a_watch_delivers_everything_once,
        a_slow_watch_loses_nothing,
        a_watch_that_starts_amid_commits_sees_each_once,
        a_watch_from_before_the_compaction_fails,
        leases_take_their_keys_along,
        the_outbox_keeps_commit_order,
        concurrent_increments_all_count,
        limits_hold,
    );
    let engine = factory().await;
    a_closed_engine_says_so(engine).await;
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: Key::new(key), value: Bytes::copy_from_slice(value.as_bytes()), lease: None }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: Key::new(key) }
}

pub async fn write(engine: &dyn Engine, ops: Vec<Op>) -> Revision {
    match engine.commit(Commit { compares: Vec::new(), ops }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("a commit without comparisons conflicts"),
    }
}

async fn value(engine: &dyn Engine, key: &str, at: Option<Revision>) -> Option<String> {
    let found = engine.get(&[Key::new(key)], at).await.unwrap().remove(0)?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

async fn keys(engine: &dyn Engine, prefix: &str, at: Option<Revision>) -> Vec<String> {
    let page = engine.range(&KeyRange::children(&Key::new(prefix)), 1000, at).await.unwrap();
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

/// The next `count` events, however they are batched.
pub async fn events(watch: &mut dyn WatchSource, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("an event arrives").unwrap();
        assert!(batch.events.iter().all(|event| event.mod_revision == batch.revision));
        events.extend(batch.events);
    }
    events
}

async fn revisions_count_transactions(engine: &dyn Engine) {
    let start = engine.current_revision().await.unwrap();
    let first = write(engine, vec![put("a/1", "x"), put("a/2", "y")]).await;
    assert_eq!(first, start + 1, "one transaction, one revision");
    let second = write(engine, vec![put("a/1", "z")]).await;
    assert_eq!(second, first + 1);
    let found = engine.get(&[Key::new("a/1"), Key::new("a/3"), Key::new("a/2")], None).await.unwrap();
    let one = found[0].as_ref().unwrap();
    assert_eq!((one.create_revision, one.mod_revision, &one.value[..]), (first, second, &b"z"[..]));
    assert!(found[1].is_none());
    assert_eq!(found[2].as_ref().unwrap().mod_revision, first);

    // What changes nothing has no revision.
    assert_eq!(write(engine, vec![delete("a/3")]).await, second);
    assert_eq!(engine.current_revision().await.unwrap(), second);

    let third = write(engine, vec![Op::Touch { key: Key::new("a/2") }, delete("a/1")]).await;
    let found = engine.get(&[Key::new("a/1"), Key::new("a/2")], None).await.unwrap();
    assert!(found[0].is_none());
    let two = found[1].as_ref().unwrap();
    assert_eq!((two.create_revision, two.mod_revision, &two.value[..]), (first, third, &b"y"[..]));

    let fourth = write(engine, vec![put("a/1", "again")]).await;
    assert_eq!(engine.get(&[Key::new("a/1")], None).await.unwrap()[0].as_ref().unwrap().create_revision, fourth);

    let absent = Commit { compares: Vec::new(), ops: vec![put("a/9", "x"), Op::Touch { key: Key::new("a/8") }] };
    assert!(matches!(engine.commit(absent).await, Err(StoreError::Absent(key)) if key.as_str() == "a/8"));
    assert_eq!(value(engine, "a/9", None).await, None, "a refused transaction writes nothing");
}

async fn comparisons_decide(engine: &dyn Engine) {
    let first = write(engine, vec![put("a/1", "x"), put("a/2", "x"), put("a/4/5", "x")]).await;
    let second = write(engine, vec![put("a/2", "y"), delete("a/4/5")]).await;
    let third = write(engine, vec![put("b/1", "x")]).await;
    let unchanged = |key: &str, mod_revision| Compare::Unchanged { key: Key::new(key), mod_revision };
    let range = |prefix: &str, since| Compare::RangeUnchanged { range: KeyRange::children(&Key::new(prefix)), since };
    let all = |since| Compare::RangeUnchanged { range: KeyRange::all(), since };
    let a = KeyRange::children(&Key::new("a"));
    let up_to_1 = Compare::RangeUnchanged { range: a.through(&Key::new("a/1")), since: first };
    let behind_2 = Compare::RangeUnchanged { range: a.after(&Key::new("a/2")), since: first };
    for (compares, holds) in [
        (vec![unchanged("a/1", first)], true),
        (vec![unchanged("a/1", second)], false),
        (vec![unchanged("a/1", 0)], false),
        (vec![unchanged("a/3", 0)], true),
        (vec![unchanged("a/3", first)], false),
        (vec![unchanged("a/4/5", 0)], true),
        (vec![unchanged("a/4/5", first)], false),
        (vec![range("a", second)], true),
        (vec![range("a", first)], false),
        // Deletions inside a range are not seen.
        (vec![range("a/4", first)], true),
        (vec![range("none", 0)], true),
        (vec![range("b", second)], false),
        (vec![all(third)], true),
        (vec![all(second)], false),
        (vec![up_to_1], true),
        (vec![behind_2], true),
        (vec![unchanged("a/1", first), range("a", second)], true),
        (vec![unchanged("a/1", first), range("a", first)], false),
        (vec![range("a", second), unchanged("a/1", 0)], false),
    ] {
        let what = format!("{compares:?}");
        // Reads only: neither answer changes anything.
        let outcome = engine.commit(Commit { compares, ops: Vec::new() }).await.unwrap();
        assert_eq!(outcome, if holds { Outcome::Committed(third) } else { Outcome::Conflict }, "{what}");
    }
    let conflict = Commit { compares: vec![unchanged("a/1", 0)], ops: vec![put("a/1", "lost"), put("c/1", "lost")] };
    assert_eq!(engine.commit(conflict).await.unwrap(), Outcome::Conflict);
    assert_eq!(engine.current_revision().await.unwrap(), third);
    assert_eq!(value(engine, "c/1", None).await, None);
}

async fn ranges_are_ordered_and_paged(engine: &dyn Engine) {
    let names = ["a", "a/", "a/!", "a/b", "a/b/c", "a/b0", "a/é", "a/z", "a0", "b/a"];
    write(engine, names.iter().map(|name| put(name, name)).collect()).await;
    let inside = ["a/", "a/!", "a/b", "a/b/c", "a/b0", "a/z", "a/é"];
    assert_eq!(keys(engine, "a", None).await, inside);
    let (mut range, mut paged) = (KeyRange::children(&Key::new("a")), Vec::new());
    loop {
        let page = engine.range(&range, 2, None).await.unwrap();
        assert!(page.entries.len() <= 2);
        paged.extend(page.entries.iter().map(|entry| entry.key.to_string()));
        if !page.more {
            break;
        }
        range = range.after(&page.entries.last().unwrap().key);
    }
    assert_eq!(paged, inside);
    let all = engine.range(&KeyRange::all(), 1000, None).await.unwrap();
    assert_eq!(all.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), {
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        sorted
    });
    let exact = engine.range(&KeyRange::children(&Key::new("a")), inside.len(), None).await.unwrap();
    assert!(!exact.more, "nothing comes behind the last one");
}

async fn the_past_can_be_read_until_compacted(engine: &dyn Engine) {
    let first = write(engine, vec![put("a/1", "1"), put("a/2", "1")]).await;
    let second = write(engine, vec![put("a/1", "2"), delete("a/2"), put("a/3", "2")]).await;
    let third = write(engine, vec![delete("a/1"), put("a/2", "3")]).await;
    let expect = [
        (first, vec!["a/1", "a/2"], Some("1")),
        (second, vec!["a/1", "a/3"], Some("2")),
        (third, vec!["a/2", "a/3"], None),
    ];
    for (at, present, one) in &expect {
        assert_eq!(&keys(engine, "a", Some(*at)).await, present, "at {at}");
        assert_eq!(value(engine, "a/1", Some(*at)).await.as_deref(), *one, "at {at}");
    }
    let page = engine.range(&KeyRange::children(&Key::new("a")), 1, Some(first)).await.unwrap();
    assert_eq!((page.revision, page.more, page.entries.len()), (first, true, 1));

    let future = engine.get(&[Key::new("a/1")], Some(third + 1)).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
    assert!(matches!(engine.compact(third + 1).await, Err(StoreError::FutureRevision { .. })));

    engine.compact(second).await.unwrap();
    engine.compact(first).await.expect("what is compacted already is no error");
    for (at, present, _) in &expect[1..] {
        assert_eq!(&keys(engine, "a", Some(*at)).await, present, "at {at} after the compaction");
    }
    let before = engine.range(&KeyRange::all(), 10, Some(first)).await;
    assert!(matches!(before, Err(StoreError::Compacted { compacted }) if compacted == second), "{before:?}");
    assert!(matches!(engine.get(&[Key::new("a/1")], Some(first)).await, Err(StoreError::Compacted { .. })));
    let stale = Compare::RangeUnchanged { range: KeyRange::children(&Key::new("a")), since: first };
    engine.compact(third).await.unwrap();
    // Last written before what is left of the change log.
    let forgotten = KeyRange::children(&Key::new("a")).after(&Key::new("a/2"));
    let forgotten = Compare::RangeUnchanged { range: forgotten, since: first };
    for compare in [stale, forgotten] {
        let outcome = engine.commit(Commit { compares: vec![compare], ops: Vec::new() }).await.unwrap();
        assert_eq!(outcome, Outcome::Conflict, "comparisons reach back behind the compaction");
    }
}

async fn a_watch_delivers_everything_once(engine: &dyn Engine) {
    let first = write(engine, vec![put("a/1", "1"), put("b/1", "1"), put("a/2", "1")]).await;
    let second = write(engine, vec![put("a/1", "2"), delete("a/2")]).await;
    let range = KeyRange::children(&Key::new("a"));
    let mut past = engine.watch(&range, first).await.unwrap();
    let mut everything = engine.watch(&KeyRange::all(), first).await.unwrap();
    let mut present = engine.watch(&range, second + 1).await.unwrap();
    let mut future = engine.watch(&range, second + 2).await.unwrap();
    write(engine, vec![put("b/1", "3")]).await;
    let fourth = write(engine, vec![put("a/1", "4"), put("a/2", "4")]).await;

    let row = |key: &str, kind, mod_revision, create_revision, value: &str| WatchEvent {
        key: Key::new(key),
        kind,
        mod_revision,
        create_revision,
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let before = [
        row("a/1", EventKind::Put, first, first, "1"),
        row("a/2", EventKind::Put, first, first, "1"),
        row("a/1", EventKind::Put, second, first, "2"),
        row("a/2", EventKind::Delete, second, 0, ""),
    ];
    let after = [row("a/1", EventKind::Put, fourth, first, "4"), row("a/2", EventKind::Put, fourth, fourth, "4")];
    assert_eq!(events(&mut *past, 6).await, [&before[..], &after[..]].concat());
    assert_eq!(events(&mut *present, 2).await, after);
    assert_eq!(events(&mut *future, 2).await, after);
    assert_eq!(events(&mut *everything, 8).await.len(), 8);

    let fifth = write(engine, vec![Op::Touch { key: Key::new("a/1") }]).await;
    for watch in [&mut past, &mut present, &mut future] {
        assert_eq!(events(&mut **watch, 1).await, [row("a/1", EventKind::Put, fifth, first, "4")]);
    }
}

async fn a_slow_watch_loses_nothing(engine: &dyn Engine) {
    const COMMITS: usize = 3000;
    let start = engine.current_revision().await.unwrap();
    let mut watch = engine.watch(&KeyRange::children(&Key::new("n")), start + 1).await.unwrap();
    let mut written = Vec::new();
    for group in 0..COMMITS / 100 {
        let commits = (0..100).map(|n| write(engine, vec![put(&format!("n/{}", n % 7), &format!("{group}"))]));
        written.extend(futures::future::join_all(commits).await);
    }
    written.sort_unstable();
    let seen: Vec<_> = events(&mut *watch, COMMITS).await.iter().map(|event| event.mod_revision).collect();
    assert_eq!(seen, written);
}

async fn a_watch_that_starts_amid_commits_sees_each_once(engine: &dyn Engine) {
    const COMMITS: usize = 1200;
    let from = engine.current_revision().await.unwrap() + 1;
    let written = futures::future::join_all((0..4).map(|writer| async move {
        let mut revisions = Vec::new();
        for n in 0..COMMITS / 4 {
            revisions.push(write(engine, vec![put(&format!("n/{writer}"), &format!("{n}"))]).await);
        }
        revisions
    }));
    let watched = async {
        let mut watches = Vec::new();
        while engine.current_revision().await.unwrap() < from + COMMITS as u64 - 1 {
            watches.push(engine.watch(&KeyRange::all(), from).await.unwrap());
            tokio::task::yield_now().await;
        }
        watches
    };
    let (written, watches) = futures::future::join(written, watched).await;
    let mut written = written.concat();
    written.sort_unstable();
    assert!(watches.len() > 10, "the watches were started amid the commits: {}", watches.len());
    for mut watch in watches {
        let seen: Vec<_> = events(&mut *watch, COMMITS).await.iter().map(|event| event.mod_revision).collect();
        assert_eq!(seen, written);
    }
}

async fn a_watch_from_before_the_compaction_fails(engine: &dyn Engine) {
    let first = write(engine, vec![put("a/1", "1")]).await;
    let second = write(engine, vec![put("a/1", "2")]).await;
    let third = write(engine, vec![put("a/1", "3")]).await;
    let mut open = engine.watch(&KeyRange::children(&Key::new("a")), first).await.unwrap();
    assert_eq!(events(&mut *open, 3).await.len(), 3);
    engine.compact(second).await.unwrap();

    // An engine may tell it at once or with the first batch.
    let refused = match engine.watch(&KeyRange::all(), first).await {
        Ok(mut watch) => watch.next().await.map(|batch| batch.revision),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(StoreError::Compacted { compacted }) if compacted == second), "{refused:?}");
    let mut later = engine.watch(&KeyRange::children(&Key::new("a")), third).await.unwrap();
    assert_eq!(events(&mut *later, 1).await[0].mod_revision, third);
    let fourth = write(engine, vec![put("a/1", "4")]).await;
    for watch in [&mut open, &mut later] {
        assert_eq!(events(&mut **watch, 1).await[0].mod_revision, fourth, "an open watch goes on");
    }
}

async fn leases_take_their_keys_along(engine: &dyn Engine) {
    let attach = |key: &str, lease| Op::Put { key: Key::new(key), value: Bytes::from_static(b"x"), lease: Some(lease) };
    let revoked = engine.lease_grant(Duration::from_secs(3600)).await.unwrap();
    let born = Instant::now();
    let dying = engine.lease_grant(SHORT_LEASE).await.unwrap();
    let kept = engine.lease_grant(LEASE).await.unwrap();
    assert_eq!(BTreeSet::from([revoked, dying, kept]).len(), 3);
    write(engine, vec![attach("r/1", revoked), attach("r/2", revoked), attach("r/3", revoked)]).await;
    write(engine, vec![attach("d/1", dying), attach("d/2", dying), attach("k/1", kept)]).await;
    let before = write(engine, vec![put("r/2", "detached"), Op::Touch { key: Key::new("r/3") }]).await;

    let mut watch = engine.watch(&KeyRange::children(&Key::new("r")), before + 1).await.unwrap();
    engine.lease_revoke(revoked).await.unwrap();
    let gone = events(&mut *watch, 2).await;
    assert!(gone.iter().all(|e| e.kind == EventKind::Delete && e.mod_revision == gone[0].mod_revision));
    assert_eq!(keys(engine, "r", None).await, ["r/2"], "what was detached stays, what was touched was still attached");

    let mut ended = None;
    while ended.is_none() || born.elapsed() <= LEASE {
        assert!(born.elapsed() < DEADLINE, "a lease that nobody keeps alive ends");
        engine.lease_keep_alive(kept).await.unwrap();
        if ended.is_none() && keys(engine, "d", None).await.is_empty() {
            ended = Some(born.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ended >= Some(SHORT_LEASE), "no lease ends early: {ended:?}");
    assert_eq!(keys(engine, "k", None).await, ["k/1"], "a lease that is kept alive does not end");
    for lease in [dying, revoked, 12345] {
        assert!(matches!(engine.lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound(l)) if l == lease));
        assert!(matches!(engine.lease_revoke(lease).await, Err(StoreError::LeaseNotFound(_))));
        let late = Commit { compares: Vec::new(), ops: vec![put("late/1", "x"), attach("late/2", lease)] };
        assert!(matches!(engine.commit(late).await, Err(StoreError::LeaseNotFound(_))));
    }
    assert!(keys(engine, "late", None).await.is_empty(), "a refused transaction writes nothing");
}

async fn the_outbox_keeps_commit_order(engine: &dyn Engine) {
    let append = |stream: &str, text: &str| Op::Append {
        stream: stream.into(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
    };
    let read = async |stream: &str, after, limit| engine.outbox(stream, after, limit).await.unwrap();
    let first =
        write(engine, vec![put("a/1", "x"), append("audit", "1"), append("usage", "u"), append("audit", "2")]).await;
    let second = write(engine, vec![append("audit", "3")]).await;
    assert_eq!(second, first + 1, "an entry is a change");
    let compares = vec![Compare::Unchanged { key: Key::new("a/1"), mod_revision: 0 }];
    let conflict = Commit { compares, ops: vec![append("audit", "never")] };
    assert_eq!(engine.commit(conflict).await.unwrap(), Outcome::Conflict);

    let entries = read("audit", 0, 10).await;
    assert_eq!(entries.iter().map(|e| &e.payload[..]).collect::<Vec<_>>(), [b"1", b"2", b"3"]);
    assert!(entries.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert_eq!(read("audit", entries[0].sequence, 1).await, [entries[1].clone()]);
    engine.outbox_trim("audit", entries[1].sequence).await.unwrap();
    assert_eq!(read("audit", 0, 10).await, [entries[2].clone()]);
    assert_eq!(read("usage", 0, 10).await.len(), 1, "streams are trimmed one by one");
    write(engine, vec![append("audit", "4")]).await;
    assert!(read("audit", 0, 10).await[1].sequence > entries[2].sequence);
}

async fn concurrent_increments_all_count(engine: &dyn Engine) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let key = Key::new("counter/1");
    let increment = async || loop {
        let found = engine.get(std::slice::from_ref(&key), None).await.unwrap().remove(0);
        let (revision, count) = found.map_or((0, 0), |f| (f.mod_revision, f.value.len()));
        let compares = vec![Compare::Unchanged { key: key.clone(), mod_revision: revision }];
        let ops = vec![Op::Put { key: key.clone(), value: vec![b'.'; count + 1].into(), lease: None }];
        if let Outcome::Committed(revision) = engine.commit(Commit { compares, ops }).await.unwrap() {
            assert!(engine.current_revision().await.unwrap() >= revision, "the revision is linearizable");
            return;
        }
    };
    let start = engine.current_revision().await.unwrap();
    futures::future::join_all((0..WRITERS).map(|_| async {
        for _ in 0..EACH {
            increment().await;
        }
    }))
    .await;
    assert_eq!(value(engine, "counter/1", None).await.unwrap().len(), WRITERS * EACH);
    assert_eq!(engine.current_revision().await.unwrap(), start + (WRITERS * EACH) as u64);
}

async fn limits_hold(engine: &dyn Engine) {
    let many = |n| (0..n).map(|n| put(&format!("n/{n:05}"), "x")).collect::<Vec<_>>();
    let all = write(engine, many(MAX_OPERATIONS)).await;
    let large = || put("l/1", &"x".repeat(MAX_BYTES - 3));
    write(engine, vec![large()]).await;
    for ops in [many(MAX_OPERATIONS + 1), vec![large(), put("l/2", "")]] {
        let refused = engine.commit(Commit { compares: Vec::new(), ops }).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!(engine.current_revision().await.unwrap(), all + 1);
    write(engine, (0..MAX_OPERATIONS).map(|n| delete(&format!("n/{n:05}"))).collect()).await;
    assert!(keys(engine, "n", None).await.is_empty());
    assert_eq!(keys(engine, "n", Some(all)).await.len(), 1000, "the page is bounded by its limit");
}

async fn a_closed_engine_says_so(engine: Arc<dyn Engine>) {
    let mut watch = engine.watch(&KeyRange::children(&Key::new("a")), 1).await.unwrap();
    engine.close().await;
    let commit = Commit { compares: Vec::new(), ops: vec![put("a/1", "x")] };
    assert!(matches!(engine.commit(commit).await, Err(StoreError::Closed)));
    assert!(matches!(engine.current_revision().await, Err(StoreError::Closed)));
    assert!(matches!(engine.get(&[Key::new("a/1")], None).await, Err(StoreError::Closed)));
    let last = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    });
    assert!(matches!(last.await.expect("the watch ends"), StoreError::Closed));
}
