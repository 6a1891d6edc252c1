//! Between the agent and guest-services: a snapshot file that the agent replaces atomically, and listening sockets that
//! the agent opened inside VPC namespaces and hands over. guest-services answers from these alone, so that guests renew
//! DHCP, resolve names and read metadata while everything else is down.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use terroir_types::{AccountId, InstanceId, InterfaceId, SubnetId, VpcId};

use crate::{InstanceMetadata, RoleCredentials};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSnapshot {
    /// Rises with every replacement.
    pub generation: u64,
    pub region: String,
    pub zone: String,
    pub guest_mtu: u16,
    pub dns_upstreams: Vec<IpAddr>,
    pub vpcs: Vec<GuestVpc>,
    pub guests: Vec<Guest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestVpc {
    pub id: VpcId,
    pub cidrs: Vec<IpNet>,
    pub dns_support: bool,
}

/// An instance as its neighbours on this host see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub instance: InstanceId,
    pub account: AccountId,
    pub instance_type: String,
    pub architecture: String,
    pub metadata: InstanceMetadata,
    /// Base64; at most 16 KiB before encoding.
    pub user_data: Option<String>,
    pub credentials: Option<RoleCredentials>,
    /// The first is the primary one.
    pub interfaces: Vec<GuestInterface>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterface {
    pub id: InterfaceId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub subnet_cidr: IpNet,
    pub gateway: IpAddr,
    pub device_index: u8,
    /// Name of the tap inside the VPC's namespace.
    pub tap: String,
    pub mac: String,
    pub addresses: Vec<IpAddr>,
    pub public_address: Option<IpAddr>,
    pub security_group_ids: Vec<String>,
}

/// What a handed-over socket is for. UDP and TCP sockets arrive bound (and listening).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "socket", rename_all = "kebab-case")]
pub enum SocketRole {
    /// UDP port 67, bound to one tap: the socket tells the interface.
    Dhcp {
        vpc: VpcId,
        tap: String,
    },
    /// UDP port 53 at `address` (VPC base + 2, or 169.254.169.253).
    DnsUdp {
        vpc: VpcId,
        address: IpAddr,
    },
    DnsTcp {
        vpc: VpcId,
        address: IpAddr,
    },
    /// TCP port 80 at 169.254.169.254: the socket tells the VPC, the peer's address the guest.
    Metadata {
        vpc: VpcId,
    },
}

/// Messages over guest-services' Unix stream socket, one JSON document a line. `Take` carries exactly one descriptor
/// (SCM_RIGHTS) with the line's first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum ToGuestServices {
    /// Which sockets are held? Answered by `Holding`.
    Hello,
    /// Serve this socket; replaces one with the same role. Answered by `Done`.
    Take { role: SocketRole },
    /// Close it. Answered by `Done`.
    Drop { role: SocketRole },
    /// The snapshot file was replaced. Answered by `Done` once it is in use.
    Reload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromGuestServices {
    Holding { pid: u32, snapshot_generation: u64, roles: Vec<SocketRole> },
    Done,
    Failed { detail: String },
}
