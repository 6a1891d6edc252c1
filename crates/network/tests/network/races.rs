//! Requests that arrive at the same moment: rules hold exactly, and nobody is refused without a reason.

use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_network::model::Subnet;
use terroir_network::ops::InterfaceRequest;
use terroir_types::{Error, SubnetId};

use crate::world::{ALICE, World, account, plain};

/// Sends requests all at once and counts the outcomes by code; the empty code is success.
async fn outcomes(world: &Arc<World>, requests: Vec<(&'static str, String)>) -> Vec<String> {
    let send = |(action, body): (&'static str, String)| {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let answer = world.call(ALICE, action, &body).await;
            answer.err().map(|error| error.code().to_owned()).unwrap_or_default()
        })
    };
    let mut codes = Vec::new();
    for task in requests.into_iter().map(send).collect::<Vec<_>>() {
        codes.push(task.await.unwrap());
    }
    codes
}

fn count(codes: &[String], code: &str) -> usize {
    codes.iter().filter(|seen| *seen == code).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins() {
    let mut world = World::new().await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId").await;
    world.run("AllocateAddress -> a=allocationId").await;
    let vpc = world.names["vpc"].clone();
    let world = Arc::new(world);
    let rows: [(&'static str, Vec<String>, &str); 3] = [
        (
            "CreateSubnet",
            (0..8).map(|n| format!("VpcId={vpc}&CidrBlock=10.0.0.{}/{}", n * 16, 24 + n % 3)).collect(),
            "InvalidSubnet.Conflict",
        ),
        (
            "CreateSecurityGroup",
            (0..8).map(|_| format!("VpcId={vpc}&GroupName=web&GroupDescription=x")).collect(),
            "InvalidGroup.Duplicate",
        ),
        ("CreateDefaultVpc", vec![String::new(); 8], "DefaultVpcAlreadyExists"),
    ];
    for (action, bodies, loser) in rows {
        let codes = outcomes(&world, bodies.into_iter().map(|body| (action, body)).collect()).await;
        let won = count(&codes, "");
        assert_eq!(won + count(&codes, loser), codes.len(), "{action}: {codes:?}");
        // Eight blocks of /24 to /26 in one /24: whichever come first, none overlap.
        assert!(if action == "CreateSubnet" { won >= 1 } else { won == 1 }, "{action}: {codes:?}");
    }
    let txn = world.store.read().await.unwrap();
    let subnets = txn.peek_range::<Subnet>(&terroir_store::Key::new(format!("subnet/{}", account(ALICE)))).unwrap();
    for (at, (_, a)) in subnets.iter().enumerate() {
        for (_, b) in &subnets[at + 1..] {
            let apart = a.vpc != b.vpc || !a.cidr().contains(&b.cidr()) && !b.cidr().contains(&a.cidr());
            assert!(apart, "{} and {}", a.cidr(), b.cidr());
        }
    }
}

/// More launches than a subnet has addresses, and somebody deletes it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_address_and_the_deleted_subnet() {
    for round in 0..6 {
        let mut world = World::new().await;
        world.run("CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId").await;
        world.run("CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/28 -> subnet=subnetId").await;
        let (subnet, host) = (world.id::<SubnetId>("subnet"), world.host());
        let world = Arc::new(world);
        let launch = |_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let request = InterfaceRequest { subnet: Some(subnet), ..plain() };
                world.launch(host, &request).await.map(|(_, interface)| interface.primary_address())
            })
        };
        let launches: Vec<_> = (0..16).map(launch).collect();
        let body = format!("SubnetId={subnet}");
        let deleted = if round % 2 == 0 { Some(world.call(ALICE, "DeleteSubnet", &body).await) } else { None };
        let (mut given, mut refused) = (BTreeSet::new(), Vec::new());
        for launch in launches {
            match launch.await.unwrap() {
                Ok(address) => assert!(given.insert(address), "{address} is given twice"),
                Err(error) => refused.push(error),
            }
        }
        let codes: BTreeSet<&str> = refused.iter().map(Error::code).collect();
        match deleted.map(|deleted| deleted.map_err(|error| error.code().to_owned())) {
            Some(Ok(_)) => {
                assert!(given.is_empty(), "an interface in a deleted subnet");
                assert_eq!(codes, BTreeSet::from(["InvalidSubnetID.NotFound"]));
            }
            Some(Err(code)) => {
                assert_eq!((code.as_str(), given.len()), ("DependencyViolation", 11));
                assert_eq!(codes, BTreeSet::from(["InsufficientFreeAddressesInSubnet"]));
            }
            None => assert_eq!((given.len(), refused.len()), (11, 5)),
        }
    }
}

/// The state that one interface costs, all its rows, keys included. The whole instance may cost 3 KiB.
#[tokio::test]
async fn state_per_interface() {
    let mut world = World::with_pool("100.96.0.0/20").await;
    world.run("CreateDefaultVpc").await;
    let host = world.host();
    let here = InterfaceRequest { zone: Some("eu-local-1a".into()), ..plain() };
    world.launch(host, &here).await.unwrap();
    let before = world.store.stats().await.unwrap().bytes;
    for _ in 0..100 {
        world.launch(host, &here).await.unwrap();
    }
    let each = (world.store.stats().await.unwrap().bytes - before) / 100;
    println!("{each} bytes per interface");
    assert!(each <= 1024, "{each} bytes per interface");
}
