//! What would be answered, without sockets.

use terroir_agent_api::GuestSnapshot;
use terroir_types::VpcId;

use crate::dns::Verdict;
use crate::snapshot::Index;
use crate::{dhcp, dns};

/// A host's guests, as a snapshot tells of them.
pub struct Offline(Index);

impl Offline {
    pub fn new(snapshot: GuestSnapshot) -> Self {
        Self(Index::new(snapshot))
    }

    pub fn vpcs(&self) -> impl Iterator<Item = VpcId> {
        self.0.snapshot().vpcs.iter().map(|vpc| vpc.id)
    }

    /// The answer to a datagram of DHCP from the interface on this tap; none: none is given.
    pub fn dhcp(&self, vpc: VpcId, tap: &str, datagram: &[u8]) -> Option<Vec<u8>> {
        Some(dhcp::answer(datagram, &self.0, self.0.by_tap(vpc, tap)?, 3600)?.bytes)
    }

    /// The answer to a query over UDP, as far as it is given without asking outside.
    pub fn dns(&self, vpc: VpcId, query: &[u8]) -> Option<Vec<u8>> {
        match dns::decide(query, &self.0, vpc, false) {
            Verdict::Answer(bytes) => Some(bytes),
            Verdict::Ignore | Verdict::Forward(_) => None,
        }
    }
}
