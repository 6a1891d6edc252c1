use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A tenant's number: exactly twelve decimal digits, as AWS writes account ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u64);

impl AccountId {
    const LIMIT: u64 = 1_000_000_000_000;

    /// Of no tenant: stands for callers without an account, such as anonymous ones, and owns what the cloud itself offers
    /// to everybody.
    pub const NOBODY: Self = Self(0);

    /// `None` unless `number` fits into twelve digits.
    pub const fn from_number(number: u64) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AccountId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() == 12
            && text.bytes().all(|b| b.is_ascii_digit())
            && let Ok(number) = text.parse()
        {
            return Ok(Self(number));
        }
        Err(Error::invalid("InvalidParameterValue", format!("'{text}' is not an account id of twelve digits")))
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_digits_and_nothing_else() {
        assert_eq!("000000000042".parse::<AccountId>().unwrap().to_string(), "000000000042");
        for bad in ["", "42", "0000000000420", "00000000004x", "-00000000042", "+00000000042"] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad}");
        }
    }
}
