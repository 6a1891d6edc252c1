use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, ErrorClass, IdSource, Secret, Timestamp};

use super::keys::KeyOwner;
use super::{About, delete_conflict};
use crate::model::{Account, MfaAssignment, MfaDevice, MfaDeviceTenant, User};
use crate::names::{Entity, by_id, exceeds, find, id_of, insert, remove, unique_id};
use crate::totp;

const DEVICES_PER_OWNER: usize = 8;
/// How far a device's clock may be off when it is enabled or resynchronised, and from code to code, in steps of 30 s.
const ENABLE_WINDOW: i64 = 20;
const CODE_WINDOW: i64 = 1;

fn unknown_device(serial: &str) -> Error {
    Error::not_found("NoSuchEntity", format!("VirtualMFADevice with serial number {serial} does not exist."))
}

/// The device of a serial number, which is its ARN.
///
/// Errors: `NoSuchEntity`.
pub fn find_mfa_device(txn: &Txn, account: AccountId, serial: &str) -> Result<Arc<MfaDevice>, Error> {
    let unknown = || unknown_device(serial);
    let arn = Arn::parse(serial).map_err(|_| unknown())?;
    let name = arn.resource().rsplit('/').next().unwrap_or_default();
    let id = id_of::<MfaDevice>(txn, account, name)?.ok_or_else(unknown)?;
    let device = by_id::<MfaDevice>(txn, account, &id)?.ok_or_else(unknown)?;
    if device.arn() == arn { Ok(device) } else { Err(unknown()) }
}

/// Errors: `ValidationError`, `EntityAlreadyExists`, `LimitExceeded`.
pub fn create_mfa_device(
    txn: &mut Txn,
    account: AccountId,
    about: About<'_>,
    ids: &dyn IdSource,
    now: Timestamp,
) -> Result<MfaDevice, Error> {
    let about = about.checked("virtualMFADeviceName", MfaDevice::MAX_NAME)?;
    if id_of::<MfaDevice>(txn, account, &about.name)?.is_some() {
        let message = "MFADevice entity at the same path and name already exists.";
        return Err(Error::conflict("EntityAlreadyExists", message));
    }
    let seed = Secret::new(totp::seed(ids));
    let device = MfaDevice {
        account,
        id: unique_id(MfaDevice::PREFIX, ids),
        created_at: now,
        enabled: None,
        tenant: MfaDeviceTenant { about, seed },
    };
    insert(txn, &device)?;
    Ok(device)
}

/// Errors: `NoSuchEntity`; `DeleteConflict` while it is somebody's.
pub fn delete_mfa_device(txn: &mut Txn, account: AccountId, serial: &str) -> Result<(), Error> {
    let device = find_mfa_device(txn, account, serial)?;
    if device.enabled.is_some() {
        return Err(Error::conflict("DeleteConflict", "MFA VirtualDevice in use. Must deactivate first."));
    }
    remove(txn, &*device)
}

/// The ids of an owner's devices, and the owner's id (none: the root).
fn owned(txn: &Txn, account: AccountId, owner: KeyOwner<'_>) -> Result<(Option<String>, Vec<String>), Error> {
    match owner {
        KeyOwner::User(name) => {
            let user = find::<User>(txn, account, name)?;
            Ok((Some(user.id.clone()), user.mfa.clone()))
        }
        KeyOwner::Root => Ok((None, super::account(txn, account)?.map(|root| root.mfa.clone()).unwrap_or_default())),
    }
}

fn set_owned(txn: &mut Txn, account: AccountId, owner: KeyOwner<'_>, devices: Vec<String>) -> Result<(), Error> {
    match owner {
        KeyOwner::User(name) => {
            let user = User { mfa: devices, ..(*find::<User>(txn, account, name)?).clone() };
            txn.put(&user.key(), &user)
        }
        KeyOwner::Root => match super::account(txn, account)? {
            Some(root) => txn.put(&Account::key(account), &Account { mfa: devices, ..(*root).clone() }),
            None => Err(Error::not_found("NoSuchEntity", format!("The account {account} cannot be found."))),
        },
    }
}

/// The devices of a user or of the root, by serial number.
///
/// Errors: `NoSuchEntity`.
pub fn mfa_devices_of(txn: &Txn, account: AccountId, owner: KeyOwner<'_>) -> Result<Vec<Arc<MfaDevice>>, Error> {
    let (_, ids) = owned(txn, account, owner)?;
    let mut devices = Vec::new();
    for id in &ids {
        devices.extend(by_id::<MfaDevice>(txn, account, id)?);
    }
    devices.sort_by_cached_key(|device| device.arn());
    Ok(devices)
}

fn wrong_codes() -> Error {
    let message = "Authentication code for device is not valid.";
    Error::new(ErrorClass::Denied, "InvalidAuthenticationCode", message)
}

/// How many steps the device is ahead of us, if the two codes are of two steps in a row.
fn drift_of(device: &MfaDevice, codes: [&str; 2], after: i64, now: Timestamp) -> Result<(i64, i64), Error> {
    let seed = device.tenant.seed.expose();
    let present = totp::step(now);
    let mut drifts: Vec<i64> = (-ENABLE_WINDOW..=ENABLE_WINDOW).collect();
    drifts.sort_by_key(|drift| drift.abs());
    let found = drifts.into_iter().find(|drift| {
        let second = present + drift;
        second - 1 > after && totp::matches(seed, second - 1, codes[0]) && totp::matches(seed, second, codes[1])
    });
    found.map(|drift| (drift, present + drift)).ok_or_else(wrong_codes)
}

/// Gives a device to a user or to the root, who proves with two codes in a row to have it.
///
/// Errors: `NoSuchEntity`; `EntityAlreadyExists` if it is somebody's; `InvalidAuthenticationCode`; `LimitExceeded` above
/// eight.
pub fn enable_mfa_device(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
    codes: [&str; 2],
    now: Timestamp,
) -> Result<(), Error> {
    let (user, mut ids) = owned(txn, account, owner)?;
    let mut device = (*find_mfa_device(txn, account, serial)?).clone();
    if device.enabled.is_some() {
        let message = "MFA Device is already in use.";
        return Err(Error::conflict("EntityAlreadyExists", message));
    }
    if ids.len() >= DEVICES_PER_OWNER {
        return Err(exceeds("MFADevicesPerUser", 8));
    }
    let (drift, last_step) = drift_of(&device, codes, i64::MIN, now)?;
    device.enabled = Some(MfaAssignment { user, at: now, drift, last_step });
    ids.push(device.id.clone());
    txn.put(&device.key(), &device)?;
    set_owned(txn, account, owner, ids)
}

/// The device, if it is this owner's.
///
/// Errors: `NoSuchEntity`.
fn enabled_device(
    txn: &Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
) -> Result<(MfaDevice, MfaAssignment), Error> {
    let (user, _) = owned(txn, account, owner)?;
    let device = find_mfa_device(txn, account, serial)?;
    match &device.enabled {
        Some(enabled) if enabled.user == user => Ok(((*device).clone(), enabled.clone())),
        _ => {
            let whose = user.map_or_else(|| "root account".to_owned(), |_| format!("user {}", owner_name(owner)));
            Err(Error::not_found("NoSuchEntity", format!("MFA Device {serial} is not enabled for {whose}.")))
        }
    }
}

fn owner_name(owner: KeyOwner<'_>) -> &str {
    match owner {
        KeyOwner::Root => "root",
        KeyOwner::User(name) => name,
    }
}

/// Errors: `NoSuchEntity`, `InvalidAuthenticationCode`.
pub fn resync_mfa_device(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
    codes: [&str; 2],
    now: Timestamp,
) -> Result<(), Error> {
    let (mut device, enabled) = enabled_device(txn, account, owner, serial)?;
    let (drift, last_step) = drift_of(&device, codes, enabled.last_step, now)?;
    device.enabled = Some(MfaAssignment { drift, last_step, ..enabled });
    txn.put(&device.key(), &device)
}

/// Errors: `NoSuchEntity`.
pub fn deactivate_mfa_device(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
) -> Result<(), Error> {
    let (mut device, _) = enabled_device(txn, account, owner, serial)?;
    let (_, mut ids) = owned(txn, account, owner)?;
    ids.retain(|id| *id != device.id);
    device.enabled = None;
    txn.put(&device.key(), &device)?;
    set_owned(txn, account, owner, ids)
}

/// Takes one code of a device of this owner. No code is taken twice.
///
/// Errors: as [`check_mfa_code`].
pub fn use_mfa_code(
    txn: &mut Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
    code: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let device = check_mfa_code(txn, account, owner, serial, code, now)?;
    txn.put(&device.key(), &device)
}

/// The device of this owner as it will be once the code is taken.
///
/// Errors: `AccessDenied`, in the words of STS.
pub fn check_mfa_code(
    txn: &Txn,
    account: AccountId,
    owner: KeyOwner<'_>,
    serial: &str,
    code: &str,
    now: Timestamp,
) -> Result<MfaDevice, Error> {
    let refused = |what: &str| {
        let message = format!("MultiFactorAuthentication failed{what}");
        Error::new(ErrorClass::Denied, "AccessDenied", message)
    };
    let (mut device, mut enabled) = match enabled_device(txn, account, owner, serial) {
        Err(error) if error.code() == "NoSuchEntity" => {
            return Err(refused(
                ", unable to validate MFA code.  Please verify your MFA serial number is valid and associated with this user.",
            ));
        }
        found => found?,
    };
    let expected = totp::step(now) + enabled.drift;
    let seed = device.tenant.seed.expose();
    let step = (expected - CODE_WINDOW..=expected + CODE_WINDOW)
        .find(|step| *step > enabled.last_step && totp::matches(seed, *step, code))
        .ok_or_else(|| refused(" with invalid MFA one time pass code. "))?;
    enabled.last_step = step;
    enabled.drift += step - expected;
    device.enabled = Some(enabled);
    Ok(device)
}

/// Errors: `DeleteConflict` while the user has devices.
pub(super) fn check_no_devices(user: &User) -> Result<(), Error> {
    if user.mfa.is_empty() { Ok(()) } else { Err(delete_conflict("must deactivate MFA devices first.")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{create_account, create_user};
    use std::time::Duration;
    use terroir_store::Store;
    use terroir_types::OsRandom;

    fn about(name: &str) -> About<'_> {
        static NONE: std::sync::LazyLock<terroir_resources::Tags> = std::sync::LazyLock::new(Default::default);
        About { name, path: None, description: None, tags: &NONE }
    }

    #[tokio::test]
    async fn a_device_is_enabled_used_and_resynchronised() {
        let store = Store::in_memory_for_tests().await;
        let now = Timestamp::from_secs(1_700_000_010);
        let make = |txn: &mut Txn| {
            let account = create_account(txn, "a", &OsRandom, now)?.account_id;
            for name in ["ann", "bob"] {
                create_user(txn, account, about(name), &OsRandom, now)?;
            }
            Ok((account, create_mfa_device(txn, account, about("phone"), &OsRandom, now)?))
        };
        let ((account, device), _) = store.transact(&[], make).await.unwrap();
        let serial = device.arn().to_string();
        let seed = device.tenant.seed.expose().clone();
        // The device's clock is two minutes ahead.
        let ahead = 4;
        let shows = |at: Timestamp, steps: i64| totp::code(&seed, totp::step(at) + ahead + steps);
        let (ann, bob) = (KeyOwner::User("ann"), KeyOwner::User("bob"));
        let enable = async |owner: KeyOwner<'_>, codes: [String; 2]| {
            let codes = [codes[0].as_str(), codes[1].as_str()];
            let done = store.transact(&[], |txn| enable_mfa_device(txn, account, owner, &serial, codes, now)).await;
            done.map(drop).map_err(|error| error.code().to_owned())
        };
        let wrong = Err("InvalidAuthenticationCode".to_owned());
        assert_eq!(enable(ann, [shows(now, 0), shows(now, 0)]).await, wrong, "one code twice");
        assert_eq!(enable(ann, [shows(now, 0), shows(now, -1)]).await, wrong, "in the wrong order");
        assert_eq!(enable(ann, [shows(now, 100), shows(now, 101)]).await, wrong, "too far off");
        assert_eq!(enable(ann, [shows(now, -1), shows(now, 0)]).await, Ok(()));
        assert_eq!(enable(bob, [shows(now, -1), shows(now, 0)]).await, Err("EntityAlreadyExists".to_owned()));

        let take = async |owner: KeyOwner<'_>, at: Timestamp, code: String| {
            store.transact(&[], |txn| use_mfa_code(txn, account, owner, &serial, &code, at)).await.is_ok()
        };
        let later = |secs: u64| now.plus(Duration::from_secs(secs));
        assert!(!take(ann, now, shows(now, 0)).await, "the code that enabled it was used");
        assert!(!take(bob, later(30), shows(later(30), 0)).await, "somebody else's device");
        assert!(take(ann, later(30), shows(later(30), 0)).await);
        assert!(!take(ann, later(30), shows(later(30), 0)).await, "a code counts once");
        assert!(!take(ann, later(30), shows(later(30), -1)).await, "nor one from before it");
        assert!(take(ann, later(90), shows(later(90), 1)).await, "a little early");
        assert!(!take(ann, later(300), shows(later(300), 3)).await, "too early");
        assert!(take(ann, later(300), shows(later(300), 0)).await, "the clock goes as before");
        // It has gone astray, and is set right.
        let off = |at: Timestamp, steps: i64| shows(at, 8 + steps);
        let at = later(600);
        assert!(!take(ann, at, off(at, 0)).await);
        let (one, two) = (off(at, -1), off(at, 0));
        let resync = |txn: &mut Txn| resync_mfa_device(txn, account, ann, &serial, [&one, &two], at);
        store.transact(&[], resync).await.unwrap();
        assert!(store.transact(&[], resync).await.is_err(), "the same codes again");
        assert!(take(ann, later(630), off(later(630), 0)).await);

        let delete = |txn: &mut Txn| delete_mfa_device(txn, account, &serial);
        assert_eq!(store.transact(&[], delete).await.unwrap_err().code(), "DeleteConflict");
        let conflict = store.transact(&[], |txn| crate::ops::delete_user(txn, account, "ann")).await.unwrap_err();
        assert_eq!(conflict.code(), "DeleteConflict");
        let deactivate = |txn: &mut Txn| deactivate_mfa_device(txn, account, ann, &serial);
        store.transact(&[], deactivate).await.unwrap();
        store.transact(&[], delete).await.unwrap();
        store.transact(&[], |txn| crate::ops::delete_user(txn, account, "ann")).await.unwrap();
        assert!(!take(ann, later(660), off(later(660), 0)).await);
    }
}
