//! Commands on operators, sites, hosts' places and policies. No commit, no I/O, no clock.

mod place;
mod policies;
mod receipts;
mod records;
mod store;

pub use place::{HostPlace, zone_place};
pub use policies::{
    MAX_NAMED, POLICY_TAG, effective_policy, policies, policy_now, remove_named_policy, set_account_policy,
    set_named_policy,
};
pub use receipts::receipt;
pub use records::{
    OwnSite, ensure_own, find_operator, find_site, list_operators, list_sites, put_host, put_operator, put_site,
    remove_host, sign_host, sign_operator, sign_site, zone_id,
};
pub use store::{check_foreign_store, check_store, note_store, set_store_site};
