//! Who may do what: accounts, users, groups, roles, their credentials and policies, and sessions (STS).
//!
//! [`evaluation`] decides and is pure; [`ops`] change records in one transaction; [`Iam`] is what the API server and
//! object storage ask ([`Iam::secret`], [`Iam::authenticate_session`], [`Iam::authorize`]); [`sigv4`] checks
//! signatures; [`aws`] is the IAM and STS APIs themselves.

mod authorization_message;
mod authorize;
pub mod aws;
mod builtin;
mod cache;
pub mod evaluation;
mod mfa;
pub mod model;
pub mod names;
pub mod ops;
mod password;
mod policies_of;
mod qr;
mod request_keys;
mod service;
mod session;
pub mod sigv4;
mod totp;
mod web_token;

pub use authorize::{CallerName, Ruling, caller_names, policy_admits};
pub use aws::register;
pub use builtin::BuiltinPolicy;
pub use cache::RecentMap;
pub use request_keys::RequestFacts;
pub use service::{AuthenticationError, Iam, RoleCredentials};
pub use session::{SESSION_KEY_PREFIX, SessionCredentials};
pub use web_token::web_token_claims;
