use std::collections::HashMap;
use std::sync::Arc;
use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, RouteTableId, VpcId};

use super::listing::Listing;
use super::{creation_targets, refuse, text};
use crate::model::{RouteTable, RouteTo, Subnet, Vpc, objects_of};
use crate::ops::{self, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateRouteTable>();
    registry.add::<DescribeRouteTables>();
    registry.add::<DeleteRouteTable>();
    registry.add::<AssociateRouteTable>();
    registry.add::<DisassociateRouteTable>();
    registry.add::<ReplaceRouteTableAssociation>();
}

/// What tables are associated with, looked up once for a whole list.
struct Associations {
    vpcs: HashMap<VpcId, Arc<Vpc>>,
    subnets: Vec<Arc<Subnet>>,
}

impl Associations {
    fn load(cx: &Context<'_>) -> Result<Self, Error> {
        let vpcs = cx.txn.peek_range::<Vpc>(&objects_of("vpc", cx.account()))?;
        let subnets = cx.txn.peek_range::<Subnet>(&objects_of("subnet", cx.account()))?;
        Ok(Self {
            vpcs: vpcs.into_iter().map(|(_, vpc)| (vpc.id, vpc)).collect(),
            subnets: subnets.into_iter().map(|(_, subnet)| subnet).collect(),
        })
    }

    fn of(&self, table: &RouteTable) -> Vec<ec2::RouteTableAssociation> {
        let describe = |id: String, subnet: Option<String>| ec2::RouteTableAssociation {
            association_state: Some(associated()),
            main: Some(subnet.is_none()),
            route_table_association_id: Some(id),
            route_table_id: text(table.id),
            subnet_id: subnet,
            ..ec2::RouteTableAssociation::default()
        };
        let main = self.vpcs.get(&table.vpc).filter(|vpc| vpc.main_table == table.id);
        let main = main.map(|vpc| describe(vpc.main_association.to_string(), None));
        let subnets = self.subnets.iter().filter_map(|subnet| {
            let association = subnet.association.filter(|association| association.table == table.id)?;
            Some(describe(association.id.to_string(), text(subnet.id)))
        });
        main.into_iter().chain(subnets).collect()
    }

    fn routes(&self, table: &RouteTable) -> Vec<ec2::Route> {
        let route = |destination: &ipnet::IpNet, gateway: String, origin: &str, active: bool| {
            let is_v4 = destination.addr().is_ipv4();
            ec2::Route {
                destination_cidr_block: is_v4.then(|| destination.to_string()),
                destination_ipv6_cidr_block: (!is_v4).then(|| destination.to_string()),
                gateway_id: Some(gateway),
                origin: text(origin),
                state: text(if active { "active" } else { "blackhole" }),
                ..ec2::Route::default()
            }
        };
        let vpc = self.vpcs.get(&table.vpc);
        let local = vpc.iter().flat_map(|vpc| vpc.cidrs());
        let local = local.map(|cidr| route(cidr, "local".to_owned(), "CreateRouteTable", true));
        let others = table.routes().iter().map(|entry| {
            let RouteTo::Gateway(gateway) = entry.target;
            let attached = vpc.is_some_and(|vpc| vpc.gateway == Some(gateway));
            route(&entry.destination, gateway.to_string(), "CreateRoute", attached)
        });
        local.chain(others).collect()
    }

    fn describe(&self, table: &RouteTable, tags: &Tags) -> ec2::RouteTable {
        ec2::RouteTable {
            associations: self.of(table),
            owner_id: text(table.account),
            propagating_vgws: Vec::new(),
            route_table_id: text(table.id),
            routes: self.routes(table),
            tags: ec2_tags(tags),
            vpc_id: text(table.vpc),
        }
    }

    fn field(&self, table: &RouteTable, name: &str) -> Vec<String> {
        let of = |part: fn(ec2::RouteTableAssociation) -> Option<String>| {
            self.of(table).into_iter().filter_map(part).collect()
        };
        let route = |part: fn(ec2::Route) -> Option<String>| self.routes(table).into_iter().filter_map(part).collect();
        match name {
            "association.main" => of(|association| association.main.map(|main| main.to_string())),
            "association.route-table-association-id" => of(|association| association.route_table_association_id),
            "association.route-table-id" => of(|association| association.route_table_id),
            "association.subnet-id" => of(|association| association.subnet_id),
            "owner-id" => vec![table.account.to_string()],
            "route-table-id" => vec![table.id.to_string()],
            "route.destination-cidr-block" => route(|route| route.destination_cidr_block),
            "route.destination-ipv6-cidr-block" => route(|route| route.destination_ipv6_cidr_block),
            "route.gateway-id" => route(|route| route.gateway_id),
            "route.origin" => route(|route| route.origin),
            "route.state" => route(|route| route.state),
            "vpc-id" => vec![table.vpc.to_string()],
            _ => Vec::new(),
        }
    }
}

fn associated() -> ec2::RouteTableAssociationState {
    ec2::RouteTableAssociationState { state: text("associated"), status_message: None }
}

struct CreateRouteTable;

impl Action for CreateRouteTable {
    type Op = ec2::ops::CreateRouteTable;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateRouteTableRequest) -> Result<Vec<Target>, Error> {
        let kind = RouteTable::RESOURCE;
        let mut targets = creation_targets(cx, "CreateRouteTable", kind, &request.tag_specifications)?;
        targets.push(Target::ec2(cx, "ec2:CreateRouteTable", Vpc::RESOURCE, &request.vpc_id)?);
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: ec2::CreateRouteTableRequest) -> Result<ec2::CreateRouteTableResult, Error> {
        let tags = specified_tags(&request.tag_specifications, RouteTable::RESOURCE, &[])?;
        let table = ops::create_table(&mut Scope::of(cx), request.vpc_id.parse()?, tags.clone())?;
        let described = Associations::load(cx)?.describe(&table, &tags);
        Ok(ec2::CreateRouteTableResult { client_token: request.client_token, route_table: Some(described) })
    }
}

struct DescribeRouteTables;

const FILTERS: [&str; 21] = [
    "association.gateway-id",
    "association.main",
    "association.route-table-association-id",
    "association.route-table-id",
    "association.subnet-id",
    "owner-id",
    "route-table-id",
    "route.destination-cidr-block",
    "route.destination-ipv6-cidr-block",
    "route.destination-prefix-list-id",
    "route.egress-only-internet-gateway-id",
    "route.gateway-id",
    "route.instance-id",
    "route.nat-gateway-id",
    "route.origin",
    "route.state",
    "route.transit-gateway-id",
    "route.vpc-peering-connection-id",
    "tag",
    "vpc-id",
    "transit-gateway-id",
];

impl Action for DescribeRouteTables {
    type Op = ec2::ops::DescribeRouteTables;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeRouteTablesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeRouteTables")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeRouteTablesRequest,
    ) -> Result<ec2::DescribeRouteTablesResult, Error> {
        let ids = &request.route_table_ids;
        let listing = Listing::new("DescribeRouteTables", ids, &request.filters, &FILTERS, request.page())?;
        let associations = Associations::load(cx)?;
        let (rows, next_token) =
            listing.rows::<RouteTableId, RouteTable>(cx, |table, name| associations.field(table, name))?;
        let route_tables = rows.iter().map(|row| associations.describe(&row.record, &row.tags)).collect();
        Ok(ec2::DescribeRouteTablesResult { next_token, route_tables })
    }
}

struct DeleteRouteTable;

impl Action for DeleteRouteTable {
    type Op = ec2::ops::DeleteRouteTable;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteRouteTableRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeleteRouteTable", RouteTable::RESOURCE, &request.route_table_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DeleteRouteTableRequest) -> Result<Empty, Error> {
        ops::delete_table(&mut Scope::of(cx), request.route_table_id.parse()?)?;
        Ok(Empty)
    }
}

struct AssociateRouteTable;

impl Action for AssociateRouteTable {
    type Op = ec2::ops::AssociateRouteTable;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AssociateRouteTableRequest) -> Result<Vec<Target>, Error> {
        let permission = "ec2:AssociateRouteTable";
        let mut targets = vec![Target::ec2(cx, permission, RouteTable::RESOURCE, &request.route_table_id)?];
        if let Some(subnet) = &request.subnet_id {
            targets.push(Target::ec2(cx, permission, Subnet::RESOURCE, subnet)?);
        }
        Ok(targets)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::AssociateRouteTableRequest,
    ) -> Result<ec2::AssociateRouteTableResult, Error> {
        refuse(&[(request.gateway_id.is_some(), "GatewayId"), (request.public_ipv4_pool.is_some(), "PublicIpv4Pool")])?;
        let subnet = terroir_action::required(&request.subnet_id, "SubnetId")?.parse()?;
        let association = ops::associate_table(&mut Scope::of(cx), request.route_table_id.parse()?, subnet)?;
        Ok(ec2::AssociateRouteTableResult { association_id: text(association), association_state: Some(associated()) })
    }
}

/// The permission on what an association joins. Unknown ones stand for any table, so that nothing is told.
fn association_targets(cx: &Context<'_>, permission: &str, association: &str) -> Result<Vec<Target>, Error> {
    let associations = Associations::load(cx)?;
    for subnet in &associations.subnets {
        if let Some(known) = subnet.association.filter(|known| known.id.to_string() == association) {
            return Ok(vec![
                Target::ec2(cx, permission, RouteTable::RESOURCE, known.table)?,
                Target::ec2(cx, permission, Subnet::RESOURCE, subnet.id)?,
            ]);
        }
    }
    match associations.vpcs.values().find(|vpc| vpc.main_association.to_string() == association) {
        Some(vpc) => Ok(vec![Target::ec2(cx, permission, RouteTable::RESOURCE, vpc.main_table)?]),
        None => Ok(vec![Target::on(permission, cx.ec2_arn(RouteTable::RESOURCE, "*"))]),
    }
}

struct DisassociateRouteTable;

impl Action for DisassociateRouteTable {
    type Op = ec2::ops::DisassociateRouteTable;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DisassociateRouteTableRequest) -> Result<Vec<Target>, Error> {
        association_targets(cx, "ec2:DisassociateRouteTable", &request.association_id)
    }

    fn run(cx: &mut Context<'_>, request: ec2::DisassociateRouteTableRequest) -> Result<Empty, Error> {
        ops::disassociate_table(&mut Scope::of(cx), request.association_id.parse()?)?;
        Ok(Empty)
    }
}

struct ReplaceRouteTableAssociation;

impl Action for ReplaceRouteTableAssociation {
    type Op = ec2::ops::ReplaceRouteTableAssociation;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::ReplaceRouteTableAssociationRequest) -> Result<Vec<Target>, Error> {
        let permission = "ec2:ReplaceRouteTableAssociation";
        let mut targets = association_targets(cx, permission, &request.association_id)?;
        targets.push(Target::ec2(cx, permission, RouteTable::RESOURCE, &request.route_table_id)?);
        Ok(targets)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::ReplaceRouteTableAssociationRequest,
    ) -> Result<ec2::ReplaceRouteTableAssociationResult, Error> {
        let (association, table) = (request.association_id.parse()?, request.route_table_id.parse()?);
        let new = ops::replace_association(&mut Scope::of(cx), association, table)?;
        Ok(ec2::ReplaceRouteTableAssociationResult {
            association_state: Some(associated()),
            new_association_id: text(new),
        })
    }
}
