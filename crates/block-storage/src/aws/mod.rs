//! EC2's actions on what this crate owns. Actions that also touch instances or hosts (CreateVolume, AttachVolume,
//! DetachVolume) are in `compute`.

mod images;
mod register_image;
mod snapshots;
mod volumes;

use std::str::FromStr;
use std::sync::Arc;
use terroir_action::{Filters, Registry};
use terroir_aws_model::ec2;
use terroir_types::Error;

pub use images::{DeregisterImage, DescribeImageAttribute, DescribeImages};
pub use register_image::{ObjectFacts, ObjectSource, RegisterImage};
pub use snapshots::DescribeSnapshots;
pub use volumes::{DeleteVolume, DescribeVolumeStatus, DescribeVolumes, attachment, volume_shape};

pub fn register(registry: &mut Registry, objects: Arc<dyn ObjectSource>) {
    registry.add::<volumes::DescribeVolumes>();
    registry.add::<volumes::DescribeVolumeStatus>();
    registry.add::<volumes::DeleteVolume>();
    registry.add::<snapshots::DescribeSnapshots>();
    registry.add::<images::DescribeImages>();
    registry.add::<images::DescribeImageAttribute>();
    registry.add::<images::DeregisterImage>();
    registry.add_live(register_image::RegisterImage { objects });
}

/// Ids as their type.
///
/// Errors: the type's `.Malformed`.
pub fn parse_ids<T: FromStr<Err = Error>>(texts: &[String]) -> Result<Vec<T>, Error> {
    texts.iter().map(|text| text.parse()).collect()
}

pub fn parse_filters(filters: &[ec2::Filter], allowed: &[&str]) -> Result<Filters, Error> {
    Filters::parse(filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice())), allowed)
}

/// Text of ids and filters that a page token is bound to.
pub fn scope(ids: &[String], filters: &Filters) -> String {
    let mut ids = ids.to_vec();
    ids.sort();
    format!("{}|{}", ids.join(","), filters.canonical())
}

/// EC2 refuses a page size beside a list of ids.
///
/// Errors: `InvalidParameterCombination`.
pub fn no_page_of_ids(ids: &[String], max_results: Option<i32>, name: &str) -> Result<(), Error> {
    if ids.is_empty() || max_results.is_none() {
        return Ok(());
    }
    let message = format!("The parameter {name} cannot be used with the parameter maxResults");
    Err(Error::invalid("InvalidParameterCombination", message))
}

/// Whole GiB as the API counts them.
pub(crate) fn gib(bytes: u64) -> Option<i32> {
    i32::try_from(bytes.div_ceil(crate::model::GIB)).ok()
}

pub(crate) fn zone_id(cx: &terroir_action::Context<'_>, zone: &str) -> Option<String> {
    cx.region.zones.iter().find(|known| known.name == zone).map(|known| known.id.clone())
}
