//! Records of the network domain, all written by the control plane alone.
//!
//! Beside the objects there are index records, so that nothing has to be searched: their keys carry the facts, their
//! values next to nothing. What identifies a tenant's network (CIDRs, addresses, names, rules) is in the sealed part;
//! a claimed address stands in a key as its offset in the subnet.
//!
//! | key | says |
//! |---|---|
//! | `vpc/ACCOUNT/ID`, `subnet/...`, `security-group/...`, `route-table/...`, `internet-gateway/...`, `address/...`, `interface/...` | the objects |
//! | `vpc-child/VPC/KIND/ID` | what must be gone before the VPC can be |
//! | `default-vpc/ACCOUNT` | the account's default VPC |
//! | `vpc-numbers/cell` | where the VPCs' numbers come from |
//! | `group-name/VPC/MAC` | the group of that name |
//! | `group-owner/GROUP` | whose group it is |
//! | `group-reference/GROUP/BY` | a rule of BY refers to GROUP |
//! | `group-address/GROUP/SUBNET/OFFSET` | that address is a member of the group |
//! | `subnet-address/SUBNET/OFFSET` | that address is taken |
//! | `instance-interface/INSTANCE/ID`, `host-interface/HOST/ID` | whose interface it is |
//! | `host-vpc/HOST/VPC`, `host-group/HOST/GROUP` | how many of the host's interfaces are in it |
//! | `address-pool/ZONE/N` | public addresses of a site |
//! | `public-address/IP` | who has it |
//! | `interface-status/HOST/ID` | what is wrong with an interface, as the host reported it |

mod address;
mod interface;
mod route_table;
mod security_group;
mod subnet;
mod vpc;

pub use address::*;
pub use interface::*;
pub use route_table::*;
pub use security_group::*;
pub use subnet::*;
pub use vpc::*;

use serde::{Deserialize, Serialize};
use std::fmt::Display;
use terroir_store::{Key, record};
use terroir_types::AccountId;

/// The key of an object of an account.
pub fn object_key(kind: &str, account: AccountId, id: impl Display) -> Key {
    Key::new(format!("{kind}/{account}/{id}"))
}

/// The prefix of all objects of one kind in an account.
pub fn objects_of(kind: &str, account: AccountId) -> Key {
    Key::new(format!("{kind}/{account}"))
}

macro_rules! index_records {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            #[serde(rename = "a")]
            pub account: AccountId,
        }

        record!($name { kind: $kind, version: 1 });
    )*};
}

index_records! {
    /// At `vpc-child/<vpc>/<kind>/<id>`; the kind is `subnet`, `security-group` or `route-table`.
    VpcChild, "vpc-child";
    /// At `group-owner/<group>`.
    GroupOwner, "group-owner";
    /// At `group-reference/<group>/<by>`.
    GroupReference, "group-reference";
    /// At `instance-interface/<instance>/<interface>`.
    InstanceInterface, "instance-interface";
    /// At `host-interface/<host>/<interface>`.
    HostInterface, "host-interface";
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {}

        record!($name { kind: $kind, version: 1 });
    )*};
}

marks! {
    /// At `subnet-address/<subnet>/<offset, four hexadecimal digits>`.
    SubnetAddress, "subnet-address";
    /// At `group-address/<group>/<subnet>/<offset, four hexadecimal digits>`.
    GroupAddress, "group-address";
}

macro_rules! holdings {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            #[serde(rename = "a")]
            pub account: AccountId,
            /// Interfaces of the host; the row goes away with the last one.
            #[serde(rename = "n")]
            pub interfaces: u32,
        }

        record!($name { kind: $kind, version: 1 });

        impl Holding for $name {
            fn with(account: AccountId, interfaces: u32) -> Self {
                Self { account, interfaces }
            }

            fn interfaces(&self) -> u32 {
                self.interfaces
            }
        }
    )*};
}

/// How many interfaces of a host need something.
pub(crate) trait Holding: terroir_store::Record {
    fn with(account: AccountId, interfaces: u32) -> Self;
    fn interfaces(&self) -> u32;
}

holdings! {
    /// At `host-vpc/<host>/<vpc>`.
    HostVpc, "host-vpc";
    /// At `host-group/<host>/<group>`.
    HostGroup, "host-group";
}
