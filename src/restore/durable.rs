//! Makes everything on the file systems of the targets durable.

use super::error::RestoreError;
use nix::sys::stat::fstat;
use nix::unistd::syncfs;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// File systems that are written to. One call each makes thousands of new files durable, where an `fsync` of every single
/// one would wait for the disk as often.
#[derive(Default)]
pub struct Durable {
    watched: Vec<(u64, OwnedFd)>,
}

impl Durable {
    /// Notes the file system of an open directory. Errors of writing back are reported from here on, so this comes before
    /// anything is written.
    pub fn watch(&mut self, directory: BorrowedFd<'_>) -> Result<(), RestoreError> {
        let fail = |error| RestoreError::io("sync", &path_of(directory), error);
        let device = fstat(directory).map_err(|errno| fail(std::io::Error::from(errno)))?.st_dev;
        if !self.watched.iter().any(|(known, _)| *known == device) {
            self.watched.push((device, directory.try_clone_to_owned().map_err(fail)?));
        }
        Ok(())
    }

    /// As `watch`, by a path.
    pub fn watch_path(&mut self, path: &Path) -> Result<(), RestoreError> {
        let directory = File::open(path).map_err(|error| RestoreError::io("open", path, error))?;
        self.watch(directory.as_fd())
    }

    /// Makes durable what was written so far; an error means that some of it may be lost.
    pub fn flush(&self) -> Result<(), RestoreError> {
        self.watched.iter().try_for_each(|(_, directory)| {
            syncfs(directory).map_err(|errno| RestoreError::io("sync", &path_of(directory.as_fd()), errno))
        })
    }
}

fn path_of(directory: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| PathBuf::from(link))
}
