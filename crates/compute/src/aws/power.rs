use std::collections::BTreeSet;
use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::{Empty, ec2};
use terroir_block_storage::aws::parse_ids;
use terroir_types::{Error, ErrorClass, InstanceId};

use super::instance_shape::state;
use crate::ops::{self, StateChange};

fn targets(cx: &Context<'_>, permission: &str, ids: &[String]) -> Result<Vec<Target>, Error> {
    if ids.is_empty() {
        return Ok(vec![Target::any(permission)]);
    }
    ids.iter().map(|id| Target::ec2(cx, permission, "instance", id)).collect()
}

/// The instances that a command names, each once, all of them there.
fn instances(cx: &Context<'_>, ids: &[String]) -> Result<Vec<InstanceId>, Error> {
    if ids.is_empty() {
        return Err(Error::invalid("MissingParameter", "The request must contain the parameter InstanceId"));
    }
    let mut seen = BTreeSet::new();
    let mut ids = parse_ids::<InstanceId>(ids)?;
    ids.retain(|id| seen.insert(*id));
    ops::all_exist(cx.txn, cx.account(), &ids)?;
    Ok(ids)
}

fn change(change: StateChange) -> ec2::InstanceStateChange {
    ec2::InstanceStateChange {
        current_state: Some(state(change.current)),
        instance_id: Some(change.instance.to_string()),
        previous_state: Some(state(change.previous)),
    }
}

pub struct StartInstances;

impl Action for StartInstances {
    type Op = ec2::ops::StartInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        targets(cx, "ec2:StartInstances", &request.instance_ids)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let mut starting_instances = Vec::new();
        for id in instances(cx, &request.instance_ids)? {
            starting_instances.push(change(ops::start(cx, id)?));
        }
        Ok(ec2::StartInstancesResult { starting_instances })
    }
}

pub struct StopInstances;

impl Action for StopInstances {
    type Op = ec2::ops::StopInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        targets(cx, "ec2:StopInstances", &request.instance_ids)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        if request.hibernate == Some(true) {
            let message = "Hibernation is not available here.";
            return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
        }
        let force = request.force == Some(true) || request.skip_os_shutdown == Some(true);
        let mut stopping_instances = Vec::new();
        for id in instances(cx, &request.instance_ids)? {
            stopping_instances.push(change(ops::stop(cx.txn, cx.caller.account, id, force, cx.now)?));
        }
        Ok(ec2::StopInstancesResult { stopping_instances })
    }
}

pub struct RebootInstances;

impl Action for RebootInstances {
    type Op = ec2::ops::RebootInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        targets(cx, "ec2:RebootInstances", &request.instance_ids)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        for id in instances(cx, &request.instance_ids)? {
            ops::reboot(cx.txn, cx.caller.account, id)?;
        }
        Ok(Empty)
    }
}

pub struct TerminateInstances;

impl Action for TerminateInstances {
    type Op = ec2::ops::TerminateInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        targets(cx, "ec2:TerminateInstances", &request.instance_ids)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let mut terminating_instances = Vec::new();
        for id in instances(cx, &request.instance_ids)? {
            terminating_instances.push(change(ops::terminate(cx.txn, cx.caller.account, id, cx.now)?));
        }
        Ok(ec2::TerminateInstancesResult { terminating_instances })
    }
}
