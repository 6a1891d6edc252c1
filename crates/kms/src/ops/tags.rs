use terroir_resources::{MAX_TAGS, Tags};
use terroir_store::Txn;
use terroir_types::Error;

use super::check_not_deleted;
use super::key::change;
use crate::model::KmsKey;

/// Errors: `TagException`; `LimitExceededException` for more than 50.
pub(super) fn check(tags: &Tags) -> Result<(), Error> {
    if tags.len() > MAX_TAGS {
        return Err(Error::limit("LimitExceededException", format!("A key has at most {MAX_TAGS} tags.")));
    }
    let wrong = |message: &str| Err(Error::invalid("TagException", message));
    for (name, value) in tags {
        let allowed = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
        if name.is_empty() || name.chars().count() > 128 || value.chars().count() > 256 {
            return wrong("Tag keys have 1 to 128 characters, values at most 256.");
        }
        if name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return wrong("aws: prefixed tag key names are not allowed for external use.");
        }
        if !name.chars().chain(value.chars()).all(allowed) {
            return wrong("Tag keys and values have letters, numbers, spaces and _.:/=+-@.");
        }
    }
    Ok(())
}

/// Errors: `TagException`, `LimitExceededException`, `KMSInvalidStateException`.
pub fn tag(txn: &mut Txn, key: &KmsKey, region: &str, tags: &Tags) -> Result<KmsKey, Error> {
    check_not_deleted(key, region)?;
    let mut all = key.tenant.tags.clone();
    all.extend(tags.clone());
    check(&all)?;
    change(txn, key, |key| key.tenant.tags = all)
}

/// Errors: `KMSInvalidStateException`.
pub fn untag(txn: &mut Txn, key: &KmsKey, region: &str, names: &[String]) -> Result<KmsKey, Error> {
    check_not_deleted(key, region)?;
    change(txn, key, |key| key.tenant.tags.retain(|name, _| !names.contains(name)))
}
