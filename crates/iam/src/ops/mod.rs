//! Commands over one transaction. They commit nothing, do no I/O and ask no clock.

mod account;
mod alias;
mod boundary;
mod group;
mod keys;
mod login;
mod mfa;
mod oidc;
mod policy;
mod resource;
mod role;
mod tags;
mod user;
mod versions;

pub use account::{NewAccount, account, create_account, list_accounts};
pub use alias::{delete_account_alias, set_account_alias};
pub use boundary::{remove_boundary, set_boundary};
pub use group::{add_user_to_group, create_group, delete_group, group_members, remove_user_from_group, update_group};
pub use keys::{KeyOwner, create_access_key, delete_access_key, list_access_keys, set_access_key_active};
pub use login::{
    check_password, create_login_profile, delete_login_profile, delete_password_policy, find_login_profile,
    find_password_policy, password_policy, set_password_policy, update_login_profile,
};
pub use mfa::{
    check_mfa_code, create_mfa_device, deactivate_mfa_device, delete_mfa_device, enable_mfa_device, find_mfa_device,
    mfa_devices_of, resync_mfa_device, use_mfa_code,
};
pub use oidc::{
    NewProvider, add_client_id, create_oidc_provider, delete_oidc_provider, find_oidc_provider, issuer_keys,
    list_issuers, provider_name, remove_client_id, remove_issuer_keys, set_issuer_keys, set_thumbprints,
};
pub use policy::{
    AttachablePolicy, Holder, attach_policy, create_policy, delete_inline_policy, delete_policy, detach_policy,
    document_hash, find_policy, policy_by_id, put_inline_policy, read_document, unknown_inline,
};
pub use resource::{PolicyScope, find_principal, is_public, key_policy, resource_policy};
pub use role::{
    NewRole, add_role_to_profile, create_instance_profile, create_role, delete_instance_profile, delete_role,
    profile_for_ec2, profiles_of_role, remove_role_from_profile, role_of_profile, set_trust_policy, update_role,
};
pub use tags::{tag, untag};
pub use user::{create_user, delete_user, groups_of, update_user};
pub use versions::{create_version, delete_version, find_version, own_policy, set_default_version, version_number};

use crate::model::PrincipalTenant;
use crate::names::{check_name, check_path};
use terroir_resources::Tags;
use terroir_types::Error;

/// What a request says about something new: `name`, `path` (none: `/`), `description`, `tags`.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub name: &'a str,
    pub path: Option<&'a str>,
    pub description: Option<&'a str>,
    pub tags: &'a Tags,
}

impl About<'_> {
    /// Errors: `ValidationError`, `InvalidInput`, `LimitExceeded`.
    fn checked(self, member: &str, max_name: usize) -> Result<PrincipalTenant, Error> {
        check_name(self.name, member, max_name)?;
        let path = self.path.unwrap_or("/");
        check_path(path, "path")?;
        check_description(self.description.unwrap_or_default())?;
        check_tags(self.tags)?;
        Ok(PrincipalTenant {
            name: self.name.to_owned(),
            path: path.to_owned(),
            description: self.description.map(str::to_owned),
            tags: self.tags.clone(),
            grants: crate::model::Grants::default(),
        })
    }
}

/// Errors: `ValidationError`.
fn check_description(text: &str) -> Result<(), Error> {
    if text.chars().count() <= 1000 {
        return Ok(());
    }
    let message = "1 validation error detected: Value at 'description' failed to satisfy constraint: Member must have length less than or equal to 1000";
    Err(Error::invalid("ValidationError", message))
}

/// The registry's rules for tags, under IAM's codes.
fn check_tags(tags: &Tags) -> Result<(), Error> {
    terroir_resources::validate_tags(tags).map_err(|error| match error.code() {
        "TagLimitExceeded" => crate::names::exceeds("TagsPerResource", 50),
        _ => Error::invalid("InvalidInput", error.message()),
    })
}

fn delete_conflict(what: &str) -> Error {
    Error::conflict("DeleteConflict", format!("Cannot delete entity, {what}"))
}
