//! Clones a file's extents in an instant, where the file system shares them (XFS, btrfs).

use rustix::fs::ioctl_ficlone;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A directory in which clones of a file can be made. A clone has no name (`O_TMPFILE`): it is gone when it is closed,
/// also when this process is killed, and no directory's times change.
#[derive(Debug, Clone)]
pub struct CloneSpace {
    directory: PathBuf,
}

impl CloneSpace {
    /// The first of `directories` that takes a clone of `file`, tried out. The attempt also makes the kernel flush the
    /// file, so that a clone soon afterwards has little left to flush.
    pub fn find(file: &File, directories: &[&Path]) -> Option<Self> {
        directories
            .iter()
            .map(|directory| Self { directory: (*directory).to_owned() })
            .find(|space| space.clone_of(file).is_ok())
    }

    /// A clone of the file as it is at this moment.
    pub fn clone_of(&self, file: &File) -> io::Result<File> {
        let flags = nix::libc::O_TMPFILE | nix::libc::O_CLOEXEC;
        let clone = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&self.directory)?;
        ioctl_ficlone(&clone, file)?;
        Ok(clone)
    }
}
