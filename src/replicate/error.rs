//! Why a replica could not be brought up to date.

use crate::backend::{BackendError, ErrorKind};
use crate::id::Id;
use crate::repository::RepositoryError;

/// What is there already stays, and the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    #[error("{location} holds another repository ({found}, not {wanted})")]
    AnotherRepository { location: String, found: Id, wanted: Id },
    #[error("{location} is not encrypted as the repository is: somebody has changed it there, or here")]
    NotAlike { location: String },
    #[error("{location} is not empty and holds no repository")]
    NotEmpty { location: String },
    #[error("{location} is the repository itself, or lies in it")]
    Itself { location: String },
    #[error("{0}")]
    Source(RepositoryError),
    #[error("{0}")]
    Target(RepositoryError),
    #[error("interrupted")]
    Interrupted,
}

impl ReplicateError {
    pub(super) fn source(error: impl Into<RepositoryError>) -> Self {
        match error.into() {
            RepositoryError::Interrupted => Self::Interrupted,
            other => Self::Source(other),
        }
    }

    pub(super) fn target(error: impl Into<RepositoryError>) -> Self {
        match error.into() {
            RepositoryError::Interrupted => Self::Interrupted,
            other => Self::Target(other),
        }
    }

    /// The connection may be the reason, so that it is worth trying again.
    pub fn is_passing(&self) -> bool {
        let unreachable = |error: &RepositoryError| {
            matches!(error, RepositoryError::Backend(BackendError { kind: ErrorKind::Unreachable, .. }))
        };
        matches!(self, Self::Source(error) | Self::Target(error) if unreachable(error))
    }
}
