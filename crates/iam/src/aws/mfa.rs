//! Virtual multi-factor devices.

use terroir_action::{Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_types::Error;

use super::page::page;
use super::user::Subject;
use super::{action, shapes, targets};
use crate::model::{MfaDevice, User};
use crate::names::{self, Entity, by_id};
use crate::ops::{self, About, KeyOwner};
use crate::{qr, totp};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateVirtualMFADevice>();
    registry.add::<ListVirtualMFADevices>();
    registry.add::<DeleteVirtualMFADevice>();
    registry.add::<EnableMFADevice>();
    registry.add::<ResyncMFADevice>();
    registry.add::<DeactivateMFADevice>();
    registry.add::<ListMFADevices>();
    registry.add::<GetMFADevice>();
}

action!(
    CreateVirtualMFADevice,
    Write,
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        targets::new::<MfaDevice>(cx, r.path.as_deref(), &r.virtual_mfa_device_name, &tags)
    },
    |cx, r| {
        let tags = shapes::tags_of(&r.tags)?;
        let about = About { name: &r.virtual_mfa_device_name, path: r.path.as_deref(), description: None, tags: &tags };
        let device = ops::create_mfa_device(cx.txn, cx.caller.account, about, cx.ids, cx.now)?;
        let seed = totp::base32(device.tenant.seed.expose());
        // The form that authenticator applications read; names have no character that an address must escape, but `+`.
        let label = format!("{}@{}", device.name().replace('+', "%2B"), device.account);
        let address = format!("otpauth://totp/Terroir:{label}?secret={seed}&issuer=Terroir");
        let shape = iam::VirtualMFADevice {
            base32_string_seed: Some(seed.into_bytes()),
            enable_date: None,
            qr_code_png: qr::png(&address),
            serial_number: Some(device.arn().to_string()),
            tags: shapes::tags(&tags),
            user: None,
        };
        Ok(iam::CreateVirtualMFADeviceResponse { virtual_mfa_device: Some(shape) })
    }
);

/// The user whose a device is; the root as GetUser shows it.
fn holder(cx: &Context<'_>, device: &MfaDevice) -> Result<Option<iam::User>, Error> {
    let Some(enabled) = &device.enabled else { return Ok(None) };
    match &enabled.user {
        Some(id) => Ok(by_id::<User>(cx.txn, cx.account(), id)?.map(|user| shapes::user(&user))),
        None => Ok(ops::account(cx.txn, cx.account())?.map(|root| iam::User {
            arn: Some(root.arn().to_string()),
            create_date: Some(root.created_at),
            user_id: Some(root.id.to_string()),
            ..iam::User::default()
        })),
    }
}

action!(ListVirtualMFADevices, Read, |_cx, _r| targets::none(), |cx, r| {
    let status = r.assignment_status.as_deref().unwrap_or("Any");
    if !["Any", "Assigned", "Unassigned"].contains(&status) {
        let message = format!(
            "1 validation error detected: Value '{status}' at 'assignmentStatus' failed to satisfy constraint: Member must satisfy enum value set: [Any, Unassigned, Assigned]"
        );
        return Err(Error::invalid("ValidationError", message));
    }
    let mut keyed = Vec::new();
    for device in names::list::<MfaDevice>(cx.txn, cx.account())? {
        if status == "Any" || device.enabled.is_some() == (status == "Assigned") {
            let shape = iam::VirtualMFADevice {
                enable_date: device.enabled.as_ref().map(|enabled| enabled.at),
                serial_number: Some(device.arn().to_string()),
                user: holder(cx, &device)?,
                ..iam::VirtualMFADevice::default()
            };
            keyed.push((device.name().to_lowercase(), shape));
        }
    }
    let page = page(cx, "ListVirtualMFADevices", status, r.page(), keyed)?;
    Ok(iam::ListVirtualMFADevicesResponse {
        virtual_mfa_devices: page.items,
        is_truncated: page.is_truncated,
        marker: page.marker,
    })
});

action!(DeleteVirtualMFADevice, Write, |cx, r| targets::device(cx, &r.serial_number), |cx, r| {
    ops::delete_mfa_device(cx.txn, cx.caller.account, &r.serial_number)?;
    Ok(Empty)
});

/// The root enables its own device under its account's name or number, as AWS's console does.
fn owner<'a>(cx: &Context<'_>, name: &'a str) -> KeyOwner<'a> {
    if cx.caller.kind == terroir_action::CallerKind::Root && name == cx.account().to_string() {
        KeyOwner::Root
    } else {
        KeyOwner::User(name)
    }
}

fn owner_targets(cx: &Context<'_>, name: &str) -> Result<Vec<Target>, Error> {
    targets::one::<User>(cx, name)
}

action!(EnableMFADevice, Write, |cx, r| owner_targets(cx, &r.user_name), |cx, r| {
    let codes = [r.authentication_code1.as_str(), r.authentication_code2.as_str()];
    let owner = owner(cx, &r.user_name);
    ops::enable_mfa_device(cx.txn, cx.caller.account, owner, &r.serial_number, codes, cx.now)?;
    Ok(Empty)
});

action!(ResyncMFADevice, Write, |cx, r| owner_targets(cx, &r.user_name), |cx, r| {
    let codes = [r.authentication_code1.as_str(), r.authentication_code2.as_str()];
    let owner = owner(cx, &r.user_name);
    ops::resync_mfa_device(cx.txn, cx.caller.account, owner, &r.serial_number, codes, cx.now)?;
    Ok(Empty)
});

action!(DeactivateMFADevice, Write, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    let owner = match &subject {
        Subject::Root => KeyOwner::Root,
        Subject::User(name) => owner(cx, name),
    };
    ops::deactivate_mfa_device(cx.txn, cx.caller.account, owner, &r.serial_number)?;
    Ok(Empty)
});

action!(ListMFADevices, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    let devices = ops::mfa_devices_of(cx.txn, cx.account(), subject.owner())?;
    let keyed = devices.iter().map(|device| {
        let serial = device.arn().to_string();
        let shape = iam::MFADevice {
            enable_date: device.enabled.as_ref().map(|enabled| enabled.at),
            serial_number: Some(serial.clone()),
            user_name: subject.name(),
        };
        (serial, shape)
    });
    let scope = subject.name().unwrap_or_default();
    let page = page(cx, "ListMFADevices", &scope, r.page(), keyed)?;
    Ok(iam::ListMFADevicesResponse { mfa_devices: page.items, is_truncated: page.is_truncated, marker: page.marker })
});

action!(GetMFADevice, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let device = ops::find_mfa_device(cx.txn, cx.account(), &r.serial_number)?;
    let user = holder(cx, &device)?;
    if let Some(name) = &r.user_name
        && user.as_ref().and_then(|user| user.user_name.as_ref()) != Some(name)
    {
        let message = format!("MFA Device {} is not enabled for user {name}.", r.serial_number);
        return Err(Error::not_found("NoSuchEntity", message));
    }
    Ok(iam::GetMFADeviceResponse {
        certifications: None,
        enable_date: device.enabled.as_ref().map(|enabled| enabled.at),
        serial_number: Some(r.serial_number),
        user_name: user.and_then(|user| user.user_name),
    })
});
