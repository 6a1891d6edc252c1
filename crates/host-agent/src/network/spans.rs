//! Closed ranges of integers. nftables refuses overlapping elements in its interval sets, so rules that overlap (as users
//! write them) are cut into disjoint pieces here; the result depends only on what is covered, not on how it was written.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub first: u128,
    pub last: u128,
}

impl Span {
    pub const fn new(first: u128, last: u128) -> Self {
        Self { first, last }
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub const fn of_net(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            // Spans of V4 are made from 32-bit addresses only.
            Self::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    /// As nft reads it: one address, or `first-last`.
    pub fn text(self, span: Span) -> AddressRange {
        AddressRange(self.address(span.first), self.address(span.last))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct AddressRange(IpAddr, IpAddr);

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

pub fn of_net(net: IpNet) -> Span {
    Span::new(number(net.network()), number(net.broadcast()))
}

/// The same numbers in as few disjoint spans as possible, in order.
pub fn union(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut spans: Vec<Span> = spans.into_iter().collect();
    spans.sort_unstable();
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if last.last == u128::MAX || span.first <= last.last + 1 => last.last = last.last.max(span.last),
            _ => out.push(span),
        }
    }
    out
}

/// Where `spans` is cut so that every input begins and ends at a cut; the pieces cover everything up to the highest end.
fn pieces(spans: &[Span]) -> Vec<Span> {
    let cuts: BTreeSet<u128> =
        spans.iter().flat_map(|s| std::iter::once(s.first).chain(s.last.checked_add(1))).collect();
    let cuts: Vec<u128> = cuts.into_iter().collect();
    (0..cuts.len()).map(|i| Span::new(cuts[i], cuts.get(i + 1).map_or(u128::MAX, |next| next - 1))).collect()
}

/// The area covered by `rows` (first coordinate, second coordinate) as disjoint rectangles.
pub fn rectangles(rows: &[(Span, Span)]) -> Vec<(Span, Span)> {
    let firsts: Vec<Span> = rows.iter().map(|row| row.0).collect();
    let mut bands: Vec<(Span, Vec<Span>)> = Vec::new();
    for piece in pieces(&firsts) {
        let seconds = union(rows.iter().filter(|row| row.0.overlaps(piece)).map(|row| row.1));
        match bands.last_mut() {
            Some((band, same)) if *same == seconds && band.last.checked_add(1) == Some(piece.first) => {
                band.last = piece.last;
            }
            _ => bands.push((piece, seconds)),
        }
    }
    bands.into_iter().flat_map(|(band, seconds)| seconds.into_iter().map(move |second| (band, second))).collect()
}

/// For every value, the addresses whose most specific entry in `table` carries it: longest prefix match, flattened.
pub fn longest_match<V: Copy + PartialEq>(table: &[(IpNet, V)], family: Family, value: V) -> Vec<Span> {
    let table: Vec<_> = table.iter().filter(|(net, _)| Family::of_net(*net) == family).collect();
    let spans: Vec<Span> = table.iter().map(|(net, _)| of_net(*net)).collect();
    let most_specific = |piece: Span| {
        let covering = table.iter().filter(|(net, _)| of_net(*net).overlaps(piece));
        covering.max_by_key(|(net, _)| net.prefix_len()).map(|(_, value)| *value)
    };
    union(pieces(&spans).into_iter().filter(|piece| most_specific(*piece) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        (0u128..24, 0u128..12).prop_map(|(first, length)| Span::new(first, first + length))
    }

    proptest! {
        #[test]
        fn rectangles_cover_the_same_points_once(rows in proptest::collection::vec((span(), span()), 0..8)) {
            let cut = rectangles(&rows);
            for x in 0..40 {
                for y in 0..40 {
                    let inside = |(a, b): &&(Span, Span)| a.first <= x && x <= a.last && b.first <= y && y <= b.last;
                    let times = cut.iter().filter(inside).count();
                    prop_assert_eq!(times, usize::from(rows.iter().any(|row| inside(&row))), "({}, {})", x, y);
                }
            }
            let mut shuffled = rows.clone();
            shuffled.reverse();
            prop_assert_eq!(cut, rectangles(&shuffled));
        }

        #[test]
        fn longest_match_agrees_with_looking_up(
            table in proptest::collection::vec((0u32..64, 26u8..=32, 0u8..3), 0..8),
            probe in 0u32..70,
        ) {
            let table: Vec<(IpNet, u8)> = table.into_iter()
                .map(|(a, l, v)| (ipnet::Ipv4Net::new(Ipv4Addr::from(a), l).unwrap().trunc().into(), v)).collect();
            // Of two equal prefixes the later one counts, here as in `max_by_key`.
            let looked_up = table.iter().filter(|(net, _)| net.contains(&IpAddr::V4(probe.into())))
                .max_by_key(|(net, _)| net.prefix_len()).map(|(_, v)| *v);
            for value in 0..3 {
                let spans = longest_match(&table, Family::V4, value);
                let hit = spans.iter().any(|s| s.first <= probe.into() && u128::from(probe) <= s.last);
                prop_assert_eq!(hit, looked_up == Some(value));
            }
        }
    }

    #[test]
    fn the_ends_of_the_number_line() {
        let all = Span::new(0, u128::MAX);
        assert_eq!(union([all, Span::new(5, 9), Span::new(u128::MAX, u128::MAX)]), [all]);
        assert_eq!(rectangles(&[(all, Span::new(1, 1)), (Span::new(u128::MAX, u128::MAX), Span::new(2, 2))]).len(), 2);
        let everywhere: IpNet = "0.0.0.0/0".parse().unwrap();
        let spans = longest_match(&[(everywhere, ())], Family::V4, ());
        assert_eq!(spans.len(), 1);
        assert_eq!(Family::V4.text(spans[0]).to_string(), "0.0.0.0-255.255.255.255");
    }
}
