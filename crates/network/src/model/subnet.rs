use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use terroir_store::{Key, record};
use terroir_types::{AccountId, RouteTableAssociationId, RouteTableId, SubnetId, VpcId};

/// At `subnet/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub account: AccountId,
    pub id: SubnetId,
    pub vpc: VpcId,
    /// Name of the availability zone.
    pub zone: String,
    pub default_for_zone: bool,
    pub map_public_on_launch: bool,
    /// Its own route table; without it, the VPC's main one.
    pub association: Option<TableAssociation>,
    #[serde(skip, default)]
    pub tenant: SubnetTenant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableAssociation {
    pub id: RouteTableAssociationId,
    pub table: RouteTableId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetTenant {
    pub cidr: IpNet,
}

impl Default for SubnetTenant {
    /// A network with no usable address: what is left where the tenant part was taken out.
    fn default() -> Self {
        Self { cidr: IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) }
    }
}

record!(Subnet { kind: "subnet", version: 1, account: |r| Some(r.account), tenant: tenant: SubnetTenant });

/// The first four addresses are the network, the router, the resolver and one that AWS keeps for later.
const RESERVED_LOW: u32 = 4;
/// The last one is the broadcast address.
const RESERVED_HIGH: u32 = 1;

impl Subnet {
    pub const RESOURCE: &'static str = "subnet";

    pub fn key(account: AccountId, id: SubnetId) -> Key {
        super::object_key("subnet", account, id)
    }

    pub fn cidr(&self) -> IpNet {
        self.tenant.cidr
    }

    pub fn claims(id: SubnetId) -> Key {
        Key::new(format!("subnet-address/{id}"))
    }

    pub fn claim(id: SubnetId, offset: u32) -> Key {
        Key::new(format!("subnet-address/{id}/{offset:04x}"))
    }

    /// Number of addresses that interfaces can have in all, 0 for IPv6.
    pub fn usable(&self) -> u32 {
        (self.size() - RESERVED_LOW).saturating_sub(RESERVED_HIGH)
    }

    /// Offsets that interfaces can have.
    pub fn offsets(&self) -> std::ops::Range<u32> {
        RESERVED_LOW..RESERVED_LOW + self.usable()
    }

    fn size(&self) -> u32 {
        match self.cidr() {
            IpNet::V4(net) => 1_u32.checked_shl(32 - u32::from(net.prefix_len())).unwrap_or(u32::MAX).max(RESERVED_LOW),
            IpNet::V6(_) => RESERVED_LOW,
        }
    }

    /// The router: base + 1.
    pub fn gateway(&self) -> IpAddr {
        match self.cidr().network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | 1)),
            IpAddr::V6(base) => IpAddr::V6(std::net::Ipv6Addr::from_bits(base.to_bits() | 1)),
        }
    }

    /// The address at an offset; offsets of IPv4 subnets are below their size.
    pub fn address_at(&self, offset: u32) -> IpAddr {
        match self.cidr().network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(offset))),
            IpAddr::V6(base) => IpAddr::V6(std::net::Ipv6Addr::from_bits(base.to_bits() | u128::from(offset))),
        }
    }

    /// `None` if the address is outside the subnet or of the other family.
    pub fn offset_of(&self, address: IpAddr) -> Option<u32> {
        match (self.cidr(), address) {
            (IpNet::V4(net), IpAddr::V4(address)) if net.contains(&address) => {
                Some(address.to_bits() - net.network().to_bits())
            }
            _ => None,
        }
    }
}
