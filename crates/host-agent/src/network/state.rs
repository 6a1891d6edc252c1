//! What one network namespace contains, as far as we care: the same shape for what should be and what is.

use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use super::vpc::{Mac, mac_text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    /// Persistent, with QEMU's descriptor at the other end.
    Tap,
    /// Between a VPC's namespace and the host's.
    Veth,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    /// `None`: whatever it is.
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    Link(String),
    Gateway { link: String, gateway: Ipv4Addr, source: Option<Ipv4Addr> },
    Unreachable,
}

/// What should be. All links are up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub links: BTreeMap<String, Link>,
    /// Each with prefix length 32.
    pub addresses: BTreeSet<(String, Ipv4Addr)>,
    pub routes: BTreeMap<Ipv4Net, Via>,
    /// Permanent ones.
    pub neighbours: BTreeMap<(String, Ipv4Addr), Mac>,
    /// Path under /proc/sys/net, and value.
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    pub index: u32,
    pub kind: LinkKind,
    pub up: bool,
    /// Something is plugged in: somebody holds the tap's descriptor.
    pub carrier: bool,
    pub mtu: u32,
    pub mac: Option<Mac>,
}

/// What is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub links: BTreeMap<String, ObservedLink>,
    /// Those with prefix length 32.
    pub addresses: BTreeSet<(String, Ipv4Addr)>,
    /// Main table; whether we made the route, and where it leads (`None`: in a way we never ask for).
    pub routes: BTreeMap<Ipv4Net, (bool, Option<Via>)>,
    pub neighbours: BTreeMap<(String, Ipv4Addr), Mac>,
    /// Those settings that were asked about and exist.
    pub settings: BTreeMap<String, String>,
}

/// One step; carries everything that carrying it out needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    DeleteLink(String),
    CreateTap(String),
    /// With `ext` at the other end, in the VPC's namespace.
    CreateVeth(String),
    /// Up; MTU and MAC as far as they are named.
    SetLink(String, Link),
    DeleteAddress(String, Ipv4Addr),
    AddAddress(String, Ipv4Addr),
    PutNeighbour(String, Ipv4Addr, Mac),
    DeleteNeighbour(String, Ipv4Addr),
    WriteSetting(String, String),
    DeleteRoute(Ipv4Net, Via),
    PutRoute(Ipv4Net, Via),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "dev {link}"),
            Self::Gateway { link, gateway, source: None } => write!(f, "via {gateway} dev {link}"),
            Self::Gateway { link, gateway, source: Some(source) } => {
                write!(f, "via {gateway} dev {link} src {source}")
            }
            Self::Unreachable => write!(f, "unreachable"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink(link) => write!(f, "delete link {link}"),
            Self::CreateTap(link) => write!(f, "create tap {link}"),
            Self::CreateVeth(link) => write!(f, "create veth {link}"),
            Self::SetLink(name, link) => {
                write!(f, "set link {name} up")?;
                if let Some(mtu) = link.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                link.mac.map_or(Ok(()), |mac| write!(f, " address {}", mac_text(mac)))
            }
            Self::DeleteAddress(link, address) => write!(f, "delete address {address} dev {link}"),
            Self::AddAddress(link, address) => write!(f, "add address {address} dev {link}"),
            Self::PutNeighbour(link, address, mac) => {
                write!(f, "put neighbour {address} dev {link} lladdr {}", mac_text(*mac))
            }
            Self::DeleteNeighbour(link, address) => write!(f, "delete neighbour {address} dev {link}"),
            Self::WriteSetting(path, value) => write!(f, "write {path} = {value}"),
            Self::DeleteRoute(net, via) => write!(f, "delete route {net} {via}"),
            Self::PutRoute(net, via) => write!(f, "put route {net} {via}"),
        }
    }
}
