//! Why a restore stopped.

use crate::repository::RepositoryError;
use std::io;
use std::path::{Path, PathBuf};

/// A restore that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is a mount point and cannot become a {wanted}")]
    MountPoint { path: PathBuf, wanted: &'static str },
    #[error("{path} is not empty")]
    NotEmpty { path: PathBuf },
    #[error("the restored {name} could not be checked: {source}")]
    Unchecked { name: String, source: io::Error },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("interrupted")]
    Interrupted,
}

impl RestoreError {
    /// An I/O error about a path.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}
