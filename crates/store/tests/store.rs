//! The store as domain code sees it.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use terroir_store::{Durability, Key, LocalKeyRing, Options, Store, StoreError, record};
use terroir_types::{AccountId, Error};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Vpc {
    account: AccountId,
    size: u64,
    #[serde(skip, default)]
    tenant: VpcTenant,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct VpcTenant {
    name: String,
}

record!(Vpc { kind: "vpc", version: 1, account: |r| Some(r.account), tenant: tenant: VpcTenant });

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct UserData {
    text: String,
}
record!(UserData { kind: "~user-data", version: 1, in_view: false });

fn account(n: u64) -> AccountId {
    AccountId::from_number(n).unwrap()
}

fn vpc(n: u64, name: &str) -> Vpc {
    Vpc { account: account(n), size: n, tenant: VpcTenant { name: name.into() } }
}

#[tokio::test]
async fn a_transaction_reads_writes_and_sees_its_own_writes() {
    let store = Store::in_memory_for_tests().await;
    let prefix = Key::new("vpc/1");
    let (key, other) = (prefix.child("a"), prefix.child("b"));
    let ((), first) = store
        .transact(&[], |txn| {
            assert!(txn.get::<Vpc>(&key)?.is_none());
            assert!(!txn.exists(&prefix));
            txn.put(&key, &vpc(1, "one"))?;
            txn.put(&other, &vpc(2, "two"))?;
            assert_eq!(txn.get::<Vpc>(&key)?.as_deref(), Some(&vpc(1, "one")));
            assert_eq!((txn.count(&prefix), txn.exists(&prefix)), (2, true));
            txn.delete(&other);
            assert_eq!(txn.range::<Vpc>(&prefix)?.len(), 1);
            assert_eq!(txn.write_count(), 2);
            Ok(())
        })
        .await
        .unwrap();

    let txn = store.read().await.unwrap();
    assert!(txn.revision() >= first && txn.read_only());
    let (found, revision) = txn.get_with_revision::<Vpc>(&key).unwrap().unwrap();
    assert_eq!((&*found, revision), (&vpc(1, "one"), first));
    assert!(txn.get::<Vpc>(&other).unwrap().is_none());
}
