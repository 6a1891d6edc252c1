//! Where things lie in etcd. Everything of a cell is below one prefix:
//!
//! ```text
//! PREFIX/f               the format
//! PREFIX/r/KEY           a record
//! PREFIX/o/STREAM/NONCE  what one transaction appended to an outbox stream
//! PREFIX/s/ENGINE/N      a slot: the mark of a commit under way, see `commit`
//! ```

use bytes::Bytes;

use crate::{Key, KeyRange};

#[derive(Clone)]
pub(super) struct Space {
    prefix: String,
}

/// A range of etcd's keys; the end is never empty, which would mean a single key.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Span {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
}

impl Space {
    /// `prefix`: without a slash at its end.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn below(&self, folder: char) -> Span {
        // '0' is the character after '/'.
        Span { start: format!("{}/{folder}/", self.prefix).into(), end: format!("{}/{folder}0", self.prefix).into() }
    }

    /// All that is there but the format.
    pub(super) fn contents(&self) -> [Span; 3] {
        [self.below('r'), self.below('o'), self.below('s')]
    }

    pub(super) fn format(&self) -> Bytes {
        format!("{}/f", self.prefix).into()
    }

    /// A key at which nothing ever is.
    pub(super) fn nothing(&self) -> Bytes {
        format!("{}/n", self.prefix).into()
    }

    pub(super) fn record(&self, key: &Key) -> Bytes {
        format!("{}/r/{key}", self.prefix).into()
    }

    /// The key of a record; none: it is something else.
    pub(super) fn key<'k>(&self, found: &'k [u8]) -> Option<&'k str> {
        let key = found.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"/r/")?;
        std::str::from_utf8(key).ok()
    }

    /// None: the range is empty.
    pub(super) fn records(&self, range: &KeyRange) -> Option<Span> {
        if range.is_empty() {
            return None;
        }
        let all = self.below('r');
        let place = |key: &str| Bytes::from(format!("{}/r/{key}", self.prefix));
        Some(Span { start: place(range.start()), end: range.end().map_or(all.end, place) })
    }

    pub(super) fn streams(&self) -> Span {
        self.below('o')
    }

    pub(super) fn stream(&self, stream: &str) -> Span {
        let name = escape(stream);
        Span { start: format!("{}/o/{name}/", self.prefix).into(), end: format!("{}/o/{name}0", self.prefix).into() }
    }

    pub(super) fn entry(&self, stream: &str, nonce: u128) -> Bytes {
        format!("{}/o/{}/{nonce:032x}", self.prefix, escape(stream)).into()
    }

    /// The stream that an entry's key belongs to.
    pub(super) fn stream_of(&self, found: &[u8]) -> Option<String> {
        let rest = found.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"/o/")?;
        let name = rest.split(|byte| *byte == b'/').next()?;
        Some(unescape(std::str::from_utf8(name).ok()?))
    }

    pub(super) fn slots(&self) -> Span {
        self.below('s')
    }

    pub(super) fn slot(&self, engine: u64, number: u64) -> Bytes {
        format!("{}/s/{engine:016x}/{number}", self.prefix).into()
    }
}

fn escape(stream: &str) -> String {
    stream.replace('%', "%25").replace('/', "%2F")
}

fn unescape(name: &str) -> String {
    name.replace("%2F", "/").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_order_and_streams_their_names() {
        let space = Space::new("cell/one");
        let all = space.records(&KeyRange::all()).unwrap();
        for key in ["a", "a/b", "~x/1", "\u{10ffff}"] {
            let place = space.record(&Key::new(key));
            assert!(place >= all.start && place < all.end, "{key}");
            assert_eq!(space.key(&place), Some(key));
        }
        assert!(space.record(&Key::new("a")) < space.record(&Key::new("a/b")));
        assert_eq!(space.records(&KeyRange::children(&Key::new("a")).after(&Key::new("a0"))), None);
        for foreign in ["cell/one/f", "cell/one/o/audit/1", "cell/ones/r/a", "cell/one/r"] {
            assert_eq!(space.key(foreign.as_bytes()), None, "{foreign}");
        }
        for stream in ["audit", "a/b", "a%2Fb", "%"] {
            let entry = space.entry(stream, 7);
            assert_eq!(space.stream_of(&entry).as_deref(), Some(stream));
            let span = space.stream(stream);
            assert!(entry >= span.start && entry < span.end);
        }
        let other = space.stream("a");
        let entry = space.entry("a/b", 7);
        assert!(!(entry >= other.start && entry < other.end), "no stream holds another");
    }
}
