//! nft as a process, and what tells whether the kernel still has what it was told.

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::NetworkError;

/// Longest time for one call; 20,000 elements take about a second.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a script in the calling thread's namespace, as one transaction. `place` names it in errors.
pub fn run(place: &str, script: &str) -> Result<(), NetworkError> {
    nft(place, &["-f", "-"], script).map(drop)
}

/// A digest of table `inet NAME`, elements included, as the kernel has it; `None` if it has none.
pub fn fingerprint(place: &str, table: &str) -> Result<Option<[u8; 32]>, NetworkError> {
    let text = match nft(place, &["-s", "list", "table", "inet", table], "") {
        Ok(text) => text,
        Err(NetworkError::Nft { detail, .. }) if detail.contains("No such file or directory") => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Sha256::digest(text.as_bytes()).into()))
}

fn scratch(contents: &str) -> Result<File, NetworkError> {
    let failed = || "memory for nft";
    let mut file = File::from(memfd_create("nft", MFdFlags::MFD_CLOEXEC).map_err(NetworkError::errno(failed()))?);
    file.write_all(contents.as_bytes()).map_err(NetworkError::io(failed()))?;
    file.rewind().map_err(NetworkError::io(failed()))?;
    Ok(file)
}

/// Files instead of pipes: neither side ever waits for the other.
fn nft(place: &str, arguments: &[&str], input: &str) -> Result<String, NetworkError> {
    let failed = || format!("nft for {place}");
    let duplicate = |file: &File| file.try_clone().map(Stdio::from).map_err(NetworkError::io(failed()));
    let (input, mut output, mut complaints) = (scratch(input)?, scratch("")?, scratch("")?);
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::from(input))
        .stdout(duplicate(&output)?)
        .stderr(duplicate(&complaints)?)
        .spawn()
        .map_err(NetworkError::io(failed()))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(NetworkError::io(failed()))? {
            break status;
        }
        if started.elapsed() > DEADLINE {
            // It may have ended meanwhile; either way it is over.
            let _ = child.kill();
            let _ = child.wait();
            return Err(NetworkError::Nft { place: place.to_owned(), detail: "no answer in 60 s".to_owned() });
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let read = |file: &mut File| {
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map(|_| text).map_err(NetworkError::io(failed()))
    };
    if status.success() {
        return read(&mut output);
    }
    let detail = read(&mut complaints)?.lines().take(6).collect::<Vec<_>>().join(" / ");
    Err(NetworkError::Nft { place: place.to_owned(), detail })
}

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;

/// The number of the namespace's ruleset: rises with every committed change, whoever makes it. Costs microseconds,
/// where listing costs milliseconds.
pub fn generation() -> Result<u32, NetworkError> {
    let failed = || NetworkError::errno("the generation of nftables");
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .map_err(failed())?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(5, 0)).map_err(failed())?;
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed())?;
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN;
    // struct nlmsghdr (length, type, NLM_F_REQUEST, sequence, port), struct nfgenmsg (family, version, resource)
    let mut request = Vec::with_capacity(20);
    request.extend(20u32.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(1u16.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    send(fd.as_raw_fd(), &request, MsgFlags::empty()).map_err(failed())?;
    let mut answer = [0; 4096];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(failed())?;
    read_generation(&answer[..length]).ok_or_else(|| {
        NetworkError::Spec("the kernel's answer about nftables' generation is not understood".to_owned())
    })
}

fn read_generation(message: &[u8]) -> Option<u32> {
    let half = |bytes: &[u8], at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if half(message, 4)? != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN) {
        return None;
    }
    let mut rest = message.get(20..)?;
    loop {
        let length = usize::from(half(rest, 0)?);
        if half(rest, 2)? == NFTA_GEN_ID {
            return Some(u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?));
        }
        rest = rest.get(length.checked_next_multiple_of(4)?.max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_generation(&bytes);
        }
    }
}
