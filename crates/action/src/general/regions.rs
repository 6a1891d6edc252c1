use terroir_aws_model::ec2;
use terroir_resources::Tags;
use terroir_types::Error;

use crate::{Access, Action, Context, Filters, Target, Zone};

const NOT_NEEDED: &str = "opt-in-not-required";

pub struct DescribeRegions;

impl Action for DescribeRegions {
    type Op = ec2::ops::DescribeRegions;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeRegionsRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeRegions")])
    }

    /// The one region that this endpoint answers for.
    fn run(cx: &mut Context<'_>, request: ec2::DescribeRegionsRequest) -> Result<ec2::DescribeRegionsResult, Error> {
        let region = cx.region;
        if let Some(unknown) = request.region_names.iter().find(|name| **name != region.name) {
            let message = format!("Invalid region names provided: ({unknown})");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        let named = request.filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
        let filters = Filters::parse(named, &["endpoint", "opt-in-status", "region-name"])?;
        // AWS gives the host without a scheme.
        let endpoint = region.endpoint.split_once("://").map_or(region.endpoint.as_str(), |(_, host)| host);
        let matches = filters.matches(&Tags::new(), |name| match name {
            "endpoint" => vec![endpoint.to_owned()],
            "opt-in-status" => vec![NOT_NEEDED.to_owned()],
            "region-name" => vec![region.name.clone()],
            _ => Vec::new(),
        });
        let found = ec2::Region {
            endpoint: Some(endpoint.to_owned()),
            opt_in_status: Some(NOT_NEEDED.to_owned()),
            region_name: Some(region.name.clone()),
            ..ec2::Region::default()
        };
        Ok(ec2::DescribeRegionsResult { regions: if matches { vec![found] } else { Vec::new() } })
    }
}

pub struct DescribeAvailabilityZones;

const ZONE_FILTERS: [&str; 9] = [
    "group-name",
    "message",
    "opt-in-status",
    "parent-zone-id",
    "parent-zone-name",
    "region-name",
    "state",
    "zone-id",
    "zone-name",
];

impl Action for DescribeAvailabilityZones {
    type Op = ec2::ops::DescribeAvailabilityZones;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeAvailabilityZonesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeAvailabilityZones")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeAvailabilityZonesRequest,
    ) -> Result<ec2::DescribeAvailabilityZonesResult, Error> {
        let region = cx.region;
        if let Some(unknown) = request.zone_names.iter().find(|name| !region.zones.iter().any(|z| z.name == **name)) {
            let message = format!("Invalid availability zone: [{unknown}]");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        if let Some(unknown) = request.zone_ids.iter().find(|id| !region.zones.iter().any(|z| z.id == **id)) {
            let message = format!("Invalid availability zone-id: [{unknown}]");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        let allowed: Vec<&str> = ZONE_FILTERS.into_iter().chain(["zone-type", "availability-zone"]).collect();
        let named = request.filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
        let filters = Filters::parse(named, &allowed)?;
        let wanted = |zone: &&Zone| {
            (request.zone_names.is_empty() || request.zone_names.contains(&zone.name))
                && (request.zone_ids.is_empty() || request.zone_ids.contains(&zone.id))
                && filters.matches(&Tags::new(), |name| match name {
                    "group-name" | "region-name" => vec![region.name.clone()],
                    "opt-in-status" => vec![NOT_NEEDED.to_owned()],
                    "state" => vec!["available".to_owned()],
                    "zone-id" => vec![zone.id.clone()],
                    "zone-name" | "availability-zone" => vec![zone.name.clone()],
                    "zone-type" => vec!["availability-zone".to_owned()],
                    _ => Vec::new(),
                })
        };
        let describe = |zone: &Zone| ec2::AvailabilityZone {
            group_name: Some(region.name.clone()),
            network_border_group: Some(region.name.clone()),
            opt_in_status: Some(NOT_NEEDED.to_owned()),
            region_name: Some(region.name.clone()),
            state: Some("available".to_owned()),
            zone_id: Some(zone.id.clone()),
            zone_name: Some(zone.name.clone()),
            zone_type: Some("availability-zone".to_owned()),
            ..ec2::AvailabilityZone::default()
        };
        let availability_zones = region.zones.iter().filter(wanted).map(describe).collect();
        Ok(ec2::DescribeAvailabilityZonesResult { availability_zones })
    }
}
