//! What lies on the disk: sealed tenants, versions, the wrong key, the newer file.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use terroir_store::{Durability, Key, LocalKeyRing, Options, Record, Store, StoreError, StoredForm, record};
use terroir_types::AccountId;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeyPair {
    account: AccountId,
    state: String,
    #[serde(skip, default)]
    tenant: KeyPairTenant,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeyPairTenant {
    name: String,
}
record!(KeyPair { kind: "key-pair", version: 1, account: |r| Some(r.account), tenant: tenant: KeyPairTenant });

#[derive(Clone, Serialize, Deserialize)]
struct Planted {
    text: String,
}
record!(Planted { kind: "planted", version: 1 });

fn account(number: u64) -> AccountId {
    AccountId::from_number(number).unwrap()
}

fn options(path: &Path, keys: Arc<LocalKeyRing>) -> Options {
    Options { durability: Durability::None, reserve_bytes: 0, ..Options::new(path, keys) }
}

/// Whether any file of the folder holds `text`.
fn found_in(folder: &Path, text: &str) -> bool {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "data, write-ahead log and lock: {files:?}");
    files.iter().any(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn no_tenant_text_reaches_the_disk() {
    const CANARY: &str = "canary-8d1f2c";
    const UNIQUE: &str = "unique-77aa01";
    const PLANTED: &str = "planted-3b9e5d";
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let store = Store::open(options(&folder.path().join("state.db"), keys)).await.unwrap();
    let pair =
        KeyPair { account: account(7), state: "available".into(), tenant: KeyPairTenant { name: CANARY.into() } };
    let key = |txn: &terroir_store::Txn| {
        Key::new("key-pair/000000000007").child(txn.name_mac(Some(account(7)), "key-pair", UNIQUE))
    };
    for _ in 0..3 {
        store.transact(&[], |txn| txn.put(&key(txn), &pair)).await.unwrap();
    }
    let txn = store.read().await.unwrap();
    assert_eq!(txn.get::<KeyPair>(&key(&txn)).unwrap().as_deref(), Some(&pair));
    for text in [CANARY, UNIQUE] {
        assert!(!found_in(folder.path(), text), "{text} is on the disk");
    }
    store.transact(&[], |txn| txn.put(&Key::new("planted/1"), &Planted { text: PLANTED.into() })).await.unwrap();
    assert!(found_in(folder.path(), PLANTED), "the search finds what is there");
    assert!(found_in(folder.path(), "available"), "the clear part is clear");

    let copy = folder.path().join("backup");
    std::fs::create_dir(&copy).unwrap();
    store.backup_to(&copy.join("state.db")).await.unwrap();
    store.close().await;
    let bytes = std::fs::read(copy.join("state.db")).unwrap();
    assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "nor in a backup");
}

#[tokio::test]
async fn a_backup_is_the_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let store = Store::open(options(&folder.path().join("state.db"), keys.clone())).await.unwrap();
    let pair = KeyPair { account: account(7), state: "x".into(), tenant: KeyPairTenant { name: "mine".into() } };
    let key = Key::new("key-pair/1");
    let (_, revision) = store.transact(&[], |txn| txn.put(&key, &pair)).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup_to(&copy).await.unwrap();
    store.backup_to(&copy).await.expect("a backup replaces the one before");
    let delete = |txn: &mut terroir_store::Txn| {
        txn.delete(&key);
        Ok(())
    };
    store.transact(&[], delete).await.unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);

    let restored = Store::open(options(&copy, keys)).await.unwrap();
    let txn = restored.read().await.unwrap();
    assert_eq!(txn.get_with_revision::<KeyPair>(&key).unwrap(), Some((Arc::new(pair), revision)));
    let nowhere = store.backup_to(Path::new("/nonexistent/x.db")).await;
    assert!(matches!(nowhere, Err(StoreError::Io(_))), "{nowhere:?}");
}

#[tokio::test]
async fn a_store_opens_only_for_those_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/state.db");
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let store = Store::open(options(&path, keys.clone())).await.unwrap();
    let second = Store::open(options(&path, keys.clone())).await;
    assert!(matches!(second.err(), Some(StoreError::Locked { path: p }) if p == path));
    let handle = store.clone();
    store.close().await;
    assert!(matches!(handle.read().await.err(), Some(StoreError::Closed)));

    let stranger = Store::open(options(&path, Arc::new(LocalKeyRing::ephemeral()))).await;
    assert!(matches!(stranger.err(), Some(StoreError::WrongKey)));
    Store::open(options(&path, keys.clone())).await.unwrap().close().await;
    for file in ["deep/state.db", "deep/state.db.lock"] {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(folder.path().join(file)).unwrap().mode() & 0o077, 0, "{file}");
    }

    let set = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    set("PRAGMA user_version = 2");
    let newer = Store::open(options(&path, keys.clone())).await;
    assert!(matches!(newer.err(), Some(StoreError::NewerFormat { found: 2, supported: 1 })));
    set("PRAGMA user_version = 1");
    Store::open(options(&path, keys.clone())).await.unwrap().close().await;

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
    std::fs::write(folder.path().join("text.db"), "no database at all, but long enough to be read as one".repeat(20))
        .unwrap();
    for file in ["foreign.db", "text.db"] {
        let before = std::fs::read(folder.path().join(file)).unwrap();
        let refused = Store::open(options(&folder.path().join(file), keys.clone())).await;
        assert!(matches!(refused.err(), Some(StoreError::NotAStore { .. })), "{file}");
        assert_eq!(std::fs::read(folder.path().join(file)).unwrap(), before, "{file} is left alone");
    }
}

#[tokio::test]
async fn ciphertexts_do_not_open_at_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let store = Store::open(options(&path, keys.clone())).await.unwrap();
    let pair =
        |name: &str| KeyPair { account: account(7), state: "x".into(), tenant: KeyPairTenant { name: name.into() } };
    let (one, two) = (Key::new("key-pair/1"), Key::new("key-pair/2"));
    let both = |txn: &mut terroir_store::Txn| {
        txn.put(&one, &pair("one"))?;
        txn.put(&two, &pair("two"))
    };
    store.transact(&[], both).await.unwrap();
    store.close().await;
    let swap = "UPDATE kv SET value = (SELECT value FROM kv WHERE key = 'key-pair/1') WHERE key = 'key-pair/2'";
    rusqlite::Connection::open(&path).unwrap().execute_batch(swap).unwrap();
    let store = Store::open(options(&path, keys)).await.unwrap();
    let txn = store.read().await.unwrap();
    assert_eq!(txn.get::<KeyPair>(&one).unwrap().unwrap().tenant.name, "one");
    assert!(txn.get::<KeyPair>(&two).unwrap_err().internal_detail().unwrap().contains("moved"));
}

/// Three versions of one record: a field renamed, then a unit changed.
mod versions {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct V1 {
        pub gib: u32,
        #[serde(skip, default)]
        pub tenant: String,
    }
    record!(V1 { kind: "volume", version: 1, tenant: tenant: String });

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct V2 {
        pub size_gib: u32,
        #[serde(skip, default)]
        pub tenant: String,
    }
    record!(V2 { kind: "volume", version: 2, tenant: tenant: String, previous: V1 });

    impl From<V1> for V2 {
        fn from(old: V1) -> Self {
            Self { size_gib: old.gib, tenant: old.tenant }
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct V3 {
        pub size_bytes: u64,
        #[serde(skip, default)]
        pub tenant: String,
    }

    // Version 3 came with cluster version 2; members that are older can read version 2 only.
    impl Record for V3 {
        const KIND: &'static str = "volume";
        const VERSION: u16 = 3;
        type Tenant = String;
        fn account(&self) -> Option<AccountId> {
            None
        }
        fn take_tenant(&mut self) -> String {
            std::mem::take(&mut self.tenant)
        }
        fn put_tenant(&mut self, tenant: String) {
            self.tenant = tenant;
        }
        fn migrate(version: u16, clear: &[u8], tenant: &[u8]) -> Result<Self, StoreError> {
            let old: V2 = terroir_store::decode_previous(version, clear, tenant)?;
            Ok(Self { size_bytes: u64::from(old.size_gib) << 30, tenant: old.tenant })
        }
        fn encode_for(&self, cluster_version: u16) -> Result<Option<StoredForm>, StoreError> {
            if cluster_version >= 2 {
                return Ok(None);
            }
            let size_gib = u32::try_from(self.size_bytes >> 30).map_err(|e| StoreError::Codec(e.to_string()))?;
            StoredForm::of(&V2 { size_gib, tenant: self.tenant.clone() }).map(Some)
        }
    }
}

#[tokio::test]
async fn records_migrate_and_wait_for_the_cluster() {
    use versions::{V1, V2, V3};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let key = |n: u32| Key::new(format!("volume/{n}"));
    let store = Store::open(options(&path, keys.clone())).await.unwrap();
    store.transact(&[], |txn| txn.put(&key(1), &V1 { gib: 1, tenant: "one".into() })).await.unwrap();
    store.transact(&[], |txn| txn.put(&key(2), &V2 { size_gib: 2, tenant: "two".into() })).await.unwrap();
    store.close().await;

    // A newer binary beside an older one.
    let newer = Options { cluster_version: 2, ..options(&path, keys.clone()) };
    let store = Store::open(newer.clone()).await.unwrap();
    assert_eq!(store.cluster_version(), 1);
    let v3 = |n: u64, name: &str| V3 { size_bytes: n << 30, tenant: name.into() };
    let found = store.read().await.unwrap().range::<V3>(&Key::new("volume")).unwrap();
    assert_eq!(found.iter().map(|(_, v)| (**v).clone()).collect::<Vec<_>>(), [v3(1, "one"), v3(2, "two")]);
    store.transact(&[], |txn| txn.put(&key(3), &v3(3, "three"))).await.unwrap();
    store.close().await;

    let older = Store::open(options(&path, keys.clone())).await.unwrap();
    let three = older.read().await.unwrap().get::<V2>(&key(3)).unwrap().unwrap();
    assert_eq!(*three, V2 { size_gib: 3, tenant: "three".into() });
    older.raise_cluster_version(2).await.expect_err("it cannot write what it does not know");
    older.close().await;

    let store = Store::open(newer).await.unwrap();
    store.raise_cluster_version(2).await.unwrap();
    assert_eq!(store.cluster_version(), 2);
    store.raise_cluster_version(1).await.expect_err("there is no way back");
    store.transact(&[], |txn| txn.put(&key(4), &v3(4, "four"))).await.unwrap();
    assert_eq!(*store.read().await.unwrap().get::<V3>(&key(4)).unwrap().unwrap(), v3(4, "four"));
    let (direct, _) = store.get_direct::<V3>(&key(4)).await.unwrap().unwrap();
    assert_eq!(direct, v3(4, "four"));
    let unreadable = store.get_direct::<V2>(&key(4)).await;
    assert!(matches!(unreadable, Err(StoreError::NewerRecord { found: 3, supported: 2, .. })), "{unreadable:?}");
    store.close().await;

    let older = Store::open(options(&path, keys)).await;
    assert!(matches!(older.err(), Some(StoreError::NewerFormat { found: 2, supported: 1 })));
    assert!(matches!(V1::migrate(0, &[], &[]), Err(StoreError::UnknownVersion { found: 0, .. })));
}

#[tokio::test]
async fn a_small_record_stays_small() {
    let store = Store::in_memory_for_tests().await;
    let before = store.stats().await.unwrap();
    let pair = KeyPair { account: account(7), state: "x".into(), tenant: KeyPairTenant { name: "n".into() } };
    store.transact(&[], |txn| txn.put(&Key::new("key-pair/1"), &pair)).await.unwrap();
    let after = store.stats().await.unwrap();
    assert_eq!(after.records, before.records + 1);
    // Key, header, two short named fields, nonce and tag.
    assert!(after.bytes - before.bytes <= 100, "{} bytes", after.bytes - before.bytes);
}
