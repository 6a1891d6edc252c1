use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use terroir_action::general::ec2_tags;
use terroir_action::{Access, Action, Context, Region, Registry, Target};
use terroir_aws_model::{Decode, ec2};
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, InterfaceId, ResourceId, SecurityGroupId};

use super::listing::{Listing, maybe, truth};
use super::text;
use crate::model::{Interface, PublicAddress, SecurityGroup, Subnet, Vpc};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<DescribeNetworkInterfaces>();
}

/// Whose addresses the pool's are.
const POOL_OWNER: &str = "amazon";

/// `ec2-1-2-3-4.REGION.compute.amazonaws.com` in our own domain; `None` if the VPC gives no public names.
pub fn public_dns_name(region: &Region, vpc: &Vpc, address: IpAddr) -> Option<String> {
    vpc.dns_hostnames.then(|| format!("ec2-{}.{}.compute.internal", dashed(address), region.name))
}

/// `ip-10-0-0-5.REGION.compute.internal`
pub(crate) fn private_dns_name(region: &Region, address: IpAddr) -> String {
    format!("ip-{}.{}.compute.internal", dashed(address), region.name)
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn owner_of(account: AccountId, public: &PublicAddress) -> String {
    if public.elastic.is_some() { account.to_string() } else { POOL_OWNER.to_owned() }
}

/// Names of groups, looked up once per list.
#[derive(Default)]
struct GroupNames(HashMap<SecurityGroupId, String>);

impl GroupNames {
    fn of(&mut self, txn: &Txn, interface: &Interface) -> Result<Vec<ec2::GroupIdentifier>, Error> {
        let mut groups = Vec::with_capacity(interface.groups.len());
        for id in &interface.groups {
            if !self.0.contains_key(id) {
                let group = txn.peek::<SecurityGroup>(&SecurityGroup::key(interface.account, *id))?;
                self.0.insert(*id, group.map(|group| group.name().to_owned()).unwrap_or_default());
            }
            groups.push(ec2::GroupIdentifier { group_id: text(id), group_name: self.0.get(id).cloned() });
        }
        Ok(groups)
    }
}

/// An instance's interfaces as DescribeInstances answers them.
pub fn instance_network_interfaces(
    txn: &Txn,
    region: &Region,
    interfaces: &[Arc<Interface>],
) -> Result<Vec<ec2::InstanceNetworkInterface>, Error> {
    let mut names = GroupNames::default();
    interfaces.iter().map(|interface| instance_interface(txn, region, interface, &mut names)).collect()
}

fn instance_interface(
    txn: &Txn,
    region: &Region,
    interface: &Interface,
    names: &mut GroupNames,
) -> Result<ec2::InstanceNetworkInterface, Error> {
    let vpc = txn.peek::<Vpc>(&Vpc::key(interface.account, interface.vpc))?;
    let association = interface.public.map(|public| ec2::InstanceNetworkInterfaceAssociation {
        ip_owner_id: Some(owner_of(interface.account, &public)),
        public_dns_name: vpc.as_ref().and_then(|vpc| public_dns_name(region, vpc, public.address)),
        public_ip: text(public.address),
        ..ec2::InstanceNetworkInterfaceAssociation::default()
    });
    let private_dns_name = text(private_dns_name(region, interface.primary_address()));
    let attachment = interface.attachment.as_ref().map(|attachment| ec2::InstanceNetworkInterfaceAttachment {
        attach_time: Some(attachment.attached_at),
        attachment_id: text(attachment.id),
        delete_on_termination: Some(attachment.delete_on_termination),
        device_index: Some(attachment.device_index.into()),
        network_card_index: Some(0),
        status: text(attachment_status(interface)),
        ..ec2::InstanceNetworkInterfaceAttachment::default()
    });
    let address = |(index, address): (usize, &IpAddr)| ec2::InstancePrivateIpAddress {
        association: association.clone().filter(|_| index == 0),
        primary: Some(index == 0),
        private_dns_name: private_dns_name.clone(),
        private_ip_address: text(address),
    };
    Ok(ec2::InstanceNetworkInterface {
        attachment,
        description: text(interface.description()),
        groups: names.of(txn, interface)?,
        interface_type: text("interface"),
        mac_address: Some(interface.mac()),
        network_interface_id: text(interface.id),
        owner_id: text(interface.account),
        private_dns_name: private_dns_name.clone(),
        private_ip_address: text(interface.primary_address()),
        private_ip_addresses: interface.addresses().iter().enumerate().map(address).collect(),
        source_dest_check: Some(interface.source_dest_check),
        status: text(interface.status()),
        subnet_id: text(interface.subnet),
        vpc_id: text(interface.vpc),
        association,
        ..ec2::InstanceNetworkInterface::default()
    })
}

fn attachment_status(interface: &Interface) -> &'static str {
    if interface.releasing { "detaching" } else { "attached" }
}

fn describe(
    cx: &Context<'_>,
    interface: &Interface,
    tags: &Tags,
    names: &mut GroupNames,
) -> Result<ec2::NetworkInterface, Error> {
    let txn = &*cx.txn;
    let subnet = txn.peek::<Subnet>(&Subnet::key(interface.account, interface.subnet))?;
    let vpc = txn.peek::<Vpc>(&Vpc::key(interface.account, interface.vpc))?;
    let zone = subnet.as_ref().map(|subnet| subnet.zone.clone());
    let public_dns =
        |public: PublicAddress| vpc.as_ref().and_then(|vpc| public_dns_name(cx.region, vpc, public.address));
    let association = interface.public.map(|public| ec2::NetworkInterfaceAssociation {
        allocation_id: public.elastic.map(|(allocation, _)| allocation.to_string()),
        association_id: public.elastic.map(|(_, association)| association.to_string()),
        ip_owner_id: Some(owner_of(interface.account, &public)),
        public_dns_name: public_dns(public),
        public_ip: text(public.address),
        ..ec2::NetworkInterfaceAssociation::default()
    });
    let private_dns_name = text(private_dns_name(cx.region, interface.primary_address()));
    let attachment = interface.attachment.as_ref().map(|attachment| ec2::NetworkInterfaceAttachment {
        attach_time: Some(attachment.attached_at),
        attachment_id: text(attachment.id),
        delete_on_termination: Some(attachment.delete_on_termination),
        device_index: Some(attachment.device_index.into()),
        instance_id: text(attachment.instance),
        instance_owner_id: text(interface.account),
        network_card_index: Some(0),
        status: text(attachment_status(interface)),
        ..ec2::NetworkInterfaceAttachment::default()
    });
    let address = |(index, address): (usize, &IpAddr)| ec2::NetworkInterfacePrivateIpAddress {
        association: association.clone().filter(|_| index == 0),
        primary: Some(index == 0),
        private_dns_name: private_dns_name.clone(),
        private_ip_address: text(address),
    };
    Ok(ec2::NetworkInterface {
        attachment,
        availability_zone_id: zone
            .as_ref()
            .and_then(|zone| cx.region.zones.iter().find(|known| known.name == *zone).map(|known| known.id.clone())),
        availability_zone: zone,
        description: text(interface.description()),
        groups: names.of(txn, interface)?,
        interface_type: text("interface"),
        mac_address: Some(interface.mac()),
        network_interface_id: text(interface.id),
        owner_id: text(interface.account),
        private_dns_name: private_dns_name.clone(),
        private_ip_address: text(interface.primary_address()),
        private_ip_addresses: interface.addresses().iter().enumerate().map(address).collect(),
        public_dns_name: interface.public.and_then(public_dns),
        requester_managed: Some(false),
        source_dest_check: Some(interface.source_dest_check),
        status: text(interface.status()),
        subnet_id: text(interface.subnet),
        tag_set: ec2_tags(tags),
        vpc_id: text(interface.vpc),
        association,
        ..ec2::NetworkInterface::default()
    })
}

struct DescribeNetworkInterfaces;

const FILTERS: [&str; 43] = [
    "addresses.association.owner-id",
    "addresses.association.public-ip",
    "addresses.primary",
    "addresses.private-ip-address",
    "association.allocation-id",
    "association.association-id",
    "association.ip-owner-id",
    "association.public-dns-name",
    "association.public-ip",
    "associated-subnets",
    "attachment.attach-time",
    "attachment.attachment-id",
    "attachment.delete-on-termination",
    "attachment.device-index",
    "attachment.instance-id",
    "attachment.instance-owner-id",
    "attachment.nat-gateway-id",
    "attachment.status",
    "availability-zone",
    "availability-zone-id",
    "description",
    "group-id",
    "group-name",
    "interface-type",
    "ipv6-addresses.ipv6-address",
    "mac-address",
    "network-interface-id",
    "operator.managed",
    "operator.principal",
    "owner-id",
    "private-dns-name",
    "private-ip-address",
    "requester-id",
    "requester-managed",
    "source-dest-check",
    "status",
    "subnet-id",
    "tag",
    "vpc-id",
    "addresses.association.carrier-ip",
    "addresses.association.customer-owned-ip",
    "association.carrier-ip",
    "association.customer-owned-ip",
];

fn field(interface: &ec2::NetworkInterface, name: &str) -> Vec<String> {
    let association = interface.association.as_ref();
    let attachment = interface.attachment.as_ref();
    let text = |value: &Option<String>| maybe(value.as_deref());
    match name {
        "addresses.association.owner-id" | "association.ip-owner-id" => {
            maybe(association.and_then(|a| a.ip_owner_id.as_deref()))
        }
        "addresses.association.public-ip" | "association.public-ip" => {
            maybe(association.and_then(|a| a.public_ip.as_deref()))
        }
        "addresses.primary" => {
            interface.private_ip_addresses.iter().filter_map(|a| a.primary.map(|primary| primary.to_string())).collect()
        }
        "addresses.private-ip-address" => {
            interface.private_ip_addresses.iter().filter_map(|a| a.private_ip_address.clone()).collect()
        }
        "association.allocation-id" => maybe(association.and_then(|a| a.allocation_id.as_deref())),
        "association.association-id" => maybe(association.and_then(|a| a.association_id.as_deref())),
        "association.public-dns-name" => maybe(association.and_then(|a| a.public_dns_name.as_deref())),
        "attachment.attach-time" => maybe(attachment.and_then(|a| a.attach_time).map(|time| time.to_rfc3339())),
        "attachment.attachment-id" => maybe(attachment.and_then(|a| a.attachment_id.as_deref())),
        "attachment.delete-on-termination" => maybe(attachment.and_then(|a| a.delete_on_termination)),
        "attachment.device-index" => maybe(attachment.and_then(|a| a.device_index)),
        "attachment.instance-id" => maybe(attachment.and_then(|a| a.instance_id.as_deref())),
        "attachment.instance-owner-id" => maybe(attachment.and_then(|a| a.instance_owner_id.as_deref())),
        "attachment.status" => maybe(attachment.and_then(|a| a.status.as_deref())),
        "availability-zone" => text(&interface.availability_zone),
        "availability-zone-id" => text(&interface.availability_zone_id),
        "description" => text(&interface.description),
        "group-id" => interface.groups.iter().filter_map(|group| group.group_id.clone()).collect(),
        "group-name" => interface.groups.iter().filter_map(|group| group.group_name.clone()).collect(),
        "interface-type" => text(&interface.interface_type),
        "mac-address" => text(&interface.mac_address),
        "network-interface-id" => text(&interface.network_interface_id),
        "operator.managed" | "requester-managed" => truth(false),
        "owner-id" => text(&interface.owner_id),
        "private-dns-name" => text(&interface.private_dns_name),
        "private-ip-address" => text(&interface.private_ip_address),
        "source-dest-check" => maybe(interface.source_dest_check),
        "status" => text(&interface.status),
        "subnet-id" => text(&interface.subnet_id),
        "vpc-id" => text(&interface.vpc_id),
        _ => Vec::new(),
    }
}

impl Action for DescribeNetworkInterfaces {
    type Op = ec2::ops::DescribeNetworkInterfaces;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeNetworkInterfacesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeNetworkInterfaces")])
    }

    /// Interfaces that only wait for their host to let go of them are not shown: to the caller they are deleted.
    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeNetworkInterfacesRequest,
    ) -> Result<ec2::DescribeNetworkInterfacesResult, Error> {
        let ids = &request.network_interface_ids;
        let listing = Listing::new("DescribeNetworkInterfaces", ids, &request.filters, &FILTERS, request.page())?;
        let mut names = GroupNames::default();
        let mut shown = listing.found::<InterfaceId, Interface>(cx)?;
        if let Some((id, _)) = shown.iter().find(|(_, interface)| interface.deleting && !ids.is_empty()) {
            return Err(InterfaceId::not_found(id));
        }
        shown.retain(|(_, interface)| !interface.deleting);
        // Only the page is described when no filter wants to see what was not asked for.
        if listing.filters.is_empty() {
            let (rows, next_token) = listing.select(cx, shown.into_iter(), |_, _| Vec::new())?;
            let described = rows.iter().map(|row| describe(cx, &row.record, &row.tags, &mut names));
            let network_interfaces = described.collect::<Result<_, Error>>()?;
            return Ok(ec2::DescribeNetworkInterfacesResult { network_interfaces, next_token });
        }
        let mut described = Vec::with_capacity(shown.len());
        for (id, interface) in shown {
            let tags = terroir_resources::tags(cx.txn, cx.account(), &id)?;
            described.push((id, Arc::new(describe(cx, &interface, &tags, &mut names)?)));
        }
        let (rows, next_token) = listing.select(cx, described.into_iter(), field)?;
        let network_interfaces = rows.into_iter().map(|row| Arc::unwrap_or_clone(row.record)).collect();
        Ok(ec2::DescribeNetworkInterfacesResult { network_interfaces, next_token })
    }
}
