use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target, required};
use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, VpcId};

use super::listing::{Listing, truth};
use super::{creation_targets, parse_cidr, refuse, text};
use crate::model::Vpc;
use crate::ops::{self, NewVpc, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateVpc>();
    registry.add::<CreateDefaultVpc>();
    registry.add::<DescribeVpcs>();
    registry.add::<DeleteVpc>();
    registry.add::<DescribeVpcAttribute>();
    registry.add::<ModifyVpcAttribute>();
}

/// DHCP option sets are not built; AWS calls none at all so.
const NO_DHCP_OPTIONS: &str = "default";

fn describe(vpc: &Vpc, tags: &Tags) -> ec2::Vpc {
    let block = |cidr: &ipnet::IpNet| ec2::VpcCidrBlockAssociation {
        association_id: text(vpc.cidr_association()),
        cidr_block: text(cidr),
        cidr_block_state: Some(ec2::VpcCidrBlockState { state: text("associated"), status_message: None }),
    };
    ec2::Vpc {
        cidr_block: vpc.cidrs().first().map(ToString::to_string),
        cidr_block_association_set: vpc.cidrs().iter().map(block).collect(),
        dhcp_options_id: text(NO_DHCP_OPTIONS),
        instance_tenancy: text("default"),
        is_default: Some(vpc.is_default),
        owner_id: text(vpc.account),
        state: text("available"),
        tags: ec2_tags(tags),
        vpc_id: text(vpc.id),
        ..ec2::Vpc::default()
    }
}

struct CreateVpc;

impl Action for CreateVpc {
    type Op = ec2::ops::CreateVpc;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateVpcRequest) -> Result<Vec<Target>, Error> {
        creation_targets(cx, "CreateVpc", Vpc::RESOURCE, &request.tag_specifications)
    }

    fn run(cx: &mut Context<'_>, request: ec2::CreateVpcRequest) -> Result<ec2::CreateVpcResult, Error> {
        refuse(&[
            (request.amazon_provided_ipv6_cidr_block == Some(true), "AmazonProvidedIpv6CidrBlock"),
            (request.ipv6_cidr_block.is_some(), "Ipv6CidrBlock"),
            (request.ipv6_pool.is_some(), "Ipv6Pool"),
            (request.ipv6_ipam_pool_id.is_some(), "Ipv6IpamPoolId"),
            (request.ipv6_netmask_length.is_some(), "Ipv6NetmaskLength"),
            (request.ipv4_ipam_pool_id.is_some(), "Ipv4IpamPoolId"),
            (request.ipv4_netmask_length.is_some(), "Ipv4NetmaskLength"),
            (request.vpc_encryption_control.is_some(), "VpcEncryptionControl"),
        ])?;
        match request.instance_tenancy.as_deref() {
            None | Some("default") => {}
            Some("dedicated") => return Err(super::unsupported("Dedicated tenancy")),
            Some(other) => {
                let message = format!("Value ({other}) for parameter instanceTenancy is invalid.");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
        }
        let cidr = parse_cidr(required(&request.cidr_block, "CidrBlock")?, "cidrBlock")?;
        let tags = specified_tags(&request.tag_specifications, Vpc::RESOURCE, &[])?;
        let vpc = ops::create_vpc(&mut Scope::of(cx), NewVpc { cidr, is_default: false, tags: tags.clone() })?;
        Ok(ec2::CreateVpcResult { vpc: Some(describe(&vpc, &tags)) })
    }
}

struct CreateDefaultVpc;

impl Action for CreateDefaultVpc {
    type Op = ec2::ops::CreateDefaultVpc;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, _request: &ec2::CreateDefaultVpcRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("ec2:CreateDefaultVpc", cx.ec2_arn(Vpc::RESOURCE, "*"))])
    }

    fn run(cx: &mut Context<'_>, _request: ec2::CreateDefaultVpcRequest) -> Result<ec2::CreateDefaultVpcResult, Error> {
        let vpc = ops::create_default_vpc(&mut Scope::of(cx))?;
        Ok(ec2::CreateDefaultVpcResult { vpc: Some(describe(&vpc, &Tags::new())) })
    }
}

struct DescribeVpcs;

const FILTERS: [&str; 19] = [
    "cidr",
    "cidr-block",
    "cidrBlock",
    "cidr-block-association.association-id",
    "cidr-block-association.cidr-block",
    "cidr-block-association.state",
    "dhcp-options-id",
    "dhcpOptionsId",
    "ipv6-cidr-block-association.association-id",
    "ipv6-cidr-block-association.ipv6-cidr-block",
    "ipv6-cidr-block-association.ipv6-pool",
    "ipv6-cidr-block-association.state",
    "is-default",
    "isDefault",
    "owner-id",
    "state",
    "tag",
    "vpc-id",
    "instance-tenancy",
];

fn field(vpc: &Vpc, name: &str) -> Vec<String> {
    match name {
        "cidr" | "cidr-block" | "cidrBlock" => vpc.cidrs().first().map(ToString::to_string).into_iter().collect(),
        "cidr-block-association.cidr-block" => vpc.cidrs().iter().map(ToString::to_string).collect(),
        "cidr-block-association.association-id" => vec![vpc.cidr_association()],
        "cidr-block-association.state" => vec!["associated".to_owned()],
        "dhcp-options-id" | "dhcpOptionsId" => vec![NO_DHCP_OPTIONS.to_owned()],
        "instance-tenancy" => vec!["default".to_owned()],
        "is-default" | "isDefault" => truth(vpc.is_default),
        "owner-id" => vec![vpc.account.to_string()],
        "state" => vec!["available".to_owned()],
        "vpc-id" => vec![vpc.id.to_string()],
        _ => Vec::new(),
    }
}

impl Action for DescribeVpcs {
    type Op = ec2::ops::DescribeVpcs;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeVpcsRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeVpcs")])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DescribeVpcsRequest) -> Result<ec2::DescribeVpcsResult, Error> {
        let listing = Listing::new("DescribeVpcs", &request.vpc_ids, &request.filters, &FILTERS, request.page())?;
        let (rows, next_token) = listing.rows::<VpcId, Vpc>(cx, field)?;
        let vpcs = rows.iter().map(|row| describe(&row.record, &row.tags)).collect();
        Ok(ec2::DescribeVpcsResult { next_token, vpcs })
    }
}

struct DeleteVpc;

impl Action for DeleteVpc {
    type Op = ec2::ops::DeleteVpc;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteVpcRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeleteVpc", Vpc::RESOURCE, &request.vpc_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DeleteVpcRequest) -> Result<Empty, Error> {
        ops::delete_vpc(&mut Scope::of(cx), request.vpc_id.parse()?)?;
        Ok(Empty)
    }
}

struct DescribeVpcAttribute;

impl Action for DescribeVpcAttribute {
    type Op = ec2::ops::DescribeVpcAttribute;
    const ACCESS: Access = Access::Read;

    fn targets(cx: &Context<'_>, request: &ec2::DescribeVpcAttributeRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DescribeVpcAttribute", Vpc::RESOURCE, &request.vpc_id)?])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeVpcAttributeRequest,
    ) -> Result<ec2::DescribeVpcAttributeResult, Error> {
        let vpc = Scope::of(cx).vpc(request.vpc_id.parse()?)?;
        let value = |value| Some(ec2::AttributeBooleanValue { value: Some(value) });
        let mut result =
            ec2::DescribeVpcAttributeResult { vpc_id: text(vpc.id), ..ec2::DescribeVpcAttributeResult::default() };
        match request.attribute.as_str() {
            "enableDnsSupport" => result.enable_dns_support = value(vpc.dns_support),
            "enableDnsHostnames" => result.enable_dns_hostnames = value(vpc.dns_hostnames),
            "enableNetworkAddressUsageMetrics" => result.enable_network_address_usage_metrics = value(false),
            other => {
                let message = format!("Value ({other}) for parameter attribute is invalid.");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
        }
        Ok(result)
    }
}

struct ModifyVpcAttribute;

impl Action for ModifyVpcAttribute {
    type Op = ec2::ops::ModifyVpcAttribute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::ModifyVpcAttributeRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:ModifyVpcAttribute", Vpc::RESOURCE, &request.vpc_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::ModifyVpcAttributeRequest) -> Result<Empty, Error> {
        let value = |attribute: &Option<ec2::AttributeBooleanValue>| attribute.as_ref().and_then(|a| a.value);
        let (support, hostnames) = (value(&request.enable_dns_support), value(&request.enable_dns_hostnames));
        let metrics = value(&request.enable_network_address_usage_metrics);
        refuse(&[(metrics == Some(true), "EnableNetworkAddressUsageMetrics")])?;
        match [support, hostnames, metrics].iter().flatten().count() {
            1 => {}
            0 => return Err(Error::invalid("MissingParameter", "The request must contain an attribute to modify")),
            _ => {
                let message = "Only one attribute can be modified at a time";
                return Err(Error::invalid("InvalidParameterCombination", message));
            }
        }
        ops::set_dns(&mut Scope::of(cx), request.vpc_id.parse()?, support, hostnames)?;
        Ok(Empty)
    }
}
