//! Where the bytes of larger objects go: to this machine's disk, or to a foreign S3 that the operator has named.
//!
//! What is written stays where it was written; the operator's choice is for what comes. Bytes are sealed before they leave,
//! under a key for each target that is kept here.
//!
//! A foreign store is a place like any other: an account with a sovereignty policy has no bytes there unless the site that
//! the operator says it is at, as that site's own operator has signed it, fulfils the policy.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Clock, Error, IdSource, Secret};
use zeroize::Zeroizing;

use crate::backend::local::NewRemote;
use crate::encryption::DataKey;
use crate::foreign::ForeignS3;
use crate::outbound::Outbound;
use crate::target::{self, Destination, ForeignBucket};

const ACCESS_DENIED: &str = "AccessDenied";

/// At `object-engine/cell`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    #[serde(skip, default)]
    pub tenant: EngineTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineTenant {
    /// The target that takes new bytes; none: the disk.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Of every target that ever took bytes.
    #[serde(rename = "k", default)]
    keys: BTreeMap<String, Secret<[u8; 32]>>,
    /// The sites that targets are at, as far as the operator has said so.
    #[serde(rename = "s", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, String>,
}

record!(Engine { kind: "object-engine", version: 1, account: |_r| None, tenant: tenant: EngineTenant });

fn key() -> Key {
    Key::new("object-engine/cell")
}

/// Not tracked.
pub fn engine(txn: &Txn) -> Result<Arc<Engine>, Error> {
    Ok(txn.peek::<Engine>(&key())?.unwrap_or_default())
}

/// Whether bytes may lie at the target.
pub fn uses(txn: &Txn, name: &str) -> Result<bool, Error> {
    Ok(txn.get::<Engine>(&key())?.is_some_and(|engine| engine.tenant.keys.contains_key(name)))
}

/// Whether the account's bytes may lie where new ones go.
///
/// # Errors
/// `AccessDenied` names the rule of its sovereignty policy that forbids it.
pub fn check(txn: &Txn, account: AccountId) -> Result<(), Error> {
    let engine = engine(txn)?;
    engine.tenant.current.as_ref().map_or(Ok(()), |name| check_at(txn, &engine, account, name))
}

fn check_at(txn: &Txn, engine: &Engine, account: AccountId, name: &str) -> Result<(), Error> {
    let site = engine.tenant.sites.get(name).map(String::as_str);
    terroir_sovereignty::ops::check_foreign_store(txn, account, name, site, ACCESS_DENIED)
}

/// The targets where bytes of the account may not lie.
///
/// # Errors
/// Those of the store.
pub fn forbidden(txn: &Txn, account: AccountId) -> Result<BTreeSet<String>, Error> {
    let engine = engine(txn)?;
    let mut forbidden = BTreeSet::new();
    for name in engine.tenant.keys.keys() {
        match check_at(txn, &engine, account, name) {
            Err(error) if error.code() == ACCESS_DENIED => drop(forbidden.insert(name.clone())),
            checked => checked?,
        }
    }
    Ok(forbidden)
}

/// From here on bytes go to the target, which is at `site` (none: where it was said to be before, if it was); without a
/// name, to the disk.
///
/// # Errors
/// `NoSuchEntity`; `InvalidParameterValue` for a target that is no single bucket of a foreign S3, and for a site that no
/// operator has stated.
pub fn set(txn: &mut Txn, name: Option<&str>, site: Option<&str>, ids: &dyn IdSource) -> Result<(), Error> {
    let mut engine = txn.get::<Engine>(&key())?.map(|engine| Engine::clone(&engine)).unwrap_or_default();
    if let Some(name) = name {
        let target = target::find(txn, name)?.ok_or_else(|| target::no_target(name))?;
        if !matches!(&target.tenant.place, Destination::S3(s3) if matches!(s3.bucket, ForeignBucket::One(_))) {
            let message = format!("{name} is not one bucket of a foreign S3");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        engine.tenant.keys.entry(name.to_owned()).or_insert_with(|| {
            let mut bytes = [0; 32];
            ids.fill(&mut bytes);
            Secret::new(bytes)
        });
        if let Some(site) = site {
            if terroir_sovereignty::ops::zone_place(txn, site)?.is_none() {
                let message = format!("no operator has stated a site {site}: see `terroir site add`");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
            engine.tenant.sites.insert(name.to_owned(), site.to_owned());
        }
    }
    engine.tenant.current = name.map(str::to_owned);
    txn.put(&key(), &engine)
}

/// The foreign stores that have bytes, or get them.
///
/// # Errors
/// Those of the store.
pub fn remotes(txn: &Txn, outbound: &Outbound, clock: &Arc<dyn Clock>) -> Result<Vec<NewRemote>, Error> {
    let mut remotes = Vec::new();
    for (name, key) in &engine(txn)?.tenant.keys {
        let Some(target) = target::find(txn, name)? else { continue };
        let Destination::S3(s3) = target.tenant.place.clone() else { continue };
        let ForeignBucket::One(bucket) = s3.bucket.clone() else { continue };
        let foreign = ForeignS3::new(outbound.clone(), Arc::clone(clock), s3);
        let key = DataKey::new(Zeroizing::new(*key.expose()));
        remotes.push(NewRemote { name: name.clone(), foreign, bucket, key });
    }
    Ok(remotes)
}
