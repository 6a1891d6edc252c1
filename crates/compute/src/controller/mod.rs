//! Between hosts and records: what a report changes, and what a host should do.

mod render;
mod report;

pub(crate) use render::find_profile;
pub use render::{dependents, render, sections_for_host};
pub use report::{apply_report, parts};
pub(crate) use report::{apply_volume_outcome, close_usage, gone, stopped};
