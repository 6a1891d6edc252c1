//! S3 as a client sees it, against the service in this process; and the backend below it.

mod acls;
mod authentication;
mod bodies;
mod checksums;
mod configuration;
mod cors;
mod crash;
mod disk;
mod forms;
mod harness;
mod hook;
mod integrity;
mod lifecycle;
mod listing;
mod lock;
mod migration;
mod multipart;
mod notifications;
mod objects;
mod policies;
mod quotas;
mod races;
mod replication;
mod version_model;
mod versions;
mod websites;
