use terroir_action::Registry;
use terroir_aws_model::{Decode, Empty, iam};
use terroir_resources::Tags;
use terroir_types::Error;

use super::page::page;
use super::{action, shapes, targets};
use crate::model::Group;
use crate::names::{self, Entity};
use crate::ops::{self, About};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateGroup>();
    registry.add::<GetGroup>();
    registry.add::<ListGroups>();
    registry.add::<UpdateGroup>();
    registry.add::<DeleteGroup>();
    registry.add::<AddUserToGroup>();
    registry.add::<RemoveUserFromGroup>();
}

action!(
    CreateGroup,
    Write,
    |cx, r| targets::new::<Group>(cx, r.path.as_deref(), &r.group_name, &Tags::new()),
    |cx, r| {
        let tags = Tags::new();
        let about = About { name: &r.group_name, path: r.path.as_deref(), description: None, tags: &tags };
        let group = ops::create_group(cx.txn, cx.caller.account, about, cx.ids, cx.now)?;
        Ok(iam::CreateGroupResponse { group: Some(shapes::group(&group)) })
    }
);

action!(GetGroup, Read, |cx, r| targets::one::<Group>(cx, &r.group_name), |cx, r| {
    let group = names::find::<Group>(cx.txn, cx.account(), &r.group_name)?;
    let users = ops::group_members(cx.txn, &group)?;
    let keyed = users.iter().map(|user| (user.name().to_lowercase(), shapes::user(user)));
    let page = page(cx, "GetGroup", &group.id, r.page(), keyed)?;
    Ok(iam::GetGroupResponse {
        group: Some(shapes::group(&group)),
        users: page.items,
        is_truncated: page.is_truncated,
        marker: page.marker,
    })
});

action!(ListGroups, Read, |_cx, _r| targets::none(), |cx, r| {
    let prefix = r.path_prefix.as_deref().unwrap_or("/");
    let groups = names::list::<Group>(cx.txn, cx.account())?;
    let matching = groups.iter().filter(|group| group.tenant.path.starts_with(prefix));
    let keyed = matching.map(|group| (group.name().to_lowercase(), shapes::group(group)));
    let page = page(cx, "ListGroups", prefix, r.page(), keyed)?;
    Ok(iam::ListGroupsResponse { groups: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(
    UpdateGroup,
    Write,
    |cx, r| {
        let mut all = targets::one::<Group>(cx, &r.group_name)?;
        // As AWS demands: permission on the name that it is to have, too.
        if let Some(new_name) = &r.new_group_name {
            all.push(targets::existing::<Group>(cx, new_name)?);
        }
        Ok::<_, Error>(all)
    },
    |cx, r| {
        let (name, path) = (r.new_group_name.as_deref(), r.new_path.as_deref());
        ops::update_group(cx.txn, cx.caller.account, &r.group_name, name, path)?;
        Ok(Empty)
    }
);

action!(DeleteGroup, Write, |cx, r| targets::one::<Group>(cx, &r.group_name), |cx, r| {
    ops::delete_group(cx.txn, cx.caller.account, &r.group_name)?;
    Ok(Empty)
});

action!(AddUserToGroup, Write, |cx, r| targets::one::<Group>(cx, &r.group_name), |cx, r| {
    ops::add_user_to_group(cx.txn, cx.caller.account, &r.group_name, &r.user_name)?;
    Ok(Empty)
});

action!(RemoveUserFromGroup, Write, |cx, r| targets::one::<Group>(cx, &r.group_name), |cx, r| {
    ops::remove_user_from_group(cx.txn, cx.caller.account, &r.group_name, &r.user_name)?;
    Ok(Empty)
});
