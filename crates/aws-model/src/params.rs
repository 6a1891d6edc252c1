//! Request parameters of the `ec2` and `query` protocols, and how typed values are read out of them.
//!
//! A name such as `Filter.1.Value.2` is a path. The parameters are kept as one list sorted by name, so that everything
//! below a path is a contiguous range: no tree is built, and memory stays linear in the request whatever its names say.
//! Each entry remembers whether a member took it; what nobody took is an unknown parameter.

use crate::DecodeError;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::sync::atomic::{AtomicBool, Ordering};
use terroir_types::Timestamp;

/// Most parameters that one request may have.
pub const MAX_PARAMETERS: usize = 10_000;
/// Longest name of a parameter, in bytes.
pub const MAX_NAME_BYTES: usize = 512;
/// Most digits of a list index; indices may start anywhere and leave gaps.
pub const MAX_INDEX_DIGITS: usize = 9;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct Entry {
    name: String,
    value: String,
    taken: AtomicBool,
}

/// Values may be secrets, such as user data.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Entry {
    fn take(&self) -> &str {
        self.taken.store(true, Ordering::Relaxed);
        &self.value
    }

    /// The name without its first bytes.
    fn rest(&self, prefix: usize) -> &[u8] {
        &self.name.as_bytes()[prefix..]
    }

    /// The error for a value that is not of its type. Values of more than a few bytes are not repeated.
    fn invalid(&self, expected: &'static str) -> DecodeError {
        let value = if self.value.len() <= 64 { self.value.clone() } else { String::new() };
        DecodeError::Invalid { name: self.name.clone(), value, expected }
    }

    fn invalid_secret(&self, expected: &'static str) -> DecodeError {
        DecodeError::Invalid { name: self.name.clone(), value: String::new(), expected }
    }
}

/// The parameters of one request, from its query string and its form body together.
#[derive(Debug, Default)]
pub struct Params {
    entries: Vec<Entry>,
}

impl Params {
    /// Reads `application/x-www-form-urlencoded` text: the URL's query string (may be empty) and the body.
    ///
    /// # Errors
    /// `Malformed` for bad escapes, text that is not UTF-8, or above the limits; `Duplicate` for a repeated name.
    pub fn parse(query: &str, body: &[u8]) -> Result<Self, DecodeError> {
        let mut entries = Vec::new();
        let pairs = query.as_bytes().split(|b| *b == b'&').chain(body.split(|b| *b == b'&'));
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            if entries.len() == MAX_PARAMETERS {
                return Err(malformed(format!("more than {MAX_PARAMETERS} parameters")));
            }
            let (name, value) = match pair.iter().position(|b| *b == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            let name = unescape(name)?;
            if name.len() > MAX_NAME_BYTES {
                return Err(malformed(format!("the name of a parameter is longer than {MAX_NAME_BYTES} bytes")));
            }
            entries.push(Entry { name, value: unescape(value)?, taken: AtomicBool::new(false) });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(DecodeError::Duplicate { name: pair[0].name.clone() }),
            None => Ok(Self { entries }),
        }
    }

    /// The parameter with exactly this name. Looking does not count as taking.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.root().member(name).entry.map(|entry| entry.value.as_str())
    }

    /// The `Action` parameter.
    pub fn action(&self) -> Option<&str> {
        self.get("Action")
    }

    /// The `Version` parameter: the API version that the client speaks.
    pub fn version(&self) -> Option<&str> {
        self.get("Version")
    }

    /// What the request asks for: all parameters, sorted by name, but those of the protocol and of authentication. Equal
    /// for two requests if and only if they ask for the same in the same words.
    pub fn content(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.entries.iter().filter(|entry| !is_envelope(&entry.name));
        entries.map(|entry| (entry.name.as_str(), entry.value.as_str()))
    }

    /// Reads a request shape and refuses parameters that no member took, as EC2 does.
    pub fn read_strict<T: Structure>(&self) -> Result<T, DecodeError> {
        let request = T::read_members(self.root())?;
        match self.entries.iter().find(|entry| !entry.taken.load(Ordering::Relaxed) && !is_envelope(&entry.name)) {
            Some(entry) => Err(DecodeError::Unknown { name: entry.name.clone() }),
            None => Ok(request),
        }
    }

    /// Reads a request shape and ignores other parameters, as IAM and STS do.
    pub fn read_lenient<T: Structure>(&self) -> Result<T, DecodeError> {
        T::read_members(self.root())
    }

    fn root(&self) -> Node<'_> {
        Node { entry: None, below: &self.entries, prefix: 0 }
    }
}

/// Parameters that belong to the protocol and to authentication, not to the action.
fn is_envelope(name: &str) -> bool {
    let amz = name.as_bytes().get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"X-Amz-"));
    amz || name == "Action" || name == "Version"
}

fn malformed(detail: impl Into<String>) -> DecodeError {
    DecodeError::Malformed { detail: detail.into() }
}

fn unescape(text: &[u8]) -> Result<String, DecodeError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = tail else { return Err(malformed("incomplete percent escape")) };
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                    return Err(malformed("a percent escape is not hexadecimal"));
                };
                out.push(high << 4 | low);
                rest = after;
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out).map_err(|_| malformed("text is not UTF-8"))
}

/// One place in the parameters: the entry with that very name, if any, and all entries whose names continue it.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    entry: Option<&'a Entry>,
    below: &'a [Entry],
    /// Bytes of every name in `below` that lead here, the last dot included.
    prefix: usize,
}

impl<'a> Node<'a> {
    fn member(self, name: &str) -> Self {
        let name = name.as_bytes();
        let tail = &self.below[self.below.partition_point(|entry| entry.rest(self.prefix) < name)..];
        let entry = tail.first().filter(|entry| entry.rest(self.prefix) == name);
        let from = tail.partition_point(|entry| sorts_before(entry.rest(self.prefix), name, b'.'));
        let to = tail.partition_point(|entry| sorts_before(entry.rest(self.prefix), name, b'.' + 1));
        Self { entry, below: &tail[from..to], prefix: self.prefix + name.len() + 1 }
    }

    /// A member that may be absent.
    pub fn optional<T: Value>(self, name: &str) -> Result<Option<T>, DecodeError> {
        T::read(self.member(name))
    }

    /// A member of a request that must be there.
    pub fn required<T: Value>(self, name: &str) -> Result<T, DecodeError> {
        self.optional(name)?.ok_or_else(|| DecodeError::Missing { name: name.to_owned() })
    }

    /// A list whose elements are `name.N`.
    pub fn list<T: Value>(self, name: &str) -> Result<Vec<T>, DecodeError> {
        self.member(name).elements()
    }

    /// As [`Node::list`], where an empty list counts as missing.
    pub fn required_list<T: Value>(self, name: &str) -> Result<Vec<T>, DecodeError> {
        not_empty(self.list(name)?, name)
    }

    /// A list whose elements are `name.member.N`; `name` alone without a value is an empty list.
    pub fn wrapped_list<T: Value>(self, name: &str, member: &str) -> Result<Vec<T>, DecodeError> {
        let node = self.member(name);
        node.member(member).elements()
    }

    /// As [`Node::wrapped_list`], where an empty list counts as missing.
    pub fn required_wrapped_list<T: Value>(self, name: &str, member: &str) -> Result<Vec<T>, DecodeError> {
        not_empty(self.wrapped_list(name, member)?, name)
    }

    fn elements<T: Value>(self) -> Result<Vec<T>, DecodeError> {
        let mut indices: Vec<(u32, &str)> = Vec::new();
        for entry in self.below {
            let rest = &entry.name[self.prefix..];
            let segment = rest.split_once('.').map_or(rest, |(segment, _)| segment);
            // Only names like "1-x" sort between "1" and "1.x": an index that comes again was also the last one.
            if indices.last().is_some_and(|(_, last)| *last == segment) {
                continue;
            }
            let digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
            if !digits || segment.len() > MAX_INDEX_DIGITS {
                continue; // nobody takes it, so it ends as an unknown parameter
            }
            if let Ok(index) = segment.parse() {
                indices.push((index, segment));
            }
        }
        indices.sort_unstable();
        if let Some(pair) = indices.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            // "1" and "01" name the same element twice.
            let path = self.below.first().map_or("", |entry| &entry.name[..self.prefix]);
            return Err(DecodeError::Duplicate { name: format!("{path}{}", pair[1].1) });
        }
        let mut elements = Vec::with_capacity(indices.len());
        for (_, segment) in indices {
            elements.extend(T::read(self.member(segment))?);
        }
        Ok(elements)
    }
}

/// Whether `rest` sorts before `name` followed by the byte `last`.
fn sorts_before(rest: &[u8], name: &[u8], last: u8) -> bool {
    match rest.split_at_checked(name.len()) {
        Some((head, after)) if head == name => after < &[last][..],
        Some((head, _)) => head < name,
        None => rest < name,
    }
}

fn not_empty<T>(list: Vec<T>, name: &str) -> Result<Vec<T>, DecodeError> {
    if list.is_empty() { Err(DecodeError::Missing { name: name.to_owned() }) } else { Ok(list) }
}

/// A type that a parameter, or the parameters below a name, can be read as. `None`: it is not there.
pub trait Value: Sized {
    fn read(node: Node<'_>) -> Result<Option<Self>, DecodeError>;
}

/// A shape with named members; generated.
pub trait Structure: Sized {
    fn read_members(node: Node<'_>) -> Result<Self, DecodeError>;
}

impl<T: Structure> Value for T {
    fn read(node: Node<'_>) -> Result<Option<Self>, DecodeError> {
        if node.below.is_empty() { Ok(None) } else { T::read_members(node).map(Some) }
    }
}

macro_rules! scalar {
    ($($type:ty, $entry:ident => $read:expr;)*) => {$(
        impl Value for $type {
            fn read(node: Node<'_>) -> Result<Option<Self>, DecodeError> {
                let Some($entry) = node.entry else { return Ok(None) };
                $read.map(Some)
            }
        }
    )*};
}

scalar! {
    String, entry => Ok(entry.take().to_owned());
    bool, entry => match entry.take() {
        text if text.eq_ignore_ascii_case("true") => Ok(true),
        text if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(entry.invalid("true or false")),
    };
    i32, entry => entry.take().parse().map_err(|_| entry.invalid("an integer"));
    i64, entry => entry.take().parse().map_err(|_| entry.invalid("an integer"));
    f64, entry => match entry.take().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(entry.invalid("a number")),
    };
    Timestamp, entry => Timestamp::parse_rfc3339(entry.take()).ok_or_else(|| entry.invalid("a time as in 2026-11-24T05:00:00Z"));
    Vec<u8>, entry => BASE64.decode(entry.take()).map_err(|_| entry.invalid_secret("base64"));
}
