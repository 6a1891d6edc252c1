use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::{Decode, ec2};
use terroir_block_storage::aws::{no_page_of_ids, parse_filters, scope};
use terroir_types::Error;

use super::describe_instances::{Listing, named};
use super::instance_shape::{Lookup, Row, state};
use crate::model::{Event, EventKind};
use crate::state::InstanceState;

const FILTERS: &[&str] = &[
    "availability-zone",
    "availability-zone-id",
    "event.code",
    "event.description",
    "event.instance-event-id",
    "event.not-after",
    "event.not-before",
    "instance-state-code",
    "instance-state-name",
    "instance-status.reachability",
    "instance-status.status",
    "system-status.reachability",
    "system-status.status",
    "tag",
];

pub struct DescribeInstanceStatus;

/// What AWS's checks say. Nothing looks into the guest here, so a guest that runs counts as reachable.
fn checks(row: &Row) -> (&'static str, &'static str) {
    match row.state {
        InstanceState::Running => ("ok", "passed"),
        InstanceState::Pending => ("initializing", "initializing"),
        _ => ("not-applicable", ""),
    }
}

fn event(event: &Event, index: usize, row: &Row) -> ec2::InstanceStatusEvent {
    let (code, words) = match event.kind {
        EventKind::HostReboot => ("system-reboot", "The host was restarted, and the instance started again"),
        EventKind::StartInterrupted => {
            ("system-maintenance", "The host's software was restarted, and the instance's start begun again")
        }
    };
    let number = row.spec.id.number() ^ (index as u128) << 4 ^ u128::from(event.run_id);
    ec2::InstanceStatusEvent {
        code: Some(code.to_owned()),
        description: Some(format!("[Completed] {words}")),
        instance_event_id: Some(format!("instance-event-{number:017x}")),
        not_after: Some(event.at),
        not_before: Some(event.at),
        ..ec2::InstanceStatusEvent::default()
    }
}

fn events(row: &Row) -> Vec<ec2::InstanceStatusEvent> {
    row.spec.events.iter().enumerate().map(|(index, found)| event(found, index, row)).collect()
}

fn summary(row: &Row) -> ec2::InstanceStatusSummary {
    let (status, reachability) = checks(row);
    let detail = ec2::InstanceStatusDetails {
        name: Some("reachability".to_owned()),
        status: Some(reachability.to_owned()),
        ..ec2::InstanceStatusDetails::default()
    };
    ec2::InstanceStatusSummary {
        details: if reachability.is_empty() { Vec::new() } else { vec![detail] },
        status: Some(status.to_owned()),
    }
}

fn field(lookup: &mut Lookup<'_, '_>, row: &Row, name: &str) -> Result<Vec<String>, Error> {
    let of = |f: &dyn Fn(ec2::InstanceStatusEvent) -> Option<String>| events(row).into_iter().filter_map(f).collect();
    Ok(match name {
        "event.code" => of(&|event| event.code),
        "event.description" => of(&|event| event.description),
        "event.instance-event-id" => of(&|event| event.instance_event_id),
        "event.not-after" => of(&|event| event.not_after.map(|at| at.to_rfc3339())),
        "event.not-before" => of(&|event| event.not_before.map(|at| at.to_rfc3339())),
        "instance-status.status" | "system-status.status" => vec![checks(row).0.to_owned()],
        "instance-status.reachability" | "system-status.reachability" => vec![checks(row).1.to_owned()],
        other => super::filters::values(lookup, row, other)?,
    })
}

impl Action for DescribeInstanceStatus {
    type Op = ec2::ops::DescribeInstanceStatus;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeInstanceStatus")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, FILTERS)?;
        no_page_of_ids(&request.instance_ids, request.max_results, "instancesSet")?;
        let all = request.include_all_instances == Some(true);
        let listing = Listing {
            action: "DescribeInstanceStatus",
            scope: format!("{}|{all}", scope(&request.instance_ids, &filters)),
            page: request.page(),
            instances: named(cx, &request.instance_ids, usize::MAX)?,
            filters,
            keep: (!all).then_some(|row| row.state == InstanceState::Running),
            field,
        };
        let (rows, next_token) = listing.rows(cx)?;
        let status = |row: &Row| ec2::InstanceStatus {
            availability_zone: Some(row.spec.zone.clone()),
            events: events(row),
            instance_id: Some(row.spec.id.to_string()),
            instance_state: Some(state(row.state)),
            instance_status: Some(summary(row)),
            system_status: Some(summary(row)),
            ..ec2::InstanceStatus::default()
        };
        let instance_statuses = rows.iter().map(status).collect();
        Ok(ec2::DescribeInstanceStatusResult { instance_statuses, next_token })
    }
}
