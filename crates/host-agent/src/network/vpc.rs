//! A HostSpec sorted by VPC, with what is malformed left out and said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use terroir_agent_api::{
    Desired, GroupMembersSection, HostSection, HostSpec, InterfaceSection, Section, SecurityGroupSection, VpcSection,
};
use terroir_types::{InterfaceId, SecurityGroupId, VpcId};

use super::names::tap_name;

pub type Mac = [u8; 6];

/// What this host does for one VPC.
#[derive(Debug)]
pub struct Vpc<'a> {
    pub section: &'a VpcSection,
    pub interfaces: Vec<Interface<'a>>,
    pub groups: BTreeMap<SecurityGroupId, &'a SecurityGroupSection>,
    pub members: BTreeMap<SecurityGroupId, &'a GroupMembersSection>,
}

/// An interface that should be present.
#[derive(Debug)]
pub struct Interface<'a> {
    pub section: &'a InterfaceSection,
    pub tap: String,
    pub mac: Mac,
}

impl Interface<'_> {
    pub fn v4_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.section.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Public and private address of the 1:1 mapping.
    pub fn public_mapping(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        match self.section.public_address {
            Some(IpAddr::V4(public)) => self.v4_addresses().next().map(|private| (public, private)),
            _ => None,
        }
    }
}

impl Vpc<'_> {
    pub fn v4_cidrs(&self) -> impl Iterator<Item = ipnet::Ipv4Net> {
        self.section.cidrs.iter().filter_map(|net| match net {
            ipnet::IpNet::V4(net) => Some(*net),
            ipnet::IpNet::V6(_) => None,
        })
    }

    /// Where the VPC's resolver listens: base + 2 of each network, and 169.254.169.253.
    pub fn resolvers(&self) -> BTreeSet<Ipv4Addr> {
        resolvers(&self.section.cidrs, self.section.dns_support)
    }

    pub fn gateways(&self) -> BTreeSet<Ipv4Addr> {
        let gateway = |interface: &Interface<'_>| match interface.section.gateway {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        };
        self.interfaces.iter().filter_map(gateway).collect()
    }
}

/// Resolver addresses of a VPC; none if it has DNS switched off.
pub fn resolvers(cidrs: &[ipnet::IpNet], dns_support: bool) -> BTreeSet<Ipv4Addr> {
    if !dns_support {
        return BTreeSet::new();
    }
    let base_plus_two = |net: &ipnet::IpNet| match net {
        ipnet::IpNet::V4(net) if net.prefix_len() <= 29 => Some(Ipv4Addr::from(u32::from(net.network()) + 2)),
        _ => None,
    };
    cidrs.iter().filter_map(base_plus_two).chain([RESOLVER]).collect()
}

pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

/// The whole spec, sorted.
#[derive(Debug, Default)]
pub struct Sorted<'a> {
    pub host: Option<&'a HostSection>,
    pub vpcs: BTreeMap<VpcId, Vpc<'a>>,
    /// Interfaces to be given up.
    pub deleted: Vec<&'a InterfaceSection>,
    /// Interfaces that cannot be built, and why.
    pub refused: BTreeMap<InterfaceId, String>,
    pub problems: Vec<String>,
}

pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut octets = text.split(':').map(|part| match part.len() {
        2 if part.bytes().all(|b| b.is_ascii_hexdigit()) => u8::from_str_radix(part, 16).ok(),
        _ => None,
    });
    let mut mac = [0; 6];
    for octet in &mut mac {
        *octet = octets.next()??;
    }
    // A multicast address cannot be anybody's own.
    (octets.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// Lower-case hexadecimal with colons.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

pub fn sort(spec: &HostSpec) -> Sorted<'_> {
    let mut sorted = Sorted::default();
    for section in spec.values() {
        match section {
            Section::Host(host) => sorted.host = Some(host),
            Section::Vpc(section) => {
                let vpc = Vpc { section, interfaces: Vec::new(), groups: BTreeMap::new(), members: BTreeMap::new() };
                sorted.vpcs.insert(section.id, vpc);
            }
            _ => {}
        }
    }
    for section in spec.values() {
        match section {
            Section::Interface(interface) => sort_interface(&mut sorted, interface),
            Section::SecurityGroup(group) => {
                if let Some(vpc) = sorted.vpcs.get_mut(&group.vpc) {
                    vpc.groups.insert(group.id, group);
                }
            }
            Section::GroupMembers(members) => {
                if let Some(vpc) = sorted.vpcs.get_mut(&members.vpc) {
                    vpc.members.insert(members.group, members);
                }
            }
            _ => {}
        }
    }
    for vpc in sorted.vpcs.values() {
        for interface in &vpc.interfaces {
            for group in interface.section.security_groups.iter().filter(|group| !vpc.groups.contains_key(group)) {
                sorted.problems.push(format!("{} is in {group}, whose rules are not here", interface.section.id));
            }
        }
    }
    sorted
}

fn sort_interface<'a>(sorted: &mut Sorted<'a>, section: &'a InterfaceSection) {
    if section.desired == Desired::Deleted {
        sorted.deleted.push(section);
        return;
    }
    let taken = |vpc: &Vpc<'_>, address: &IpAddr| {
        vpc.interfaces.iter().find(|other| other.section.addresses.contains(address)).map(|other| other.section.id)
    };
    let refusal = match (sorted.vpcs.get_mut(&section.vpc), parse_mac(&section.mac)) {
        (None, _) => format!("{} is not in the spec", section.vpc),
        (_, None) => format!("{:?} is not a unicast MAC address", section.mac),
        (Some(vpc), Some(mac)) => match section.addresses.iter().find_map(|a| taken(vpc, a).map(|by| (a, by))) {
            Some((address, by)) => format!("{address} is {by}'s"),
            None => {
                vpc.interfaces.push(Interface { section, tap: tap_name(section.id), mac });
                return;
            }
        },
    };
    sorted.refused.insert(section.id, refusal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        for (text, good) in [
            ("02:00:00:00:00:0a", true),
            ("02:AB:cd:00:00:0a", true),
            ("03:00:00:00:00:0a", false),
            ("02:00:00:00:00", false),
            ("02:00:00:00:00:0a:00", false),
            ("02:00:00:00:00:+a", false),
            ("2:0:0:0:0:a", false),
            ("", false),
        ] {
            assert_eq!(parse_mac(text).is_some(), good, "{text}");
        }
        assert_eq!(mac_text([2, 0xab, 0, 0, 0, 10]), "02:ab:00:00:00:0a");
    }
}
