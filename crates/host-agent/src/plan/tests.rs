//! Golden tables: a situation, and what is to be done about it.

use super::*;
use crate::observed::*;
use crate::own_place::OwnPlace;
use crate::record::*;
use terroir_agent_api::*;
use terroir_policy::{Operator, Policy, Site};
use terroir_types::{ResourceId, SeededRandom};

const NOW: Timestamp = Timestamp::from_secs(1_000_000);
const DEADLINES: Deadlines = Deadlines { stop: Duration::from_secs(60), press_again: Duration::from_secs(10) };

fn id<T: ResourceId>(n: u64) -> T {
    T::generate(&SeededRandom::new(n))
}

fn ago(seconds: u64) -> Timestamp {
    NOW.minus(Duration::from_secs(seconds))
}

fn blob(name: &str) -> BlobRef {
    let sha256 = format!("{:0>64}", hex::encode(name));
    BlobRef { name: name.to_owned(), sha256, size_bytes: 1, format: BlobFormat::Raw }
}

/// One instance with one root volume and one interface, and a host with all of it prepared.
struct World {
    spec: HostSpec,
    observed: Observed,
    instance: InstanceId,
    root: VolumeId,
    interface: InterfaceId,
}

impl World {
    fn new() -> Self {
        let (instance, root, interface) = (id(1), id(2), id(3));
        let volume = VolumeSection {
            id: root,
            epoch: 1,
            desired: Desired::Present,
            size_bytes: 100,
            source: Some(blob("image")),
            demand: None,
        };
        let section = InstanceSection { run_id: 3, ..instance_section(instance, &[root], &[interface]) };
        let mut spec = HostSpec::new();
        for section in
            [host(), Section::Volume(volume), interface_section(interface), Section::Instance(Box::new(section))]
        {
            spec.insert(section.key(), section);
        }
        let observed = Observed {
            now: NOW,
            boot_id: "boot-now".to_owned(),
            space: Space { available: 1000, reserve: 100 },
            blobs: [(blob("image").sha256, BlobState::Present)].into(),
            volumes: [(root, on_disk(100))].into(),
            interfaces: [(interface, InterfaceObservation { epoch: 1, phase: InterfacePhase::Ready })].into(),
            announced: [instance].into(),
            ..Observed::default()
        };
        Self { spec, observed, instance, root, interface }
    }

    /// Run `run_id` is on record and, if started, seen running.
    fn with_run(mut self, run_id: RunId, phase: RunPhase) -> Self {
        let run = RunRecord {
            run_id,
            boot_id: "boot-now".to_owned(),
            phase: phase.clone(),
            machine: Some("pc-q35-7.2".to_owned()),
            stop: None,
            reboot_count: 0,
            reboot: None,
        };
        self.observed.records.insert(self.instance, InstanceRecord { uid_index: 1, run: Some(run), purged: false });
        if let RunPhase::Started { .. } = phase {
            self = self.with_process(run_id);
            self.observed.disk_holders.insert(self.root, [self.instance].into());
            let monitor = MonitorState {
                status: GuestStatus::Running,
                volumes: [self.root].into(),
                open_disks: [(self.root, 100)].into(),
                interfaces: [self.interface].into(),
            };
            self.guest().monitor = Some(monitor);
        }
        self
    }

    fn running(self) -> Self {
        self.with_run(3, started())
    }

    fn with_process(mut self, run_id: RunId) -> Self {
        self.guest().processes.push(process(run_id));
        self
    }

    fn guest(&mut self) -> &mut GuestObservation {
        self.observed.guests.entry(self.instance).or_default()
    }

    fn section(&mut self) -> &mut InstanceSection {
        match self.spec.get_mut(&format!("instance/{}", self.instance)) {
            Some(Section::Instance(section)) => section,
            _ => unreachable!(),
        }
    }

    fn volume(&mut self) -> &mut VolumeSection {
        match self.spec.get_mut(&format!("volume/{}", self.root)) {
            Some(Section::Volume(section)) => section,
            _ => unreachable!(),
        }
    }

    fn interface_section(&mut self) -> &mut InterfaceSection {
        match self.spec.get_mut(&format!("interface/{}", self.interface)) {
            Some(Section::Interface(section)) => section,
            _ => unreachable!(),
        }
    }

    fn run(&mut self) -> &mut RunRecord {
        self.observed.records.get_mut(&self.instance).unwrap().run.as_mut().unwrap()
    }

    fn status(&mut self, status: GuestStatus) {
        self.guest().monitor.as_mut().unwrap().status = status;
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

fn started() -> RunPhase {
    RunPhase::Started { at: ago(500), process: process(3).id }
}

fn ended(cause: EndCause) -> RunPhase {
    RunPhase::Ended { at: ago(5), cause }
}

fn process(run_id: RunId) -> GuestProcess {
    GuestProcess { id: ProcessId { pid: 100 + run_id as i32, start_ticks: 7 }, run_id }
}

fn on_disk(size_bytes: u64) -> VolumeObservation {
    let file = VolumeFile { format: VolumeFormat::Raw, size_bytes, backing: None };
    VolumeObservation { file: Some(file), ..VolumeObservation::default() }
}

/// Its first run; the volumes stand in the order of their slots.
pub(crate) fn instance_section(id: InstanceId, volumes: &[VolumeId], interfaces: &[InterfaceId]) -> InstanceSection {
    InstanceSection {
        id,
        account: "123456789012".parse().unwrap(),
        epoch: 1,
        run_id: 1,
        desired: PowerState::Running,
        force_stop: false,
        reboot_count: 0,
        instance_type: "t3.nano".to_owned(),
        vcpus: 1,
        memory_bytes: 1 << 29,
        architecture: "x86_64".to_owned(),
        machine: None,
        direct_boot: None,
        volumes: (0..).zip(volumes).map(|(slot, id)| attachment(*id, slot)).collect(),
        interfaces: (0..)
            .zip(interfaces)
            .map(|(device_index, interface)| InterfaceAttachmentSpec { interface: *interface, device_index })
            .collect(),
        metadata: metadata(),
        demand: None,
    }
}

pub(crate) fn attachment(volume: VolumeId, slot: u8) -> VolumeAttachmentSpec {
    VolumeAttachmentSpec { volume, device_name: "/dev/sda".to_owned(), boot: slot == 0, slot }
}

fn failed(lasting: bool, retry_at: Timestamp) -> Failure {
    Failure { detail: "no such blob".to_owned(), lasting, attempts: 1, retry_at }
}

pub(crate) fn host() -> Section {
    Section::Host(HostSection {
        region: "r".to_owned(),
        zone: "ra".to_owned(),
        guest_mtu: 1370,
        dns_upstreams: vec![],
        egress_deny: vec![],
        public_pools: vec![],
        place: None,
    })
}

fn interface_section(interface: InterfaceId) -> Section {
    Section::Interface(InterfaceSection {
        id: interface,
        vpc: id(4),
        subnet: id(5),
        subnet_cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        epoch: 1,
        desired: Desired::Present,
        mac: "02:00:00:00:00:01".to_owned(),
        addresses: vec!["10.0.0.5".parse().unwrap()],
        public_address: None,
        security_groups: BTreeSet::new(),
        source_dest_check: true,
        routes: vec![],
        instance: None,
    })
}

pub(crate) fn metadata() -> InstanceMetadata {
    InstanceMetadata {
        image: id(6),
        launch_index: 0,
        reservation: id(7),
        launched_at: NOW,
        hostname: "h".to_owned(),
        public_hostname: None,
        key_pair: None,
        security_group_names: vec![],
        user_data: None,
        instance_profile: None,
        tags: std::collections::BTreeMap::new(),
        options: MetadataOptions { enabled: true, tokens_required: false, hop_limit: 1, tags_enabled: false },
    }
}

/// The operations in short: without ids, which are the world's only ones.
fn short(op: &Op) -> String {
    match op {
        Op::Record { change: RecordChange::Adopted { process }, .. } => format!("adopt {}", process.run_id),
        Op::Record { change: RecordChange::Ended { run_id, cause }, .. } => match cause {
            EndCause::HypervisorDied { detail } => format!("ended {run_id} died: {detail}"),
            EndCause::StartFailed { detail } => format!("ended {run_id} start failed: {detail}"),
            EndCause::Refused { rule } => format!("ended {run_id} refused: {rule}"),
            other => format!("ended {run_id} {other:?}"),
        },
        Op::Record { change: RecordChange::StopPressed, .. } => "note stop".to_owned(),
        Op::Record { change: RecordChange::RebootPressed { count }, .. } => format!("note reboot {count}"),
        Op::FetchBlob(blob) => format!("fetch {}", blob.name),
        Op::CreateVolume { size_bytes, source, .. } => {
            format!("create {size_bytes}{}", source.as_ref().map_or(String::new(), |s| format!(" from {}", s.name)))
        }
        Op::GrowVolume { size_bytes, .. } => format!("grow {size_bytes}"),
        Op::DeleteVolume { .. } => "delete".to_owned(),
        Op::Start(order) => format!(
            "start {} on {} with {} disks, {} nics",
            order.section.run_id,
            order.machine.as_deref().unwrap_or("any machine"),
            order.volumes.len(),
            order.interfaces.len()
        ),
        Op::PowerDown { .. } => "press".to_owned(),
        Op::EndProcess { process, .. } => format!("end process of {}", process.run_id),
        Op::Reset { count, .. } => format!("reset {count}"),
        Op::Resume { .. } => "resume".to_owned(),
        Op::Pause { .. } => "pause".to_owned(),
        Op::AttachVolume { attachment, .. } => format!("attach at {}", attachment.slot),
        Op::DetachVolume { .. } => "detach".to_owned(),
        Op::ResizeVolume { size_bytes, .. } => format!("resize {size_bytes}"),
        Op::AttachInterface { .. } => "attach nic".to_owned(),
        Op::DetachInterface { .. } => "detach nic".to_owned(),
        Op::Purge { .. } => "purge".to_owned(),
    }
}

fn check(name: &str, world: &World, expected: &str) {
    let whole = plan(&world.spec, &world.observed, Scope::Everything, DEADLINES);
    let got = whole.ops.iter().map(short).collect::<Vec<_>>().join("; ");
    assert_eq!(got, expected, "{name}");
    let keys: BTreeSet<_> = [ObjectKey::Instance(world.instance), ObjectKey::Volume(world.root)].into();
    let mut scoped = plan(&world.spec, &world.observed, Scope::Objects(&keys), DEADLINES).ops;
    let mut all = whole.ops;
    let order = |op: &Op| format!("{op:?}");
    scoped.sort_by_key(order);
    all.sort_by_key(order);
    assert_eq!(scoped, all, "{name}: looking at everything and at the objects comes to the same");
}

#[test]
fn starting() {
    let w = World::new;
    let start = "start 3 on any machine with 1 disks, 1 nics";
    check("all is there", &w(), start);
    check(
        "kept machine",
        &w().change(|w| w.section().machine = Some("pc-q35-9.0".to_owned())),
        "start 3 on pc-q35-9.0 with 1 disks, 1 nics",
    );
    check("the next run", &w().with_run(2, ended(EndCause::Requested)), "start 3 on pc-q35-7.2 with 1 disks, 1 nics");
    check("not the same run again", &w().with_run(3, ended(EndCause::GuestPowerOff)), "");
    check("nor an older one", &w().with_run(4, ended(EndCause::GuestPowerOff)), "");
    check("disk missing", &w().change(|w| w.observed.volumes.clear()), "create 100 from image");
    check("image missing", &w().change(|w| (w.observed.volumes.clear(), w.observed.blobs.clear()).0), "fetch image");
    check("disk full", &w().change(|w| {
        w.observed.volumes.clear();
        w.observed.space.available = 100;
    }), "ended 3 start failed: volume vol-0a2386d5a05c3e9d6: the host's disk is full: 0 MiB are left, and 0 MiB are kept for the cloud's own state"
        .replace("vol-0a2386d5a05c3e9d6", &w().root.to_string()).as_str());
    check(
        "image still on its way",
        &w().change(|w| {
            w.observed.volumes.clear();
            w.observed.blobs =
                [(blob("image").sha256, BlobState::Failed(failed(false, NOW.plus(Duration::from_secs(1)))))].into();
        }),
        "",
    );
    check(
        "image due again",
        &w().change(|w| {
            w.observed.volumes.clear();
            w.observed.blobs = [(blob("image").sha256, BlobState::Failed(failed(false, NOW)))].into();
        }),
        "fetch image",
    );
    check("interface not ready", &w().change(|w| w.observed.interfaces.clear()), "");
    check("interface ready in an earlier turn", &w().change(|w| w.interface_section().epoch = 2), "");
    check("guest-services not told", &w().change(|w| w.observed.announced.clear()), "");
    check("no host section", &w().change(|w| drop(w.spec.remove("host"))), "");
    check(
        "disk held by another guest",
        &w().change(|w| drop(w.observed.disk_holders.insert(w.root, [id(9)].into()))),
        "",
    );
    check(
        "kernel and user data are fetched together",
        &w().change(|w| {
            w.section().direct_boot =
                Some(DirectBoot { kernel: blob("kernel"), initrd: None, command_line: String::new() });
            w.section().metadata.user_data = Some(blob("data"));
        }),
        "fetch kernel; fetch data",
    );
    check(
        "nothing to boot from",
        &w().change(|w| w.section().volumes.clear()),
        "ended 3 start failed: no volume to boot from",
    );
}

/// R1: what contradicts the place that its own operator signed is not carried out, whoever ordered it.
#[test]
fn refusing() {
    let own = || OwnPlace {
        operator: Operator {
            id: "own.example".to_owned(),
            parent_country: Some("US".to_owned()),
            ..Operator::default()
        },
        site: Site { id: "ra".to_owned(), country: Some("FR".to_owned()), ..Site::default() },
        fire_zone: None,
    };
    let demand = |site: &str, policy: &str| Demand {
        operator: "own.example".to_owned(),
        site: site.to_owned(),
        policy: Policy::parse(policy).unwrap(),
    };
    let excluding_us = r#"{"parents":{"deny":["US"]}}"#;
    let ordered = |demand: Demand| {
        World::new().change(|w| {
            w.observed.place = Some(own());
            w.section().demand = Some(Box::new(demand));
        })
    };
    let start = "start 3 on any machine with 1 disks, 1 nics";
    check("it may be here", &ordered(demand("ra", r#"{"countries":{"allow":["FR"]}}"#)), start);
    let rule = "the policy denies the country of the operator's parent 'US'";
    check("it may not", &ordered(demand("ra", excluding_us)), &format!("ended 3 refused: {rule}"));
    let forged = "the order is for the site 'rb' of 'own.example', and this host is at 'ra' of 'own.example'";
    check("the order names another place", &ordered(demand("rb", "{}")), &format!("ended 3 refused: {forged}"));
    let unsigned = "there is a policy, and no operator has signed where this host is";
    let lost = ordered(demand("ra", excluding_us)).change(|w| w.observed.place = None);
    check("nobody signed where the host is", &lost, &format!("ended 3 refused: {unsigned}"));
    let running = World::new().running().change(|w| {
        w.observed.place = Some(own());
        w.section().demand = Some(Box::new(demand("ra", excluding_us)));
    });
    check("what runs goes on", &running, "");

    let volume = World::new().change(|w| {
        w.observed.place = Some(own());
        w.observed.volumes.clear();
        w.volume().demand = Some(Box::new(demand("ra", excluding_us)));
    });
    check(
        "no disk is made, and no guest waits for it",
        &volume,
        &format!("ended 3 start failed: volume {}: {rule}", volume.root),
    );
    let section = super::volume_section(&volume.spec, volume.root).unwrap();
    assert_eq!(volume_status(section, &volume.observed), VolumePhase::Refused { rule: rule.to_owned() });
}

#[test]
fn a_run_is_begun_at_most_once() {
    let w = World::new;
    let intended = || w().with_run(3, RunPhase::Intended);
    check("killed between intent and start", &intended(), "ended 3 Interrupted");
    check(
        "interrupted by a reboot of the machine",
        &intended().change(|w| w.run().boot_id = "boot-before".to_owned()),
        "ended 3 HostReboot",
    );
    check(
        "interrupted, and no longer wanted",
        &intended().change(|w| w.section().desired = PowerState::Terminated),
        "ended 3 Interrupted",
    );
    check("killed after the start", &w().with_run(3, RunPhase::Intended).with_process(3), "adopt 3");
    check("ledger lost", &w().with_process(3), "adopt 3");
    check(
        "late child of a dead agent",
        &w().with_run(3, ended(EndCause::Requested)).with_process(3),
        "end process of 3",
    );
    check("two processes", &w().running().with_process(2), "end process of 2");
    check(
        "unknown to the spec, left alone",
        &w().running().change(|w| drop(w.spec.remove(&format!("instance/{}", w.instance)))),
        "",
    );
    check(
        "unknown to the spec, ended",
        &w().with_run(3, started()).change(|w| {
            w.spec.remove(&format!("instance/{}", w.instance));
            w.observed.guests.clear();
        }),
        "ended 3 died: its process is gone",
    );
}

#[test]
fn ending() {
    let w = || World::new().running();
    check("nothing to do", &w(), "");
    check("monitor silent", &w().change(|w| w.guest().monitor = None), "");
    check(
        "QEMU died",
        &w().change(|w| {
            w.observed.guests.clear();
            w.guest().exit_detail = Some("signal: 9".to_owned());
        }),
        "ended 3 died: signal: 9",
    );
    check(
        "host rebooted",
        &w().change(|w| {
            w.observed.guests.clear();
            w.run().boot_id = "boot-before".to_owned();
        }),
        "ended 3 HostReboot",
    );
    check(
        "guest powered off",
        &w().change(|w| w.status(GuestStatus::PoweredOff)),
        "ended 3 GuestPowerOff; end process of 3",
    );
    check(
        "virtual processor stuck",
        &w().change(|w| w.status(GuestStatus::Broken)),
        "ended 3 died: the virtual processor cannot go on; end process of 3",
    );

    let stop = || w().change(|w| w.section().desired = PowerState::Stopped);
    let stopping = |at, pressed| {
        stop().change(move |w| w.run().stop = Some(StopRequest { at: ago(at), pressed_at: ago(pressed) }))
    };
    check("stop", &stop(), "note stop; press");
    check("forced stop", &stop().change(|w| w.section().force_stop = true), "note stop; end process of 3");
    check("waiting for the guest", &stopping(5, 5), "");
    check("press again", &stopping(15, 10), "note stop; press");
    check("force later", &stopping(5, 5).change(|w| w.section().force_stop = true), "end process of 3");
    check("deadline", &stopping(60, 5), "end process of 3");
    check("paused guests cannot stop", &stopping(5, 5).change(|w| w.status(GuestStatus::DiskFull)), "resume");
    check(
        "off as asked",
        &stopping(5, 5).change(|w| w.status(GuestStatus::PoweredOff)),
        "ended 3 Requested; end process of 3",
    );
    check("gone as asked", &stopping(5, 5).change(|w| w.observed.guests.clear()), "ended 3 Requested");
    check("a newer run waits for the end of this one", &w().change(|w| w.section().run_id = 4), "note stop; press");

    let terminate = |w: World| w.change(|w| w.section().desired = PowerState::Terminated);
    check("terminate", &terminate(w()), "note stop; press");
    check("terminated", &terminate(World::new().with_run(3, ended(EndCause::Requested))), "purge");
    check("terminated before it ran", &terminate(World::new()), "ended 3 Requested; purge");
    check(
        "stopped before it ran",
        &World::new().change(|w| w.section().desired = PowerState::Stopped),
        "ended 3 Requested",
    );
    let purged = terminate(World::new().with_run(3, ended(EndCause::Requested)))
        .change(|w| w.observed.records.get_mut(&w.instance).unwrap().purged = true);
    check("purged", &purged, "");
}

#[test]
fn while_it_runs() {
    let w = || World::new().running();
    let extra: VolumeId = id(20);
    let with_extra = || {
        w().change(|w| {
            w.section().volumes.push(attachment(extra, 5));
            let section = VolumeSection {
                id: extra,
                epoch: 1,
                desired: Desired::Present,
                size_bytes: 50,
                source: None,
                demand: None,
            };
            w.spec.insert(format!("volume/{extra}"), Section::Volume(section));
            w.observed.volumes.insert(extra, on_disk(50));
        })
    };
    check("attach", &with_extra(), "attach at 5");
    check(
        "not while another guest has it",
        &with_extra().change(|w| drop(w.observed.disk_holders.insert(extra, [id(9)].into()))),
        "",
    );
    check(
        "nor while another guest is about to have it",
        &with_extra().change(|w| drop(w.observed.reaching.insert(extra, [id(9)].into()))),
        "",
    );
    check("grow what it holds", &w().change(|w| w.volume().size_bytes = 200), "resize 200");
    check(
        "detach",
        &w().change(|w| {
            let monitor = w.guest().monitor.as_mut().unwrap();
            monitor.volumes.insert(extra);
            monitor.open_disks.insert(extra, 50);
        }),
        "detach",
    );
    check(
        "close what a finished detach left open",
        &w().change(|w| _ = w.guest().monitor.as_mut().unwrap().open_disks.insert(extra, 50)),
        "detach",
    );
    check("nic attach", &w().change(|w| w.guest().monitor.as_mut().unwrap().interfaces.clear()), "attach nic");
    check("nic detach", &w().change(|w| w.section().interfaces.clear()), "detach nic");
    check("disk full", &w().change(|w| w.status(GuestStatus::DiskFull)), "resume");
    check(
        "disk still full",
        &w().change(|w| {
            w.status(GuestStatus::DiskFull);
            w.observed.space.available = 10;
        }),
        "",
    );
    check("only what grows is paused", &w().change(|w| w.observed.space.available = 10), "");
    check(
        "pause before the reserve is gone",
        &w().change(|w| {
            w.observed.space.available = 10;
            w.observed.volumes.get_mut(&w.root).unwrap().growing = true;
        }),
        "pause",
    );

    let reboot = || w().change(|w| w.section().reboot_count = 1);
    let rebooting = |at, pressed| {
        reboot()
            .change(move |w| w.run().reboot = Some(RebootRequest { count: 1, at: ago(at), pressed_at: ago(pressed) }))
    };
    check("reboot", &reboot(), "note reboot 1; press");
    check("shutting down", &rebooting(5, 5), "");
    check("press again", &rebooting(15, 10), "note reboot 1; press");
    check("down, and up again", &rebooting(5, 5).change(|w| w.status(GuestStatus::PoweredOff)), "reset 1");
    check(
        "two reboots in one",
        &rebooting(5, 5).change(|w| {
            w.status(GuestStatus::PoweredOff);
            w.section().reboot_count = 2;
        }),
        "reset 2",
    );
    check("a guest that does not hear", &rebooting(60, 5), "reset 1");
    let then_stop = |w: World| {
        w.change(|w| {
            w.section().desired = PowerState::Stopped;
            w.run().stop = Some(StopRequest { at: ago(3), pressed_at: ago(3) });
            w.status(GuestStatus::PoweredOff);
        })
    };
    check("stopped during a reboot", &then_stop(rebooting(5, 5)), "ended 3 Requested; end process of 3");
    check("done", &reboot().change(|w| w.run().reboot_count = 1), "");
}

#[test]
fn volumes() {
    let w =
        || World::new().change(|w| w.section().desired = PowerState::Stopped).with_run(3, ended(EndCause::Requested));
    check("nothing to do", &w(), "");
    check("grow", &w().change(|w| w.volume().size_bytes = 300), "grow 300");
    check("never shrink", &w().change(|w| w.volume().size_bytes = 50), "");
    check("delete", &w().change(|w| w.volume().desired = Desired::Deleted), "delete");
    check(
        "not while it is being handed over",
        &w().change(|w| {
            w.volume().desired = Desired::Deleted;
            w.observed.reaching.insert(w.root, [id(9)].into());
        }),
        "",
    );
    check("not while a run may hold it", &World::new().running().change(|w| w.volume().desired = Desired::Deleted), "");
    check("never because the spec is silent", &w().change(|w| drop(w.spec.remove(&format!("volume/{}", w.root)))), "");
    check(
        "failed, not due",
        &w().change(|w| {
            let failure = Some(failed(false, NOW.plus(Duration::from_secs(3))));
            w.observed.volumes.insert(w.root, VolumeObservation { failure, ..VolumeObservation::default() });
        }),
        "",
    );
    check(
        "failed, due",
        &w().change(|w| {
            let failure = Some(failed(true, NOW));
            w.observed.volumes.insert(w.root, VolumeObservation { failure, ..VolumeObservation::default() });
        }),
        "create 100 from image",
    );
}

#[test]
fn statuses() {
    let w = || World::new().running();
    let stopped = |w: &mut World| w.section().desired = PowerState::Stopped;
    let phase = |w: &World| instance_status(&w.spec, &w.observed, w.instance).map(|r| (r.run_id, r.phase));
    let running = InstancePhase::Running { started_at: ago(500) };
    for (name, world, expected) in [
        ("preparing", World::new(), Some((3, InstancePhase::Preparing))),
        ("intended", World::new().with_run(3, RunPhase::Intended), Some((3, InstancePhase::Preparing))),
        ("running", w(), Some((3, running.clone()))),
        ("monitor silent", w().change(|w| w.guest().monitor = None), Some((3, running.clone()))),
        ("stopping", w().change(stopped), Some((3, InstancePhase::Stopping))),
        ("new run", World::new().with_run(2, ended(EndCause::GuestPowerOff)), Some((3, InstancePhase::Preparing))),
        (
            "ended",
            World::new().with_run(3, ended(EndCause::GuestPowerOff)),
            Some((3, InstancePhase::Ended { cause: EndCause::GuestPowerOff })),
        ),
        (
            "still reported without a section",
            w().change(|w| drop(w.spec.remove(&format!("instance/{}", w.instance)))),
            Some((3, running.clone())),
        ),
        ("unknown", World::new().change(|w| w.spec.clear()), None),
    ] {
        assert_eq!(phase(&world), expected, "{name}");
    }
    let interface = |mut w: World, epoch| {
        w.interface_section().epoch = epoch;
        let section = w.interface_section().clone();
        interface_status(&section, &w.observed)
    };
    assert_eq!(interface(w(), 1), Some(InterfacePhase::Ready));
    assert_eq!(interface(w(), 2), None, "what was seen in an earlier turn says nothing of this one");
    let attached = |w: &World| instance_status(&w.spec, &w.observed, w.instance).unwrap().attached;
    assert_eq!(attached(&w()), [w().root].into());
    assert_eq!(attached(&World::new().with_run(3, ended(EndCause::Requested))), BTreeSet::new());
}
