//! Owner, mode, extended attributes and times of what was placed.

use super::report::{Owner, Placed};
use crate::format::{Entry, EntryKind};
use nix::fcntl::AtFlags;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use rustix::fs::XattrFlags;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Sets everything but content. What isn't permitted (owners without root, trusted attributes) becomes a problem of the
/// report, never an abort: the content matters more.
pub fn set_attributes(
    directory: BorrowedFd<'_>,
    entry: &Entry,
    owner: Owner,
    shown: &Path,
    placed: &mut Placed,
) {
    let name = OsStr::from_bytes(&entry.name);
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    let (uid, gid) = match owner {
        Owner::AsRecorded => (entry.uid, entry.gid),
        Owner::Fixed { uid, gid } => (uid, gid),
    };
    let now = std::fs::symlink_metadata(&path).ok();
    let owned = now.as_ref().is_some_and(|now| now.uid() == uid && now.gid() == gid);
    if !owned {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Err(errno) = fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW) {
            placed.problem(shown, format!("its owner could not be set: {errno}"));
        }
    }
    if entry.kind != EntryKind::Symlink {
        let permissions = std::fs::Permissions::from_mode(entry.mode);
        // Changing the owner clears set-user-id, so the mode comes after it.
        if let Err(error) = std::fs::set_permissions(&path, permissions) {
            placed.problem(shown, format!("its mode could not be set: {error}"));
        }
    }
    set_extended(&path, entry, shown, placed);
    let time =
        TimeSpec::new(entry.mtime_ns.div_euclid(1_000_000_000), entry.mtime_ns.rem_euclid(1_000_000_000));
    let times = utimensat(directory, name, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink);
    if let Err(errno) = times {
        placed.problem(shown, format!("its modification time could not be set: {errno}"));
    }
}

fn set_extended(path: &Path, entry: &Entry, shown: &Path, placed: &mut Placed) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    for name in present(&path) {
        if !entry.xattrs.iter().any(|(kept, _)| *kept == name)
            && let Ok(name) = CString::new(name)
        {
            // An attribute of the system's own that can't be removed was never the file's.
            let _ = rustix::fs::lremovexattr(&*path, &*name);
        }
    }
    for (name, value) in &entry.xattrs {
        let Ok(key) = CString::new(name.as_slice()) else { continue };
        let mut before = vec![0; value.len() + 1];
        let same = rustix::fs::lgetxattr(&*path, &*key, &mut before[..])
            .is_ok_and(|len| before.get(..len) == Some(value));
        if same {
            continue;
        }
        if let Err(errno) = rustix::fs::lsetxattr(&*path, &*key, value, XattrFlags::empty()) {
            let name = String::from_utf8_lossy(name);
            placed.problem(shown, format!("its attribute {name} could not be set: {errno}"));
        }
    }
}

fn present(path: &CString) -> Vec<Vec<u8>> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(&**path, &mut names[..]).unwrap_or(0);
    names.truncate(len);
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}
