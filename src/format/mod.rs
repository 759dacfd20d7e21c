//! Every stored structure as encode and decode: no I/O, no clock, no randomness. `docs/format.md` is the authority.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chunk_ref;
mod config_file;
mod doomed;
mod entry;
mod entry_reader;
mod error;
mod index;
mod journal;
mod layout;
mod manifest;
mod pack;
mod proof;
mod reader;
mod record;
mod sequence;
mod wire;

pub use chunk_ref::{ChunkRef, Root};
pub use config_file::{Chunking, Encryption, RepositoryConfig};
pub use doomed::{Doomed, DoomedFile, DoomedKind};
pub use entry::{Captured, Content, Entry, EntryKind, FileState, Link, Segment};
pub use error::FormatError;
pub use index::{IndexFile, IndexedPack, ListedChunk, ListedPack};
pub use journal::{Journal, JournalItem, RestoreState, SnapshotRef};
pub use layout::{Key, KeyName};
pub use manifest::{
    CollectionCount, Consistency, Counts, Finding, Level, Manifest, Note, NoteReason, Proof, Severity,
    SnapshotKind, SourceKind, SourceRecord, is_source_name,
};
pub use pack::{Pack, PackKind};
pub use proof::ProofFile;
pub use record::{ChunkRecord, Encoding, Method};
pub use sequence::{Child, Item, Node, SequenceBuilder};

/// The newest format version that this build reads, and the one that it writes.
pub const FORMAT_VERSION: u32 = 0;

/// No chunk is longer than this, encoded or not; a reader refuses longer ones before it allocates.
pub const MAX_CHUNK_BYTES: u32 = (16 << 20) - 1;
