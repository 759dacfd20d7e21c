//! Directory trees: every kind of file with everything that the file system keeps about it.

mod excludes;
mod log_file;
mod regular;
mod snapshot;
mod sparse;
mod stat_at;
mod walk;

pub use excludes::Excludes;
pub use snapshot::snapshot_place;
pub use walk::{Walk, capture};
