//! Request parameters, and how typed values are read out of them.
//!
//! JSON protocols send one object. In the forms of the `ec2` and `query` protocols a name such as `Filter.1.Value.2` is a path. The parameters are kept as one list sorted by name, so that everything
//! below a path is a contiguous range: no tree is built, and memory stays linear in the request whatever its names say.
//! Each entry remembers whether a member took it; what nobody took is an unknown parameter.

use crate::DecodeError;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value as Json;
use std::collections::BTreeMap;
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

/// The parameters of one request: from its query string and its form body together, or from its JSON body.
#[derive(Debug)]
pub struct Params(Source);

#[derive(Debug)]
enum Source {
    Form(Vec<Entry>),
    Object { action: String, members: JsonBody },
}

/// Values may be secrets.
struct JsonBody(Json);

impl std::fmt::Debug for JsonBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
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
            None => Ok(Self(Source::Form(entries))),
        }
    }

    /// Reads a JSON object. `action`: what the request's `X-Amz-Target` names.
    ///
    /// # Errors
    /// `Malformed` for what is no JSON object, or is nested deeper than 128 levels.
    pub fn parse_json(action: &str, body: &[u8]) -> Result<Self, DecodeError> {
        match serde_json::from_slice(body) {
            Ok(members @ Json::Object(_)) => {
                Ok(Self(Source::Object { action: action.to_owned(), members: JsonBody(members) }))
            }
            Ok(_) => Err(malformed("the body is not a JSON object")),
            // The parser's own words would repeat parts of the body.
            Err(error) => {
                Err(malformed(format!("the body is not JSON, at line {} column {}", error.line(), error.column())))
            }
        }
    }

    /// The parameter of a form with exactly this name. Looking does not count as taking.
    pub fn get(&self, name: &str) -> Option<&str> {
        match &self.0 {
            Source::Form(entries) => FormNode::root(entries).member(name).entry.map(|entry| entry.value.as_str()),
            Source::Object { .. } => None,
        }
    }

    /// The `Action` parameter, or the action of a JSON request.
    pub fn action(&self) -> Option<&str> {
        match &self.0 {
            Source::Form(_) => self.get("Action"),
            Source::Object { action, .. } => Some(action),
        }
    }

    /// The `Version` parameter: the API version that the client speaks.
    pub fn version(&self) -> Option<&str> {
        self.get("Version")
    }

    /// What the request asks for: all parameters, sorted by name, but those of the protocol and of authentication. Equal
    /// for two requests if and only if they ask for the same in the same words.
    pub fn content(&self) -> Vec<(&str, std::borrow::Cow<'_, str>)> {
        match &self.0 {
            Source::Form(entries) => {
                let entries = entries.iter().filter(|entry| !is_envelope(&entry.name));
                entries.map(|entry| (entry.name.as_str(), entry.value.as_str().into())).collect()
            }
            // Members in order of their names, without the white space between them.
            Source::Object { members, .. } => vec![("", members.0.to_string().into())],
        }
    }

    /// Reads a request shape and refuses parameters that no member took, as EC2 does.
    pub fn read_strict<T: Structure>(&self) -> Result<T, DecodeError> {
        let request = T::read_members(self.root())?;
        let Source::Form(entries) = &self.0 else { return Ok(request) };
        match entries.iter().find(|entry| !entry.taken.load(Ordering::Relaxed) && !is_envelope(&entry.name)) {
            Some(entry) => Err(DecodeError::Unknown { name: entry.name.clone() }),
            None => Ok(request),
        }
    }

    /// Reads a request shape and ignores other parameters, as IAM, STS and the services that speak JSON do.
    pub fn read_lenient<T: Structure>(&self) -> Result<T, DecodeError> {
        T::read_members(self.root())
    }

    fn root(&self) -> Node<'_> {
        match &self.0 {
            Source::Form(entries) => Node(Place::Form(FormNode::root(entries))),
            Source::Object { members, .. } => Node(Place::Json { name: "", value: Some(&members.0) }),
        }
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

/// One place in the parameters.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a>(Place<'a>);

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Form(FormNode<'a>),
    Json { name: &'a str, value: Option<&'a Json> },
}

impl<'a> Node<'a> {
    fn member(self, name: &'a str) -> Self {
        match self.0 {
            Place::Form(node) => Self(Place::Form(node.member(name))),
            Place::Json { value, .. } => {
                // Absent and null are the same.
                let value = value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
                Self(Place::Json { name, value })
            }
        }
    }

    /// A member that may be absent.
    pub fn optional<T: Value>(self, name: &'a str) -> Result<Option<T>, DecodeError> {
        T::read(self.member(name))
    }

    /// A member of a request that must be there.
    pub fn required<T: Value>(self, name: &'a str) -> Result<T, DecodeError> {
        self.optional(name)?.ok_or_else(|| DecodeError::Missing { name: name.to_owned() })
    }

    /// A list whose elements are `name.N`.
    pub fn list<T: Value>(self, name: &'a str) -> Result<Vec<T>, DecodeError> {
        self.member(name).elements()
    }

    /// As [`Node::list`], where an empty list counts as missing.
    pub fn required_list<T: Value>(self, name: &'a str) -> Result<Vec<T>, DecodeError> {
        not_empty(self.list(name)?, name)
    }

    /// A list whose elements are `name.member.N`; `name` alone without a value is an empty list.
    pub fn wrapped_list<T: Value>(self, name: &'a str, member: &'a str) -> Result<Vec<T>, DecodeError> {
        self.member(name).member(member).elements()
    }

    /// As [`Node::wrapped_list`], where an empty list counts as missing.
    pub fn required_wrapped_list<T: Value>(self, name: &'a str, member: &'a str) -> Result<Vec<T>, DecodeError> {
        not_empty(self.wrapped_list(name, member)?, name)
    }

    fn elements<T: Value>(self) -> Result<Vec<T>, DecodeError> {
        match self.0 {
            Place::Form(node) => node.elements(),
            Place::Json { value: None, .. } => Ok(Vec::new()),
            Place::Json { name, value: Some(Json::Array(values)) } => {
                let element = |value| {
                    let read = T::read(Self(Place::Json { name, value: Some(value) }))?;
                    read.ok_or_else(|| mismatch(name, "no null"))
                };
                values.iter().map(element).collect()
            }
            Place::Json { name, .. } => Err(mismatch(name, "a list")),
        }
    }
}

/// The error for JSON of another type. The value may be a secret.
fn mismatch(name: &str, expected: &'static str) -> DecodeError {
    DecodeError::Invalid { name: name.to_owned(), value: String::new(), expected }
}

/// One place in a form: the entry with that very name, if any, and all entries whose names continue it.
#[derive(Debug, Clone, Copy)]
struct FormNode<'a> {
    entry: Option<&'a Entry>,
    below: &'a [Entry],
    /// Bytes of every name in `below` that lead here, the last dot included.
    prefix: usize,
}

impl<'a> FormNode<'a> {
    fn root(entries: &'a [Entry]) -> Self {
        Self { entry: None, below: entries, prefix: 0 }
    }

    fn member(self, name: &str) -> Self {
        let name = name.as_bytes();
        let tail = &self.below[self.below.partition_point(|entry| entry.rest(self.prefix) < name)..];
        let entry = tail.first().filter(|entry| entry.rest(self.prefix) == name);
        let from = tail.partition_point(|entry| sorts_before(entry.rest(self.prefix), name, b'.'));
        let to = tail.partition_point(|entry| sorts_before(entry.rest(self.prefix), name, b'.' + 1));
        Self { entry, below: &tail[from..to], prefix: self.prefix + name.len() + 1 }
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
            elements.extend(T::read(Node(Place::Form(self.member(segment))))?);
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
        match node.0 {
            Place::Form(FormNode { below: [], .. }) | Place::Json { value: None, .. } => Ok(None),
            Place::Form(_) | Place::Json { value: Some(Json::Object(_)), .. } => T::read_members(node).map(Some),
            Place::Json { name, .. } => Err(mismatch(name, "a structure")),
        }
    }
}

/// Only JSON has maps; the generator lets none into a form.
impl<T: Value> Value for BTreeMap<String, T> {
    fn read(node: Node<'_>) -> Result<Option<Self>, DecodeError> {
        match node.0 {
            Place::Form(_) | Place::Json { value: None, .. } => Ok(None),
            Place::Json { name, value: Some(Json::Object(entries)) } => {
                let entry = |(key, value): (&String, &_)| {
                    let read = T::read(Node(Place::Json { name, value: Some(value) }))?;
                    Ok((key.clone(), read.ok_or_else(|| mismatch(name, "no null"))?))
                };
                entries.iter().map(entry).collect::<Result<_, _>>().map(Some)
            }
            Place::Json { name, .. } => Err(mismatch(name, "a map")),
        }
    }
}

macro_rules! scalar {
    ($($type:ty: $expected:literal, |$entry:ident| $form:expr, |$json:ident| $read:expr;)*) => {$(
        impl Value for $type {
            fn read(node: Node<'_>) -> Result<Option<Self>, DecodeError> {
                match node.0 {
                    Place::Form(FormNode { entry: None, .. })
                    | Place::Json { value: None | Some(Json::Null), .. } => Ok(None),
                    Place::Form(FormNode { entry: Some($entry), .. }) => $form.map(Some),
                    Place::Json { name, value: Some($json) } => match $read {
                        Some(value) => Ok(Some(value)),
                        None => Err(mismatch(name, $expected)),
                    },
                }
            }
        }
    )*};
}

scalar! {
    String: "text", |entry| Ok(entry.take().to_owned()), |json| json.as_str().map(str::to_owned);
    bool: "true or false", |entry| match entry.take() {
        text if text.eq_ignore_ascii_case("true") => Ok(true),
        text if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(entry.invalid("true or false")),
    }, |json| json.as_bool();
    i32: "an integer", |entry| entry.take().parse().map_err(|_| entry.invalid("an integer")),
        |json| json.as_i64().and_then(|number| number.try_into().ok());
    i64: "an integer", |entry| entry.take().parse().map_err(|_| entry.invalid("an integer")), |json| json.as_i64();
    f64: "a number", |entry| match entry.take().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(entry.invalid("a number")),
    }, |json| json.as_f64();
    Timestamp: "a time in seconds",
        |entry| Timestamp::parse_rfc3339(entry.take()).ok_or_else(|| entry.invalid("a time as in 2026-11-24T05:00:00Z")),
        |json| match json.as_i64() {
            Some(secs) => Some(Timestamp::from_secs(secs)),
            // Times lie within 2^53 milliseconds, which are exact; the cast saturates beyond.
            None => json.as_f64().map(|secs| Timestamp::from_millis((secs * 1000.0).round() as i64)),
        };
    Vec<u8>: "base64", |entry| BASE64.decode(entry.take()).map_err(|_| entry.invalid_secret("base64")),
        |json| json.as_str().and_then(|text| BASE64.decode(text).ok());
}
