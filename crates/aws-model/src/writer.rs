//! Writing response bodies, as XML or as JSON.
//!
//! XML is written by hand because the escaping of XML libraries leaves two things to the caller that parsers trip over: a
//! carriage return must be a character reference to survive, and most control characters have no form in XML 1.0 at all.

use crate::{Encode, Protocol};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use terroir_types::Timestamp;

/// Appends members to a response body. Text is escaped; characters that XML 1.0 cannot carry become U+FFFD there.
#[derive(Debug)]
pub struct Writer {
    out: String,
    protocol: Protocol,
    /// JSON objects that are open.
    depth: usize,
    /// Whether the next member of a JSON object is its first.
    first: bool,
}

impl Writer {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let out = match protocol {
            Protocol::Ec2 | Protocol::Query => String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"),
            Protocol::Json { .. } => String::new(),
        };
        Self { out, protocol, depth: 0, first: true }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    const fn is_json(&self) -> bool {
        matches!(self.protocol, Protocol::Json { .. })
    }

    /// Raw markup; names and namespaces only.
    pub(crate) fn markup(&mut self, parts: &[&str]) {
        self.out.extend(parts.iter().copied());
    }

    /// A member of XML, or of a JSON object.
    pub(crate) fn element<T: Element + ?Sized>(&mut self, name: &str, value: &T) {
        if self.is_json() {
            self.name(name);
            value.write(self);
        } else {
            self.markup(&["<", name, ">"]);
            value.write(self);
            self.markup(&["</", name, ">"]);
        }
    }

    /// A member that is left out when it is `None`.
    pub fn member<T: Element>(&mut self, name: &str, value: &Option<T>) {
        if let Some(value) = value {
            self.element(name, value);
        }
    }

    /// A list; written also when it is empty, so that clients find an empty list and not nothing. In JSON only the lists
    /// of the answer itself are, as at AWS.
    pub fn list<T: Element>(&mut self, name: &str, item: &str, values: &[T]) {
        if !self.is_json() {
            self.markup(&["<", name, ">"]);
            for value in values {
                self.element(item, value);
            }
            self.markup(&["</", name, ">"]);
        } else if !values.is_empty() || self.depth == 1 {
            self.name(name);
            self.out.push('[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    self.out.push(',');
                }
                value.write(self);
            }
            self.out.push(']');
        }
    }

    /// A list that AWS leaves out when it is empty, such as the tags of a resource.
    pub fn optional_list<T: Element>(&mut self, name: &str, item: &str, values: &[T]) {
        if !values.is_empty() || self.is_json() {
            self.list(name, item, values);
        }
    }

    /// A JSON object with what `members` writes.
    pub(crate) fn object(&mut self, members: impl FnOnce(&mut Self)) {
        let first = std::mem::replace(&mut self.first, true);
        self.depth += 1;
        self.out.push('{');
        members(self);
        self.out.push('}');
        self.depth -= 1;
        self.first = first;
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        self.json_text(name);
        self.out.push(':');
    }

    fn text(&mut self, text: &str) {
        if self.is_json() {
            return self.json_text(text);
        }
        for c in text.chars() {
            match c {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '\r' => self.out.push_str("&#13;"),
                '\t' | '\n' => self.out.push(c),
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.out.push('\u{fffd}'),
                _ => self.out.push(c),
            }
        }
    }

    fn json_text(&mut self, text: &str) {
        // A text always has a JSON form.
        self.out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }

    fn number(&mut self, value: f64) {
        if self.is_json() {
            // JSON has no form for infinities; null is what its libraries write for them.
            self.out.push_str(&serde_json::to_string(&value).unwrap_or_default());
        } else {
            self.display(value);
        }
    }

    /// JSON: seconds since 1970 with their thousandths.
    fn seconds(&mut self, millis: i64) {
        let sign = if millis < 0 { "-" } else { "" };
        let (secs, rest) = (millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000);
        if rest == 0 {
            self.display(format_args!("{sign}{secs}"));
        } else {
            self.display(format_args!("{sign}{secs}.{rest:03}"));
        }
    }
}

/// What can stand between an element's tags, or as a JSON value.
pub trait Element {
    fn write(&self, w: &mut Writer);
}

impl<T: Encode> Element for T {
    fn write(&self, w: &mut Writer) {
        if w.is_json() {
            w.object(|w| self.encode(w));
        } else {
            self.encode(w);
        }
    }
}

impl<T: Element> Element for BTreeMap<String, T> {
    fn write(&self, w: &mut Writer) {
        if w.is_json() {
            w.object(|w| self.iter().for_each(|(key, value)| w.element(key, value)));
            return;
        }
        for (key, value) in self {
            w.markup(&["<entry>"]);
            w.element("key", key);
            w.element("value", value);
            w.markup(&["</entry>"]);
        }
    }
}

macro_rules! element {
    ($($type:ty: |$value:ident, $w:ident| $write:expr;)*) => {$(
        impl Element for $type {
            fn write(&self, $w: &mut Writer) {
                let $value = self;
                $write
            }
        }
    )*};
}

element! {
    str: |value, w| w.text(value);
    String: |value, w| w.text(value);
    bool: |value, w| w.display(value);
    i32: |value, w| w.display(value);
    i64: |value, w| w.display(value);
    f64: |value, w| w.number(*value);
    Vec<u8>: |value, w| {
        let quote = if w.is_json() { "\"" } else { "" };
        w.out.push_str(quote);
        STANDARD.encode_string(value, &mut w.out);
        w.out.push_str(quote);
    };
    Timestamp: |value, w| match w.protocol {
        Protocol::Ec2 => w.out.push_str(&value.to_rfc3339()),
        Protocol::Query => w.out.push_str(&value.to_rfc3339_seconds()),
        Protocol::Json { .. } => w.seconds(value.millis()),
    };
}
