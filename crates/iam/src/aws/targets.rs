//! What IAM's actions need permission on. A target whose permission is empty gets its action's own.

use terroir_action::{Context, Target};
use terroir_resources::Tags;
use terroir_types::{Arn, Error, ErrorClass};

use crate::names::{Entity, arn_of, find};

pub(super) fn none() -> Result<Vec<Target>, Error> {
    Ok(vec![Target::any("")])
}

/// Something that exists, with its path and tags; of an unknown name the ARN has the path `/`.
pub(super) fn one<T: Entity>(cx: &Context<'_>, name: &str) -> Result<Vec<Target>, Error> {
    Ok(vec![existing::<T>(cx, name)?])
}

pub(super) fn existing<T: Entity>(cx: &Context<'_>, name: &str) -> Result<Target, Error> {
    match find::<T>(cx.txn, cx.account(), name) {
        Ok(entity) => {
            let mut target = Target::on("", entity.arn());
            target.resource_tags = entity.about().tags.clone();
            Ok(target)
        }
        Err(error) if error.class() == ErrorClass::NotFound => Ok(Target::on("", arn_of::<T>(cx.account(), "/", name))),
        Err(error) => Err(error),
    }
}

/// Something that is to be made.
pub(super) fn new<T: Entity>(
    cx: &Context<'_>,
    path: Option<&str>,
    name: &str,
    tags: &Tags,
) -> Result<Vec<Target>, Error> {
    let arn = arn_of::<T>(cx.account(), path.unwrap_or("/"), name);
    Ok(vec![Target::on("", arn).request_tags(tags)])
}

/// The condition key for the ARN of a permissions boundary.
pub(super) const BOUNDARY_KEY: &str = "iam:PermissionsBoundary";

/// As [`one`], with the permissions boundary that it has, for the actions that AWS defines the key for.
pub(super) fn with_boundary<T: Entity>(cx: &Context<'_>, name: &str) -> Result<Vec<Target>, Error> {
    let target = existing::<T>(cx, name)?;
    let boundary = match find::<T>(cx.txn, cx.account(), name) {
        Ok(entity) => entity.about().grants.boundary.clone(),
        Err(_) => None,
    };
    let policy = match boundary {
        Some(id) => crate::ops::policy_by_id(cx.txn, cx.account(), &id)?,
        None => None,
    };
    Ok(vec![match policy {
        Some(policy) => target.key(BOUNDARY_KEY, policy.arn().as_str()),
        None => target,
    }])
}

/// As [`new`], with the permissions boundary that it is to have.
pub(super) fn new_with_boundary<T: Entity>(
    cx: &Context<'_>,
    path: Option<&str>,
    name: &str,
    tags: &Tags,
    boundary: Option<&String>,
) -> Result<Vec<Target>, Error> {
    let targets = new::<T>(cx, path, name, tags)?.into_iter();
    Ok(match boundary {
        Some(arn) => targets.map(|target| target.key(BOUNDARY_KEY, arn.as_str())).collect(),
        None => targets.collect(),
    })
}

/// A multi-factor device by its serial number. One that is no ARN belongs to no resource.
pub(super) fn device(cx: &Context<'_>, serial: &str) -> Result<Vec<Target>, Error> {
    let found = crate::ops::find_mfa_device(cx.txn, cx.account(), serial);
    by_arn(serial, found.ok().map(|device| device.about().tags.clone()))
}

/// An identity provider by its ARN.
pub(super) fn provider(cx: &Context<'_>, arn: &str) -> Result<Vec<Target>, Error> {
    let found = crate::ops::find_oidc_provider(cx.txn, cx.account(), arn);
    by_arn(arn, found.ok().map(|provider| provider.about().tags.clone()))
}

fn by_arn(arn: &str, tags: Option<Tags>) -> Result<Vec<Target>, Error> {
    let mut target = Target::on("", policy_arn(arn)?);
    target.resource_tags = tags.unwrap_or_default();
    Ok(vec![target])
}

/// A managed policy by its ARN.
pub(super) fn policy(cx: &Context<'_>, arn: &str) -> Result<Vec<Target>, Error> {
    let parsed = policy_arn(arn)?;
    let mut target = Target::on("", parsed);
    if let Ok(crate::ops::AttachablePolicy::Own(policy)) = crate::ops::find_policy(cx.txn, cx.account(), arn) {
        target.resource_tags = policy.tenant.tags.clone();
    }
    Ok(vec![target])
}

/// Errors: `ValidationError`.
pub(super) fn policy_arn(arn: &str) -> Result<Arn, Error> {
    Arn::parse(arn).map_err(|_| Error::invalid("ValidationError", format!("ARN {arn} is not valid.")))
}
