//! The words every other crate shares: identifiers, ARNs, time, randomness, secrets and the one error type.
//!
//! Nothing here does I/O or knows about async. Control plane and host share only this crate, `policy` and `agent-api`.

mod account;
mod arn;
mod error;
mod id;
mod random;
mod secret;
mod time;

pub use account::AccountId;
pub use arn::Arn;
pub use error::{Error, ErrorClass, Result};
pub use id::*;
pub use random::{IdSource, OsRandom, SeededRandom};
pub use secret::Secret;
pub use time::{Clock, ManualClock, SystemClock, Timestamp};

/// A number that only the single writer of a record raises (DESIGN §2, spec / status).
pub type Generation = u64;
/// Number of one holder's turn in an assignment; a report from an older epoch is ignored.
pub type Epoch = u64;
/// Number of one life of a guest; rises on every start.
pub type RunId = u64;
