//! Receipts: what was placed, moved and erased, where and under whose jurisdiction, in a log that cannot be changed
//! without being noticed.
//!
//! ```text
//! transaction ──outbox──▶ log (tiles on disk) ──▶ checkpoint, signed ──▶ cosigned by witnesses
//!                                     └──▶ receipt of a resource: entries, proofs, checkpoint, statements ──▶ verify
//! ```
//!
//! - An entry is in the outbox with the change that it tells of, in one commit.
//! - The log never signs a checkpoint that does not go on from the one before.
//! - A receipt is checked with nothing but the operators' public keys.

mod entry;
mod file;
mod log;
mod reader;
mod verify;
mod witness;

pub(crate) use entry::sha256_hex;
pub use entry::{Assurance, Entry, Event, Fact, MAX_ENTRY_BYTES, Stay, Where, note, policy_digest};
pub use file::{Consistency, FORMAT, ProvenEntry, Receipt};
pub use log::{LogError, ReceiptLog, STREAM, origin};
pub use reader::ReceiptReader;
pub use verify::{Fault, Report, Trust, verify};
pub use witness::{WitnessError, WitnessFolder};
