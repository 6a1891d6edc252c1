//! Rounds are idempotent, mend what others broke, and leave nothing behind.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use terroir_agent_api::{Desired, InterfacePhase, Peer, Section, Traffic};

use super::rig::*;
use crate::network::{HostNetwork, NetworkError, NetworkOptions, namespace, tap_name};

fn one_vpc() -> World {
    let mut world = World::new();
    let anywhere: Peer = Peer::Cidr("0.0.0.0/0".parse().unwrap());
    world.put(vpc(1));
    world.put(group(1, 1, &[(Traffic::All, anywhere)], &[(Traffic::All, anywhere)]));
    let mut web = interface(1, 11, &[1]);
    web.public_address = Some(Ipv4Addr::new(198, 51, 100, 10).into());
    world.put(Section::Interface(web));
    world.put(Section::Interface(interface(1, 12, &[1])));
    world.settle();
    world
}

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

/// Everything that a round may change, but nothing that traffic changes.
fn picture(world: &World) -> String {
    let links = "ip -d -o link | sed 's/qlen [0-9]*//'; ip -o -4 addr; ip route; ip -o neigh show nud permanent; nft -s list ruleset";
    [&world.host, &world.inside(1)].map(|place| place.sh(links)).join("\n---\n")
}

#[test]
fn a_second_round_changes_nothing_and_a_new_process_adopts() {
    if !root() {
        return;
    }
    let mut world = one_vpc();
    let first = picture(&world);
    let generation = |world: &World| world.inside(1).within(|| crate::network::nft::generation().unwrap());
    let before = generation(&world);
    world.settle();
    assert_eq!(picture(&world), first);
    assert_eq!(generation(&world), before, "no rule was touched");
    let guest = Vm::plug(&world, &interface(1, 11, &[]));
    guest.place.serve("web", 80);
    let plugged = picture(&world);
    world.network = std::sync::Arc::new(HostNetwork::new(NetworkOptions::new(&*world.tag)));
    world.settle();
    assert_eq!(without_numbers(&picture(&world)), without_numbers(&plugged));
    assert!(world.internet.ask(PUBLIC, 80).is_some(), "the guest kept its network");

    // A new member is one element, not a new table.
    world.put(members(1, 1, &["10.0.0.11", "10.0.0.12"]));
    world.put(group(2, 1, &[(Traffic::All, Peer::Group(group_id(1)))], &[]));
    world.edit_interface(interface(1, 12, &[]).id, |section| section.security_groups = [group_id(2)].into());
    world.settle();
    let handle = |world: &World| {
        let text = world.inside(1).sh("nft -a list table inet terroir | grep -E '^table'");
        text.rsplit(' ').next().unwrap().trim().to_owned()
    };
    let before = handle(&world);
    world.put(members(1, 1, &["10.0.0.11", "10.0.0.12", "10.0.0.13"]));
    world.settle();
    assert_eq!(handle(&world), before);
    assert!(world.inside(1).sh("nft list ruleset").contains("10.0.0.13"));
}

#[test]
fn what_others_broke_is_mended() {
    if !root() {
        return;
    }
    let world = one_vpc();
    let guest = Vm::plug(&world, &interface(1, 11, &[]));
    guest.place.serve("web", 80);
    let neighbour = Vm::plug(&world, &interface(1, 12, &[]));
    let edge = world
        .host
        .sh("ip -o link")
        .lines()
        .find_map(|l| {
            l.split(": ")
                .nth(1)
                .filter(|n| n.starts_with(&format!("t{}e", world.tag)))
                .map(|n| n.split('@').next().unwrap().to_owned())
        })
        .unwrap();
    let tap = tap_name(interface(1, 11, &[]).id);
    let whole = picture(&world);
    let inside = world.inside(1);
    let host_table = format!("terroir_{}", world.tag);
    let breakages: Vec<(&str, &Place, String)> = vec![
        ("a table", &inside, "nft delete table inet terroir".to_owned()),
        ("a rule", &inside, "nft flush chain inet terroir ingress".to_owned()),
        ("an element", &inside, "nft flush set inet terroir sources4".to_owned()),
        ("an intruder's rule", &inside, "nft insert rule inet terroir ingress accept".to_owned()),
        ("everything", &inside, "nft flush ruleset".to_owned()),
        ("the host's table", &world.host, format!("nft delete table inet {host_table}")),
        ("a rule of the host's table", &world.host, format!("nft flush chain inet {host_table} forward")),
        ("an element of the host's table", &world.host, format!("nft flush set inet {host_table} denied")),
        ("a guest's route", &inside, format!("ip route del 10.0.0.11/32 dev {tap}")),
        ("a diverted route", &inside, "ip route replace 10.0.0.11/32 via 169.254.96.1 dev ext onlink".to_owned()),
        ("the default route", &inside, "ip route del default".to_owned()),
        ("the public address's route", &world.host, format!("ip route del {PUBLIC}/32")),
        ("a neighbour", &inside, format!("ip neigh del 10.0.0.11 dev {tap}")),
        ("a link that is down", &inside, format!("ip link set {tap} down")),
        ("an MTU", &inside, format!("ip link set {tap} mtu 900")),
        ("a MAC", &inside, format!("ip link set {tap} address 02:02:02:02:02:02")),
        ("an address", &inside, "ip addr del 169.254.169.254/32 dev lo".to_owned()),
        ("a foreign address", &inside, "ip addr add 10.0.0.11/32 dev lo".to_owned()),
        ("forwarding", &inside, "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned()),
        ("forwarding of the host", &world.host, "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned()),
        ("the link to the host", &world.host, format!("ip link del {edge}")),
        ("the host's end", &world.host, format!("ip link set {edge} down")),
        ("the namespace's name", &world.host, format!("ip netns del t{}-v1", world.tag)),
    ];
    for (what, place, command) in breakages {
        place.sh(&command);
        world.settle();
        let then = without_numbers(&whole);
        let mut now = without_numbers(&picture(&world));
        // The kernel takes its time to say that a link has come up.
        let deadline = Instant::now() + Duration::from_secs(5);
        while now != then && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            now = without_numbers(&picture(&world));
        }
        let differs: Vec<_> =
            now.iter().filter(|l| !then.contains(l)).chain(then.iter().filter(|l| !now.contains(l))).collect();
        assert!(now == then, "{what}: {differs:#?}");
        assert!(world.internet.ask(PUBLIC, 80).is_some(), "{what}: from outside");
        assert!(neighbour.place.ask(WEB, 80).is_some(), "{what}: from a neighbour");
    }
    // Others' objects stay.
    world.host.sh("nft add table inet theirs; ip route add 192.0.2.0/24 dev uplink; ip link add theirs type veth peer name theirs2");
    world.settle();
    let picture = picture(&world);
    assert!(
        picture.contains("table inet theirs") && picture.contains("192.0.2.0/24") && picture.contains("theirs@theirs2")
    );
}

/// Interface numbers differ after a link was made anew, and traffic leaves its marks in dynamic sets.
fn without_numbers(picture: &str) -> Vec<String> {
    let link = |line: &str| line.split_once(": ").map_or(line.to_owned(), |(_, rest)| rest.to_owned());
    let mut lines: Vec<String> = picture
        .lines()
        .filter(|line| !(line.contains("ct count") && line.contains('"') && !line.contains("drop")))
        .map(link)
        .map(|line| {
            line.split(" link-netns").next().unwrap_or_default().split("@if").next().unwrap_or_default().to_owned()
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn giving_up_interfaces_and_networks() {
    if !root() {
        return;
    }
    let mut world = one_vpc();
    let id = interface(1, 12, &[]).id;
    assert!(matches!(world.network.open_tap(vpc_id(9), id), Err(NetworkError::UnknownVpc(_))));
    let held = world.network.open_tap(vpc_id(1), id).unwrap();
    assert!(matches!(world.network.open_tap(vpc_id(1), id), Err(NetworkError::TapBusy(_))));

    // Not named any more, but in use: left alone and said.
    let section = world.spec.remove(&format!("interface/{id}")).unwrap();
    let outcome = world.reconcile();
    assert!(outcome.problems.iter().any(|problem| problem.contains(&tap_name(id))), "{outcome:?}");
    assert!(world.inside(1).sh("ip link").contains(&tap_name(id)));
    world.put(section);
    drop(held);
    world.settle();
    drop(world.network.open_tap(vpc_id(1), id).unwrap());

    world.edit_interface(id, |section| section.desired = Desired::Deleted);
    let outcome = world.reconcile();
    assert_eq!(outcome.interfaces.get(&id), Some(&InterfacePhase::Released), "{outcome:?}");
    assert!(!world.inside(1).sh("ip link; ip route; nft list ruleset").contains(&tap_name(id)));
    assert!(world.network.open_tap(vpc_id(1), id).is_err(), "no tap is made by opening it");
    assert!(!world.inside(1).sh("ip link").contains(&tap_name(id)));

    // A VPC that the spec does not name goes with its namespace, unless a guest is plugged in.
    let guest = Vm::plug(&world, &interface(1, 11, &[]));
    let spec = std::mem::take(&mut world.spec);
    assert!(world.reconcile().problems[0].contains("has guests"));
    world.spec = spec;
    world.settle();
    guest.place.serve("web", 80);
    assert!(world.internet.ask(PUBLIC, 80).is_some());
    drop(guest);
    let other = World::new();
    world.spec.clear();
    assert_eq!(world.reconcile().problems, Vec::<String>::new());
    assert_eq!(world.names(), Vec::<String>::new());
    assert!(!world.host.sh("ip link; ip route").contains(&world.tag));
    drop(other);

    let mut world = one_vpc();
    let guest = Vm::plug(&world, &interface(1, 11, &[]));
    // Somebody else's, with a name that only looks like one of ours.
    let foreign = format!("t{}-x1", world.tag);
    drop(namespace::create(&foreign).unwrap());
    world.block_on(world.network.remove_all()).unwrap();
    assert_eq!(world.names(), std::slice::from_ref(&foreign));
    namespace::remove(&foreign).unwrap();
    assert!(!world.host.sh("ip link; ip route; nft list ruleset").contains(&world.tag));
    drop(guest);
    world.spec.clear();
}

#[test]
fn a_spec_that_cannot_be_built_is_refused_with_reasons() {
    if !root() {
        return;
    }
    let mut world = one_vpc();
    let mut rows = Vec::new();
    for (last, edit, words) in [
        (21, (|s| s.mac = "01:00:00:00:00:01".to_owned()) as fn(&mut terroir_agent_api::InterfaceSection), "MAC"),
        (22, |s| s.vpc = vpc_id(7), "not in the spec"),
        (23, |s| s.addresses = vec!["10.0.0.11".parse().unwrap()], "10.0.0.11 is eni-"),
    ] {
        let mut section = interface(1, last, &[1]);
        edit(&mut section);
        rows.push((section.id, words));
        world.put(Section::Interface(section));
    }
    let outcome = world.reconcile();
    for (id, words) in rows {
        match outcome.interfaces.get(&id) {
            Some(InterfacePhase::Failed { detail }) => assert!(detail.contains(words), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(outcome.interfaces.get(&interface(1, 11, &[]).id), Some(&InterfacePhase::Ready));

    // A public address that somebody else's route leads away.
    let mut world = one_vpc();
    world.host.sh(&format!("ip route replace {PUBLIC}/32 dev uplink"));
    let outcome = world.reconcile();
    assert!(outcome.problems[0].contains("somebody else's"), "{outcome:?}");
    assert!(world.host.sh("ip route").contains(&format!("{PUBLIC} dev uplink")));
    world.spec.clear();
}
