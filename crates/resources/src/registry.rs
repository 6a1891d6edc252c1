use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::sync::Arc;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Error, Timestamp};

use crate::tags::too_many;
use crate::{MAX_TAGS, Tags, validate_tags};

/// The row of one resource, at `resource/<account>/<id>`. The id stands only in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    #[serde(rename = "a")]
    pub account: AccountId,
    /// EC2's name of the type, for example `security-group`.
    #[serde(rename = "k")]
    pub kind: String,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    /// Name of the sovereignty policy that the resource is under; none: the account's.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// When it was deleted, for what is still shown for a while.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    #[serde(skip, default)]
    pub tenant: ResourceTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceTenant {
    #[serde(rename = "t", default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

record!(Resource { kind: "resource", version: 1, account: |r| Some(r.account), tenant: tenant: ResourceTenant });

impl Resource {
    pub fn tags(&self) -> &Tags {
        &self.tenant.tags
    }
}

pub fn key(account: AccountId, id: impl Display) -> Key {
    Key::new(format!("resource/{account}/{id}"))
}

/// Writes the row of a resource that is being created.
///
/// Errors: those of [`validate_tags`]; internal if the id is registered already.
pub fn register(
    txn: &mut Txn,
    account: AccountId,
    id: &str,
    kind: &str,
    tags: Tags,
    now: Timestamp,
) -> Result<(), Error> {
    validate_tags(&tags)?;
    let key = key(account, id);
    if txn.get::<Resource>(&key)?.is_some() {
        return Err(Error::internal(format_args!("{key} is registered already")));
    }
    let row = Resource {
        account,
        kind: kind.to_owned(),
        created_at: now,
        policy: None,
        deleted_at: None,
        tenant: ResourceTenant { tags },
    };
    txn.put(&key, &row)
}

/// Removes the row of a resource that is being deleted, tags included. Nothing happens if there is none.
pub fn unregister(txn: &mut Txn, account: AccountId, id: &str) -> Result<(), Error> {
    txn.delete(&key(account, id));
    Ok(())
}

pub fn find(txn: &Txn, account: AccountId, id: &str) -> Result<Option<Arc<Resource>>, Error> {
    txn.get::<Resource>(&key(account, id))
}

/// The resource's tags, none if it is unknown. Not tracked: nobody conflicts because tags were shown.
pub fn tags(txn: &Txn, account: AccountId, id: &str) -> Result<Tags, Error> {
    Ok(txn.peek::<Resource>(&key(account, id))?.map(|row| row.tags().clone()).unwrap_or_default())
}

/// All rows of an account with their ids, in order of these; not tracked.
pub fn list(txn: &Txn, account: AccountId) -> Result<Vec<(String, Arc<Resource>)>, Error> {
    let rows = txn.peek_range::<Resource>(&Key::new(format!("resource/{account}")))?;
    Ok(rows.into_iter().map(|(key, row)| (key.last().to_owned(), row)).collect())
}

/// Adds tags; a key that is there gets the new value.
///
/// Errors: those of [`validate_tags`]; `TagLimitExceeded` if the resource would have too many; `InvalidID` if it is
/// unknown.
pub fn set_tags(txn: &mut Txn, account: AccountId, id: &str, tags: &Tags) -> Result<(), Error> {
    validate_tags(tags)?;
    change(txn, account, id, |has| {
        has.extend(tags.iter().map(|(key, value)| (key.clone(), value.clone())));
        if has.len() > MAX_TAGS { Err(too_many()) } else { Ok(()) }
    })
}

/// Removes tags by key, or only where they have the given value. What is not there is no error; an empty list removes
/// all tags (as DeleteTags does).
///
/// Errors: `InvalidID` if the resource is unknown.
pub fn remove_tags(
    txn: &mut Txn,
    account: AccountId,
    id: &str,
    which: &[(String, Option<String>)],
) -> Result<(), Error> {
    change(txn, account, id, |has| {
        has.retain(|key, value| {
            let named = |(k, v): &(String, Option<String>)| k == key && v.as_ref().is_none_or(|v| v == value);
            !(which.is_empty() || which.iter().any(named))
        });
        Ok(())
    })
}

fn change(
    txn: &mut Txn,
    account: AccountId,
    id: &str,
    change: impl FnOnce(&mut Tags) -> Result<(), Error>,
) -> Result<(), Error> {
    let key = key(account, id);
    let Some(row) = txn.get::<Resource>(&key)? else {
        return Err(Error::not_found("InvalidID", format!("The ID '{id}' is not valid")));
    };
    let mut tags = row.tags().clone();
    change(&mut tags)?;
    if tags != *row.tags() {
        txn.put(&key, &Resource { tenant: ResourceTenant { tags }, ..Resource::clone(&row) })?;
    }
    Ok(())
}
