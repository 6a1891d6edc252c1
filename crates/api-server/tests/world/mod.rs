//! A server of its own for each test, with a few actions that stand for domain crates.
#![allow(dead_code)] // each test file uses its own part

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use terroir_action::{Access, Action, Context, Region, Registry, Request as Ask, Response as Reply, Target, Zone};
use terroir_api_server::in_process::{Answer, Client, form};
use terroir_api_server::{ApiServer, Limits, OperatorStatus, Parts, S3Front};
use terroir_aws_model::{Empty, Service, ec2, kms};
use terroir_iam::ops::{self, About, Holder, KeyOwner};
use terroir_store::{Key, Store, record};
use terroir_types::{
    AccountId, Clock, Error, InstanceId, ManualClock, OsRandom, ReservationId, ResourceId, Secret, Timestamp, VolumeId,
    VpcId,
};

pub struct World {
    pub server: ApiServer,
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub account: AccountId,
    pub root: Client,
    pub audit: terroir_audit::Queue,
    pub folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with_limits(|_| {}).await
    }

    pub async fn with_limits(edit: impl FnOnce(&mut Limits)) -> Self {
        let store = Store::in_memory_for_tests().await;
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-24T05:00:00Z").unwrap()));
        let ids = Arc::new(OsRandom);
        let iam = terroir_iam::Iam::new(store.clone(), clock.clone(), ids.clone());
        let mut registry = Registry::new();
        terroir_iam::register(&mut registry, &iam);
        registry.add::<CreateVpc>();
        registry.add::<DescribeVpcs>();
        registry.add::<RunInstances>();
        registry.add::<CreateVolume>();
        registry.add::<ListKeys>();
        registry.add::<EnableKey>();
        let region = Region {
            name: "terroir-1".into(),
            zones: vec![Zone { name: "terroir-1a".into(), id: "t1-az1".into() }],
            endpoint: "http://127.0.0.1:9000".into(),
        };
        let now = clock.now();
        let make = |txn: &mut terroir_store::Txn| ops::create_account(txn, "main", &OsRandom, now);
        let (account, _) = store.transact(&[], make).await.unwrap();
        let root = Client::new(&account.access_key_id, &account.secret, &region.name, now);
        let mut limits = Limits::default();
        edit(&mut limits);
        let folder = tempfile::tempdir().unwrap();
        let audit = terroir_audit::Queue::default();
        let server = ApiServer::new(Parts {
            store: store.clone(),
            iam,
            registry,
            region: region.into(),
            clock: clock.clone(),
            ids,
            objects: Arc::new(Objects),
            status: Arc::new(Ready),
            limits,
            audit: audit.clone(),
        });
        Self { server, store, clock, account: account.account_id, root, audit, folder }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A client for a new user with this inline policy.
    pub async fn user(&self, name: &str, policy: Option<&str>) -> Client {
        let (account, now) = (self.account, self.now());
        let make = |txn: &mut terroir_store::Txn| {
            let about = About { name, path: None, description: None, tags: &Default::default() };
            ops::create_user(txn, account, about, &OsRandom, now)?;
            if let Some(policy) = policy {
                ops::put_inline_policy(txn, account, Holder::User(name), "p", policy)?;
            }
            ops::create_access_key(txn, account, KeyOwner::User(name), &OsRandom, now)
        };
        let ((key, secret), _) = self.store.transact(&[], make).await.unwrap();
        Client::new(&key.id, &secret, "terroir-1", now)
    }

    /// Another account, with a client for a user in it that may do everything there.
    pub async fn other_account(&self, name: &str) -> (AccountId, Client) {
        let now = self.now();
        let make = |txn: &mut terroir_store::Txn| {
            let account = ops::create_account(txn, name, &OsRandom, now)?.account_id;
            let about = About { name: "admin", path: None, description: None, tags: &Default::default() };
            ops::create_user(txn, account, about, &OsRandom, now)?;
            let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
            ops::attach_policy(txn, account, Holder::User("admin"), admin)?;
            let (key, secret) = ops::create_access_key(txn, account, KeyOwner::User("admin"), &OsRandom, now)?;
            Ok((account, Client::new(&key.id, &secret, "terroir-1", now)))
        };
        self.store.transact(&[], make).await.unwrap().0
    }

    /// A call that must succeed.
    pub async fn ok(&self, client: &Client, service: Service, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let answer = client.call(&self.server, service, action, parameters).await;
        assert!(answer.status.is_success(), "{action} {parameters:?}: {}", answer.body);
        answer
    }

    /// Calls in order, each with the code that it must answer with.
    pub async fn script(&self, client: &Client, service: Service, calls: &[Step<'_>]) {
        for (action, parameters, code) in calls {
            let answer = client.call(&self.server, service, action, parameters).await;
            assert_eq!(answer.code, *code, "{action} {parameters:?}: {}", answer.body);
            let status = match *code {
                "" => 200,
                "NoSuchEntity" => 404,
                "ReportNotPresent" | "ReportExpired" => 410,
                "EntityAlreadyExists" | "DeleteConflict" | "LimitExceeded" => 409,
                "AccessDenied" | "InvalidAuthenticationCode" | "InvalidClientTokenId" => 403,
                _ => 400,
            };
            assert_eq!(answer.status.as_u16(), status, "{action} {parameters:?}");
        }
    }

    /// The session whose credentials are in an answer of STS.
    pub fn session(&self, answer: &Answer) -> Client {
        Client {
            access_key_id: answer.element("AccessKeyId").unwrap().to_owned(),
            secret: Secret::new(answer.element("SecretAccessKey").unwrap().to_owned()),
            token: Some(answer.element("SessionToken").unwrap().to_owned()),
            now: self.now(),
            ..self.root.clone()
        }
    }

    /// A call that nobody signed.
    pub async fn unsigned(&self, service: Service, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let envelope = [("Action", action), ("Version", service.api_version())];
        let mut request = self.root.signed_post(service, &form(&[&envelope, parameters].concat()));
        request.headers_mut().remove(http::header::AUTHORIZATION);
        self.root.send(&self.server, request).await
    }
}

/// An action, its parameters, and the code that it must answer with; empty: success.
pub type Step<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

struct Ready;

impl OperatorStatus for Ready {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

struct Objects;

#[async_trait]
impl S3Front for Objects {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        assert!(request.extensions().get::<terroir_iam::RequestFacts>().is_some());
        Response::new(Body::from("objects"))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Thing {}

record!(Thing { kind: "thing", version: 1 });

fn things(account: AccountId) -> Key {
    Key::new(format!("thing/{account}"))
}

struct CreateVpc;

impl Action for CreateVpc {
    type Op = ec2::ops::CreateVpc;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("ec2:CreateVpc", cx.ec2_arn("vpc", "*"))])
    }

    fn run(cx: &mut Context<'_>, request: Ask<Self>) -> Result<Reply<Self>, Error> {
        if request.cidr_block.as_deref() == Some("bad") {
            return Err(Error::invalid("InvalidVpc.Range", "The CIDR 'bad' is invalid."));
        }
        let id = VpcId::generate(cx.ids);
        cx.txn.put(&things(cx.caller.account).child(id), &Thing {})?;
        Ok(ec2::CreateVpcResult { vpc: Some(ec2::Vpc { vpc_id: Some(id.to_string()), ..Default::default() }) })
    }
}

struct DescribeVpcs;

impl Action for DescribeVpcs {
    type Op = ec2::ops::DescribeVpcs;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeVpcs")])
    }

    fn run(cx: &mut Context<'_>, _request: Ask<Self>) -> Result<Reply<Self>, Error> {
        let all = cx.txn.range::<Thing>(&things(cx.account()))?;
        let vpc = |(key, _): &(Key, Arc<Thing>)| ec2::Vpc { vpc_id: Some(key.last().to_owned()), ..Default::default() };
        Ok(ec2::DescribeVpcsResult { vpcs: all.iter().map(vpc).collect(), next_token: None })
    }
}

/// Keeps a receipt: the reservation and its instance.
struct RunInstances;

impl Action for RunInstances {
    type Op = ec2::ops::RunInstances;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("ec2:RunInstances", cx.ec2_arn("instance", "*"))])
    }

    fn run(cx: &mut Context<'_>, _request: Ask<Self>) -> Result<Reply<Self>, Error> {
        let (reservation, instance) = (ReservationId::generate(cx.ids), InstanceId::generate(cx.ids).to_string());
        let account = cx.caller.account;
        terroir_resources::register(cx.txn, account, &instance, "instance", Default::default(), cx.now)?;
        Ok(ec2::Reservation {
            reservation_id: Some(reservation.to_string()),
            requester_id: Some(instance),
            ..Default::default()
        })
    }

    fn receipt(response: &Reply<Self>) -> Option<String> {
        Some(format!("{} {}", response.reservation_id.as_deref()?, response.requester_id.as_deref()?))
    }

    fn replay(_cx: &mut Context<'_>, receipt: &str) -> Result<Reply<Self>, Error> {
        let (reservation, instance) = receipt.split_once(' ').unwrap();
        Ok(ec2::Reservation {
            reservation_id: Some(reservation.to_owned()),
            requester_id: Some(instance.to_owned()),
            ..Default::default()
        })
    }
}

/// Speak JSON.
struct ListKeys;

impl Action for ListKeys {
    type Op = kms::ops::ListKeys;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("kms:ListKeys")])
    }

    fn run(_cx: &mut Context<'_>, _request: Ask<Self>) -> Result<Reply<Self>, Error> {
        Ok(kms::ListKeysResponse { truncated: Some(false), ..Default::default() })
    }
}

struct EnableKey;

impl Action for EnableKey {
    type Op = kms::ops::EnableKey;
    const ACCESS: Access = Access::Write;

    fn targets(_cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("kms:EnableKey")])
    }

    fn run(_cx: &mut Context<'_>, _request: Ask<Self>) -> Result<Reply<Self>, Error> {
        Ok(Empty)
    }
}

struct CreateVolume;

impl Action for CreateVolume {
    type Op = ec2::ops::CreateVolume;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, _request: &Ask<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("ec2:CreateVolume", cx.ec2_arn("volume", "*"))])
    }

    fn run(cx: &mut Context<'_>, _request: Ask<Self>) -> Result<Reply<Self>, Error> {
        let id = VolumeId::generate(cx.ids);
        cx.txn.put(&things(cx.caller.account).child(id), &Thing {})?;
        Ok(ec2::Volume { volume_id: Some(id.to_string()), ..Default::default() })
    }
}
