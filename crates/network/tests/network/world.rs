//! A cell with two zones and a pool of public addresses, and scripts of requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use terroir_action::{Caller, CallerKind, Context, Region, Registry, Zone};
use terroir_aws_model::{Params, Service};
use terroir_network::model::Interface;
use terroir_network::ops::{self, InterfaceRequest};
use terroir_store::{Store, Txn};
use terroir_types::{AccountId, Arn, Error, HostId, InstanceId, ResourceId, SeededRandom, Timestamp};

pub struct World {
    pub store: Store,
    pub registry: Registry,
    pub ids: SeededRandom,
    pub region: Region,
    /// Values that scripts captured, by name.
    pub names: BTreeMap<String, String>,
    clock: AtomicU64,
}

pub fn account(number: u64) -> AccountId {
    AccountId::from_number(number).unwrap()
}

pub const ALICE: u64 = 111_111_111_111;
pub const BOB: u64 = 222_222_222_222;

impl World {
    pub async fn new() -> Self {
        Self::with_pool("100.96.0.0/28").await
    }

    pub async fn with_pool(pool: &str) -> Self {
        let store = Store::in_memory_for_tests().await;
        let zone = |name: &str, id: &str| Zone { name: name.to_owned(), id: id.to_owned() };
        let region = Region {
            name: "eu-local-1".to_owned(),
            zones: vec![zone("eu-local-1a", "eul1-az1"), zone("eu-local-1b", "eul1-az2")],
            endpoint: "http://127.0.0.1:9000".to_owned(),
        };
        let mut registry = Registry::new();
        terroir_network::aws::register(&mut registry);
        terroir_action::general::register(&mut registry);
        let (names, clock) = (BTreeMap::new(), AtomicU64::new(0));
        let world = Self { store, registry, ids: SeededRandom::new(1), region, names, clock };
        world.transact(|txn| ops::add_pool(txn, "eu-local-1a", pool.parse().unwrap())).await.unwrap();
        world
    }

    pub async fn transact<R>(&self, f: impl FnMut(&mut Txn) -> Result<R, Error>) -> Result<R, Error> {
        self.store.transact(&[], f).await.map(|(result, _)| result)
    }

    /// Runs `f` as one command of an account.
    pub async fn command<R>(
        &self,
        number: u64,
        mut f: impl FnMut(&mut Context<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let caller = Caller {
            account: account(number),
            arn: Arn::iam(account(number), "root"),
            user_id: number.to_string(),
            access_key_id: "AKIA".to_owned(),
            kind: CallerKind::Root,
            session: None,
        };
        let tick = i64::try_from(self.clock.fetch_add(1, Ordering::Relaxed)).unwrap();
        let now = Timestamp::from_secs(1_800_000_000 + tick);
        let body = |txn: &mut Txn| {
            let (ids, region) = (&self.ids, &self.region);
            f(&mut Context { txn, caller: &caller, now, ids, region, request_id: "request" })
        };
        self.transact(body).await
    }

    /// Sends one request, decoded and encoded as on the wire. The answer is its XML.
    pub async fn call(&self, number: u64, action: &str, body: &str) -> Result<String, Error> {
        let entry = self.registry.find(Service::Ec2, action).unwrap_or_else(|| panic!("{action} is not registered"));
        let text = format!("Action={action}&Version=2016-11-15&{body}");
        let params = Params::parse("", text.as_bytes()).map_err(|error| error.into_error(Service::Ec2))?;
        let call = entry.decode(&params)?;
        let reply = self.command(number, |cx| {
            assert!(!call.targets(cx)?.is_empty(), "{action} needs a permission");
            call.run(cx)
        });
        Ok(reply.await?.body)
    }

    /// Runs a script as Alice. A line is
    ///
    /// ```text
    /// Action Name=value Name=$captured -> expectations
    /// ```
    /// where an expectation is `!Code` for an error, `name=element` to keep an element's text, `~text` for text that the
    /// answer contains, `^text` for text that it does not. Nothing behind the arrow: it succeeds. `@bob` before the
    /// action is another account.
    pub async fn run(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (request, expected) = line.split_once("->").unwrap_or((line, ""));
            let mut words = request.split_whitespace().peekable();
            let number = if words.next_if_eq(&"@bob").is_some() { BOB } else { ALICE };
            let action = words.next().unwrap();
            let body = words.map(|word| self.fill(word)).collect::<Vec<_>>().join("&");
            let answer = self.call(number, action, &body).await;
            for expectation in expected.split_whitespace() {
                self.check(line, &answer, expectation);
            }
            if !expected.contains('!') {
                assert!(answer.is_ok(), "{line}\n  fails: {answer:?}");
            }
        }
    }

    fn check(&mut self, line: &str, answer: &Result<String, Error>, expectation: &str) {
        if let Some(code) = expectation.strip_prefix('!') {
            let got = answer.as_ref().err().map(Error::code);
            assert_eq!(got, Some(code), "{line}\n  gives {answer:?}");
            return;
        }
        let xml = answer.as_ref().unwrap_or_else(|error| panic!("{line}\n  fails: {error}"));
        if let Some(text) = expectation.strip_prefix('~') {
            let text = self.fill(text);
            assert!(xml.contains(&text), "{line}\n  lacks {text}: {xml}");
        } else if let Some(text) = expectation.strip_prefix('^') {
            let text = self.fill(text);
            assert!(!xml.contains(&text), "{line}\n  has {text}: {xml}");
        } else {
            let (name, element) = expectation.split_once('=').unwrap();
            let value = first(xml, element).unwrap_or_else(|| panic!("{line}\n  has no <{element}>: {xml}"));
            self.names.insert(name.to_owned(), value);
        }
    }

    /// Puts captured values in; a name ends where no letter, digit or `_` follows.
    fn fill(&self, text: &str) -> String {
        let mut parts = text.split('$');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
            let value = self.names.get(&part[..end]).unwrap_or_else(|| panic!("${} is not captured", &part[..end]));
            out.push_str(value);
            out.push_str(&part[end..]);
        }
        out
    }

    /// A captured value as an id.
    pub fn id<T: ResourceId>(&self, name: &str) -> T {
        self.names[name].parse().unwrap()
    }

    pub async fn launch(
        &self,
        host: HostId,
        request: &InterfaceRequest,
    ) -> Result<(InstanceId, Arc<Interface>), Error> {
        let instance = InstanceId::generate(&self.ids);
        let interface =
            self.command(ALICE, |cx| ops::create_interface_for_instance(cx, instance, host, request)).await?;
        Ok((instance, interface))
    }

    pub fn host(&self) -> HostId {
        HostId::generate(&self.ids)
    }
}

/// The text of the first element of that name.
fn first(xml: &str, element: &str) -> Option<String> {
    let from = xml.find(&format!("<{element}>"))? + element.len() + 2;
    let to = from + xml[from..].find('<')?;
    Some(xml[from..to].to_owned())
}

/// What most instances ask for: gone with the instance, checked addresses.
pub fn plain() -> InterfaceRequest {
    InterfaceRequest { delete_on_termination: true, source_dest_check: true, ..InterfaceRequest::default() }
}
