//! Identity providers (OpenID Connect).

use terroir_action::Registry;
use terroir_aws_model::{Empty, iam};
use terroir_resources::Tags;
use terroir_types::Error;

use super::{action, shapes, targets};
use crate::model::OidcProvider;
use crate::names::{self, Entity};
use crate::ops::{self, NewProvider};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateOpenIDConnectProvider>();
    registry.add::<GetOpenIDConnectProvider>();
    registry.add::<ListOpenIDConnectProviders>();
    registry.add::<UpdateOpenIDConnectProviderThumbprint>();
    registry.add::<AddClientIDToOpenIDConnectProvider>();
    registry.add::<RemoveClientIDFromOpenIDConnectProvider>();
    registry.add::<DeleteOpenIDConnectProvider>();
}

action!(
    CreateOpenIDConnectProvider,
    Write,
    |cx, r| {
        let tags: Tags = shapes::tags_of(&r.tags)?;
        Ok::<_, Error>(targets::new::<OidcProvider>(cx, None, ops::provider_name(&r.url)?, &tags)?)
    },
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let new =
            NewProvider { url: &r.url, client_ids: &r.client_id_list, thumbprints: &r.thumbprint_list, tags: &tags };
        let provider = ops::create_oidc_provider(cx.txn, cx.caller.account, new, cx.ids, cx.now)?;
        Ok(iam::CreateOpenIDConnectProviderResponse {
            open_id_connect_provider_arn: Some(provider.arn().to_string()),
            tags: shapes::tags(&tags),
        })
    }
);

action!(GetOpenIDConnectProvider, Read, |cx, r| targets::provider(cx, &r.open_id_connect_provider_arn), |cx, r| {
    let provider = ops::find_oidc_provider(cx.txn, cx.account(), &r.open_id_connect_provider_arn)?;
    Ok(iam::GetOpenIDConnectProviderResponse {
        client_id_list: provider.tenant.client_ids.clone(),
        create_date: Some(provider.created_at),
        tags: shapes::tags(&provider.tenant.about.tags),
        thumbprint_list: provider.tenant.thumbprints.clone(),
        // Without `https://`, as AWS answers.
        url: Some(provider.name().to_owned()),
    })
});

action!(ListOpenIDConnectProviders, Read, |_cx, _r| targets::none(), |cx, _r| {
    let providers = names::list::<OidcProvider>(cx.txn, cx.account())?;
    let entry = |provider: &std::sync::Arc<OidcProvider>| iam::OpenIDConnectProviderListEntry {
        arn: Some(provider.arn().to_string()),
    };
    Ok(iam::ListOpenIDConnectProvidersResponse { open_id_connect_provider_list: providers.iter().map(entry).collect() })
});

action!(
    UpdateOpenIDConnectProviderThumbprint,
    Write,
    |cx, r| targets::provider(cx, &r.open_id_connect_provider_arn),
    |cx, r| {
        let arn = &r.open_id_connect_provider_arn;
        ops::set_thumbprints(cx.txn, cx.caller.account, arn, &r.thumbprint_list)?;
        Ok(Empty)
    }
);

action!(
    AddClientIDToOpenIDConnectProvider,
    Write,
    |cx, r| targets::provider(cx, &r.open_id_connect_provider_arn),
    |cx, r| {
        ops::add_client_id(cx.txn, cx.caller.account, &r.open_id_connect_provider_arn, &r.client_id)?;
        Ok(Empty)
    }
);

action!(
    RemoveClientIDFromOpenIDConnectProvider,
    Write,
    |cx, r| targets::provider(cx, &r.open_id_connect_provider_arn),
    |cx, r| {
        ops::remove_client_id(cx.txn, cx.caller.account, &r.open_id_connect_provider_arn, &r.client_id)?;
        Ok(Empty)
    }
);

action!(DeleteOpenIDConnectProvider, Write, |cx, r| targets::provider(cx, &r.open_id_connect_provider_arn), |cx, r| {
    ops::delete_oidc_provider(cx.txn, cx.caller.account, &r.open_id_connect_provider_arn)?;
    Ok(Empty)
});
