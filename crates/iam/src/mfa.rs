//! Codes of multi-factor devices in requests to STS.

use std::time::Duration;
use terroir_action::{Caller, CallerKind};
use terroir_store::Txn;
use terroir_types::{Error, ErrorClass, Timestamp};

use crate::ops::{self, KeyOwner};
use crate::service::Iam;

/// Wrong codes of one caller in a row before it has to wait: a code has only six digits.
const MAX_FAILURES: u32 = 5;
const WAIT: Duration = Duration::from_secs(300);

/// A code, and the device that it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code<'a> {
    serial: &'a str,
    code: &'a str,
}

impl<'a> Code<'a> {
    /// None: the request has neither.
    ///
    /// Errors: `AccessDenied` if it has one of the two.
    pub(crate) fn of(serial: Option<&'a str>, code: Option<&'a str>) -> Result<Option<Self>, Error> {
        match (serial, code) {
            (None, None) => Ok(None),
            (Some(serial), Some(code)) => Ok(Some(Self { serial, code })),
            _ => Err(refused(", must provide both MFA serial number and one time pass code.")),
        }
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorClass::Denied, "AccessDenied", format!("MultiFactorAuthentication failed{what}"))
}

/// Whose devices may be used: the user's own, or the root's.
///
/// Errors: `AccessDenied` for a role's session and the like, which have none.
fn owner(caller: &Caller) -> Result<KeyOwner<'_>, Error> {
    match &caller.kind {
        CallerKind::Root => Ok(KeyOwner::Root),
        CallerKind::User { name } => Ok(KeyOwner::User(name)),
        _ => Err(refused(", only users have MFA devices.")),
    }
}

impl Iam {
    /// Whether the code is right, without taking it.
    ///
    /// Errors: `AccessDenied`.
    pub(crate) fn check_mfa_code(
        &self,
        txn: &Txn,
        caller: &Caller,
        code: Code<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let owner = owner(caller)?;
        self.begin_try(caller, now)?;
        let checked = ops::check_mfa_code(txn, caller.account, owner, code.serial, code.code, now);
        self.end_try(caller, checked.map(drop))
    }

    /// Takes the code: it is not taken again.
    ///
    /// Errors: `AccessDenied`.
    pub(crate) async fn use_mfa_code(&self, caller: &Caller, code: Code<'_>) -> Result<(), Error> {
        let now = self.now();
        let owner = owner(caller)?;
        self.begin_try(caller, now)?;
        let take = |txn: &mut Txn| ops::use_mfa_code(txn, caller.account, owner, code.serial, code.code, now);
        let taken = self.store().transact(&[], take).await;
        self.end_try(caller, taken.map(drop))
    }

    /// Counts a try as wrong before the code is looked at, so that many at once do not get around the bound.
    ///
    /// Errors: `AccessDenied` after too many.
    fn begin_try(&self, caller: &Caller, now: Timestamp) -> Result<(), Error> {
        let may = self.mfa_failures().update(caller.user_id.clone(), |before| {
            let (count, last) = before.filter(|(_, at)| now.since(*at) < WAIT).unwrap_or((0, now));
            if count < MAX_FAILURES { ((count + 1, now), true) } else { ((count, last), false) }
        });
        if may { Ok(()) } else { Err(refused(": too many wrong codes. Try again later.")) }
    }

    /// A right code ends the row of wrong ones; what failed for another reason does not count.
    fn end_try(&self, caller: &Caller, outcome: Result<(), Error>) -> Result<(), Error> {
        let wrong = outcome.as_ref().is_err_and(|error| error.class() == ErrorClass::Denied);
        if !wrong {
            self.mfa_failures().update(caller.user_id.clone(), |before| {
                let (count, last) = before.unwrap_or_default();
                (if outcome.is_ok() { (0, last) } else { (count.saturating_sub(1), last) }, ())
            });
        }
        outcome
    }
}
