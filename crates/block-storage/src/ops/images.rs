use std::sync::Arc;
use terroir_resources::Tags;
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, IdSource, ImageId, ResourceId, SnapshotId, Timestamp};

use super::{SnapshotRequest, create_snapshot, forget_snapshot};
use crate::model::{
    Blob, BootId, GIB, Image, ImageBoot, ImageMapping, ImageName, ImageTenant, VolumeType, image_boot_key, image_key,
};
use crate::{SYSTEM_ACCOUNT, SYSTEM_ALIAS};

/// An image that is being registered; its snapshots exist.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    pub name: String,
    pub description: String,
    pub location: String,
    pub architecture: String,
    pub root_device: String,
    pub mappings: Vec<ImageMapping>,
    pub direct_boot: Option<ImageBoot>,
    pub public: bool,
    pub tags: Tags,
}

fn name_key(txn: &Txn, account: AccountId, name: &str) -> Key {
    Key::new(format!("image-name/{account}/{}", txn.name_mac(Some(account), "image", name)))
}

/// Errors: `InvalidAMIName.Malformed`, `InvalidAMIName.Duplicate`, those of tags.
pub fn register_image(
    txn: &mut Txn,
    ids: &dyn IdSource,
    account: AccountId,
    now: Timestamp,
    request: ImageRequest,
) -> Result<Image, Error> {
    check_name(&request.name)?;
    let name_key = name_key(txn, account, &request.name);
    if let Some(taken) = txn.get::<ImageName>(&name_key)? {
        let message = format!("AMI name {} is already in use by AMI {}", request.name, taken.image);
        return Err(Error::conflict("InvalidAMIName.Duplicate", message));
    }
    let image = Image {
        account,
        id: ImageId::generate(ids),
        architecture: request.architecture,
        root_device: request.root_device,
        mappings: request.mappings,
        direct_boot: request.direct_boot.as_ref().map(|boot| keep_boot(txn, boot)).transpose()?,
        created_at: now,
        public: request.public,
        tenant: ImageTenant { name: request.name, description: request.description, location: request.location },
    };
    terroir_resources::register(txn, account, &image.id.to_string(), "image", request.tags, now)?;
    txn.put(&name_key, &ImageName { image: image.id })?;
    txn.put(&image_key(account, image.id), &image)?;
    Ok(image)
}

fn keep_boot(txn: &mut Txn, boot: &ImageBoot) -> Result<BootId, Error> {
    let hash = |blob: &Blob| blob.sha256.clone();
    let content = [hash(&boot.kernel), boot.initrd.as_ref().map(hash).unwrap_or_default(), boot.command_line.clone()];
    let id = txn.name_mac(None, "image-boot", &content.join("\n"));
    txn.put(&image_boot_key(&id), boot)?;
    Ok(id)
}

/// By the rule in the reference of RegisterImage: 3 to 128 characters of a small alphabet.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ()[]./-'@_".contains(c);
    if (3..=128).contains(&name.chars().count()) && name.chars().all(allowed) {
        return Ok(());
    }
    let message = "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, spaces, and \
                   ( ) [ ] . / - ' @ _";
    Err(Error::invalid("InvalidAMIName.Malformed", message))
}

/// An image that the account may launch.
///
/// Errors: `InvalidAMIID.NotFound`.
pub fn find_image(txn: &Txn, account: AccountId, id: ImageId) -> Result<Arc<Image>, Error> {
    if let Some(image) = txn.get::<Image>(&image_key(account, id))? {
        return Ok(image);
    }
    let shared = txn.get::<Image>(&image_key(SYSTEM_ACCOUNT, id))?.filter(|image| image.public);
    shared.ok_or_else(|| not_found(id))
}

/// Errors: `InvalidAMIID.NotFound`; `AuthFailure` for an image that is there but another account's.
pub fn find_own_image(txn: &Txn, account: AccountId, id: ImageId) -> Result<Arc<Image>, Error> {
    let image = find_image(txn, account, id)?;
    if image.account == account {
        Ok(image)
    } else {
        Err(Error::new(terroir_types::ErrorClass::Denied, "AuthFailure", format!("Not authorized for image:{id}")))
    }
}

fn not_found(id: ImageId) -> Error {
    Error::not_found(ImageId::NOT_FOUND, format!("The image id '[{id}]' does not exist"))
}

/// Removes an image; instances that were made from it are not touched. Gives each of its snapshots with whether it was
/// removed too, which is tried only if asked for.
pub fn deregister_image(
    txn: &mut Txn,
    account: AccountId,
    id: ImageId,
    delete_snapshots: bool,
    now: Timestamp,
) -> Result<Vec<(SnapshotId, bool)>, Error> {
    let image = find_own_image(txn, account, id)?;
    txn.delete(&name_key(txn, account, &image.tenant.name));
    txn.delete(&image_key(account, id));
    terroir_resources::unregister(txn, account, &id.to_string())?;
    let mut outcome = Vec::new();
    for snapshot in image.mappings.iter().filter_map(|mapping| mapping.snapshot) {
        let removed = delete_snapshots && !is_used_by_image(txn, account, snapshot)? && {
            forget_snapshot(txn, account, snapshot, now)?
        };
        outcome.push((snapshot, removed));
    }
    Ok(outcome)
}

fn is_used_by_image(txn: &Txn, account: AccountId, snapshot: SnapshotId) -> Result<bool, Error> {
    let images = txn.range::<Image>(&Key::new(format!("image/{account}")))?;
    Ok(images.iter().any(|(_, image)| image.mappings.iter().any(|mapping| mapping.snapshot == Some(snapshot))))
}

/// An image for everybody, as `terroir image build` and `import` make it. The disk's bytes are in the blob store under
/// `snapshot/<snapshot>` already, kernel and initrd under `image-kernel/<sha256>` and `image-initrd/<sha256>`.
#[derive(Debug, Clone)]
pub struct SystemImage {
    pub name: String,
    pub description: String,
    pub architecture: String,
    pub snapshot: SnapshotId,
    pub disk: Blob,
    /// Size of the disk inside the blob.
    pub disk_bytes: u64,
    pub direct_boot: Option<ImageBoot>,
}

/// Device name of the root disk of system images.
const ROOT_DEVICE: &str = "/dev/xvda";

/// Registers an image for everybody. One of the same name is replaced: the answer holds the snapshots whose blobs
/// nobody needs any more.
pub fn register_system_image(
    txn: &mut Txn,
    ids: &dyn IdSource,
    now: Timestamp,
    system: SystemImage,
) -> Result<(Image, Vec<SnapshotId>), Error> {
    let mut freed = Vec::new();
    if let Some(before) = system_image_named(txn, &system.name)? {
        let snapshots = deregister_image(txn, SYSTEM_ACCOUNT, before.id, true, now)?;
        freed.extend(snapshots.into_iter().filter(|(_, removed)| *removed).map(|(id, _)| id));
    }
    let snapshot = create_snapshot(
        txn,
        SYSTEM_ACCOUNT,
        now,
        SnapshotRequest {
            id: system.snapshot,
            blob: system.disk,
            disk_bytes: system.disk_bytes,
            description: format!("Disk of the image {}", system.name),
            object: None,
            tags: Tags::new(),
        },
    )?;
    let mapping = ImageMapping {
        device: ROOT_DEVICE.to_owned(),
        snapshot: Some(snapshot.id),
        size_bytes: snapshot.volume_bytes.max(GIB),
        volume_type: VolumeType::Gp3,
        delete_on_termination: true,
    };
    let request = ImageRequest {
        location: format!("{SYSTEM_ALIAS}/{}", system.name),
        name: system.name,
        description: system.description,
        architecture: system.architecture,
        root_device: ROOT_DEVICE.to_owned(),
        mappings: vec![mapping],
        direct_boot: system.direct_boot,
        public: true,
        tags: Tags::new(),
    };
    let image = register_image(txn, ids, SYSTEM_ACCOUNT, now, request)?;
    Ok((image, freed))
}

pub fn system_image_named(txn: &Txn, name: &str) -> Result<Option<Arc<Image>>, Error> {
    match txn.get::<ImageName>(&name_key(txn, SYSTEM_ACCOUNT, name))? {
        Some(named) => txn.get::<Image>(&image_key(SYSTEM_ACCOUNT, named.image)),
        None => Ok(None),
    }
}
