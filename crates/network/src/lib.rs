//! The control plane's half of networks: VPCs, subnets, security groups, route tables, internet gateways, addresses and
//! interfaces.
//!
//! `model` are the records, `ops` the commands over them, `aws` the API actions, `controller` what hosts are told.
//! Nothing here touches a kernel: that is the host agent's.

pub mod aws;
pub mod controller;
pub mod model;
pub mod ops;
