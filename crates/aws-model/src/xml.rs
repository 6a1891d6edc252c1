//! Writing response bodies.
//!
//! Written by hand because the escaping of XML libraries leaves two things to the caller that parsers trip over: a
//! carriage return must be a character reference to survive, and most control characters have no form in XML 1.0 at all.

use crate::{Encode, Protocol};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use terroir_types::Timestamp;

/// Appends elements to a response body. Text is escaped; characters that XML 1.0 cannot carry become U+FFFD.
#[derive(Debug)]
pub struct XmlWriter {
    out: String,
    protocol: Protocol,
}

impl XmlWriter {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { out: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), protocol }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Raw markup; names and namespaces only.
    pub(crate) fn markup(&mut self, parts: &[&str]) {
        self.out.extend(parts.iter().copied());
    }

    pub(crate) fn element<T: Element + ?Sized>(&mut self, name: &str, value: &T) {
        self.markup(&["<", name, ">"]);
        value.write(self);
        self.markup(&["</", name, ">"]);
    }

    /// A member that is left out when it is `None`.
    pub fn member<T: Element>(&mut self, name: &str, value: &Option<T>) {
        if let Some(value) = value {
            self.element(name, value);
        }
    }

    /// A list; written also when it is empty, so that clients find an empty list and not nothing.
    pub fn list<T: Element>(&mut self, name: &str, item: &str, values: &[T]) {
        self.markup(&["<", name, ">"]);
        for value in values {
            self.element(item, value);
        }
        self.markup(&["</", name, ">"]);
    }

    /// A list that AWS leaves out when it is empty, such as the tags of a resource.
    pub fn optional_list<T: Element>(&mut self, name: &str, item: &str, values: &[T]) {
        if !values.is_empty() {
            self.list(name, item, values);
        }
    }

    fn text(&mut self, text: &str) {
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

    fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }
}

/// What can stand between an element's tags.
pub trait Element {
    fn write(&self, w: &mut XmlWriter);
}

impl<T: Encode> Element for T {
    fn write(&self, w: &mut XmlWriter) {
        self.encode(w);
    }
}

impl<T: Element> Element for BTreeMap<String, T> {
    fn write(&self, w: &mut XmlWriter) {
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
            fn write(&self, $w: &mut XmlWriter) {
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
    f64: |value, w| w.display(value);
    Vec<u8>: |value, w| STANDARD.encode_string(value, &mut w.out);
    Timestamp: |value, w| match w.protocol {
        Protocol::Ec2 => w.out.push_str(&value.to_rfc3339()),
        Protocol::Query => w.out.push_str(&value.to_rfc3339_seconds()),
    };
}
