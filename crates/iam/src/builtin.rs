//! Managed policies that every account has, under the names and ARNs that AWS gives them.
//!
//! The documents are our own: they say what AWS documents the policy to be for, in terms of what exists here.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::LazyLock;
use terroir_types::{Arn, Timestamp};

#[derive(Debug, PartialEq, Eq)]
pub struct BuiltinPolicy {
    pub name: &'static str,
    pub document: &'static str,
}

macro_rules! policy {
    ($statements:literal) => {
        concat!("{\"Version\":\"2012-10-17\",\"Statement\":[", $statements, "]}")
    };
}

pub const ALL: &[BuiltinPolicy] = &[
    BuiltinPolicy {
        name: "AdministratorAccess",
        document: policy!(r#"{"Effect":"Allow","Action":"*","Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "AmazonEC2FullAccess",
        document: policy!(r#"{"Effect":"Allow","Action":"ec2:*","Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "AmazonEC2ReadOnlyAccess",
        document: policy!(r#"{"Effect":"Allow","Action":["ec2:Describe*","ec2:Get*"],"Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "AmazonS3FullAccess",
        document: policy!(r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "AmazonS3ReadOnlyAccess",
        document: policy!(r#"{"Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "AmazonVPCFullAccess",
        document: policy!(
            r#"{"Effect":"Allow","Action":["ec2:*Address*","ec2:*DhcpOptions","ec2:*InternetGateway*","ec2:*NetworkInterface*","ec2:*Route*","ec2:*SecurityGroup*","ec2:*Subnet*","ec2:*Vpc*","ec2:CreateTags","ec2:DeleteTags","ec2:DescribeTags","ec2:DescribeAvailabilityZones","ec2:DescribeInstances"],"Resource":"*"}"#
        ),
    },
    BuiltinPolicy { name: "IAMFullAccess", document: policy!(r#"{"Effect":"Allow","Action":"iam:*","Resource":"*"}"#) },
    BuiltinPolicy {
        name: "IAMReadOnlyAccess",
        document: policy!(r#"{"Effect":"Allow","Action":["iam:Get*","iam:List*"],"Resource":"*"}"#),
    },
    BuiltinPolicy {
        name: "PowerUserAccess",
        document: policy!(
            r#"{"Effect":"Allow","NotAction":"iam:*","Resource":"*"},{"Effect":"Allow","Action":["iam:GetRole","iam:ListRoles"],"Resource":"*"}"#
        ),
    },
    BuiltinPolicy {
        name: "ReadOnlyAccess",
        document: policy!(
            r#"{"Effect":"Allow","Action":["ec2:Describe*","ec2:Get*","iam:Get*","iam:List*","s3:Get*","s3:List*","sts:Get*"],"Resource":"*"}"#
        ),
    },
];

impl BuiltinPolicy {
    /// Derived from the name: `ANPA` and 17 characters.
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.name.as_bytes());
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let letters = digest.iter().take(17).map(|byte| char::from(alphabet[usize::from(byte % 32)]));
        "ANPA".chars().chain(letters).collect()
    }

    pub fn arn(&self) -> Arn {
        // Their account is the word `aws`. Six parts are always an ARN.
        Arn::parse(&format!("arn:aws:iam::aws:policy/{}", self.name)).expect("a well-formed ARN")
    }

    pub const fn created_at() -> Timestamp {
        Timestamp::from_secs(1_420_070_400)
    }
}

pub fn by_arn(arn: &Arn) -> Option<&'static BuiltinPolicy> {
    let name = arn.as_str().strip_prefix("arn:aws:iam::aws:policy/")?;
    ALL.iter().find(|policy| policy.name == name)
}

/// By id; with the SHA-256 of its document in hex. Every request of a holder looks here.
static BY_ID: LazyLock<HashMap<String, (&'static BuiltinPolicy, String)>> = LazyLock::new(|| {
    let entry = |policy: &'static BuiltinPolicy| (policy.id(), (policy, crate::ops::document_hash(policy.document)));
    ALL.iter().map(entry).collect()
});

pub fn by_id(id: &str) -> Option<&'static BuiltinPolicy> {
    BY_ID.get(id).map(|(policy, _)| *policy)
}

/// As [`by_id`], with the SHA-256 of the document in hex.
pub fn with_hash(id: &str) -> Option<&'static (&'static BuiltinPolicy, String)> {
    BY_ID.get(id)
}
