use std::sync::Arc;
use terroir_action::general::ec2_tags;
use terroir_action::{Access, Action, Bounds, Context, Request, Response, Target, paginate};
use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::Tags;
use terroir_store::Key;
use terroir_types::{Error, VolumeId};

use super::{gib, no_page_of_ids, parse_filters, parse_ids, scope, zone_id};
use crate::model::{Phase, Volume, VolumeState, VolumeStatus, attachment_state, volume_state, volume_status_key};
use crate::ops;

/// A volume with what is known of it.
struct Row {
    volume: Arc<Volume>,
    status: Option<Arc<VolumeStatus>>,
    tags: Tags,
}

fn rows(cx: &Context<'_>, ids: &[String]) -> Result<Vec<Row>, Error> {
    let account = cx.account();
    let volumes: Vec<Arc<Volume>> = if ids.is_empty() {
        let all = cx.txn.peek_range::<Volume>(&Key::new(format!("volume/{account}")))?;
        all.into_iter().map(|(_, volume)| volume).collect()
    } else {
        let mut ids = parse_ids::<VolumeId>(ids)?;
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|id| ops::find_volume(cx.txn, account, id)).collect::<Result<_, _>>()?
    };
    let row = |volume: Arc<Volume>| {
        Ok(Row {
            status: cx.txn.peek(&volume_status_key(account, volume.id))?,
            tags: terroir_resources::tags(cx.txn, account, &volume.id.to_string())?,
            volume,
        })
    };
    volumes.into_iter().map(row).collect()
}

/// A volume's attachment as the API shows it.
pub fn attachment(volume: &Volume, status: Option<&VolumeStatus>) -> Option<ec2::VolumeAttachment> {
    let attached = volume.attachment.as_ref()?;
    Some(ec2::VolumeAttachment {
        attach_time: Some(attached.attached_at),
        delete_on_termination: Some(attached.delete_on_termination),
        device: Some(attached.device.clone()),
        instance_id: volume.assignment.holder().map(|id| id.to_string()),
        state: attachment_state(volume, status).map(str::to_owned),
        volume_id: Some(volume.id.to_string()),
        ..ec2::VolumeAttachment::default()
    })
}

/// A volume as the API shows it.
pub fn volume_shape(cx: &Context<'_>, volume: &Volume, status: Option<&VolumeStatus>, tags: &Tags) -> ec2::Volume {
    ec2::Volume {
        attachments: attachment(volume, status).into_iter().collect(),
        availability_zone: Some(volume.zone.clone()),
        availability_zone_id: zone_id(cx, &volume.zone),
        create_time: Some(volume.created_at),
        encrypted: Some(false),
        iops: volume.iops.or(default_iops(volume)).and_then(|iops| i32::try_from(iops).ok()),
        multi_attach_enabled: Some(false),
        size: gib(volume.size_bytes),
        // AWS gives an empty element for a volume that was made from nothing.
        snapshot_id: Some(volume.snapshot.map(|id| id.to_string()).unwrap_or_default()),
        state: Some(volume_state(volume, status).name().to_owned()),
        tags: ec2_tags(tags),
        throughput: volume.throughput.or(default_throughput(volume)).and_then(|t| i32::try_from(t).ok()),
        volume_id: Some(volume.id.to_string()),
        volume_type: Some(volume.volume_type.name().to_owned()),
        ..ec2::Volume::default()
    }
}

fn default_iops(volume: &Volume) -> Option<u32> {
    use crate::model::VolumeType;
    let gib = u32::try_from(volume.size_bytes / crate::model::GIB).unwrap_or(u32::MAX);
    match volume.volume_type {
        VolumeType::Gp3 => Some(3_000),
        VolumeType::Gp2 => Some(gib.saturating_mul(3).clamp(100, 16_000)),
        _ => None,
    }
}

fn default_throughput(volume: &Volume) -> Option<u32> {
    (volume.volume_type == crate::model::VolumeType::Gp3).then_some(125)
}

const VOLUME_FILTERS: &[&str] = &[
    "attachment.attach-time",
    "attachment.delete-on-termination",
    "attachment.device",
    "attachment.instance-id",
    "attachment.status",
    "availability-zone",
    "availability-zone-id",
    "create-time",
    "encrypted",
    "fast-restored",
    "multi-attach-enabled",
    "size",
    "snapshot-id",
    "status",
    "tag",
    "volume-id",
    "volume-type",
];

fn field(cx: &Context<'_>, row: &Row, name: &str) -> Vec<String> {
    let volume = &*row.volume;
    let attached = || volume.attachment.as_ref();
    let one = |text: String| vec![text];
    let maybe = |text: Option<String>| text.into_iter().collect();
    match name {
        "attachment.attach-time" => maybe(attached().map(|a| a.attached_at.to_rfc3339())),
        "attachment.delete-on-termination" => maybe(attached().map(|a| a.delete_on_termination.to_string())),
        "attachment.device" => maybe(attached().map(|a| a.device.clone())),
        "attachment.instance-id" => maybe(volume.assignment.holder().map(|id| id.to_string())),
        "attachment.status" => maybe(attachment_state(volume, row.status.as_deref()).map(str::to_owned)),
        "availability-zone" => one(volume.zone.clone()),
        "availability-zone-id" => maybe(zone_id(cx, &volume.zone)),
        "create-time" => one(volume.created_at.to_rfc3339()),
        "encrypted" | "fast-restored" | "multi-attach-enabled" => one("false".to_owned()),
        "size" => maybe(gib(volume.size_bytes).map(|gib| gib.to_string())),
        "snapshot-id" => maybe(volume.snapshot.map(|id| id.to_string())),
        "status" => one(volume_state(volume, row.status.as_deref()).name().to_owned()),
        "volume-id" => one(volume.id.to_string()),
        "volume-type" => one(volume.volume_type.name().to_owned()),
        _ => Vec::new(),
    }
}

pub struct DescribeVolumes;

impl Action for DescribeVolumes {
    type Op = ec2::ops::DescribeVolumes;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeVolumes")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, VOLUME_FILTERS)?;
        no_page_of_ids(&request.volume_ids, request.max_results, "volumeSet")?;
        let rows = rows(cx, &request.volume_ids)?;
        let matching = rows
            .into_iter()
            .filter(|row| filters.matches(&row.tags, |name| field(cx, row, name)))
            .map(|row| (row.volume.id.to_string(), row));
        let scope = scope(&request.volume_ids, &filters);
        let bounds = Bounds { least: 5, greatest: 1000 };
        let (page, next_token) = paginate(cx, "DescribeVolumes", &scope, request.page(), bounds, matching)?;
        let volumes = page.iter().map(|row| volume_shape(cx, &row.volume, row.status.as_deref(), &row.tags)).collect();
        Ok(ec2::DescribeVolumesResult { volumes, next_token })
    }
}

pub struct DescribeVolumeStatus;

const STATUS_FILTERS: &[&str] =
    &["availability-zone", "availability-zone-id", "volume-status.status", "volume-status.details-name"];

impl DescribeVolumeStatus {
    fn status(row: &Row) -> &'static str {
        match row.status.as_ref().map(|status| &status.phase) {
            Some(Phase::Ready) => "ok",
            Some(Phase::Failed(_)) => "impaired",
            None | Some(Phase::Creating | Phase::Deleted) => "insufficient-data",
        }
    }

    fn item(cx: &Context<'_>, row: &Row) -> ec2::VolumeStatusItem {
        let detail = |name: &str, status: &str| ec2::VolumeStatusDetails {
            name: Some(name.to_owned()),
            status: Some(status.to_owned()),
        };
        let (enabled, performance) = match Self::status(row) {
            "ok" => ("passed", "normal"),
            "impaired" => ("failed", "not-applicable"),
            _ => ("insufficient-data", "not-applicable"),
        };
        ec2::VolumeStatusItem {
            availability_zone: Some(row.volume.zone.clone()),
            availability_zone_id: zone_id(cx, &row.volume.zone),
            volume_id: Some(row.volume.id.to_string()),
            volume_status: Some(ec2::VolumeStatusInfo {
                status: Some(Self::status(row).to_owned()),
                details: vec![detail("io-enabled", enabled), detail("io-performance", performance)],
            }),
            ..ec2::VolumeStatusItem::default()
        }
    }
}

impl Action for DescribeVolumeStatus {
    type Op = ec2::ops::DescribeVolumeStatus;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeVolumeStatus")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, STATUS_FILTERS)?;
        no_page_of_ids(&request.volume_ids, request.max_results, "volumeSet")?;
        let rows = rows(cx, &request.volume_ids)?;
        let field = |row: &Row, name: &str| match name {
            "volume-status.status" => vec![Self::status(row).to_owned()],
            "volume-status.details-name" => vec!["io-enabled".to_owned(), "io-performance".to_owned()],
            other => field(cx, row, other),
        };
        let matching = rows
            .into_iter()
            .filter(|row| volume_state(&row.volume, row.status.as_deref()) != VolumeState::Deleting)
            .filter(|row| filters.matches(&row.tags, |name| field(row, name)))
            .map(|row| (row.volume.id.to_string(), row));
        let scope = scope(&request.volume_ids, &filters);
        let (page, next_token) = paginate(cx, "DescribeVolumeStatus", &scope, request.page(), Bounds::EC2, matching)?;
        let volume_statuses = page.iter().map(|row| Self::item(cx, row)).collect();
        Ok(ec2::DescribeVolumeStatusResult { volume_statuses, next_token })
    }
}

pub struct DeleteVolume;

impl Action for DeleteVolume {
    type Op = ec2::ops::DeleteVolume;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeleteVolume", "volume", &request.volume_id)?])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id = request.volume_id.parse()?;
        ops::delete_volume(cx.txn, cx.caller.account, id, cx.now)?;
        Ok(Empty)
    }
}
