//! Commands over one transaction. They commit nothing, do no I/O and ask no clock.

mod alias;
mod cipher;
mod grant;
mod key;
mod rotation;
mod store;
mod tags;

pub use alias::{create_alias, delete_alias, update_alias};
pub use cipher::{MAX_PLAINTEXT_BYTES, check_context, decrypt, encrypt, material_id};
pub use grant::{
    GRANT_OPERATIONS, NewGrant, create_grant, find_grant, grant_token, grantee_index, open_token, remove_grant,
    retirable_grants,
};
pub use key::{
    NewKey, cancel_deletion, check_not_deleted, check_usable, create_key, default_policy, destroy, ensure_managed,
    find_key, put_key, schedule_deletion, set_description, set_enabled, set_policy,
};
pub use rotation::{MAX_ON_DEMAND, disable_rotation, enable_rotation, rotate, rotate_on_demand};
pub use store::{
    check_external_id, check_new_store, create_store, delete_store, find_store, proxy_of, set_connection, update_store,
};
pub use tags::{tag, untag};

use terroir_types::Error;

/// AWS's words for a member that is out of its bounds. The value is not repeated.
pub(crate) fn constraint(member: &str, must: &str) -> Error {
    let message =
        format!("1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must {must}");
    Error::invalid("ValidationException", message)
}

pub(crate) fn invalid_state(message: impl Into<String>) -> Error {
    Error::conflict("KMSInvalidStateException", message)
}
