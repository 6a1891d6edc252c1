//! S3 as a client sees it, against the service in this process; and the backend below it.

mod acls;
mod authentication;
mod bodies;
mod checksums;
mod configuration;
mod cors;
mod crash;
mod disk;
mod encryption;
mod forms;
mod harness;
mod integrity;
mod lifecycle;
mod listing;
mod lock;
mod migration;
mod multipart;
mod objects;
mod policies;
mod quotas;
mod races;
mod version_model;
mod versions;
mod websites;
