//! Which volumes may be asked for: sizes and performance per type, from the EC2 API reference (CreateVolume, EbsBlockDevice).

use std::sync::Arc;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, ErrorClass, SnapshotId};

use super::find_snapshot;
use crate::model::{GIB, Snapshot, VolumeType};

/// What a request says about a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeChoice {
    pub size_gib: Option<i32>,
    pub volume_type: Option<String>,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
    pub snapshot: Option<SnapshotId>,
    pub encrypted: bool,
}

/// A volume that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeShape {
    pub size_bytes: u64,
    pub volume_type: VolumeType,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub snapshot: Option<SnapshotId>,
}

struct Bounds {
    size_gib: (i32, i32),
    /// Settable input/output operations per second.
    iops: Option<(i32, i32)>,
    /// Settable MiB/s.
    throughput: Option<(i32, i32)>,
}

const fn bounds(volume_type: VolumeType) -> Bounds {
    let (size_gib, iops, throughput) = match volume_type {
        VolumeType::Standard => ((1, 1_024), None, None),
        VolumeType::Gp2 => ((1, 16_384), None, None),
        VolumeType::Gp3 => ((1, 65_536), Some((3_000, 80_000)), Some((125, 2_000))),
        VolumeType::Io1 => ((4, 16_384), Some((100, 64_000)), None),
        VolumeType::Io2 => ((4, 65_536), Some((100, 256_000)), None),
        VolumeType::St1 | VolumeType::Sc1 => ((125, 16_384), None, None),
    };
    Bounds { size_gib, iops, throughput }
}

/// Completes and checks a choice. `too_small` is the code for a volume smaller than its snapshot, which differs between
/// CreateVolume and RunInstances.
///
/// Errors: `MissingParameter`, `InvalidParameterValue`, `InvalidParameterCombination`, `UnknownVolumeType`,
/// `InvalidSnapshot.NotFound`, and `UnsupportedOperation` for encryption with a key of its own.
pub fn resolve_shape(
    txn: &Txn,
    account: AccountId,
    choice: &VolumeChoice,
    default_type: VolumeType,
    too_small: &'static str,
) -> Result<VolumeShape, Error> {
    if choice.encrypted {
        let message = "Encrypted volumes with keys of their own are not available here yet.";
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    let volume_type = match choice.volume_type.as_deref().filter(|name| !name.is_empty()) {
        None => default_type,
        Some(name) => VolumeType::parse(name).ok_or_else(|| {
            Error::invalid("UnknownVolumeType", format!("Unsupported volume type '{name}' for volume creation."))
        })?,
    };
    let snapshot = choice.snapshot.map(|id| find_snapshot(txn, account, id)).transpose()?;
    let bounds = bounds(volume_type);
    let size_bytes = size(choice.size_gib, snapshot.as_ref(), volume_type, bounds.size_gib, too_small)?;
    let iops = within(choice.iops, bounds.iops, volume_type, "iops")?;
    if iops.is_none() && matches!(volume_type, VolumeType::Io1 | VolumeType::Io2) {
        let message = format!("The request must contain the parameter iops for {} volumes.", volume_type.name());
        return Err(Error::invalid("MissingParameter", message));
    }
    let throughput = within(choice.throughput, bounds.throughput, volume_type, "throughput")?;
    Ok(VolumeShape { size_bytes, volume_type, iops, throughput, snapshot: choice.snapshot })
}

fn size(
    asked_gib: Option<i32>,
    snapshot: Option<&Arc<Snapshot>>,
    volume_type: VolumeType,
    (least, greatest): (i32, i32),
    too_small: &'static str,
) -> Result<u64, Error> {
    let Some(gib) = asked_gib else {
        let snapshot = snapshot.ok_or_else(|| {
            Error::invalid("MissingParameter", "The request must contain the parameter size/snapshot")
        })?;
        return Ok(snapshot.volume_bytes);
    };
    if gib < least || gib > greatest {
        let message =
            format!("Volume of size {gib}GB is invalid: {} volumes have {least} to {greatest} GB.", volume_type.name());
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let bytes = u64::try_from(gib).unwrap_or(0) * GIB;
    match snapshot {
        Some(snapshot) if bytes < snapshot.volume_bytes => {
            let message = format!(
                "Volume of size {gib}GB is smaller than snapshot '{}', expect size >= {}GB",
                snapshot.id,
                snapshot.volume_bytes.div_ceil(GIB)
            );
            Err(Error::invalid(too_small, message))
        }
        _ => Ok(bytes),
    }
}

fn within(
    value: Option<i32>,
    bounds: Option<(i32, i32)>,
    volume_type: VolumeType,
    name: &str,
) -> Result<Option<u32>, Error> {
    let Some(value) = value else { return Ok(None) };
    let Some((least, greatest)) = bounds else {
        let message = format!("The parameter {name} is not supported for {} volumes.", volume_type.name());
        return Err(Error::invalid("InvalidParameterCombination", message));
    };
    if value < least || value > greatest {
        let message =
            format!("Volume {name} of {value} is invalid: {} volumes take {least} to {greatest}.", volume_type.name());
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    Ok(u32::try_from(value).ok())
}
