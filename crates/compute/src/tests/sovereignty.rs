//! Policies of accounts and resources against the place of the only host, through the API.

use terroir_aws_model::ec2;
use terroir_sovereignty::ops::{POLICY_TAG, set_account_policy, set_named_policy};
use terroir_types::InstanceId;

use super::{Cloud, ROOMY, code};
use crate::aws::{CreateVolume, RunInstances, StartInstances, StopInstances};
use crate::model::{HostMode, host_key};
use crate::ops;
use crate::testing::{World, ZONE};

async fn demand(world: &World, name: Option<&str>, document: &str) {
    let account = world.account();
    let set = |cx: &mut terroir_action::Context<'_>| match name {
        None => set_account_policy(cx.txn, account, document, cx.now),
        Some(name) => set_named_policy(cx.txn, account, name, document, cx.now),
    };
    world.with_context(set).await.unwrap();
}

fn tagged(kind: &str, policy: &str) -> ec2::TagSpecification {
    let tag = ec2::Tag { key: Some(POLICY_TAG.to_owned()), value: Some(policy.to_owned()) };
    ec2::TagSpecification { resource_type: Some(kind.to_owned()), tags: vec![tag] }
}

#[tokio::test]
async fn a_refusal_names_the_rule() {
    let world = World::new(ROOMY).await;
    for (document, words) in [
        (r#"{"countries":{"allow":["DE"]}}"#, "1 forbidden: the policy does not allow the country of the site 'FR'"),
        (r#"{"operators":{"deny":["own.example"]}}"#, "the policy denies the operator 'own.example'"),
        (r#"{"parents":{"deny":["US"]}}"#, "country of the operator's parent, which is not stated"),
        (r#"{"certifications":["C5"]}"#, "wants the certification 'C5'"),
        (r#"{"key_custody":"customer"}"#, "keys held by the customer"),
    ] {
        demand(&world, None, document).await;
        let error = world.call::<RunInstances>(world.run(1)).await.unwrap_err();
        assert_eq!(error.code(), "InsufficientInstanceCapacity");
        assert!(error.message().contains(words), "{error} / {words}");
        let volume =
            ec2::CreateVolumeRequest { availability_zone: Some(ZONE.to_owned()), size: Some(1), ..Default::default() };
        let error = world.call::<CreateVolume>(volume).await.unwrap_err();
        assert_eq!(error.code(), "InsufficientVolumeCapacity");
        assert!(error.message().contains(words), "{error} / {words}");
        assert!(world.kinds().await.is_empty(), "a refusal leaves nothing");
    }
    demand(&world, None, r#"{"countries":{"allow":["EU"]},"operators":{"allow":["own.example"]}}"#).await;
    assert_eq!(code(&world.call::<RunInstances>(world.run(1)).await), "ok");
}

#[tokio::test]
async fn a_tag_makes_it_stricter_and_nothing_else() {
    let world = World::new(ROOMY).await;
    demand(&world, Some("strict"), r#"{"certifications":["SecNumCloud"]}"#).await;
    demand(&world, Some("loose"), "{}").await;
    let run = async |kind: &str, policy: &str| {
        let request = ec2::RunInstancesRequest { tag_specifications: vec![tagged(kind, policy)], ..world.run(1) };
        world.call::<RunInstances>(request).await
    };
    assert_eq!(code(&run("instance", "loose").await), "ok");
    for kind in ["instance", "volume"] {
        let error = run(kind, "strict").await.unwrap_err();
        assert!(error.message().contains("SecNumCloud"), "{error}");
    }
    assert_eq!(code(&run("instance", "unknown").await), "InvalidParameterValue");
    demand(&world, None, r#"{"countries":{"deny":["FR"]}}"#).await;
    let error = run("instance", "loose").await.unwrap_err();
    assert!(error.message().contains("denies the country of the site 'FR'"), "{error}");
    let volume = ec2::CreateVolumeRequest {
        availability_zone: Some(ZONE.to_owned()),
        size: Some(1),
        tag_specifications: vec![tagged("volume", "loose")],
        ..Default::default()
    };
    assert_eq!(code(&world.call::<CreateVolume>(volume).await), "InsufficientVolumeCapacity");
}

#[tokio::test]
async fn what_is_stopped_does_not_start_where_it_may_not_be_any_more() {
    let mut cloud = Cloud::new(ROOMY).await;
    let made = cloud.run(cloud.world.run(1)).await;
    cloud.settle().await;
    demand(&cloud.world, None, r#"{"countries":{"deny":["FR"]}}"#).await;
    cloud.settle().await;
    let ids = |id: InstanceId| vec![id.to_string()];
    let stop = ec2::StopInstancesRequest { instance_ids: ids(made[0]), ..Default::default() };
    cloud.world.call::<StopInstances>(stop).await.unwrap();
    cloud.settle().await;
    let start = ec2::StartInstancesRequest { instance_ids: ids(made[0]), ..Default::default() };
    let error = cloud.world.call::<StartInstances>(start.clone()).await.unwrap_err();
    assert_eq!(error.code(), "InsufficientInstanceCapacity");
    assert!(error.message().contains("denies the country of the site 'FR'"), "{error}");
    demand(&cloud.world, None, "{}").await;
    assert_eq!(code(&cloud.world.call::<StartInstances>(start).await), "ok");
}

#[tokio::test]
async fn only_an_empty_cordoned_host_is_removed() {
    let world = World::new(ROOMY).await;
    let remove = async || world.with_context(|cx| ops::remove_host(cx.txn, world.host, cx.now)).await;
    let cordon = async || world.with_context(|cx| ops::set_host_mode(cx.txn, world.host, HostMode::Cordoned)).await;
    assert!(remove().await.unwrap_err().message().contains("cordon it first"));
    world.call::<RunInstances>(world.run(1)).await.unwrap();
    cordon().await.unwrap();
    assert!(remove().await.unwrap_err().message().contains("has instances"));

    let empty = World::new(ROOMY).await;
    empty.with_context(|cx| ops::set_host_mode(cx.txn, empty.host, HostMode::Cordoned)).await.unwrap();
    empty.with_context(|cx| ops::remove_host(cx.txn, empty.host, cx.now)).await.unwrap();
    let txn = empty.store.read().await.unwrap();
    assert!(txn.peek::<crate::model::Host>(&host_key(empty.host)).unwrap().is_none());
    let error = empty.call::<RunInstances>(empty.run(1)).await.unwrap_err();
    assert!(error.message().contains("there is no host"), "{error}");
}
