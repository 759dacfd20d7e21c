//! Finds out whether another process has a file open, whatever its PID namespace, and keeps others from opening it.
//!
//! The kernel grants a write lease (`F_SETLEASE` in fcntl(2)) only while nobody else has the file open or mapped. It looks
//! at the file itself, so it also sees what `/proc` of a container doesn't show. While a lease is held, whoever opens the
//! file waits until it is given back, for at most `/proc/sys/fs/lease-break-time` seconds.

use super::filesystem::locks_reach;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Uid, geteuid, setfsuid};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Somebody who is just closing the file is waited for this often, this long.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(40);
/// Of fcntl(2), for which the bindings have no name.
const F_SETSIG: libc::c_int = 10;

/// Whether others have a file open.
#[derive(Debug)]
pub enum Openness {
    /// Nobody else has it open.
    Alone,
    /// Another process has it open or mapped.
    Open,
    /// It can't be told by a lease, with the reason.
    Unknown(String),
    /// Nobody else of this machine has it open, but others may reach it from elsewhere.
    AloneHere,
}

/// Others have to wait with opening the file until this is dropped.
pub struct WriteLease {
    file: File,
}

impl WriteLease {
    /// Takes a lease on an open file, of which this process must have no other descriptor. `Ok(None)`: somebody else has
    /// it open.
    pub fn take(file: &File) -> io::Result<Option<Self>> {
        let file = file.try_clone()?;
        // The signal that somebody waits is one that is ignored: the usual one would end this process.
        command(&file, F_SETSIG, libc::SIGURG)?;
        match command(&file, libc::F_SETLEASE, libc::F_WRLCK) {
            Err(Errno::EACCES) => as_owner(&file)?,
            other => other,
        }
        .map_or_else(
            |errno| if errno == Errno::EAGAIN { Ok(None) } else { Err(errno.into()) },
            |()| Ok(Some(Self { file })),
        )
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        // Where it was taken away, there is nothing to give back.
        let _ = command(&self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn command(file: &File, command: libc::c_int, argument: libc::c_int) -> nix::Result<()> {
    // SAFETY: both commands take an integer, and the descriptor is open as long as `file` lives.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }).map(drop)
}

/// Leases are for a file's owner, or need `CAP_LEASE`, which containers lack. Root may act as the owner in one thread.
fn as_owner(file: &File) -> io::Result<nix::Result<()>> {
    let owner = Uid::from_raw(file.metadata()?.uid());
    let before = setfsuid(owner);
    let taken = command(file, libc::F_SETLEASE, libc::F_WRLCK);
    setfsuid(before);
    // What can't be undone would make all that follows fail in strange ways.
    if setfsuid(before) == before { Ok(taken) } else { Err(Errno::EPERM.into()) }
}

/// Whether another process has this file open. Nothing is changed, and nobody is kept waiting but for an instant.
pub fn openness(file: &File) -> Openness {
    for attempt in 1.. {
        match WriteLease::take(file) {
            Ok(None) if attempt == TRIES => return Openness::Open,
            Ok(None) => std::thread::sleep(PAUSE),
            Ok(Some(_)) if locks_reach(file) => return Openness::Alone,
            Ok(Some(_)) => return Openness::AloneHere,
            Err(error) if locks_reach(file) => return Openness::Unknown(reason(&error)),
            Err(_) => return Openness::AloneHere,
        }
    }
    Openness::Open
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => {
            format!("user {} may not take a lease on it: only its owner and root can", geteuid())
        }
        Some(libc::EINVAL) => "its file system has no leases".into(),
        _ => format!("no lease can be had: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Openness, WriteLease, openness};
    use std::fs::File;

    #[test]
    fn a_second_descriptor_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        if matches!(openness(&file), Openness::Unknown(_) | Openness::AloneHere) {
            return;
        }
        assert!(matches!(openness(&file), Openness::Alone));
        let other = File::options().write(true).open(&path).unwrap();
        assert!(matches!(openness(&file), Openness::Open));
        drop(other);
        let lease = WriteLease::take(&file).unwrap().unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || File::open(path).map(drop)
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!waiting.is_finished(), "whoever opens it has to wait");
        drop(lease);
        waiting.join().unwrap().unwrap();
    }
}
