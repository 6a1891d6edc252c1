use std::collections::BTreeSet;
use terroir_resources::Tags;
use terroir_types::{Error, ResourceId, SecurityGroupId, SecurityGroupRuleId};

use crate::model::{GroupReference, GroupRule, Permission, RULES_PER_GROUP, RulePeer, SecurityGroup};
use crate::ops::Scope;
use crate::ops::security_group::put;

/// What is to be allowed, each with its description.
pub type RuleSet = Vec<(Permission, Option<String>)>;

const MAX_DESCRIPTION_CHARS: usize = 255;
const PROTOCOL_ALL: i16 = -1;
const ICMP: i16 = 1;
const TCP: i16 = 6;
const UDP: i16 = 17;
const ICMP_V6: i16 = 58;

/// Adds rules to a group and gives them back with their ids.
///
/// Errors: `InvalidPermission.Duplicate` for what the group allows already, `InvalidParameterValue` for the same twice
/// or a bad port range, `RulesPerSecurityGroupLimitExceeded`, `InvalidGroup.NotFound` for an unknown group in a rule,
/// those of tags. Nothing is added then.
pub fn authorize(
    scope: &mut Scope<'_>,
    id: SecurityGroupId,
    new: RuleSet,
    tags: &Tags,
) -> Result<Vec<GroupRule>, Error> {
    let before = scope.group(id)?;
    let mut group = SecurityGroup::clone(&before);
    let mut seen = BTreeSet::new();
    let mut added = Vec::with_capacity(new.len());
    for (allows, description) in new {
        let allows = canonical(allows)?;
        if !seen.insert(allows) {
            let message = "The same permission must not appear multiple times";
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        if group.rules().iter().any(|rule| rule.allows == allows) {
            let message = format!("the specified rule \"{}\" already exists", describe(&allows));
            return Err(Error::conflict("InvalidPermission.Duplicate", message));
        }
        check_description(description.as_deref())?;
        check_peer(scope, &before, allows.peer)?;
        added.push(GroupRule { id: SecurityGroupRuleId::generate(scope.ids), allows, description });
    }
    group.tenant.rules.extend(added.iter().cloned());
    check_limit(&group)?;
    for rule in &added {
        scope.register(rule.id, SecurityGroup::RULE_RESOURCE, tags.clone())?;
    }
    replace(scope, &before, &group)?;
    Ok(added)
}

/// Removes what is allowed by exactly these; gives the removed rules and those that were not there. Descriptions do
/// not count.
pub fn revoke_permissions(
    scope: &mut Scope<'_>,
    id: SecurityGroupId,
    permissions: &[Permission],
) -> Result<(Vec<GroupRule>, Vec<Permission>), Error> {
    let before = scope.group(id)?;
    let mut group = SecurityGroup::clone(&before);
    let (mut removed, mut unknown) = (Vec::new(), Vec::new());
    for permission in permissions {
        let permission = canonical(*permission)?;
        match group.tenant.rules.iter().position(|rule| rule.allows == permission) {
            Some(at) => removed.push(group.tenant.rules.remove(at)),
            None => unknown.push(permission),
        }
    }
    finish_revocation(scope, &before, &group, &removed)?;
    Ok((removed, unknown))
}

/// Removes rules of one direction by their ids.
///
/// Errors: `InvalidSecurityGroupRuleId.NotFound`; nothing is removed then.
pub fn revoke_ids(
    scope: &mut Scope<'_>,
    id: SecurityGroupId,
    egress: bool,
    rules: &[SecurityGroupRuleId],
) -> Result<Vec<GroupRule>, Error> {
    let before = scope.group(id)?;
    let mut group = SecurityGroup::clone(&before);
    let mut removed = Vec::new();
    for rule in rules {
        let wanted = |r: &GroupRule| r.id == *rule && r.allows.egress == egress;
        let at = group.tenant.rules.iter().position(wanted).ok_or_else(|| SecurityGroupRuleId::not_found(rule))?;
        removed.push(group.tenant.rules.remove(at));
    }
    finish_revocation(scope, &before, &group, &removed)?;
    Ok(removed)
}

fn finish_revocation(
    scope: &mut Scope<'_>,
    before: &SecurityGroup,
    after: &SecurityGroup,
    removed: &[GroupRule],
) -> Result<(), Error> {
    if removed.is_empty() {
        return Ok(());
    }
    for rule in removed {
        scope.unregister(rule.id)?;
    }
    replace(scope, before, after)
}

/// Writes the group and the index of the groups it refers to.
fn replace(scope: &mut Scope<'_>, before: &SecurityGroup, after: &SecurityGroup) -> Result<(), Error> {
    let (old, new) = (before.references(), after.references());
    for gone in old.difference(&new) {
        scope.txn.delete(&SecurityGroup::reference_key(*gone, after.id));
    }
    for added in new.difference(&old) {
        let key = SecurityGroup::reference_key(*added, after.id);
        scope.txn.put(&key, &GroupReference { account: scope.account })?;
    }
    put(scope, after)
}

/// The one form of everything that allows the same. Sources: EC2 API reference, `IpPermission`.
fn canonical(permission: Permission) -> Result<Permission, Error> {
    let Permission { protocol, from, to, .. } = permission;
    let peer = match permission.peer {
        RulePeer::Cidr(net) => RulePeer::Cidr(net.trunc()),
        group @ RulePeer::Group(_) => group,
    };
    let wrong = |message: String| Err(Error::invalid("InvalidParameterValue", message));
    let all = Permission { from: -1, to: -1, peer, ..permission };
    match protocol {
        TCP | UDP => {
            if !((0..=65535).contains(&from) && (0..=65535).contains(&to)) {
                return wrong(
                    "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.".into(),
                );
            }
            if from > to {
                return wrong(format!("Invalid TCP/UDP port range ({from}:{to})"));
            }
            Ok(Permission { peer, ..permission })
        }
        ICMP | ICMP_V6 => {
            if !(-1..=255).contains(&from) {
                return wrong(format!("ICMP type ({from}) out of range"));
            }
            if !(-1..=255).contains(&to) {
                return wrong(format!("ICMP code ({to}) out of range"));
            }
            if from == -1 && to != -1 {
                return wrong("Wildcard ICMP type cannot specify a non-wildcard ICMP code".into());
            }
            Ok(Permission { peer, ..permission })
        }
        PROTOCOL_ALL | 0..=255 => Ok(all),
        other => wrong(format!("Invalid value '{other}' for IP protocol. Unknown protocol.")),
    }
}

fn check_peer(scope: &Scope<'_>, group: &SecurityGroup, peer: RulePeer) -> Result<(), Error> {
    let Some(referred) = peer.group() else { return Ok(()) };
    if referred != group.id && scope.group(referred)?.vpc != group.vpc {
        let message = "You have specified two resources that belong to different networks.";
        return Err(Error::not_found(SecurityGroupId::NOT_FOUND, message));
    }
    Ok(())
}

fn check_description(description: Option<&str>) -> Result<(), Error> {
    let text = description.unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if text.chars().count() > MAX_DESCRIPTION_CHARS || !text.chars().all(allowed) {
        let message = "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*";
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    Ok(())
}

/// At most so many rules per direction; a reference counts in both address families.
fn check_limit(group: &SecurityGroup) -> Result<(), Error> {
    for egress in [false, true] {
        for v4 in [true, false] {
            let counts = |rule: &&GroupRule| {
                rule.allows.egress == egress
                    && match rule.allows.peer {
                        RulePeer::Cidr(net) => net.addr().is_ipv4() == v4,
                        RulePeer::Group(_) => true,
                    }
            };
            if group.rules().iter().filter(counts).count() > RULES_PER_GROUP {
                let message = "The maximum number of rules per security group has been reached.";
                return Err(Error::limit("RulesPerSecurityGroupLimitExceeded", message));
            }
        }
    }
    Ok(())
}

fn describe(permission: &Permission) -> String {
    let peer = match permission.peer {
        RulePeer::Cidr(net) => net.to_string(),
        RulePeer::Group(group) => group.to_string(),
    };
    match permission.protocol {
        PROTOCOL_ALL => format!("peer: {peer}, ALL, ALLOW"),
        TCP | UDP => {
            let name = if permission.protocol == TCP { "TCP" } else { "UDP" };
            format!("peer: {peer}, {name}, from port: {}, to port: {}, ALLOW", permission.from, permission.to)
        }
        ICMP => format!("peer: {peer}, ICMP, type: {}, code: {}, ALLOW", permission.from, permission.to),
        other => format!("peer: {peer}, protocol: {other}, ALLOW"),
    }
}
