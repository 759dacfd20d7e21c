//! What can be wrong with a repository, with the file it is about.

use crate::backend::{BackendError, ErrorKind};
use crate::crypto::CryptoError;
use crate::format::FormatError;
use crate::id::Id;
use crate::progress::Progress;
use crate::stamp::Stamp;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A repository operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RepositoryError {
    #[error("there is no repository at {location}")]
    Absent { location: String },
    #[error("{location} is not an icecore repository: {detail}")]
    NotARepository { location: String, detail: String },
    #[error("{location} already holds a repository")]
    AlreadyThere { location: String },
    #[error("{location} is not empty and holds no repository")]
    NotEmpty { location: String },
    #[error("cannot use the repository at {location}: {source}")]
    Unsupported { location: String, source: FormatError },
    #[error("{location} is encrypted: {detail}")]
    Locked { location: String, detail: String },
    #[error("{location} is not the repository that is expected: {detail}")]
    Another { location: String, detail: String },
    #[error("damaged repository file {file}: {detail}")]
    Damaged { file: String, detail: String },
    #[error("chunk {id} is in no pack of the repository")]
    MissingChunk { id: Id },
    #[error("a prune has removed data that this run relied on (chunk {id})")]
    PrunedMeanwhile { id: Id },
    #[error("no snapshot {stamp} in the repository")]
    NoSnapshot { stamp: Stamp },
    #[error("another run is using the repository ({what}): {holder}")]
    Busy { what: String, holder: String },
    #[error("cannot write a scratch copy into {directory}: {source}")]
    Scratch { directory: PathBuf, source: Arc<io::Error> },
    #[error("interrupted")]
    Interrupted,
    #[error("cannot encrypt: {0}")]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl RepositoryError {
    /// Damage to a file, told by what reading it found.
    pub fn damaged(file: impl Into<String>, detail: impl ToString) -> Self {
        Self::Damaged { file: file.into(), detail: detail.to_string() }
    }

    /// An error once the user asked to stop.
    pub fn stop(progress: &dyn Progress) -> Result<(), Self> {
        if progress.interrupted() { Err(Self::Interrupted) } else { Ok(()) }
    }
}

/// What should be there and can't be read as it lies is damage, as bad as wrong bytes.
pub fn well_read<T>(key: &str, read: Result<T, BackendError>) -> Result<T, RepositoryError> {
    match read {
        Err(error) if matches!(error.kind, ErrorKind::Short | ErrorKind::Lost) => {
            Err(RepositoryError::damaged(key, error))
        }
        other => Ok(other?),
    }
}

/// Nothing where what was to be read is damaged, or gone meanwhile; what says nothing of it is an error.
pub fn if_sound<T>(read: Result<T, RepositoryError>) -> Result<Option<T>, RepositoryError> {
    match read {
        Err(RepositoryError::Damaged { .. }) => Ok(None),
        Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
