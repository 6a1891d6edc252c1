//! The account itself: its alias, its password policy, and what is in it.

use std::collections::BTreeMap;
use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_types::{AccountId, Error};

use super::page::page;
use super::{action, targets};
use crate::model::{Group, InstanceProfile, ManagedPolicy, MfaDevice, OidcProvider, PasswordPolicy, Role, User};
use crate::names::{self, Entity};
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<GetAccountSummary>();
    registry.add::<CreateAccountAlias>();
    registry.add::<ListAccountAliases>();
    registry.add::<DeleteAccountAlias>();
    registry.add::<UpdateAccountPasswordPolicy>();
    registry.add::<GetAccountPasswordPolicy>();
    registry.add::<DeleteAccountPasswordPolicy>();
}

action!(GetAccountSummary, Read, |_cx, _r| targets::none(), |cx, _r| {
    let mut map: BTreeMap<String, i32> = BTreeMap::new();
    let mut put = |name: &str, count: i64| {
        map.insert(name.to_owned(), i32::try_from(count).unwrap_or(i32::MAX));
    };
    fn counted<T: Entity>(cx: &Context<'_>, name: &str, put: &mut impl FnMut(&str, i64)) -> Result<(), Error> {
        put(name, terroir_resources::count(cx.txn, cx.account(), &format!("iam-{}", T::KIND))?);
        put(&format!("{name}Quota"), T::QUOTA.0);
        Ok(())
    }
    counted::<User>(cx, "Users", &mut put)?;
    counted::<Group>(cx, "Groups", &mut put)?;
    counted::<Role>(cx, "Roles", &mut put)?;
    counted::<ManagedPolicy>(cx, "Policies", &mut put)?;
    counted::<InstanceProfile>(cx, "InstanceProfiles", &mut put)?;
    let devices = names::list::<MfaDevice>(cx.txn, cx.account())?;
    let providers = names::list::<OidcProvider>(cx.txn, cx.account())?;
    let root = ops::account(cx.txn, cx.account())?;
    let length = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    put("MFADevices", length(devices.len()));
    put("MFADevicesInUse", length(devices.iter().filter(|device| device.enabled.is_some()).count()));
    put("Providers", length(providers.len()));
    put("AccountMFAEnabled", i64::from(root.as_ref().is_some_and(|root| !root.mfa.is_empty())));
    put("AccountAccessKeysPresent", i64::from(root.as_ref().is_some_and(|root| !root.access_keys.is_empty())));
    // There are no server or signing certificates, and the root has no password.
    for absent in ["AccountPasswordPresent", "AccountSigningCertificatesPresent", "ServerCertificates"] {
        put(absent, 0);
    }
    for (name, quota) in [
        ("AccessKeysPerUserQuota", 2),
        ("AssumeRolePolicySizeQuota", 2_048),
        ("AttachedPoliciesPerGroupQuota", 10),
        ("AttachedPoliciesPerRoleQuota", 10),
        ("AttachedPoliciesPerUserQuota", 10),
        ("GroupPolicySizeQuota", 5_120),
        ("GroupsPerUserQuota", 10),
        ("PolicySizeQuota", 6_144),
        ("RolePolicySizeQuota", 10_240),
        ("UserPolicySizeQuota", 2_048),
        ("VersionsPerPolicyQuota", 5),
    ] {
        put(name, quota);
    }
    Ok(iam::GetAccountSummaryResponse { summary_map: Some(map) })
});

action!(CreateAccountAlias, Write, |_cx, _r| targets::none(), |cx, r| {
    ops::set_account_alias(cx.txn, cx.caller.account, &r.account_alias)?;
    Ok(Empty)
});

action!(ListAccountAliases, Read, |_cx, _r| targets::none(), |cx, r| {
    let alias = ops::account(cx.txn, cx.account())?.and_then(|account| account.tenant.alias.clone());
    let page = page(cx, "ListAccountAliases", "", r.page(), alias.map(|alias| (alias.clone(), alias)))?;
    Ok(iam::ListAccountAliasesResponse {
        account_aliases: page.items,
        is_truncated: page.is_truncated,
        marker: page.marker,
    })
});

action!(DeleteAccountAlias, Write, |_cx, _r| targets::none(), |cx, r| {
    ops::delete_account_alias(cx.txn, cx.caller.account, &r.account_alias)?;
    Ok(Empty)
});

/// A number within AWS's bounds; none: not set.
///
/// Errors: `ValidationError`.
fn bounded<T: TryFrom<i32>>(value: Option<i32>, member: &str, least: i32, greatest: i32) -> Result<Option<T>, Error> {
    let Some(value) = value else { return Ok(None) };
    let within = (least..=greatest).contains(&value);
    let converted = T::try_from(value).ok().filter(|_| within).ok_or_else(|| {
        let bound = if value < least { format!("greater than or equal to {least}") } else { format!("less than or equal to {greatest}") };
        let message = format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must have value {bound}"
        );
        Error::invalid("ValidationError", message)
    })?;
    Ok(Some(converted))
}

/// What is not given becomes AWS's default, whatever it was before.
fn policy_of(account: AccountId, r: &iam::UpdateAccountPasswordPolicyRequest) -> Result<PasswordPolicy, Error> {
    Ok(PasswordPolicy {
        account,
        minimum_length: bounded(r.minimum_password_length, "minimumPasswordLength", 6, 128)?.unwrap_or(6),
        symbols: r.require_symbols.unwrap_or(false),
        numbers: r.require_numbers.unwrap_or(false),
        uppercase: r.require_uppercase_characters.unwrap_or(false),
        lowercase: r.require_lowercase_characters.unwrap_or(false),
        users_may_change: r.allow_users_to_change_password.unwrap_or(false),
        max_age_days: bounded(r.max_password_age, "maxPasswordAge", 1, 1095)?,
        reuse_prevention: bounded(r.password_reuse_prevention, "passwordReusePrevention", 1, 24)?,
        hard_expiry: r.hard_expiry.unwrap_or(false),
    })
}

action!(UpdateAccountPasswordPolicy, Write, |_cx, _r| targets::none(), |cx, r| {
    let policy = policy_of(cx.caller.account, &r)?;
    ops::set_password_policy(cx.txn, &policy)?;
    Ok(Empty)
});

action!(GetAccountPasswordPolicy, Read, |_cx, _r| targets::none(), |cx, _r| {
    let policy = ops::find_password_policy(cx.txn, cx.account())?;
    let shape = iam::PasswordPolicy {
        allow_users_to_change_password: Some(policy.users_may_change),
        expire_passwords: Some(policy.max_age_days.is_some()),
        hard_expiry: Some(policy.hard_expiry),
        max_password_age: policy.max_age_days.map(i32::from),
        minimum_password_length: Some(policy.minimum_length.into()),
        password_reuse_prevention: policy.reuse_prevention.map(i32::from),
        require_lowercase_characters: Some(policy.lowercase),
        require_numbers: Some(policy.numbers),
        require_symbols: Some(policy.symbols),
        require_uppercase_characters: Some(policy.uppercase),
    };
    Ok(iam::GetAccountPasswordPolicyResponse { password_policy: Some(shape) })
});

action!(DeleteAccountPasswordPolicy, Write, |_cx, _r| targets::none(), |cx, _r| {
    ops::delete_password_policy(cx.txn, cx.caller.account)?;
    Ok(Empty)
});
