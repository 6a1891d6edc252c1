use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_action::general::ec2_tags;
use terroir_action::{Access, Action, Bounds, Context, Request, Response, Target, paginate};
use terroir_aws_model::{Decode, ec2};
use terroir_resources::Tags;
use terroir_store::Key;
use terroir_types::{AccountId, Error, ImageId};

use super::snapshots::{alias, owners};
use super::{gib, no_page_of_ids, parse_filters, parse_ids, scope};
use crate::SYSTEM_ACCOUNT;
use crate::model::{Image, ImageMapping};
use crate::ops;

const FILTERS: &[&str] = &[
    "architecture",
    "block-device-mapping.delete-on-termination",
    "block-device-mapping.device-name",
    "block-device-mapping.snapshot-id",
    "block-device-mapping.volume-size",
    "block-device-mapping.volume-type",
    "block-device-mapping.encrypted",
    "creation-date",
    "description",
    "ena-support",
    "hypervisor",
    "image-id",
    "image-type",
    "is-public",
    "manifest-location",
    "name",
    "owner-alias",
    "owner-id",
    "platform",
    "product-code",
    "root-device-name",
    "root-device-type",
    "source-instance-id",
    "state",
    "tag",
    "virtualization-type",
];

pub struct DescribeImages;

impl Action for DescribeImages {
    type Op = ec2::ops::DescribeImages;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeImages")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, FILTERS)?;
        no_page_of_ids(&request.image_ids, request.max_results, "imageIdSet")?;
        let caller = cx.account();
        let owners = owners(caller, &request.owners)?;
        let mut rows = Vec::new();
        for image in candidates(cx, &request.image_ids)? {
            let owned = owners.as_ref().is_none_or(|owners| owners.contains(&image.account));
            if !owned || !executable(&image, caller, &request.executable_users) {
                continue;
            }
            let tags = terroir_resources::tags(cx.txn, caller, &image.id.to_string())?;
            if filters.matches(&tags, |name| field(&image, name)) {
                rows.push((image.id.to_string(), (image, tags)));
            }
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let scope =
            format!("{}|{:?}|{:?}", scope(&request.image_ids, &filters), request.owners, request.executable_users);
        let bounds = Bounds { least: 1, greatest: 1000 };
        let (page, next_token) = paginate(cx, "DescribeImages", &scope, request.page(), bounds, rows.into_iter())?;
        let images = page.iter().map(|(image, tags)| shape(image, tags)).collect();
        Ok(ec2::DescribeImagesResult { images, next_token })
    }
}

fn candidates(cx: &Context<'_>, ids: &[String]) -> Result<Vec<Arc<Image>>, Error> {
    if !ids.is_empty() {
        let ids: BTreeSet<ImageId> = parse_ids(ids)?.into_iter().collect();
        return ids.into_iter().map(|id| ops::find_image(cx.txn, cx.account(), id)).collect();
    }
    let mut all = Vec::new();
    for account in BTreeSet::from([cx.account(), SYSTEM_ACCOUNT]) {
        let rows = cx.txn.peek_range::<Image>(&Key::new(format!("image/{account}")))?;
        all.extend(rows.into_iter().map(|(_, image)| image).filter(|i| i.account == cx.account() || i.public));
    }
    Ok(all)
}

/// `ExecutableUsers`: `all` for public images, `self` for those that the caller was explicitly allowed, which nobody
/// can be here.
fn executable(image: &Image, _caller: AccountId, users: &[String]) -> bool {
    users.is_empty() || users.iter().any(|user| user == "all" && image.public)
}

fn field(image: &Image, name: &str) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    let of = |f: &dyn Fn(&ImageMapping) -> Option<String>| image.mappings.iter().filter_map(f).collect();
    match name {
        "architecture" => one(&image.architecture),
        "block-device-mapping.delete-on-termination" => of(&|m| Some(m.delete_on_termination.to_string())),
        "block-device-mapping.device-name" => of(&|m| Some(m.device.clone())),
        "block-device-mapping.snapshot-id" => of(&|m| m.snapshot.map(|id| id.to_string())),
        "block-device-mapping.volume-size" => of(&|m| gib(m.size_bytes).map(|gib| gib.to_string())),
        "block-device-mapping.volume-type" => of(&|m| Some(m.volume_type.name().to_owned())),
        "block-device-mapping.encrypted" => one("false"),
        "creation-date" => vec![image.created_at.to_rfc3339()],
        "description" => one(&image.tenant.description),
        "ena-support" => one("false"),
        "hypervisor" => one("kvm"),
        "image-id" => vec![image.id.to_string()],
        "image-type" => one("machine"),
        "is-public" => vec![image.public.to_string()],
        "manifest-location" => one(&image.tenant.location),
        "name" => one(&image.tenant.name),
        "owner-alias" => alias(image.account).into_iter().collect(),
        "owner-id" => vec![image.account.to_string()],
        "root-device-name" => one(&image.root_device),
        "root-device-type" => one("ebs"),
        "state" => one("available"),
        "virtualization-type" => one("hvm"),
        _ => Vec::new(),
    }
}

fn mappings(image: &Image) -> Vec<ec2::BlockDeviceMapping> {
    let mapping = |mapping: &ImageMapping| ec2::BlockDeviceMapping {
        device_name: Some(mapping.device.clone()),
        ebs: Some(ec2::EbsBlockDevice {
            delete_on_termination: Some(mapping.delete_on_termination),
            encrypted: Some(false),
            snapshot_id: mapping.snapshot.map(|id| id.to_string()),
            volume_size: gib(mapping.size_bytes),
            volume_type: Some(mapping.volume_type.name().to_owned()),
            ..ec2::EbsBlockDevice::default()
        }),
        ..ec2::BlockDeviceMapping::default()
    };
    image.mappings.iter().map(mapping).collect()
}

fn shape(image: &Image, tags: &Tags) -> ec2::Image {
    let text = |text: &str| Some(text.to_owned());
    ec2::Image {
        architecture: text(&image.architecture),
        block_device_mappings: mappings(image),
        creation_date: Some(image.created_at.to_rfc3339()),
        description: Some(image.tenant.description.clone()).filter(|text| !text.is_empty()),
        ena_support: Some(false),
        hypervisor: text("kvm"),
        image_id: Some(image.id.to_string()),
        image_location: text(&image.tenant.location),
        image_owner_alias: alias(image.account),
        image_type: text("machine"),
        name: text(&image.tenant.name),
        owner_id: Some(image.account.to_string()),
        platform_details: text("Linux/UNIX"),
        public: Some(image.public),
        root_device_name: text(&image.root_device),
        root_device_type: text("ebs"),
        state: text("available"),
        tags: ec2_tags(tags),
        usage_operation: text("RunInstances"),
        virtualization_type: text("hvm"),
        ..ec2::Image::default()
    }
}

pub struct DescribeImageAttribute;

impl Action for DescribeImageAttribute {
    type Op = ec2::ops::DescribeImageAttribute;
    const ACCESS: Access = Access::Read;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DescribeImageAttribute", "image", &request.image_id)?])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id: ImageId = request.image_id.parse()?;
        let image = ops::find_own_image(cx.txn, cx.account(), id)?;
        let value = |text: &str| Some(ec2::AttributeValue { value: Some(text.to_owned()) });
        let mut answer = ec2::ImageAttribute { image_id: Some(id.to_string()), ..ec2::ImageAttribute::default() };
        match request.attribute.as_str() {
            "description" => answer.description = value(&image.tenant.description),
            "blockDeviceMapping" => answer.block_device_mappings = mappings(&image),
            // Nobody can be given a permission yet, so there is none to list; public images are the system's.
            "launchPermission" => {}
            "productCodes" | "kernel" | "ramdisk" | "sriovNetSupport" | "uefiData" => {}
            "bootMode" => answer.boot_mode = value("legacy-bios"),
            "deregistrationProtection" => answer.deregistration_protection = value("disabled"),
            other => {
                let message = format!("Value ({other}) for parameter attribute is invalid. Unknown attribute.");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
        }
        Ok(answer)
    }
}

pub struct DeregisterImage;

impl Action for DeregisterImage {
    type Op = ec2::ops::DeregisterImage;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:DeregisterImage", "image", &request.image_id)?])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id: ImageId = request.image_id.parse()?;
        let delete = request.delete_associated_snapshots == Some(true);
        let snapshots = ops::deregister_image(cx.txn, cx.caller.account, id, delete, cx.now)?;
        let code = |removed| if removed { "success" } else { "skipped" };
        let delete_snapshot_results = snapshots
            .into_iter()
            .filter(|_| delete)
            .map(|(snapshot, removed)| ec2::DeleteSnapshotReturnCode {
                return_code: Some(code(removed).to_owned()),
                snapshot_id: Some(snapshot.to_string()),
            })
            .collect();
        Ok(ec2::DeregisterImageResult { delete_snapshot_results, return_: Some(true) })
    }
}
