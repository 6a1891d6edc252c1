//! What RunInstances takes and refuses.

use base64::Engine as _;
use terroir_aws_model::ec2::{
    self, BlockDeviceMapping, EbsBlockDevice, IamInstanceProfileSpecification, InstanceMetadataOptionsRequest,
    InstanceNetworkInterfaceSpecification, Placement, RunInstancesRequest, Tag, TagSpecification,
};

use super::{ROOMY, code};
use crate::aws::{DescribeInstances, RunInstances};
use crate::testing::World;

fn ebs(device: &str, ebs: EbsBlockDevice) -> BlockDeviceMapping {
    BlockDeviceMapping { device_name: Some(device.to_owned()), ebs: Some(ebs), ..Default::default() }
}

fn size(device: &str, gib: i32) -> BlockDeviceMapping {
    ebs(device, EbsBlockDevice { volume_size: Some(gib), ..Default::default() })
}

fn eni(index: i32) -> InstanceNetworkInterfaceSpecification {
    InstanceNetworkInterfaceSpecification { device_index: Some(index), ..Default::default() }
}

fn tagged(kind: &str, key: &str) -> TagSpecification {
    let tag = Tag { key: Some(key.to_owned()), value: Some(String::new()) };
    TagSpecification { resource_type: Some(kind.to_owned()), tags: vec![tag] }
}

type Change = Box<dyn Fn(&mut RunInstancesRequest)>;

fn rows() -> Vec<(&'static str, Change, &'static str)> {
    let long = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; 16 * 1024 + 1]);
    let full = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; 16 * 1024]);
    let option =
        |o: InstanceMetadataOptionsRequest| -> Change { Box::new(move |r| r.metadata_options = Some(o.clone())) };
    let mapping = |m: Vec<BlockDeviceMapping>| -> Change { Box::new(move |r| r.block_device_mappings = m.clone()) };
    let enis = |e: Vec<InstanceNetworkInterfaceSpecification>| -> Change {
        Box::new(move |r| r.network_interfaces = e.clone())
    };
    vec![
        ("nothing special", Box::new(|_| ()), "ok"),
        ("no image", Box::new(|r| r.image_id = None), "MissingParameter"),
        ("no type", Box::new(|r| r.instance_type = None), "MissingParameter"),
        ("malformed image", Box::new(|r| r.image_id = Some("ami-xyz".into())), "InvalidAMIID.Malformed"),
        ("unknown image", Box::new(|r| r.image_id = Some("ami-0123456789abcdef0".into())), "InvalidAMIID.NotFound"),
        ("unknown type", Box::new(|r| r.instance_type = Some("x9.huge".into())), "InvalidInstanceType"),
        ("type with a slash", Box::new(|r| r.instance_type = Some("../x".into())), "InvalidInstanceType"),
        ("count zero", Box::new(|r| r.min_count = 0), "InvalidParameterValue"),
        ("count negative", Box::new(|r| r.max_count = -1), "InvalidParameterValue"),
        ("min above max", Box::new(|r| r.min_count = 2), "InvalidParameterCombination"),
        ("too many", Box::new(|r| r.max_count = 101), "InvalidParameterValue"),
        ("unknown key", Box::new(|r| r.key_name = Some("nobody".into())), "InvalidKeyPair.NotFound"),
        (
            "unknown subnet",
            Box::new(|r| r.subnet_id = Some("subnet-0123456789abcdef0".into())),
            "InvalidSubnetID.NotFound",
        ),
        ("malformed subnet", Box::new(|r| r.subnet_id = Some("subnet".into())), "InvalidSubnetID.Malformed"),
        (
            "unknown group",
            Box::new(|r| r.security_group_ids = vec!["sg-0123456789abcdef0".into()]),
            "InvalidGroup.NotFound",
        ),
        ("default group by name", Box::new(|r| r.security_groups = vec!["default".into()]), "ok"),
        (
            "unknown zone",
            Box::new(|r| {
                r.placement = Some(Placement { availability_zone: Some("mars".into()), ..Default::default() })
            }),
            "InvalidParameterValue",
        ),
        (
            "tenancy",
            Box::new(|r| r.placement = Some(Placement { tenancy: Some("dedicated".into()), ..Default::default() })),
            "UnsupportedOperation",
        ),
        ("user data that is no base64", Box::new(|r| r.user_data = Some("***".into())), "InvalidUserData.Malformed"),
        ("user data too long", Box::new(move |r| r.user_data = Some(long.clone())), "InvalidParameterValue"),
        ("user data just fitting", Box::new(move |r| r.user_data = Some(full.clone())), "ok"),
        (
            "unknown shutdown behaviour",
            Box::new(|r| r.instance_initiated_shutdown_behavior = Some("explode".into())),
            "InvalidParameterValue",
        ),
        (
            "unknown profile",
            Box::new(|r| {
                r.iam_instance_profile = Some(IamInstanceProfileSpecification { name: Some("x".into()), arn: None })
            }),
            "InvalidParameterValue",
        ),
        (
            "tokens",
            option(InstanceMetadataOptionsRequest { http_tokens: Some("maybe".into()), ..Default::default() }),
            "InvalidParameterValue",
        ),
        (
            "hop limit",
            option(InstanceMetadataOptionsRequest { http_put_response_hop_limit: Some(65), ..Default::default() }),
            "InvalidParameterValue",
        ),
        (
            "IMDSv2 only",
            option(InstanceMetadataOptionsRequest { http_tokens: Some("required".into()), ..Default::default() }),
            "ok",
        ),
        (
            "a private address outside",
            Box::new(|r| r.private_ip_address = Some("10.9.9.9".into())),
            "InvalidParameterValue",
        ),
        (
            "a private address that is none",
            Box::new(|r| r.private_ip_address = Some("x".into())),
            "InvalidParameterValue",
        ),
        (
            "one address for two",
            Box::new(|r| {
                r.private_ip_address = Some("172.31.0.77".into());
                r.max_count = 2;
            }),
            "InvalidParameterCombination",
        ),
        ("a larger root", mapping(vec![size("/dev/xvda", 8)]), "ok"),
        ("a root volume of no size", mapping(vec![size("/dev/xvda", 0)]), "InvalidParameterValue"),
        ("another volume", mapping(vec![size("/dev/sdf", 5)]), "ok"),
        ("a volume of no size", mapping(vec![ebs("/dev/sdf", EbsBlockDevice::default())]), "MissingParameter"),
        ("a device twice", mapping(vec![size("/dev/sdf", 5), size("/dev/sdf", 5)]), "InvalidBlockDeviceMapping"),
        ("a bad device name", mapping(vec![size("/dev/null", 5)]), "InvalidBlockDeviceMapping"),
        (
            "no device name",
            mapping(vec![BlockDeviceMapping { ebs: Some(EbsBlockDevice::default()), ..Default::default() }]),
            "MissingParameter",
        ),
        (
            "no root",
            mapping(vec![BlockDeviceMapping {
                device_name: Some("/dev/xvda".into()),
                no_device: Some(String::new()),
                ..Default::default()
            }]),
            "InvalidBlockDeviceMapping",
        ),
        (
            "an unknown volume type",
            mapping(vec![ebs(
                "/dev/sdf",
                EbsBlockDevice { volume_size: Some(5), volume_type: Some("gp9".into()), ..Default::default() },
            )]),
            "UnknownVolumeType",
        ),
        (
            "an unknown snapshot",
            mapping(vec![ebs(
                "/dev/sdf",
                EbsBlockDevice { snapshot_id: Some("snap-0123456789abcdef0".into()), ..Default::default() },
            )]),
            "InvalidSnapshot.NotFound",
        ),
        (
            "encryption",
            mapping(vec![ebs(
                "/dev/sdf",
                EbsBlockDevice { volume_size: Some(5), encrypted: Some(true), ..Default::default() },
            )]),
            "UnsupportedOperation",
        ),
        ("an interface", enis(vec![eni(0)]), "ok"),
        ("two interfaces", enis(vec![eni(1), eni(0)]), "ok"),
        ("three where two may be", enis(vec![eni(0), eni(1), eni(2)]), "AttachmentLimitExceeded"),
        ("an interface twice", enis(vec![eni(0), eni(0)]), "InvalidParameterCombination"),
        ("no first interface", enis(vec![eni(1)]), "InvalidParameterCombination"),
        (
            "no device index",
            enis(vec![InstanceNetworkInterfaceSpecification::default()]),
            "InvalidParameterCombination",
        ),
        (
            "an unknown interface",
            enis(vec![InstanceNetworkInterfaceSpecification {
                network_interface_id: Some("eni-0123456789abcdef0".into()),
                ..eni(0)
            }]),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "interfaces and groups",
            Box::new(|r| {
                r.network_interfaces = vec![eni(0)];
                r.security_groups = vec!["default".into()];
            }),
            "InvalidParameterCombination",
        ),
        (
            "tags",
            Box::new(|r| {
                r.tag_specifications =
                    vec![tagged("instance", "a"), tagged("volume", "b"), tagged("network-interface", "c")]
            }),
            "ok",
        ),
        (
            "tags for a bucket",
            Box::new(|r| r.tag_specifications = vec![tagged("bucket", "a")]),
            "InvalidParameterValue",
        ),
        (
            "a reserved tag",
            Box::new(|r| r.tag_specifications = vec![tagged("instance", "aws:x")]),
            "InvalidParameterValue",
        ),
        (
            "a launch template",
            Box::new(|r| r.launch_template = Some(ec2::LaunchTemplateSpecification::default())),
            "UnsupportedOperation",
        ),
    ]
}

#[tokio::test]
async fn requests_are_taken_or_refused_in_awss_words() {
    let world = World::new(ROOMY).await;
    let mut launched = 0;
    for (what, change, expected) in rows() {
        let mut request = world.run(1);
        change(&mut request);
        let result = world.call::<RunInstances>(request).await;
        assert_eq!(code(&result), expected, "{what}: {:?}", result.as_ref().err().map(ToString::to_string));
        launched += usize::from(expected == "ok");
        assert_eq!(world.kinds().await.get("instance"), Some(&launched), "{what}: all or nothing");
    }
}

#[tokio::test]
async fn what_was_asked_for_is_what_is_shown() {
    let world = World::new(ROOMY).await;
    let request = RunInstancesRequest {
        block_device_mappings: vec![size("/dev/xvda", 8), size("/dev/sdf", 5)],
        tag_specifications: vec![tagged("instance", "team"), tagged("volume", "disk")],
        metadata_options: Some(InstanceMetadataOptionsRequest {
            http_tokens: Some("required".to_owned()),
            http_put_response_hop_limit: Some(2),
            ..Default::default()
        }),
        private_ip_address: Some("172.31.0.77".to_owned()),
        disable_api_termination: Some(true),
        ..world.run(1)
    };
    let made = world.call::<RunInstances>(request).await.unwrap();
    let id = made.instances[0].instance_id.clone().unwrap();
    let shown = world
        .call::<DescribeInstances>(ec2::DescribeInstancesRequest {
            instance_ids: vec![id.clone()],
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(shown.reservations[0].reservation_id, made.reservation_id);
    let instance = &shown.reservations[0].instances[0];
    assert_eq!(instance, &made.instances[0]);
    assert_eq!(instance.state.as_ref().unwrap().name.as_deref(), Some("pending"));
    assert_eq!(instance.private_ip_address.as_deref(), Some("172.31.0.77"));
    assert_eq!(instance.private_dns_name.as_deref(), Some("ip-172-31-0-77.eu-local-1.compute.internal"));
    assert!(instance.public_ip_address.is_some(), "default subnets give public addresses");
    assert_eq!(instance.tags.len(), 1);
    assert_eq!(instance.metadata_options.as_ref().unwrap().http_tokens.as_deref(), Some("required"));
    let devices: Vec<_> = instance.block_device_mappings.iter().map(|m| m.device_name.as_deref().unwrap()).collect();
    assert_eq!(devices, ["/dev/xvda", "/dev/sdf"]);
    let again = world.with_context(|cx| <RunInstances as terroir_action::Action>::replay(cx, &id)).await.unwrap();
    assert_eq!(again, made, "a repeat answers the same");
}

#[tokio::test]
async fn one_request_makes_a_hundred_instances_in_one_reservation() {
    let world = World::new(ROOMY).await;
    let made = world.call::<RunInstances>(world.run(100)).await.unwrap();
    assert_eq!(made.instances.len(), 100);
    let mut indices: Vec<_> = made.instances.iter().map(|instance| instance.ami_launch_index.unwrap()).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..100).collect::<Vec<_>>());
    let mut seen = std::collections::BTreeSet::new();
    let mut token = None;
    loop {
        let request =
            ec2::DescribeInstancesRequest { max_results: Some(30), next_token: token.take(), ..Default::default() };
        let page = world.call::<DescribeInstances>(request).await.unwrap();
        let instances: Vec<_> = page.reservations.iter().flat_map(|reservation| &reservation.instances).collect();
        assert!(instances.len() <= 30 && page.reservations.len() == 1);
        seen.extend(instances.iter().map(|instance| instance.instance_id.clone()));
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 100);
}
