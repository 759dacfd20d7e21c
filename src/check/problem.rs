//! What is wrong with one file of the repository.

/// Something wrong with one file of the repository, or with what should be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub detail: String,
}

impl Problem {
    pub(super) fn damaged(file: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { file: file.into(), detail: detail.into() }
    }
}
