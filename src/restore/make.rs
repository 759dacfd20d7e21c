//! Makes single names in an open directory.

use super::error::RestoreError;
use crate::format::{Entry, EntryKind};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{fsync, linkat, symlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A new file that only this user can read until its attributes are set.
pub fn create_file(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<File, RestoreError> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, OsStr::from_bytes(name), flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map(File::from)
        .map_err(|errno| RestoreError::io("create", shown, errno))
}

/// A new directory, as private. One that is there by now is as good: another target of the same restore may lie in it.
pub fn make_directory(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<(), RestoreError> {
    let fail = |errno| RestoreError::io("create", shown, errno);
    match mkdirat(directory, OsStr::from_bytes(name), Mode::S_IRWXU) {
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(directory, OsStr::from_bytes(name), flags, Mode::empty()).map(drop).map_err(fail)
        }
        other => other.map_err(fail),
    }
}

/// A symlink, FIFO or device.
pub fn create_special(directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> nix::Result<()> {
    let name = OsStr::from_bytes(name);
    let kind = match entry.kind {
        EntryKind::Symlink => return symlinkat(OsStr::from_bytes(&entry.target), directory, name),
        EntryKind::Fifo => SFlag::S_IFIFO,
        EntryKind::CharDevice => SFlag::S_IFCHR,
        EntryKind::BlockDevice => SFlag::S_IFBLK,
        EntryKind::File | EntryKind::Directory | EntryKind::Socket => return Err(Errno::EINVAL),
    };
    mknodat(directory, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, entry.rdev)
}

/// Another name for a file.
pub fn link(from: impl AsFd, from_name: &[u8], to: impl AsFd, to_name: &[u8]) -> nix::Result<()> {
    linkat(from, OsStr::from_bytes(from_name), to, OsStr::from_bytes(to_name), AtFlags::empty())
}

/// Makes the names in a directory durable.
pub fn sync(directory: BorrowedFd<'_>, shown: &Path) -> Result<(), RestoreError> {
    fsync(directory).map_err(|errno| RestoreError::io("sync", shown, errno))
}
