//! Owner, mode, extended attributes and times of what was placed.

use super::report::{Owner, Placed};
use crate::format::{Entry, EntryKind};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use rustix::fs::XattrFlags;
use std::ffi::{CString, OsStr};
use std::fs::Metadata;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is to be done about one name's attributes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needed {
    owner: bool,
    mode: bool,
    time: bool,
    /// Names to remove, and to set.
    removed: Vec<CString>,
    set: Vec<(CString, Vec<u8>)>,
}

impl Owner {
    fn of(self, entry: &Entry) -> (u32, u32) {
        match self {
            Self::AsRecorded => (entry.uid, entry.gid),
            Self::Fixed { uid, gid } => (uid, gid),
        }
    }
}

/// True if something other than the content is to be set.
pub fn attributes_differ(directory: BorrowedFd<'_>, entry: &Entry, owner: Owner) -> bool {
    needed(&path_of(directory, entry), entry, owner) != Needed::default()
}

/// Sets everything but content, where it differs. What isn't permitted (owners without root, trusted attributes) becomes a
/// problem of the report, never an abort: the content matters more.
pub fn set_attributes(
    directory: BorrowedFd<'_>,
    entry: &Entry,
    owner: Owner,
    shown: &Path,
    placed: &mut Placed,
) {
    let name = OsStr::from_bytes(&entry.name);
    let path = path_of(directory, entry);
    let Needed { owner: is_others, mode, time, mut removed, mut set } = needed(&path, entry, owner);
    if is_others {
        let (uid, gid) = owner.of(entry);
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Err(errno) = fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW) {
            placed.problem(shown, format!("its owner could not be set: {errno}"));
        }
    }
    if is_others {
        // A change of owner takes capabilities away.
        (removed, set) = extended(&path, entry);
    }
    let is_link = entry.kind == EntryKind::Symlink;
    if !set.is_empty() && !is_link {
        // Who isn't root sets attributes of files that he may write.
        let _ = set_mode(directory, name, entry.mode | 0o200);
    }
    set_extended(&path, &removed, &set, shown, placed);
    // Changing the owner clears set-user-id, so the mode comes after it.
    if (mode || is_others || !set.is_empty())
        && !is_link
        && let Err(errno) = set_mode(directory, name, entry.mode)
    {
        placed.problem(shown, format!("its mode could not be set: {errno}"));
    }
    if time {
        let (seconds, nanos) =
            (entry.mtime_ns.div_euclid(1_000_000_000), entry.mtime_ns.rem_euclid(1_000_000_000));
        let time = TimeSpec::new(seconds, nanos);
        let flags = UtimensatFlags::NoFollowSymlink;
        if let Err(errno) = utimensat(directory, name, &TimeSpec::UTIME_OMIT, &time, flags) {
            placed.problem(shown, format!("its modification time could not be set: {errno}"));
        }
    }
}

/// Sets the mode of what lies at a name; a symlink isn't followed, whoever may have put one there.
fn set_mode(directory: BorrowedFd<'_>, name: &OsStr, mode: u32) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    fchmodat(AT_FDCWD, path.as_str(), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

/// Works however long the real path is.
fn path_of(directory: BorrowedFd<'_>, entry: &Entry) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(OsStr::from_bytes(&entry.name))
}

fn needed(path: &Path, entry: &Entry, owner: Owner) -> Needed {
    let now = std::fs::symlink_metadata(path).ok();
    let differs = |same: &dyn Fn(&Metadata) -> bool| !now.as_ref().is_some_and(same);
    let mtime = |now: &Metadata| now.mtime().saturating_mul(1_000_000_000).saturating_add(now.mtime_nsec());
    let (removed, set) = extended(path, entry);
    Needed {
        owner: differs(&|now| (now.uid(), now.gid()) == owner.of(entry)),
        mode: entry.kind != EntryKind::Symlink && differs(&|now| now.mode() & 0o7777 == entry.mode),
        time: differs(&|now| mtime(now) == entry.mtime_ns),
        removed,
        set,
    }
}

type Extended = (Vec<CString>, Vec<(CString, Vec<u8>)>);

/// Which extended attributes to remove, and which to set.
fn extended(path: &Path, entry: &Entry) -> Extended {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Extended::default() };
    let is_foreign = |name: &Vec<u8>| !entry.xattrs.iter().any(|(kept, _)| kept == name);
    let removed = present(&path).into_iter().filter(is_foreign).filter_map(|name| CString::new(name).ok());
    let differs = |(name, value): &&(Vec<u8>, Vec<u8>)| {
        let Ok(key) = CString::new(name.as_slice()) else { return false };
        let mut before = vec![0; value.len() + 1];
        let len = rustix::fs::lgetxattr(&*path, &*key, &mut before[..]);
        !len.is_ok_and(|len| before.get(..len) == Some(value))
    };
    let set = entry.xattrs.iter().filter(differs);
    let set = set.filter_map(|(name, value)| Some((CString::new(name.as_slice()).ok()?, value.clone())));
    (removed.collect(), set.collect())
}

fn set_extended(
    path: &Path,
    removed: &[CString],
    set: &[(CString, Vec<u8>)],
    shown: &Path,
    placed: &mut Placed,
) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    for name in removed {
        // An attribute of the system's own that can't be removed was never the file's.
        let _ = rustix::fs::lremovexattr(&*path, &**name);
    }
    for (name, value) in set {
        if let Err(errno) = rustix::fs::lsetxattr(&*path, &**name, value, XattrFlags::empty()) {
            let name = name.to_string_lossy();
            placed.problem(shown, format!("its attribute {name} could not be set: {errno}"));
        }
    }
}

/// Names that the system keeps for itself can't be removed, and aren't anybody's to set.
fn is_own(name: &[u8]) -> bool {
    [&b"security.selinux"[..], b"system.nfs4_acl", b"btrfs.compression"].contains(&name)
}

fn present(path: &CString) -> Vec<Vec<u8>> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(&**path, &mut names[..]).unwrap_or(0);
    names.truncate(len);
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !is_own(name))
        .map(<[u8]>::to_vec)
        .collect()
}
