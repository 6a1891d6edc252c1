//! How requests name keys: an id, an ARN, `alias/NAME` or the ARN of an alias.

use std::sync::Arc;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Arn, Error};
use uuid::Uuid;

use crate::model::{Alias, KmsKey, key_arn};
use crate::ops::constraint;

const MAX_BYTES: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    Key(AccountId, Uuid),
    /// The name with `alias/`.
    Alias(AccountId, String),
}

impl Reference {
    /// `own` is whose what is named without an account is.
    ///
    /// Errors: `ValidationException`, `InvalidArnException`, `NotFoundException` for what names nothing of this region.
    pub(crate) fn parse(text: &str, own: AccountId, region: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(constraint("keyId", "have length between 1 and 2048"));
        }
        if !text.starts_with("arn:") {
            return Self::of_resource(text, own).ok_or_else(|| not_found(format!("Invalid keyId '{text}'")));
        }
        let invalid = || Error::invalid("InvalidArnException", format!("Invalid arn {text}"));
        let arn = Arn::parse(text).map_err(|_| invalid())?;
        let (true, Some(account)) = (text.starts_with("arn:aws:kms:"), arn.account()) else { return Err(invalid()) };
        if arn.region() != region {
            return Err(not_found(format!("Invalid arn {}", arn.region())));
        }
        let resource = arn.resource();
        match resource.strip_prefix("key/") {
            Some(id) => key_id(id).map(|id| Self::Key(account, id)),
            None => Self::of_resource(resource, account).filter(|named| matches!(named, Self::Alias(..))),
        }
        .ok_or_else(invalid)
    }

    fn of_resource(text: &str, account: AccountId) -> Option<Self> {
        if text.starts_with("alias/") {
            return Some(Self::Alias(account, text.to_owned()));
        }
        key_id(text).map(|id| Self::Key(account, id))
    }

    /// As it was asked for.
    pub(crate) fn arn(&self, region: &str) -> Arn {
        match self {
            Self::Key(account, id) => key_arn(region, *account, id),
            Self::Alias(account, name) => Arn::new("kms", region, Some(*account), name),
        }
    }
}

fn key_id(text: &str) -> Option<Uuid> {
    // The parser takes other forms too.
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text.to_ascii_lowercase())
}

pub(crate) fn not_found(message: impl Into<String>) -> Error {
    Error::not_found("NotFoundException", message)
}

/// What a reference leads to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub reference: Reference,
    pub key: Option<Arc<KmsKey>>,
}

impl Found {
    pub(crate) fn look(txn: &Txn, reference: Reference) -> Result<Self, Error> {
        let (account, id) = match &reference {
            Reference::Key(account, id) => (*account, Some(*id)),
            Reference::Alias(account, name) => {
                (*account, txn.get::<Alias>(&alias_key(txn, *account, name))?.map(|alias| alias.key))
            }
        };
        let key = match id {
            Some(id) => txn.get::<KmsKey>(&KmsKey::key_of(account, id))?,
            None => None,
        };
        Ok(Self { reference, key })
    }

    /// Errors: `NotFoundException`.
    pub(crate) fn key(self, region: &str) -> Result<Arc<KmsKey>, Error> {
        let arn = self.reference.arn(region);
        self.key.ok_or_else(|| match self.reference {
            Reference::Key(..) => not_found(format!("Key '{arn}' does not exist")),
            Reference::Alias(..) => not_found(format!("Alias {arn} is not found.")),
        })
    }
}

pub(crate) fn alias_key(txn: &Txn, account: AccountId, name: &str) -> Key {
    Alias::all(account).child(txn.name_mac(Some(account), "kms-alias", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_key() {
        let (own, other) = (AccountId::from_number(1).unwrap(), AccountId::from_number(2).unwrap());
        let id = "12345678-1234-1234-1234-1234567890ab";
        let parsed = |text: &str| Reference::parse(text, own, "r-1").map_err(|error| error.code().to_owned());
        let key = |account| Ok(Reference::Key(account, Uuid::parse_str(id).unwrap()));
        let alias = |account| Ok(Reference::Alias(account, "alias/x/y".to_owned()));
        let (missing, invalid) = (Err("NotFoundException".to_owned()), Err("InvalidArnException".to_owned()));
        for (text, expected) in [
            (id.to_owned(), key(own)),
            (id.to_uppercase(), key(own)),
            (id.replace('-', ""), missing.clone()),
            (format!("{{{id}}}"), missing.clone()),
            (format!("key/{id}"), missing.clone()),
            ("alias/x/y".to_owned(), alias(own)),
            (format!("arn:aws:kms:r-1:000000000002:key/{id}"), key(other)),
            ("arn:aws:kms:r-1:000000000002:alias/x/y".to_owned(), alias(other)),
            (format!("arn:aws:kms:r-2:000000000002:key/{id}"), missing),
            (format!("arn:aws:kms:r-1:000000000002:{id}"), invalid.clone()),
            (format!("arn:aws:kms:r-1::key/{id}"), invalid.clone()),
            ("arn:aws:s3:::bucket".to_owned(), invalid.clone()),
            ("arn:".to_owned(), invalid),
            (String::new(), Err("ValidationException".to_owned())),
            ("x".repeat(2049), Err("ValidationException".to_owned())),
        ] {
            assert_eq!(parsed(&text), expected, "{text}");
        }
    }
}
