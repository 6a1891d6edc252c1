use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// A moment in UTC: whole milliseconds since 1970-01-01, between the years 0 and 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const RFC3339_SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second]");
const COMPACT: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

impl Timestamp {
    pub const EPOCH: Self = Self(0);
    const MIN: i64 = -62_167_219_200_000;
    const MAX: i64 = 253_402_300_799_999;

    /// Moments outside the years 0 to 9999 are moved to the nearest end.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN {
            Self(Self::MIN)
        } else if millis > Self::MAX {
            Self(Self::MAX)
        } else {
            Self(millis)
        }
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    fn utc(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    fn formatted(self, format: &[BorrowedFormatItem<'_>]) -> String {
        // A moment of the years 0 to 9999 has every component these formats name.
        self.utc().format(format).unwrap_or_default()
    }

    /// `2026-11-24T05:00:00.000Z`, as EC2 writes it.
    pub fn to_rfc3339(self) -> String {
        self.formatted(RFC3339_MILLIS)
    }

    /// `2026-11-24T05:00:00Z`, as IAM and STS write it.
    pub fn to_rfc3339_seconds(self) -> String {
        self.formatted(RFC3339_SECONDS)
    }

    /// `20261124T050000Z`, the form of `X-Amz-Date`.
    pub fn to_amz_date(self) -> String {
        self.formatted(COMPACT)
    }

    /// Any offset and any number of subsecond digits are taken; finer than a millisecond is cut off.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self::from_millis)
    }

    /// An HTTP date (RFC 9110, 5.6.7) in the form that is sent today: `Tue, 24 Nov 2026 05:00:00 GMT`; some write `-0000`
    /// instead of the zone's name.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let rest = [" GMT", " -0000", " +0000"].iter().find_map(|zone| text.strip_suffix(zone))?;
        let parsed = time::PrimitiveDateTime::parse(rest, HTTP_DATE).ok()?;
        Some(Self::from_secs(parsed.assume_utc().unix_timestamp()))
    }

    pub fn parse_amz_date(text: &str) -> Option<Self> {
        let parsed = time::PrimitiveDateTime::parse(text, COMPACT).ok()?;
        Some(Self::from_secs(parsed.assume_utc().unix_timestamp()))
    }
}

/// The one place that time comes from. Ops never call it: they receive `now`.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that may ask the machine for the time
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub const fn at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.0))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_moment() {
        let moment = Timestamp::parse_rfc3339("2026-11-24T06:00:00.1239+01:00").unwrap();
        assert_eq!(moment.to_rfc3339(), "2026-11-24T05:00:00.123Z");
        assert_eq!(moment.to_rfc3339_seconds(), "2026-11-24T05:00:00Z");
        assert_eq!(moment.to_amz_date(), "20261124T050000Z");
        assert_eq!(Timestamp::parse_amz_date("20261124T050000Z"), Some(Timestamp::from_secs(moment.secs())));
        assert_eq!(Timestamp::parse_amz_date("2026-11-24"), None);
        for zone in ["GMT", "-0000"] {
            let http = Timestamp::parse_http_date(&format!("Tue, 24 Nov 2026 05:00:00 {zone}"));
            assert_eq!(http, Some(Timestamp::from_secs(moment.secs())), "{zone}");
        }
        assert_eq!(Timestamp::parse_http_date("Tue, 24 Nov 2026 05:00:00"), None);
        for extreme in [i64::MIN, i64::MAX] {
            assert_eq!(Timestamp::from_millis(extreme).to_rfc3339().len(), 24);
        }
    }
}
