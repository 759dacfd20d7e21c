//! Asks for a name in an open directory: several times as fast as through `/proc`, and however long the real path is.

use crate::format::EntryKind;
use crate::source::stat::{Stat, nanos};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// What is there, and of which kind; a symlink isn't followed.
pub fn stat_at(directory: impl AsFd, name: &[u8]) -> io::Result<(Stat, EntryKind)> {
    let found = fstatat(directory, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok((Stat::from(&found), EntryKind::of_mode(found.st_mode).unwrap_or(EntryKind::File)))
}

impl From<&FileStat> for Stat {
    #[allow(clippy::useless_conversion, reason = "how wide the number of links is depends on the processor")]
    fn from(found: &FileStat) -> Self {
        Self {
            dev: found.st_dev,
            ino: found.st_ino,
            mode: found.st_mode,
            nlink: found.st_nlink.into(),
            uid: found.st_uid,
            gid: found.st_gid,
            rdev: found.st_rdev,
            size: u64::try_from(found.st_size).unwrap_or_default(),
            mtime_ns: nanos(found.st_mtime, found.st_mtime_nsec),
            ctime_ns: nanos(found.st_ctime, found.st_ctime_nsec),
        }
    }
}
