//! Versions of managed policies.

use terroir_action::{Context, Registry};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_store::Key;
use terroir_types::Error;

use super::page::page;
use super::{action, shapes, targets};
use crate::builtin::BuiltinPolicy;
use crate::model::{ManagedPolicy, PolicyDocument, PolicyVersion};
use crate::ops::{self, AttachablePolicy};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreatePolicyVersion>();
    registry.add::<GetPolicyVersion>();
    registry.add::<ListPolicyVersions>();
    registry.add::<SetDefaultPolicyVersion>();
    registry.add::<DeletePolicyVersion>();
}

action!(CreatePolicyVersion, Write, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    let default = r.set_as_default.unwrap_or(false);
    let (policy, version) =
        ops::create_version(cx.txn, cx.caller.account, &r.policy_arn, &r.policy_document, default, cx.now)?;
    Ok(iam::CreatePolicyVersionResponse { policy_version: Some(shapes::version(&policy, &version)) })
});

fn document_key(cx: &Context<'_>, arn: &str, version: &str) -> Result<Vec<Key>, Error> {
    match ops::find_policy(cx.txn, cx.account(), arn) {
        Ok(AttachablePolicy::Own(policy)) => {
            let version = ops::find_version(&policy, version).ok();
            Ok(version.map(|version| key_of(&policy, &version)).into_iter().collect())
        }
        Ok(AttachablePolicy::Builtin(_)) | Err(_) => Ok(Vec::new()),
    }
}

pub(super) fn key_of(policy: &ManagedPolicy, version: &PolicyVersion) -> Key {
    PolicyDocument::key(policy.account, &policy.id, &version.document)
}

/// With its document, which must have been fetched.
pub(super) fn shown(
    cx: &Context<'_>,
    policy: &ManagedPolicy,
    version: &PolicyVersion,
) -> Result<iam::PolicyVersion, Error> {
    let text = ops::read_document(cx.txn, policy.account, &policy.id, &version.document)?;
    Ok(iam::PolicyVersion { document: Some(shapes::document(&text)), ..shapes::version(policy, version) })
}

pub(super) fn builtin(policy: &BuiltinPolicy) -> iam::PolicyVersion {
    iam::PolicyVersion {
        create_date: Some(BuiltinPolicy::created_at()),
        document: Some(shapes::document(policy.document)),
        is_default_version: Some(true),
        version_id: Some("v1".to_owned()),
    }
}

action!(
    GetPolicyVersion,
    Read,
    |cx, r| targets::policy(cx, &r.policy_arn),
    |cx, r| document_key(cx, &r.policy_arn, &r.version_id),
    |cx, r| {
        let version = match ops::find_policy(cx.txn, cx.account(), &r.policy_arn)? {
            AttachablePolicy::Own(policy) => shown(cx, &policy, &ops::find_version(&policy, &r.version_id)?)?,
            AttachablePolicy::Builtin(policy) if r.version_id == "v1" => builtin(policy),
            AttachablePolicy::Builtin(_) => {
                let message =
                    format!("Policy {} version {} does not exist or is not attachable.", r.policy_arn, r.version_id);
                return Err(Error::not_found("NoSuchEntity", message));
            }
        };
        Ok(iam::GetPolicyVersionResponse { policy_version: Some(version) })
    }
);

action!(ListPolicyVersions, Read, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    let policy = ops::find_policy(cx.txn, cx.account(), &r.policy_arn)?;
    let mut versions = match &policy {
        AttachablePolicy::Own(policy) => {
            let all = policy.all_versions();
            all.iter().map(|version| (version.number, shapes::version(policy, version))).collect()
        }
        AttachablePolicy::Builtin(policy) => vec![(1, iam::PolicyVersion { document: None, ..builtin(policy) })],
    };
    // Newest first.
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let keyed = versions.into_iter().map(|(number, version)| (format!("{:010}", u32::MAX - number), version));
    let page = page(cx, "ListPolicyVersions", &policy.id(), r.page(), keyed)?;
    Ok(iam::ListPolicyVersionsResponse { versions: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(SetDefaultPolicyVersion, Write, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    ops::set_default_version(cx.txn, cx.caller.account, &r.policy_arn, &r.version_id, cx.now)?;
    Ok(Empty)
});

action!(DeletePolicyVersion, Write, |cx, r| targets::policy(cx, &r.policy_arn), |cx, r| {
    ops::delete_version(cx.txn, cx.caller.account, &r.policy_arn, &r.version_id, cx.now)?;
    Ok(Empty)
});
