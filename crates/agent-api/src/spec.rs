//! HostSpec: what should be, written by the control plane.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use terroir_policy::Policy;
use terroir_types::{
    AccountId, Epoch, ImageId, InstanceId, InterfaceId, ReservationId, RunId, SecurityGroupId, SubnetId, Timestamp,
    VolumeId, VpcId,
};

/// Name of a section, for example `instance/i-0123456789abcdef0`; `host` is the only one without an id.
pub type SectionKey = String;

/// The whole of what one host should do, by section key.
pub type HostSpec = BTreeMap<SectionKey, Section>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Section {
    Host(HostSection),
    Vpc(VpcSection),
    Interface(InterfaceSection),
    SecurityGroup(SecurityGroupSection),
    GroupMembers(GroupMembersSection),
    Volume(VolumeSection),
    Instance(Box<InstanceSection>),
}

impl Section {
    pub fn key(&self) -> SectionKey {
        match self {
            Self::Host(_) => "host".to_owned(),
            Self::Vpc(s) => format!("vpc/{}", s.id),
            Self::Interface(s) => format!("interface/{}", s.id),
            Self::SecurityGroup(s) => format!("security-group/{}", s.id),
            Self::GroupMembers(s) => format!("group-members/{}", s.group),
            Self::Volume(s) => format!("volume/{}", s.id),
            Self::Instance(s) => format!("instance/{}", s.id),
        }
    }
}

/// Constants of the region and the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSection {
    pub region: String,
    /// Availability zone of this host's site, for example `eu-local-1a`.
    pub zone: String,
    /// MTU inside guests, bytes.
    pub guest_mtu: u16,
    /// Resolvers for names outside the cloud; may be empty.
    pub dns_upstreams: Vec<IpAddr>,
    /// Networks that no guest may reach, besides the host's own addresses.
    pub egress_deny: Vec<IpNet>,
    /// Pools whose addresses this host answers for (host-local pools: routed to the VPC namespaces).
    pub public_pools: Vec<IpNet>,
    /// Where this host is; none: its operator has not signed that yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<SignedPlace>,
}

/// A host's place as its operator signed it: three signed notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPlace {
    pub operator: String,
    pub site: String,
    pub host: String,
}

/// What the owner of something demands of the place where it is, and the place that was chosen for it. The host judges
/// both by what its own operator signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Id of the operator.
    pub operator: String,
    /// Id of the site.
    pub site: String,
    pub policy: Policy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcSection {
    pub id: VpcId,
    /// Unique in the cell, from 1; the VNI later, and the number in local names and link addresses now.
    pub index: u32,
    pub cidrs: Vec<IpNet>,
    /// Whether VPC base + 2 and 169.254.169.253 answer DNS.
    pub dns_support: bool,
}

/// Whether the host should hold the object or give it up for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    Present,
    Deleted,
}

/// One elastic network interface held by this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSection {
    pub id: InterfaceId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub subnet_cidr: IpNet,
    /// The subnet's router: its base + 1.
    pub gateway: IpAddr,
    pub epoch: Epoch,
    pub desired: Desired,
    /// `02:..`, six octets in lower-case hexadecimal.
    pub mac: String,
    /// Private addresses; the first is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Mapped 1:1 to the primary address in both directions, if an internet gateway is reachable.
    pub public_address: Option<IpAddr>,
    pub security_groups: BTreeSet<SecurityGroupId>,
    /// When false, the anti-spoofing check lets any source address pass.
    pub source_dest_check: bool,
    /// The subnet's route table. The most specific destination wins; no match means no route.
    pub routes: Vec<Route>,
    pub instance: Option<InstanceId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub target: RouteTarget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteTarget {
    /// Inside the VPC.
    Local,
    /// Through the internet gateway; only an interface with a public address gets through.
    Internet,
    Blackhole,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupSection {
    pub id: SecurityGroupId,
    pub vpc: VpcId,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// Allows; what no rule allows is dropped. Answers to what was allowed pass (stateful).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    pub traffic: Traffic,
    /// Source for ingress, destination for egress.
    pub peer: Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    All,
    /// An IP protocol number without ports (TCP and UDP with all ports too).
    Protocol(u8),
    Tcp {
        from: u16,
        to: u16,
    },
    Udp {
        from: u16,
        to: u16,
    },
    /// `None` stands for any.
    Icmp {
        kind: Option<u8>,
        code: Option<u8>,
    },
    IcmpV6 {
        kind: Option<u8>,
        code: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    Cidr(IpNet),
    /// The members of another group.
    Group(SecurityGroupId),
}

/// Private addresses of all interfaces in a group, on every host; a set of its own because it changes most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembersSection {
    pub group: SecurityGroupId,
    pub vpc: VpcId,
    pub addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSection {
    pub id: VolumeId,
    pub epoch: Epoch,
    pub desired: Desired,
    pub size_bytes: u64,
    /// Contents at creation; zeros without it.
    pub source: Option<BlobRef>,
    /// None: its account demands nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Box<Demand>>,
}

/// Immutable bytes that the control plane can hand out (disk image, kernel, initrd, user data).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// What the control plane calls it, for example `snapshot/snap-0123456789abcdef0`.
    pub name: String,
    /// Lower-case hexadecimal; also the name in the host's cache.
    pub sha256: String,
    pub size_bytes: u64,
    pub format: BlobFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlobFormat {
    /// Disk bytes as they are, or any other bytes.
    Raw,
    Qcow2,
    Vmdk,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSection {
    pub id: InstanceId,
    pub account: AccountId,
    pub epoch: Epoch,
    /// The life that `desired: running` asks for. QEMU starts at most once per run.
    pub run_id: RunId,
    pub desired: PowerState,
    /// Skip the guest's own shutdown when stopping.
    pub force_stop: bool,
    /// Rises with every RebootInstances.
    pub reboot_count: u64,
    pub instance_type: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// `x86_64`.
    pub architecture: String,
    /// QEMU's versioned machine type of the first start; kept for ever so that migration stays possible.
    pub machine: Option<String>,
    /// Boot straight into a kernel instead of through the disk's boot sector.
    pub direct_boot: Option<DirectBoot>,
    pub volumes: Vec<VolumeAttachmentSpec>,
    pub interfaces: Vec<InterfaceAttachmentSpec>,
    pub metadata: InstanceMetadata,
    /// None: its account demands nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Box<Demand>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    Running,
    Stopped,
    /// Stopped for good; what belongs to the instance alone (logs, sockets) is removed. Volumes have their own `desired`.
    Terminated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectBoot {
    pub kernel: BlobRef,
    pub initrd: Option<BlobRef>,
    pub command_line: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAttachmentSpec {
    pub volume: VolumeId,
    /// As the API names it, for example `/dev/sdf`.
    pub device_name: String,
    pub boot: bool,
    /// Place on the bus, fixed for the attachment's life, 0 to 15; 0 is the root volume's.
    pub slot: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAttachmentSpec {
    pub interface: InterfaceId,
    pub device_index: u8,
}

/// What the metadata service tells the guest about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceMetadata {
    pub image: ImageId,
    pub launch_index: u32,
    pub reservation: ReservationId,
    pub launched_at: Timestamp,
    /// `ip-10-0-0-5.REGION.compute.internal`
    pub hostname: String,
    pub public_hostname: Option<String>,
    pub key_pair: Option<PublicKey>,
    pub security_group_names: Vec<String>,
    pub user_data: Option<BlobRef>,
    pub instance_profile: Option<InstanceProfileRef>,
    /// Served under `tags/instance` when the instance's option says so; else empty.
    pub tags: BTreeMap<String, String>,
    pub options: MetadataOptions,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    pub name: String,
    /// One line in OpenSSH's form.
    pub openssh: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceProfileRef {
    pub arn: String,
    /// `AIPA...`
    pub id: String,
    pub role_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOptions {
    pub enabled: bool,
    /// Only session tokens (IMDSv2) are answered.
    pub tokens_required: bool,
    /// IP hop limit of the token's answer, 1 to 64.
    pub hop_limit: u8,
    pub tags_enabled: bool,
}
