//! The words between a source and whoever records or judges it.

use super::sqlite::FullTexts;
use super::stat::Stat;
use crate::format::{
    Captured, CollectionCount, Consistency, Entry, EntryKind, FileState, Finding, Level, NoteReason,
    Severity, SourceKind,
};
use crate::progress::Stop;
use crate::stamp::now_nanos;
use std::error::Error;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const COPY_BUFFER_BYTES: usize = 1 << 20;

/// Time is left.
pub type GoOn<'g> = &'g (dyn Fn() -> bool + Sync);

/// What databases found inside a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SqliteInTree {
    /// Captured as databases: held, journal or log applied.
    #[default]
    Hold,
    /// Copied byte for byte like any file, sidecars included.
    Raw,
}

/// How a source is to be held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HoldMode {
    /// The best that works: a file-system snapshot of a subvolume, a reflink under the locks, the locks alone, and where
    /// none reaches the writers, comparing before and after.
    #[default]
    Auto,
    /// The database's own locks, as long as it takes to read what changed.
    Lock,
    /// The locks for as long as cloning takes; no capture where the file system doesn't share extents.
    Reflink,
    /// A read-only btrfs snapshot; no capture where the source is no subvolume.
    FsSnapshot,
    /// No locks: read and compare.
    Optimistic,
}

impl HoldMode {
    const ALL: [Self; 5] = [Self::Auto, Self::Lock, Self::Reflink, Self::FsSnapshot, Self::Optimistic];

    /// Its name in the config and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Lock => "lock",
            Self::Reflink => "reflink",
            Self::FsSnapshot => "fs-snapshot",
            Self::Optimistic => "optimistic",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Every name, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

/// One thing to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    pub name: String,
    pub kind: SourceKind,
    pub path: PathBuf,
    /// Where to read it instead of at `path`: a snapshot mounted elsewhere.
    pub source_path: Option<PathBuf>,
    pub hold: HoldMode,
    /// The longest that writers may wait; `None` chooses by the rehearsal.
    pub max_hold: Option<Duration>,
    /// A missing path is noted instead of being an error.
    pub optional: bool,
    /// Gitignore patterns relative to `path`.
    pub exclude: Vec<String>,
    pub sqlite: SqliteInTree,
}

impl SourceSpec {
    /// Where it is read.
    pub fn read_path(&self) -> &Path {
        self.source_path.as_deref().unwrap_or(&self.path)
    }

    /// What its own entry is called: the last name of `path`; `/` itself has none.
    pub fn entry_name(&self) -> Vec<u8> {
        self.path.file_name().map_or_else(|| b"root".to_vec(), |name| name.as_bytes().to_owned())
    }
}

/// How to capture one source.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// The operator says that nothing is running: no locks are taken.
    pub cold: bool,
    /// Every file byte for byte as it lies: databases aren't settled, logs keep a last record that isn't whole.
    pub raw: bool,
    pub hold: HoldMode,
    /// The longest that writers may wait; `None` chooses by the rehearsal.
    pub max_hold: Option<Duration>,
    /// How long to try for a hold.
    pub lock_wait: Duration,
    /// Where scratch copies go; never inside a source.
    pub temporary_directory: PathBuf,
}

/// Content that has been handed over for recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The recorder's own number for it.
    pub token: u64,
    pub bytes: u64,
}

/// Content read a second time, of which the recorder keeps what differs from the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retaken {
    pub token: u64,
}

/// What the parent snapshot has at the same place.
#[derive(Debug, Clone)]
pub struct Seen {
    pub entry: Entry,
    /// How the source was held then.
    pub consistency: Consistency,
    /// When that capture began: a file changed at or after this may have changed again unnoticed.
    pub captured_ns: i64,
}

/// Coarse kernel timestamps may lie behind the clock by a tick (at most 10 ms); twice that for safety.
const TICK_NS: i64 = 20_000_000;

impl Seen {
    /// The file is, by its identity, size and times, what the parent recorded. As in git, a time too close to the
    /// capture proves nothing.
    pub fn proves(&self, state: &FileState, mtime_ns: i64) -> bool {
        is_still(&self.entry, self.captured_ns, state, mtime_ns)
    }
}

/// As `Seen::proves`, of an entry whose capture began at `captured_ns`.
pub fn is_still(entry: &Entry, captured_ns: i64, state: &FileState, mtime_ns: i64) -> bool {
    let Some(recorded) = entry.state else { return false };
    recorded.ino == state.ino
        && recorded.size == state.size
        && recorded.ctime_ns == state.ctime_ns
        && entry.mtime_ns == mtime_ns
        && state.ctime_ns.max(mtime_ns) < captured_ns.saturating_sub(TICK_NS)
}

/// Takes what a source hands over, in depth-first order with names ascending in each directory.
pub trait Recorder {
    /// What the parent snapshot has at `path` below the source (empty: the source itself).
    fn parent(&mut self, path: &[u8]) -> Result<Option<Seen>, CaptureError>;
    /// Adds the file `name`, which lies at `path` below the source, with the parent's content and extended attributes, if `stat`
    /// proves that they haven't changed since. If not, nothing is done.
    fn keep(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> Result<bool, CaptureError>;
    /// Records what `reader` gives until its end: the content of the file at `path` below the source. What the parent has
    /// there only tells what it may be compared with.
    fn take(&mut self, path: &[u8], reader: &mut dyn Read) -> Result<Taken, CaptureError>;
    /// Records the content of the file at `path` below the source by a comparison that was made before: what is equal isn't
    /// read again. `None` if there is no comparison of it, or it may have changed since.
    fn take_compared(&mut self, path: &[u8], file: &File) -> Result<Option<Taken>, CaptureError>;
    /// Waits until what was taken is hashed and handed to the packs, so that a later `retake` needn't, and the repository's disk is
    /// left alone, until more is taken.
    fn await_stored(&mut self, taken: &Taken) -> Result<(), CaptureError>;
    /// Reads the same file again, on all cores: what equals `earlier` is only compared, what differs is kept aside,
    /// encoded by `settle`. To be called under a hold; gives up with `HeldTooLong` once `go_on` says no.
    fn retake(
        &mut self,
        earlier: Option<&Taken>,
        file: &File,
        go_on: GoOn<'_>,
    ) -> Result<Retaken, CaptureError>;
    /// Records what a retake of the file at `path` kept aside. To be called after the hold.
    fn settle(&mut self, path: &[u8], retaken: Retaken) -> Result<Taken, CaptureError>;
    /// Forgets a retake that another one replaces.
    fn discard(&mut self, retaken: Retaken);
    /// `Interrupted` once somebody wants to stop.
    fn check(&self) -> Result<(), CaptureError>;
    /// Opens the directory `name` below the present one; the entries that follow belong into it.
    fn enter(&mut self, name: &[u8]) -> Result<(), CaptureError>;
    /// Adds an entry; its content is `taken`, or what the entry says already.
    fn add(&mut self, entry: Entry, taken: Option<Taken>) -> Result<(), CaptureError>;
    /// Closes the open directory and adds `entry` for it.
    fn leave(&mut self, entry: Entry) -> Result<(), CaptureError>;
    /// Says something about a path inside the source.
    fn note(&mut self, path: &[u8], reason: NoteReason, detail: String);
}

/// How a capture went.
#[derive(Debug, Clone)]
pub struct Capture {
    pub consistency: Consistency,
    /// How long writers had to wait.
    pub writer_pause: Duration,
    /// The moment whose state was captured; of files that nobody holds, the end of reading them.
    pub point_ns: i64,
}

impl Capture {
    /// Of files that nobody has to hold, read until now.
    pub fn unheld(consistency: Consistency) -> Self {
        Self { consistency, writer_pause: Duration::ZERO, point_ns: now_nanos() }
    }

    /// Of two parts the weaker consistency and the longer pause.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            consistency: self.consistency.max(other.consistency),
            writer_pause: self.writer_pause.max(other.writer_pause),
            point_ns: self.point_ns.max(other.point_ns),
        }
    }
}

/// Why a source could not be captured. Nothing was written into it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("{path} does not exist")]
    Missing { path: PathBuf },
    #[error("{path} is not a {expected}")]
    WrongKind { path: PathBuf, expected: &'static str },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} could not be held still within {} s: {detail}", waited.as_secs())]
    Busy { path: PathBuf, waited: Duration, detail: String },
    #[error(
        "{path} was let go: its writers may wait {} ms, and by the rehearsal reading it takes up to {} ms",
        limit.as_millis(), expected.as_millis()
    )]
    TooSlow { path: PathBuf, limit: Duration, expected: Duration },
    /// Said to whoever holds, who knows the figures.
    #[error("it was held too long")]
    HeldTooLong,
    #[error("{path} can't be captured with hold = \"{}\": {detail}", hold.name())]
    CannotHold { path: PathBuf, hold: HoldMode, detail: String },
    #[error("{path} kept changing while it was read: {detail}")]
    KeptChanging { path: PathBuf, detail: String },
    #[error("{path} is not valid JSON: {detail}")]
    InvalidJson { path: PathBuf, detail: String },
    #[error("bad exclude pattern {pattern:?}: {detail}")]
    BadPattern { pattern: String, detail: String },
    #[error("{path}: {detail}")]
    Unusable { path: PathBuf, detail: String },
    /// Reading failed; `at` gives it the path that the recorder doesn't know.
    #[error("cannot read: {0}")]
    Reading(io::Error),
    #[error("interrupted")]
    Interrupted,
    /// The recorder failed: the repository, most likely.
    #[error(transparent)]
    Record(Box<dyn Error + Send + Sync>),
}

impl CaptureError {
    /// An I/O error about a path; a missing one is its own kind.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            Self::Missing { path: path.to_owned() }
        } else {
            Self::Io { action, path: path.to_owned(), source }
        }
    }

    /// Names the file that was being read.
    pub fn at(self, path: &Path) -> Self {
        match self {
            Self::Reading(source) => Self::Io { action: "read", path: path.to_owned(), source },
            other => other,
        }
    }
}

/// Random access to one stored or restored file.
pub trait ReadAt {
    /// Bytes in the file.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`; beyond the end it is an `UnexpectedEof` error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it into an empty file.
    fn copy_to(&self, file: &File) -> io::Result<()> {
        let mut buffer = vec![0u8; COPY_BUFFER_BYTES];
        let mut at = 0;
        while at < self.size() {
            let count = (self.size() - at).min(buffer.len() as u64);
            let part = buffer.get_mut(..count as usize).unwrap_or_default();
            self.read_exact_at(part, at)?;
            file.write_all_at(part, at)?;
            at += count;
        }
        Ok(())
    }
    /// Where the file itself lies, if it does and nobody writes it: SQLite can then read it there.
    fn on_disk(&self) -> Option<&Path>;
}

/// Bytes in memory.
impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn on_disk(&self) -> Option<&Path> {
        None
    }
}

/// A captured copy that can be judged: in a repository or restored.
pub trait StoredFiles {
    /// The source's own entry.
    fn root(&self) -> &Entry;
    /// The entries of a directory, by name.
    fn list(&self, directory: &Entry) -> io::Result<Vec<Entry>>;
    /// Opens a file below the root (empty path: the root itself).
    fn open(&self, path: &[u8]) -> io::Result<Box<dyn ReadAt + '_>>;
    /// The paths below the root of all files that were captured as databases.
    fn databases(&self) -> io::Result<Vec<Vec<u8>>> {
        let (mut found, mut waiting) = (Vec::new(), vec![(Vec::new(), self.root().clone())]);
        while let Some((path, entry)) = waiting.pop() {
            if entry.kind == EntryKind::Directory {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                let below = self.list(&entry)?.into_iter();
                waiting.extend(below.map(|entry| ([path.as_slice(), slash, &entry.name].concat(), entry)));
            } else if entry.captured == Captured::Sqlite {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// What judging a captured copy found.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    pub findings: Vec<Finding>,
    pub collections: Vec<CollectionCount>,
    /// Which version of Chroma wrote the store, as far as it can be told; other kinds have none.
    pub written_by: Option<String>,
}

impl Judgement {
    /// Adds a finding `<source>_<fact>`.
    pub fn add(
        &mut self,
        severity: Severity,
        source: &str,
        fact: &str,
        path: &[u8],
        detail: impl Into<String>,
    ) {
        self.findings.push(Finding {
            code: format!("{source}_{fact}"),
            severity,
            source: source.to_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            detail: detail.into(),
        });
    }

    /// Adds an error.
    pub fn error(&mut self, source: &str, fact: &str, path: &[u8], detail: impl Into<String>) {
        self.add(Severity::Error, source, fact, path, detail);
    }

    /// Adds a warning.
    pub fn warning(&mut self, source: &str, fact: &str, path: &[u8], detail: impl Into<String>) {
        self.add(Severity::Warning, source, fact, path, detail);
    }
}

/// How thoroughly to judge, and where scratch copies may go.
pub struct JudgeOptions<'a> {
    pub level: Level,
    /// Where full-text indexes are compared with their texts, at the full level; `None`: they aren't.
    pub full_texts: Option<&'a FullTexts>,
    pub temporary_directory: &'a Path,
    /// Asked for in the middle of long queries. What is found once it was asked is worth nothing.
    pub stop: &'a Stop,
}

/// A file's identity and change marks, for the entry.
pub fn file_id(metadata: &Metadata) -> FileState {
    Stat::from(metadata).state()
}

/// Modification time in nanoseconds.
pub fn mtime_ns(metadata: &Metadata) -> i64 {
    Stat::from(metadata).mtime_ns
}
