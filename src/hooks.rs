//! Commands of the user that bring an application to rest before it is read, and let it go on afterwards.

use crate::hold::LockFile;
use crate::progress::Progress;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// A hook that is told to end gets this long before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Reads lines until `done`. The last one before, if not empty, is the process group of a hook that is running: without
/// `done` that is ended first. A service manager's signal to the whole unit must not end the wait.
const STAND_BY: &str = "trap '' HUP INT TERM; group=; while read -r line; do \
                        if [ \"$line\" = done ]; then exit; fi; group=$line; done; \
                        if [ -n \"$group\" ]; then kill -s KILL -- \"-$group\"; fi; trap - HUP INT TERM;";
/// How much of a hook's output an error quotes, from the end.
const QUOTED_BYTES: u64 = 2048;

/// What is to be run: a line for `/bin/sh`, or a program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookCommand {
    Shell(String),
    Program(Vec<String>),
}

/// When commands are run. `after` always runs once `before` was begun, whatever happened in between, even if this process
/// is killed; it may run twice.
#[derive(Debug, Clone)]
pub struct Hooks {
    pub before: Option<HookCommand>,
    pub after: Option<HookCommand>,
    /// Runs when no snapshot came of it.
    pub failed: Option<HookCommand>,
    pub timeout: Duration,
    /// A file that the application locks (flock) while it must not be read.
    pub lock_file: Option<PathBuf>,
    pub lock_timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        let (timeout, lock_timeout) = (Duration::from_secs(300), Duration::from_secs(60));
        Self { before: None, after: None, failed: None, timeout, lock_file: None, lock_timeout }
    }
}

/// A hook that didn't do its part.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("the hook `{hook}` ({command}) ended with {status}{output}")]
    Failed { hook: &'static str, command: String, status: ExitStatus, output: String },
    #[error("the hook `{hook}` ({command}) was killed: it ran longer than {} s{output}", limit.as_secs())]
    TimedOut { hook: &'static str, command: String, limit: Duration, output: String },
    #[error("the hook `{hook}` ({command}) could not be run: {source}")]
    CannotRun { hook: &'static str, command: String, source: io::Error },
    #[error("the lock file {path} can't be locked: {source}")]
    LockFile { path: PathBuf, source: io::Error },
    #[error("the lock file {path} was held by others for {} s", waited.as_secs())]
    LockBusy { path: PathBuf, waited: Duration },
    #[error("interrupted")]
    Interrupted,
}

impl HookCommand {
    fn shown(&self) -> String {
        match self {
            Self::Shell(line) => line.clone(),
            Self::Program(words) => words.join(" "),
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Shell(line) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", line]);
                command
            }
            Self::Program(words) => {
                let mut words = words.iter();
                let mut command = Command::new(words.next().map_or("", String::as_str));
                command.args(words);
                command
            }
        }
    }

    /// Runs it to its end, its output kept aside: on a terminal it would tear the progress bar, in a script the report.
    fn run(
        &self,
        hook: &'static str,
        timeout: Duration,
        environment: &[(&str, &str)],
        started_as: &mut dyn FnMut(u32),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), HookError> {
        let command = self.shown();
        let cannot = |source| HookError::CannotRun { hook, command: self.shown(), source };
        // What it says is worth less than that it runs.
        let mut output = tempfile::tempfile()
            .or_else(|_| File::options().read(true).write(true).open("/dev/null"))
            .map_err(cannot)?;
        let (out, err) = (output.try_clone().map_err(cannot)?, output.try_clone().map_err(cannot)?);
        let started = Instant::now();
        // A group of its own: the terminal's Ctrl-C is for us, and what it starts can be ended with it.
        let mut child = self
            .command()
            .env("ICECORE_HOOK", hook)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        started_as(child.id());
        loop {
            if let Some(status) = child.try_wait().map_err(cannot)? {
                let output = tail(&mut output);
                return if status.success() {
                    Ok(())
                } else {
                    Err(HookError::Failed { hook, command, status, output })
                };
            }
            if stop() {
                end(&mut child);
                return Err(HookError::Interrupted);
            }
            if started.elapsed() >= timeout {
                end(&mut child);
                let output = tail(&mut output);
                return Err(HookError::TimedOut { hook, command, limit: timeout, output });
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Ends a hook and everything that it started: politely first.
fn end(child: &mut Child) {
    let group = Pid::from_raw(child.id().cast_signed());
    let since = Instant::now();
    let _ = killpg(group, Signal::SIGTERM);
    while matches!(child.try_wait(), Ok(None)) && since.elapsed() < GRACE {
        std::thread::sleep(POLL);
    }
    let _ = killpg(group, Signal::SIGKILL);
    drop(child.wait());
}

/// The last of what a hook said, as the end of a sentence.
fn tail(output: &mut File) -> String {
    let mut read = || -> io::Result<String> {
        let size = output.metadata()?.len();
        output.seek(SeekFrom::Start(size.saturating_sub(QUOTED_BYTES)))?;
        let mut bytes = Vec::new();
        output.take(QUOTED_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    match read() {
        Ok(text) if !text.is_empty() => format!("; it said: {text}"),
        _ => String::new(),
    }
}

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
