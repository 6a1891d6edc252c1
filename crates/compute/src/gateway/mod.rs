//! What agents dial: the five crossings over the store.
//!
//! A host's spec is not stored. For each host that pulled, memory holds the hash of every section as it was sent last;
//! a changed record marks the sections that depend on it, and the next pull renders those again and sends what differs.
//! Now and then everything is looked at again, so that nothing depends on a bell having been heard. After a restart a
//! host's cursor is unknown, and it gets its whole spec.

mod blobs;
mod broker;
mod host_view;
mod service;

pub use blobs::{BlobStore, RoleCredentialSource};
pub use broker::{HostQueries, QueryBroker};
pub use service::{GatewayOptions, HostGateway, crossing};
