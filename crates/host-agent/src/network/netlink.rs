//! Links, addresses, routes and neighbours of one namespace, read and changed over rtnetlink; settings under
//! /proc/sys/net. Everything here works on the namespace of the calling thread.

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::names::EXT;
use super::state::{LinkKind, Observed, ObservedLink, Op, Via};
use super::{NetworkError, tap};

/// Marks routes that we made (`ip route` shows it as `proto 84`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(84);
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to the kernel in the namespace of the thread that opened it.
pub struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

impl Netlink {
    pub fn open() -> Result<Self, NetworkError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(NetworkError::io("netlink"))?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::io("netlink"))?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn wait<T>(&self, what: &str, work: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, NetworkError> {
        let bounded = async { tokio::time::timeout(DEADLINE, work).await };
        match self.runtime.block_on(bounded) {
            Ok(result) => result.map_err(NetworkError::netlink(what)),
            Err(_) => {
                Err(NetworkError::io(what)(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in 30 s")))
            }
        }
    }

    /// What the namespace contains; of the settings, those in `settings`.
    pub fn observe<'a>(&self, settings: impl Iterator<Item = &'a String>) -> Result<Observed, NetworkError> {
        let mut observed = Observed::default();
        let links: Vec<LinkMessage> = self.wait("listing links", self.handle.link().get().execute().try_collect())?;
        let mut names = BTreeMap::new();
        for message in links {
            if let Some((name, link)) = read_link(&message) {
                names.insert(link.index, name.clone());
                observed.links.insert(name, link);
            }
        }
        for (index, address, length) in self.addresses()? {
            if let (Some(name), IpAddr::V4(address), 32) = (names.get(&index), address, length) {
                observed.addresses.insert((name.clone(), address));
            }
        }
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> =
            self.wait("listing routes", self.handle.route().get(query).execute().try_collect())?;
        for message in routes {
            if let Some((net, route)) = read_route(&message, &names) {
                observed.routes.insert(net, route);
            }
        }
        let query = self.handle.neighbours().get().set_address_family(AddressFamily::Inet);
        let neighbours: Vec<NeighbourMessage> = self.wait("listing neighbours", query.execute().try_collect())?;
        for message in neighbours {
            if let Some((index, address, mac)) = read_neighbour(&message)
                && let Some(name) = names.get(&index)
            {
                observed.neighbours.insert((name.clone(), address), mac);
            }
        }
        for path in settings {
            if let Ok(value) = std::fs::read_to_string(setting_path(path)) {
                observed.settings.insert(path.clone(), value.trim().to_owned());
            }
        }
        Ok(observed)
    }

    fn addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>, NetworkError> {
        let messages: Vec<_> = self.wait("listing addresses", self.handle.address().get().execute().try_collect())?;
        let read = |message: &rtnetlink::packet_route::address::AddressMessage| {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            // IPv6 addresses come without `Local`.
            let address = address.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            address.map(|address| (message.header.index, address, message.header.prefix_len))
        };
        Ok(messages.iter().filter_map(read).collect())
    }

    /// All addresses of this namespace except those on links that `skip` names.
    pub fn own_addresses(&self, skip: impl Fn(&str) -> bool) -> Result<BTreeSet<IpAddr>, NetworkError> {
        let links: Vec<LinkMessage> = self.wait("listing links", self.handle.link().get().execute().try_collect())?;
        let skipped: BTreeSet<u32> =
            links.iter().filter_map(read_link).filter(|(name, _)| skip(name)).map(|(_, link)| link.index).collect();
        let addresses = self.addresses()?;
        Ok(addresses
            .into_iter()
            .filter(|(index, ..)| !skipped.contains(index))
            .map(|(_, address, _)| address)
            .collect())
    }

    fn index(&self, name: &str) -> Result<u32, NetworkError> {
        let found: Vec<LinkMessage> =
            self.wait(name, self.handle.link().get().match_name(name).execute().try_collect())?;
        found
            .first()
            .map(|message| message.header.index)
            .ok_or_else(|| NetworkError::io(format!("link {name}"))(std::io::Error::from(std::io::ErrorKind::NotFound)))
    }

    /// Carries out one step. `namespace_of` finds the namespace at the other end of an edge.
    pub fn apply<'fd>(
        &self,
        op: &Op,
        namespace_of: &dyn Fn(&str) -> Option<BorrowedFd<'fd>>,
    ) -> Result<(), NetworkError> {
        let what = op.to_string();
        match op {
            Op::CreateTap(name) => tap::create(name),
            Op::CreateVeth(name) => {
                let namespace = namespace_of(name)
                    .ok_or_else(|| NetworkError::Spec(format!("{what}: there is no namespace to lead to")))?;
                let peer = LinkMessageBuilder::<LinkUnspec>::new().name(EXT).setns_by_fd(namespace.as_raw_fd()).build();
                let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                    .name(name.as_str())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                    .build();
                self.wait(&what, self.handle.link().add(message).execute())
            }
            Op::DeleteLink(name) => {
                let index = self.index(name)?;
                self.wait(&what, self.handle.link().del(index).execute())
            }
            Op::SetLink(name, link) => {
                let mut message = LinkUnspec::new_with_index(self.index(name)?).up();
                if let Some(mtu) = link.mtu {
                    message = message.mtu(mtu);
                }
                if let Some(mac) = link.mac {
                    message = message.address(mac.to_vec());
                }
                self.wait(&what, self.handle.link().change(message.build()).execute())
            }
            Op::AddAddress(name, address) => {
                let request = self.handle.address().add(self.index(name)?, IpAddr::V4(*address), 32).replace();
                self.wait(&what, request.execute())
            }
            Op::DeleteAddress(name, address) => {
                let message = AddressMessageBuilder::<Ipv4Addr>::new();
                let message = message.index(self.index(name)?).address(*address, 32).build();
                self.wait(&what, self.handle.address().del(message).execute())
            }
            Op::PutNeighbour(name, address, mac) => {
                let request = self.handle.neighbours().add(self.index(name)?, IpAddr::V4(*address));
                self.wait(&what, request.link_layer_address(mac).replace().execute())
            }
            Op::DeleteNeighbour(name, address) => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.ifindex = self.index(name)?;
                message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(*address)));
                self.wait(&what, self.handle.neighbours().del(message).execute())
            }
            Op::WriteSetting(path, value) => std::fs::write(setting_path(path), value).map_err(NetworkError::io(what)),
            Op::PutRoute(net, via) => {
                self.wait(&what, self.handle.route().add(self.route(*net, via)?).replace().execute())
            }
            Op::DeleteRoute(net, via) => self.wait(&what, self.handle.route().del(self.route(*net, via)?).execute()),
        }
    }

    fn route(&self, net: Ipv4Net, via: &Via) -> Result<RouteMessage, NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .protocol(PROTOCOL);
        Ok(match via {
            Via::Link(link) => route.output_interface(self.index(link)?).scope(RouteScope::Link).build(),
            Via::Gateway { link, gateway, source } => {
                let route = route.output_interface(self.index(link)?).gateway(*gateway).onlink();
                source.map_or_else(|| route.clone(), |source| route.clone().pref_source(source)).build()
            }
            Via::Unreachable => route.kind(RouteType::Unreachable).build(),
        })
    }
}

fn setting_path(path: &str) -> std::path::PathBuf {
    Path::new("/proc/sys/net").join(path)
}

fn read_link(message: &LinkMessage) -> Option<(String, ObservedLink)> {
    let mut name = None;
    let mut kind = None;
    let (mut mtu, mut mac) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Address(octets) => mac = <[u8; 6]>::try_from(octets.as_slice()).ok(),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Tun) => Some(LinkKind::Tap),
                    LinkInfo::Kind(InfoKind::Veth) => Some(LinkKind::Veth),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let flags = message.header.flags;
    let loopback = flags.contains(LinkFlags::Loopback).then_some(LinkKind::Loopback);
    let link = ObservedLink {
        index: message.header.index,
        kind: loopback.or(kind).unwrap_or(LinkKind::Other),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mtu,
        mac,
    };
    name.map(|name| (name, link))
}

fn read_route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<(Ipv4Net, (bool, Option<Via>))> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.address_family != AddressFamily::Inet {
        return None;
    }
    let (mut destination, mut link, mut gateway, mut source) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            _ => {}
        }
    }
    let via = match (message.header.kind, link, gateway) {
        (RouteType::Unreachable, ..) => Some(Via::Unreachable),
        (RouteType::Unicast, Some(link), Some(gateway)) => Some(Via::Gateway { link, gateway, source }),
        (RouteType::Unicast, Some(link), None) => Some(Via::Link(link)),
        _ => None,
    };
    let net = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some((net, (message.header.protocol == PROTOCOL, via)))
}

/// Permanent entries only; the others come and go.
fn read_neighbour(message: &NeighbourMessage) -> Option<(u32, Ipv4Addr, [u8; 6])> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
            NeighbourAttribute::LinkLayerAddress(octets) => mac = <[u8; 6]>::try_from(octets.as_slice()).ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac?))
}
