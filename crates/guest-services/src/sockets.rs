//! The sockets in hand and the tasks that serve them.

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, sockopt};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use terroir_agent_api::SocketRole;
use terroir_types::{InterfaceId, VpcId};
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::limit::Limiter;
use crate::snapshot::Current;
use crate::{dhcp, dns, metadata};

/// DHCP answers a second per interface.
const DHCP_PER_SECOND: u32 = 20;

/// What every socket's task gets.
#[derive(Clone)]
pub struct Services {
    pub current: Current,
    pub metadata: metadata::Service,
    pub forwarder: dns::Forwarder,
    pub dns_limits: Arc<Mutex<Limiter<InterfaceId>>>,
    pub dhcp_limits: Arc<Mutex<Limiter<InterfaceId>>>,
    pub dhcp_lease_secs: u32,
}

impl Services {
    pub fn new(current: Current, metadata: metadata::Service, upstream_port: u16, dhcp_lease_secs: u32) -> Self {
        Self {
            current,
            metadata,
            forwarder: dns::Forwarder::new(upstream_port),
            dns_limits: Arc::new(Mutex::new(Limiter::new(dns::QUERIES_PER_SECOND, dns::QUERIES_PER_SECOND))),
            dhcp_limits: Arc::new(Mutex::new(Limiter::new(DHCP_PER_SECOND, DHCP_PER_SECOND))),
            dhcp_lease_secs,
        }
    }
}

/// Sockets by role. Dropping one closes it.
pub struct Sockets {
    services: Services,
    held: BTreeMap<SocketRole, Held>,
}

struct Held {
    task: JoinHandle<()>,
    /// DHCP's socket, to ask whether its tap is still there.
    bound: Option<Arc<UdpSocket>>,
}

impl Held {
    /// Whether anything can still come out of it.
    fn alive(&self) -> bool {
        let bound = self.bound.as_ref().is_none_or(|socket| {
            nix::sys::socket::getsockopt(socket, sockopt::BindToDevice).is_ok_and(|tap| !tap.is_empty())
        });
        bound && !self.task.is_finished()
    }
}

impl Sockets {
    pub const fn new(services: Services) -> Self {
        Self { services, held: BTreeMap::new() }
    }

    pub fn roles(&self) -> Vec<SocketRole> {
        self.held.iter().filter(|(_, held)| held.alive()).map(|(role, _)| role.clone()).collect()
    }

    /// Serves `fd` as `role`, in the place of an earlier one.
    pub fn take(&mut self, role: SocketRole, fd: OwnedFd) -> io::Result<()> {
        let services = self.services.clone();
        let current = services.current.clone();
        let mut bound = None;
        let task = match role.clone() {
            SocketRole::Dhcp { vpc, tap } => {
                let socket = Arc::new(udp(fd)?);
                bound = Some(socket.clone());
                tokio::spawn(serve_dhcp(socket, vpc, tap, services))
            }
            SocketRole::DnsUdp { vpc, .. } => {
                tokio::spawn(dns::serve_udp(udp(fd)?, vpc, current, services.forwarder, services.dns_limits))
            }
            SocketRole::DnsTcp { vpc, .. } => {
                tokio::spawn(dns::serve_tcp(tcp(fd)?, vpc, current, services.forwarder, services.dns_limits))
            }
            SocketRole::Metadata { vpc } => tokio::spawn(metadata::serve(tcp(fd)?, vpc, services.metadata)),
        };
        self.drop_role(&role);
        self.held.insert(role, Held { task, bound });
        Ok(())
    }

    pub fn drop_role(&mut self, role: &SocketRole) {
        if let Some(held) = self.held.remove(role) {
            held.task.abort();
        }
    }
}

fn udp(fd: OwnedFd) -> io::Result<UdpSocket> {
    let socket = StdUdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn tcp(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = StdTcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn serve_dhcp(socket: Arc<UdpSocket>, vpc: VpcId, tap: String, services: Services) {
    let mut buffer = [0; dhcp::LARGEST_REQUEST];
    loop {
        let length = match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => length,
            Err(error) => {
                tracing::warn!(%vpc, tap, %error, "DHCP socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let index = services.current.get();
        let Some(seen) = index.by_tap(vpc, &tap) else { continue };
        let admitted = {
            let mut limits = services.dhcp_limits.lock().unwrap_or_else(PoisonError::into_inner);
            limits.take(seen.interface.id, Instant::now())
        };
        if !admitted {
            continue;
        }
        if let Some(reply) = dhcp::answer(&buffer[..length], &index, seen, services.dhcp_lease_secs)
            && let Err(error) = send(&socket, &reply).await
        {
            tracing::warn!(%vpc, tap, %error, "DHCP answer");
        }
    }
}

/// With the gateway's address as its source: the socket is bound to all of them.
async fn send(socket: &UdpSocket, reply: &dhcp::Reply) -> io::Result<()> {
    let source = nix::libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from_ne_bytes(reply.source.octets()) },
        ipi_addr: nix::libc::in_addr { s_addr: 0 },
    };
    let once = || {
        let vectors = [IoSlice::new(&reply.bytes)];
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        let to = SockaddrIn::from(reply.to);
        sendmsg(socket.as_raw_fd(), &vectors, &control, MsgFlags::MSG_DONTWAIT, Some(&to)).map(drop).map_err(Into::into)
    };
    let sent = tokio::time::timeout(Duration::from_secs(1), socket.async_io(Interest::WRITABLE, once)).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
