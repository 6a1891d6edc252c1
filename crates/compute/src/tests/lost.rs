//! A host that was declared lost: what it had is over, and nothing waits for its word.

use terroir_agent_api::{ControlPlane, CrossingError};
use terroir_aws_model::ec2;
use terroir_block_storage::aws::{DeleteVolume, DescribeVolumes};
use terroir_types::{Clock, Error, InstanceId};

use super::{Cloud, ROOMY, code};
use crate::aws::{
    AttachVolume, CreateVolume, DetachVolume, ModifyInstanceAttribute, RunInstances, StartInstances, StopInstances,
    TerminateInstances,
};
use crate::model::{HostCapacity, HostMode, host_capacity_key};
use crate::ops;
use crate::state::InstanceState as S;
use crate::testing::ZONE;

async fn terminate(cloud: &Cloud, id: InstanceId) {
    let request = ec2::TerminateInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() };
    cloud.world.call::<TerminateInstances>(request).await.unwrap();
}

async fn start(cloud: &Cloud, id: InstanceId) -> Result<ec2::StartInstancesResult, Error> {
    let request = ec2::StartInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() };
    cloud.world.call::<StartInstances>(request).await
}

/// A volume of one GiB on the cloud's only host.
async fn volume(cloud: &mut Cloud) -> String {
    let create =
        ec2::CreateVolumeRequest { availability_zone: Some(ZONE.to_owned()), size: Some(1), ..Default::default() };
    let made = cloud.world.call::<CreateVolume>(create).await.unwrap();
    cloud.settle().await;
    made.volume_id.unwrap()
}

async fn attach(cloud: &Cloud, volume: &str, instance: InstanceId) -> Result<ec2::VolumeAttachment, Error> {
    let request = ec2::AttachVolumeRequest {
        volume_id: volume.to_owned(),
        instance_id: instance.to_string(),
        device: "/dev/sdf".to_owned(),
        ..Default::default()
    };
    cloud.world.call::<AttachVolume>(request).await
}

async fn volume_state(cloud: &Cloud, id: &str) -> String {
    let request = ec2::DescribeVolumesRequest { volume_ids: vec![id.to_owned()], ..Default::default() };
    match cloud.world.call::<DescribeVolumes>(request).await {
        Ok(mut found) => found.volumes.remove(0).state.unwrap(),
        Err(error) => error.code().to_owned(),
    }
}

async fn declare_lost(cloud: &Cloud) {
    cloud.world.with_context(|cx| ops::set_host_mode(cx.txn, cloud.world.host, HostMode::Lost)).await.unwrap();
}

async fn settle(cloud: &Cloud) {
    while cloud.world.with_context(|cx| ops::settle_lost(cx.txn, cx.now)).await.unwrap().more {}
}

/// The cloud with its host and another one beside it.
async fn with_a_second_host(cloud: &Cloud) {
    use terroir_types::ResourceId;
    let id = terroir_types::HostId::generate(&*cloud.world.ids);
    let register = |cx: &mut terroir_action::Context<'_>| {
        ops::register_host(cx.txn, id, ZONE, crate::testing::facts(ROOMY), cx.now)
    };
    cloud.world.with_context(register).await.unwrap();
}

#[tokio::test]
async fn what_a_lost_host_had_is_over() {
    let mut cloud = Cloud::new(ROOMY).await;
    let made = cloud.run(cloud.world.run(5)).await;
    let [running, stopping, leaving, gone, stopped] = made[..] else { panic!("five") };
    let (kept, detaching, deleted) = (volume(&mut cloud).await, volume(&mut cloud).await, volume(&mut cloud).await);
    attach(&cloud, &kept, running).await.unwrap();
    attach(&cloud, &detaching, stopping).await.unwrap();
    cloud.settle().await;
    let stop = |id: InstanceId| ec2::StopInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() };
    cloud.world.call::<StopInstances>(stop(stopped)).await.unwrap();
    // Gone, but for an interface that its host never lets go.
    cloud.host.hold_interfaces = true;
    terminate(&cloud, gone).await;
    cloud.settle().await;
    cloud.world.call::<StopInstances>(stop(stopping)).await.unwrap();
    terminate(&cloud, leaving).await;
    let detach = ec2::DetachVolumeRequest { volume_id: detaching.clone(), ..Default::default() };
    cloud.world.call::<DetachVolume>(detach).await.unwrap();
    let delete = ec2::DeleteVolumeRequest { volume_id: deleted.clone(), ..Default::default() };
    cloud.world.call::<DeleteVolume>(delete).await.unwrap();
    for (id, state) in [(stopping, S::Stopping), (leaving, S::ShuttingDown), (gone, S::ShuttingDown)] {
        cloud.expect(id, state).await;
    }
    cloud.world.advance(100);
    declare_lost(&cloud).await;
    // At once, whatever is settled when.
    for id in [running, stopping, stopped] {
        cloud.expect(id, S::Stopped).await;
        assert_eq!(code(&start(&cloud, id).await), "InsufficientInstanceCapacity");
    }
    let resize = ec2::ModifyInstanceAttributeRequest {
        instance_id: running.to_string(),
        attribute: Some("instanceType".to_owned()),
        value: Some("tr1.small".to_owned()),
        ..Default::default()
    };
    let resized = cloud.world.call::<ModifyInstanceAttribute>(resize.clone()).await;
    assert!(matches!(code(&resized), "ok" | "IncorrectInstanceState"), "{resized:?}");
    let launch = cloud.world.call::<RunInstances>(cloud.world.run(1)).await;
    assert_eq!(code(&launch), "InsufficientInstanceCapacity");

    settle(&cloud).await;
    cloud.world.advance(1000);
    settle(&cloud).await;
    for (id, state) in [(running, S::Stopped), (stopping, S::Stopped), (stopped, S::Stopped)] {
        cloud.expect(id, state).await;
    }
    for id in [leaving, gone] {
        cloud.expect(id, S::Terminated).await;
    }
    let lost = cloud.describe(running).await;
    assert!(lost.state_reason.unwrap().message.unwrap().contains("host was lost"));
    assert_eq!(lost.public_ip_address, None);
    assert_eq!(code(&cloud.world.call::<ModifyInstanceAttribute>(resize).await), "ok");
    for (id, state) in [(&kept, "in-use"), (&detaching, "available"), (&deleted, "InvalidVolume.NotFound")] {
        assert_eq!(volume_state(&cloud, id).await, state);
    }
    let usage = cloud.usage().await;
    for id in &made {
        let of: Vec<_> = usage.iter().filter(|interval| interval.resource == id.to_string()).collect();
        assert_eq!(of.len(), 1, "{id} is paid for once, and no longer");
        assert!(of[0].billable_seconds() <= 100);
    }

    // Its disks are nowhere else.
    with_a_second_host(&cloud).await;
    let elsewhere = cloud.run(cloud.world.run(1)).await[0];
    assert_eq!(code(&attach(&cloud, &detaching, elsewhere).await), "UnsupportedOperation");

    // It is heard no more, and told nothing.
    let now = cloud.world.clock.now();
    let report = cloud.host.report(true, now, None);
    assert!(matches!(cloud.gateway.report(report).await, Err(CrossingError::Refused(_))));
    let pulled = cloud.gateway.pull_spec(cloud.world.host, 0, std::time::Duration::ZERO).await;
    assert!(matches!(pulled, Err(CrossingError::Refused(_))));

    // What is left can be removed as anything else.
    for id in [running, stopping, stopped] {
        terminate(&cloud, id).await;
    }
    settle(&cloud).await;
    for id in [running, stopping, stopped] {
        cloud.expect(id, S::Terminated).await;
    }
    for id in [&kept, &detaching] {
        let delete = ec2::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        cloud.world.call::<DeleteVolume>(delete).await.unwrap();
    }
    settle(&cloud).await;
    let txn = cloud.world.store.read().await.unwrap();
    let reserved = txn.peek::<HostCapacity>(&host_capacity_key(cloud.world.host)).unwrap().unwrap();
    assert_eq!(*reserved, HostCapacity::default());
    for kind in ["host-instance", "host-volume", "host-interface"] {
        let rows = txn.count(&terroir_store::Key::new(format!("{kind}/{}", cloud.world.host)));
        assert_eq!(rows, 0, "{kind}");
    }
    let account = cloud.world.account();
    assert_eq!(terroir_resources::count(&txn, account, "instances").unwrap(), 1, "the one on the other host");
}

/// The gateway settles by itself, as soon as the operator has said it.
#[tokio::test]
async fn the_gateway_settles_a_lost_host() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    terminate(&cloud, id).await;
    cloud.expect(id, S::ShuttingDown).await;
    declare_lost(&cloud).await;
    for _ in 0..1000 {
        if cloud.state(id).await == S::Terminated.name() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it waits for a host that is lost");
}
