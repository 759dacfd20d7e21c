//! Read-only snapshots of btrfs subvolumes.
//!
//! Structures and numbers are those of the kernel's `include/uapi/linux/btrfs.h`.

use super::no_atime::{open_directory, open_file_at};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::c_char;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The inode number of every subvolume's root (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT_INODE: u64 = 256;
const READ_ONLY: u64 = 1 << 1;
/// How the names of our private directories begin.
pub const SNAPSHOT_PREFIX: &str = ".icecore-snapshot-";
/// The snapshot in each.
const NAME: &str = "source";

#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [c_char; 4088],
}

#[repr(C)]
struct VolumeArgumentsV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [c_char; 4040],
}

#[repr(C)]
struct RootReferences {
    least_tree: u64,
    references: [[u64; 2]; 255],
    count: u8,
    align: [u8; 7],
}

nix::ioctl_readwrite!(subvolumes_below, 0x94, 61, RootReferences);
nix::ioctl_write_ptr!(subvolume_create, 0x94, 14, VolumeArguments);
nix::ioctl_write_ptr!(set_flags, 0x94, 26, u64);
nix::ioctl_write_ptr!(snapshot_destroy, 0x94, 15, VolumeArguments);
nix::ioctl_write_ptr!(snapshot_create, 0x94, 23, VolumeArgumentsV2);

/// A private directory in which snapshots of a subvolume can be made, and removed again. It goes when this is dropped; one
/// that a crash left is removed by `remove_stale`, since nobody holds its lock any more.
pub struct SnapshotPlace {
    path: PathBuf,
    above: OwnedFd,
    name: OsString,
    /// The directory itself, locked. Everything is done through it: whatever somebody puts at its path is left alone.
    directory: Flock<OwnedFd>,
}

/// The directory is the root of a btrfs subvolume.
pub fn is_subvolume(path: &Path) -> bool {
    let Ok(directory) = open_directory(path).map(File::from) else { return false };
    let is_btrfs = fstatfs(&directory).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC);
    is_btrfs && directory.metadata().is_ok_and(|metadata| metadata.ino() == ROOT_INODE)
}

/// Another subvolume, or something that is mounted, lies inside the subvolume at `path`: its snapshot would show an empty
/// directory there.
pub fn holds_others(path: &Path) -> io::Result<bool> {
    let directory = open_directory(path)?;
    let mut found = RootReferences { least_tree: 0, references: [[0; 2]; 255], count: 0, align: [0; 7] };
    // SAFETY: the kernel fills one structure of this layout and keeps no pointer to it.
    match unsafe { subvolumes_below(directory.as_raw_fd(), &raw mut found) } {
        Ok(_) if found.count == 0 => {}
        // More than fit into the answer.
        Ok(_) | Err(Errno::EOVERFLOW) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    }
    // The fifth field of a line is the mount point, with blanks and backslashes in octal (proc(5)).
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let unescaped = |place: &str| {
        place.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
    };
    Ok(places
        .map(unescaped)
        .any(|place| place != path.to_string_lossy() && Path::new(&place).starts_with(path)))
}

impl SnapshotPlace {
    /// Makes one in the first of `directories` that will do: on btrfs, outside `source`, and so that what is made there can
    /// be removed (the kernel lets an owner make snapshots that only root may remove).
    pub fn find(source: &Path, directories: &[&Path]) -> io::Result<Self> {
        let mut failure = None;
        for beside in directories.iter().filter(|directory| !directory.starts_with(source)) {
            match Self::make(beside) {
                Ok(place) => return Ok(place),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn make(beside: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let above = open_directory(beside)?;
        if !is_btrfs(&above) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{SNAPSHOT_PREFIX}{}-{number}", std::process::id()));
        mkdirat(&above, name.as_os_str(), Mode::S_IRWXU)?;
        let locked = own_directory(&above, &name)?;
        let place = Self { path: beside.join(&name), above, name, directory: locked };
        let arguments = VolumeArguments { fd: 0, name: padded(NAME) };
        // SAFETY: the kernel reads one structure of this layout and keeps no pointer to it.
        unsafe { subvolume_create(place.directory.as_raw_fd(), &raw const arguments) }?;
        if let Err(error) = destroy(&place.directory) {
            // Its owner may remove an empty subvolume like any directory.
            unlinkat(&*place.directory, NAME, UnlinkatFlags::RemoveDir)?;
            return Err(error);
        }
        Ok(place)
    }

    /// Snapshots the subvolume at `source` as it is now; a snapshot taken here before is removed.
    pub fn take(&self, source: &Path) -> io::Result<()> {
        destroy(&self.directory)?;
        let subvolume = open_directory(source)?;
        let arguments = VolumeArgumentsV2 {
            fd: i64::from(subvolume.as_raw_fd()),
            transaction: 0,
            flags: READ_ONLY,
            unused: [0; 4],
            name: padded(NAME),
        };
        // SAFETY: the kernel reads one structure of this layout and keeps no pointer to it.
        unsafe { snapshot_create(self.directory.as_raw_fd(), &raw const arguments) }?;
        Ok(())
    }

    /// Where the source's files can be read as they were when it was taken.
    pub fn snapshot(&self) -> PathBuf {
        self.path.join(NAME)
    }

    /// Removes what killed runs of this user left in these directories.
    pub fn remove_stale(directories: &[&Path]) {
        for directory in directories {
            let (Ok(listing), Ok(above)) = (fs::read_dir(directory), open_directory(directory)) else {
                continue;
            };
            let names = listing.flatten().map(|item| item.file_name());
            for name in names.filter(|name| name.to_string_lossy().starts_with(SNAPSHOT_PREFIX)) {
                // What can't be removed now is tried again by the next run.
                if let Ok(ours) = own_directory(&above, &name) {
                    let _ = destroy(&ours).and_then(|()| remove_directory(&above, &name));
                }
            }
        }
    }
}

impl Drop for SnapshotPlace {
    fn drop(&mut self) {
        // Left behind it is removed by the next run.
        let _ = destroy(&self.directory).and_then(|()| remove_directory(&self.above, &self.name));
    }
}

/// Opens and locks a private directory that this user made. A symlink, or what others may write, is an error.
fn own_directory(above: &OwnedFd, name: &OsStr) -> io::Result<Flock<OwnedFd>> {
    let directory = open_file_at(above, name.as_bytes(), true)?;
    let stat = fstat(&directory)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o777 != 0o700 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

fn remove_directory(above: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Ok(unlinkat(above, name, UnlinkatFlags::RemoveDir)?)
}

/// Removes the snapshot in a private directory, if there is one.
fn destroy(directory: &Flock<OwnedFd>) -> io::Result<()> {
    let snapshot = match open_file_at(directory.as_fd(), NAME.as_bytes(), true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if fstat(&snapshot)?.st_ino != ROOT_INODE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Without CAP_SYS_ADMIN a read-only one can't be removed. Where this is refused the next call says why.
    let writable = 0u64;
    // SAFETY: the kernel reads one number.
    let _ = unsafe { set_flags(snapshot.as_raw_fd(), &raw const writable) };
    drop(snapshot);
    let arguments = VolumeArguments { fd: 0, name: padded(NAME) };
    // SAFETY: the kernel reads one structure of this layout and keeps no pointer to it.
    unsafe { snapshot_destroy(directory.as_raw_fd(), &raw const arguments) }?;
    Ok(())
}

fn is_btrfs(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC)
}

fn padded<const N: usize>(name: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (slot, byte) in field.iter_mut().zip(name.bytes()) {
        *slot = byte as c_char;
    }
    field
}
