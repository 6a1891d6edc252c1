use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use terroir_action::Context;
use terroir_agent_api::{InterfacePhase, InterfaceStatus};
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{
    AccountId, Error, ErrorClass, HostId, InstanceId, InterfaceAttachmentId, InterfaceId, ResourceId, SecurityGroupId,
    SubnetId, VpcId,
};

use crate::model::{
    Address, DefaultVpc, GroupAddress, Holding, HostGroup, HostInterface, HostVpc, InstanceInterface, Interface,
    InterfaceAttachment, InterfaceTenant, InterfaceTrouble, PublicAddress, PublicClaim, SecurityGroup, Subnet,
    SubnetAddress, Vpc, VpcChild,
};
use crate::ops::subnet::key_id;
use crate::ops::{Scope, pool, resolve_groups};

/// Random places tried before looking one after the other.
const RANDOM_TRIES: u32 = 8;

/// What an instance wants of one interface.
#[derive(Debug, Clone, Default)]
pub struct InterfaceRequest {
    /// Without it, the default subnet of the zone.
    pub subnet: Option<SubnetId>,
    /// Name of the zone the instance must be in.
    pub zone: Option<String>,
    /// With `group_names`, the groups; neither: the VPC's default group.
    pub groups: Vec<SecurityGroupId>,
    pub group_names: Vec<String>,
    pub private_address: Option<IpAddr>,
    /// Whether it gets a public address from the pool; without it, as the subnet says (first interface only).
    pub public: Option<bool>,
    pub description: String,
    pub delete_on_termination: bool,
    pub device_index: u8,
    pub source_dest_check: bool,
    /// Take this one instead of making one; the fields above `delete_on_termination` are then ignored.
    pub existing: Option<InterfaceId>,
}

/// The subnet that a request means: the named one, or a default subnet (of the zone, if one is named).
///
/// Errors: `InvalidSubnetID.NotFound`; `VPCIdNotSpecified` without a default VPC; `MissingInput` without a default
/// subnet; `InvalidParameterValue` if subnet and zone contradict each other.
pub fn resolve_subnet(
    txn: &Txn,
    account: AccountId,
    subnet: Option<SubnetId>,
    zone: Option<&str>,
) -> Result<Arc<Subnet>, Error> {
    if let Some(id) = subnet {
        let subnet = txn.get::<Subnet>(&Subnet::key(account, id))?.ok_or_else(|| SubnetId::not_found(id))?;
        return match zone {
            Some(zone) if zone != subnet.zone => {
                let message = format!("The subnet '{id}' is not in the availability zone '{zone}'");
                Err(Error::invalid("InvalidParameterValue", message))
            }
            _ => Ok(subnet),
        };
    }
    let Some(default) = txn.get::<DefaultVpc>(&DefaultVpc::key(account))? else {
        let message = "No default VPC for this user. Specify a subnet.";
        return Err(Error::invalid("VPCIdNotSpecified", message));
    };
    let children = txn.range::<VpcChild>(&Vpc::children(default.vpc).child(Subnet::RESOURCE))?;
    for (key, _) in children {
        if let Some(subnet) = txn.get::<Subnet>(&Subnet::key(account, key_id(&key)?))?
            && subnet.default_for_zone
            && zone.is_none_or(|zone| zone == subnet.zone)
        {
            return Ok(subnet);
        }
    }
    let place = zone.map(|zone| format!(" in the availability zone '{zone}'")).unwrap_or_default();
    let message = format!("No default subnet found for the default VPC '{}'{place}. Specify a subnet.", default.vpc);
    Err(Error::invalid("MissingInput", message))
}

/// Makes an interface, or takes a free one, and gives it to an instance on a host.
///
/// Errors: those of [`resolve_subnet`] and [`resolve_groups`]; `InvalidParameterValue` for a private address outside
/// the subnet or reserved; `InvalidIPAddress.InUse`; `InsufficientFreeAddressesInSubnet`;
/// `InsufficientAddressCapacity` for public ones; `InvalidNetworkInterfaceID.NotFound`, `InvalidNetworkInterface.InUse`
/// for an existing one.
pub fn create_interface_for_instance(
    cx: &mut Context<'_>,
    instance: InstanceId,
    host: HostId,
    request: &InterfaceRequest,
) -> Result<Arc<Interface>, Error> {
    give_interface(&mut Scope::of(cx), instance, host, request)
}

pub(crate) fn give_interface(
    scope: &mut Scope<'_>,
    instance: InstanceId,
    host: HostId,
    request: &InterfaceRequest,
) -> Result<Arc<Interface>, Error> {
    let mut interface = match request.existing {
        Some(id) => take_existing(scope, id)?,
        None => new_interface(scope, request)?,
    };
    interface.attachment = Some(InterfaceAttachment {
        id: InterfaceAttachmentId::generate(scope.ids),
        instance,
        device_index: request.device_index,
        attached_at: scope.now,
        delete_on_termination: request.delete_on_termination,
    });
    interface.epoch += 1;
    interface.host = Some(host);
    let link = InstanceInterface { account: scope.account };
    scope.txn.put(&Interface::instance_key(instance, interface.id), &link)?;
    scope.txn.put(&Interface::host_key(host, interface.id), &HostInterface { account: scope.account })?;
    hold::<HostVpc>(scope.txn, scope.account, host, &interface.vpc, true)?;
    for group in &interface.groups {
        hold::<HostGroup>(scope.txn, scope.account, host, group, true)?;
    }
    put(scope.txn, &interface)?;
    Ok(Arc::new(interface))
}

fn take_existing(scope: &Scope<'_>, id: InterfaceId) -> Result<Interface, Error> {
    let interface = scope.interface(id)?;
    if interface.deleting {
        return Err(InterfaceId::not_found(id));
    }
    if interface.attachment.is_some() || interface.host.is_some() {
        return Err(Error::conflict("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use.")));
    }
    Ok(Interface::clone(&interface))
}

/// An interface that nobody holds yet, its addresses claimed.
fn new_interface(scope: &mut Scope<'_>, request: &InterfaceRequest) -> Result<Interface, Error> {
    let subnet = resolve_subnet(scope.txn, scope.account, request.subnet, request.zone.as_deref())?;
    let groups = resolve_groups(scope.txn, scope.account, subnet.vpc, &request.groups, &request.group_names)?;
    let id = InterfaceId::generate(scope.ids);
    let offset = match request.private_address {
        Some(address) => wanted_offset(scope, &subnet, address)?,
        None => free_offset(scope, &subnet)?,
    };
    scope.txn.put(&Subnet::claim(subnet.id, offset), &SubnetAddress {})?;
    for group in &groups {
        scope.txn.put(&SecurityGroup::member(*group, subnet.id, offset), &GroupAddress {})?;
    }
    let auto_public = request.public.unwrap_or(subnet.map_public_on_launch && request.device_index == 0);
    let public = if auto_public { Some(pooled_address(scope, &subnet.zone, id)?) } else { None };
    scope.register(id, Interface::RESOURCE, Tags::new())?;
    Ok(Interface {
        account: scope.account,
        id,
        vpc: subnet.vpc,
        subnet: subnet.id,
        groups,
        source_dest_check: request.source_dest_check,
        attachment: None,
        epoch: 0,
        host: None,
        releasing: false,
        deleting: false,
        auto_public,
        public,
        tenant: InterfaceTenant {
            addresses: vec![subnet.address_at(offset)],
            description: request.description.clone(),
        },
    })
}

fn pooled_address(scope: &mut Scope<'_>, zone: &str, interface: InterfaceId) -> Result<PublicAddress, Error> {
    let claim = PublicClaim { account: scope.account, allocation: None, interface: Some(interface) };
    Ok(PublicAddress { address: pool::claim(scope, zone, None, &claim)?, elastic: None })
}

fn wanted_offset(scope: &Scope<'_>, subnet: &Subnet, address: IpAddr) -> Result<u32, Error> {
    let Some(offset) = subnet.offset_of(address) else {
        let message = format!("Address {address} does not fall within the subnet's address range");
        return Err(Error::invalid("InvalidParameterValue", message));
    };
    if !subnet.offsets().contains(&offset) {
        let message = format!("Address {address} is in subnet's reserved address range");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    if scope.txn.get::<SubnetAddress>(&Subnet::claim(subnet.id, offset))?.is_some() {
        return Err(Error::conflict("InvalidIPAddress.InUse", format!("Address {address} is in use.")));
    }
    Ok(offset)
}

/// Random places first, so that transactions seldom meet; then one after the other, once around.
fn free_offset(scope: &Scope<'_>, subnet: &Subnet) -> Result<u32, Error> {
    let usable = subnet.usable();
    let random = || u32::try_from(scope.ids.next_u64() % u64::from(usable.max(1))).unwrap_or(0);
    let tries = (0..RANDOM_TRIES).map(|_| random());
    let start = random();
    for place in tries.chain((0..usable).map(|step| (start + step) % usable)) {
        let offset = subnet.offsets().start + place;
        let key = Subnet::claim(subnet.id, offset);
        // Only the place that is taken in the end is tracked; the others may change as they like.
        if offset < subnet.offsets().end
            && scope.txn.peek::<SubnetAddress>(&key)?.is_none()
            && scope.txn.get::<SubnetAddress>(&key)?.is_none()
        {
            return Ok(offset);
        }
    }
    let message = format!("There are not enough free addresses in subnet '{}' to satisfy the request.", subnet.id);
    Err(Error::new(ErrorClass::Invalid, "InsufficientFreeAddressesInSubnet", message))
}

/// An instance's interfaces in order of their device index; not tracked.
pub fn interfaces_of(txn: &Txn, instance: InstanceId) -> Result<Vec<Arc<Interface>>, Error> {
    let mut interfaces = Vec::new();
    for (key, link) in txn.peek_range::<InstanceInterface>(&Interface::of_instance(instance))? {
        interfaces.extend(txn.peek::<Interface>(&Interface::key(link.account, key_id(&key)?))?);
    }
    interfaces.sort_by_key(|interface| interface.attachment.as_ref().map(|a| a.device_index));
    Ok(interfaces)
}

/// Whether an instance has interfaces, those included that its host has not let go yet.
pub fn has_interfaces(txn: &Txn, instance: InstanceId) -> bool {
    txn.exists(&Interface::of_instance(instance))
}

/// Takes its interfaces from an instance that is being terminated: Elastic IPs are disassociated; interfaces go or stay
/// as `delete_on_termination` says, once the host has reported their release, and until then they are the instance's.
/// Repeating it changes nothing.
pub fn release_interfaces_of(txn: &mut Txn, instance: InstanceId) -> Result<(), Error> {
    for (key, link) in txn.range::<InstanceInterface>(&Interface::of_instance(instance))? {
        let Some(before) = txn.get::<Interface>(&Interface::key(link.account, key_id(&key)?))? else { continue };
        if before.releasing {
            continue;
        }
        let mut interface = Interface::clone(&before);
        interface.deleting = interface.attachment.as_ref().is_some_and(|attachment| attachment.delete_on_termination);
        interface.releasing = true;
        drop_elastic(txn, &mut interface)?;
        if !interface.deleting {
            drop_pooled(txn, &mut interface);
            interface.auto_public = false;
        }
        match interface.host {
            Some(_) => put(txn, &interface)?,
            None => released(txn, &interface)?,
        }
    }
    Ok(())
}

/// What a host reports about an interface that it holds; the instance that has one interface less, if it does. Reports
/// from an older epoch or another host are ignored.
pub fn apply_interface_status(
    txn: &mut Txn,
    host: HostId,
    status: &InterfaceStatus,
) -> Result<Option<(AccountId, InstanceId)>, Error> {
    let Some(link) = txn.get::<HostInterface>(&Interface::host_key(host, status.id))? else { return Ok(None) };
    let Some(interface) = txn.get::<Interface>(&Interface::key(link.account, status.id))? else { return Ok(None) };
    if interface.host != Some(host) || interface.epoch != status.epoch {
        return Ok(None);
    }
    let trouble_key = InterfaceTrouble::key(host, status.id);
    let known = txn.get::<InterfaceTrouble>(&trouble_key)?.filter(|known| known.epoch == status.epoch);
    if known.as_ref().is_some_and(|known| known.generation > status.generation) {
        return Ok(None);
    }
    match &status.phase {
        InterfacePhase::Ready => {
            if known.is_some() {
                txn.delete(&trouble_key);
            }
        }
        InterfacePhase::Failed { detail } => {
            let trouble =
                InterfaceTrouble { epoch: status.epoch, generation: status.generation, detail: detail.clone() };
            if known.as_deref() != Some(&trouble) {
                txn.put(&trouble_key, &trouble)?;
            }
        }
        InterfacePhase::Released if interface.releasing => {
            released(txn, &interface)?;
            return Ok(interface.instance().map(|instance| (interface.account, instance)));
        }
        // The spec still wants it there: the host will make it again.
        InterfacePhase::Released => {}
    }
    Ok(None)
}

/// Does without the word of the host that held the interfaces which an instance is to lose: it was declared lost.
pub fn forget_interfaces_of(txn: &mut Txn, instance: InstanceId) -> Result<(), Error> {
    for (key, link) in txn.range::<InstanceInterface>(&Interface::of_instance(instance))? {
        let found = txn.get::<Interface>(&Interface::key(link.account, key_id(&key)?))?;
        if let Some(interface) = found.filter(|interface| interface.releasing) {
            released(txn, &interface)?;
        }
    }
    Ok(())
}

/// Nothing of an interface is left on its host: it goes, or is free for a next holder.
fn released(txn: &mut Txn, interface: &Interface) -> Result<(), Error> {
    if interface.deleting {
        return remove(txn, interface);
    }
    let_go(txn, interface)?;
    if let Some(instance) = interface.instance() {
        txn.delete(&Interface::instance_key(instance, interface.id));
    }
    put(txn, &Interface { host: None, releasing: false, attachment: None, ..interface.clone() })
}

/// A public address of the pool goes when the instance stops; an Elastic IP stays.
pub fn public_address_lost_on_stop(txn: &mut Txn, account: AccountId, id: InterfaceId) -> Result<(), Error> {
    let Some(before) = txn.get::<Interface>(&Interface::key(account, id))? else { return Ok(()) };
    let mut interface = Interface::clone(&before);
    drop_pooled(txn, &mut interface);
    if interface.public == before.public { Ok(()) } else { put(txn, &interface) }
}

/// A new public address from the pool, if the interface was launched with one and has none now.
///
/// Errors: `InsufficientAddressCapacity`.
pub fn public_address_on_start(cx: &mut Context<'_>, id: InterfaceId) -> Result<(), Error> {
    let scope = &mut Scope::of(cx);
    let interface = scope.interface(id)?;
    if !interface.auto_public || interface.public.is_some() || interface.deleting {
        return Ok(());
    }
    let zone = scope.subnet(interface.subnet)?.zone.clone();
    let public = Some(pooled_address(scope, &zone, id)?);
    put(scope.txn, &Interface { public, ..Interface::clone(&interface) })
}

/// Gives an interface other groups.
///
/// Errors: `InvalidNetworkInterfaceID.NotFound`, those of [`resolve_groups`].
pub fn set_groups(scope: &mut Scope<'_>, id: InterfaceId, groups: &[SecurityGroupId]) -> Result<(), Error> {
    let before = scope.interface(id)?;
    let groups = resolve_groups(scope.txn, scope.account, before.vpc, groups, &[])?;
    let offsets = offsets_of(scope.txn, &before)?;
    change_membership(scope.txn, &before, &before.groups.difference(&groups).copied().collect(), &offsets, false)?;
    change_membership(scope.txn, &before, &groups.difference(&before.groups).copied().collect(), &offsets, true)?;
    put(scope.txn, &Interface { groups, ..Interface::clone(&before) })
}

/// Errors: `InvalidNetworkInterfaceID.NotFound`.
pub fn set_source_dest_check(scope: &mut Scope<'_>, id: InterfaceId, check: bool) -> Result<(), Error> {
    let before = scope.interface(id)?;
    put(scope.txn, &Interface { source_dest_check: check, ..Interface::clone(&before) })
}

fn change_membership(
    txn: &mut Txn,
    interface: &Interface,
    groups: &BTreeSet<SecurityGroupId>,
    offsets: &[u32],
    member: bool,
) -> Result<(), Error> {
    for group in groups {
        for offset in offsets {
            let key = SecurityGroup::member(*group, interface.subnet, *offset);
            if member { txn.put(&key, &GroupAddress {})? } else { txn.delete(&key) }
        }
        if let Some(host) = interface.host {
            hold::<HostGroup>(txn, interface.account, host, group, member)?;
        }
    }
    Ok(())
}

/// Removes an interface and everything that belongs to it alone.
fn remove(txn: &mut Txn, interface: &Interface) -> Result<(), Error> {
    let mut interface = interface.clone();
    drop_pooled(txn, &mut interface);
    for offset in offsets_of(txn, &interface)? {
        txn.delete(&Subnet::claim(interface.subnet, offset));
        for group in &interface.groups {
            txn.delete(&SecurityGroup::member(*group, interface.subnet, offset));
        }
    }
    let_go(txn, &interface)?;
    if let Some(instance) = interface.instance() {
        txn.delete(&Interface::instance_key(instance, interface.id));
    }
    txn.delete(&Interface::key(interface.account, interface.id));
    terroir_resources::unregister(txn, interface.account, &interface.id.to_string())
}

/// The host no longer has it.
fn let_go(txn: &mut Txn, interface: &Interface) -> Result<(), Error> {
    let Some(host) = interface.host else { return Ok(()) };
    txn.delete(&Interface::host_key(host, interface.id));
    let trouble = InterfaceTrouble::key(host, interface.id);
    if txn.get::<InterfaceTrouble>(&trouble)?.is_some() {
        txn.delete(&trouble);
    }
    hold::<HostVpc>(txn, interface.account, host, &interface.vpc, false)?;
    for group in &interface.groups {
        hold::<HostGroup>(txn, interface.account, host, group, false)?;
    }
    Ok(())
}

fn drop_pooled(txn: &mut Txn, interface: &mut Interface) {
    if let Some(PublicAddress { address, elastic: None }) = interface.public {
        txn.delete(&PublicClaim::key(address));
        interface.public = None;
    }
}

fn drop_elastic(txn: &mut Txn, interface: &mut Interface) -> Result<(), Error> {
    let Some(PublicAddress { elastic: Some((allocation, _)), .. }) = interface.public else { return Ok(()) };
    interface.public = None;
    let key = Address::key(interface.account, allocation);
    match txn.get::<Address>(&key)? {
        Some(address) => txn.put(&key, &Address { association: None, ..Address::clone(&address) }),
        None => Ok(()),
    }
}

fn offsets_of(txn: &Txn, interface: &Interface) -> Result<Vec<u32>, Error> {
    let key = Subnet::key(interface.account, interface.subnet);
    let subnet = txn.get::<Subnet>(&key)?.ok_or_else(|| Error::internal(format_args!("{key} is gone")))?;
    Ok(interface.addresses().iter().filter_map(|address| subnet.offset_of(*address)).collect())
}

/// Counts one more or one less of the host's interfaces in a VPC or a group.
fn hold<T: Holding>(
    txn: &mut Txn,
    account: AccountId,
    host: HostId,
    id: &dyn std::fmt::Display,
    more: bool,
) -> Result<(), Error> {
    let key = Key::new(format!("{}/{host}/{id}", T::KIND));
    let before = txn.get::<T>(&key)?.map_or(0, |holding| holding.interfaces());
    let after = if more { before.checked_add(1) } else { before.checked_sub(1) };
    match after {
        None => Err(Error::internal(format_args!("{key} cannot count below zero"))),
        Some(0) => {
            txn.delete(&key);
            Ok(())
        }
        Some(after) => txn.put(&key, &T::with(account, after)),
    }
}

fn put(txn: &mut Txn, interface: &Interface) -> Result<(), Error> {
    txn.put(&Interface::key(interface.account, interface.id), interface)
}

/// Whether a VPC has an interface on a host.
pub(crate) fn holds_vpc(txn: &Txn, host: HostId, vpc: VpcId) -> Result<Option<AccountId>, Error> {
    Ok(txn.peek::<HostVpc>(&Key::new(format!("host-vpc/{host}/{vpc}")))?.map(|held| held.account))
}

/// Whether a group has an interface on a host.
pub(crate) fn holds_group(txn: &Txn, host: HostId, group: SecurityGroupId) -> Result<Option<AccountId>, Error> {
    Ok(txn.peek::<HostGroup>(&Key::new(format!("host-group/{host}/{group}")))?.map(|held| held.account))
}
