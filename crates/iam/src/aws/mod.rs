//! The IAM and STS actions: the only place of this crate that sees AWS's request and response types.

mod absent;
mod account;
mod attached;
mod boundary;
mod details;
mod entities;
mod group;
mod inline;
mod keys;
mod login;
mod managed;
mod mfa;
mod oidc;
mod page;
mod profile;
mod report;
mod role;
mod shapes;
mod simulate;
mod sts;
mod tags;
mod targets;
mod user;
mod versions;

use terroir_action::Registry;

use crate::Iam;

/// An IAM action: its targets (whose permission is the action's own unless they name one), and what it does.
macro_rules! action {
    ($name:ident, $access:ident, |$tcx:ident, $treq:ident| $targets:expr, |$cx:ident, $request:ident| $run:expr) => {
        action!($name, $access, |$tcx, $treq| $targets, |_cx, _request| Ok(Vec::new()), |$cx, $request| $run);
    };
    (
        $name:ident, $access:ident,
        |$tcx:ident, $treq:ident| $targets:expr,
        |$pcx:ident, $preq:ident| $prefetch:expr,
        |$cx:ident, $request:ident| $run:expr
    ) => {
        pub(super) struct $name;

        impl terroir_action::Action for $name {
            type Op = terroir_aws_model::iam::ops::$name;
            const ACCESS: terroir_action::Access = terroir_action::Access::$access;

            fn targets(
                $tcx: &terroir_action::Context<'_>,
                $treq: &terroir_action::Request<Self>,
            ) -> Result<Vec<terroir_action::Target>, terroir_types::Error> {
                let mut targets: Vec<terroir_action::Target> = $targets?;
                for target in targets.iter_mut().filter(|target| target.permission.is_empty()) {
                    target.permission = concat!("iam:", stringify!($name)).to_owned();
                }
                Ok(targets)
            }

            fn prefetch(
                $pcx: &terroir_action::Context<'_>,
                $preq: &terroir_action::Request<Self>,
            ) -> Result<Vec<terroir_store::Key>, terroir_types::Error> {
                $prefetch
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

/// Adds every IAM and STS action.
pub fn register(registry: &mut Registry, iam: &Iam) {
    sts::register(registry, iam);
    user::register(registry);
    keys::register(registry);
    login::register(registry);
    mfa::register(registry);
    absent::register(registry);
    group::register(registry);
    inline::register(registry);
    managed::register(registry);
    versions::register(registry);
    attached::register(registry);
    entities::register(registry, iam);
    boundary::register(registry);
    role::register(registry);
    profile::register(registry);
    tags::register(registry);
    oidc::register(registry);
    account::register(registry);
    details::register(registry);
    report::register(registry);
    simulate::register(registry, iam);
}
