//! Whose bucket a request names, and whether its caller may do there what it asks.
//!
//! `iam` decides, from the policies of the caller and of the bucket and from what lists grant. Objects are looked at
//! beforehand only where that can matter: a list of theirs may let the caller in, they may be another account's, or a
//! policy asks for their tags. A decision that rests on an object holds for that version only ([`Basis`]).

use http::HeaderMap;
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3Result};
use std::sync::Arc;
use terroir_action::{Caller, CallerKind, Target};
use terroir_store::Txn;
use terroir_types::{AccountId, Arn};

use super::error::{access_denied, from_backend, from_domain, method_not_allowed, no_such_bucket, no_such_key};
use super::front::RequestScope;
use super::permissions::{ListOf, Need, Needs, copy_source, of_signature, query_pairs};
use super::service::S3Api;
use crate::acl::{Acl, Asker};
use crate::backend::{Lookup, ObjectHead, OpenObject, Place, VersionId};
use crate::guard::{self, Guard};
use crate::model::Bucket;
use crate::ops;

/// A bucket that a request names, and what was read of it.
#[derive(Clone)]
pub(super) struct Found {
    pub bucket: Arc<Bucket>,
    pub guard: Arc<Guard>,
    /// None: the decision rests on no object.
    pub basis: Option<Basis>,
}

/// The bucket of a copy's source.
#[derive(Clone)]
pub(super) struct FoundSource(pub Found);

/// The state of an object that a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Basis {
    Absent,
    Version(VersionId, String),
}

impl Found {
    /// # Errors
    /// `AccessDenied` if the object is not the one that the decision was made for.
    pub(super) fn covers(&self, head: &ObjectHead) -> S3Result<()> {
        match &self.basis {
            None => Ok(()),
            Some(Basis::Version(version, etag)) if *version == head.version && *etag == head.etag => Ok(()),
            Some(_) => Err(access_denied()),
        }
    }
}

/// What has the head of an object.
pub(super) trait OfObject {
    fn head(&self) -> &ObjectHead;
}

impl OfObject for ObjectHead {
    fn head(&self) -> &ObjectHead {
        self
    }
}

impl OfObject for OpenObject {
    fn head(&self) -> &ObjectHead {
        &self.head
    }
}

impl<T> OfObject for (ObjectHead, T) {
    fn head(&self) -> &ObjectHead {
        &self.0
    }
}

pub(super) struct Access(S3Api);

impl Access {
    pub(super) fn new(api: S3Api) -> Self {
        Self(api)
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(scope) = cx.extensions_mut().get::<Arc<RequestScope>>().cloned() else {
            return Err(access_denied());
        };
        let operation = cx.s3_op().name().to_owned();
        let bucket = cx.s3_path().get_bucket_name().map(str::to_owned);
        let key = cx.s3_path().get_object_key().map(str::to_owned);
        // Set once: this is called once per request.
        let _ = scope.operation.set((operation.clone(), bucket.clone(), key.clone()));
        let needs = Needs::read(&operation, &scope, cx)?;
        let txn = self.0.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        match bucket.filter(|_| operation != "CreateBucket") {
            None => self.0.permit_without_bucket(&txn, &scope, needs.own).await?,
            Some(name) => {
                let version = query_pairs(cx.uri()).find(|(name, _)| name == "versionId").map(|(_, version)| version);
                let mut found = self.0.find_bucket(&txn, &scope, &name, &needs.own).await?;
                let object = key.map(|key| (Place::new(found.bucket.id, key), version));
                if !speaks_for_the_owner(&operation, &scope.caller, &found.bucket) {
                    found.basis = self.0.permit(&txn, &scope, &found, &needs.own, object).await?;
                }
                if is_about_the_policy(&operation) && scope.caller.account != found.bucket.account {
                    return Err(method_not_allowed());
                }
                check_expected_owner(cx.headers(), "x-amz-expected-bucket-owner", &found.bucket)?;
                cx.extensions_mut().insert(found);
            }
        }
        if !needs.source.is_empty() {
            let (name, key) = copy_source(cx.headers())?;
            let mut found = self.0.find_bucket(&txn, &scope, &name, &needs.source).await?;
            let version = super::versions::source_version_text(cx.headers());
            let object = Some((Place::new(found.bucket.id, key), version));
            found.basis = self.0.permit(&txn, &scope, &found, &needs.source, object).await?;
            cx.extensions_mut().insert(FoundSource(found));
        }
        Ok(())
    }
}

/// A policy can let others into everything but itself. Source: PutBucketPolicy, GetBucketPolicy and DeleteBucketPolicy of
/// the S3 API reference, which have 405 for those who may and are of another account.
fn is_about_the_policy(operation: &str) -> bool {
    matches!(operation, "GetBucketPolicy" | "PutBucketPolicy" | "DeleteBucketPolicy")
}

/// Nothing keeps an account's root from the policy of its bucket: nobody else could mend it.
fn speaks_for_the_owner(operation: &str, caller: &Caller, bucket: &Bucket) -> bool {
    is_about_the_policy(operation) && caller.kind == CallerKind::Root && caller.account == bucket.account
}

pub(super) fn check_expected_owner(headers: &HeaderMap, name: &str, bucket: &Bucket) -> S3Result<()> {
    match headers.get(name) {
        Some(owner) if owner.as_bytes() != bucket.account.to_string().as_bytes() => Err(access_denied()),
        _ => Ok(()),
    }
}

fn asker(caller: &Caller) -> Asker {
    match caller.kind {
        CallerKind::Anonymous | CallerKind::Service { .. } => Asker::Anonymous,
        _ => Asker::Account(caller.account),
    }
}

impl S3Api {
    async fn permit_without_bucket(&self, txn: &Txn, scope: &RequestScope, needs: Vec<Need>) -> S3Result<()> {
        let targets: Vec<_> = needs.into_iter().map(|need| need.target).collect();
        self.iam().authorize_in(txn, &scope.caller, &targets, &scope.facts).await.map_err(from_domain)
    }

    /// # Errors
    /// `NoSuchBucket`; `AccessDenied` for who might not reach into it if it were the caller's own.
    async fn find_bucket(&self, txn: &Txn, scope: &RequestScope, name: &str, needs: &[Need]) -> S3Result<Found> {
        if let Some(bucket) = ops::find_bucket(txn, name).map_err(from_domain)? {
            let guard = Arc::new(guard::of(txn, &bucket).map_err(from_domain)?);
            return Ok(Found { bucket, guard, basis: None });
        }
        if scope.caller.kind != CallerKind::Anonymous {
            self.permit_without_bucket(txn, scope, needs.to_vec()).await?;
        }
        Err(no_such_bucket())
    }

    /// Whether the caller may do all that is needed in the bucket, to its object if one is named.
    ///
    /// # Errors
    /// `AccessDenied`.
    async fn permit(
        &self,
        txn: &Txn,
        scope: &RequestScope,
        found: &Found,
        needs: &[Need],
        object: Option<(Place, Option<String>)>,
    ) -> S3Result<Option<Basis>> {
        let Found { bucket, guard, .. } = found;
        let caller = &scope.caller;
        let is_own = caller.account == bucket.account;
        let plain = guard.policy.is_none() && !guard.has_foreign_objects;
        if needs.is_empty() || (plain && is_own && caller.kind == CallerKind::Root) {
            return Ok(None);
        }
        let targets: Vec<_> = needs.iter().map(|need| target_in(found, caller, need)).collect();
        let tags = "s3:existingobjecttag/";
        let ruling = self.iam().rule_in(txn, caller, &targets, &scope.facts, tags).await.map_err(from_domain)?;
        let a_list_may_grant = ruling.allowed.is_err()
            && !is_own
            && guard.has_acls()
            && needs.iter().any(|need| matches!(need.list, Some((ListOf::Object, _))));
        let matters = guard.has_foreign_objects || ruling.depends || a_list_may_grant;
        let object = object.filter(|_| matters && needs.iter().any(|need| need.of_object));
        let Some((place, version)) = object else {
            return ruling.allowed.map(|()| None).map_err(from_domain);
        };
        let version = super::versions::asked_version(version.as_deref())?;
        let head = match self.backend().head(&place, version.as_ref()).await.map_err(from_backend)? {
            Lookup::Found(head) => head,
            // What is not there is not given to anybody; the operation says so in the words that the caller may hear.
            Lookup::Marker(_) | Lookup::Missing if a_list_may_grant => return Ok(Some(Basis::Absent)),
            Lookup::Marker(_) | Lookup::Missing => return ruling.allowed.map(|()| None).map_err(from_domain),
        };
        let targets: Vec<_> = needs.iter().map(|need| target_at(found, caller, need, &head)).collect();
        self.iam().authorize_in(txn, caller, &targets, &scope.facts).await.map_err(from_domain)?;
        Ok(Some(Basis::Version(head.version, head.etag)))
    }

    /// Whether the caller may do something more in a bucket that the access hook has found.
    pub(super) async fn may(&self, scope: &RequestScope, found: &Found, needs: &[Need]) -> S3Result<()> {
        self.may_to(scope, found, needs, None).await.map(drop)
    }

    /// The same, to an object that is there; with the version that is named.
    pub(super) async fn may_to(
        &self,
        scope: &RequestScope,
        found: &Found,
        needs: &[Need],
        object: Option<(Place, Option<String>)>,
    ) -> S3Result<Option<Basis>> {
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        self.permit(&txn, scope, found, needs, object).await
    }

    /// Whoever may not list the bucket does not learn which keys are missing.
    pub(super) async fn missing_key_in(&self, scope: &RequestScope, found: &Found, key: &str) -> S3Error {
        let mut list = Target::on("s3:ListBucket", Arn::s3(found.bucket.name()));
        list.keys = of_signature(scope);
        list.keys.push(("s3:prefix".to_owned(), vec![key.to_owned()]));
        match self.may(scope, found, &[Need::new(list)]).await {
            Ok(()) => no_such_key(),
            Err(_) => access_denied(),
        }
    }
}

/// What must be allowed, with the bucket's say in it.
fn target_in(found: &Found, caller: &Caller, need: &Need) -> Target {
    let Found { bucket, guard, .. } = found;
    let granted = match need.list {
        Some((ListOf::Bucket, permission)) if guard.has_acls() => {
            guard.acl.as_ref().is_some_and(|acl| acl.grants(asker(caller), permission, guard.block().ignore_acls))
        }
        _ => false,
    };
    let policy_only_denies = guard.is_restricted_for(caller.account, bucket.account);
    let target = Target { granted, policy_only_denies, ..need.target.clone() };
    target.owned_by(bucket.account, guard.policy.clone())
}

/// The same, with the say of an object that is there.
fn target_at(found: &Found, caller: &Caller, need: &Need, head: &ObjectHead) -> Target {
    let Found { bucket, guard, .. } = found;
    let mut target = target_in(found, caller, need);
    if !need.of_object {
        return target;
    }
    let acl = acl_of(guard, bucket.account, head);
    if acl.owner != bucket.account {
        target.owner = Some(acl.owner);
        target.policy_only_denies = true;
    }
    if let Some((ListOf::Object, permission)) = need.list {
        target.granted = guard.has_acls() && acl.grants(asker(caller), permission, guard.block().ignore_acls);
    }
    let tags = head.meta.tags.iter();
    target.keys.extend(tags.map(|(name, value)| (format!("s3:ExistingObjectTag/{name}"), vec![value.clone()])));
    target
}

/// The list of an object; the bucket owner's where lists do not count.
pub(super) fn acl_of(guard: &Guard, bucket_owner: AccountId, head: &ObjectHead) -> Acl {
    match &head.meta.acl {
        Some(acl) if guard.has_acls() => acl.clone(),
        _ => Acl::private(bucket_owner),
    }
}
