//! Sovereignty policy against the attributes of an operator and its site: allowed, or the rule that forbids (DESIGN §2).
//!
//! Pure: control plane, host and offline verifier evaluate the same function, so that a host can refuse an order that
//! its own attributes contradict.
//!
//! - What is not stated fulfils nothing: a rule about an attribute forbids a place that does not state it, whether the
//!   rule allows or denies. A blank never opens a door.
//! - A deny stands over an allow.
//! - Policies combine by [`Policy::and`], which only ever takes places away.

mod attributes;
mod decide;
mod document;
mod statement;
mod territory;

pub use attributes::{Operator, Place, Site};
pub use decide::{Attribute, Forbidden, decide, separate};
pub use document::{Allowance, KeyCustody, MAX_ENTRIES, MOST_SEPARATE, Policy, Problem, Separation};
pub use statement::{
    HostStatement, OperatorStatement, SiteStatement, Statement, StatementError, is_operator_id, open, peek, sign,
};
pub use territory::{collapse, is_country, is_territory};
