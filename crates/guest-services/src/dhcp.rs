//! DHCPv4 (RFC 2131) with fixed addresses: a request on a tap gets the address of that tap's interface, or no answer.
//! There are no leases to remember, so a renewal works whatever was restarted in between.

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::snapshot::{Index, Seen, primary_v4};

/// Of an Ethernet frame without fragments; larger requests are not DHCP.
pub const LARGEST_REQUEST: usize = 1500;

#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub bytes: Vec<u8>,
    /// Broadcast, or the client's own address once it has it.
    pub to: SocketAddrV4,
    /// The gateway, which the client knows as its server.
    pub source: Ipv4Addr,
}

/// What of a request matters here. Read by hand: dhcproto's decoder asserts on options that a guest can bend.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: MessageType,
    xid: u32,
    flags: u16,
    client_address: Ipv4Addr,
    chaddr: [u8; 6],
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const OPTIONS_AT: usize = 240;

/// A client's own request over Ethernet; `None` for anything else, relayed requests included.
fn read(bytes: &[u8]) -> Option<Request> {
    let (header, mut options) = bytes.split_at_checked(OPTIONS_AT)?;
    let word = |at: usize| header.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
    let relay = Ipv4Addr::from(word(24)?);
    let [opcode, hardware, length, ..] = *header else { return None };
    if (opcode, hardware, length) != (1, 1, 6) || word(236)? != MAGIC || !relay.is_unspecified() {
        return None;
    }
    let (mut kind, mut wanted, mut server) = (None, None, None);
    while let [code, rest @ ..] = options {
        match (code, rest) {
            (0, _) => options = rest,
            (255, _) | (_, []) => break,
            (code, [length, rest @ ..]) => {
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                match code {
                    53 => kind = value.first().map(|number| MessageType::from(*number)),
                    50 => wanted = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                    54 => server = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                    _ => {}
                }
                options = rest;
            }
        }
    }
    Some(Request {
        kind: kind?,
        xid: u32::from_be_bytes(word(4)?),
        flags: u16::from_be_bytes([header[10], header[11]]),
        client_address: word(12)?.into(),
        chaddr: header[28..34].try_into().ok()?,
        wanted,
        server,
    })
}

/// The answer to what arrived on the tap of `seen`, if it deserves one.
pub fn answer(request: &[u8], index: &Index, seen: Seen<'_>, lease_secs: u32) -> Option<Reply> {
    let request = read(request)?;
    let (IpAddr::V4(gateway), Some(address)) = (seen.interface.gateway, primary_v4(seen.interface)) else {
        return None;
    };
    if !is_mac(&request.chaddr, &seen.interface.mac) || request.server.is_some_and(|server| server != gateway) {
        return None;
    }
    let kind = match request.kind {
        MessageType::Discover => MessageType::Offer,
        // In whichever of RFC 2131's fields the client's state puts it.
        MessageType::Request if request.wanted.unwrap_or(request.client_address) == address => MessageType::Ack,
        MessageType::Request => MessageType::Nak,
        MessageType::Inform => MessageType::Ack,
        // A released or declined address stays the interface's.
        _ => return None,
    };
    let informed = request.kind == MessageType::Inform;
    let has_address = request.client_address == address;
    if informed && !has_address {
        return None;
    }
    let none = Ipv4Addr::UNSPECIFIED;
    let mut reply = Message::new_with_id(
        request.xid,
        if has_address && kind != MessageType::Nak { address } else { none },
        if kind == MessageType::Nak || informed { none } else { address },
        none,
        none,
        &request.chaddr,
    );
    reply.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(Flags::new(request.flags));
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(gateway));
    if kind != MessageType::Nak {
        if !informed {
            options.insert(DhcpOption::AddressLeaseTime(lease_secs));
            options.insert(DhcpOption::Renewal(lease_secs / 2));
            options.insert(DhcpOption::Rebinding(lease_secs - lease_secs / 8));
        }
        configuration(index, seen, gateway, |option| {
            reply.opts_mut().insert(option);
        });
    }
    let unicast = has_address && kind == MessageType::Ack;
    let to = SocketAddrV4::new(if unicast { address } else { Ipv4Addr::BROADCAST }, 68);
    Some(Reply { bytes: reply.to_vec().ok()?, to, source: gateway })
}

fn configuration(index: &Index, seen: Seen<'_>, gateway: Ipv4Addr, mut add: impl FnMut(DhcpOption)) {
    if let IpNet::V4(subnet) = seen.interface.subnet_cidr {
        add(DhcpOption::SubnetMask(subnet.netmask()));
        add(DhcpOption::BroadcastAddr(subnet.broadcast()));
    }
    add(DhcpOption::Router(vec![gateway]));
    if let Some(resolver) = index.vpc(seen.interface.vpc).and_then(resolver) {
        add(DhcpOption::DomainNameServer(vec![resolver]));
    }
    add(DhcpOption::InterfaceMtu(index.snapshot().guest_mtu));
    add(DhcpOption::DomainName(format!("{}.compute.internal", index.snapshot().region)));
    // One name per guest: of several interfaces only the first one names it.
    if seen.interface.device_index == 0 {
        let host = seen.guest.metadata.hostname.split('.').next().unwrap_or_default();
        if !host.is_empty() {
            add(DhcpOption::Hostname(host.to_owned()));
        }
    }
}

/// Base + 2 of the VPC's first IPv4 network.
fn resolver(vpc: &terroir_agent_api::GuestVpc) -> Option<Ipv4Addr> {
    let base = vpc.cidrs.iter().find_map(|net| match net {
        IpNet::V4(net) if net.prefix_len() <= 29 => Some(net.network()),
        _ => None,
    });
    base.filter(|_| vpc.dns_support).map(|base| Ipv4Addr::from(u32::from(base) + 2))
}

fn is_mac(octets: &[u8], text: &str) -> bool {
    let shown: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    shown.join(":").eq_ignore_ascii_case(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use dhcproto::v4::OptionCode;
    use dhcproto::{Decodable, Decoder};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 1, 11];

    fn request(kind: MessageType, edit: impl FnOnce(&mut Message)) -> Vec<u8> {
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, zero, zero, zero, zero, &MAC);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        edit(&mut message);
        message.to_vec().unwrap()
    }

    fn ask(bytes: &[u8]) -> Option<(Message, SocketAddrV4)> {
        let index = sample::index();
        let seen = index.by_tap(sample::vpc(1), "tap-web").unwrap();
        let reply = answer(bytes, &index, seen, 3600)?;
        Some((Message::decode(&mut Decoder::new(&reply.bytes)).unwrap(), reply.to))
    }

    #[test]
    fn the_four_steps_and_a_renewal() {
        let own: Ipv4Addr = "10.0.0.11".parse().unwrap();
        let broadcast = "255.255.255.255:68";
        type Edit = fn(&mut Message);
        type Answer = Option<(MessageType, &'static str, &'static str)>;
        let rows: [(MessageType, Edit, Answer); 9] = [
            (MessageType::Discover, |_| {}, Some((MessageType::Offer, "10.0.0.11", broadcast))),
            (
                MessageType::Request,
                |m| drop(m.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 0, 0, 11].into()))),
                Some((MessageType::Ack, "10.0.0.11", broadcast)),
            ),
            (
                MessageType::Request,
                |m| drop(m.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 0, 0, 12].into()))),
                Some((MessageType::Nak, "0.0.0.0", broadcast)),
            ),
            (
                MessageType::Request,
                |m| {
                    let _ = m.set_ciaddr([10, 0, 0, 11]);
                },
                Some((MessageType::Ack, "10.0.0.11", "10.0.0.11:68")),
            ),
            (
                MessageType::Request,
                |m| drop(m.opts_mut().insert(DhcpOption::ServerIdentifier([10, 9, 9, 9].into()))),
                None,
            ),
            (
                MessageType::Inform,
                |m| {
                    let _ = m.set_ciaddr([10, 0, 0, 11]);
                },
                Some((MessageType::Ack, "0.0.0.0", "10.0.0.11:68")),
            ),
            (
                MessageType::Inform,
                |m| {
                    let _ = m.set_ciaddr([10, 0, 0, 12]);
                },
                None,
            ),
            (
                MessageType::Release,
                |m| {
                    let _ = m.set_ciaddr([10, 0, 0, 11]);
                },
                None,
            ),
            (
                MessageType::Discover,
                |m| {
                    let _ = m.set_chaddr(&[2, 0, 0, 0, 1, 12]);
                },
                None,
            ),
        ];
        for (kind, edit, expected) in rows {
            let got = ask(&request(kind, edit));
            let got = got.map(|(m, to)| (m.opts().msg_type().unwrap(), m.yiaddr().to_string(), to.to_string()));
            let expected = expected.map(|(kind, address, to)| (kind, address.to_owned(), to.to_owned()));
            assert_eq!(got, expected, "{kind:?}");
        }
        let (offer, _) = ask(&request(MessageType::Discover, |_| {})).unwrap();
        assert_eq!(offer.yiaddr(), own);
        for option in [
            DhcpOption::SubnetMask([255, 255, 255, 0].into()),
            DhcpOption::Router(vec![[10, 0, 0, 1].into()]),
            DhcpOption::DomainNameServer(vec![[10, 0, 0, 2].into()]),
            DhcpOption::InterfaceMtu(1370),
            DhcpOption::DomainName("eu-test-1.compute.internal".to_owned()),
            DhcpOption::Hostname("ip-10-0-0-11".to_owned()),
            DhcpOption::AddressLeaseTime(3600),
            DhcpOption::Renewal(1800),
            DhcpOption::Rebinding(3150),
            DhcpOption::ServerIdentifier([10, 0, 0, 1].into()),
        ] {
            assert_eq!(offer.opts().get(OptionCode::from(&option)), Some(&option));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ask(&bytes);
        }

        #[test]
        fn no_bent_request_makes_it_panic(at in 0usize..300, value: u8, length in 0usize..400) {
            let mut bytes = request(MessageType::Discover, |_| {});
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(length);
            let _ = ask(&bytes);
        }
    }
}
