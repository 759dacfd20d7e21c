//! Removes what a snapshot doesn't have, without ever leaving the directory or taking a mount point away.

use super::error::RestoreError;
use super::report::Placed;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{StatxAttributes, StatxFlags, statx};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names in an open directory.
pub fn names(directory: BorrowedFd<'_>, shown: &Path) -> Result<Vec<Vec<u8>>, RestoreError> {
    let fail = |errno: nix::errno::Errno| RestoreError::io("list", shown, errno);
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
    Ok(names)
}

/// A mount begins here: also a bind mount of the same file system, where device numbers are equal.
pub fn is_mount_point(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::NO_AUTOMOUNT;
    let stat = statx(directory, OsStr::from_bytes(name), flags, StatxFlags::MNT_ID);
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes one name and everything below it. A mount point on the way is left, with its parents, and noted.
/// True if it is gone.
pub fn remove(
    directory: BorrowedFd<'_>,
    name: &[u8],
    shown: &Path,
    placed: &mut Placed,
) -> Result<bool, RestoreError> {
    let fail = |errno: nix::errno::Errno| RestoreError::io("remove", shown, errno);
    if is_mount_point(directory, name) {
        placed.problem(shown, "it is a mount point that the snapshot doesn't have; left alone".into());
        return Ok(false);
    }
    let os_name = OsStr::from_bytes(name);
    let stat = fstatat(directory, os_name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        unlinkat(directory, os_name, UnlinkatFlags::NoRemoveDir).map_err(fail)?;
        placed.removed += 1;
        return Ok(true);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let below: OwnedFd = openat(directory, os_name, flags, Mode::empty()).map_err(fail)?;
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
