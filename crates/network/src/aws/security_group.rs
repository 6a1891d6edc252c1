use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target};
use terroir_aws_model::{Decode, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, ResourceId, SecurityGroupId, VpcId};

use super::listing::Listing;
use super::permissions::{ip_permissions, protocol_name};
use super::{creation_targets, exactly_one, text};
use crate::model::{RulePeer, SecurityGroup, Vpc};
use crate::ops::{self, NewGroup, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateSecurityGroup>();
    registry.add::<DescribeSecurityGroups>();
    registry.add::<DeleteSecurityGroup>();
}

fn describe(cx: &Context<'_>, group: &SecurityGroup, tags: &Tags) -> ec2::SecurityGroup {
    let permissions = |egress: bool| {
        let rules = group.rules().iter().filter(|rule| rule.allows.egress == egress);
        ip_permissions(group.account, rules.map(|rule| (&rule.allows, rule.description.as_ref())))
    };
    ec2::SecurityGroup {
        description: text(&group.tenant.description),
        group_id: text(group.id),
        group_name: text(group.name()),
        ip_permissions: permissions(false),
        ip_permissions_egress: permissions(true),
        owner_id: text(group.account),
        security_group_arn: text(cx.ec2_arn(SecurityGroup::RESOURCE, group.id)),
        tags: ec2_tags(tags),
        vpc_id: text(group.vpc),
    }
}

/// The default VPC, which actions mean that name no other.
pub(super) fn default_vpc(scope: &Scope<'_>) -> Result<VpcId, Error> {
    let vpc = ops::default_vpc(scope)?;
    vpc.map(|vpc| vpc.id).ok_or_else(|| Error::invalid("VPCIdNotSpecified", "No default VPC for this user"))
}

/// The group that a request means by its id, or by its name in the default VPC.
///
/// Errors: `MissingParameter`, `InvalidParameterCombination`, malformed and unknown ids and names.
pub(super) fn named_group(scope: &Scope<'_>, id: Option<&str>, name: Option<&str>) -> Result<SecurityGroupId, Error> {
    match exactly_one(&[("GroupId", id), ("GroupName", name)])? {
        (0, id) => id.parse(),
        (_, name) => {
            let unknown = || {
                let message = format!("The security group '{name}' does not exist in the default VPC");
                Error::not_found(SecurityGroupId::NOT_FOUND, message)
            };
            let vpc = ops::default_vpc(scope)?.ok_or_else(unknown)?;
            Ok(ops::find_group_by_name(scope.txn, scope.account, vpc.id, name)?.id)
        }
    }
}

/// The permission on the group that a request means. A name that means nothing stands for any group, so the answer
/// does not tell an unauthorised caller that it exists.
pub(super) fn group_target(
    cx: &Context<'_>,
    permission: &str,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Target, Error> {
    if let Some(id) = id {
        return Target::ec2(cx, permission, SecurityGroup::RESOURCE, id);
    }
    let default = cx.txn.peek::<crate::model::DefaultVpc>(&crate::model::DefaultVpc::key(cx.account()))?;
    if let (Some(default), Some(name)) = (default, name)
        && let Ok(group) = ops::find_group_by_name(cx.txn, cx.account(), default.vpc, name)
    {
        return Target::ec2(cx, permission, SecurityGroup::RESOURCE, group.id);
    }
    Ok(Target::on(permission, cx.ec2_arn(SecurityGroup::RESOURCE, "*")))
}

struct CreateSecurityGroup;

impl Action for CreateSecurityGroup {
    type Op = ec2::ops::CreateSecurityGroup;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateSecurityGroupRequest) -> Result<Vec<Target>, Error> {
        let kind = SecurityGroup::RESOURCE;
        let mut targets = creation_targets(cx, "CreateSecurityGroup", kind, &request.tag_specifications)?;
        if let Some(vpc) = &request.vpc_id {
            targets.push(Target::ec2(cx, "ec2:CreateSecurityGroup", Vpc::RESOURCE, vpc)?);
        }
        Ok(targets)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::CreateSecurityGroupRequest,
    ) -> Result<ec2::CreateSecurityGroupResult, Error> {
        let tags = specified_tags(&request.tag_specifications, SecurityGroup::RESOURCE, &[])?;
        let scope = &mut Scope::of(cx);
        let vpc = match &request.vpc_id {
            Some(id) => id.parse()?,
            None => default_vpc(scope)?,
        };
        let new = NewGroup { vpc, name: request.group_name, description: request.description, tags: tags.clone() };
        let group = ops::create_group(scope, new)?;
        Ok(ec2::CreateSecurityGroupResult {
            group_id: text(group.id),
            security_group_arn: text(cx.ec2_arn(SecurityGroup::RESOURCE, group.id)),
            tags: ec2_tags(&tags),
        })
    }
}

struct DescribeSecurityGroups;

const FILTERS: [&str; 24] = [
    "description",
    "egress.ip-permission.cidr",
    "egress.ip-permission.from-port",
    "egress.ip-permission.group-id",
    "egress.ip-permission.group-name",
    "egress.ip-permission.ipv6-cidr",
    "egress.ip-permission.prefix-list-id",
    "egress.ip-permission.protocol",
    "egress.ip-permission.to-port",
    "egress.ip-permission.user-id",
    "group-id",
    "group-name",
    "ip-permission.cidr",
    "ip-permission.from-port",
    "ip-permission.group-id",
    "ip-permission.group-name",
    "ip-permission.ipv6-cidr",
    "ip-permission.prefix-list-id",
    "ip-permission.protocol",
    "ip-permission.to-port",
    "ip-permission.user-id",
    "owner-id",
    "tag",
    "vpc-id",
];

fn field(cx: &Context<'_>, group: &SecurityGroup, name: &str) -> Vec<String> {
    match name {
        "description" => vec![group.tenant.description.clone()],
        "group-id" => vec![group.id.to_string()],
        "group-name" => vec![group.name().to_owned()],
        "owner-id" => vec![group.account.to_string()],
        "vpc-id" => vec![group.vpc.to_string()],
        _ => match (name.strip_prefix("egress.ip-permission."), name.strip_prefix("ip-permission.")) {
            (Some(part), _) => rule_field(cx, group, true, part),
            (None, Some(part)) => rule_field(cx, group, false, part),
            (None, None) => Vec::new(),
        },
    }
}

fn rule_field(cx: &Context<'_>, group: &SecurityGroup, egress: bool, part: &str) -> Vec<String> {
    let rules = group.rules().iter().filter(|rule| rule.allows.egress == egress);
    let referred = |id: SecurityGroupId| {
        // A group whose name cannot be read has none that a filter could match.
        let key = SecurityGroup::key(group.account, id);
        cx.txn.peek::<SecurityGroup>(&key).ok().flatten().map(|group| group.name().to_owned())
    };
    let value = |rule: &crate::model::GroupRule| match (part, rule.allows.peer) {
        ("from-port", _) => Some(rule.allows.from.to_string()),
        ("to-port", _) => Some(rule.allows.to.to_string()),
        ("protocol", _) => Some(protocol_name(rule.allows.protocol)),
        ("cidr", RulePeer::Cidr(net)) if net.addr().is_ipv4() => Some(net.to_string()),
        ("ipv6-cidr", RulePeer::Cidr(net)) if net.addr().is_ipv6() => Some(net.to_string()),
        ("group-id", RulePeer::Group(id)) => Some(id.to_string()),
        ("group-name", RulePeer::Group(id)) => referred(id),
        ("user-id", RulePeer::Group(_)) => Some(group.account.to_string()),
        _ => None,
    };
    rules.filter_map(value).collect()
}

impl Action for DescribeSecurityGroups {
    type Op = ec2::ops::DescribeSecurityGroups;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeSecurityGroupsRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeSecurityGroups")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeSecurityGroupsRequest,
    ) -> Result<ec2::DescribeSecurityGroupsResult, Error> {
        let mut ids = request.group_ids.clone();
        if !request.group_names.is_empty() {
            let scope = Scope::of(cx);
            for name in &request.group_names {
                ids.push(named_group(&scope, None, Some(name))?.to_string());
            }
        }
        let listing = Listing::new("DescribeSecurityGroups", &ids, &request.filters, &FILTERS, request.page())?;
        let (rows, next_token) =
            listing.rows::<SecurityGroupId, SecurityGroup>(cx, |group, name| field(cx, group, name))?;
        let security_groups = rows.iter().map(|row| describe(cx, &row.record, &row.tags)).collect();
        Ok(ec2::DescribeSecurityGroupsResult { next_token, security_groups })
    }
}

struct DeleteSecurityGroup;

impl Action for DeleteSecurityGroup {
    type Op = ec2::ops::DeleteSecurityGroup;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteSecurityGroupRequest) -> Result<Vec<Target>, Error> {
        let (id, name) = (request.group_id.as_deref(), request.group_name.as_deref());
        Ok(vec![group_target(cx, "ec2:DeleteSecurityGroup", id, name)?])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DeleteSecurityGroupRequest,
    ) -> Result<ec2::DeleteSecurityGroupResult, Error> {
        let scope = &mut Scope::of(cx);
        let id = named_group(scope, request.group_id.as_deref(), request.group_name.as_deref())?;
        ops::delete_group(scope, id)?;
        Ok(ec2::DeleteSecurityGroupResult { group_id: text(id), return_: Some(true) })
    }
}
