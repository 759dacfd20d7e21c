//! When which of the user's commands are run.

use super::command::HookCommand;
use std::path::PathBuf;
use std::time::Duration;

/// When commands are run. `after` always runs once `before` was begun, whatever happened in between, even if this process
/// is killed; it may run twice.
#[derive(Debug, Clone)]
pub struct Hooks {
    pub before: Option<HookCommand>,
    pub after: Option<HookCommand>,
    /// Runs when no snapshot came of it.
    pub failed: Option<HookCommand>,
    pub timeout: Duration,
    /// Around an in-place restore: before anything is looked at, and when the sources are whole again.
    pub before_restore: Option<HookCommand>,
    pub after_restore: Option<HookCommand>,
    /// A file that the application locks (flock) while it must not be read.
    pub lock_file: Option<PathBuf>,
    pub lock_timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        let (timeout, lock_timeout) = (Duration::from_secs(300), Duration::from_secs(60));
        Self {
            before: None,
            after: None,
            failed: None,
            timeout,
            before_restore: None,
            after_restore: None,
            lock_file: None,
            lock_timeout,
        }
    }
}
