//! A check that no action can be used without permission: every action of a server's registry is called by a user
//! who has none, with the least parameters that its decoder takes, and must be refused.
//!
//! The requests are rows of `coverage.txt`. An action without a row is a problem, so that nobody forgets it.

use std::collections::BTreeMap;
use terroir_aws_model::Service;
use terroir_iam::ops::{self, About, KeyOwner};
use terroir_types::Error;

use crate::ApiServer;
use crate::in_process::Client;

pub(crate) const TABLE: &str = include_str!("coverage.txt");

/// Actions that need no permission, as at AWS.
const PUBLIC: &[(Service, &str)] = &[(Service::Sts, "GetCallerIdentity"), (Service::Sts, "GetSessionToken")];

/// Actions for which something else than a signature and permissions is shown, and what they answer to a stranger.
const OTHERWISE_CLOSED: &[(Service, &str, &str)] =
    &[(Service::Sts, "AssumeRoleWithWebIdentity", "InvalidIdentityToken")];

pub(crate) type Rows<'a> = BTreeMap<(&'a str, &'a str), Vec<(&'a str, &'a str)>>;

/// Lines `service Action Name=value ...`; a value has no blanks.
pub(crate) fn rows(table: &str) -> Rows<'_> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = (words.next()?, words.next()?);
            Some((name, words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect()))
        })
        .collect()
}

/// What is wrong, one sentence per action; empty if every action refuses the user.
///
/// It makes an account and a user of its own in the server's store.
///
/// # Errors
/// The account or user cannot be made.
pub async fn problems(server: &ApiServer) -> Result<Vec<String>, Error> {
    let parts = &server.0.parts;
    let now = parts.clock.now();
    let name = format!("coverage-{:x}", parts.ids.next_u64());
    let ((key, secret), _) = parts
        .store
        .transact(&[], |txn| {
            let account = ops::create_account(txn, &name, &*parts.ids, now)?.account_id;
            let about = About { name: "nobody", path: None, description: None, tags: &BTreeMap::new() };
            ops::create_user(txn, account, about, &*parts.ids, now)?;
            ops::create_access_key(txn, account, KeyOwner::User("nobody"), &*parts.ids, now)
        })
        .await?;
    let client = Client::new(&key.id, &secret, &parts.region.get().name, now);
    let rows = rows(TABLE);
    let mut problems = Vec::new();
    for entry in parts.registry.iter() {
        let (service, action) = (entry.service(), entry.name());
        let name = format!("{} {action}", service.signing_name());
        let Some(parameters) = rows.get(&(service.signing_name(), action)) else {
            problems.push(format!("{name} has no row in coverage.txt"));
            continue;
        };
        let answer = client.call(server, service, action, parameters).await;
        let otherwise = OTHERWISE_CLOSED.iter().find(|(of, name, _)| (*of, *name) == (service, action));
        let refusal = match otherwise {
            Some((_, _, code)) => code,
            None if service == Service::Ec2 => "UnauthorizedOperation",
            None if service.speaks_json() => "AccessDeniedException",
            None => "AccessDenied",
        };
        let public = PUBLIC.contains(&(service, action));
        let as_it_should = if public { answer.status.is_success() } else { answer.code == refusal };
        if !as_it_should {
            let message = answer.element("Message").or_else(|| answer.element("message")).unwrap_or_default();
            problems.push(format!("{name} answered {} {} {message}", answer.status, answer.code));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_row_for_every_generated_action() {
        let names =
            |service: Service| service.implemented_actions().iter().map(move |name| (service.signing_name(), *name));
        let mut expected: Vec<_> = Service::ALL.into_iter().flat_map(names).collect();
        expected.sort_unstable();
        assert_eq!(rows(TABLE).into_keys().collect::<Vec<_>>(), expected);
        assert_eq!(TABLE.lines().filter(|line| !line.starts_with('#')).count(), expected.len());
    }
}
