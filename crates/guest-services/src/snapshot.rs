//! What the agent says about this host's guests, indexed by what a packet shows: the VPC (told by the socket) with a tap
//! or an address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use terroir_agent_api::{Guest, GuestInterface, GuestSnapshot, GuestVpc};
use terroir_types::VpcId;

/// A snapshot of 10,000 guests with 16 KiB of user data each is about 240 MiB; beyond this the file is not ours.
const LARGEST_SNAPSHOT: u64 = 512 << 20;

#[derive(Debug)]
pub struct Index {
    snapshot: GuestSnapshot,
    vpcs: HashMap<VpcId, usize>,
    by_tap: HashMap<(VpcId, String), Place>,
    by_address: HashMap<(VpcId, IpAddr), Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    guest: usize,
    interface: usize,
}

/// A guest seen through one of its interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub guest: &'a Guest,
    pub interface: &'a GuestInterface,
}

impl Index {
    pub fn new(snapshot: GuestSnapshot) -> Self {
        let vpcs = snapshot.vpcs.iter().enumerate().map(|(i, vpc)| (vpc.id, i)).collect();
        let (mut by_tap, mut by_address) = (HashMap::new(), HashMap::new());
        for (guest, entry) in snapshot.guests.iter().enumerate() {
            for (interface, nic) in entry.interfaces.iter().enumerate() {
                let place = Place { guest, interface };
                by_tap.insert((nic.vpc, nic.tap.clone()), place);
                by_address.extend(nic.addresses.iter().map(|address| ((nic.vpc, *address), place)));
            }
        }
        Self { snapshot, vpcs, by_tap, by_address }
    }

    pub fn empty() -> Self {
        Self::new(GuestSnapshot {
            generation: 0,
            region: String::new(),
            zone: String::new(),
            guest_mtu: 1370,
            dns_upstreams: Vec::new(),
            vpcs: Vec::new(),
            guests: Vec::new(),
        })
    }

    pub const fn snapshot(&self) -> &GuestSnapshot {
        &self.snapshot
    }

    pub fn vpc(&self, id: VpcId) -> Option<&GuestVpc> {
        self.vpcs.get(&id).map(|i| &self.snapshot.vpcs[*i])
    }

    fn seen(&self, place: Option<&Place>) -> Option<Seen<'_>> {
        place.map(|place| {
            let guest = &self.snapshot.guests[place.guest];
            Seen { guest, interface: &guest.interfaces[place.interface] }
        })
    }

    pub fn by_tap(&self, vpc: VpcId, tap: &str) -> Option<Seen<'_>> {
        self.seen(self.by_tap.get(&(vpc, tap.to_owned())))
    }

    pub fn by_address(&self, vpc: VpcId, address: IpAddr) -> Option<Seen<'_>> {
        self.seen(self.by_address.get(&(vpc, address)))
    }

    /// The private address in `vpc` of a public one, if its guest is on this host.
    pub fn private_of(&self, vpc: VpcId, public: Ipv4Addr) -> Option<Ipv4Addr> {
        let interfaces = self.snapshot.guests.iter().flat_map(|guest| &guest.interfaces);
        let mut ours = interfaces.filter(|nic| nic.vpc == vpc && nic.public_address == Some(IpAddr::V4(public)));
        ours.find_map(primary_v4)
    }
}

/// The first IPv4 address.
pub fn primary_v4(interface: &GuestInterface) -> Option<Ipv4Addr> {
    interface.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// The index in use; a reload swaps it whole.
#[derive(Debug, Clone)]
pub struct Current(Arc<RwLock<Arc<Index>>>);

impl Current {
    pub fn new(index: Index) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(index))))
    }

    pub fn get(&self) -> Arc<Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, index: Index) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
    }
}

pub fn load(path: &Path) -> std::io::Result<Index> {
    let length = std::fs::metadata(path)?.len();
    if length > LARGEST_SNAPSHOT {
        return Err(std::io::Error::other(format!("{length} bytes are more than a snapshot can have")));
    }
    let snapshot: GuestSnapshot = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(Index::new(snapshot))
}
