//! Policy documents and what they decide. Pure: no store, no clock, no I/O.
//!
//! A document is parsed and checked once ([`Document::parse`]); a decision is then a walk over its statements:
//! an explicit deny anywhere wins, else an allow, else nothing is allowed. [`judge`] is the whole decision, over the
//! policies of the caller and of the resource. The grammar and the meaning of each operator follow AWS's "IAM JSON policy
//! elements reference" and "Policy evaluation logic".

mod condition;
mod context_keys;
mod decide;
mod document;
mod json;
mod pattern;
mod public;

#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

pub use context_keys::{Position, context_keys, statement_spans};
pub use decide::{
    Decision, Layer, Opinion, Place, Policies, Principal, Question, Reach, Reason, decide, decide_resource, judge,
    matching,
};
pub use document::{Document, DocumentKind, Malformed, NamedPrincipal};

use std::collections::BTreeMap;

/// The condition keys of one request, each with its values. Names are compared without regard to case.
#[derive(Debug, Clone, Default)]
pub struct Keys(BTreeMap<String, Vec<String>>);

impl Keys {
    /// Replaces whatever the key held.
    pub fn set(&mut self, name: &str, values: impl IntoIterator<Item = impl Into<String>>) {
        self.0.insert(name.to_ascii_lowercase(), values.into_iter().map(Into::into).collect());
    }

    pub fn set_one(&mut self, name: &str, value: impl Into<String>) {
        self.set(name, [value.into()]);
    }

    /// The values of a key; `None` if the request does not have it.
    pub fn get(&self, name: &str) -> Option<&[String]> {
        self.0.get(&name.to_ascii_lowercase()).map(Vec::as_slice)
    }

    /// Every key, in lower case, with its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// As [`Keys::get`] for a name that is in lower case already.
    fn get_lower(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }
}
