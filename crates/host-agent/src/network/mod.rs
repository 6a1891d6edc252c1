//! Networks of guests on one host: one network namespace per VPC, a persistent routed tap per interface, nftables for
//! security groups, anti-spoofing and 1:1 NAT (ADR 0006).
//!
//! One way through, every round: `desired` (pure: HostSpec → what should be), `observe` (netlink, sysctl, nft's
//! generation), `plan` (pure: what differs → ops), apply. A round that is interrupted half-way, or a link, route or
//! table that somebody else removed, is mended by the next round. Objects outside the tag's names are never touched.

mod desired;
mod error;
mod host_rules;
#[cfg(test)]
mod live;
mod names;
mod namespace;
mod netlink;
mod nft;
mod plan;
mod round;
mod ruleset;
mod spans;
mod state;
mod tap;
mod vpc;
mod vpc_rules;

pub use error::NetworkError;
pub use names::tap_name;
pub(crate) use vpc::{METADATA, resolvers};

use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: NetworkOptions,
    memory: Mutex<round::Memory>,
    namespaces: Mutex<BTreeMap<VpcId, Arc<File>>>,
}

impl Shared {
    fn memory(&self) -> std::sync::MutexGuard<'_, round::Memory> {
        // After a panic in a round the next one starts from what the kernel has.
        self.memory.lock().unwrap_or_else(|poisoned| {
            let mut memory = poisoned.into_inner();
            *memory = round::Memory::default();
            self.memory.clear_poison();
            memory
        })
    }

    fn namespaces(&self) -> std::sync::MutexGuard<'_, BTreeMap<VpcId, Arc<File>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostNetwork {
    pub fn new(options: NetworkOptions) -> Self {
        let shared = Shared { options, memory: Mutex::default(), namespaces: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Brings the host to what `spec` says, as far as it can. Needs root.
    pub async fn reconcile(&self, spec: &HostSpec) -> NetworkOutcome {
        let spec = spec.clone();
        let round = self.on_a_thread(move |shared| {
            let mut found = BTreeMap::new();
            let outcome = round::run(&shared.options, &mut shared.memory(), &spec, &mut found);
            *shared.namespaces() = found;
            Ok(outcome)
        });
        round
            .await
            .unwrap_or_else(|error| NetworkOutcome { problems: vec![error.to_string()], ..NetworkOutcome::default() })
    }

    /// A descriptor of the interface's tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) for QEMU. The kernel allows one at a
    /// time: close it after handing it over, or the next start gets `NetworkError::TapBusy`.
    pub fn open_tap(&self, vpc: VpcId, interface: InterfaceId) -> Result<OwnedFd, NetworkError> {
        let name = tap_name(interface);
        self.within(vpc, || {
            // Attaching would make a tap that is not there: without a persistent one, this would be none of ours.
            nix::net::if_::if_nametoindex(name.as_str()).map_err(NetworkError::errno(format!("tap {name}")))?;
            tap::attach(&name)
        })
    }

    /// Name of an interface's tap inside its VPC's namespace.
    pub fn tap_name(interface: InterfaceId) -> String {
        tap_name(interface)
    }

    /// Removes every namespace, link and table of this tag. Guests lose their network.
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        self.on_a_thread(|shared| {
            shared.namespaces().clear();
            round::remove_all(&shared.options, &mut shared.memory())
        })
        .await
    }

    /// Runs `work` inside a VPC's namespace, blocking.
    pub(crate) fn within<T: Send>(
        &self,
        vpc: VpcId,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        let namespace = self.shared.namespaces().get(&vpc).cloned().ok_or(NetworkError::UnknownVpc(vpc))?;
        namespace::within(namespace.as_fd(), work)
    }

    /// Namespaces are entered by threads, and a thread is in the namespace of the one that made it: so not on tokio's pool.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let shared = self.shared.clone();
        std::thread::Builder::new()
            .name("host-network".to_owned())
            .spawn(move || {
                // Nobody waiting any more is no reason to stop half-way.
                let _ = sender.send(work(&shared));
            })
            .map_err(NetworkError::io("starting a thread"))?;
        receiver.await.unwrap_or_else(|_| Err(NetworkError::Spec("a round of the host's network panicked".to_owned())))
    }
}
