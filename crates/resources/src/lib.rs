//! One registry row per resource: id → kind, account, tags, policy, deletion time. It serves tags, `aws:ResourceTag`
//! conditions, and later receipts and export. Beside it live the guard records that quotas are counted in.
//!
//! Domain crates register what they create and unregister what they delete, in the same transaction. Nothing here knows
//! what a resource is beyond its kind, for which EC2's names of taggable types are used (`instance`, `vpc`, ...).

mod guard;
mod registry;
mod tags;

pub use guard::{Count, add_to_count, count};
pub use registry::{Resource, ResourceTenant, find, key, list, register, remove_tags, set_tags, tags, unregister};
pub use tags::{MAX_TAGS, Tags, validate_tags};

#[cfg(test)]
mod tests;
