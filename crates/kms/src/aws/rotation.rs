use terroir_action::Registry;
use terroir_aws_model::{Decode, Empty, kms};
use terroir_types::Error;

use super::page::page;
use super::{OWN, SHARED, action, check_held_here, manages, the_key};
use crate::model::{Material, RotationKind};
use crate::ops::{self, constraint, material_id};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<EnableKeyRotation>();
    registry.add::<DisableKeyRotation>();
    registry.add::<GetKeyRotationStatus>();
    registry.add::<RotateKeyOnDemand>();
    registry.add::<ListKeyRotations>();
}

fn days(asked: i32) -> u32 {
    // What is no such number is outside the bounds too.
    u32::try_from(asked).unwrap_or(0)
}

action!(
    EnableKeyRotation,
    Write,
    |cx, r| {
        let targets = manages(cx, "EnableKeyRotation", &r.key_id, OWN)?;
        let period = r.rotation_period_in_days.map(|days| days.to_string());
        let with = |target: terroir_action::Target| match &period {
            Some(days) => target.key("kms:RotationPeriodInDays", days),
            None => target,
        };
        Ok(targets.into_iter().map(with).collect())
    },
    |cx, r| {
        let key = the_key(cx, &r.key_id, OWN)?;
        check_held_here(&key)?;
        ops::enable_rotation(cx.txn, &key, &cx.region.name, r.rotation_period_in_days.map(days), cx.now)?;
        Ok(Empty)
    }
);

action!(DisableKeyRotation, Write, |cx, r| manages(cx, "DisableKeyRotation", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    check_held_here(&key)?;
    ops::disable_rotation(cx.txn, &key, &cx.region.name)?;
    Ok(Empty)
});

action!(GetKeyRotationStatus, Read, |cx, r| manages(cx, "GetKeyRotationStatus", &r.key_id, SHARED), |cx, r| {
    let key = the_key(cx, &r.key_id, SHARED)?;
    check_held_here(&key)?;
    ops::check_not_deleted(&key, &cx.region.name)?;
    Ok(kms::GetKeyRotationStatusResponse {
        key_id: Some(key.arn(&cx.region.name).to_string()),
        key_rotation_enabled: Some(key.rotation.is_some()),
        next_rotation_date: key.rotation.map(|rotation| rotation.next),
        rotation_period_in_days: key.rotation.and_then(|rotation| rotation.period_days.try_into().ok()),
        ..Default::default()
    })
});

action!(RotateKeyOnDemand, Write, |cx, r| manages(cx, "RotateKeyOnDemand", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    check_held_here(&key)?;
    let key = ops::rotate_on_demand(cx.txn, &key, &cx.region.name, cx.ids, cx.now)?;
    Ok(kms::RotateKeyOnDemandResponse { key_id: Some(key.arn(&cx.region.name).to_string()) })
});

action!(ListKeyRotations, Read, |cx, r| manages(cx, "ListKeyRotations", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    check_held_here(&key)?;
    let all = match r.include_key_material.as_deref() {
        None | Some("ROTATIONS_ONLY") => false,
        Some("ALL_KEY_MATERIAL") => true,
        Some(_) => {
            let values = "satisfy enum value set: [ROTATIONS_ONLY, ALL_KEY_MATERIAL]";
            return Err(constraint("includeKeyMaterial", values));
        }
    };
    let materials = cx.txn.peek_range::<Material>(&Material::all(key.account, key.id))?;
    let entry = |at: &terroir_store::Key, material: &Material| -> Result<_, Error> {
        let number: u32 = at.last().parse().map_err(|_| Error::internal(format_args!("{at} has no number")))?;
        let state = if number == key.current { "CURRENT" } else { "NON_CURRENT" };
        Ok(kms::RotationsListEntry {
            key_id: Some(key.arn(&cx.region.name).to_string()),
            key_material_id: Some(material_id(key.id, number)),
            key_material_state: Some(state.to_owned()),
            rotation_date: material.rotated.map(|_| material.created_at),
            rotation_type: material.rotated.map(|kind| {
                match kind {
                    RotationKind::Automatic => "AUTOMATIC",
                    RotationKind::OnDemand => "ON_DEMAND",
                }
                .to_owned()
            }),
            ..Default::default()
        })
    };
    let listed = materials.iter().filter(|(_, material)| all || material.rotated.is_some());
    let entries = listed
        .map(|(at, material)| Ok((at.last().to_owned(), entry(at, material)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let scope = format!("{} {all}", key.id);
    let page = page(cx, "ListKeyRotations", &scope, r.page(), (100, 1000), entries)?;
    Ok(kms::ListKeyRotationsResponse {
        rotations: page.items,
        next_marker: page.next_marker,
        truncated: page.truncated,
    })
});
