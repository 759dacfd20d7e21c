//! The exit codes: a contract that scripts rely on.

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    Done,
    /// Nothing more precise fits.
    Unexpected,
    Usage,
    /// Done, but some entries could not be read, or owners not set.
    Incomplete,
    NoRepository,
    Busy,
    /// The repository's key is missing or wrong.
    WrongKey,
    NoSnapshot,
    Damaged,
    /// Some replica could not be brought up to date.
    ReplicaFailed,
    NoSpace,
    Invalid,
    KeptChanging,
    Refused,
    RestoreIncomplete,
    RestoredButBad,
    HookFailed,
    /// Ended by a signal.
    Signal(u8),
}

impl ExitCode {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::NoRepository => 10,
            Self::Busy => 11,
            Self::WrongKey => 12,
            Self::NoSnapshot => 13,
            Self::Damaged => 14,
            Self::ReplicaFailed => 15,
            Self::NoSpace => 16,
            Self::Invalid => 20,
            Self::KeptChanging => 21,
            Self::Refused => 22,
            Self::RestoreIncomplete => 23,
            Self::RestoredButBad => 24,
            Self::HookFailed => 25,
            Self::Signal(signal) => 128 + signal,
        }
    }
}
