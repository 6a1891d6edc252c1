//! From a RunInstances request to what is to be launched: everything that can be refused without choosing a host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_action::general::specified_tags;
use terroir_action::{Context, required};
use terroir_aws_model::ec2;
use terroir_block_storage::model::{GIB, Image, ImageMapping, VolumeType};
use terroir_block_storage::ops::{VolumeChoice, resolve_shape};
use terroir_network::model::{Interface, Subnet};
use terroir_network::ops::{InterfaceRequest, resolve_groups, resolve_subnet};
use terroir_resources::Tags;
use terroir_types::{Error, ErrorClass, ImageId, InterfaceId, ResourceId};

use super::metadata_options::{self, Choice};
use crate::catalogue::{self, InstanceType};
use crate::model::MetadataChoice;
use crate::ops::{self, Launch, LaunchVolume, MAX_PER_LAUNCH, MAX_USER_DATA_BYTES};

type Req = ec2::RunInstancesRequest;

/// The tags for resources of `kind`.
pub(super) fn tags(request: &Req, kind: &str) -> Result<Tags, Error> {
    const ALSO: &[&str] = &["instance", "volume", "network-interface"];
    specified_tags(&request.tag_specifications, kind, ALSO)
}

fn combination(message: impl Into<String>) -> Error {
    Error::invalid("InvalidParameterCombination", message)
}

fn value(name: &str, value: impl std::fmt::Display, expected: &str) -> Error {
    let message = format!("Value ({value}) for parameter {name} is invalid. {expected}");
    Error::invalid("InvalidParameterValue", message)
}

/// Errors: AWS's, in about the order in which it finds them.
pub(super) fn launch(cx: &Context<'_>, request: &Req) -> Result<Launch, Error> {
    let (min_count, max_count) = counts(request)?;
    refuse_unsupported(request)?;
    let image_id: ImageId = required(&request.image_id, "ImageId")?.parse()?;
    let instance_type = catalogue::find(cx.txn, required(&request.instance_type, "InstanceType")?)?;
    let image = terroir_block_storage::ops::find_image(cx.txn, cx.account(), image_id)?;
    if image.architecture != "x86_64" {
        let message = format!(
            "The architecture 'x86_64' of the specified instance type does not match the architecture '{}' of the \
             specified AMI.",
            image.architecture
        );
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let user_data = user_data(request)?;
    let metadata = metadata(request)?;
    let shutdown_terminates = match request.instance_initiated_shutdown_behavior.as_deref() {
        None | Some("" | "stop") => false,
        Some("terminate") => true,
        Some(other) => return Err(value("InstanceInitiatedShutdownBehavior", other, "Expected: stop or terminate.")),
    };
    let key_pair = match request.key_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(ops::find_key_pair_named(cx.txn, cx.account(), name)?.id),
        None => None,
    };
    let profile = profile(cx, request)?;
    let volumes = volumes(cx, request, &image)?;
    let interfaces = interfaces(request, &instance_type, max_count)?;
    let zone = zone(cx, request, &interfaces)?;
    Ok(Launch {
        min_count,
        max_count,
        image,
        instance_type,
        zone,
        key_pair,
        interfaces,
        volumes,
        user_data,
        profile,
        metadata,
        shutdown_terminates,
        termination_protected: request.disable_api_termination == Some(true),
        stop_protected: request.disable_api_stop == Some(true),
        monitoring: request.monitoring.as_ref().is_some_and(|monitoring| monitoring.enabled == Some(true)),
        ebs_optimized: request.ebs_optimized == Some(true),
        instance_tags: tags(request, "instance")?,
        volume_tags: tags(request, "volume")?,
        interface_tags: tags(request, "network-interface")?,
    })
}

fn counts(request: &Req) -> Result<(u32, u32), Error> {
    let count = |name, count: i32| {
        u32::try_from(count).ok().filter(|n| *n > 0).ok_or_else(|| value(name, count, "Expected a positive integer."))
    };
    let (min, max) = (count("minCount", request.min_count)?, count("maxCount", request.max_count)?);
    if min > max {
        return Err(combination(format!("minCount ({min}) must not exceed maxCount ({max})")));
    }
    if max > MAX_PER_LAUNCH {
        return Err(value(
            "maxCount",
            max,
            &format!("At most {MAX_PER_LAUNCH} instances can be launched by one request."),
        ));
    }
    Ok((min, max))
}

fn refuse_unsupported(request: &Req) -> Result<(), Error> {
    let placement = request.placement.as_ref();
    let tenancy = placement.and_then(|placement| placement.tenancy.as_deref());
    let group =
        placement.is_some_and(|p| p.group_name.as_deref().is_some_and(|g| !g.is_empty()) || p.group_id.is_some());
    let reserved = request.capacity_reservation_specification.as_ref().is_some_and(|specification| {
        specification.capacity_reservation_target.is_some()
            || specification.capacity_reservation_preference.as_deref() == Some("capacity-reservations-only")
    });
    let cases = [
        (request.launch_template.is_some(), "Launch templates are"),
        (request.instance_market_options.is_some(), "Spot instances and capacity blocks are"),
        (request.hibernation_options.as_ref().is_some_and(|o| o.configured == Some(true)), "Hibernation is"),
        (request.enclave_options.as_ref().is_some_and(|o| o.enabled == Some(true)), "Enclaves are"),
        (!request.elastic_gpu_specification.is_empty(), "Elastic GPUs are"),
        (!request.elastic_inference_accelerators.is_empty(), "Elastic inference accelerators are"),
        (reserved, "Capacity reservations are"),
        (request.cpu_options.is_some(), "CPU options are"),
        (!request.license_specifications.is_empty(), "Licence configurations are"),
        (tenancy.is_some_and(|tenancy| !matches!(tenancy, "" | "default")), "Dedicated tenancy is"),
        (group, "Placement groups are"),
        (placement.is_some_and(|placement| placement.host_id.is_some()), "Dedicated hosts are"),
        (request.kernel_id.is_some() || request.ramdisk_id.is_some(), "Kernel and RAM disk IDs are"),
        (!request.ipv6_addresses.is_empty() || request.ipv6_address_count.is_some_and(|n| n > 0), "IPv6 addresses are"),
        (!request.secondary_interfaces.is_empty(), "Secondary interfaces are"),
    ];
    match cases.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            let message = format!("{what} not available here.");
            Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message))
        }
        None => Ok(()),
    }
}

fn user_data(request: &Req) -> Result<Option<Vec<u8>>, Error> {
    let Some(text) = request.user_data.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    // Some clients wrap base64 into lines.
    let text: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| Error::invalid("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data."))?;
    if bytes.len() > MAX_USER_DATA_BYTES {
        let message = format!("User data is limited to {MAX_USER_DATA_BYTES} bytes");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

fn metadata(request: &Req) -> Result<MetadataChoice, Error> {
    let Some(options) = &request.metadata_options else { return Ok(MetadataChoice::default()) };
    let choice = Choice {
        endpoint: options.http_endpoint.as_deref(),
        ipv6: options.http_protocol_ipv6.as_deref(),
        hop_limit: options.http_put_response_hop_limit,
        tokens: options.http_tokens.as_deref(),
        tags: options.instance_metadata_tags.as_deref(),
    };
    metadata_options::apply(&choice, MetadataChoice::default())
}

fn profile(cx: &Context<'_>, request: &Req) -> Result<Option<String>, Error> {
    let Some(named) = &request.iam_instance_profile else { return Ok(None) };
    let (arn, name) = (named.arn.as_deref(), named.name.as_deref());
    let profile = terroir_iam::ops::profile_for_ec2(cx.txn, cx.account(), arn, name)?;
    Ok(Some(profile.id.clone()))
}

fn bad_mapping(message: String) -> Error {
    Error::invalid("InvalidBlockDeviceMapping", message)
}

/// The image's disks as the request changes them, and those it adds; the root volume first.
fn volumes(cx: &Context<'_>, request: &Req, image: &Image) -> Result<Vec<LaunchVolume>, Error> {
    let mut devices = BTreeSet::new();
    for mapping in &request.block_device_mappings {
        let device = required(&mapping.device_name, "blockDeviceMapping.deviceName")?;
        ops::check_device(device).map_err(|error| bad_mapping(error.message().to_owned()))?;
        if !devices.insert(device) {
            return Err(bad_mapping(format!("The device '{device}' is used in more than one block-device mapping")));
        }
    }
    let asked = |device: &str| request.block_device_mappings.iter().find(|m| m.device_name.as_deref() == Some(device));
    let mut volumes = Vec::new();
    for mapping in &image.mappings {
        let root = mapping.device == image.root_device;
        let change = asked(&mapping.device);
        if change.is_some_and(|change| change.no_device.is_some()) {
            if root {
                return Err(bad_mapping(format!("The root device '{}' cannot be left out", mapping.device)));
            }
            continue;
        }
        let volume = changed(cx, mapping, change.and_then(|change| change.ebs.as_ref()), root)?;
        volumes.insert(if root { 0 } else { volumes.len() }, volume);
    }
    for mapping in &request.block_device_mappings {
        let device = mapping.device_name.as_deref().unwrap_or_default();
        let known = image.mappings.iter().any(|known| known.device == device);
        // Instance store disks (`ephemeral0`) do not exist here; types without them ignore such mappings on AWS too.
        let Some(ebs) = mapping.ebs.as_ref().filter(|_| !known && mapping.no_device.is_none()) else { continue };
        volumes.push(LaunchVolume {
            device: device.to_owned(),
            shape: shape(cx, ebs, VolumeType::Gp2)?,
            delete_on_termination: ebs.delete_on_termination.unwrap_or(true),
        });
    }
    if volumes.len() > 16 {
        let message = "An instance can have at most 16 volumes.";
        return Err(Error::limit("AttachmentLimitExceeded", message));
    }
    Ok(volumes)
}

fn changed(
    cx: &Context<'_>,
    mapping: &ImageMapping,
    change: Option<&ec2::EbsBlockDevice>,
    root: bool,
) -> Result<LaunchVolume, Error> {
    let mut ebs = change.cloned().unwrap_or_default();
    let own = mapping.snapshot.map(|id| id.to_string());
    match (&ebs.snapshot_id, root) {
        (Some(id), true) if own.as_ref() != Some(id) => {
            return Err(bad_mapping("snapshotId cannot be modified on root device".to_owned()));
        }
        (Some(_), _) => {}
        (None, _) => ebs.snapshot_id = own,
    }
    ebs.volume_size = ebs.volume_size.or_else(|| i32::try_from(mapping.size_bytes.div_ceil(GIB)).ok());
    Ok(LaunchVolume {
        device: mapping.device.clone(),
        shape: shape(cx, &ebs, mapping.volume_type)?,
        delete_on_termination: ebs.delete_on_termination.unwrap_or(mapping.delete_on_termination),
    })
}

fn shape(
    cx: &Context<'_>,
    ebs: &ec2::EbsBlockDevice,
    default_type: VolumeType,
) -> Result<terroir_block_storage::ops::VolumeShape, Error> {
    let choice = VolumeChoice {
        size_gib: ebs.volume_size,
        volume_type: ebs.volume_type.clone(),
        iops: ebs.iops,
        throughput: ebs.throughput,
        snapshot: ebs.snapshot_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?,
        encrypted: ebs.encrypted == Some(true) || ebs.kms_key_id.is_some(),
    };
    resolve_shape(cx.txn, cx.account(), &choice, default_type, "InvalidBlockDeviceMapping")
}

fn interfaces(request: &Req, instance_type: &Arc<InstanceType>, max: u32) -> Result<Vec<InterfaceRequest>, Error> {
    let interfaces = if request.network_interfaces.is_empty() {
        vec![InterfaceRequest {
            subnet: request.subnet_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?,
            groups: terroir_block_storage::aws::parse_ids(&request.security_group_ids)?,
            group_names: request.security_groups.clone(),
            private_address: private_address(request.private_ip_address.as_deref())?,
            delete_on_termination: true,
            source_dest_check: true,
            ..InterfaceRequest::default()
        }]
    } else {
        named_interfaces(request)?
    };
    let most = instance_type.interfaces as usize;
    if interfaces.len() > most {
        let message =
            format!("Interface count {} exceeds the limit for {}: {most}", interfaces.len(), instance_type.name);
        return Err(Error::limit("AttachmentLimitExceeded", message));
    }
    let single = interfaces.iter().any(|i| i.private_address.is_some() || i.existing.is_some());
    if single && max > 1 {
        let message = "A private IP address or a network interface can be given to one instance only.";
        return Err(combination(message));
    }
    Ok(interfaces)
}

fn private_address(text: Option<&str>) -> Result<Option<std::net::IpAddr>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let address = text.parse::<std::net::Ipv4Addr>();
    address
        .map(|address| Some(address.into()))
        .map_err(|_| Error::invalid("InvalidParameterValue", format!("Invalid IPv4 address: '{text}'")))
}

fn named_interfaces(request: &Req) -> Result<Vec<InterfaceRequest>, Error> {
    let also = [
        (request.subnet_id.as_deref().is_some_and(|id| !id.is_empty()), "subnet ID"),
        (!request.security_group_ids.is_empty() || !request.security_groups.is_empty(), "security groups"),
        (request.private_ip_address.as_deref().is_some_and(|a| !a.is_empty()), "private IP address"),
    ];
    if let Some((_, what)) = also.iter().find(|(given, _)| *given) {
        return Err(combination(format!(
            "Network interfaces and an instance-level {what} may not be specified on the same request"
        )));
    }
    let mut out = Vec::new();
    let mut indices = BTreeSet::new();
    for specification in &request.network_interfaces {
        let interface = named_interface(specification)?;
        if !indices.insert(interface.device_index) {
            return Err(combination("Each network interface requires a unique device index."));
        }
        out.push(interface);
    }
    if !indices.contains(&0) {
        return Err(combination("A network interface with device index 0 is needed."));
    }
    out.sort_by_key(|interface| interface.device_index);
    Ok(out)
}

fn named_interface(specification: &ec2::InstanceNetworkInterfaceSpecification) -> Result<InterfaceRequest, Error> {
    let s = specification;
    let index = s.device_index.ok_or_else(|| combination("Each network interface requires a device index."))?;
    let device_index = u8::try_from(index).map_err(|_| value("deviceIndex", index, "Expected 0 to 255."))?;
    let unsupported = s.ipv6_address_count.is_some_and(|n| n > 0)
        || !s.ipv6_addresses.is_empty()
        || !s.ipv4_prefixes.is_empty()
        || s.ipv4_prefix_count.is_some_and(|n| n > 0)
        || s.secondary_private_ip_address_count.is_some_and(|n| n > 0)
        || s.private_ip_addresses.len() > 1
        || s.interface_type.as_deref().is_some_and(|kind| !matches!(kind, "" | "interface"));
    if unsupported {
        let message = "Network interfaces with IPv6, prefixes, several private addresses or special types are not available here.";
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    let listed = s.private_ip_addresses.first().and_then(|address| address.private_ip_address.as_deref());
    let existing: Option<InterfaceId> =
        s.network_interface_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?;
    if existing.is_some() && (s.subnet_id.is_some() || !s.groups.is_empty() || s.associate_public_ip_address.is_some())
    {
        let message = "A network interface that exists may not be given a subnet, groups or a public IP address.";
        return Err(combination(message));
    }
    Ok(InterfaceRequest {
        subnet: s.subnet_id.as_deref().filter(|id| !id.is_empty()).map(str::parse).transpose()?,
        zone: None,
        groups: terroir_block_storage::aws::parse_ids(&s.groups)?,
        group_names: Vec::new(),
        private_address: private_address(s.private_ip_address.as_deref().or(listed))?,
        public: s.associate_public_ip_address,
        description: s.description.clone().unwrap_or_default(),
        delete_on_termination: s.delete_on_termination.unwrap_or(existing.is_none()),
        device_index,
        source_dest_check: true,
        existing,
    })
}

/// The zone that subnets and placement allow; none if any will do. Looks subnets and groups up, so that a wrong one is
/// told before a full host is.
fn zone(cx: &Context<'_>, request: &Req, interfaces: &[InterfaceRequest]) -> Result<Option<String>, Error> {
    let placement = request.placement.as_ref();
    let name = placement.and_then(|placement| placement.availability_zone.as_deref()).filter(|name| !name.is_empty());
    let id = placement.and_then(|placement| placement.availability_zone_id.as_deref()).filter(|id| !id.is_empty());
    let asked = match (name, id) {
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(combination("AvailabilityZone and AvailabilityZoneId cannot both be specified"));
        }
        (Some(wanted), None) | (None, Some(wanted)) => {
            let found =
                cx.region.zones.iter().find(|zone| Some(zone.name.as_str()) == name || Some(zone.id.as_str()) == id);
            let found = found.ok_or_else(|| {
                Error::invalid("InvalidParameterValue", format!("Invalid availability zone: [{wanted}]"))
            })?;
            Some(found.name.clone())
        }
    };
    let mut zone = asked;
    for interface in interfaces {
        let subnet = match interface.existing {
            Some(id) => subnet_of(cx, id)?,
            None => resolve_subnet(cx.txn, cx.account(), interface.subnet, zone.as_deref())?,
        };
        if interface.existing.is_none() {
            resolve_groups(cx.txn, cx.account(), subnet.vpc, &interface.groups, &interface.group_names)?;
        }
        let named = interface.subnet.is_some() || interface.existing.is_some();
        match &zone {
            Some(zone) if named && *zone != subnet.zone => {
                return Err(combination("All network interfaces must be in the same availability zone."));
            }
            None if named => zone = Some(subnet.zone.clone()),
            _ => {}
        }
    }
    Ok(zone)
}

fn subnet_of(cx: &Context<'_>, id: InterfaceId) -> Result<Arc<Subnet>, Error> {
    let account = cx.account();
    let interface = cx.txn.get::<Interface>(&Interface::key(account, id))?.ok_or_else(|| InterfaceId::not_found(id))?;
    let subnet = cx.txn.get::<Subnet>(&Subnet::key(account, interface.subnet))?;
    subnet.ok_or_else(|| Error::internal(format_args!("the subnet of {id} does not exist")))
}
