//! Where something goes: a pure function of hosts, request and policy to a host or the reasons why there is none.
//!
//! A host is used if it takes new work, stands in the wanted zone, has the wanted architecture, is allowed by the policy
//! and has room. Among the few with the most room one is drawn at random, so that concurrent placements seldom meet on
//! the same capacity record. There is no fallback to a place that the request did not allow.

use serde::{Deserialize, Serialize};
use std::fmt;
use terroir_policy::{Operator, Policy, Site};
use terroir_types::{HostId, IdSource};

/// What a host has, or what something needs of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub vcpus: u64,
    pub memory_bytes: u64,
    pub volume_bytes: u64,
}

impl Room {
    pub const fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            volume_bytes: self.volume_bytes.saturating_add(other.volume_bytes),
        }
    }

    pub const fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            volume_bytes: self.volume_bytes.saturating_sub(other.volume_bytes),
        }
    }

    pub const fn holds(self, other: Self) -> bool {
        self.vcpus >= other.vcpus && self.memory_bytes >= other.memory_bytes && self.volume_bytes >= other.volume_bytes
    }
}

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: HostId,
    /// For reasons that people read.
    pub name: String,
    pub zone: String,
    pub architecture: String,
    /// Why it takes no new work (drained, lost), if so.
    pub closed: Option<String>,
    pub free: Room,
    pub operator: Operator,
    pub site: Site,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    pub needs: Room,
    pub zone: Option<&'a str>,
    /// Only this host, because a disk of it is there.
    pub host: Option<HostId>,
    pub architecture: Option<&'a str>,
    pub policy: &'a Policy,
}

/// No host fits, and why each of them does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoPlace {
    pub needs: Room,
    pub reasons: Vec<String>,
}

const REASONS_SHOWN: usize = 5;

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("there is no host");
        }
        f.write_str(&self.reasons[..self.reasons.len().min(REASONS_SHOWN)].join("; "))?;
        match self.reasons.len().saturating_sub(REASONS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more hosts"),
        }
    }
}

/// Among how many of the emptiest hosts one is drawn.
const BEST: usize = 3;

/// Draws a host for `request`.
pub fn place(hosts: &[Candidate], request: &Request<'_>, ids: &dyn IdSource) -> Result<HostId, NoPlace> {
    let mut fitting = Vec::new();
    let mut reasons = Vec::new();
    for host in hosts {
        match why_not(host, request) {
            None => fitting.push(host),
            Some(reason) => reasons.push(format!("host {} {reason}", host.name)),
        }
    }
    // Most free memory first; the id makes the order total.
    fitting.sort_by_key(|host| (std::cmp::Reverse(host.free.minus(request.needs).memory_bytes), host.id));
    fitting.truncate(BEST);
    match fitting.len() {
        0 => Err(NoPlace { needs: request.needs, reasons }),
        1 => Ok(fitting[0].id),
        n => Ok(fitting[usize::try_from(ids.next_u64() % n as u64).unwrap_or(0)].id),
    }
}

fn why_not(host: &Candidate, request: &Request<'_>) -> Option<String> {
    if request.host.is_some_and(|only| only != host.id) {
        return Some("does not hold the disk".to_owned());
    }
    if let Some(zone) = request.zone.filter(|zone| *zone != host.zone) {
        return Some(format!("is in zone {}, not {zone}", host.zone));
    }
    if let Some(architecture) = request.architecture.filter(|a| *a != host.architecture) {
        return Some(format!("is {}, not {architecture}", host.architecture));
    }
    if let Err(rule) = terroir_policy::check(request.policy, &host.operator, &host.site) {
        return Some(format!("is forbidden: {rule}"));
    }
    if let Some(closed) = &host.closed {
        return Some(closed.clone());
    }
    lacking(host.free, request.needs)
}

fn lacking(free: Room, needs: Room) -> Option<String> {
    if free.holds(needs) {
        return None;
    }
    let mut parts = Vec::new();
    if free.vcpus < needs.vcpus {
        parts.push(format!("has {} of {} vCPUs free", free.vcpus, needs.vcpus));
    }
    if free.memory_bytes < needs.memory_bytes {
        parts.push(format!("has {} of {} memory free", size(free.memory_bytes), size(needs.memory_bytes)));
    }
    if free.volume_bytes < needs.volume_bytes {
        parts.push(format!("has {} of {} disk free", size(free.volume_bytes), size(needs.volume_bytes)));
    }
    Some(parts.join(" and "))
}

/// `512 MiB` or `7.5 GiB`: cut off, so that nothing looks larger than it is.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    if bytes < GIB {
        return format!("{} MiB", bytes / MIB);
    }
    match (bytes % GIB) * 10 / GIB {
        0 => format!("{} GiB", bytes / GIB),
        tenths => format!("{}.{tenths} GiB", bytes / GIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::{ResourceId, SeededRandom};

    const GIB: u64 = 1 << 30;

    fn host(n: u64, zone: &str, memory_gib: u64) -> Candidate {
        Candidate {
            id: HostId::generate(&SeededRandom::new(n)),
            name: format!("h{n}"),
            zone: zone.to_owned(),
            architecture: "x86_64".to_owned(),
            closed: None,
            free: Room { vcpus: 4, memory_bytes: memory_gib * GIB, volume_bytes: 100 * GIB },
            operator: Operator::default(),
            site: Site { name: zone.to_owned(), country: "FR".to_owned() },
        }
    }

    #[test]
    fn a_place_or_the_reason_why_not() {
        let policy = Policy::default();
        let german = Policy { site_countries: ["DE".to_owned()].into(), ..Policy::default() };
        let hosts = [host(1, "a", 3), Candidate { closed: Some("is drained".into()), ..host(2, "b", 64) }];
        let needs = |gib: u64| Room { vcpus: 2, memory_bytes: gib * GIB, volume_bytes: 8 * GIB };
        let base = Request { needs: needs(2), zone: None, host: None, architecture: Some("x86_64"), policy: &policy };
        let rows = [
            (base.clone(), Ok(0)),
            (Request { zone: Some("a"), ..base.clone() }, Ok(0)),
            (Request { zone: Some("b"), ..base.clone() }, Err("host h2 is drained")),
            (Request { zone: Some("c"), ..base.clone() }, Err("host h1 is in zone a, not c")),
            (Request { needs: needs(8), ..base.clone() }, Err("host h1 has 3 GiB of 8 GiB memory free")),
            (Request { needs: Room { vcpus: 5, ..needs(2) }, ..base.clone() }, Err("has 4 of 5 vCPUs free")),
            (Request { host: Some(hosts[1].id), ..base.clone() }, Err("host h1 does not hold the disk")),
            (Request { architecture: Some("arm64"), ..base.clone() }, Err("host h1 is x86_64, not arm64")),
            (Request { policy: &german, ..base.clone() }, Err("the policy does not allow sites in 'FR'")),
        ];
        let ids = SeededRandom::new(1);
        for (request, expected) in rows {
            match (place(&hosts, &request, &ids), expected) {
                (Ok(id), Ok(n)) => assert_eq!(id, hosts[n].id),
                (Err(no), Err(words)) => assert!(no.to_string().contains(words), "{no} / {words}"),
                (got, wanted) => panic!("{request:?}: {got:?}, wanted {wanted:?}"),
            }
        }
        assert_eq!(place(&[], &base, &ids).unwrap_err().to_string(), "there is no host");
    }

    #[test]
    fn only_the_best_few_are_drawn_and_all_of_them() {
        let hosts: Vec<Candidate> = (0..10).map(|n| host(n, "a", 10 + n)).collect();
        let policy = Policy::default();
        let request = Request {
            needs: Room { vcpus: 1, memory_bytes: GIB, volume_bytes: 0 },
            zone: None,
            host: None,
            architecture: None,
            policy: &policy,
        };
        let ids = SeededRandom::new(3);
        let drawn: std::collections::BTreeSet<HostId> =
            (0..200).map(|_| place(&hosts, &request, &ids).unwrap()).collect();
        assert_eq!(drawn, hosts[7..].iter().map(|host| host.id).collect());
    }

    #[test]
    fn sizes_are_cut_off() {
        for (bytes, text) in [(0, "0 MiB"), (GIB - 1, "1023 MiB"), (GIB, "1 GiB"), (GIB * 15 / 2, "7.5 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
