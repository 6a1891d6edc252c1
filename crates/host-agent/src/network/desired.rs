//! HostSpec → what each namespace should contain. Pure.

use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::NetworkError;
use super::host_rules::host_ruleset;
use super::names::{EXT, Names};
use super::ruleset::Ruleset;
use super::state::{Link, LinkKind, State, Via};
use super::vpc::{METADATA, Mac, RESOLVER, Sorted, Vpc};
use super::vpc_rules::{Surroundings, denied_networks, vpc_ruleset};

/// The gateway's address on every tap. Each tap is a wire of its own, so they need not differ, and a guest that moves
/// to another host finds the same neighbour there.
const GATEWAY_MAC: Mac = [0x0a, 0x54, 0x52, 0, 0, 1];
const EDGE_MAC: Mac = [0x0a, 0x54, 0x52, 0, 0, 2];
const EXT_MAC: Mac = [0x0a, 0x54, 0x52, 0, 0, 3];

/// MTU without a `host` section.
const DEFAULT_MTU: u16 = 1370;

/// The two ends of every link between the host and a VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddresses {
    pub host: Ipv4Addr,
    pub vpc: Ipv4Addr,
    pub pool: Ipv4Net,
}

impl LinkAddresses {
    pub fn from_pool(pool: Ipv4Net) -> Result<Self, NetworkError> {
        let mut hosts = pool.hosts();
        match (hosts.next(), hosts.next()) {
            (Some(host), Some(vpc)) => Ok(Self { host, vpc, pool: pool.trunc() }),
            _ => Err(NetworkError::Spec(format!("the pool of link addresses {pool} holds fewer than two"))),
        }
    }
}

/// What one namespace should contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub state: State,
    pub rules: Ruleset,
}

/// Everything that should be on this machine for one tag.
#[derive(Debug)]
pub struct Desired {
    pub host: Place,
    /// By namespace name.
    pub vpcs: BTreeMap<String, Place>,
    /// The namespace at the other end, by the edge's name.
    pub edges: BTreeMap<String, String>,
    pub problems: Vec<String>,
}

/// `own` are the addresses of the host itself.
pub fn desired(sorted: &Sorted<'_>, names: &Names, link: LinkAddresses, own: &BTreeSet<IpAddr>) -> Desired {
    let egress_deny: &[IpNet] = sorted.host.map_or(&[], |host| &host.egress_deny);
    let surroundings = Surroundings {
        link_address: link.vpc,
        denied: denied_networks(own, egress_deny, link.pool),
        guest_mtu: sorted.host.map_or(DEFAULT_MTU, |host| host.guest_mtu),
    };
    let mut host = State::default();
    host.settings.insert("ipv4/ip_forward".to_owned(), "1".to_owned());
    let mut out = Desired {
        host: Place { state: host, rules: Ruleset::new("") },
        vpcs: BTreeMap::new(),
        edges: BTreeMap::new(),
        problems: sorted.problems.clone(),
    };
    let mut public = BTreeSet::new();
    for vpc in sorted.vpcs.values() {
        let edge = match names.edge(vpc.section.index) {
            Ok(edge) => edge,
            Err(error) => {
                out.problems.push(error.to_string());
                continue;
            }
        };
        let namespace = names.namespace(vpc.section.index);
        out.edges.insert(edge.clone(), namespace.clone());
        edge_state(&mut out.host.state, vpc, &edge, link, surroundings.guest_mtu, &mut public);
        let state = vpc_state(vpc, link, surroundings.guest_mtu);
        out.vpcs.insert(namespace, Place { state, rules: vpc_ruleset(vpc, &surroundings) });
    }
    out.host.rules = host_ruleset(names, &public, link.vpc, &surroundings.denied);
    out
}

/// The host's end of a VPC's link, with a route for each public address behind it.
fn edge_state(
    host: &mut State,
    vpc: &Vpc<'_>,
    edge: &str,
    link: LinkAddresses,
    mtu: u16,
    public: &mut BTreeSet<Ipv4Addr>,
) {
    let veth = Link { kind: LinkKind::Veth, mtu: Some(mtu.into()), mac: Some(EDGE_MAC) };
    host.links.insert(edge.to_owned(), veth);
    host.addresses.insert((edge.to_owned(), link.host));
    host.neighbours.insert((edge.to_owned(), link.vpc), EXT_MAC);
    for (setting, value) in [("send_redirects", "0"), ("rp_filter", "0")] {
        host.settings.insert(format!("ipv4/conf/{edge}/{setting}"), value.to_owned());
    }
    host.settings.insert(format!("ipv6/conf/{edge}/disable_ipv6"), "1".to_owned());
    for (address, _) in vpc.interfaces.iter().filter_map(|interface| interface.public_mapping()) {
        let via = Via::Gateway { link: edge.to_owned(), gateway: link.vpc, source: Some(link.host) };
        host.routes.insert(Ipv4Net::from(address), via);
        public.insert(address);
    }
}

fn vpc_state(vpc: &Vpc<'_>, link: LinkAddresses, mtu: u16) -> State {
    let mut state = State::default();
    state.links.insert("lo".to_owned(), Link { kind: LinkKind::Loopback, mtu: None, mac: None });
    let ext = Link { kind: LinkKind::Veth, mtu: Some(mtu.into()), mac: Some(EXT_MAC) };
    state.links.insert(EXT.to_owned(), ext);
    let services = [METADATA, RESOLVER].into_iter().chain(vpc.resolvers()).chain(vpc.gateways());
    state.addresses.extend(services.map(|address| ("lo".to_owned(), address)));
    state.addresses.insert((EXT.to_owned(), link.vpc));
    state.neighbours.insert((EXT.to_owned(), link.host), EDGE_MAC);
    let outside = Via::Gateway { link: EXT.to_owned(), gateway: link.host, source: None };
    state.routes.insert(Ipv4Net::default(), outside);
    // So that nothing answers for, or leads to the outside from, an address of the VPC that no guest has.
    state.routes.extend(vpc.v4_cidrs().map(|net| (net.trunc(), Via::Unreachable)));
    for (path, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
        // Nothing routes IPv6 on one host yet; a link without it cannot leak it.
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
    ] {
        state.settings.insert(path.to_owned(), value.to_owned());
    }
    for interface in &vpc.interfaces {
        let tap = Link { kind: LinkKind::Tap, mtu: Some(mtu.into()), mac: Some(GATEWAY_MAC) };
        state.links.insert(interface.tap.clone(), tap);
        state.settings.insert(format!("ipv4/conf/{}/proxy_arp", interface.tap), "1".to_owned());
        state.settings.insert(format!("ipv4/neigh/{}/proxy_delay", interface.tap), "0".to_owned());
        for address in interface.v4_addresses() {
            state.neighbours.insert((interface.tap.clone(), address), interface.mac);
            state.routes.insert(Ipv4Net::from(address), Via::Link(interface.tap.clone()));
        }
    }
    state
}
