use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use std::sync::Arc;
use terroir_action::Region;
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, IdSource, Timestamp, VpcId};

use crate::model::{DefaultVpc, RouteTo, Subnet, Vpc};
use crate::ops::subnet::subnets_of;
use crate::ops::{NewRoute, NewSubnet, NewVpc, Scope};

/// 172.31.0.0/16, as AWS's.
const NETWORK: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 0);
const PREFIX: u8 = 16;
const SUBNET_PREFIX: u8 = 20;

/// The account's default VPC, made if it has none: 172.31.0.0/16, an internet gateway with the default route, and one
/// /20 subnet per zone that gives public addresses. For a new account.
pub fn ensure_default_vpc(
    txn: &mut Txn,
    account: AccountId,
    now: Timestamp,
    ids: &dyn IdSource,
    region: &Region,
) -> Result<VpcId, Error> {
    let mut scope = Scope { txn, account, now, ids, region };
    match default_vpc(&scope)? {
        Some(vpc) => Ok(vpc.id),
        None => Ok(create_default_vpc(&mut scope)?.id),
    }
}

pub fn default_vpc(scope: &Scope<'_>) -> Result<Option<Arc<Vpc>>, Error> {
    match scope.txn.get::<DefaultVpc>(&DefaultVpc::key(scope.account))? {
        Some(default) => scope.vpc(default.vpc).map(Some),
        None => Ok(None),
    }
}

/// Errors: `DefaultVpcAlreadyExists`.
pub fn create_default_vpc(scope: &mut Scope<'_>) -> Result<Arc<Vpc>, Error> {
    if let Some(vpc) = default_vpc(scope)? {
        let message = format!("A Default VPC already exists for this account in this region: {}", vpc.id);
        return Err(Error::conflict("DefaultVpcAlreadyExists", message));
    }
    let cidr = Ipv4Net::new_assert(NETWORK, PREFIX).into();
    let vpc = super::create_vpc(scope, NewVpc { cidr, is_default: true, tags: Tags::new() })?;
    scope.txn.put(&DefaultVpc::key(scope.account), &DefaultVpc { vpc: vpc.id })?;
    let gateway = super::create_gateway(scope, Tags::new())?.id;
    super::attach_gateway(scope, gateway, vpc.id)?;
    let everywhere = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let route = NewRoute { table: vpc.main_table, destination: everywhere, target: RouteTo::Gateway(gateway) };
    super::create_route(scope, &route)?;
    let region = scope.region;
    for zone in region.zones.iter().take(1 << (SUBNET_PREFIX - PREFIX)) {
        create_default_subnet(scope, &zone.name)?;
    }
    scope.vpc(vpc.id)
}

/// Errors: `DefaultVpcDoesNotExist`, `DefaultSubnetAlreadyExistsInAvailabilityZone`, `InvalidSubnet.Conflict` if no /20
/// is left.
pub fn create_default_subnet(scope: &mut Scope<'_>, zone: &str) -> Result<Arc<Subnet>, Error> {
    let Some(vpc) = default_vpc(scope)? else {
        let message = "No default VPC exists for this account in this region.";
        return Err(Error::not_found("DefaultVpcDoesNotExist", message));
    };
    let others = subnets_of(scope, vpc.id)?;
    if let Some(other) = others.iter().find(|subnet| subnet.default_for_zone && subnet.zone == zone) {
        let message = format!("'{}' is already the default subnet in '{zone}'.", other.id);
        return Err(Error::conflict("DefaultSubnetAlreadyExistsInAvailabilityZone", message));
    }
    let whole = Ipv4Net::new_assert(NETWORK, PREFIX);
    let mut places = whole.subnets(SUBNET_PREFIX).map_err(Error::internal)?.map(IpNet::from);
    let free = places.find(|place| !others.iter().any(|o| o.cidr().contains(place) || place.contains(&o.cidr())));
    let cidr = free.ok_or_else(|| {
        Error::conflict("InvalidSubnet.Conflict", format!("The default VPC '{}' has no free /{SUBNET_PREFIX}", vpc.id))
    })?;
    let new = NewSubnet { vpc: vpc.id, cidr, zone: zone.to_owned(), default_for_zone: true, tags: Tags::new() };
    super::create_subnet(scope, new)
}
