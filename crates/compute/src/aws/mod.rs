//! EC2's actions on instances, key pairs and instance types, and those on volumes that touch instances or hosts.

mod attributes;
mod console;
mod describe_instances;
mod filters;
mod instance_shape;
mod instance_status;
mod instance_types;
mod key_material;
mod key_pairs;
mod metadata_options;
mod power;
mod run_instances;
mod run_request;
mod volumes;

#[cfg(test)]
pub(crate) use {
    attributes::{DescribeInstanceAttribute, ModifyInstanceAttribute},
    console::GetConsoleOutput,
    describe_instances::DescribeInstances,
    instance_status::DescribeInstanceStatus,
    instance_types::{DescribeInstanceTypeOfferings, DescribeInstanceTypes},
    key_pairs::{CreateKeyPair, DeleteKeyPair, DescribeKeyPairs, ImportKeyPair},
    metadata_options::ModifyInstanceMetadataOptions,
    power::{RebootInstances, StartInstances, StopInstances, TerminateInstances},
    run_instances::RunInstances,
    volumes::{AttachVolume, CreateVolume, DetachVolume},
};

use std::sync::Arc;
use terroir_action::Registry;

use crate::gateway::HostQueries;

pub fn register(registry: &mut Registry, hosts: Arc<dyn HostQueries>) {
    registry.add::<run_instances::RunInstances>();
    registry.add::<describe_instances::DescribeInstances>();
    registry.add::<instance_status::DescribeInstanceStatus>();
    registry.add::<power::StartInstances>();
    registry.add::<power::StopInstances>();
    registry.add::<power::RebootInstances>();
    registry.add::<power::TerminateInstances>();
    registry.add::<instance_types::DescribeInstanceTypes>();
    registry.add::<instance_types::DescribeInstanceTypeOfferings>();
    registry.add::<attributes::DescribeInstanceAttribute>();
    registry.add::<attributes::ModifyInstanceAttribute>();
    registry.add::<metadata_options::ModifyInstanceMetadataOptions>();
    registry.add_live(console::GetConsoleOutput { hosts: Arc::clone(&hosts) });
    registry.add_live(console::GetConsoleScreenshot { hosts });
    registry.add_live(key_pairs::CreateKeyPair);
    registry.add::<key_pairs::ImportKeyPair>();
    registry.add::<key_pairs::DescribeKeyPairs>();
    registry.add::<key_pairs::DeleteKeyPair>();
    registry.add::<volumes::CreateVolume>();
    registry.add::<volumes::AttachVolume>();
    registry.add::<volumes::DetachVolume>();
}
