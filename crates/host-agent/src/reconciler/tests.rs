//! Orders that change while operations are under way, with guests that run nothing.

use async_trait::async_trait;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_agent_api::*;
use terroir_types::{Epoch, HostId, InstanceId, InterfaceId, OsRandom, ResourceId, SystemClock, Timestamp, VolumeId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Event, Parts, Reconciler};
use crate::bell::Bell;
use crate::hypervisor::{Applied, Hypervisor, HypervisorError};
use crate::ledger::Ledger;
use crate::observed::{GuestObservation, InterfaceObservation};
use crate::own_place::OwnPlaceFile;
use crate::plan::Op;
use crate::plan::tests::{host, instance_section};
use crate::record::{InstanceRecord, ProcessId, RunPhase, RunRecord};
use crate::simulated::{SimulatedHypervisor, SimulatedStorage};
use crate::{AgentOptions, network_round};

const PATIENCE: Duration = Duration::from_secs(30);

/// Simulated guests that get a disk only when the test lets them.
struct SlowToAttach {
    guests: SimulatedHypervisor,
    asked: Semaphore,
    allowed: Semaphore,
}

#[async_trait]
impl Hypervisor for SlowToAttach {
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Simulated
    }

    fn default_machine(&self) -> Option<String> {
        None
    }

    async fn survey(&self) -> Result<BTreeSet<InstanceId>, HypervisorError> {
        self.guests.survey().await
    }

    async fn observe(&self, instance: InstanceId, record: Option<&InstanceRecord>) -> GuestObservation {
        self.guests.observe(instance, record).await
    }

    async fn apply(&self, op: &Op, uid_index: u32) -> Result<Applied, HypervisorError> {
        if matches!(op, Op::AttachVolume { .. }) {
            self.asked.add_permits(1);
            self.allowed.acquire().await.unwrap().forget();
        }
        self.guests.apply(op, uid_index).await
    }

    async fn console(&self, _: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        Ok(None)
    }

    async fn screenshot(&self, _: InstanceId) -> Result<Option<Vec<u8>>, HypervisorError> {
        Ok(None)
    }

    async fn tidy(&self) {}
}

/// Remembers what it is told.
#[derive(Default)]
struct Plane {
    volumes: Mutex<Vec<VolumeStatus>>,
    interfaces: Mutex<Vec<InterfaceStatus>>,
    instances: Mutex<Vec<InstanceStatus>>,
}

#[async_trait]
impl ControlPlane for Plane {
    async fn pull_spec(&self, _: HostId, _: Cursor, _: Duration) -> Result<SpecPage, CrossingError> {
        std::future::pending().await
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        self.volumes.lock().unwrap().extend(report.volumes);
        self.interfaces.lock().unwrap().extend(report.interfaces);
        self.instances.lock().unwrap().extend(report.instances);
        Ok(ReportAck { want_full: false })
    }

    async fn queries(&self, _: HostId, _: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        std::future::pending().await
    }

    async fn answer(&self, _: HostId, _: u64, _: QueryAnswer) -> Result<(), CrossingError> {
        Ok(())
    }

    async fn fetch_blob(&self, _: HostId, name: &str, _: BlobSink<'_>) -> Result<(), CrossingError> {
        Err(CrossingError::NotFound(name.to_owned()))
    }

    async fn credentials(&self, _: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        Err(CrossingError::NotFound(instance.to_string()))
    }
}

struct World {
    plane: Arc<Plane>,
    hypervisor: Arc<SlowToAttach>,
    events: mpsc::Sender<Event>,
    /// What the network would be asked for; `None` where it is simulated.
    jobs: Option<tokio::sync::watch::Receiver<Option<network_round::NetworkJob>>>,
    _dir: tempfile::TempDir,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn options(dir: &Path) -> AgentOptions {
    AgentOptions::new(dir, HostId::generate(&OsRandom), HypervisorKind::Simulated, "00000000")
}

impl World {
    async fn new(networks: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        std::fs::create_dir_all(options.ledger_path().parent().unwrap()).unwrap();
        let ledger = Ledger::open(&options).await.unwrap();
        let bell = Arc::new(Bell::default());
        let hypervisor = Arc::new(SlowToAttach {
            guests: SimulatedHypervisor::new(Arc::clone(&bell)),
            asked: Semaphore::new(0),
            allowed: Semaphore::new(0),
        });
        let plane = Arc::new(Plane::default());
        let (events, receiver) = mpsc::channel(64);
        let (job_sender, jobs) = networks.then(|| tokio::sync::watch::channel(None)).unzip();
        let own_place = OwnPlaceFile::open(dir.path(), options.host).unwrap();
        let reconciler = Reconciler::new(Parts {
            options: Arc::new(options),
            control: Arc::clone(&plane) as Arc<dyn ControlPlane>,
            clock: Arc::new(SystemClock),
            ledger,
            hypervisor: Arc::clone(&hypervisor) as Arc<dyn Hypervisor>,
            storage: Arc::new(SimulatedStorage::default()),
            bell,
            boot_id: "boot".to_owned(),
            events: events.clone(),
            network_jobs: job_sender,
            credentials: Default::default(),
            own_place,
        });
        let running = tokio::task::spawn_local(async move {
            reconciler.run(receiver, std::future::pending()).await.unwrap();
        });
        Self { plane, hypervisor, events, jobs, _dir: dir, running }
    }

    /// Changes the spec; returns when the change is in the ledger.
    async fn say(&self, sections: Vec<Section>) {
        let changed = sections.into_iter().map(|section| (section.key(), section)).collect();
        let page = SpecPage { cursor: 1, full: false, changed, removed: Vec::new() };
        let (accepted, told) = oneshot::channel();
        self.events.send(Event::Spec(Box::new(page), accepted)).await.ok().unwrap();
        told.await.unwrap();
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&Plane) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.plane) {
                return found;
            }
            let told = || self.plane.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}: {:#?}", told());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn volume(id: VolumeId, epoch: Epoch) -> Section {
    Section::Volume(VolumeSection {
        id,
        epoch,
        desired: Desired::Present,
        size_bytes: 1 << 30,
        source: None,
        demand: None,
    })
}

fn instance(id: InstanceId, volumes: &[VolumeId], interfaces: &[InterfaceId]) -> Section {
    Section::Instance(Box::new(instance_section(id, volumes, interfaces)))
}

fn runs(plane: &Plane, id: InstanceId) -> Option<()> {
    let told = plane.instances.lock().unwrap();
    told.iter().any(|s| s.id == id && matches!(s.phase, InstancePhase::Running { .. })).then_some(())
}

/// A detachment that overtakes its attachment must not make the volume free for others while the guest gets it.
#[tokio::test]
async fn a_volume_on_its_way_to_a_guest_is_not_called_free() {
    let story = async {
        let world = World::new(false).await;
        let guest = InstanceId::generate(&OsRandom);
        let [root, extra, other] = std::array::from_fn(|_| VolumeId::generate(&OsRandom));
        world.say(vec![host(), volume(root, 1), volume(extra, 1), instance(guest, &[root], &[])]).await;
        world.until("the guest", |plane| runs(plane, guest)).await;
        world.say(vec![volume(extra, 2), instance(guest, &[root, extra], &[])]).await;
        tokio::time::timeout(PATIENCE, world.hypervisor.asked.acquire()).await.unwrap().unwrap().forget();
        world.say(vec![volume(extra, 3), instance(guest, &[root], &[]), volume(other, 1)]).await;
        let last = |plane: &Plane, id: VolumeId| plane.volumes.lock().unwrap().iter().rfind(|s| s.id == id).cloned();
        world.until("a look at what came with it", |plane| last(plane, other)).await;
        let told = last(&world.plane, extra).unwrap();
        assert!(told.epoch < 3, "{told:?}");
        world.hypervisor.allowed.add_permits(1);
        let told = world.until("its release", |plane| last(plane, extra).filter(|s| s.epoch == 3)).await;
        // It was seen with the guest first, unless the guest had let go by then.
        if told.attached_to.is_some() {
            world.until("its release", |plane| last(plane, extra).filter(|s| s.attached_to.is_none())).await;
        }
        let record = InstanceRecord { run: Some(started()), ..InstanceRecord::default() };
        let held = world.hypervisor.observe(guest, Some(&record)).await.monitor.unwrap().open_disks;
        assert_eq!(held.keys().collect::<Vec<_>>(), [&root]);
    };
    // The loop is not `Send`.
    tokio::task::LocalSet::new().run_until(story).await;
}

/// A run's record as a simulated guest wants to see it.
fn started() -> RunRecord {
    let process = ProcessId { pid: 0, start_ticks: 0 };
    RunRecord {
        run_id: 1,
        boot_id: "boot".to_owned(),
        phase: RunPhase::Started { at: Timestamp::EPOCH, process },
        machine: None,
        stop: None,
        reboot_count: 0,
        reboot: None,
    }
}

/// What a round of the network found under one holder is not said of the next.
#[tokio::test]
async fn an_interface_is_spoken_of_only_as_its_present_holder_has_it() {
    let story = async {
        let world = World::new(true).await;
        let guest = InstanceId::generate(&OsRandom);
        let (root, nic) = (VolumeId::generate(&OsRandom), InterfaceId::generate(&OsRandom));
        let section = |epoch, desired| {
            Section::Interface(InterfaceSection {
                id: nic,
                vpc: ResourceId::generate(&OsRandom),
                subnet: ResourceId::generate(&OsRandom),
                subnet_cidr: "10.0.0.0/24".parse().unwrap(),
                gateway: "10.0.0.1".parse().unwrap(),
                epoch,
                desired,
                mac: "02:00:00:00:00:01".to_owned(),
                addresses: vec!["10.0.0.5".parse().unwrap()],
                public_address: None,
                security_groups: BTreeSet::new(),
                source_dest_check: true,
                routes: vec![],
                instance: None,
            })
        };
        let found = async |epoch, phase: InterfacePhase| {
            let interfaces = [(nic, InterfaceObservation { epoch, phase })].into();
            let report = network_round::NetworkReport { interfaces, announced: [guest].into(), problems: Vec::new() };
            world.events.send(Event::Network(report)).await.ok().unwrap();
        };
        let told = |plane: &Plane| -> Vec<(Epoch, InterfacePhase)> {
            plane.interfaces.lock().unwrap().iter().map(|s| (s.epoch, s.phase.clone())).collect()
        };
        assert!(world.jobs.is_some());
        world.say(vec![host(), section(1, Desired::Deleted)]).await;
        found(1, InterfacePhase::Released).await;
        world.until("the release", |plane| (told(plane).len() == 1).then_some(())).await;
        // The next holder's turn begins, and is over, before the network was looked at again.
        world.say(vec![section(2, Desired::Present), volume(root, 1), instance(guest, &[root], &[nic])]).await;
        world.until("a look", |plane| plane.volumes.lock().unwrap().iter().any(|s| s.id == root).then_some(())).await;
        found(1, InterfacePhase::Released).await;
        world.say(vec![section(2, Desired::Deleted), volume(root, 2)]).await;
        let seen = |plane: &Plane| plane.volumes.lock().unwrap().iter().any(|s| s.epoch == 2).then_some(());
        world.until("a look", seen).await;
        assert_eq!(told(&world.plane), [(1, InterfacePhase::Released)], "nothing is known of the second turn yet");
        assert!(runs(&world.plane, guest).is_none(), "nor is it ready for the guest");
        found(2, InterfacePhase::Released).await;
        world.until("the second release", |plane| (told(plane).last()?.0 == 2).then_some(())).await;
    };
    // The loop is not `Send`.
    tokio::task::LocalSet::new().run_until(story).await;
}
