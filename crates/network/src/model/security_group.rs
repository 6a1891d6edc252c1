use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use terroir_store::{Key, record};
use terroir_types::{AccountId, SecurityGroupId, SecurityGroupRuleId, SubnetId, VpcId};

/// At `security-group/<account>/<id>`, its rules included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub account: AccountId,
    pub id: SecurityGroupId,
    pub vpc: VpcId,
    /// The VPC's own group, which cannot be deleted.
    pub is_default: bool,
    #[serde(skip, default)]
    pub tenant: SecurityGroupTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupTenant {
    pub name: String,
    pub description: String,
    /// In the order in which they were added.
    pub rules: Vec<GroupRule>,
}

record!(SecurityGroup { kind: "security-group", version: 1, account: |r| Some(r.account), tenant: tenant: SecurityGroupTenant });

/// One rule: what it allows, and what people call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    pub id: SecurityGroupRuleId,
    pub allows: Permission,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What a rule allows; two rules of a group never allow the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permission {
    pub egress: bool,
    /// IP protocol number; -1 for all.
    pub protocol: i16,
    /// First port, ICMP type, or -1 for all.
    pub from: i32,
    /// Last port, ICMP code, or -1 for all.
    pub to: i32,
    pub peer: RulePeer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RulePeer {
    Cidr(IpNet),
    Group(SecurityGroupId),
}

impl RulePeer {
    pub fn group(self) -> Option<SecurityGroupId> {
        match self {
            Self::Group(group) => Some(group),
            Self::Cidr(_) => None,
        }
    }
}

/// Rules of a group per direction and address family.
pub const RULES_PER_GROUP: usize = 60;
/// Groups of one interface.
pub const GROUPS_PER_INTERFACE: usize = 5;

impl SecurityGroup {
    pub const RESOURCE: &'static str = "security-group";
    pub const RULE_RESOURCE: &'static str = "security-group-rule";

    pub fn key(account: AccountId, id: SecurityGroupId) -> Key {
        super::object_key("security-group", account, id)
    }

    pub fn name(&self) -> &str {
        &self.tenant.name
    }

    pub fn rules(&self) -> &[GroupRule] {
        &self.tenant.rules
    }

    /// The groups that its rules refer to.
    pub fn references(&self) -> BTreeSet<SecurityGroupId> {
        self.rules().iter().filter_map(|rule| rule.allows.peer.group()).collect()
    }

    pub fn owner_key(id: SecurityGroupId) -> Key {
        Key::new(format!("group-owner/{id}"))
    }

    pub fn reference_key(referred: SecurityGroupId, by: SecurityGroupId) -> Key {
        Key::new(format!("group-reference/{referred}/{by}"))
    }

    pub fn references_to(referred: SecurityGroupId) -> Key {
        Key::new(format!("group-reference/{referred}"))
    }

    pub fn members(id: SecurityGroupId) -> Key {
        Key::new(format!("group-address/{id}"))
    }

    pub fn member(id: SecurityGroupId, subnet: SubnetId, offset: u32) -> Key {
        Key::new(format!("group-address/{id}/{subnet}/{offset:04x}"))
    }
}

/// At `group-name/<vpc>/<mac of the name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupName {
    pub group: SecurityGroupId,
}

record!(GroupName { kind: "group-name", version: 1 });
