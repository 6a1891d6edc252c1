use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use terroir_store::engine::Engine;
use terroir_store::sqlite::{SqliteEngine, SqliteOptions};
use terroir_store::{Durability, LocalKeyRing, Options};
use terroir_types::{IdSource, OsRandom};

use crate::{conformance, model};

fn options(path: &std::path::Path) -> SqliteOptions {
    let options = Options::new(path, Arc::new(LocalKeyRing::ephemeral()));
    Options { durability: Durability::None, reserve_bytes: 0, ..options }.sqlite()
}

async fn open(options: SqliteOptions) -> Arc<dyn Engine> {
    Arc::new(SqliteEngine::open(options).await.unwrap())
}

/// Printed, so that a failure can be replayed: `TERROIR_SEED=... cargo test -p terroir-store`.
fn seed() -> u64 {
    let given = std::env::var("TERROIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| OsRandom.next_u64());
    eprintln!("TERROIR_SEED={seed}");
    seed
}

fn full() -> bool {
    std::env::var_os("TERROIR_FULL").is_some_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let folder = tempfile::tempdir().unwrap();
    let next = AtomicU64::new(0);
    conformance::run(|| {
        let name = format!("{}.db", next.fetch_add(1, Ordering::Relaxed));
        open(options(&folder.path().join(name)))
    })
    .await;
}

#[test]
fn random_histories_agree_with_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config {
        cases: if full() { 2000 } else { 200 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&model::history(), |history| {
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(model::play(history, || open(options(&folder.path().join("state.db")))))
        })
        .unwrap();
}

/// Whoever gives the file to another user must not have given away half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_touches_the_files_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..40 {
        let path = folder.path().join(format!("{round}.db"));
        let engine = open(options(&path)).await;
        let readers: Vec<_> = (0..6)
            .map(|_| {
                let engine = Arc::clone(&engine);
                tokio::spawn(async move { while engine.outbox_streams().await.is_ok() {} })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(round % 7)).await;
        engine.close().await;
        let beside = |end: &str| path.with_extension(format!("db{end}"));
        for end in ["-wal", "-shm"] {
            assert!(!beside(end).exists(), "round {round}: {} is left", beside(end).display());
        }
        for reader in readers {
            reader.await.unwrap();
        }
        assert!(!beside("-shm").exists(), "round {round}: somebody came after the end");
    }
}
