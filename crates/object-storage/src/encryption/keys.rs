//! Keys that seal data keys: the store's own for SSE-S3, and how any key does it.
//!
//! The store's keys are records of the state store, sealed as all records under the local master key. A new one is made
//! once a year, at the first write after that; older ones stay, to open what they have sealed.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use terroir_store::{Key, Store, Txn, record};
use terroir_types::{Error, IdSource, Secret, Timestamp};
use zeroize::Zeroizing;

use super::body::DataKey;
use crate::backend::Place;

/// How long a key of the store seals new objects: also far below the 2^32 seals that random nonces allow one key.
pub const ROTATE_AFTER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Of a wrapped data key.
const FORMAT: u8 = 1;
const TAG: usize = 16;
const KEY: usize = 32;

/// A key of the store, at `object-key/<number>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreKey {
    #[serde(rename = "n")]
    pub number: u32,
    #[serde(rename = "c")]
    pub created_at: Timestamp,
    #[serde(skip, default)]
    secret: StoreKeySecret,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoreKeySecret {
    #[serde(rename = "s")]
    bytes: Secret<[u8; KEY]>,
}

record!(StoreKey { kind: "object-key", version: 1, tenant: secret: StoreKeySecret });

impl StoreKey {
    fn key(number: u32) -> Key {
        Key::new(format!("{}/{number:08x}", <Self as terroir_store::Record>::KIND))
    }

    fn is_for_new_objects(&self, now: Timestamp) -> bool {
        now.since(self.created_at) < ROTATE_AFTER
    }
}

/// The key for new objects, if there is one that is not too old; not tracked.
///
/// # Errors
/// `Internal` if a record does not decode.
pub fn current(txn: &Txn, now: Timestamp) -> Result<Option<Arc<StoreKey>>, Error> {
    let all = txn.peek_range::<StoreKey>(&Key::new(<StoreKey as terroir_store::Record>::KIND))?;
    Ok(all.into_iter().map(|(_, key)| key).next_back().filter(|key| key.is_for_new_objects(now)))
}

/// The same, made if need be.
///
/// # Errors
/// Those of the transaction.
pub fn current_or_new(txn: &mut Txn, ids: &dyn IdSource, now: Timestamp) -> Result<Arc<StoreKey>, Error> {
    let all = txn.range::<StoreKey>(&Key::new(<StoreKey as terroir_store::Record>::KIND))?;
    let newest = all.into_iter().map(|(_, key)| key).next_back();
    if let Some(key) = newest.as_ref().filter(|key| key.is_for_new_objects(now)) {
        return Ok(Arc::clone(key));
    }
    let mut bytes = [0; KEY];
    ids.fill(&mut bytes);
    let number = newest.map_or(1, |key| key.number.saturating_add(1));
    let key = StoreKey { number, created_at: now, secret: StoreKeySecret { bytes: Secret::new(bytes) } };
    txn.put(&StoreKey::key(number), &key)?;
    Ok(Arc::new(key))
}

/// The key for new objects, made if need be.
///
/// # Errors
/// Those of the store.
pub async fn for_new_objects(store: &Store, ids: &dyn IdSource, now: Timestamp) -> Result<Arc<StoreKey>, Error> {
    if let Some(key) = current(&store.stale(), now)? {
        return Ok(key);
    }
    Ok(store.transact(&[], |txn| current_or_new(txn, ids, now)).await?.0)
}

/// What a wrapped data key is bound to.
fn bound_to(place: &Place) -> Vec<u8> {
    [b"terroir data key v1 ", place.bucket.to_string().as_bytes(), b"/", place.key.as_bytes()].concat()
}

fn cipher(key: &[u8; KEY]) -> LessSafeKey {
    // AES-256 takes any 32 bytes.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the length that AES-256 wants"))
}

/// Seals a data key: `format 1 byte | nonce 12 bytes | data key 32 bytes, sealed | tag 16 bytes`.
pub fn wrap(under: &[u8; KEY], key: &DataKey, place: &Place, ids: &dyn IdSource) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    ids.fill(&mut nonce);
    let mut sealed = Zeroizing::new(*key.bytes());
    let tag = cipher(under)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to(place)), &mut *sealed)
        .expect("32 bytes are within AES-GCM's limit");
    [&[FORMAT][..], &nonce, &*sealed, tag.as_ref()].concat()
}

/// None: sealed under another key, for another place, or altered.
pub fn unwrap(under: &[u8; KEY], wrapped: &[u8], place: &Place) -> Option<DataKey> {
    let (&FORMAT, rest) = wrapped.split_first()? else { return None };
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed: Zeroizing<[u8; KEY + TAG]> = Zeroizing::new(sealed.try_into().ok()?);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = cipher(under).open_in_place(nonce, Aad::from(bound_to(place)), &mut *sealed).ok()?;
    Some(DataKey::new(Zeroizing::new((&*plain).try_into().ok()?)))
}

/// [`wrap`] under a key of the store, with its number (4 bytes, the most significant first) in front.
pub fn wrap_under_store_key(under: &StoreKey, key: &DataKey, place: &Place, ids: &dyn IdSource) -> Vec<u8> {
    [&under.number.to_be_bytes()[..], &wrap(under.secret.bytes.expose(), key, place, ids)].concat()
}

/// # Errors
/// `Internal` if there is no such key, or it did not seal this.
pub fn unwrap_under_store_key(txn: &Txn, wrapped: &[u8], place: &Place) -> Result<DataKey, Error> {
    let (number, wrapped) = wrapped.split_first_chunk().ok_or_else(|| Error::internal("a wrapped key is too short"))?;
    let number = u32::from_be_bytes(*number);
    let under = txn.peek::<StoreKey>(&StoreKey::key(number))?;
    let under = under.ok_or_else(|| Error::internal(format_args!("the store has no key {number} for objects")))?;
    let key = unwrap(under.secret.bytes.expose(), wrapped, place);
    key.ok_or_else(|| Error::internal(format_args!("the data key of an object does not open under key {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BucketId;
    use terroir_store::Store;
    use terroir_types::OsRandom;

    fn place(bucket: u64, key: &str) -> Place {
        Place::new(BucketId::from_random(bucket), key)
    }

    #[test]
    fn a_data_key_opens_only_where_it_belongs() {
        let key = DataKey::random(&OsRandom);
        let wrapped = wrap(&[7; KEY], &key, &place(1, "a"), &OsRandom);
        assert_eq!(unwrap(&[7; KEY], &wrapped, &place(1, "a")).unwrap().bytes(), key.bytes());
        let mut altered = wrapped.clone();
        altered[20] ^= 1;
        for (what, under, wrapped, place) in [
            ("another key", [8; KEY], &wrapped[..], place(1, "a")),
            ("another object", [7; KEY], &wrapped[..], place(1, "b")),
            ("another bucket", [7; KEY], &wrapped[..], place(2, "a")),
            ("altered", [7; KEY], &altered[..], place(1, "a")),
            ("cut off", [7; KEY], &wrapped[..40], place(1, "a")),
            ("nothing", [7; KEY], &[], place(1, "a")),
        ] {
            assert!(unwrap(&under, wrapped, &place).is_none(), "{what}");
        }
    }

    #[tokio::test]
    async fn a_new_key_each_year_and_the_old_ones_stay() {
        let store = Store::in_memory_for_tests().await;
        let year = i64::try_from(ROTATE_AFTER.as_secs()).unwrap();
        let mut wrapped = Vec::new();
        for (at, number) in [(0, 1), (year - 1, 1), (year, 2), (year + 1, 2), (2 * year + 1, 3)] {
            let now = Timestamp::from_secs(at);
            let (key, _) = store.transact(&[], |txn| current_or_new(txn, &OsRandom, now)).await.unwrap();
            assert_eq!(key.number, number, "after {at} s");
            assert_eq!(current(&store.read().await.unwrap(), now).unwrap().unwrap().number, number);
            let data = DataKey::random(&OsRandom);
            wrapped.push((wrap_under_store_key(&key, &data, &place(1, "a"), &OsRandom), data));
        }
        let txn = store.read().await.unwrap();
        assert!(current(&txn, Timestamp::from_secs(9 * year)).unwrap().is_none());
        for (wrapped, data) in wrapped {
            let opened = unwrap_under_store_key(&txn, &wrapped, &place(1, "a")).unwrap();
            assert_eq!(opened.bytes(), data.bytes());
            assert!(unwrap_under_store_key(&txn, &wrapped, &place(1, "b")).is_err());
            assert!(unwrap_under_store_key(&txn, &[&[9], &wrapped[1..]].concat(), &place(1, "a")).is_err());
        }
    }
}
