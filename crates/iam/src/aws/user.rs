use terroir_action::{Caller, CallerKind, Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_types::Error;

use super::page::page;
use super::{action, shapes, targets};
use crate::model::User;
use crate::names::{self, Entity, arn_of};
use crate::ops::{self, About, Holder, KeyOwner};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateUser>();
    registry.add::<GetUser>();
    registry.add::<ListUsers>();
    registry.add::<UpdateUser>();
    registry.add::<DeleteUser>();
    registry.add::<ListGroupsForUser>();
}

/// The user that a request means: the one it names, else the caller.
pub(super) enum Subject {
    Root,
    User(String),
}

impl Subject {
    /// Errors: `ValidationError` for a role's session that names nobody.
    pub(super) fn of(cx: &Context<'_>, name: Option<&String>) -> Result<Self, Error> {
        Self::of_caller(cx.caller, name)
    }

    /// As [`Subject::of`].
    pub(super) fn of_caller(caller: &Caller, name: Option<&String>) -> Result<Self, Error> {
        match (name, &caller.kind) {
            (Some(name), _) => Ok(Self::User(name.clone())),
            (None, CallerKind::Root) => Ok(Self::Root),
            (None, CallerKind::User { name }) => Ok(Self::User(name.clone())),
            (None, _) => {
                Err(Error::invalid("ValidationError", "Must specify userName when calling with non-User credentials"))
            }
        }
    }

    pub(super) fn owner(&self) -> KeyOwner<'_> {
        match self {
            Self::Root => KeyOwner::Root,
            Self::User(name) => KeyOwner::User(name),
        }
    }

    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Root => None,
            Self::User(name) => Some(name.clone()),
        }
    }

    pub(super) fn targets(cx: &Context<'_>, name: Option<&String>) -> Result<Vec<Target>, Error> {
        match Self::of(cx, name) {
            Ok(Self::User(name)) => targets::one::<User>(cx, &name),
            // The root needs no permission; a role that names nobody gets its error if it has the permission.
            Ok(Self::Root) | Err(_) => Ok(vec![Target::on("", arn_of::<User>(cx.account(), "/", "*"))]),
        }
    }
}

action!(
    CreateUser,
    Write,
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let boundary = r.permissions_boundary.as_ref();
        targets::new_with_boundary::<User>(cx, r.path.as_deref(), &r.user_name, &tags, boundary)
    },
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let about = About { name: &r.user_name, path: r.path.as_deref(), description: None, tags: &tags };
        ops::create_user(cx.txn, cx.caller.account, about, cx.ids, cx.now)?;
        if let Some(arn) = &r.permissions_boundary {
            ops::set_boundary(cx.txn, cx.caller.account, Holder::User(&r.user_name), arn)?;
        }
        let user = names::find::<User>(cx.txn, cx.account(), &r.user_name)?;
        Ok(iam::CreateUserResponse { user: Some(shapes::whole_user(cx.txn, &user)?) })
    }
);

action!(GetUser, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let user = match Subject::of(cx, r.user_name.as_ref())? {
        Subject::User(name) => shapes::whole_user(cx.txn, &*names::find::<User>(cx.txn, cx.account(), &name)?)?,
        Subject::Root => {
            let account = ops::account(cx.txn, cx.account())?;
            iam::User {
                arn: Some(cx.caller.arn.to_string()),
                create_date: account.as_ref().map(|account| account.created_at),
                user_id: Some(cx.account().to_string()),
                user_name: account.map(|account| account.tenant.name.clone()),
                ..iam::User::default()
            }
        }
    };
    Ok(iam::GetUserResponse { user: Some(user) })
});

action!(ListUsers, Read, |_cx, _r| targets::none(), |cx, r| {
    let prefix = r.path_prefix.as_deref().unwrap_or("/");
    let users = names::list::<User>(cx.txn, cx.account())?;
    let matching = users.iter().filter(|user| user.tenant.path.starts_with(prefix));
    let keyed = matching.map(|user| (user.name().to_lowercase(), shapes::user(user)));
    let page = page(cx, "ListUsers", prefix, r.page(), keyed)?;
    Ok(iam::ListUsersResponse { users: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(
    UpdateUser,
    Write,
    |cx, r| {
        let mut all = targets::one::<User>(cx, &r.user_name)?;
        // As AWS demands: permission on the name that it is to have, too.
        if let Some(new_name) = &r.new_user_name {
            all.push(targets::existing::<User>(cx, new_name)?);
        }
        Ok::<_, Error>(all)
    },
    |cx, r| {
        let (name, path) = (r.new_user_name.as_deref(), r.new_path.as_deref());
        ops::update_user(cx.txn, cx.caller.account, &r.user_name, name, path)?;
        Ok(Empty)
    }
);

action!(DeleteUser, Write, |cx, r| targets::one::<User>(cx, &r.user_name), |cx, r| {
    ops::delete_user(cx.txn, cx.caller.account, &r.user_name)?;
    Ok(Empty)
});

action!(ListGroupsForUser, Read, |cx, r| targets::one::<User>(cx, &r.user_name), |cx, r| {
    let user = names::find::<User>(cx.txn, cx.account(), &r.user_name)?;
    let groups = ops::groups_of(cx.txn, &user)?;
    let keyed = groups.iter().map(|group| (group.name().to_lowercase(), shapes::group(group)));
    let page = page(cx, "ListGroupsForUser", &user.id, r.page(), keyed)?;
    Ok(iam::ListGroupsForUserResponse { groups: page.items, is_truncated: page.is_truncated, marker: page.marker })
});
