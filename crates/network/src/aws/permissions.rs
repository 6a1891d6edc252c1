use std::collections::BTreeMap;
use terroir_aws_model::ec2;
use terroir_types::{AccountId, Error, ResourceId, SecurityGroupId};

use super::{parse_cidr, text};
use crate::model::{GroupRule, Permission, RulePeer, SecurityGroup};
use crate::ops::{RuleSet, Scope, find_group_by_name};

/// EC2's names of protocols that have one; every number is written as such otherwise.
const PROTOCOLS: [(&str, i16); 5] = [("-1", -1), ("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58)];

pub(super) fn protocol_name(number: i16) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Errors: `InvalidParameterValue`.
fn protocol_number(name: &str) -> Result<i16, Error> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, number)) = PROTOCOLS.iter().find(|(known, _)| *known == lower) {
        return Ok(*number);
    }
    let number = name.parse::<u8>().ok().filter(|number| number.to_string() == name).map(i16::from);
    number.ok_or_else(|| {
        let message = format!("Invalid value '{name}' for IP protocol. Unknown protocol.");
        Error::invalid("InvalidParameterValue", message)
    })
}

/// The parameters of Authorize and Revoke that describe one rule without `IpPermissions`.
#[derive(Default)]
pub(super) struct LoosePermission<'r> {
    pub protocol: Option<&'r str>,
    pub from_port: Option<i32>,
    pub to_port: Option<i32>,
    pub cidr: Option<&'r str>,
    pub source_group_name: Option<&'r str>,
    pub source_group_owner: Option<&'r str>,
}

impl LoosePermission<'_> {
    pub fn is_given(&self) -> bool {
        self.protocol.is_some()
            || self.from_port.is_some()
            || self.to_port.is_some()
            || self.cidr.is_some()
            || self.source_group_name.is_some()
    }
}

/// What a request wants to allow or to revoke.
///
/// Errors: `InvalidParameterCombination` for both forms at once, `MissingParameter` for none, `InvalidParameterValue`
/// and `InvalidPermission.Malformed` for bad rules, `InvalidGroup.NotFound` for unknown groups.
pub(super) fn requested(
    scope: &Scope<'_>,
    group: &SecurityGroup,
    egress: bool,
    loose: &LoosePermission<'_>,
    permissions: &[ec2::IpPermission],
) -> Result<RuleSet, Error> {
    match (loose.is_given(), permissions.is_empty()) {
        (true, false) => {
            let message = "The parameter ipPermissions may not be used in combination with the other rule parameters";
            Err(Error::invalid("InvalidParameterCombination", message))
        }
        (false, true) => {
            let message = "The request must contain the parameter ipPermissions";
            Err(Error::invalid("MissingParameter", message))
        }
        (true, true) => from_loose(scope, group, egress, loose),
        (false, false) => {
            let mut rules = RuleSet::new();
            for permission in permissions {
                add_permission(scope, group, egress, permission, &mut rules)?;
            }
            Ok(rules)
        }
    }
}

fn from_loose(
    scope: &Scope<'_>,
    group: &SecurityGroup,
    egress: bool,
    loose: &LoosePermission<'_>,
) -> Result<RuleSet, Error> {
    if let Some(name) = loose.source_group_name {
        if loose.cidr.is_some() {
            let message = "Only one of CidrIp and SourceSecurityGroupName can be specified";
            return Err(Error::invalid("InvalidParameterCombination", message));
        }
        check_owner(scope, loose.source_group_owner, name)?;
        let peer = RulePeer::Group(find_group_by_name(scope.txn, scope.account, group.vpc, name)?.id);
        let all = |protocol, from, to| (Permission { egress, protocol, from, to, peer }, None);
        return match loose.protocol {
            // The reference: such a call grants full ICMP, UDP and TCP access.
            None => Ok(vec![all(6, 0, 65535), all(17, 0, 65535), all(1, -1, -1)]),
            Some(name) => {
                let (from, to) = (loose.from_port.unwrap_or(-1), loose.to_port.unwrap_or(-1));
                Ok(vec![all(protocol_number(name)?, from, to)])
            }
        };
    }
    let protocol = loose.protocol.ok_or_else(|| missing("ipProtocol"))?;
    let cidr = loose.cidr.ok_or_else(|| missing("cidrIp"))?;
    let permission = Permission {
        egress,
        protocol: protocol_number(protocol)?,
        from: loose.from_port.unwrap_or(-1),
        to: loose.to_port.unwrap_or(-1),
        peer: RulePeer::Cidr(cidr_of_family(cidr, true)?),
    };
    Ok(vec![(permission, None)])
}

fn missing(parameter: &str) -> Error {
    Error::invalid("MissingParameter", format!("The request must contain the parameter {parameter}"))
}

fn add_permission(
    scope: &Scope<'_>,
    group: &SecurityGroup,
    egress: bool,
    permission: &ec2::IpPermission,
    rules: &mut RuleSet,
) -> Result<(), Error> {
    let protocol = protocol_number(permission.ip_protocol.as_deref().ok_or_else(|| missing("ipProtocol"))?)?;
    let (from, to) = (permission.from_port.unwrap_or(-1), permission.to_port.unwrap_or(-1));
    let before = rules.len();
    let mut add = |peer, description: &Option<String>| {
        let description = description.clone().filter(|text| !text.is_empty());
        rules.push((Permission { egress, protocol, from, to, peer }, description));
    };
    for range in &permission.ip_ranges {
        let cidr = range.cidr_ip.as_deref().ok_or_else(|| missing("cidrIp"))?;
        add(RulePeer::Cidr(cidr_of_family(cidr, true)?), &range.description);
    }
    for range in &permission.ipv6_ranges {
        let cidr = range.cidr_ipv6.as_deref().ok_or_else(|| missing("cidrIpv6"))?;
        add(RulePeer::Cidr(cidr_of_family(cidr, false)?), &range.description);
    }
    for pair in &permission.user_id_group_pairs {
        add(RulePeer::Group(named_group(scope, group, pair)?), &pair.description);
    }
    if let Some(list) = permission.prefix_list_ids.first() {
        let id = list.prefix_list_id.as_deref().unwrap_or_default();
        let message = format!("The prefix list ID '{id}' does not exist");
        return Err(Error::not_found("InvalidPrefixListID.NotFound", message));
    }
    if rules.len() == before {
        let message = "The rule names no CIDR block and no security group";
        return Err(Error::invalid("InvalidPermission.Malformed", message));
    }
    Ok(())
}

fn cidr_of_family(text: &str, v4: bool) -> Result<ipnet::IpNet, Error> {
    let malformed = || {
        let family = if v4 { "CIDR block" } else { "IPv6 CIDR block" };
        Error::invalid("InvalidParameterValue", format!("{family} {text} is malformed"))
    };
    let net = parse_cidr(text, "cidrIp").map_err(|_| malformed())?;
    if net.addr().is_ipv4() == v4 { Ok(net) } else { Err(malformed()) }
}

/// The group that a pair means: by id, or by name in the same VPC.
fn named_group(
    scope: &Scope<'_>,
    group: &SecurityGroup,
    pair: &ec2::UserIdGroupPair,
) -> Result<SecurityGroupId, Error> {
    let (id, name) = (pair.group_id.as_deref(), pair.group_name.as_deref());
    check_owner(scope, pair.user_id.as_deref(), id.or(name).unwrap_or_default())?;
    match (id, name) {
        (Some(id), _) => id.parse(),
        (None, Some(name)) => Ok(find_group_by_name(scope.txn, scope.account, group.vpc, name)?.id),
        (None, None) => Err(missing("groupId")),
    }
}

/// Groups of other accounts are reachable only through peering, which is not built: to this caller they do not exist.
fn check_owner(scope: &Scope<'_>, owner: Option<&str>, group: &str) -> Result<(), Error> {
    match owner {
        Some(owner) if owner.parse::<AccountId>()? != scope.account => Err(SecurityGroupId::not_found(group)),
        _ => Ok(()),
    }
}

/// Rules of one direction as `IpPermissions`: one entry per protocol and ports.
pub(super) fn ip_permissions<'a>(
    account: AccountId,
    rules: impl Iterator<Item = (&'a Permission, Option<&'a String>)>,
) -> Vec<ec2::IpPermission> {
    let mut by_traffic: BTreeMap<(i16, i32, i32), ec2::IpPermission> = BTreeMap::new();
    for (allows, description) in rules {
        let has_ports = allows.protocol != -1;
        let entry = by_traffic.entry((allows.protocol, allows.from, allows.to)).or_insert_with(|| ec2::IpPermission {
            ip_protocol: Some(protocol_name(allows.protocol)),
            from_port: has_ports.then_some(allows.from),
            to_port: has_ports.then_some(allows.to),
            ..ec2::IpPermission::default()
        });
        let description = description.cloned();
        match allows.peer {
            RulePeer::Cidr(net) if net.addr().is_ipv4() => {
                entry.ip_ranges.push(ec2::IpRange { cidr_ip: text(net), description });
            }
            RulePeer::Cidr(net) => entry.ipv6_ranges.push(ec2::Ipv6Range { cidr_ipv6: text(net), description }),
            RulePeer::Group(group) => entry.user_id_group_pairs.push(ec2::UserIdGroupPair {
                description,
                group_id: text(group),
                user_id: text(account),
                ..ec2::UserIdGroupPair::default()
            }),
        }
    }
    by_traffic.into_values().collect()
}

/// The CIDRs and the group of a rule, as the flat forms of rules have them: IPv4, IPv6, group.
pub(super) fn peer_fields(rule: &GroupRule) -> (Option<String>, Option<String>, Option<SecurityGroupId>) {
    match rule.allows.peer {
        RulePeer::Cidr(net) if net.addr().is_ipv4() => (text(net), None, None),
        RulePeer::Cidr(net) => (None, text(net), None),
        RulePeer::Group(group) => (None, None, Some(group)),
    }
}
