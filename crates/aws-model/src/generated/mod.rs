//! Output of `cargo xtask codegen`.

pub mod ec2;
pub mod iam;
pub mod sts;

#[cfg(feature = "differential")]
pub mod ec2_json;
#[cfg(feature = "differential")]
pub mod iam_json;
#[cfg(feature = "differential")]
pub mod sts_json;
