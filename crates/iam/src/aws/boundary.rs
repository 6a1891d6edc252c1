//! Permissions boundaries of users and roles.

use terroir_action::Registry;
use terroir_aws_model::Empty;

use super::{action, targets};
use crate::model::{Role, User};
use crate::ops::{self, Holder};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<PutUserPermissionsBoundary>();
    registry.add::<DeleteUserPermissionsBoundary>();
    registry.add::<PutRolePermissionsBoundary>();
    registry.add::<DeleteRolePermissionsBoundary>();
}

macro_rules! boundary_actions {
    ($holder:ident, $field:ident, $put:ident, $delete:ident) => {
        action!(
            $put,
            Write,
            |cx, r| {
                let target = targets::existing::<$holder>(cx, &r.$field)?;
                // The one that it is to have, as AWS defines the key for these actions.
                Ok::<_, terroir_types::Error>(vec![target.key(targets::BOUNDARY_KEY, r.permissions_boundary.as_str())])
            },
            |cx, r| {
                let holder = Holder::$holder(&r.$field);
                ops::set_boundary(cx.txn, cx.caller.account, holder, &r.permissions_boundary)?;
                Ok(Empty)
            }
        );

        action!($delete, Write, |cx, r| targets::with_boundary::<$holder>(cx, &r.$field), |cx, r| {
            ops::remove_boundary(cx.txn, cx.caller.account, Holder::$holder(&r.$field))?;
            Ok(Empty)
        });
    };
}

boundary_actions!(User, user_name, PutUserPermissionsBoundary, DeleteUserPermissionsBoundary);
boundary_actions!(Role, role_name, PutRolePermissionsBoundary, DeleteRolePermissionsBoundary);
