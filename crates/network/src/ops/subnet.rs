use ipnet::IpNet;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{Error, ResourceId, SubnetId, VpcId};

use crate::model::{Subnet, SubnetTenant, Vpc, VpcChild};
use crate::ops::{Scope, dependency_violation};

const SUBNETS_PER_VPC: i64 = 200;

#[derive(Debug, Clone)]
pub struct NewSubnet {
    pub vpc: VpcId,
    pub cidr: IpNet,
    /// Name of an existing zone.
    pub zone: String,
    pub default_for_zone: bool,
    pub tags: Tags,
}

/// Errors: `InvalidVpcID.NotFound`, `InvalidSubnet.Range` for a network outside the VPC's or not /16 to /28,
/// `InvalidSubnet.Conflict` for one that overlaps another subnet, `SubnetLimitExceeded`, those of tags.
pub fn create_subnet(scope: &mut Scope<'_>, new: NewSubnet) -> Result<Arc<Subnet>, Error> {
    let vpc = scope.vpc(new.vpc)?;
    let cidr = new.cidr.trunc();
    let is_sized = matches!(cidr, IpNet::V4(net) if (16..=28).contains(&net.prefix_len()));
    if !is_sized || !vpc.cidrs().iter().any(|outer| outer.contains(&cidr)) {
        return Err(Error::invalid("InvalidSubnet.Range", format!("The CIDR '{cidr}' is invalid.")));
    }
    // The guard makes two creations conflict; the range alone would not show the other's uncommitted subnet.
    scope.count(&guard(new.vpc), SUBNETS_PER_VPC, "SubnetLimitExceeded", "subnets in this VPC")?;
    if subnets_of(scope, new.vpc)?.iter().any(|other| overlap(&other.cidr(), &cidr)) {
        let message = format!("The CIDR '{cidr}' conflicts with another subnet");
        return Err(Error::conflict("InvalidSubnet.Conflict", message));
    }
    let id = SubnetId::generate(scope.ids);
    let subnet = Subnet {
        account: scope.account,
        id,
        vpc: new.vpc,
        zone: new.zone,
        default_for_zone: new.default_for_zone,
        map_public_on_launch: new.default_for_zone,
        association: None,
        tenant: SubnetTenant { cidr },
    };
    put(scope, &subnet)?;
    scope.txn.put(&Vpc::child(new.vpc, Subnet::RESOURCE, id), &VpcChild { account: scope.account })?;
    scope.register(id, Subnet::RESOURCE, new.tags)?;
    Ok(Arc::new(subnet))
}

/// Errors: `DependencyViolation` while an interface has an address in it.
pub fn delete_subnet(scope: &mut Scope<'_>, id: SubnetId) -> Result<(), Error> {
    let subnet = scope.subnet(id)?;
    if scope.txn.exists(&Subnet::claims(id)) {
        return Err(dependency_violation("subnet", id));
    }
    scope.txn.delete(&Vpc::child(subnet.vpc, Subnet::RESOURCE, id));
    scope.txn.delete(&Subnet::key(scope.account, id));
    scope.uncount(&guard(subnet.vpc))?;
    scope.unregister(id)
}

/// Whether instances launched in it get a public address from the pool.
pub fn set_public_on_launch(scope: &mut Scope<'_>, subnet: &Subnet, map: bool) -> Result<(), Error> {
    if subnet.map_public_on_launch == map {
        return Ok(());
    }
    put(scope, &Subnet { map_public_on_launch: map, ..subnet.clone() })
}

/// Addresses that new interfaces can have.
pub fn available_addresses(txn: &Txn, subnet: &Subnet) -> u32 {
    let taken = u32::try_from(txn.count(&Subnet::claims(subnet.id))).unwrap_or(u32::MAX);
    subnet.usable().saturating_sub(taken)
}

/// The VPC's subnets, in order of their ids.
pub fn subnets_of(scope: &Scope<'_>, vpc: VpcId) -> Result<Vec<Arc<Subnet>>, Error> {
    let children = scope.txn.range::<VpcChild>(&Vpc::children(vpc).child(Subnet::RESOURCE))?;
    let ids = children.iter().map(|(key, _)| key_id::<SubnetId>(key));
    ids.map(|id| scope.subnet(id?)).collect()
}

pub(crate) fn put(scope: &mut Scope<'_>, subnet: &Subnet) -> Result<(), Error> {
    scope.txn.put(&Subnet::key(scope.account, subnet.id), subnet)
}

/// The id that one of our own keys ends with.
pub(crate) fn key_id<T: ResourceId>(key: &Key) -> Result<T, Error> {
    key.last().parse().map_err(|error| Error::internal(format_args!("{key} does not end with an id: {error}")))
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn guard(vpc: VpcId) -> String {
    format!("subnets/{vpc}")
}
