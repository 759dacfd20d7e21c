//! Takes the flock that an application also takes, so that it stands still meanwhile.

use super::no_atime::open_file;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// A lock file that is held until this is dropped.
pub struct LockFile {
    _held: Flock<File>,
}

impl LockFile {
    /// Locks an existing file exclusively; `None` if others kept it for all of `patience`, or `go_on` said no.
    pub fn take(path: &Path, patience: Duration, go_on: &dyn Fn() -> bool) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + patience;
        let mut file = open_file(path)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(Some(Self { _held: held })),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline && go_on() => file = back,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno.into()),
            }
            std::thread::sleep(POLL);
        }
    }
}
