use terroir_action::general::specified_tags;
use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::ec2;
use terroir_block_storage::aws::{attachment, volume_shape};
use terroir_block_storage::model::{VolumeStatus, VolumeType, volume_status_key};
use terroir_block_storage::ops::{VolumeChoice, resolve_shape};
use terroir_resources::Tags;
use terroir_types::{Error, ErrorClass, InstanceId, VolumeId};

use crate::ops::{self, AttachRequest};

pub struct CreateVolume;

impl CreateVolume {
    fn tags(request: &ec2::CreateVolumeRequest) -> Result<Tags, Error> {
        specified_tags(&request.tag_specifications, "volume", &[])
    }
}

fn zone(cx: &Context<'_>, name: Option<&str>, id: Option<&str>) -> Result<String, Error> {
    let (wanted, found) = match (name.filter(|n| !n.is_empty()), id.filter(|i| !i.is_empty())) {
        (Some(_), Some(_)) => {
            let message = "AvailabilityZone and AvailabilityZoneId cannot both be specified";
            return Err(Error::invalid("InvalidParameterCombination", message));
        }
        (Some(name), None) => (name, cx.region.zones.iter().find(|zone| zone.name == name)),
        (None, Some(id)) => (id, cx.region.zones.iter().find(|zone| zone.id == id)),
        (None, None) => {
            let message = "The request must contain the parameter AvailabilityZone";
            return Err(Error::invalid("MissingParameter", message));
        }
    };
    match found {
        Some(zone) => Ok(zone.name.clone()),
        None => Err(Error::not_found("InvalidZone.NotFound", format!("The zone '{wanted}' does not exist."))),
    }
}

impl Action for CreateVolume {
    type Op = ec2::ops::CreateVolume;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let tags = Self::tags(request)?;
        let volume = cx.ec2_arn("volume", "*");
        let mut targets = vec![Target::on("ec2:CreateVolume", volume.clone()).request_tags(&tags)];
        if let Some(snapshot) = request.snapshot_id.as_deref().filter(|id| !id.is_empty()) {
            targets.push(Target::ec2(cx, "ec2:CreateVolume", "snapshot", snapshot)?);
        }
        if !tags.is_empty() {
            let create = Target::on("ec2:CreateTags", volume).request_tags(&tags);
            targets.push(create.key("ec2:CreateAction", "CreateVolume"));
        }
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let tags = Self::tags(&request)?;
        let zone = zone(cx, request.availability_zone.as_deref(), request.availability_zone_id.as_deref())?;
        if request.multi_attach_enabled == Some(true) {
            return Err(no_multi_attach(request.volume_type.as_deref()));
        }
        let choice = VolumeChoice {
            size_gib: request.size,
            volume_type: request.volume_type.clone(),
            iops: request.iops,
            throughput: request.throughput,
            snapshot: request.snapshot_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?,
            encrypted: request.encrypted == Some(true) || request.kms_key_id.is_some(),
        };
        let shape = resolve_shape(cx.txn, cx.account(), &choice, VolumeType::Gp2, "InvalidParameterValue")?;
        let volume = ops::create_volume(cx, &zone, &shape, tags.clone())?;
        Ok(volume_shape(cx, &volume, None, &tags))
    }
}

fn no_multi_attach(volume_type: Option<&str>) -> Error {
    if matches!(volume_type, Some("io1" | "io2")) {
        let message = "Multi-Attach volumes are not available here.";
        Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message)
    } else {
        let message = "Multi-Attach is only supported for io1 and io2 volumes.";
        Error::invalid("InvalidParameterCombination", message)
    }
}

fn status(cx: &Context<'_>, id: VolumeId) -> Result<Option<std::sync::Arc<VolumeStatus>>, Error> {
    cx.txn.peek(&volume_status_key(cx.account(), id))
}

pub struct AttachVolume;

impl Action for AttachVolume {
    type Op = ec2::ops::AttachVolume;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![
            Target::ec2(cx, "ec2:AttachVolume", "volume", &request.volume_id)?,
            Target::ec2(cx, "ec2:AttachVolume", "instance", &request.instance_id)?,
        ])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let (volume, instance) = (request.volume_id.parse()?, request.instance_id.parse()?);
        let request = AttachRequest { volume, instance, device: request.device };
        let volume = ops::attach_volume(cx.txn, cx.caller.account, &request, cx.now)?;
        let status = status(cx, volume.id)?;
        attachment(&volume, status.as_deref()).ok_or_else(|| Error::internal("an attached volume has no attachment"))
    }
}

pub struct DetachVolume;

impl Action for DetachVolume {
    type Op = ec2::ops::DetachVolume;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let mut targets = vec![Target::ec2(cx, "ec2:DetachVolume", "volume", &request.volume_id)?];
        if let Some(instance) = request.instance_id.as_deref().filter(|id| !id.is_empty()) {
            targets.push(Target::ec2(cx, "ec2:DetachVolume", "instance", instance)?);
        }
        Ok(targets)
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let volume: VolumeId = request.volume_id.parse()?;
        let from: Option<InstanceId> =
            request.instance_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?;
        let device = request.device.as_deref().filter(|device| !device.is_empty());
        let volume = ops::detach_volume(cx.txn, cx.caller.account, volume, from, device)?;
        let status = status(cx, volume.id)?;
        attachment(&volume, status.as_deref()).ok_or_else(|| Error::internal("a detaching volume has no attachment"))
    }
}
