//! Token buckets: how often one account, or one address that fails to authenticate, may ask.

use http::HeaderValue;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use terroir_iam::RecentMap;
use terroir_types::Timestamp;

/// A bucket of `burst` requests that fills with `per_second` requests a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// Seconds, for who was refused: every rate is at least one a second.
pub(crate) const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Buckets of each kind that are kept: twice as many at most.
const REMEMBERED: usize = 16_384;
/// Tokens are counted in thousandths, so that slow rates fill evenly.
const MILLI: i64 = 1000;

struct Bucket {
    milli_tokens: i64,
    at: Timestamp,
}

/// One bucket per key. A key that was not seen for long starts full again, which is what time would have made of it.
pub(crate) struct Throttle<K> {
    rate: Rate,
    buckets: RecentMap<K, Arc<Mutex<Bucket>>>,
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: RecentMap::new(REMEMBERED) }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&self, key: &K, now: Timestamp) -> bool {
        self.with(key, now, |bucket| {
            let enough = bucket.milli_tokens >= MILLI;
            if enough {
                bucket.milli_tokens -= MILLI;
            }
            enough
        })
    }

    /// Whether a token is there, without taking it.
    pub(crate) fn has(&self, key: &K, now: Timestamp) -> bool {
        self.with(key, now, |bucket| bucket.milli_tokens >= MILLI)
    }

    fn with<R>(&self, key: &K, now: Timestamp, f: impl FnOnce(&mut Bucket) -> R) -> R {
        let full = i64::from(self.rate.burst) * MILLI;
        let bucket = self.buckets.get(key).unwrap_or_else(|| {
            let bucket = Arc::new(Mutex::new(Bucket { milli_tokens: full, at: now }));
            self.buckets.insert(key.clone(), Arc::clone(&bucket));
            bucket
        });
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = i64::try_from(now.since(bucket.at).as_millis()).unwrap_or(i64::MAX);
        // per_second tokens a second are per_second thousandths a millisecond.
        let gained = millis.saturating_mul(i64::from(self.rate.per_second));
        bucket.milli_tokens = bucket.milli_tokens.saturating_add(gained).min(full);
        bucket.at = now.max(bucket.at);
        f(&mut bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_each_key_for_itself() {
        let throttle = Throttle::new(Rate { per_second: 2, burst: 3 });
        let at = Timestamp::from_millis;
        let taken = |key: &str, now| (0..10).filter(|_| throttle.take(&key.to_owned(), now)).count();
        assert_eq!(taken("a", at(0)), 3);
        assert_eq!(taken("b", at(0)), 3, "another key has its own bucket");
        for (millis, tokens) in [(499, 0), (500, 1), (1500, 2), (60_000, 3)] {
            assert_eq!(taken("a", at(millis)), tokens, "at {millis} ms");
        }
        assert_eq!(taken("a", at(0)), 0, "a clock that steps back gives nothing");
        assert!(throttle.has(&"b".to_owned(), at(500)) && throttle.has(&"b".to_owned(), at(500)));
    }
}
