//! Placement against a naive one that looks at every host, and 10,000 random placements of everything that is ever
//! placed, judged by a second reading of the policies.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_policy::{KeyCustody, Operator, Place, Policy, Site, decide, separate};
use terroir_scheduler::{
    Avoid, Candidate, Closed, Cluster, Copies, MAX_SPREAD_PER_ZONE, NoPlace, Request, Room, Strategy,
    apart_from_partitions, apart_from_spread,
};
use terroir_types::{HostId, IdSource, ResourceId, SeededRandom};

const GIB: u64 = 1 << 30;

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn operator(id: &str, seat: &str, parent: &str) -> Arc<Operator> {
    Arc::new(Operator {
        id: id.to_owned(),
        seat: Some(seat.to_owned()),
        parent_country: Some(parent.to_owned()),
        jurisdictions: Some(BTreeSet::new()),
        certifications: if seat == "FR" { set(&["SecNumCloud"]) } else { BTreeSet::new() },
        ..Operator::default()
    })
}

fn site(id: &str, operator: &Operator, country: &str, fire_zones: &[&str]) -> Arc<Site> {
    Arc::new(Site {
        id: id.to_owned(),
        operator: operator.id.clone(),
        country: Some(country.to_owned()),
        fire_zones: set(fire_zones),
        ..Site::default()
    })
}

fn host(n: u64, operator: &Arc<Operator>, site: &Arc<Site>, memory_gib: u64) -> Candidate {
    Candidate {
        id: HostId::generate(&SeededRandom::new(n)),
        architecture: "x86_64".to_owned(),
        closed: None,
        free: Room { vcpus: 4, memory_bytes: memory_gib * GIB, volume_bytes: 100 * GIB },
        operator: Arc::clone(operator),
        site: Arc::clone(site),
        fire_zone: None,
    }
}

fn needs(vcpus: u64, gib: u64) -> Room {
    Room { vcpus, memory_bytes: gib * GIB, volume_bytes: 8 * GIB }
}

fn place(cluster: &Cluster, request: &Request<'_>, policy: &str) -> Result<HostId, NoPlace> {
    let policy = Policy::parse(policy).unwrap();
    cluster.place(request, &cluster.admit(&policy, KeyCustody::Operator), &SeededRandom::new(1))
}

#[test]
fn a_place_or_the_reason_why_not() {
    let op = operator("acme", "FR", "US");
    let (a, b) = (site("a", &op, "FR", &[]), site("b", &op, "FR", &[]));
    let hosts = [host(1, &op, &a, 3), Candidate { closed: Some(Closed::Cordoned), ..host(2, &op, &b, 64) }];
    let cluster: Cluster = hosts.iter().cloned().collect();
    let base = Request { architecture: Some("x86_64"), ..Request::of(needs(2, 2)) };
    let avoided = [hosts[0].id];
    let near = Avoid { hosts: &avoided, ..Avoid::default() };
    let open = "{}";
    let german = r#"{"countries":{"allow":["DE"]}}"#;
    for (request, policy, expected) in [
        (base.clone(), open, Ok(0)),
        (Request { zone: Some("a"), ..base.clone() }, open, Ok(0)),
        (Request { strategy: Strategy::Pack, ..base.clone() }, open, Ok(0)),
        (Request { zone: Some("b"), ..base.clone() }, open, Err("2 hosts: 1 in another zone than b; 1 cordoned")),
        (Request { needs: needs(2, 8), ..base.clone() }, open, Err("1 full (at most 3 GiB of 8 GiB memory free)")),
        (Request { needs: needs(5, 2), ..base.clone() }, open, Err("at most 4 of 5 vCPUs free")),
        (Request { host: Some(hosts[1].id), ..base.clone() }, open, Err("1 host: 1 cordoned")),
        (Request { architecture: Some("arm64"), ..base.clone() }, open, Err("2 of another architecture than arm64")),
        (Request { avoid: near, ..base.clone() }, open, Err("1 too near to what must be kept apart")),
        (base.clone(), german, Err("2 forbidden: the policy does not allow the country of the site 'FR'")),
        (base.clone(), r#"{"parents":{"deny":["US"]}}"#, Err("denies the country of the operator's parent 'US'")),
        (base.clone(), r#"{"key_custody":"customer"}"#, Err("keys held by the customer")),
    ] {
        match (place(&cluster, &request, policy), expected) {
            (Ok(id), Ok(n)) => assert_eq!(id, hosts[n].id),
            (Err(none), Err(words)) => assert!(none.to_string().contains(words), "{none} / {words}"),
            (got, wanted) => panic!("{request:?}: {got:?}, wanted {wanted:?}"),
        }
    }
    assert_eq!(place(&Cluster::default(), &base, open).unwrap_err().to_string(), "there is no host");
}

#[test]
fn only_the_best_few_are_drawn_and_all_of_them() {
    let op = operator("acme", "FR", "FR");
    let zone = site("a", &op, "FR", &[]);
    let hosts: Vec<Candidate> = (0..10).map(|n| host(n, &op, &zone, 10 + n)).collect();
    let cluster: Cluster = hosts.iter().cloned().collect();
    let admission = cluster.admit(&Policy::default(), KeyCustody::Operator);
    let ids = SeededRandom::new(3);
    for (strategy, range) in [(Strategy::Spread, 7..10), (Strategy::Pack, 2..5)] {
        let request = Request { strategy, ..Request::of(needs(1, 12)) };
        let drawn: BTreeSet<HostId> = (0..200).map(|_| cluster.place(&request, &admission, &ids).unwrap()).collect();
        assert_eq!(drawn, hosts[range].iter().map(|host| host.id).collect(), "{strategy:?}");
    }
}

#[test]
fn groups_keep_apart() {
    let op = operator("acme", "FR", "FR");
    let zone = site("a", &op, "FR", &[]);
    let cluster: Cluster = (0..9).map(|n| host(n, &op, &zone, 64)).collect();
    let admission = cluster.admit(&Policy::default(), KeyCustody::Operator);
    let ids = SeededRandom::new(3);
    let mut members = Vec::new();
    while let Some(avoid) = apart_from_spread(&members) {
        let request = Request { avoid, ..Request::of(needs(1, 1)) };
        let chosen = cluster.place(&request, &admission, &ids).unwrap();
        members.push(chosen);
    }
    assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), MAX_SPREAD_PER_ZONE);
    let mut partitions = vec![Vec::new(); 3];
    for n in 0..60 {
        let hosts = apart_from_partitions(&partitions, n % 3);
        let request = Request { avoid: Avoid { hosts: &hosts, ..Avoid::default() }, ..Request::of(needs(0, 0)) };
        partitions[n % 3].push(cluster.place(&request, &admission, &ids).unwrap());
    }
    let distinct: BTreeSet<_> = partitions.iter().flatten().collect();
    let summed: usize = partitions.iter().map(|hosts| hosts.iter().collect::<BTreeSet<_>>().len()).sum();
    assert_eq!(distinct.len(), summed, "no host is in two partitions");
}

#[test]
fn copies_are_apart_or_it_is_said_that_they_cannot_be() {
    let (a, b) = (operator("a", "FR", "FR"), operator("b", "FR", "FR"));
    // The two operators share one building; only the right choice of the first copy leaves one for the second.
    let sites = [site("1", &a, "FR", &["shared"]), site("2", &a, "FR", &["own"]), site("3", &b, "FR", &["shared"])];
    let hosts = [host(1, &a, &sites[0], 64), host(2, &a, &sites[1], 8), host(3, &b, &sites[2], 64)];
    let cluster: Cluster = hosts.iter().cloned().collect();
    let ids = SeededRandom::new(1);
    let copies = |policy: &str, count, others: &[Place<'_>]| {
        let admission = cluster.admit(&Policy::parse(policy).unwrap(), KeyCustody::Operator);
        let placed = cluster.place_copies(Copies { count, others }, &Request::of(needs(1, 1)), &admission, &ids);
        placed.map(|hosts| hosts.into_iter().collect::<BTreeSet<_>>())
    };
    let both = r#"{"separation":{"operators":2,"fire_zones":2}}"#;
    assert_eq!(copies(both, 2, &[]).unwrap(), BTreeSet::from([hosts[1].id, hosts[2].id]));
    assert_eq!(copies("{}", 3, &[]).unwrap().len(), 3, "no host twice");
    let here = cluster.place_of(hosts[2].id).unwrap();
    assert_eq!(copies(both, 1, &[here]).unwrap(), BTreeSet::from([hosts[1].id]), "a snapshot is apart from its volume");
    for (policy, count, words) in [
        (r#"{"separation":{"operators":3}}"#, 3, "wants copies at 3 operators, and there would be 2"),
        (r#"{"separation":{"fire_zones":3}}"#, 3, "wants copies in 3 fire zones, and there would be 2"),
        (r#"{"operators":{"allow":["a"]},"separation":{"fire_zones":2,"operators":1}}"#, 3, "full"),
    ] {
        let none = copies(policy, count, &[]).unwrap_err().to_string();
        assert!(none.contains(words), "{none} / {words}");
    }
}

/// A cluster of several operators, and the hosts in it.
fn region(random: &SeededRandom, hosts: u64) -> Vec<Candidate> {
    let operators = [
        operator("fr.example", "FR", "FR"),
        operator("us-owned.example", "FR", "US"),
        operator("de.example", "DE", "DE"),
        operator("us.example", "US", "US"),
        Arc::new(Operator { id: "silent.example".to_owned(), ..Operator::default() }),
    ];
    let mut sites = Vec::new();
    for (n, op) in operators.iter().enumerate() {
        for (m, country) in ["FR", "DE", "US"].iter().enumerate() {
            let zones: &[&str] = [&["east"][..], &["west"], &["east", "west"]][(n + m) % 3];
            sites.push((Arc::clone(op), site(&format!("s{n}{m}"), op, country, zones)));
        }
    }
    let below = |n: u64| random.next_u64() % n;
    let one = |n| {
        let (op, at) = &sites[usize::try_from(below(sites.len() as u64)).unwrap()];
        Candidate {
            closed: [None, None, None, None, Some(Closed::Cordoned), Some(Closed::Lost)]
                [usize::try_from(below(6)).unwrap()],
            architecture: if below(5) == 0 { "arm64" } else { "x86_64" }.to_owned(),
            free: Room { vcpus: below(16), memory_bytes: below(64) * GIB, volume_bytes: below(500) * GIB },
            fire_zone: at.fire_zones.first().filter(|_| below(2) == 0).cloned(),
            ..host(10_000 + n, op, at, 0)
        }
    };
    (0..hosts).map(one).collect()
}

const POLICIES: [&str; 8] = [
    "{}",
    r#"{"jurisdictions":{"deny":["US"]}}"#,
    r#"{"countries":{"allow":["FR"]},"parents":{"deny":["US"]}}"#,
    r#"{"seats":{"allow":["EU"]},"separation":{"operators":2}}"#,
    r#"{"certifications":["SecNumCloud"],"separation":{"fire_zones":2}}"#,
    r#"{"operators":{"deny":["us.example","us-owned.example"]}}"#,
    r#"{"operators":{"allow":["silent.example"]}}"#,
    r#"{"jurisdictions":{"allow":["FR"]},"key_custody":"customer"}"#,
];

proptest! {
    #[test]
    fn the_index_finds_what_a_look_at_every_host_finds(seed: u64, count in 1_u64..60, changes in 0_u64..30, policy in 0_usize..8) {
        let random = SeededRandom::new(seed);
        let mut hosts: BTreeMap<HostId, Candidate> =
            region(&random, count).into_iter().map(|host| (host.id, host)).collect();
        let mut cluster: Cluster = hosts.values().cloned().collect();
        let policy = Policy::parse(POLICIES[policy]).unwrap();
        let custody = if random.next_u64().is_multiple_of(2) { KeyCustody::Operator } else { KeyCustody::Customer };
        let admission = cluster.admit(&policy, custody);
        // The index is kept through changes of every kind.
        for fresh in region(&random, changes) {
            let any = *hosts.keys().nth(usize::try_from(random.next_u64() % hosts.len() as u64).unwrap()).unwrap();
            match random.next_u64() % 4 {
                0 if hosts.len() > 1 => {
                    hosts.remove(&any);
                    cluster.remove(any);
                }
                1 => {
                    hosts.get_mut(&any).unwrap().free = fresh.free;
                    cluster.set_free(any, fresh.free);
                }
                2 => {
                    let moved = Candidate { id: any, ..fresh };
                    hosts.insert(any, moved.clone());
                    cluster.put(moved);
                }
                _ => {
                    hosts.insert(fresh.id, fresh.clone());
                    cluster.put(fresh);
                }
            }
        }
        let avoided: Vec<HostId> = hosts.keys().take(3).copied().collect();
        let zones = ["east".to_owned()];
        let request = Request {
            needs: Room { vcpus: random.next_u64() % 16, memory_bytes: random.next_u64() % (64 * GIB), volume_bytes: 0 },
            zone: (random.next_u64().is_multiple_of(3)).then_some("s01"),
            host: None,
            architecture: Some("x86_64"),
            strategy: if random.next_u64().is_multiple_of(2) { Strategy::Spread } else { Strategy::Pack },
            avoid: Avoid {
                hosts: &avoided,
                fire_zones: if random.next_u64().is_multiple_of(3) { &zones } else { &[] },
                ..Avoid::default()
            },
        };
        let fits = |host: &&Candidate| {
            let place = Place {
                operator: &host.operator,
                site: &host.site,
                host_fire_zone: host.fire_zone.as_deref(),
                key_custody: custody,
            };
            host.closed.is_none()
                && host.free.holds(request.needs)
                && request.zone.is_none_or(|zone| zone == host.site.id)
                && host.architecture == "x86_64"
                && decide(&policy, &place).is_ok()
                && !avoided.contains(&host.id)
                && (request.avoid.fire_zones.is_empty() || place.fire_zone().is_some_and(|zone| zone != "east"))
        };
        let fitting: Vec<&Candidate> = hosts.values().filter(fits).collect();
        match cluster.place(&request, &admission, &random) {
            Ok(id) => {
                prop_assert!(fitting.iter().any(|host| host.id == id));
                if request.strategy == Strategy::Spread {
                    let mut memory: Vec<u64> = fitting.iter().map(|host| host.free.memory_bytes).collect();
                    memory.sort_unstable_by(|a, b| b.cmp(a));
                    prop_assert!(hosts[&id].free.memory_bytes >= memory[memory.len().min(3) - 1], "not among the best");
                }
            }
            Err(none) => {
                prop_assert!(fitting.is_empty(), "{}", none);
                prop_assert_eq!(none.hosts(), hosts.len(), "every host has one reason: {}", none);
            }
        }
        let again = cluster.place(&request, &admission, &SeededRandom::new(seed));
        prop_assert_eq!(again, cluster.place(&request, &admission, &SeededRandom::new(seed)), "the same seed, the same host");
    }
}

/// The policies of [`POLICIES`], read by hand.
fn naive(policy: usize, host: &Candidate) -> bool {
    let (op, at) = (&host.operator, &host.site);
    let (seat, parent) = (op.seat.as_deref(), op.parent_country.as_deref());
    let country = at.country.as_deref().unwrap();
    match policy {
        0 => true,
        1 => seat.is_some() && ![Some(country), seat, parent].contains(&Some("US")),
        2 => country == "FR" && parent.is_some_and(|parent| parent != "US"),
        3 => seat == Some("FR") || seat == Some("DE"),
        4 => op.certifications.contains("SecNumCloud"),
        5 => op.id != "us.example" && op.id != "us-owned.example",
        6 => op.id == "silent.example",
        _ => false,
    }
}

/// R1: whatever is placed, at any time, under any policy.
#[test]
fn ten_thousand_random_placements_obey_the_policy() {
    let random = SeededRandom::new(2024);
    let hosts: BTreeMap<HostId, Candidate> = region(&random, 400).into_iter().map(|host| (host.id, host)).collect();
    let mut cluster: Cluster = hosts.values().cloned().collect();
    let (mut placed, mut refused) = (0, 0);
    let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..10_000_usize {
        let number = usize::try_from(random.next_u64() % POLICIES.len() as u64).unwrap();
        let policy = Policy::parse(POLICIES[number]).unwrap();
        let admission = cluster.admit(&policy, KeyCustody::Operator);
        let (kind, room, copies) = [
            ("instance", Room { vcpus: 1, memory_bytes: GIB, volume_bytes: GIB }, 1),
            ("volume", Room { volume_bytes: 4 * GIB, ..Room::default() }, 1),
            ("object", Room { volume_bytes: 1 << 20, ..Room::default() }, 3),
            ("snapshot", Room { volume_bytes: GIB, ..Room::default() }, 1),
            ("image", Room { volume_bytes: GIB, ..Room::default() }, 2),
            ("log", Room { volume_bytes: 1 << 16, ..Room::default() }, 2),
        ][n % 6];
        let request =
            Request { strategy: if n % 2 == 0 { Strategy::Spread } else { Strategy::Pack }, ..Request::of(room) };
        // A snapshot is a copy of a volume that is somewhere already.
        let source = cluster.place(&request, &admission, &random).ok().filter(|_| kind == "snapshot");
        let others: Vec<Place<'_>> = source.and_then(|source| cluster.place_of(source)).into_iter().collect();
        let chosen = if copies == 1 && kind != "snapshot" {
            cluster.place(&request, &admission, &random).map(|host| vec![host])
        } else {
            cluster.place_copies(Copies { count: copies, others: &others }, &request, &admission, &random)
        };
        let Ok(chosen) = chosen else {
            refused += 1;
            continue;
        };
        for id in &chosen {
            let host = &hosts[id];
            assert!(naive(number, host), "{kind} under {} on {host:?}", POLICIES[number]);
            assert!(host.closed.is_none() && cluster.free(*id).unwrap().holds(room), "{kind} on {host:?}");
            if kind != "instance" && kind != "volume" {
                let mut all = others.clone();
                all.extend(chosen.iter().filter_map(|id| cluster.place_of(*id)));
                assert_eq!(separate(&policy, &all), Ok(()), "{kind} under {}", POLICIES[number]);
            }
        }
        chosen.iter().for_each(|id| cluster.take(*id, room));
        placed += 1;
        *by_kind.entry(kind).or_default() += 1;
    }
    assert_eq!(placed + refused, 10_000);
    assert!(by_kind.values().all(|count| *count > 300), "{by_kind:?}: too few to mean anything");
    println!("{placed} placed, {refused} refused: {by_kind:?}");
}
