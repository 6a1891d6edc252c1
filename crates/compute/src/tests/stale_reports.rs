//! Reports that are late, doubled or out of order: what does not count changes nothing.

use terroir_agent_api::{ControlPlane, EndCause, HostReport, InstancePhase, InstanceStatus, VolumePhase, VolumeStatus};
use terroir_aws_model::ec2;
use terroir_block_storage::aws::DescribeVolumes;
use terroir_block_storage::model::{Volume, volume_key};
use terroir_types::{Clock, Epoch, InstanceId, RunId, VolumeId};

use super::{Cloud, ROOMY};
use crate::aws::{AttachVolume, CreateVolume, DetachVolume, StartInstances, StopInstances};
use crate::model::{Instance, InstanceStatus as Known, instance_key, instance_status_key};
use crate::state::InstanceState as S;
use crate::testing::ZONE;

async fn report(cloud: &Cloud, instances: Vec<InstanceStatus>, volumes: Vec<VolumeStatus>) {
    let report = HostReport {
        host: cloud.world.host,
        boot_id: "boot-1".to_owned(),
        sequence: 1_000,
        full: false,
        facts: None,
        instances,
        volumes,
        interfaces: Vec::new(),
    };
    cloud.gateway.report(report).await.unwrap();
}

async fn spec(cloud: &Cloud, id: InstanceId) -> (Instance, Known) {
    let txn = cloud.world.store.read().await.unwrap();
    let account = cloud.world.account();
    let spec = txn.peek::<Instance>(&instance_key(account, id)).unwrap().unwrap();
    let status = txn.peek::<Known>(&instance_status_key(account, id)).unwrap().unwrap();
    (Instance::clone(&spec), Known::clone(&status))
}

#[tokio::test]
async fn only_news_of_the_current_run_counts() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    cloud
        .world
        .call::<StopInstances>(ec2::StopInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() })
        .await
        .unwrap();
    cloud.settle().await;
    let (_, known) = spec(&cloud, id).await;
    let now = cloud.world.clock.now();
    let status = |generation, epoch: Epoch, run_id: RunId, phase| InstanceStatus {
        id,
        generation,
        epoch,
        run_id,
        phase,
        machine: None,
        attached: Vec::new(),
        reboot_count: 0,
        changed_at: now,
    };
    let newer = known.generation + 1;
    let running = || InstancePhase::Running { started_at: now };
    report(&cloud, vec![status(newer, 1, 1, running())], vec![]).await;
    cloud.expect(id, S::Stopped).await;
    assert!(spec(&cloud, id).await.1.usage.is_none(), "a run that ended does not run again");
    cloud
        .world
        .call::<StartInstances>(ec2::StartInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() })
        .await
        .unwrap();
    cloud.settle().await;
    cloud.expect(id, S::Running).await;
    let (before, known) = spec(&cloud, id).await;
    let newer = known.generation + 1;
    let ended = || InstancePhase::Ended { cause: EndCause::GuestPowerOff };
    for (what, late) in [
        ("an older run", status(newer, 1, 1, ended())),
        ("a run that nobody asked for", status(newer, 1, 3, ended())),
        ("an older epoch", status(newer, 0, 2, ended())),
        ("a later epoch", status(newer, 2, 2, ended())),
        ("said before", status(known.generation, 1, 2, ended())),
        ("overtaken", status(known.generation - 1, 1, 2, ended())),
        ("gone, which nobody asked for", status(newer, 1, 2, InstancePhase::Gone)),
    ] {
        report(&cloud, vec![late], vec![]).await;
        let (after, _) = spec(&cloud, id).await;
        assert_eq!(after, before, "{what}");
    }
    report(&cloud, vec![status(newer + 1, 1, 2, ended())], vec![]).await;
    cloud.expect(id, S::Stopped).await;
}

#[tokio::test]
async fn a_volume_is_free_only_once_the_host_knows_that_it_must_let_go() {
    let mut cloud = Cloud::new(ROOMY).await;
    let instance = cloud.run(cloud.world.run(1)).await[0];
    let create =
        ec2::CreateVolumeRequest { availability_zone: Some(ZONE.to_owned()), size: Some(1), ..Default::default() };
    let id = cloud.world.call::<CreateVolume>(create).await.unwrap().volume_id.unwrap();
    cloud.settle().await;
    let attach = ec2::AttachVolumeRequest {
        volume_id: id.clone(),
        instance_id: instance.to_string(),
        device: "/dev/sdf".to_owned(),
        ..Default::default()
    };
    cloud.world.call::<AttachVolume>(attach).await.unwrap();
    let detach = ec2::DetachVolumeRequest { volume_id: id.clone(), ..Default::default() };
    cloud.world.call::<DetachVolume>(detach).await.unwrap();
    let volume: VolumeId = id.parse().unwrap();
    let key = volume_key(cloud.world.account(), volume);
    let epoch = cloud.world.store.read().await.unwrap().peek::<Volume>(&key).unwrap().unwrap().assignment.epoch;
    // The host saw the attachment and is about to plug it in; the detachment it has not seen yet.
    let failed = || VolumePhase::Failed { detail: "disk full".to_owned() };
    for (generation, epoch, phase, expected) in [
        (900, epoch - 1, VolumePhase::Ready, "in-use"),
        (901, epoch + 1, VolumePhase::Ready, "in-use"),
        (902, epoch, VolumePhase::Ready, "available"),
        (903, epoch, VolumePhase::Ready, "available"),
        (903, epoch, failed(), "available"),
        (850, epoch, failed(), "available"),
        (904, epoch - 1, failed(), "available"),
        (905, epoch, failed(), "error"),
    ] {
        report(&cloud, vec![], vec![VolumeStatus { id: volume, generation, epoch, phase, attached_to: None }]).await;
        let request = ec2::DescribeVolumesRequest { volume_ids: vec![id.clone()], ..Default::default() };
        let shown = cloud.world.call::<DescribeVolumes>(request).await.unwrap().volumes.remove(0);
        assert_eq!(shown.state.as_deref(), Some(expected), "generation {generation}");
    }
}
