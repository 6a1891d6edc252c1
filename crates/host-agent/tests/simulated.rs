//! Scale and crashes with guests that run nothing: no root needed.

mod support;

use std::collections::BTreeMap;
use std::time::Instant;
use support::World;
use support::guest::{attachment, host_section, instance, volume};
use terroir_agent_api::*;
use terroir_types::{InstanceId, OsRandom, ResourceId, RunId, VolumeId};

const INSTANCES: usize = 2_000;

#[test]
fn agent_process() {
    support::agent_process();
}

fn specs(count: usize) -> Vec<(InstanceId, VolumeId)> {
    (0..count).map(|_| (InstanceId::generate(&OsRandom), VolumeId::generate(&OsRandom))).collect()
}

type Runs = BTreeMap<InstanceId, RunId>;

fn sections(ids: &[(InstanceId, VolumeId)], runs: &Runs, desired: PowerState, disks: Desired) -> Vec<Section> {
    let section = |(id, root): &(InstanceId, VolumeId)| {
        let mut guest = instance(*id, vec![attachment(*root, 0)], None);
        guest.desired = desired;
        guest.run_id = runs.get(id).copied().unwrap_or(1);
        let mut disk = volume(*root, 8 << 30, None);
        disk.desired = disks;
        [Section::Volume(disk), Section::Instance(Box::new(guest))]
    };
    ids.iter().flat_map(section).chain([host_section()]).collect()
}

#[test]
fn thousands_of_instances_through_their_lives_and_a_crash() {
    let mut world = World::new(HypervisorKind::Simulated);
    let ids = specs(INSTANCES);
    world.start_agent();
    let running = |s: &InstanceStatus| matches!(s.phase, InstancePhase::Running { .. });
    let all = |world: &World, what: &str, wish: &dyn Fn(&InstanceStatus) -> bool| {
        world.until(what, || (world.plane.count_instances(wish) == INSTANCES).then_some(()));
    };
    let begun = Instant::now();
    world.plane.put_all(sections(&ids, &Runs::new(), PowerState::Running, Desired::Present));
    // Killed in the middle of it: nothing is lost, nothing is begun twice.
    world.until("some to run", || (world.plane.count_instances(running) > 50).then_some(()));
    world.kill_agent();
    world.start_agent();
    // A start that the kill interrupted is over, and said to be: the control plane asks for another run.
    all(&world, "all to run or to have been interrupted", &|s: &InstanceStatus| running(s) || interrupted(&s.phase));
    let mut runs = Runs::new();
    for (id, _) in &ids {
        if world.plane.instance(*id).is_some_and(|s| interrupted(&s.phase)) {
            runs.insert(*id, 2);
        }
    }
    println!("{} starts were interrupted", runs.len());
    world.plane.put_all(sections(&ids, &runs, PowerState::Running, Desired::Present));
    all(&world, "all to run", &running);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{INSTANCES} instances running after {seconds:.2} s: {:.0} a second", INSTANCES as f64 / seconds);
    let facts = world.until("facts", || world.plane.facts());
    assert_eq!((facts.hypervisor, facts.accelerator.as_str()), (HypervisorKind::Simulated, "none"));

    world.plane.put_all(sections(&ids, &runs, PowerState::Stopped, Desired::Present));
    let stopped = |s: &InstanceStatus| s.phase == InstancePhase::Ended { cause: EndCause::Requested };
    all(&world, "all to stop", &stopped);
    world.plane.put_all(sections(&ids, &runs, PowerState::Terminated, Desired::Deleted));
    all(&world, "all to be gone", &|s: &InstanceStatus| s.phase == InstancePhase::Gone);
    world.until("all disks to be deleted", || {
        let deleted = |(_, root): &&(InstanceId, VolumeId)| {
            world.plane.volume(*root).is_some_and(|v| v.phase == VolumePhase::Deleted && v.attached_to.is_none())
        };
        (ids.iter().filter(deleted).count() == INSTANCES).then_some(())
    });
    for (id, _) in &ids {
        for status in world.plane.history(*id) {
            let expected = match &status.phase {
                InstancePhase::Ended { cause } => *cause == EndCause::Requested || interrupted(&status.phase),
                _ => true,
            };
            assert!(expected && status.run_id <= runs.get(id).copied().unwrap_or(1), "{status:#?}");
        }
    }
}

/// The agent was killed between its intent to start and the start.
fn interrupted(phase: &InstancePhase) -> bool {
    *phase == InstancePhase::Ended { cause: EndCause::Interrupted }
}
