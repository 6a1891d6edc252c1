//! Instances and the host itself as sections of a host's spec.

use std::collections::BTreeMap;
use terroir_action::Region;
use terroir_agent_api::{
    BlobFormat, BlobRef, DirectBoot, InstanceMetadata, InstanceProfileRef, InstanceSection, InterfaceAttachmentSpec,
    MetadataOptions, PowerState, PublicKey, Section, SectionKey, VolumeAttachmentSpec,
};
use terroir_block_storage::controller::blob_ref;
use terroir_block_storage::model::{ImageBoot, Volume, image_boot_key, volume_key};
use terroir_iam::model::InstanceProfile;
use terroir_iam::names::Entity;
use terroir_network::model::{Interface, SecurityGroup, Vpc};
use terroir_store::{Key, Txn};
use terroir_types::{Error, HostId, InstanceId};

use crate::model::{
    Desired, HostInstance, Instance, InstanceStatus, KeyPair, host_instance_key, instance_key, instance_status_key,
    key_pair_key,
};
use crate::names;

/// Keys of all sections of this crate that `host` has, but for the host's own.
pub fn sections_for_host(txn: &Txn, host: HostId) -> Result<Vec<SectionKey>, Error> {
    let rows = txn.peek_range::<HostInstance>(&Key::new(format!("host-instance/{host}")))?;
    Ok(rows.into_iter().map(|(key, _)| section_key(key.last())).collect())
}

fn section_key(id: impl std::fmt::Display) -> SectionKey {
    format!("instance/{id}")
}

/// Which of this crate's sections a changed record touches; all, or none, of them may be on `host`.
pub fn dependents(txn: &Txn, changed: &Key) -> Result<Option<SectionKey>, Error> {
    Ok(match changed.kind() {
        "instance" | "host-instance" => Some(section_key(changed.last())),
        // Tags are served to the guest if its options say so.
        "resource" if changed.last().starts_with("i-") => Some(section_key(changed.last())),
        "volume" => {
            let volume = txn.peek::<Volume>(changed)?;
            volume.and_then(|volume| volume.assignment.holder()).map(section_key)
        }
        "interface" => {
            let interface = txn.peek::<Interface>(changed)?;
            interface.and_then(|interface| interface.instance()).map(section_key)
        }
        "instance-interface" => changed.segment(1).map(section_key),
        _ => None,
    })
}

/// The section as it should be now; none if the host has no such instance, or the key is not of this crate.
pub fn render(txn: &Txn, region: &Region, section: &str, host: HostId) -> Result<Option<Section>, Error> {
    let Some(id) = section.strip_prefix("instance/").and_then(|id| id.parse::<InstanceId>().ok()) else {
        return Ok(None);
    };
    let Some(index) = txn.peek::<HostInstance>(&host_instance_key(host, id))? else { return Ok(None) };
    let Some(instance) = txn.peek::<Instance>(&instance_key(index.account, id))? else { return Ok(None) };
    if instance.host() != Some(host) {
        return Ok(None);
    }
    let interfaces = terroir_network::ops::interfaces_of(txn, id)?;
    Ok(Some(Section::Instance(Box::new(InstanceSection {
        id,
        account: instance.account,
        epoch: instance.assignment.epoch,
        run_id: instance.run_id,
        desired: match instance.desired {
            Desired::Running => PowerState::Running,
            Desired::Stopped => PowerState::Stopped,
            Desired::Terminated => PowerState::Terminated,
        },
        force_stop: instance.force_stop,
        reboot_count: instance.reboot_count,
        instance_type: instance.instance_type.clone(),
        vcpus: instance.vcpus,
        memory_bytes: instance.memory_bytes,
        architecture: instance.architecture.clone(),
        machine: machine(txn, &instance)?,
        direct_boot: direct_boot(txn, &instance)?,
        volumes: volumes(txn, &instance)?,
        interfaces: interfaces
            .iter()
            .map(|interface| InterfaceAttachmentSpec {
                interface: interface.id,
                device_index: interface.attachment.as_ref().map_or(0, |attachment| attachment.device_index),
            })
            .collect(),
        metadata: metadata(txn, region, &instance, &interfaces)?,
        demand: terroir_block_storage::controller::demand(txn, instance.account, &[&id.to_string()], &instance.zone)?,
    }))))
}

/// The first run chooses it; later ones keep it.
fn machine(txn: &Txn, instance: &Instance) -> Result<Option<String>, Error> {
    if instance.run_id == 1 {
        return Ok(None);
    }
    let status = txn.peek::<InstanceStatus>(&instance_status_key(instance.account, instance.id))?;
    Ok(status.and_then(|status| status.machine.clone()))
}

fn direct_boot(txn: &Txn, instance: &Instance) -> Result<Option<DirectBoot>, Error> {
    let Some(id) = &instance.direct_boot else { return Ok(None) };
    let boot = txn.peek::<ImageBoot>(&image_boot_key(id))?;
    Ok(boot.map(|boot| DirectBoot {
        kernel: blob_ref(format!("image-kernel/{}", boot.kernel.sha256), &boot.kernel),
        initrd: boot.initrd.as_ref().map(|initrd| blob_ref(format!("image-initrd/{}", initrd.sha256), initrd)),
        command_line: boot.command_line.clone(),
    }))
}

fn volumes(txn: &Txn, instance: &Instance) -> Result<Vec<VolumeAttachmentSpec>, Error> {
    let mut out = Vec::with_capacity(instance.volumes.len());
    for id in &instance.volumes {
        let Some(volume) = txn.peek::<Volume>(&volume_key(instance.account, *id))? else { continue };
        // One that is being detached is no longer asked for.
        let Some(attachment) = volume.attachment.as_ref().filter(|_| volume.assignment.is_held_by(instance.id)) else {
            continue;
        };
        out.push(VolumeAttachmentSpec {
            volume: *id,
            device_name: attachment.device.clone(),
            boot: attachment.device == instance.root_device,
            slot: attachment.slot,
        });
    }
    out.sort_by_key(|volume| volume.slot);
    Ok(out)
}

fn metadata(
    txn: &Txn,
    region: &Region,
    instance: &Instance,
    interfaces: &[std::sync::Arc<Interface>],
) -> Result<InstanceMetadata, Error> {
    let primary = interfaces.first();
    let tags = if instance.metadata.tags_enabled {
        terroir_resources::tags(txn, instance.account, &instance.id.to_string())?
    } else {
        BTreeMap::new()
    };
    let user_data = instance.user_data.as_ref().map(|user_data| BlobRef {
        name: format!("user-data/{}", instance.id),
        sha256: user_data.sha256.clone(),
        size_bytes: user_data.size_bytes,
        format: BlobFormat::Raw,
    });
    Ok(InstanceMetadata {
        image: instance.image,
        launch_index: instance.launch_index,
        reservation: instance.reservation,
        launched_at: instance.launched_at,
        hostname: primary
            .map(|interface| names::private(&region.name, interface.primary_address()))
            .unwrap_or_default(),
        public_hostname: public_hostname(txn, region, primary)?,
        key_pair: key_pair(txn, instance)?,
        security_group_names: group_names(txn, primary)?,
        user_data,
        instance_profile: profile(txn, instance)?,
        tags,
        options: MetadataOptions {
            enabled: instance.metadata.enabled,
            tokens_required: instance.metadata.tokens_required,
            hop_limit: instance.metadata.hop_limit,
            tags_enabled: instance.metadata.tags_enabled,
        },
    })
}

fn public_hostname(
    txn: &Txn,
    region: &Region,
    interface: Option<&std::sync::Arc<Interface>>,
) -> Result<Option<String>, Error> {
    let Some(interface) = interface else { return Ok(None) };
    let Some(public) = &interface.public else { return Ok(None) };
    let vpc = txn.peek::<Vpc>(&Vpc::key(interface.account, interface.vpc))?;
    Ok(vpc.and_then(|vpc| terroir_network::aws::public_dns_name(region, &vpc, public.address)))
}

fn key_pair(txn: &Txn, instance: &Instance) -> Result<Option<PublicKey>, Error> {
    let Some(id) = instance.key_pair else { return Ok(None) };
    let key_pair = txn.peek::<KeyPair>(&key_pair_key(instance.account, id))?;
    Ok(key_pair
        .map(|key_pair| PublicKey { name: key_pair.tenant.name.clone(), openssh: key_pair.tenant.openssh.clone() }))
}

fn group_names(txn: &Txn, interface: Option<&std::sync::Arc<Interface>>) -> Result<Vec<String>, Error> {
    let Some(interface) = interface else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for group in &interface.groups {
        let group = txn.peek::<SecurityGroup>(&SecurityGroup::key(interface.account, *group))?;
        names.extend(group.map(|group| group.name().to_owned()));
    }
    Ok(names)
}

/// The profile that an instance has, if it still exists.
pub(crate) fn find_profile(txn: &Txn, instance: &Instance) -> Result<Option<std::sync::Arc<InstanceProfile>>, Error> {
    match &instance.profile {
        Some(id) => txn.peek(&Key::new(format!("instance-profile/{}/{id}", instance.account))),
        None => Ok(None),
    }
}

fn profile(txn: &Txn, instance: &Instance) -> Result<Option<InstanceProfileRef>, Error> {
    let Some(profile) = find_profile(txn, instance)? else { return Ok(None) };
    let Some(role) = terroir_iam::ops::role_of_profile(txn, &profile)? else { return Ok(None) };
    Ok(Some(InstanceProfileRef {
        arn: profile.arn().to_string(),
        id: profile.id.clone(),
        role_name: role.name().to_owned(),
    }))
}
