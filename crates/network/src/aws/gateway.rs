use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::Tags;
use terroir_types::{Error, InternetGatewayId};

use super::listing::{Listing, maybe};
use super::{creation_targets, text};
use crate::model::{InternetGateway, Vpc};
use crate::ops::{self, Scope};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateInternetGateway>();
    registry.add::<DescribeInternetGateways>();
    registry.add::<DeleteInternetGateway>();
    registry.add::<AttachInternetGateway>();
    registry.add::<DetachInternetGateway>();
}

fn describe(gateway: &InternetGateway, tags: &Tags) -> ec2::InternetGateway {
    // An attached gateway is `available` in AWS's answers, not `attached`.
    let attachment = |vpc| ec2::InternetGatewayAttachment { state: text("available"), vpc_id: text(vpc) };
    ec2::InternetGateway {
        attachments: gateway.vpc.map(attachment).into_iter().collect(),
        internet_gateway_id: text(gateway.id),
        owner_id: text(gateway.account),
        tags: ec2_tags(tags),
    }
}

struct CreateInternetGateway;

impl Action for CreateInternetGateway {
    type Op = ec2::ops::CreateInternetGateway;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateInternetGatewayRequest) -> Result<Vec<Target>, Error> {
        creation_targets(cx, "CreateInternetGateway", InternetGateway::RESOURCE, &request.tag_specifications)
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::CreateInternetGatewayRequest,
    ) -> Result<ec2::CreateInternetGatewayResult, Error> {
        let tags = specified_tags(&request.tag_specifications, InternetGateway::RESOURCE, &[])?;
        let gateway = ops::create_gateway(&mut Scope::of(cx), tags.clone())?;
        Ok(ec2::CreateInternetGatewayResult { internet_gateway: Some(describe(&gateway, &tags)) })
    }
}

struct DescribeInternetGateways;

const FILTERS: [&str; 5] = ["attachment.state", "attachment.vpc-id", "internet-gateway-id", "owner-id", "tag"];

fn field(gateway: &InternetGateway, name: &str) -> Vec<String> {
    match name {
        "attachment.state" => maybe(gateway.vpc.map(|_| "available")),
        "attachment.vpc-id" => maybe(gateway.vpc),
        "internet-gateway-id" => vec![gateway.id.to_string()],
        "owner-id" => vec![gateway.account.to_string()],
        _ => Vec::new(),
    }
}

impl Action for DescribeInternetGateways {
    type Op = ec2::ops::DescribeInternetGateways;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeInternetGatewaysRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeInternetGateways")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeInternetGatewaysRequest,
    ) -> Result<ec2::DescribeInternetGatewaysResult, Error> {
        let ids = &request.internet_gateway_ids;
        let listing = Listing::new("DescribeInternetGateways", ids, &request.filters, &FILTERS, request.page())?;
        let (rows, next_token) = listing.rows::<InternetGatewayId, InternetGateway>(cx, field)?;
        let internet_gateways = rows.iter().map(|row| describe(&row.record, &row.tags)).collect();
        Ok(ec2::DescribeInternetGatewaysResult { internet_gateways, next_token })
    }
}

struct DeleteInternetGateway;

impl Action for DeleteInternetGateway {
    type Op = ec2::ops::DeleteInternetGateway;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteInternetGatewayRequest) -> Result<Vec<Target>, Error> {
        let kind = InternetGateway::RESOURCE;
        Ok(vec![Target::ec2(cx, "ec2:DeleteInternetGateway", kind, &request.internet_gateway_id)?])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DeleteInternetGatewayRequest) -> Result<Empty, Error> {
        ops::delete_gateway(&mut Scope::of(cx), request.internet_gateway_id.parse()?)?;
        Ok(Empty)
    }
}

fn attachment_targets(cx: &Context<'_>, permission: &str, gateway: &str, vpc: &str) -> Result<Vec<Target>, Error> {
    Ok(vec![
        Target::ec2(cx, permission, InternetGateway::RESOURCE, gateway)?,
        Target::ec2(cx, permission, Vpc::RESOURCE, vpc)?,
    ])
}

struct AttachInternetGateway;

impl Action for AttachInternetGateway {
    type Op = ec2::ops::AttachInternetGateway;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::AttachInternetGatewayRequest) -> Result<Vec<Target>, Error> {
        attachment_targets(cx, "ec2:AttachInternetGateway", &request.internet_gateway_id, &request.vpc_id)
    }

    fn run(cx: &mut Context<'_>, request: ec2::AttachInternetGatewayRequest) -> Result<Empty, Error> {
        let (gateway, vpc) = (request.internet_gateway_id.parse()?, request.vpc_id.parse()?);
        ops::attach_gateway(&mut Scope::of(cx), gateway, vpc)?;
        Ok(Empty)
    }
}

struct DetachInternetGateway;

impl Action for DetachInternetGateway {
    type Op = ec2::ops::DetachInternetGateway;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DetachInternetGatewayRequest) -> Result<Vec<Target>, Error> {
        attachment_targets(cx, "ec2:DetachInternetGateway", &request.internet_gateway_id, &request.vpc_id)
    }

    fn run(cx: &mut Context<'_>, request: ec2::DetachInternetGatewayRequest) -> Result<Empty, Error> {
        let (gateway, vpc) = (request.internet_gateway_id.parse()?, request.vpc_id.parse()?);
        ops::detach_gateway(&mut Scope::of(cx), gateway, vpc)?;
        Ok(Empty)
    }
}
