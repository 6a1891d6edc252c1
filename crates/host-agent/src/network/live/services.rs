//! Guests and guest-services, joined by the agent's link.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use terroir_agent_api::*;
use terroir_guest_services::GuestServicesOptions;
use terroir_types::Timestamp;

use super::rig::*;
use crate::guest_link::{GuestLink, GuestLinkOptions};
use crate::network::tap_name;

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const UPSTREAM_PORT: u16 = 5353;

/// guest-services in a thread of the host's namespace, until dropped.
struct Running {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(world: &World, folder: &Path) -> Self {
        let mut options = GuestServicesOptions::new(folder.join("socket"), folder.join("snapshot"));
        options.upstream_port = UPSTREAM_PORT;
        let socket = options.socket.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let host = world.host.clone();
        let thread = std::thread::spawn(move || {
            host.within(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(terroir_guest_services::run(options, async { drop(stopped.await) })).unwrap();
            });
        });
        eventually("guest-services listen", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn guest(section: &InterfaceSection, tokens_required: bool) -> terroir_agent_api::Guest {
    let number = section.id.number();
    terroir_agent_api::Guest {
        instance: format!("i-{number:017x}").parse().unwrap(),
        account: "123456789012".parse().unwrap(),
        instance_type: "tr1.pico".to_owned(),
        architecture: "x86_64".to_owned(),
        metadata: InstanceMetadata {
            image: "ami-0123456789abcdef0".parse().unwrap(),
            launch_index: 0,
            reservation: "r-0123456789abcdef0".parse().unwrap(),
            launched_at: Timestamp::from_secs(1_700_000_000),
            hostname: "ip-10-0-0-11.eu-test-1.compute.internal".to_owned(),
            public_hostname: None,
            key_pair: None,
            security_group_names: vec!["default".to_owned()],
            user_data: None,
            instance_profile: None,
            tags: BTreeMap::new(),
            options: MetadataOptions { enabled: true, tokens_required, hop_limit: 1, tags_enabled: false },
        },
        user_data: None,
        credentials: None,
        interfaces: vec![GuestInterface {
            id: section.id,
            vpc: section.vpc,
            subnet: section.subnet,
            subnet_cidr: section.subnet_cidr,
            gateway: section.gateway,
            device_index: 0,
            tap: tap_name(section.id),
            mac: section.mac.clone(),
            addresses: section.addresses.clone(),
            public_address: section.public_address,
            security_group_ids: Vec::new(),
        }],
    }
}

/// Two VPCs with the same network and a guest .11 in each; the second has no DNS.
fn two_guests() -> (World, GuestSnapshot) {
    let mut world = World::new();
    let interfaces = [interface(1, 11, &[]), interface(2, 11, &[])];
    for (index, section) in (1..).zip(&interfaces) {
        world.put(vpc(index));
        world.put(Section::Interface(section.clone()));
    }
    if let Some(Section::Vpc(section)) = world.spec.get_mut(&format!("vpc/{}", vpc_id(2))) {
        section.dns_support = false;
    }
    world.settle();
    let networks =
        [1, 2].map(|n| GuestVpc { id: vpc_id(n), cidrs: vec!["10.0.0.0/16".parse().unwrap()], dns_support: n == 1 });
    let snapshot = GuestSnapshot {
        generation: 0,
        region: "eu-test-1".to_owned(),
        zone: "eu-test-1a".to_owned(),
        guest_mtu: 1370,
        dns_upstreams: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        vpcs: networks.to_vec(),
        guests: interfaces.iter().map(|section| guest(section, section.vpc == vpc_id(2))).collect(),
    };
    (world, snapshot)
}

fn link(world: &World, folder: &Path) -> GuestLink {
    let options = GuestLinkOptions {
        socket: folder.join("socket"),
        snapshot: folder.join("snapshot"),
        guest_services_uid: nix::unistd::geteuid().as_raw(),
    };
    GuestLink::new(options, world.network.clone())
}

/// Sends a DHCP message and gives back the answer's type, address and MTU. With `renew`, as a client that has its
/// address, to its server alone.
fn dhcp(place: &Place, section: &InterfaceSection, kind: u8, renew: bool) -> Option<(u8, Ipv4Addr, u16)> {
    let IpAddr::V4(own) = section.addresses[0] else { panic!("IPv4") };
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&[1, 2, 3, 4]);
    if renew {
        message[12..16].copy_from_slice(&own.octets());
    }
    for (to, octet) in message[28..34].iter_mut().zip(section.mac.split(':')) {
        *to = u8::from_str_radix(octet, 16).unwrap();
    }
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind, 255]);
    place.within(|| {
        let socket = UdpSocket::bind((if renew { own } else { Ipv4Addr::UNSPECIFIED }, 68)).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"eth0".into()).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let to = if renew { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::BROADCAST };
        socket.send_to(&message, (to, 67)).unwrap();
        let mut answer = [0; 1500];
        let (length, from) = socket.recv_from(&mut answer).ok()?;
        assert_eq!(from.ip(), section.gateway, "the server answers as the gateway");
        let options: BTreeMap<u8, &[u8]> = {
            let (mut rest, mut options) = (&answer[240..length], BTreeMap::new());
            while let [code @ 1..=254, length, tail @ ..] = rest {
                options.insert(*code, &tail[..usize::from(*length)]);
                rest = &tail[usize::from(*length)..];
            }
            options
        };
        let mtu = u16::from_be_bytes(options.get(&26).copied().unwrap_or(&[0, 0]).try_into().unwrap());
        Some((options[&53][0], Ipv4Addr::new(answer[16], answer[17], answer[18], answer[19]), mtu))
    })
}

fn question(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Response code and the last four bytes (the address, if there is one answer).
fn resolve(place: &Place, server: Ipv4Addr, name: &str, tcp: bool) -> Option<(u8, Ipv4Addr)> {
    let query = question(name);
    let answer = place.within(|| {
        if tcp {
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::from((server, 53)), Duration::from_secs(1)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat()).ok()?;
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).ok()?;
            return Some(answer);
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect((server, 53)).unwrap();
        socket.send(&query).unwrap();
        let mut answer = vec![0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        Some(answer)
    })?;
    assert_eq!(answer[..2], [0x12, 0x34]);
    let last: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
    Some((answer[3] & 15, last.into()))
}

/// Status and body.
fn http(place: &Place, line: &str, header: &str) -> Option<(u16, String)> {
    place.within(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((METADATA, 80)), Duration::from_secs(1)).ok()?;
        exchange(&mut stream, line, header)
    })
}

fn exchange(stream: &mut TcpStream, line: &str, header: &str) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

const TOKEN: &str = "PUT /latest/api/token";
const LIFE: &str = "X-aws-ec2-metadata-token-ttl-seconds: 600\r\n";
const ID: &str = "GET /latest/meta-data/instance-id";

fn upstream(world: &World) {
    let socket = world.host.within(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, UPSTREAM_PORT)).unwrap());
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            socket.send_to(&answer, peer).unwrap();
        }
    });
}

#[test]
fn guests_are_served_and_know_no_restart() {
    if !root() {
        return;
    }
    let (world, snapshot) = two_guests();
    let folder = tempfile::tempdir().unwrap();
    upstream(&world);
    let running = Running::start(&world, folder.path());
    let agent = link(&world, folder.path());
    world.block_on(agent.reconcile(snapshot.clone())).unwrap();
    let sections = [interface(1, 11, &[]), interface(2, 11, &[])];
    let bare = Vm::plug_bare(&world, &sections[0]);
    let own = Ipv4Addr::new(10, 0, 0, 11);
    eventually("an offer", || dhcp(&bare.place, &sections[0], 1, false) == Some((2, own, 1370)));
    drop(bare);

    let first = Vm::plug(&world, &sections[0]);
    let second = Vm::plug(&world, &sections[1]);
    let token = http(&second.place, TOKEN, LIFE).unwrap();
    assert_eq!(token.0, 200);
    let session = format!("X-aws-ec2-metadata-token: {}\r\n", token.1);
    let all_well = |what: &str| {
        assert_eq!(dhcp(&first.place, &sections[0], 3, true), Some((5, own, 1370)), "{what}: a renewal");
        let host = "ip-10-0-0-11.eu-test-1.compute.internal";
        for (server, tcp) in [(RESOLVER, false), (RESOLVER, true), (Ipv4Addr::new(169, 254, 169, 253), false)] {
            assert_eq!(resolve(&first.place, server, host, tcp), Some((0, own)), "{what}: {server}");
        }
        let outside = resolve(&first.place, RESOLVER, "outside.example.org", false);
        assert_eq!(outside, Some((0, Ipv4Addr::new(192, 0, 2, 7))), "{what}: a name outside");
        assert_eq!(resolve(&second.place, RESOLVER, host, false), None, "{what}: DNS is switched off");
        assert_eq!(http(&first.place, ID, ""), Some((200, snapshot.guests[0].instance.to_string())), "{what}");
        assert_eq!(http(&second.place, ID, "").map(|answer| answer.0), Some(401), "{what}: a token is required");
        let answer = http(&second.place, ID, &session);
        assert_eq!(answer, Some((200, snapshot.guests[1].instance.to_string())), "{what}: an old token");
        assert_eq!(http(&first.place, ID, &session).map(|answer| answer.0), Some(401), "{what}: another's token");
    };
    all_well("at first");
    let written = std::fs::read(folder.path().join("snapshot")).unwrap();

    // Another agent adopts what is served: an open connection goes on.
    let mut open = first.place.within(|| TcpStream::connect((METADATA, 80)).unwrap());
    drop(agent);
    all_well("without an agent");
    let agent = link(&world, folder.path());
    world.block_on(agent.reconcile(snapshot.clone())).unwrap();
    assert_eq!(exchange(&mut open, ID, "").map(|answer| answer.0), Some(200));
    assert_eq!(
        std::fs::read(folder.path().join("snapshot")).unwrap(),
        written,
        "the same snapshot is not written again"
    );
    all_well("with a new agent");

    drop(running);
    assert!(world.block_on(agent.reconcile(snapshot.clone())).is_err());
    let _running = Running::start(&world, folder.path());
    world.block_on(agent.reconcile(snapshot.clone())).unwrap();
    all_well("with new guest-services");

    // A tap made anew has a new number, of which the old socket knows nothing.
    drop(first);
    world.inside(1).sh(&format!("ip link del {}", tap_name(sections[0].id)));
    world.settle();
    world.block_on(agent.reconcile(snapshot.clone())).unwrap();
    let first = Vm::plug(&world, &sections[0]);
    assert_eq!(dhcp(&first.place, &sections[0], 3, true), Some((5, own, 1370)), "on a new tap");

    // What the snapshot no longer names is no longer served.
    let mut fewer = snapshot;
    fewer.guests.remove(0);
    world.block_on(agent.reconcile(fewer)).unwrap();
    assert_eq!(dhcp(&first.place, &sections[0], 3, true), None);
    assert_eq!(http(&first.place, ID, "").map(|answer| answer.0), Some(404));
}

#[test]
fn a_token_travels_no_further_than_its_hop_limit() {
    if !root() {
        return;
    }
    let (world, snapshot) = two_guests();
    let folder = tempfile::tempdir().unwrap();
    let _running = Running::start(&world, folder.path());
    world.block_on(link(&world, folder.path()).reconcile(snapshot)).unwrap();
    let first = Vm::plug(&world, &interface(1, 11, &[]));
    // A client that takes only what could have come one hop further.
    let far = |line: &str, header: &str| {
        first.place.within(|| {
            let mut stream = TcpStream::connect((METADATA, 80)).unwrap();
            let least: nix::libc::c_int = 2;
            // SAFETY: the descriptor is open, and the option is an int of the given size.
            let set = unsafe {
                nix::libc::setsockopt(
                    stream.as_raw_fd(),
                    nix::libc::IPPROTO_IP,
                    nix::libc::IP_MINTTL,
                    (&raw const least).cast(),
                    4,
                )
            };
            assert_eq!(set, 0);
            exchange(&mut stream, line, header).map(|answer| answer.0)
        })
    };
    assert_eq!(far(ID, ""), Some(200));
    assert_eq!(far(TOKEN, LIFE), None);
    assert_eq!(http(&first.place, TOKEN, LIFE).map(|answer| answer.0), Some(200));
}

#[test]
fn the_snapshot_is_its_owners_alone() {
    if !root() {
        return;
    }
    let (world, snapshot) = two_guests();
    let folder = tempfile::tempdir().unwrap();
    let _running = Running::start(&world, folder.path());
    let mut agent = link(&world, folder.path());
    world.block_on(agent.reconcile(snapshot.clone())).unwrap();
    let options = GuestLinkOptions {
        socket: folder.path().join("socket"),
        snapshot: folder.path().join("snapshot"),
        guest_services_uid: 64_321,
    };
    agent = GuestLink::new(options, Arc::clone(&world.network));
    let mut other = snapshot;
    other.zone = "eu-test-1b".to_owned();
    // Root reads it all the same here; in production the uid is the reader's.
    world.block_on(agent.reconcile(other)).unwrap();
    let meta = std::fs::metadata(folder.path().join("snapshot")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, 64_321));
    let text = std::fs::read_to_string(folder.path().join("snapshot")).unwrap();
    let written: GuestSnapshot = serde_json::from_str(&text).unwrap();
    assert_eq!((written.generation, &*written.zone), (2, "eu-test-1b"));
}
