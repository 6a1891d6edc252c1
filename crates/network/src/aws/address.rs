use std::sync::Arc;
use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target, required};
use terroir_aws_model::{Empty, PageRequest, ec2};
use terroir_resources::Tags;
use terroir_types::{AllocationId, Error, InstanceId, InterfaceId, ResourceId};

use super::listing::{Listing, maybe};
use super::{creation_targets, exactly_one, parse_address, refuse, text};
use crate::model::{Address, Interface, PublicClaim};
use crate::ops::{self, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<AllocateAddress>();
    registry.add::<DescribeAddresses>();
    registry.add::<AssociateAddress>();
    registry.add::<DisassociateAddress>();
    registry.add::<ReleaseAddress>();
}

/// The name of what AWS calls the pool of its own addresses.
const POOL: &str = "amazon";
const DOMAIN: &str = "vpc";

fn associated(cx: &Context<'_>, address: &Address) -> Result<Option<Arc<Interface>>, Error> {
    match address.association {
        Some(association) => cx.txn.peek::<Interface>(&Interface::key(address.account, association.interface)),
        None => Ok(None),
    }
}

fn describe(cx: &Context<'_>, address: &Address, tags: &Tags) -> Result<ec2::Address, Error> {
    let interface = associated(cx, address)?;
    let interface = interface.as_deref();
    Ok(ec2::Address {
        allocation_id: text(address.id),
        association_id: address.association.map(|association| association.id.to_string()),
        domain: text(DOMAIN),
        instance_id: interface.and_then(Interface::instance).map(|id| id.to_string()),
        network_border_group: text(&cx.region.name),
        network_interface_id: interface.map(|interface| interface.id.to_string()),
        network_interface_owner_id: interface.map(|interface| interface.account.to_string()),
        private_ip_address: interface.map(|interface| interface.primary_address().to_string()),
        public_ip: text(address.address),
        public_ipv4_pool: text(POOL),
        subnet_id: interface.map(|interface| interface.subnet.to_string()),
        tags: ec2_tags(tags),
        ..ec2::Address::default()
    })
}

/// The permission on an address that is named by allocation or by itself; unknown ones stand for any.
fn address_target(
    cx: &Context<'_>,
    permission: &str,
    allocation: Option<&str>,
    public: Option<&str>,
) -> Result<Target, Error> {
    if let Some(id) = allocation {
        return Target::ec2(cx, permission, Address::RESOURCE, id);
    }
    if let Some(address) = public.and_then(|public| public.parse().ok())
        && let Some(claim) = cx.txn.peek::<PublicClaim>(&PublicClaim::key(address))?
        && claim.account == cx.account()
        && let Some(id) = claim.allocation
    {
        return Target::ec2(cx, permission, Address::RESOURCE, id);
    }
    Ok(Target::on(permission, cx.ec2_arn(Address::RESOURCE, "*")))
}

/// An address that the request names by one of the two.
fn named_address(scope: &Scope<'_>, allocation: Option<&str>, public: Option<&str>) -> Result<Arc<Address>, Error> {
    match exactly_one(&[("AllocationId", allocation), ("PublicIp", public)])? {
        (0, id) => ops::find_address(scope, Some(id.parse()?), None),
        (_, address) => ops::find_address(scope, None, Some(parse_address(address, "publicIp")?)),
    }
}

struct AllocateAddress;

impl Action for AllocateAddress {
    type Op = ec2::ops::AllocateAddress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AllocateAddressRequest) -> Result<Vec<Target>, Error> {
        creation_targets(cx, "AllocateAddress", Address::RESOURCE, &request.tag_specifications)
    }

    /// The first zone that has a pool gives the address, unless `NetworkBorderGroup` names a zone.
    fn run(cx: &mut Context<'_>, request: ec2::AllocateAddressRequest) -> Result<ec2::AllocateAddressResult, Error> {
        refuse(&[
            (request.customer_owned_ipv4_pool.is_some(), "CustomerOwnedIpv4Pool"),
            (request.ipam_pool_id.is_some(), "IpamPoolId"),
            (request.public_ipv4_pool.as_deref().is_some_and(|pool| pool != POOL), "PublicIpv4Pool"),
            (request.domain.as_deref() == Some("standard"), "Domain=standard"),
        ])?;
        if let Some(domain) = request.domain.as_deref().filter(|domain| *domain != DOMAIN) {
            let message = format!("Invalid value '{domain}' for domain.");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        let wanted = request.address.as_deref().map(|address| parse_address(address, "address")).transpose()?;
        let tags = specified_tags(&request.tag_specifications, Address::RESOURCE, &[])?;
        let scope = &mut Scope::of(cx);
        let zone = zone_for(scope, request.network_border_group.as_deref())?;
        let address = ops::allocate_address(scope, &zone, wanted, tags)?;
        Ok(ec2::AllocateAddressResult {
            allocation_id: text(address.id),
            domain: text(DOMAIN),
            network_border_group: text(&cx.region.name),
            public_ip: text(address.address),
            public_ipv4_pool: text(POOL),
            ..ec2::AllocateAddressResult::default()
        })
    }
}

fn zone_for(scope: &Scope<'_>, border_group: Option<&str>) -> Result<String, Error> {
    if let Some(group) = border_group.filter(|group| *group != scope.region.name) {
        return match scope.region.zones.iter().find(|zone| zone.name == group) {
            Some(zone) => Ok(zone.name.clone()),
            None => {
                let message = format!("Invalid value '{group}' for NetworkBorderGroup.");
                Err(Error::invalid("InvalidParameterValue", message))
            }
        };
    }
    for zone in &scope.region.zones {
        if !ops::pools(scope.txn, &zone.name)?.is_empty() {
            return Ok(zone.name.clone());
        }
    }
    scope.zone(None, None).map(|zone| zone.name.clone())
}

struct DescribeAddresses;

const FILTERS: [&str; 10] = [
    "allocation-id",
    "association-id",
    "domain",
    "instance-id",
    "network-border-group",
    "network-interface-id",
    "network-interface-owner-id",
    "private-ip-address",
    "public-ip",
    "tag",
];

fn field(address: &ec2::Address, name: &str) -> Vec<String> {
    let value = match name {
        "allocation-id" => &address.allocation_id,
        "association-id" => &address.association_id,
        "domain" => &address.domain,
        "instance-id" => &address.instance_id,
        "network-border-group" => &address.network_border_group,
        "network-interface-id" => &address.network_interface_id,
        "network-interface-owner-id" => &address.network_interface_owner_id,
        "private-ip-address" => &address.private_ip_address,
        "public-ip" => &address.public_ip,
        _ => &None,
    };
    maybe(value.as_deref())
}

impl Action for DescribeAddresses {
    type Op = ec2::ops::DescribeAddresses;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeAddressesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeAddresses")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeAddressesRequest,
    ) -> Result<ec2::DescribeAddressesResult, Error> {
        let mut ids = request.allocation_ids.clone();
        let scope = Scope::of(cx);
        for public in &request.public_ips {
            ids.push(ops::find_address(&scope, None, Some(parse_address(public, "publicIp")?))?.id.to_string());
        }
        let page = PageRequest::default();
        let listing = Listing::new("DescribeAddresses", &ids, &request.filters, &FILTERS, page)?;
        let mut described = Vec::new();
        for (id, address) in listing.found::<AllocationId, Address>(cx)? {
            let tags = terroir_resources::tags(cx.txn, cx.account(), &id)?;
            described.push((id, Arc::new(describe(cx, &address, &tags)?)));
        }
        let (rows, _) = listing.select(cx, described.into_iter(), field)?;
        let addresses = rows.into_iter().map(|row| Arc::unwrap_or_clone(row.record)).collect();
        Ok(ec2::DescribeAddressesResult { addresses })
    }
}

struct AssociateAddress;

impl Action for AssociateAddress {
    type Op = ec2::ops::AssociateAddress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AssociateAddressRequest) -> Result<Vec<Target>, Error> {
        let permission = "ec2:AssociateAddress";
        let (allocation, public) = (request.allocation_id.as_deref(), request.public_ip.as_deref());
        let mut targets = vec![address_target(cx, permission, allocation, public)?];
        if let Some(id) = &request.network_interface_id {
            targets.push(Target::ec2(cx, permission, Interface::RESOURCE, id)?);
        }
        if let Some(id) = &request.instance_id {
            targets.push(Target::ec2(cx, permission, "instance", id)?);
        }
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: ec2::AssociateAddressRequest) -> Result<ec2::AssociateAddressResult, Error> {
        let scope = &mut Scope::of(cx);
        let address = named_address(scope, request.allocation_id.as_deref(), request.public_ip.as_deref())?;
        let private = request.private_ip_address.as_deref();
        let private = private.map(|private| parse_address(private, "privateIpAddress")).transpose()?;
        let (instance, interface) = (request.instance_id.as_deref(), request.network_interface_id.as_deref());
        let interface = match exactly_one(&[("InstanceId", instance), ("NetworkInterfaceId", interface)])? {
            (0, id) => interface_of(scope, id.parse()?)?,
            (_, id) => id.parse()?,
        };
        // The reference: reassociation is automatic unless it is refused.
        let reassociate = request.allow_reassociation != Some(false);
        let association = ops::associate_address(scope, address.id, interface, private, reassociate)?;
        Ok(ec2::AssociateAddressResult { association_id: text(association) })
    }
}

/// The only interface of an instance.
///
/// Errors: `InvalidInstanceID.NotFound`, `InvalidInstanceID` if it has several.
fn interface_of(scope: &Scope<'_>, instance: InstanceId) -> Result<InterfaceId, Error> {
    let interfaces = ops::interfaces_of(scope.txn, instance)?;
    let own: Vec<_> = interfaces.iter().filter(|interface| interface.account == scope.account).collect();
    match own.as_slice() {
        [] => Err(InstanceId::not_found(instance)),
        [one] => Ok(one.id),
        _ => {
            let message = format!(
                "There are multiple interfaces attached to instance '{instance}'. Please specify an interface ID for the operation instead."
            );
            Err(Error::invalid("InvalidInstanceID", message))
        }
    }
}

struct DisassociateAddress;

impl Action for DisassociateAddress {
    type Op = ec2::ops::DisassociateAddress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DisassociateAddressRequest) -> Result<Vec<Target>, Error> {
        let mut allocation = None;
        if let Some(wanted) = &request.association_id {
            let all = cx.txn.peek_range::<Address>(&crate::model::objects_of("address", cx.account()))?;
            let has = |address: &Address| address.association.is_some_and(|a| a.id.to_string() == *wanted);
            allocation = all.into_iter().find(|(_, address)| has(address)).map(|(_, address)| address.id.to_string());
        }
        let public = request.public_ip.as_deref();
        Ok(vec![address_target(cx, "ec2:DisassociateAddress", allocation.as_deref(), public)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DisassociateAddressRequest) -> Result<Empty, Error> {
        let (association, public) = (request.association_id.as_deref(), request.public_ip.as_deref());
        let scope = &mut Scope::of(cx);
        match exactly_one(&[("AssociationId", association), ("PublicIp", public)])? {
            (0, id) => ops::disassociate_address(scope, Some(id.parse()?), None)?,
            (_, address) => ops::disassociate_address(scope, None, Some(parse_address(address, "publicIp")?))?,
        }
        Ok(Empty)
    }
}

struct ReleaseAddress;

impl Action for ReleaseAddress {
    type Op = ec2::ops::ReleaseAddress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::ReleaseAddressRequest) -> Result<Vec<Target>, Error> {
        let (allocation, public) = (request.allocation_id.as_deref(), request.public_ip.as_deref());
        Ok(vec![address_target(cx, "ec2:ReleaseAddress", allocation, public)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::ReleaseAddressRequest) -> Result<Empty, Error> {
        let scope = &mut Scope::of(cx);
        if request.allocation_id.is_none() && request.public_ip.is_none() {
            required(&None, "AllocationId")?;
        }
        let address = named_address(scope, request.allocation_id.as_deref(), request.public_ip.as_deref())?;
        ops::release_address(scope, &address)?;
        Ok(Empty)
    }
}
