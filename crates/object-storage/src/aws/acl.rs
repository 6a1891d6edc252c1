//! Access control lists as requests give them and answers show them.

use http::{HeaderMap, StatusCode};
use s3s::dto::{AccessControlPolicy, Grant as ShownGrant, Grantee as ShownGrantee, Permission as ShownPermission, *};
use s3s::{S3Request, S3Response, S3Result};
use terroir_action::CallerKind;
use terroir_iam::model::Account;
use terroir_store::{Key, Txn};
use terroir_types::AccountId;

use super::access::{Found, acl_of};
use super::convert::owner;
use super::error::{from_backend, from_domain, invalid, invalid_argument, s3};
use super::service::{S3Api, Scoped};
use super::versions::{asked_version, shown_version};
use crate::acl::{Acl, Grantee, MAX_GRANTS, Permission, canonical_id};
use crate::guard::{self, Guard, Ownership};

const FULL_CONTROL: &str = "bucket-owner-full-control";

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn has_grants(headers: &HeaderMap) -> bool {
    Permission::ALL.iter().any(|permission| headers.contains_key(permission.header()))
}

/// The account that has this canonical id. Lists that name accounts are written rarely, so all accounts are looked at.
fn account_by_canonical_id(txn: &Txn, id: &str) -> S3Result<AccountId> {
    let accounts = txn.peek_range::<Account>(&Key::new("account")).map_err(from_domain)?;
    let found = accounts.iter().map(|(_, account)| account.id).find(|account| canonical_id(*account) == id);
    found.ok_or_else(|| invalid_argument("Invalid id"))
}

/// Accounts have no e-mail addresses here, as most have none in AWS since October 2025.
fn by_email<T>() -> S3Result<T> {
    let message = "The e-mail address you provided does not match any account on record.";
    Err(invalid("UnresolvableGrantByEmailAddress", message))
}

fn group(uri: &str) -> S3Result<Grantee> {
    Grantee::parse_group(uri).ok_or_else(|| invalid_argument("Invalid group uri"))
}

/// The list that headers give, if they give one. `bucket_owner`: of the bucket that the object is in; none for a bucket.
fn from_headers(
    txn: &Txn,
    headers: &HeaderMap,
    owner: AccountId,
    bucket_owner: Option<AccountId>,
) -> S3Result<Option<Acl>> {
    let canned = text(headers, "x-amz-acl");
    if !has_grants(headers) {
        let unknown = || invalid_argument("The canned ACL is not one that exists");
        return canned.map(|name| Acl::canned(name, owner, bucket_owner).ok_or_else(unknown)).transpose();
    }
    if canned.is_some() {
        let message = "Specifying both Canned ACLs and Header Grants is not allowed";
        return Err(invalid("InvalidRequest", message));
    }
    let mut grants = Vec::new();
    for permission in Permission::ALL {
        for grantee in text(headers, permission.header()).unwrap_or_default().split(',').map(str::trim) {
            if grantee.is_empty() {
                continue;
            }
            let malformed = || invalid_argument("Argument format not recognized");
            let (kind, value) = grantee.split_once('=').ok_or_else(malformed)?;
            let value = value.trim().trim_matches('"');
            let grantee = match kind.trim().to_ascii_lowercase().as_str() {
                "id" => Grantee::Account(account_by_canonical_id(txn, value)?),
                "uri" => group(value)?,
                "emailaddress" => return by_email(),
                _ => return Err(malformed()),
            };
            grants.push((grantee, permission));
        }
    }
    checked_size(grants.len())?;
    Ok(Some(Acl::new(owner, grants)))
}

fn checked_size(grants: usize) -> S3Result<()> {
    if grants > MAX_GRANTS {
        let message = "The XML you provided was not well-formed or did not validate against our published schema";
        return Err(invalid("MalformedACLError", message));
    }
    Ok(())
}

/// The list that a document gives.
fn from_document(txn: &Txn, document: AccessControlPolicy, owner: AccountId) -> S3Result<Acl> {
    let malformed = || {
        let message = "The XML you provided was not well-formed or did not validate against our published schema";
        invalid("MalformedACLError", message)
    };
    let named = document.owner.and_then(|owner| owner.id).ok_or_else(malformed)?;
    if named != canonical_id(owner) {
        return Err(super::error::access_denied());
    }
    let given = document.grants.unwrap_or_default();
    checked_size(given.len())?;
    let mut grants = Vec::with_capacity(given.len());
    for grant in given {
        let (Some(grantee), Some(permission)) = (grant.grantee, grant.permission) else { return Err(malformed()) };
        let permission = Permission::parse(permission.as_str()).ok_or_else(malformed)?;
        let grantee = match (grantee.type_.as_str(), grantee.id, grantee.uri) {
            (Type::CANONICAL_USER, Some(id), _) => Grantee::Account(account_by_canonical_id(txn, &id)?),
            (Type::GROUP, _, Some(uri)) => group(&uri)?,
            (Type::AMAZON_CUSTOMER_BY_EMAIL, ..) => return by_email(),
            _ => return Err(malformed()),
        };
        grants.push((grantee, permission));
    }
    Ok(Acl::new(owner, grants))
}

fn shown(acl: &Acl) -> (Option<Vec<ShownGrant>>, Option<Owner>) {
    let grant = |grant: &crate::acl::Grant| {
        let grantee = match grant.grantee {
            Grantee::Account(account) => ShownGrantee {
                display_name: Some(account.to_string()),
                email_address: None,
                id: Some(canonical_id(account)),
                type_: Type::from_static(Type::CANONICAL_USER),
                uri: None,
            },
            other => ShownGrantee {
                display_name: None,
                email_address: None,
                id: None,
                type_: Type::from_static(Type::GROUP),
                uri: other.group().map(str::to_owned),
            },
        };
        let permission = Some(ShownPermission::from(grant.permission.name().to_owned()));
        ShownGrant { grantee: Some(grantee), permission }
    };
    (Some(acl.grants.iter().map(grant).collect()), Some(owner(acl.owner)))
}

impl S3Api {
    /// What a new bucket is told by the headers of its creation.
    pub(super) fn new_guard(
        &self,
        txn: &Txn,
        headers: &HeaderMap,
        ownership: Option<&ObjectOwnership>,
        account: AccountId,
    ) -> S3Result<Guard> {
        let mut guard = self.guard_of_new_buckets().in_account(txn, account).map_err(from_domain)?;
        if let Some(ownership) = ownership {
            let unknown = || invalid_argument("Invalid x-amz-object-ownership header");
            guard.ownership = Some(Ownership::parse(ownership.as_str()).ok_or_else(unknown)?);
        }
        if let Some(acl) = from_headers(txn, headers, account, None)? {
            if !guard.has_acls() && !acl.is_private() {
                return Err(from_domain(guard::acl_with_ownership()));
            }
            guard.admit_acl(&acl).map_err(from_domain)?;
            guard.acl = Some(acl).filter(|acl| *acl != Acl::private(account));
        }
        Ok(guard)
    }

    /// The list of an object that a request writes. None: the bucket owner's, and private.
    ///
    /// # Errors
    /// `AccessControlListNotSupported`, `AccessDenied` for what is blocked, and those of malformed lists.
    pub(super) async fn new_object_acl<T>(&self, request: &S3Request<T>) -> S3Result<Option<Acl>> {
        let (scope, Found { bucket, guard, .. }) = (request.scope()?, request.found()?);
        let canned = text(&request.headers, "x-amz-acl");
        let gives_grants = has_grants(&request.headers);
        if !guard.has_acls() {
            let nothing = !gives_grants && canned.is_none_or(|name| name == FULL_CONTROL);
            return if nothing { Ok(None) } else { Err(from_domain(guard::no_acls())) };
        }
        // What nobody has signed is the bucket owner's, too.
        let is_own = scope.caller.account == bucket.account || scope.caller.kind == CallerKind::Anonymous;
        let given_away = guard.ownership() == Ownership::BucketOwnerPreferred && canned == Some(FULL_CONTROL);
        if is_own && canned.is_none() && !gives_grants {
            return Ok(None);
        }
        let owner = if is_own || given_away { bucket.account } else { scope.caller.account };
        let given = if canned.is_some() || gives_grants {
            let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
            from_headers(&txn, &request.headers, owner, Some(bucket.account))?
        } else {
            None
        };
        let acl = given.unwrap_or_else(|| Acl::private(owner));
        guard.admit_acl(&acl).map_err(from_domain)?;
        if owner != bucket.account && !guard.has_foreign_objects {
            let note = |_: &Txn, guard: &mut Guard| {
                guard.has_foreign_objects = true;
                Ok(())
            };
            self.change_bucket(bucket, |txn, bucket| guard::change(txn, bucket, note)).await?;
        }
        Ok(Some(acl).filter(|acl| *acl != Acl::private(bucket.account)))
    }

    /// The list that a request about a list gives, in its headers or its document.
    async fn requested_acl(
        &self,
        headers: &HeaderMap,
        document: Option<AccessControlPolicy>,
        owner: AccountId,
        bucket_owner: Option<AccountId>,
    ) -> S3Result<Acl> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        match (from_headers(&txn, headers, owner, bucket_owner)?, document) {
            (Some(acl), None) => Ok(acl),
            (None, Some(document)) => from_document(&txn, document, owner),
            (Some(_), Some(_)) => Err(invalid("UnexpectedContent", "This request does not support content")),
            (None, None) => Err(invalid("MissingSecurityHeader", "Your request was missing a required header")),
        }
    }

    pub(super) async fn get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let Found { bucket, guard, .. } = request.found()?;
        let (grants, owner) = shown(&guard.bucket_acl(bucket.account));
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(super) async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let Found { bucket, guard, .. } = request.found()?.clone();
        if !guard.has_acls() {
            return Err(from_domain(guard::no_acls()));
        }
        let document = request.input.access_control_policy;
        let acl = self.requested_acl(&request.headers, document, bucket.account, None).await?;
        self.change_bucket(&bucket, |txn, bucket| guard::put_acl(txn, bucket, acl.clone())).await?;
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }

    pub(super) async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let found = self.backend().head(&place, version.as_ref()).await.map_err(from_backend)?;
        let head = self.need(&request, version.as_ref(), found).await?;
        let Found { bucket, guard, .. } = request.found()?;
        let (grants, owner) = shown(&acl_of(guard, bucket.account, &head));
        Ok(S3Response::new(GetObjectAclOutput { grants, owner, ..Default::default() }))
    }

    pub(super) async fn put_object_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let version = asked_version(request.input.version_id.as_deref())?;
        let place = request.place(&request.input.key)?;
        let Found { bucket, guard, .. } = request.found()?.clone();
        if !guard.has_acls() {
            return Err(from_domain(guard::no_acls()));
        }
        let found = self.backend().head(&place, version.as_ref()).await.map_err(from_backend)?;
        let head = self.need(&request, version.as_ref(), found).await?;
        let object_owner = acl_of(&guard, bucket.account, &head).owner;
        let notes = self.notes(request.scope()?, &bucket, &place.key, &[crate::notification::Event::AclPut])?;
        let document = request.input.access_control_policy;
        let acl = self.requested_acl(&request.headers, document, object_owner, Some(bucket.account)).await?;
        guard.admit_acl(&acl).map_err(from_domain)?;
        let acl = Some(acl).filter(|acl| *acl != Acl::private(bucket.account));
        // The version that was looked at, so that nobody sets the list of another owner's.
        let version = self.backend().set_acl(&place, &head.version, acl, notes).await.map_err(from_backend)?;
        let versioning = self.versioning(&bucket)?;
        let mut response = S3Response::new(PutObjectAclOutput::default());
        if let Some(version) = shown_version(versioning, &version)
            && let Ok(value) = http::HeaderValue::from_str(&version)
        {
            response.headers.insert("x-amz-version-id", value);
        }
        Ok(response)
    }

    pub(super) async fn get_bucket_ownership_controls(
        &self,
        request: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        let Some(ownership) = request.found()?.guard.ownership else {
            let message = "The bucket ownership controls were not found";
            return Err(s3("OwnershipControlsNotFoundError", StatusCode::NOT_FOUND, message));
        };
        let object_ownership = ObjectOwnership::from_static(ownership.name());
        let ownership_controls = Some(OwnershipControls { rules: vec![OwnershipControlsRule { object_ownership }] });
        Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
    }

    pub(super) async fn put_bucket_ownership_controls(
        &self,
        request: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
        let bucket = request.bucket()?.clone();
        let [rule] = request.input.ownership_controls.rules.as_slice() else {
            return Err(super::error::malformed_xml());
        };
        let ownership = Ownership::parse(rule.object_ownership.as_str()).ok_or_else(super::error::malformed_xml)?;
        self.change_bucket(&bucket, |txn, bucket| guard::put_ownership(txn, bucket, ownership)).await?;
        Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
    }

    pub(super) async fn delete_bucket_ownership_controls(
        &self,
        request: S3Request<DeleteBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
        let bucket = request.bucket()?.clone();
        let forget = |_: &Txn, guard: &mut Guard| {
            guard.ownership = None;
            Ok(())
        };
        self.change_bucket(&bucket, |txn, bucket| guard::change(txn, bucket, forget)).await?;
        Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
    }
}
