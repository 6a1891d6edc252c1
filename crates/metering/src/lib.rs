//! Usage intervals: what was used, by whom, where, from when to when (R13).
//!
//! An interval opens and closes in the transaction of the state change that it measures. While open it is an [`Open`]
//! inside the record of what is measured, which has one writer, so intervals of one resource cannot overlap; when it
//! closes it goes to the outbox stream [`STREAM`], from where it reaches the log that bills are made of. Everything is
//! an integer; times are the control plane's. Whoever was never measured as running has no interval and pays nothing.

mod log;

pub use log::UsageLog;

use serde::{Deserialize, Serialize};
use terroir_store::Txn;
use terroir_types::{AccountId, Error, HostId, RunId, Timestamp};

/// Outbox stream of closed intervals, one JSON document of [`Interval`] each.
pub const STREAM: &str = "usage";

/// A run is billed for at least this long.
const LEAST_RUN_SECONDS: u64 = 60;

/// An interval that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Open {
    pub since: Timestamp,
}

/// What is measured, with the quantities that prices refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "measure", rename_all = "kebab-case")]
pub enum Measure {
    /// One run of an instance.
    Instance { instance_type: String, vcpus: u32, memory_bytes: u64, run: RunId },
    /// A volume, attached or not.
    Volume { volume_type: String, size_bytes: u64 },
}

/// A closed interval; `ended_at` is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub account: AccountId,
    /// Id of the instance or volume.
    pub resource: String,
    #[serde(flatten)]
    pub measure: Measure,
    pub host: HostId,
    pub zone: String,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
}

impl Interval {
    /// Whole seconds, begun ones counted; a run counts for at least 60.
    pub fn billable_seconds(&self) -> u64 {
        let millis = self.ended_at.since(self.started_at).as_millis();
        let seconds = u64::try_from(millis.div_ceil(1000)).unwrap_or(u64::MAX);
        match self.measure {
            Measure::Instance { .. } => seconds.max(LEAST_RUN_SECONDS),
            Measure::Volume { .. } => seconds,
        }
    }
}

/// Writes a closed interval. A clock that went back makes it empty, never negative.
///
/// The commit fails with `Unavailable` when the stream is full because nobody drains it.
pub fn close(txn: &mut Txn, mut interval: Interval) -> Result<(), Error> {
    interval.ended_at = interval.ended_at.max(interval.started_at);
    let payload = serde_json::to_vec(&interval).map_err(Error::internal)?;
    txn.outbox(STREAM, payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::{ResourceId, SeededRandom};

    fn run(from: i64, to: i64) -> Interval {
        Interval {
            account: AccountId::from_number(1).unwrap(),
            resource: "i-1".to_owned(),
            measure: Measure::Instance { instance_type: "t3.nano".into(), vcpus: 2, memory_bytes: 1 << 29, run: 1 },
            host: HostId::generate(&SeededRandom::new(1)),
            zone: "a".to_owned(),
            started_at: Timestamp::from_millis(from),
            ended_at: Timestamp::from_millis(to),
        }
    }

    #[test]
    fn seconds_are_begun_ones_and_a_run_has_sixty() {
        for (from, to, run_seconds, volume_seconds) in
            [(0, 0, 60, 0), (0, 1, 60, 1), (500, 1500, 60, 1), (0, 60_001, 61, 61), (10, 5, 60, 0)]
        {
            let mut interval = run(from, to);
            assert_eq!(interval.billable_seconds(), run_seconds, "{from}..{to}");
            interval.measure = Measure::Volume { volume_type: "gp3".into(), size_bytes: 1 };
            assert_eq!(interval.billable_seconds(), volume_seconds, "{from}..{to}");
        }
    }

    #[test]
    fn an_interval_survives_its_stored_form() {
        let interval = run(1, 2);
        let stored = serde_json::to_vec(&interval).unwrap();
        assert_eq!(serde_json::from_slice::<Interval>(&stored).unwrap(), interval);
    }
}
