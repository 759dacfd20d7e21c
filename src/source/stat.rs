//! What the file system says about a file, whichever call asked for it.

use crate::format::{FileState, Link};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A file's identity, kind, size, owner and times.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    /// Kind and permissions, as `st_mode`.
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

impl From<&Metadata> for Stat {
    fn from(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            mode: metadata.mode(),
            nlink: metadata.nlink(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: metadata.rdev(),
            size: metadata.size(),
            mtime_ns: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Seconds and nanoseconds as nanoseconds, saturating in the year 2262.
pub fn nanos(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

impl Stat {
    /// Identity and change marks, for the entry.
    pub fn state(&self) -> FileState {
        let Self { dev, ino, size, ctime_ns, .. } = *self;
        FileState { dev, ino, size, ctime_ns }
    }

    /// The hard-link group of a file with more than one name.
    pub fn link(&self, is_directory: bool) -> Option<Link> {
        let Self { dev, ino, nlink, .. } = *self;
        (nlink > 1 && !is_directory).then_some(Link { count: nlink, dev, ino })
    }
}
