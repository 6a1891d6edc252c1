use async_trait::async_trait;
use std::sync::Arc;
use terroir_action::general::specified_tags;
use terroir_action::{Access, Context, LiveAction, LiveContext, Target};
use terroir_agent_api::BlobFormat;
use terroir_aws_model::ec2;
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, ErrorClass, IdSource, ResourceId, SnapshotId, Timestamp};

use crate::model::{Blob, Image, ImageMapping, ObjectRef, VolumeType};
use crate::ops::{self, ImageRequest, SnapshotRequest, VolumeChoice};

/// What an image's object is, as object storage sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    pub size_bytes: u64,
    /// Of all its bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Its first 4 KiB, or all of it.
    pub head: Vec<u8>,
}

/// Takes over objects that images are registered from.
#[async_trait]
pub trait ObjectSource: Send + Sync {
    /// Keeps the object's bytes in the blob store under the name `blob`, durably: what becomes of the object
    /// afterwards concerns the image no more.
    ///
    /// Errors: S3's `NoSuchBucket` and `NoSuchKey`; those of the disk.
    async fn take_over(&self, account: AccountId, object: &ObjectRef, blob: &str) -> Result<ObjectFacts, Error>;

    /// Removes what was kept in vain.
    async fn forget(&self, blob: &str) -> Result<(), Error>;
}

pub struct RegisterImage {
    pub objects: Arc<dyn ObjectSource>,
}

const DEFAULT_ROOT_DEVICE: &str = "/dev/xvda";

fn location(text: &str) -> Result<ObjectRef, Error> {
    let parts = text.trim_start_matches('/').split_once('/').filter(|(b, k)| !b.is_empty() && !k.is_empty());
    let (bucket, key) = parts.ok_or_else(|| {
        let message = format!("Invalid value '{text}' for imageLocation: expected bucket/key");
        Error::invalid("InvalidParameterValue", message)
    })?;
    Ok(ObjectRef { bucket: bucket.to_owned(), key: key.to_owned() })
}

#[async_trait]
impl LiveAction for RegisterImage {
    type Op = ec2::ops::RegisterImage;
    const ACCESS: Access = Access::Write;

    fn targets(&self, cx: &Context<'_>, request: &ec2::RegisterImageRequest) -> Result<Vec<Target>, Error> {
        let tags = specified_tags(&request.tag_specifications, "image", &["snapshot"])?;
        let image = Target::on("ec2:RegisterImage", Arn::new("ec2", &cx.region.name, None, "image/*"));
        let mut targets = vec![image.request_tags(&tags)];
        if let Some(text) = &request.image_location {
            let object = location(text)?;
            targets.push(Target::on("s3:GetObject", Arn::s3(format_args!("{}/{}", object.bucket, object.key))));
        }
        for mapping in &request.block_device_mappings {
            if let Some(id) = mapping.ebs.as_ref().and_then(|ebs| ebs.snapshot_id.as_deref()) {
                targets.push(Target::ec2(cx, "ec2:RegisterImage", "snapshot", id)?);
            }
        }
        Ok(targets)
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: ec2::RegisterImageRequest,
    ) -> Result<ec2::RegisterImageResult, Error> {
        check_options(&request)?;
        let account = cx.caller.account;
        let now = cx.clock.now();
        let Some(text) = &request.image_location else {
            let (image, _) = cx.store.transact(&[], |txn| register(txn, cx.ids, account, now, &request, None)).await?;
            return Ok(ec2::RegisterImageResult { image_id: Some(image.id.to_string()) });
        };
        let object = location(text)?;
        let id = SnapshotId::generate(cx.ids);
        let blob = ops::snapshot_blob(id);
        let facts = self.objects.take_over(account, &object, &blob).await?;
        let registered = async {
            let (format, disk_bytes) = disk(&facts.head, facts.size_bytes)?;
            let stored = Blob { sha256: facts.sha256, size_bytes: facts.size_bytes, format };
            let root = Root { id, object: &object, blob: &stored, disk_bytes };
            cx.store.transact(&[], |txn| register(txn, cx.ids, account, now, &request, Some(&root))).await
        }
        .await;
        let image = match registered {
            Ok((image, _)) => image,
            // Whether an unavailable store has kept it is not known: then the bytes stay.
            Err(error) if matches!(error.class(), ErrorClass::Unavailable | ErrorClass::Internal) => return Err(error),
            Err(error) => {
                self.objects.forget(&blob).await?;
                return Err(error);
            }
        };
        Ok(ec2::RegisterImageResult { image_id: Some(image.id.to_string()) })
    }
}

fn check_options(request: &ec2::RegisterImageRequest) -> Result<(), Error> {
    match request.virtualization_type.as_deref() {
        None | Some("" | "hvm") => {}
        Some(other) => {
            let message = format!("The virtualization type '{other}' is not supported: only hvm is.");
            return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
        }
    }
    if request.kernel_id.is_some() || request.ramdisk_id.is_some() {
        let message = "Images with a kernel or RAM disk ID are not supported: only hvm images are.";
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    if matches!(request.boot_mode.as_deref(), Some("uefi" | "uefi-preferred")) {
        let message = "Images that boot by UEFI are not supported.";
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    Ok(())
}

fn register(
    txn: &mut Txn,
    ids: &dyn IdSource,
    account: AccountId,
    now: Timestamp,
    request: &ec2::RegisterImageRequest,
    source: Option<&Root<'_>>,
) -> Result<Image, Error> {
    let image_tags = specified_tags(&request.tag_specifications, "image", &["snapshot"])?;
    let snapshot_tags = specified_tags(&request.tag_specifications, "snapshot", &["image"])?;
    let root_device = request.root_device_name.clone().filter(|d| !d.is_empty());
    let root_device = root_device.unwrap_or_else(|| DEFAULT_ROOT_DEVICE.to_owned());
    let mut mappings = mappings(txn, account, request)?;
    if let Some(source) = source {
        if mappings.iter().any(|mapping| mapping.device == root_device) {
            let message = "The root device comes from ImageLocation; it cannot be mapped as well.";
            return Err(Error::invalid("InvalidBlockDeviceMapping", message));
        }
        let root = root_from_object(txn, account, now, source, snapshot_tags, &root_device)?;
        mappings.insert(0, root);
    }
    if !mappings.iter().any(|mapping| mapping.device == root_device && mapping.snapshot.is_some()) {
        let message = format!("A snapshot for the root device '{root_device}' is required.");
        let code = if mappings.is_empty() { "MissingParameter" } else { "InvalidBlockDeviceMapping" };
        return Err(Error::invalid(code, message));
    }
    let default_location = format!("{account}/{}", request.name);
    let request = ImageRequest {
        name: request.name.clone(),
        description: request.description.clone().unwrap_or_default(),
        location: request.image_location.clone().unwrap_or(default_location),
        architecture: architecture(request.architecture.as_deref())?,
        root_device,
        mappings,
        direct_boot: None,
        public: false,
        tags: image_tags,
    };
    ops::register_image(txn, ids, account, now, request)
}

/// A disk that was an object, now in the blob store.
struct Root<'a> {
    id: SnapshotId,
    object: &'a ObjectRef,
    blob: &'a Blob,
    disk_bytes: u64,
}

fn root_from_object(
    txn: &mut Txn,
    account: AccountId,
    now: Timestamp,
    root: &Root<'_>,
    tags: Tags,
    device: &str,
) -> Result<ImageMapping, Error> {
    let snapshot = SnapshotRequest {
        id: root.id,
        blob: root.blob.clone(),
        disk_bytes: root.disk_bytes,
        description: format!("Created from {}/{}", root.object.bucket, root.object.key),
        object: None,
        tags,
    };
    let snapshot = ops::create_snapshot(txn, account, now, snapshot)?;
    Ok(ImageMapping {
        device: device.to_owned(),
        snapshot: Some(snapshot.id),
        size_bytes: snapshot.volume_bytes,
        volume_type: VolumeType::Gp3,
        delete_on_termination: true,
    })
}

/// AWS's default is `i386`, which nothing here runs; images without a word are x86_64.
fn architecture(asked: Option<&str>) -> Result<String, Error> {
    match asked.filter(|name| !name.is_empty()) {
        None | Some("x86_64") => Ok("x86_64".to_owned()),
        Some("arm64") => Ok("arm64".to_owned()),
        Some(other) => {
            let message = format!("Invalid value '{other}' for architecture: expected x86_64 or arm64");
            Err(Error::invalid("InvalidParameterValue", message))
        }
    }
}

fn mappings(txn: &Txn, account: AccountId, request: &ec2::RegisterImageRequest) -> Result<Vec<ImageMapping>, Error> {
    let mut out: Vec<ImageMapping> = Vec::new();
    for mapping in &request.block_device_mappings {
        let device = terroir_action::required(&mapping.device_name, "blockDeviceMapping.deviceName")?.to_owned();
        let Some(ebs) = &mapping.ebs else {
            // Instance store disks (`ephemeral0`) do not exist here; AWS's Nitro types ignore them as well.
            continue;
        };
        if out.iter().any(|before| before.device == device) {
            let message = format!("The device '{device}' is used more than once.");
            return Err(Error::invalid("InvalidBlockDeviceMapping", message));
        }
        let choice = VolumeChoice {
            size_gib: ebs.volume_size,
            volume_type: ebs.volume_type.clone(),
            iops: ebs.iops,
            throughput: ebs.throughput,
            snapshot: ebs.snapshot_id.as_deref().map(str::parse).transpose()?,
            encrypted: ebs.encrypted == Some(true) || ebs.kms_key_id.is_some(),
        };
        let shape = ops::resolve_shape(txn, account, &choice, VolumeType::Gp3, "InvalidBlockDeviceMapping")?;
        out.push(ImageMapping {
            device,
            snapshot: shape.snapshot,
            size_bytes: shape.size_bytes,
            volume_type: shape.volume_type,
            delete_on_termination: ebs.delete_on_termination.unwrap_or(true),
        });
    }
    Ok(out)
}

/// Format and disk size that the first bytes of an image tell.
///
/// Images come from tenants. One that names further files (a backing file, an external data file, a separate extent)
/// would make the host's tools open those, so it is refused. Layouts: QEMU's `docs/interop/qcow2.txt`; VMware's
/// "Virtual Disk Format 5.0".
fn disk(head: &[u8], size_bytes: u64) -> Result<(BlobFormat, u64), Error> {
    let refuse = |why: &str| {
        let message = format!("The disk image cannot be used: {why}.");
        Err(Error::invalid("InvalidDiskImage", message))
    };
    let be64 = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let be32 = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let le64 = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    if head.starts_with(b"QFI\xfb") {
        const EXTERNAL_DATA_FILE: u64 = 1 << 2;
        let (Some(version), Some(backing), Some(size)) = (be32(4), be64(8), be64(24)) else {
            return refuse("its qcow2 header is cut off");
        };
        if backing != 0 {
            return refuse("it has a backing file");
        }
        if version >= 3 && be64(72).is_none_or(|features| features & EXTERNAL_DATA_FILE != 0) {
            return refuse("it has an external data file");
        }
        return Ok((BlobFormat::Qcow2, size));
    }
    if head.starts_with(b"KDMV") {
        return match le64(12) {
            Some(sectors) if sectors > 0 => Ok((BlobFormat::Vmdk, sectors.saturating_mul(512))),
            _ => refuse("its VMDK extents are other files"),
        };
    }
    if head.starts_with(b"# Disk DescriptorFile") || head.starts_with(b"COWD") {
        return refuse("its VMDK extents are other files");
    }
    if size_bytes == 0 {
        return refuse("it is empty");
    }
    Ok((BlobFormat::Raw, size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes_and_traps_refused() {
        let qcow2 = |version: u32, backing: u64, size: u64, features: u64| {
            let mut head = vec![0; 104];
            head[..4].copy_from_slice(b"QFI\xfb");
            head[4..8].copy_from_slice(&version.to_be_bytes());
            head[8..16].copy_from_slice(&backing.to_be_bytes());
            head[24..32].copy_from_slice(&size.to_be_bytes());
            head[72..80].copy_from_slice(&features.to_be_bytes());
            head
        };
        let vmdk = |sectors: u64| [&b"KDMV\x01\0\0\0\x03\0\0\0"[..], &sectors.to_le_bytes()].concat();
        let rows = [
            (vec![0xeb, 0x63, 0x90], Ok((BlobFormat::Raw, 1000))),
            (qcow2(2, 0, 7 << 30, 4), Ok((BlobFormat::Qcow2, 7 << 30))),
            (qcow2(3, 0, 7 << 30, 1), Ok((BlobFormat::Qcow2, 7 << 30))),
            (qcow2(3, 200, 7 << 30, 0), Err("backing file")),
            (qcow2(3, 0, 7 << 30, 4), Err("external data file")),
            (b"QFI\xfb\0\0".to_vec(), Err("cut off")),
            (vmdk(2048), Ok((BlobFormat::Vmdk, 1 << 20))),
            (vmdk(0), Err("other files")),
            (b"# Disk DescriptorFile\n".to_vec(), Err("other files")),
        ];
        for (head, expected) in rows {
            match (disk(&head, 1000), expected) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted),
                (Err(error), Err(words)) => assert!(error.message().contains(words), "{error} / {words}"),
                (got, wanted) => panic!("{head:?}: {got:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn a_location_is_a_bucket_and_a_key() {
        let object = location("images/a/b.qcow2").unwrap();
        assert_eq!((object.bucket.as_str(), object.key.as_str()), ("images", "a/b.qcow2"));
        for bad in ["", "bucket", "bucket/", "//key"] {
            assert_eq!(location(bad).unwrap_err().code(), "InvalidParameterValue", "{bad}");
        }
    }
}
