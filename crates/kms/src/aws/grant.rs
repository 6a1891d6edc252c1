use std::sync::Arc;
use terroir_action::{Caller, Context, Grantee, Registry, Target};
use terroir_aws_model::{Decode, Empty, kms};
use terroir_store::Txn;
use terroir_types::{Arn, Error};

use super::page::page;
use super::{SHARED, action, check_tokens, find, manages, on_key, the_key};
use crate::access::Use;
use crate::model::{Constraint, Grant, GrantPrincipal, KmsKey, key_arn};
use crate::ops::{self, NewGrant, constraint};
use crate::reference::{Reference, not_found};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateGrant>();
    registry.add::<ListGrants>();
    registry.add::<ListRetirableGrants>();
    registry.add::<RetireGrant>();
    registry.add::<RevokeGrant>();
}

/// Errors: `ValidationException` for both sorts at once.
fn read_constraint(constraints: Option<&kms::GrantConstraints>) -> Result<Option<Constraint>, Error> {
    let Some(constraints) = constraints else { return Ok(None) };
    match (&constraints.encryption_context_equals, &constraints.encryption_context_subset) {
        (Some(_), Some(_)) => {
            let message = "A grant has either EncryptionContextEquals or EncryptionContextSubset.";
            Err(Error::invalid("ValidationException", message))
        }
        (Some(equals), None) => Ok(Some(Constraint::Equals(equals.clone()))),
        (None, Some(subset)) => Ok(Some(Constraint::Contains(subset.clone()))),
        (None, None) => Ok(None),
    }
}

fn entry(grant: &Grant, region: &str) -> kms::GrantListEntry {
    let context = |wanted: bool| match &grant.tenant.constraint {
        Some(Constraint::Equals(context)) if wanted => Some(context.clone()),
        Some(Constraint::Contains(context)) if !wanted => Some(context.clone()),
        _ => None,
    };
    let constraints = grant.tenant.constraint.as_ref().map(|_| kms::GrantConstraints {
        encryption_context_equals: context(true),
        encryption_context_subset: context(false),
    });
    kms::GrantListEntry {
        constraints,
        creation_date: Some(grant.created_at),
        grant_id: Some(grant.id.clone()),
        grantee_principal: Some(grant.tenant.grantee.arn.clone()),
        issuing_account: Some(Arn::iam(grant.issuer, "root").to_string()),
        key_id: Some(key_arn(region, grant.account, grant.key).to_string()),
        name: Some(grant.tenant.name.clone().unwrap_or_default()),
        operations: grant.operations.clone(),
        retiring_principal: grant.tenant.retiring.as_ref().map(|retiring| retiring.arn.clone()),
    }
}

action!(
    CreateGrant,
    Write,
    |cx, r| {
        let constraint = read_constraint(r.constraints.as_ref())?;
        let what = Use::Grant { operations: &r.operations, constraint: constraint.as_ref() };
        let mut target = on_key(cx, "CreateGrant", &r.key_id, SHARED, what)?;
        target = target.key("kms:GranteePrincipal", &r.grantee_principal);
        if let Some(retiring) = &r.retiring_principal {
            target = target.key("kms:RetiringPrincipal", retiring);
        }
        Ok(vec![target])
    },
    |cx, r| {
        check_tokens(cx.txn, &r.grant_tokens)?;
        let key = the_key(cx, &r.key_id, SHARED)?;
        let constraint = read_constraint(r.constraints.as_ref())?;
        let new = NewGrant {
            issuer: cx.caller.account,
            grantee: &r.grantee_principal,
            retiring: r.retiring_principal.as_deref(),
            operations: &r.operations,
            constraint: constraint.as_ref(),
            name: r.name.as_deref(),
        };
        let grant = ops::create_grant(cx.txn, &key, &cx.region.name, new, cx.ids, cx.now)?;
        Ok(kms::CreateGrantResponse { grant_token: Some(ops::grant_token(cx.txn, &grant)), grant_id: Some(grant.id) })
    }
);

action!(ListGrants, Read, |cx, r| manages(cx, "ListGrants", &r.key_id, SHARED), |cx, r| {
    let key = the_key(cx, &r.key_id, SHARED)?;
    let grants = match &r.grant_id {
        Some(id) => vec![ops::find_grant(cx.txn, key.account, key.id, id)?],
        None => {
            let all = cx.txn.peek_range::<Grant>(&Grant::all(key.account, key.id))?;
            all.into_iter().map(|(_, grant)| grant).collect()
        }
    };
    let grantee = r.grantee_principal.as_deref();
    let chosen = grants.into_iter().filter(|grant| grantee.is_none_or(|arn| arn == grant.tenant.grantee.arn));
    let scope = format!("{} {:?} {:?}", key.id, r.grant_id, r.grantee_principal);
    let items = chosen.map(|grant| (grant.id.clone(), grant));
    let page = page(cx, "ListGrants", &scope, r.page(), (50, 100), items)?;
    let grants = page.items.iter().map(|grant| entry(grant, &cx.region.name)).collect();
    Ok(kms::ListGrantsResponse { grants, next_marker: page.next_marker, truncated: page.truncated })
});

action!(
    ListRetirableGrants,
    Read,
    |_cx, r| Ok(vec![Target::any("kms:ListRetirableGrants").key("kms:RetiringPrincipal", &r.retiring_principal)]),
    |cx, r| {
        let arn = &r.retiring_principal;
        let own = Arn::parse(arn).ok().and_then(|arn| arn.account()) == Some(cx.account());
        if !own {
            return Err(Error::invalid("InvalidArnException", "The principal is not one of this account."));
        }
        let grants = ops::retirable_grants(cx.txn, arn)?;
        let mut items: Vec<_> = grants.into_iter().map(|grant| (grant.id.clone(), grant)).collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let page = page(cx, "ListRetirableGrants", arn, r.page(), (50, 100), items)?;
        let grants = page.items.iter().map(|grant| entry(grant, &cx.region.name)).collect();
        Ok(kms::ListGrantsResponse { grants, next_marker: page.next_marker, truncated: page.truncated })
    }
);

/// The grant that a request to retire one means, if there is such a grant, and the ARN of its key.
///
/// Errors: `InvalidGrantTokenException`, `ValidationException`, those of a bad key.
fn retired(cx: &Context<'_>, r: &kms::RetireGrantRequest) -> Result<(Option<Arc<Grant>>, Arn), Error> {
    let (account, key, id) = match (&r.grant_token, &r.key_id, &r.grant_id) {
        (Some(token), None, None) => ops::open_token(cx.txn, token)?,
        (None, Some(key), Some(id)) => match find(cx.txn, cx.account(), &cx.region.name, key, SHARED)?.reference {
            Reference::Key(account, key) => (account, key, id.clone()),
            Reference::Alias(..) => return Err(not_found(format!("Invalid keyId {key}"))),
        },
        _ => return Err(constraint("grantToken", "be given, or else keyId and grantId")),
    };
    let grant = match ops::find_grant(cx.txn, account, key, &id) {
        Ok(grant) => Some(grant),
        Err(error) if error.code() == "NotFoundException" => None,
        Err(error) => return Err(error),
    };
    Ok((grant, key_arn(&cx.region.name, account, key)))
}

fn means(txn: &Txn, caller: &Caller, principal: &GrantPrincipal) -> Result<Option<Grantee>, Error> {
    let names = terroir_iam::caller_names(txn, caller)?;
    let fits = |name: &&terroir_iam::CallerName| {
        name.arn == principal.arn && (principal.id.is_none() || principal.id == name.id)
    };
    Ok(names.iter().find(fits).and_then(|name| name.means))
}

action!(
    RetireGrant,
    Write,
    // The grant itself says who may: its retiring principal, its grantee if it was granted that, and whoever the account
    // that made it lets. The key's policy has no say.
    |cx, r| {
        let (grant, arn) = retired(cx, r)?;
        let mut target = Target::on("kms:RetireGrant", arn);
        if let Some(grant) = grant {
            let own = grant.issuer == cx.account();
            if own {
                target = target.owned_by(cx.account(), None);
            }
            let tenant = &grant.tenant;
            let grantee =
                grant.operations.iter().any(|operation| operation == "RetireGrant").then_some(&tenant.grantee);
            for principal in [tenant.retiring.as_ref(), grantee].into_iter().flatten() {
                target.grantee = target.grantee.or(means(cx.txn, cx.caller, principal)?);
            }
        }
        Ok(vec![target])
    },
    |cx, r| {
        let (grant, _) = retired(cx, &r)?;
        match grant {
            Some(grant) => ops::remove_grant(cx.txn, &grant)?,
            None => return Err(not_found("The grant was not found.")),
        }
        Ok(Empty)
    }
);

action!(RevokeGrant, Write, |cx, r| manages(cx, "RevokeGrant", &r.key_id, SHARED), |cx, r| {
    let key: Arc<KmsKey> = the_key(cx, &r.key_id, SHARED)?;
    let grant = ops::find_grant(cx.txn, key.account, key.id, &r.grant_id)?;
    ops::remove_grant(cx.txn, &grant)?;
    Ok(Empty)
});
