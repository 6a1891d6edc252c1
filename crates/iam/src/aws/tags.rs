//! Tags of users, roles, policies, instance profiles, multi-factor devices and identity providers.

use std::sync::Arc;
use terroir_action::{Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, PageRequest, iam};
use terroir_resources::Tags;
use terroir_types::Error;

use super::page::{Page, page};
use super::{action, shapes, targets};
use crate::model::{InstanceProfile, ManagedPolicy, MfaDevice, OidcProvider, Role, User};
use crate::names::{self, Entity};
use crate::ops::{self, AttachablePolicy};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<TagUser>();
    registry.add::<UntagUser>();
    registry.add::<ListUserTags>();
    registry.add::<TagRole>();
    registry.add::<UntagRole>();
    registry.add::<ListRoleTags>();
    registry.add::<TagPolicy>();
    registry.add::<UntagPolicy>();
    registry.add::<ListPolicyTags>();
    registry.add::<TagInstanceProfile>();
    registry.add::<UntagInstanceProfile>();
    registry.add::<ListInstanceProfileTags>();
    registry.add::<TagMFADevice>();
    registry.add::<UntagMFADevice>();
    registry.add::<ListMFADeviceTags>();
    registry.add::<TagOpenIDConnectProvider>();
    registry.add::<UntagOpenIDConnectProvider>();
    registry.add::<ListOpenIDConnectProviderTags>();
}

fn by_name<T: Entity>(cx: &Context<'_>, name: &str) -> Result<Arc<T>, Error> {
    names::find::<T>(cx.txn, cx.account(), name)
}

fn policy(cx: &Context<'_>, arn: &str) -> Result<Arc<ManagedPolicy>, Error> {
    ops::own_policy(cx.txn, cx.account(), arn).map(Arc::new)
}

fn device(cx: &Context<'_>, serial: &str) -> Result<Arc<MfaDevice>, Error> {
    ops::find_mfa_device(cx.txn, cx.account(), serial)
}

fn provider(cx: &Context<'_>, arn: &str) -> Result<Arc<OidcProvider>, Error> {
    ops::find_oidc_provider(cx.txn, cx.account(), arn)
}

/// Id and tags of what has them.
type Tagged = (String, Tags);

fn tagged<T: Entity>(entity: &T) -> Tagged {
    (entity.id().to_owned(), entity.about().tags.clone())
}

/// Those that are built in have none.
fn tagged_policy(cx: &Context<'_>, arn: &str) -> Result<Tagged, Error> {
    match ops::find_policy(cx.txn, cx.account(), arn)? {
        AttachablePolicy::Own(policy) => Ok(tagged(&*policy)),
        AttachablePolicy::Builtin(policy) => Ok((policy.id(), Tags::new())),
    }
}

fn list(
    cx: &Context<'_>,
    action: &str,
    (id, tags): &Tagged,
    request: PageRequest<'_>,
) -> Result<Page<iam::Tag>, Error> {
    let tags = shapes::tags(tags).into_iter();
    page(cx, action, id, request, tags.map(|tag| (tag.key.clone().unwrap_or_default(), tag)))
}

fn untagging(targets: Result<Vec<Target>, Error>, keys: &[String]) -> Result<Vec<Target>, Error> {
    let mut targets = targets?;
    for target in &mut targets {
        target.keys.push(("aws:TagKeys".to_owned(), keys.to_vec()));
    }
    Ok(targets)
}

macro_rules! tag_actions {
    (
        $field:ident, $find:expr, $targets:expr,
        $tag:ident, $untag:ident, $list:ident, $list_response:ident
    ) => {
        tag_actions!(
            $field,
            $find,
            |cx, name| Ok(tagged(&*$find(cx, name)?)),
            $targets,
            $tag,
            $untag,
            $list,
            $list_response
        );
    };
    (
        $field:ident, $find:expr, |$tcx:ident, $tname:ident| $tagged:expr, $targets:expr,
        $tag:ident, $untag:ident, $list:ident, $list_response:ident
    ) => {
        action!(
            $tag,
            Write,
            |cx, r| {
                let tags = shapes::tags_of(&r.tags)?;
                let targets: Vec<Target> = $targets(cx, &r.$field)?;
                Ok::<_, Error>(targets.into_iter().map(|target| target.request_tags(&tags)).collect())
            },
            |cx, r| {
                let entity = $find(cx, &r.$field)?;
                ops::tag(cx.txn, &*entity, &shapes::tags_of(&r.tags)?)?;
                Ok(Empty)
            }
        );

        action!($untag, Write, |cx, r| untagging($targets(cx, &r.$field), &r.tag_keys), |cx, r| {
            let entity = $find(cx, &r.$field)?;
            ops::untag(cx.txn, &*entity, &r.tag_keys)?;
            Ok(Empty)
        });

        action!($list, Read, |cx, r| $targets(cx, &r.$field), |cx, r| {
            let of = |$tcx: &Context<'_>, $tname: &str| -> Result<Tagged, Error> { $tagged };
            let page = list(cx, stringify!($list), &of(cx, &r.$field)?, r.page())?;
            Ok(iam::$list_response { tags: page.items, is_truncated: page.is_truncated, marker: page.marker })
        });
    };
}

tag_actions!(user_name, by_name::<User>, targets::one::<User>, TagUser, UntagUser, ListUserTags, ListUserTagsResponse);
tag_actions!(role_name, by_name::<Role>, targets::one::<Role>, TagRole, UntagRole, ListRoleTags, ListRoleTagsResponse);
tag_actions!(
    policy_arn,
    policy,
    |cx, arn| tagged_policy(cx, arn),
    targets::policy,
    TagPolicy,
    UntagPolicy,
    ListPolicyTags,
    ListPolicyTagsResponse
);
tag_actions!(
    instance_profile_name,
    by_name::<InstanceProfile>,
    targets::one::<InstanceProfile>,
    TagInstanceProfile,
    UntagInstanceProfile,
    ListInstanceProfileTags,
    ListInstanceProfileTagsResponse
);
tag_actions!(
    serial_number,
    device,
    targets::device,
    TagMFADevice,
    UntagMFADevice,
    ListMFADeviceTags,
    ListMFADeviceTagsResponse
);
tag_actions!(
    open_id_connect_provider_arn,
    provider,
    targets::provider,
    TagOpenIDConnectProvider,
    UntagOpenIDConnectProvider,
    ListOpenIDConnectProviderTags,
    ListOpenIDConnectProviderTagsResponse
);
