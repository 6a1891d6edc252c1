//! Counters in Prometheus's text form. Labels come from the registry and from error codes, never from request text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, in milliseconds.
const BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 2_000, 10_000];
/// Series beyond this are counted together.
const MAX_SERIES: usize = 10_000;

#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<Series>,
    in_flight: AtomicI64,
}

#[derive(Default)]
struct Series {
    counts: BTreeMap<(&'static str, &'static str, String), u64>,
    latencies: BTreeMap<(&'static str, &'static str), Latency>,
}

#[derive(Default)]
struct Latency {
    buckets: [u64; BOUNDS_MS.len()],
    count: u64,
    micros: u64,
}

/// Counts a request as in flight while it lives.
pub(crate) struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// `code`: the error's code, or `OK`.
    pub(crate) fn record(&self, service: &'static str, action: &'static str, code: &str, took: Duration) {
        let mut series = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (service, action, code.to_owned());
        let room = series.counts.len() < MAX_SERIES || series.counts.contains_key(&key);
        let key = if room { key } else { (service, "-", "-".to_owned()) };
        *series.counts.entry(key).or_default() += 1;
        let latency = series.latencies.entry((service, action)).or_default();
        let millis = took.as_millis();
        for (bucket, bound) in latency.buckets.iter_mut().zip(BOUNDS_MS) {
            *bucket += u64::from(millis <= u128::from(bound));
        }
        latency.count += 1;
        latency.micros = latency.micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn write(&self, out: &mut String) {
        let series = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# TYPE terroir_requests_in_flight gauge");
        let _ = writeln!(out, "terroir_requests_in_flight {}", self.in_flight.load(Ordering::Relaxed));
        let _ = writeln!(out, "# TYPE terroir_requests_total counter");
        for ((service, action, code), count) in &series.counts {
            let _ = writeln!(
                out,
                "terroir_requests_total{{service=\"{service}\",action=\"{action}\",code=\"{code}\"}} {count}"
            );
        }
        let _ = writeln!(out, "# TYPE terroir_request_seconds histogram");
        for ((service, action), latency) in &series.latencies {
            let labels = format!("service=\"{service}\",action=\"{action}\"");
            for (bucket, bound) in latency.buckets.iter().zip(BOUNDS_MS) {
                let seconds = Duration::from_millis(bound).as_secs_f64();
                let _ = writeln!(out, "terroir_request_seconds_bucket{{{labels},le=\"{seconds}\"}} {bucket}");
            }
            let _ = writeln!(out, "terroir_request_seconds_bucket{{{labels},le=\"+Inf\"}} {}", latency.count);
            let seconds = Duration::from_micros(latency.micros).as_secs_f64();
            let _ = writeln!(out, "terroir_request_seconds_sum{{{labels}}} {seconds}");
            let _ = writeln!(out, "terroir_request_seconds_count{{{labels}}} {}", latency.count);
        }
    }
}
