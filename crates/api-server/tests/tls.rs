//! The endpoint over TLS: certificates that are renewed under connections, and clients that speak something else, or
//! nothing.

mod world;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_api_server::{CertificateFiles, bind};
use terroir_pki::{Authority, CurrentCertificate, Handshakes, Validity};
use terroir_types::{Clock, SeededRandom, SystemClock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use world::World;

const DEADLINE: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

async fn serve(tls: Handshakes) -> SocketAddr {
    let world = World::new().await;
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { world.server.serve(listener, Some(tls), std::future::pending()).await });
    address
}

struct Issuer {
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Issuer {
    fn new() -> Self {
        let now = SystemClock.now();
        let life = Validity { from: now.minus(Duration::from_secs(7200)), until: now.plus(Duration::from_secs(3600)) };
        let (authority, _) = Authority::create("tests", life, &SeededRandom::new(1)).unwrap();
        Self { authority, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate that ends `secs` from now.
    fn write(&self, secs: i64) {
        let now = SystemClock.now();
        let until = terroir_types::Timestamp::from_secs(now.secs() + secs);
        let life = Validity { from: now.minus(Duration::from_secs(3600)), until };
        let issued = self.authority.issue_server(&["localhost".to_owned()], life, &SeededRandom::new(2)).unwrap();
        fs::write(self.path("cert.pem"), issued.certificate_pem).unwrap();
        fs::write(self.path("key.pem"), issued.key_pem.expose()).unwrap();
    }

    fn open(&self) -> Arc<CertificateFiles> {
        CertificateFiles::open(&self.path("cert.pem"), &self.path("key.pem")).unwrap()
    }

    fn client(&self) -> Arc<ClientConfig> {
        terroir_pki::trusting_config(self.authority.certificate_pem()).unwrap()
    }
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Asks for something and leaves the connection open.
async fn is_healthy(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nok\n") {
        let mut byte = [0];
        if within("an answer", stream.read(&mut byte)).await.unwrap_or(0) == 0 {
            return false;
        }
        read.push(byte[0]);
    }
    read.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn a_certificate_is_renewed_under_a_living_connection() {
    let issuer = Issuer::new();
    issuer.write(-60);
    let files = issuer.open();
    let running = Arc::clone(&files);
    tokio::spawn(async move { running.run(Duration::from_millis(20), std::future::pending()).await });
    let address = serve(files.handshakes().unwrap()).await;
    let refused = connect(address, issuer.client()).await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("expired"), "{refused}");

    issuer.write(600);
    let start = Instant::now();
    let mut living = loop {
        match connect(address, issuer.client()).await {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{error}"),
        }
    };
    assert!(is_healthy(&mut living).await);
    let before = files.facts();

    // Half of a renewal: the key does not fit. What was in use stays, and somebody is told.
    let (certificate, key) = (issuer.path("cert.pem"), issuer.path("key.pem"));
    let old = fs::read(&certificate).unwrap();
    issuer.write(1200);
    let new = fs::read(&certificate).unwrap();
    fs::write(&certificate, &old).unwrap();
    files.look();
    let start = Instant::now();
    while files.problem().is_none() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(files.problem().unwrap().contains("do not belong together"));
    assert_eq!(files.facts(), before);
    assert!(is_healthy(&mut connect(address, issuer.client()).await.unwrap()).await);

    fs::write(&certificate, new).unwrap();
    let start = Instant::now();
    while files.facts() == before || files.problem().is_some() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_healthy(&mut living).await, "the connection from before goes on");
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut fresh = connect(address, issuer.client()).await.unwrap();
    assert_ne!(shown(&fresh), shown(&living));
    assert!(is_healthy(&mut fresh).await);

    fs::remove_file(&key).unwrap();
    files.look();
    assert!(files.problem().is_some());
    assert!(CertificateFiles::open(&certificate, &key).err().unwrap().to_string().contains("tls_key"));
}

#[tokio::test]
async fn who_speaks_something_else_or_nothing() {
    let issuer = Issuer::new();
    issuer.write(600);
    let chain = fs::read_to_string(issuer.path("cert.pem")).unwrap();
    let key = terroir_types::Secret::new(fs::read_to_string(issuer.path("key.pem")).unwrap());
    let current = CurrentCertificate::new(terroir_pki::certified(&chain, &key).unwrap());
    // One handshake at a time, so that whoever is slow stands in the way of all others.
    let slow = Duration::from_millis(300);
    let address = serve(Handshakes::new(terroir_pki::api_config(current).unwrap(), 1, slow)).await;

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut told = String::new();
    within("the end of plain HTTP", plain.read_to_string(&mut told)).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 400") && told.ends_with("use https://\n"), "{told}");
    let length: usize = told.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert_eq!(told.split("\r\n\r\n").nth(1).unwrap().len(), length);

    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut begun = TcpStream::connect(address).await.unwrap();
    begun.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let start = Instant::now();
    let mut waiting = within("a turn", connect(address, issuer.client())).await.unwrap();
    assert!(is_healthy(&mut waiting).await);
    assert!(start.elapsed() < DEADLINE);
    for (what, stream) in [("the silent one", &mut silent), ("the one that began", &mut begun)] {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = within(what, stream.read_to_end(&mut rest)).await;
        assert!(start.elapsed() >= slow / 2, "{what} was cut too early");
    }
    assert!(is_healthy(&mut waiting).await);
}
