//! The IAM and STS actions: the only place of this crate that sees AWS's request and response types.

mod attached;
mod group;
mod inline;
mod keys;
mod managed;
mod page;
mod profile;
mod role;
mod shapes;
mod sts;
mod targets;
mod user;

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
    group::register(registry);
    inline::register(registry);
    managed::register(registry);
    attached::register(registry);
    role::register(registry);
    profile::register(registry);
}
