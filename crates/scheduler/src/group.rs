//! What to stay away from, and EC2's placement groups as such.

use terroir_policy::Place;
use terroir_types::HostId;

/// Running instances of one spread group in one zone, as EC2 has it.
pub const MAX_SPREAD_PER_ZONE: usize = 7;

/// Where something must not go, because its like is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Avoid<'a> {
    pub hosts: &'a [HostId],
    pub fire_zones: &'a [String],
    pub sites: &'a [String],
    pub operators: &'a [String],
}

impl Avoid<'_> {
    pub(crate) fn is_host(&self, host: HostId) -> bool {
        self.hosts.contains(&host)
    }

    /// Whether the whole place is one. With fire zones to avoid, a place that does not state its own is avoided.
    pub(crate) fn is_place(&self, place: &Place<'_>) -> bool {
        let named = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
        let burns_with =
            !self.fire_zones.is_empty() && place.fire_zone().is_none_or(|zone| named(self.fire_zones, zone));
        burns_with || named(self.sites, &place.site.id) || named(self.operators, &place.operator.id)
    }
}

/// For a spread group: no host twice. `None` if the zone has as many of the group as it may have.
pub fn apart_from_spread(members_in_zone: &[HostId]) -> Option<Avoid<'_>> {
    (members_in_zone.len() < MAX_SPREAD_PER_ZONE).then_some(Avoid { hosts: members_in_zone, ..Avoid::default() })
}

/// For a partition group: hosts of the partitions other than `wanted`, none of which it may share.
pub fn apart_from_partitions(partitions: &[Vec<HostId>], wanted: usize) -> Vec<HostId> {
    let others = partitions.iter().enumerate().filter(|(number, _)| *number != wanted);
    others.flat_map(|(_, hosts)| hosts.iter().copied()).collect()
}
