//! What an API action is: a typed request, what must be allowed for it, and a command over one transaction.
//!
//! The API server knows actions only through [`Registry`]; domain crates know HTTP not at all. An action that does not
//! say which permissions it needs on which resources does not compile: [`Action::targets`] has no default.

mod action;
mod context;
mod data_keys;
mod filters;
pub mod general;
mod paging;
mod registry;
mod target;

pub use action::{Access, Action, LiveAction, LiveContext, Request, Response};
pub use context::{Caller, CallerKind, Context, CurrentRegion, Region, Session, Zone};
pub use data_keys::{DataKey, DataKeys, KeyUse};
pub use filters::{Filters, glob_matches};
pub use paging::{Bounds, paginate};
pub use registry::{Call, Entry, Registry, Reply};
pub use target::{Grantee, ResourcePolicy, Target};

use terroir_types::Error;

/// The value of a parameter that the request must have.
///
/// Errors: `MissingParameter`, as AWS words it.
pub fn required<'a>(value: &'a Option<String>, name: &str) -> Result<&'a str, Error> {
    value
        .as_deref()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Error::invalid("MissingParameter", format!("The request must contain the parameter {name}")))
}
