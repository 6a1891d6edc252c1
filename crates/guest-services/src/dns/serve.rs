//! The sockets of the resolver.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use terroir_types::{InterfaceId, VpcId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Forwarder, Verdict, decide};
use crate::limit::Limiter;
use crate::snapshot::Current;

/// Queries a second per interface, as in AWS.
pub const QUERIES_PER_SECOND: u32 = 1024;
const CONNECTIONS_PER_VPC: usize = 128;
const IDLE: Duration = Duration::from_secs(10);
/// A query has one question; EDNS options make it longer, but not this long.
const LARGEST_QUERY: usize = 1500;

pub type Limits = Arc<Mutex<Limiter<InterfaceId>>>;

/// Serves a socket until it fails or the task is dropped.
pub async fn serve_udp(socket: UdpSocket, vpc: VpcId, current: Current, forwarder: Forwarder, limits: Limits) {
    let socket = Arc::new(socket);
    let mut buffer = [0; LARGEST_QUERY];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer; the socket itself is fine.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%vpc, %error, "resolver socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !admitted(&current, vpc, peer.ip(), &limits) {
            continue;
        }
        let index = current.get();
        match decide(&buffer[..length], &index, vpc, false) {
            Verdict::Ignore => {}
            // Whether or not it goes out: the client asks again.
            Verdict::Answer(bytes) => drop(socket.send_to(&bytes, peer).await),
            Verdict::Forward(question) => {
                let (socket, forwarder) = (socket.clone(), forwarder.clone());
                tokio::spawn(async move {
                    let answer = forwarder.ask(&question, &index.snapshot().dns_upstreams, false).await;
                    drop(socket.send_to(&answer, peer).await);
                });
            }
        }
    }
}

/// Only guests of the VPC, and only so many queries a second.
fn admitted(current: &Current, vpc: VpcId, peer: IpAddr, limits: &Limits) -> bool {
    let index = current.get();
    let Some(seen) = index.by_address(vpc, peer) else { return false };
    limits.lock().unwrap_or_else(PoisonError::into_inner).take(seen.interface.id, Instant::now())
}

pub async fn serve_tcp(listener: TcpListener, vpc: VpcId, current: Current, forwarder: Forwarder, limits: Limits) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_PER_VPC));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%vpc, %error, "resolver listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (current, forwarder, limits) = (current.clone(), forwarder.clone(), limits.clone());
        tokio::spawn(async move {
            // However it ends, the client notices by itself.
            let _ = converse(stream, peer.ip(), vpc, current, forwarder, limits).await;
            drop(place);
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    peer: IpAddr,
    vpc: VpcId,
    current: Current,
    forwarder: Forwarder,
    limits: Limits,
) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; timeout(IDLE, stream.read_u16()).await??.into()];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        if query.len() > LARGEST_QUERY || !admitted(&current, vpc, peer, &limits) {
            return Ok(());
        }
        let index = current.get();
        let answer = match decide(&query, &index, vpc, true) {
            Verdict::Ignore => return Ok(()),
            Verdict::Answer(bytes) => bytes,
            Verdict::Forward(question) => forwarder.ask(&question, &index.snapshot().dns_upstreams, true).await,
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())).await??;
    }
}
