//! Chunks and snapshots, kept in packs on a backend.

mod chunk_index;
mod chunk_reader;
mod codec;
mod error;
mod file_reader;
mod finder;
mod location;
mod memory_table;
mod node_cache;
mod open;
mod pack_writer;
mod rocks_table;
mod snapshots;
mod trees;

pub use chunk_index::IndexOptions;
pub use error::RepositoryError;
pub use file_reader::FileReader;
pub use finder::Finder;
pub use open::{Held, Repository};
pub use pack_writer::{ChunkWriter, Trust, Written};
pub use snapshots::{Snapshot, Snapshots};
