//! The KMS actions: the only place of this crate that sees AWS's request and response types.

mod alias;
mod cipher;
mod data_key;
mod grant;
mod key;
mod key_store;
mod page;
mod policy;
mod rotation;
mod tags;

use std::sync::Arc;
use terroir_action::{Context, LiveContext, Registry, Target};
use terroir_types::{AccountId, Error};

use crate::KeyService;
use crate::access::{Asker, Use};
use crate::model::KmsKey;
use crate::ops;
use crate::reference::{Found, Reference, not_found};
use crate::service::Asked;

/// A KMS action over one transaction: its targets, and what it does.
macro_rules! action {
    ($name:ident, $access:ident, |$tcx:ident, $treq:ident| $targets:expr, |$cx:ident, $request:ident| $run:expr) => {
        pub(super) struct $name;

        impl terroir_action::Action for $name {
            type Op = terroir_aws_model::kms::ops::$name;
            const ACCESS: terroir_action::Access = terroir_action::Access::$access;

            fn targets(
                $tcx: &terroir_action::Context<'_>,
                $treq: &terroir_action::Request<Self>,
            ) -> Result<Vec<terroir_action::Target>, terroir_types::Error> {
                $targets
            }

            fn run(
                $cx: &mut terroir_action::Context<'_>,
                $request: terroir_action::Request<Self>,
            ) -> Result<terroir_action::Response<Self>, terroir_types::Error> {
                $run
            }
        }
    };
}
pub(crate) use action;

/// Adds every KMS action.
pub fn register(registry: &mut Registry, service: &KeyService) {
    key::register(registry, service);
    key_store::register(registry, service);
    alias::register(registry);
    policy::register(registry);
    grant::register(registry);
    rotation::register(registry);
    tags::register(registry);
    cipher::register(registry, service);
    data_key::register(registry, service);
}

/// How an action lets its key be named.
#[derive(Clone, Copy)]
struct Named {
    by_alias: bool,
    /// Also a key of another account.
    foreign: bool,
}

/// An action within the account.
const OWN: Named = Named { by_alias: false, foreign: false };
const SHARED: Named = Named { by_alias: false, foreign: true };
const USED: Named = Named { by_alias: true, foreign: true };

/// What a request's `KeyId` leads to.
///
/// Errors: `ValidationException`, `InvalidArnException`, `NotFoundException` for what cannot name a key here.
fn find(txn: &terroir_store::Txn, own: AccountId, region: &str, text: &str, named: Named) -> Result<Found, Error> {
    let reference = Reference::parse(text, own, region)?;
    let account = match &reference {
        Reference::Alias(..) if !named.by_alias => return Err(not_found(format!("Invalid keyId {text}"))),
        Reference::Alias(account, _) | Reference::Key(account, _) => *account,
    };
    if account != own && !named.foreign {
        // As unknown as one that never was.
        return Ok(Found { reference, key: None });
    }
    Found::look(txn, reference)
}

fn asker<'a>(cx: &'a Context<'_>) -> Asker<'a> {
    Asker { caller: cx.caller, region: &cx.region.name, via: None }
}

/// The permission `kms:OPERATION` on the key that a request names.
fn on_key(cx: &Context<'_>, operation: &str, text: &str, named: Named, what: Use<'_>) -> Result<Target, Error> {
    let found = find(cx.txn, cx.account(), &cx.region.name, text, named)?;
    asker(cx).target(cx.txn, operation, &found, what)
}

/// As [`on_key`], for an action that has no other target.
fn manages(cx: &Context<'_>, operation: &str, text: &str, named: Named) -> Result<Vec<Target>, Error> {
    on_key(cx, operation, text, named, Use::Manage).map(|target| vec![target])
}

/// Errors: `NotFoundException`.
fn the_key(cx: &Context<'_>, text: &str, named: Named) -> Result<Arc<KmsKey>, Error> {
    find(cx.txn, cx.account(), &cx.region.name, text, named)?.key(&cx.region.name)
}

/// Errors: `InvalidGrantTokenException`, `ValidationException`.
fn check_tokens(txn: &terroir_store::Txn, tokens: &[String]) -> Result<(), Error> {
    if tokens.len() > 10 {
        return Err(ops::constraint("grantTokens", "have length less than or equal to 10"));
    }
    tokens.iter().try_for_each(|token| ops::open_token(txn, token).map(drop))
}

/// Errors: `UnsupportedOperationException` for what cannot be done with a key that is held elsewhere.
fn check_held_here(key: &KmsKey) -> Result<(), Error> {
    if key.store.is_some() { unsupported("Rotation of a key that is held elsewhere") } else { Ok(()) }
}

/// What a proxy outside is told of a request.
fn asked<'a>(cx: &LiveContext<'a>, operation: &'static str) -> Asked<'a> {
    Asked { caller: cx.caller, operation, request_id: cx.request_id, via: None }
}

/// Errors: `UnsupportedOperationException`.
fn unsupported<T>(what: &str) -> Result<T, Error> {
    let message = format!("{what} is not available in this cloud.");
    Err(Error::new(terroir_types::ErrorClass::Unsupported, "UnsupportedOperationException", message))
}

/// Errors: `ValidationException` for what AWS requires although its model does not say so.
fn present<'a, T>(value: &'a Option<T>, member: &str) -> Result<&'a T, Error> {
    value.as_ref().ok_or_else(|| ops::constraint(member, "not be null"))
}
