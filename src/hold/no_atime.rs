//! Opens files and directories for reading without leaving an access time behind.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `O_NOATIME` is for the owner and root only: with EPERM the file is opened without it.
fn without_atime(open: impl Fn(OFlag) -> nix::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => Ok(open(flags)?),
        other => Ok(other?),
    }
}

/// Opens a file by its path; symlinks are followed.
pub fn open_file(path: &Path) -> io::Result<File> {
    without_atime(|flags| open(path, flags, Mode::empty())).map(File::from)
}

/// Opens a directory by its path; symlinks are followed.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    without_atime(|flags| open(path, flags | OFlag::O_DIRECTORY, Mode::empty()))
}

/// Opens what a directory holds under `name`, unless it is a symlink.
pub fn open_file_at(directory: impl AsFd, name: &[u8], is_directory: bool) -> io::Result<OwnedFd> {
    let kind = if is_directory { OFlag::O_DIRECTORY } else { OFlag::empty() };
    without_atime(|flags| {
        openat(directory.as_fd(), OsStr::from_bytes(name), flags | kind | OFlag::O_NOFOLLOW, Mode::empty())
    })
}
