//! The credential report: who has which credentials, as CSV.

use std::fmt::Write as _;
use std::time::Duration;
use terroir_action::{Context, Registry};
use terroir_aws_model::iam;
use terroir_types::{Error, Timestamp};

use super::{action, targets};
use crate::model::{
    AccessKey, AccessKeyUse, Account, CredentialReport, CredentialReportTenant, LoginProfile, PasswordPolicy, User,
};
use crate::names::{self, Entity};
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<GenerateCredentialReport>();
    registry.add::<GetCredentialReport>();
}

/// How long a report can be had, as at AWS.
const VALID: Duration = Duration::from_secs(4 * 3_600);
/// One transaction has to hold it.
const MAX_BYTES: usize = 1_500_000;

const HEADER: &str = "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,\
password_next_rotation,mfa_active,access_key_1_active,access_key_1_last_rotated,access_key_1_last_used_date,\
access_key_1_last_used_region,access_key_1_last_used_service,access_key_2_active,access_key_2_last_rotated,\
access_key_2_last_used_date,access_key_2_last_used_region,access_key_2_last_used_service,cert_1_active,\
cert_1_last_rotated,cert_2_active,cert_2_last_rotated";

fn time(at: Timestamp) -> String {
    at.to_rfc3339_seconds().replace('Z', "+00:00")
}

/// `active,rotated,used,region,service` of a key, or of none.
fn key_columns(cx: &Context<'_>, id: Option<&String>) -> Result<String, Error> {
    let none = || "false,N/A,N/A,N/A,N/A".to_owned();
    let Some(id) = id else { return Ok(none()) };
    let Some(key) = cx.txn.get::<AccessKey>(&AccessKey::key(id))? else { return Ok(none()) };
    let used = cx.txn.get::<AccessKeyUse>(&AccessKeyUse::key(id))?;
    let used = used.map_or_else(
        || "N/A,N/A,N/A".to_owned(),
        |used| format!("{},{},{}", time(used.at), plain(&used.region), plain(&used.service)),
    );
    Ok(format!("{},{},{used}", key.active, time(key.created_at)))
}

/// Region and service come from a client's credential scope, which it may have made up.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect()
}

fn root_row(cx: &Context<'_>, root: &Account) -> Result<String, Error> {
    let keys = [key_columns(cx, root.access_keys.first())?, key_columns(cx, root.access_keys.get(1))?].join(",");
    let (created, mfa) = (time(root.created_at), !root.mfa.is_empty());
    let arn = root.arn();
    Ok(format!(
        "<root_account>,{arn},{created},not_supported,no_information,not_supported,not_supported,{mfa},{keys},false,N/A,false,N/A"
    ))
}

fn user_row(cx: &Context<'_>, user: &User, policy: Option<&PasswordPolicy>) -> Result<String, Error> {
    let profile = cx.txn.get::<LoginProfile>(&LoginProfile::key(cx.account(), &user.id))?;
    let password = match profile {
        None => "false,N/A,N/A,N/A".to_owned(),
        Some(profile) => {
            let days = policy.and_then(|policy| policy.max_age_days).map(u64::from);
            let next = days.map_or_else(
                || "N/A".to_owned(),
                |days| time(profile.changed_at.plus(Duration::from_secs(days * 86_400))),
            );
            format!("true,no_information,{},{next}", time(profile.changed_at))
        }
    };
    let keys = [key_columns(cx, user.access_keys.first())?, key_columns(cx, user.access_keys.get(1))?].join(",");
    let (name, arn, created, mfa) = (user.name(), user.arn(), time(user.created_at), !user.mfa.is_empty());
    // Names and paths may hold commas.
    let [name, arn] = [name, arn.as_str()].map(quoted);
    Ok(format!("{name},{arn},{created},{password},{mfa},{keys},false,N/A,false,N/A"))
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn report(cx: &Context<'_>) -> Result<String, Error> {
    let policy = ops::password_policy(cx.txn, cx.account())?;
    let mut csv = HEADER.to_owned();
    if let Some(root) = ops::account(cx.txn, cx.account())? {
        // Writing to a String cannot fail.
        let _ = write!(csv, "\n{}", root_row(cx, &root)?);
    }
    for user in names::list::<User>(cx.txn, cx.account())? {
        let _ = write!(csv, "\n{}", user_row(cx, &user, policy.as_deref())?);
    }
    Ok(csv)
}

action!(GenerateCredentialReport, Write, |_cx, _r| targets::none(), |cx, _r| {
    let csv = report(cx)?;
    if csv.len() > MAX_BYTES {
        let message = format!("The report would have more than {MAX_BYTES} bytes.");
        return Err(Error::limit("LimitExceeded", message));
    }
    let (account, at) = (cx.caller.account, cx.now);
    cx.txn.put(
        &CredentialReport::key(account),
        &CredentialReport { account, at, tenant: CredentialReportTenant { csv } },
    )?;
    Ok(iam::GenerateCredentialReportResponse { description: None, state: Some("COMPLETE".to_owned()) })
});

action!(
    GetCredentialReport,
    Read,
    |_cx, _r| targets::none(),
    |cx, _r| Ok(vec![CredentialReport::key(cx.account())]),
    |cx, _r| {
        let report = cx.txn.get::<CredentialReport>(&CredentialReport::key(cx.account()))?;
        let report = report.ok_or_else(|| {
            let message = "No report exists. Generate one with GenerateCredentialReport.";
            Error::not_found("ReportNotPresent", message)
        })?;
        if cx.now.since(report.at) >= VALID {
            let message = "The report has expired. Generate another one with GenerateCredentialReport.";
            return Err(Error::not_found("ReportExpired", message));
        }
        Ok(iam::GetCredentialReportResponse {
            content: Some(report.tenant.csv.clone().into_bytes()),
            generated_time: Some(report.at),
            report_format: Some("text/csv".to_owned()),
        })
    }
);
