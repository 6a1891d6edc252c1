use super::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use terroir_types::{Clock, HostId, ResourceId, SeededRandom, SystemClock, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

const REGION: &str = "eu-test-1";

fn validity(from_secs: i64, secs: u64) -> Validity {
    let from = Timestamp::from_secs(SystemClock.now().secs() + from_secs);
    Validity { from, until: from.plus(Duration::from_secs(secs)) }
}

fn authority(seed: u64) -> Authority {
    Authority::create("region", validity(-60, 3600), &SeededRandom::new(seed)).unwrap().0
}

fn host(seed: u64) -> HostId {
    HostId::generate(&SeededRandom::new(seed))
}

/// A server of `of` for the hosts' door.
fn server(of: &Authority, names: &[&str], life: Validity) -> Arc<ServerConfig> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = of.issue_server(&names, life, &SeededRandom::new(9)).unwrap();
    let chain = format!("{}{}", issued.certificate_pem, of.certificate_pem());
    hosts_config(CurrentCertificate::new(certified(&chain, &issued.key_pem).unwrap()), of.certificate()).unwrap()
}

fn member(of: &Authority, trusts: &Authority, host: HostId, life: Validity) -> Arc<ClientConfig> {
    let key = HostKey::create().unwrap();
    let request = SigningRequest::open(&key.request_pem).unwrap();
    let certificate = of.issue_host(&request, REGION, host, life, &SeededRandom::new(8)).unwrap();
    host_config(trusts.certificate_pem(), &certificate, &key.key_pem).unwrap()
}

/// Whom the server takes the client for (none: nobody), or why there is no connection.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<Option<HostId>, String> {
    let (near, far) = tokio::io::duplex(16 << 10);
    let accepting = tokio::spawn(async move {
        let mut stream = Handshakes::new(server, 1, Duration::from_secs(5)).accept(far).await?;
        stream.write_all(b"!").await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| host_of(&chain[0], REGION));
        Ok::<_, HandshakeError>(peer)
    });
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let connected = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.read_exact(&mut [0]).await
    };
    let connected = connected.await;
    let accepted = accepting.await.unwrap();
    connected.map_err(|error| error.to_string())?;
    accepted.map_err(|error| error.to_string())
}

#[tokio::test]
async fn who_is_let_in_and_who_is_believed() {
    let (ours, theirs) = (authority(1), authority(2));
    let life = validity(-60, 600);
    let door = || server(&ours, &[SERVER_NAME], life);
    let joined = member(&ours, &ours, host(3), life);
    assert_eq!(meet(door(), Arc::clone(&joined)).await, Ok(Some(host(3))));
    assert_eq!(
        meet(door(), joining_config(ours.fingerprint()).unwrap()).await,
        Ok(None),
        "a token's holder is nobody yet"
    );
    for (what, server, client) in [
        ("another authority's host", door(), member(&theirs, &ours, host(3), life)),
        ("a host whose certificate is over", door(), member(&ours, &ours, host(3), validity(-600, 300))),
        ("another authority's server", server(&theirs, &[SERVER_NAME], life), joined),
        ("a token for another authority", door(), joining_config(theirs.fingerprint()).unwrap()),
        (
            "a server whose certificate is over",
            server(&ours, &[SERVER_NAME], validity(-600, 300)),
            joining_config(ours.fingerprint()).unwrap(),
        ),
        (
            "a server of another name",
            server(&ours, &["api.example.org"], life),
            joining_config(ours.fingerprint()).unwrap(),
        ),
    ] {
        let met = meet(server, client).await;
        assert!(met.is_err(), "{what}: {met:?}");
    }
}

#[tokio::test]
async fn a_host_cannot_serve_and_a_server_is_no_host() {
    let ours = authority(1);
    let life = validity(-60, 600);
    let key = HostKey::create().unwrap();
    let request = SigningRequest::open(&key.request_pem).unwrap();
    let certificate = ours.issue_host(&request, REGION, host(3), life, &SeededRandom::new(1)).unwrap();
    let chain = format!("{certificate}{}", ours.certificate_pem());
    let as_server = hosts_config(CurrentCertificate::new(certified(&chain, &key.key_pem).unwrap()), ours.certificate());
    let met = meet(as_server.unwrap(), joining_config(ours.fingerprint()).unwrap()).await;
    assert!(met.is_err(), "a stolen host's key must not pass for a server: {met:?}");

    let issued = ours.issue_server(&[SERVER_NAME.to_owned()], life, &SeededRandom::new(1)).unwrap();
    let as_host = host_config(ours.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap();
    let met = meet(server(&ours, &[SERVER_NAME], life), as_host).await;
    assert!(met.is_err(), "a server's key must not pass for a host: {met:?}");
}

#[test]
fn certificates_say_what_they_are_for() {
    let ours = authority(1);
    let life = validity(0, 1000);
    let names = ["api.example.org", "*.s3.example.org", "192.0.2.7", "2001:db8::1"].map(str::to_owned);
    let issued = ours.issue_server(&names, life, &SeededRandom::new(1)).unwrap();
    let found = facts(&issued.certificate_pem).unwrap();
    assert_eq!((found.from, found.until), (life.from, life.until));
    assert_eq!(found.half_life(), life.from.plus(Duration::from_secs(500)));
    assert_eq!(found.names, names);
    for name in ["", "a b", "-x.example", "a..b", "ex\u{e4}mple.org", "*.*.example.org"] {
        assert!(ours.issue_server(&[name.to_owned()], life, &SeededRandom::new(1)).is_err(), "{name:?}");
    }
    let other = ours.issue_server(&names, life, &SeededRandom::new(1)).unwrap();
    assert_eq!(certified(&issued.certificate_pem, &other.key_pem).map(drop), Err(PkiError::WrongKey));
    assert!(certified("nothing", &other.key_pem).is_err());
    assert_eq!(Authority::open(ours.certificate_pem(), &other.key_pem).map(drop), Err(PkiError::WrongKey));
    assert!(Authority::open(&issued.certificate_pem, &issued.key_pem).is_err(), "a leaf signs nothing");
}

#[test]
fn only_the_holder_of_a_key_asks_for_it() {
    let key = HostKey::create().unwrap();
    let request = SigningRequest::open(&key.request_pem).unwrap();
    let again = HostKey::with_key(key.key_pem.clone()).unwrap();
    assert_eq!(SigningRequest::open(&again.request_pem).unwrap().key_sha256(), request.key_sha256());
    let other = SigningRequest::open(&HostKey::create().unwrap().request_pem).unwrap();
    assert_ne!(other.key_sha256(), request.key_sha256());
    let lines: Vec<&str> = key.request_pem.lines().collect();
    let mut changed = lines[lines.len() - 2].to_owned();
    let swap = if changed.starts_with('A') { "B" } else { "A" };
    changed.replace_range(0..1, swap);
    let forged = key.request_pem.replace(lines[lines.len() - 2], &changed);
    assert!(SigningRequest::open(&forged).is_err());
}

#[test]
fn a_token_is_read_whole_or_not_at_all() {
    let token = JoinToken::create(vec!["192.0.2.1:9002".to_owned()], authority(1).fingerprint(), &SeededRandom::new(1));
    let text = token.to_text();
    assert_eq!(text.expose().parse::<JoinToken>().unwrap(), token);
    assert!(!format!("{token:?}").contains(token.secret.expose()));
    for cut in [0, 5, 20, text.expose().len() - 7] {
        assert!(text.expose()[..cut].parse::<JoinToken>().is_err(), "{cut}");
    }
    assert_ne!(JoinToken::hash(&token.secret), *token.secret.expose());
}
