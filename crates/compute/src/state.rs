//! The API's state of an instance: a pure function of what should be, what is, and what is known of the host.
//!
//! ```text
//!              host reports                user, guest, or           host reports
//!   pending ─────running────▶ running ───── failure ───▶ stopping ─────ended────▶ stopped
//!      ▲                                                                            │
//!      └──────────────────────────────── StartInstances (run_id + 1) ◀──────────────┘
//!   any ── TerminateInstances, or a first start that failed ──▶ shutting-down
//!   shutting-down ── host reports the instance gone, then its interfaces released ──▶ terminated
//! ```
//! `terminated` is the record's own word (`terminated_at`), written with the last interface's release: whoever sees it
//! may delete subnet and security group at once.

use terroir_store::Txn;
use terroir_types::Error;

use crate::model::{Desired, Host, HostMode, Instance, InstanceStatus, Phase, host_key, instance_status_key};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    pub const fn code(self) -> i32 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// What is known of the host beside its reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKnowledge {
    /// It is there, or silent: a host that cannot be heard changes nothing.
    Expected,
    /// Declared lost by the operator: nothing of it runs, and `ops::settle_lost` does without its word.
    Lost,
}

pub fn instance_state(spec: &Instance, status: Option<&InstanceStatus>, host: HostKnowledge) -> InstanceState {
    if spec.terminated_at.is_some() {
        return InstanceState::Terminated;
    }
    // Only what was said about this run by whoever holds it now.
    let current = status.filter(|status| status.epoch == spec.assignment.epoch && status.run_id == spec.run_id);
    let phase = current.map(|status| &status.phase);
    match (spec.desired, host, phase) {
        (Desired::Terminated, _, _) => InstanceState::ShuttingDown,
        (_, HostKnowledge::Lost, _) => InstanceState::Stopped,
        (Desired::Stopped, _, Some(Phase::Ended(_) | Phase::Gone)) => InstanceState::Stopped,
        (Desired::Stopped, _, _) => InstanceState::Stopping,
        (Desired::Running, _, Some(Phase::Running(_))) => InstanceState::Running,
        (Desired::Running, _, Some(Phase::Stopping | Phase::Ended(_) | Phase::Gone)) => InstanceState::Stopping,
        (Desired::Running, _, None | Some(Phase::Preparing)) => InstanceState::Pending,
    }
}

/// The state in a transaction. `tracked`: whether a change meanwhile fails the commit.
pub(crate) fn state_of(txn: &Txn, spec: &Instance) -> Result<InstanceState, Error> {
    let status = txn.get::<InstanceStatus>(&instance_status_key(spec.account, spec.id))?;
    Ok(instance_state(spec, status.as_deref(), host_knowledge(txn, spec)?))
}

pub fn host_knowledge(txn: &Txn, spec: &Instance) -> Result<HostKnowledge, Error> {
    let Some(id) = spec.host() else { return Ok(HostKnowledge::Expected) };
    let host = txn.peek::<Host>(&host_key(id))?;
    let lost = host.is_some_and(|host| host.mode == HostMode::Lost);
    Ok(if lost { HostKnowledge::Lost } else { HostKnowledge::Expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use terroir_agent_api::EndCause;
    use terroir_types::Timestamp;

    #[test]
    fn every_combination_has_its_state() {
        use Desired as D;
        use InstanceState as S;
        let ended = || Phase::Ended(EndCause::Requested);
        let running = || Phase::Running(Timestamp::EPOCH);
        let lost = HostKnowledge::Lost;
        let here = HostKnowledge::Expected;
        let rows = [
            (D::Running, None, here, S::Pending),
            (D::Running, Some(Phase::Preparing), here, S::Pending),
            (D::Running, Some(running()), here, S::Running),
            (D::Running, Some(Phase::Stopping), here, S::Stopping),
            (D::Running, Some(ended()), here, S::Stopping),
            (D::Running, Some(running()), lost, S::Stopped),
            (D::Stopped, None, here, S::Stopping),
            (D::Stopped, Some(Phase::Preparing), here, S::Stopping),
            (D::Stopped, Some(running()), here, S::Stopping),
            (D::Stopped, Some(Phase::Stopping), here, S::Stopping),
            (D::Stopped, Some(ended()), here, S::Stopped),
            (D::Stopped, Some(running()), lost, S::Stopped),
            (D::Terminated, None, here, S::ShuttingDown),
            (D::Terminated, Some(running()), here, S::ShuttingDown),
            (D::Terminated, Some(ended()), here, S::ShuttingDown),
            (D::Terminated, Some(Phase::Gone), here, S::ShuttingDown),
            (D::Terminated, Some(running()), lost, S::ShuttingDown),
        ];
        for (desired, phase, host, expected) in rows {
            let spec = Instance { desired, ..instance(1) };
            let status = |epoch, run_id| {
                phase.clone().map(|phase| InstanceStatus {
                    generation: 1,
                    epoch,
                    run_id,
                    phase,
                    machine: None,
                    reboot_count: 0,
                    changed_at: Timestamp::EPOCH,
                    usage: None,
                })
            };
            let state = |status: Option<InstanceStatus>| instance_state(&spec, status.as_ref(), host);
            assert_eq!(state(status(1, 1)), expected, "{desired:?} {phase:?} {host:?}");
            // What is said of another run or under another epoch counts for nothing.
            let silent = state(None);
            assert_eq!(state(status(1, 0)), silent, "{desired:?} {phase:?}, older run");
            assert_eq!(state(status(0, 1)), silent, "{desired:?} {phase:?}, older epoch");
            let over = Instance { terminated_at: Some(Timestamp::EPOCH), ..spec.clone() };
            assert_eq!(instance_state(&over, status(1, 1).as_ref(), host), S::Terminated);
        }
    }
}
