//! What a restore is told, and what it tells: owners, counts, problems.

use std::path::Path;

/// Whose the placed files shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    AsRecorded,
    Fixed { uid: u32, gid: u32 },
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Placed {
    /// Files that were made or written.
    pub written_files: u64,
    /// Files that were right already.
    pub kept_files: u64,
    pub written_bytes: u64,
    pub removed: u64,
    /// What could not be set, made or removed, by path; the content is there.
    pub problems: Vec<String>,
}

impl Placed {
    /// Notes what could not be done.
    pub fn problem(&mut self, path: &Path, detail: impl AsRef<str>) {
        self.problems.push(format!("{}: {}", path.display(), detail.as_ref()));
    }
}
