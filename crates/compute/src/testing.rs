//! A small world for this crate's tests: a store, one account, one zone, hosts that behave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terroir_action::{Access, Action, Caller, CallerKind, Context, Region, Request, Response, Zone};
use terroir_agent_api::{HostFacts, HypervisorKind};
use terroir_aws_model::ec2;
use terroir_block_storage::Assignment;
use terroir_block_storage::model::Blob;
use terroir_block_storage::ops::SystemImage;
use terroir_sovereignty::ops::OwnSite;
use terroir_store::{Store, Txn};
use terroir_tlog::SigningKey;
use terroir_types::{
    AccountId, Arn, Clock, Error, HostId, ImageId, InstanceId, ManualClock, ReservationId, ResourceId, SeededRandom,
    SnapshotId, Timestamp,
};

use crate::catalogue;
use crate::model::{Desired, Instance, MetadataChoice};
use crate::ops;

pub const ZONE: &str = "eu-local-1a";
pub const GIB: u64 = 1 << 30;

/// An instance that was just launched.
pub fn instance(seed: u64) -> Instance {
    let ids = SeededRandom::new(seed);
    Instance {
        account: AccountId::from_number(1).unwrap(),
        id: InstanceId::generate(&ids),
        reservation: ReservationId::generate(&ids),
        launch_index: 0,
        image: ImageId::generate(&ids),
        instance_type: "t3.nano".to_owned(),
        vcpus: 2,
        memory_bytes: 512 << 20,
        architecture: "x86_64".to_owned(),
        assignment: Assignment::held_by(HostId::generate(&ids)),
        zone: ZONE.to_owned(),
        run_id: 1,
        desired: Desired::Running,
        force_stop: false,
        reboot_count: 0,
        created_at: Timestamp::EPOCH,
        launched_at: Timestamp::EPOCH,
        volumes: Vec::new(),
        root_device: "/dev/xvda".to_owned(),
        direct_boot: None,
        key_pair: None,
        profile: None,
        user_data: None,
        metadata: MetadataChoice::default(),
        shutdown_terminates: false,
        termination_protected: false,
        stop_protected: false,
        monitoring: false,
        ebs_optimized: false,
        holds_capacity: true,
        interrupted: 0,
        reason: None,
        events: Vec::new(),
        terminated_at: None,
    }
}

/// What one host of the world can hold.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub vcpus: u32,
    pub memory_gib: u64,
    pub disk_gib: u64,
}

pub struct World {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub ids: Arc<SeededRandom>,
    pub region: Region,
    pub caller: Caller,
    pub host: HostId,
    pub image: ImageId,
}

pub fn facts(size: Size) -> HostFacts {
    HostFacts {
        name: "box".to_owned(),
        hypervisor: HypervisorKind::Simulated,
        accelerator: "none".to_owned(),
        accelerator_reason: None,
        architecture: "x86_64".to_owned(),
        vcpus: size.vcpus,
        memory_bytes: size.memory_gib * GIB,
        volume_bytes_total: size.disk_gib * GIB,
        volume_bytes_free: size.disk_gib * GIB,
        agent_version: "0".to_owned(),
        problems: Vec::new(),
    }
}

impl World {
    pub async fn new(size: Size) -> Self {
        let ids = Arc::new(SeededRandom::new(1));
        let account = AccountId::from_number(123_456_789_012).unwrap();
        let region = Region {
            name: "eu-local-1".to_owned(),
            zones: vec![Zone { name: ZONE.to_owned(), id: "eul1-az1".to_owned() }],
            endpoint: "http://127.0.0.1:9000".to_owned(),
        };
        let caller = Caller {
            account,
            arn: Arn::iam(account, "root"),
            user_id: account.to_string(),
            access_key_id: "AKIATEST".to_owned(),
            kind: CallerKind::Root,
            session: None,
        };
        let store = Store::in_memory_for_tests().await;
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_800_000_000)));
        let (host, snapshot) = (HostId::generate(&*ids), SnapshotId::generate(&*ids));
        let now = clock.now();
        let key = SigningKey::from_seed("own.example", &[1; 32]).unwrap();
        let set_up = |txn: &mut Txn| {
            let own = OwnSite {
                region: "eu-local-1",
                operator: "own.example",
                site: ZONE,
                country: Some("FR".to_owned()),
                key: &key,
            };
            terroir_sovereignty::ops::ensure_own(txn, &own, now)?;
            ops::register_host(txn, host, ZONE, facts(size), now)?;
            catalogue::load(txn, &catalogue::parse(catalogue::DEFAULT_CATALOGUE).map_err(Error::internal)?)?;
            terroir_network::ops::add_pool(txn, ZONE, "100.96.0.0/20".parse().map_err(Error::internal)?)?;
            terroir_network::ops::ensure_default_vpc(txn, account, now, &*ids, &region)?;
            let image = SystemImage {
                name: "tiny".to_owned(),
                description: String::new(),
                architecture: "x86_64".to_owned(),
                snapshot,
                disk: Blob {
                    sha256: "ab".repeat(32),
                    size_bytes: 64 << 20,
                    format: terroir_agent_api::BlobFormat::Raw,
                },
                disk_bytes: 64 << 20,
                direct_boot: None,
            };
            terroir_block_storage::ops::register_system_image(txn, &*ids, now, image)
        };
        let ((image, _), _) = store.transact(&[], set_up).await.unwrap();
        Self { store, clock, ids, region, caller, host, image: image.id }
    }

    pub fn account(&self) -> AccountId {
        self.caller.account
    }

    /// Runs an action as the API server does.
    pub async fn call<A: Action>(&self, request: Request<A>) -> Result<Response<A>, Error> {
        let now = self.clock.now();
        let prefetch = {
            let mut txn = self.store.read().await.map_err(Error::from)?;
            let cx = self.context(&mut txn, now);
            A::targets(&cx, &request)?;
            A::prefetch(&cx, &request)?
        };
        if A::ACCESS == Access::Read {
            let mut txn = self.store.read_with(&prefetch).await.map_err(Error::from)?;
            return A::run(&mut self.context(&mut txn, now), request);
        }
        let run = |txn: &mut Txn| A::run(&mut self.context(txn, now), request.clone());
        Ok(self.store.transact(&prefetch, run).await?.0)
    }

    fn context<'a>(&'a self, txn: &'a mut Txn, now: Timestamp) -> Context<'a> {
        Context { txn, caller: &self.caller, now, ids: &*self.ids, region: &self.region, request_id: "test" }
    }

    pub async fn with_context<R>(&self, f: impl Fn(&mut Context<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let now = self.clock.now();
        Ok(self.store.transact(&[], |txn| f(&mut self.context(txn, now))).await?.0)
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// A request for `count` instances of the smallest type.
    pub fn run(&self, count: i32) -> ec2::RunInstancesRequest {
        ec2::RunInstancesRequest {
            image_id: Some(self.image.to_string()),
            instance_type: Some("tr1.pico".to_owned()),
            min_count: count,
            max_count: count,
            ..ec2::RunInstancesRequest::default()
        }
    }

    /// Keys in the view, by kind.
    pub async fn kinds(&self) -> BTreeMap<String, usize> {
        const KINDS: &[&str] = &[
            "instance",
            "instance-status",
            "host-instance",
            "volume",
            "volume-status",
            "host-volume",
            "interface",
            "instance-interface",
            "host-interface",
            "interface-status",
            "subnet-address",
            "group-address",
            "public-address",
            "key-pair",
            "key-name",
        ];
        let txn = self.store.read().await.unwrap();
        let counts = KINDS.iter().map(|kind| ((*kind).to_owned(), txn.count(&terroir_store::Key::new(*kind))));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
