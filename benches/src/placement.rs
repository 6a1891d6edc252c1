//! The scheduler alone: placements under sovereignty policies, in this process, without state or API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use terroir_policy::{KeyCustody, Operator, Policy, Site};
use terroir_scheduler::{Candidate, Cluster, Request, Room, Strategy};
use terroir_types::{HostId, IdSource, ResourceId, SeededRandom};

use crate::Effort;
use crate::report::{Aim, Report};

const GIB: u64 = 1 << 30;
/// The size that the aim is about, and others around it to see how the cost grows.
const SIZES: [u64; 3] = [500, 5_000, 50_000];
const AIMED_AT: u64 = 5_000;
const AIM_PER_SECOND: f64 = 20_000.0;

const POLICIES: [&str; 5] = [
    r#"{"countries":{"allow":["EU"]},"jurisdictions":{"deny":["US"]}}"#,
    r#"{"seats":{"allow":["FR","DE"]},"parents":{"allow":["EU"]}}"#,
    r#"{"operators":{"deny":["operator-1","operator-2"]},"certifications":["C5"]}"#,
    r#"{"countries":{"allow":["FR"]},"jurisdictions":{"allow":["EU"]}}"#,
    r#"{"parents":{"deny":["US","CN"]}}"#,
];

/// Hosts at thirty sites of ten operators, all with some room.
fn region(hosts: u64) -> Cluster {
    let random = SeededRandom::new(hosts);
    let countries = ["FR", "DE", "US", "NL", "CH"];
    let country = |n: usize| countries[n % countries.len()].to_owned();
    let mut sites = Vec::new();
    for n in 0..10 {
        let operator = Arc::new(Operator {
            id: format!("operator-{n}"),
            seat: Some(country(n)),
            parent_country: Some(country(n / 2)),
            jurisdictions: Some(BTreeSet::new()),
            certifications: if n % 3 == 0 { BTreeSet::new() } else { BTreeSet::from(["C5".to_owned()]) },
            ..Operator::default()
        });
        for m in 0..3 {
            let site = Site {
                id: format!("site-{n}-{m}"),
                operator: operator.id.clone(),
                country: Some(country(n + m)),
                ..Site::default()
            };
            sites.push((Arc::clone(&operator), Arc::new(site)));
        }
    }
    let below = |n: u64| random.next_u64() % n;
    let host = |n: u64| {
        let (operator, site) = &sites[usize::try_from(n).unwrap_or(0) % sites.len()];
        let id = HostId::generate(&random);
        let free = Room { vcpus: 16 + below(240), memory_bytes: (64 + below(960)) * GIB, volume_bytes: 20_000 * GIB };
        let (operator, site) = (Arc::clone(operator), Arc::clone(site));
        Candidate { id, architecture: "x86_64".to_owned(), closed: None, free, operator, site, fire_zone: None }
    };
    (0..hosts).map(host).collect()
}

pub fn placements(effort: &Effort, report: &mut Report) -> Result<(), String> {
    let policies: Vec<Policy> =
        POLICIES.iter().map(|text| Policy::parse(text)).collect::<Result<_, _>>().map_err(crate::say)?;
    let needs = Room { vcpus: 2, memory_bytes: 4 * GIB, volume_bytes: 8 * GIB };
    for hosts in SIZES {
        let mut cluster = region(hosts);
        let random = SeededRandom::new(1);
        let (mut placed, mut refused) = (0_u32, 0_u32);
        let start = Instant::now();
        while start.elapsed() < effort.limit {
            // A policy is read anew for each, as each may be of another account.
            let policy = &policies[(placed + refused) as usize % policies.len()];
            let admission = cluster.admit(policy, KeyCustody::Operator);
            let strategy = if placed % 2 == 0 { Strategy::Spread } else { Strategy::Pack };
            let request = Request { architecture: Some("x86_64"), strategy, ..Request::of(needs) };
            match cluster.place(&request, &admission, &random) {
                Ok(host) => {
                    placed += 1;
                    cluster.take(host, needs);
                }
                Err(_) => {
                    refused += 1;
                    // Full: begin again, at the cost of this measurement.
                    cluster = region(hosts);
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = f64::from(placed) / seconds;
        let aim = if hosts == AIMED_AT { Aim::AtLeast(AIM_PER_SECOND) } else { Aim::None };
        let note = format!("30 sites of 10 operators, 5 policies, spread and pack in turn; filled up {refused} times");
        report.figure(&format!("scheduler alone, {hosts} hosts"), rate, "placements/s", aim, &note);
    }
    Ok(())
}
