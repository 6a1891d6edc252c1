//! The agent of one host: makes what runs here equal to the `HostSpec` that it pulled last.
//!
//! * [`plan`] compares the spec with what was observed and answers with operations; it is pure.
//! * The reconciler applies them, each object's operations in one task at a time, and looks again.
//! * The ledger holds what must survive the agent: the last accepted spec, and for every instance
//!   the run that was begun last, written before its QEMU starts.
//! * [`own_place`] is what the host's operator signed about it; an order that contradicts it is refused.
//! * [`membership`] is what makes it a host of a region whose control plane is on other machines.
//! * [`hypervisor`] runs QEMU, [`host_storage`] keeps disks and cached images, [`network`] the
//!   namespaces, taps and rules, [`guest_link`] feeds guest-services. [`simulated`] stands in for
//!   all four where instances should change state and run nothing.
//!
//! The agent opens no listening socket; it only dials the control plane. Guests outlive it.

pub mod doctor;
pub mod guest_link;
pub mod host_storage;
pub mod hypervisor;
pub mod ledger;
pub mod membership;
pub mod network;
pub mod plan;
pub mod simulated;

mod agent;
mod bell;
mod facts;
mod guest_snapshot;
mod network_round;
pub mod observed;
mod options;
pub mod own_place;
mod reconciler;
mod record;
mod reports;
mod tear_down;

pub use agent::run;
pub use bell::Bell;
pub use hypervisor::accelerator::{Accelerator, detect_accelerator};
pub use observed::Observed;
pub use options::{AgentError, AgentOptions};
pub use record::{InstanceRecord, RunPhase, RunRecord};
pub use tear_down::{TearDownReport, tear_down};
