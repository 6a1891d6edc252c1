use async_trait::async_trait;
use terroir_action::{Access, Caller, Context, LiveAction, LiveContext, Registry, Target};
use terroir_aws_model::{Decode, Empty, kms};
use terroir_iam::RequestFacts;
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{Error, ErrorClass, Timestamp};

use super::page::page;
use super::{OWN, USED, action, check_tokens, manages, tags, the_key, unsupported};
use crate::KeyService;
use crate::external::{self, About};
use crate::model::{Connection, KeyState, KmsKey};
use crate::ops::{self, NewKey, constraint, material_id};

pub(super) fn register(registry: &mut Registry, service: &KeyService) {
    registry.add_live(CreateKey(service.clone()));
    registry.add::<DescribeKey>();
    registry.add::<ListKeys>();
    registry.add::<EnableKey>();
    registry.add::<DisableKey>();
    registry.add::<UpdateKeyDescription>();
    registry.add::<ScheduleKeyDeletion>();
    registry.add::<CancelKeyDeletion>();
}

/// `txn` says whether the store of a key that is held elsewhere is connected.
pub(super) fn metadata(txn: &Txn, key: &KmsKey, region: &str) -> kms::KeyMetadata {
    let reachable = ops::proxy_of(txn, key).is_ok();
    let (state, deletion_date) = match key.state {
        KeyState::PendingDeletion { at } => ("PendingDeletion", Some(at)),
        KeyState::Enabled | KeyState::Disabled if !reachable => ("Unavailable", None),
        KeyState::Enabled => ("Enabled", None),
        KeyState::Disabled => ("Disabled", None),
    };
    let text = |text: &str| Some(text.to_owned());
    kms::KeyMetadata {
        aws_account_id: Some(key.account.to_string()),
        arn: Some(key.arn(region).to_string()),
        creation_date: Some(key.created_at),
        current_key_material_id: key.store.is_none().then(|| material_id(key.id, key.current)),
        custom_key_store_id: key.store.clone(),
        customer_master_key_spec: text("SYMMETRIC_DEFAULT"),
        deletion_date,
        description: Some(key.tenant.description.clone()),
        enabled: Some(state == "Enabled"),
        encryption_algorithms: vec!["SYMMETRIC_DEFAULT".to_owned()],
        key_id: Some(key.id.to_string()),
        key_manager: text(if key.managed_by.is_some() { "AWS" } else { "CUSTOMER" }),
        key_spec: text("SYMMETRIC_DEFAULT"),
        key_state: text(state),
        key_usage: text("ENCRYPT_DECRYPT"),
        multi_region: Some(false),
        origin: text(key.origin()),
        xks_key_configuration: key
            .tenant
            .external_id
            .as_ref()
            .map(|id| kms::XksKeyConfigurationType { id: Some(id.clone()) }),
        ..kms::KeyMetadata::default()
    }
}

/// Errors: `MalformedPolicyDocumentException` for a policy that locks out whoever sets it.
pub(super) fn check_lockout(
    txn: &Txn,
    caller: &Caller,
    key: &KmsKey,
    region: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let facts = RequestFacts { now, region: region.to_owned(), ..RequestFacts::default() };
    let arn = key.arn(region);
    if terroir_iam::policy_admits(txn, caller, &key.tenant.policy, "kms:PutKeyPolicy", &arn, &facts)? {
        return Ok(());
    }
    let message = "The new key policy will not allow you to update the key policy in the future.";
    Err(Error::invalid("MalformedPolicyDocumentException", message))
}

/// What of a new key is not built. Errors: `UnsupportedOperationException`, `ValidationException`.
fn check_kind(request: &kms::CreateKeyRequest) -> Result<(), Error> {
    let one_of = |value: &Option<String>, member: &str, usual: &str, others: &[&str]| match value.as_deref() {
        None => Ok(()),
        Some(value) if value == usual => Ok(()),
        Some(value) if others.contains(&value) => unsupported(&format!("{member} {value}")),
        Some(_) => Err(constraint(member, &format!("satisfy enum value set: [{usual}, {}]", others.join(", ")))),
    };
    const SPECS: &[&str] = &[
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "SM2",
        "ML_DSA_44",
        "ML_DSA_65",
        "ML_DSA_87",
        "ECC_NIST_EDWARDS25519",
    ];
    if request.key_spec.is_some() && request.customer_master_key_spec.is_some() {
        let message = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request.";
        return Err(Error::invalid("ValidationException", message));
    }
    one_of(&request.key_spec, "keySpec", "SYMMETRIC_DEFAULT", SPECS)?;
    one_of(&request.customer_master_key_spec, "customerMasterKeySpec", "SYMMETRIC_DEFAULT", SPECS)?;
    one_of(
        &request.key_usage,
        "keyUsage",
        "ENCRYPT_DECRYPT",
        &["SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"],
    )?;
    let origin = request.origin.as_ref().filter(|origin| *origin != EXTERNAL).cloned();
    one_of(&origin, "origin", "AWS_KMS", &["EXTERNAL", "AWS_CLOUDHSM"])?;
    if request.multi_region == Some(true) {
        return unsupported("A key of several regions");
    }
    let elsewhere = request.origin.as_deref() == Some(EXTERNAL);
    if elsewhere != request.custom_key_store_id.is_some() || elsewhere != request.xks_key_id.is_some() {
        let message = "CustomKeyStoreId and XksKeyId go with the origin EXTERNAL_KEY_STORE, and it with them.";
        return Err(Error::invalid("ValidationException", message));
    }
    Ok(())
}

const EXTERNAL: &str = "EXTERNAL_KEY_STORE";

/// Whether the key of a key store outside can protect a new key.
///
/// Errors: `CustomKeyStoreNotFoundException`, `CustomKeyStoreInvalidStateException`, `XksKeyNotFoundException`,
/// `XksKeyInvalidConfigurationException`, `KMSInvalidStateException`.
async fn check_external(service: &KeyService, cx: &LiveContext<'_>, store: &str, id: &str) -> Result<(), Error> {
    let store = ops::find_store(&cx.store.read().await?, cx.caller.account, store)?;
    if store.connection != Connection::Connected {
        let message = "The custom key store is not connected to its proxy.";
        return Err(Error::conflict("CustomKeyStoreInvalidStateException", message));
    }
    ops::check_external_id(id)?;
    let about = About {
        aws_principal_arn: Some(cx.caller.arn.to_string()),
        kms_key_arn: None,
        kms_operation: "CreateKey".to_owned(),
        kms_request_id: cx.request_id.to_owned(),
        kms_via_service: None,
    };
    let checked = external::check_key(service.proxies(), &store.tenant.proxy, id, &about).await;
    checked.map_err(external::Fault::of_new_key)
}

pub(super) struct CreateKey(KeyService);

#[async_trait]
impl LiveAction for CreateKey {
    type Op = kms::ops::CreateKey;
    const ACCESS: Access = Access::Write;

    fn targets(&self, _cx: &Context<'_>, r: &kms::CreateKeyRequest) -> Result<Vec<Target>, Error> {
        let tags = tags::read(&r.tags).unwrap_or_default();
        let mut create = Target::any("kms:CreateKey").request_tags(&tags);
        for (name, value) in [
            ("kms:KeySpec", r.key_spec.as_deref().unwrap_or("SYMMETRIC_DEFAULT")),
            ("kms:KeyUsage", r.key_usage.as_deref().unwrap_or("ENCRYPT_DECRYPT")),
            ("kms:KeyOrigin", r.origin.as_deref().unwrap_or("AWS_KMS")),
            ("kms:MultiRegion", if r.multi_region == Some(true) { "true" } else { "false" }),
            ("kms:BypassPolicyLockoutSafetyCheck", bypass(r.bypass_policy_lockout_safety_check)),
        ] {
            create = create.key(name, value);
        }
        let tag = (!r.tags.is_empty()).then(|| Target::any("kms:TagResource").request_tags(&tags));
        Ok([Some(create), tag].into_iter().flatten().collect())
    }

    async fn run(&self, cx: LiveContext<'_>, r: kms::CreateKeyRequest) -> Result<kms::CreateKeyResponse, Error> {
        check_kind(&r)?;
        let (description, tags): (_, Tags) = (r.description.as_deref().unwrap_or_default(), tags::read(&r.tags)?);
        let external = r.custom_key_store_id.as_deref().zip(r.xks_key_id.as_deref());
        if let Some((store, id)) = external {
            check_external(&self.0, &cx, store, id).await?;
        }
        let new = NewKey { description, policy: r.policy.as_deref(), tags: &tags, external };
        let (region, now) = (&cx.region.name, cx.clock.now());
        let make = |txn: &mut Txn| {
            let key = ops::create_key(txn, cx.caller.account, new, cx.ids, now)?;
            if r.bypass_policy_lockout_safety_check != Some(true) {
                check_lockout(txn, cx.caller, &key, region, now)?;
            }
            Ok(metadata(txn, &key, region))
        };
        let (key_metadata, _) = cx.store.transact(&[], make).await?;
        Ok(kms::CreateKeyResponse { key_metadata: Some(key_metadata) })
    }
}

pub(super) const fn bypass(asked: Option<bool>) -> &'static str {
    if matches!(asked, Some(true)) { "true" } else { "false" }
}

action!(DescribeKey, Read, |cx, r| manages(cx, "DescribeKey", &r.key_id, USED), |cx, r| {
    check_tokens(cx.txn, &r.grant_tokens)?;
    let key = the_key(cx, &r.key_id, USED)?;
    Ok(kms::DescribeKeyResponse { key_metadata: Some(metadata(cx.txn, &key, &cx.region.name)) })
});

action!(ListKeys, Read, |_cx, _r| Ok(vec![Target::any("kms:ListKeys")]), |cx, r| {
    let keys = cx.txn.peek_range::<KmsKey>(&KmsKey::all(cx.account()))?;
    let page = page(cx, "ListKeys", "", r.page(), (100, 1000), keys.iter().map(|(_, key)| (key.id.to_string(), key)))?;
    let entry = |key: &KmsKey| kms::KeyListEntry {
        key_id: Some(key.id.to_string()),
        key_arn: Some(key.arn(&cx.region.name).to_string()),
    };
    let keys = page.items.into_iter().map(|key| entry(key)).collect();
    Ok(kms::ListKeysResponse { keys, next_marker: page.next_marker, truncated: page.truncated })
});

action!(EnableKey, Write, |cx, r| manages(cx, "EnableKey", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    ops::set_enabled(cx.txn, &key, &cx.region.name, true)?;
    Ok(Empty)
});

action!(DisableKey, Write, |cx, r| manages(cx, "DisableKey", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    ops::set_enabled(cx.txn, &key, &cx.region.name, false)?;
    Ok(Empty)
});

action!(UpdateKeyDescription, Write, |cx, r| manages(cx, "UpdateKeyDescription", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    ops::set_description(cx.txn, &key, &cx.region.name, &r.description)?;
    Ok(Empty)
});

const USUAL_WINDOW_DAYS: i32 = 30;

action!(
    ScheduleKeyDeletion,
    Write,
    |cx, r| {
        let days = r.pending_window_in_days.unwrap_or(USUAL_WINDOW_DAYS);
        let targets = manages(cx, "ScheduleKeyDeletion", &r.key_id, OWN)?;
        let window = "kms:ScheduleKeyDeletionPendingWindowInDays";
        Ok(targets.into_iter().map(|target| target.key(window, days.to_string())).collect())
    },
    |cx, r| {
        let key = the_key(cx, &r.key_id, OWN)?;
        let days = r.pending_window_in_days.unwrap_or(USUAL_WINDOW_DAYS);
        // What is no such number is outside the bounds too.
        let window = u32::try_from(days).unwrap_or(0);
        let key = ops::schedule_deletion(cx.txn, &key, &cx.region.name, window, cx.now)?;
        let KeyState::PendingDeletion { at } = key.state else {
            return Err(Error::new(ErrorClass::Internal, "KMSInternalException", "The deletion was not scheduled."));
        };
        Ok(kms::ScheduleKeyDeletionResponse {
            key_id: Some(key.arn(&cx.region.name).to_string()),
            deletion_date: Some(at),
            key_state: Some("PendingDeletion".to_owned()),
            pending_window_in_days: Some(days),
        })
    }
);

action!(CancelKeyDeletion, Write, |cx, r| manages(cx, "CancelKeyDeletion", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    let key = ops::cancel_deletion(cx.txn, &key, &cx.region.name, cx.now)?;
    Ok(kms::CancelKeyDeletionResponse { key_id: Some(key.arn(&cx.region.name).to_string()) })
});
