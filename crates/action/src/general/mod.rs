//! Actions that belong to no domain: tags, regions, zones. And what every domain does with tags in EC2's requests.
//!
//! `DescribeAccountAttributes` is with the network, which knows the default VPC.

mod regions;
mod taggable;
mod tags;

pub use regions::{DescribeAvailabilityZones, DescribeRegions};
pub use taggable::{ec2_tags, kind_of_id, specified_tags};
pub use tags::{CreateTags, DeleteTags, DescribeTags};

use crate::Registry;

pub fn register(registry: &mut Registry) {
    registry.add::<CreateTags>();
    registry.add::<DeleteTags>();
    registry.add::<DescribeTags>();
    registry.add::<DescribeRegions>();
    registry.add::<DescribeAvailabilityZones>();
}
