//! A server of its own for each test, on a clock that only the test moves.

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use terroir_action::{Region, Registry};
use terroir_api_server::in_process::Client;
use terroir_api_server::{ApiServer, Limits, NoObjects, OperatorStatus, Parts, Rate};
use terroir_aws_model::Service::Kms;
use terroir_iam::Iam;
use terroir_iam::ops::{self, About, Holder, KeyOwner};
use terroir_kms::external::{NoProxies, Proxies};
use terroir_kms::{KeyService, worker};
use terroir_store::{Store, Txn};
use terroir_types::{AccountId, Clock, ManualClock, OsRandom, Timestamp};

pub const REGION: &str = "r-1";
pub const EVERYTHING: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;

pub struct World {
    pub server: ApiServer,
    pub store: Store,
    pub iam: Iam,
    pub clock: Arc<ManualClock>,
    pub keys: KeyService,
    pub account: AccountId,
    pub root: Client,
}

struct Ready;

impl OperatorStatus for Ready {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with_proxies(Arc::new(NoProxies)).await
    }

    pub async fn with_proxies(proxies: Arc<dyn Proxies>) -> Self {
        let store = Store::in_memory_for_tests().await;
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-24T05:00:00Z").unwrap()));
        let ids = Arc::new(OsRandom);
        let iam = Iam::new(store.clone(), clock.clone(), ids.clone());
        let keys = KeyService::new(iam.clone(), clock.clone(), ids.clone(), REGION, proxies);
        let mut registry = Registry::new();
        terroir_iam::register(&mut registry, &iam);
        terroir_kms::register(&mut registry, &keys);
        let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
        let region = Region { name: REGION.into(), zones: vec![], endpoint: "http://127.0.0.1:9000".into() };
        let server = ApiServer::new(Parts {
            store: store.clone(),
            iam: iam.clone(),
            registry,
            region: region.into(),
            clock: clock.clone(),
            ids,
            objects: Arc::new(NoObjects),
            status: Arc::new(Ready),
            limits: Limits { actions: rate, ..Limits::default() },
            audit: Default::default(),
        });
        let (account, root) = account(&store, "main", clock.now()).await;
        Self { server, store, iam, clock, keys, account, root }
    }

    pub async fn other_account(&self) -> (AccountId, Client) {
        account(&self.store, "other", self.clock.now()).await
    }

    /// A client for a new user of this account.
    pub async fn user_in(&self, account: AccountId, name: &str, policy: Option<&str>) -> Client {
        let now = self.clock.now();
        let make = |txn: &mut Txn| {
            let about = About { name, path: None, description: None, tags: &Default::default() };
            ops::create_user(txn, account, about, &OsRandom, now)?;
            if let Some(policy) = policy {
                ops::put_inline_policy(txn, account, Holder::User(name), "p", policy)?;
            }
            ops::create_access_key(txn, account, KeyOwner::User(name), &OsRandom, now)
        };
        let ((key, secret), _) = self.store.transact(&[], make).await.unwrap();
        Client::new(&key.id, &secret, REGION, now)
    }

    pub async fn user(&self, name: &str, policy: Option<&str>) -> Client {
        self.user_in(self.account, name, policy).await
    }

    /// What an action answers, or the code that it refuses with.
    pub async fn ask(&self, client: &Client, action: &str, body: Value) -> Result<Value, String> {
        let client = Client { now: self.clock.now(), ..client.clone() };
        let answer = client.call_json(&self.server, Kms, action, &body.to_string()).await;
        let value = if answer.body.is_empty() { Value::Null } else { serde_json::from_str(&answer.body).unwrap() };
        if answer.status.is_success() {
            return Ok(value);
        }
        assert_eq!(value["__type"], answer.code);
        assert!(!value["message"].as_str().unwrap().is_empty(), "{action}: {}", answer.body);
        Err(answer.code)
    }

    pub async fn ok(&self, client: &Client, action: &str, body: Value) -> Value {
        let shown = body.to_string();
        self.ask(client, action, body).await.unwrap_or_else(|code| panic!("{action} {shown}: {code}"))
    }

    /// Calls by the account's root, in order, each with the code that it must answer with; empty: success.
    pub async fn script(&self, calls: Vec<(&str, Value, &str)>) {
        for (action, body, code) in calls {
            let shown = body.to_string();
            let answer = self.ask(&self.root, action, body).await;
            assert_eq!(answer.err().unwrap_or_default(), code, "{action} {shown}");
        }
    }

    /// The ARN of a new key.
    pub async fn key(&self, body: Value) -> String {
        self.ok(&self.root, "CreateKey", body).await["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// A blob of a text, `QUFB`, under a key.
    pub async fn blob(&self, key: &str) -> String {
        let answer = self.ok(&self.root, "Encrypt", json!({"KeyId": key, "Plaintext": "QUFB"})).await;
        answer["CiphertextBlob"].as_str().unwrap().to_owned()
    }

    pub async fn days_later(&self, days: u64) {
        self.clock.advance(Duration::from_secs(days * 86_400));
        worker::tick(&self.keys).await.unwrap();
    }
}

async fn account(store: &Store, name: &str, now: Timestamp) -> (AccountId, Client) {
    let make = |txn: &mut Txn| ops::create_account(txn, name, &OsRandom, now);
    let (account, _) = store.transact(&[], make).await.unwrap();
    (account.account_id, Client::new(&account.access_key_id, &account.secret, REGION, now))
}

pub fn code(answer: Result<Value, String>) -> String {
    answer.err().unwrap_or_default()
}
