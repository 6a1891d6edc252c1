//! The control plane's half of compute: instances and key pairs, the hosts they run on, and the door to those hosts.
//!
//! `model` are the records, `ops` the commands over them, `aws` the API actions, `controller` turns records into what a
//! host should do and reports into records, and `gateway` is what agents dial. The state that the API shows is a pure
//! function ([`state`]). Nothing here starts a guest: that is the host agent's.

pub mod aws;
pub mod catalogue;
pub mod controller;
pub mod gateway;
pub mod model;
pub mod names;
pub mod ops;
#[cfg(test)]
mod sim_host;
pub mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
