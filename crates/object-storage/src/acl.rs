//! Access control lists: who is granted what on a bucket or an object. Pure.
//!
//! Source: "Access control list (ACL) overview" of the S3 user guide. The owner's own access does not come from here: an
//! account's policies decide what its users may do with what it owns.

use serde::{Deserialize, Serialize};
use terroir_types::AccountId;

/// Most grants that a list may have.
pub const MAX_GRANTS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grantee {
    /// Anybody, signed or not.
    #[serde(rename = "e")]
    Everyone,
    /// Anybody who signs, of any account.
    #[serde(rename = "s")]
    Signed,
    /// The service that delivers access logs.
    #[serde(rename = "l")]
    LogDelivery,
    #[serde(rename = "a")]
    Account(AccountId),
}

/// What stands for an account where S3 has canonical user ids: 64 hexadecimal digits, as AWS's are.
pub fn canonical_id(account: AccountId) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(format!("terroir account {account}")))
}

const EVERYONE: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const SIGNED: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

impl Grantee {
    /// The name of a group; none for accounts.
    pub const fn group(self) -> Option<&'static str> {
        match self {
            Self::Everyone => Some(EVERYONE),
            Self::Signed => Some(SIGNED),
            Self::LogDelivery => Some(LOG_DELIVERY),
            Self::Account(_) => None,
        }
    }

    pub fn parse_group(name: &str) -> Option<Self> {
        [Self::Everyone, Self::Signed, Self::LogDelivery].into_iter().find(|grantee| grantee.group() == Some(name))
    }

    pub const fn is_public(self) -> bool {
        matches!(self, Self::Everyone | Self::Signed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Permission {
    #[serde(rename = "f")]
    FullControl,
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "w")]
    Write,
    #[serde(rename = "p")]
    ReadAcp,
    #[serde(rename = "q")]
    WriteAcp,
}

impl Permission {
    pub const ALL: [Self; 5] = [Self::FullControl, Self::Read, Self::Write, Self::ReadAcp, Self::WriteAcp];

    /// As XML has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullControl => "FULL_CONTROL",
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ReadAcp => "READ_ACP",
            Self::WriteAcp => "WRITE_ACP",
        }
    }

    /// The request header that grants it.
    pub const fn header(self) -> &'static str {
        match self {
            Self::FullControl => "x-amz-grant-full-control",
            Self::Read => "x-amz-grant-read",
            Self::Write => "x-amz-grant-write",
            Self::ReadAcp => "x-amz-grant-read-acp",
            Self::WriteAcp => "x-amz-grant-write-acp",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    #[serde(rename = "g")]
    pub grantee: Grantee,
    #[serde(rename = "p")]
    pub permission: Permission,
}

/// The grants of a bucket or an object and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    #[serde(rename = "o")]
    pub owner: AccountId,
    #[serde(rename = "g")]
    pub grants: Vec<Grant>,
}

/// Who asks, as far as lists distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Anonymous,
    Account(AccountId),
}

impl Acl {
    /// Nobody but the owner.
    pub fn private(owner: AccountId) -> Self {
        Self::new(owner, [(Grantee::Account(owner), Permission::FullControl)])
    }

    /// Groups come first, then accounts; nothing stands twice.
    pub fn new(owner: AccountId, grants: impl IntoIterator<Item = (Grantee, Permission)>) -> Self {
        let mut grants: Vec<_> =
            grants.into_iter().map(|(grantee, permission)| Grant { grantee, permission }).collect();
        grants.sort();
        grants.dedup();
        Self { owner, grants }
    }

    /// The list that a name such as `public-read` stands for; none if there is no such name. `bucket_owner`: of the
    /// bucket that the object is in; none for a bucket's own list.
    pub fn canned(name: &str, owner: AccountId, bucket_owner: Option<AccountId>) -> Option<Self> {
        use Grantee::{Account, Everyone, LogDelivery, Signed};
        use Permission::{FullControl, Read, ReadAcp, Write};
        let mut grants = vec![(Account(owner), FullControl)];
        match (name, bucket_owner) {
            ("private", _) => {}
            ("public-read", _) => grants.push((Everyone, Read)),
            ("public-read-write", _) => grants.extend([(Everyone, Read), (Everyone, Write)]),
            ("authenticated-read", _) => grants.push((Signed, Read)),
            ("log-delivery-write", None) => grants.extend([(LogDelivery, Write), (LogDelivery, ReadAcp)]),
            // A bucket's owner has its own already.
            ("bucket-owner-read" | "bucket-owner-full-control", None) => {}
            ("bucket-owner-read", Some(bucket)) if bucket != owner => grants.push((Account(bucket), Read)),
            ("bucket-owner-full-control", Some(bucket)) => grants.push((Account(bucket), FullControl)),
            ("bucket-owner-read", Some(_)) => {}
            _ => return None,
        }
        Some(Self::new(owner, grants))
    }

    /// Whether a grant lets the asker do what needs `permission`. `ignore_public`: grants to groups do not count.
    /// Whether this very grant, or full control, is given.
    pub fn has(&self, grantee: Grantee, permission: Permission) -> bool {
        let counts = |given: Permission| given == permission || given == Permission::FullControl;
        self.grants.iter().any(|grant| grant.grantee == grantee && counts(grant.permission))
    }

    pub fn grants(&self, asker: Asker, permission: Permission, ignore_public: bool) -> bool {
        self.grants.iter().any(|grant| {
            let counts = grant.permission == permission || grant.permission == Permission::FullControl;
            let meant = match grant.grantee {
                Grantee::Everyone => !ignore_public,
                Grantee::Signed => !ignore_public && asker != Asker::Anonymous,
                Grantee::LogDelivery => false,
                Grantee::Account(account) => asker == Asker::Account(account),
            };
            counts && meant
        })
    }

    /// Whether it lets in people whom the owner does not know.
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| grant.grantee.is_public())
    }

    /// Whether it says nothing beyond what the owner has anyway.
    pub fn is_private(&self) -> bool {
        self.grants.iter().all(|grant| grant.grantee == Grantee::Account(self.owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Asker::{Account as By, Anonymous};
    use Permission::*;

    #[test]
    fn what_canned_lists_grant() {
        let [owner, bucket, other] = [1, 2, 3].map(|n| AccountId::from_number(n).unwrap());
        let of_object = |name: &str| Acl::canned(name, owner, Some(bucket)).unwrap();
        let rows: &[(&str, &[(Asker, Permission, bool)])] = &[
            ("private", &[(Anonymous, Read, false), (By(other), Read, false), (By(owner), WriteAcp, true)]),
            ("public-read", &[(Anonymous, Read, true), (Anonymous, ReadAcp, false), (By(other), Read, true)]),
            ("public-read-write", &[(Anonymous, Write, true), (By(other), Write, true), (By(other), WriteAcp, false)]),
            ("authenticated-read", &[(Anonymous, Read, false), (By(other), Read, true), (By(other), Write, false)]),
            ("bucket-owner-read", &[(By(bucket), Read, true), (By(bucket), ReadAcp, false), (By(other), Read, false)]),
            ("bucket-owner-full-control", &[(By(bucket), WriteAcp, true), (By(other), Read, false)]),
        ];
        for (name, asked) in rows {
            let acl = of_object(name);
            for (asker, permission, granted) in *asked {
                assert_eq!(acl.grants(*asker, *permission, false), *granted, "{name}: {asker:?} {permission:?}");
                let by_name = matches!(asker, By(account) if [owner, bucket].contains(account));
                assert_eq!(acl.grants(*asker, *permission, true), *granted && by_name, "{name}, groups ignored");
            }
            assert_eq!(acl.is_public(), name.contains("public") || name.contains("authenticated"), "{name}");
            assert_eq!(acl.is_private(), *name == "private", "{name}");
        }
        assert_eq!(Acl::canned("log-delivery-write", owner, Some(bucket)), None, "of buckets only");
        assert_eq!(Acl::canned("public", owner, None), None);
        assert!(Acl::canned("bucket-owner-full-control", owner, None).unwrap().is_private());
        let log = Acl::canned("log-delivery-write", owner, None).unwrap();
        assert!(!log.grants(By(other), Write, false) && !log.is_public() && !log.is_private());
    }
}
