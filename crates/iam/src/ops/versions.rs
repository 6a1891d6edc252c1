use terroir_store::Txn;
use terroir_types::{AccountId, Error, ErrorClass, Timestamp};

use super::delete_conflict;
use super::policy::{AttachablePolicy, check_managed, find_policy, put_document};
use crate::evaluation::DocumentKind;
use crate::model::{ManagedPolicy, PolicyDocument, PolicyVersion};
use crate::names::Entity;

const MAX_VERSIONS: usize = 5;

/// `v2` → 2.
pub fn version_number(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('v')?;
    let plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

fn unknown_version(arn: &str, version: &str) -> Error {
    Error::not_found("NoSuchEntity", format!("Policy {arn} version {version} does not exist or is not attachable."))
}

/// The account's own policy of an ARN, to be changed.
///
/// Errors: `NoSuchEntity`; `AccessDenied` for a built-in policy.
pub fn own_policy(txn: &Txn, account: AccountId, arn: &str) -> Result<ManagedPolicy, Error> {
    match find_policy(txn, account, arn)? {
        AttachablePolicy::Own(policy) => Ok((*policy).clone()),
        AttachablePolicy::Builtin(_) => {
            let message = format!("{arn} is built in and cannot be changed.");
            Err(Error::new(ErrorClass::Denied, "AccessDenied", message))
        }
    }
}

/// The version of a policy that a request names.
///
/// Errors: `NoSuchEntity`.
pub fn find_version(policy: &ManagedPolicy, version: &str) -> Result<PolicyVersion, Error> {
    let number = version_number(version);
    let found = policy.all_versions().into_iter().find(|known| Some(known.number) == number);
    found.ok_or_else(|| unknown_version(policy.arn().as_str(), version))
}

/// Adds a version, and makes it the default if asked to.
///
/// Errors: `NoSuchEntity`, `MalformedPolicyDocument`, `LimitExceeded` for its size or above five.
pub fn create_version(
    txn: &mut Txn,
    account: AccountId,
    arn: &str,
    text: &str,
    set_default: bool,
    now: Timestamp,
) -> Result<(ManagedPolicy, PolicyVersion), Error> {
    let mut policy = own_policy(txn, account, arn)?;
    check_managed(text, DocumentKind::Identity)?;
    let mut versions = policy.all_versions();
    if versions.len() >= MAX_VERSIONS {
        let message = "A managed policy can have up to 5 versions. Before you create a new version, you must delete an existing version.";
        return Err(Error::limit("LimitExceeded", message));
    }
    let number = policy.last_version.max(1) + 1;
    let document = put_document(txn, account, &policy.id, text)?;
    let version = PolicyVersion { number, document, created_at: now };
    versions.push(version.clone());
    if set_default {
        policy.document.clone_from(&version.document);
        policy.default_version = number;
    }
    policy.last_version = number;
    policy.versions = versions;
    policy.updated_at = Some(now);
    txn.put(&policy.key(), &policy)?;
    Ok((policy, version))
}

/// Errors: `NoSuchEntity`.
pub fn set_default_version(
    txn: &mut Txn,
    account: AccountId,
    arn: &str,
    version: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let mut policy = own_policy(txn, account, arn)?;
    let version = find_version(&policy, version)?;
    policy.document = version.document;
    policy.default_version = version.number;
    policy.updated_at = Some(now);
    txn.put(&policy.key(), &policy)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` for the default version.
pub fn delete_version(
    txn: &mut Txn,
    account: AccountId,
    arn: &str,
    version: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let mut policy = own_policy(txn, account, arn)?;
    let gone = find_version(&policy, version)?;
    if gone.number == policy.default_number() {
        return Err(Error::conflict("DeleteConflict", "Cannot delete the default version of a policy."));
    }
    let mut versions = policy.all_versions();
    versions.retain(|known| known.number != gone.number);
    // Two versions may have the same text, and then share its record.
    if !versions.iter().any(|known| known.document == gone.document) {
        txn.delete(&PolicyDocument::key(account, &policy.id, &gone.document));
    }
    policy.versions = versions;
    policy.updated_at = Some(now);
    txn.put(&policy.key(), &policy)
}

/// Errors: `DeleteConflict` while the policy is in use or has other versions than its default.
pub(super) fn check_deletable(policy: &ManagedPolicy) -> Result<(), Error> {
    if policy.attachments > 0 || policy.boundaries > 0 {
        return Err(Error::conflict("DeleteConflict", "Cannot delete a policy attached to entities."));
    }
    if policy.all_versions().len() > 1 {
        return Err(delete_conflict(
            "this policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.",
        ));
    }
    Ok(())
}
