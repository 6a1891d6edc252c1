//! An etcd of one or more members, each behind proxies, on free ports of this machine.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_store::etcd::{EtcdEngine, EtcdOptions};
use terroir_store::{LocalKeyRing, Options};

use crate::proxy::Proxy;

const DEADLINE: Duration = Duration::from_secs(30);
pub const LIMITS: [&str; 2] = ["--max-txn-ops=4096", "--max-request-bytes=4194304"];

pub struct Member {
    pub id: u64,
    child: Child,
    client_port: u16,
    peer_port: u16,
    pub client: Proxy,
    pub peer: Proxy,
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub folder: tempfile::TempDir,
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A call of etcd's JSON gateway.
pub fn call(port: u16, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn number(answer: &str, name: &str) -> Option<u64> {
    let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
    rest.split('"').next()?.parse().ok()
}

impl Cluster {
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, &LIMITS).await
    }

    pub async fn start_with(size: usize, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut ports = Vec::new();
        for _ in 0..size {
            let (client_port, peer_port) = (free_port(), free_port());
            ports.push((client_port, peer_port, Proxy::start(client_port).await, Proxy::start(peer_port).await));
        }
        let peers: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(n, (_, _, _, peer))| format!("m{n}=http://127.0.0.1:{}", peer.port))
            .collect();
        let peers = peers.join(",");
        let mut members = Vec::new();
        for (n, (client_port, peer_port, client, peer)) in ports.into_iter().enumerate() {
            let mut all = vec![format!("--initial-cluster={peers}"), "--initial-cluster-state=new".to_owned()];
            all.push(format!("--initial-advertise-peer-urls=http://127.0.0.1:{}", peer.port));
            all.extend(arguments.iter().map(ToString::to_string));
            std::fs::write(folder.path().join(format!("m{n}.arguments")), all.join("\n")).unwrap();
            let child = launch(folder.path(), n, client_port, peer_port);
            members.push(Member { id: 0, child, client_port, peer_port, client, peer });
        }
        let mut cluster = Self { members, folder };
        for n in 0..size {
            cluster.members[n].id = cluster.wait_for(n).await.0;
        }
        cluster
    }

    /// (its own id, the leader's), once it knows a leader.
    async fn wait_for(&self, n: usize) -> (u64, u64) {
        let port = self.members[n].client_port;
        let started = Instant::now();
        loop {
            let asked = tokio::task::spawn_blocking(move || call(port, "/v3/maintenance/status", "{}"));
            if let Ok(answer) = asked.await.unwrap()
                && let (Some(id), Some(leader)) = (number(&answer, "member_id"), number(&answer, "leader"))
            {
                return (id, leader);
            }
            let log = self.folder.path().join(format!("m{n}.log"));
            assert!(started.elapsed() < DEADLINE, "{}", std::fs::read_to_string(log).unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The number of the leader, as member `n` sees it.
    pub async fn leader(&self, n: usize) -> usize {
        let (_, leader) = self.wait_for(n).await;
        self.members.iter().position(|member| member.id == leader).unwrap()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://127.0.0.1:{}", member.client.port)).collect()
    }

    /// Of the etcd itself, not of the proxy.
    pub fn port(&self, n: usize) -> u16 {
        self.members[n].client_port
    }

    pub fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions::new(self.endpoints(), prefix, &Options::new("", Arc::new(LocalKeyRing::ephemeral())))
    }

    pub async fn engine(&self, prefix: &str) -> EtcdEngine {
        EtcdEngine::connect(self.options(prefix)).await.unwrap()
    }

    pub fn signal(&self, n: usize, signal: Signal) {
        kill(Pid::from_raw(self.members[n].child.id().cast_signed()), signal).unwrap();
    }

    pub fn kill(&mut self, n: usize) {
        self.members[n].child.kill().unwrap();
        self.members[n].child.wait().unwrap();
    }

    pub fn restart(&mut self, n: usize) {
        let member = &self.members[n];
        self.members[n].child = launch(self.folder.path(), n, member.client_port, member.peer_port);
    }

    /// Nothing goes between these members and the others any more; clients still reach them. Nobody: the cut is over.
    pub fn isolate(&self, some: &[usize]) {
        let id = |n: &usize| self.members[*n].id;
        for (n, member) in self.members.iter().enumerate() {
            let strangers: Vec<u64> = (0..self.members.len())
                .filter(|other| some.contains(other) != some.contains(&n))
                .map(|n| id(&n))
                .collect();
            member.peer.cut_from(&strangers);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that was killed is gone already.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

fn launch(folder: &Path, n: usize, client_port: u16, peer_port: u16) -> Child {
    let log = File::options().create(true).append(true).open(folder.join(format!("m{n}.log"))).unwrap();
    let arguments = std::fs::read_to_string(folder.join(format!("m{n}.arguments"))).unwrap();
    Command::new("etcd")
        .arg(format!("--name=m{n}"))
        .arg(format!("--data-dir={}", folder.join(format!("m{n}")).display()))
        .arg(format!("--listen-client-urls=http://127.0.0.1:{client_port}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{client_port}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
        .args(arguments.lines())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("etcd starts: is Debian's etcd-server installed?")
}
