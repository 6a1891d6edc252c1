//! Object lock: versions that may not go, and how that may change.
//!
//! Source: "Locking objects with Object Lock" of the S3 user guide. The rules hold in the transaction of the write
//! itself. A new version and a delete marker only hide what is there, so they are always allowed.

use serde::{Deserialize, Serialize};
use terroir_types::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RetentionMode {
    /// May be shortened, lifted or passed over by those who have the permission.
    #[serde(rename = "g")]
    Governance,
    /// Can only be prolonged.
    #[serde(rename = "c")]
    Compliance,
}

impl RetentionMode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|mode| mode.name() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    #[serde(rename = "m")]
    pub mode: RetentionMode,
    #[serde(rename = "u")]
    pub until: Timestamp,
}

impl Retention {
    fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// What keeps a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// None: never said. Without an end, and independent of the retention.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub legal_hold: Option<bool>,
}

impl ObjectLock {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// `bypass`: the caller may pass over governance, and said so.
    pub fn permits_removal(&self, now: Timestamp, bypass: bool) -> bool {
        let retained = self
            .retention
            .is_some_and(|retention| retention.holds(now) && !(bypass && retention.mode == RetentionMode::Governance));
        !retained && self.legal_hold != Some(true)
    }

    /// Whether the retention may become `wanted`.
    pub fn permits_retention(&self, wanted: Option<&Retention>, now: Timestamp, bypass: bool) -> bool {
        let Some(present) = self.retention.filter(|retention| retention.holds(now)) else { return true };
        let prolonged = wanted.is_some_and(|wanted| wanted.mode == present.mode && wanted.until >= present.until);
        prolonged || (bypass && present.mode == RetentionMode::Governance)
    }
}

/// A change of what keeps a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockChange {
    /// `bypass`: as in [`ObjectLock::permits_removal`].
    Retention {
        retention: Option<Retention>,
        bypass: bool,
    },
    LegalHold(bool),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_and_what_may_change() {
        use RetentionMode::{Compliance, Governance};
        let at = Timestamp::from_secs;
        let retention = |mode, until| Some(Retention { mode, until: at(until) });
        let lock = |retention, legal_hold| ObjectLock { retention, legal_hold };
        let now = at(100);
        for (lock, plainly, with_bypass) in [
            (lock(None, None), true, true),
            (lock(None, Some(false)), true, true),
            (lock(None, Some(true)), false, false),
            (lock(retention(Governance, 101), None), false, true),
            (lock(retention(Governance, 100), None), true, true),
            (lock(retention(Compliance, 101), None), false, false),
            (lock(retention(Compliance, 100), Some(true)), false, false),
            (lock(retention(Governance, 101), Some(true)), false, false),
        ] {
            let is = [lock.permits_removal(now, false), lock.permits_removal(now, true)];
            assert_eq!(is, [plainly, with_bypass], "{lock:?}");
        }
        for (from, to, plainly, with_bypass) in [
            (None, retention(Compliance, 200), true, true),
            (retention(Compliance, 99), None, true, true),
            (retention(Governance, 200), retention(Governance, 200), true, true),
            (retention(Governance, 200), retention(Governance, 300), true, true),
            (retention(Governance, 200), retention(Governance, 150), false, true),
            (retention(Governance, 200), retention(Compliance, 200), false, true),
            (retention(Governance, 200), None, false, true),
            (retention(Compliance, 200), retention(Compliance, 300), true, true),
            (retention(Compliance, 200), retention(Compliance, 199), false, false),
            (retention(Compliance, 200), retention(Governance, 300), false, false),
            (retention(Compliance, 200), None, false, false),
        ] {
            let is = [false, true].map(|bypass| lock(from, None).permits_retention(to.as_ref(), now, bypass));
            assert_eq!(is, [plainly, with_bypass], "{from:?} to {to:?}");
        }
    }
}
