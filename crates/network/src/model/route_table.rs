use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use terroir_store::{Key, record};
use terroir_types::{AccountId, InternetGatewayId, RouteTableId, VpcId};

/// At `route-table/<account>/<id>`. Routes inside the VPC are not in it: they follow from the VPC's CIDRs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    pub account: AccountId,
    pub id: RouteTableId,
    pub vpc: VpcId,
    #[serde(skip, default)]
    pub tenant: RouteTableTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTableTenant {
    /// In order of their destinations, each once.
    pub routes: Vec<RouteEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    pub destination: IpNet,
    pub target: RouteTo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteTo {
    /// A blackhole while that gateway is not attached to the table's VPC.
    Gateway(InternetGatewayId),
}

record!(RouteTable { kind: "route-table", version: 1, account: |r| Some(r.account), tenant: tenant: RouteTableTenant });

pub const ROUTES_PER_TABLE: usize = 500;

impl RouteTable {
    pub const RESOURCE: &'static str = "route-table";

    pub fn key(account: AccountId, id: RouteTableId) -> Key {
        super::object_key("route-table", account, id)
    }

    pub fn routes(&self) -> &[RouteEntry] {
        &self.tenant.routes
    }
}
