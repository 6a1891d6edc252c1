//! Tap devices: made persistent, so that they belong to the interface and not to QEMU.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};

use super::NetworkError;

nix::ioctl_write_int!(tun_set_persist, b'T', 203);
nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
    InterfaceRequest
);

/// The part of `struct ifreq` that TUNSETIFF reads.
#[repr(C)]
#[derive(Debug)]
pub struct InterfaceRequest {
    name: [u8; nix::libc::IFNAMSIZ],
    flags: nix::libc::c_short,
    rest: [u8; 22],
}

/// Opens tap `name` of the calling thread's namespace, making it if there is none.
pub fn attach(name: &str) -> Result<OwnedFd, NetworkError> {
    let failed = || format!("tap {name}");
    let fd = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(NetworkError::errno("/dev/net/tun"))?;
    let flags = nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
    let mut request =
        InterfaceRequest { name: [0; nix::libc::IFNAMSIZ], flags: flags as nix::libc::c_short, rest: [0; 22] };
    if name.len() >= request.name.len() {
        return Err(NetworkError::Spec(format!("{name:?} is too long for a link")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open and the request is as large as `struct ifreq`.
    match unsafe { tun_set_iff(fd.as_raw_fd(), &raw const request) } {
        Ok(_) => Ok(fd),
        Err(Errno::EBUSY) => Err(NetworkError::TapBusy(name.to_owned())),
        Err(errno) => Err(NetworkError::errno(failed())(errno)),
    }
}

/// Makes tap `name` in the calling thread's namespace and leaves it there without a descriptor.
pub fn create(name: &str) -> Result<(), NetworkError> {
    let fd = attach(name)?;
    // SAFETY: the descriptor is an attached tap; the argument is a number.
    unsafe { tun_set_persist(fd.as_raw_fd(), 1) }.map(drop).map_err(NetworkError::errno(format!("tap {name}")))
}
