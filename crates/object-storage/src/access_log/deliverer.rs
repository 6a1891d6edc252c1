//! Gathering lines and delivering them.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use terroir_iam::RequestFacts;
use terroir_types::{Error, Timestamp};
use tokio::sync::Notify;

use super::{Line, Logging};
use crate::aws::ApiParts;
use crate::backend::{BucketId, ObjectMeta, Place, Put, Sealing};
use crate::encryption::{DataKey, DefaultEncryption, Encryption, Method, Sealer, keys};
use crate::notification::{Cause, Event, NotificationRules};
use crate::{lock, ops, quota, settings, versioning};

/// Between two deliveries.
const EVERY: Duration = Duration::from_secs(60);
/// Lines of one bucket that are delivered without waiting.
const ENOUGH: usize = 1 << 20;
/// Lines of all buckets that are held; more are dropped.
const MOST: usize = 32 << 20;

/// What waits to be delivered.
#[derive(Default)]
pub(crate) struct AccessLogs {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    by_bucket: BTreeMap<BucketId, Log>,
    bytes: usize,
    dropped: u64,
}

/// Lines of one bucket.
struct Log {
    bucket: String,
    first: Timestamp,
    text: String,
}

impl AccessLogs {
    pub(crate) fn add(&self, bucket: BucketId, line: &Line) {
        let text = line.text();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes + text.len() > MOST {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += text.len();
        let log = waiting.by_bucket.entry(bucket).or_insert_with(|| Log {
            bucket: line.bucket.clone(),
            first: line.request.at,
            text: String::new(),
        });
        log.text.push_str(&text);
        if log.text.len() >= ENOUGH {
            self.bell.notify_one();
        }
    }

    fn take(&self) -> (BTreeMap<BucketId, Log>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = 0;
        (std::mem::take(&mut waiting.by_bucket), std::mem::take(&mut waiting.dropped))
    }

    /// Puts back in front what could not be delivered, if there is room.
    fn put_back(&self, id: BucketId, mut log: Log) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes + log.text.len() > MOST {
            waiting.dropped += log.text.lines().count() as u64;
            return;
        }
        waiting.bytes += log.text.len();
        if let Some(later) = waiting.by_bucket.remove(&id) {
            log.text.push_str(&later.text);
        }
        waiting.by_bucket.insert(id, log);
    }

    /// Delivers every now and then until `stop` is ready, and once more then.
    pub(crate) async fn run(&self, parts: &ApiParts, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let ended = tokio::select! {
                () = &mut stop => true,
                () = self.bell.notified() => false,
                () = tokio::time::sleep(EVERY) => false,
            };
            self.deliver(parts).await;
            if ended {
                return;
            }
        }
    }

    /// Delivers what there is.
    pub(crate) async fn deliver(&self, parts: &ApiParts) {
        let (logs, dropped) = self.take();
        if dropped > 0 {
            tracing::warn!(dropped, "lines of access logs were dropped: too many could not be delivered");
        }
        for (id, log) in logs {
            match deliver_one(parts, id, &log).await {
                Ok(()) => {}
                Err(error) if error.class() == terroir_types::ErrorClass::Unavailable => self.put_back(id, log),
                Err(error) => {
                    let detail = error.internal_detail();
                    tracing::warn!(bucket = %id, %error, detail, "an access log could not be delivered and is dropped");
                }
            }
        }
    }
}

async fn deliver_one(parts: &ApiParts, id: BucketId, log: &Log) -> Result<(), Error> {
    let txn = parts.iam.store().read().await?;
    // Logging may be off by now, or the bucket gone.
    let Some(logging) = settings::peek::<Logging>(&txn, id)? else { return Ok(()) };
    let Some(source) = ops::find_bucket(&txn, &log.bucket)?.filter(|bucket| bucket.id == id) else { return Ok(()) };
    let target = ops::find_bucket(&txn, &logging.target)?.filter(|target| target.account == source.account);
    let target = target.ok_or_else(|| Error::not_found("NoSuchBucket", "the target bucket is gone"))?;
    let now = parts.clock.now();
    let unique = format!("{:016X}", parts.ids.next_u64());
    let key = logging.key(&source, &parts.region, log.first, now, &unique);
    let facts = RequestFacts { now, region: parts.region.clone(), secure: true, ..RequestFacts::default() };
    super::may_deliver(&parts.iam, &txn, &source, &target, &key, &facts).await?;
    let place = Place::new(target.id, key);
    let size = log.text.len() as u64;
    let room = quota::room(&txn, &*parts.backend, &target, Some(size), 1).await?;
    let retention = lock::lock(&txn, target.id)?.and_then(|lock| lock.default).map(|default| default.from(now));
    let notes = match settings::peek_shared::<NotificationRules>(&txn, target.id)? {
        Some(rules) => rules.notes(&txn, &place.key, &[Event::Put], Cause::SERVICE)?,
        None => Vec::new(),
    };
    let sealed = match settings::peek::<DefaultEncryption>(&txn, target.id)? {
        Some(_) => Some(seal(parts, &place).await?),
        None => None,
    };
    let (encryption, sealing) = sealed.unzip();
    let mut put = Put {
        meta: ObjectMeta {
            headers: [("content-type".to_owned(), "text/plain".to_owned())].into(),
            encryption: encryption.map(Box::new),
            ..ObjectMeta::default()
        },
        sealing,
        versioning: versioning::versioning(&txn, target.id)?,
        size: Some(size),
        max_size: room,
        notes,
        ..Put::plain()
    };
    put.lock.retention = retention;
    let body = Bytes::from(log.text.clone());
    let stream = Box::pin(futures::stream::iter([Ok(body)]));
    parts.backend.put(&place, stream, put).await?;
    Ok(())
}

/// As in AWS, logs are encrypted under the store's key, also where the bucket's objects are under another one.
async fn seal(parts: &ApiParts, place: &Place) -> Result<(Encryption, Sealing), Error> {
    let under = keys::for_new_objects(parts.iam.store(), &*parts.ids, parts.clock.now()).await?;
    let key = DataKey::random(&*parts.ids);
    let wrapped = keys::wrap_under_store_key(&under, &key, place, &*parts.ids);
    let sealing = Sealing { sealer: Sealer::new(&key, &*parts.ids), etag_key: None };
    Ok((Encryption { method: Method::S3, wrapped }, sealing))
}
