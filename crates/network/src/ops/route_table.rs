use ipnet::IpNet;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_types::{Error, ResourceId, RouteTableAssociationId, RouteTableId, SubnetId, VpcId};

use crate::model::{
    ROUTES_PER_TABLE, RouteEntry, RouteTable, RouteTableTenant, RouteTo, Subnet, TableAssociation, Vpc, VpcChild,
};
use crate::ops::subnet::{self, subnets_of};
use crate::ops::{Scope, dependency_violation};

const TABLES_PER_VPC: i64 = 200;

#[derive(Debug, Clone, Copy)]
pub struct NewRoute {
    pub table: RouteTableId,
    pub destination: IpNet,
    pub target: RouteTo,
}

/// Errors: `InvalidVpcID.NotFound`, `RouteTableLimitExceeded`, those of tags.
pub fn create_table(scope: &mut Scope<'_>, vpc: VpcId, tags: Tags) -> Result<Arc<RouteTable>, Error> {
    scope.vpc(vpc)?;
    let id = RouteTableId::generate(scope.ids);
    let table = RouteTable { account: scope.account, id, vpc, tenant: RouteTableTenant::default() };
    insert_table(scope, &table, tags)?;
    Ok(Arc::new(table))
}

pub(crate) fn insert_table(scope: &mut Scope<'_>, table: &RouteTable, tags: Tags) -> Result<(), Error> {
    let limit = "RouteTableLimitExceeded";
    scope.count(&guard(table.vpc), TABLES_PER_VPC, limit, "route tables in this VPC")?;
    put(scope, table)?;
    let child = Vpc::child(table.vpc, RouteTable::RESOURCE, table.id);
    scope.txn.put(&child, &VpcChild { account: scope.account })?;
    scope.register(table.id, RouteTable::RESOURCE, tags)
}

/// Errors: `DependencyViolation` for a main table, or while subnets use it.
pub fn delete_table(scope: &mut Scope<'_>, id: RouteTableId) -> Result<(), Error> {
    let table = scope.table(id)?;
    let is_main = scope.vpc(table.vpc)?.main_table == id;
    let used = |subnet: &Arc<Subnet>| subnet.association.is_some_and(|association| association.table == id);
    if is_main || subnets_of(scope, table.vpc)?.iter().any(used) {
        return Err(dependency_violation("routeTable", id));
    }
    remove_table(scope, table.vpc, id)
}

pub(crate) fn remove_table(scope: &mut Scope<'_>, vpc: VpcId, id: RouteTableId) -> Result<(), Error> {
    scope.txn.delete(&Vpc::child(vpc, RouteTable::RESOURCE, id));
    scope.txn.delete(&RouteTable::key(scope.account, id));
    scope.uncount(&guard(vpc))?;
    scope.unregister(id)
}

/// The table that routes a subnet.
pub fn table_of(vpc: &Vpc, subnet: &Subnet) -> RouteTableId {
    subnet.association.map_or(vpc.main_table, |association| association.table)
}

/// Errors: `Resource.AlreadyAssociated` if the subnet has a table of its own, `InvalidParameterValue` if the two are
/// in different VPCs.
pub fn associate_table(
    scope: &mut Scope<'_>,
    id: RouteTableId,
    subnet: SubnetId,
) -> Result<RouteTableAssociationId, Error> {
    let (table, subnet) = (scope.table(id)?, scope.subnet(subnet)?);
    if table.vpc != subnet.vpc {
        return Err(different_networks(id, subnet.id));
    }
    match subnet.association {
        // AWS answers a repeated call with the association that is there.
        Some(association) if association.table == id => Ok(association.id),
        Some(association) => {
            let message =
                format!("the specified association for route table {id} conflicts with an existing association");
            Err(Error::conflict("Resource.AlreadyAssociated", message).with_internal(association.id.to_string()))
        }
        None => {
            let association = TableAssociation { id: RouteTableAssociationId::generate(scope.ids), table: id };
            subnet::put(scope, &Subnet { association: Some(association), ..Subnet::clone(&subnet) })?;
            Ok(association.id)
        }
    }
}

/// Errors: `InvalidAssociationID.NotFound`; `InvalidParameterValue` for a VPC's main association.
pub fn disassociate_table(scope: &mut Scope<'_>, id: RouteTableAssociationId) -> Result<(), Error> {
    match find_association(scope, id)? {
        Associated::Main(_) => {
            let message = format!("cannot disassociate the main route table association {id}");
            Err(Error::invalid("InvalidParameterValue", message))
        }
        Associated::Subnet(subnet) => subnet::put(scope, &Subnet { association: None, ..Subnet::clone(&subnet) }),
    }
}

/// Gives a subnet another table, or a VPC another main table; the answer is the new association.
///
/// Errors: `InvalidAssociationID.NotFound`, `InvalidRouteTableID.NotFound`, `InvalidParameterValue` if the table is of
/// another VPC.
pub fn replace_association(
    scope: &mut Scope<'_>,
    id: RouteTableAssociationId,
    table: RouteTableId,
) -> Result<RouteTableAssociationId, Error> {
    let table = scope.table(table)?;
    let new = RouteTableAssociationId::generate(scope.ids);
    match find_association(scope, id)? {
        Associated::Main(vpc) if vpc.id == table.vpc => {
            let vpc = Vpc { main_table: table.id, main_association: new, ..Vpc::clone(&vpc) };
            scope.txn.put(&Vpc::key(scope.account, vpc.id), &vpc)?;
        }
        Associated::Subnet(subnet) if subnet.vpc == table.vpc => {
            let association = Some(TableAssociation { id: new, table: table.id });
            subnet::put(scope, &Subnet { association, ..Subnet::clone(&subnet) })?;
        }
        Associated::Main(vpc) => return Err(different_networks(table.id, vpc.id)),
        Associated::Subnet(subnet) => return Err(different_networks(table.id, subnet.id)),
    }
    Ok(new)
}

enum Associated {
    Main(Arc<Vpc>),
    Subnet(Arc<Subnet>),
}

fn find_association(scope: &Scope<'_>, id: RouteTableAssociationId) -> Result<Associated, Error> {
    let subnets = scope.txn.peek_range::<Subnet>(&crate::model::objects_of("subnet", scope.account))?;
    if let Some((_, subnet)) = subnets.into_iter().find(|(_, subnet)| subnet.association.is_some_and(|a| a.id == id)) {
        return scope.subnet(subnet.id).map(Associated::Subnet);
    }
    let vpcs = scope.txn.peek_range::<Vpc>(&crate::model::objects_of("vpc", scope.account))?;
    match vpcs.into_iter().find(|(_, vpc)| vpc.main_association == id) {
        Some((_, vpc)) => scope.vpc(vpc.id).map(Associated::Main),
        None => Err(RouteTableAssociationId::not_found(id)),
    }
}

/// Errors: `RouteAlreadyExists` for a destination that has another target or lies in the VPC, `RouteLimitExceeded`,
/// `InvalidParameterValue` for a gateway that is not attached to the VPC.
pub fn create_route(scope: &mut Scope<'_>, new: &NewRoute) -> Result<(), Error> {
    let table = scope.table(new.table)?;
    let entry = RouteEntry { destination: new.destination.trunc(), target: new.target };
    check_target(scope, &table, &entry)?;
    check_not_local(scope, &table, entry.destination)?;
    let mut routes = table.routes().to_vec();
    match routes.iter().find(|route| route.destination == entry.destination) {
        Some(route) if route.target == entry.target => return Ok(()),
        Some(_) => return Err(already_exists(entry.destination)),
        None => {}
    }
    if routes.len() >= ROUTES_PER_TABLE {
        let message = "The maximum number of routes has been reached for the table.";
        return Err(Error::limit("RouteLimitExceeded", message));
    }
    routes.push(entry);
    routes.sort_by_key(|route| route.destination);
    put(scope, &RouteTable { tenant: RouteTableTenant { routes }, ..RouteTable::clone(&table) })
}

/// Errors: `InvalidParameterValue` if there is no such route (AWS's words), or as for creating.
pub fn replace_route(scope: &mut Scope<'_>, new: &NewRoute) -> Result<(), Error> {
    let table = scope.table(new.table)?;
    let entry = RouteEntry { destination: new.destination.trunc(), target: new.target };
    check_target(scope, &table, &entry)?;
    let mut routes = table.routes().to_vec();
    let Some(route) = routes.iter_mut().find(|route| route.destination == entry.destination) else {
        let message = format!(
            "There is no route defined for '{}' in the route table. Use CreateRoute instead.",
            entry.destination
        );
        return Err(Error::invalid("InvalidParameterValue", message));
    };
    *route = entry;
    put(scope, &RouteTable { tenant: RouteTableTenant { routes }, ..RouteTable::clone(&table) })
}

/// Errors: `InvalidRoute.NotFound`; `InvalidParameterValue` for the local route.
pub fn delete_route(scope: &mut Scope<'_>, id: RouteTableId, destination: IpNet) -> Result<(), Error> {
    let table = scope.table(id)?;
    let destination = destination.trunc();
    if scope.vpc(table.vpc)?.cidrs().contains(&destination) {
        let message = format!("cannot remove local route {destination} in route table {id}");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let mut routes = table.routes().to_vec();
    routes.retain(|route| route.destination != destination);
    if routes.len() == table.routes().len() {
        let message = format!("no route with destination-cidr-block {destination} in route table {id}");
        return Err(Error::not_found("InvalidRoute.NotFound", message));
    }
    put(scope, &RouteTable { tenant: RouteTableTenant { routes }, ..RouteTable::clone(&table) })
}

fn check_target(scope: &Scope<'_>, table: &RouteTable, entry: &RouteEntry) -> Result<(), Error> {
    let RouteTo::Gateway(gateway) = entry.target;
    if scope.gateway(gateway)?.vpc == Some(table.vpc) {
        return Ok(());
    }
    Err(different_networks(table.id, gateway))
}

fn check_not_local(scope: &Scope<'_>, table: &RouteTable, destination: IpNet) -> Result<(), Error> {
    let vpc = scope.vpc(table.vpc)?;
    if vpc.cidrs().contains(&destination) {
        return Err(already_exists(destination));
    }
    match vpc.cidrs().iter().find(|cidr| cidr.contains(&destination)) {
        None => Ok(()),
        Some(cidr) => {
            let message = format!(
                "The destination CIDR block {destination} is equal to or more specific than one of this VPC's CIDR blocks ({cidr}). This route can target only an interface or an instance."
            );
            Err(Error::invalid("InvalidParameterValue", message))
        }
    }
}

fn already_exists(destination: IpNet) -> Error {
    Error::conflict("RouteAlreadyExists", format!("The route identified by {destination} already exists."))
}

fn different_networks(a: impl std::fmt::Display, b: impl std::fmt::Display) -> Error {
    Error::invalid("InvalidParameterValue", format!("{a} and {b} belong to different networks"))
}

fn put(scope: &mut Scope<'_>, table: &RouteTable) -> Result<(), Error> {
    scope.txn.put(&RouteTable::key(scope.account, table.id), table)
}

fn guard(vpc: VpcId) -> String {
    format!("route-tables/{vpc}")
}
