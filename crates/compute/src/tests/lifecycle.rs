//! From pending to collected, and what accidents do.

use terroir_agent_api::EndCause;
use terroir_aws_model::ec2;
use terroir_metering::Measure;
use terroir_types::InstanceId;

use super::{Cloud, ROOMY, code};
use crate::aws::{DescribeInstanceStatus, RebootInstances, StartInstances, StopInstances, TerminateInstances};
use crate::model::{HostCapacity, host_capacity_key};
use crate::ops;
use crate::state::InstanceState as S;

fn ids(id: InstanceId) -> Vec<String> {
    vec![id.to_string()]
}

fn stop(id: InstanceId) -> ec2::StopInstancesRequest {
    ec2::StopInstancesRequest { instance_ids: ids(id), ..Default::default() }
}

fn start(id: InstanceId) -> ec2::StartInstancesRequest {
    ec2::StartInstancesRequest { instance_ids: ids(id), ..Default::default() }
}

fn reboot(id: InstanceId) -> ec2::RebootInstancesRequest {
    ec2::RebootInstancesRequest { instance_ids: ids(id), ..Default::default() }
}

fn terminate(id: InstanceId) -> ec2::TerminateInstancesRequest {
    ec2::TerminateInstancesRequest { instance_ids: ids(id), ..Default::default() }
}

/// Codes of the four commands in the instance's present state; none of them changes it if it answers an error.
async fn commands(cloud: &Cloud, id: InstanceId) -> [String; 3] {
    [
        code(&cloud.world.call::<StartInstances>(start(id)).await).to_owned(),
        code(&cloud.world.call::<StopInstances>(stop(id)).await).to_owned(),
        code(&cloud.world.call::<RebootInstances>(reboot(id)).await).to_owned(),
    ]
}

#[tokio::test]
async fn a_life_from_launch_to_collection() {
    const WRONG: &str = "IncorrectInstanceState";
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.expect(id, S::Pending).await;
    assert_eq!(commands(&cloud, id).await, ["ok", WRONG, "ok"], "pending");
    cloud.settle().await;
    cloud.expect(id, S::Running).await;
    let running = cloud.describe(id).await;
    assert!(running.public_ip_address.is_some());
    assert_eq!(code(&cloud.world.call::<RebootInstances>(reboot(id)).await), "ok");
    cloud.world.advance(100);
    let change = cloud.world.call::<StopInstances>(stop(id)).await.unwrap().stopping_instances.remove(0);
    assert_eq!(change.previous_state.unwrap().name.as_deref(), Some("running"));
    assert_eq!(change.current_state.unwrap().name.as_deref(), Some("stopping"));
    assert_eq!(commands(&cloud, id).await, [WRONG, "ok", WRONG], "stopping");
    cloud.settle().await;
    cloud.expect(id, S::Stopped).await;
    let stopped = cloud.describe(id).await;
    assert_eq!(stopped.public_ip_address, None, "a pooled address goes at stop");
    assert_eq!(stopped.private_ip_address, running.private_ip_address);
    assert_eq!(stopped.state_reason.unwrap().code.as_deref(), Some("Client.UserInitiatedShutdown"));
    assert_eq!(code(&cloud.world.call::<StopInstances>(stop(id)).await), "ok", "stopping again is no error");
    assert_eq!(code(&cloud.world.call::<RebootInstances>(reboot(id)).await), WRONG);
    cloud.world.advance(1000);
    cloud.world.call::<StartInstances>(start(id)).await.unwrap();
    cloud.expect(id, S::Pending).await;
    cloud.settle().await;
    cloud.expect(id, S::Running).await;
    assert!(cloud.describe(id).await.public_ip_address.is_some(), "a new one comes at start");
    cloud.world.advance(50);
    cloud.world.call::<TerminateInstances>(terminate(id)).await.unwrap();
    cloud.expect(id, S::ShuttingDown).await;
    cloud.settle().await;
    cloud.expect(id, S::Terminated).await;
    assert_eq!(code(&cloud.world.call::<TerminateInstances>(terminate(id)).await), "ok", "terminating again too");
    assert_eq!(commands(&cloud, id).await, [WRONG, WRONG, WRONG], "terminated");
    check_usage(&cloud, id).await;
    let reserved = cloud
        .world
        .store
        .read()
        .await
        .unwrap()
        .peek::<HostCapacity>(&host_capacity_key(cloud.world.host))
        .unwrap()
        .unwrap();
    assert_eq!(*reserved, HostCapacity::default());
    cloud.world.advance(3599);
    cloud.world.with_context(|cx| ops::collect(cx.txn, cx.now)).await.unwrap();
    cloud.expect(id, S::Terminated).await;
    cloud.world.advance(1);
    cloud.world.with_context(|cx| ops::collect(cx.txn, cx.now)).await.unwrap();
    assert_eq!(cloud.world.kinds().await, std::collections::BTreeMap::new(), "nothing of it is left");
    let error = cloud.world.call::<TerminateInstances>(terminate(id)).await.unwrap_err();
    assert_eq!(error.code(), "InvalidInstanceID.NotFound");
}

async fn check_usage(cloud: &Cloud, id: InstanceId) {
    let usage = cloud.usage().await;
    let seconds = |run| {
        let of = usage.iter().filter(|i| i.resource == id.to_string());
        let of: Vec<_> = of.filter(|i| matches!(i.measure, Measure::Instance { run: r, .. } if r == run)).collect();
        assert_eq!(of.len(), 1, "one interval a run");
        of[0].billable_seconds()
    };
    assert_eq!(seconds(1), 100);
    assert_eq!(seconds(2), 60, "a run counts for at least a minute");
    let volumes: Vec<_> = usage.iter().filter(|i| matches!(i.measure, Measure::Volume { .. })).collect();
    assert_eq!((volumes.len(), volumes[0].billable_seconds()), (1, 1150), "a stopped instance pays for its disk");
}

#[tokio::test]
async fn accidents_lead_where_the_instance_says() {
    let died = || EndCause::HypervisorDied { detail: "signal 9".to_owned() };
    let rows = [
        (EndCause::GuestPowerOff, "stop", S::Stopped, "Client.InstanceInitiatedShutdown"),
        (EndCause::GuestPowerOff, "terminate", S::Terminated, "Client.InstanceInitiatedShutdown"),
        (died(), "stop", S::Stopped, "Server.InternalError"),
        (died(), "terminate", S::Stopped, "Server.InternalError"),
        (EndCause::Requested, "terminate", S::Stopped, "Server.InternalError"),
    ];
    for (cause, behaviour, expected, reason) in rows {
        let mut cloud = Cloud::new(ROOMY).await;
        let request = ec2::RunInstancesRequest {
            instance_initiated_shutdown_behavior: Some(behaviour.to_owned()),
            ..cloud.world.run(1)
        };
        let id = cloud.run(request).await[0];
        cloud.settle().await;
        cloud.host.accident(0, &cause);
        cloud.settle().await;
        cloud.expect(id, expected).await;
        let shown = cloud.describe(id).await;
        assert_eq!(shown.state_reason.unwrap().code.as_deref(), Some(reason), "{cause:?}");
        cloud.settle().await;
        cloud.expect(id, expected).await;
        assert_eq!(cloud.usage().await.iter().filter(|i| i.resource == id.to_string()).count(), 1);
    }
}

#[tokio::test]
async fn a_start_that_fails_costs_nothing() {
    let mut cloud = Cloud::new(ROOMY).await;
    cloud.host.break_next_start = true;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    cloud.expect(id, S::Terminated).await;
    let reason = cloud.describe(id).await.state_reason.unwrap();
    assert_eq!(reason.code.as_deref(), Some("Server.InternalError"));
    assert!(reason.message.unwrap().contains("no luck"));
    assert!(cloud.usage().await.iter().all(|i| i.resource != id.to_string()));
    // A later start that fails leaves the disks alone.
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    cloud.world.call::<StopInstances>(stop(id)).await.unwrap();
    cloud.settle().await;
    cloud.host.break_next_start = true;
    cloud.world.call::<StartInstances>(start(id)).await.unwrap();
    cloud.settle().await;
    cloud.expect(id, S::Stopped).await;
    assert_eq!(cloud.usage().await.iter().filter(|i| i.resource == id.to_string()).count(), 1);
}

#[tokio::test]
async fn what_ran_when_the_host_rebooted_starts_again() {
    let mut cloud = Cloud::new(ROOMY).await;
    let made = cloud.run(cloud.world.run(3)).await;
    cloud.settle().await;
    let (running, stopped, leaving) = (made[0], made[1], made[2]);
    cloud.world.call::<StopInstances>(stop(stopped)).await.unwrap();
    cloud.settle().await;
    cloud.world.call::<TerminateInstances>(terminate(leaving)).await.unwrap();
    let before = cloud.describe(running).await;
    cloud.host.reboot();
    cloud.settle().await;
    cloud.expect(running, S::Running).await;
    cloud.expect(stopped, S::Stopped).await;
    cloud.expect(leaving, S::Terminated).await;
    let after = cloud.describe(running).await;
    assert_eq!(after.private_ip_address, before.private_ip_address);
    assert_eq!(after.public_ip_address, before.public_ip_address);
    assert_eq!(after.block_device_mappings, before.block_device_mappings);
    let request = ec2::DescribeInstanceStatusRequest { instance_ids: ids(running), ..Default::default() };
    let status = cloud.world.call::<DescribeInstanceStatus>(request).await.unwrap();
    let events = &status.instance_statuses[0].events;
    assert_eq!((events.len(), events[0].code.as_deref()), (1, Some("system-reboot")));
}

#[tokio::test]
async fn protection_is_respected() {
    let mut cloud = Cloud::new(ROOMY).await;
    let request = ec2::RunInstancesRequest {
        disable_api_termination: Some(true),
        disable_api_stop: Some(true),
        ..cloud.world.run(1)
    };
    let id = cloud.run(request).await[0];
    cloud.settle().await;
    assert_eq!(code(&cloud.world.call::<TerminateInstances>(terminate(id)).await), "OperationNotPermitted");
    assert_eq!(code(&cloud.world.call::<StopInstances>(stop(id)).await), "OperationNotPermitted");
    cloud.expect(id, S::Running).await;
}

#[tokio::test]
async fn a_list_with_one_unknown_instance_changes_none() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    for (other, expected) in
        [("i-0123456789abcdef0", "InvalidInstanceID.NotFound"), ("i-xyz", "InvalidInstanceID.Malformed")]
    {
        let request = ec2::TerminateInstancesRequest {
            instance_ids: vec![id.to_string(), other.to_owned()],
            ..Default::default()
        };
        assert_eq!(code(&cloud.world.call::<TerminateInstances>(request).await), expected);
        cloud.expect(id, S::Running).await;
    }
    let nothing = ec2::TerminateInstancesRequest::default();
    assert_eq!(code(&cloud.world.call::<TerminateInstances>(nothing).await), "MissingParameter");
}

#[tokio::test]
async fn a_hundred_at_once_fit_into_their_transactions() {
    let mut cloud = Cloud::new(ROOMY).await;
    let ebs = ec2::EbsBlockDevice { volume_size: Some(1), ..Default::default() };
    let extra =
        ec2::BlockDeviceMapping { device_name: Some("/dev/sdf".to_owned()), ebs: Some(ebs), ..Default::default() };
    let request = ec2::RunInstancesRequest { block_device_mappings: vec![extra], ..cloud.world.run(100) };
    let made = cloud.run(request).await;
    cloud.settle().await;
    cloud.host.reboot();
    cloud.settle().await;
    cloud.expect(made[99], S::Running).await;
    let all = || made.iter().map(ToString::to_string).collect::<Vec<_>>();
    let stop = ec2::StopInstancesRequest { instance_ids: all(), ..Default::default() };
    cloud.world.call::<StopInstances>(stop).await.unwrap();
    cloud.settle().await;
    let start = ec2::StartInstancesRequest { instance_ids: all(), ..Default::default() };
    cloud.world.call::<StartInstances>(start).await.unwrap();
    cloud.settle().await;
    let gone = ec2::TerminateInstancesRequest { instance_ids: all(), ..Default::default() };
    cloud.world.call::<TerminateInstances>(gone).await.unwrap();
    cloud.settle().await;
    cloud.world.advance(3600);
    cloud.world.with_context(|cx| ops::collect(cx.txn, cx.now)).await.unwrap();
    assert_eq!(cloud.world.kinds().await, std::collections::BTreeMap::new());
}

#[tokio::test]
async fn a_start_that_was_interrupted_is_begun_again() {
    const MOST: usize = 5;
    let mut cloud = Cloud::new(ROOMY).await;
    cloud.host.interrupt_starts = MOST - 1;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    cloud.expect(id, S::Running).await;
    let request = ec2::DescribeInstanceStatusRequest { instance_ids: ids(id), ..Default::default() };
    let status = cloud.world.call::<DescribeInstanceStatus>(request).await.unwrap();
    let events = &status.instance_statuses[0].events;
    assert_eq!(events.len(), MOST - 1);
    assert!(events.iter().all(|event| event.code.as_deref() == Some("system-maintenance")));
    assert!(cloud.usage().await.is_empty(), "what never ran costs nothing");

    // Having run, it may be interrupted as often again; then it is stopped, its disk kept.
    cloud.host.interrupt_starts = MOST - 1;
    cloud.host.reboot();
    cloud.settle().await;
    cloud.expect(id, S::Running).await;
    cloud.world.call::<StopInstances>(stop(id)).await.unwrap();
    cloud.settle().await;
    cloud.host.interrupt_starts = usize::MAX;
    cloud.world.call::<StartInstances>(start(id)).await.unwrap();
    cloud.settle().await;
    cloud.expect(id, S::Stopped).await;
    let stopped = cloud.describe(id).await;
    let reason = stopped.state_reason.unwrap();
    assert_eq!(reason.code.as_deref(), Some("Server.InternalError"));
    assert!(reason.message.unwrap().contains("interrupted 5 times"));
    assert_eq!(stopped.block_device_mappings.len(), 1);

    // One that never ran is terminated, as if its first start had failed; so is one whose second run fails.
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    cloud.expect(id, S::Terminated).await;
    cloud.host.interrupt_starts = 1;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.round().await;
    cloud.host.break_next_start = true;
    cloud.settle().await;
    cloud.expect(id, S::Terminated).await;

    // Nobody starts what is no longer wanted.
    cloud.host.interrupt_starts = usize::MAX;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.round().await;
    cloud.world.call::<TerminateInstances>(terminate(id)).await.unwrap();
    cloud.settle().await;
    cloud.expect(id, S::Terminated).await;
}

/// Whoever has seen `terminated` may delete subnet and group at once.
#[tokio::test]
async fn terminated_is_said_once_the_interfaces_are_gone() {
    let mut cloud = Cloud::new(ROOMY).await;
    let made = cloud.run(cloud.world.run(2)).await;
    cloud.settle().await;
    let subnet: terroir_types::SubnetId = cloud.describe(made[0]).await.subnet_id.unwrap().parse().unwrap();
    cloud.host.hold_interfaces = true;
    for id in &made {
        cloud.world.call::<TerminateInstances>(terminate(*id)).await.unwrap();
    }
    cloud.settle().await;
    for id in &made {
        cloud.expect(*id, S::ShuttingDown).await;
    }
    let delete = async |cloud: &Cloud| {
        let delete = |cx: &mut terroir_action::Context<'_>| {
            terroir_network::ops::delete_subnet(&mut terroir_network::ops::Scope::of(cx), subnet)
        };
        cloud.world.with_context(delete).await
    };
    assert_eq!(code(&delete(&cloud).await), "DependencyViolation");
    cloud.host.hold_interfaces = false;
    cloud.settle().await;
    for id in &made {
        cloud.expect(*id, S::Terminated).await;
    }
    delete(&cloud).await.unwrap();
    let whole = cloud.host.whole_spec(&*cloud.gateway).await;
    assert_eq!(whole.keys().filter(|key| key.starts_with("instance/")).count(), 0, "the host may forget it");
}
