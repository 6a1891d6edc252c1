//! What hosts are told: only what their interfaces need, and the same whether rendered at once or change by change.

use std::collections::BTreeSet;
use std::time::Duration;
use terroir_agent_api::{
    Desired, HostSpec, InterfacePhase, InterfaceStatus, Peer, RouteTarget, Section, SectionKey, Traffic,
};
use terroir_network::controller;
use terroir_network::ops::{self, InterfaceRequest};
use terroir_store::ChangeFeed;
use terroir_types::{HostId, SecurityGroupId};

use crate::world::{World, plain};

/// A host's spec, kept by following changes.
pub struct Follower {
    pub host: HostId,
    feed: ChangeFeed,
    spec: HostSpec,
    revision: u64,
}

impl Follower {
    pub async fn new(world: &World, host: HostId) -> Self {
        let feed = world.store.changes();
        let txn = world.store.read().await.unwrap();
        let spec = controller::sections_for_host(&txn, host).unwrap();
        Self { host, feed, spec, revision: txn.revision() }
    }

    /// Applies what changed, and checks that the result is what rendering everything gives. The keys that changed.
    pub async fn follow(&mut self, world: &World) -> BTreeSet<SectionKey> {
        let txn = world.store.read().await.unwrap();
        let mut touched = BTreeSet::new();
        while self.revision < txn.revision() {
            let next = tokio::time::timeout(Duration::from_secs(30), self.feed.next()).await;
            let changes = next.expect("the bell rings for every revision");
            assert!(!changes.missed, "the test reads its changes in time");
            self.revision = changes.revision;
            for key in &changes.keys {
                let dependents = controller::dependents(&txn, key, self.host).unwrap();
                let watched = controller::WATCHED_KINDS.contains(&key.kind());
                assert!(watched || dependents.is_empty(), "{key} is not among the watched kinds");
                touched.extend(dependents);
            }
        }
        for section in &touched {
            match controller::render(&txn, section, self.host).unwrap() {
                Some(rendered) => self.spec.insert(section.clone(), rendered),
                None => self.spec.remove(section),
            };
        }
        let whole = controller::sections_for_host(&txn, self.host).unwrap();
        assert!(whole.iter().all(|(key, section)| section.key() == *key));
        assert_eq!(self.spec, whole, "rendered change by change, and at once");
        touched
    }

    fn keys(&self) -> BTreeSet<&str> {
        self.spec.keys().map(String::as_str).collect()
    }
}

#[tokio::test]
async fn a_host_is_told_what_it_needs() {
    let mut world = World::new().await;
    let host = world.host();
    let mut follower = Follower::new(&world, host).await;
    world
        .run(
            "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateVpc CidrBlock=10.0.0.0/16 -> other=vpcId
        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/24 -> subnet=subnetId
        CreateSubnet VpcId=$other CidrBlock=10.0.0.0/24 -> far=subnetId
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=x -> web=groupId
        CreateSecurityGroup VpcId=$vpc GroupName=db GroupDescription=x -> db=groupId
        AuthorizeSecurityGroupIngress GroupId=$db IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=5432 IpPermissions.1.ToPort=5432 IpPermissions.1.Groups.1.GroupId=$web
        AuthorizeSecurityGroupIngress GroupId=$db IpProtocol=icmp FromPort=8 ToPort=-1 CidrIp=10.0.0.0/8
        ",
        )
        .await;
    follower.follow(&world).await;
    assert!(follower.keys().is_empty(), "nothing without interfaces");

    let (web, db): (SecurityGroupId, SecurityGroupId) = (world.id("web"), world.id("db"));
    let of = |groups: &[SecurityGroupId], subnet: &str, world: &World| InterfaceRequest {
        subnet: Some(world.id(subnet)),
        groups: groups.to_vec(),
        ..plain()
    };
    let (_, far) = world.launch(world.host(), &of(&[web], "subnet", &world)).await.unwrap();
    world.launch(world.host(), &of(&[], "far", &world)).await.unwrap();
    follower.follow(&world).await;
    assert!(follower.keys().is_empty(), "what other hosts hold is not told");

    let (instance, interface) = world.launch(host, &of(&[db], "subnet", &world)).await.unwrap();
    follower.follow(&world).await;
    let interface_key = format!("interface/{}", interface.id);
    let expected = [
        format!("vpc/{}", interface.vpc),
        interface_key.clone(),
        format!("security-group/{db}"),
        format!("group-members/{web}"),
    ];
    assert_eq!(follower.keys(), expected.iter().map(String::as_str).collect());
    let Section::GroupMembers(members) = &follower.spec[&expected[3]] else { panic!() };
    assert_eq!(members.addresses, BTreeSet::from([far.primary_address()]), "members on every host");
    let Section::SecurityGroup(group) = &follower.spec[&expected[2]] else { panic!() };
    let rules: Vec<_> = group.ingress.iter().map(|rule| (rule.traffic, rule.peer)).collect();
    assert!(rules.contains(&(Traffic::Tcp { from: 5432, to: 5432 }, Peer::Group(web))));
    let ping = Traffic::Icmp { kind: Some(8), code: None };
    assert!(rules.contains(&(ping, Peer::Cidr("10.0.0.0/8".parse().unwrap()))));
    assert_eq!((rules.len(), group.egress.len()), (2, 1));

    // Routes follow the gateway; other hosts' news touch nothing here.
    world
        .run(
            "
        CreateInternetGateway -> igw=internetGatewayId
        AttachInternetGateway InternetGatewayId=$igw VpcId=$vpc
        DescribeRouteTables Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> table=routeTableId
        CreateRoute RouteTableId=$table DestinationCidrBlock=0.0.0.0/0 GatewayId=$igw
        ",
        )
        .await;
    assert!(follower.follow(&world).await.contains(&interface_key));
    let target = |follower: &Follower| {
        let Section::Interface(section) = &follower.spec[&interface_key] else { panic!() };
        assert_eq!((section.gateway, section.routes[0].target), ("10.0.0.1".parse().unwrap(), RouteTarget::Local));
        section.routes[1].target
    };
    assert_eq!(target(&follower), RouteTarget::Internet);
    world.run("DetachInternetGateway InternetGatewayId=$igw VpcId=$vpc").await;
    follower.follow(&world).await;
    assert_eq!(target(&follower), RouteTarget::Blackhole);
    world.run("CreateRouteTable VpcId=$vpc -> own=routeTableId").await;
    world.run("AssociateRouteTable RouteTableId=$own SubnetId=$subnet").await;
    assert_eq!(follower.follow(&world).await, BTreeSet::from([interface_key.clone()]));
    world.run("CreateTags ResourceId.1=$vpc Tag.1.Key=a").await;
    world.run("ModifySubnetAttribute SubnetId=$far MapPublicIpOnLaunch.Value=true").await;
    assert!(follower.follow(&world).await.is_empty());

    // Deleting is said until the host reports it done; then nothing is left.
    world.transact(|txn| ops::release_interfaces_of(txn, instance)).await.unwrap();
    follower.follow(&world).await;
    let Section::Interface(section) = &follower.spec[&interface_key] else { panic!() };
    assert_eq!(section.desired, Desired::Deleted);
    let released = InterfaceStatus { id: interface.id, generation: 1, epoch: 1, phase: InterfacePhase::Released };
    world.transact(|txn| ops::apply_interface_status(txn, host, &released)).await.unwrap();
    follower.follow(&world).await;
    assert!(follower.keys().is_empty(), "{:?}", follower.keys());
}
