use std::sync::Arc;
use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::ec2;
use terroir_iam::names::Entity;
use terroir_types::{Arn, Error, InstanceId};

use super::describe_instances::reservations;
use super::instance_shape::Lookup;
use super::run_request;
use crate::ops;

pub struct RunInstances;

const PERMISSION: &str = "ec2:RunInstances";

/// Everything that the launch uses or makes, as in the service authorization reference of EC2.
fn resources(cx: &Context<'_>, request: &ec2::RunInstancesRequest) -> Result<Vec<Target>, Error> {
    let instance_type = request.instance_type.clone().unwrap_or_default();
    let instance = Target::on(PERMISSION, cx.ec2_arn("instance", "*"));
    let mut targets = vec![
        instance.key("ec2:InstanceType", instance_type).request_tags(&run_request::tags(request, "instance")?),
        Target::on(PERMISSION, cx.ec2_arn("volume", "*")).request_tags(&run_request::tags(request, "volume")?),
        Target::on(PERMISSION, cx.ec2_arn("network-interface", "*")),
    ];
    if let Some(image) = &request.image_id {
        let arn = Arn::new("ec2", &cx.region.name, None, format_args!("image/{image}"));
        targets.push(Target::on(PERMISSION, arn));
    }
    let interfaces = &request.network_interfaces;
    for subnet in interfaces.iter().filter_map(|i| i.subnet_id.as_ref()).chain(&request.subnet_id) {
        targets.push(Target::ec2(cx, PERMISSION, "subnet", subnet)?);
    }
    for group in interfaces.iter().flat_map(|i| &i.groups).chain(&request.security_group_ids) {
        targets.push(Target::ec2(cx, PERMISSION, "security-group", group)?);
    }
    for interface in interfaces.iter().filter_map(|i| i.network_interface_id.as_ref()) {
        targets.push(Target::ec2(cx, PERMISSION, "network-interface", interface)?);
    }
    if let Some(name) = &request.key_name {
        targets.push(Target::on(PERMISSION, cx.ec2_arn("key-pair", name)));
    }
    for snapshot in request.block_device_mappings.iter().filter_map(|m| m.ebs.as_ref()?.snapshot_id.as_ref()) {
        targets.push(Target::ec2(cx, PERMISSION, "snapshot", snapshot)?);
    }
    Ok(targets)
}

/// Giving a role to an instance is passing it on: who may launch must not thereby get a role's permissions.
fn pass_role(cx: &Context<'_>, request: &ec2::RunInstancesRequest) -> Result<Option<Target>, Error> {
    let Some(named) = &request.iam_instance_profile else { return Ok(None) };
    let account = cx.account();
    let found = terroir_iam::ops::profile_for_ec2(cx.txn, account, named.arn.as_deref(), named.name.as_deref());
    let role = match found {
        Ok(profile) => terroir_iam::ops::role_of_profile(cx.txn, &profile)?,
        // Whether the profile exists is told only to those who may pass roles at all.
        Err(_) => None,
    };
    let arn = role.map_or_else(|| Arn::iam(account, "role/*"), |role| role.arn());
    Ok(Some(Target::on("iam:PassRole", arn).key("iam:PassedToService", "ec2.amazonaws.com")))
}

impl Action for RunInstances {
    type Op = ec2::ops::RunInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let mut targets = resources(cx, request)?;
        for kind in ["instance", "volume", "network-interface"] {
            let tags = run_request::tags(request, kind)?;
            if !tags.is_empty() {
                let create = Target::on("ec2:CreateTags", cx.ec2_arn(kind, "*")).request_tags(&tags);
                targets.push(create.key("ec2:CreateAction", "RunInstances"));
            }
        }
        targets.extend(pass_role(cx, request)?);
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let launch = run_request::launch(cx, &request)?;
        let instances = ops::launch(cx, &launch)?;
        answer(cx, instances.into_iter().map(Arc::new))
    }

    /// The ids: the answer to a repeat shows the instances as they are then.
    fn receipt(response: &Response<Self>) -> Option<String> {
        let ids = response.instances.iter().filter_map(|instance| instance.instance_id.as_deref());
        Some(ids.collect::<Vec<_>>().join(" "))
    }

    fn replay(cx: &mut Context<'_>, receipt: &str) -> Result<Response<Self>, Error> {
        let ids = receipt.split(' ').map(str::parse).collect::<Result<Vec<InstanceId>, Error>>()?;
        let found = ids.iter().map(|id| ops::find_instance(cx.txn, cx.caller.account, *id));
        let found = found.collect::<Result<Vec<_>, Error>>()?;
        answer(cx, found.into_iter())
    }
}

fn answer(
    cx: &Context<'_>,
    instances: impl Iterator<Item = Arc<crate::model::Instance>>,
) -> Result<ec2::Reservation, Error> {
    let mut lookup = Lookup::new(cx);
    let rows = instances.map(|spec| lookup.row(spec)).collect::<Result<Vec<_>, Error>>()?;
    let found = reservations(cx, &rows)?.into_iter().next();
    found.ok_or_else(|| Error::internal("a launch without instances"))
}
