use std::net::IpAddr;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_types::{AddressAssociationId, AllocationId, Error, InterfaceId, ResourceId};

use crate::model::{Address, AddressAssociation, Interface, PublicAddress, PublicClaim, objects_of};
use crate::ops::{Scope, pool};

/// AWS's default quota.
pub const ADDRESSES_PER_ACCOUNT: i64 = 5;

/// Takes an address from the zone's pool, or the wanted one.
///
/// Errors: `AddressLimitExceeded`, `InsufficientAddressCapacity`, `InvalidAddress.InUse`, `InvalidParameterValue` for a
/// wanted address outside the pools, those of tags.
pub fn allocate_address(
    scope: &mut Scope<'_>,
    zone: &str,
    wanted: Option<IpAddr>,
    tags: Tags,
) -> Result<Arc<Address>, Error> {
    scope.count("addresses", ADDRESSES_PER_ACCOUNT, "AddressLimitExceeded", "addresses")?;
    let id = AllocationId::generate(scope.ids);
    let claim = PublicClaim { account: scope.account, allocation: Some(id), interface: None };
    let address = pool::claim(scope, zone, wanted, &claim)?;
    let address = Address { account: scope.account, id, address, zone: zone.to_owned(), association: None };
    scope.txn.put(&Address::key(scope.account, id), &address)?;
    scope.register(id, Address::RESOURCE, tags)?;
    Ok(Arc::new(address))
}

/// An address of the account by its allocation or by itself.
///
/// Errors: `InvalidAllocationID.NotFound`, `InvalidAddress.NotFound`.
pub fn find_address(
    scope: &Scope<'_>,
    allocation: Option<AllocationId>,
    public: Option<IpAddr>,
) -> Result<Arc<Address>, Error> {
    let unknown = || match (allocation, public) {
        (None, Some(address)) => Error::not_found("InvalidAddress.NotFound", format!("Address '{address}' not found.")),
        (Some(id), _) => AllocationId::not_found(id),
        (None, None) => Error::invalid("MissingParameter", "Either 'AllocationId' or 'PublicIp' must be specified"),
    };
    let id = match (allocation, public) {
        (Some(id), _) => id,
        (None, Some(address)) => {
            let claim = scope.txn.get::<PublicClaim>(&PublicClaim::key(address))?;
            let own = claim.filter(|claim| claim.account == scope.account);
            own.and_then(|claim| claim.allocation).ok_or_else(unknown)?
        }
        (None, None) => return Err(unknown()),
    };
    scope.txn.get::<Address>(&Address::key(scope.account, id))?.ok_or_else(unknown)
}

/// Maps an address to an interface, in place of what either had before.
///
/// Errors: `Gateway.NotAttached` without an internet gateway; `Resource.AlreadyAssociated` if either is associated and
/// `allow_reassociation` is false; `InvalidParameterValue` for an address of another zone or a private address that the
/// interface does not have.
pub fn associate_address(
    scope: &mut Scope<'_>,
    allocation: AllocationId,
    interface: InterfaceId,
    private: Option<IpAddr>,
    allow_reassociation: bool,
) -> Result<AddressAssociationId, Error> {
    let address = find_address(scope, Some(allocation), None)?;
    let target = scope.interface(interface)?;
    if target.deleting {
        return Err(InterfaceId::not_found(interface));
    }
    if let Some(private) = private
        && private != target.primary_address()
    {
        let message = format!("The IP address {private} is not the primary address of network interface {interface}");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    if scope.vpc(target.vpc)?.gateway.is_none() {
        let message = format!("Network {} is not attached to any internet gateway", target.vpc);
        return Err(Error::conflict("Gateway.NotAttached", message));
    }
    if scope.subnet(target.subnet)?.zone != address.zone {
        let message = format!("The address {} belongs to zone {}", address.address, address.zone);
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let already = |what: &dyn std::fmt::Display, id: AddressAssociationId| {
        let message = format!("resource {what} is already associated with associate-id {id}");
        Err(Error::conflict("Resource.AlreadyAssociated", message))
    };
    match address.association {
        Some(association) if association.interface == interface => return Ok(association.id),
        Some(association) if !allow_reassociation => return already(&allocation, association.id),
        Some(_) => unmap(scope, &address)?,
        None => {}
    }
    match target.public.and_then(|public| public.elastic) {
        Some((_, association)) if !allow_reassociation => return already(&interface, association),
        Some((other, _)) => {
            let other = find_address(scope, Some(other), None)?;
            unmap(scope, &other)?;
        }
        None => {
            if let Some(public) = target.public {
                pool::release(scope, public.address);
            }
        }
    }
    let id = AddressAssociationId::generate(scope.ids);
    let association = Some(AddressAssociation { id, interface });
    scope.txn.put(&Address::key(scope.account, allocation), &Address { association, ..Address::clone(&address) })?;
    let public = Some(PublicAddress { address: address.address, elastic: Some((allocation, id)) });
    let target = scope.interface(interface)?;
    scope.txn.put(&Interface::key(scope.account, interface), &Interface { public, ..Interface::clone(&target) })?;
    Ok(id)
}

/// Errors: `InvalidAssociationID.NotFound`; `InvalidAddress.NotFound` for an address that is not the account's.
pub fn disassociate_address(
    scope: &mut Scope<'_>,
    association: Option<AddressAssociationId>,
    public: Option<IpAddr>,
) -> Result<(), Error> {
    let address = match (association, public) {
        (Some(id), _) => {
            let all = scope.txn.peek_range::<Address>(&objects_of("address", scope.account))?;
            let found = all.into_iter().find(|(_, address)| address.association.is_some_and(|a| a.id == id));
            let (_, address) = found.ok_or_else(|| AddressAssociationId::not_found(id))?;
            find_address(scope, Some(address.id), None)?
        }
        (None, Some(public)) => find_address(scope, None, Some(public))?,
        (None, None) => {
            let message = "Either 'AssociationId' or 'PublicIp' must be specified";
            return Err(Error::invalid("MissingParameter", message));
        }
    };
    if address.association.is_none() {
        let message = format!("The address '{}' is not associated", address.address);
        return Err(Error::not_found(AddressAssociationId::NOT_FOUND, message));
    }
    unmap(scope, &address)
}

/// Gives an address back to its pool. In a default VPC it is disassociated first; elsewhere the caller must do that
/// (ReleaseAddress in AWS's reference).
///
/// Errors: `InvalidIPAddress.InUse`.
pub fn release_address(scope: &mut Scope<'_>, address: &Address) -> Result<(), Error> {
    if let Some(association) = address.association {
        let interface = scope.interface(association.interface)?;
        if !scope.vpc(interface.vpc)?.is_default {
            let message = format!("Address {} is in use.", address.address);
            return Err(Error::conflict("InvalidIPAddress.InUse", message));
        }
        unmap(scope, address)?;
    }
    pool::release(scope, address.address);
    scope.txn.delete(&Address::key(scope.account, address.id));
    scope.uncount("addresses")?;
    scope.unregister(address.id)
}

/// Takes an address off its interface.
pub(crate) fn unmap(scope: &mut Scope<'_>, address: &Address) -> Result<(), Error> {
    let Some(association) = address.association else { return Ok(()) };
    let interface = scope.interface(association.interface)?;
    let key = Interface::key(scope.account, interface.id);
    scope.txn.put(&key, &Interface { public: None, ..Interface::clone(&interface) })?;
    scope.txn.put(&Address::key(scope.account, address.id), &Address { association: None, ..address.clone() })
}
