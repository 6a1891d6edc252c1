use std::sync::Arc;
use terroir_action::{Access, Action, Bounds, Context, Request, Response, Target, paginate};
use terroir_aws_model::{Decode, ec2};
use terroir_block_storage::aws::{no_page_of_ids, parse_filters, scope};
use terroir_resources::Tags;
use terroir_types::Error;

use crate::catalogue::{self, InstanceType};

const FILTERS: &[&str] = &[
    "auto-recovery-supported",
    "bare-metal",
    "burstable-performance-supported",
    "current-generation",
    "ebs-info.ebs-optimized-support",
    "ebs-info.encryption-support",
    "free-tier-eligible",
    "hibernation-supported",
    "hypervisor",
    "instance-storage-supported",
    "instance-type",
    "memory-info.size-in-mib",
    "network-info.ipv4-addresses-per-interface",
    "network-info.ipv6-supported",
    "network-info.maximum-network-interfaces",
    "network-info.network-performance",
    "processor-info.supported-architecture",
    "processor-info.sustained-clock-speed-in-ghz",
    "supported-boot-mode",
    "supported-root-device-type",
    "supported-usage-class",
    "supported-virtualization-type",
    "vcpu-info.default-cores",
    "vcpu-info.default-threads-per-core",
    "vcpu-info.default-vcpus",
];

fn field(it: &InstanceType, name: &str) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    match name {
        "auto-recovery-supported"
        | "bare-metal"
        | "free-tier-eligible"
        | "hibernation-supported"
        | "instance-storage-supported"
        | "network-info.ipv6-supported" => one("false"),
        "burstable-performance-supported" => vec![it.burstable.to_string()],
        "current-generation" => vec![it.current.to_string()],
        "ebs-info.ebs-optimized-support" | "ebs-info.encryption-support" => one("unsupported"),
        "hypervisor" => one("kvm"),
        "instance-type" => one(&it.name),
        "memory-info.size-in-mib" => vec![it.memory_mib.to_string()],
        "network-info.ipv4-addresses-per-interface" => vec![it.addresses.to_string()],
        "network-info.maximum-network-interfaces" => vec![it.interfaces.to_string()],
        "network-info.network-performance" => one(&it.network),
        "processor-info.supported-architecture" => one("x86_64"),
        "processor-info.sustained-clock-speed-in-ghz" => it.clock_ghz.map(|ghz| ghz.to_string()).into_iter().collect(),
        "supported-boot-mode" => one("legacy-bios"),
        "supported-root-device-type" => one("ebs"),
        "supported-usage-class" => one("on-demand"),
        "supported-virtualization-type" => one("hvm"),
        "vcpu-info.default-cores" => vec![it.cores().to_string()],
        "vcpu-info.default-threads-per-core" => vec![it.threads_per_core().to_string()],
        "vcpu-info.default-vcpus" => vec![it.vcpus.to_string()],
        _ => Vec::new(),
    }
}

fn shape(it: &InstanceType) -> ec2::InstanceTypeInfo {
    let text = |text: &str| Some(text.to_owned());
    let number = |number: u32| i32::try_from(number).ok();
    ec2::InstanceTypeInfo {
        auto_recovery_supported: Some(false),
        bare_metal: Some(false),
        burstable_performance_supported: Some(it.burstable),
        current_generation: Some(it.current),
        dedicated_hosts_supported: Some(false),
        ebs_info: Some(ec2::EbsInfo {
            ebs_optimized_support: text("unsupported"),
            encryption_support: text("unsupported"),
            nvme_support: text("unsupported"),
            ..ec2::EbsInfo::default()
        }),
        free_tier_eligible: Some(false),
        hibernation_supported: Some(false),
        hypervisor: text("kvm"),
        instance_storage_supported: Some(false),
        instance_type: text(&it.name),
        memory_info: Some(ec2::MemoryInfo { size_in_mi_b: i64::try_from(it.memory_mib).ok() }),
        network_info: Some(ec2::NetworkInfo {
            default_network_card_index: Some(0),
            efa_supported: Some(false),
            ena_support: text("unsupported"),
            encryption_in_transit_supported: Some(false),
            ipv4_addresses_per_interface: number(it.addresses),
            ipv6_addresses_per_interface: Some(0),
            ipv6_supported: Some(false),
            maximum_network_cards: Some(1),
            maximum_network_interfaces: number(it.interfaces),
            network_cards: vec![ec2::NetworkCardInfo {
                maximum_network_interfaces: number(it.interfaces),
                network_card_index: Some(0),
                network_performance: text(&it.network),
                ..ec2::NetworkCardInfo::default()
            }],
            network_performance: text(&it.network),
            ..ec2::NetworkInfo::default()
        }),
        placement_group_info: Some(ec2::PlacementGroupInfo::default()),
        processor_info: Some(ec2::ProcessorInfo {
            supported_architectures: vec!["x86_64".to_owned()],
            sustained_clock_speed_in_ghz: it.clock_ghz,
            ..ec2::ProcessorInfo::default()
        }),
        supported_boot_modes: vec!["legacy-bios".to_owned()],
        supported_root_device_types: vec!["ebs".to_owned()],
        supported_usage_classes: vec!["on-demand".to_owned()],
        supported_virtualization_types: vec!["hvm".to_owned()],
        vcpu_info: Some(ec2::VCpuInfo {
            default_cores: number(it.cores()),
            default_threads_per_core: number(it.threads_per_core()),
            default_vcpus: number(it.vcpus),
            ..ec2::VCpuInfo::default()
        }),
        ..ec2::InstanceTypeInfo::default()
    }
}

pub struct DescribeInstanceTypes;

impl Action for DescribeInstanceTypes {
    type Op = ec2::ops::DescribeInstanceTypes;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeInstanceTypes")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, FILTERS)?;
        let ids = &request.instance_types;
        no_page_of_ids(ids, request.max_results, "instanceTypeSet")?;
        let mut types: Vec<Arc<InstanceType>> = match ids.is_empty() {
            true => catalogue::all(cx.txn)?,
            false => ids.iter().map(|name| catalogue::find(cx.txn, name)).collect::<Result<_, _>>()?,
        };
        types.sort_by(|a, b| a.name.cmp(&b.name));
        types.dedup_by(|a, b| a.name == b.name);
        let tags = Tags::new();
        let items = types
            .into_iter()
            .filter(|it| filters.matches(&tags, |name| field(it, name)))
            .map(|it| (it.name.clone(), it));
        let bounds = Bounds { least: 5, greatest: 100 };
        let (page, next_token) =
            paginate(cx, "DescribeInstanceTypes", &scope(ids, &filters), request.page(), bounds, items)?;
        Ok(ec2::DescribeInstanceTypesResult { instance_types: page.iter().map(|it| shape(it)).collect(), next_token })
    }
}

pub struct DescribeInstanceTypeOfferings;

impl Action for DescribeInstanceTypeOfferings {
    type Op = ec2::ops::DescribeInstanceTypeOfferings;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeInstanceTypeOfferings")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, &["instance-type", "location"])?;
        let location_type = request.location_type.as_deref().unwrap_or("region");
        let region = cx.region;
        let locations: Vec<&str> = match location_type {
            "region" => vec![&region.name],
            "availability-zone" => region.zones.iter().map(|zone| zone.name.as_str()).collect(),
            "availability-zone-id" => region.zones.iter().map(|zone| zone.id.as_str()).collect(),
            other => {
                let message = format!("Value ({other}) for parameter locationType is invalid.");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
        };
        let tags = Tags::new();
        let mut items = Vec::new();
        for it in catalogue::all(cx.txn)? {
            for location in &locations {
                let field = |name: &str| match name {
                    "instance-type" => vec![it.name.clone()],
                    _ => vec![(*location).to_owned()],
                };
                if filters.matches(&tags, field) {
                    items.push((format!("{}/{location}", it.name), (it.name.clone(), (*location).to_owned())));
                }
            }
        }
        let scope = format!("{location_type}|{}", filters.canonical());
        let (page, next_token) =
            paginate(cx, "DescribeInstanceTypeOfferings", &scope, request.page(), Bounds::EC2, items.into_iter())?;
        let offering = |(instance_type, location)| ec2::InstanceTypeOffering {
            instance_type: Some(instance_type),
            location: Some(location),
            location_type: Some(location_type.to_owned()),
        };
        let instance_type_offerings = page.into_iter().map(offering).collect();
        Ok(ec2::DescribeInstanceTypeOfferingsResult { instance_type_offerings, next_token })
    }
}
