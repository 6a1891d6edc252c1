//! Random histories of commands leave nothing overlapping, doubled or dangling, and hosts see what is.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use terroir_agent_api::{InterfacePhase, InterfaceStatus};
use terroir_network::model::{
    Address, GroupAddress, GroupOwner, GroupReference, HostGroup, HostInterface, HostVpc, InstanceInterface, Interface,
    InternetGateway, PublicClaim, RouteTable, SecurityGroup, Subnet, SubnetAddress, Vpc, VpcChild,
};
use terroir_network::ops::{self, InterfaceRequest, Scope};
use terroir_store::{Key, Record, Txn};
use terroir_types::{Error, HostId, InstanceId};

use crate::hosts::Follower;
use crate::world::{ALICE, World, account, plain};

/// One step; the numbers pick among what exists.
#[derive(Debug, Clone)]
enum Step {
    CreateSubnet { vpc: usize, block: u8, prefix: u8 },
    DeleteSubnet(usize),
    CreateGroup { vpc: usize, name: u8 },
    DeleteGroup(usize),
    Refer { by: usize, to: usize },
    Unrefer { by: usize, rule: usize },
    Launch { subnet: usize, group: usize, host: usize, keep: bool, wanted: Option<u8>, public: bool },
    Reuse { interface: usize, host: usize },
    Terminate(usize),
    Report { interface: usize, epoch: u64 },
    SetGroups { interface: usize, first: usize, second: usize },
    StopStart(usize),
    Allocate,
    Associate { address: usize, interface: usize },
    Release(usize),
    CreateTable(usize),
    Associated { table: usize, subnet: usize },
    DeleteTable(usize),
    DeleteVpc(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..12_usize;
    prop_oneof![
        3 => (n(), 0..4_u8, 25..=28_u8).prop_map(|(vpc, block, prefix)| Step::CreateSubnet { vpc, block, prefix }),
        1 => n().prop_map(Step::DeleteSubnet),
        2 => (n(), 0..4_u8).prop_map(|(vpc, name)| Step::CreateGroup { vpc, name }),
        1 => n().prop_map(Step::DeleteGroup),
        2 => (n(), n()).prop_map(|(by, to)| Step::Refer { by, to }),
        1 => (n(), n()).prop_map(|(by, rule)| Step::Unrefer { by, rule }),
        6 => (n(), n(), 0..2_usize, any::<bool>(), proptest::option::of(0..20_u8), any::<bool>()).prop_map(
            |(subnet, group, host, keep, wanted, public)| Step::Launch { subnet, group, host, keep, wanted, public }
        ),
        1 => (n(), 0..2_usize).prop_map(|(interface, host)| Step::Reuse { interface, host }),
        3 => n().prop_map(Step::Terminate),
        5 => (n(), 0..3_u64).prop_map(|(interface, epoch)| Step::Report { interface, epoch }),
        1 => (n(), n(), n()).prop_map(|(interface, first, second)| Step::SetGroups { interface, first, second }),
        1 => n().prop_map(Step::StopStart),
        1 => Just(Step::Allocate),
        2 => (n(), n()).prop_map(|(address, interface)| Step::Associate { address, interface }),
        1 => n().prop_map(Step::Release),
        1 => n().prop_map(Step::CreateTable),
        2 => (n(), n()).prop_map(|(table, subnet)| Step::Associated { table, subnet }),
        1 => n().prop_map(Step::DeleteTable),
        1 => n().prop_map(Step::DeleteVpc),
    ]
}

/// The records of one kind in Alice's account.
fn objects<T: Record>(txn: &Txn) -> Vec<T> {
    let prefix = Key::new(format!("{}/{}", T::KIND, account(ALICE)));
    txn.peek_range::<T>(&prefix).unwrap().into_iter().map(|(_, record)| T::clone(&record)).collect()
}

fn pick<T: Clone>(list: &[T], n: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[n % list.len()].clone())
}

struct Play {
    world: World,
    hosts: [HostId; 2],
}

impl Play {
    async fn txn(&self) -> Txn {
        self.world.store.read().await.unwrap()
    }

    async fn command<R>(&self, f: impl FnMut(&mut Scope<'_>) -> Result<R, Error>) -> Result<(), Error> {
        let mut f = f;
        self.world.command(ALICE, |cx| f(&mut Scope::of(cx))).await.map(drop)
    }

    /// Carries out a step; nothing to pick from is no step.
    async fn take(&self, step: &Step) -> Option<Result<(), Error>> {
        let txn = self.txn().await;
        let (vpcs, subnets) = (objects::<Vpc>(&txn), objects::<Subnet>(&txn));
        let (groups, interfaces) = (objects::<SecurityGroup>(&txn), objects::<Interface>(&txn));
        let (addresses, tables) = (objects::<Address>(&txn), objects::<RouteTable>(&txn));
        Some(match step {
            Step::CreateSubnet { vpc, block, prefix } => {
                let cidr = format!("10.0.{}.{}/{prefix}", block / 2, u16::from(*block % 2) * 128).parse().unwrap();
                let vpc = pick(&vpcs, *vpc)?.id;
                let zone = "eu-local-1a".to_owned();
                let new = ops::NewSubnet { vpc, cidr, zone, default_for_zone: false, tags: Default::default() };
                self.command(|scope| ops::create_subnet(scope, new.clone())).await
            }
            Step::DeleteSubnet(n) => {
                let subnet = pick(&subnets, *n)?.id;
                self.command(|scope| ops::delete_subnet(scope, subnet)).await
            }
            Step::CreateGroup { vpc, name } => {
                let (vpc, name) = (pick(&vpcs, *vpc)?.id, format!("group {name}"));
                let new = ops::NewGroup { vpc, name, description: "x".to_owned(), tags: Default::default() };
                self.command(|scope| ops::create_group(scope, new.clone())).await
            }
            Step::DeleteGroup(n) => {
                let group = pick(&groups, *n)?.id;
                self.command(|scope| ops::delete_group(scope, group)).await
            }
            Step::Refer { by, to } => {
                let (by, to) = (pick(&groups, *by)?.id, pick(&groups, *to)?.id);
                let peer = terroir_network::model::RulePeer::Group(to);
                let allows = terroir_network::model::Permission { egress: false, protocol: 6, from: 1, to: 2, peer };
                let none = Default::default();
                self.command(|scope| ops::authorize(scope, by, vec![(allows, None)], &none)).await
            }
            Step::Unrefer { by, rule } => {
                let group = pick(&groups, *by)?;
                let rule = pick(group.rules(), *rule)?;
                self.command(|scope| ops::revoke_ids(scope, group.id, rule.allows.egress, &[rule.id])).await
            }
            Step::Launch { subnet, group, host, keep, wanted, public } => {
                let subnet = pick(&subnets, *subnet)?;
                let request = InterfaceRequest {
                    subnet: Some(subnet.id),
                    groups: pick(&groups, *group).map(|group| group.id).into_iter().collect(),
                    private_address: wanted.map(|n| subnet.address_at(n.into())),
                    public: Some(*public),
                    delete_on_termination: !keep,
                    ..plain()
                };
                self.world.launch(self.hosts[*host], &request).await.map(drop)
            }
            Step::Reuse { interface, host } => {
                let existing = Some(pick(&interfaces, *interface)?.id);
                let request = InterfaceRequest { existing, ..plain() };
                self.world.launch(self.hosts[*host], &request).await.map(drop)
            }
            Step::Terminate(n) => {
                let instance = pick(&interfaces, *n)?.instance()?;
                self.world.transact(|txn| ops::release_interfaces_of(txn, instance)).await
            }
            Step::Report { interface, epoch } => {
                let id = pick(&interfaces, *interface)?.id;
                let status = InterfaceStatus { id, generation: 1, epoch: *epoch, phase: InterfacePhase::Released };
                let mut done = Ok(());
                for host in self.hosts {
                    let told = self.world.transact(|txn| ops::apply_interface_status(txn, host, &status)).await;
                    done = done.and(told.map(drop));
                }
                done
            }
            Step::SetGroups { interface, first, second } => {
                let id = pick(&interfaces, *interface)?.id;
                let wanted = [pick(&groups, *first)?.id, pick(&groups, *second)?.id];
                self.command(|scope| ops::set_groups(scope, id, &wanted)).await
            }
            Step::StopStart(n) => {
                let id = pick(&interfaces, *n)?.id;
                self.world.transact(|txn| ops::public_address_lost_on_stop(txn, account(ALICE), id)).await.unwrap();
                self.world.command(ALICE, |cx| ops::public_address_on_start(cx, id)).await
            }
            Step::Allocate => {
                self.command(|scope| ops::allocate_address(scope, "eu-local-1a", None, Default::default())).await
            }
            Step::Associate { address, interface } => {
                let (address, interface) = (pick(&addresses, *address)?.id, pick(&interfaces, *interface)?.id);
                self.command(|scope| ops::associate_address(scope, address, interface, None, true)).await
            }
            Step::Release(n) => {
                let address = pick(&addresses, *n)?.id;
                self.command(|scope| {
                    let address = ops::find_address(scope, Some(address), None)?;
                    ops::release_address(scope, &address)
                })
                .await
            }
            Step::CreateTable(n) => {
                let vpc = pick(&vpcs, *n)?.id;
                self.command(|scope| ops::create_table(scope, vpc, Default::default())).await
            }
            Step::Associated { table, subnet } => {
                let (table, subnet) = (pick(&tables, *table)?.id, pick(&subnets, *subnet)?.id);
                self.command(|scope| ops::associate_table(scope, table, subnet)).await
            }
            Step::DeleteTable(n) => {
                let table = pick(&tables, *n)?.id;
                self.command(|scope| ops::delete_table(scope, table)).await
            }
            Step::DeleteVpc(n) => {
                let vpc = pick(&vpcs, *n)?.id;
                self.command(|scope| ops::delete_vpc(scope, vpc)).await
            }
        })
    }
}

/// The keys below a kind.
fn keys<T: Record>(txn: &Txn) -> BTreeSet<String> {
    let rows = txn.peek_range::<T>(&Key::new(T::KIND)).unwrap();
    rows.into_iter().map(|(key, _)| key.as_str().to_owned()).collect()
}

fn key(parts: &[&dyn Display]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("/")
}

fn check_objects(txn: &Txn) {
    let (vpcs, subnets) = (objects::<Vpc>(txn), objects::<Subnet>(txn));
    let (groups, tables) = (objects::<SecurityGroup>(txn), objects::<RouteTable>(txn));
    for (at, a) in subnets.iter().enumerate() {
        let vpc = vpcs.iter().find(|vpc| vpc.id == a.vpc).expect("a subnet's VPC exists");
        assert!(vpc.cidrs().iter().any(|cidr| cidr.contains(&a.cidr())));
        for b in subnets[at + 1..].iter().filter(|b| b.vpc == a.vpc) {
            assert!(!a.cidr().contains(&b.cidr()) && !b.cidr().contains(&a.cidr()), "{} {}", a.cidr(), b.cidr());
        }
        if let Some(association) = a.association {
            assert!(tables.iter().any(|table| table.id == association.table && table.vpc == a.vpc));
        }
    }
    let mut children = BTreeSet::new();
    for subnet in &subnets {
        children.insert(key(&[&"vpc-child", &subnet.vpc, &"subnet", &subnet.id]));
    }
    for table in &tables {
        children.insert(key(&[&"vpc-child", &table.vpc, &"route-table", &table.id]));
    }
    let mut references = BTreeSet::new();
    for group in &groups {
        children.insert(key(&[&"vpc-child", &group.vpc, &"security-group", &group.id]));
        for referred in group.references() {
            assert!(groups.iter().any(|other| other.id == referred && other.vpc == group.vpc), "{referred} dangles");
            references.insert(key(&[&"group-reference", &referred, &group.id]));
        }
    }
    assert_eq!(keys::<VpcChild>(txn), children);
    assert_eq!(keys::<GroupReference>(txn), references);
    let owners: BTreeSet<String> = groups.iter().map(|group| key(&[&"group-owner", &group.id])).collect();
    assert_eq!(keys::<GroupOwner>(txn), owners);
    for vpc in &vpcs {
        assert!(groups.iter().any(|group| group.id == vpc.default_group && group.is_default));
        assert!(tables.iter().any(|table| table.id == vpc.main_table && table.vpc == vpc.id));
        let same_index = vpcs.iter().filter(|other| other.index == vpc.index).count();
        assert_eq!(same_index, 1, "every VPC has a number of its own");
    }
}

fn check_interfaces(txn: &Txn) {
    let (subnets, groups) = (objects::<Subnet>(txn), objects::<SecurityGroup>(txn));
    let (interfaces, addresses) = (objects::<Interface>(txn), objects::<Address>(txn));
    let (mut claims, mut members, mut links) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut held: BTreeMap<String, u32> = BTreeMap::new();
    let mut public: BTreeSet<String> = BTreeSet::new();
    for interface in &interfaces {
        let subnet = subnets.iter().find(|subnet| subnet.id == interface.subnet).expect("its subnet exists");
        for address in interface.addresses() {
            let offset = subnet.offset_of(*address).expect("its address is in its subnet");
            assert!(subnet.offsets().contains(&offset));
            let offset = format!("{offset:04x}");
            assert!(claims.insert(key(&[&"subnet-address", &subnet.id, &offset])), "{address} is given twice");
            for group in &interface.groups {
                members.insert(key(&[&"group-address", group, &subnet.id, &offset]));
            }
        }
        for group in &interface.groups {
            assert!(groups.iter().any(|other| other.id == *group && other.vpc == interface.vpc), "{group} dangles");
        }
        if let Some(instance) = interface.instance() {
            links.insert(key(&[&"instance-interface", &instance, &interface.id]));
        }
        if let Some(host) = interface.host {
            links.insert(key(&[&"host-interface", &host, &interface.id]));
            *held.entry(key(&[&"host-vpc", &host, &interface.vpc])).or_default() += 1;
            for group in &interface.groups {
                *held.entry(key(&[&"host-group", &host, group])).or_default() += 1;
            }
        }
        match interface.public {
            Some(seen) if seen.elastic.is_some() => {
                let (allocation, association) = seen.elastic.unwrap();
                let address = addresses.iter().find(|address| address.id == allocation).expect("its address exists");
                let back = address.association.expect("the address knows it");
                assert_eq!((back.id, back.interface, address.address), (association, interface.id, seen.address));
            }
            Some(seen) => assert!(public.insert(key(&[&"public-address", &seen.address]))),
            None => {}
        }
    }
    for address in &addresses {
        assert!(public.insert(key(&[&"public-address", &address.address])), "{} twice", address.address);
        if let Some(association) = address.association {
            let interface = interfaces.iter().find(|interface| interface.id == association.interface);
            let seen = interface.and_then(|interface| interface.public).expect("its interface knows it");
            assert_eq!(seen.address, address.address);
        }
    }
    assert_eq!(keys::<SubnetAddress>(txn), claims);
    assert_eq!(keys::<GroupAddress>(txn), members);
    assert_eq!(keys::<PublicClaim>(txn), public);
    let stored: BTreeSet<String> = keys::<InstanceInterface>(txn).union(&keys::<HostInterface>(txn)).cloned().collect();
    assert_eq!(stored, links);
    let mut stored: BTreeMap<String, u32> = BTreeMap::new();
    for (key, row) in txn.peek_range::<HostVpc>(&Key::new("host-vpc")).unwrap() {
        stored.insert(key.as_str().to_owned(), row.interfaces);
    }
    for (key, row) in txn.peek_range::<HostGroup>(&Key::new("host-group")).unwrap() {
        stored.insert(key.as_str().to_owned(), row.interfaces);
    }
    assert_eq!(stored, held);
}

/// Every registered resource exists and every object is registered.
fn check_registry(txn: &Txn) {
    let mut expected = BTreeSet::new();
    expected.extend(objects::<Vpc>(txn).iter().map(|vpc| vpc.id.to_string()));
    expected.extend(objects::<Subnet>(txn).iter().map(|subnet| subnet.id.to_string()));
    expected.extend(objects::<RouteTable>(txn).iter().map(|table| table.id.to_string()));
    expected.extend(objects::<Interface>(txn).iter().map(|interface| interface.id.to_string()));
    expected.extend(objects::<Address>(txn).iter().map(|address| address.id.to_string()));
    expected.extend(objects::<InternetGateway>(txn).iter().map(|gateway| gateway.id.to_string()));
    for group in objects::<SecurityGroup>(txn) {
        expected.insert(group.id.to_string());
        expected.extend(group.rules().iter().map(|rule| rule.id.to_string()));
    }
    let rows = terroir_resources::list(txn, account(ALICE)).unwrap();
    assert_eq!(rows.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), expected);
}

async fn play(steps: &[Step]) {
    let mut world = World::with_pool("100.96.0.0/29").await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> a=vpcId").await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> b=vpcId").await;
    world.run("CreateInternetGateway -> igw=internetGatewayId").await;
    world.run("AttachInternetGateway InternetGatewayId=$igw VpcId=$a").await;
    let hosts = [world.host(), world.host()];
    let mut followers = [Follower::new(&world, hosts[0]).await, Follower::new(&world, hosts[1]).await];
    let play = Play { world, hosts };
    for step in steps {
        if let Some(Err(error)) = play.take(step).await {
            assert_ne!(error.code(), "InternalError", "{step:?}: {error:?}");
        }
        let txn = play.txn().await;
        check_objects(&txn);
        check_interfaces(&txn);
        check_registry(&txn);
        for follower in &mut followers {
            follower.follow(&play.world).await;
        }
    }
    clear(&play).await;
}

/// What was made can all be taken away again, and nothing stays behind.
async fn clear(play: &Play) {
    let lose = |txn: &mut Txn, instance| {
        ops::release_interfaces_of(txn, instance)?;
        ops::forget_interfaces_of(txn, instance)
    };
    let interfaces = objects::<Interface>(&play.txn().await);
    for instance in interfaces.iter().filter_map(Interface::instance).collect::<BTreeSet<InstanceId>>() {
        play.world.transact(|txn| lose(txn, instance)).await.unwrap();
    }
    // What outlived its instance goes with another one.
    for interface in objects::<Interface>(&play.txn().await) {
        assert!(interface.host.is_none() && interface.attachment.is_none(), "{interface:?}");
        let request = InterfaceRequest { existing: Some(interface.id), ..plain() };
        let (instance, _) = play.world.launch(play.hosts[0], &request).await.unwrap();
        play.world.transact(|txn| lose(txn, instance)).await.unwrap();
    }
    assert!(objects::<Interface>(&play.txn().await).is_empty());
    for subnet in objects::<Subnet>(&play.txn().await) {
        play.command(|scope| ops::delete_subnet(scope, subnet.id)).await.unwrap();
    }
    for address in objects::<Address>(&play.txn().await) {
        play.command(|scope| ops::release_address(scope, &address)).await.unwrap();
    }
    for group in objects::<SecurityGroup>(&play.txn().await) {
        for egress in [false, true] {
            let rules: Vec<_> = group.rules().iter().filter(|r| r.allows.egress == egress).map(|r| r.id).collect();
            play.command(|scope| ops::revoke_ids(scope, group.id, egress, &rules)).await.unwrap();
        }
    }
    for group in objects::<SecurityGroup>(&play.txn().await).iter().filter(|group| !group.is_default) {
        play.command(|scope| ops::delete_group(scope, group.id)).await.unwrap();
    }
    let main: BTreeSet<_> = objects::<Vpc>(&play.txn().await).iter().map(|vpc| vpc.main_table).collect();
    for table in objects::<RouteTable>(&play.txn().await).iter().filter(|table| !main.contains(&table.id)) {
        play.command(|scope| ops::delete_table(scope, table.id)).await.unwrap();
    }
    for gateway in objects::<InternetGateway>(&play.txn().await) {
        if let Some(vpc) = gateway.vpc {
            play.command(|scope| ops::detach_gateway(scope, gateway.id, vpc)).await.unwrap();
        }
        play.command(|scope| ops::delete_gateway(scope, gateway.id)).await.unwrap();
    }
    for vpc in objects::<Vpc>(&play.txn().await) {
        play.command(|scope| ops::delete_vpc(scope, vpc.id)).await.unwrap();
    }
    let txn = play.txn().await;
    let kinds = [
        "vpc",
        "subnet",
        "security-group",
        "route-table",
        "internet-gateway",
        "address",
        "interface",
        "vpc-child",
        "group-name",
        "group-owner",
        "group-reference",
        "group-address",
        "subnet-address",
        "instance-interface",
        "host-interface",
        "host-vpc",
        "host-group",
        "public-address",
        "interface-status",
        "resource",
        "guard",
    ];
    for kind in kinds {
        assert_eq!(txn.count(&Key::new(kind)), 0, "{kind} rows stay behind");
    }
}

/// 48 histories of up to 60 steps; with TERROIR_FULL=1, 600.
#[test]
fn random_histories() {
    let full = std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1");
    let config = Config {
        cases: if full { 600 } else { 48 },
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = proptest::collection::vec(step(), 1..60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(play(&steps));
        Ok(())
    });
    outcome.unwrap();
}
