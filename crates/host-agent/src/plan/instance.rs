//! One instance. The states of a run stand at `RunRecord`.

use terroir_agent_api::{EndCause, InstanceSection, InterfacePhase, PowerState};
use terroir_types::{InstanceId, VolumeId};

use super::status::{interface_status, refusal, start_failed};
use super::{InterfaceOrder, Op, Planner, Readiness, RecordChange, StartOrder, is_wanted};
use crate::observed::{GuestObservation, GuestProcess, GuestStatus, MonitorState};
use crate::record::{InstanceRecord, RunPhase, RunRecord};

impl<'a> Planner<'a> {
    pub(super) fn instance(&mut self, section: &'a InstanceSection) {
        let id = section.id;
        if self.settle(id) {
            return;
        }
        let record = self.observed.records.get(&id);
        let run = record.and_then(|r| r.run.as_ref());
        let active = run.filter(|r| r.is_active());
        match (section.desired, active) {
            (PowerState::Running, Some(run)) if run.run_id >= section.run_id => self.keep_running(section, run),
            (_, Some(run)) => self.stop(id, run, section.force_stop),
            (PowerState::Running, None) => {
                if run.is_none_or(|r| r.run_id < section.run_id) {
                    self.start(section, record);
                }
            }
            (PowerState::Stopped, None) => self.forgo(section, run),
            (PowerState::Terminated, None) => {
                self.forgo(section, run);
                if !record.is_some_and(|r| r.purged) {
                    self.push(Op::Purge { instance: id });
                }
            }
        }
    }

    /// No section: nothing is started or stopped, but what ended by itself is noted.
    pub(super) fn instance_without_section(&mut self, id: InstanceId) {
        self.settle(id);
    }

    /// Brings the record in line with the processes. True if that is all for this round.
    fn settle(&mut self, id: InstanceId) -> bool {
        let nothing = GuestObservation::default();
        let guest = self.observed.guests.get(&id).unwrap_or(&nothing);
        let run = self.observed.records.get(&id).and_then(|r| r.run.as_ref());
        let newest = guest.processes.iter().max_by_key(|p| p.run_id).copied();
        if let Some(process) = newest
            && run.is_none_or(|r| r.run_id < process.run_id || is_only_intended(r, process))
        {
            self.record(id, RecordChange::Adopted { process });
            return true;
        }
        let mut acted = false;
        for process in &guest.processes {
            if !run.is_some_and(|r| r.is_active() && r.run_id == process.run_id) {
                self.push(Op::EndProcess { instance: id, process: *process });
                acted = true;
            }
        }
        let Some(run) = run.filter(|r| r.is_active()) else { return acted };
        match guest.processes.iter().find(|p| p.run_id == run.run_id) {
            None => {
                let cause = self.cause_of_loss(run, guest);
                self.record(id, RecordChange::Ended { run_id: run.run_id, cause });
                true
            }
            Some(process) => {
                let status = guest.monitor.as_ref().map(|m| m.status);
                // Off during a reboot is half-way, unless a stop was asked for meanwhile.
                let rebooting = run.reboot.is_some() && run.stop.is_none();
                let off = status == Some(GuestStatus::PoweredOff) && !rebooting;
                if off || status == Some(GuestStatus::Broken) {
                    let cause = match run.stop {
                        Some(_) => EndCause::Requested,
                        None if off => EndCause::GuestPowerOff,
                        None => EndCause::HypervisorDied { detail: "the virtual processor cannot go on".to_owned() },
                    };
                    self.record(id, RecordChange::Ended { run_id: run.run_id, cause });
                    self.push(Op::EndProcess { instance: id, process: *process });
                    return true;
                }
                acted
            }
        }
    }

    fn cause_of_loss(&self, run: &RunRecord, guest: &GuestObservation) -> EndCause {
        match run.phase {
            _ if run.boot_id != self.observed.boot_id => EndCause::HostReboot,
            _ if run.stop.is_some() => EndCause::Requested,
            RunPhase::Intended => EndCause::Interrupted,
            _ => EndCause::HypervisorDied {
                detail: guest.exit_detail.clone().unwrap_or_else(|| "its process is gone".to_owned()),
            },
        }
    }

    /// A run that will not be begun any more counts as ended, so that its id is used up.
    fn forgo(&mut self, section: &InstanceSection, run: Option<&RunRecord>) {
        if section.run_id > 0 && run.is_none_or(|r| r.run_id < section.run_id) {
            let change = RecordChange::Ended { run_id: section.run_id, cause: EndCause::Requested };
            self.record(section.id, change);
        }
    }

    fn stop(&mut self, id: InstanceId, run: &RunRecord, force: bool) {
        let Some(guest) = self.observed.guests.get(&id) else { return };
        let Some(process) = guest.processes.iter().find(|p| p.run_id == run.run_id).copied() else { return };
        let now = self.observed.now;
        let Some(stop) = run.stop else {
            self.record(id, RecordChange::StopPressed);
            self.push(if force { Op::EndProcess { instance: id, process } } else { Op::PowerDown { instance: id } });
            self.wake(now.plus(self.deadlines.press_again));
            return;
        };
        if force || now >= stop.at.plus(self.deadlines.stop) {
            self.push(Op::EndProcess { instance: id, process });
            return;
        }
        // A guest that waits for disk space cannot shut down.
        if guest.monitor.as_ref().is_some_and(|m| matches!(m.status, GuestStatus::DiskFull | GuestStatus::Paused)) {
            self.push(Op::Resume { instance: id });
        }
        if now >= stop.pressed_at.plus(self.deadlines.press_again) {
            self.record(id, RecordChange::StopPressed);
            self.push(Op::PowerDown { instance: id });
        }
        self.wake(now.plus(self.deadlines.press_again).min(stop.at.plus(self.deadlines.stop)));
    }

    fn keep_running(&mut self, section: &'a InstanceSection, run: &RunRecord) {
        let Some(monitor) = self.observed.guests.get(&section.id).and_then(|g| g.monitor.as_ref()) else { return };
        if self.reboot(section, run, monitor) {
            return;
        }
        let exhausted = self.observed.space.is_exhausted();
        match monitor.status {
            GuestStatus::DiskFull | GuestStatus::Paused if !exhausted => {
                self.push(Op::Resume { instance: section.id });
            }
            GuestStatus::Running if exhausted => {
                // Whoever writes nothing new may go on.
                let grows = |volume: &VolumeId| self.observed.volumes.get(volume).is_some_and(|v| v.growing);
                if monitor.open_disks.keys().any(grows) {
                    self.push(Op::Pause { instance: section.id });
                }
            }
            GuestStatus::Running => {
                self.running_volumes(section, monitor);
                self.running_interfaces(section, monitor);
            }
            _ => {}
        }
    }

    /// True while a reboot is under way.
    fn reboot(&mut self, section: &InstanceSection, run: &RunRecord, monitor: &MonitorState) -> bool {
        let instance = section.id;
        let now = self.observed.now;
        let Some(reboot) = run.reboot else {
            if section.reboot_count > run.reboot_count {
                self.record(instance, RecordChange::RebootPressed { count: section.reboot_count });
                self.push(Op::PowerDown { instance });
                self.wake(now.plus(self.deadlines.press_again));
            }
            return section.reboot_count > run.reboot_count;
        };
        let count = reboot.count.max(section.reboot_count);
        if monitor.status == GuestStatus::PoweredOff || now >= reboot.at.plus(self.deadlines.stop) {
            self.push(Op::Reset { instance, count });
            return true;
        }
        if now >= reboot.pressed_at.plus(self.deadlines.press_again) {
            self.record(instance, RecordChange::RebootPressed { count });
            self.push(Op::PowerDown { instance });
        }
        self.wake(now.plus(self.deadlines.press_again).min(reboot.at.plus(self.deadlines.stop)));
        true
    }

    fn running_volumes(&mut self, section: &InstanceSection, monitor: &MonitorState) {
        let instance = section.id;
        for attachment in &section.volumes {
            let volume = attachment.volume;
            if !monitor.volumes.contains(&volume) {
                if let Some(file) = self.attachable(instance, volume) {
                    let attachment = attachment.clone();
                    self.push(Op::AttachVolume { instance, attachment, file });
                }
            } else if let (Some(wanted), Some(size)) =
                (self.volume_section(volume).map(|s| s.size_bytes), monitor.open_disks.get(&volume))
                && wanted > *size
            {
                self.push(Op::ResizeVolume { instance, volume, size_bytes: wanted });
            }
        }
        let held = monitor.volumes.iter().chain(monitor.open_disks.keys());
        let mut extra: Vec<VolumeId> =
            held.filter(|v| section.volumes.iter().all(|a| a.volume != **v)).copied().collect();
        extra.sort_unstable();
        extra.dedup();
        for volume in extra {
            self.push(Op::DetachVolume { instance, volume });
        }
    }

    fn attachable(&self, instance: InstanceId, volume: VolumeId) -> Option<crate::observed::VolumeFile> {
        let free = self.other_holder(instance, volume).is_none();
        let ready = matches!(self.volume_ready(volume), Readiness::Ready);
        if free && ready { self.observed.volumes.get(&volume).and_then(|v| v.file.clone()) } else { None }
    }

    fn other_holder(&self, instance: InstanceId, volume: VolumeId) -> Option<InstanceId> {
        self.observed.holders(volume).find(|id| *id != instance)
    }

    fn running_interfaces(&mut self, section: &'a InstanceSection, monitor: &MonitorState) {
        let instance = section.id;
        for attachment in &section.interfaces {
            if !monitor.interfaces.contains(&attachment.interface)
                && let Some(order) = self.interface_order(attachment)
            {
                self.push(Op::AttachInterface { instance, order });
            }
        }
        for interface in &monitor.interfaces {
            if section.interfaces.iter().all(|a| a.interface != *interface) {
                self.push(Op::DetachInterface { instance, interface: *interface });
            }
        }
    }

    fn interface_order(&self, attachment: &terroir_agent_api::InterfaceAttachmentSpec) -> Option<InterfaceOrder> {
        let section = self.interface_section(attachment.interface).filter(|s| is_wanted(s.desired))?;
        let ready = interface_status(section, self.observed) == Some(InterfacePhase::Ready);
        let mtu = self.host_section()?.guest_mtu;
        ready.then(|| InterfaceOrder { attachment: attachment.clone(), section: section.clone(), mtu })
    }

    /// Starts the guest if all that it needs is there; asks for what is not.
    fn start(&mut self, section: &'a InstanceSection, record: Option<&InstanceRecord>) {
        if let Some(rule) = refusal(section.demand.as_deref(), self.observed) {
            let change = RecordChange::Ended { run_id: section.run_id, cause: EndCause::Refused { rule } };
            return self.record(section.id, change);
        }
        let mut readiness = Vec::new();
        let mut volumes = Vec::new();
        for attachment in &section.volumes {
            let volume = attachment.volume;
            readiness.push(self.volume_ready(volume));
            if let Some(holder) = self.other_holder(section.id, volume) {
                tracing::debug!(%holder, %volume, "still in use by another instance");
                readiness.push(Readiness::Waiting);
            }
            if let Some(file) = self.observed.volumes.get(&volume).and_then(|v| v.file.clone()) {
                volumes.push((attachment.clone(), file));
            }
        }
        if section.direct_boot.is_none() && !section.volumes.iter().any(|v| v.boot) {
            readiness.push(Readiness::Hopeless("no volume to boot from".to_owned()));
        }
        let interfaces: Vec<_> = section.interfaces.iter().filter_map(|a| self.interface_order(a)).collect();
        if interfaces.len() < section.interfaces.len() || self.host_section().is_none() {
            readiness.push(Readiness::Waiting);
        }
        let boot = section.direct_boot.as_ref();
        let blobs = boot.map(|b| &b.kernel).into_iter().chain(boot.and_then(|b| b.initrd.as_ref()));
        for blob in blobs.chain(section.metadata.user_data.as_ref()) {
            readiness.push(self.blob(blob));
        }
        if !self.observed.announced.contains(&section.id) {
            readiness.push(Readiness::Waiting);
        }
        let hopeless = readiness.iter().find_map(|r| match r {
            Readiness::Hopeless(detail) => Some(detail.clone()),
            _ => None,
        });
        if let Some(detail) = hopeless {
            let change = RecordChange::Ended { run_id: section.run_id, cause: start_failed(detail) };
            self.record(section.id, change);
        } else if readiness.iter().all(|r| matches!(r, Readiness::Ready)) {
            let earlier = record.and_then(|r| r.run.as_ref()).and_then(|r| r.machine.clone());
            let machine = section.machine.clone().or(earlier);
            let order = StartOrder { section: section.clone(), volumes, interfaces, machine };
            self.push(Op::Start(Box::new(order)));
        }
    }
}

fn is_only_intended(run: &RunRecord, process: GuestProcess) -> bool {
    run.run_id == process.run_id && run.phase == RunPhase::Intended
}
