//! Every error as a person and a script see it: code, message, path, what to do next, exit code.

use super::exit_code::ExitCode;
use crate::backend::{BackendError, ErrorKind};
use crate::backup::BackupError;
use crate::catalog::NotFound;
use crate::config::ConfigError;
use crate::flow::FlowError;
use crate::format::{Finding, Key, Severity};
use crate::hooks::HookError;
use crate::repository::RepositoryError;
use crate::restore::RestoreError;
use crate::source::CaptureError;
use crate::stamp::Stamp;
use serde_json::{Map, Value, json};
use std::io;
use std::path::Path;

/// How many stamps an error names.
const STAMPS: usize = 8;

/// A verb that did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    pub exit: ExitCode,
    pub code: &'static str,
    pub message: String,
    pub path: Option<String>,
    pub hint: Option<String>,
    /// Lines for a person; a script finds the same in `keys`.
    pub details: Vec<String>,
    pub keys: Map<String, Value>,
    pub warnings: Vec<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: ExitCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            message: message.into(),
            path: None,
            hint: None,
            details: Vec::new(),
            keys: Map::new(),
            warnings: Vec::new(),
        }
    }

    /// What was typed makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, "usage", message)
    }

    /// The file it is about.
    pub fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.display().to_string());
        self
    }

    /// What to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says this before the hint.
    pub fn hinting(mut self, first: &str) -> Self {
        self.hint = Some(self.hint.map_or_else(|| first.to_owned(), |hint| format!("{first}; {hint}")));
        self
    }

    /// As the JSON document's `error`.
    pub fn json(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "path": self.path, "hint": self.hint })
    }
}

fn listed(stamps: &[Stamp]) -> String {
    let newest: Vec<String> = stamps.iter().rev().take(STAMPS).map(Stamp::to_string).collect();
    match newest.len() {
        0 => "the repository holds no snapshots".into(),
        count if count < stamps.len() => {
            format!("the newest are {} ({} in all; see `icecore list`)", newest.join(", "), stamps.len())
        }
        _ => format!("there are {}", newest.join(", ")),
    }
}

impl From<NotFound> for Failure {
    fn from(error: NotFound) -> Self {
        let message = error.to_string();
        match error {
            NotFound::NotAStamp { .. } => Self::usage(message).hint("see `icecore list` for stamps"),
            NotFound::NoSuchStamp { known, .. } => {
                Self::new(ExitCode::NoSnapshot, "no_such_snapshot", message).hint(listed(&known))
            }
            NotFound::NoLatest { known, .. } => {
                Self::new(ExitCode::NoSnapshot, "no_such_snapshot", message).hint(listed(&known))
            }
            NotFound::NoSource { .. } => Self::new(ExitCode::NoSnapshot, "no_such_source", message)
                .hint("`icecore list --having NAME` shows the snapshots that hold a source"),
            NotFound::NoPath { stamp, .. } => Self::new(ExitCode::NoSnapshot, "no_such_path", message)
                .hint(format!("`icecore ls {stamp} NAME` shows what is there")),
        }
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        let path = error.path.clone();
        let failure = match error.kind {
            ErrorKind::NoSpace => {
                Self::new(ExitCode::NoSpace, "no_space", format!("{error}; nothing was published"))
                    .hint("free some space and run again: what was stored already is not stored twice")
            }
            ErrorKind::Denied => Self::new(ExitCode::Unexpected, "permission_denied", error.to_string())
                .hint("run as the user who owns that file, or mount it writable. Where runs of several users have left files there (`ls -l`), \
                       `chown -R` gives all of them to one"),
            ErrorKind::Unreachable => Self::new(ExitCode::Unexpected, "unreachable", error.to_string())
                .hint(
                    "is the network up, and the host or store? For s3:// are there credentials (AWS_ACCESS_KEY_ID, a profile), and a \
                     region or endpoint? Nothing was published; what has arrived isn't sent again",
                ),
            ErrorKind::Lost => Self::new(ExitCode::Unexpected, "repository_io", error.to_string()).hint(
                "the disk that holds it is failing (`dmesg` there tells how), or a network file system is gone; nothing was published",
            ),
            ErrorKind::Held => Self::new(ExitCode::Unexpected, "repository_io", error.to_string())
                .hint("its place keeps it until its retention ends; nothing else was deleted"),
            ErrorKind::Other => Self::new(ExitCode::Unexpected, "repository_io", error.to_string()).hint(
                "is there too little memory, are too many files open (`ulimit -n`), or was the disk unmounted? Nothing was published, and \
                 nothing is said to be damaged",
            ),
            _ => Self::new(ExitCode::Unexpected, "repository_io", error.to_string())
                .hint("was something removed meanwhile, or the disk unmounted? Nothing was published"),
        };
        failure.at(Path::new(&path))
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        let message = error.to_string();
        match error {
            RepositoryError::Absent { location } => {
                Self::new(ExitCode::NoRepository, "no_repository", message).at(Path::new(&location)).hint(
                    "is the disk mounted? `icecore init` makes a repository; `backup` never does, so that an unmounted \
                     disk is noticed",
                )
            }
            RepositoryError::NotARepository { location, .. } => {
                Self::new(ExitCode::NoRepository, "not_a_repository", message).at(Path::new(&location))
            }
            RepositoryError::Unsupported { location, .. } => {
                Self::new(ExitCode::NoRepository, "repository_unsupported", message)
                    .at(Path::new(&location))
                    .hint("nothing was read or changed")
            }
            RepositoryError::AlreadyThere { location } => {
                Self::new(ExitCode::Unexpected, "repository_exists", message)
                    .at(Path::new(&location))
                    .hint("use it as it is; with --if-missing this is no error")
            }
            RepositoryError::NotEmpty { location } => {
                Self::new(ExitCode::Unexpected, "not_empty", message)
                    .at(Path::new(&location))
                    .hint("choose an empty or new directory; nothing was changed")
            }
            RepositoryError::Locked { location, .. } => {
                Self::new(ExitCode::WrongKey, "wrong_key", message).at(Path::new(&location)).hint(
                    "name the age identity or ssh key that opens it with --identity, ICECORE_IDENTITY or [encryption] in the \
                     config; a passphrase comes from --passphrase-file, ICECORE_PASSPHRASE_FILE or the terminal. `icecore key \
                     list` shows for whom the key is wrapped; nothing was changed",
                )
            }
            RepositoryError::Another { location, .. } => {
                Self::new(ExitCode::WrongKey, "another_repository", message).at(Path::new(&location)).hint(
                    "is something else mounted there, or has somebody changed it? Nothing was read or changed. The key that is \
                     expected is in [encryption] of the config, --repository-key or ICECORE_REPOSITORY_KEY; `--repository-key any` \
                     takes what is there, with your identity or without",
                )
            }
            RepositoryError::Crypto(_) => Self::new(ExitCode::Unexpected, "encryption_failed", message)
                .hint("nothing was published"),
            RepositoryError::Damaged { ref file, .. } => {
                let path = file.clone();
                let hint = match Key::parse(&path) {
                    Some(Key::Config) => {
                        "copy config from any copy of the repository (a replica, an rsync): it never changes. Nothing was read or changed"
                    }
                    Some(Key::Manifest(_) | Key::Snapshot(_) | Key::Index(_) | Key::Proof(_) | Key::Doomed(_)) => {
                        "`icecore check` tells what is concerned, and `icecore repair` mends what can be mended; the file was left as it is"
                    }
                    _ => {
                        "`icecore validate --all` tells which snapshots are affected, and `icecore backup --reread` stores again \
                         what the source still has; the file was left as it is"
                    }
                };
                Self::new(ExitCode::Damaged, "repository_damaged", message).at(Path::new(&path)).hint(hint)
            }
            RepositoryError::MissingChunk { .. } => Self::new(ExitCode::Damaged, "chunk_missing", message).hint(
                "a pack is missing or cut short; `icecore validate --all` tells which snapshots are affected, and \
                 `icecore backup --reread` stores again what the source still has",
            ),
            RepositoryError::PrunedMeanwhile { .. } => Self::new(ExitCode::Busy, "pruned_meanwhile", message)
                .hint("nothing was published; run it again. A prune with a longer --grace (the usual 24h) hurts no backup"),
            RepositoryError::NoSnapshot { .. } => Self::new(ExitCode::NoSnapshot, "no_such_snapshot", message),
            RepositoryError::Busy { .. } => {
                Self::new(ExitCode::Busy, "busy", message).hint("it is left alone; --retry-lock 5m waits for it")
            }
            RepositoryError::Scratch { ref directory, ref source } => {
                let full = source.kind() == io::ErrorKind::StorageFull;
                let exit = if full { ExitCode::NoSpace } else { ExitCode::Unexpected };
                let path = directory.clone();
                Self::new(exit, "scratch_failed", message)
                    .at(&path)
                    .hint("--temp-dir or ICECORE_TEMP_DIR names another place for scratch copies; nothing was published")
            }
            RepositoryError::Interrupted => interrupted(),
            RepositoryError::Backend(error) => error.into(),
        }
    }
}

/// The signal's own number is put in by `run`, which knows it.
pub fn interrupted() -> Failure {
    Failure::new(ExitCode::Signal(2), "interrupted", "interrupted; nothing was published")
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let message = error.to_string();
        match error {
            BackupError::Repository(error) => error.into(),
            BackupError::Interrupted => interrupted(),
            BackupError::Overlap { path, .. } => Self::usage(message)
                .at(&path)
                .hint("put the repository outside everything that is backed up, best on another disk"),
            BackupError::Nested { ref path, ref inner, .. } => Self::usage(message).at(path).hint(format!(
                "two restores would fight over it: leave it out of the outer source with `exclude`, or drop source {inner:?}; \
                 databases inside a tree are captured as databases anyway"
            )),
            BackupError::ScratchInside { scratch, .. } => Self::usage(message)
                .at(&scratch)
                .hint("a source is only read: --temp-dir (or ICECORE_TEMP_DIR) names another place"),
            BackupError::Source { source, .. } => from_capture(message, &source),
        }
    }
}

fn from_capture(message: String, error: &CaptureError) -> Failure {
    let failure = |exit, code, path: &Path| Failure::new(exit, code, &message).at(path);
    match error {
        CaptureError::Missing { path } => failure(ExitCode::Unexpected, "source_missing", path)
            .hint("is its volume mounted? A source that may be missing is marked `optional = true`; nothing was published"),
        CaptureError::WrongKind { path, .. } => {
            failure(ExitCode::Usage, "wrong_kind", path).hint("--kind NAME=tree takes whatever it is, byte for byte")
        }
        CaptureError::Io { path, source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            failure(ExitCode::NoSpace, "no_space", path).hint("--temp-dir names another place for scratch copies")
        }
        CaptureError::Io { path, .. } | CaptureError::Unusable { path, .. } => {
            failure(ExitCode::Unexpected, "source_unreadable", path).hint("nothing was published, the source is as it was")
        }
        CaptureError::Busy { path, .. } => failure(ExitCode::KeptChanging, "source_busy", path).hint(
            "nothing was published. Choices: wait longer with --lock-wait; try at a quieter time; end the transaction \
             that is open; an application in exclusive locking mode never lets go: stop it for the backup, by hooks or \
             a lock file, and use --cold; one in a tree can be left out (`exclude`)",
        ),
        CaptureError::TooSlow { path, .. } => failure(ExitCode::KeptChanging, "source_too_slow", path).hint(
            "nothing was published, and its writers go on. Choices: let them wait longer (--max-hold 60s, or `max_hold` \
             of the source); put it on XFS or btrfs, where it is cloned in an instant; try at a quieter time; stop the \
             service and use --cold",
        ),
        CaptureError::CannotHold { path, .. } => failure(ExitCode::KeptChanging, "source_hold_unavailable", path)
            .hint("nothing was published; `hold = \"auto\"` takes the best that works here"),
        CaptureError::KeptChanging { path, .. } => failure(ExitCode::KeptChanging, "source_kept_changing", path).hint(
            "nothing was published. Choices: try at a quieter time; bring the application to rest by hooks or a lock \
             file; stop the service and use --cold",
        ),
        CaptureError::InvalidJson { path, .. } => failure(ExitCode::Invalid, "source_invalid_json", path)
            .hint("nothing was published; --kind NAME=tree takes the file as it is"),
        CaptureError::BadPattern { .. } => Failure::usage(message),
        CaptureError::Interrupted => interrupted(),
        CaptureError::Reading(_) | CaptureError::HeldTooLong | CaptureError::Record(_) => {
            Failure::new(ExitCode::Unexpected, "source_unreadable", message)
        }
    }
}

fn from_hook(message: String, error: &HookError) -> Failure {
    let failure = |code| Failure::new(ExitCode::HookFailed, code, &message);
    match error {
        HookError::LockFile { path, source } if source.kind() == io::ErrorKind::NotFound => {
            failure("lock_file_missing").at(path).hint(
                "make it once, as the user that the application runs as: made by another user, the application \
                 couldn't lock it",
            )
        }
        HookError::LockFile { path, .. } => failure("lock_file_failed").at(path).hint("nothing was read"),
        HookError::LockBusy { path, .. } => failure("lock_file_busy")
            .at(path)
            .hint("nothing was read; `lock_timeout` in [hooks] says how long to wait for it"),
        HookError::Interrupted => interrupted(),
        HookError::Failed { .. } | HookError::TimedOut { .. } | HookError::CannotRun { .. } => {
            failure("hook_failed").hint(
                "`after` has run if it could; what was stored already is not stored twice. Hooks and their `timeout` \
                 are in [hooks] of the config",
            )
        }
    }
}

impl From<FlowError> for Failure {
    fn from(error: FlowError) -> Self {
        let message = error.to_string();
        match error {
            FlowError::Backup(error) => error.into(),
            FlowError::Repository(error) => error.into(),
            FlowError::Hook(error) => from_hook(message, &error),
            FlowError::Invalid { findings, damaged, .. } => {
                let exit = if damaged { ExitCode::Damaged } else { ExitCode::Invalid };
                let mut failure = Self::new(exit, "snapshot_invalid", message);
                failure.hint = Some(if damaged {
                    "earlier snapshots refer to stored data that is damaged or gone; `icecore backup --reread` stores \
                     again what is missing"
                        .into()
                } else {
                    "the source itself is most likely broken: check it with its own tools; earlier snapshots are intact".into()
                });
                failure.details = lines_of(&findings);
                failure.keys = findings_json(&findings);
                failure.keys.insert("valid".into(), json!(false));
                failure
            }
        }
    }
}

/// Of a restore into a place of its own.
impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let message = format!("the restore is incomplete: {error}");
        match error {
            RestoreError::Repository(
                error @ (RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }),
            ) => Self { message, ..Self::from(error) }.hint(
                "`icecore check` names the sources and files that are concerned. Remove what was written, and leave a source out with \
                 --without, or restore another snapshot; `icecore repair` saves what can be saved",
            ),
            RestoreError::Repository(error) => Self { message, ..Self::from(error) },
            RestoreError::Interrupted => {
                Self { message: "interrupted; the restore is incomplete".into(), ..interrupted() }
            }
            RestoreError::NotEmpty { path } => Self::usage(format!("{} is not empty", path.display()))
                .at(&path)
                .hint("nothing was written; name another --target"),
            RestoreError::Unchecked { ref source, .. } => {
                let full = source.kind() == io::ErrorKind::StorageFull;
                let room = if full { ": --temp-dir names a place with room for the check" } else { "" };
                Self::new(ExitCode::RestoredButBad, "restored_unchecked", error.to_string())
                    .hint(format!("its bytes are in place{room}"))
            }
            RestoreError::Overlap { ref path, .. } => Self::usage(error.to_string())
                .at(path)
                .hint("nothing was written; restore them one after another"),
            RestoreError::Unwritable { ref path, .. } => {
                Self::new(ExitCode::Refused, "target_unwritable", format!("{error}; nothing was written"))
                    .at(path)
                    .hint("name another --target, or run as a user who may write there")
            }
            RestoreError::Io { ref path, .. }
            | RestoreError::MountPoint { ref path, .. }
            | RestoreError::DanglingLink { ref path }
            | RestoreError::Device { ref path }
            | RestoreError::HoldsLeftOut { ref path, .. }
            | RestoreError::InUse { ref path }
            | RestoreError::Differs { ref path } => {
                let path = path.clone();
                Self::new(ExitCode::RestoreIncomplete, "restore_incomplete", message)
                    .at(&path)
                    .hint("mend the cause, remove what was written, and run the same restore again")
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        let (ConfigError::Unreadable { path, .. } | ConfigError::Invalid { path, .. }) = error;
        Self::new(ExitCode::Usage, "config_invalid", message).at(&path)
    }
}

/// Findings as a person reads them.
pub fn lines_of(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| {
            let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
            let place = if finding.path.is_empty() { String::new() } else { format!(" {}", finding.path) };
            format!("{severity}: {}{place}: {}", finding.code, finding.detail)
        })
        .collect()
}

/// The keys `errors` and `findings`.
pub fn findings_json(findings: &[Finding]) -> Map<String, Value> {
    let errors: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.code.as_str())
        .collect();
    let mut keys = Map::new();
    keys.insert("errors".into(), json!(errors));
    keys.insert("findings".into(), json!(findings));
    keys
}
