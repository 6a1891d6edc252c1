//! Filters of DescribeInstances and DescribeInstanceStatus, by the names in their references.

use terroir_block_storage::model::attachment_state;
use terroir_iam::names::Entity;
use terroir_types::Error;

use super::instance_shape::{Lookup, Row, private_name, reason_code};
use crate::controller::find_profile;
use crate::state::InstanceState;

pub(super) const INSTANCE_FILTERS: &[&str] = &[
    "architecture",
    "availability-zone",
    "availability-zone-id",
    "block-device-mapping.attach-time",
    "block-device-mapping.delete-on-termination",
    "block-device-mapping.device-name",
    "block-device-mapping.status",
    "block-device-mapping.volume-id",
    "client-token",
    "dns-name",
    "group-id",
    "group-name",
    "hypervisor",
    "iam-instance-profile.arn",
    "iam-instance-profile.id",
    "image-id",
    "instance-id",
    "instance-lifecycle",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "instance.group-name",
    "ip-address",
    "kernel-id",
    "key-name",
    "launch-index",
    "launch-time",
    "metadata-options.http-endpoint",
    "metadata-options.http-put-response-hop-limit",
    "metadata-options.http-tokens",
    "metadata-options.instance-metadata-tags",
    "monitoring-state",
    "network-interface.addresses.primary",
    "network-interface.addresses.private-ip-address",
    "network-interface.addresses.association.public-ip",
    "network-interface.association.public-ip",
    "network-interface.attachment.attachment-id",
    "network-interface.attachment.delete-on-termination",
    "network-interface.attachment.device-index",
    "network-interface.attachment.instance-id",
    "network-interface.availability-zone",
    "network-interface.description",
    "network-interface.group-id",
    "network-interface.mac-address",
    "network-interface.network-interface-id",
    "network-interface.owner-id",
    "network-interface.private-dns-name",
    "network-interface.private-ip-address",
    "network-interface.source-dest-check",
    "network-interface.status",
    "network-interface.subnet-id",
    "network-interface.vpc-id",
    "owner-id",
    "placement-group-name",
    "platform",
    "platform-details",
    "private-dns-name",
    "private-ip-address",
    "product-code",
    "ramdisk-id",
    "reason",
    "requester-id",
    "reservation-id",
    "root-device-name",
    "root-device-type",
    "source-dest-check",
    "spot-instance-request-id",
    "state-reason-code",
    "state-reason-message",
    "subnet-id",
    "tag",
    "tenancy",
    "virtualization-type",
    "vpc-id",
];

/// What an instance has under a filter's name.
pub(super) fn values(lookup: &mut Lookup<'_, '_>, row: &Row, name: &str) -> Result<Vec<String>, Error> {
    if let Some(rest) = name.strip_prefix("network-interface.") {
        return Ok(interface_values(lookup, row, rest));
    }
    if let Some(rest) = name.strip_prefix("block-device-mapping.") {
        return Ok(volume_values(row, rest));
    }
    let spec = &*row.spec;
    let one = |text: &str| vec![text.to_owned()];
    let primary = row.interfaces.first();
    let switch = |on: bool| one(if on { "enabled" } else { "disabled" });
    Ok(match name {
        "architecture" => one(&spec.architecture),
        "availability-zone" => one(&spec.zone),
        "availability-zone-id" => {
            lookup.cx.region.zones.iter().filter(|zone| zone.name == spec.zone).map(|zone| zone.id.clone()).collect()
        }
        "dns-name" => lookup.shape(row)?.public_dns_name.into_iter().collect(),
        "group-id" | "instance.group-id" => {
            primary.iter().flat_map(|interface| &interface.groups).map(ToString::to_string).collect()
        }
        "group-name" | "instance.group-name" => {
            lookup.shape(row)?.security_groups.into_iter().filter_map(|group| group.group_name).collect()
        }
        "hypervisor" => one("kvm"),
        "iam-instance-profile.arn" => {
            find_profile(lookup.cx.txn, spec)?.map(|profile| profile.arn().to_string()).into_iter().collect()
        }
        "iam-instance-profile.id" => spec.profile.clone().into_iter().collect(),
        "image-id" => vec![spec.image.to_string()],
        "instance-id" => vec![spec.id.to_string()],
        "instance-state-code" => vec![row.state.code().to_string()],
        "instance-state-name" => one(row.state.name()),
        "instance-type" => one(&spec.instance_type),
        "ip-address" => primary.and_then(|i| i.public.as_ref()).map(|p| p.address.to_string()).into_iter().collect(),
        "key-name" => lookup.key_name(spec)?.into_iter().collect(),
        "launch-index" => vec![spec.launch_index.to_string()],
        "launch-time" => vec![spec.launched_at.to_rfc3339()],
        "metadata-options.http-endpoint" => switch(spec.metadata.enabled),
        "metadata-options.http-put-response-hop-limit" => vec![spec.metadata.hop_limit.to_string()],
        "metadata-options.http-tokens" => one(if spec.metadata.tokens_required { "required" } else { "optional" }),
        "metadata-options.instance-metadata-tags" => switch(spec.metadata.tags_enabled),
        "monitoring-state" => switch(spec.monitoring),
        "owner-id" => vec![spec.account.to_string()],
        "platform-details" => one("Linux/UNIX"),
        "private-dns-name" => primary.map(|interface| private_name(lookup.cx, interface)).into_iter().collect(),
        "private-ip-address" => primary.map(|i| i.primary_address().to_string()).into_iter().collect(),
        "reason" => lookup.shape(row)?.state_transition_reason.into_iter().collect(),
        "reservation-id" => vec![spec.reservation.to_string()],
        "root-device-name" => one(&spec.root_device),
        "root-device-type" => one("ebs"),
        "source-dest-check" => primary.map(|i| i.source_dest_check.to_string()).into_iter().collect(),
        "state-reason-code" => match &spec.reason {
            Some(reason) if row.state != InstanceState::Running => one(reason_code(reason.why)),
            _ => Vec::new(),
        },
        "state-reason-message" => {
            lookup.shape(row)?.state_reason.and_then(|reason| reason.message).into_iter().collect()
        }
        "subnet-id" => primary.map(|interface| interface.subnet.to_string()).into_iter().collect(),
        "tenancy" => one("default"),
        "virtualization-type" => one("hvm"),
        "vpc-id" => primary.map(|interface| interface.vpc.to_string()).into_iter().collect(),
        _ => Vec::new(),
    })
}

fn interface_values(lookup: &Lookup<'_, '_>, row: &Row, name: &str) -> Vec<String> {
    row.interfaces
        .iter()
        .flat_map(|interface| -> Vec<String> {
            let attachment = interface.attachment.as_ref();
            let maybe = |text: Option<String>| text.into_iter().collect();
            match name {
                "addresses.primary" => vec!["true".to_owned()],
                "addresses.private-ip-address" => interface.addresses().iter().map(ToString::to_string).collect(),
                "addresses.association.public-ip" | "association.public-ip" => {
                    maybe(interface.public.as_ref().map(|public| public.address.to_string()))
                }
                "attachment.attachment-id" => maybe(attachment.map(|a| a.id.to_string())),
                "attachment.delete-on-termination" => maybe(attachment.map(|a| a.delete_on_termination.to_string())),
                "attachment.device-index" => maybe(attachment.map(|a| a.device_index.to_string())),
                "attachment.instance-id" => vec![row.spec.id.to_string()],
                "availability-zone" => vec![row.spec.zone.clone()],
                "description" => vec![interface.description().to_owned()],
                "group-id" => interface.groups.iter().map(ToString::to_string).collect(),
                "mac-address" => vec![interface.mac()],
                "network-interface-id" => vec![interface.id.to_string()],
                "owner-id" => vec![interface.account.to_string()],
                "private-dns-name" => vec![private_name(lookup.cx, interface)],
                "private-ip-address" => vec![interface.primary_address().to_string()],
                "source-dest-check" => vec![interface.source_dest_check.to_string()],
                "status" => vec![interface.status().to_owned()],
                "subnet-id" => vec![interface.subnet.to_string()],
                "vpc-id" => vec![interface.vpc.to_string()],
                _ => Vec::new(),
            }
        })
        .collect()
}

fn volume_values(row: &Row, name: &str) -> Vec<String> {
    row.volumes
        .iter()
        .filter_map(|(volume, status)| {
            let attachment = volume.attachment.as_ref()?;
            match name {
                "attach-time" => Some(attachment.attached_at.to_rfc3339()),
                "delete-on-termination" => Some(attachment.delete_on_termination.to_string()),
                "device-name" => Some(attachment.device.clone()),
                "status" => attachment_state(volume, status.as_deref()).map(str::to_owned),
                "volume-id" => Some(volume.id.to_string()),
                _ => None,
            }
        })
        .collect()
}
