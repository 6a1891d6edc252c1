//! Whole stories: API requests on one side, a host on the other.

mod attributes;
mod capacity;
mod enrolment;
mod gateway;
mod histories;
mod launch;
mod lifecycle;
mod lost;
mod sovereignty;
mod stale_reports;
mod volumes;

use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;
use terroir_agent_api::{ControlPlane, RoleCredentials};
use terroir_aws_model::ec2;
use terroir_block_storage::ops::BlobSource;
use terroir_metering::Interval;
use terroir_types::{AccountId, Clock, Error, InstanceId};
use tokio::io::AsyncRead;

use crate::gateway::{BlobStore, GatewayOptions, HostGateway, RoleCredentialSource};
use crate::sim_host::SimHost;
use crate::state::InstanceState;
use crate::testing::{Size, World};

pub const ROOMY: Size = Size { vcpus: 1000, memory_gib: 1000, disk_gib: 10_000 };

/// Every blob holds its own name.
struct NamedBlobs;

#[async_trait]
impl BlobStore for NamedBlobs {
    async fn read(&self, blob: &BlobSource) -> Result<Pin<Box<dyn AsyncRead + Send>>, Error> {
        let text = match blob {
            BlobSource::Stored { name } => name.clone(),
            BlobSource::Object { object, .. } => format!("{}/{}", object.bucket, object.key),
        };
        Ok(Box::pin(std::io::Cursor::new(text.into_bytes())))
    }
}

struct NoRoles;

#[async_trait]
impl RoleCredentialSource for NoRoles {
    async fn credentials(&self, _: AccountId, _: &str, _: InstanceId) -> Result<Option<RoleCredentials>, Error> {
        Ok(None)
    }
}

/// A world with a gateway and one host behind it.
pub struct Cloud {
    pub world: World,
    pub gateway: Arc<HostGateway>,
    pub host: SimHost,
    runner: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.runner.abort();
    }
}

impl Cloud {
    pub async fn new(size: Size) -> Self {
        let world = World::new(size).await;
        let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let options = GatewayOptions {
            // Here everything must be heard from the bell; collecting is done by hand.
            full_look: std::time::Duration::from_secs(1_000_000),
            collect_every: std::time::Duration::from_secs(1_000_000),
            ..GatewayOptions::new(world.region.clone())
        };
        let ids = Arc::clone(&world.ids);
        let gateway =
            HostGateway::new(world.store.clone(), clock, ids, options, Arc::new(NamedBlobs), Arc::new(NoRoles));
        let runner = tokio::spawn(Arc::clone(&gateway).run(std::future::pending()));
        let host = SimHost::new(world.host);
        Self { world, gateway, host, runner }
    }

    /// One round of the host: pull, act, report. Whether anything was new.
    pub async fn round(&mut self) -> bool {
        // The view has every commit so far.
        self.world.store.read().await.unwrap();
        let pulled = self.host.pull(&*self.gateway).await;
        self.host.apply();
        let report = self.host.report(false, self.world.clock.now(), None);
        let news = !report.instances.is_empty() || !report.volumes.is_empty() || !report.interfaces.is_empty();
        self.gateway.report(report).await.unwrap();
        pulled || news
    }

    /// Rounds until host and control plane agree.
    pub async fn settle(&mut self) {
        for _ in 0..30 {
            if !self.round().await {
                return;
            }
        }
        panic!("host and control plane never agree");
    }

    pub async fn run(&self, request: ec2::RunInstancesRequest) -> Vec<InstanceId> {
        let reservation = self.world.call::<crate::aws::RunInstances>(request).await.unwrap();
        reservation.instances.iter().map(|instance| instance.instance_id.as_ref().unwrap().parse().unwrap()).collect()
    }

    /// The instance as DescribeInstances shows it.
    pub async fn describe(&self, id: InstanceId) -> ec2::Instance {
        let request = ec2::DescribeInstancesRequest { instance_ids: vec![id.to_string()], ..Default::default() };
        let answer = self.world.call::<crate::aws::DescribeInstances>(request).await.unwrap();
        answer.reservations[0].instances[0].clone()
    }

    pub async fn state(&self, id: InstanceId) -> String {
        self.describe(id).await.state.unwrap().name.unwrap()
    }

    pub async fn expect(&self, id: InstanceId, state: InstanceState) {
        assert_eq!(self.state(id).await, state.name());
    }

    /// Closed usage intervals so far.
    pub async fn usage(&self) -> Vec<Interval> {
        let entries = self.world.store.outbox(terroir_metering::STREAM, 0, 100_000).await.unwrap();
        entries.iter().map(|entry| serde_json::from_slice(&entry.payload).unwrap()).collect()
    }
}

/// The error's code, or `ok`.
pub fn code<T>(result: &Result<T, Error>) -> &str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}
