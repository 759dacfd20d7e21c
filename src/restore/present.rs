//! What lies in a target now: which files nobody may have open, and what their removal gives back.

use super::error::RestoreError;
use super::remove::{is_mount_point, names, open_below};
use crate::format::EntryKind;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What was come across.
#[derive(Debug, Default)]
pub struct Present {
    /// Regular files.
    pub files: Vec<PathBuf>,
    /// Databases among them.
    pub databases: Vec<PathBuf>,
    /// Bytes on the disk that will be given back.
    pub freed_bytes: u64,
    /// Mount points that stay though the snapshot doesn't have them.
    pub mount_points: Vec<PathBuf>,
}

impl Present {
    /// Notes a name that goes, and every file below it.
    pub fn note_leaving(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        stat: &FileStat,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        if is_mount_point(directory, name) {
            self.mount_points.push(shown.to_owned());
            return Ok(());
        }
        if EntryKind::of_mode(stat.st_mode) == Some(EntryKind::Directory) {
            let below = open_below(directory, name, shown)?;
            for inner in names(below.as_fd(), shown)? {
                let path = shown.join(OsStr::from_bytes(&inner));
                if let Some(stat) = stat_at(below.as_fd(), &inner, &path)? {
                    self.note_leaving(below.as_fd(), &inner, &stat, &path)?;
                }
            }
        }
        self.note_one(stat, shown);
        Ok(())
    }

    /// Notes a name that goes by itself.
    pub fn note_one(&mut self, stat: &FileStat, shown: &Path) {
        if EntryKind::of_mode(stat.st_mode) == Some(EntryKind::File) {
            self.files.push(shown.to_owned());
        }
        if stat.st_nlink == 1 {
            self.freed_bytes += (stat.st_blocks as u64).saturating_mul(512);
        }
    }
}

/// What lies at a name, if anything does; a symlink isn't followed.
pub fn stat_at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    shown: &Path,
) -> Result<Option<FileStat>, RestoreError> {
    match fstatat(directory, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(RestoreError::io("stat", shown, errno)),
    }
}
