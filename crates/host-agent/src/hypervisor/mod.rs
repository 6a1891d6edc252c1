//! Running guests. [`Hypervisor`] is what the reconciler needs of it; [`qemu::Qemu`] is the real one.

pub mod accelerator;
pub mod qemu;

mod arguments;
mod cgroup;
mod console;
mod monitor;
mod process;
mod qmp;

use async_trait::async_trait;
use std::collections::BTreeSet;
use terroir_agent_api::HypervisorKind;
use terroir_types::InstanceId;

use crate::observed::{GuestObservation, GuestProcess};
use crate::plan::Op;
use crate::record::InstanceRecord;

pub use accelerator::Accelerator;
pub use qmp::{Qmp, QmpError, QmpEvent};

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Done,
    Started {
        process: GuestProcess,
        machine: Option<String>,
    },
    /// Begun, and waiting for the guest; to be looked at again in a while.
    Pending {
        detail: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    #[error("{action}: {source}")]
    Io { action: String, source: std::io::Error },
    /// QEMU's own words.
    #[error("QEMU ended at once: {0}")]
    Exited(String),
    #[error("{0}")]
    Monitor(#[from] QmpError),
    #[error("{0} is not running")]
    NotRunning(InstanceId),
    #[error("{0}")]
    Network(#[from] crate::network::NetworkError),
    #[error("{0}")]
    Storage(#[from] crate::host_storage::StorageError),
    #[error("{0}")]
    Unfit(String),
}

impl HypervisorError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(crate) fn errno(action: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let action = action.into();
        move |errno| Self::Io { action, source: errno.into() }
    }
}

#[async_trait]
pub trait Hypervisor: Send + Sync {
    fn kind(&self) -> HypervisorKind;

    /// The machine type of guests that were not started on one before.
    fn default_machine(&self) -> Option<String>;

    /// Looks for hypervisors of this data folder among all processes; the instances that have one.
    async fn survey(&self) -> Result<BTreeSet<InstanceId>, HypervisorError>;

    /// What is known of one instance's hypervisors now.
    async fn observe(&self, instance: InstanceId, record: Option<&InstanceRecord>) -> GuestObservation;

    /// Carries out an operation on an instance. `uid_index` is the instance's own.
    async fn apply(&self, op: &Op, uid_index: u32) -> Result<Applied, HypervisorError>;

    /// The end of what the serial console printed; `None` if the instance never ran here.
    async fn console(&self, instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError>;

    /// The screen as PNG; `None` if the instance does not run.
    async fn screenshot(&self, instance: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError>;

    /// Keeps logs small. Called by the timer.
    async fn tidy(&self);
}
