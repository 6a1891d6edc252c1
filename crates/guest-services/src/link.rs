//! Our end of the door: the agent says which sockets to serve and that the snapshot was replaced.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sockopt};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_agent_api::{FromGuestServices, ToGuestServices};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use crate::snapshot::{self, Current};
use crate::sockets::Sockets;

const LONGEST_LINE: usize = 64 * 1024;
const MOST_DESCRIPTORS: usize = 8;
const MOST_CONVERSATIONS: usize = 4;

/// Binds the socket; what a dead predecessor left is replaced, a live one is not.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "guest-services is running already"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether the other side is root or ourselves; the file's mode says the same, but a descriptor can be passed on.
fn trusted(stream: &UnixStream) -> bool {
    match getsockopt(stream, sockopt::PeerCredentials) {
        Ok(peer) => peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw(),
        Err(_) => false,
    }
}

/// What a conversation with the agent changes.
pub struct Link {
    pub sockets: Sockets,
    pub current: Current,
    pub snapshot: PathBuf,
}

/// Serves agents until the task is dropped. Each message is done before the next is read.
pub async fn serve(listener: UnixListener, link: Link) {
    let link = Arc::new(Mutex::new(link));
    let mut conversations = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the agent's socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while conversations.try_join_next().is_some() {}
        // An agent that restarts may be back before its old connection is seen to end; more than that is a fault.
        if !trusted(&stream) || conversations.len() >= MOST_CONVERSATIONS {
            tracing::warn!("somebody at the agent's socket was turned away");
            continue;
        }
        let link = link.clone();
        conversations.spawn(async move {
            if let Err(error) = converse(stream, &link).await {
                tracing::debug!(%error, "the agent's connection ended");
            }
        });
    }
}

async fn converse(mut stream: UnixStream, link: &Mutex<Link>) -> io::Result<()> {
    let mut incoming = Incoming::default();
    while let Some(line) = incoming.line(&stream).await? {
        let descriptor = incoming.descriptors.pop_front();
        let answer = link.lock().unwrap_or_else(PoisonError::into_inner).handle(&line, descriptor);
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        tokio::time::timeout(Duration::from_secs(10), stream.write_all(text.as_bytes())).await??;
    }
    Ok(())
}

impl Link {
    fn handle(&mut self, line: &[u8], descriptor: Option<OwnedFd>) -> FromGuestServices {
        let failed = |detail: String| FromGuestServices::Failed { detail };
        match (serde_json::from_slice(line), descriptor) {
            (Ok(ToGuestServices::Hello), _) => FromGuestServices::Holding {
                pid: std::process::id(),
                snapshot_generation: self.current.get().snapshot().generation,
                roles: self.sockets.roles(),
            },
            (Ok(ToGuestServices::Take { role }), Some(descriptor)) => match self.sockets.take(role, descriptor) {
                Ok(()) => FromGuestServices::Done,
                Err(error) => failed(format!("the socket cannot be served: {error}")),
            },
            (Ok(ToGuestServices::Take { .. }), None) => failed("no descriptor came with the message".to_owned()),
            (Ok(ToGuestServices::Drop { role }), _) => {
                self.sockets.drop_role(&role);
                FromGuestServices::Done
            }
            (Ok(ToGuestServices::Reload), _) => match snapshot::load(&self.snapshot) {
                Ok(index) => {
                    self.current.set(index);
                    FromGuestServices::Done
                }
                Err(error) => failed(format!("the snapshot cannot be read, the last one stays in use: {error}")),
            },
            (Err(error), _) => failed(format!("not understood: {error}")),
        }
    }
}

/// Bytes and descriptors that came and are not used yet.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Incoming {
    /// The next line without its end; `None` when the other side is done.
    async fn line(&mut self, stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.bytes.len() > LONGEST_LINE || self.descriptors.len() > MOST_DESCRIPTORS {
                return Err(io::Error::other("a message without end"));
            }
            if stream.async_io(Interest::READABLE, || self.receive(stream)).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 8]);
        let mut vectors = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut vectors, Some(&mut control), flags)?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = part {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                self.descriptors.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = message.bytes;
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestServicesOptions, run, sample};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::time::Instant;

    /// guest-services on a thread; what `work` does with their socket's path.
    fn with_running(work: impl FnOnce(&GuestServicesOptions)) {
        let folder = tempfile::tempdir().unwrap();
        let options = GuestServicesOptions::new(folder.path().join("socket"), folder.path().join("snapshot"));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let given = options.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(given, async { drop(stopped.await) })).unwrap();
        });
        let started = Instant::now();
        while StdUnixStream::connect(&options.socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        work(&options);
        drop(stop);
        thread.join().unwrap();
        assert!(!options.socket.exists());
    }

    fn say(stream: &StdUnixStream, line: &str) -> String {
        (&*stream).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    #[test]
    fn messages_and_what_is_wrong_with_them() {
        with_running(|options| {
            let stream = StdUnixStream::connect(&options.socket).unwrap();
            let generation = |stream| -> u64 {
                let answer: serde_json::Value = serde_json::from_str(&say(stream, r#"{"message":"hello"}"#)).unwrap();
                assert_eq!(answer["message"], "holding");
                answer["snapshot_generation"].as_u64().unwrap()
            };
            let reload = r#"{"message":"reload"}"#;
            assert_eq!(generation(&stream), 0);
            assert!(say(&stream, reload).contains("failed"), "there is no snapshot yet");
            std::fs::write(&options.snapshot, serde_json::to_vec(&sample::snapshot()).unwrap()).unwrap();
            assert_eq!(say(&stream, reload), r#"{"message":"done"}"#);
            assert_eq!(generation(&stream), 1);
            std::fs::write(&options.snapshot, b"{").unwrap();
            assert!(say(&stream, reload).contains("the last one stays in use"));
            assert_eq!(generation(&stream), 1);
            let role = format!(r#""role":{{"socket":"metadata","vpc":"{}"}}"#, sample::vpc(1));
            for (line, words) in [
                (format!(r#"{{"message":"take",{role}}}"#), "no descriptor came"),
                (format!(r#"{{"message":"drop",{role}}}"#), "done"),
                ("nonsense".to_owned(), "not understood"),
            ] {
                let answer = say(&stream, &line);
                assert!(answer.contains(words), "{line}: {answer}");
            }
            // A line without end costs the connection, not the process.
            let flood = StdUnixStream::connect(&options.socket).unwrap();
            let _ = (&flood).write_all(&vec![b'x'; 1 << 20]);
            assert!(matches!((&flood).read(&mut [0; 8]), Ok(0) | Err(_)));
            assert_eq!(generation(&stream), 1);
        });
    }

    #[test]
    fn another_users_process_is_turned_away() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: becoming another user needs root");
            return;
        }
        with_running(|options| {
            // Were the modes lax, the credentials would still tell.
            for path in [options.socket.parent().unwrap(), &options.socket] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            }
            let socket = options.socket.clone();
            let answered = move |uid: u32| {
                let socket = socket.clone();
                let thread = std::thread::spawn(move || {
                    // The bare system call changes this thread alone; the C library's would change all.
                    // SAFETY: it takes numbers, and the thread ends right after.
                    let changed = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, uid, uid, uid) };
                    assert_eq!(changed, 0);
                    let stream = StdUnixStream::connect(&socket).unwrap();
                    let sent = (&stream).write_all(b"{\"message\":\"hello\"}\n");
                    let mut answer = String::new();
                    let read = BufReader::new(&stream).read_line(&mut answer);
                    sent.is_ok() && read.is_ok() && answer.contains("holding")
                });
                thread.join().unwrap()
            };
            assert!(answered(0));
            assert!(!answered(64_321));
        });
    }
}
