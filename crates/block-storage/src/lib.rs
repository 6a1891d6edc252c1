//! Volumes, snapshots and images: what they are, the commands that change them, and what a host should do about them.
//!
//! A volume belongs to one host and, while attached, to one instance, under an [`Assignment`]: a new holder acts only
//! after the old one's release was reported at that epoch. Snapshots here are the immutable blobs that images boot from.

mod assignment;
pub mod aws;
pub mod controller;
pub mod model;
pub mod ops;

pub use assignment::{Assignment, Hold, NotFree};

use terroir_types::AccountId;

/// Owner of the images that are there for everybody; shown as `terroir`.
pub const SYSTEM_ACCOUNT: AccountId = AccountId::NOBODY;

/// Alias of [`SYSTEM_ACCOUNT`] in `Owners` and `imageOwnerAlias`.
pub const SYSTEM_ALIAS: &str = "terroir";
