//! Instances as EC2 shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_action::Context;
use terroir_action::general::ec2_tags;
use terroir_aws_model::ec2;
use terroir_block_storage::model::{Volume, VolumeStatus, attachment_state, volume_key, volume_status_key};
use terroir_iam::names::Entity;
use terroir_network::model::Interface;
use terroir_resources::Tags;
use terroir_types::{AccountId, Error, HostId, InstanceId, KeyPairId};

use crate::controller::find_profile;
use crate::model::{Instance, InstanceStatus, KeyPair, MetadataChoice, Reason, Why, instance_status_key, key_pair_key};
use crate::names;
use crate::state::{HostKnowledge, InstanceState, host_knowledge, instance_state};

/// An instance with what is known of it; looked up once for filters and answer.
pub(super) struct Row {
    pub spec: Arc<Instance>,
    pub state: InstanceState,
    pub tags: Tags,
    pub interfaces: Vec<Arc<Interface>>,
    pub volumes: Vec<(Arc<Volume>, Option<Arc<VolumeStatus>>)>,
}

/// Looks things up for many instances; remembers what they share.
pub(super) struct Lookup<'a, 'b> {
    pub cx: &'a Context<'b>,
    hosts: BTreeMap<HostId, HostKnowledge>,
    key_names: BTreeMap<(AccountId, KeyPairId), Option<String>>,
}

impl<'a, 'b> Lookup<'a, 'b> {
    pub fn new(cx: &'a Context<'b>) -> Self {
        Self { cx, hosts: BTreeMap::new(), key_names: BTreeMap::new() }
    }

    fn state(&mut self, spec: &Instance) -> Result<InstanceState, Error> {
        let status = self.cx.txn.peek::<InstanceStatus>(&instance_status_key(spec.account, spec.id))?;
        let host = match spec.host() {
            None => HostKnowledge::Expected,
            Some(id) => match self.hosts.get(&id) {
                Some(known) => *known,
                None => {
                    let known = host_knowledge(self.cx.txn, spec)?;
                    self.hosts.insert(id, known);
                    known
                }
            },
        };
        Ok(instance_state(spec, status.as_deref(), host))
    }

    pub fn row(&mut self, spec: Arc<Instance>) -> Result<Row, Error> {
        let txn = &*self.cx.txn;
        let state = self.state(&spec)?;
        let mut volumes = Vec::with_capacity(spec.volumes.len());
        for id in &spec.volumes {
            if let Some(volume) = txn.peek::<Volume>(&volume_key(spec.account, *id))? {
                volumes.push((volume, txn.peek(&volume_status_key(spec.account, *id))?));
            }
        }
        let interfaces = terroir_network::ops::interfaces_of(txn, spec.id)?;
        let tags = terroir_resources::tags(txn, spec.account, &spec.id.to_string())?;
        Ok(Row { spec, state, tags, interfaces, volumes })
    }

    pub fn key_name(&mut self, spec: &Instance) -> Result<Option<String>, Error> {
        let Some(id) = spec.key_pair else { return Ok(None) };
        if let Some(known) = self.key_names.get(&(spec.account, id)) {
            return Ok(known.clone());
        }
        let key_pair = self.cx.txn.peek::<KeyPair>(&key_pair_key(spec.account, id))?;
        let name = key_pair.map(|key_pair| key_pair.tenant.name.clone());
        self.key_names.insert((spec.account, id), name.clone());
        Ok(name)
    }

    pub fn shape(&mut self, row: &Row) -> Result<ec2::Instance, Error> {
        let spec = &*row.spec;
        let text = |text: &str| Some(text.to_owned());
        let region = self.cx.region;
        let interfaces = terroir_network::aws::instance_network_interfaces(self.cx.txn, region, &row.interfaces)?;
        let primary = interfaces.first();
        let association = primary.and_then(|interface| interface.association.as_ref());
        let profile = find_profile(self.cx.txn, spec)?;
        Ok(ec2::Instance {
            ami_launch_index: i32::try_from(spec.launch_index).ok(),
            architecture: text(&spec.architecture),
            block_device_mappings: row.volumes.iter().filter_map(|(v, s)| mapping(spec.id, v, s.as_deref())).collect(),
            cpu_options: None,
            ebs_optimized: Some(spec.ebs_optimized),
            ena_support: Some(false),
            enclave_options: Some(ec2::EnclaveOptions { enabled: Some(false) }),
            hibernation_options: Some(ec2::HibernationOptions { configured: Some(false) }),
            hypervisor: text("kvm"),
            iam_instance_profile: profile.map(|profile| ec2::IamInstanceProfile {
                arn: Some(profile.arn().to_string()),
                id: Some(profile.id.clone()),
            }),
            image_id: Some(spec.image.to_string()),
            instance_id: Some(spec.id.to_string()),
            instance_type: text(&spec.instance_type),
            key_name: self.key_name(spec)?,
            launch_time: Some(spec.launched_at),
            metadata_options: Some(metadata_options(&spec.metadata)),
            monitoring: Some(monitoring(spec.monitoring)),
            placement: Some(ec2::Placement {
                availability_zone: text(&spec.zone),
                availability_zone_id: region.zones.iter().find(|z| z.name == spec.zone).map(|z| z.id.clone()),
                group_name: text(""),
                tenancy: text("default"),
                ..ec2::Placement::default()
            }),
            platform_details: text("Linux/UNIX"),
            private_dns_name: Some(primary.and_then(|i| i.private_dns_name.clone()).unwrap_or_default()),
            private_ip_address: primary.and_then(|interface| interface.private_ip_address.clone()),
            public_dns_name: Some(association.and_then(|a| a.public_dns_name.clone()).unwrap_or_default()),
            public_ip_address: association.and_then(|association| association.public_ip.clone()),
            root_device_name: text(&spec.root_device),
            root_device_type: text("ebs"),
            security_groups: primary.map(|interface| interface.groups.clone()).unwrap_or_default(),
            source_dest_check: primary.and_then(|interface| interface.source_dest_check),
            state: Some(state(row.state)),
            state_reason: spec.reason.as_ref().filter(|_| row.state != InstanceState::Running).map(state_reason),
            state_transition_reason: Some(spec.reason.as_ref().map(transition_reason).unwrap_or_default()),
            subnet_id: primary.and_then(|interface| interface.subnet_id.clone()),
            vpc_id: primary.and_then(|interface| interface.vpc_id.clone()),
            tags: ec2_tags(&row.tags),
            usage_operation: text("RunInstances"),
            usage_operation_update_time: Some(spec.created_at),
            virtualization_type: text("hvm"),
            network_interfaces: interfaces,
            ..ec2::Instance::default()
        })
    }
}

pub(super) fn state(state: InstanceState) -> ec2::InstanceState {
    ec2::InstanceState { code: Some(state.code()), name: Some(state.name().to_owned()) }
}

pub(super) fn monitoring(enabled: bool) -> ec2::Monitoring {
    ec2::Monitoring { state: Some(if enabled { "enabled" } else { "disabled" }.to_owned()) }
}

pub(super) fn metadata_options(choice: &MetadataChoice) -> ec2::InstanceMetadataOptionsResponse {
    let switch = |on| Some(if on { "enabled" } else { "disabled" }.to_owned());
    ec2::InstanceMetadataOptionsResponse {
        http_endpoint: switch(choice.enabled),
        http_protocol_ipv6: switch(false),
        http_put_response_hop_limit: Some(choice.hop_limit.into()),
        http_tokens: Some(if choice.tokens_required { "required" } else { "optional" }.to_owned()),
        instance_metadata_tags: switch(choice.tags_enabled),
        state: Some("applied".to_owned()),
    }
}

pub(super) fn mapping(
    instance: InstanceId,
    volume: &Volume,
    status: Option<&VolumeStatus>,
) -> Option<ec2::InstanceBlockDeviceMapping> {
    let attachment = volume.attachment.as_ref().filter(|_| volume.assignment.holder() == Some(instance))?;
    Some(ec2::InstanceBlockDeviceMapping {
        device_name: Some(attachment.device.clone()),
        ebs: Some(ec2::EbsInstanceBlockDevice {
            attach_time: Some(attachment.attached_at),
            delete_on_termination: Some(attachment.delete_on_termination),
            status: attachment_state(volume, status).map(str::to_owned),
            volume_id: Some(volume.id.to_string()),
            ..ec2::EbsInstanceBlockDevice::default()
        }),
    })
}

/// AWS's code of a reason.
pub(super) const fn reason_code(why: Why) -> &'static str {
    match why {
        Why::UserAsked => "Client.UserInitiatedShutdown",
        Why::GuestPoweredOff => "Client.InstanceInitiatedShutdown",
        Why::HypervisorDied | Why::StartFailed | Why::HostLost => "Server.InternalError",
    }
}

fn state_reason(reason: &Reason) -> ec2::StateReason {
    let code = reason_code(reason.why);
    let words = match reason.why {
        Why::UserAsked => "User initiated shutdown",
        Why::GuestPoweredOff => "Instance initiated shutdown",
        Why::HypervisorDied => "Internal error: the instance's hypervisor ended",
        Why::StartFailed => "Internal error: the instance could not be started",
        Why::HostLost => "Internal error: the instance's host was lost",
    };
    let detail = if reason.detail.is_empty() { String::new() } else { format!(" ({})", reason.detail) };
    ec2::StateReason { code: Some(code.to_owned()), message: Some(format!("{code}: {words}{detail}")) }
}

/// `User initiated (2026-11-24 05:00:00 GMT)`
fn transition_reason(reason: &Reason) -> String {
    let at = reason.at.to_rfc3339_seconds().replace('T', " ").replace('Z', " GMT");
    match reason.why {
        Why::UserAsked => format!("User initiated ({at})"),
        Why::GuestPoweredOff => format!("Instance initiated ({at})"),
        Why::HypervisorDied | Why::StartFailed | Why::HostLost => format!("Server.InternalError ({at})"),
    }
}

/// The name under which the metadata service knows it; also a filter.
pub(super) fn private_name(cx: &Context<'_>, interface: &Interface) -> String {
    names::private(&cx.region.name, interface.primary_address())
}
