use terroir_agent_api::VolumeSection;

use super::status::refusal;
use super::{Op, Planner, Readiness, is_wanted};
use crate::observed::VolumeObservation;

impl Planner<'_> {
    pub(super) fn volume(&mut self, section: &VolumeSection) {
        let nothing = VolumeObservation::default();
        let seen = self.observed.volumes.get(&section.id).unwrap_or(&nothing);
        match &seen.file {
            Some(_) if !is_wanted(section.desired) && !self.is_held(section.id) => {
                self.push(Op::DeleteVolume { volume: section.id });
            }
            Some(file) if file.size_bytes < section.size_bytes && !self.is_held(section.id) && self.may_try(seen) => {
                self.push(Op::GrowVolume { volume: section.id, size_bytes: section.size_bytes });
            }
            // What must not be here is not made; what is here stays until it is told to go.
            None if is_wanted(section.desired) && refusal(section.demand.as_deref(), self.observed).is_some() => {}
            None if is_wanted(section.desired) && self.may_try(seen) && self.observed.space.takes_more() => {
                let source = section.source.clone();
                if source.as_ref().is_none_or(|blob| matches!(self.blob(blob), Readiness::Ready)) {
                    self.push(Op::CreateVolume { volume: section.id, size_bytes: section.size_bytes, source });
                }
            }
            _ => {}
        }
    }

    fn may_try(&mut self, seen: &VolumeObservation) -> bool {
        match &seen.failure {
            Some(failure) if failure.retry_at > self.observed.now => {
                self.wake(failure.retry_at);
                false
            }
            _ => true,
        }
    }

    /// Whether a guest may be started with the volume, or get it while it runs.
    pub(super) fn volume_ready(&self, id: terroir_types::VolumeId) -> Readiness {
        let Some(section) = self.volume_section(id).filter(|s| is_wanted(s.desired)) else {
            return Readiness::Waiting;
        };
        let seen = self.observed.volumes.get(&id);
        if seen.is_some_and(|v| v.file.is_some()) {
            return Readiness::Ready;
        }
        if let Some(rule) = refusal(section.demand.as_deref(), self.observed) {
            return Readiness::Hopeless(format!("volume {id}: {rule}"));
        }
        match super::status::volume_obstacle(section, self.observed) {
            Some(detail) => Readiness::Hopeless(format!("volume {id}: {detail}")),
            None => Readiness::Waiting,
        }
    }
}
