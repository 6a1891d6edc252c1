use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A path of opaque UTF-8 segments joined by `/`, for example `instance/123456789012/i-0123456789abcdef0`.
///
/// The first segment is the kind of the record. Keys are ordered bytewise and hold no names that a tenant chose: a
/// name that must be unique stands in a key as its [`crate::KeyRing::name_mac`]. A prefix is a key too and means all
/// keys that start with `PREFIX/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(path: impl Into<Arc<str>>) -> Self {
        Self(path.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `a/b` and `c` give `a/b/c`.
    #[must_use]
    pub fn child(&self, segment: impl fmt::Display) -> Self {
        Self(format!("{}/{segment}", self.0).into())
    }

    /// The first segment.
    pub fn kind(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// Segment number `n`, counted from 0 (the kind).
    pub fn segment(&self, n: usize) -> Option<&str> {
        self.0.split('/').nth(n)
    }

    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether records of this kind are kept in the in-memory view; see [`crate::Record::IN_VIEW`].
    pub(crate) fn in_view(&self) -> bool {
        !self.0.starts_with(OUTSIDE_VIEW)
    }
}

/// Kinds that begin with this character stay outside the in-memory view.
pub(crate) const OUTSIDE_VIEW: char = '~';

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(path: &str) -> Self {
        Self(path.into())
    }
}

/// Keys from `start` (inclusive) to `end` (exclusive; none: no upper bound), bytewise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    start: Arc<str>,
    end: Option<Arc<str>>,
}

impl KeyRange {
    /// The whole key space.
    pub fn all() -> Self {
        Self { start: "".into(), end: None }
    }

    /// Every key that starts with `PREFIX/`.
    pub fn children(prefix: &Key) -> Self {
        // '0' is the character after '/'.
        Self { start: format!("{prefix}/").into(), end: Some(format!("{prefix}0").into()) }
    }

    /// The part of this range that lies behind `key`.
    #[must_use]
    pub fn after(&self, key: &Key) -> Self {
        let next: Arc<str> = format!("{key}\0").into();
        Self { start: next.max(self.start.clone()), end: self.end.clone() }
    }

    /// The part of this range up to and including `key`.
    #[must_use]
    pub fn through(&self, key: &Key) -> Self {
        let next: Arc<str> = format!("{key}\0").into();
        let end = match &self.end {
            Some(end) if **end < *next => end.clone(),
            _ => next,
        };
        Self { start: self.start.clone(), end: Some(end) }
    }

    pub fn start(&self) -> &str {
        &self.start
    }

    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    pub fn contains(&self, key: &Key) -> bool {
        *key.0 >= *self.start && self.end.as_ref().is_none_or(|end| *key.0 < **end)
    }

    pub fn is_all(&self) -> bool {
        self.start.is_empty() && self.end.is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| **end <= *self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key() {
        let key = Key::new("instance/123456789012").child("i-1");
        assert_eq!(key.as_str(), "instance/123456789012/i-1");
        assert_eq!((key.kind(), key.last(), key.segment(1)), ("instance", "i-1", Some("123456789012")));
        assert_eq!(key.segment(3), None);
        assert!(key.in_view() && !Key::new("~user-data/i-1").in_view());
    }

    #[test]
    fn a_prefix_holds_its_children_and_nothing_else() {
        let range = KeyRange::children(&Key::new("a/b"));
        for (key, inside) in
            [("a/b", false), ("a/b/", true), ("a/b/c", true), ("a/b/c/d", true), ("a/b0", false), ("a/bc", false)]
        {
            assert_eq!(range.contains(&Key::new(key)), inside, "{key}");
        }
        let behind = range.after(&Key::new("a/b/c"));
        for (key, inside) in [("a/b/c", false), ("a/b/c/d", true), ("a/b/b", false), ("a/b/d", true), ("a/c", false)] {
            assert_eq!(behind.contains(&Key::new(key)), inside, "{key} behind a/b/c");
        }
        let through = range.through(&Key::new("a/b/c"));
        for (key, inside) in [("a/b/c", true), ("a/b/c/d", false), ("a/b/b", true), ("a/b/d", false)] {
            assert_eq!(through.contains(&Key::new(key)), inside, "{key} up to a/b/c");
        }
        assert!(KeyRange::all().contains(&Key::new("\u{10ffff}")));
        assert!(range.after(&Key::new("a/b0")).is_empty());
    }
}
