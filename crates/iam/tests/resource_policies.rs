//! Policies of resources: what may be written, and whom they let in, with real users, roles and accounts.

use std::sync::Arc;
use terroir_action::{Caller, ResourcePolicy, Target};
use terroir_iam::ops::{self, About, Holder, KeyOwner, NewRole, PolicyScope};
use terroir_iam::{Iam, RequestFacts};
use terroir_store::{Store, Txn};
use terroir_types::{AccountId, Arn, Clock, Error, ManualClock, OsRandom, Timestamp};

const ALLOW_S3: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
const SCOPE: PolicyScope<'_> = PolicyScope { service: "s3", resource: "arn:aws:s3:::shared", max_bytes: 20_480 };

struct World {
    store: Store,
    iam: Iam,
    owner: AccountId,
    other: AccountId,
    now: Timestamp,
}

impl World {
    async fn new() -> Self {
        let store = Store::in_memory_for_tests().await;
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-24T05:00:00Z").unwrap()));
        let now = clock.now();
        let iam = Iam::new(store.clone(), clock, Arc::new(OsRandom));
        let make = |txn: &mut Txn| {
            let owner = ops::create_account(txn, "owner", &OsRandom, now)?.account_id;
            Ok((owner, ops::create_account(txn, "other", &OsRandom, now)?.account_id))
        };
        let ((owner, other), _) = store.transact(&[], make).await.unwrap();
        Self { store, iam, owner, other, now }
    }

    async fn user(&self, account: AccountId, name: &str, policy: Option<&str>) -> Caller {
        let make = |txn: &mut Txn| {
            let about = About { name, path: None, description: None, tags: &Default::default() };
            ops::create_user(txn, account, about, &OsRandom, self.now)?;
            if let Some(policy) = policy {
                ops::put_inline_policy(txn, account, Holder::User(name), "p", policy)?;
            }
            ops::create_access_key(txn, account, KeyOwner::User(name), &OsRandom, self.now)
        };
        let ((key, _), _) = self.store.transact(&[], make).await.unwrap();
        self.iam.authenticate_session(&key.id, None).await.unwrap()
    }

    async fn delete_user(&self, account: AccountId, name: &str, caller: &Caller) {
        let delete = |txn: &mut Txn| {
            ops::delete_access_key(txn, account, KeyOwner::User(name), &caller.access_key_id)?;
            ops::delete_user(txn, account, name)
        };
        self.store.transact(&[], delete).await.unwrap();
    }

    async fn policy(&self, statements: &str) -> Result<Arc<ResourcePolicy>, Error> {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        let txn = self.store.read().await.unwrap();
        ops::resource_policy(&txn, &text, SCOPE).map(Arc::new)
    }

    /// The first words after the resource of why not; empty: allowed.
    async fn get(&self, caller: &Caller, policy: Option<&Arc<ResourcePolicy>>) -> String {
        let target = Target::on("s3:GetObject", Arn::s3("shared/key")).owned_by(self.owner, policy.cloned());
        let facts = RequestFacts { now: self.now, region: "terroir-1".into(), ..RequestFacts::default() };
        match self.iam.authorize(caller, &[target], &facts).await {
            Ok(()) => String::new(),
            Err(error) => {
                assert_eq!(error.code(), "AccessDenied");
                let reason = error.message().split("arn:aws:s3:::shared/key ").nth(1);
                reason.unwrap_or(error.message()).to_owned()
            }
        }
    }
}

fn allow(principal: &str) -> String {
    format!(
        r#"{{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::shared/*","Principal":{principal}}}"#
    )
}

#[tokio::test]
async fn who_gets_in() {
    let world = World::new().await;
    let (owner, other) = (world.owner, world.other);
    let [ann, may] = [world.user(owner, "ann", None).await, world.user(owner, "may", Some(ALLOW_S3)).await];
    let [bob, max] = [world.user(other, "bob", None).await, world.user(other, "max", Some(ALLOW_S3)).await];
    let (nobody, trail) = (Caller::anonymous(), Caller::service("cloudtrail.amazonaws.com"));
    let no_identity = "because no identity-based policy allows the s3:GetObject action";
    let no_resource = "because no resource-based policy allows the s3:GetObject action";
    let denied = "with an explicit deny in a resource-based policy";
    let by_account = |account: AccountId| allow(&format!(r#"{{"AWS":"{account}"}}"#));
    let by_user = |account: AccountId, name: &str| allow(&format!(r#"{{"AWS":"arn:aws:iam::{account}:user/{name}"}}"#));
    let deny = r#"{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::shared/*","Principal":"*","Condition":{"StringEquals":{"aws:PrincipalAccount":"ACCOUNT"}}}"#
        .replace("ACCOUNT", &other.to_string());
    // In order: ann, may, bob, max, nobody, the trail.
    let rows = [
        (None, [no_identity, "", no_identity, no_resource, "Access Denied", no_resource]),
        (Some(by_account(owner)), [no_identity, "", no_identity, no_resource, "Access Denied", no_resource]),
        (Some(by_user(owner, "ann")), ["", "", no_identity, no_resource, "Access Denied", no_resource]),
        (Some(by_account(other)), [no_identity, "", no_identity, "", "Access Denied", no_resource]),
        (Some(by_user(other, "bob")), [no_identity, "", no_identity, no_resource, "Access Denied", no_resource]),
        (Some(by_user(other, "max")), [no_identity, "", no_identity, "", "Access Denied", no_resource]),
        (Some(allow(r#""*""#)), ["", "", no_identity, "", "", ""]),
        (Some(format!("{},{deny}", allow(r#""*""#))), ["", "", denied, denied, "", ""]),
        (
            Some(allow(r#"{"Service":"cloudtrail.amazonaws.com"}"#)),
            [no_identity, "", no_identity, no_resource, "Access Denied", ""],
        ),
    ];
    for (statements, expected) in rows {
        let policy = match &statements {
            Some(statements) => Some(world.policy(statements).await.unwrap()),
            None => None,
        };
        let mut got = Vec::new();
        for caller in [&ann, &may, &bob, &max, &nobody, &trail] {
            got.push(world.get(caller, policy.as_ref()).await);
        }
        assert_eq!(got, expected, "{statements:?}");
    }
}

#[tokio::test]
async fn a_name_that_was_freed_and_taken_again_is_not_let_in() {
    let world = World::new().await;
    let first = world.user(world.owner, "ann", None).await;
    let policy = world.policy(&allow(&format!(r#"{{"AWS":"{}"}}"#, first.arn))).await.unwrap();
    assert_eq!(world.get(&first, Some(&policy)).await, "");
    world.delete_user(world.owner, "ann", &first).await;
    let second = world.user(world.owner, "ann", None).await;
    assert_eq!(first.arn, second.arn);
    assert!(world.get(&second, Some(&policy)).await.starts_with("because no identity-based policy"));
}

#[tokio::test]
async fn what_may_be_written() {
    let world = World::new().await;
    world.user(world.owner, "ann", None).await;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{{"AWS":"{}"}}}}}}"#,
        world.owner
    );
    let make_role = |txn: &mut Txn| {
        let about = About { name: "r", path: None, description: None, tags: &Default::default() };
        let new = NewRole { about, trust: &trust, max_session_secs: None };
        ops::create_role(txn, world.owner, new, &OsRandom, world.now).map(drop)
    };
    world.store.transact(&[], make_role).await.unwrap();
    let ann = format!(r#"{{"AWS":"arn:aws:iam::{}:user/ann"}}"#, world.owner);
    let session = format!(r#"{{"AWS":"arn:aws:sts::{}:assumed-role/r/any"}}"#, world.owner);
    let one = |principal: &str, action: &str, resource: &str| {
        format!(r#"{{"Effect":"Allow","Principal":{principal},"Action":"{action}","Resource":"{resource}"}}"#)
    };
    let inside = "arn:aws:s3:::shared/*";
    for good in [
        one(&ann, "s3:GetObject", inside),
        one(&session, "S3:*", "arn:aws:s3:::shared"),
        one(r#""*""#, "*", "arn:aws:s3:::shared/a/${aws:username}/*"),
    ] {
        assert!(world.policy(&good).await.is_ok(), "{good}");
    }
    let unknown = ann.replace("ann", "bob");
    let rows = [
        (one(&ann, "ec2:RunInstances", inside), "Policy has invalid action"),
        (one(&ann, "s3:GetObject", "*"), "Policy has invalid resource"),
        (one(&ann, "s3:GetObject", "arn:aws:s3:::shared2/*"), "Policy has invalid resource"),
        (one(&ann, "s3:GetObject", "arn:aws:s3:::sh*"), "Policy has invalid resource"),
        (one(&unknown, "s3:GetObject", inside), "Invalid principal in policy"),
        (one(r#"{"AWS":"999999999999"}"#, "s3:GetObject", inside), "Invalid principal in policy"),
        (one(&session.replace("/r/", "/q/"), "s3:GetObject", inside), "Invalid principal in policy"),
        (
            format!(r#"{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Sid":"{}"}}"#, "x".repeat(20_480)),
            "Policies exceed the maximum allowed document size.",
        ),
        (r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject"}"#.to_owned(), "Missing required field Resource"),
    ];
    for (statement, message) in rows {
        let error = world.policy(&statement).await.unwrap_err();
        assert_eq!((error.code(), error.message()), ("MalformedPolicy", message), "{statement}");
    }
    let txn = world.store.read().await.unwrap();
    for text in ["", "[]", "hello"] {
        assert_eq!(ops::resource_policy(&txn, text, SCOPE).unwrap_err().code(), "MalformedPolicy");
    }
    let policy = world.policy(&one(r#""*""#, "s3:GetObject", inside)).await.unwrap();
    assert!(ops::is_public(&policy).unwrap());
}
