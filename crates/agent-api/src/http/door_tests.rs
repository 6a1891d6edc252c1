//! Over real TLS: the host that a request names must be that of the certificate, for every crossing.

use super::*;
use crate::*;
use async_trait::async_trait;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terroir_pki::{Authority, CurrentCertificate, Handshakes, HostKey, SERVER_NAME, SigningRequest, Validity};
use terroir_types::{Clock, ResourceId, Secret, SeededRandom, SystemClock};

const REGION: &str = "eu-test-1";

fn host(seed: u64) -> HostId {
    HostId::generate(&SeededRandom::new(seed))
}

/// Lets in one host, and notes who came through.
struct World {
    authority: Authority,
    member: HostId,
    seen: Mutex<Vec<&'static str>>,
}

impl World {
    fn new() -> Arc<Self> {
        let (authority, _) = Authority::create("region", life(), &SeededRandom::new(1)).unwrap();
        Arc::new(Self { authority, member: host(1), seen: Mutex::default() })
    }

    fn saw(&self, what: &'static str) {
        self.seen.lock().unwrap().push(what);
    }

    fn membership(&self, host: HostId, request_pem: &str) -> Result<Membership, CrossingError> {
        let request = SigningRequest::open(request_pem).map_err(|e| CrossingError::Refused(e.to_string()))?;
        Ok(Membership {
            host,
            region: REGION.to_owned(),
            site: "a".to_owned(),
            certificate_pem: self.authority.issue_host(&request, REGION, host, life(), &SeededRandom::new(2)).unwrap(),
            authority_pem: self.authority.certificate_pem().to_owned(),
            servers: vec!["192.0.2.1:1".to_owned()],
        })
    }

    async fn serve(self: &Arc<Self>) -> SocketAddr {
        let issued = self.authority.issue_server(&[SERVER_NAME.to_owned()], life(), &SeededRandom::new(3)).unwrap();
        let chain = format!("{}{}", issued.certificate_pem, self.authority.certificate_pem());
        let current = CurrentCertificate::new(terroir_pki::certified(&chain, &issued.key_pem).unwrap());
        let config = terroir_pki::hosts_config(current, self.authority.certificate()).unwrap();
        let door = HostDoor {
            region: REGION.to_owned(),
            handshakes: Handshakes::new(config, 4, Duration::from_secs(5)),
            admission: Arc::clone(self) as _,
            control: Arc::clone(self) as _,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(door.serve(listener, std::future::pending()));
        address
    }

    /// A host with a certificate for a region.
    fn client(&self, address: SocketAddr, host: HostId, region: &str) -> HttpControlPlane {
        let key = HostKey::create().unwrap();
        let request = SigningRequest::open(&key.request_pem).unwrap();
        let certificate = self.authority.issue_host(&request, region, host, life(), &SeededRandom::new(4)).unwrap();
        let config = terroir_pki::host_config(self.authority.certificate_pem(), &certificate, &key.key_pem).unwrap();
        dialling(vec![address.to_string()], config)
    }
}

fn dialling(servers: Vec<String>, config: Arc<ClientConfig>) -> HttpControlPlane {
    HttpControlPlane::with_dial(TlsDial::new(servers, config))
}

fn life() -> Validity {
    let now = SystemClock.now();
    Validity { from: now.minus(Duration::from_secs(60)), until: now.plus(Duration::from_secs(600)) }
}

#[async_trait]
impl Admission for World {
    async fn join(&self, request: JoinRequest) -> Result<Membership, CrossingError> {
        self.saw("join");
        self.membership(request.host, &request.request_pem)
    }

    async fn renew(&self, request: RenewRequest) -> Result<Membership, CrossingError> {
        self.saw("renew");
        self.membership(request.host, &request.request_pem)
    }

    async fn admit(&self, host: HostId) -> Result<(), CrossingError> {
        if host == self.member { Ok(()) } else { Err(CrossingError::Refused("removed".to_owned())) }
    }
}

#[async_trait]
impl ControlPlane for World {
    async fn pull_spec(&self, _host: HostId, cursor: Cursor, _wait: Duration) -> Result<SpecPage, CrossingError> {
        self.saw("pull-spec");
        Ok(SpecPage { cursor, full: false, changed: HostSpec::new(), removed: vec![] })
    }

    async fn report(&self, _report: HostReport) -> Result<ReportAck, CrossingError> {
        self.saw("report");
        Ok(ReportAck { want_full: false })
    }

    async fn queries(&self, _host: HostId, _wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.saw("queries");
        Ok(vec![])
    }

    async fn answer(&self, _host: HostId, _query: u64, _answer: QueryAnswer) -> Result<(), CrossingError> {
        self.saw("answer");
        Ok(())
    }

    async fn fetch_blob(&self, _host: HostId, _name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.saw("fetch-blob");
        sink.write_all(b"blob").map_err(|error| CrossingError::Unreachable(error.to_string()))
    }

    async fn credentials(&self, _host: HostId, _instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.saw("credentials");
        Err(CrossingError::NotFound("no role".to_owned()))
    }
}

/// What each crossing says to a client that names `host`, by name.
async fn all_crossings(client: &HttpControlPlane, host: HostId) -> Vec<(&'static str, Result<(), CrossingError>)> {
    let report = HostReport {
        host,
        boot_id: "b".to_owned(),
        sequence: 1,
        full: false,
        facts: None,
        instances: vec![],
        volumes: vec![],
        interfaces: vec![],
    };
    let renewal = RenewRequest { host, request_pem: HostKey::create().unwrap().request_pem };
    let instance = InstanceId::generate(&SeededRandom::new(5));
    vec![
        ("pull-spec", client.pull_spec(host, 0, Duration::ZERO).await.map(drop)),
        ("report", client.report(report).await.map(drop)),
        ("queries", client.queries(host, Duration::ZERO).await.map(drop)),
        ("answer", client.answer(host, 1, QueryAnswer::NotRunning).await),
        ("fetch-blob", client.fetch_blob(host, "x", &mut Vec::new()).await),
        ("credentials", client.credentials(host, instance).await.map(drop)),
        ("renew", client.renew(&renewal).await.map(drop)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_crossing_is_of_the_certificates_host() {
    let world = World::new();
    let address = world.serve().await;
    let own = world.client(address, host(1), REGION);
    for (crossing, answer) in all_crossings(&own, host(1)).await {
        let passed = answer.is_ok() || answer == Err(CrossingError::NotFound("no role".to_owned()));
        assert!(passed, "{crossing}: {answer:?}");
    }
    let seen = std::mem::take(&mut *world.seen.lock().unwrap());
    assert_eq!(seen, ["pull-spec", "report", "queries", "answer", "fetch-blob", "credentials", "renew"]);

    let joining = terroir_pki::joining_config(world.authority.fingerprint()).unwrap();
    for (what, client, named, words) in [
        ("another host's id", world.client(address, host(1), REGION), host(2), "the certificate is of host-"),
        ("a host that was removed", world.client(address, host(2), REGION), host(2), "removed"),
        ("no certificate", dialling(vec![address.to_string()], joining), host(1), "may only join"),
    ] {
        for (crossing, answer) in all_crossings(&client, named).await {
            assert!(
                matches!(&answer, Err(CrossingError::Refused(text)) if text.contains(words)),
                "{what}, {crossing}: {answer:?}"
            );
        }
    }
    let (other, _) = Authority::create("other", life(), &SeededRandom::new(9)).unwrap();
    let key = HostKey::create().unwrap();
    let request = SigningRequest::open(&key.request_pem).unwrap();
    let forged = other.issue_host(&request, REGION, host(1), life(), &SeededRandom::new(4)).unwrap();
    let forged = terroir_pki::host_config(world.authority.certificate_pem(), &forged, &key.key_pem).unwrap();
    for (what, client) in [
        ("a certificate of another region", world.client(address, host(1), "eu-test-10")),
        ("a certificate of another authority", dialling(vec![address.to_string()], forged)),
    ] {
        for (crossing, answer) in all_crossings(&client, host(1)).await {
            assert!(matches!(answer, Err(CrossingError::Unreachable(_))), "{what}, {crossing}: {answer:?}");
        }
    }
    assert_eq!(*world.seen.lock().unwrap(), Vec::<&str>::new(), "nothing of this reached the control plane");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_through_the_server_that_answers() {
    let world = World::new();
    let address = world.serve().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let servers = vec![closed.clone(), address.to_string()];
    let joining = terroir_pki::joining_config(world.authority.fingerprint()).unwrap();
    let client = dialling(servers, joining);
    let key = HostKey::create().unwrap();
    let request = |pem: &str| JoinRequest {
        protocol: PROTOCOL_VERSION,
        secret: Secret::new("s".to_owned()),
        host: host(1),
        request_pem: pem.to_owned(),
    };
    let member = client.join(&request(&key.request_pem)).await.unwrap();
    assert_eq!(member.host, host(1));
    assert!(matches!(client.join(&request("x")).await, Err(CrossingError::Refused(_))));
    let long = client.join(&request(&"x".repeat(100 << 10))).await;
    assert!(matches!(long, Err(CrossingError::Refused(_))), "{long:?}");

    let config = terroir_pki::host_config(&member.authority_pem, &member.certificate_pem, &key.key_pem).unwrap();
    let dial = TlsDial::new(vec![closed], config);
    let client = HttpControlPlane::with_dial(Arc::clone(&dial) as _);
    let away = client.pull_spec(host(1), 7, Duration::ZERO).await;
    assert!(matches!(away, Err(CrossingError::Unreachable(_))), "{away:?}");
    let config = terroir_pki::host_config(&member.authority_pem, &member.certificate_pem, &key.key_pem).unwrap();
    dial.replace(vec![address.to_string()], config);
    assert_eq!(client.pull_spec(host(1), 7, Duration::ZERO).await.unwrap().cursor, 7);
}
