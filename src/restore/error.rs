//! Why a restore stopped, or can't begin.

use crate::repository::RepositoryError;
use std::io;
use std::path::{Path, PathBuf};

/// A restore that can't be begun, or could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is a mount point and cannot become a {wanted}")]
    MountPoint { path: PathBuf, wanted: &'static str },
    #[error("{path} is not empty")]
    NotEmpty { path: PathBuf },
    #[error("{path} is a symlink that leads nowhere")]
    DanglingLink { path: PathBuf },
    #[error("{path} cannot be written: {source}")]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{path} was opened by another process meanwhile")]
    InUse { path: PathBuf },
    #[error("{path} is not what the restore has made it")]
    Differs { path: PathBuf },
    #[error("the restored {name} could not be checked: {source}")]
    Unchecked { name: String, source: io::Error },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{one} and {other} would both be restored to {path}")]
    Overlap { one: String, other: String, path: PathBuf },
    #[error("{path} is in the way, and holds {kept}, which the snapshot left out and which would be lost")]
    HoldsLeftOut { path: PathBuf, kept: PathBuf },
    #[error("{path} is a device: that is no place to restore to")]
    Device { path: PathBuf },
    #[error("interrupted")]
    Interrupted,
}

impl RestoreError {
    /// An I/O error about a path.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}
