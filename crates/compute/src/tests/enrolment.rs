//! Tokens by which hosts join: each counts once, for a while, and for nothing else.

use std::sync::Arc;
use std::time::Duration;
use terroir_types::{Clock, Error, HostId, ResourceId, SeededRandom};

use super::ROOMY;
use crate::model::{Enrolment, Host, HostAuthority, HostAuthorityKey, HostMode, host_authority_key, host_key};
use crate::ops::{self, NewHost};
use crate::state::InstanceState;
use crate::testing::{World, ZONE, facts};

const HOUR: Duration = Duration::from_secs(3600);

fn host(seed: u64) -> HostId {
    HostId::generate(&SeededRandom::new(seed + 100))
}

fn place() -> NewHost<'static> {
    NewHost { zone: ZONE, fire_zone: None, host: None }
}

async fn offer(world: &World, hash: &str, place: NewHost<'_>, life: Duration) -> Result<(), Error> {
    let add = |cx: &mut terroir_action::Context<'_>| {
        ops::add_join_token(cx.txn, "own.example", hash, place, life, cx.now).map(drop)
    };
    world.with_context(add).await
}

async fn enrol(world: &World, hash: &str, host: HostId, key: &str) -> Result<Arc<Enrolment>, Error> {
    world.with_context(|cx| ops::enrol(cx.txn, hash, host, key, cx.now)).await
}

async fn remove(world: &World, host: HostId) -> Result<(), Error> {
    world.with_context(|cx| ops::remove_host(cx.txn, host, cx.now)).await
}

#[tokio::test]
async fn a_token_counts_once_and_not_for_ever() {
    let world = World::new(ROOMY).await;
    offer(&world, "one", place(), HOUR).await.unwrap();
    assert_eq!(enrol(&world, "another", host(1), "k").await.unwrap_err().code(), "AccessDenied");
    let enrolled = enrol(&world, "one", host(1), "k").await.unwrap();
    assert_eq!((enrolled.host, enrolled.zone.as_str()), (host(1), ZONE));
    for (what, host, key, passes) in [
        ("the same request, whose answer was lost", host(1), "k", true),
        ("another key", host(1), "other", false),
        ("another host", host(2), "k", false),
    ] {
        assert_eq!(enrol(&world, "one", host, key).await.is_ok(), passes, "{what}");
    }
    world.advance(3600);
    assert!(enrol(&world, "one", host(1), "k").await.is_err(), "not for ever either");

    offer(&world, "short", place(), Duration::from_secs(60)).await.unwrap();
    world.advance(60);
    assert_eq!(enrol(&world, "short", host(3), "k").await.unwrap_err().code(), "AccessDenied");
    offer(&world, "again", place(), HOUR).await.unwrap();
    let error = enrol(&world, "again", host(1), "k").await.unwrap_err();
    assert!(error.message().contains("has joined already"), "{error}");
    let error = enrol(&world, "again", world.host, "k").await.unwrap_err();
    assert!(error.message().contains("has joined already"), "no token takes over a host that is one: {error}");
    assert!(enrol(&world, "again", host(4), "k").await.is_ok(), "refusals spend nothing");
}

/// Both have read the token before either commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_race_one_gets_in() {
    let world = World::new(ROOMY).await;
    for round in 0..20 {
        let hash = format!("token-{round}");
        offer(&world, &hash, place(), HOUR).await.unwrap();
        let now = world.clock.now();
        let tasks: Vec<_> = (0..4)
            .map(|racer| {
                let (store, hash) = (world.store.clone(), hash.clone());
                let host = host(round * 10 + racer);
                tokio::spawn(
                    async move { store.transact(&[], |txn| ops::enrol(txn, &hash, host, "k", now)).await.is_ok() },
                )
            })
            .collect();
        let mut passed = 0;
        for task in tasks {
            passed += usize::from(task.await.unwrap());
        }
        assert_eq!(passed, 1, "round {round}");
    }
}

#[tokio::test]
async fn tokens_are_for_places_that_are() {
    let world = World::new(ROOMY).await;
    let other = NewHost { zone: "eu-local-1z", ..place() };
    assert_eq!(offer(&world, "t", other, HOUR).await.unwrap_err().code(), "NoSuchEntity");
    let burning = NewHost { fire_zone: Some("cellar"), ..place() };
    assert!(offer(&world, "t", burning, HOUR).await.unwrap_err().message().contains("no fire zone 'cellar'"));
    for life in [Duration::ZERO, ops::MAX_TOKEN_LIFE + Duration::from_secs(1)] {
        assert!(offer(&world, "t", place(), life).await.is_err(), "{life:?}");
    }
    let foreign = world.with_context(|cx| ops::add_join_token(cx.txn, "x", "t", place(), HOUR, cx.now).map(drop)).await;
    assert!(foreign.unwrap_err().message().contains("is a site of own.example"));
    let unknown = NewHost { host: Some(host(1)), ..place() };
    assert_eq!(offer(&world, "t", unknown, HOUR).await.unwrap_err().code(), "InvalidHostID.NotFound");
}

#[tokio::test]
async fn a_host_that_was_removed_comes_back_only_when_it_is_let() {
    let world = World::new(ROOMY).await;
    let register = async |id| world.with_context(|cx| ops::register_enrolled(cx.txn, id, facts(ROOMY), cx.now)).await;
    assert_eq!(register(host(1)).await.unwrap_err().code(), "AccessDenied");
    offer(&world, "one", place(), HOUR).await.unwrap();
    enrol(&world, "one", host(1), "k").await.unwrap();
    register(host(1)).await.unwrap();
    world.with_context(|cx| ops::set_host_mode(cx.txn, host(1), HostMode::Cordoned)).await.unwrap();
    remove(&world, host(1)).await.unwrap();
    let txn = world.store.read().await.unwrap();
    assert!(txn.peek::<Host>(&host_key(host(1))).unwrap().is_none());
    assert!(ops::was_removed(&txn, host(1)).unwrap());
    assert_eq!(register(host(1)).await.unwrap_err().code(), "AccessDenied");
    assert!(enrol(&world, "one", host(1), "k").await.is_err(), "its old token is no way back");

    offer(&world, "two", place(), HOUR).await.unwrap();
    enrol(&world, "two", host(1), "k").await.unwrap();
    assert!(!ops::was_removed(&world.store.read().await.unwrap(), host(1)).unwrap());
    // Its certificate has ended: a token of its own lets it in again, and nobody else.
    offer(&world, "own", NewHost { host: Some(host(1)), ..place() }, HOUR).await.unwrap();
    assert!(enrol(&world, "own", host(2), "k").await.is_err());
    assert_eq!(enrol(&world, "own", host(1), "next").await.unwrap().key_sha256, "next");
    register(host(1)).await.unwrap();
    world.with_context(|cx| ops::set_host_mode(cx.txn, host(1), HostMode::Lost)).await.unwrap();
    let lost = offer(&world, "lost", NewHost { host: Some(host(1)), ..place() }, HOUR).await.unwrap_err();
    assert!(lost.message().contains("does not come back"), "{lost}");
    remove(&world, host(1)).await.unwrap();
    world.with_context(|cx| ops::readmit(cx.txn, host(1))).await.unwrap();
    assert!(world.with_context(|cx| ops::readmit(cx.txn, host(1))).await.is_err());
}

#[tokio::test]
async fn what_is_left_on_a_host_is_named() {
    let mut cloud = super::Cloud::new(ROOMY).await;
    let made = cloud.run(cloud.world.run(2)).await;
    cloud.settle().await;
    let host = cloud.world.host;
    let left = ops::left_on(&cloud.world.store.read().await.unwrap(), host).unwrap();
    let mut instances: Vec<_> = left.instances.iter().map(|(_, id, state)| (*id, *state)).collect();
    instances.sort_unstable();
    let mut expected: Vec<_> = made.iter().map(|id| (*id, InstanceState::Running)).collect();
    expected.sort_unstable();
    assert_eq!((instances, left.volumes.len()), (expected, 2));
    assert!(ops::left_on(&cloud.world.store.read().await.unwrap(), self::host(1)).is_err());
}

#[tokio::test]
async fn there_is_one_authority_and_its_key_is_sealed() {
    let world = World::new(ROOMY).await;
    let offered = |name: &str| HostAuthority {
        certificate_pem: format!("certificate {name}"),
        created_at: world.clock.now(),
        tenant: HostAuthorityKey { key_pem: terroir_types::Secret::new(format!("key {name}")) },
    };
    let (first, second) = (offered("first"), offered("second"));
    let ensure = async |offer: &HostAuthority| {
        world.with_context(|cx| ops::ensure_authority(cx.txn, "own.example", offer)).await.unwrap()
    };
    assert_eq!(*ensure(&first).await, first);
    assert_eq!(*ensure(&second).await, first);
    let txn = world.store.read().await.unwrap();
    let kept = txn.peek::<HostAuthority>(&host_authority_key("own.example")).unwrap().unwrap();
    let form = terroir_store::StoredForm::of(&*kept).unwrap();
    let clear = String::from_utf8_lossy(&form.clear).into_owned();
    assert!(clear.contains("certificate first") && !clear.contains("key first"), "{clear}");
}
