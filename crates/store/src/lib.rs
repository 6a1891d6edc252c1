//! Transactional state of a cell: typed records under ordered keys, on an engine that can be exchanged.
//!
//! This is the only crate that names an engine. What every engine owes is in [`engine`]; SQLite is the embedded one, etcd
//! the distributed one.
//! Reads are served from an immutable in-memory view that one watch keeps current, so a transaction reads without
//! waiting, and its commit compares what it read (optimistic concurrency). Transactions that contend for the same
//! records run in turn and share a commit.
//!
//! Rules:
//! - Success means durable. A commit is answered after its fsync.
//! - A transaction has at most 2,048 operations and 2 MiB, on every engine.
//! - Keys hold opaque ids only; tenant parts of records are sealed under their account's metadata key.
//! - Kinds that begin with `~` stay outside the view.

pub mod backup;
pub mod chain;
pub mod copy;
pub mod engine;
mod error;
pub mod etcd;
#[cfg(test)]
mod interleaving;
mod key;
mod keyring;
mod lane;
mod options;
mod record;
pub mod ship;
pub mod sqlite;
mod store;
mod txn;
mod view;

pub use engine::{EventKind, LeaseId, OutboxEntry, Revision, StoreStats, WatchBatch, WatchEvent};
pub use error::StoreError;
pub use key::{Key, KeyRange};
pub use keyring::{KeyRing, LocalKeyRing};
pub use options::{CLUSTER_VERSION, Durability, MonotonicClock, Options, OutboxLimit, Retention};
#[doc(hidden)]
pub use record::is_kind;
pub use record::{Record, StoredForm, decode_previous};
pub use store::{ChangeFeed, Store, Watch};
pub use txn::Txn;
pub use view::Changes;

#[doc(hidden)]
pub use terroir_types::AccountId;
