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
    pub files: u64,
    pub directories: u64,
    pub written_bytes: u64,
    pub removed: u64,
    /// What could not be set or made, by path; the content is there.
    pub problems: Vec<String>,
}

impl Placed {
    pub(super) fn problem(&mut self, path: &Path, detail: String) {
        self.problems.push(format!("{}: {detail}", path.display()));
    }
}
