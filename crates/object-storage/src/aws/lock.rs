//! Object lock: the bucket's configuration, retention and legal hold of versions, and what new versions get.

use http::{HeaderMap, StatusCode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use terroir_action::Target;
use terroir_types::{Arn, Timestamp as Moment};

use super::convert::{Claimed, moment, need_digest, timestamp};
use super::error::{access_denied, from_backend, from_domain, invalid, invalid_argument, malformed_xml, s3};
use super::permissions::{ConditionKeys, Need, of_signature};
use super::service::{S3Api, Scoped};
use super::tagging::decided_version;
use super::versions::asked_version;
use crate::backend::{LockChange, ObjectHead, ObjectLock, Retention, RetentionMode, VersionId};
use crate::lock::{self, LockSetting, MAX_DAYS, MAX_YEARS, Period};
use crate::model::Bucket as BucketRecord;

const MODE: &str = "x-amz-object-lock-mode";
const UNTIL: &str = "x-amz-object-lock-retain-until-date";
const HOLD: &str = "x-amz-object-lock-legal-hold";

/// What a request's headers say of the lock of the version that it writes.
#[derive(Default)]
pub(super) struct AskedLock {
    pub mode: Option<ObjectLockMode>,
    pub until: Option<Timestamp>,
    pub hold: Option<ObjectLockLegalHoldStatus>,
}

impl AskedLock {
    const fn is_none(&self) -> bool {
        self.mode.is_none() && self.until.is_none() && self.hold.is_none()
    }
}

/// The permissions that the headers of a write need beside the write's own. No list grants them.
pub(super) fn needs(resource: Option<&Arn>, headers: &HeaderMap) -> Vec<Need> {
    let has = |name: &str| headers.contains_key(name);
    let need = |permission: &str| {
        let target = Target { resource: resource.cloned(), ..Target::any(permission) };
        Need { target, list: None, of_object: false }
    };
    let retention = (has(MODE) || has(UNTIL)).then(|| need("s3:PutObjectRetention"));
    let hold = has(HOLD).then(|| need("s3:PutObjectLegalHold"));
    retention.into_iter().chain(hold).collect()
}

fn no_lock() -> s3s::S3Error {
    invalid("InvalidRequest", "Bucket is missing Object Lock Configuration")
}

fn no_lock_of_object() -> s3s::S3Error {
    let message = "The specified object does not have a ObjectLock configuration";
    s3("NoSuchObjectLockConfiguration", StatusCode::NOT_FOUND, message)
}

fn in_the_past() -> s3s::S3Error {
    invalid_argument("The retain until date must be in the future!")
}

/// Whole days that a retention still lasts, as policies see it.
fn remaining_days(until: Moment, now: Moment) -> u64 {
    until.since(now).as_secs().div_ceil(24 * 60 * 60)
}

fn remaining_days_key(until: Moment, now: Moment) -> (String, Vec<String>) {
    ("s3:object-lock-remaining-retention-days".to_owned(), vec![remaining_days(until, now).to_string()])
}

/// The condition key that follows from the headers of a write and has no header of its own.
pub(super) fn of_headers(headers: &HeaderMap, now: Moment) -> Option<(String, Vec<String>)> {
    let until = headers.get(UNTIL)?.to_str().ok()?;
    let until = Timestamp::parse(TimestampFormat::DateTime, until).ok()?;
    Some(remaining_days_key(moment(&until), now))
}

/// As AWS: what is to be kept must prove that it came whole. `what`: `Object` or `Part`.
pub(super) fn check_proof(lock: &ObjectLock, claimed: &Claimed, what: &str) -> S3Result<()> {
    if lock.is_none() || claimed.proves() {
        return Ok(());
    }
    let message = format!(
        "Content-MD5 OR x-amz-checksum- HTTP header is required for Put {what} requests with Object Lock parameters"
    );
    Err(invalid("InvalidRequest", message))
}

impl S3Api {
    fn lock_setting(&self, bucket: &BucketRecord) -> S3Result<Option<LockSetting>> {
        lock::lock(&self.iam().store().stale(), bucket.id).map_err(from_domain)
    }

    /// What the bucket gives to new versions.
    pub(super) fn default_retention(&self, bucket: &BucketRecord) -> S3Result<Option<Retention>> {
        let setting = self.lock_setting(bucket)?;
        Ok(setting.and_then(|setting| setting.default).map(|default| default.from(self.clock().now())))
    }

    /// The lock of a new version: what the request says, else what the bucket says.
    ///
    /// # Errors
    /// `InvalidRequest` without object lock, `InvalidArgument`.
    pub(super) fn new_lock(&self, bucket: &BucketRecord, asked: AskedLock) -> S3Result<ObjectLock> {
        let lock = self.asked_lock(bucket, asked)?;
        Ok(ObjectLock { retention: lock.retention.or(self.default_retention(bucket)?), ..lock })
    }

    /// The same without what the bucket says.
    pub(super) fn asked_lock(&self, bucket: &BucketRecord, asked: AskedLock) -> S3Result<ObjectLock> {
        if asked.is_none() {
            return Ok(ObjectLock::default());
        }
        let AskedLock { mode, until, hold } = asked;
        let retention = match (mode, until) {
            (None, None) => None,
            (Some(mode), Some(until)) => {
                let unknown = || invalid_argument("Unknown wormMode directive.");
                let mode = RetentionMode::parse(mode.as_str()).ok_or_else(unknown)?;
                Some(Retention { mode, until: moment(&until) })
            }
            _ => return Err(invalid_argument(format!("{UNTIL} and {MODE} must both be supplied"))),
        };
        let legal_hold = match hold.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
            None => None,
            Some(ObjectLockLegalHoldStatus::ON) => Some(true),
            Some(ObjectLockLegalHoldStatus::OFF) => Some(false),
            Some(_) => return Err(invalid_argument("Legal Hold must be either of 'ON' or 'OFF'")),
        };
        if retention.is_some_and(|retention| retention.until <= self.clock().now()) {
            return Err(in_the_past());
        }
        if self.lock_setting(bucket)?.is_none() {
            return Err(no_lock());
        }
        Ok(ObjectLock { retention, legal_hold })
    }

    /// Whether governance is passed over: the request says so, and its caller may.
    pub(super) async fn bypasses<T>(
        &self,
        request: &S3Request<T>,
        asked: Option<bool>,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<bool> {
        Ok(asked == Some(true) && self.may_lock(request, "s3:BypassGovernanceRetention", key, version).await?)
    }

    /// Whether the caller has a permission that is about the lock of an object that is there.
    async fn may_lock<T>(
        &self,
        request: &S3Request<T>,
        permission: &str,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<bool> {
        let (scope, found) = (request.scope()?, request.found()?);
        let mut need = Need::on_object(permission, found.bucket.name(), key);
        need.target.keys.extend(of_signature(scope));
        let object = Some((request.place(key)?, version.map(str::to_owned)));
        Ok(self.may_to(scope, found, &[need], object).await.is_ok())
    }

    /// What a read shows of the lock: each half to those who may read it.
    pub(super) async fn shown_lock<T>(
        &self,
        request: &S3Request<T>,
        head: &ObjectHead,
        key: &str,
    ) -> S3Result<ObjectLock> {
        let (mut lock, version) = (head.lock, Some(head.version.as_str()));
        if lock.retention.is_some() && !self.may_lock(request, "s3:GetObjectRetention", key, version).await? {
            lock.retention = None;
        }
        if lock.legal_hold.is_some() && !self.may_lock(request, "s3:GetObjectLegalHold", key, version).await? {
            lock.legal_hold = None;
        }
        Ok(lock)
    }

    pub(super) async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let Some(setting) = self.lock_setting(request.bucket()?)? else {
            let message = "Object Lock configuration does not exist for this bucket";
            return Err(s3("ObjectLockConfigurationNotFoundError", StatusCode::NOT_FOUND, message));
        };
        let default_retention = setting.default.map(|default| {
            let (days, years) = match default.period {
                Period::Days(days) => (i32::try_from(days).ok(), None),
                Period::Years(years) => (None, i32::try_from(years).ok()),
            };
            DefaultRetention { days, years, mode: Some(ObjectLockRetentionMode::from(default.mode.name().to_owned())) }
        });
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(ObjectLockConfiguration {
                object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
                rule: default_retention.map(|default| ObjectLockRule { default_retention: Some(default) }),
            }),
        }))
    }

    pub(super) async fn put_object_lock_configuration(
        &self,
        request: S3Request<PutObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
        need_digest(&request.headers)?;
        let setting = read_setting(request.input.object_lock_configuration.as_ref())?;
        let bucket = request.bucket()?;
        self.change_bucket(bucket, |txn, found| lock::set_lock(txn, found, &setting)).await?;
        Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
    }

    pub(super) async fn get_object_retention(
        &self,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        let version = request.input.version_id.as_deref();
        let lock = self.lock_of(&request, &request.input.key, version).await?;
        let retention = lock.retention.ok_or_else(no_lock_of_object)?;
        Ok(S3Response::new(GetObjectRetentionOutput {
            retention: Some(ObjectLockRetention {
                mode: Some(ObjectLockRetentionMode::from(retention.mode.name().to_owned())),
                retain_until_date: Some(timestamp(retention.until)),
            }),
        }))
    }

    pub(super) async fn put_object_retention(
        &self,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        let input = &request.input;
        need_digest(&request.headers)?;
        let retention = read_retention(input.retention.as_ref())?;
        let now = self.clock().now();
        let mut keys = ConditionKeys::new();
        if let Some(Retention { mode, until }) = &retention {
            keys.push(("s3:object-lock-mode".to_owned(), vec![mode.name().to_owned()]));
            keys.push(("s3:object-lock-retain-until-date".to_owned(), vec![until.to_rfc3339_seconds()]));
            keys.push(remaining_days_key(*until, now));
        }
        let version = input.version_id.as_deref();
        let decided = self.authorize(&request, "s3:PutObjectRetention", &input.key, version, keys).await?;
        if self.lock_setting(request.bucket()?)?.is_none() {
            return Err(no_lock());
        }
        if retention.is_some_and(|retention| retention.until <= now) {
            return Err(in_the_past());
        }
        let bypass = self.bypasses(&request, input.bypass_governance_retention, &input.key, version).await?;
        let change = LockChange::Retention { retention, bypass };
        self.change_lock(&request, &input.key, decided, change).await?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }

    /// Asked here, because policies may limit what the document says. Gives the version that it was decided for.
    async fn authorize<T>(
        &self,
        request: &S3Request<T>,
        permission: &str,
        key: &str,
        version: Option<&str>,
        keys: ConditionKeys,
    ) -> S3Result<Option<VersionId>> {
        let (scope, found) = (request.scope()?, request.found()?);
        let mut need = Need::on_object(permission, found.bucket.name(), key);
        need.target.keys.extend(of_signature(scope));
        need.target.keys.extend(keys);
        let object = Some((request.place(key)?, version.map(str::to_owned)));
        let basis = self.may_to(scope, found, &[need], object).await?;
        Ok(decided_version(basis.as_ref(), asked_version(version)?))
    }

    pub(super) async fn get_object_legal_hold(
        &self,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
        let version = request.input.version_id.as_deref();
        let lock = self.lock_of(&request, &request.input.key, version).await?;
        let hold = lock.legal_hold.ok_or_else(no_lock_of_object)?;
        let legal_hold = ObjectLockLegalHold { status: Some(hold_status(hold)) };
        Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(legal_hold) }))
    }

    pub(super) async fn put_object_legal_hold(
        &self,
        request: S3Request<PutObjectLegalHoldInput>,
    ) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
        let input = &request.input;
        need_digest(&request.headers)?;
        let status = input.legal_hold.as_ref().and_then(|hold| hold.status.as_ref());
        let hold = match status.map(ObjectLockLegalHoldStatus::as_str) {
            Some(ObjectLockLegalHoldStatus::ON) => true,
            Some(ObjectLockLegalHoldStatus::OFF) => false,
            _ => return Err(malformed_xml()),
        };
        let says = if hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
        let keys = vec![("s3:object-lock-legal-hold".to_owned(), vec![says.to_owned()])];
        let version = input.version_id.as_deref();
        let decided = self.authorize(&request, "s3:PutObjectLegalHold", &input.key, version, keys).await?;
        if self.lock_setting(request.bucket()?)?.is_none() {
            return Err(no_lock());
        }
        self.change_lock(&request, &input.key, decided, LockChange::LegalHold(hold)).await?;
        Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
    }

    async fn lock_of<T>(&self, request: &S3Request<T>, key: &str, version: Option<&str>) -> S3Result<ObjectLock> {
        let version = asked_version(version)?;
        if self.lock_setting(request.bucket()?)?.is_none() {
            return Err(no_lock());
        }
        let found = self.backend().head(&request.place(key)?, version.as_ref()).await.map_err(from_backend)?;
        Ok(self.need(request, version.as_ref(), found).await?.lock)
    }

    async fn change_lock<T>(
        &self,
        request: &S3Request<T>,
        key: &str,
        version: Option<VersionId>,
        change: LockChange,
    ) -> S3Result<()> {
        let place = request.place(key)?;
        let notes = self.replication_of_change(request.bucket()?, key)?;
        self.backend().change_lock(&place, version.as_ref(), change, notes).await.map_err(from_backend)?;
        Ok(())
    }
}

pub(super) fn hold_status(hold: bool) -> ObjectLockLegalHoldStatus {
    let status = if hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
    ObjectLockLegalHoldStatus::from_static(status)
}

pub(super) fn shown_mode(lock: &ObjectLock) -> Option<ObjectLockMode> {
    lock.retention.map(|retention| ObjectLockMode::from(retention.mode.name().to_owned()))
}

pub(super) fn shown_until(lock: &ObjectLock) -> Option<Timestamp> {
    lock.retention.map(|retention| timestamp(retention.until))
}

fn read_setting(document: Option<&ObjectLockConfiguration>) -> S3Result<LockSetting> {
    let document = document.ok_or_else(malformed_xml)?;
    let enabled = document.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(malformed_xml());
    }
    let Some(rule) = &document.rule else { return Ok(LockSetting::default()) };
    let default = rule.default_retention.as_ref().ok_or_else(malformed_xml)?;
    let mode = default.mode.as_ref().and_then(|mode| RetentionMode::parse(mode.as_str())).ok_or_else(malformed_xml)?;
    let bad_period = |message| Err(invalid("InvalidRetentionPeriod", message));
    let number = |number: i32, max: u32| u32::try_from(number).ok().filter(|number| (1..=max).contains(number));
    let period = match (default.days, default.years) {
        (Some(days), None) => match number(days, MAX_DAYS) {
            Some(days) => Period::Days(days),
            None => return bad_period("Default retention period must be a positive integer of at most 36500 days"),
        },
        (None, Some(years)) => match number(years, MAX_YEARS) {
            Some(years) => Period::Years(years),
            None => return bad_period("Default retention period must be a positive integer of at most 100 years"),
        },
        _ => return Err(malformed_xml()),
    };
    Ok(LockSetting { default: Some(lock::DefaultRetention { mode, period }) })
}

/// None: the retention is to be lifted.
fn read_retention(document: Option<&ObjectLockRetention>) -> S3Result<Option<Retention>> {
    let document = document.ok_or_else(malformed_xml)?;
    match (&document.mode, &document.retain_until_date) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => {
            let mode = RetentionMode::parse(mode.as_str()).ok_or_else(malformed_xml)?;
            Ok(Some(Retention { mode, until: moment(until) }))
        }
        _ => Err(malformed_xml()),
    }
}

/// Where a version that is locked was to go.
pub(super) fn locked() -> s3s::S3Error {
    let mut error = access_denied();
    error.set_message("Access Denied because object protected by object lock.");
    error
}
