use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, ResourceId, SecurityGroupId, SecurityGroupRuleId, VpcId};

use crate::model::{
    GROUPS_PER_INTERFACE, GroupName, GroupOwner, GroupReference, GroupRule, Permission, RulePeer, SecurityGroup,
    SecurityGroupTenant, Vpc, VpcChild,
};
use crate::ops::Scope;
use crate::ops::subnet::key_id;

const GROUPS_PER_ACCOUNT: i64 = 2500;
const MAX_TEXT_CHARS: usize = 255;

#[derive(Debug, Clone)]
pub struct NewGroup {
    pub vpc: VpcId,
    pub name: String,
    pub description: String,
    pub tags: Tags,
}

/// Makes a group that lets everything out and nothing in.
///
/// Errors: `InvalidGroup.Duplicate`, `InvalidGroup.Reserved`, `InvalidParameterValue` for names and descriptions that
/// AWS does not allow, `SecurityGroupLimitExceeded`, `InvalidVpcID.NotFound`, those of tags.
pub fn create_group(scope: &mut Scope<'_>, new: NewGroup) -> Result<Arc<SecurityGroup>, Error> {
    check_text(&new.name, "GroupName")?;
    check_text(&new.description, "GroupDescription")?;
    if new.name.starts_with("sg-") {
        let message = "Invalid security group name. Group names may not be in the format sg-*";
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    if new.name == "default" {
        return Err(Error::invalid("InvalidGroup.Reserved", "Cannot use reserved security group name: default"));
    }
    scope.vpc(new.vpc)?;
    let limit = "SecurityGroupLimitExceeded";
    scope.count("security-groups", GROUPS_PER_ACCOUNT, limit, "security groups")?;
    let id = SecurityGroupId::generate(scope.ids);
    insert_group(scope, id, false, new)
}

/// Letters, digits, spaces and `._-:/()#,@[]+=&;{}!$*`, 1 to 255 of them (CreateSecurityGroup's own words).
fn check_text(text: &str, parameter: &str) -> Result<(), Error> {
    let wrong = |why: &str| {
        let message = format!("Value ({text}) for parameter {parameter} is invalid. {why}");
        Err(Error::invalid("InvalidParameterValue", message))
    };
    if text.is_empty() || text.trim() != text && text.trim().is_empty() {
        return wrong("The value cannot be empty.");
    }
    if text.chars().count() > MAX_TEXT_CHARS {
        return wrong("The value must be at most 255 characters long.");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if !text.chars().all(allowed) {
        return wrong("Valid characters are a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$*");
    }
    Ok(())
}

pub(crate) fn insert_group(
    scope: &mut Scope<'_>,
    id: SecurityGroupId,
    is_default: bool,
    new: NewGroup,
) -> Result<Arc<SecurityGroup>, Error> {
    let name_key = name_key(scope.txn, scope.account, new.vpc, &new.name);
    if scope.txn.get::<GroupName>(&name_key)?.is_some() {
        let message = format!("The security group '{}' already exists for VPC '{}'", new.name, new.vpc);
        return Err(Error::conflict("InvalidGroup.Duplicate", message));
    }
    scope.txn.put(&name_key, &GroupName { group: id })?;
    scope.txn.put(&Vpc::child(new.vpc, SecurityGroup::RESOURCE, id), &VpcChild { account: scope.account })?;
    scope.txn.put(&SecurityGroup::owner_key(id), &GroupOwner { account: scope.account })?;
    let mut rules = vec![everything(scope, true, RulePeer::Cidr(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into()))];
    if is_default {
        rules.push(everything(scope, false, RulePeer::Group(id)));
    }
    let group = SecurityGroup {
        account: scope.account,
        id,
        vpc: new.vpc,
        is_default,
        tenant: SecurityGroupTenant { name: new.name, description: new.description, rules },
    };
    scope.register(id, SecurityGroup::RESOURCE, new.tags)?;
    for rule in group.rules() {
        scope.register(rule.id, SecurityGroup::RULE_RESOURCE, Tags::new())?;
    }
    for referred in group.references() {
        let reference = SecurityGroup::reference_key(referred, id);
        scope.txn.put(&reference, &GroupReference { account: scope.account })?;
    }
    put(scope, &group)?;
    Ok(Arc::new(group))
}

fn everything(scope: &Scope<'_>, egress: bool, peer: RulePeer) -> GroupRule {
    let allows = Permission { egress, protocol: -1, from: -1, to: -1, peer };
    GroupRule { id: SecurityGroupRuleId::generate(scope.ids), allows, description: None }
}

/// Errors: `InvalidGroup.NotFound`; `CannotDelete` for a default group; `DependencyViolation` while an interface is in
/// it or another group refers to it.
pub fn delete_group(scope: &mut Scope<'_>, id: SecurityGroupId) -> Result<(), Error> {
    let group = scope.group(id)?;
    if group.is_default {
        let message = format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user");
        return Err(Error::invalid("CannotDelete", message));
    }
    remove_group(scope, &group)?;
    scope.uncount("security-groups")
}

pub(crate) fn remove_group(scope: &mut Scope<'_>, group: &SecurityGroup) -> Result<(), Error> {
    let id = group.id;
    let references = scope.txn.range::<GroupReference>(&SecurityGroup::references_to(id))?;
    let own = SecurityGroup::reference_key(id, id);
    if references.iter().any(|(key, _)| *key != own) || scope.txn.exists(&SecurityGroup::members(id)) {
        return Err(Error::conflict("DependencyViolation", format!("resource {id} has a dependent object")));
    }
    for referred in group.references() {
        scope.txn.delete(&SecurityGroup::reference_key(referred, id));
    }
    for rule in group.rules() {
        scope.unregister(rule.id)?;
    }
    let name_key = name_key(scope.txn, scope.account, group.vpc, group.name());
    scope.txn.delete(&name_key);
    scope.txn.delete(&SecurityGroup::owner_key(id));
    scope.txn.delete(&Vpc::child(group.vpc, SecurityGroup::RESOURCE, id));
    scope.txn.delete(&SecurityGroup::key(scope.account, id));
    scope.unregister(id)
}

/// The group of that name in a VPC.
///
/// Errors: `InvalidGroup.NotFound`.
pub fn find_group_by_name(txn: &Txn, account: AccountId, vpc: VpcId, name: &str) -> Result<Arc<SecurityGroup>, Error> {
    let unknown = || {
        let message = format!("The security group '{name}' does not exist in VPC '{vpc}'");
        Error::not_found(SecurityGroupId::NOT_FOUND, message)
    };
    let row = txn.get::<GroupName>(&name_key(txn, account, vpc, name))?.ok_or_else(unknown)?;
    txn.get::<SecurityGroup>(&SecurityGroup::key(account, row.group))?.ok_or_else(unknown)
}

/// The groups that an interface gets: those named by id and by name, or else the VPC's default group.
///
/// Errors: `InvalidGroup.NotFound`, `InvalidParameterValue` for a group of another VPC,
/// `SecurityGroupsPerInterfaceLimitExceeded`.
pub fn resolve_groups(
    txn: &Txn,
    account: AccountId,
    vpc: VpcId,
    ids: &[SecurityGroupId],
    names: &[String],
) -> Result<BTreeSet<SecurityGroupId>, Error> {
    let mut groups = BTreeSet::new();
    for id in ids {
        let group = txn.get::<SecurityGroup>(&SecurityGroup::key(account, *id))?;
        let group = group.ok_or_else(|| SecurityGroupId::not_found(id))?;
        if group.vpc != vpc {
            let message = format!("Security group {id} and VPC {vpc} belong to different networks.");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        groups.insert(*id);
    }
    for name in names {
        groups.insert(find_group_by_name(txn, account, vpc, name)?.id);
    }
    if groups.is_empty() {
        let vpc = txn.get::<Vpc>(&Vpc::key(account, vpc))?.ok_or_else(|| VpcId::not_found(vpc))?;
        groups.insert(vpc.default_group);
    }
    if groups.len() > GROUPS_PER_INTERFACE {
        let message = format!(
            "You have exceeded the maximum number of security groups allowed per network interface ({GROUPS_PER_INTERFACE})."
        );
        return Err(Error::limit("SecurityGroupsPerInterfaceLimitExceeded", message));
    }
    Ok(groups)
}

/// The groups with a rule that refers to `group`, and whose groups they are.
pub(crate) fn referring(txn: &Txn, group: SecurityGroupId) -> Result<Vec<(SecurityGroupId, AccountId)>, Error> {
    let references = txn.peek_range::<GroupReference>(&SecurityGroup::references_to(group))?;
    references.into_iter().map(|(key, row)| Ok((key_id(&key)?, row.account))).collect()
}

pub(crate) fn put(scope: &mut Scope<'_>, group: &SecurityGroup) -> Result<(), Error> {
    scope.txn.put(&SecurityGroup::key(scope.account, group.id), group)
}

fn name_key(txn: &Txn, account: AccountId, vpc: VpcId, name: &str) -> Key {
    let mac = txn.name_mac(Some(account), "security-group", name);
    Key::new(format!("group-name/{vpc}/{mac}"))
}
