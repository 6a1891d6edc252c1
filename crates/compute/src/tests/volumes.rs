//! Volumes beside and on instances; images and their snapshots.

use async_trait::async_trait;
use std::sync::Arc;
use terroir_action::{LiveAction, LiveContext};
use terroir_aws_model::ec2;
use terroir_block_storage::aws::{
    DeleteVolume, DeregisterImage, DescribeImages, DescribeSnapshots, DescribeVolumeStatus, DescribeVolumes,
    ObjectFacts, ObjectSource, RegisterImage,
};
use terroir_block_storage::model::ObjectRef;
use terroir_types::{AccountId, Clock, Error, InstanceId};

use super::{Cloud, ROOMY, code};
use crate::aws::{AttachVolume, CreateVolume, DetachVolume, RunInstances, StopInstances, TerminateInstances};
use crate::testing::{World, ZONE};

fn create(size: Option<i32>, kind: Option<&str>) -> ec2::CreateVolumeRequest {
    ec2::CreateVolumeRequest {
        availability_zone: Some(ZONE.to_owned()),
        size,
        volume_type: kind.map(str::to_owned),
        ..Default::default()
    }
}

#[tokio::test]
async fn volumes_are_made_or_refused_in_awss_words() {
    let world = World::new(crate::testing::Size { vcpus: 1, memory_gib: 1, disk_gib: 200 }).await;
    let base = || create(Some(5), None);
    let rows = [
        (base(), "ok"),
        (create(Some(5), Some("gp3")), "ok"),
        (create(Some(5), Some("standard")), "ok"),
        (create(Some(5), Some("io1")), "MissingParameter"),
        (ec2::CreateVolumeRequest { iops: Some(200), ..create(Some(5), Some("io1")) }, "ok"),
        (ec2::CreateVolumeRequest { iops: Some(99), ..create(Some(5), Some("io1")) }, "InvalidParameterValue"),
        (ec2::CreateVolumeRequest { iops: Some(200), ..create(Some(5), Some("gp2")) }, "InvalidParameterCombination"),
        (ec2::CreateVolumeRequest { throughput: Some(200), ..create(Some(5), Some("gp3")) }, "ok"),
        (ec2::CreateVolumeRequest { throughput: Some(1), ..create(Some(5), Some("gp3")) }, "InvalidParameterValue"),
        (create(Some(5), Some("gp9")), "UnknownVolumeType"),
        (create(None, None), "MissingParameter"),
        (create(Some(0), None), "InvalidParameterValue"),
        (create(Some(-1), None), "InvalidParameterValue"),
        (create(Some(70_000), Some("gp3")), "InvalidParameterValue"),
        (create(Some(100), Some("st1")), "InvalidParameterValue"),
        (create(Some(1_000), None), "InsufficientVolumeCapacity"),
        (ec2::CreateVolumeRequest { availability_zone: None, ..base() }, "MissingParameter"),
        (ec2::CreateVolumeRequest { availability_zone: Some("mars".into()), ..base() }, "InvalidZone.NotFound"),
        (
            ec2::CreateVolumeRequest { availability_zone_id: Some("eul1-az1".into()), ..base() },
            "InvalidParameterCombination",
        ),
        (ec2::CreateVolumeRequest { snapshot_id: Some("snap-x".into()), ..base() }, "InvalidSnapshotID.Malformed"),
        (
            ec2::CreateVolumeRequest { snapshot_id: Some("snap-0123456789abcdef0".into()), ..base() },
            "InvalidSnapshot.NotFound",
        ),
        (ec2::CreateVolumeRequest { encrypted: Some(true), ..base() }, "UnsupportedOperation"),
        (ec2::CreateVolumeRequest { multi_attach_enabled: Some(true), ..base() }, "InvalidParameterCombination"),
        (
            ec2::CreateVolumeRequest { multi_attach_enabled: Some(true), ..create(Some(5), Some("io1")) },
            "UnsupportedOperation",
        ),
    ];
    for (request, expected) in rows {
        let result = world.call::<CreateVolume>(request.clone()).await;
        assert_eq!(code(&result), expected, "{request:?}");
    }
    let listed = world.call::<DescribeVolumes>(ec2::DescribeVolumesRequest::default()).await.unwrap();
    assert_eq!(listed.volumes.len(), 5);
    assert!(
        listed.volumes.iter().all(|v| v.state.as_deref() == Some("creating") && v.multi_attach_enabled == Some(false))
    );
}

async fn volume(cloud: &Cloud, id: &str) -> Option<ec2::Volume> {
    let request = ec2::DescribeVolumesRequest { volume_ids: vec![id.to_owned()], ..Default::default() };
    match cloud.world.call::<DescribeVolumes>(request).await {
        Ok(mut answer) => answer.volumes.pop(),
        Err(error) => {
            assert_eq!(error.code(), "InvalidVolume.NotFound");
            None
        }
    }
}

/// `state/attachment state`
async fn states(cloud: &Cloud, id: &str) -> String {
    let Some(volume) = volume(cloud, id).await else { return "none".to_owned() };
    let attached = volume.attachments.first().and_then(|attachment| attachment.state.clone());
    [volume.state, attached].into_iter().flatten().collect::<Vec<_>>().join("/")
}

fn attach(volume: &str, instance: InstanceId, device: &str) -> ec2::AttachVolumeRequest {
    ec2::AttachVolumeRequest {
        volume_id: volume.to_owned(),
        instance_id: instance.to_string(),
        device: device.to_owned(),
        ..Default::default()
    }
}

fn detach(volume: &str) -> ec2::DetachVolumeRequest {
    ec2::DetachVolumeRequest { volume_id: volume.to_owned(), ..Default::default() }
}

fn delete(volume: &str) -> ec2::DeleteVolumeRequest {
    ec2::DeleteVolumeRequest { volume_id: volume.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_volume_is_attached_seen_and_let_go() {
    let mut cloud = Cloud::new(ROOMY).await;
    let instances = cloud.run(cloud.world.run(2)).await;
    let id = cloud.world.call::<CreateVolume>(create(Some(5), None)).await.unwrap().volume_id.unwrap();
    let early = cloud.world.call::<AttachVolume>(attach(&id, instances[0], "/dev/sdf")).await;
    assert_eq!(code(&early), "IncorrectState", "it is still being made");
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "available");
    for (request, expected) in [
        (attach(&id, instances[0], "sdf/../x"), "InvalidParameterValue"),
        (attach(&id, instances[0], "/dev/xvda"), "InvalidParameterValue"),
        (attach("vol-0123456789abcdef0", instances[0], "/dev/sdf"), "InvalidVolume.NotFound"),
        (attach("vol-x", instances[0], "/dev/sdf"), "InvalidVolumeID.Malformed"),
        (
            ec2::AttachVolumeRequest {
                instance_id: "i-0123456789abcdef0".into(),
                ..attach(&id, instances[0], "/dev/sdf")
            },
            "InvalidInstanceID.NotFound",
        ),
    ] {
        assert_eq!(code(&cloud.world.call::<AttachVolume>(request.clone()).await), expected, "{request:?}");
    }
    assert_eq!(code(&cloud.world.call::<DetachVolume>(detach(&id)).await), "IncorrectState");
    let answer = cloud.world.call::<AttachVolume>(attach(&id, instances[0], "/dev/sdf")).await.unwrap();
    assert_eq!(answer.state.as_deref(), Some("attaching"));
    assert_eq!(code(&cloud.world.call::<AttachVolume>(attach(&id, instances[1], "/dev/sdf")).await), "VolumeInUse");
    assert_eq!(code(&cloud.world.call::<DeleteVolume>(delete(&id)).await), "VolumeInUse");
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "in-use/attached");
    let other = ec2::DetachVolumeRequest { instance_id: Some(instances[1].to_string()), ..detach(&id) };
    assert_eq!(code(&cloud.world.call::<DetachVolume>(other).await), "InvalidAttachment.NotFound");
    assert_eq!(cloud.world.call::<DetachVolume>(detach(&id)).await.unwrap().state.as_deref(), Some("detaching"));
    assert_eq!(states(&cloud, &id).await, "in-use/detaching");
    assert_eq!(code(&cloud.world.call::<AttachVolume>(attach(&id, instances[1], "/dev/sdf")).await), "VolumeInUse");
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "available");
    cloud.world.call::<AttachVolume>(attach(&id, instances[1], "/dev/sdf")).await.unwrap();
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "in-use/attached");
    let gone = ec2::TerminateInstancesRequest { instance_ids: vec![instances[1].to_string()], ..Default::default() };
    cloud.world.call::<TerminateInstances>(gone).await.unwrap();
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "available", "it was not to be deleted with the instance");
    cloud.world.call::<DeleteVolume>(delete(&id)).await.unwrap();
    assert_eq!(states(&cloud, &id).await, "deleting");
    cloud.settle().await;
    assert_eq!(states(&cloud, &id).await, "none");
}

#[tokio::test]
async fn root_volumes_leave_only_stopped_instances() {
    let mut cloud = Cloud::new(ROOMY).await;
    let instance = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    let root = cloud.describe(instance).await.block_device_mappings[0].ebs.clone().unwrap().volume_id.unwrap();
    assert_eq!(states(&cloud, &root).await, "in-use/attached");
    assert_eq!(code(&cloud.world.call::<DetachVolume>(detach(&root)).await), "OperationNotPermitted");
    let stop = ec2::StopInstancesRequest { instance_ids: vec![instance.to_string()], ..Default::default() };
    cloud.world.call::<StopInstances>(stop).await.unwrap();
    cloud.settle().await;
    assert_eq!(states(&cloud, &root).await, "in-use/attached");
    cloud.world.call::<DetachVolume>(detach(&root)).await.unwrap();
    cloud.settle().await;
    assert_eq!(states(&cloud, &root).await, "available");
    let start = ec2::StartInstancesRequest { instance_ids: vec![instance.to_string()], ..Default::default() };
    let result = cloud.world.call::<crate::aws::StartInstances>(start.clone()).await;
    assert_eq!(code(&result), "IncorrectInstanceState", "there is nothing to boot from");
    let back = cloud.world.call::<AttachVolume>(attach(&root, instance, "/dev/xvda")).await.unwrap();
    assert_eq!(back.device.as_deref(), Some("/dev/xvda"));
    cloud.settle().await;
    assert_eq!(code(&cloud.world.call::<crate::aws::StartInstances>(start).await), "ok");
    let status = cloud.world.call::<DescribeVolumeStatus>(ec2::DescribeVolumeStatusRequest::default()).await.unwrap();
    assert_eq!(status.volume_statuses[0].volume_status.as_ref().unwrap().status.as_deref(), Some("ok"));
}

/// A volume that goes with its instance, but was taken from it in time, is kept.
#[tokio::test]
async fn what_is_being_detached_does_not_go_with_its_instance() {
    let mut cloud = Cloud::new(ROOMY).await;
    let ebs = ec2::EbsBlockDevice { volume_size: Some(1), ..Default::default() };
    let mapping = |device: &str| ec2::BlockDeviceMapping {
        device_name: Some(device.to_owned()),
        ebs: Some(ebs.clone()),
        ..Default::default()
    };
    let request = ec2::RunInstancesRequest {
        block_device_mappings: vec![mapping("/dev/sdf"), mapping("/dev/sdg")],
        ..cloud.world.run(1)
    };
    let instance = cloud.run(request).await[0];
    cloud.settle().await;
    let mappings = cloud.describe(instance).await.block_device_mappings;
    let of = |device: &str| {
        let found = mappings.iter().find(|mapping| mapping.device_name.as_deref() == Some(device)).unwrap();
        let ebs = found.ebs.clone().unwrap();
        assert_eq!(ebs.delete_on_termination, Some(true));
        ebs.volume_id.unwrap()
    };
    let (taken, left) = (of("/dev/sdf"), of("/dev/sdg"));
    cloud.world.call::<DetachVolume>(detach(&taken)).await.unwrap();
    let terminate = ec2::TerminateInstancesRequest { instance_ids: vec![instance.to_string()], ..Default::default() };
    cloud.world.call::<TerminateInstances>(terminate).await.unwrap();
    cloud.settle().await;
    cloud.expect(instance, crate::state::InstanceState::Terminated).await;
    assert_eq!((states(&cloud, &taken).await.as_str(), states(&cloud, &left).await.as_str()), ("available", "none"));
}

struct OneObject;

#[async_trait]
impl ObjectSource for OneObject {
    async fn take_over(&self, _: AccountId, object: &ObjectRef, _: &str) -> Result<ObjectFacts, Error> {
        if (object.bucket.as_str(), object.key.as_str()) != ("images", "disk.raw") {
            return Err(Error::not_found("NoSuchKey", "The specified key does not exist."));
        }
        Ok(ObjectFacts { size_bytes: 3 << 29, sha256: "cd".repeat(32), head: vec![0xeb; 4096] })
    }

    async fn forget(&self, blob: &str) -> Result<(), Error> {
        assert!(blob.starts_with("snapshot/snap-"), "{blob}");
        Ok(())
    }
}

async fn register(world: &World, request: ec2::RegisterImageRequest) -> Result<String, Error> {
    let action = RegisterImage { objects: Arc::new(OneObject) };
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let cx = LiveContext {
        store: &world.store,
        caller: &world.caller,
        clock: &clock,
        ids: &*world.ids,
        region: &world.region,
        request_id: "test",
    };
    Ok(action.run(cx, request).await?.image_id.unwrap())
}

#[tokio::test]
async fn images_come_from_objects_and_snapshots() {
    let mut cloud = Cloud::new(ROOMY).await;
    let world = &cloud.world;
    let named = |name: &str| ec2::RegisterImageRequest { name: name.to_owned(), ..Default::default() };
    let from = |name: &str, location: &str| ec2::RegisterImageRequest {
        image_location: Some(location.to_owned()),
        ..named(name)
    };
    for (request, expected) in [
        (named("nothing"), "MissingParameter"),
        (from("no", "images/disk.raw"), "InvalidAMIName.Malformed"),
        (from("nö!", "images/disk.raw"), "InvalidAMIName.Malformed"),
        (from("gone", "images/nothing"), "NoSuchKey"),
        (from("nowhere", "images"), "InvalidParameterValue"),
        (
            ec2::RegisterImageRequest { architecture: Some("sparc".into()), ..from("sparc", "images/disk.raw") },
            "InvalidParameterValue",
        ),
        (
            ec2::RegisterImageRequest {
                virtualization_type: Some("paravirtual".into()),
                ..from("pv", "images/disk.raw")
            },
            "UnsupportedOperation",
        ),
        (from("mine", "images/disk.raw"), "ok"),
        (from("mine", "images/disk.raw"), "InvalidAMIName.Duplicate"),
    ] {
        assert_eq!(code(&register(world, request.clone()).await), expected, "{request:?}");
    }
    let own = ec2::DescribeImagesRequest { owners: vec!["self".to_owned()], ..Default::default() };
    let mine = world.call::<DescribeImages>(own.clone()).await.unwrap().images.remove(0);
    let snapshot = mine.block_device_mappings[0].ebs.clone().unwrap();
    assert_eq!((mine.state.as_deref(), snapshot.volume_size), (Some("available"), Some(2)), "1.5 GiB make two");
    let ebs = ec2::EbsBlockDevice { snapshot_id: snapshot.snapshot_id.clone(), ..Default::default() };
    let root = ec2::BlockDeviceMapping { device_name: Some("/dev/sda1".into()), ebs: Some(ebs), ..Default::default() };
    let again = ec2::RegisterImageRequest {
        block_device_mappings: vec![root],
        root_device_name: Some("/dev/sda1".to_owned()),
        ..named("again")
    };
    let again = register(world, again).await.unwrap();
    let request = ec2::RunInstancesRequest { image_id: Some(again.clone()), ..cloud.world.run(1) };
    let id = cloud.run(request).await[0];
    cloud.settle().await;
    cloud.expect(id, crate::state::InstanceState::Running).await;
    assert_eq!(cloud.describe(id).await.root_device_name.as_deref(), Some("/dev/sda1"));
    let world = &cloud.world;
    let everyone = ec2::DescribeImagesRequest { owners: vec!["terroir".to_owned()], ..Default::default() };
    let images = world.call::<DescribeImages>(everyone).await.unwrap().images;
    assert_eq!((images.len(), images[0].name.as_deref(), images[0].public), (1, Some("tiny"), Some(true)));
    let gone = |id: String, all| ec2::DeregisterImageRequest {
        image_id: id,
        delete_associated_snapshots: Some(all),
        ..Default::default()
    };
    let public = world.call::<DeregisterImage>(gone(world.image.to_string(), false)).await;
    assert_eq!(code(&public), "AuthFailure");
    let kept = world.call::<DeregisterImage>(gone(mine.image_id.unwrap(), true)).await.unwrap();
    assert_eq!(kept.delete_snapshot_results[0].return_code.as_deref(), Some("skipped"), "another image needs it");
    let removed = world.call::<DeregisterImage>(gone(again.clone(), true)).await.unwrap();
    assert_eq!(removed.delete_snapshot_results[0].return_code.as_deref(), Some("success"));
    let launch = ec2::RunInstancesRequest { image_id: Some(again), ..world.run(1) };
    assert_eq!(code(&world.call::<RunInstances>(launch).await), "InvalidAMIID.NotFound");
    let snapshots = ec2::DescribeSnapshotsRequest { owner_ids: vec!["self".to_owned()], ..Default::default() };
    assert!(world.call::<DescribeSnapshots>(snapshots).await.unwrap().snapshots.is_empty());
}
