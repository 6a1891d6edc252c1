//! The one endpoint for all services.
//!
//! ```text
//! connection ─▶ TLS ─▶ route ─┬─ /healthz /readyz /metrics (unsigned)
//!                             ├─ S3Front (credential scope `s3`, or nothing that names an action)
//!                             └─ authenticate ─▶ throttle ─▶ decode ─▶ authorize ─▶ run ─▶ encode
//! ```
//! Actions are known only through the registry. A write, its idempotency row and its audit record are one transaction;
//! everything else is recorded when it is answered.
//! Nothing here logs a body, a header or a secret.

pub mod apart;
mod audit;
mod authenticate;
pub mod coverage;
mod dispatch;
mod failure;
mod front;
mod idempotency;
pub mod in_process;
mod listener;
mod metrics;
mod server;
mod throttle;
mod tls;

pub use front::{NoObjects, ObjectOutcome, OperatorStatus, RequestId, S3Front};
pub use listener::{BindError, bind};
pub use server::{ApiServer, Limits, Parts};
pub use throttle::Rate;
pub use tls::{CertificateError, CertificateFiles, LOOK_EVERY};
