use terroir_store::Txn;
use terroir_types::{Error, IdSource, Timestamp};

use super::constraint;
use super::key::{change, check_usable, days, put_material};
use crate::model::{KeyState, KmsKey, Rotation, RotationKind};

pub(super) const DEFAULT_DAYS: u32 = 365;
const PERIOD_DAYS: std::ops::RangeInclusive<u32> = 90..=2560;
/// AWS's quota "On-demand rotations".
pub const MAX_ON_DEMAND: u32 = 25;

pub(super) fn after(now: Timestamp, period_days: u32) -> Rotation {
    Rotation { period_days, next: now.plus(days(period_days)) }
}

/// Errors: `ValidationException`, `DisabledException`, `KMSInvalidStateException`.
pub fn enable_rotation(
    txn: &mut Txn,
    key: &KmsKey,
    region: &str,
    period_days: Option<u32>,
    now: Timestamp,
) -> Result<KmsKey, Error> {
    let period_days = period_days.or(key.rotation.map(|rotation| rotation.period_days)).unwrap_or(DEFAULT_DAYS);
    if !PERIOD_DAYS.contains(&period_days) {
        return Err(constraint("rotationPeriodInDays", "have value between 90 and 2560"));
    }
    check_usable(key, region)?;
    match key.rotation {
        // To say it again changes nothing.
        Some(rotation) if rotation.period_days == period_days => Ok(key.clone()),
        _ => change(txn, key, |key| key.rotation = Some(after(now, period_days))),
    }
}

/// Errors: `DisabledException`, `KMSInvalidStateException`.
pub fn disable_rotation(txn: &mut Txn, key: &KmsKey, region: &str) -> Result<KmsKey, Error> {
    check_usable(key, region)?;
    change(txn, key, |key| key.rotation = None)
}

/// Errors: `LimitExceededException`, `DisabledException`, `KMSInvalidStateException`.
pub fn rotate_on_demand(
    txn: &mut Txn,
    key: &KmsKey,
    region: &str,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<KmsKey, Error> {
    check_usable(key, region)?;
    if key.on_demand >= MAX_ON_DEMAND {
        let message = format!("The key was rotated on demand {MAX_ON_DEMAND} times already.");
        return Err(Error::limit("LimitExceededException", message));
    }
    put_material(txn, key, key.current + 1, Some(RotationKind::OnDemand), ids, now)?;
    change(txn, key, |key| {
        key.current += 1;
        key.on_demand += 1;
    })
}

/// The automatic rotation of a key, if it is due.
pub fn rotate(txn: &mut Txn, key: &KmsKey, ids: &dyn IdSource, now: Timestamp) -> Result<(), Error> {
    let Some(rotation) = key.rotation.filter(|rotation| key.state == KeyState::Enabled && rotation.next <= now) else {
        return Ok(());
    };
    put_material(txn, key, key.current + 1, Some(RotationKind::Automatic), ids, now)?;
    change(txn, key, |key| {
        key.current += 1;
        key.rotation = Some(after(now, rotation.period_days));
    })
    .map(drop)
}
