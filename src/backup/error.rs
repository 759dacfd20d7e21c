//! Why a backup could not be drafted.

use crate::repository::RepositoryError;
use crate::source::CaptureError;
use std::path::PathBuf;

/// A backup that could not be made. Nothing was published, and nothing was written into a source.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("source {name:?}: {source}")]
    Source { name: String, source: CaptureError },
    #[error("source {name:?} ({path}) and the repository ({repository}) lie inside each other")]
    Overlap { name: String, path: PathBuf, repository: PathBuf },
    #[error("source {inner:?} ({path}) lies inside source {outer:?}, which doesn't leave it out")]
    Nested { outer: String, inner: String, path: PathBuf },
    #[error("the directory for scratch copies ({scratch}) lies inside source {name:?}")]
    ScratchInside { name: String, scratch: PathBuf },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("interrupted")]
    Interrupted,
}

/// The recorder's own failure, as a capture reports it.
pub fn record(error: RepositoryError) -> CaptureError {
    CaptureError::Record(Box::new(error))
}

impl BackupError {
    /// Gives a capture's error its source's name; a repository's error that came through the capture stays one.
    pub fn from_capture(name: &str, error: CaptureError) -> Self {
        match error {
            CaptureError::Interrupted => Self::Interrupted,
            CaptureError::Record(inner) => match inner.downcast::<RepositoryError>() {
                Ok(error) => Self::Repository(*error),
                Err(other) => Self::Source { name: name.to_owned(), source: CaptureError::Record(other) },
            },
            source => Self::Source { name: name.to_owned(), source },
        }
    }
}
