//! Room on hosts, quotas, and the bytes that an instance costs.

use terroir_aws_model::ec2;

use super::{Cloud, ROOMY, code};
use crate::aws::{RunInstances, StartInstances, StopInstances, TerminateInstances};
use crate::model::{HostCapacity, HostMode, Limits, host_capacity_key, limits_key};
use crate::ops;
use crate::testing::{Size, World};

const SMALL: Size = Size { vcpus: 4, memory_gib: 1, disk_gib: 6 };

#[tokio::test]
async fn a_full_host_says_what_it_lacks() {
    let world = World::new(SMALL).await;
    let too_large = ec2::RunInstancesRequest { instance_type: Some("m5.2xlarge".to_owned()), ..world.run(1) };
    let error = world.call::<RunInstances>(too_large).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("InsufficientInstanceCapacity", terroir_types::ErrorClass::Capacity));
    for words in ["1 host: 1 full (at most 4 of 8 vCPUs", "1 GiB of 32 GiB memory"] {
        assert!(error.message().contains(words), "{error}");
    }
    assert!(world.kinds().await.is_empty());
    let some = world.call::<RunInstances>(ec2::RunInstancesRequest { min_count: 1, ..world.run(9) }).await.unwrap();
    assert_eq!(some.instances.len(), 4, "as many as there is room for");
    let error = world.call::<RunInstances>(world.run(1)).await.unwrap_err();
    assert!(error.message().contains("0 of 1 vCPUs"), "{error}");
}

#[tokio::test]
async fn cordoned_and_lost_hosts_take_nothing_new() {
    let world = World::new(SMALL).await;
    for (mode, words) in [(HostMode::Cordoned, "1 host: 1 cordoned"), (HostMode::Lost, "1 host: 1 lost")] {
        world.with_context(|cx| ops::set_host_mode(cx.txn, world.host, mode)).await.unwrap();
        let error = world.call::<RunInstances>(world.run(1)).await.unwrap_err();
        assert_eq!(error.code(), "InsufficientInstanceCapacity");
        assert!(error.message().contains(words), "{error}");
    }
}

#[tokio::test]
async fn quotas_hold_exactly() {
    let world = World::new(ROOMY).await;
    let account = world.account();
    for (limits, expected) in [
        (Limits { instances: 2, ..Limits::default() }, "InstanceLimitExceeded"),
        (Limits { vcpus: 2, ..Limits::default() }, "VcpuLimitExceeded"),
        (Limits { volumes: 2, ..Limits::default() }, "VolumeLimitExceeded"),
    ] {
        world.with_context(|cx| cx.txn.put(&limits_key(account), &limits)).await.unwrap();
        let result = world.call::<RunInstances>(world.run(3)).await;
        assert_eq!(code(&result), expected);
        assert!(world.kinds().await.is_empty());
    }
    world.with_context(|cx| cx.txn.put(&limits_key(account), &Limits { vcpus: 2, ..Limits::default() })).await.unwrap();
    assert_eq!(code(&world.call::<RunInstances>(world.run(2)).await), "ok");
    assert_eq!(code(&world.call::<RunInstances>(world.run(1)).await), "VcpuLimitExceeded");
}

#[tokio::test]
async fn a_stopped_instance_gives_its_processors_to_others() {
    let mut cloud = Cloud::new(SMALL).await;
    let first = cloud.run(cloud.world.run(4)).await;
    cloud.settle().await;
    let stop = ec2::StopInstancesRequest { instance_ids: vec![first[0].to_string()], ..Default::default() };
    cloud.world.call::<StopInstances>(stop).await.unwrap();
    assert_eq!(code(&cloud.world.call::<RunInstances>(cloud.world.run(1)).await), "InsufficientInstanceCapacity");
    cloud.settle().await;
    let second = cloud.run(cloud.world.run(1)).await;
    let start = ec2::StartInstancesRequest { instance_ids: vec![first[0].to_string()], ..Default::default() };
    let error = cloud.world.call::<StartInstances>(start.clone()).await.unwrap_err();
    assert_eq!(error.code(), "InsufficientInstanceCapacity");
    let gone = ec2::TerminateInstancesRequest { instance_ids: vec![second[0].to_string()], ..Default::default() };
    cloud.world.call::<TerminateInstances>(gone).await.unwrap();
    cloud.settle().await;
    cloud.world.call::<StartInstances>(start).await.unwrap();
    let reserved = cloud
        .world
        .store
        .read()
        .await
        .unwrap()
        .peek::<HostCapacity>(&host_capacity_key(cloud.world.host))
        .unwrap()
        .unwrap();
    assert_eq!(reserved.reserved.vcpus, 4);
}

#[tokio::test]
async fn an_instance_costs_less_than_three_kibibytes() {
    let mut cloud = Cloud::new(ROOMY).await;
    cloud.settle().await;
    cloud.run(cloud.world.run(1)).await;
    cloud.settle().await;
    let before = cloud.world.store.stats().await.unwrap();
    cloud.run(cloud.world.run(100)).await;
    cloud.settle().await;
    let after = cloud.world.store.stats().await.unwrap();
    let per_instance = (after.bytes - before.bytes) / 100;
    assert!(per_instance <= 3 << 10, "{per_instance} bytes: {:?}", after.by_kind);
    println!("{per_instance} bytes per running instance: {:?}", after.by_kind);
}
