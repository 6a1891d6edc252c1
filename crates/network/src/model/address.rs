use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use terroir_store::{Key, record};
use terroir_types::{AccountId, AddressAssociationId, AllocationId, InterfaceId};

/// An Elastic IP address, at `address/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub account: AccountId,
    pub id: AllocationId,
    pub address: IpAddr,
    /// Zone of the pool it comes from.
    pub zone: String,
    pub association: Option<AddressAssociation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressAssociation {
    pub id: AddressAssociationId,
    pub interface: InterfaceId,
}

record!(Address { kind: "address", version: 1 });

impl Address {
    pub const RESOURCE: &'static str = "elastic-ip";

    pub fn key(account: AccountId, id: AllocationId) -> Key {
        super::object_key("address", account, id)
    }
}

/// Public addresses of a site, at `address-pool/<zone>/<n>`. The first and the last address are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    pub network: IpNet,
}

record!(AddressPool { kind: "address-pool", version: 1 });

impl AddressPool {
    pub fn key(zone: &str, number: u32) -> Key {
        Key::new(format!("address-pool/{zone}/{number:04}"))
    }

    pub fn of_zone(zone: &str) -> Key {
        Key::new(format!("address-pool/{zone}"))
    }
}

/// Who has a public address, at `public-address/<ip>`: an allocation, or an interface while its instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicClaim {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationId>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceId>,
}

record!(PublicClaim { kind: "public-address", version: 1 });

impl PublicClaim {
    pub fn key(address: IpAddr) -> Key {
        Key::new(format!("public-address/{address}"))
    }
}
