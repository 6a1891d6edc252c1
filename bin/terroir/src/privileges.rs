//! Giving up root for good.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Becomes user and group `id` if started by root; an ordinary user stays what it is. Capabilities go with root.
///
/// To be called before any thread is started: the change is per thread.
pub fn become_user(id: u32) -> Result<(), String> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|error| format!("cannot become user {id}: {error}"))
}
