//! One command of the user's: how it is run, and how it fails.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// A hook that is told to end gets this long before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How much of a hook's output an error quotes, from the end.
const QUOTED_BYTES: u64 = 2048;

/// What is to be run: a line for `/bin/sh`, or a program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookCommand {
    Shell(String),
    Program(Vec<String>),
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
    pub(super) fn shown(&self) -> String {
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
    pub(super) fn run(
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
