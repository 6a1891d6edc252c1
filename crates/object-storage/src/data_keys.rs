//! The door to a key service: data keys that only it can open again.

pub use terroir_action::{DataKey, DataKeys, KeyUse};
