use terroir_policy::{Forbidden, KeyCustody, Place, Policy, decide, separate};
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, ErrorClass, Timestamp};

use super::{effective_policy, zone_place};
use crate::model::StoreSite;
use crate::receipt::{Event, Fact, Stay, note, policy_digest};

fn key() -> Key {
    Key::new("store-site/objects")
}

/// Says at which site the region's object store is: objects, images and snapshots are there.
pub fn set_store_site(txn: &mut Txn, site: &str) -> Result<(), Error> {
    let record = StoreSite { site: site.to_owned() };
    match txn.get::<StoreSite>(&key())? {
        Some(known) if *known == record => Ok(()),
        _ => txn.put(&key(), &record),
    }
}

fn store_site(txn: &Txn) -> Result<String, Error> {
    Ok(txn.peek::<StoreSite>(&key())?.map(|record| record.site.clone()).unwrap_or_default())
}

/// Whether the policy of the account, and that of the tags, let something be in the object store, which keeps one copy.
///
/// Errors: `code`, with the rule; those of [`effective_policy`].
pub fn check_store(txn: &Txn, account: AccountId, tags: &Tags, code: &'static str) -> Result<Policy, Error> {
    let policy = effective_policy(txn, account, tags)?;
    if policy.is_open() {
        return Ok(policy);
    }
    let site = store_site(txn)?;
    if let Some(rule) = forbidding(txn, &policy, &site)? {
        return Err(denied(code, format_args!("the object store is at {site}, and {rule}")));
    }
    Ok(policy)
}

/// Whether the policy of the account lets bytes of its objects be in a foreign store, too. `site`: where the operator says
/// that is; what is signed about that site counts, and without one nothing is stated.
///
/// Errors: `code`, with the rule; those of [`effective_policy`].
pub fn check_foreign_store(
    txn: &Txn,
    account: AccountId,
    name: &str,
    site: Option<&str>,
    code: &'static str,
) -> Result<(), Error> {
    let policy = effective_policy(txn, account, &Tags::new())?;
    if policy.is_open() {
        return Ok(());
    }
    let rule = forbidding(txn, &policy, site.unwrap_or_default())?;
    let place = match site {
        Some(site) if rule.is_some() => format!("that is at {site}"),
        Some(_) => return Ok(()),
        // Whatever the policy demands, there is nothing that could fulfil it.
        None => "nobody has stated where that is".to_owned(),
    };
    let rule = rule.map_or(String::new(), |rule| format!(", and {rule}"));
    Err(denied(code, format_args!("the bytes of objects go to the foreign store {name}; {place}{rule}")))
}

/// The rule that forbids one copy at the site. What is not known of the site is not stated.
fn forbidding(txn: &Txn, policy: &Policy, site: &str) -> Result<Option<Forbidden>, Error> {
    let (operator, stated) = match &zone_place(txn, site)? {
        Some((operator, site)) => (operator.operator.clone(), site.site.clone()),
        None => Default::default(),
    };
    let place = Place { key_custody: KeyCustody::Operator, ..Place::new(&operator, &stated) };
    Ok(decide(policy, &place).and_then(|()| separate(policy, &[place])).err())
}

fn denied(code: &'static str, why: std::fmt::Arguments<'_>) -> Error {
    let message = format!("The sovereignty policy leaves no place for it: {why}.");
    Error::new(ErrorClass::Denied, code, message)
}

/// Tells the receipts' log of something in the object store.
pub fn note_store(
    txn: &mut Txn,
    account: AccountId,
    resource: &str,
    kind: &str,
    event: Event,
    policy: Option<&Policy>,
    now: Timestamp,
) -> Result<(), Error> {
    let site = store_site(txn)?;
    let digest = policy.map(policy_digest).unwrap_or_default();
    let stay = Stay { host: None, site: &site };
    note(txn, &[Fact { account, resource, kind, event, stay, from: None, policy: &digest }], now)
}
