//! Random requests against a host that is slow, forgetful and unlucky: what must hold, holds after every step.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use terroir_agent_api::{ControlPlane, EndCause, HostReport};
use terroir_aws_model::ec2;
use terroir_block_storage::Hold;
use terroir_block_storage::aws::DeleteVolume;
use terroir_block_storage::model::{HostVolume, Volume, VolumeStatus, volume_key, volume_status_key};
use terroir_metering::Interval;
use terroir_scheduler::Room;
use terroir_store::{Key, Txn};
use terroir_types::{Clock, Error, InstanceId, VolumeId};

use super::Cloud;
use crate::aws::{
    AttachVolume, CreateVolume, DetachVolume, ModifyInstanceAttribute, RebootInstances, RunInstances, StartInstances,
    StopInstances, TerminateInstances,
};
use crate::model::{
    Desired, HostCapacity, HostInstance, Instance, InstanceStatus, host_capacity_key, instance_key, instance_status_key,
};
use crate::ops;
use crate::testing::{GIB, Size, ZONE};

/// Small enough to be full now and then.
const SIZE: Size = Size { vcpus: 6, memory_gib: 4, disk_gib: 14 };

#[derive(Debug, Clone, Copy)]
struct Step {
    what: u8,
    /// Chooses among what is there.
    which: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![3 => 0..12u8, 2 => 12..17u8, 1 => 17..19u8, 2 => Just(19u8)];
    prop::collection::vec((what, any::<u16>()).prop_map(|(what, which)| Step { what, which }), 1..150)
}

fn instances(txn: &Txn) -> Vec<Instance> {
    txn.peek_range::<Instance>(&Key::new("instance")).unwrap().iter().map(|(_, i)| Instance::clone(i)).collect()
}

fn volumes(txn: &Txn) -> Vec<Volume> {
    txn.peek_range::<Volume>(&Key::new("volume")).unwrap().iter().map(|(_, v)| Volume::clone(v)).collect()
}

struct History {
    cloud: Cloud,
    /// Reports as they were sent, to be sent again.
    past: Vec<HostReport>,
    /// A report that is still under way.
    late: Option<HostReport>,
}

impl History {
    fn instance(&self, which: u16) -> Option<InstanceId> {
        let all = instances(&self.cloud.world.store.stale());
        (!all.is_empty()).then(|| all[usize::from(which) % all.len()].id)
    }

    fn volume(&self, which: u16) -> Option<VolumeId> {
        let all = volumes(&self.cloud.world.store.stale());
        (!all.is_empty()).then(|| all[usize::from(which) % all.len()].id)
    }

    async fn request(&self, step: Step) -> Result<(), Error> {
        let world = &self.cloud.world;
        let instance = self.instance(step.which).map(|id| id.to_string()).unwrap_or_default();
        let volume = self.volume(step.which).map(|id| id.to_string()).unwrap_or_default();
        let ids = vec![instance.clone()];
        match step.what {
            0 | 1 => {
                let behaviour = if step.which.is_multiple_of(2) { "stop" } else { "terminate" };
                let request = ec2::RunInstancesRequest {
                    instance_initiated_shutdown_behavior: Some(behaviour.to_owned()),
                    user_data: (step.which.is_multiple_of(3)).then(|| "eA==".to_owned()),
                    max_count: 2,
                    ..world.run(1)
                };
                world.call::<RunInstances>(request).await.map(drop)
            }
            2 => world
                .call::<StartInstances>(ec2::StartInstancesRequest { instance_ids: ids, ..Default::default() })
                .await
                .map(drop),
            3 => {
                let force = Some(step.which.is_multiple_of(2));
                let request = ec2::StopInstancesRequest { instance_ids: ids, force, ..Default::default() };
                world.call::<StopInstances>(request).await.map(drop)
            }
            4 => world
                .call::<TerminateInstances>(ec2::TerminateInstancesRequest { instance_ids: ids, ..Default::default() })
                .await
                .map(drop),
            5 => world
                .call::<RebootInstances>(ec2::RebootInstancesRequest { instance_ids: ids, ..Default::default() })
                .await
                .map(drop),
            6 => {
                let request = ec2::CreateVolumeRequest {
                    availability_zone: Some(ZONE.to_owned()),
                    size: Some(i32::from(step.which % 3) + 1),
                    ..Default::default()
                };
                world.call::<CreateVolume>(request).await.map(drop)
            }
            7 | 8 => {
                let request = ec2::AttachVolumeRequest {
                    volume_id: self.volume(step.which / 7).map(|id| id.to_string()).unwrap_or_default(),
                    instance_id: instance,
                    device: if step.what == 7 { "/dev/sdf" } else { "/dev/xvda" }.to_owned(),
                    ..Default::default()
                };
                world.call::<AttachVolume>(request).await.map(drop)
            }
            9 => {
                let request = ec2::DetachVolumeRequest { volume_id: volume, ..Default::default() };
                world.call::<DetachVolume>(request).await.map(drop)
            }
            10 => {
                let request = ec2::DeleteVolumeRequest { volume_id: volume, ..Default::default() };
                world.call::<DeleteVolume>(request).await.map(drop)
            }
            _ => {
                let request = ec2::ModifyInstanceAttributeRequest {
                    instance_id: instance,
                    attribute: Some(if step.which.is_multiple_of(2) { "instanceType" } else { "userData" }.to_owned()),
                    value: Some(if step.which.is_multiple_of(2) { "tr1.small" } else { "eQ==" }.to_owned()),
                    ..Default::default()
                };
                world.call::<ModifyInstanceAttribute>(request).await.map(drop)
            }
        }
    }

    async fn take(&mut self, step: Step) {
        self.cloud.world.advance(u64::from(step.which % 90));
        let now = self.cloud.world.clock.now();
        self.catch_up().await;
        match step.what {
            0..=11 => {
                // A refusal is fine; what is wrong inside is not.
                if let Err(error) = self.request(step).await {
                    let detail = error.internal_detail().map(str::to_owned);
                    assert!(error.code() != "InternalError", "{step:?}: {error} {detail:?}");
                }
            }
            12 | 13 => drop(self.cloud.host.pull(&*self.cloud.gateway).await),
            14 => self.cloud.host.apply(),
            15 => {
                let report = self.cloud.host.report(step.which.is_multiple_of(8), now, None);
                // Some reports overtake others.
                if step.which.is_multiple_of(3) && self.late.is_none() {
                    self.late = Some(report);
                } else {
                    self.send(report).await;
                    if let Some(late) = self.late.take() {
                        self.send(late).await;
                    }
                }
            }
            16 => {
                if let Some(old) = self.past.get(usize::from(step.which) % self.past.len().max(1)) {
                    self.cloud.gateway.report(old.clone()).await.unwrap();
                }
            }
            17 => {
                let cause = match step.which % 3 {
                    0 => EndCause::GuestPowerOff,
                    _ => EndCause::HypervisorDied { detail: String::new() },
                };
                self.cloud.host.accident(usize::from(step.which), &cause);
            }
            18 if step.which.is_multiple_of(4) => self.cloud.host.reboot(),
            18 if step.which.is_multiple_of(3) => {
                self.cloud.host.hold_interfaces = !self.cloud.host.hold_interfaces;
            }
            18 if step.which.is_multiple_of(2) => self.cloud.host.break_next_start = true,
            18 => self.cloud.host.interrupt_starts = usize::from(step.which % 7),
            _ => {
                self.cloud.host.pull(&*self.cloud.gateway).await;
                self.cloud.host.apply();
                let report = self.cloud.host.report(false, now, None);
                self.send(report).await;
            }
        }
    }

    async fn send(&mut self, report: HostReport) {
        self.past.push(report.clone());
        self.cloud.gateway.report(report).await.unwrap();
    }

    /// The view has every commit so far.
    async fn catch_up(&self) {
        self.cloud.world.store.read().await.unwrap();
    }

    async fn check(&self) {
        self.catch_up().await;
        let txn = self.cloud.world.store.stale();
        let (instances, volumes) = (instances(&txn), volumes(&txn));
        check_room(&txn, &self.cloud, &instances, &volumes);
        check_holders(&instances, &volumes);
        check_rows(&txn, &self.cloud, &instances, &volumes);
        check_usage(self.cloud.usage().await, &txn, &instances, &volumes);
    }

    /// Everything is terminated and deleted, the host catches up, an hour passes.
    async fn wind_up(&mut self) {
        if let Some(late) = self.late.take() {
            self.cloud.gateway.report(late).await.unwrap();
        }
        self.cloud.host.hold_interfaces = false;
        for _ in 0..3 {
            self.catch_up().await;
            let txn = self.cloud.world.store.stale();
            for instance in instances(&txn) {
                let request = ec2::TerminateInstancesRequest {
                    instance_ids: vec![instance.id.to_string()],
                    ..Default::default()
                };
                self.cloud.world.call::<TerminateInstances>(request).await.unwrap();
            }
            for volume in
                volumes(&txn).iter().filter(|volume| volume.assignment.is_free() && volume.deleted_at.is_none())
            {
                let request = ec2::DeleteVolumeRequest { volume_id: volume.id.to_string(), ..Default::default() };
                self.cloud.world.call::<DeleteVolume>(request).await.unwrap();
            }
            self.cloud.settle().await;
        }
        self.check().await;
        self.cloud.world.advance(7200);
        self.cloud.world.with_context(|cx| ops::collect(cx.txn, cx.now)).await.unwrap();
        assert_eq!(self.cloud.world.kinds().await, BTreeMap::new(), "rows that nobody needs");
        let prefix = Key::new("~user-data");
        let user_data = self.cloud.world.store.range_direct::<crate::model::UserData>(&prefix, None, 10).await;
        assert!(user_data.unwrap().is_empty(), "user data that nobody has");
        let reserved = self
            .cloud
            .world
            .store
            .read()
            .await
            .unwrap()
            .peek::<HostCapacity>(&host_capacity_key(self.cloud.world.host));
        assert_eq!(reserved.unwrap().map(|c| c.reserved).unwrap_or_default(), Room::default());
        let whole = self.cloud.host.whole_spec(&*self.cloud.gateway).await;
        assert_eq!(whole.keys().collect::<Vec<_>>(), ["host"], "the host is asked for nothing");
    }
}

/// What is promised of the host is exactly what is used, and never more than there is; so are the quotas' counts.
fn check_room(txn: &Txn, cloud: &Cloud, instances: &[Instance], volumes: &[Volume]) {
    let running = instances.iter().filter(|instance| instance.holds_capacity);
    let room = Room {
        vcpus: running.clone().map(|instance| u64::from(instance.vcpus)).sum(),
        memory_bytes: running.clone().map(|instance| instance.memory_bytes).sum(),
        volume_bytes: volumes.iter().map(|volume| volume.size_bytes).sum(),
    };
    let capacity = txn.peek::<HostCapacity>(&host_capacity_key(cloud.world.host)).unwrap();
    assert_eq!(capacity.map(|capacity| capacity.reserved).unwrap_or_default(), room);
    assert!(room.vcpus <= 6 && room.memory_bytes <= 4 * GIB && room.volume_bytes <= 14 * GIB);
    let count = |name: &str| terroir_resources::count(txn, cloud.world.account(), name).unwrap();
    assert_eq!(count("instances"), instances.iter().filter(|i| i.terminated_at.is_none()).count() as i64);
    assert_eq!(count("vcpus"), i64::try_from(room.vcpus).unwrap());
    assert_eq!(count("volumes"), volumes.len() as i64);
}

/// A volume has one holder, who knows it; no instance has two volumes in one place.
fn check_holders(instances: &[Instance], volumes: &[Volume]) {
    let by_id: BTreeMap<InstanceId, &Instance> = instances.iter().map(|instance| (instance.id, instance)).collect();
    let mut places = BTreeSet::new();
    for volume in volumes {
        assert_eq!(volume.attachment.is_some(), !volume.assignment.is_free(), "{volume:?}");
        assert!(volume.deleted_at.is_none() || volume.assignment.is_free(), "{volume:?}");
        let listed =
            instances.iter().filter(|instance| instance.volumes.contains(&volume.id)).map(|instance| instance.id);
        assert_eq!(listed.collect::<Vec<_>>(), volume.assignment.holder().into_iter().collect::<Vec<_>>());
        if let (Hold::Held(holder) | Hold::Releasing(holder), Some(attachment)) =
            (volume.assignment.hold, &volume.attachment)
        {
            assert!(by_id[&holder].terminated_at.is_none());
            assert!(places.insert((holder, attachment.slot)), "two volumes in slot {}", attachment.slot);
        }
    }
}

/// Every row belongs to something.
fn check_rows(txn: &Txn, cloud: &Cloud, instances: &[Instance], volumes: &[Volume]) {
    let account = cloud.world.account();
    for (key, row) in txn.peek_range::<HostInstance>(&Key::new("host-instance")).unwrap() {
        let id = key.last().parse().unwrap();
        let instance = txn.peek::<Instance>(&instance_key(row.account, id)).unwrap().unwrap();
        assert_eq!(instance.host(), Some(cloud.world.host));
    }
    let on_host = instances.iter().filter(|instance| instance.host().is_some()).count();
    assert_eq!(txn.count(&Key::new("host-instance")), on_host);
    for (key, row) in txn.peek_range::<HostVolume>(&Key::new("host-volume")).unwrap() {
        assert!(txn.peek::<Volume>(&volume_key(row.account, key.last().parse().unwrap())).unwrap().is_some());
    }
    assert_eq!(txn.count(&Key::new("host-volume")), volumes.len());
    let statuses = txn.peek_range::<InstanceStatus>(&Key::new("instance-status")).unwrap();
    for (key, _) in &statuses {
        assert!(txn.peek::<Instance>(&instance_key(account, key.last().parse().unwrap())).unwrap().is_some());
    }
    for (key, _) in txn.peek_range::<VolumeStatus>(&Key::new("volume-status")).unwrap() {
        assert!(txn.peek::<Volume>(&volume_key(account, key.last().parse().unwrap())).unwrap().is_some());
    }
    for instance in instances.iter().filter(|instance| instance.terminated_at.is_some()) {
        assert!(instance.desired == Desired::Terminated && !instance.holds_capacity && instance.volumes.is_empty());
        assert!(!terroir_network::ops::has_interfaces(txn, instance.id), "whoever sees it may delete the subnet");
    }
}

/// Intervals of one resource never overlap, and none is open of what does not run.
fn check_usage(closed: Vec<Interval>, txn: &Txn, instances: &[Instance], volumes: &[Volume]) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut runs = BTreeSet::new();
    for interval in closed {
        let before = last.get(&interval.resource).copied().unwrap_or(i64::MIN);
        assert!(interval.started_at.millis() >= before, "{interval:?} overlaps what ended at {before}");
        assert!(interval.ended_at >= interval.started_at);
        assert!(runs.insert(format!("{} {:?}", interval.resource, interval.measure)), "billed twice: {interval:?}");
        last.insert(interval.resource.clone(), interval.ended_at.millis());
    }
    for instance in instances {
        let status = txn.peek::<InstanceStatus>(&instance_status_key(instance.account, instance.id)).unwrap();
        let Some(open) = status.and_then(|status| status.usage) else { continue };
        assert!(instance.holds_capacity, "{} is billed without holding anything", instance.id);
        assert!(open.since.millis() >= last.get(&instance.id.to_string()).copied().unwrap_or(i64::MIN));
    }
    for volume in volumes.iter().filter(|volume| volume.deleted_at.is_some()) {
        let status = txn.peek::<VolumeStatus>(&volume_status_key(volume.account, volume.id)).unwrap();
        assert!(status.is_none_or(|status| status.usage.is_none()), "{} is billed after its deletion", volume.id);
    }
}

fn cases() -> u32 {
    if std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1") { 500 } else { 60 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_must_hold_holds(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history = History { cloud: Cloud::new(SIZE).await, past: Vec::new(), late: None };
            for step in steps {
                history.take(step).await;
                history.check().await;
            }
            history.wind_up().await;
        });
    }
}
