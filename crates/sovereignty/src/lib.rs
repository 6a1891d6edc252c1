//! Who runs what where, and what accounts demand of that: operators, sites and hosts as their operators signed them, and
//! sovereignty policies. The stateful half of `policy`.
//!
//! - What a record says was signed by the operator that it is about, with the key that is kept from its first record on.
//! - A newer statement has a higher generation; an older one never comes back.
//! - A policy of a resource adds to its account's: both hold.

pub mod model;
pub mod ops;
pub mod receipt;
#[cfg(test)]
mod tests;
