use sha2::{Digest, Sha256};
use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, IdSource, Timestamp};

use super::About;
use super::versions::{check_deletable, own_policy};
use crate::builtin::{self, BuiltinPolicy};
use crate::evaluation::{Document, DocumentKind};
use crate::model::{Grants, Group, InlinePolicy, ManagedPolicy, PolicyDocument, PolicyDocumentTenant, Role, User};
use crate::names::{Entity, by_id, check_name, exceeds, find, insert, remove, unique_id};

/// A user, group or role by name: what policies are attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    User(&'a str),
    Group(&'a str),
    Role(&'a str),
}

impl<'a> Holder<'a> {
    pub const fn name(self) -> &'a str {
        match self {
            Self::User(name) | Self::Group(name) | Self::Role(name) => name,
        }
    }

    pub const fn noun(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Role(_) => "role",
        }
    }

    /// Characters without white space that all its inline policies may have together.
    const fn inline_limit(self) -> u32 {
        match self {
            Self::User(_) => 2_048,
            Self::Group(_) => 5_120,
            Self::Role(_) => 10_240,
        }
    }

    const fn attached_quota(self) -> &'static str {
        match self {
            Self::User(_) => "PoliciesPerUser",
            Self::Group(_) => "PoliciesPerGroup",
            Self::Role(_) => "PoliciesPerRole",
        }
    }

    /// Its id and policies. Errors: `NoSuchEntity`.
    pub fn grants(self, txn: &Txn, account: AccountId) -> Result<(String, Grants), Error> {
        fn of<T: Entity>(txn: &Txn, account: AccountId, name: &str) -> Result<(String, Grants), Error> {
            let entity = find::<T>(txn, account, name)?;
            Ok((entity.id().to_owned(), entity.about().grants.clone()))
        }
        match self {
            Self::User(name) => of::<User>(txn, account, name),
            Self::Group(name) => of::<Group>(txn, account, name),
            Self::Role(name) => of::<Role>(txn, account, name),
        }
    }

    pub(super) fn set_grants(self, txn: &mut Txn, account: AccountId, grants: Grants) -> Result<(), Error> {
        fn set<T: Entity>(txn: &mut Txn, account: AccountId, name: &str, grants: Grants) -> Result<(), Error> {
            let mut entity = (*find::<T>(txn, account, name)?).clone();
            entity.about_mut().grants = grants;
            txn.put(&entity.key(), &entity)
        }
        match self {
            Self::User(name) => set::<User>(txn, account, name, grants),
            Self::Group(name) => set::<Group>(txn, account, name, grants),
            Self::Role(name) => set::<Role>(txn, account, name, grants),
        }
    }

    /// Hashes of further documents that the holder has: a role's trust policy.
    fn other_document(self, txn: &Txn, account: AccountId) -> Result<Option<String>, Error> {
        match self {
            Self::Role(name) => Ok(Some(find::<Role>(txn, account, name)?.trust.clone())),
            Self::User(_) | Self::Group(_) => Ok(None),
        }
    }
}

const ATTACHED_PER_HOLDER: usize = 10;
const MANAGED_LIMIT: u32 = 6_144;
/// Longest document in characters, white space included, as in AWS's model.
const MAX_DOCUMENT: usize = 131_072;

/// A policy that can be attached.
#[derive(Debug, Clone)]
pub enum AttachablePolicy {
    Own(Arc<ManagedPolicy>),
    Builtin(&'static BuiltinPolicy),
}

impl AttachablePolicy {
    pub fn id(&self) -> String {
        match self {
            Self::Own(policy) => policy.id.clone(),
            Self::Builtin(policy) => policy.id(),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Own(policy) => policy.name(),
            Self::Builtin(policy) => policy.name,
        }
    }

    pub fn arn(&self) -> Arn {
        match self {
            Self::Own(policy) => policy.arn(),
            Self::Builtin(policy) => policy.arn(),
        }
    }
}

/// The policy of an ARN, of this account or built in. Errors: `NoSuchEntity`, `ValidationError`.
pub fn find_policy(txn: &Txn, account: AccountId, arn: &str) -> Result<AttachablePolicy, Error> {
    let parsed = Arn::parse(arn).map_err(|_| Error::invalid("ValidationError", format!("ARN {arn} is not valid.")))?;
    if let Some(policy) = builtin::by_arn(&parsed) {
        return Ok(AttachablePolicy::Builtin(policy));
    }
    let unknown = || Error::not_found("NoSuchEntity", format!("Policy {arn} does not exist or is not attachable."));
    let name = parsed.resource().rsplit('/').next().unwrap_or_default();
    let policy = find::<ManagedPolicy>(txn, account, name).map_err(|error| match error.code() {
        "NoSuchEntity" => unknown(),
        _ => error,
    })?;
    if policy.arn() == parsed { Ok(AttachablePolicy::Own(policy)) } else { Err(unknown()) }
}

/// The policy of an id that a holder's grants name.
pub fn policy_by_id(txn: &Txn, account: AccountId, id: &str) -> Result<Option<AttachablePolicy>, Error> {
    if let Some(policy) = builtin::by_id(id) {
        return Ok(Some(AttachablePolicy::Builtin(policy)));
    }
    Ok(by_id::<ManagedPolicy>(txn, account, id)?.map(AttachablePolicy::Own))
}

/// SHA-256 of a document's text, in hex.
pub fn document_hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Characters without white space.
pub(super) fn document_size(text: &str) -> u32 {
    u32::try_from(text.chars().filter(|c| !c.is_whitespace()).count()).unwrap_or(u32::MAX)
}

/// Errors: `MalformedPolicyDocument`, `ValidationError`.
pub(super) fn check_document(text: &str, kind: DocumentKind) -> Result<Document, Error> {
    if text.is_empty() || text.len() > MAX_DOCUMENT {
        let message = format!("The policy document must have between 1 and {MAX_DOCUMENT} characters.");
        return Err(Error::invalid("ValidationError", message));
    }
    Document::parse(text, kind).map_err(|error| Error::invalid("MalformedPolicyDocument", error.0))
}

/// As [`check_document`], within the size of a managed policy.
///
/// Errors: those, and `LimitExceeded`.
pub(super) fn check_managed(text: &str, kind: DocumentKind) -> Result<Document, Error> {
    let document = check_document(text, kind)?;
    if document_size(text) > MANAGED_LIMIT {
        return Err(exceeds("PolicySize", i64::from(MANAGED_LIMIT)));
    }
    Ok(document)
}

pub(super) fn put_document(txn: &mut Txn, account: AccountId, holder_id: &str, text: &str) -> Result<String, Error> {
    let hash = document_hash(text);
    let record = PolicyDocument { account, tenant: PolicyDocumentTenant { text: text.to_owned() } };
    txn.put(&PolicyDocument::key(account, holder_id, &hash), &record)?;
    Ok(hash)
}

/// The text of a document whose key was named before the transaction.
pub fn read_document(txn: &Txn, account: AccountId, holder_id: &str, hash: &str) -> Result<String, Error> {
    let key = PolicyDocument::key(account, holder_id, hash);
    match txn.get::<PolicyDocument>(&key)? {
        Some(document) => Ok(document.tenant.text.clone()),
        None => Err(Error::internal(format_args!("{key} is missing"))),
    }
}

/// Writes or replaces an inline policy.
///
/// Errors: `NoSuchEntity`, `MalformedPolicyDocument`, `LimitExceeded`, `ValidationError`.
pub fn put_inline_policy(
    txn: &mut Txn,
    account: AccountId,
    holder: Holder<'_>,
    name: &str,
    text: &str,
) -> Result<(), Error> {
    check_name(name, "policyName", 128)?;
    check_document(text, DocumentKind::Identity)?;
    let (id, mut grants) = holder.grants(txn, account)?;
    let policy = InlinePolicy { hash: document_hash(text), size: document_size(text) };
    let before = grants.inline.insert(name.to_owned(), policy);
    let total: u64 = grants.inline.values().map(|policy| u64::from(policy.size)).sum();
    let limit = holder.inline_limit();
    if total > u64::from(limit) {
        let message = format!("Maximum policy size of {limit} bytes exceeded for {} {}", holder.noun(), holder.name());
        return Err(Error::limit("LimitExceeded", message));
    }
    if let Some(before) = before {
        forget_document(txn, account, holder, &id, &grants, &before.hash)?;
    }
    put_document(txn, account, &id, text)?;
    holder.set_grants(txn, account, grants)
}

/// Deletes a document that nothing else of its holder is the same as.
fn forget_document(
    txn: &mut Txn,
    account: AccountId,
    holder: Holder<'_>,
    id: &str,
    grants: &Grants,
    hash: &str,
) -> Result<(), Error> {
    let is_inline = grants.inline.values().any(|policy| policy.hash == hash);
    if !is_inline && holder.other_document(txn, account)?.is_none_or(|other| other != hash) {
        txn.delete(&PolicyDocument::key(account, id, hash));
    }
    Ok(())
}

/// Errors: `NoSuchEntity`.
pub fn delete_inline_policy(txn: &mut Txn, account: AccountId, holder: Holder<'_>, name: &str) -> Result<(), Error> {
    let (id, mut grants) = holder.grants(txn, account)?;
    let policy = grants.inline.remove(name).ok_or_else(|| unknown_inline(holder, name))?;
    forget_document(txn, account, holder, &id, &grants, &policy.hash)?;
    holder.set_grants(txn, account, grants)
}

pub fn unknown_inline(holder: Holder<'_>, name: &str) -> Error {
    Error::not_found("NoSuchEntity", format!("The {} policy with name {name} cannot be found.", holder.noun()))
}

/// Errors: `ValidationError`, `MalformedPolicyDocument`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_policy(
    txn: &mut Txn,
    account: AccountId,
    about: About<'_>,
    text: &str,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<ManagedPolicy, Error> {
    let tenant = about.checked("policyName", ManagedPolicy::MAX_NAME)?;
    check_managed(text, DocumentKind::Identity)?;
    let id = unique_id(ManagedPolicy::PREFIX, ids);
    let document = put_document(txn, account, &id, text)?;
    let policy = ManagedPolicy {
        account,
        id,
        created_at: now,
        document,
        attachments: 0,
        boundaries: 0,
        versions: Vec::new(),
        default_version: 1,
        last_version: 1,
        updated_at: None,
        tenant,
    };
    insert(txn, &policy)?;
    Ok(policy)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it is in use or has several versions; `AccessDenied` for a built-in
/// policy.
pub fn delete_policy(txn: &mut Txn, account: AccountId, arn: &str) -> Result<(), Error> {
    let policy = own_policy(txn, account, arn)?;
    check_deletable(&policy)?;
    txn.delete(&PolicyDocument::key(account, &policy.id, &policy.document));
    remove(txn, &policy)
}

fn count_attachment(txn: &mut Txn, policy: &AttachablePolicy, delta: i32) -> Result<(), Error> {
    let AttachablePolicy::Own(policy) = policy else { return Ok(()) };
    let mut policy = (**policy).clone();
    policy.attachments = policy.attachments.saturating_add_signed(delta);
    txn.put(&policy.key(), &policy)
}

/// Nothing happens if it is attached already. Errors: `NoSuchEntity`; `LimitExceeded` above ten.
pub fn attach_policy(txn: &mut Txn, account: AccountId, holder: Holder<'_>, arn: &str) -> Result<(), Error> {
    let (_, mut grants) = holder.grants(txn, account)?;
    let policy = find_policy(txn, account, arn)?;
    let id = policy.id();
    if grants.attached.contains(&id) {
        return Ok(());
    }
    if grants.attached.len() >= ATTACHED_PER_HOLDER {
        return Err(exceeds(holder.attached_quota(), 10));
    }
    grants.attached.push(id);
    count_attachment(txn, &policy, 1)?;
    holder.set_grants(txn, account, grants)
}

/// Errors: `NoSuchEntity`, also if it is not attached.
pub fn detach_policy(txn: &mut Txn, account: AccountId, holder: Holder<'_>, arn: &str) -> Result<(), Error> {
    let (_, mut grants) = holder.grants(txn, account)?;
    let not_attached = || Error::not_found("NoSuchEntity", format!("Policy {arn} was not found."));
    let policy = find_policy(txn, account, arn)?;
    let id = policy.id();
    let at = grants.attached.iter().position(|attached| *attached == id).ok_or_else(not_attached)?;
    grants.attached.remove(at);
    count_attachment(txn, &policy, -1)?;
    holder.set_grants(txn, account, grants)
}
