//! Real guests under an agent that is a process of its own. Needs root.

mod support;

use support::guest::{attachment, interface, launch, volume};
use support::{World, can_run_guests};
use terroir_agent_api::*;
use terroir_types::{OsRandom, ResourceId, VolumeId};

#[test]
fn agent_process() {
    support::agent_process();
}

#[test]
fn one_guest_through_its_life() {
    if !can_run_guests("one_guest_through_its_life") {
        return;
    }
    let mut world = World::new(HypervisorKind::Qemu);
    world.start_agent();
    let (id, root) = launch(&world, "wait");
    let status = world.wait_running(id, 1);
    assert_eq!(status.machine.as_deref(), Some("pc-q35-7.2"));
    world.until("the guest is up", || world.console(id).contains("probe: up").then_some(()));
    let serial = root.to_string().replace('-', "");
    world.until("the root disk, grown to its size", || {
        world.console(id).contains(&format!("{serial}={}", (256 << 20) / 512)).then_some(())
    });
    let disk = world.options().data_dir.join(format!("volumes/{root}"));
    assert!(disk.join("disk.qcow2").exists() || disk.join("disk.raw").exists());
    assert_eq!(world.plane.volume(root).unwrap().attached_to, Some(id));

    // Live questions.
    world.plane.ask(1, QueryKind::ConsoleOutput { instance: id });
    world.plane.ask(2, QueryKind::ConsoleScreenshot { instance: id });
    let console = world.until("the console", || world.plane.answered(1));
    assert!(String::from_utf8_lossy(&console).contains("probe: up"));
    let picture = world.until("a screenshot", || world.plane.answered(2));
    assert!(picture.starts_with(b"\x89PNG"), "{:?}", &picture[..8.min(picture.len())]);

    hotplug(&world, id);
    hotplug_interface(&world, id);

    // A new agent takes over what runs.
    let qemus = world.qemus(id);
    assert_eq!(qemus.len(), 1);
    let generation = world.plane.instance(id).unwrap().generation;
    world.kill_agent();
    world.start_agent();
    let reports = world.plane.reports();
    world.until("the new agent's full report", || (world.plane.reports() > reports + 1).then_some(()));
    world.until("a look at the guest", || world.plane.facts().filter(|f| f.accelerator != "none"));
    assert_eq!(world.qemus(id), qemus, "the guest was neither restarted nor doubled");
    assert_eq!(world.plane.instance(id).unwrap().generation, generation, "nothing changed, nothing is told");

    // Stop as asked, start again: a new run.
    world.change(id, |s| s.desired = PowerState::Stopped);
    assert_eq!(world.wait_ended(id, 1), EndCause::Requested);
    assert!(world.console(id).contains("probe: power button"), "{}", world.console(id));
    world.until("QEMU to be gone", || world.qemus(id).is_empty().then_some(()));
    assert_eq!(world.plane.volume(root).unwrap().phase, VolumePhase::Ready);
    world.change(id, |s| (s.desired, s.run_id) = (PowerState::Running, 2));
    world.wait_running(id, 2);
    world.until("the second run is up", || world.console(id).contains("probe: up").then_some(()));

    // Reboot: the same QEMU, the same run.
    let qemus = world.qemus(id);
    world.change(id, |s| s.reboot_count = 1);
    world.wait_for(id, "the reboot", |s| s.reboot_count == 1);
    world.until("the guest is up again", || (world.console(id).matches("probe: up").count() == 2).then_some(()));
    assert_eq!(world.qemus(id), qemus);

    // QEMU dies alone.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemus[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    let cause = world.wait_ended(id, 2);
    assert!(matches!(&cause, EndCause::HypervisorDied { detail } if detail.contains("signal: 9")), "{cause:?}");

    // Termination leaves nothing.
    world.change(id, |s| s.desired = PowerState::Terminated);
    world.wait_for(id, "the instance to be gone", |s| s.phase == InstancePhase::Gone);
    assert!(!world.options().data_dir.join(format!("instances/{id}")).exists());
    let mut section = volume(root, 256 << 20, None);
    section.desired = Desired::Deleted;
    world.put(Section::Volume(section));
    world.until("the disk to be gone", || {
        (world.plane.volume(root)?.phase == VolumePhase::Deleted && !disk.exists()).then_some(())
    });
    assert_eq!(world.tear_down(), Default::default());
}

fn hotplug(world: &World, id: terroir_types::InstanceId) {
    let extra = VolumeId::generate(&OsRandom);
    let serial = extra.to_string().replace('-', "");
    world.put(Section::Volume(volume(extra, 8 << 20, None)));
    world.change(id, |s| s.volumes.push(attachment(extra, 5)));
    world.wait_for(id, "the attachment", |s| s.attached.contains(&extra));
    world.until("the guest to see the disk", || world.console(id).contains(&format!("{serial}=16384")).then_some(()));
    world.put(Section::Volume(volume(extra, 16 << 20, None)));
    world.until("the guest to see it grow", || world.console(id).contains(&format!("{serial}=32768")).then_some(()));
    assert_eq!(world.plane.volume(extra).unwrap().attached_to, Some(id));
    world.change(id, |s| s.volumes.retain(|v| v.volume != extra));
    world.wait_for(id, "the detachment", |s| !s.attached.contains(&extra));
    world.until("the volume to be free", || world.plane.volume(extra)?.attached_to.is_none().then_some(()));
    let after = world.until("the guest to lose it", || {
        world.console(id).rsplit("probe: disks").next().map(str::to_owned).filter(|last| !last.contains(&serial))
    });
    assert!(after.contains("vol"), "the root disk stays: {after}");
    // The same slot again, with another disk.
    let other = VolumeId::generate(&OsRandom);
    world.put(Section::Volume(volume(other, 4 << 20, None)));
    world.change(id, |s| s.volumes.push(attachment(other, 5)));
    world.wait_for(id, "the second attachment", |s| s.attached.contains(&other));
}

fn hotplug_interface(world: &World, id: terroir_types::InstanceId) {
    let (nic, mac, section) = interface(17);
    world.put(section);
    world.change(id, |s| s.interfaces.push(InterfaceAttachmentSpec { interface: nic, device_index: 1 }));
    world.until("the guest to see the interface", || world.console(id).contains(&format!("{mac}/1370")).then_some(()));
    world.change(id, |s| s.interfaces.clear());
    world.until("the guest to lose the interface", || {
        let console = world.console(id);
        let last = console.rsplit("probe: disks").next()?;
        (!last.contains(&mac) && last.contains(';')).then_some(())
    });
    world.change(id, |s| s.interfaces.push(InterfaceAttachmentSpec { interface: nic, device_index: 1 }));
    world.until("the guest to see it again", || {
        world.console(id).rsplit("probe: disks").next()?.contains(&mac).then_some(())
    });
}

#[test]
fn a_run_that_cannot_begin_says_why() {
    if !can_run_guests("a_run_that_cannot_begin_says_why") {
        return;
    }
    let mut world = World::new(HypervisorKind::Qemu);
    let (id, _) = launch(&world, "wait");
    world.change(id, |s| s.machine = Some("pc-q35-0.1".to_owned()));
    let (other, root) = launch(&world, "wait");
    let absent =
        BlobRef { name: "snapshot/absent".to_owned(), sha256: "0".repeat(64), size_bytes: 1, format: BlobFormat::Raw };
    world.put(Section::Volume(volume(root, 1 << 20, Some(absent))));
    world.start_agent();
    for (id, words) in [(id, "unsupported machine type"), (other, "snapshot/absent")] {
        let cause = world.wait_ended(id, 1);
        assert!(matches!(&cause, EndCause::StartFailed { detail } if detail.contains(words)), "{cause:?}");
        assert!(world.qemus(id).is_empty());
    }
    world.until("the volume's failure", || {
        matches!(world.plane.volume(root)?.phase, VolumePhase::Failed { .. }).then_some(())
    });
}

#[test]
fn a_guest_waits_while_the_hosts_disk_is_full() {
    if !can_run_guests("a_guest_waits_while_the_hosts_disk_is_full") {
        return;
    }
    let mut world = World::new(HypervisorKind::Qemu);
    std::fs::write(world.dir.path().join("no-reserve"), "").unwrap();
    let data = world.options().data_dir;
    world.small_disk = Some(support::SmallDisk::mount(&data, 230 << 20));
    let (id, _) = launch(&world, "fill");
    let extra = VolumeId::generate(&OsRandom);
    world.put(Section::Volume(volume(extra, 100 << 20, None)));
    world.change(id, |s| s.volumes.push(attachment(extra, 1)));
    world.start_agent();
    world.wait_running(id, 1);
    // Leaves less than the guest is going to write.
    let ballast = data.join("ballast");
    let room = support::available(&data);
    assert!(room > 90 << 20, "{room} bytes left");
    std::fs::write(&ballast, vec![1; usize::try_from(room - (40 << 20)).unwrap()]).unwrap();
    world.until("the disk to be full", || (support::available(&data) < 64 << 10).then_some(()));
    let reports = world.plane.facts();
    assert!(!world.console(id).contains("probe: filled"), "{reports:?}");
    assert!(matches!(world.plane.instance(id).unwrap().phase, InstancePhase::Running { .. }));
    std::fs::remove_file(ballast).unwrap();
    let sum = world.until("the guest to go on", || {
        let console = world.console(id);
        let (_, rest) = console.split_once("probe: filled ")?;
        rest.split_once("  -").map(|(sum, _)| sum.to_owned())
    });
    assert_eq!(sum, "403a7b9a3e787083a111a2db7ee6a37c", "every byte that was written is there");
}

#[test]
fn a_guest_that_powers_itself_off_is_not_started_again() {
    if !can_run_guests("a_guest_that_powers_itself_off_is_not_started_again") {
        return;
    }
    let mut world = World::new(HypervisorKind::Qemu);
    world.start_agent();
    let (id, _) = launch(&world, "poweroff");
    assert_eq!(world.wait_ended(id, 1), EndCause::GuestPowerOff);
    world.until("QEMU to be gone", || world.qemus(id).is_empty().then_some(()));
    let reports = world.plane.reports();
    world.kill_agent();
    world.start_agent();
    world.until("a new agent's report", || (world.plane.reports() > reports).then_some(()));
    assert!(world.qemus(id).is_empty());

    // Once more, while no agent is there to see it.
    world.change(id, |s| s.run_id = 2);
    world.until("QEMU", || world.qemus(id).first().copied());
    world.kill_agent();
    world.until("the guest to be up", || world.console(id).contains("probe: up").then_some(()));
    world.until("the guest to power off", || (world.monitor_status(id)? == "shutdown").then_some(()));
    world.start_agent();
    assert_eq!(world.wait_ended(id, 2), EndCause::GuestPowerOff);
    let phases = world.plane.history(id);
    assert!(phases.iter().all(|s| s.run_id < 3), "{phases:?}");
}

#[test]
fn a_deaf_guest_is_forced_and_a_torn_down_host_counts_as_rebooted() {
    if !can_run_guests("a_deaf_guest_is_forced_and_a_torn_down_host_counts_as_rebooted") {
        return;
    }
    let mut world = World::new(HypervisorKind::Qemu);
    world.start_agent();
    let (deaf, _) = launch(&world, "deaf");
    world.wait_running(deaf, 1);
    world.change(deaf, |s| s.desired = PowerState::Stopped);
    world.wait_for(deaf, "stopping", |s| s.phase == InstancePhase::Stopping);
    assert_eq!(world.qemus(deaf).len(), 1, "it does not hear");
    world.change(deaf, |s| s.force_stop = true);
    assert_eq!(world.wait_ended(deaf, 1), EndCause::Requested);

    let (id, _) = launch(&world, "wait");
    world.wait_running(id, 1);
    world.until("the guest is up", || world.console(id).contains("probe: up").then_some(()));
    let report = world.tear_down();
    assert_eq!((report.powered_off, report.forced, report.problems.len()), (1, 0, 0), "{report:?}");
    assert!(world.qemus(id).is_empty());
    world.start_agent();
    assert_eq!(world.wait_ended(id, 1), EndCause::HostReboot);

    // What had ended by itself, while no agent was there to see it, is not called a reboot, which would start it again.
    world.change(id, |s| s.run_id = 2);
    world.wait_running(id, 2);
    let (off, _) = launch(&world, "poweroff");
    world.until("QEMU", || world.qemus(off).first().copied());
    world.kill_agent();
    world.until("the guest to power off", || (world.monitor_status(off)? == "shutdown").then_some(()));
    let [qemu] = world.qemus(id)[..] else { panic!("one") };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemu), nix::sys::signal::Signal::SIGKILL).unwrap();
    world.until("QEMU to be gone", || world.qemus(id).is_empty().then_some(()));
    assert_eq!(world.tear_down().problems, Vec::<String>::new());
    world.start_agent();
    assert_eq!(world.wait_ended(off, 1), EndCause::GuestPowerOff);
    let cause = world.wait_ended(id, 2);
    assert!(matches!(cause, EndCause::HypervisorDied { .. }), "{cause:?}");
}

/// The agent is killed when it has written down that it starts a guest, and before a QEMU runs.
#[test]
fn a_start_that_the_agents_death_interrupted_is_over_and_another_run_may_begin() {
    if !can_run_guests("a_start_that_the_agents_death_interrupted_is_over_and_another_run_may_begin") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new(HypervisorKind::Qemu);
    // In place of QEMU, where every user may run it: something that starts and never gets anywhere.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("hesitate");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (id, root) = launch(&world, "wait");
    for run_id in 1..=2 {
        world.replace_qemu(Some(&program));
        world.change(id, |s| s.run_id = run_id);
        world.start_agent();
        let [started] = world.until("the start", || <[i32; 1]>::try_from(world.processes(id, "sleep")).ok());
        world.kill_agent();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(started), nix::sys::signal::Signal::SIGKILL).unwrap();
        world.until("nothing to run", || world.processes(id, "").is_empty().then_some(()));
        world.replace_qemu(None);
        world.start_agent();
        assert_eq!(world.wait_ended(id, run_id), EndCause::Interrupted);
        assert!(world.qemus(id).is_empty(), "the same run is not begun again");
        world.kill_agent();
    }
    world.start_agent();
    world.change(id, |s| s.run_id = 3);
    let status = world.wait_running(id, 3);
    assert_eq!(status.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(world.qemus(id).len(), 1);
    assert_eq!(world.plane.volume(root).unwrap().phase, VolumePhase::Ready);
    let begun = |s: &InstanceStatus| matches!(s.phase, InstancePhase::Running { .. });
    assert!(world.plane.history(id).iter().all(|s| s.run_id == 3 || !begun(s)));
}
