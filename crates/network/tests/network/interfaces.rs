//! Interfaces and their addresses: who holds them, and when they are free again.

use std::collections::BTreeSet;
use terroir_agent_api::{InterfacePhase, InterfaceStatus};
use terroir_network::model::{Interface, InterfaceTrouble};
use terroir_network::ops::{self, InterfaceRequest, Scope};
use terroir_types::{Error, HostId, InterfaceId, ResourceId, SecurityGroupId, SubnetId};

use crate::world::{ALICE, World, account, plain};

async fn world_with_subnet() -> World {
    let mut world = World::new().await;
    world
        .run(
            "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/28 AvailabilityZone=eu-local-1a -> subnet=subnetId
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=x -> web=groupId
        CreateVpc CidrBlock=10.0.0.0/16 -> other=vpcId
        CreateSecurityGroup VpcId=$other GroupName=far GroupDescription=x -> far=groupId
        ",
        )
        .await;
    world
}

fn status(interface: InterfaceId, epoch: u64, phase: InterfacePhase) -> InterfaceStatus {
    InterfaceStatus { id: interface, generation: 1, epoch, phase }
}

impl World {
    async fn report(&self, host: HostId, status: InterfaceStatus) {
        self.transact(|txn| ops::apply_interface_status(txn, host, &status)).await.unwrap();
    }

    async fn seen(&self, id: InterfaceId) -> Option<std::sync::Arc<Interface>> {
        self.store.read().await.unwrap().peek::<Interface>(&Interface::key(account(ALICE), id)).unwrap()
    }
}

#[tokio::test]
async fn what_an_instance_may_ask_for() {
    let world = world_with_subnet().await;
    let host = world.host();
    let subnet = Some(world.id::<SubnetId>("subnet"));
    let base = || InterfaceRequest { subnet, ..plain() };
    let address = |text: &str| Some(text.parse().unwrap());
    let rows: Vec<(InterfaceRequest, Result<&str, &str>)> = vec![
        (InterfaceRequest { private_address: address("10.0.0.4"), ..base() }, Ok("10.0.0.4")),
        (InterfaceRequest { private_address: address("10.0.0.4"), ..base() }, Err("InvalidIPAddress.InUse")),
        (InterfaceRequest { private_address: address("10.0.0.3"), ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { private_address: address("10.0.0.15"), ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { private_address: address("10.0.1.4"), ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { private_address: address("fd00::4"), ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { zone: Some("eu-local-1b".into()), ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { groups: vec![world.id("web")], ..base() }, Ok("10.0.0.")),
        (InterfaceRequest { group_names: vec!["web".into()], ..base() }, Ok("10.0.0.")),
        (InterfaceRequest { groups: vec![world.id("far")], ..base() }, Err("InvalidParameterValue")),
        (InterfaceRequest { group_names: vec!["far".into()], ..base() }, Err("InvalidGroup.NotFound")),
        (
            InterfaceRequest { groups: vec![SecurityGroupId::generate(&world.ids)], ..base() },
            Err("InvalidGroup.NotFound"),
        ),
        (InterfaceRequest { subnet: Some(SubnetId::generate(&world.ids)), ..plain() }, Err("InvalidSubnetID.NotFound")),
        (plain(), Err("VPCIdNotSpecified")),
        (
            InterfaceRequest { existing: Some(InterfaceId::generate(&world.ids)), ..base() },
            Err("InvalidNetworkInterfaceID.NotFound"),
        ),
    ];
    for (request, expected) in rows {
        match (world.launch(host, &request).await, expected) {
            (Ok((_, interface)), Ok(prefix)) => {
                assert!(interface.primary_address().to_string().starts_with(prefix), "{request:?}");
                assert!(interface.mac().starts_with("02:") && interface.mac().len() == 17);
                assert_eq!((interface.epoch, interface.host, interface.public), (1, Some(host), None));
            }
            (Err(error), Err(code)) => assert_eq!(error.code(), code, "{request:?}"),
            (got, expected) => panic!("{request:?} gives {got:?}, not {expected:?}"),
        }
    }
}

/// A /28 has eleven addresses; each is given once, and deleting waits until the last is free.
#[tokio::test]
async fn addresses_are_given_once() {
    let mut world = world_with_subnet().await;
    let host = world.host();
    let request = InterfaceRequest { subnet: Some(world.id("subnet")), ..plain() };
    let (mut given, mut instances) = (BTreeSet::new(), Vec::new());
    for _ in 0..11 {
        let (instance, interface) = world.launch(host, &request).await.unwrap();
        assert!(given.insert(interface.primary_address()), "{} twice", interface.primary_address());
        instances.push((instance, interface));
    }
    let full = world.launch(host, &request).await.unwrap_err();
    assert_eq!(full.code(), "InsufficientFreeAddressesInSubnet");
    world.run("DescribeSubnets SubnetId.1=$subnet -> ~<availableIpAddressCount>0<").await;
    world.run("DeleteSubnet SubnetId=$subnet -> !DependencyViolation").await;
    for (instance, interface) in &instances {
        world.transact(|txn| ops::release_interfaces_of(txn, *instance)).await.unwrap();
        world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    }
    world.run("DescribeSubnets SubnetId.1=$subnet -> ~<availableIpAddressCount>11<").await;
    world.run("DeleteSubnet SubnetId=$subnet").await;
    world.run("DeleteSecurityGroup GroupId=$web").await;
    world.run("DeleteVpc VpcId=$vpc").await;
}

/// Nothing is free before its host says so, at the right epoch.
#[tokio::test]
async fn release_is_the_hosts_word() {
    let world = world_with_subnet().await;
    let (host, stranger) = (world.host(), world.host());
    let wanted = InterfaceRequest {
        subnet: Some(world.id("subnet")),
        private_address: Some("10.0.0.9".parse().unwrap()),
        ..plain()
    };
    let (instance, interface) = world.launch(host, &wanted).await.unwrap();
    world.report(host, status(interface.id, 1, InterfacePhase::Ready)).await;
    world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    assert!(world.seen(interface.id).await.is_some(), "a release nobody asked for changes nothing");
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    for (host, epoch) in [(host, 0), (host, 2), (stranger, 1)] {
        world.report(host, status(interface.id, epoch, InterfacePhase::Released)).await;
        assert!(world.seen(interface.id).await.is_some_and(|seen| seen.releasing), "{host} {epoch}");
        let taken = world.launch(host, &wanted).await.unwrap_err();
        assert_eq!(taken.code(), "InvalidIPAddress.InUse");
    }
    world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    assert!(world.seen(interface.id).await.is_none());
    world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    world.launch(host, &wanted).await.unwrap();
}

/// An interface that outlives its instance goes to another one, with a new epoch, once it is released.
#[tokio::test]
async fn an_interface_can_outlive_its_instance() {
    let mut world = world_with_subnet().await;
    let (host, next) = (world.host(), world.host());
    let request = InterfaceRequest { subnet: Some(world.id("subnet")), delete_on_termination: false, ..plain() };
    let (instance, interface) = world.launch(host, &request).await.unwrap();
    world.names.insert("eni".into(), interface.id.to_string());
    world.run("DescribeNetworkInterfaces NetworkInterfaceId.1=$eni -> ~<status>in-use<").await;
    let again = InterfaceRequest { existing: Some(interface.id), ..plain() };
    assert_eq!(world.launch(next, &again).await.unwrap_err().code(), "InvalidNetworkInterface.InUse");
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    assert_eq!(world.launch(next, &again).await.unwrap_err().code(), "InvalidNetworkInterface.InUse");
    world.run("DescribeNetworkInterfaces NetworkInterfaceId.1=$eni -> ~<status>in-use< ~<status>detaching<").await;
    world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    world.run("DescribeNetworkInterfaces NetworkInterfaceId.1=$eni -> ~<status>available< ^<attachment>").await;
    let (second, taken) = world.launch(next, &again).await.unwrap();
    assert_eq!((taken.id, taken.epoch, taken.host), (interface.id, 2, Some(next)));
    // What the old host still says about its turn is ignored, whatever becomes of the new one.
    let before = world.seen(interface.id).await.unwrap();
    for host in [host, next] {
        for phase in [InterfacePhase::Released, InterfacePhase::Failed { detail: "no tap".into() }] {
            world.report(host, status(interface.id, 1, phase)).await;
            let trouble = InterfaceTrouble::key(host, interface.id);
            assert!(world.store.read().await.unwrap().peek::<InterfaceTrouble>(&trouble).unwrap().is_none());
        }
    }
    assert_eq!(world.seen(interface.id).await.unwrap(), before);
    world.transact(|txn| ops::release_interfaces_of(txn, second)).await.unwrap();
    for host in [host, next] {
        world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    }
    assert!(world.seen(interface.id).await.is_some());
    let left = InterfaceStatus { id: interface.id, generation: 2, epoch: 2, phase: InterfacePhase::Released };
    let left = world.transact(|txn| ops::apply_interface_status(txn, next, &left)).await.unwrap();
    assert_eq!(left, Some((account(ALICE), second)), "the instance that has one less is told");
    world.run("DescribeNetworkInterfaces NetworkInterfaceId.1=$eni -> !InvalidNetworkInterfaceID.NotFound").await;
}

#[tokio::test]
async fn trouble_is_kept_until_it_is_over() {
    let world = world_with_subnet().await;
    let host = world.host();
    let request = InterfaceRequest { subnet: Some(world.id("subnet")), ..plain() };
    let (_, interface) = world.launch(host, &request).await.unwrap();
    let trouble = |generation, phase| InterfaceStatus { id: interface.id, generation, epoch: 1, phase };
    let failed = || InterfacePhase::Failed { detail: "no tap".into() };
    let key = InterfaceTrouble::key(host, interface.id);
    for (report, expected) in [
        (trouble(1, InterfacePhase::Ready), None),
        (trouble(2, failed()), Some("no tap")),
        (trouble(1, InterfacePhase::Ready), Some("no tap")),
        (trouble(3, InterfacePhase::Ready), None),
    ] {
        world.report(host, report.clone()).await;
        let seen = world.store.read().await.unwrap().peek::<InterfaceTrouble>(&key).unwrap();
        assert_eq!(seen.as_ref().map(|trouble| trouble.detail.as_str()), expected, "{report:?}");
    }
}

#[tokio::test]
async fn public_addresses() {
    let mut world = World::new().await;
    world.run("CreateDefaultVpc -> vpc=vpcId").await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> bare_vpc=vpcId").await;
    world.run("CreateSubnet VpcId=$bare_vpc CidrBlock=10.0.0.0/24 -> bare=subnetId").await;
    world
        .run("DescribeInternetGateways Filter.1.Name=attachment.vpc-id Filter.1.Value.1=$vpc -> igw=internetGatewayId")
        .await;
    let host = world.host();
    // The zone decides the default subnet, and its site the pool.
    let here = InterfaceRequest { zone: Some("eu-local-1a".into()), ..plain() };
    let (instance, interface) = world.launch(host, &here).await.unwrap();
    let first = interface.public.unwrap();
    assert!(first.address.to_string().starts_with("100.96.0.") && first.elastic.is_none());
    let elsewhere = InterfaceRequest { zone: Some("eu-local-1b".into()), ..plain() };
    assert_eq!(world.launch(host, &elsewhere).await.unwrap_err().code(), "InsufficientAddressCapacity");
    let none = InterfaceRequest { public: Some(false), ..here.clone() };
    assert!(world.launch(host, &none).await.unwrap().1.public.is_none());
    let second_card = InterfaceRequest { device_index: 1, ..here.clone() };
    assert!(world.launch(host, &second_card).await.unwrap().1.public.is_none());
    world.run("DetachInternetGateway InternetGatewayId=$igw VpcId=$vpc -> !DependencyViolation").await;

    // Lost at stop, another one at start.
    let id = interface.id;
    world.transact(|txn| ops::public_address_lost_on_stop(txn, account(ALICE), id)).await.unwrap();
    assert_eq!(world.seen(id).await.unwrap().public, None);
    world.command(ALICE, |cx| ops::public_address_on_start(cx, id)).await.unwrap();
    let second = world.seen(id).await.unwrap().public.unwrap();
    world.names.insert("pooled".into(), second.address.to_string());

    // An Elastic IP takes its place, stays at stop, and comes off at termination.
    world.names.insert("i".into(), instance.to_string());
    world.names.insert("eni".into(), id.to_string());
    world
        .run(
            "
        ReleaseAddress PublicIp=$pooled -> !InvalidAddress.NotFound
        DisassociateAddress PublicIp=$pooled -> !InvalidAddress.NotFound
        AllocateAddress -> a=allocationId ip=publicIp
        AllocateAddress -> b=allocationId
        AssociateAddress AllocationId=$a InstanceId=$i PrivateIpAddress=10.9.9.9 -> !InvalidParameterValue
        AssociateAddress AllocationId=$a InstanceId=$i -> first=associationId
        AssociateAddress AllocationId=$a InstanceId=$i -> ~$first
        DescribeAddresses AllocationId.1=$a -> ~<instanceId>$i< ~<networkInterfaceId>$eni<
        DescribeNetworkInterfaces Filter.1.Name=association.public-ip Filter.1.Value.1=$ip -> ~$eni
        DescribeNetworkInterfaces Filter.1.Name=association.public-ip Filter.1.Value.1=$pooled -> ^<networkInterfaceId>
        AssociateAddress AllocationId=$b InstanceId=$i AllowReassociation=false -> !Resource.AlreadyAssociated
        AssociateAddress AllocationId=$b NetworkInterfaceId=$eni -> second=associationId
        DescribeAddresses AllocationId.1=$a -> ^<associationId>
        DisassociateAddress AssociationId=$first -> !InvalidAssociationID.NotFound
        DisassociateAddress AssociationId=$second
        AssociateAddress PublicIp=$ip NetworkInterfaceId=$eni
        ",
        )
        .await;
    world.transact(|txn| ops::public_address_lost_on_stop(txn, account(ALICE), id)).await.unwrap();
    assert_eq!(world.seen(id).await.unwrap().public.unwrap().address.to_string(), world.names["ip"]);
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    world.run("DescribeAddresses AllocationId.1=$a -> ^<associationId> ^<networkInterfaceId>").await;

    // Elsewhere than in a default VPC, an address in use is not released; and there must be a way out.
    let bare = InterfaceRequest { subnet: Some(world.id("bare")), ..plain() };
    let (_, interface) = world.launch(host, &bare).await.unwrap();
    world.names.insert("eni2".into(), interface.id.to_string());
    world
        .run(
            "
        AssociateAddress AllocationId=$a NetworkInterfaceId=$eni2 -> !Gateway.NotAttached
        CreateInternetGateway -> igw2=internetGatewayId
        AttachInternetGateway InternetGatewayId=$igw2 VpcId=$bare_vpc
        AssociateAddress AllocationId=$a NetworkInterfaceId=$eni2 -> association=associationId
        ReleaseAddress AllocationId=$a -> !InvalidIPAddress.InUse
        DisassociateAddress AssociationId=$association
        ReleaseAddress AllocationId=$a
        ",
        )
        .await;
}

/// Fourteen addresses are in the pool; the fifteenth is refused, not invented.
#[tokio::test]
async fn a_pool_ends() {
    let mut world = World::new().await;
    world.run("CreateDefaultVpc").await;
    let host = world.host();
    let here = InterfaceRequest { zone: Some("eu-local-1a".into()), ..plain() };
    let mut given = BTreeSet::new();
    for _ in 0..14 {
        assert!(given.insert(world.launch(host, &here).await.unwrap().1.public.unwrap().address));
    }
    assert_eq!(world.launch(host, &here).await.unwrap_err().code(), "InsufficientAddressCapacity");
    for (zone, pool, code) in [
        ("eu-local-1b", "100.96.0.0/24", Some("InvalidParameterValue")),
        ("eu-local-1a", "100.97.0.0/31", Some("InvalidParameterValue")),
        ("eu-local-1a", "fd00::/64", Some("InvalidParameterValue")),
        ("eu-local-1a", "100.96.0.0/28", None),
        ("eu-local-1a", "100.97.0.0/28", None),
    ] {
        let added = world.transact(|txn| ops::add_pool(txn, zone, pool.parse().unwrap())).await;
        assert_eq!(added.as_ref().err().map(Error::code), code, "{zone} {pool}");
    }
    world.launch(host, &here).await.unwrap();
}

#[tokio::test]
async fn groups_of_an_interface() {
    let mut world = world_with_subnet().await;
    let host = world.host();
    let request = InterfaceRequest { subnet: Some(world.id("subnet")), ..plain() };
    let (instance, interface) = world.launch(host, &request).await.unwrap();
    let web: SecurityGroupId = world.id("web");
    let set = async |world: &World, groups: &[SecurityGroupId]| {
        world.command(ALICE, |cx| ops::set_groups(&mut Scope::of(cx), interface.id, groups)).await
    };
    set(&world, &[web]).await.unwrap();
    world.run("DeleteSecurityGroup GroupId=$web -> !DependencyViolation").await;
    let far = world.id("far");
    assert_eq!(set(&world, &[far]).await.unwrap_err().code(), "InvalidParameterValue");
    let mut many = vec![web];
    for n in 0..5 {
        world.run(&format!("CreateSecurityGroup VpcId=$vpc GroupName=g{n} GroupDescription=x -> g=groupId")).await;
        many.push(world.id("g"));
    }
    let limit = set(&world, &many).await.unwrap_err();
    assert_eq!(limit.code(), "SecurityGroupsPerInterfaceLimitExceeded");
    set(&world, &many[1..]).await.unwrap();
    world.run("DeleteSecurityGroup GroupId=$web").await;
    world.run("DeleteSecurityGroup GroupId=$g -> !DependencyViolation").await;
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    world.report(host, status(interface.id, 1, InterfacePhase::Released)).await;
    world.run("DeleteSecurityGroup GroupId=$g").await;
}
