//! What guest-services is told: pure but for the user data, which the caller reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use terroir_agent_api::{
    BlobRef, Desired, Guest, GuestInterface, GuestSnapshot, GuestVpc, HostSpec, InstanceSection, PowerState,
    RoleCredentials, Section,
};
use terroir_types::InstanceId;

use crate::network::tap_name;

/// The snapshot, and the instances that it describes completely. An instance whose user data is not
/// there yet is left out of the second.
pub(crate) fn guest_snapshot(
    spec: &HostSpec,
    credentials: &BTreeMap<InstanceId, RoleCredentials>,
    user_data: impl Fn(&BlobRef) -> Option<Vec<u8>>,
) -> Option<(GuestSnapshot, BTreeSet<InstanceId>)> {
    let Some(Section::Host(host)) = spec.get("host") else { return None };
    let mut vpcs = Vec::new();
    let mut guests = Vec::new();
    let mut complete = BTreeSet::new();
    for section in spec.values() {
        match section {
            Section::Vpc(vpc) => {
                vpcs.push(GuestVpc { id: vpc.id, cidrs: vpc.cidrs.clone(), dns_support: vpc.dns_support });
            }
            Section::Instance(instance) if instance.desired != PowerState::Terminated => {
                let bytes = instance.metadata.user_data.as_ref().map(&user_data);
                let missing = matches!(bytes, Some(None));
                let data = bytes.flatten().map(|bytes| STANDARD.encode(bytes));
                let interfaces = interfaces(spec, instance);
                if !missing && interfaces.len() == instance.interfaces.len() {
                    complete.insert(instance.id);
                }
                guests.push(guest(instance, data, credentials.get(&instance.id).cloned(), interfaces));
            }
            _ => {}
        }
    }
    let snapshot = GuestSnapshot {
        generation: 0,
        region: host.region.clone(),
        zone: host.zone.clone(),
        guest_mtu: host.guest_mtu,
        dns_upstreams: host.dns_upstreams.clone(),
        vpcs,
        guests,
    };
    Some((snapshot, complete))
}

fn guest(
    instance: &InstanceSection,
    user_data: Option<String>,
    credentials: Option<RoleCredentials>,
    interfaces: Vec<GuestInterface>,
) -> Guest {
    Guest {
        instance: instance.id,
        account: instance.account,
        instance_type: instance.instance_type.clone(),
        architecture: instance.architecture.clone(),
        metadata: instance.metadata.clone(),
        user_data,
        credentials: credentials.filter(|_| instance.metadata.instance_profile.is_some()),
        interfaces,
    }
}

fn interfaces(spec: &HostSpec, instance: &InstanceSection) -> Vec<GuestInterface> {
    let mut attachments: Vec<_> = instance.interfaces.iter().collect();
    attachments.sort_by_key(|attachment| attachment.device_index);
    let described = attachments.into_iter().filter_map(|attachment| {
        let Some(Section::Interface(section)) = spec.get(&format!("interface/{}", attachment.interface)) else {
            return None;
        };
        (section.desired == Desired::Present).then(|| GuestInterface {
            id: section.id,
            vpc: section.vpc,
            subnet: section.subnet,
            subnet_cidr: section.subnet_cidr,
            gateway: section.gateway,
            device_index: attachment.device_index,
            tap: tap_name(section.id),
            mac: section.mac.clone(),
            addresses: section.addresses.clone(),
            public_address: section.public_address,
            security_group_ids: section.security_groups.iter().map(ToString::to_string).collect(),
        })
    });
    described.collect()
}
