use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use terroir_store::{Key, record};
use terroir_types::{
    AccountId, AddressAssociationId, AllocationId, Epoch, Generation, HostId, InstanceId, InterfaceAttachmentId,
    InterfaceId, SecurityGroupId, SubnetId, Timestamp, VpcId,
};

/// An elastic network interface, at `interface/<account>/<id>`.
///
/// It is the assignment of its addresses too (DESIGN §2): `epoch` counts its holders, `host` is the one that holds it.
///
/// ```text
///   free ──attach──▶ held by host ──detach, terminate──▶ releasing ──host reports Released at this epoch──▶ free, or gone
/// ```
/// A new holder gets it only from `free`; the addresses of an interface that is to be deleted are free only then. Until
/// then it is attached, and its instance has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    #[serde(rename = "a")]
    pub account: AccountId,
    #[serde(rename = "i")]
    pub id: InterfaceId,
    #[serde(rename = "v")]
    pub vpc: VpcId,
    #[serde(rename = "s")]
    pub subnet: SubnetId,
    #[serde(rename = "g")]
    pub groups: BTreeSet<SecurityGroupId>,
    #[serde(rename = "c", default = "yes", skip_serializing_if = "is_true")]
    pub source_dest_check: bool,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<InterfaceAttachment>,
    #[serde(rename = "e")]
    pub epoch: Epoch,
    /// Who holds it, or held it until it reports release.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    #[serde(rename = "r", default, skip_serializing_if = "is_false")]
    pub releasing: bool,
    /// It goes away once it is released.
    #[serde(rename = "d", default, skip_serializing_if = "is_false")]
    pub deleting: bool,
    /// A public address from the pool comes with every start of its instance.
    #[serde(rename = "u", default, skip_serializing_if = "is_false")]
    pub auto_public: bool,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicAddress>,
    #[serde(skip, default)]
    pub tenant: InterfaceTenant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAttachment {
    #[serde(rename = "i")]
    pub id: InterfaceAttachmentId,
    #[serde(rename = "n")]
    pub instance: InstanceId,
    #[serde(rename = "x", default, skip_serializing_if = "is_zero")]
    pub device_index: u8,
    #[serde(rename = "a")]
    pub attached_at: Timestamp,
    #[serde(rename = "d", default, skip_serializing_if = "is_false")]
    pub delete_on_termination: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAddress {
    #[serde(rename = "p")]
    pub address: IpAddr,
    /// An Elastic IP; without it, the address is the pool's and goes when the instance stops.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<(AllocationId, AddressAssociationId)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceTenant {
    /// The first is the primary one.
    #[serde(rename = "a")]
    pub addresses: Vec<IpAddr>,
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

record!(Interface { kind: "interface", version: 1, account: |r| Some(r.account), tenant: tenant: InterfaceTenant });

const fn yes() -> bool {
    true
}

// serde hands these the field by reference.
const fn is_true(value: &bool) -> bool {
    *value
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &u8) -> bool {
    *value == 0
}

impl Interface {
    pub const RESOURCE: &'static str = "network-interface";

    pub fn key(account: AccountId, id: InterfaceId) -> Key {
        super::object_key("interface", account, id)
    }

    /// Locally administered, from the id: `02:..`, in lower case.
    pub fn mac(&self) -> String {
        let [.., a, b, c, d, e] = self.id.number().to_be_bytes();
        format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.tenant.addresses
    }

    /// Every interface has one; an unspecified address otherwise.
    pub fn primary_address(&self) -> IpAddr {
        self.addresses().first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    pub fn description(&self) -> &str {
        &self.tenant.description
    }

    pub fn instance(&self) -> Option<InstanceId> {
        self.attachment.as_ref().map(|attachment| attachment.instance)
    }

    /// AWS's word for its state.
    pub fn status(&self) -> &'static str {
        match (&self.attachment, self.host) {
            (Some(_), _) => "in-use",
            (None, Some(_)) => "detaching",
            (None, None) => "available",
        }
    }

    pub fn host_key(host: HostId, id: InterfaceId) -> Key {
        Key::new(format!("host-interface/{host}/{id}"))
    }

    pub fn of_host(host: HostId) -> Key {
        Key::new(format!("host-interface/{host}"))
    }

    pub fn instance_key(instance: InstanceId, id: InterfaceId) -> Key {
        Key::new(format!("instance-interface/{instance}/{id}"))
    }

    pub fn of_instance(instance: InstanceId) -> Key {
        Key::new(format!("instance-interface/{instance}"))
    }
}

/// At `interface-status/<host>/<id>`, written as the host reports it. Only trouble is kept: an interface without a row
/// is well, or not yet there, which its instance's state tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceTrouble {
    pub epoch: Epoch,
    pub generation: Generation,
    pub detail: String,
}

record!(InterfaceTrouble { kind: "interface-status", version: 1 });

impl InterfaceTrouble {
    pub fn key(host: HostId, id: InterfaceId) -> Key {
        Key::new(format!("interface-status/{host}/{id}"))
    }
}
