use std::collections::BTreeMap;
use std::fmt;
use terroir_policy::Forbidden;

use crate::Room;

/// Why a host is none for a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    OtherZone {
        wanted: String,
    },
    OtherArchitecture {
        wanted: String,
    },
    Forbidden(Forbidden),
    /// Its like is there, on it or near it.
    TooNear,
    Cordoned,
    Lost,
    Full,
}

/// No host fits, and how many of them for which reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoPlace {
    pub needs: Room,
    pub counts: BTreeMap<Why, usize>,
    /// The most of each kind that one of the full hosts has free.
    pub most_free: Room,
}

impl NoPlace {
    pub(crate) fn new(needs: Room) -> Self {
        Self { needs, counts: BTreeMap::new(), most_free: Room::default() }
    }

    pub(crate) fn count(&mut self, why: Why, hosts: usize) {
        if hosts > 0 {
            *self.counts.entry(why).or_default() += hosts;
        }
    }

    pub fn hosts(&self) -> usize {
        self.counts.values().sum()
    }

    fn full(&self) -> String {
        let (needs, free) = (self.needs, self.most_free);
        let mut parts = Vec::new();
        if free.vcpus < needs.vcpus {
            parts.push(format!("{} of {} vCPUs", free.vcpus, needs.vcpus));
        }
        if free.memory_bytes < needs.memory_bytes {
            parts.push(format!("{} of {} memory", size(free.memory_bytes), size(needs.memory_bytes)));
        }
        if free.volume_bytes < needs.volume_bytes {
            parts.push(format!("{} of {} disk", size(free.volume_bytes), size(needs.volume_bytes)));
        }
        if parts.is_empty() {
            return "full (none has enough of everything at once)".to_owned();
        }
        format!("full (at most {} free)", parts.join(" and "))
    }

    fn words(&self, why: &Why) -> String {
        match why {
            Why::OtherZone { wanted } => format!("in another zone than {wanted}"),
            Why::OtherArchitecture { wanted } => format!("of another architecture than {wanted}"),
            Why::Forbidden(rule) => format!("forbidden: {rule}"),
            Why::TooNear => "too near to what must be kept apart".to_owned(),
            Why::Cordoned => "cordoned".to_owned(),
            Why::Lost => "lost".to_owned(),
            Why::Full => self.full(),
        }
    }
}

/// `412 hosts: 300 forbidden: the policy ...; 100 full (...); 12 cordoned`, the most frequent reason first.
impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More kinds of reasons than these are not for a message.
        const SHOWN: usize = 6;
        let total = self.hosts();
        if total == 0 {
            return f.write_str("there is no host");
        }
        let mut reasons: Vec<(&Why, usize)> = self.counts.iter().map(|(why, count)| (why, *count)).collect();
        reasons.sort_by_key(|(why, count)| (std::cmp::Reverse(*count), *why));
        let words = reasons.iter().take(SHOWN).map(|(why, count)| format!("{count} {}", self.words(why)));
        write!(f, "{total} {}: {}", if total == 1 { "host" } else { "hosts" }, words.collect::<Vec<_>>().join("; "))?;
        match reasons.iter().skip(SHOWN).map(|(_, count)| count).sum::<usize>() {
            0 => Ok(()),
            more => write!(f, "; {more} for other reasons"),
        }
    }
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

    #[test]
    fn sizes_are_cut_off() {
        const GIB: u64 = 1 << 30;
        for (bytes, text) in [(0, "0 MiB"), (GIB - 1, "1023 MiB"), (GIB, "1 GiB"), (GIB * 15 / 2, "7.5 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn reasons_are_counted() {
        let mut none = NoPlace::new(Room { vcpus: 8, ..Room::default() });
        assert_eq!(none.to_string(), "there is no host");
        let rule = Forbidden::Certification { missing: "C5".to_owned() };
        none.count(Why::Cordoned, 12);
        none.count(Why::Forbidden(rule), 300);
        none.count(Why::Full, 100);
        none.count(Why::Lost, 0);
        none.most_free.vcpus = 4;
        assert_eq!(
            none.to_string(),
            "412 hosts: 300 forbidden: the policy wants the certification 'C5'; \
             100 full (at most 4 of 8 vCPUs free); 12 cordoned"
        );
    }
}
