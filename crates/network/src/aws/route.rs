use ipnet::IpNet;
use terroir_action::{Access, Action, Context, Registry, Target};
use terroir_aws_model::{Empty, ec2};
use terroir_types::Error;

use super::{exactly_one, parse_cidr, unsupported};
use crate::model::{RouteTable, RouteTo};
use crate::ops::{self, NewRoute, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateRoute>();
    registry.add::<ReplaceRoute>();
    registry.add::<DeleteRoute>();
}

/// Errors: `MissingParameter` and `InvalidParameterCombination` unless there is one destination;
/// `InvalidParameterValue` for no CIDR, or one of the other family.
fn destination(v4: Option<&str>, v6: Option<&str>, prefix_list: Option<&str>) -> Result<IpNet, Error> {
    let alternatives =
        [("DestinationCidrBlock", v4), ("DestinationIpv6CidrBlock", v6), ("DestinationPrefixListId", prefix_list)];
    let (which, text) = exactly_one(&alternatives)?;
    if which == 2 {
        let message = format!("The prefix list ID '{text}' does not exist");
        return Err(Error::not_found("InvalidPrefixListID.NotFound", message));
    }
    let parameter = if which == 0 { "destinationCidrBlock" } else { "destinationIpv6CidrBlock" };
    let net = parse_cidr(text, parameter)?;
    if net.addr().is_ipv4() != (which == 0) {
        let message = format!("Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block.");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    Ok(net)
}

/// The target among those that AWS knows; only internet gateways are built.
macro_rules! target {
    ($request:ident) => {{
        let (which, id) = exactly_one(&[
            ("GatewayId", $request.gateway_id.as_deref()),
            ("InstanceId", $request.instance_id.as_deref()),
            ("NetworkInterfaceId", $request.network_interface_id.as_deref()),
            ("NatGatewayId", $request.nat_gateway_id.as_deref()),
            ("TransitGatewayId", $request.transit_gateway_id.as_deref()),
            ("VpcPeeringConnectionId", $request.vpc_peering_connection_id.as_deref()),
            ("VpcEndpointId", $request.vpc_endpoint_id.as_deref()),
            ("EgressOnlyInternetGatewayId", $request.egress_only_internet_gateway_id.as_deref()),
            ("CarrierGatewayId", $request.carrier_gateway_id.as_deref()),
            ("LocalGatewayId", $request.local_gateway_id.as_deref()),
            ("CoreNetworkArn", $request.core_network_arn.as_deref()),
            ("OdbNetworkArn", $request.odb_network_arn.as_deref()),
        ])?;
        if which == 0 { gateway(id) } else { Err(unsupported("A route to anything but an internet gateway")) }
    }};
}

fn gateway(id: &str) -> Result<RouteTo, Error> {
    if id.starts_with("vgw-") || id.starts_with("vpce-") {
        return Err(unsupported("A route to anything but an internet gateway"));
    }
    if id == "local" {
        let message = "Value (local) for parameter gatewayId is invalid. Routes inside the VPC cannot be changed.";
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    id.parse().map(RouteTo::Gateway)
}

struct CreateRoute;

impl Action for CreateRoute {
    type Op = ec2::ops::CreateRoute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateRouteRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:CreateRoute", RouteTable::RESOURCE, &request.route_table_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::CreateRouteRequest) -> Result<ec2::CreateRouteResult, Error> {
        let destination = destination(
            request.destination_cidr_block.as_deref(),
            request.destination_ipv6_cidr_block.as_deref(),
            request.destination_prefix_list_id.as_deref(),
        )?;
        let route = NewRoute { table: request.route_table_id.parse()?, destination, target: target!(request)? };
        ops::create_route(&mut Scope::of(cx), &route)?;
        Ok(ec2::CreateRouteResult { return_: Some(true) })
    }
}

struct ReplaceRoute;

impl Action for ReplaceRoute {
    type Op = ec2::ops::ReplaceRoute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::ReplaceRouteRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:ReplaceRoute", RouteTable::RESOURCE, &request.route_table_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::ReplaceRouteRequest) -> Result<Empty, Error> {
        if request.local_target == Some(true) {
            return Err(unsupported("Replacing a local route"));
        }
        let destination = destination(
            request.destination_cidr_block.as_deref(),
            request.destination_ipv6_cidr_block.as_deref(),
            request.destination_prefix_list_id.as_deref(),
        )?;
        let route = NewRoute { table: request.route_table_id.parse()?, destination, target: target!(request)? };
        ops::replace_route(&mut Scope::of(cx), &route)?;
        Ok(Empty)
    }
}

struct DeleteRoute;

impl Action for DeleteRoute {
    type Op = ec2::ops::DeleteRoute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteRouteRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeleteRoute", RouteTable::RESOURCE, &request.route_table_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DeleteRouteRequest) -> Result<Empty, Error> {
        let destination = destination(
            request.destination_cidr_block.as_deref(),
            request.destination_ipv6_cidr_block.as_deref(),
            request.destination_prefix_list_id.as_deref(),
        )?;
        ops::delete_route(&mut Scope::of(cx), request.route_table_id.parse()?, destination)?;
        Ok(Empty)
    }
}
