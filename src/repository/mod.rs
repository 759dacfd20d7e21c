//! Chunks and snapshots, kept in packs on a backend.

mod at_once;
mod bases;
mod chunk_cache;
mod chunk_index;
mod chunk_reader;
mod chunk_runs;
mod codec;
mod condemned;
mod doomed;
mod error;
mod file_reader;
mod finder;
mod float_runs;
mod index_writer;
mod keys;
mod location;
mod memory_table;
mod open;
mod pack_writer;
mod planes;
mod rocks_table;
mod sealing;
mod snapshots;
mod trailers;
mod trees;

pub use chunk_index::{ChunkIndex, IndexOptions, Refreshed};
pub use condemned::Condemned;
pub use error::RepositoryError;
pub use file_reader::FileReader;
pub use finder::{Directory, Finder};
pub use index_writer::IndexWriter;
pub use keys::{KeyFiles, Unlock, read_keys};
pub use location::Location;
pub use open::{Held, Repository, lock_for_use};
pub use pack_writer::{Before, ChunkWriter, NewChunk, Trust, Written};
pub use snapshots::{Snapshot, Snapshots};
