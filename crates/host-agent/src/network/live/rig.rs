//! A host and guests out of network namespaces. The "host" is a namespace of its own with an uplink to an "internet";
//! a guest is a namespace whose tap is wired, frame by frame, to the tap that QEMU would get.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use terroir_agent_api::*;
use terroir_types::{InterfaceId, SecurityGroupId, VpcId};

use crate::network::{HostNetwork, NetworkOptions, NetworkOutcome, namespace, tap};

/// Address of the machine outside; it has no idea of guests' networks.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 100);
/// The host's own address on its uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// An address of the operator's own network, behind the uplink.
pub const INFRASTRUCTURE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);

/// Says so, loudly, when the tests of this module cannot run.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: network namespaces need root");
    }
    root
}

/// A nameless network namespace; ends with its last user.
#[derive(Clone)]
pub struct Place(Arc<File>);

impl Place {
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let place = Self(Arc::new(file.join().unwrap()));
        place.sh("ip link set lo up");
        place
    }

    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespace::within(self.0.as_fd(), || Ok(work())).unwrap()
    }

    /// Runs a shell command inside; panics with its words if it fails.
    pub fn sh(&self, command: &str) -> String {
        let output = self.within(|| Command::new("sh").arg("-ec").arg(command).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A server that greets each connection with `NAME sees PEER`.
    pub fn serve(&self, name: &str, port: u16) {
        let listener = self.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
                // The client may be gone.
                let _ = (&stream).write_all(format!("{name} sees {peer}").as_bytes());
            }
        });
    }

    /// What the server at `to` says, or `None` if it cannot be reached.
    pub fn ask(&self, to: Ipv4Addr, port: u16) -> Option<String> {
        self.within(|| {
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(to), port), Duration::from_millis(400)).ok()?;
            stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }

    /// Whether `to` answers an ICMP echo.
    pub fn ping(&self, to: Ipv4Addr) -> bool {
        use nix::sys::socket::*;
        self.within(|| {
            let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
            setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 400_000)).unwrap();
            // Type 8, code 0, its checksum, identifier and sequence 0.
            let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
            let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
            sendto(raw, &echo, &SockaddrIn::from(std::net::SocketAddrV4::new(to, 0)), MsgFlags::empty()).unwrap();
            let mut answer = [0; 128];
            // A raw socket sees all ICMP; only the answer from there counts.
            while let Ok(length) = recv(raw, &mut answer, MsgFlags::empty()) {
                if length >= 28 && answer[12..16] == to.octets() && answer[20] == 0 {
                    return true;
                }
            }
            false
        })
    }
}

pub struct World {
    pub host: Place,
    pub internet: Place,
    pub network: Arc<HostNetwork>,
    pub tag: String,
    pub spec: HostSpec,
}

static WORLDS: AtomicU32 = AtomicU32::new(0);

impl World {
    pub fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::SeqCst);
        let tag = format!("{:06x}{number:02x}", std::process::id() & 0xff_ffff);
        let (host, internet) = (Place::new(), Place::new());
        host.sh("ip link add uplink type veth peer name eth0");
        // A duplicate without close-on-exec, so that `ip` can name the namespace.
        let inherited = nix::unistd::dup(&*internet.0).unwrap();
        host.sh(&format!("ip link set eth0 netns /proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&inherited)));
        drop(inherited);
        host.sh(&format!("ip addr add {HOST}/24 dev uplink; ip link set uplink up"));
        internet.sh(&format!(
            "ip link set eth0 up; ip addr add {INTERNET}/24 dev eth0; ip addr add {INFRASTRUCTURE}/24 dev eth0"
        ));
        // As a site's router would: public addresses lie behind the host.
        internet.sh(&format!("ip route add 198.51.100.0/24 via {HOST}"));
        let network = Arc::new(HostNetwork::new(NetworkOptions::new(&*tag)));
        let mut world = Self { host, internet, network, tag, spec: HostSpec::new() };
        world.put(Section::Host(HostSection {
            region: "eu-test-1".to_owned(),
            zone: "eu-test-1a".to_owned(),
            guest_mtu: 1370,
            dns_upstreams: Vec::new(),
            egress_deny: vec![format!("{INFRASTRUCTURE}/32").parse().unwrap()],
            public_pools: vec!["198.51.100.0/24".parse().unwrap()],
            place: None,
        }));
        world
    }

    pub fn put(&mut self, section: Section) {
        self.spec.insert(section.key(), section);
    }

    pub fn edit_interface(&mut self, id: InterfaceId, edit: impl FnOnce(&mut InterfaceSection)) {
        match self.spec.get_mut(&format!("interface/{id}")) {
            Some(Section::Interface(section)) => edit(section),
            other => panic!("{other:?}"),
        }
    }

    /// Runs async work with the host's namespace as its own.
    pub fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.host.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work)
        })
    }

    pub fn reconcile(&self) -> NetworkOutcome {
        self.block_on(self.network.reconcile(&self.spec))
    }

    /// One round that leaves nothing to complain about.
    pub fn settle(&self) {
        let outcome = self.reconcile();
        assert_eq!(outcome.problems, Vec::<String>::new());
        for (id, phase) in outcome.interfaces {
            assert_ne!(std::mem::discriminant(&phase), std::mem::discriminant(&failed()), "{id}: {phase:?}");
        }
    }

    /// The namespace of a VPC.
    pub fn inside(&self, index: u32) -> Place {
        Place(Arc::new(namespace::open(&format!("t{}-v{index}", self.tag)).unwrap().unwrap()))
    }

    pub fn names(&self) -> Vec<String> {
        namespace::list().unwrap().into_iter().filter(|name| name.contains(&self.tag)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let removed = self.block_on(self.network.remove_all());
        if !std::thread::panicking() {
            removed.unwrap();
            assert_eq!(self.names(), Vec::<String>::new());
        }
    }
}

fn failed() -> InterfacePhase {
    InterfacePhase::Failed { detail: String::new() }
}

pub fn vpc_id(n: u32) -> VpcId {
    format!("vpc-{n:017x}").parse().unwrap()
}

pub fn group_id(n: u32) -> SecurityGroupId {
    format!("sg-{n:017x}").parse().unwrap()
}

pub fn vpc(index: u32) -> Section {
    let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
    Section::Vpc(VpcSection { id: vpc_id(index), index, cidrs, dns_support: true })
}

pub fn group(n: u32, vpc: u32, ingress: &[(Traffic, Peer)], egress: &[(Traffic, Peer)]) -> Section {
    let rules =
        |rows: &[(Traffic, Peer)]| rows.iter().map(|(traffic, peer)| Rule { traffic: *traffic, peer: *peer }).collect();
    Section::SecurityGroup(SecurityGroupSection {
        id: group_id(n),
        vpc: vpc_id(vpc),
        ingress: rules(ingress),
        egress: rules(egress),
    })
}

pub fn members(n: u32, vpc: u32, addresses: &[&str]) -> Section {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Section::GroupMembers(GroupMembersSection { group: group_id(n), vpc: vpc_id(vpc), addresses })
}

/// Interface `10.0.0.LAST` in a VPC, with an internet route; its id is made of both.
pub fn interface(vpc: u32, last: u8, groups: &[u32]) -> InterfaceSection {
    InterfaceSection {
        id: format!("eni-{:017x}", u64::from(vpc) << 8 | u64::from(last)).parse().unwrap(),
        vpc: vpc_id(vpc),
        subnet: format!("subnet-{vpc:017x}").parse().unwrap(),
        subnet_cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        epoch: 1,
        desired: Desired::Present,
        mac: format!("02:00:00:00:{vpc:02x}:{last:02x}"),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))],
        public_address: None,
        security_groups: groups.iter().map(|n| group_id(*n)).collect(),
        source_dest_check: true,
        routes: vec![
            Route { destination: "10.0.0.0/16".parse().unwrap(), target: RouteTarget::Local },
            Route { destination: "0.0.0.0/0".parse().unwrap(), target: RouteTarget::Internet },
        ],
        instance: None,
    }
}

/// A namespace that plays the guest of an interface.
pub struct Vm {
    pub place: Place,
    stop: Arc<AtomicBool>,
    wire: Option<JoinHandle<()>>,
}

impl Vm {
    /// With its address and default route already set, as DHCP would.
    pub fn plug(world: &World, section: &InterfaceSection) -> Self {
        let guest = Self::plug_bare(world, section);
        let address = section.addresses[0];
        guest.place.sh(&format!(
            "ip addr add {address}/{} dev eth0; ip route add default via {}",
            section.subnet_cidr.prefix_len(),
            section.gateway
        ));
        // The kernel takes up to a second to see that a tap was plugged in, and drops meanwhile.
        let IpAddr::V4(gateway) = section.gateway else { panic!("IPv4") };
        eventually("the gateway answers", || guest.place.ping(gateway));
        guest
    }

    pub fn plug_bare(world: &World, section: &InterfaceSection) -> Self {
        let ours = world.network.open_tap(section.vpc, section.id).unwrap();
        let place = Place::new();
        let theirs = place.within(|| tap::attach("eth0").unwrap());
        place.sh(&format!("ip link set eth0 address {} mtu 1370 up", section.mac));
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let wire = std::thread::spawn(move || {
            while !flag.load(Ordering::SeqCst) {
                carry(&ours, &theirs);
            }
        });
        Self { place, stop, wire: Some(wire) }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(wire) = self.wire.take() {
            wire.join().unwrap();
        }
    }
}

/// Moves what there is in either direction, virtio header included; waits at most 50 ms for something.
fn carry(a: &OwnedFd, b: &OwnedFd) {
    let mut polled = [PollFd::new(a.as_fd(), PollFlags::POLLIN), PollFd::new(b.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::from(50u8)).is_err() {
        return;
    }
    let mut frame = [0; 70_000];
    for (from, to) in [(a, b), (b, a)] {
        while let Ok(length) = nix::unistd::read(from, &mut frame) {
            // A full queue drops, as a wire does.
            let _ = nix::unistd::write(to, &frame[..length]);
        }
    }
}

/// Polls until `check` is true.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Compares with a file under `network/golden`; `UPDATE_GOLDEN=1` rewrites it.
pub fn compare_with_golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = |from: &str, to: &str, sign: char| {
        let lines: std::collections::BTreeSet<&str> = to.lines().collect();
        from.lines().filter(|line| !lines.contains(line)).map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    assert!(golden == text, "{}:\n{}{}", path.display(), changed(&golden, text, '-'), changed(text, &golden, '+'));
}
