//! A TCP proxy that delays or cuts what goes through it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

#[derive(Clone, Default)]
struct Rules {
    /// Of every piece of data, in both directions.
    delay: Duration,
    cut: bool,
    /// Members of etcd (as they name themselves to their peers) whose connections are cut.
    cut_from: HashSet<u64>,
}

impl Rules {
    fn cuts(&self, from: Option<u64>) -> bool {
        self.cut || from.is_some_and(|from| self.cut_from.contains(&from))
    }
}

pub struct Proxy {
    pub port: u16,
    rules: Arc<watch::Sender<Rules>>,
    listener: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = Arc::new(watch::Sender::new(Rules::default()));
        let shared = Arc::clone(&rules);
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, target, shared.subscribe()));
            }
        };
        Self { port, rules, listener: tokio::spawn(accept).abort_handle() }
    }

    pub fn delay(&self, delay: Duration) {
        self.rules.send_modify(|rules| rules.delay = delay);
    }

    /// Nothing goes through any more, and nobody is told: as if a cable were pulled.
    pub fn cut(&self, cut: bool) {
        self.rules.send_modify(|rules| rules.cut = cut);
    }

    pub fn cut_from(&self, members: &[u64]) {
        self.rules.send_modify(|rules| rules.cut_from = members.iter().copied().collect());
    }
}

/// etcd's peers say who they are in the first request of a connection.
fn sender(first: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(first);
    let (_, rest) = text.split_once("X-Server-From: ")?;
    u64::from_str_radix(rest.split('\r').next()?, 16).ok()
}

async fn connection(mut client: TcpStream, target: u16, rules: watch::Receiver<Rules>) {
    let mut first = vec![0; 64 << 10];
    let Ok(length) = client.read(&mut first).await else { return };
    first.truncate(length);
    let from = sender(&first);
    let mut held = rules.clone();
    let pass = async {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        // A small request must not wait for the answer to the one before.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let delay = rules.borrow().delay;
        tokio::time::sleep(delay).await;
        if server.write_all(&first).await.is_err() {
            return;
        }
        let ((client_reads, client_writes), (server_reads, server_writes)) = (client.split(), server.split());
        tokio::join!(copy(client_reads, server_writes, &rules), copy(server_reads, client_writes, &rules));
    };
    tokio::pin!(pass);
    loop {
        if held.borrow_and_update().cuts(from) {
            // Held, neither read nor closed, until the cut is over: then both sides have to begin anew.
            let _ = held.wait_for(|rules| !rules.cuts(from)).await;
            return;
        }
        tokio::select! {
            () = &mut pass => return,
            changed = held.changed() => if changed.is_err() { return },
        }
    }
}

async fn copy(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    rules: &watch::Receiver<Rules>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let delay = rules.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    // The other side is told; if it is gone, it knows.
    let _ = to.shutdown().await;
}
