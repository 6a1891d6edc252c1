use serde::{Deserialize, Serialize};
use std::fmt;

use crate::{AccountId, Error};

/// An Amazon Resource Name, `arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE`, kept as its text.
///
/// S3 ARNs have neither region nor account; IAM ARNs have no region.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arn(String);

impl Arn {
    pub fn new(service: &str, region: &str, account: Option<AccountId>, resource: impl fmt::Display) -> Self {
        match account {
            Some(account) => Self(format!("arn:aws:{service}:{region}:{account}:{resource}")),
            None => Self(format!("arn:aws:{service}:{region}::{resource}")),
        }
    }

    /// `arn:aws:iam::ACCOUNT:RESOURCE`, for example `user/alice`.
    pub fn iam(account: AccountId, resource: impl fmt::Display) -> Self {
        Self::new("iam", "", Some(account), resource)
    }

    /// `arn:aws:s3:::BUCKET` or `arn:aws:s3:::BUCKET/KEY`.
    pub fn s3(path: impl fmt::Display) -> Self {
        Self::new("s3", "", None, path)
    }

    /// Errors: `InvalidParameterValue` unless the text has six parts and starts with `arn:`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.splitn(6, ':');
        let is_arn = parts.next() == Some("arn") && parts.count() == 5;
        if is_arn {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid("InvalidParameterValue", format!("'{text}' is not a valid ARN")))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, index: usize) -> &str {
        self.0.splitn(6, ':').nth(index).unwrap_or_default()
    }

    pub fn service(&self) -> &str {
        self.part(2)
    }

    pub fn region(&self) -> &str {
        self.part(3)
    }

    pub fn account(&self) -> Option<AccountId> {
        self.part(4).parse().ok()
    }

    pub fn resource(&self) -> &str {
        self.part(5)
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_arn() {
        let account = AccountId::from_number(123_456_789_012).unwrap();
        let arn = Arn::new("ec2", "eu-west-1", Some(account), "instance/i-1:2");
        assert_eq!(arn.as_str(), "arn:aws:ec2:eu-west-1:123456789012:instance/i-1:2");
        assert_eq!((arn.service(), arn.region(), arn.resource()), ("ec2", "eu-west-1", "instance/i-1:2"));
        assert_eq!(arn.account(), Some(account));
        assert_eq!(Arn::s3("bucket/key").as_str(), "arn:aws:s3:::bucket/key");
        assert_eq!(Arn::parse("arn:aws:s3:::b").unwrap().account(), None);
        assert!(Arn::parse("arn:aws:s3").is_err());
    }
}
