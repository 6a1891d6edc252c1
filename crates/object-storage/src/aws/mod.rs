//! The S3 API.

mod absent;
mod access;
mod account;
mod acl;
mod address;
mod body;
mod bucket;
mod bucket_encryption;
mod chunked;
mod configuration;
mod convert;
mod copy;
mod cors;
mod delete;
mod encryption;
mod error;
mod form;
mod front;
mod lifecycle;
mod listing;
mod lock;
mod logging;
mod multipart;
mod notification;
mod object;
mod permissions;
mod policy;
mod post;
mod quota;
mod replication;
mod service;
mod tagging;
mod versions;
mod website;

pub(crate) use service::ApiParts;

pub use front::{S3Front, S3Options, S3Outcome, S3RequestId, s3_service};
