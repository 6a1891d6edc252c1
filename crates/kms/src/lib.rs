//! The key service: keys that never leave it, and the data keys that they protect.
//!
//! ```text
//!            CreateKey                ScheduleKeyDeletion             its day has come
//! (nothing) ──────────▶ Enabled ◀──▶ Disabled ──────────▶ PendingDeletion ──────────▶ (nothing)
//!                          └──────────────────────────────▶    │
//!                                      Disabled ◀──────────────┘ CancelKeyDeletion
//! ```
//! [`ops`] change records in one transaction; [`KeyService`] is the one door through which other parts of the cloud ask
//! for data keys ([`terroir_action::DataKeys`]); [`worker`] does what falls due; [`aws`] is the API itself. How a
//! ciphertext looks is in [`ciphertext`].
//!
//! Rules:
//! - Material leaves a record only into a cipher, and is wiped from memory after it.
//! - Nobody may use a key whom its policy, or a grant on it, does not let in: not even its account's root.
//! - An id of another account is refused in the same words whether there is such a key or not.

mod access;
pub mod aws;
pub mod ciphertext;
pub mod external;
pub mod model;
pub mod ops;
mod reference;
mod service;
pub mod worker;

pub use aws::register;
pub use service::KeyService;
