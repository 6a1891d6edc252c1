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
