use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use terroir_store::{Key, record};
use terroir_types::{
    AccountId, InternetGatewayId, ResourceId, RouteTableAssociationId, RouteTableId, SecurityGroupId, VpcId,
};

/// At `vpc/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    pub account: AccountId,
    pub id: VpcId,
    /// Unique in the cell, from 1 to 2^24 - 1.
    pub index: u32,
    pub is_default: bool,
    pub dns_support: bool,
    pub dns_hostnames: bool,
    pub default_group: SecurityGroupId,
    pub main_table: RouteTableId,
    pub main_association: RouteTableAssociationId,
    /// The gateway that is attached.
    pub gateway: Option<InternetGatewayId>,
    #[serde(skip, default)]
    pub tenant: VpcTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcTenant {
    pub cidrs: Vec<IpNet>,
}

record!(Vpc { kind: "vpc", version: 1, account: |r| Some(r.account), tenant: tenant: VpcTenant });

impl Vpc {
    pub const RESOURCE: &'static str = "vpc";

    pub fn key(account: AccountId, id: VpcId) -> Key {
        super::object_key("vpc", account, id)
    }

    pub fn cidrs(&self) -> &[IpNet] {
        &self.tenant.cidrs
    }

    /// The id of the association of its first CIDR. There is exactly one, so it is derived.
    pub fn cidr_association(&self) -> String {
        format!("vpc-cidr-assoc-{}", self.id.to_string().trim_start_matches(VpcId::PREFIX))
    }

    pub fn children(id: VpcId) -> Key {
        Key::new(format!("vpc-child/{id}"))
    }

    pub fn child(id: VpcId, kind: &str, child: impl std::fmt::Display) -> Key {
        Key::new(format!("vpc-child/{id}/{kind}/{child}"))
    }
}

/// At `internet-gateway/<account>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetGateway {
    pub account: AccountId,
    pub id: InternetGatewayId,
    pub vpc: Option<VpcId>,
}

record!(InternetGateway { kind: "internet-gateway", version: 1 });

impl InternetGateway {
    pub const RESOURCE: &'static str = "internet-gateway";

    pub fn key(account: AccountId, id: InternetGatewayId) -> Key {
        super::object_key("internet-gateway", account, id)
    }
}

/// At `default-vpc/<account>`; who makes a default VPC writes it, so there is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultVpc {
    pub vpc: VpcId,
}

record!(DefaultVpc { kind: "default-vpc", version: 1 });

impl DefaultVpc {
    pub fn key(account: AccountId) -> Key {
        Key::new(format!("default-vpc/{account}"))
    }
}

/// At `vpc-numbers/cell`: the numbers of VPCs. A freed number rests until many others were freed after it, so that
/// every host has long forgotten the VPC that had it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcNumbers {
    pub last: u32,
    pub freed: VecDeque<u32>,
}

record!(VpcNumbers { kind: "vpc-numbers", version: 1 });

impl VpcNumbers {
    const GREATEST: u32 = (1 << 24) - 1;
    const RESTING: usize = 256;
    const REMEMBERED: usize = 4096;

    pub fn key() -> Key {
        Key::new("vpc-numbers/cell")
    }

    /// `None` once 2^24 - 1 VPCs exist.
    pub fn take(&mut self) -> Option<u32> {
        if self.freed.len() >= Self::RESTING || self.last >= Self::GREATEST {
            return self.freed.pop_front();
        }
        self.last += 1;
        Some(self.last)
    }

    /// Beyond a bound, freed numbers are forgotten; there are sixteen million.
    pub fn give_back(&mut self, number: u32) {
        if self.freed.len() < Self::REMEMBERED {
            self.freed.push_back(number);
        }
    }
}
