//! The agent's end of the door to guest-services: writes the snapshot file, opens listening sockets inside the VPC
//! namespaces and hands them over. Both sides may restart at any time; a round compares what guest-services holds with
//! what it should hold and mends the difference.

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, bind, listen, sendmsg,
    setsockopt, socket, sockopt,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::{FromGuestServices, GuestSnapshot, SocketRole, ToGuestServices};
use terroir_types::VpcId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::network::{HostNetwork, METADATA, NetworkError, resolvers};

const DEADLINE: Duration = Duration::from_secs(10);
/// A list of a thousand sockets is about 100 KiB.
const LONGEST_ANSWER: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum GuestLinkError {
    /// Not running, or not answering in time. Guests already served go on being served if it runs.
    #[error("guest-services does not answer: {0}")]
    Unreachable(io::Error),
    #[error("guest-services says: {0}")]
    Refused(String),
    #[error("guest snapshot {path}: {source}")]
    Snapshot { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Where guest-services is and what it may read.
#[derive(Debug, Clone)]
pub struct GuestLinkOptions {
    pub socket: PathBuf,
    pub snapshot: PathBuf,
    /// Owner of the snapshot file.
    pub guest_services_uid: u32,
}

#[derive(Debug)]
pub struct GuestLink {
    options: GuestLinkOptions,
    network: Arc<HostNetwork>,
    memory: Mutex<Memory>,
}

/// Where a socket lives: the namespace's inode, and the number of the tap that it is bound to (0 for none). One that
/// lives elsewhere than it should (the tap or the namespace was made anew) hears nothing.
type Home = (u64, u32);

#[derive(Debug, Default)]
struct Memory {
    /// What the snapshot file holds.
    written: Option<GuestSnapshot>,
    /// Of the sockets that this process handed over.
    homes: BTreeMap<SocketRole, Home>,
}

impl GuestLink {
    pub fn new(options: GuestLinkOptions, network: Arc<HostNetwork>) -> Self {
        Self { options, network, memory: Mutex::default() }
    }

    /// Makes guest-services answer from `snapshot`. Its `generation` is set here: it rises when anything else changed.
    /// Sockets that cannot be opened now do not keep the others from being served; the first such error is the answer.
    pub async fn reconcile(&self, mut snapshot: GuestSnapshot) -> Result<(), GuestLinkError> {
        let mut memory = self.memory.lock().await;
        self.write(&mut memory, &mut snapshot)?;
        let mut conversation = Conversation::open(&self.options.socket).await.map_err(GuestLinkError::Unreachable)?;
        let (generation, held) = match conversation.say(&ToGuestServices::Hello, None).await? {
            FromGuestServices::Holding { snapshot_generation, roles, .. } => (snapshot_generation, roles),
            other => return Err(GuestLinkError::Refused(format!("{other:?}"))),
        };
        // First the snapshot: a socket is of no use to a guest that is not in it.
        if generation != snapshot.generation {
            conversation.done(&ToGuestServices::Reload, None).await?;
        }
        let wanted = wanted_roles(&snapshot);
        let mut first_error = None;
        for role in &held {
            if !wanted.contains(role) {
                memory.homes.remove(role);
                conversation.done(&ToGuestServices::Drop { role: role.clone() }, None).await?;
            }
        }
        for role in wanted {
            let home = match self.home(&role) {
                Ok(home) => home,
                Err(error) => {
                    first_error.get_or_insert(error);
                    continue;
                }
            };
            // Another agent's sockets are taken for good: namespaces outlive agents.
            if held.contains(&role) && memory.homes.get(&role).is_none_or(|known| *known == home) {
                memory.homes.insert(role, home);
                continue;
            }
            match self.open(&role) {
                Ok(descriptor) => {
                    conversation.done(&ToGuestServices::Take { role: role.clone() }, Some(descriptor)).await?;
                    memory.homes.insert(role, home);
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Writes the file if it holds something else, with the next generation.
    fn write(&self, memory: &mut Memory, snapshot: &mut GuestSnapshot) -> Result<(), GuestLinkError> {
        let path = &self.options.snapshot;
        if memory.written.is_none() {
            // From an earlier process; one that cannot be read is replaced.
            memory.written = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        }
        snapshot.generation = memory.written.as_ref().map_or(0, |written| written.generation);
        if memory.written.as_ref() == Some(snapshot) && path.exists() {
            return Ok(());
        }
        snapshot.generation += 1;
        replace(path, snapshot, self.options.guest_services_uid)
            .map_err(|source| GuestLinkError::Snapshot { path: path.clone(), source })?;
        memory.written = Some(snapshot.clone());
        Ok(())
    }

    fn home(&self, role: &SocketRole) -> Result<Home, NetworkError> {
        self.network.within(vpc_of(role), || {
            let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(NetworkError::io("a namespace"))?;
            let tap = match role {
                SocketRole::Dhcp { tap, .. } => {
                    nix::net::if_::if_nametoindex(tap.as_str()).map_err(NetworkError::errno(format!("tap {tap}")))?
                }
                _ => 0,
            };
            Ok((namespace.ino(), tap))
        })
    }

    fn open(&self, role: &SocketRole) -> Result<OwnedFd, NetworkError> {
        self.network.within(vpc_of(role), || open_socket(role).map_err(NetworkError::errno(format!("{role:?}"))))
    }
}

const fn vpc_of(role: &SocketRole) -> VpcId {
    match role {
        SocketRole::Dhcp { vpc, .. }
        | SocketRole::DnsUdp { vpc, .. }
        | SocketRole::DnsTcp { vpc, .. }
        | SocketRole::Metadata { vpc } => *vpc,
    }
}

fn wanted_roles(snapshot: &GuestSnapshot) -> BTreeSet<SocketRole> {
    let mut roles = BTreeSet::new();
    for network in &snapshot.vpcs {
        let vpc = network.id;
        roles.insert(SocketRole::Metadata { vpc });
        for address in resolvers(&network.cidrs, network.dns_support) {
            let address = IpAddr::V4(address);
            roles.insert(SocketRole::DnsUdp { vpc, address });
            roles.insert(SocketRole::DnsTcp { vpc, address });
        }
    }
    let interfaces = snapshot.guests.iter().flat_map(|guest| &guest.interfaces);
    roles.extend(interfaces.map(|nic| SocketRole::Dhcp { vpc: nic.vpc, tap: nic.tap.clone() }));
    roles
}

/// Opens, binds and (TCP) listens in the calling thread's namespace.
fn open_socket(role: &SocketRole) -> nix::Result<OwnedFd> {
    let (kind, address, port) = match role {
        SocketRole::Dhcp { .. } => (SockType::Datagram, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 67),
        SocketRole::DnsUdp { address, .. } => (SockType::Datagram, *address, 53),
        SocketRole::DnsTcp { address, .. } => (SockType::Stream, *address, 53),
        SocketRole::Metadata { .. } => (SockType::Stream, IpAddr::V4(METADATA), 80),
    };
    let IpAddr::V4(address) = address else { return Err(nix::errno::Errno::EAFNOSUPPORT) };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if let SocketRole::Dhcp { tap, .. } = role {
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &tap.into())?;
    }
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, port)))?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(128)?)?;
    }
    Ok(fd)
}

/// Whole or not at all, and readable by its owner only: it holds credentials.
fn replace(path: &Path, snapshot: &GuestSnapshot, owner: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    std::os::unix::fs::fchown(&file, Some(owner), None)?;
    file.write_all(&serde_json::to_vec(snapshot)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

struct Conversation(BufReader<UnixStream>);

impl Conversation {
    async fn open(path: &Path) -> io::Result<Self> {
        let stream = tokio::time::timeout(DEADLINE, UnixStream::connect(path)).await??;
        Ok(Self(BufReader::new(stream)))
    }

    async fn done(&mut self, message: &ToGuestServices, descriptor: Option<OwnedFd>) -> Result<(), GuestLinkError> {
        match self.say(message, descriptor).await? {
            FromGuestServices::Done => Ok(()),
            FromGuestServices::Failed { detail } => Err(GuestLinkError::Refused(detail)),
            other => Err(GuestLinkError::Refused(format!("{other:?}"))),
        }
    }

    async fn say(
        &mut self,
        message: &ToGuestServices,
        descriptor: Option<OwnedFd>,
    ) -> Result<FromGuestServices, GuestLinkError> {
        let exchange = tokio::time::timeout(DEADLINE, self.exchange(message, descriptor)).await;
        exchange.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(GuestLinkError::Unreachable)
    }

    async fn exchange(
        &mut self,
        message: &ToGuestServices,
        descriptor: Option<OwnedFd>,
    ) -> io::Result<FromGuestServices> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let raw: Vec<_> = descriptor.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        let mut sent = 0;
        while sent < line.len() {
            let stream = self.0.get_ref();
            sent += stream
                .async_io(Interest::WRITABLE, || {
                    let rights = [ControlMessage::ScmRights(&raw)];
                    // With the first byte only.
                    let control = if raw.is_empty() || sent > 0 { &[][..] } else { &rights[..] };
                    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&line[sent..])], control, flags, None)
                        .map_err(io::Error::from)
                })
                .await?;
        }
        let mut answer = Vec::new();
        (&mut self.0).take(LONGEST_ANSWER).read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
