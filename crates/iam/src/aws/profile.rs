use std::sync::Arc;
use terroir_action::{Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, PageRequest, iam};
use terroir_store::Key;
use terroir_types::{Error, ErrorClass};

use super::page::{Page, page};
use super::{action, shapes, targets};
use crate::model::{InstanceProfile, Role};
use crate::names::{self, Entity};
use crate::ops::{self, About};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateInstanceProfile>();
    registry.add::<GetInstanceProfile>();
    registry.add::<ListInstanceProfiles>();
    registry.add::<DeleteInstanceProfile>();
    registry.add::<AddRoleToInstanceProfile>();
    registry.add::<RemoveRoleFromInstanceProfile>();
    registry.add::<ListInstanceProfilesForRole>();
}

action!(
    CreateInstanceProfile,
    Write,
    |cx, r| targets::new::<InstanceProfile>(
        cx,
        r.path.as_deref(),
        &r.instance_profile_name,
        &shapes::tags_of(&r.tags)?
    ),
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let about = About { name: &r.instance_profile_name, path: r.path.as_deref(), description: None, tags: &tags };
        let profile = ops::create_instance_profile(cx.txn, cx.caller.account, about, cx.ids, cx.now)?;
        Ok(iam::CreateInstanceProfileResponse { instance_profile: Some(shapes::profile(cx, &profile)?) })
    }
);

/// Keys of the trust policies that the profiles' roles show.
fn trust_keys(cx: &Context<'_>, profiles: &[Arc<InstanceProfile>]) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    for profile in profiles {
        keys.extend(ops::role_of_profile(cx.txn, profile)?.map(|role| shapes::trust_key(&role)));
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

action!(
    GetInstanceProfile,
    Read,
    |cx, r| targets::one::<InstanceProfile>(cx, &r.instance_profile_name),
    |cx, r| match names::find::<InstanceProfile>(cx.txn, cx.account(), &r.instance_profile_name) {
        Ok(profile) => trust_keys(cx, &[profile]),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    },
    |cx, r| {
        let profile = names::find::<InstanceProfile>(cx.txn, cx.account(), &r.instance_profile_name)?;
        Ok(iam::GetInstanceProfileResponse { instance_profile: Some(shapes::profile(cx, &profile)?) })
    }
);

fn all(cx: &Context<'_>, prefix: Option<&str>, request: PageRequest<'_>) -> Result<Page<Arc<InstanceProfile>>, Error> {
    let prefix = prefix.unwrap_or("/");
    let profiles = names::list::<InstanceProfile>(cx.txn, cx.account())?;
    let matching = profiles.into_iter().filter(|profile| profile.tenant.path.starts_with(prefix));
    page(cx, "ListInstanceProfiles", prefix, request, matching.map(|profile| (profile.name().to_lowercase(), profile)))
}

fn shown(cx: &Context<'_>, profiles: &[Arc<InstanceProfile>]) -> Result<Vec<iam::InstanceProfile>, Error> {
    profiles.iter().map(|profile| shapes::profile(cx, profile)).collect()
}

action!(
    ListInstanceProfiles,
    Read,
    |_cx, _r| targets::none(),
    |cx, r| trust_keys(cx, &all(cx, r.path_prefix.as_deref(), r.page())?.items),
    |cx, r| {
        let page = all(cx, r.path_prefix.as_deref(), r.page())?;
        Ok(iam::ListInstanceProfilesResponse {
            instance_profiles: shown(cx, &page.items)?,
            is_truncated: page.is_truncated,
            marker: page.marker,
        })
    }
);

action!(
    DeleteInstanceProfile,
    Write,
    |cx, r| targets::one::<InstanceProfile>(cx, &r.instance_profile_name),
    |cx, r| {
        ops::delete_instance_profile(cx.txn, cx.caller.account, &r.instance_profile_name)?;
        Ok(Empty)
    }
);

action!(
    AddRoleToInstanceProfile,
    Write,
    |cx, r| {
        let profile = targets::existing::<InstanceProfile>(cx, &r.instance_profile_name)?;
        // Whoever puts a role into a profile hands the role's permissions to instances.
        let role = Target { permission: "iam:PassRole".to_owned(), ..targets::existing::<Role>(cx, &r.role_name)? };
        Ok::<_, Error>(vec![profile, role.key("iam:PassedToService", "ec2.amazonaws.com")])
    },
    |cx, r| {
        ops::add_role_to_profile(cx.txn, cx.caller.account, &r.instance_profile_name, &r.role_name)?;
        Ok(Empty)
    }
);

action!(
    RemoveRoleFromInstanceProfile,
    Write,
    |cx, r| targets::one::<InstanceProfile>(cx, &r.instance_profile_name),
    |cx, r| {
        ops::remove_role_from_profile(cx.txn, cx.caller.account, &r.instance_profile_name, &r.role_name)?;
        Ok(Empty)
    }
);

fn of_role(cx: &Context<'_>, role: &str, request: PageRequest<'_>) -> Result<Page<Arc<InstanceProfile>>, Error> {
    let role = names::find::<Role>(cx.txn, cx.account(), role)?;
    let profiles = ops::profiles_of_role(cx.txn, &role)?;
    let keyed = profiles.into_iter().map(|profile| (profile.name().to_lowercase(), profile));
    page(cx, "ListInstanceProfilesForRole", &role.id, request, keyed)
}

action!(
    ListInstanceProfilesForRole,
    Read,
    |cx, r| targets::one::<Role>(cx, &r.role_name),
    |cx, r| match names::find::<Role>(cx.txn, cx.account(), &r.role_name) {
        Ok(role) => Ok(vec![shapes::trust_key(&role)]),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    },
    |cx, r| {
        let page = of_role(cx, &r.role_name, r.page())?;
        Ok(iam::ListInstanceProfilesForRoleResponse {
            instance_profiles: shown(cx, &page.items)?,
            is_truncated: page.is_truncated,
            marker: page.marker,
        })
    }
);
