//! The audit log: every call on every service, in an append-only, hash-chained log.
//!
//! ```text
//! a change ──▶ outbox, in its own transaction ──┐
//!                                               ├──▶ AuditLog::ship ──▶ audit-NNNNNNNN.jsonl ──▶ head in the state
//! all else ──▶ Queue, bounded ──────────────────┘    (chained, synced)
//! ```
//! A change of the control plane and its record are one transaction: neither is without the other. What changes nothing
//! there (reads, refusals) and what S3 does waits in memory for at most about a second; a process that is killed takes
//! that with it. What does not fit into the queue is dropped and counted, and the log itself says how many are missing.
//!
//! Records are events in CloudTrail's form ([`Event`]). Nothing in them is a secret: members that the service's model
//! calls sensitive are left out by name.

mod event;
mod log;
mod parameters;
mod queue;

pub use event::{Event, Outcome};
pub use log::{AuditLog, FORMAT, head_of, verify};
pub use parameters::{MAX_PARAMETER_BYTES, parameters};
pub use queue::{Counts, Queue};

/// The outbox stream that records of changes wait in.
pub const STREAM: &str = "audit";
