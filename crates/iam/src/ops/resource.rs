use std::collections::BTreeMap;
use terroir_action::ResourcePolicy;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error};

use super::policy::document_hash;
use crate::evaluation::{Document, DocumentKind, Malformed, NamedPrincipal};
use crate::model::{Role, User};
use crate::names::{Entity, by_id, id_of};

/// What the policy of a resource may speak of.
#[derive(Debug, Clone, Copy)]
pub struct PolicyScope<'a> {
    /// The prefix of its actions, for example `s3`.
    pub service: &'a str,
    /// What its resources are or lie under (after a `/`), for example `arn:aws:s3:::bucket`.
    pub resource: &'a str,
    pub max_bytes: usize,
}

/// Checks the policy of a resource, and notes the ids of whom it names.
///
/// Errors: `MalformedPolicy`, in S3's words.
pub fn resource_policy(txn: &Txn, text: &str, scope: PolicyScope<'_>) -> Result<ResourcePolicy, Error> {
    let malformed = |message: &str| Error::invalid("MalformedPolicy", message);
    if text.len() > scope.max_bytes {
        return Err(malformed("Policies exceed the maximum allowed document size."));
    }
    if !text.starts_with('{') {
        return Err(malformed("Policies must be valid JSON and the first byte must be '{'"));
    }
    let document = Document::parse(text, DocumentKind::Resource).map_err(|Malformed(message)| malformed(&message))?;
    let vendor_fits = |action: &str| {
        action == "*" || action.split_once(':').is_some_and(|(vendor, _)| vendor.eq_ignore_ascii_case(scope.service))
    };
    if !document.actions().all(vendor_fits) {
        return Err(malformed("Policy has invalid action"));
    }
    let is_inside = |resource: &str| {
        resource.strip_prefix(scope.resource).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !document.resources().all(is_inside) {
        return Err(malformed("Policy has invalid resource"));
    }
    let principals = named_principals(txn, &document)?.map_err(|_| malformed("Invalid principal in policy"))?;
    Ok(ResourcePolicy { text: text.to_owned(), hash: document_hash(text), principals })
}

/// Checks the policy of a key, and notes the ids of whom it names. Its resource is the key, usually written `*`.
///
/// Errors: `MalformedPolicyDocumentException`, as KMS words it; `LimitExceededException` above `max_bytes`.
pub fn key_policy(txn: &Txn, text: &str, max_bytes: usize) -> Result<ResourcePolicy, Error> {
    let malformed = |message: &str| Error::invalid("MalformedPolicyDocumentException", message);
    if text.len() > max_bytes {
        let message = format!("The key policy has more than {max_bytes} bytes.");
        return Err(Error::limit("LimitExceededException", message));
    }
    let document = Document::parse(text, DocumentKind::Resource).map_err(|Malformed(message)| malformed(&message))?;
    let principals = named_principals(txn, &document)?
        .map_err(|_| malformed("Policy contains a statement with one or more invalid principals."))?;
    Ok(ResourcePolicy { text: text.to_owned(), hash: document_hash(text), principals })
}

/// The id of the user or role of this ARN, or of the role of a session's; an account's root has none. None: there is no
/// such principal.
pub fn find_principal(txn: &Txn, arn: &str) -> Result<Option<Option<String>>, Error> {
    if let Ok(parsed) = Arn::parse(arn)
        && (parsed.service(), parsed.resource()) == ("iam", "root")
        && let Some(account) = parsed.account()
    {
        return Ok(super::account(txn, account)?.map(|_| None));
    }
    if is_federated_user(arn) {
        return Ok(Some(None));
    }
    Ok(principal_id(txn, arn)?.map(Some))
}

/// Whether a resource's policy lets in everybody, as S3 defines "public".
///
/// Errors: `Internal` for a policy that was never checked.
pub fn is_public(policy: &ResourcePolicy) -> Result<bool, Error> {
    let document = Document::parse(&policy.text, DocumentKind::Resource).map_err(Error::internal)?;
    Ok(document.is_public())
}

/// The users and roles that a document names, with their ids; of a session's ARN, its role's. The inner error is a
/// principal that does not exist.
pub(super) fn named_principals(
    txn: &Txn,
    document: &Document,
) -> Result<Result<BTreeMap<String, String>, String>, Error> {
    let mut known = BTreeMap::new();
    for principal in document.principals() {
        match principal {
            NamedPrincipal::Account(account) if super::account(txn, account)?.is_some() => {}
            NamedPrincipal::Account(account) => return Ok(Err(account.to_string())),
            NamedPrincipal::Arn(arn) if is_federated_user(arn) => {}
            NamedPrincipal::Arn(arn) => match principal_id(txn, arn)? {
                Some(id) => drop(known.insert(arn.to_owned(), id)),
                None => return Ok(Err(arn.to_owned())),
            },
        }
    }
    Ok(Ok(known))
}

/// These sessions have no record that could be looked for.
fn is_federated_user(arn: &str) -> bool {
    Arn::parse(arn).is_ok_and(|arn| arn.service() == "sts" && arn.resource().starts_with("federated-user/"))
}

fn principal_id(txn: &Txn, text: &str) -> Result<Option<String>, Error> {
    fn id<T: Entity>(txn: &Txn, account: AccountId, name: &str, wanted: &Arn) -> Result<Option<String>, Error> {
        let Some(id) = id_of::<T>(txn, account, name)? else { return Ok(None) };
        let entity = by_id::<T>(txn, account, &id)?;
        Ok(entity.filter(|entity| entity.arn() == *wanted).map(|entity| entity.id().to_owned()))
    }
    let Ok(arn) = Arn::parse(text) else { return Ok(None) };
    let Some(account) = arn.account() else { return Ok(None) };
    let mut parts = arn.resource().split('/');
    let (kind, second, last) = (parts.next(), parts.next(), arn.resource().rsplit('/').next());
    match (arn.service(), kind, second, last) {
        ("iam", Some("user"), _, Some(name)) => id::<User>(txn, account, name, &arn),
        ("iam", Some("role"), _, Some(name)) => id::<Role>(txn, account, name, &arn),
        ("sts", Some("assumed-role"), Some(role), Some(_)) => id_of::<Role>(txn, account, role),
        _ => Ok(None),
    }
}
