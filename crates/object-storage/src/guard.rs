//! Who may reach into a bucket beyond its own account: policy, public access block, ownership of objects, and the
//! bucket's access control list. One record, because each limits what the others may say.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use terroir_action::ResourcePolicy;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Error, ErrorClass};

use crate::acl::Acl;
use crate::model::Bucket;
use crate::settings::{self, BucketSetting};

/// Whose the objects of a bucket are, and whether lists count there.
///
/// Source: "Controlling ownership of objects and disabling ACLs" of the S3 user guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ownership {
    /// All are the bucket owner's; there are no lists.
    #[serde(rename = "e")]
    BucketOwnerEnforced,
    /// The bucket owner's if the writer says so with `bucket-owner-full-control`.
    #[serde(rename = "p")]
    BucketOwnerPreferred,
    /// The writer's. What a bucket has that was told nothing.
    #[default]
    #[serde(rename = "w")]
    ObjectWriter,
}

impl Ownership {
    pub const ALL: [Self; 3] = [Self::BucketOwnerEnforced, Self::BucketOwnerPreferred, Self::ObjectWriter];

    pub const fn name(self) -> &'static str {
        match self {
            Self::BucketOwnerEnforced => "BucketOwnerEnforced",
            Self::BucketOwnerPreferred => "BucketOwnerPreferred",
            Self::ObjectWriter => "ObjectWriter",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ownership| ownership.name() == name)
    }
}

/// Source: "Blocking public access to your Amazon S3 storage" of the S3 user guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PublicAccessBlock {
    /// No list that lets in everybody is taken.
    #[serde(rename = "a", default)]
    pub block_acls: bool,
    /// Grants to everybody do not count.
    #[serde(rename = "i", default)]
    pub ignore_acls: bool,
    /// No policy that lets in everybody is taken.
    #[serde(rename = "p", default)]
    pub block_policy: bool,
    /// A policy that lets in everybody lets in nobody but the bucket's own account.
    #[serde(rename = "r", default)]
    pub restrict: bool,
}

impl PublicAccessBlock {
    /// What AWS gives new buckets since April 2023.
    pub const ALL: Self = Self { block_acls: true, ignore_acls: true, block_policy: true, restrict: true };

    /// What either of the two blocks.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            block_acls: self.block_acls || other.block_acls,
            ignore_acls: self.ignore_acls || other.ignore_acls,
            block_policy: self.block_policy || other.block_policy,
            restrict: self.restrict || other.restrict,
        }
    }
}

/// What is blocked in all buckets of an account, at `object-public-access/<account>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AccountBlock {
    #[serde(rename = "b")]
    block: PublicAccessBlock,
}

record!(AccountBlock { kind: "object-public-access", version: 1 });

fn account_key(account: AccountId) -> Key {
    Key::new(format!("object-public-access/{account}"))
}

/// None: the account was told nothing.
pub fn of_account(txn: &Txn, account: AccountId) -> Result<Option<PublicAccessBlock>, Error> {
    Ok(txn.peek::<AccountBlock>(&account_key(account))?.map(|stored| stored.block))
}

pub fn set_for_account(txn: &mut Txn, account: AccountId, block: Option<PublicAccessBlock>) -> Result<(), Error> {
    match block {
        Some(block) => txn.put(&account_key(account), &AccountBlock { block }),
        None => {
            txn.delete(&account_key(account));
            Ok(())
        }
    }
}

/// What buckets are told when they are made, unless their maker says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewBuckets {
    /// Nothing: they are private, and their owner may open them with a policy or a list.
    #[default]
    Private,
    /// What AWS tells them since April 2023: no lists, and public access is blocked until the owner unblocks it.
    Blocked,
}

impl NewBuckets {
    pub fn guard(self) -> Guard {
        match self {
            Self::Private => Guard::default(),
            Self::Blocked => Guard {
                ownership: Some(Ownership::BucketOwnerEnforced),
                public_access_block: Some(PublicAccessBlock::ALL),
                ..Guard::default()
            },
        }
    }
}

/// What a bucket was told of who may reach into it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guard {
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<ResourcePolicy>>,
    /// Whether the policy lets in everybody.
    #[serde(rename = "u", default)]
    pub policy_is_public: bool,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub public_access_block: Option<PublicAccessBlock>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
    /// None: private.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Acl>,
    /// Whether objects of other accounts may be in it, so that each object has to be asked whose it is.
    #[serde(rename = "f", default)]
    pub has_foreign_objects: bool,
    /// What the account blocks in all its buckets. Not the bucket's own.
    #[serde(skip, default)]
    account_block: PublicAccessBlock,
}

impl BucketSetting for Guard {
    const NAME: &'static str = "guard";
}

impl Guard {
    /// With what the account blocks.
    pub fn in_account(self, txn: &Txn, account: AccountId) -> Result<Self, Error> {
        Ok(Self { account_block: of_account(txn, account)?.unwrap_or_default(), ..self })
    }

    /// What is blocked, by the bucket or by its account.
    pub fn block(&self) -> PublicAccessBlock {
        self.public_access_block.unwrap_or_default().or(self.account_block)
    }

    pub fn ownership(&self) -> Ownership {
        self.ownership.unwrap_or_default()
    }

    /// Whether lists count in this bucket.
    pub fn has_acls(&self) -> bool {
        self.ownership() != Ownership::BucketOwnerEnforced
    }

    /// Whether the policy lets nobody of this account in, because it would let in everybody. What it denies it denies
    /// all the same.
    pub fn is_restricted_for(&self, caller: AccountId, owner: AccountId) -> bool {
        self.policy_is_public && self.block().restrict && caller != owner
    }

    /// The bucket's list.
    pub fn bucket_acl(&self, owner: AccountId) -> Acl {
        match &self.acl {
            Some(acl) if self.has_acls() => acl.clone(),
            _ => Acl::private(owner),
        }
    }

    /// Whether the policy or the list lets in everybody.
    pub fn is_public(&self) -> bool {
        let block = self.block();
        let by_policy = self.policy_is_public && !block.restrict;
        let by_list = self.has_acls() && !block.ignore_acls && self.acl.as_ref().is_some_and(Acl::is_public);
        by_policy || by_list
    }

    /// # Errors
    /// `AccessDenied` if the list lets in everybody and this is blocked.
    pub fn admit_acl(&self, acl: &Acl) -> Result<(), Error> {
        if self.block().block_acls && acl.is_public() {
            let message =
                "Public access control lists (ACLs) are blocked by the BlockPublicAcls block public access setting.";
            return Err(Error::new(ErrorClass::Denied, "AccessDenied", message));
        }
        Ok(())
    }
}

/// What the bucket was told; nothing for most.
pub fn of(txn: &Txn, bucket: &Bucket) -> Result<Guard, Error> {
    settings::peek::<Guard>(txn, bucket.id)?.unwrap_or_default().in_account(txn, bucket.account)
}

/// Changes what a bucket was told. The bucket was read in the same transaction with [`crate::ops::find_bucket`].
pub fn change(
    txn: &mut Txn,
    bucket: &Bucket,
    change: impl FnOnce(&Txn, &mut Guard) -> Result<(), Error>,
) -> Result<(), Error> {
    let before = settings::get::<Guard>(txn, bucket.id)?.unwrap_or_default().in_account(txn, bucket.account)?;
    let mut after = before.clone();
    change(txn, &mut after)?;
    if after != before {
        settings::put(txn, bucket, &after)?;
    }
    Ok(())
}

/// # Errors
/// `MalformedPolicy`; `AccessDenied` if it lets in everybody and this is blocked.
pub fn put_policy(txn: &mut Txn, bucket: &Bucket, policy: ResourcePolicy) -> Result<(), Error> {
    let is_public = terroir_iam::ops::is_public(&policy)?;
    change(txn, bucket, |_, guard| {
        if is_public && guard.block().block_policy {
            let message = "Public policies are blocked by the BlockPublicPolicy block public access setting.";
            return Err(Error::new(ErrorClass::Denied, "AccessDenied", message));
        }
        guard.policy = Some(Arc::new(policy));
        guard.policy_is_public = is_public;
        Ok(())
    })
}

/// # Errors
/// `InvalidBucketAclWithObjectOwnership` if the bucket's list grants others something that would no longer count.
pub fn put_ownership(txn: &mut Txn, bucket: &Bucket, ownership: Ownership) -> Result<(), Error> {
    change(txn, bucket, |_, guard| {
        if ownership == Ownership::BucketOwnerEnforced && guard.acl.as_ref().is_some_and(|acl| !acl.is_private()) {
            return Err(acl_with_ownership());
        }
        guard.ownership = Some(ownership);
        Ok(())
    })
}

/// # Errors
/// `AccessControlListNotSupported` where lists do not count; `AccessDenied` for a public one that is blocked.
pub fn put_acl(txn: &mut Txn, bucket: &Bucket, acl: Acl) -> Result<(), Error> {
    change(txn, bucket, |_, guard| {
        if !guard.has_acls() {
            return Err(no_acls());
        }
        guard.admit_acl(&acl)?;
        guard.acl = Some(acl);
        Ok(())
    })
}

/// For ACLs in a bucket where they do not count.
pub fn no_acls() -> Error {
    Error::invalid("AccessControlListNotSupported", "The bucket does not allow ACLs")
}

/// For a bucket that would have both grants and enforced ownership.
pub fn acl_with_ownership() -> Error {
    let message = "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
    Error::invalid("InvalidBucketAclWithObjectOwnership", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_public_and_what_is_restricted() {
        let [owner, other] = [1, 2].map(|n| AccountId::from_number(n).unwrap());
        let public = Acl::canned("public-read", owner, None).unwrap();
        let policy = Some(Arc::new(ResourcePolicy::default()));
        let open = Guard { policy, policy_is_public: true, acl: Some(public.clone()), ..Guard::default() };
        let with = |block: PublicAccessBlock| Guard { public_access_block: Some(block), ..open.clone() };
        assert!(open.is_public() && !open.is_restricted_for(other, owner));
        let restricted = with(PublicAccessBlock { restrict: true, ..PublicAccessBlock::default() });
        assert!(restricted.is_public(), "by its list");
        assert!(!restricted.is_restricted_for(owner, owner) && restricted.is_restricted_for(other, owner));
        let ignored = with(PublicAccessBlock { ignore_acls: true, ..PublicAccessBlock::default() });
        assert!(ignored.is_public() && !ignored.is_restricted_for(other, owner), "by its policy");
        assert!(!with(PublicAccessBlock::ALL).is_public());
        let named = Guard { policy_is_public: false, ..restricted.clone() };
        assert!(!named.is_restricted_for(other, owner), "a policy that names whom it lets in is not restricted");
        let block = PublicAccessBlock { block_acls: true, ..PublicAccessBlock::default() };
        assert_eq!(with(block).admit_acl(&public).unwrap_err().code(), "AccessDenied");
        assert!(with(block).admit_acl(&Acl::private(owner)).is_ok());
        let enforced = Guard { ownership: Some(Ownership::BucketOwnerEnforced), ..open };
        assert_eq!(enforced.bucket_acl(owner), Acl::private(owner));
    }
}
