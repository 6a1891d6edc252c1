//! Commands on volumes, snapshots and images. No commit, no I/O, no clock.

mod images;
mod sizing;
mod snapshots;
mod status;
mod volumes;

pub use images::{
    ImageRequest, SystemImage, deregister_image, find_image, find_own_image, register_image, register_system_image,
    system_image_named,
};
pub use sizing::{VolumeChoice, VolumeShape, resolve_shape};
pub use snapshots::{
    BlobSource, SnapshotRequest, blob_source, create_snapshot, find_snapshot, forget_snapshot, snapshot_blob,
};
pub use status::{VolumeOutcome, apply_volume_status, host_lost};
pub use volumes::{
    NewVolume, attach, create_volume, delete_volume, detach, find_volume, instance_gone, set_delete_on_termination,
};
