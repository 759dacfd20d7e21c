//! A manifest: everything that a snapshot is, down to the roots of its sources.

use super::entry::{Entry, EntryKind};
use super::error::FormatError;
use super::reader::{check_format, from_cbor, to_cbor};
use super::wire;
use crate::id::Id;
use crate::stamp::Stamp;
use serde::{Deserialize, Serialize};

/// Why the snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// An ordinary backup.
    Backup,
    /// A safety snapshot of the state that an in-place restore was about to overwrite.
    PreRestore,
}

/// What a source is; decides how it is captured, judged and settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Chroma,
    Sqlite,
    Json,
    Tree,
}

impl SourceKind {
    /// Its name in the config, on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chroma => "chroma",
            Self::Sqlite => "sqlite",
            Self::Json => "json",
            Self::Tree => "tree",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Chroma, Self::Sqlite, Self::Json, Self::Tree].into_iter().find(|kind| kind.name() == name)
    }
}

/// How a source was held still while it was read; the weakest of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Read under the database's own locks.
    Locked,
    /// Read from a reflink copy made under the locks.
    Reflinked,
    /// Read from a read-only file-system snapshot.
    FsSnapshot,
    /// Read inside a database's read transaction.
    ReadTransaction,
    /// The operator said that nothing is running.
    Cold,
    /// Compared before and after reading; no lock reaches the writers.
    Optimistic,
}

impl Consistency {
    /// Its name in manifests and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Reflinked => "reflinked",
            Self::FsSnapshot => "fs-snapshot",
            Self::ReadTransaction => "read-transaction",
            Self::Cold => "cold",
            Self::Optimistic => "optimistic",
        }
    }
}

/// How thorough a validation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Quick,
    Full,
}

impl Level {
    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// An error makes the snapshot invalid, a warning doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that a validation found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `<source name>_<fact>`.
    pub code: String,
    pub severity: Severity,
    pub source: String,
    /// Inside the source; empty for the source itself.
    pub path: String,
    pub detail: String,
}

impl Finding {
    /// The repository has damaged or lost part of the source: `<source name>_stored_data_damaged` or `…_lost`.
    pub fn is_about_stored_data(&self) -> bool {
        self.code.strip_prefix(&self.source).is_some_and(|fact| fact.starts_with("_stored_data_"))
    }
}

/// The result of a validation of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub level: Level,
    /// Version of the checks, raised when a check is added.
    pub validator: u32,
    pub time_ns: i64,
    /// Set where the root equals one that this earlier snapshot had proven.
    #[serde(with = "wire::optional_stamp")]
    pub inherited_from: Option<Stamp>,
    pub findings: Vec<Finding>,
}

impl Proof {
    /// No error was found.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// A good one that the checks of this version would not go beyond.
    pub fn is_full(&self, validator: u32) -> bool {
        self.level == Level::Full && self.validator == validator && self.is_valid()
    }
}

/// Why something isn't in the snapshot, or isn't as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteReason {
    /// An exclude pattern, or a file that a settled copy doesn't have (a database's journal).
    Excluded,
    /// It could not be read: the run ends with exit code 3.
    Unreadable,
    /// It went away between being listed and being read.
    Vanished,
    /// It changed during each attempt to read it: the copy may hold parts of several states.
    Changing,
    /// Said for the record; nothing is missing.
    Remark,
}

/// One path that needs a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    pub reason: NoteReason,
    pub detail: String,
}

/// How much a source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    pub files: u64,
    pub directories: u64,
    /// Symlinks, FIFOs, sockets and devices.
    pub others: u64,
    /// Logical bytes of all files.
    pub bytes: u64,
    /// Files whose content was taken over from the parent without reading them.
    pub unchanged_files: u64,
}

/// What one Chroma collection held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionCount {
    pub name: String,
    /// Ids of the metadata segment: what Chroma counts.
    pub live_ids: u64,
    /// Elements of the HNSW index that are not deleted; absent where the index was never written.
    pub labels: Option<u64>,
    /// Records of the queue that the index does not hold yet. Manifests of earlier builds don't say.
    #[serde(default)]
    pub queue_tail: u64,
}

/// One source in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    pub name: String,
    pub kind: SourceKind,
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// The gitignore patterns by which paths were left out.
    pub exclude: Vec<String>,
    #[serde(with = "wire::optional_stamp")]
    pub parent: Option<Stamp>,
    pub consistency: Consistency,
    /// When the capture began: an entry that changed at or after it is read again by the next backup.
    pub captured_ns: i64,
    /// The moment whose state this is: under the hold, or the end of reading where nothing holds.
    pub point_ns: i64,
    /// Sources with the same number were held together; the numbers are the order of the moments.
    pub moment: u32,
    pub writer_pause_ms: u64,
    pub counts: Counts,
    /// The source itself; absent where an optional source did not exist.
    pub root: Option<Entry>,
    /// In a safety snapshot: the files that SQLite kept beside a source that is one database, as they lay.
    #[serde(default)]
    pub sidecars: Vec<Entry>,
    pub proof: Option<Proof>,
    pub notes: Vec<Note>,
    /// Notes beyond those listed.
    pub more_notes: u64,
    pub collections: Vec<CollectionCount>,
    /// Which version of Chroma wrote the store, as far as its database tells.
    pub written_by: Option<String>,
}

impl SourceRecord {
    /// At most this many notes are listed; the rest are counted.
    pub const MAX_NOTES: usize = 10_000;
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    #[serde(with = "wire::stamp")]
    pub stamp: Stamp,
    #[serde(with = "wire::id")]
    pub repository: Id,
    /// The clock when the run began; differs from the stamp where the clock had gone back.
    pub clock_ns: i64,
    pub profile: String,
    pub host: String,
    pub kind: SnapshotKind,
    pub tool: String,
    pub tags: Vec<String>,
    pub sources: Vec<SourceRecord>,
    /// Bytes of chunks that no earlier snapshot had, before encoding.
    pub new_bytes: u64,
    /// Bytes that the run added to the packs for them.
    pub stored_bytes: u64,
    /// Bytes of everything else that the run added: entry trees, chunk lists, trailers, index.
    pub metadata_bytes: u64,
    pub duration_ms: u64,
}

/// `[a-z][a-z0-9_]*`: a source's name becomes part of JSON keys, error codes and paths.
pub fn is_source_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

impl Manifest {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_cbor(self)
    }

    /// Reads a manifest; one of a newer format is refused before its fields are.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        check_format(bytes, "manifest")?;
        let manifest: Self = from_cbor(bytes, "manifest")?;
        let hostile = |source: &SourceRecord| source.sidecars.iter().any(|file| file.kind != EntryKind::File);
        if manifest.sources.iter().any(hostile) {
            return Err(FormatError::invalid("manifest", "a sidecar that is no file"));
        }
        let mut names = std::collections::HashSet::new();
        // Names become directories of a restore.
        match manifest
            .sources
            .iter()
            .find(|source| !is_source_name(&source.name) || !names.insert(&source.name))
        {
            Some(source) => Err(FormatError::invalid("manifest", format!("source name {:?}", source.name))),
            None => Ok(manifest),
        }
    }

    /// It holds the state that an in-place restore overwrote: files as they lay, whatever they were worth.
    pub fn is_safety(&self) -> bool {
        self.kind == SnapshotKind::PreRestore
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&SourceRecord> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// Every source that is there was proven, and no proof found an error.
    pub fn is_valid(&self) -> bool {
        let proven = |source: &SourceRecord| {
            source.root.is_none() || source.proof.as_ref().is_some_and(Proof::is_valid)
        };
        self.sources.iter().all(proven)
    }

    /// The weakest level among its sources' proofs.
    pub fn level(&self) -> Option<Level> {
        self.sources.iter().filter_map(|source| source.proof.as_ref()).map(|proof| proof.level).min()
    }

    /// Logical bytes of all sources.
    pub fn total_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.counts.bytes).sum()
    }
}
