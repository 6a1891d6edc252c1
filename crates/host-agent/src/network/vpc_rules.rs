//! nftables inside a VPC's namespace: who may send with which address, security groups, routes, NAT, and the few
//! doors of the namespace itself. One lookup each per packet, however many interfaces and rules there are.
//!
//! A packet from a guest passes, in order: `sources` (forged addresses), `egress` (its route table, what it answers,
//! its groups' egress rules), `ingress` (the receiver's groups), `leaving` (only mapped addresses leave the VPC).
//! IPv6 has the same sets and rules; a guest without an assigned IPv6 address cannot send any.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use terroir_agent_api::{Peer, Route, RouteTarget, Rule, Traffic};
use terroir_types::SecurityGroupId;

use super::names::VPC_TABLE;
use super::ruleset::{Ruleset, Set, Table};
use super::spans::{self, Family, Span};
use super::vpc::{METADATA, Vpc, mac_text};

/// New connections at a time that one guest may hold open, and that may be open to one guest from outside: the kernel's
/// table of connections is shared by everybody on the host.
const CONNECTIONS_PER_INTERFACE: u32 = 16_384;

/// The link to the host, as nft reads it.
const LINK: &str = "\"ext\"";

/// What a VPC's rules need to know besides the VPC.
#[derive(Debug)]
pub struct Surroundings {
    /// The VPC's end of the link to the host.
    pub link_address: Ipv4Addr,
    /// The host's own addresses, the operator's `egress_deny`, the links between host and VPCs.
    pub denied: Vec<IpNet>,
    pub guest_mtu: u16,
}

pub fn vpc_ruleset(vpc: &Vpc<'_>, surroundings: &Surroundings) -> Ruleset {
    let mut rules = Ruleset::new(VPC_TABLE);
    let inet = rules.family("inet");
    sources(inet, vpc, surroundings);
    input(inet, vpc);
    forward(inet, vpc, surroundings);
    nat(inet, vpc, surroundings);
    address_resolution(rules.family("arp"), vpc);
    rules
}

const fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
    }
}

/// nft's type name, and its word for the header.
const fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ipv4_addr", "ip"),
        Family::V6 => ("ipv6_addr", "ip6"),
    }
}

fn quoted(interface: &str) -> String {
    format!("\"{interface}\"")
}

fn fill(set: &mut Set, family: Family, spans: impl IntoIterator<Item = Span>) {
    for span in spans::union(spans) {
        set.insert(family.text(span));
    }
}

fn sources(inet: &mut Table, vpc: &Vpc<'_>, surroundings: &Surroundings) {
    for family in Family::BOTH {
        inet.set(format!("sources{}", suffix(family)), &format!("type ifname . ether_addr . {};", words(family).0));
    }
    inet.set("macs", "type ifname . ether_addr;");
    inet.set("any_source", "type ifname . ether_addr;");
    for interface in &vpc.interfaces {
        let sender = format!("{} . {}", quoted(&interface.tap), mac_text(interface.mac));
        inet.set("macs", "").insert(&sender);
        if !interface.section.source_dest_check {
            inet.set("any_source", "").insert(&sender);
        }
        for address in &interface.section.addresses {
            inet.set(format!("sources{}", suffix(Family::of(*address))), "").insert(format!("{sender} . {address}"));
        }
    }
    let private = vpc.section.cidrs.iter().filter(|net| Family::of_net(**net) == Family::V4).copied();
    let link_local: IpNet = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 169, 0), 24).into();
    fill(
        inet.set("private", "type ipv4_addr; flags interval;"),
        Family::V4,
        private.chain([link_local]).map(spans::of_net),
    );
    let public = inet.set("public", "type ipv4_addr;");
    public.insert(surroundings.link_address);
    for (address, _) in vpc.interfaces.iter().filter_map(|interface| interface.public_mapping()) {
        public.insert(address);
    }
    inet.base_chain(
        "arriving",
        "type filter hook prerouting priority raw; policy accept;",
        [
            "iifname \"lo\" accept".to_owned(),
            format!("iifname != {LINK} goto sources"),
            // From outside only to mapped addresses, and never in the name of the inside.
            "ip daddr != @public drop".to_owned(),
            "ip saddr @private drop".to_owned(),
            "meta nfproto ipv6 drop".to_owned(),
        ],
    );
    inet.chain(
        "sources",
        vec![
            "iifname . ether saddr . ip saddr @sources4 accept".to_owned(),
            "iifname . ether saddr . ip6 saddr @sources6 accept".to_owned(),
            "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 iifname . ether saddr @macs accept"
                .to_owned(),
            "iifname . ether saddr @any_source accept".to_owned(),
            "drop".to_owned(),
        ],
    );
    inet.set("connections", "type ifname; size 65535; flags dynamic;");
    inet.base_chain(
        "limits",
        "type filter hook prerouting priority mangle; policy accept;",
        [format!(
            "iifname != {{ \"lo\", {LINK} }} ct state new add @connections {{ iifname ct count over {CONNECTIONS_PER_INTERFACE} }} drop"
        )],
    );
}

/// The namespace's own doors: DHCP, the resolver, metadata, and an echo from the gateway.
fn input(inet: &mut Table, vpc: &Vpc<'_>) {
    let resolvers = inet.set("resolvers", "type ipv4_addr;");
    for address in vpc.resolvers() {
        resolvers.insert(address);
    }
    let gateways = inet.set("gateways", "type ipv4_addr;");
    for address in vpc.gateways() {
        gateways.insert(address);
    }
    inet.base_chain(
        "input",
        "type filter hook input priority filter; policy drop;",
        [
            "iifname \"lo\" accept".to_owned(),
            "ct state vmap { established : accept, related : accept, invalid : drop }".to_owned(),
            format!("iifname {LINK} drop"),
            "udp sport 68 udp dport 67 iifname . ether saddr @macs accept".to_owned(),
            // The services know a guest by its address, so here not even an interface without source check may forge.
            "iifname . ether saddr . ip saddr != @sources4 drop".to_owned(),
            format!("ip daddr {METADATA} tcp dport 80 accept"),
            "ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept".to_owned(),
            "ip daddr @gateways icmp type echo-request limit rate 100/second burst 200 packets accept".to_owned(),
        ],
    );
}

fn forward(inet: &mut Table, vpc: &Vpc<'_>, surroundings: &Surroundings) {
    for (name, spec) in [
        ("routes", "type ifname : verdict;"),
        ("egress", "type ifname : verdict;"),
        ("ingress", "type ifname : verdict;"),
    ] {
        inet.map(name, spec);
    }
    let mut used: BTreeSet<SecurityGroupId> = BTreeSet::new();
    for interface in &vpc.interfaces {
        let tap = quoted(&interface.tap);
        let routes = route_chain(inet, &interface.section.routes);
        inet.map("routes", "").map_to(&tap, format!("jump {routes}"));
        let groups: Vec<SecurityGroupId> =
            interface.section.security_groups.iter().filter(|id| vpc.groups.contains_key(id)).copied().collect();
        for direction in [Direction::In, Direction::Out] {
            let chain = format!("{}_{}", direction.word(), interface.tap);
            inet.map(direction.map(), "").map_to(&tap, format!("goto {chain}"));
            let jumps = groups.iter().map(|id| format!("jump {}", group_name(*id, direction)));
            inet.chain(chain, jumps.chain(["drop".to_owned()]).collect());
        }
        used.extend(groups);
    }
    for id in used {
        if let Some(group) = vpc.groups.get(&id) {
            group_chain(inet, vpc, id, Direction::In, &group.ingress);
            group_chain(inet, vpc, id, Direction::Out, &group.egress);
        }
    }
    for family in Family::BOTH {
        let (kind, _) = words(family);
        let nets = surroundings.denied.iter().filter(|net| Family::of_net(**net) == family);
        fill(
            inet.set(format!("denied{}", suffix(family)), &format!("type {kind}; flags interval;")),
            family,
            nets.map(|net| spans::of_net(*net)),
        );
    }
    inet.set("connections_in", "type ifname; size 65535; flags dynamic;");
    let largest_segment = surroundings.guest_mtu.saturating_sub(40);
    inet.base_chain(
        "egress",
        "type filter hook forward priority -10; policy drop;",
        [
            format!("iifname {LINK} oifname {LINK} drop"),
            format!("tcp flags syn / syn,rst tcp option maxseg size set {largest_segment}"),
            // Before the answers: where an interface has no route to, it does not answer to either.
            "iifname vmap @routes".to_owned(),
            "ct state vmap { established : accept, related : accept, invalid : drop }".to_owned(),
            format!("iifname {LINK} accept"),
            format!("oifname {LINK} ip daddr @denied4 drop"),
            format!("oifname {LINK} ip6 daddr @denied6 drop"),
            "iifname vmap @egress".to_owned(),
        ],
    );
    inet.base_chain(
        "ingress",
        "type filter hook forward priority filter; policy drop;",
        [
            "ct state established,related accept".to_owned(),
            format!("oifname {LINK} accept"),
            format!("iifname {LINK} add @connections_in {{ oifname ct count over {CONNECTIONS_PER_INTERFACE} }} drop"),
            "oifname vmap @ingress".to_owned(),
        ],
    );
}

/// One chain per distinct route table; returns for what may go on.
fn route_chain(inet: &mut Table, routes: &[Route]) -> String {
    let mut table: Vec<(IpNet, RouteTarget)> = routes.iter().map(|r| (r.destination.trunc(), r.target)).collect();
    table.sort_by_key(|(net, target)| (*net, *target as u8));
    table.dedup_by_key(|(net, _)| *net);
    let digest = Sha256::digest(format!("{table:?}"));
    let name = format!("r_{}", hex::encode(&digest[..6]));
    if inet.chains.contains_key(&name) {
        return name;
    }
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let (kind, header) = words(family);
        let definition = format!("type {kind}; flags interval;");
        for (target, word, out) in [(RouteTarget::Local, "local", "!="), (RouteTarget::Internet, "internet", "==")] {
            let reach = spans::longest_match(&table, family, target);
            if !reach.is_empty() {
                let set = format!("{name}_{word}{}", suffix(family));
                fill(inet.set(&set, &definition), family, reach);
                rules.push(format!("oifname {out} {LINK} {header} daddr @{set} return"));
            }
        }
    }
    rules.push("drop".to_owned());
    inet.chain(&name, rules);
    name
}

fn nat(inet: &mut Table, vpc: &Vpc<'_>, _: &Surroundings) {
    let pairs: BTreeMap<Ipv4Addr, Ipv4Addr> = vpc.interfaces.iter().filter_map(|i| i.public_mapping()).collect();
    inet.map("to_private", "type ipv4_addr : ipv4_addr;");
    inet.map("to_public", "type ipv4_addr : ipv4_addr;");
    for (public, private) in pairs {
        inet.map("to_private", "").map_to(public, private);
        inet.map("to_public", "").map_to(private, public);
    }
    inet.base_chain(
        "mapping_in",
        "type nat hook prerouting priority dstnat; policy accept;",
        [format!("iifname {LINK} dnat ip to ip daddr map @to_private")],
    );
    inet.base_chain(
        "mapping_out",
        "type nat hook postrouting priority srcnat; policy accept;",
        [format!("oifname {LINK} snat ip to ip saddr map @to_public")],
    );
    inet.base_chain(
        "leaving",
        "type filter hook postrouting priority 200; policy accept;",
        [format!("oifname {LINK} meta nfproto ipv6 drop"), format!("oifname {LINK} ip saddr != @public drop")],
    );
}

/// A guest may ask and answer only in its own name; else it could fill the host's neighbour table.
fn address_resolution(arp: &mut Table, vpc: &Vpc<'_>) {
    arp.set("senders", "type ifname . ether_addr . ipv4_addr;");
    arp.set("macs", "type ifname . ether_addr;");
    for interface in &vpc.interfaces {
        let sender = format!("{} . {}", quoted(&interface.tap), mac_text(interface.mac));
        for address in interface.v4_addresses() {
            arp.set("senders", "").insert(format!("{sender} . {address}"));
        }
        arp.set("macs", "").insert(sender);
    }
    arp.base_chain(
        "input",
        "type filter hook input priority filter; policy drop;",
        [
            format!("iifname {LINK} accept"),
            "iifname . arp saddr ether . arp saddr ip @senders accept".to_owned(),
            // Whether somebody else has its address, before it takes it (RFC 5227).
            "arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept".to_owned(),
        ],
    );
}

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    const fn map(self) -> &'static str {
        match self {
            Self::In => "ingress",
            Self::Out => "egress",
        }
    }

    /// The header field that holds the peer.
    const fn peer(self) -> &'static str {
        match self {
            Self::In => "saddr",
            Self::Out => "daddr",
        }
    }
}

/// `g`, the group's digits, and the direction.
fn group_name(id: SecurityGroupId, direction: Direction) -> String {
    format!("g{:017x}_{}", id.number(), direction.word())
}

fn group_chain(inet: &mut Table, vpc: &Vpc<'_>, id: SecurityGroupId, direction: Direction, allowed: &[Rule]) {
    let name = group_name(id, direction);
    let mut rules = Vec::new();
    for family in Family::BOTH {
        cidr_rules(inet, &mut rules, &name, direction, family, allowed);
    }
    let references: BTreeSet<(SecurityGroupId, Traffic)> = allowed
        .iter()
        .filter_map(|rule| match rule.peer {
            Peer::Group(group) => Some((group, rule.traffic)),
            Peer::Cidr(_) => None,
        })
        .collect();
    for (group, traffic) in references {
        for family in Family::BOTH {
            let Some(matches) = traffic_match(traffic, family) else { continue };
            let (_, header) = words(family);
            let set = member_set(inet, vpc, group, family);
            rules.push(format!("{header} {} @{set}{matches} accept", direction.peer()));
        }
    }
    inet.chain(name, rules);
}

/// Private addresses of a group's members, one set per family, shared by all rules that refer to the group.
fn member_set(inet: &mut Table, vpc: &Vpc<'_>, group: SecurityGroupId, family: Family) -> String {
    let name = format!("m{:017x}_{}", group.number(), suffix(family));
    if !inet.sets.contains_key(&name) {
        let set = inet.set(&name, &format!("type {};", words(family).0));
        let members = vpc.members.get(&group).map(|section| &section.addresses);
        for address in members.into_iter().flatten().filter(|address| Family::of(**address) == family) {
            set.insert(address);
        }
    }
    name
}

/// CIDR rules of one family as at most three lookups: by protocol, by protocol and port, by ICMP type and code.
fn cidr_rules(
    inet: &mut Table,
    rules: &mut Vec<String>,
    name: &str,
    direction: Direction,
    family: Family,
    allowed: &[Rule],
) {
    let mut protocols = Vec::new();
    let mut ports = Vec::new();
    let mut messages = Vec::new();
    for rule in allowed {
        let net = match rule.peer {
            Peer::Cidr(net) if Family::of_net(net) == family => spans::of_net(net),
            _ => continue,
        };
        match (rule.traffic, family) {
            (Traffic::All, _) => protocols.push((net, Span::new(0, 255))),
            (Traffic::Protocol(number), _) => protocols.push((net, Span::new(number.into(), number.into()))),
            (Traffic::Tcp { from, to }, _) => ports.push((net, port_span(6, from, to))),
            (Traffic::Udp { from, to }, _) => ports.push((net, port_span(17, from, to))),
            (Traffic::Icmp { kind, code }, Family::V4) | (Traffic::IcmpV6 { kind, code }, Family::V6) => {
                messages.push((net, message_span(kind, code)));
            }
            (Traffic::Icmp { .. }, Family::V6) | (Traffic::IcmpV6 { .. }, Family::V4) => {}
        }
    }
    let (kind, header) = words(family);
    let peer = format!("{header} {}", direction.peer());
    let icmp = if family == Family::V4 { "icmp" } else { "icmpv6" };
    if !protocols.is_empty() {
        let set = format!("{name}_p{}", suffix(family));
        rules.push(format!("{peer} . meta l4proto @{set} accept"));
        let set = inet.set(set, &format!("type {kind} . inet_proto; flags interval;"));
        for (net, protocol) in spans::rectangles(&protocols) {
            set.insert(format!("{} . {}", family.text(net), range(protocol.first, protocol.last)));
        }
    }
    if !ports.is_empty() {
        let set = format!("{name}_s{}", suffix(family));
        rules.push(format!("meta l4proto {{ tcp, udp }} {peer} . meta l4proto . th dport @{set} accept"));
        let set = inet.set(set, &format!("type {kind} . inet_proto . inet_service; flags interval;"));
        for (net, port) in spans::rectangles(&ports) {
            let (protocol, low, high) = (port.first >> 16, port.first & 0xffff, port.last & 0xffff);
            set.insert(format!("{} . {protocol} . {}", family.text(net), range(low, high)));
        }
    }
    if !messages.is_empty() {
        let set = format!("{name}_i{}", suffix(family));
        rules.push(format!("{peer} . {icmp} type . {icmp} code @{set} accept"));
        let set = inet.set(set, &format!("typeof {peer} . {icmp} type . {icmp} code; flags interval;"));
        for (net, message) in spans::rectangles(&messages) {
            for (kinds, codes) in by_type(message) {
                let (kinds, codes) = (range(kinds.first, kinds.last), range(codes.first, codes.last));
                set.insert(format!("{} . {kinds} . {codes}", family.text(net)));
            }
        }
    }
}

fn range(first: u128, last: u128) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Protocol and port as one number; TCP and UDP are far enough apart never to run together.
fn port_span(protocol: u8, from: u16, to: u16) -> Span {
    let base = u128::from(protocol) << 16;
    Span::new(base | u128::from(from.min(to)), base | u128::from(to.max(from)))
}

/// ICMP type and code as one number. Without a type the code says nothing.
fn message_span(kind: Option<u8>, code: Option<u8>) -> Span {
    match (kind, code) {
        (None, _) => Span::new(0, 0xffff),
        (Some(kind), None) => Span::new(u128::from(kind) << 8, u128::from(kind) << 8 | 0xff),
        (Some(kind), Some(code)) => {
            let message = u128::from(kind) << 8 | u128::from(code);
            Span::new(message, message)
        }
    }
}

/// A span of ICMP messages as rectangles of types and codes.
fn by_type(messages: Span) -> Vec<(Span, Span)> {
    let (first, last) = (messages.first >> 8, messages.last >> 8);
    let rows = (first..=last).map(|kind| {
        let low = if kind == first { messages.first & 0xff } else { 0 };
        let high = if kind == last { messages.last & 0xff } else { 0xff };
        (Span::new(kind, kind), Span::new(low, high))
    });
    spans::rectangles(&rows.collect::<Vec<_>>())
}

/// What follows the peer in a rule; `None` where the traffic does not exist in this family.
fn traffic_match(traffic: Traffic, family: Family) -> Option<String> {
    let icmp = |name: &str, kind: Option<u8>, code: Option<u8>| match (kind, code) {
        (None, _) => format!(" meta l4proto {name}"),
        (Some(kind), None) => format!(" {name} type {kind}"),
        (Some(kind), Some(code)) => format!(" {name} type {kind} {name} code {code}"),
    };
    match (traffic, family) {
        (Traffic::All, _) => Some(String::new()),
        (Traffic::Protocol(number), _) => Some(format!(" meta l4proto {number}")),
        (Traffic::Tcp { from, to }, _) => {
            Some(format!(" tcp dport {}", range(from.min(to).into(), to.max(from).into())))
        }
        (Traffic::Udp { from, to }, _) => {
            Some(format!(" udp dport {}", range(from.min(to).into(), to.max(from).into())))
        }
        (Traffic::Icmp { kind, code }, Family::V4) => Some(icmp("icmp", kind, code)),
        (Traffic::IcmpV6 { kind, code }, Family::V6) => Some(icmp("icmpv6", kind, code)),
        (Traffic::Icmp { .. }, Family::V6) | (Traffic::IcmpV6 { .. }, Family::V4) => None,
    }
}

/// What no guest reaches through the link to the host: its own addresses, the operator's `egress_deny`, the links'
/// addresses, and what means nothing beyond one link (on rented machines the hoster's own metadata service is there).
pub fn denied_networks(own: &BTreeSet<IpAddr>, egress_deny: &[IpNet], edge_pool: Ipv4Net) -> Vec<IpNet> {
    let link_local = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    ];
    let mut nets: BTreeSet<IpNet> = own.iter().map(|address| IpNet::from(*address)).collect();
    nets.extend(egress_deny.iter().map(IpNet::trunc));
    nets.extend(link_local);
    nets.insert(edge_pool.trunc().into());
    nets.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::live::rig;
    use crate::network::vpc::sort;
    use terroir_agent_api::{HostSpec, Section};

    /// A ruleset with one of everything, as the script that makes it; rewrite it with `UPDATE_GOLDEN=1`.
    #[test]
    fn golden_script() {
        let cidr = |text: &str| Peer::Cidr(text.parse().unwrap());
        let mut web = rig::interface(1, 11, &[1, 2]);
        web.public_address = Some("198.51.100.10".parse().unwrap());
        web.addresses.push("2001:db8::b".parse().unwrap());
        web.source_dest_check = false;
        let mut spec = HostSpec::new();
        for section in [
            rig::vpc(1),
            rig::group(
                1,
                1,
                &[
                    (Traffic::Tcp { from: 22, to: 22 }, cidr("0.0.0.0/0")),
                    (Traffic::Tcp { from: 0, to: 65_535 }, cidr("10.0.0.0/8")),
                    (Traffic::Udp { from: 53, to: 53 }, cidr("10.0.0.0/16")),
                    (Traffic::Tcp { from: 443, to: 443 }, cidr("::/0")),
                    (Traffic::Icmp { kind: Some(8), code: None }, cidr("0.0.0.0/0")),
                    (Traffic::Icmp { kind: Some(3), code: Some(4) }, cidr("0.0.0.0/0")),
                    (Traffic::IcmpV6 { kind: None, code: None }, cidr("2001:db8::/32")),
                    (Traffic::Protocol(47), cidr("192.0.2.7/32")),
                    (Traffic::All, Peer::Group(rig::group_id(2))),
                    (Traffic::Icmp { kind: Some(8), code: Some(0) }, Peer::Group(rig::group_id(2))),
                    (Traffic::Udp { from: 1000, to: 2000 }, Peer::Group(rig::group_id(9))),
                ],
                &[(Traffic::All, cidr("0.0.0.0/0"))],
            ),
            rig::group(2, 1, &[], &[]),
            rig::members(2, 1, &["10.0.0.11", "2001:db8::b"]),
            Section::Interface(web),
        ] {
            spec.insert(section.key(), section);
        }
        let sorted = sort(&spec);
        let surroundings = Surroundings {
            link_address: "169.254.96.2".parse().unwrap(),
            denied: denied_networks(
                &["203.0.113.1".parse().unwrap()].into(),
                &["192.168.0.0/16".parse().unwrap()],
                "100.64.0.0/30".parse().unwrap(),
            ),
            guest_mtu: 1370,
        };
        let script = vpc_ruleset(&sorted.vpcs[&rig::vpc_id(1)], &surroundings).replacement();
        rig::compare_with_golden("vpc_rules.nft", &script);
    }

    #[test]
    fn icmp_spans_become_types_and_codes() {
        for (first, last, expected) in [
            (0, 0xffff, "0-255.0-255"),
            (0x0800, 0x08ff, "8.0-255"),
            (0x0304, 0x0304, "3.4"),
            (0x0304, 0x0504, "3.4-255 4.0-255 5.0-4"),
        ] {
            let texts: Vec<String> = by_type(Span::new(first, last))
                .iter()
                .map(|(kind, code)| format!("{}.{}", range(kind.first, kind.last), range(code.first, code.last)))
                .collect();
            assert_eq!(texts.join(" "), expected);
        }
    }
}
