//! Who reaches whom.

use std::net::Ipv4Addr;
use terroir_agent_api::{Peer, Section, Traffic};

use super::rig::*;

const fn tcp(port: u16) -> Traffic {
    Traffic::Tcp { from: port, to: port }
}

fn cidr(text: &str) -> Peer {
    Peer::Cidr(text.parse().unwrap())
}

const WEB: u32 = 1;
const DB: u32 = 2;
const OPEN: u32 = 3;
const CLOSED: u32 = 4;
const OTHER_WEB: u32 = 5;

/// Two VPCs with the same network. In the first: web .11 (public), db .12, a stranger .14 and .15 that may send
/// nothing; in the second: web .11 (public) and .12, the same addresses as in the first.
fn two_vpcs() -> World {
    let mut world = World::new();
    let out = [(Traffic::All, cidr("0.0.0.0/0"))];
    for section in [
        vpc(1),
        vpc(2),
        group(
            WEB,
            1,
            &[
                (Traffic::Tcp { from: 80, to: 443 }, cidr("0.0.0.0/0")),
                (tcp(22), cidr("10.0.0.0/16")),
                (tcp(80), cidr("10.0.0.0/24")),
            ],
            &out,
        ),
        group(
            DB,
            1,
            &[
                (tcp(5432), Peer::Group(group_id(WEB))),
                (Traffic::Icmp { kind: Some(8), code: None }, cidr("10.0.0.11/32")),
                (Traffic::Icmp { kind: Some(8), code: Some(0) }, Peer::Group(group_id(OPEN))),
            ],
            &out,
        ),
        group(OPEN, 1, &[(Traffic::All, cidr("10.0.0.0/16"))], &out),
        group(CLOSED, 1, &[(Traffic::Protocol(6), cidr("0.0.0.0/0"))], &[(tcp(80), Peer::Group(group_id(OPEN)))]),
        group(OTHER_WEB, 2, &[(tcp(5432), cidr("10.0.0.0/16"))], &out),
        members(WEB, 1, &["10.0.0.11"]),
        members(OPEN, 1, &["10.0.0.14"]),
    ] {
        world.put(section);
    }
    for (vpc, last, group, public) in [
        (1, 11, WEB, Some(10)),
        (1, 12, DB, None),
        (1, 14, OPEN, None),
        (1, 15, CLOSED, None),
        (2, 11, OTHER_WEB, Some(11)),
        (2, 12, OTHER_WEB, None),
    ] {
        let mut section = interface(vpc, last, &[group]);
        section.public_address = public.map(|n| Ipv4Addr::new(198, 51, 100, n).into());
        world.put(Section::Interface(section));
    }
    world.settle();
    world
}

fn plug(world: &World, vpc: u32, last: u8) -> Vm {
    let guest = Vm::plug(world, &interface(vpc, last, &[]));
    for port in [22, 80, 5432, 8080] {
        guest.place.serve(&format!("{vpc}/{last}"), port);
    }
    guest
}

#[test]
fn guests_reach_what_their_groups_and_routes_allow_and_nothing_else() {
    if !root() {
        return;
    }
    let world = two_vpcs();
    let [web, db, open, closed] = [11, 12, 14, 15].map(|last| plug(&world, 1, last));
    let [other_web, other] = [11, 12].map(|last| plug(&world, 2, last));
    for place in [&world.internet, &world.host] {
        for port in [80, 8080] {
            place.serve("outside", port);
        }
    }
    let vm = |last| Ipv4Addr::new(10, 0, 0, last);
    let public = |last| Ipv4Addr::new(198, 51, 100, last);
    let link = |last| Ipv4Addr::new(169, 254, 96, last);
    let rows: &[(&str, &Vm, Ipv4Addr, u16, Option<&str>)] = &[
        ("by reference to a group", &web, vm(12), 5432, Some("1/12 sees 10.0.0.11")),
        ("not a member of the group", &open, vm(12), 5432, None),
        ("a port without a rule", &web, vm(12), 22, None),
        ("by network", &db, vm(11), 80, Some("1/11 sees 10.0.0.12")),
        ("by a narrower network", &db, vm(11), 22, Some("1/11 sees 10.0.0.12")),
        ("a port outside the range", &db, vm(11), 8080, None),
        ("all traffic", &db, vm(14), 8080, Some("1/14 sees 10.0.0.12")),
        ("egress by reference", &closed, vm(14), 80, Some("1/14 sees 10.0.0.15")),
        ("egress without a rule", &closed, vm(14), 8080, None),
        ("egress allows, ingress does not", &closed, vm(12), 80, None),
        ("a protocol number", &open, vm(15), 8080, Some("1/15 sees 10.0.0.14")),
        ("the other VPC's own .12", &other_web, vm(12), 5432, Some("2/12 sees 10.0.0.11")),
        ("an address of the first VPC only", &other, vm(14), 80, None),
        ("out through a public address", &web, INTERNET, 8080, Some("outside sees 203.0.113.1")),
        ("out through the other VPC's", &other_web, INTERNET, 8080, Some("outside sees 203.0.113.1")),
        ("out without a public address", &db, INTERNET, 8080, None),
        ("another VPC's public address", &other_web, public(10), 80, Some("1/11 sees 198.51.100.11")),
        ("its own public address", &web, public(10), 80, Some("1/11 sees 198.51.100.10")),
        ("a port of the host", &web, HOST, 80, None),
        ("the host's end of the link", &web, link(1), 80, None),
        ("the VPC's own end of the link", &web, link(2), 80, None),
        ("the operator's own network", &web, INFRASTRUCTURE, 8080, None),
        ("its gateway's ports", &web, vm(1), 80, None),
        ("an address that nobody has", &web, vm(77), 80, None),
    ];
    for (what, from, to, port, expected) in rows {
        assert_eq!(from.place.ask(*to, *port).as_deref(), *expected, "{what}");
    }
    let outside: &[(&str, &Place, Ipv4Addr, u16, Option<&str>)] = &[
        ("in from outside", &world.internet, public(10), 80, Some("1/11 sees 203.0.113.100")),
        ("in to a port without a rule", &world.internet, public(10), 8080, None),
        ("in where no rule allows outside", &world.internet, public(11), 5432, None),
        ("the machine itself", &world.host, public(10), 80, Some("1/11 sees 169.254.96.1")),
        ("a private address from the machine", &world.host, vm(11), 80, None),
    ];
    for (what, from, to, port, expected) in outside {
        assert_eq!(from.ask(*to, *port).as_deref(), *expected, "{what}");
    }
    for (what, from, to, expected) in [
        ("an echo by type", &web, vm(12), true),
        ("an echo by type, code and group", &open, vm(12), true),
        ("an echo without a rule", &closed, vm(12), false),
        ("the gateway's echo", &closed, vm(1), true),
    ] {
        assert_eq!(from.place.ping(to), expected, "{what}");
    }
}

/// How many packets matching `rule` arrive in the internet from now on.
fn count_outside(world: &World, rule: &str) -> impl Fn() -> u64 {
    let internet = world.internet.clone();
    internet.sh(&format!(
        "nft 'add table inet seen; delete table inet seen; add table inet seen; \
         add chain inet seen arriving {{ type filter hook prerouting priority raw; }}; add rule inet seen arriving {rule} counter'"
    ));
    move || {
        let text = internet.sh("nft list table inet seen");
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse().unwrap()
    }
}

fn datagrams(from: &Vm, to: Ipv4Addr) {
    from.place.within(|| {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        for _ in 0..3 {
            // Refused once the host said so; that is an outcome too.
            let _ = socket.send_to(b"x", (to, 4789));
        }
    });
}

#[test]
fn nothing_leaves_in_a_private_name_and_each_of_two_walls_holds_alone() {
    if !root() {
        return;
    }
    let world = two_vpcs();
    let (web, db) = (plug(&world, 1, 11), plug(&world, 1, 12));
    let link_local = Ipv4Addr::new(169, 254, 7, 7);
    world.internet.sh("ip addr add 169.254.7.7/32 dev eth0");
    world.host.sh("ip route add 169.254.7.7/32 dev uplink");
    let inside = world.inside(1);
    let host_table = format!("terroir_{}", world.tag);
    let everything = |walls: &str| {
        let private = count_outside(&world, "ip saddr 10.0.0.0/8");
        datagrams(&db, INTERNET);
        let infrastructure = [INFRASTRUCTURE, HOST, link_local, Ipv4Addr::new(169, 254, 96, 1)];
        for to in infrastructure {
            datagrams(&web, to);
        }
        for (to, port) in [(INFRASTRUCTURE, 8080), (HOST, 80), (link_local, 80), (Ipv4Addr::new(169, 254, 96, 1), 80)] {
            assert_eq!(web.place.ask(to, port), None, "{walls}: {to}");
        }
        assert_eq!(web.place.ask(INTERNET, 8080).as_deref(), Some("outside sees 203.0.113.1"), "{walls}");
        assert_eq!(private(), 0, "{walls}: a private sender outside");
        let to_denied = count_outside(&world, "ip daddr { 203.0.113.200, 169.254.7.7 } ip protocol udp");
        for to in infrastructure {
            datagrams(&web, to);
        }
        assert_eq!(web.place.ask(INTERNET, 8080).as_deref(), Some("outside sees 203.0.113.1"), "{walls}");
        assert_eq!(to_denied(), 0, "{walls}: infrastructure was reached");
    };
    for place in [&world.internet, &world.host] {
        for port in [80, 8080] {
            place.serve("outside", port);
        }
    }
    everything("both walls");
    inside.sh("nft flush set inet terroir denied4; nft flush chain inet terroir leaving");
    everything("the host's wall");
    world.settle();
    world.host.sh(&format!("nft flush chain inet {host_table} forward; nft flush chain inet {host_table} input"));
    everything("the VPC's wall");
    // That the counters count: without any wall something arrives.
    inside.sh("nft flush set inet terroir denied4; nft flush chain inet terroir leaving");
    let private = count_outside(&world, "ip saddr 10.0.0.0/8");
    datagrams(&db, INTERNET);
    eventually("a private sender is seen outside", || private() > 0);
    let reached = count_outside(&world, "ip daddr 203.0.113.200 ip protocol udp");
    datagrams(&web, INFRASTRUCTURE);
    eventually("infrastructure is reached", || reached() > 0);
}

#[test]
fn segments_fit_the_region_whatever_the_guest_thinks() {
    if !root() {
        return;
    }
    let world = two_vpcs();
    let web = plug(&world, 1, 11);
    web.place.sh("ip link set eth0 mtu 1500");
    let listener = world.internet.within(|| std::net::TcpListener::bind((INTERNET, 9000)).unwrap());
    let client = web.place.within(|| std::net::TcpStream::connect((INTERNET, 9000)).unwrap());
    let (server, _) = listener.accept().unwrap();
    for socket in [&client, &server] {
        let largest = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::TcpMaxSeg).unwrap();
        assert!(largest <= 1330, "{largest}");
    }
}

#[test]
fn forged_senders_reach_nobody() {
    if !root() {
        return;
    }
    let mut world = two_vpcs();
    let (web, open, db) = (plug(&world, 1, 11), plug(&world, 1, 14), plug(&world, 1, 12));
    let to_web = Ipv4Addr::new(10, 0, 0, 11);
    let counted = |place: &Place| {
        let text = place.sh("cat /proc/net/snmp | grep '^Udp:' | tail -1");
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
            + text.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
    };
    let forge = |guest: &Vm, source: &str, to: Ipv4Addr| {
        guest.place.sh(&format!("ip addr add {source}/32 dev eth0 2>/dev/null || true"));
        let source: Ipv4Addr = source.parse().unwrap();
        guest.place.within(|| {
            let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
            for _ in 0..5 {
                socket.send_to(b"x", (to, 80)).unwrap();
            }
        });
    };
    // .14 may send anything to anybody in its own name; web takes TCP only, so look at what arrives at `open` instead.
    let target = Ipv4Addr::new(10, 0, 0, 14);
    let before = counted(&open.place);
    forge(&web, "10.0.0.11", target);
    eventually("honest datagrams arrive", || counted(&open.place) >= before + 5);
    let before = counted(&open.place);
    for source in ["10.0.0.99", "10.0.0.12", "198.51.100.11", "169.254.169.254", "10.0.0.1"] {
        forge(&web, source, target);
    }
    // What was sent later and honestly arrives after what was forged would have.
    forge(&db, "10.0.0.12", target);
    eventually("honest datagrams arrive", || counted(&open.place) >= before + 5);
    assert_eq!(counted(&open.place), before + 5, "forged datagrams arrived");
    assert_eq!(open.place.ask(to_web, 80).as_deref(), Some("1/11 sees 10.0.0.14"));

    // A forged MAC is as bad, and ARP in another's name leaves no trace in the namespace.
    web.place
        .sh("ip link set eth0 down; ip link set eth0 address 02:00:00:00:01:63 up; ip route add default via 10.0.0.1");
    assert_eq!(web.place.ask(target, 80), None);
    web.place
        .sh("ip link set eth0 down; ip link set eth0 address 02:00:00:00:01:0b up; ip route add default via 10.0.0.1");
    assert_eq!(web.place.ask(target, 80).as_deref(), Some("1/14 sees 10.0.0.11"));

    // Without the source check, an interface may carry others' packets.
    world.edit_interface(interface(1, 11, &[]).id, |section| section.source_dest_check = false);
    world.settle();
    let before = counted(&open.place);
    forge(&web, "10.0.0.99", target);
    eventually("routed datagrams arrive", || counted(&open.place) >= before + 5);
}

#[test]
fn routes_and_public_addresses_follow_the_spec() {
    if !root() {
        return;
    }
    let mut world = two_vpcs();
    let web = plug(&world, 1, 11);
    world.internet.serve("outside", 8080);
    let id = interface(1, 11, &[]).id;
    let public = Ipv4Addr::new(198, 51, 100, 10);
    let both = |world: &World| (web.place.ask(INTERNET, 8080).is_some(), world.internet.ask(public, 80).is_some());
    assert_eq!(both(&world), (true, true));
    world.edit_interface(id, |section| section.routes.truncate(1));
    world.settle();
    assert_eq!(both(&world), (false, false), "without an internet route neither way is open");
    world.edit_interface(id, |section| {
        section.routes = interface(1, 11, &[]).routes;
        section.routes.push(terroir_agent_api::Route {
            destination: "203.0.113.96/28".parse().unwrap(),
            target: terroir_agent_api::RouteTarget::Blackhole,
        });
    });
    world.settle();
    assert_eq!(both(&world), (false, false), "the more specific route wins");
    world.edit_interface(id, |section| {
        section.routes.pop();
        section.public_address = None;
    });
    world.settle();
    assert_eq!(both(&world), (false, false), "without a public address neither way is open");
    assert!(!world.host.sh("ip route").contains("198.51.100.10"));
    world.edit_interface(id, |section| section.public_address = Some(public.into()));
    world.settle();
    assert_eq!(both(&world), (true, true));
}
