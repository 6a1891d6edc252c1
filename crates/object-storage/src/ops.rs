//! Commands on buckets over one transaction. They commit nothing, do no I/O and ask no clock.

use std::sync::Arc;
use terroir_resources::{Tags, add_to_count};
use terroir_sovereignty::receipt::Event;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, Timestamp};

use crate::backend::BucketId;
use crate::model::{Bucket, BucketTenant, OwnedBucket};

/// AWS's default quota.
pub const BUCKETS_PER_ACCOUNT: i64 = 10_000;
const COUNT: &str = "buckets";

/// Whether a bucket may have this name.
///
/// Source: "General purpose bucket naming rules" of the S3 user guide.
pub fn is_bucket_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let inside = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    let reserved_start = ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix));
    let reserved_end =
        ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|suffix| name.ends_with(suffix));
    (3..=63).contains(&name.len())
        && bytes.iter().all(inside)
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !reserved_start
        && !reserved_end
}

/// # Errors
/// `InvalidBucketName`, `BucketAlreadyOwnedByYou`, `BucketAlreadyExists`, `TooManyBuckets`.
pub fn create_bucket(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<Bucket, Error> {
    if !is_bucket_name(name) {
        return Err(Error::invalid("InvalidBucketName", "The specified bucket is not valid."));
    }
    let key = Bucket::key(txn, name);
    if let Some(bucket) = txn.get::<Bucket>(&key)? {
        return Err(taken(bucket.account == account));
    }
    add_to_count(txn, account, COUNT, 1, BUCKETS_PER_ACCOUNT, || {
        Error::limit("TooManyBuckets", "You have attempted to create more buckets than allowed.")
    })?;
    let bucket = Bucket {
        id: BucketId::from_random(ids.next_u64()),
        account,
        created_at: now,
        tenant: BucketTenant { name: name.to_owned() },
    };
    let owned = OwnedBucket { name_mac: key.last().to_owned() };
    txn.put(&key, &bucket)?;
    txn.put(&OwnedBucket::key(account, bucket.id), &owned)?;
    terroir_resources::register(txn, account, &bucket.resource_id(), "bucket", Tags::new(), now)?;
    let policy = terroir_sovereignty::ops::check_store(txn, account, &Tags::new(), "AccessDenied")?;
    crate::engine::check(txn, account)?;
    terroir_sovereignty::ops::note_store(
        txn,
        account,
        &bucket.resource_id(),
        "bucket",
        Event::Placed,
        Some(&policy),
        now,
    )?;
    Ok(bucket)
}

fn taken(own: bool) -> Error {
    if own {
        let message = "Your previous request to create the named bucket succeeded and you already own it.";
        return Error::conflict("BucketAlreadyOwnedByYou", message);
    }
    let message = "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.";
    Error::conflict("BucketAlreadyExists", message)
}

pub fn find_bucket(txn: &Txn, name: &str) -> Result<Option<Arc<Bucket>>, Error> {
    txn.get::<Bucket>(&Bucket::key(txn, name))
}

/// Removes the record; that the bucket is empty was made sure of before. False if it is gone already or another one
/// has its name by now.
pub fn delete_bucket(txn: &mut Txn, name: &str, id: BucketId, now: Timestamp) -> Result<bool, Error> {
    let key = Bucket::key(txn, name);
    let Some(bucket) = txn.get::<Bucket>(&key)?.filter(|bucket| bucket.id == id) else { return Ok(false) };
    txn.delete(&key);
    txn.delete(&OwnedBucket::key(bucket.account, id));
    terroir_sovereignty::ops::note_store(
        txn,
        bucket.account,
        &bucket.resource_id(),
        "bucket",
        Event::Erased,
        None,
        now,
    )?;
    crate::settings::remove_all(txn, id)?;
    terroir_resources::unregister(txn, bucket.account, &bucket.resource_id())?;
    add_to_count(txn, bucket.account, COUNT, -1, BUCKETS_PER_ACCOUNT, || Error::internal("a shrinking count"))?;
    Ok(true)
}

/// The account's buckets in order of their names; not tracked.
pub fn list_buckets(txn: &Txn, account: AccountId) -> Result<Vec<Arc<Bucket>>, Error> {
    let mut buckets = Vec::new();
    for (_, owned) in txn.peek_range::<OwnedBucket>(&OwnedBucket::all_of(account))? {
        buckets.extend(txn.peek::<Bucket>(&Key::new(format!("bucket/{}", owned.name_mac)))?);
    }
    buckets.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(buckets)
}

/// Whether a record still leads to this bucket.
pub fn bucket_exists(txn: &Txn, id: BucketId) -> Result<bool, Error> {
    Ok(txn.peek_range::<Bucket>(&Key::new("bucket"))?.iter().any(|(_, bucket)| bucket.id == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_store::Store;
    use terroir_types::SeededRandom;

    #[test]
    fn names() {
        let long = "a".repeat(63);
        for good in ["abc", "a-b.c9", "0ab", long.as_str()] {
            assert!(is_bucket_name(good), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["ab", "Abc", "a_b", "-ab", "ab-", "a..b", "192.168.0.1", "xn--abc", "abc-s3alias", "äbc", &too_long]
        {
            assert!(!is_bucket_name(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_is_given_once_in_the_region() {
        let store = Store::in_memory_for_tests().await;
        let ids = SeededRandom::new(1);
        let accounts = [AccountId::from_number(1).unwrap(), AccountId::from_number(2).unwrap()];
        let create = |account, name: &'static str| {
            let (store, ids) = (&store, &ids);
            async move { store.transact(&[], |txn| create_bucket(txn, account, name, ids, Timestamp::EPOCH)).await }
        };
        let (bucket, _) = create(accounts[0], "photos").await.unwrap();
        assert_eq!(create(accounts[0], "photos").await.unwrap_err().code(), "BucketAlreadyOwnedByYou");
        assert_eq!(create(accounts[1], "photos").await.unwrap_err().code(), "BucketAlreadyExists");
        create(accounts[0], "albums").await.unwrap();
        let txn = store.read().await.unwrap();
        let names: Vec<_> = list_buckets(&txn, accounts[0]).unwrap().iter().map(|b| b.name().to_owned()).collect();
        assert_eq!(names, ["albums", "photos"]);
        assert!(list_buckets(&txn, accounts[1]).unwrap().is_empty());
        let delete = |id| store.transact(&[], move |txn| delete_bucket(txn, "photos", id, Timestamp::EPOCH));
        assert!(delete(bucket.id).await.unwrap().0);
        assert!(!delete(bucket.id).await.unwrap().0);
        create(accounts[1], "photos").await.unwrap();
    }
}
