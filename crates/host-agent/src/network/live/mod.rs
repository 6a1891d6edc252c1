//! Networks built for real, in namespaces; needs root.

mod isolation;
pub(crate) mod rig;
mod services;
mod upkeep;
