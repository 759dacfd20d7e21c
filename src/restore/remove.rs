//! Lists and removes names, without ever leaving the directory or taking a mount point away.

use super::error::RestoreError;
use super::report::Placed;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{StatxAttributes, StatxFlags, statx};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names in an open directory, ascending: a database comes before what lies beside it.
pub fn names(directory: BorrowedFd<'_>, shown: &Path) -> Result<Vec<Vec<u8>>, RestoreError> {
    let fail = |errno: Errno| RestoreError::io("list", shown, errno);
    let again =
        openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let mut listing = Dir::from_fd(again.map_err(fail)?).map_err(fail)?;
    let mut names = Vec::new();
    for item in listing.iter() {
        let name = item.map_err(fail)?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens the directory `name` below another; a symlink isn't followed.
pub fn open_below(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<OwnedFd, RestoreError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, OsStr::from_bytes(name), flags, Mode::empty())
        .map_err(|errno| RestoreError::io("open", shown, errno))
}

/// A mount begins here: also a bind mount of the same file system, where device numbers are equal.
pub fn is_mount_point(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::NO_AUTOMOUNT;
    let stat = statx(directory, OsStr::from_bytes(name), flags, StatxFlags::MNT_ID);
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes one name and everything below it. A mount point on the way is left, with its parents; the plan has named it.
/// True if it is gone, or wasn't there.
pub fn remove(
    directory: BorrowedFd<'_>,
    name: &[u8],
    shown: &Path,
    placed: &mut Placed,
) -> Result<bool, RestoreError> {
    let fail = |errno: Errno| RestoreError::io("remove", shown, errno);
    if is_mount_point(directory, name) {
        return Ok(false);
    }
    let os_name = OsStr::from_bytes(name);
    let stat = match fstatat(directory, os_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(true),
        other => other.map_err(fail)?,
    };
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        unlinkat(directory, os_name, UnlinkatFlags::NoRemoveDir).map_err(fail)?;
        placed.removed += 1;
        return Ok(true);
    }
    let below = open_below(directory, name, shown)?;
    let mut gone = true;
    for inner in names(below.as_fd(), shown)? {
        gone &= remove(below.as_fd(), &inner, &shown.join(OsStr::from_bytes(&inner)), placed)?;
    }
    if gone {
        unlinkat(directory, os_name, UnlinkatFlags::RemoveDir).map_err(fail)?;
        placed.removed += 1;
    }
    Ok(gone)
}
