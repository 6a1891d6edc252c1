use terroir_action::Registry;
use terroir_aws_model::{Decode, Empty, kms};
use terroir_types::Error;

use super::key::{bypass, check_lockout};
use super::page::page;
use super::{OWN, action, manages, the_key};
use crate::ops;
use crate::reference::not_found;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<GetKeyPolicy>();
    registry.add::<PutKeyPolicy>();
    registry.add::<ListKeyPolicies>();
}

/// The only name that a key's policy may have.
const NAME: &str = "default";

/// Errors: `NotFoundException`.
fn check_name(name: Option<&str>) -> Result<(), Error> {
    if name.is_none_or(|name| name == NAME) { Ok(()) } else { Err(not_found("No such policy exists")) }
}

action!(GetKeyPolicy, Read, |cx, r| manages(cx, "GetKeyPolicy", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    check_name(r.policy_name.as_deref())?;
    Ok(kms::GetKeyPolicyResponse { policy: Some(key.tenant.policy.text.clone()), policy_name: Some(NAME.to_owned()) })
});

action!(
    PutKeyPolicy,
    Write,
    |cx, r| {
        let bypass = bypass(r.bypass_policy_lockout_safety_check);
        let targets = manages(cx, "PutKeyPolicy", &r.key_id, OWN)?;
        Ok(targets.into_iter().map(|target| target.key("kms:BypassPolicyLockoutSafetyCheck", bypass)).collect())
    },
    |cx, r| {
        let key = the_key(cx, &r.key_id, OWN)?;
        check_name(r.policy_name.as_deref())?;
        let key = ops::set_policy(cx.txn, &key, &r.policy)?;
        if r.bypass_policy_lockout_safety_check != Some(true) {
            check_lockout(cx.txn, cx.caller, &key, &cx.region.name, cx.now)?;
        }
        Ok(Empty)
    }
);

action!(ListKeyPolicies, Read, |cx, r| manages(cx, "ListKeyPolicies", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    let names = [(NAME.to_owned(), NAME.to_owned())];
    let page = page(cx, "ListKeyPolicies", &key.id.to_string(), r.page(), (100, 1000), names)?;
    Ok(kms::ListKeyPoliciesResponse {
        policy_names: page.items,
        next_marker: page.next_marker,
        truncated: page.truncated,
    })
});
