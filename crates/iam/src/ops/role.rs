use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, IdSource, Timestamp};

use super::policy::{check_document, document_size, put_document};
use super::resource::named_principals;
use super::{About, check_description, delete_conflict};
use crate::evaluation::DocumentKind;
use crate::model::{InstanceProfile, PolicyDocument, Role, RoleProfile, RoleTenant};
use crate::names::{Entity, by_id, exceeds, find, insert, remove, unique_id};

const TRUST_LIMIT: u32 = 2_048;
const DEFAULT_SESSION_SECS: u32 = 3_600;
const LONGEST_SESSION_SECS: u32 = 43_200;

/// What CreateRole asks for.
#[derive(Debug, Clone, Copy)]
pub struct NewRole<'a> {
    pub about: About<'a>,
    pub trust: &'a str,
    /// 3,600 to 43,200; none: 3,600.
    pub max_session_secs: Option<i32>,
}

/// Errors: `ValidationError`, `MalformedPolicyDocument`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_role(
    txn: &mut Txn,
    account: AccountId,
    new: NewRole<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<Role, Error> {
    let about = new.about.checked("roleName", Role::MAX_NAME)?;
    let max_session_secs = session_limit(new.max_session_secs)?;
    let trusted = check_trust(txn, new.trust)?;
    let id = unique_id(Role::PREFIX, ids);
    let trust = put_document(txn, account, &id, new.trust)?;
    let role = Role { account, id, created_at: now, max_session_secs, trust, tenant: RoleTenant { about, trusted } };
    insert(txn, &role)?;
    Ok(role)
}

fn session_limit(secs: Option<i32>) -> Result<u32, Error> {
    let Some(secs) = secs else { return Ok(DEFAULT_SESSION_SECS) };
    match u32::try_from(secs) {
        Ok(secs) if (DEFAULT_SESSION_SECS..=LONGEST_SESSION_SECS).contains(&secs) => Ok(secs),
        _ => Err(Error::invalid(
            "ValidationError",
            format!(
                "1 validation error detected: Value '{secs}' at 'maxSessionDuration' failed to satisfy constraint: Member must have value between {DEFAULT_SESSION_SECS} and {LONGEST_SESSION_SECS}"
            ),
        )),
    }
}

/// The users and roles that a trust policy names, with their ids.
///
/// Errors: `MalformedPolicyDocument`, also for a principal that does not exist; `LimitExceeded`.
fn check_trust(txn: &Txn, text: &str) -> Result<BTreeMap<String, String>, Error> {
    let document = check_document(text, DocumentKind::Trust)?;
    if document_size(text) > TRUST_LIMIT {
        return Err(exceeds("ACLSizePerRole", i64::from(TRUST_LIMIT)));
    }
    named_principals(txn, &document)?.map_err(|text| invalid_principal(&text))
}

fn invalid_principal(text: &str) -> Error {
    Error::invalid("MalformedPolicyDocument", format!("Invalid principal in policy: \"AWS\":\"{text}\""))
}

/// Sets what is given. Errors: `NoSuchEntity`, `ValidationError`.
pub fn update_role(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    description: Option<&str>,
    max_session_secs: Option<i32>,
) -> Result<Role, Error> {
    let mut role = (*find::<Role>(txn, account, name)?).clone();
    if let Some(description) = description {
        check_description(description)?;
        role.tenant.about.description = Some(description.to_owned());
    }
    if max_session_secs.is_some() {
        role.max_session_secs = session_limit(max_session_secs)?;
    }
    txn.put(&role.key(), &role)?;
    Ok(role)
}

/// Errors: `NoSuchEntity`, `MalformedPolicyDocument`, `LimitExceeded`.
pub fn set_trust_policy(txn: &mut Txn, account: AccountId, name: &str, text: &str) -> Result<(), Error> {
    let mut role = (*find::<Role>(txn, account, name)?).clone();
    role.tenant.trusted = check_trust(txn, text)?;
    let is_inline = role.tenant.about.grants.inline.values().any(|policy| policy.hash == role.trust);
    if !is_inline {
        txn.delete(&PolicyDocument::key(account, &role.id, &role.trust));
    }
    role.trust = put_document(txn, account, &role.id, text)?;
    txn.put(&role.key(), &role)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it has policies or is in an instance profile.
pub fn delete_role(txn: &mut Txn, account: AccountId, name: &str) -> Result<(), Error> {
    let role = find::<Role>(txn, account, name)?;
    if txn.exists(&RoleProfile::prefix(account, &role.id)) {
        return Err(delete_conflict("must remove roles from instance profile first."));
    }
    if !role.tenant.about.grants.inline.is_empty() {
        return Err(delete_conflict("must delete policies first."));
    }
    if !role.tenant.about.grants.attached.is_empty() {
        return Err(delete_conflict("must detach all policies first."));
    }
    if let Some(boundary) = &role.tenant.about.grants.boundary {
        super::boundary::count(txn, account, boundary, -1)?;
    }
    txn.delete(&PolicyDocument::key(account, &role.id, &role.trust));
    remove(txn, &*role)
}

/// Errors: `ValidationError`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_instance_profile(
    txn: &mut Txn,
    account: AccountId,
    about: About<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<InstanceProfile, Error> {
    let profile = InstanceProfile {
        account,
        id: unique_id(InstanceProfile::PREFIX, ids),
        created_at: now,
        role: None,
        tenant: about.checked("instanceProfileName", InstanceProfile::MAX_NAME)?,
    };
    insert(txn, &profile)?;
    Ok(profile)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it has a role.
pub fn delete_instance_profile(txn: &mut Txn, account: AccountId, name: &str) -> Result<(), Error> {
    let profile = find::<InstanceProfile>(txn, account, name)?;
    if profile.role.is_some() {
        return Err(delete_conflict("must remove roles from instance profile first."));
    }
    remove(txn, &*profile)
}

/// Errors: `NoSuchEntity`; `LimitExceeded` if the profile has a role.
pub fn add_role_to_profile(txn: &mut Txn, account: AccountId, profile: &str, role: &str) -> Result<(), Error> {
    let mut profile = (*find::<InstanceProfile>(txn, account, profile)?).clone();
    let role = find::<Role>(txn, account, role)?;
    if profile.role.is_some() {
        return Err(exceeds("InstanceSessionsPerInstanceProfile", 1));
    }
    profile.role = Some(role.id.clone());
    txn.put(&RoleProfile::prefix(account, &role.id).child(&profile.id), &RoleProfile {})?;
    txn.put(&profile.key(), &profile)
}

/// Errors: `NoSuchEntity`, also if the profile does not have the role.
pub fn remove_role_from_profile(txn: &mut Txn, account: AccountId, profile: &str, role: &str) -> Result<(), Error> {
    let mut profile = (*find::<InstanceProfile>(txn, account, profile)?).clone();
    let found = find::<Role>(txn, account, role)?;
    if profile.role.as_ref() != Some(&found.id) {
        return Err(Role::unknown(role));
    }
    profile.role = None;
    txn.delete(&RoleProfile::prefix(account, &found.id).child(&profile.id));
    txn.put(&profile.key(), &profile)
}

/// The instance profiles that a role is in, in order of their names.
pub fn profiles_of_role(txn: &Txn, role: &Role) -> Result<Vec<Arc<InstanceProfile>>, Error> {
    let mut profiles = Vec::new();
    for (key, _) in txn.peek_range::<RoleProfile>(&RoleProfile::prefix(role.account, &role.id))? {
        profiles.extend(by_id::<InstanceProfile>(txn, role.account, key.last())?);
    }
    profiles.sort_by_cached_key(|profile| profile.name().to_lowercase());
    Ok(profiles)
}

pub fn role_of_profile(txn: &Txn, profile: &InstanceProfile) -> Result<Option<Arc<Role>>, Error> {
    match &profile.role {
        Some(id) => by_id(txn, profile.account, id),
        None => Ok(None),
    }
}

/// The instance profile that an EC2 request names by ARN or by name.
///
/// Errors: `InvalidParameterValue`, as EC2 words it; `InvalidParameterCombination` if it names both or neither.
pub fn profile_for_ec2(
    txn: &Txn,
    account: AccountId,
    arn: Option<&str>,
    name: Option<&str>,
) -> Result<Arc<InstanceProfile>, Error> {
    let (wanted, member, name) = match (arn, name) {
        (Some(arn), None) => (arn, "iamInstanceProfile.arn", arn.rsplit('/').next().unwrap_or_default()),
        (None, Some(name)) => (name, "iamInstanceProfile.name", name),
        _ => {
            let message = "The parameter iamInstanceProfile must have either an arn or a name.";
            return Err(Error::invalid("InvalidParameterCombination", message));
        }
    };
    let unknown = || {
        let message = format!("Value ({wanted}) for parameter {member} is invalid. Invalid IAM Instance Profile name");
        Error::invalid("InvalidParameterValue", message)
    };
    match find::<InstanceProfile>(txn, account, name) {
        Ok(profile) if arn.is_none_or(|arn| Arn::parse(arn).is_ok_and(|arn| arn == profile.arn())) => Ok(profile),
        Ok(_) => Err(unknown()),
        Err(error) if error.code() == "NoSuchEntity" => Err(unknown()),
        Err(error) => Err(error),
    }
}
