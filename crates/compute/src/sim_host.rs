//! A host for tests: pulls its spec, does what it says at its own pace, reports; and has accidents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use terroir_agent_api::{
    ControlPlane, Desired, EndCause, HostReport, HostSpec, InstancePhase, InstanceSection, InstanceStatus,
    InterfacePhase, InterfaceStatus, PowerState, Section, VolumePhase, VolumeStatus,
};
use terroir_types::{Epoch, Generation, HostId, InstanceId, InterfaceId, RunId, Timestamp, VolumeId};

use crate::testing::{Size, facts};

/// What the host remembers of a guest; as the agent's ledger, it outlives everything.
#[derive(Debug, Clone, Default)]
struct Guest {
    run_id: RunId,
    running: bool,
    cause: Option<EndCause>,
    purged: bool,
    reboots: u64,
    /// Runs that were ever begun.
    begun: BTreeSet<RunId>,
    bus: BTreeSet<VolumeId>,
}

pub struct SimHost {
    id: HostId,
    cursor: u64,
    spec: HostSpec,
    guests: BTreeMap<InstanceId, Guest>,
    disks: BTreeSet<VolumeId>,
    sequence: u64,
    boot: u64,
    generation: Generation,
    sent: BTreeMap<String, String>,
    /// The next start fails.
    pub break_next_start: bool,
    /// So many starts to come are interrupted.
    pub interrupt_starts: usize,
    /// Interfaces are not let go for now.
    pub hold_interfaces: bool,
}

impl SimHost {
    pub fn new(id: HostId) -> Self {
        Self {
            id,
            cursor: 0,
            spec: HostSpec::new(),
            guests: BTreeMap::new(),
            disks: BTreeSet::new(),
            sequence: 0,
            boot: 1,
            generation: 0,
            sent: BTreeMap::new(),
            break_next_start: false,
            interrupt_starts: 0,
            hold_interfaces: false,
        }
    }

    pub async fn pull(&mut self, control: &dyn ControlPlane) -> bool {
        let page = control.pull_spec(self.id, self.cursor, Duration::ZERO).await.unwrap();
        let news = page.full || !page.changed.is_empty() || !page.removed.is_empty();
        self.cursor = page.cursor;
        if page.full {
            self.spec = page.changed;
        } else {
            self.spec.extend(page.changed);
            for key in page.removed {
                self.spec.remove(&key);
            }
        }
        news
    }

    /// What a fresh agent would be told.
    pub async fn whole_spec(&self, control: &dyn ControlPlane) -> HostSpec {
        control.pull_spec(self.id, 0, Duration::ZERO).await.unwrap().changed
    }

    pub fn spec(&self) -> &HostSpec {
        &self.spec
    }

    fn instances(&self) -> Vec<InstanceSection> {
        let all = self.spec.values().filter_map(|section| match section {
            Section::Instance(section) => Some((**section).clone()),
            _ => None,
        });
        all.collect()
    }

    /// Brings the world in line with the spec, one step each.
    pub fn apply(&mut self) {
        self.make_disks();
        for section in self.instances() {
            let guest = self.guests.entry(section.id).or_default();
            match section.desired {
                PowerState::Running if guest.running && guest.run_id < section.run_id => {
                    guest.running = false;
                    guest.cause = Some(EndCause::Requested);
                }
                PowerState::Running if !guest.running && guest.run_id < section.run_id => {
                    let ready = section.volumes.iter().all(|volume| self.disks.contains(&volume.volume));
                    if !ready {
                        continue;
                    }
                    assert!(guest.begun.insert(section.run_id), "{} is started twice in one run", section.id);
                    guest.run_id = section.run_id;
                    if std::mem::take(&mut self.break_next_start) {
                        guest.cause = Some(EndCause::StartFailed { detail: "no luck".to_owned() });
                    } else if self.interrupt_starts > 0 {
                        self.interrupt_starts -= 1;
                        guest.cause = Some(EndCause::Interrupted);
                    } else {
                        guest.running = true;
                        guest.cause = None;
                    }
                }
                PowerState::Running => {}
                PowerState::Stopped | PowerState::Terminated => {
                    if guest.running || guest.run_id < section.run_id {
                        guest.running = false;
                        guest.run_id = guest.run_id.max(section.run_id);
                        guest.cause = Some(EndCause::Requested);
                    } else if section.desired == PowerState::Terminated {
                        guest.purged = true;
                    }
                }
            }
            guest.reboots = section.reboot_count;
        }
        self.set_buses();
        self.remove_disks();
    }

    fn volumes(&self) -> Vec<(VolumeId, Desired, Epoch)> {
        let all = self.spec.values().filter_map(|section| match section {
            Section::Volume(volume) => Some((volume.id, volume.desired, volume.epoch)),
            _ => None,
        });
        all.collect()
    }

    fn make_disks(&mut self) {
        for (id, desired, _) in self.volumes() {
            if desired == Desired::Present {
                self.disks.insert(id);
            }
        }
    }

    fn remove_disks(&mut self) {
        let used: BTreeSet<VolumeId> = self.guests.values().flat_map(|guest| guest.bus.clone()).collect();
        for (id, desired, _) in self.volumes() {
            if desired == Desired::Deleted && !used.contains(&id) {
                self.disks.remove(&id);
            }
        }
    }

    /// A guest's bus holds what its section names, as long as it runs.
    fn set_buses(&mut self) {
        let wanted: BTreeMap<InstanceId, BTreeSet<VolumeId>> = self
            .instances()
            .into_iter()
            .map(|section| (section.id, section.volumes.iter().map(|volume| volume.volume).collect()))
            .collect();
        for (id, guest) in &mut self.guests {
            guest.bus = match wanted.get(id) {
                Some(volumes) if guest.running => volumes.intersection(&self.disks).copied().collect(),
                Some(_) => BTreeSet::new(),
                None if guest.running => std::mem::take(&mut guest.bus),
                None => BTreeSet::new(),
            };
        }
        let mut seen = BTreeSet::new();
        for volume in self.guests.values().flat_map(|guest| &guest.bus) {
            assert!(seen.insert(*volume), "{volume} is on two buses");
        }
    }

    /// Something happens to the `n`th guest that runs.
    pub fn accident(&mut self, n: usize, cause: &EndCause) {
        let mut running: Vec<&mut Guest> = self.guests.values_mut().filter(|guest| guest.running).collect();
        if running.is_empty() {
            return;
        }
        let n = n % running.len();
        end(running[n], cause);
    }

    /// Every guest ends, disks stay.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.guests.values_mut().filter(|guest| guest.running).for_each(|guest| end(guest, &EndCause::HostReboot));
        self.sent.clear();
    }

    /// What changed since the last report, or everything.
    pub fn report(&mut self, full: bool, at: Timestamp, size: Option<Size>) -> HostReport {
        self.sequence += 1;
        let mut report = HostReport {
            host: self.id,
            boot_id: format!("boot-{}", self.boot),
            sequence: self.sequence,
            full,
            facts: size.map(facts),
            instances: Vec::new(),
            volumes: Vec::new(),
            interfaces: Vec::new(),
        };
        for section in self.instances() {
            let guest = self.guests.get(&section.id).cloned().unwrap_or_default();
            let phase = self.phase(&section, &guest, at);
            let run_id = guest.run_id.max(section.run_id);
            let status = InstanceStatus {
                id: section.id,
                generation: 0,
                epoch: section.epoch,
                run_id,
                phase,
                machine: Some("pc-q35-7.2".to_owned()),
                attached: guest.bus.iter().copied().collect(),
                reboot_count: guest.reboots,
                changed_at: at,
            };
            let text = format!("{:?}", InstanceStatus { changed_at: Timestamp::EPOCH, ..status.clone() });
            if let Some(generation) = self.news(section.id.to_string(), text, full) {
                report.instances.push(InstanceStatus { generation, ..status });
            }
        }
        for (id, desired, epoch) in self.volumes() {
            let phase = match (desired, self.disks.contains(&id)) {
                (_, true) => VolumePhase::Ready,
                (Desired::Deleted, false) => VolumePhase::Deleted,
                (Desired::Present, false) => VolumePhase::Creating,
            };
            let attached_to = self.guests.iter().find(|(_, guest)| guest.bus.contains(&id)).map(|(id, _)| *id);
            let status = VolumeStatus { id, generation: 0, epoch, phase, attached_to };
            if let Some(generation) = self.news(id.to_string(), format!("{status:?}"), full) {
                report.volumes.push(VolumeStatus { generation, ..status });
            }
        }
        self.report_interfaces(&mut report, full);
        report
    }

    fn report_interfaces(&mut self, report: &mut HostReport, full: bool) {
        let all: Vec<(InterfaceId, Desired, Epoch)> = self
            .spec
            .values()
            .filter_map(|section| match section {
                Section::Interface(interface) => Some((interface.id, interface.desired, interface.epoch)),
                _ => None,
            })
            .collect();
        for (id, desired, epoch) in all {
            let phase = match desired {
                Desired::Deleted if !self.hold_interfaces => InterfacePhase::Released,
                Desired::Present | Desired::Deleted => InterfacePhase::Ready,
            };
            let status = InterfaceStatus { id, generation: 0, epoch, phase };
            if let Some(generation) = self.news(id.to_string(), format!("{status:?}"), full) {
                report.interfaces.push(InterfaceStatus { generation, ..status });
            }
        }
    }

    fn phase(&self, section: &InstanceSection, guest: &Guest, at: Timestamp) -> InstancePhase {
        if section.desired == PowerState::Terminated && guest.purged {
            return InstancePhase::Gone;
        }
        match &guest.cause {
            _ if guest.running && guest.run_id == section.run_id => InstancePhase::Running { started_at: at },
            Some(cause) if guest.run_id >= section.run_id => InstancePhase::Ended { cause: cause.clone() },
            _ => InstancePhase::Preparing,
        }
    }

    /// The generation under which to report `text`; none if that was said already.
    fn news(&mut self, key: String, text: String, full: bool) -> Option<Generation> {
        // A running phase carries the time of the report; what it says is that it runs.
        let text = match text.split_once("started_at") {
            Some((head, tail)) => format!("{head}{}", tail.split_once('}').map_or("", |(_, rest)| rest)),
            None => text,
        };
        if self.sent.get(&key) == Some(&text) && !full {
            return None;
        }
        self.sent.insert(key, text);
        self.generation += 1;
        Some(self.generation)
    }
}

fn end(guest: &mut Guest, cause: &EndCause) {
    guest.running = false;
    guest.bus.clear();
    guest.cause = Some(cause.clone());
}
