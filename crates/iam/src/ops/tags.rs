use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::Error;

use super::check_tags;
use crate::names::Entity;

/// Sets tags. Keys that differ only in case are one key here, as IAM has it.
///
/// Errors: `InvalidInput`, `LimitExceeded` above fifty.
pub fn tag<T: Entity>(txn: &mut Txn, entity: &T, tags: &Tags) -> Result<(), Error> {
    let mut entity = entity.clone();
    let own = &mut entity.about_mut().tags;
    own.retain(|key, _| !tags.keys().any(|new| new.eq_ignore_ascii_case(key)));
    own.extend(tags.clone());
    check_tags(own)?;
    txn.put(&entity.key(), &entity)
}

/// Removes tags; those that are not there are no error.
pub fn untag<T: Entity>(txn: &mut Txn, entity: &T, keys: &[String]) -> Result<(), Error> {
    let mut entity = entity.clone();
    entity.about_mut().tags.retain(|key, _| !keys.iter().any(|gone| gone.eq_ignore_ascii_case(key)));
    txn.put(&entity.key(), &entity)
}
