//! Buckets and objects: S3, served through `s3s`, over a backend that keeps the bytes.
//!
//! A bucket is a record of the state store ([`model`], [`ops`]); its objects are the [`backend`]'s, which knows it only
//! by number.

pub mod access_log;
pub mod acl;
pub mod backend;
pub mod budget;
pub mod checksum;
pub mod cors;
pub mod data_keys;
pub mod delivery;
pub mod encryption;
pub mod engine;
pub mod foreign;
pub mod guard;
pub mod lifecycle;
pub mod lock;
mod md5_lanes;
pub mod model;
pub mod notification;
pub mod ops;
pub mod outbound;
pub mod post_policy;
pub mod quota;
pub mod replication;
pub mod settings;
pub mod target;
pub mod versioning;
pub mod website;

mod aws;

pub use aws::{S3Front, S3Options, S3Outcome, S3RequestId, s3_service};
