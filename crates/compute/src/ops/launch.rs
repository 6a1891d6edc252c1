//! RunInstances: choose the hosts, then write every record of every instance, all or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_action::Context;
use terroir_block_storage::Assignment;
use terroir_block_storage::model::{Attachment, Image};
use terroir_block_storage::ops::{NewVolume, VolumeShape};
use terroir_network::ops::InterfaceRequest;
use terroir_policy::{KeyCustody, Policy};
use terroir_resources::{Tags, add_to_count};
use terroir_scheduler::{Request, Room};
use terroir_sovereignty::ops::effective_policy;
use terroir_sovereignty::receipt::{Event, Fact, Stay, note, policy_digest};
use terroir_types::{Error, ErrorClass, HostId, InstanceId, KeyPairId, ReservationId, ResourceId, VolumeId};

use super::{COUNT_INSTANCES, COUNT_VCPUS, COUNT_VOLUMES, cluster, limits, reserve};
use crate::catalogue::InstanceType;
use crate::model::{
    Desired, HostInstance, Instance, MetadataChoice, UserData, UserDataRef, host_instance_key, instance_key,
    user_data_key,
};

/// Most instances of one RunInstances; all of them are one transaction.
pub const MAX_PER_LAUNCH: u32 = 100;
/// Before encoding.
pub const MAX_USER_DATA_BYTES: usize = 16 << 10;

/// A RunInstances request whose parts were looked up and checked.
#[derive(Debug, Clone)]
pub struct Launch {
    pub min_count: u32,
    pub max_count: u32,
    pub image: Arc<Image>,
    pub instance_type: Arc<InstanceType>,
    /// Only this zone; none: any.
    pub zone: Option<String>,
    pub key_pair: Option<KeyPairId>,
    /// In order of their device index; the first is the primary one.
    pub interfaces: Vec<InterfaceRequest>,
    /// The first is the root volume.
    pub volumes: Vec<LaunchVolume>,
    pub user_data: Option<Vec<u8>>,
    /// Id of the instance profile.
    pub profile: Option<String>,
    pub metadata: MetadataChoice,
    pub shutdown_terminates: bool,
    pub termination_protected: bool,
    pub stop_protected: bool,
    pub monitoring: bool,
    pub ebs_optimized: bool,
    pub instance_tags: Tags,
    pub volume_tags: Tags,
    pub interface_tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchVolume {
    pub device: String,
    pub shape: VolumeShape,
    pub delete_on_termination: bool,
}

impl Launch {
    fn needs(&self) -> Room {
        Room {
            vcpus: u64::from(self.instance_type.vcpus),
            memory_bytes: self.instance_type.memory_bytes(),
            volume_bytes: self.volumes.iter().map(|volume| volume.shape.size_bytes).sum(),
        }
    }
}

/// Launches as many instances as there is room for, at least `min_count`, at most `max_count`; all in one zone.
///
/// Errors: `InsufficientInstanceCapacity` with the reasons; those of [`effective_policy`]; `InstanceLimitExceeded`, `VcpuLimitExceeded`,
/// `VolumeLimitExceeded`; those of interfaces.
pub fn launch(cx: &mut Context<'_>, launch: &Launch) -> Result<Vec<Instance>, Error> {
    let policy = policy(cx, launch)?;
    let (zone, hosts) = choose_hosts(cx, launch, &policy)?;
    count(cx, launch, hosts.len())?;
    let mut per_host: BTreeMap<HostId, u64> = BTreeMap::new();
    for host in &hosts {
        *per_host.entry(*host).or_default() += 1;
    }
    let needs = launch.needs();
    for (host, instances) in per_host {
        let room = Room {
            vcpus: needs.vcpus * instances,
            memory_bytes: needs.memory_bytes * instances,
            volume_bytes: needs.volume_bytes * instances,
        };
        reserve(cx.txn, host, room)?;
    }
    let reservation = ReservationId::generate(cx.ids);
    let user_data = keep_user_data(cx, launch, reservation)?;
    let mut instances = Vec::with_capacity(hosts.len());
    for (index, host) in (0..).zip(hosts) {
        instances.push(one(cx, launch, &zone, host, reservation, index, user_data.clone())?);
    }
    note_placed(cx, &instances, &policy)?;
    Ok(instances)
}

/// Tells the receipts' log of the instances and of their volumes.
fn note_placed(cx: &mut Context<'_>, instances: &[Instance], policy: &Policy) -> Result<(), Error> {
    let digest = policy_digest(policy);
    let mut named = Vec::new();
    for instance in instances {
        let stay = Stay { host: instance.host(), site: &instance.zone };
        named.push((instance.id.to_string(), "instance", stay));
        named.extend(instance.volumes.iter().map(|volume| (volume.to_string(), "volume", stay)));
    }
    let mut facts = Vec::with_capacity(named.len());
    for (resource, kind, stay) in &named {
        let (account, event, from) = (cx.caller.account, Event::Placed, None);
        facts.push(Fact { account, resource, kind, event, stay: *stay, from, policy: &digest });
    }
    note(cx.txn, &facts, cx.now)
}

/// What holds for the instances and for their volumes, which are where they are.
fn policy(cx: &Context<'_>, launch: &Launch) -> Result<Policy, Error> {
    let account = cx.caller.account;
    let of_instance = effective_policy(cx.txn, account, &launch.instance_tags)?;
    Ok(of_instance.and(&effective_policy(cx.txn, account, &launch.volume_tags)?))
}

/// Places one instance after the other on what the ones before left free.
fn choose_hosts(cx: &Context<'_>, launch: &Launch, policy: &Policy) -> Result<(String, Vec<HostId>), Error> {
    let mut cluster = cluster(cx.txn)?;
    let needs = launch.needs();
    let admission = cluster.admit(policy, KeyCustody::Operator);
    let mut zone = launch.zone.clone();
    let mut chosen = Vec::new();
    while chosen.len() < launch.max_count as usize {
        let request =
            Request { zone: zone.as_deref(), architecture: Some(&launch.image.architecture), ..Request::of(needs) };
        match cluster.place(&request, &admission, cx.ids) {
            Ok(id) => {
                chosen.push(id);
                cluster.take(id, needs);
                if zone.is_none() {
                    zone = cluster.place_of(id).map(|place| place.site.id.clone());
                }
            }
            Err(none) if chosen.len() < launch.min_count as usize => {
                let message = format!(
                    "There is not enough capacity to fulfil your request of {} {}: {none}.",
                    launch.min_count, launch.instance_type.name
                );
                return Err(Error::new(ErrorClass::Capacity, "InsufficientInstanceCapacity", message));
            }
            Err(_) => break,
        }
    }
    Ok((zone.unwrap_or_default(), chosen))
}

fn count(cx: &mut Context<'_>, launch: &Launch, instances: usize) -> Result<(), Error> {
    let account = cx.caller.account;
    let limits = limits(cx.txn, account)?;
    let instances = i64::try_from(instances).unwrap_or(i64::MAX);
    add_to_count(cx.txn, account, COUNT_INSTANCES, instances, limits.instances, || {
        let message = format!(
            "You have requested more instances ({instances}) than your current instance limit of {} allows.",
            limits.instances
        );
        Error::limit("InstanceLimitExceeded", message)
    })?;
    let vcpus = i64::from(launch.instance_type.vcpus) * instances;
    add_to_count(cx.txn, account, COUNT_VCPUS, vcpus, limits.vcpus, || vcpu_limit(vcpus, limits.vcpus))?;
    let volumes = i64::try_from(launch.volumes.len()).unwrap_or(i64::MAX) * instances;
    add_to_count(cx.txn, account, COUNT_VOLUMES, volumes, limits.volumes, || volume_limit(limits.volumes))?;
    Ok(())
}

pub(super) fn vcpu_limit(vcpus: i64, limit: i64) -> Error {
    let message =
        format!("You have requested more vCPU capacity ({vcpus}) than your current vCPU limit of {limit} allows.");
    Error::limit("VcpuLimitExceeded", message)
}

pub(super) fn volume_limit(limit: i64) -> Error {
    Error::limit("VolumeLimitExceeded", format!("Maximum number of volumes, {limit}, exceeded."))
}

fn keep_user_data(
    cx: &mut Context<'_>,
    launch: &Launch,
    reservation: ReservationId,
) -> Result<Option<UserDataRef>, Error> {
    let Some(bytes) = &launch.user_data else { return Ok(None) };
    let account = cx.caller.account;
    cx.txn.put(&user_data_key(account, reservation), &UserData { account, tenant: bytes.clone() })?;
    Ok(Some(user_data_ref(bytes, false)))
}

pub(super) fn user_data_ref(bytes: &[u8], own: bool) -> UserDataRef {
    use sha2::Digest;
    UserDataRef { own, sha256: hex::encode(sha2::Sha256::digest(bytes)), size_bytes: bytes.len() as u64 }
}

fn one(
    cx: &mut Context<'_>,
    launch: &Launch,
    zone: &str,
    host: HostId,
    reservation: ReservationId,
    launch_index: u32,
    user_data: Option<UserDataRef>,
) -> Result<Instance, Error> {
    let account = cx.caller.account;
    let id = InstanceId::generate(cx.ids);
    for request in &launch.interfaces {
        let request = InterfaceRequest { zone: Some(zone.to_owned()), ..request.clone() };
        let interface = terroir_network::ops::create_interface_for_instance(cx, id, host, &request)?;
        if !launch.interface_tags.is_empty() {
            terroir_resources::set_tags(cx.txn, account, &interface.id.to_string(), &launch.interface_tags)?;
        }
    }
    let volumes = volumes(cx, launch, zone, host, id)?;
    let instance = Instance {
        account,
        id,
        reservation,
        launch_index,
        image: launch.image.id,
        instance_type: launch.instance_type.name.clone(),
        vcpus: launch.instance_type.vcpus,
        memory_bytes: launch.instance_type.memory_bytes(),
        architecture: launch.image.architecture.clone(),
        assignment: Assignment::held_by(host),
        zone: zone.to_owned(),
        run_id: 1,
        desired: Desired::Running,
        force_stop: false,
        reboot_count: 0,
        created_at: cx.now,
        launched_at: cx.now,
        volumes,
        root_device: launch.image.root_device.clone(),
        direct_boot: launch.image.direct_boot.clone(),
        key_pair: launch.key_pair,
        profile: launch.profile.clone(),
        user_data,
        metadata: launch.metadata,
        shutdown_terminates: launch.shutdown_terminates,
        termination_protected: launch.termination_protected,
        stop_protected: launch.stop_protected,
        monitoring: launch.monitoring,
        ebs_optimized: launch.ebs_optimized,
        holds_capacity: true,
        interrupted: 0,
        reason: None,
        events: Vec::new(),
        terminated_at: None,
    };
    terroir_resources::register(cx.txn, account, &id.to_string(), "instance", launch.instance_tags.clone(), cx.now)?;
    cx.txn.put(&host_instance_key(host, id), &HostInstance { account })?;
    cx.txn.put(&instance_key(account, id), &instance)?;
    Ok(instance)
}

fn volumes(
    cx: &mut Context<'_>,
    launch: &Launch,
    zone: &str,
    host: HostId,
    instance: InstanceId,
) -> Result<Vec<VolumeId>, Error> {
    let mut ids = Vec::with_capacity(launch.volumes.len());
    for (slot, volume) in (0..).zip(&launch.volumes) {
        let attachment = Attachment {
            device: volume.device.clone(),
            slot,
            delete_on_termination: volume.delete_on_termination,
            attached_at: cx.now,
            hot: false,
        };
        let new = NewVolume {
            host,
            zone,
            shape: &volume.shape,
            attached: Some((instance, attachment)),
            tags: launch.volume_tags.clone(),
        };
        let made = terroir_block_storage::ops::create_volume(cx.txn, cx.ids, cx.caller.account, cx.now, new)?;
        ids.push(made.id);
    }
    Ok(ids)
}
