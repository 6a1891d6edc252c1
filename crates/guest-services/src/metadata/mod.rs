//! The instance metadata service, versions 1 and 2, as EC2 serves it at 169.254.169.254.
//!
//! The listening socket tells the VPC, the peer's address the guest; who is not a guest of that VPC gets 404.

mod serve;
mod token;
mod tree;

pub use serve::{Service, serve};
pub use token::TokenKey;
