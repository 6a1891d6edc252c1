//! Commands of the network domain, each over one transaction: no commit, no I/O, no clock.

mod address;
mod default_vpc;
mod gateway;
pub(crate) mod interface;
mod pool;
mod route_table;
mod rules;
pub(crate) mod security_group;
pub(crate) mod subnet;
mod vpc;

pub use address::{
    ADDRESSES_PER_ACCOUNT, allocate_address, associate_address, disassociate_address, find_address, release_address,
};
pub use default_vpc::{create_default_subnet, create_default_vpc, default_vpc, ensure_default_vpc};
pub use gateway::{attach_gateway, create_gateway, delete_gateway, detach_gateway};
pub use interface::{
    InterfaceRequest, apply_interface_status, create_interface_for_instance, forget_interfaces_of, has_interfaces,
    interfaces_of, public_address_lost_on_stop, public_address_on_start, release_interfaces_of, resolve_subnet,
    set_groups, set_source_dest_check,
};
pub use pool::{add_pool, pools};
pub use route_table::{
    NewRoute, associate_table, create_route, create_table, delete_route, delete_table, disassociate_table,
    replace_association, replace_route, table_of,
};
pub use rules::{RuleSet, authorize, revoke_ids, revoke_permissions};
pub use security_group::{NewGroup, create_group, delete_group, find_group_by_name, resolve_groups};
pub use subnet::{NewSubnet, available_addresses, create_subnet, delete_subnet, set_public_on_launch, subnets_of};
pub use vpc::{NewVpc, create_vpc, delete_vpc, set_dns};

use std::sync::Arc;
use terroir_action::{Context, Region, Zone};
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{
    AccountId, Error, IdSource, InterfaceId, InternetGatewayId, ResourceId, RouteTableId, SecurityGroupId, SubnetId,
    Timestamp, VpcId,
};

use crate::model::{Interface, InternetGateway, RouteTable, SecurityGroup, Subnet, Vpc};

/// What a command works with: one account's part of a transaction.
pub struct Scope<'a> {
    pub txn: &'a mut Txn,
    pub account: AccountId,
    pub now: Timestamp,
    pub ids: &'a dyn IdSource,
    pub region: &'a Region,
}

impl<'a> Scope<'a> {
    pub fn of(cx: &'a mut Context<'_>) -> Self {
        Self { account: cx.caller.account, txn: &mut *cx.txn, now: cx.now, ids: cx.ids, region: cx.region }
    }

    /// Errors: `InvalidVpcID.NotFound`.
    pub fn vpc(&self, id: VpcId) -> Result<Arc<Vpc>, Error> {
        self.txn.get::<Vpc>(&Vpc::key(self.account, id))?.ok_or_else(|| VpcId::not_found(id))
    }

    /// Errors: `InvalidSubnetID.NotFound`.
    pub fn subnet(&self, id: SubnetId) -> Result<Arc<Subnet>, Error> {
        self.txn.get::<Subnet>(&Subnet::key(self.account, id))?.ok_or_else(|| SubnetId::not_found(id))
    }

    /// Errors: `InvalidGroup.NotFound`.
    pub fn group(&self, id: SecurityGroupId) -> Result<Arc<SecurityGroup>, Error> {
        let group = self.txn.get::<SecurityGroup>(&SecurityGroup::key(self.account, id))?;
        group.ok_or_else(|| SecurityGroupId::not_found(id))
    }

    /// Errors: `InvalidRouteTableID.NotFound`.
    pub fn table(&self, id: RouteTableId) -> Result<Arc<RouteTable>, Error> {
        self.txn.get::<RouteTable>(&RouteTable::key(self.account, id))?.ok_or_else(|| RouteTableId::not_found(id))
    }

    /// Errors: `InvalidInternetGatewayID.NotFound`.
    pub fn gateway(&self, id: InternetGatewayId) -> Result<Arc<InternetGateway>, Error> {
        let gateway = self.txn.get::<InternetGateway>(&InternetGateway::key(self.account, id))?;
        gateway.ok_or_else(|| InternetGatewayId::not_found(id))
    }

    /// Errors: `InvalidNetworkInterfaceID.NotFound`.
    pub fn interface(&self, id: InterfaceId) -> Result<Arc<Interface>, Error> {
        self.txn.get::<Interface>(&Interface::key(self.account, id))?.ok_or_else(|| InterfaceId::not_found(id))
    }

    /// The zone of that name or id, or the first one if neither is given.
    ///
    /// Errors: `InvalidParameterValue` for an unknown zone, `InvalidParameterCombination` for both.
    pub fn zone(&self, name: Option<&str>, id: Option<&str>) -> Result<&'a Zone, Error> {
        let zones = &self.region.zones;
        let (parameter, value, found) = match (name, id) {
            (Some(_), Some(_)) => {
                let message = "Only one of AvailabilityZone and AvailabilityZoneId can be specified";
                return Err(Error::invalid("InvalidParameterCombination", message));
            }
            (Some(name), None) => ("availabilityZone", name, zones.iter().find(|zone| zone.name == name)),
            (None, Some(id)) => ("availabilityZoneId", id, zones.iter().find(|zone| zone.id == id)),
            (None, None) => ("availabilityZone", "", zones.first()),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
            let message = format!(
                "Value ({value}) for parameter {parameter} is invalid. \
                 Subnets can currently only be created in the following availability zones: {}.",
                known.join(", ")
            );
            Error::invalid("InvalidParameterValue", message)
        })
    }

    pub(crate) fn register(&mut self, id: impl ToString, kind: &str, tags: Tags) -> Result<(), Error> {
        terroir_resources::register(self.txn, self.account, &id.to_string(), kind, tags, self.now)
    }

    pub(crate) fn unregister(&mut self, id: impl ToString) -> Result<(), Error> {
        terroir_resources::unregister(self.txn, self.account, &id.to_string())
    }

    /// Counts one more of `name`, at most `limit`.
    pub(crate) fn count(&mut self, name: &str, limit: i64, code: &'static str, noun: &str) -> Result<(), Error> {
        let over = || Error::limit(code, format!("The maximum number of {noun} has been reached."));
        terroir_resources::add_to_count(self.txn, self.account, name, 1, limit, over).map(drop)
    }

    pub(crate) fn uncount(&mut self, name: &str) -> Result<(), Error> {
        let never = || Error::internal("a shrinking count is never over its limit");
        terroir_resources::add_to_count(self.txn, self.account, name, -1, i64::MAX, never).map(drop)
    }
}

/// AWS's error for deleting what something else needs.
pub(crate) fn dependency_violation(noun: &str, id: impl std::fmt::Display) -> Error {
    Error::conflict("DependencyViolation", format!("The {noun} '{id}' has dependencies and cannot be deleted."))
}
