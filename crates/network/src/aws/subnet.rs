use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target, required};
use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, SubnetId};

use super::listing::{Listing, truth};
use super::{creation_targets, parse_cidr, refuse, text};
use crate::model::{Subnet, Vpc};
use crate::ops::{self, NewSubnet, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateSubnet>();
    registry.add::<CreateDefaultSubnet>();
    registry.add::<DescribeSubnets>();
    registry.add::<DeleteSubnet>();
    registry.add::<ModifySubnetAttribute>();
}

fn zone_id(cx: &Context<'_>, zone: &str) -> Option<String> {
    cx.region.zones.iter().find(|known| known.name == zone).map(|known| known.id.clone())
}

fn describe(cx: &Context<'_>, subnet: &Subnet, tags: &Tags) -> ec2::Subnet {
    let available = ops::available_addresses(cx.txn, subnet);
    ec2::Subnet {
        assign_ipv6_address_on_creation: Some(false),
        availability_zone: text(&subnet.zone),
        availability_zone_id: zone_id(cx, &subnet.zone),
        available_ip_address_count: i32::try_from(available).ok(),
        cidr_block: text(subnet.cidr()),
        default_for_az: Some(subnet.default_for_zone),
        enable_dns64: Some(false),
        ipv6_native: Some(false),
        map_customer_owned_ip_on_launch: Some(false),
        map_public_ip_on_launch: Some(subnet.map_public_on_launch),
        owner_id: text(subnet.account),
        private_dns_name_options_on_launch: Some(ec2::PrivateDnsNameOptionsOnLaunch {
            enable_resource_name_dns_aaaa_record: Some(false),
            enable_resource_name_dns_a_record: Some(false),
            hostname_type: text("ip-name"),
        }),
        state: text("available"),
        subnet_arn: text(cx.ec2_arn(Subnet::RESOURCE, subnet.id)),
        subnet_id: text(subnet.id),
        tags: ec2_tags(tags),
        vpc_id: text(subnet.vpc),
        ..ec2::Subnet::default()
    }
}

struct CreateSubnet;

impl Action for CreateSubnet {
    type Op = ec2::ops::CreateSubnet;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateSubnetRequest) -> Result<Vec<Target>, Error> {
        let mut targets = creation_targets(cx, "CreateSubnet", Subnet::RESOURCE, &request.tag_specifications)?;
        targets.push(Target::ec2(cx, "ec2:CreateSubnet", Vpc::RESOURCE, &request.vpc_id)?);
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: ec2::CreateSubnetRequest) -> Result<ec2::CreateSubnetResult, Error> {
        refuse(&[
            (request.ipv6_cidr_block.is_some(), "Ipv6CidrBlock"),
            (request.ipv6_native == Some(true), "Ipv6Native"),
            (request.ipv6_ipam_pool_id.is_some(), "Ipv6IpamPoolId"),
            (request.ipv6_netmask_length.is_some(), "Ipv6NetmaskLength"),
            (request.ipv4_ipam_pool_id.is_some(), "Ipv4IpamPoolId"),
            (request.ipv4_netmask_length.is_some(), "Ipv4NetmaskLength"),
            (request.outpost_arn.is_some(), "OutpostArn"),
        ])?;
        let vpc = request.vpc_id.parse()?;
        let cidr = parse_cidr(required(&request.cidr_block, "CidrBlock")?, "cidrBlock")?;
        let tags = specified_tags(&request.tag_specifications, Subnet::RESOURCE, &[])?;
        let scope = &mut Scope::of(cx);
        let zone = scope.zone(request.availability_zone.as_deref(), request.availability_zone_id.as_deref())?;
        let new = NewSubnet { vpc, cidr, zone: zone.name.clone(), default_for_zone: false, tags: tags.clone() };
        let subnet = ops::create_subnet(scope, new)?;
        Ok(ec2::CreateSubnetResult { subnet: Some(describe(cx, &subnet, &tags)) })
    }
}

struct CreateDefaultSubnet;

impl Action for CreateDefaultSubnet {
    type Op = ec2::ops::CreateDefaultSubnet;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, _request: &ec2::CreateDefaultSubnetRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("ec2:CreateDefaultSubnet", cx.ec2_arn(Subnet::RESOURCE, "*"))])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::CreateDefaultSubnetRequest,
    ) -> Result<ec2::CreateDefaultSubnetResult, Error> {
        refuse(&[(request.ipv6_native == Some(true), "Ipv6Native")])?;
        if request.availability_zone.is_none() && request.availability_zone_id.is_none() {
            required(&None, "AvailabilityZone")?;
        }
        let scope = &mut Scope::of(cx);
        let zone = scope.zone(request.availability_zone.as_deref(), request.availability_zone_id.as_deref())?;
        let subnet = ops::create_default_subnet(scope, &zone.name)?;
        Ok(ec2::CreateDefaultSubnetResult { subnet: Some(describe(cx, &subnet, &Tags::new())) })
    }
}

struct DescribeSubnets;

const FILTERS: [&str; 29] = [
    "availability-zone",
    "availabilityZone",
    "availability-zone-id",
    "availabilityZoneId",
    "available-ip-address-count",
    "cidr",
    "cidr-block",
    "cidrBlock",
    "customer-owned-ipv4-pool",
    "default-for-az",
    "defaultForAz",
    "enable-dns64",
    "enable-lni-at-device-index",
    "ipv6-cidr-block-association.association-id",
    "ipv6-cidr-block-association.ipv6-cidr-block",
    "ipv6-cidr-block-association.state",
    "ipv6-native",
    "map-customer-owned-ip-on-launch",
    "map-public-ip-on-launch",
    "outpost-arn",
    "owner-id",
    "private-dns-name-options-on-launch.enable-resource-name-dns-a-record",
    "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record",
    "private-dns-name-options-on-launch.hostname-type",
    "state",
    "subnet-arn",
    "subnet-id",
    "tag",
    "vpc-id",
];

fn field(subnet: &ec2::Subnet, name: &str) -> Vec<String> {
    let text = |value: &Option<String>| value.iter().cloned().collect();
    match name {
        "availability-zone" | "availabilityZone" => text(&subnet.availability_zone),
        "availability-zone-id" | "availabilityZoneId" => text(&subnet.availability_zone_id),
        "available-ip-address-count" => subnet.available_ip_address_count.iter().map(ToString::to_string).collect(),
        "cidr" | "cidr-block" | "cidrBlock" => text(&subnet.cidr_block),
        "default-for-az" | "defaultForAz" => truth(subnet.default_for_az == Some(true)),
        "enable-dns64"
        | "ipv6-native"
        | "map-customer-owned-ip-on-launch"
        | "private-dns-name-options-on-launch.enable-resource-name-dns-a-record"
        | "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record" => truth(false),
        "private-dns-name-options-on-launch.hostname-type" => vec!["ip-name".to_owned()],
        "map-public-ip-on-launch" => truth(subnet.map_public_ip_on_launch == Some(true)),
        "owner-id" => text(&subnet.owner_id),
        "state" => text(&subnet.state),
        "subnet-arn" => text(&subnet.subnet_arn),
        "subnet-id" => text(&subnet.subnet_id),
        "vpc-id" => text(&subnet.vpc_id),
        _ => Vec::new(),
    }
}

impl Action for DescribeSubnets {
    type Op = ec2::ops::DescribeSubnets;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeSubnetsRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeSubnets")])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DescribeSubnetsRequest) -> Result<ec2::DescribeSubnetsResult, Error> {
        let listing = Listing::new("DescribeSubnets", &request.subnet_ids, &request.filters, &FILTERS, request.page())?;
        // Most filters ask for what only the answer's form has, so they are applied to it.
        let mut described = Vec::new();
        for (id, subnet) in listing.found::<SubnetId, Subnet>(cx)? {
            let tags = terroir_resources::tags(cx.txn, cx.account(), &id)?;
            described.push((id, std::sync::Arc::new(describe(cx, &subnet, &tags))));
        }
        let (rows, next_token) = listing.select(cx, described.into_iter(), field)?;
        let subnets = rows.into_iter().map(|row| std::sync::Arc::unwrap_or_clone(row.record)).collect();
        Ok(ec2::DescribeSubnetsResult { next_token, subnets })
    }
}

struct DeleteSubnet;

impl Action for DeleteSubnet {
    type Op = ec2::ops::DeleteSubnet;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteSubnetRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeleteSubnet", Subnet::RESOURCE, &request.subnet_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DeleteSubnetRequest) -> Result<Empty, Error> {
        ops::delete_subnet(&mut Scope::of(cx), request.subnet_id.parse()?)?;
        Ok(Empty)
    }
}

struct ModifySubnetAttribute;

impl Action for ModifySubnetAttribute {
    type Op = ec2::ops::ModifySubnetAttribute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::ModifySubnetAttributeRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:ModifySubnetAttribute", Subnet::RESOURCE, &request.subnet_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::ModifySubnetAttributeRequest) -> Result<Empty, Error> {
        let on = |attribute: &Option<ec2::AttributeBooleanValue>| attribute.as_ref().and_then(|a| a.value);
        let is_on = |attribute| on(attribute) == Some(true);
        refuse(&[
            (is_on(&request.assign_ipv6_address_on_creation), "AssignIpv6AddressOnCreation"),
            (is_on(&request.enable_dns64), "EnableDns64"),
            (is_on(&request.map_customer_owned_ip_on_launch), "MapCustomerOwnedIpOnLaunch"),
            (is_on(&request.enable_resource_name_dns_a_record_on_launch), "EnableResourceNameDnsARecordOnLaunch"),
            (is_on(&request.enable_resource_name_dns_aaaa_record_on_launch), "EnableResourceNameDnsAAAARecordOnLaunch"),
            (request.enable_lni_at_device_index.is_some(), "EnableLniAtDeviceIndex"),
            (request.customer_owned_ipv4_pool.is_some(), "CustomerOwnedIpv4Pool"),
            (
                request.private_dns_hostname_type_on_launch.as_deref() == Some("resource-name"),
                "PrivateDnsHostnameTypeOnLaunch",
            ),
        ])?;
        let scope = &mut Scope::of(cx);
        let subnet = scope.subnet(request.subnet_id.parse()?)?;
        if let Some(map) = on(&request.map_public_ip_on_launch) {
            ops::set_public_on_launch(scope, &subnet, map)?;
        }
        Ok(Empty)
    }
}
