//! Chroma stores: `chroma.sqlite3` and the HNSW files beside it, captured as one state.

mod capture;
mod judge;
mod layout;
mod listing;
mod segments;
mod snapshot;

pub use capture::StoreCapture;
pub use judge::{count_pickle_entries, judge};
pub use layout::DATABASE;
pub use snapshot::SnapshotCapture;
