use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use terroir_store::engine::Engine;
use terroir_store::etcd::{EtcdEngine, EtcdIdentity, EtcdOptions, EtcdTls};
use terroir_store::{Durability, Key, KeyRange, LocalKeyRing, Options, OutboxLimit, Store, StoreError, Txn, record};
use terroir_types::{AccountId, ErrorClass, IdSource, OsRandom};

use crate::cluster::{Cluster, LIMITS, call, free_port};
use crate::conformance::{self, events, put, write};
use crate::{cut, full, model};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let cluster = Cluster::start(1).await;
    let next = AtomicU64::new(0);
    conformance::run(|| async {
        let prefix = format!("check/{}", next.fetch_add(1, Ordering::Relaxed));
        let engine: Arc<dyn Engine> = Arc::new(cluster.engine(&prefix).await);
        engine
    })
    .await;
}

#[test]
fn random_histories_agree_with_the_model() {
    let given = std::env::var("TERROIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| OsRandom.next_u64());
    eprintln!("TERROIR_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = runtime.block_on(Cluster::start(1));
    let next = AtomicU64::new(0);
    let config = Config {
        cases: if full() { 1000 } else { 60 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&model::history(), |history| {
            let prefix = format!("history/{}", next.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(model::play(history, || async {
                let engine: Arc<dyn Engine> = Arc::new(cluster.engine(&prefix).await);
                engine
            }))
        })
        .unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    account: AccountId,
    state: String,
    #[serde(skip, default)]
    tenant: String,
}
record!(Item { kind: "item", version: 1, account: |r| Some(r.account), tenant: tenant: String });

fn item(state: &str, tenant: &str) -> Item {
    Item { account: AccountId::from_number(7).unwrap(), state: state.into(), tenant: tenant.into() }
}

async fn store(cluster: &Cluster, prefix: &str, keys: &Arc<LocalKeyRing>) -> Store {
    let options = Options::new("", keys.clone());
    Store::with_engine(Arc::new(cluster.engine(prefix).await), &options).await.unwrap()
}

/// Whether any file below the folder holds `text`.
fn found_in(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return found_in(&path, text);
        }
        std::fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_text_reaches_etcd() {
    let mut cluster = Cluster::start(1).await;
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let store = store(&cluster, "cell", &keys).await;
    let change = |txn: &mut Txn| {
        let name = txn.name_mac(None, "item", "canary-name-77aa01");
        txn.outbox("audit", b"{\"what\":\"canary-audit-3b9e5d\"}".to_vec());
        txn.put(&Key::new(format!("item/{name}")), &item("planted-available", "canary-tenant-8d1f2c"))
    };
    store.transact(&[], change).await.unwrap();
    let entries = store.outbox("audit", 0, 10).await.unwrap();
    assert_eq!(&entries[0].payload[..], b"{\"what\":\"canary-audit-3b9e5d\"}", "it is opened again");
    store.close().await;
    cluster.kill(0);
    for canary in ["canary-name", "canary-tenant", "canary-audit"] {
        assert!(!found_in(cluster.folder.path(), canary), "{canary} lies in etcd");
    }
    assert!(found_in(cluster.folder.path(), "planted-available"), "the search finds what is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_etcd_see_each_other() {
    let cluster = Cluster::start(1).await;
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let stores = [store(&cluster, "cell", &keys).await, store(&cluster, "cell", &keys).await];
    let key = Key::new("item/counter");
    for n in 0..20 {
        let count_up = |txn: &mut Txn| {
            let found = txn.get::<Item>(&key)?.map_or(0, |item| item.state.parse::<u32>().unwrap());
            assert_eq!(found, n, "a read is never older than what was acknowledged elsewhere");
            txn.put(&key, &item(&(n + 1).to_string(), ""))
        };
        stores[n as usize % 2].transact(&[], count_up).await.unwrap();
    }
    let stranger = Options::new("", Arc::new(LocalKeyRing::ephemeral()));
    let refused = Store::with_engine(Arc::new(cluster.engine("cell").await), &stranger).await;
    assert!(matches!(refused.err(), Some(StoreError::WrongKey)));
    // Another cell in the same etcd is another world, but for the revisions.
    let other = store(&cluster, "cell2", &Arc::new(LocalKeyRing::ephemeral())).await;
    assert_eq!(other.read().await.unwrap().count(&Key::new("item")), 0);
    // A backup of the one is a file of the embedded engine.
    let folder = tempfile::tempdir().unwrap();
    stores[0]
        .transact(&[], |txn| {
            txn.outbox("audit", b"entry".to_vec());
            Ok(())
        })
        .await
        .unwrap();
    stores[0].backup_to(&folder.path().join("copy.db")).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    let copy =
        Store::open(Options { reserve_bytes: 0, ..Options::new(folder.path().join("copy.db"), keys) }).await.unwrap();
    assert_eq!(copy.read().await.unwrap().get::<Item>(&key).unwrap().unwrap().state, "20");
    assert_eq!(&copy.outbox("audit", 0, 10).await.unwrap()[0].payload[..], b"entry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_with_a_sentence() {
    let cluster = Cluster::start_with(1, &[]).await;
    let refused = EtcdEngine::connect(cluster.options("cell")).await.err().unwrap();
    assert!(refused.to_string().contains("--max-txn-ops=4096 --max-request-bytes=4194304"), "{refused}");
    let cluster = Cluster::start_with(1, &["--max-txn-ops=4096"]).await;
    let refused = EtcdEngine::connect(cluster.options("cell")).await.err().unwrap();
    assert!(refused.to_string().contains("--max-request-bytes=4194304"), "{refused}");

    let cluster = Cluster::start(1).await;
    // "newer/f" = "2 0" and "other/f" = "x", as etcd's gateway wants them.
    for body in [r#"{"key":"bmV3ZXIvZg==","value":"MiAw"}"#, r#"{"key":"b3RoZXIvZg==","value":"eA=="}"#] {
        call(cluster.port(0), "/v3/kv/put", body).unwrap();
    }
    let newer = EtcdEngine::connect(cluster.options("newer")).await.err();
    assert!(matches!(newer, Some(StoreError::NewerFormat { found: 2, supported: 1 })), "{newer:?}");
    assert!(matches!(EtcdEngine::connect(cluster.options("other")).await.err(), Some(StoreError::Corrupt(_))));
    for (endpoints, prefix, complaint) in [
        (vec![], "cell", "no endpoint"),
        (vec!["127.0.0.1:1".to_owned()], "cell", "https://"),
        (cluster.endpoints(), "", "prefix"),
        (cluster.endpoints(), "cell/", "prefix"),
    ] {
        let mut options = cluster.options(prefix);
        options.endpoints = endpoints;
        let refused = EtcdEngine::connect(options).await.err().unwrap();
        assert!(refused.to_string().contains(complaint), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_is_bounded() {
    let cluster = Cluster::start(1).await;
    let mut options = cluster.options("cell");
    options.outbox_limit = OutboxLimit { entries: 30, bytes: 1 << 20 };
    let engine = EtcdEngine::connect(options).await.unwrap();
    let keys = Options::new("", Arc::new(LocalKeyRing::ephemeral()));
    let store = Store::with_engine(Arc::new(engine), &keys).await.unwrap();
    let append = || {
        store.transact(&[], |txn| {
            txn.outbox("audit", vec![b'x'; 100]);
            Ok(())
        })
    };
    let mut appended = 0;
    while append().await.map_err(|error| assert_eq!(error.class(), ErrorClass::Unavailable)).is_ok() {
        appended += 1;
        assert!(appended <= 30, "the stream is bounded");
    }
    assert!(appended >= 25, "and not by much less: {appended}");
    let entries = store.outbox("audit", 0, 100).await.unwrap();
    assert_eq!(entries.len(), appended);
    store.outbox_trim("audit", entries[9].sequence).await.unwrap();
    append().await.expect("there is room again");
}

/// Slots of commits that nobody has used for long are collected; whoever still has one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collected_slot_is_no_conflict() {
    let cluster = Cluster::start(1).await;
    let engine = cluster.engine("gc").await;
    let first = write(&engine, vec![put("a/1", "1")]).await;
    // "gc/s/" to "gc/s0".
    let body = r#"{"key":"Z2Mvcy8=","range_end":"Z2MvczA="}"#;
    let answer = call(cluster.port(0), "/v3/kv/deleterange", body).unwrap();
    assert!(answer.contains("\"deleted\":\"1\""), "{answer}");
    assert_eq!(write(&engine, vec![put("a/1", "2")]).await, first + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_its_connection() {
    let cluster = Cluster::start(1).await;
    let engine = cluster.engine("cell").await;
    let first = write(&engine, vec![put("a/1", "1")]).await;
    let mut watch = engine.watch(&KeyRange::children(&Key::new("a")), first).await.unwrap();
    assert_eq!(events(&mut *watch, 1).await.len(), 1);
    let mut last = first;
    for n in 0..3 {
        cluster.members[0].client.cut(true);
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.members[0].client.cut(false);
        last = write(&engine, vec![put("a/1", &n.to_string())]).await;
        assert_eq!(events(&mut *watch, 1).await[0].mod_revision, last);
    }
    engine.compact(last).await.unwrap();
    let next = write(&engine, vec![put("a/1", "end")]).await;
    assert_eq!(events(&mut *watch, 1).await[0].mod_revision, next, "and a compaction of what it has seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_writes_is_a_cut() {
    let cluster = Cluster::start(1).await;
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let options = Options { reserve_bytes: 0, durability: Durability::None, ..Options::new("", keys.clone()) };
    let mut etcd = cluster.options("cell");
    // As after a move from elsewhere.
    etcd.first_revision = 1_000_000;
    let engine = EtcdEngine::connect(etcd).await.unwrap();
    cut::check(Store::with_engine(Arc::new(engine), &options).await.unwrap(), &options).await;
}

/// Runs openssl in the folder.
fn openssl(folder: &Path, arguments: &str) {
    let done =
        Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().expect("openssl is there");
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    std::fs::write(folder.path().join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "stranger"] {
        openssl(
            folder.path(),
            &format!("req -x509 {key} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"),
        );
    }
    for name in ["server", "client"] {
        openssl(folder.path(), &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(
            folder.path(),
            &format!(
                "x509 -req -days 2 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
    let port = free_port();
    let url = format!("https://127.0.0.1:{port}");
    let log = File::create(folder.path().join("log")).unwrap();
    let mut etcd = Command::new("etcd")
        .args(LIMITS)
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()))
        .args([&format!("--listen-client-urls={url}"), &format!("--advertise-client-urls={url}")])
        .args(["--data-dir=data", "--cert-file=server.pem", "--key-file=server.key"])
        .args(["--client-cert-auth", "--trusted-ca-file=ca.pem"])
        .current_dir(folder.path())
        .stderr(log)
        .spawn()
        .unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let with = |authority: &str, client: bool| {
        let store = Options::new("", Arc::new(LocalKeyRing::ephemeral()));
        let mut options = EtcdOptions::new(vec![url.clone()], "cell", &store);
        let identity = EtcdIdentity { certificate: read("client.pem"), key: read("client.key").into() };
        options.tls = Some(EtcdTls { authorities: read(authority), identity: client.then_some(identity) });
        EtcdEngine::connect(options)
    };
    let engine = with("ca.pem", true).await.unwrap();
    write(&engine, vec![put("a/1", "x")]).await;
    let (nobody, deceived) = tokio::join!(with("ca.pem", false), with("stranger.pem", true));
    etcd.kill().unwrap();
    etcd.wait().unwrap();
    assert!(nobody.is_err(), "a client without a certificate is refused");
    assert!(deceived.is_err(), "a server that somebody else has signed is refused");
}
