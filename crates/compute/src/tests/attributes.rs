//! Attributes, metadata options, key pairs and instance types.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use terroir_action::{LiveAction, LiveContext};
use terroir_agent_api::Section;
use terroir_aws_model::ec2;
use terroir_types::{Clock, Error, InstanceId};

use super::{Cloud, ROOMY, code};
use crate::aws::{
    CreateKeyPair, DeleteKeyPair, DescribeInstanceAttribute, DescribeInstanceTypeOfferings, DescribeInstanceTypes,
    DescribeKeyPairs, ImportKeyPair, ModifyInstanceAttribute, ModifyInstanceMetadataOptions, RunInstances,
    StopInstances,
};
use crate::ops;
use crate::testing::{World, ZONE};

fn named(id: InstanceId, attribute: &str, value: &str) -> ec2::ModifyInstanceAttributeRequest {
    ec2::ModifyInstanceAttributeRequest {
        instance_id: id.to_string(),
        attribute: Some(attribute.to_owned()),
        value: Some(value.to_owned()),
        ..Default::default()
    }
}

async fn attribute(cloud: &Cloud, id: InstanceId, name: &str) -> Result<ec2::InstanceAttribute, Error> {
    let request = ec2::DescribeInstanceAttributeRequest {
        instance_id: id.to_string(),
        attribute: name.to_owned(),
        ..Default::default()
    };
    cloud.world.call::<DescribeInstanceAttribute>(request).await
}

#[tokio::test]
async fn attributes_change_where_aws_lets_them() {
    let mut cloud = Cloud::new(ROOMY).await;
    let request = ec2::RunInstancesRequest { user_data: Some(STANDARD.encode("first")), ..cloud.world.run(1) };
    let id = cloud.run(request).await[0];
    cloud.settle().await;
    let first = attribute(&cloud, id, "userData").await.unwrap().user_data.unwrap().value;
    assert_eq!(first, Some(STANDARD.encode("first")));
    let second = STANDARD.encode("second");
    const STATE: &str = "IncorrectInstanceState";
    let rows = [
        (named(id, "instanceType", "t3.nano"), STATE, "ok"),
        (named(id, "instanceType", "x9.huge"), STATE, "InvalidInstanceType"),
        (named(id, "userData", &second), STATE, "ok"),
        (named(id, "userData", "***"), "InvalidUserData.Malformed", "InvalidUserData.Malformed"),
        (named(id, "ebsOptimized", "true"), STATE, "ok"),
        (named(id, "disableApiTermination", "true"), "ok", "ok"),
        (named(id, "disableApiTermination", "perhaps"), "InvalidParameterValue", "InvalidParameterValue"),
        (named(id, "instanceInitiatedShutdownBehavior", "terminate"), "ok", "ok"),
        (named(id, "instanceInitiatedShutdownBehavior", "explode"), "InvalidParameterValue", "InvalidParameterValue"),
        (named(id, "sourceDestCheck", "false"), "ok", "ok"),
        (named(id, "kernel", "aki-1"), "UnsupportedOperation", "UnsupportedOperation"),
        (named(id, "colour", "red"), "InvalidParameterValue", "InvalidParameterValue"),
        (
            ec2::ModifyInstanceAttributeRequest { instance_id: id.to_string(), ..Default::default() },
            "InvalidParameterCombination",
            "InvalidParameterCombination",
        ),
    ];
    for (request, running, _) in &rows {
        assert_eq!(code(&cloud.world.call::<ModifyInstanceAttribute>(request.clone()).await), *running, "{request:?}");
    }
    let stop = ec2::StopInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() };
    cloud.world.call::<StopInstances>(stop).await.unwrap();
    cloud.settle().await;
    for (request, _, stopped) in &rows {
        assert_eq!(code(&cloud.world.call::<ModifyInstanceAttribute>(request.clone()).await), *stopped, "{request:?}");
    }
    assert_eq!(attribute(&cloud, id, "userData").await.unwrap().user_data.unwrap().value, Some(second));
    assert_eq!(
        attribute(&cloud, id, "instanceType").await.unwrap().instance_type.unwrap().value.as_deref(),
        Some("t3.nano")
    );
    assert_eq!(attribute(&cloud, id, "sourceDestCheck").await.unwrap().source_dest_check.unwrap().value, Some(false));
    assert_eq!(attribute(&cloud, id, "groupSet").await.unwrap().groups.len(), 1);
    assert_eq!(attribute(&cloud, id, "blockDeviceMapping").await.unwrap().block_device_mappings.len(), 1);
    assert_eq!(code(&attribute(&cloud, id, "colour").await), "InvalidParameterValue");
}

#[tokio::test]
async fn metadata_options_reach_the_host() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    let base = || ec2::ModifyInstanceMetadataOptionsRequest { instance_id: id.to_string(), ..Default::default() };
    for (request, expected) in [
        (
            ec2::ModifyInstanceMetadataOptionsRequest { http_tokens: Some("maybe".into()), ..base() },
            "InvalidParameterValue",
        ),
        (
            ec2::ModifyInstanceMetadataOptionsRequest { http_put_response_hop_limit: Some(0), ..base() },
            "InvalidParameterValue",
        ),
        (
            ec2::ModifyInstanceMetadataOptionsRequest { http_protocol_ipv6: Some("enabled".into()), ..base() },
            "UnsupportedOperation",
        ),
        (ec2::ModifyInstanceMetadataOptionsRequest { http_tokens: Some("required".into()), ..base() }, "ok"),
        (ec2::ModifyInstanceMetadataOptionsRequest { instance_metadata_tags: Some("enabled".into()), ..base() }, "ok"),
    ] {
        assert_eq!(
            code(&cloud.world.call::<ModifyInstanceMetadataOptions>(request.clone()).await),
            expected,
            "{request:?}"
        );
    }
    cloud.settle().await;
    let Some(Section::Instance(section)) = cloud.host.spec().get(&format!("instance/{id}")) else {
        panic!("no section")
    };
    let options = &section.metadata.options;
    assert!(options.tokens_required && options.tags_enabled && options.enabled && options.hop_limit == 1);
}

async fn create_key(
    world: &World,
    name: &str,
    kind: Option<&str>,
    format: Option<&str>,
) -> Result<ec2::KeyPair, Error> {
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let cx = LiveContext {
        store: &world.store,
        caller: &world.caller,
        clock: &clock,
        ids: &*world.ids,
        region: &world.region,
        request_id: "test",
    };
    let request = ec2::CreateKeyPairRequest {
        key_name: name.to_owned(),
        key_type: kind.map(str::to_owned),
        key_format: format.map(str::to_owned),
        ..Default::default()
    };
    CreateKeyPair.run(cx, request).await
}

fn delete_key(name: &str) -> ec2::DeleteKeyPairRequest {
    ec2::DeleteKeyPairRequest { key_name: Some(name.to_owned()), ..Default::default() }
}

#[tokio::test]
async fn key_pairs_come_and_go_but_stay_with_their_instances() {
    let mut cloud = Cloud::new(ROOMY).await;
    let ed25519 = Some("ed25519");
    for (name, kind, format, expected) in [
        ("mine", ed25519, None, "ok"),
        ("mine", ed25519, None, "InvalidKeyPair.Duplicate"),
        ("", ed25519, None, "InvalidParameterValue"),
        (" x", ed25519, None, "InvalidParameterValue"),
        ("schlüssel", ed25519, None, "InvalidParameterValue"),
        ("putty", ed25519, Some("ppk"), "UnsupportedOperation"),
        ("dsa", Some("dsa"), None, "InvalidParameterValue"),
    ] {
        assert_eq!(code(&create_key(&cloud.world, name, kind, format).await), expected, "{name}");
    }
    let import = |name: &str, material: &str| ec2::ImportKeyPairRequest {
        key_name: name.to_owned(),
        public_key_material: material.as_bytes().to_vec(),
        ..Default::default()
    };
    let rsa = include_str!("../aws/testdata/rsa.pub");
    for (name, material, expected) in
        [("theirs", rsa, "ok"), ("theirs", rsa, "InvalidKeyPair.Duplicate"), ("x", "ssh-rsa x", "InvalidKey.Format")]
    {
        assert_eq!(code(&cloud.world.call::<ImportKeyPair>(import(name, material)).await), expected, "{name}");
    }
    let all = cloud.world.call::<DescribeKeyPairs>(ec2::DescribeKeyPairsRequest::default()).await.unwrap();
    let names: Vec<_> = all.key_pairs.iter().map(|pair| pair.key_name.as_deref().unwrap()).collect();
    assert_eq!(names, ["mine", "theirs"]);
    let request = ec2::RunInstancesRequest { key_name: Some("theirs".to_owned()), ..cloud.world.run(1) };
    let id = cloud.run(request).await[0];
    for name in ["theirs", "mine", "mine", "never-was"] {
        assert_eq!(code(&cloud.world.call::<DeleteKeyPair>(delete_key(name)).await), "ok", "{name}");
    }
    let gone = ec2::DescribeKeyPairsRequest { key_names: vec!["theirs".to_owned()], ..Default::default() };
    assert_eq!(code(&cloud.world.call::<DescribeKeyPairs>(gone).await), "InvalidKeyPair.NotFound");
    cloud.world.with_context(|cx| ops::collect(cx.txn, cx.now)).await.unwrap();
    cloud.settle().await;
    assert_eq!(cloud.describe(id).await.key_name.as_deref(), Some("theirs"));
    let Some(Section::Instance(section)) = cloud.host.spec().get(&format!("instance/{id}")) else {
        panic!("no section")
    };
    assert!(rsa.starts_with(&section.metadata.key_pair.as_ref().unwrap().openssh));
    assert_eq!(cloud.world.kinds().await.get("key-pair"), Some(&1), "the pair that nobody has is collected");
    assert_eq!(code(&cloud.world.call::<ImportKeyPair>(import("theirs", rsa)).await), "ok", "the name is free");
}

#[tokio::test]
async fn instance_types_are_described() {
    let world = World::new(ROOMY).await;
    let filter = |name: &str, value: &str| ec2::Filter { name: Some(name.to_owned()), values: vec![value.to_owned()] };
    let request = |names: &[&str], filters| ec2::DescribeInstanceTypesRequest {
        instance_types: names.iter().map(|name| (*name).to_owned()).collect(),
        filters,
        ..Default::default()
    };
    let some = world.call::<DescribeInstanceTypes>(request(&["t3.micro", "m5.large"], vec![])).await.unwrap();
    let names: Vec<_> = some.instance_types.iter().map(|it| it.instance_type.as_deref().unwrap()).collect();
    assert_eq!(names, ["m5.large", "t3.micro"]);
    assert_eq!(some.instance_types[1].memory_info.as_ref().unwrap().size_in_mi_b, Some(1024));
    let small = vec![filter("memory-info.size-in-mib", "128")];
    assert_eq!(world.call::<DescribeInstanceTypes>(request(&[], small)).await.unwrap().instance_types.len(), 1);
    let unknown = world.call::<DescribeInstanceTypes>(request(&["x9.huge"], vec![])).await;
    assert_eq!(code(&unknown), "InvalidInstanceType");
    let bad = world.call::<DescribeInstanceTypes>(request(&[], vec![filter("colour", "red")])).await;
    assert_eq!(code(&bad), "InvalidParameterValue");
    let offerings = ec2::DescribeInstanceTypeOfferingsRequest {
        location_type: Some("availability-zone".to_owned()),
        filters: vec![filter("instance-type", "t3.*")],
        ..Default::default()
    };
    let offered = world.call::<DescribeInstanceTypeOfferings>(offerings).await.unwrap().instance_type_offerings;
    assert!(offered.len() == 7 && offered.iter().all(|offer| offer.location.as_deref() == Some(ZONE)));
    let launch = ec2::RunInstancesRequest { instance_type: Some("t3.micro".to_owned()), ..world.run(1) };
    assert_eq!(code(&world.call::<RunInstances>(launch).await), "ok");
}
