//! What a bucket was told beyond its name: one record for each concern, such as versioning or lifecycle rules.
//!
//! A concern is a type of its own ([`BucketSetting`]); the record is the same for all, and sealed under the account's
//! metadata key. A bucket's settings go with it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::sync::{Arc, OnceLock};
use terroir_store::{Key, Record, Txn, record};
use terroir_types::{AccountId, Error};

use crate::backend::BucketId;
use crate::model::Bucket;

/// One concern of a bucket. Stored as MessagePack with named fields: a field that is added needs a default.
pub trait BucketSetting: Serialize + DeserializeOwned {
    /// The last segment of the record's key, for example `versioning`. Unique among the concerns.
    const NAME: &'static str;
}

/// At `bucket-setting/<bucket id>/<name of the concern>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredSetting {
    #[serde(rename = "a")]
    account: AccountId,
    #[serde(skip, default)]
    tenant: SettingTenant,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct SettingTenant {
    #[serde(rename = "v", with = "bytes_as_binary")]
    value: Vec<u8>,
    /// Of the concern's type, once somebody asked.
    #[serde(skip)]
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

record!(StoredSetting { kind: "bucket-setting", version: 1, account: |r| Some(r.account), tenant: tenant: SettingTenant });

/// MessagePack would write a list of numbers.
pub(crate) mod bytes_as_binary {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Vec<u8>, E> {
                Ok(value.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

fn all_of(bucket: BucketId) -> Key {
    Key::new(format!("{}/{bucket}", StoredSetting::KIND))
}

fn key_of<S: BucketSetting>(bucket: BucketId) -> Key {
    all_of(bucket).child(S::NAME)
}

impl StoredSetting {
    fn of<S: BucketSetting>(account: AccountId, setting: &S) -> Result<Self, Error> {
        let value = rmp_serde::to_vec_named(setting)
            .map_err(|error| Error::internal(format_args!("the setting {}: {error}", S::NAME)))?;
        Ok(Self { account, tenant: SettingTenant { value, decoded: OnceLock::new() } })
    }
}

fn decode<S: BucketSetting>(stored: &StoredSetting) -> Result<S, Error> {
    rmp_serde::from_slice(&stored.tenant.value)
        .map_err(|error| Error::internal(format_args!("the setting {}: {error}", S::NAME)))
}

/// None: the bucket was never told, or was told to forget it.
///
/// # Errors
/// `Internal` if the record does not decode.
pub fn get<S: BucketSetting>(txn: &Txn, bucket: BucketId) -> Result<Option<S>, Error> {
    txn.get::<StoredSetting>(&key_of::<S>(bucket))?.map(|stored| decode(&stored)).transpose()
}

/// Like [`get`], but a change meanwhile does not fail the commit.
///
/// # Errors
/// As [`get`].
pub fn peek<S: BucketSetting>(txn: &Txn, bucket: BucketId) -> Result<Option<S>, Error> {
    txn.peek::<StoredSetting>(&key_of::<S>(bucket))?.map(|stored| decode(&stored)).transpose()
}

/// Like [`peek`], for what is large and asked for often: decoded once, as long as it does not change.
///
/// # Errors
/// As [`get`].
pub fn peek_shared<S: BucketSetting + Send + Sync + 'static>(
    txn: &Txn,
    bucket: BucketId,
) -> Result<Option<Arc<S>>, Error> {
    let Some(stored) = txn.peek::<StoredSetting>(&key_of::<S>(bucket))? else { return Ok(None) };
    if let Some(decoded) = stored.tenant.decoded.get()
        && let Ok(decoded) = Arc::clone(decoded).downcast::<S>()
    {
        return Ok(Some(decoded));
    }
    let decoded = Arc::new(decode::<S>(&stored)?);
    // Somebody else may have been first; theirs is the same.
    let _ = stored.tenant.decoded.set(Arc::clone(&decoded) as _);
    Ok(Some(decoded))
}

/// Writes the setting of a bucket that was read in the same transaction with [`crate::ops::find_bucket`], so that a
/// deletion meanwhile fails the commit.
///
/// # Errors
/// Those of the transaction.
pub fn put<S: BucketSetting>(txn: &mut Txn, bucket: &Bucket, setting: &S) -> Result<(), Error> {
    let stored = StoredSetting::of(bucket.account, setting)?;
    txn.put(&key_of::<S>(bucket.id), &stored)
}

/// Writes `setting` for a bucket that has the setting `S`, and nothing for one that has not.
pub(crate) fn put_beside<S: BucketSetting, T: BucketSetting>(
    txn: &mut Txn,
    bucket: BucketId,
    setting: &T,
) -> Result<(), Error> {
    let Some(beside) = txn.get::<StoredSetting>(&key_of::<S>(bucket))? else { return Ok(()) };
    let stored = StoredSetting::of(beside.account, setting)?;
    txn.put(&key_of::<T>(bucket), &stored)
}

/// Whether there was one.
///
/// # Errors
/// Those of the transaction.
pub fn remove<S: BucketSetting>(txn: &mut Txn, bucket: BucketId) -> Result<bool, Error> {
    let key = key_of::<S>(bucket);
    let existed = txn.get::<StoredSetting>(&key)?.is_some();
    if existed {
        txn.delete(&key);
    }
    Ok(existed)
}

/// Buckets that have this setting, in order of their ids; not tracked.
///
/// # Errors
/// `Internal` if a record does not decode.
pub fn all<S: BucketSetting>(txn: &Txn) -> Result<Vec<(BucketId, S)>, Error> {
    let mut found = Vec::new();
    for (key, stored) in txn.peek_range::<StoredSetting>(&Key::new(StoredSetting::KIND))? {
        if key.last() != S::NAME {
            continue;
        }
        if let Some(bucket) = key.segment(1).and_then(BucketId::parse) {
            found.push((bucket, decode(&stored)?));
        }
    }
    Ok(found)
}

/// With the bucket go its settings.
pub(crate) fn remove_all(txn: &mut Txn, bucket: BucketId) -> Result<(), Error> {
    for (key, _) in txn.range::<StoredSetting>(&all_of(bucket))? {
        txn.delete(&key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{create_bucket, delete_bucket, find_bucket};
    use terroir_store::Store;
    use terroir_types::{SeededRandom, Timestamp};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Colour {
        name: String,
    }

    impl BucketSetting for Colour {
        const NAME: &'static str = "colour";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Size(u32);

    impl BucketSetting for Size {
        const NAME: &'static str = "size";
    }

    #[tokio::test]
    async fn each_concern_is_apart_and_goes_with_its_bucket() {
        let store = Store::in_memory_for_tests().await;
        let ids = SeededRandom::new(1);
        let account = AccountId::from_number(1).unwrap();
        let make = |name: &'static str| {
            let (store, ids) = (&store, &ids);
            async move {
                let make = |txn: &mut Txn| create_bucket(txn, account, name, ids, Timestamp::EPOCH);
                store.transact(&[], make).await.unwrap().0
            }
        };
        let (photos, albums) = (make("photos").await, make("albums").await);
        let set = |name: &'static str, colour: &'static str| {
            let store = &store;
            async move {
                let write = |txn: &mut Txn| {
                    let bucket = find_bucket(txn, name)?.unwrap();
                    put(txn, &bucket, &Colour { name: colour.to_owned() })?;
                    put(txn, &bucket, &Size(7))
                };
                store.transact(&[], write).await.unwrap();
            }
        };
        set("photos", "red").await;
        set("albums", "blue").await;
        let red = || Colour { name: "red".to_owned() };
        let txn = store.read().await.unwrap();
        assert_eq!(get::<Colour>(&txn, photos.id).unwrap(), Some(red()));
        let shared = [(); 2].map(|()| peek_shared::<Colour>(&txn, photos.id).unwrap().unwrap());
        assert!(*shared[0] == red() && Arc::ptr_eq(&shared[0], &shared[1]));
        assert_eq!(all::<Size>(&txn).unwrap().len(), 2);
        drop(txn);
        store.transact(&[], |txn| remove::<Size>(txn, photos.id)).await.unwrap();
        store.transact(&[], |txn| delete_bucket(txn, "albums", albums.id)).await.unwrap();
        let txn = store.read().await.unwrap();
        assert_eq!((peek::<Size>(&txn, photos.id).unwrap(), peek::<Colour>(&txn, albums.id).unwrap()), (None, None));
        assert_eq!(all::<Colour>(&txn).unwrap(), vec![(photos.id, red())]);
    }
}
