use std::sync::Arc;
use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Bounds, Context, Filters, Registry, Target, paginate};
use terroir_aws_model::{Decode, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, ResourceId, SecurityGroupId, SecurityGroupRuleId};

use super::permissions::{LoosePermission, ip_permissions, peer_fields, protocol_name, requested};
use super::security_group::{group_target, named_group};
use super::text;
use crate::model::{GroupRule, Permission, SecurityGroup, objects_of};
use crate::ops::{self, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<AuthorizeSecurityGroupIngress>();
    registry.add::<AuthorizeSecurityGroupEgress>();
    registry.add::<RevokeSecurityGroupIngress>();
    registry.add::<RevokeSecurityGroupEgress>();
    registry.add::<DescribeSecurityGroupRules>();
}

fn describe(cx: &Context<'_>, group: &SecurityGroup, rule: &GroupRule, tags: &Tags) -> ec2::SecurityGroupRule {
    let (cidr_ipv4, cidr_ipv6, referred) = peer_fields(rule);
    let referenced_group_info = referred.map(|id| ec2::ReferencedSecurityGroup {
        group_id: text(id),
        user_id: text(group.account),
        vpc_id: text(group.vpc),
        ..ec2::ReferencedSecurityGroup::default()
    });
    ec2::SecurityGroupRule {
        cidr_ipv4,
        cidr_ipv6,
        description: rule.description.clone(),
        from_port: Some(rule.allows.from),
        group_id: text(group.id),
        group_owner_id: text(group.account),
        ip_protocol: Some(protocol_name(rule.allows.protocol)),
        is_egress: Some(rule.allows.egress),
        prefix_list_id: None,
        referenced_group_info,
        security_group_rule_arn: text(cx.ec2_arn(SecurityGroup::RULE_RESOURCE, rule.id)),
        security_group_rule_id: text(rule.id),
        tags: ec2_tags(tags),
        to_port: Some(rule.allows.to),
    }
}

fn revoked(group: SecurityGroupId, rule: &GroupRule) -> ec2::RevokedSecurityGroupRule {
    let (cidr_ipv4, cidr_ipv6, referred) = peer_fields(rule);
    ec2::RevokedSecurityGroupRule {
        cidr_ipv4,
        cidr_ipv6,
        description: rule.description.clone(),
        from_port: Some(rule.allows.from),
        group_id: text(group),
        ip_protocol: Some(protocol_name(rule.allows.protocol)),
        is_egress: Some(rule.allows.egress),
        prefix_list_id: None,
        referenced_group_id: referred.map(|id| id.to_string()),
        security_group_rule_id: text(rule.id),
        to_port: Some(rule.allows.to),
    }
}

/// The rule parameters of the four actions, which have the same names but different types.
macro_rules! loose {
    ($request:ident) => {
        LoosePermission {
            protocol: $request.ip_protocol.as_deref(),
            from_port: $request.from_port,
            to_port: $request.to_port,
            cidr: $request.cidr_ip.as_deref(),
            source_group_name: $request.source_security_group_name.as_deref(),
            source_group_owner: $request.source_security_group_owner_id.as_deref(),
        }
    };
}

fn authorization_targets(
    cx: &Context<'_>,
    permission: &str,
    group: (Option<&str>, Option<&str>),
    specifications: &[ec2::TagSpecification],
) -> Result<Vec<Target>, Error> {
    let tags = specified_tags(specifications, SecurityGroup::RULE_RESOURCE, &[])?;
    let mut targets = vec![group_target(cx, permission, group.0, group.1)?];
    if !tags.is_empty() {
        let tagging = Target::on("ec2:CreateTags", cx.ec2_arn(SecurityGroup::RULE_RESOURCE, "*"));
        targets.push(tagging.request_tags(&tags).key("ec2:CreateAction", permission.trim_start_matches("ec2:")));
    }
    Ok(targets)
}

fn authorize(
    cx: &mut Context<'_>,
    group: SecurityGroupId,
    egress: bool,
    loose: &LoosePermission<'_>,
    permissions: &[ec2::IpPermission],
    specifications: &[ec2::TagSpecification],
) -> Result<Vec<ec2::SecurityGroupRule>, Error> {
    let tags = specified_tags(specifications, SecurityGroup::RULE_RESOURCE, &[])?;
    let scope = &mut Scope::of(cx);
    let record = scope.group(group)?;
    let rules = requested(scope, &record, egress, loose, permissions)?;
    let added = ops::authorize(scope, group, rules, &tags)?;
    Ok(added.iter().map(|rule| describe(cx, &record, rule, &tags)).collect())
}

struct AuthorizeSecurityGroupIngress;

impl Action for AuthorizeSecurityGroupIngress {
    type Op = ec2::ops::AuthorizeSecurityGroupIngress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AuthorizeSecurityGroupIngressRequest) -> Result<Vec<Target>, Error> {
        let group = (request.group_id.as_deref(), request.group_name.as_deref());
        authorization_targets(cx, "ec2:AuthorizeSecurityGroupIngress", group, &request.tag_specifications)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::AuthorizeSecurityGroupIngressRequest,
    ) -> Result<ec2::AuthorizeSecurityGroupIngressResult, Error> {
        let group = named_group(&Scope::of(cx), request.group_id.as_deref(), request.group_name.as_deref())?;
        let loose = loose!(request);
        let security_group_rules =
            authorize(cx, group, false, &loose, &request.ip_permissions, &request.tag_specifications)?;
        Ok(ec2::AuthorizeSecurityGroupIngressResult { return_: Some(true), security_group_rules })
    }
}

struct AuthorizeSecurityGroupEgress;

impl Action for AuthorizeSecurityGroupEgress {
    type Op = ec2::ops::AuthorizeSecurityGroupEgress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AuthorizeSecurityGroupEgressRequest) -> Result<Vec<Target>, Error> {
        let group = (Some(request.group_id.as_str()), None);
        authorization_targets(cx, "ec2:AuthorizeSecurityGroupEgress", group, &request.tag_specifications)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::AuthorizeSecurityGroupEgressRequest,
    ) -> Result<ec2::AuthorizeSecurityGroupEgressResult, Error> {
        let loose = loose!(request);
        let group = request.group_id.parse()?;
        let security_group_rules =
            authorize(cx, group, true, &loose, &request.ip_permissions, &request.tag_specifications)?;
        Ok(ec2::AuthorizeSecurityGroupEgressResult { return_: Some(true), security_group_rules })
    }
}

/// What a revocation did: the rules that went, and those that were not there.
struct Revocation {
    rules: Vec<ec2::RevokedSecurityGroupRule>,
    unknown: Vec<ec2::IpPermission>,
}

/// In a default VPC, rules that are not there are named in the answer; elsewhere they are an error and nothing is
/// revoked (RevokeSecurityGroupIngress in AWS's reference).
fn revoke(
    cx: &mut Context<'_>,
    group: SecurityGroupId,
    egress: bool,
    loose: &LoosePermission<'_>,
    permissions: &[ec2::IpPermission],
    ids: &[String],
) -> Result<Revocation, Error> {
    let scope = &mut Scope::of(cx);
    let record = scope.group(group)?;
    if !ids.is_empty() {
        if loose.is_given() || !permissions.is_empty() {
            let message =
                "The parameter securityGroupRuleIds may not be used in combination with other rule parameters";
            return Err(Error::invalid("InvalidParameterCombination", message));
        }
        let ids: Vec<SecurityGroupRuleId> = ids.iter().map(|id| id.parse()).collect::<Result<_, Error>>()?;
        let removed = ops::revoke_ids(scope, group, egress, &ids)?;
        return Ok(Revocation {
            rules: removed.iter().map(|rule| revoked(group, rule)).collect(),
            unknown: Vec::new(),
        });
    }
    let wanted = requested(scope, &record, egress, loose, permissions)?;
    let wanted: Vec<Permission> = wanted.into_iter().map(|(permission, _)| permission).collect();
    let (removed, unknown) = ops::revoke_permissions(scope, group, &wanted)?;
    if !unknown.is_empty() && !scope.vpc(record.vpc)?.is_default {
        let message = "The specified rule does not exist in this security group.";
        return Err(Error::not_found("InvalidPermission.NotFound", message));
    }
    Ok(Revocation {
        rules: removed.iter().map(|rule| revoked(group, rule)).collect(),
        unknown: ip_permissions(record.account, unknown.iter().map(|permission| (permission, None))),
    })
}

struct RevokeSecurityGroupIngress;

impl Action for RevokeSecurityGroupIngress {
    type Op = ec2::ops::RevokeSecurityGroupIngress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::RevokeSecurityGroupIngressRequest) -> Result<Vec<Target>, Error> {
        let (id, name) = (request.group_id.as_deref(), request.group_name.as_deref());
        Ok(vec![group_target(cx, "ec2:RevokeSecurityGroupIngress", id, name)?])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::RevokeSecurityGroupIngressRequest,
    ) -> Result<ec2::RevokeSecurityGroupIngressResult, Error> {
        let group = named_group(&Scope::of(cx), request.group_id.as_deref(), request.group_name.as_deref())?;
        let loose = loose!(request);
        let done = revoke(cx, group, false, &loose, &request.ip_permissions, &request.security_group_rule_ids)?;
        Ok(ec2::RevokeSecurityGroupIngressResult {
            return_: Some(true),
            revoked_security_group_rules: done.rules,
            unknown_ip_permissions: done.unknown,
        })
    }
}

struct RevokeSecurityGroupEgress;

impl Action for RevokeSecurityGroupEgress {
    type Op = ec2::ops::RevokeSecurityGroupEgress;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::RevokeSecurityGroupEgressRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![group_target(cx, "ec2:RevokeSecurityGroupEgress", Some(&request.group_id), None)?])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::RevokeSecurityGroupEgressRequest,
    ) -> Result<ec2::RevokeSecurityGroupEgressResult, Error> {
        let loose = loose!(request);
        let group = request.group_id.parse()?;
        let done = revoke(cx, group, true, &loose, &request.ip_permissions, &request.security_group_rule_ids)?;
        Ok(ec2::RevokeSecurityGroupEgressResult {
            return_: Some(true),
            revoked_security_group_rules: done.rules,
            unknown_ip_permissions: done.unknown,
        })
    }
}

struct DescribeSecurityGroupRules;

impl Action for DescribeSecurityGroupRules {
    type Op = ec2::ops::DescribeSecurityGroupRules;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeSecurityGroupRulesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeSecurityGroupRules")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeSecurityGroupRulesRequest,
    ) -> Result<ec2::DescribeSecurityGroupRulesResult, Error> {
        let named = request.filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
        let filters = Filters::parse(named, &["group-id", "security-group-rule-id", "tag"])?;
        let ids = request.security_group_rule_ids.iter().map(|id| id.parse());
        let ids: Vec<SecurityGroupRuleId> = ids.collect::<Result<_, Error>>()?;

        let mut found: Vec<(String, ec2::SecurityGroupRule)> = Vec::new();
        for group in groups_to_search(cx, &filters)? {
            for rule in group.rules().iter().filter(|rule| ids.is_empty() || ids.contains(&rule.id)) {
                let id = rule.id.to_string();
                let tags = terroir_resources::tags(cx.txn, cx.account(), &id)?;
                let matches = filters.matches(&tags, |name| match name {
                    "group-id" => vec![group.id.to_string()],
                    "security-group-rule-id" => vec![id.clone()],
                    _ => Vec::new(),
                });
                if matches {
                    found.push((id.clone(), describe(cx, &group, rule, &tags)));
                }
            }
        }
        if filters.is_empty()
            && let Some(unknown) = ids.iter().find(|id| !found.iter().any(|(known, _)| *known == id.to_string()))
        {
            return Err(SecurityGroupRuleId::not_found(unknown));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let scope = format!("{ids:?}&{}", filters.canonical());
        let found = found.into_iter();
        let (security_group_rules, next_token) =
            paginate(cx, "DescribeSecurityGroupRules", &scope, request.page(), Bounds::EC2, found)?;
        Ok(ec2::DescribeSecurityGroupRulesResult { next_token, security_group_rules })
    }
}

/// The one group that the filters name, or all of the account's.
fn groups_to_search(cx: &Context<'_>, filters: &Filters) -> Result<Vec<Arc<SecurityGroup>>, Error> {
    if let Some(id) = filters.exact("group-id") {
        // What is no id is nobody's.
        let Ok(id) = id.parse() else { return Ok(Vec::new()) };
        let group = cx.txn.peek::<SecurityGroup>(&SecurityGroup::key(cx.account(), id))?;
        return Ok(group.into_iter().collect());
    }
    let all = cx.txn.peek_range::<SecurityGroup>(&objects_of("security-group", cx.account()))?;
    Ok(all.into_iter().map(|(_, group)| group).collect())
}
