//! From records to what a host is told: the network sections of its spec, each rendered alone.
//!
//! A host is told only what its own interfaces need: their VPCs, their groups, and the members of the groups that the
//! rules of those refer to. `dependents` names the sections that a changed record may touch; rendering one of them again
//! is always right, and says `None` when the host no longer needs it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use terroir_agent_api as agent;
use terroir_agent_api::{
    Desired, GroupMembersSection, HostSpec, InterfaceSection, Section, SectionKey, SecurityGroupSection, VpcSection,
};
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, HostId, InterfaceId, RouteTableId, SecurityGroupId, SubnetId, VpcId};

use crate::model::{
    GroupAddress, GroupOwner, GroupRule, HostGroup, HostInterface, HostVpc, Interface, Permission, RouteTable, RouteTo,
    RulePeer, SecurityGroup, Subnet, Vpc,
};
use crate::ops::interface::{holds_group, holds_vpc};
use crate::ops::security_group::referring;
use crate::ops::subnet::key_id;
use crate::ops::table_of;

/// Names of the network sections that a host needs, without rendering them.
pub fn section_keys_for_host(txn: &Txn, host: HostId) -> Result<BTreeSet<SectionKey>, Error> {
    let mut keys = BTreeSet::new();
    for (key, _) in txn.peek_range::<HostVpc>(&Key::new(format!("host-vpc/{host}")))? {
        keys.insert(format!("vpc/{}", key.last()));
    }
    for (key, held) in txn.peek_range::<HostGroup>(&Key::new(format!("host-group/{host}")))? {
        keys.insert(format!("security-group/{}", key.last()));
        let group = txn.peek::<SecurityGroup>(&SecurityGroup::key(held.account, key_id(&key)?))?;
        let referred = group.iter().flat_map(|group| group.references());
        keys.extend(referred.map(|referred| format!("group-members/{referred}")));
    }
    for (key, _) in txn.peek_range::<HostInterface>(&Interface::of_host(host))? {
        keys.insert(format!("interface/{}", key.last()));
    }
    Ok(keys)
}

/// Every network section that a host needs.
pub fn sections_for_host(txn: &Txn, host: HostId) -> Result<HostSpec, Error> {
    let mut spec = HostSpec::new();
    for key in section_keys_for_host(txn, host)? {
        if let Some(section) = render(txn, &key, host)? {
            spec.insert(key, section);
        }
    }
    Ok(spec)
}

/// Whether a section is one of the network's.
pub fn is_network_section(section: &str) -> bool {
    matches!(section.split_once('/'), Some(("vpc" | "interface" | "security-group" | "group-members", _)))
}

/// One section as the host should see it; `None` if it needs none of that key, or the key is not the network's.
pub fn render(txn: &Txn, section: &str, host: HostId) -> Result<Option<Section>, Error> {
    let Some((kind, id)) = section.split_once('/') else { return Ok(None) };
    Ok(match kind {
        "vpc" => render_vpc(txn, id.parse()?, host)?.map(Section::Vpc),
        "interface" => render_interface(txn, id.parse()?, host)?.map(Section::Interface),
        "security-group" => render_group(txn, id.parse()?, host)?.map(Section::SecurityGroup),
        "group-members" => render_members(txn, id.parse()?, host)?.map(Section::GroupMembers),
        _ => None,
    })
}

/// The host's sections that a change of the record at `changed` may touch.
pub fn dependents(txn: &Txn, changed: &Key, host: HostId) -> Result<Vec<SectionKey>, Error> {
    let here = || changed.segment(1).is_some_and(|segment| segment == host.to_string());
    let last = changed.last();
    Ok(match changed.kind() {
        "interface" => {
            let held = txn.peek::<HostInterface>(&Interface::host_key(host, key_id(changed)?))?;
            held.map(|_| format!("interface/{last}")).into_iter().collect()
        }
        "host-interface" if here() => vec![format!("interface/{last}")],
        "host-vpc" if here() => vec![format!("vpc/{last}")],
        "host-group" if here() => {
            let group = key_id(changed)?;
            group_sections(txn, group, group_owner(txn, group)?)?
        }
        "security-group" => match changed.segment(1).and_then(|account| account.parse().ok()) {
            Some(account) if holds_group(txn, host, key_id(changed)?)?.is_some() => {
                group_sections(txn, key_id(changed)?, Some(account))?
            }
            _ => Vec::new(),
        },
        "group-reference" | "group-address" => {
            changed.segment(1).map(|group| format!("group-members/{group}")).into_iter().collect()
        }
        "vpc" => {
            let vpc = key_id(changed)?;
            let mut sections = interfaces_on(txn, host, vpc, |_| true)?;
            if holds_vpc(txn, host, vpc)?.is_some() {
                sections.push(format!("vpc/{vpc}"));
            }
            sections
        }
        "subnet" => match txn.peek::<Subnet>(changed)? {
            Some(subnet) => interfaces_on(txn, host, subnet.vpc, |interface| interface.subnet == subnet.id)?,
            None => Vec::new(),
        },
        "route-table" => match txn.peek::<RouteTable>(changed)? {
            Some(table) => interfaces_routed_by(txn, host, &table)?,
            None => Vec::new(),
        },
        _ => Vec::new(),
    })
}

/// Kinds of records whose changes can touch a section of a host.
pub const WATCHED_KINDS: [&str; 10] = [
    "interface",
    "host-interface",
    "host-vpc",
    "host-group",
    "security-group",
    "group-reference",
    "group-address",
    "vpc",
    "subnet",
    "route-table",
];

/// A group's own section, and those of the members its rules refer to.
fn group_sections(txn: &Txn, group: SecurityGroupId, account: Option<AccountId>) -> Result<Vec<SectionKey>, Error> {
    let mut sections = vec![format!("security-group/{group}")];
    if let Some(account) = account
        && let Some(group) = txn.peek::<SecurityGroup>(&SecurityGroup::key(account, group))?
    {
        sections.extend(group.references().iter().map(|referred| format!("group-members/{referred}")));
    }
    Ok(sections)
}

/// Whose a group is, found also when the host no longer holds it: through what it belongs to.
fn group_owner(txn: &Txn, group: SecurityGroupId) -> Result<Option<AccountId>, Error> {
    Ok(txn.peek::<GroupOwner>(&SecurityGroup::owner_key(group))?.map(|owner| owner.account))
}

fn interfaces_on(
    txn: &Txn,
    host: HostId,
    vpc: VpcId,
    wanted: impl Fn(&Interface) -> bool,
) -> Result<Vec<SectionKey>, Error> {
    if holds_vpc(txn, host, vpc)?.is_none() {
        return Ok(Vec::new());
    }
    let mut sections = Vec::new();
    for (key, held) in txn.peek_range::<HostInterface>(&Interface::of_host(host))? {
        let interface = txn.peek::<Interface>(&Interface::key(held.account, key_id(&key)?))?;
        if interface.is_some_and(|interface| interface.vpc == vpc && wanted(&interface)) {
            sections.push(format!("interface/{}", key.last()));
        }
    }
    Ok(sections)
}

fn interfaces_routed_by(txn: &Txn, host: HostId, table: &RouteTable) -> Result<Vec<SectionKey>, Error> {
    let Some(vpc) = txn.peek::<Vpc>(&Vpc::key(table.account, table.vpc))? else { return Ok(Vec::new()) };
    let mut tables: HashMap<SubnetId, RouteTableId> = HashMap::new();
    for (key, _) in txn.peek_range::<crate::model::VpcChild>(&Vpc::children(vpc.id).child(Subnet::RESOURCE))? {
        if let Some(subnet) = txn.peek::<Subnet>(&Subnet::key(table.account, key_id(&key)?))? {
            tables.insert(subnet.id, table_of(&vpc, &subnet));
        }
    }
    interfaces_on(txn, host, table.vpc, |interface| tables.get(&interface.subnet) == Some(&table.id))
}

fn render_vpc(txn: &Txn, id: VpcId, host: HostId) -> Result<Option<VpcSection>, Error> {
    let Some(account) = holds_vpc(txn, host, id)? else { return Ok(None) };
    let vpc = txn.peek::<Vpc>(&Vpc::key(account, id))?;
    Ok(vpc.map(|vpc| VpcSection { id, index: vpc.index, cidrs: vpc.cidrs().to_vec(), dns_support: vpc.dns_support }))
}

fn render_interface(txn: &Txn, id: InterfaceId, host: HostId) -> Result<Option<InterfaceSection>, Error> {
    let Some(held) = txn.peek::<HostInterface>(&Interface::host_key(host, id))? else { return Ok(None) };
    let account = held.account;
    let Some(interface) = txn.peek::<Interface>(&Interface::key(account, id))? else { return Ok(None) };
    let missing = |key: Key| Error::internal(format_args!("{key} is missing, but {id} is in it"));
    let subnet_key = Subnet::key(account, interface.subnet);
    let subnet = txn.peek::<Subnet>(&subnet_key)?.ok_or_else(|| missing(subnet_key))?;
    let vpc_key = Vpc::key(account, interface.vpc);
    let vpc = txn.peek::<Vpc>(&vpc_key)?.ok_or_else(|| missing(vpc_key))?;
    let table_key = RouteTable::key(account, table_of(&vpc, &subnet));
    let table = txn.peek::<RouteTable>(&table_key)?.ok_or_else(|| missing(table_key))?;
    Ok(Some(InterfaceSection {
        id,
        vpc: vpc.id,
        subnet: subnet.id,
        subnet_cidr: subnet.cidr(),
        gateway: subnet.gateway(),
        epoch: interface.epoch,
        desired: if interface.releasing { Desired::Deleted } else { Desired::Present },
        mac: interface.mac(),
        addresses: interface.addresses().to_vec(),
        public_address: interface.public.map(|public| public.address),
        security_groups: interface.groups.clone(),
        source_dest_check: interface.source_dest_check,
        routes: routes(&vpc, &table),
        instance: interface.instance(),
    }))
}

fn routes(vpc: &Vpc, table: &RouteTable) -> Vec<agent::Route> {
    let local = vpc.cidrs().iter().map(|cidr| (*cidr, agent::RouteTarget::Local));
    let others = table.routes().iter().map(|route| {
        let RouteTo::Gateway(gateway) = route.target;
        let attached = vpc.gateway == Some(gateway);
        (route.destination, if attached { agent::RouteTarget::Internet } else { agent::RouteTarget::Blackhole })
    });
    local.chain(others).map(|(destination, target)| agent::Route { destination, target }).collect()
}

fn render_group(txn: &Txn, id: SecurityGroupId, host: HostId) -> Result<Option<SecurityGroupSection>, Error> {
    let Some(account) = holds_group(txn, host, id)? else { return Ok(None) };
    let Some(group) = txn.peek::<SecurityGroup>(&SecurityGroup::key(account, id))? else { return Ok(None) };
    let rules = |egress: bool| {
        let mut rules: Vec<agent::Rule> =
            group.rules().iter().filter(|rule| rule.allows.egress == egress).filter_map(rule_of).collect();
        rules.sort();
        rules.dedup();
        rules
    };
    Ok(Some(SecurityGroupSection { id, vpc: group.vpc, ingress: rules(false), egress: rules(true) }))
}

fn rule_of(rule: &GroupRule) -> Option<agent::Rule> {
    let peer = match rule.allows.peer {
        RulePeer::Cidr(net) => agent::Peer::Cidr(net),
        RulePeer::Group(group) => agent::Peer::Group(group),
    };
    Some(agent::Rule { traffic: traffic_of(&rule.allows)?, peer })
}

/// `None` for numbers that no rule can have, so a rule never allows more than it says.
fn traffic_of(allows: &Permission) -> Option<agent::Traffic> {
    let port = |n: i32| u16::try_from(n).ok();
    let wildcard = |n: i32| if n == -1 { Some(None) } else { u8::try_from(n).ok().map(Some) };
    Some(match allows.protocol {
        -1 => agent::Traffic::All,
        6 => agent::Traffic::Tcp { from: port(allows.from)?, to: port(allows.to)? },
        17 => agent::Traffic::Udp { from: port(allows.from)?, to: port(allows.to)? },
        1 => agent::Traffic::Icmp { kind: wildcard(allows.from)?, code: wildcard(allows.to)? },
        58 => agent::Traffic::IcmpV6 { kind: wildcard(allows.from)?, code: wildcard(allows.to)? },
        other => agent::Traffic::Protocol(u8::try_from(other).ok()?),
    })
}

/// The members of a group that a rule of one of the host's groups refers to.
fn render_members(txn: &Txn, id: SecurityGroupId, host: HostId) -> Result<Option<GroupMembersSection>, Error> {
    let mut needed_for = None;
    for (by, account) in referring(txn, id)? {
        if holds_group(txn, host, by)?.is_some() {
            needed_for = Some(account);
            break;
        }
    }
    let Some(account) = needed_for else { return Ok(None) };
    let Some(group) = txn.peek::<SecurityGroup>(&SecurityGroup::key(account, id))? else { return Ok(None) };
    Ok(Some(GroupMembersSection { group: id, vpc: group.vpc, addresses: members_of(txn, account, id)? }))
}

/// Members stand in the index in order of their subnets, so each subnet is read once.
fn members_of(txn: &Txn, account: AccountId, id: SecurityGroupId) -> Result<BTreeSet<IpAddr>, Error> {
    let mut addresses = Vec::new();
    let mut current: Option<(String, std::sync::Arc<Subnet>)> = None;
    for (key, _) in txn.peek_range::<GroupAddress>(&SecurityGroup::members(id))? {
        let name = key.segment(2).unwrap_or_default();
        if current.as_ref().is_none_or(|(known, _)| known != name) {
            let subnet_key = Subnet::key(account, name.parse()?);
            let subnet = txn.peek::<Subnet>(&subnet_key)?;
            let subnet = subnet.ok_or_else(|| Error::internal(format_args!("{key} is in no subnet")))?;
            current = Some((name.to_owned(), subnet));
        }
        let offset =
            u32::from_str_radix(key.last(), 16).map_err(|_| Error::internal(format_args!("{key} ends badly")))?;
        addresses.extend(current.as_ref().map(|(_, subnet)| subnet.address_at(offset)));
    }
    Ok(addresses.into_iter().collect())
}
