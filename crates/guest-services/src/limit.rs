//! How much one guest may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// A bucket of tokens per key. Keys come from the snapshot, never from what a packet claims, so their number is bounded
/// by the host's guests; buckets that are full again are forgotten.
#[derive(Debug)]
pub struct Limiter<K> {
    rate: f64,
    burst: f64,
    buckets: HashMap<K, (f64, Instant)>,
}

const FORGET_ABOVE: usize = 4096;

impl<K: Eq + Hash> Limiter<K> {
    /// `rate` tokens a second, at most `burst` at once.
    pub fn new(rate: u32, burst: u32) -> Self {
        Self { rate: rate.into(), burst: burst.into(), buckets: HashMap::new() }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() > FORGET_ABOVE {
            let (rate, burst) = (self.rate, self.burst);
            let full =
                |tokens: f64, then: Instant| tokens + rate * now.saturating_duration_since(then).as_secs_f64() >= burst;
            self.buckets.retain(|_, (tokens, then)| !full(*tokens, *then));
        }
        let (tokens, then) = self.buckets.entry(key).or_insert((self.burst, now));
        *tokens = (*tokens + self.rate * now.saturating_duration_since(*then).as_secs_f64()).min(self.burst);
        *then = now;
        let granted = *tokens >= 1.0;
        if granted {
            *tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills() {
        let mut limiter = Limiter::new(10, 3);
        let start = Instant::now();
        let granted = |limiter: &mut Limiter<u8>, key, at| (0..5).filter(|_| limiter.take(key, at)).count();
        assert_eq!(granted(&mut limiter, 1, start), 3);
        assert_eq!(granted(&mut limiter, 2, start), 3, "another key has its own");
        assert_eq!(granted(&mut limiter, 1, start + Duration::from_millis(250)), 2);
        assert_eq!(granted(&mut limiter, 1, start + Duration::from_secs(60)), 3);
    }
}
