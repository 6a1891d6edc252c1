use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_types::{Error, ResourceId, RouteTableAssociationId, RouteTableId, SecurityGroupId, VpcId};

use crate::model::{DefaultVpc, RouteTable, RouteTableTenant, SecurityGroup, Vpc, VpcChild, VpcNumbers, VpcTenant};
use crate::ops::security_group::{NewGroup, insert_group, remove_group};
use crate::ops::{Scope, dependency_violation};

const VPCS_PER_ACCOUNT: i64 = 50;

#[derive(Debug, Clone)]
pub struct NewVpc {
    pub cidr: IpNet,
    pub is_default: bool,
    pub tags: Tags,
}

/// Makes a VPC with its default security group and its main route table.
///
/// Errors: `InvalidVpc.Range`, `VpcLimitExceeded`, those of tags.
pub fn create_vpc(scope: &mut Scope<'_>, new: NewVpc) -> Result<Arc<Vpc>, Error> {
    let cidr = check_range(new.cidr)?;
    scope.count("vpcs", VPCS_PER_ACCOUNT, "VpcLimitExceeded", "VPCs")?;
    let mut numbers =
        scope.txn.get::<VpcNumbers>(&VpcNumbers::key())?.map(|n| VpcNumbers::clone(&n)).unwrap_or_default();
    let index =
        numbers.take().ok_or_else(|| Error::limit("VpcLimitExceeded", "This cell has no room for more VPCs"))?;
    scope.txn.put(&VpcNumbers::key(), &numbers)?;

    let id = VpcId::generate(scope.ids);
    let vpc = Vpc {
        account: scope.account,
        id,
        index,
        is_default: new.is_default,
        dns_support: true,
        dns_hostnames: new.is_default,
        default_group: SecurityGroupId::generate(scope.ids),
        main_table: RouteTableId::generate(scope.ids),
        main_association: RouteTableAssociationId::generate(scope.ids),
        gateway: None,
        tenant: VpcTenant { cidrs: vec![cidr] },
    };
    scope.txn.put(&Vpc::key(scope.account, id), &vpc)?;
    scope.register(id, Vpc::RESOURCE, new.tags)?;
    let table = RouteTable {
        account: scope.account,
        id: vpc.main_table,
        vpc: id,
        tenant: RouteTableTenant { routes: Vec::new() },
    };
    super::route_table::insert_table(scope, &table, Tags::new())?;
    let group = NewGroup {
        vpc: id,
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        tags: Tags::new(),
    };
    insert_group(scope, vpc.default_group, true, group)?;
    Ok(Arc::new(vpc))
}

/// Removes a VPC with its default security group and its main route table.
///
/// Errors: `DependencyViolation` while it has subnets, other groups or tables, or a gateway.
pub fn delete_vpc(scope: &mut Scope<'_>, id: VpcId) -> Result<(), Error> {
    let vpc = scope.vpc(id)?;
    let own = [
        Vpc::child(id, SecurityGroup::RESOURCE, vpc.default_group),
        Vpc::child(id, RouteTable::RESOURCE, vpc.main_table),
    ];
    let children = scope.txn.range::<VpcChild>(&Vpc::children(id))?;
    if vpc.gateway.is_some() || children.iter().any(|(key, _)| !own.contains(key)) {
        return Err(dependency_violation("vpc", id));
    }
    remove_group(scope, &*scope.group(vpc.default_group)?)?;
    super::route_table::remove_table(scope, id, vpc.main_table)?;
    let default = scope.txn.get::<DefaultVpc>(&DefaultVpc::key(scope.account))?;
    if default.is_some_and(|default| default.vpc == id) {
        scope.txn.delete(&DefaultVpc::key(scope.account));
    }
    let mut numbers =
        scope.txn.get::<VpcNumbers>(&VpcNumbers::key())?.map(|n| VpcNumbers::clone(&n)).unwrap_or_default();
    numbers.give_back(vpc.index);
    scope.txn.put(&VpcNumbers::key(), &numbers)?;
    scope.uncount("vpcs")?;
    scope.unregister(id)?;
    scope.txn.delete(&Vpc::key(scope.account, id));
    Ok(())
}

/// Sets `enableDnsSupport` and `enableDnsHostnames` where given.
///
/// Errors: `InvalidParameterCombination` for hostnames without support, as AWS refuses it.
pub fn set_dns(scope: &mut Scope<'_>, id: VpcId, support: Option<bool>, hostnames: Option<bool>) -> Result<(), Error> {
    let before = scope.vpc(id)?;
    let mut vpc = Vpc::clone(&before);
    vpc.dns_support = support.unwrap_or(vpc.dns_support);
    vpc.dns_hostnames = hostnames.unwrap_or(vpc.dns_hostnames);
    if hostnames == Some(true) && !vpc.dns_support {
        let message = "DNS hostnames cannot be enabled when DNS support is disabled";
        return Err(Error::invalid("InvalidParameterCombination", message));
    }
    if vpc != *before { scope.txn.put(&Vpc::key(scope.account, id), &vpc) } else { Ok(()) }
}

/// Networks that no VPC may take: guests would lose their own loopback, metadata or multicast.
const NEVER: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The network in its canonical form: host bits are cut off, as AWS does.
fn check_range(cidr: IpNet) -> Result<IpNet, Error> {
    let wrong = || Error::invalid("InvalidVpc.Range", format!("The CIDR '{cidr}' is invalid."));
    let IpNet::V4(net) = cidr.trunc() else { return Err(wrong()) };
    let forbidden = NEVER.iter().any(|(base, length)| {
        Ipv4Net::new(*base, *length).is_ok_and(|never| never.contains(&net) || net.contains(&never))
    });
    if !(16..=28).contains(&net.prefix_len()) || forbidden { Err(wrong()) } else { Ok(net.into()) }
}
