//! Why stored bytes could not be understood.

/// Stored bytes that are not what `docs/format.md` says. The caller adds which file they came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the structure does.
    #[error("{what} is cut short")]
    Truncated { what: &'static str },
    /// The bytes do not begin or end with the structure's magic number.
    #[error("{what} does not carry its magic number")]
    Magic { what: &'static str },
    /// The structure's own hash does not match.
    #[error("{what} does not match its own hash")]
    Hash { what: &'static str },
    /// A field holds what it may not hold.
    #[error("{what}: {detail}")]
    Invalid { what: &'static str, detail: String },
    /// The repository is newer than this program.
    #[error(
        "repository format {found} is newer than this icecore reads (up to {supported}); use a newer icecore"
    )]
    TooNew { found: u32, supported: u32 },
    /// The repository asks for features that this program lacks.
    #[error("the repository requires {features:?}, which this icecore does not know; use a newer icecore")]
    Requires { features: Vec<String> },
}

impl FormatError {
    /// An invalid field.
    pub fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { what, detail: detail.into() }
    }
}
