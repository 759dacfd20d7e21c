//! Brings an application to rest before it is read, and lets it go on afterwards.

use super::command::{HookCommand, HookError};
use super::spec::Hooks;
use crate::hold::LockFile;
use crate::progress::Progress;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Reads lines until `done`. The last one before, if not empty, is the process group of a hook that is running: without
/// `done` that is ended first. A service manager's signal to the whole unit must not end the wait.
const STAND_BY: &str = "trap '' HUP INT TERM; group=; while read -r line; do \
                        if [ \"$line\" = done ]; then exit; fi; group=$line; done; \
                        if [ -n \"$group\" ]; then kill -s KILL -- \"-$group\"; fi; trap - HUP INT TERM;";

/// The application is at rest until this ends.
pub struct Quiesced<'h> {
    hooks: &'h Hooks,
    profile: &'h str,
    guardian: Option<Child>,
    /// Held until `after` is through.
    _lock: Option<LockFile>,
    owed: bool,
}

impl<'h> Quiesced<'h> {
    /// Takes the lock file, then runs `before`. If that fails, `after` has run; that it failed too becomes a warning.
    pub fn begin(
        hooks: &'h Hooks,
        profile: &'h str,
        warnings: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Self, HookError> {
        let stop = || progress.interrupted();
        let mut lock = None;
        if let Some(path) = &hooks.lock_file {
            progress.begin(&format!("waiting for {}", path.display()), None);
            let taken = LockFile::take(path, hooks.lock_timeout, &|| !stop());
            lock = taken.map_err(|source| HookError::LockFile { path: path.clone(), source })?;
            if stop() {
                return Err(HookError::Interrupted);
            }
            if lock.is_none() {
                return Err(HookError::LockBusy { path: path.clone(), waited: hooks.lock_timeout });
            }
        }
        let guardian = hooks.after.as_ref().map(|after| guard(after, profile)).transpose()?;
        let mut quiesced = Self { hooks, profile, guardian, _lock: lock, owed: hooks.after.is_some() };
        if let Some(before) = &hooks.before {
            progress.begin("running the hook `before`", None);
            let environment = [("ICECORE_PROFILE", profile)];
            let mut tell = |group: u32| quiesced.tell(&group.to_string());
            let ran = before.run("before", hooks.timeout, &environment, &mut tell, &stop);
            quiesced.tell("");
            if let Err(error) = ran {
                warnings.extend(quiesced.pay().err().map(|error| error.to_string()));
                return Err(error);
            }
        }
        Ok(quiesced)
    }

    /// Runs `after` and gives the lock file back.
    pub fn end(mut self) -> Result<(), HookError> {
        self.pay()
    }

    /// Says a line to the shell that stands by.
    fn tell(&mut self, line: &str) {
        if let Some(pipe) = self.guardian.as_mut().and_then(|guardian| guardian.stdin.as_mut()) {
            // A shell that is gone can't be helped; what it was there for is done here.
            drop(pipe.write_all(format!("{line}\n").as_bytes()));
        }
    }

    fn pay(&mut self) -> Result<(), HookError> {
        if !std::mem::take(&mut self.owed) {
            return Ok(());
        }
        let ran = self.hooks.after.as_ref().map_or(Ok(()), |after| {
            let environment = [("ICECORE_PROFILE", self.profile)];
            after.run("after", self.hooks.timeout, &environment, &mut |_| {}, &|| false)
        });
        // What could not even be started here the shell tries as well.
        if !matches!(ran, Err(HookError::CannotRun { .. })) {
            self.tell("done");
        }
        if let Some(mut guardian) = self.guardian.take() {
            drop(guardian.stdin.take());
            drop(guardian.wait());
        }
        ran
    }
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        // Reached only on the way out of a panic.
        drop(self.pay());
    }
}

/// A shell that waits for the word that `after` has run, and runs it if this process ends without saying so.
fn guard(after: &HookCommand, profile: &str) -> Result<Child, HookError> {
    let mut command = Command::new("/bin/sh");
    match after {
        HookCommand::Shell(line) => command.args(["-c", &format!("{STAND_BY} eval \"$1\""), "sh", line]),
        HookCommand::Program(words) => {
            command.args(["-c", &format!("{STAND_BY} exec \"$@\""), "sh"]).args(words)
        }
    };
    command
        .env("ICECORE_HOOK", "after")
        .env("ICECORE_PROFILE", profile)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| HookError::CannotRun { hook: "after", command: after.shown(), source })
}

impl Hooks {
    /// Tells the user's command that no snapshot came of it, and why.
    pub fn tell_failure(&self, profile: &str, error: &str) -> Result<(), HookError> {
        let environment = [("ICECORE_PROFILE", profile), ("ICECORE_ERROR", error)];
        self.failed
            .as_ref()
            .map_or(Ok(()), |failed| failed.run("failed", self.timeout, &environment, &mut |_| {}, &|| false))
    }
}
