//! The door between the two halves: what the control plane asks of a host, what the host reports, and the five
//! crossings, all dialled by the agent (DESIGN §3).
//!
//! Sections are keyed and carry everything that one object needs, so that a change travels alone. Deleting is always
//! said (`desired`), never concluded from absence: an agent does not stop a guest or remove a disk because a spec
//! does not name it.

mod control_plane;
mod guest;
pub mod http;
mod membership;
mod spec;
mod status;

pub use control_plane::*;
pub use guest::*;
pub use membership::*;
pub use spec::*;
pub use status::*;

/// Version of this protocol; a server serves agents of this and the previous one.
pub const PROTOCOL_VERSION: u32 = 1;
